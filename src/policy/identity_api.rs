//! What may be done at the identity service itself, whatever else a policy says?
//!
//! Keystone makes credentials of the cloud's user: application credentials, EC2 keys, trusts, OAuth1 tokens, another
//! password. They work without keyway, and nobody takes them away together with an identity. So an identity may read
//! there and no more, and not what shows such a secret, unless it has another [`IdentityApi`].
//!
//! These are rules as an operator could write them, so that a path is read in as many ways as with any other. What a
//! destination has of Keystone says its views: [`View::keystone`] is Keystone, with whatever extensions; of a
//! [`View::beside_keystone`] only the paths are that Keystone is known to have.

use std::sync::Arc;

use http::Method;

use super::{Effect, Policy, Rule, SAFE, Scoped, View};
use crate::proxy::rewrite::Base;

/// The service's type in the rules: Keystone, and what shares its root with others.
const KEYSTONE: &str = "identity";
const BESIDE: &str = "identity-beside-others";

/// Reads whose answers have a secret: the blobs of credentials, EC2 keys (v3 and v2.0), and federated logins, which are
/// a GET and answer with a token.
const SECRETS: [&str; 6] = [
    "/credentials/**",
    "/users/*/credentials/**",
    "/users/*/OS-KSADM/**",
    "/users/*/OS-KSEC2/**",
    "/auth/OS-FEDERATION/**",
    "/OS-FEDERATION/identity_providers/*/protocols/*/auth",
];

/// How the paths of Keystone's API begin, v3 and v2.0, with the extensions that make credentials elsewhere.
const RESOURCES: [&str; 40] = [
    "/auth/**",
    "/tokens/**",
    "/users/**",
    "/groups/**",
    "/projects/**",
    "/tenants/**",
    "/domains/**",
    "/roles/**",
    "/role_assignments/**",
    "/role_inferences/**",
    "/system/**",
    "/credentials/**",
    "/policies/**",
    "/regions/**",
    "/services/**",
    "/endpoints/**",
    "/limits/**",
    "/registered_limits/**",
    "/ec2tokens/**",
    "/s3tokens/**",
    "/certificates/**",
    "/OS-AGENCY/**",
    "/OS-CREDENTIAL/**",
    "/OS-ENDPOINT-POLICY/**",
    "/OS-EP-FILTER/**",
    "/OS-FEDERATION/**",
    "/OS-INHERIT/**",
    "/OS-KSADM/**",
    "/OS-KSCATALOG/**",
    "/OS-KSCRUD/**",
    "/OS-KSEC2/**",
    "/OS-MFA/**",
    "/OS-OAUTH1/**",
    "/OS-OAUTH2/**",
    "/OS-PKI/**",
    "/OS-REVOKE/**",
    "/OS-SIMPLE-CERT/**",
    "/OS-TRUST/**",
    "/OS-USER/**",
    "/RAX-AUTH/**",
];

/// Where Keystone lists what lies beyond an identity's own projects, and its own regions. What an identity may know of
/// that, keyway answers by itself.
const PROJECT_LISTS: [&str; 6] = [
    "/projects",
    "/tenants",
    "/auth/projects/**",
    "/users/*/projects/**",
    "/OS-FEDERATION/projects/**",
    "/role_assignments/**",
];
const REGION_LISTS: [&str; 4] = ["/regions/**", "/endpoints/**", "/auth/catalog/**", "/tokens/*/endpoints"];

/// What an identity may do at the identity service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityApi {
    /// Reads, but for those that show a secret.
    #[default]
    ReadOnly,
    /// Whatever the cloud's user may.
    All,
    /// Nothing.
    None,
}

impl IdentityApi {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// The rules of each [`IdentityApi`], and of identities with projects and regions of their own.
#[derive(Debug)]
pub struct Guards {
    read_only: Arc<Policy>,
    none: Arc<Policy>,
    projects: Arc<Policy>,
    regions: Arc<Policy>,
}

/// The same at one destination.
#[derive(Debug)]
pub struct Guard {
    read_only: Scoped,
    none: Scoped,
    projects: Scoped,
    regions: Scoped,
}

impl Default for Guards {
    fn default() -> Self {
        let rule = |name: &str, effect, services: &[&str], methods: &[&str], paths: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let (services, methods, paths) = (owned(services), owned(methods), owned(paths));
            Rule { name: name.to_owned(), effect, methods, services, paths, projects: Vec::new() }
        };
        let policy = |name, rules| {
            Arc::new(
                Policy::new(name, false, Effect::Allow, rules).expect("the rules are part of the program"),
            )
        };
        let nothing = || {
            [
                rule("keystone", Effect::Deny, &[KEYSTONE], &[], &[]),
                rule("resources", Effect::Deny, &[BESIDE], &[], &RESOURCES),
            ]
        };
        let secrets = rule("secrets", Effect::Deny, &[KEYSTONE, BESIDE], &[], &SECRETS);
        let reads = rule("reads", Effect::Allow, &[], &SAFE, &[]);
        let read_only = [secrets, reads].into_iter().chain(nothing()).collect();
        let lists = |paths| vec![rule("lists", Effect::Deny, &[KEYSTONE, BESIDE], &["GET", "HEAD"], paths)];
        Self {
            read_only: policy("read-only", read_only),
            none: policy("none", nothing().into()),
            projects: policy("projects", lists(&PROJECT_LISTS)),
            regions: policy("regions", lists(&REGION_LISTS)),
        }
    }
}

impl Guards {
    /// The rules at one destination, whose own view is the first.
    pub fn at(&self, views: &Arc<[View]>) -> Guard {
        let at = |policy: &Arc<Policy>| policy.at(views, None);
        Guard {
            read_only: at(&self.read_only),
            none: at(&self.none),
            projects: at(&self.projects),
            regions: at(&self.regions),
        }
    }
}

impl Guard {
    /// Whether a request whose target has this path may pass.
    pub fn permits(&self, allowed: IdentityApi, method: &Method, path: &str) -> bool {
        match allowed {
            IdentityApi::All => true,
            IdentityApi::ReadOnly => self.read_only.decide(method, path).is_ok(),
            IdentityApi::None => self.none.decide(method, path).is_ok(),
        }
    }

    /// Whether a request asks for a list of projects.
    pub fn lists_projects(&self, method: &Method, path: &str) -> bool {
        self.projects.decide(method, path).is_err()
    }

    /// Whether a request asks for a list of regions, or of what is there.
    pub fn lists_regions(&self, method: &Method, path: &str) -> bool {
        self.regions.decide(method, path).is_err()
    }
}

impl View {
    /// Keystone, all of it, at `base`.
    pub fn keystone(base: Base) -> Self {
        Self::new(Some(KEYSTONE), [], base)
    }

    /// Keystone at a root that others share: what it is known to have.
    pub fn beside_keystone(base: Base) -> Self {
        Self::new(Some(BESIDE), [], base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn guard(views: Vec<View>) -> Guard {
        Guards::default().at(&views.into())
    }

    fn base(path: &str) -> Base {
        Base::new(path, Some(ID))
    }

    #[track_caller]
    fn check(guard: &Guard, allowed: IdentityApi, request: &str, expected: bool) {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(guard.permits(allowed, &method, path), expected, "{allowed:?} {request}");
    }

    // Promise 73.
    #[test]
    fn at_keystone_an_identity_reads_and_no_more() {
        for root in ["", "/identity"] {
            for catalog in [format!("{root}/v3"), root.to_owned(), format!("{root}/v2.0")] {
                let guard = guard(vec![View::keystone(base(&catalog))]);
                for (request, reads) in [
                    ("GET /", true),
                    ("GET /v3", true),
                    ("HEAD /v3/projects", true),
                    ("OPTIONS /v3/users", true),
                    ("GET /v3/users/u/application_credentials", true),
                    ("GET /v3/auth/tokens", true),
                    ("GET /v3/OS-TRUST/trusts", true),
                    ("GET /v2.0/tenants", true),
                    // A write is one wherever it goes, by whatever name.
                    ("POST /v3/users/u/application_credentials", false),
                    ("POST /v3/users/u/credentials/OS-EC2", false),
                    ("POST /v3/users/u/password", false),
                    ("POST /v3/OS-TRUST/trusts", false),
                    ("PUT /v3/OS-OAUTH1/authorize/x", false),
                    ("POST /v3/auth/tokens/", false),
                    ("PATCH /v3/projects/p", false),
                    ("DELETE /v3/auth/tokens", false),
                    ("BREW /v3/vendor/thing", false),
                    ("get /v3/projects", false),
                    ("POST /", false),
                    ("POST /v3.0/OS-ANY/thing", false),
                    // A read that shows a secret.
                    ("GET /v3/credentials", false),
                    ("GET /v3/credentials/c", false),
                    ("HEAD /v3/credentials", false),
                    ("GET /v3//credentials", false),
                    ("GET /v3/credential%73", false),
                    ("GET /v3/credentials%2Fc", false),
                    ("GET /v3/credentials;x/c", false),
                    ("GET /v3/credentials.json", false),
                    ("GET /v3/credentials/", false),
                    ("GET /credentials", false),
                    ("GET /v3/users/u/credentials/OS-EC2", false),
                    ("GET /v3/users/u/credentials/OS-EC2/k", false),
                    ("GET /v3/users/%75/credentials/OS-EC2", false),
                    ("GET /v2.0/users/u/credentials/OS-EC2", false),
                    ("GET /v2.0/users/u/OS-KSADM/credentials", false),
                    ("GET /v3/auth/OS-FEDERATION/websso/openid", false),
                    ("GET /v3/OS-FEDERATION/identity_providers/i/protocols/p/auth", false),
                    ("GET /v3/OS-FEDERATION/identity_providers/i/protocols/p", true),
                ] {
                    let (method, path) = request.split_once(' ').unwrap();
                    let request = format!("{method} {root}{path}");
                    check(&guard, IdentityApi::ReadOnly, &request, reads);
                    check(&guard, IdentityApi::None, &request, false);
                    check(&guard, IdentityApi::All, &request, true);
                }
            }
        }
    }

    // Promise 73.
    #[test]
    fn lists_are_lists_however_they_are_spelled() {
        let guard = guard(vec![View::keystone(base("/v3"))]);
        for (path, projects, regions) in [
            ("/v3/auth/projects/", true, false),
            ("/v3//auth/projects", true, false),
            ("/v3/users/u/project%73", true, false),
            ("/v3/projects/", true, false),
            ("/v3/projects/p", false, false),
            ("/v2.0/tenants/", true, false),
            ("/v3/regions/RegionTwo", false, true),
            ("/v3/auth/catalog/", false, true),
            ("/v2.0/tokens/t/endpoints/", false, true),
            ("/v3/users/u", false, false),
            ("/v3/auth/tokens", false, false),
        ] {
            for method in [Method::GET, Method::HEAD] {
                assert_eq!(guard.lists_projects(&method, path), projects, "{method} {path}");
                assert_eq!(guard.lists_regions(&method, path), regions, "{method} {path}");
            }
            assert!(!guard.lists_projects(&Method::POST, path) && !guard.lists_regions(&Method::POST, path));
        }
    }

    // Promise 73.
    #[test]
    fn keystone_below_another_service_is_keystone_still() {
        let objects = View::new(Some("object-store"), [], base(&format!("/v1/AUTH_{ID}")));
        let guard = guard(vec![objects, View::keystone(base("/identity/v3"))]);
        for request in [
            "POST /identity/v3/users/u/credentials/OS-EC2",
            "POST /identity/v3.0/OS-ANY/thing",
            "POST //identity/v3/users",
            "POST /%69dentity/v3/users",
            "POST /identity%2Fv3/users",
            "GET /identity/v3/credentials",
        ] {
            check(&guard, IdentityApi::ReadOnly, request, false);
        }
        for request in ["PUT /v1/AUTH_x/box/identity", "POST /v1/AUTH_x/identity/v3/users"] {
            check(&guard, IdentityApi::ReadOnly, request, true);
            check(&guard, IdentityApi::None, request, true);
        }
        check(&guard, IdentityApi::ReadOnly, "GET /identity/v3/users", true);
        check(&guard, IdentityApi::None, "GET /identity/v3/users", false);
    }

    // Promise 73.
    #[test]
    fn of_a_root_that_others_share_what_keystone_has_is_keystones() {
        let compute = |path: &str| {
            guard(vec![View::new(Some("compute"), [], base(path)), View::beside_keystone(base("/v3"))])
        };
        for (catalog, requests) in [
            ("/v2.1", ["POST /v2.1/servers", "DELETE /v2.1/os-keypairs/k", "POST /v2.1/servers/s/action"]),
            (
                "/compute/v2.1",
                ["POST /compute/v2.1/servers", "PUT /compute/v2.1/os-services/x", "DELETE /compute"],
            ),
        ] {
            for request in requests {
                check(&compute(catalog), IdentityApi::ReadOnly, request, true);
                check(&compute(catalog), IdentityApi::None, request, true);
            }
        }
        for request in [
            "POST /v3/users/u/application_credentials",
            "POST /v3/OS-TRUST/trusts",
            "POST /v2.0/users/u/credentials/OS-EC2",
            "POST /v2.1//credentials",
            "POST /v3/%63redentials",
            "GET /v3/credentials",
        ] {
            check(&compute("/v2.1"), IdentityApi::ReadOnly, request, false);
        }
        check(&compute("/v2.1"), IdentityApi::ReadOnly, "GET /v3/users", true);
        check(&compute("/v2.1"), IdentityApi::None, "GET /v3/users", false);
    }
}
