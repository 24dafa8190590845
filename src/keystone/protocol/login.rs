//! What does one say to log in?
//!
//! The bodies of logins by Identity v3 and v2.0, and the form that asks an OAuth 2.0 server for an access token. A
//! secret stands in the text that is sent and nowhere else.

use std::fmt::Write as _;

use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::DEFAULT_DOMAIN;
use crate::keystone::{
    ApplicationCredential, AuthError, Domain, Factor, Method, Project, Scope, Secret, User,
};
use crate::secret;

/// `POST /v3/auth/tokens`: the body that logs in. Without a scope, none is named.
pub fn v3_login(factors: &[Factor], scope: Option<&Scope>) -> Bytes {
    let names: Vec<_> = factors.iter().map(|factor| factor.name).collect();
    let mut identity = Map::new();
    identity.insert("methods".to_owned(), json!(names));
    identity.extend(factors.iter().map(|factor| (factor.name.to_owned(), factor.proof.clone())));
    let mut auth = json!({ "identity": identity });
    if let Some(scope) = scope.and_then(v3_scope) {
        auth["scope"] = scope;
    }
    let secrets = factors.iter().map(|factor| {
        let place = format!("/auth/identity/{}{}", factor.name, factor.place);
        (place, &factor.secret)
    });
    body(json!({ "auth": auth }), secrets)
}

/// The same for a login whose proof is in its header. Without a scope, the proof brings its own.
pub(in crate::keystone) fn v3_login_by_header(method: &str, scope: Option<&Scope>) -> Bytes {
    let mut auth = json!({"identity": {"methods": [method], method: {}}});
    if let Some(scope) = scope.and_then(v3_scope) {
        auth["scope"] = scope;
    }
    json!({ "auth": auth }).to_string().into()
}

/// `POST /v2.0/tokens`: the body that logs in. [`Scope::Default`] and [`Scope::Unscoped`] name no
/// tenant.
///
/// # Errors
/// [`AuthError::NotInV2`] for what this API does not know.
pub fn v2_login(method: &Method, secret: &Secret, scope: &Scope) -> Result<Bytes, AuthError> {
    let lacks = |what| Err(AuthError::NotInV2 { what });
    let (mut auth, place) = match method {
        Method::Password { user, .. } => {
            let user = match user {
                User::Id(id) => json!({ "userId": id }),
                User::Name { name, .. } => json!({ "username": name }),
            };
            (json!({ "passwordCredentials": user }), "/auth/passwordCredentials/password")
        }
        Method::Token(_) => (json!({ "token": {} }), "/auth/token/id"),
        Method::ApplicationCredential { .. } => return lacks("application credentials"),
        Method::Totp { .. } => return lacks("one-time passcodes"),
        Method::MultiFactor { .. } => return lacks("logins with several methods"),
        Method::OAuth2 { .. } | Method::OAuth2Mtls { .. } => return lacks("OAuth 2.0 clients"),
        Method::Kerberos(_) => return lacks("logins by Kerberos"),
        Method::OAuth1 { .. } => return lacks("OAuth 1.0 access tokens"),
        Method::Federated(_) => return lacks("federated logins"),
    };
    match scope {
        Scope::Default | Scope::Unscoped => {}
        Scope::Project(Project::Id(id)) => auth["tenantId"] = id.as_str().into(),
        Scope::Project(Project::Name { name, .. }) => auth["tenantName"] = name.as_str().into(),
        Scope::Domain(_) => return lacks("domain scope"),
        Scope::System => return lacks("system scope"),
        Scope::Trust(id) => auth["trust_id"] = id.as_str().into(),
    }
    Ok(body(json!({ "auth": auth }), [(place.to_owned(), secret)]))
}

/// Whether a login names a domain that Identity v2.0 can't mean. All of its users and tenants are in
/// the default one.
pub fn names_a_domain(method: &Method, scope: &Scope) -> bool {
    let user = match method {
        Method::Password { user, .. } | Method::Totp { user, .. } => Some(user),
        Method::MultiFactor { shown, .. } => {
            return shown.iter().any(|method| names_a_domain(method, scope));
        }
        Method::ApplicationCredential { which: ApplicationCredential::Name { user, .. }, .. } => Some(user),
        _ => None,
    };
    let of_user = matches!(user, Some(User::Name { domain: Some(domain), .. }) if is_other(domain));
    of_user || scope_names_a_domain(scope)
}

/// The same for a scope alone.
pub(in crate::keystone) fn scope_names_a_domain(scope: &Scope) -> bool {
    match scope {
        Scope::Domain(_) => true,
        Scope::Project(Project::Name { domain: Some(domain), .. }) => is_other(domain),
        _ => false,
    }
}

fn is_other(domain: &Domain) -> bool {
    match domain {
        Domain::Id(id) => id != DEFAULT_DOMAIN.0,
        Domain::Name(name) => !name.eq_ignore_ascii_case(DEFAULT_DOMAIN.1),
    }
}

/// `POST` to an OAuth 2.0 endpoint: a grant of client credentials (RFC 6749, section 4.4.2).
pub(in crate::keystone) fn access_token_form(client_id: Option<&str>) -> Bytes {
    let mut form = "grant_type=client_credentials".to_owned();
    if let Some(id) = client_id {
        let _ = write!(form, "&client_id={}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    }
    form.into()
}

pub(in crate::keystone) fn v3_user(user: &User) -> Map<String, Value> {
    let mut map = Map::new();
    match user {
        User::Id(id) => {
            map.insert("id".to_owned(), id.as_str().into());
        }
        User::Name { name, domain } => {
            map.insert("name".to_owned(), name.as_str().into());
            if let Some(domain) = domain {
                map.insert("domain".to_owned(), v3_domain(domain));
            }
        }
    }
    map
}

fn v3_domain(domain: &Domain) -> Value {
    match domain {
        Domain::Id(id) => json!({ "id": id }),
        Domain::Name(name) => json!({ "name": name }),
    }
}

fn v3_scope(scope: &Scope) -> Option<Value> {
    Some(match scope {
        Scope::Default => return None,
        Scope::Unscoped => json!("unscoped"),
        Scope::Project(Project::Id(id)) => json!({ "project": { "id": id } }),
        Scope::Project(Project::Name { name, domain: Some(domain) }) => {
            json!({ "project": { "name": name, "domain": v3_domain(domain) } })
        }
        Scope::Project(Project::Name { name, domain: None }) => json!({ "project": { "name": name } }),
        Scope::Domain(domain) => json!({ "domain": v3_domain(domain) }),
        Scope::System => json!({ "system": { "all": true } }),
        Scope::Trust(id) => json!({ "OS-TRUST:trust": { "id": id } }),
    })
}

/// A document as text, with a secret at a place (a JSON pointer) that no member has yet. Neither the
/// text nor what it is made from leaves the secret in memory, so it is put in last, and nothing that
/// holds it grows.
fn body<'a>(mut document: Value, secrets: impl IntoIterator<Item = (String, &'a Secret)>) -> Bytes {
    let mut longest = document.to_string().len();
    for (place, secret) in secrets {
        // At most six characters for one (`\u0000`), and quotes.
        longest += place.len() + 6 * secret.expose().len() + 8;
        let (parent, member) = place.rsplit_once('/').expect("a place is a path");
        let parent = document.pointer_mut(parent).expect("the caller made it");
        parent[member] = Value::from(secret.expose());
    }
    let mut text = Vec::with_capacity(longest);
    serde_json::to_writer(&mut text, &document).expect("texts and maps can be written to memory");
    secret::wipe(&mut document);
    secret::hold(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: User) -> Method {
        Method::Password { user, password: Secret::new("s3cret").into() }
    }

    /// What one would wait for, if it stood anywhere but in the configuration.
    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn demo() -> User {
        User::Name { name: "demo".to_owned(), domain: Some(Domain::Name("Default".to_owned())) }
    }

    #[track_caller]
    fn check_v3(method: &Method, scope: &Scope, expected: Value) {
        let factors = now(method.factors(None)).unwrap();
        let body = v3_login(&factors, Some(scope).filter(|_| method.takes_scope()));
        let sent: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(sent["auth"], expected);
    }

    #[track_caller]
    fn check_v2(method: &Method, scope: &Scope, expected: Value) {
        let factors = now(method.factors(None)).unwrap();
        let sent: Value =
            serde_json::from_slice(&v2_login(method, &factors[0].secret, scope).unwrap()).unwrap();
        assert_eq!(sent["auth"], expected);
    }

    #[test]
    fn passcodes_and_trusts_go_into_v3_as_keystone_wants_them() {
        let passcode = crate::keystone::Passcode::Given(Secret::new("123456").into());
        check_v3(
            &Method::Totp { user: User::Id("u".to_owned()), passcode },
            &Scope::Trust("t1".to_owned()),
            json!({"identity": {"methods": ["totp"], "totp": {"user": {"id": "u", "passcode": "123456"}}},
                   "scope": {"OS-TRUST:trust": {"id": "t1"}}}),
        );
        check_v2(
            &password(User::Id("u".to_owned())),
            &Scope::Trust("t1".to_owned()),
            json!({"passwordCredentials": {"userId": "u", "password": "s3cret"}, "trust_id": "t1"}),
        );
        let passcode = crate::keystone::Passcode::Given(Secret::new("1").into());
        for method in [
            Method::Totp { user: demo(), passcode },
            Method::MultiFactor { shown: vec![password(demo())], spare: vec![] },
        ] {
            let error = v2_login(&method, &Secret::new("1"), &Scope::Default).unwrap_err();
            assert!(matches!(error, AuthError::NotInV2 { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_v3_login_says_who_with_what_and_for_what() {
        let by_name = json!({"methods": ["password"], "password": {"user":
            {"name": "demo", "domain": {"name": "Default"}, "password": "s3cret"}}});
        check_v3(&password(demo()), &Scope::Default, json!({"identity": by_name}));
        check_v3(&password(demo()), &Scope::Unscoped, json!({"identity": by_name, "scope": "unscoped"}));
        check_v3(
            &password(User::Id("u1".to_owned())),
            &Scope::Project(Project::Id("p1".to_owned())),
            json!({"identity": {"methods": ["password"], "password": {"user": {"id": "u1", "password": "s3cret"}}},
                "scope": {"project": {"id": "p1"}}}),
        );
        let token = json!({"methods": ["token"], "token": {"id": "t0"}});
        let with_token = Method::Token(Secret::new("t0").into());
        check_v3(
            &with_token,
            &Scope::Project(Project::Name {
                name: "demo".to_owned(),
                domain: Some(Domain::Id("default".to_owned())),
            }),
            json!({"identity": token, "scope": {"project": {"name": "demo", "domain": {"id": "default"}}}}),
        );
        check_v3(
            &with_token,
            &Scope::Domain(Domain::Name("Default".to_owned())),
            json!({"identity": token, "scope": {"domain": {"name": "Default"}}}),
        );
        check_v3(&with_token, &Scope::System, json!({"identity": token, "scope": {"system": {"all": true}}}));
    }

    #[test]
    fn an_application_credential_is_never_given_a_scope() {
        let credential = |which| Method::ApplicationCredential { which, secret: Secret::new("s").into() };
        let scope = Scope::Project(Project::Id("p1".to_owned()));
        check_v3(
            &credential(ApplicationCredential::Id("a1".to_owned())),
            &scope,
            json!({"identity": {"methods": ["application_credential"],
                "application_credential": {"id": "a1", "secret": "s"}}}),
        );
        check_v3(
            &credential(ApplicationCredential::Name { name: "ci".to_owned(), user: demo() }),
            &Scope::Default,
            json!({"identity": {"methods": ["application_credential"], "application_credential": {
                "name": "ci", "user": {"name": "demo", "domain": {"name": "Default"}}, "secret": "s"}}}),
        );
    }

    #[test]
    fn a_v2_login_knows_tenants_and_no_domains() {
        let tenant = |name: &str| Scope::Project(Project::Name { name: name.to_owned(), domain: None });
        let by_name = json!({"username": "demo", "password": "s3cret"});
        check_v2(&password(demo()), &Scope::Default, json!({"passwordCredentials": by_name}));
        check_v2(&password(demo()), &tenant("x"), json!({"passwordCredentials": by_name, "tenantName": "x"}));
        check_v2(
            &password(User::Id("u1".to_owned())),
            &Scope::Project(Project::Id("p1".to_owned())),
            json!({"passwordCredentials": {"userId": "u1", "password": "s3cret"}, "tenantId": "p1"}),
        );
        check_v2(
            &Method::Token(Secret::new("t0").into()),
            &tenant("x"),
            json!({"token": {"id": "t0"}, "tenantName": "x"}),
        );
        let credential = Method::ApplicationCredential {
            which: ApplicationCredential::Id("a".to_owned()),
            secret: Secret::new("s").into(),
        };
        for (method, scope) in [
            (credential, Scope::Default),
            (password(demo()), Scope::System),
            (password(demo()), Scope::Domain(Domain::Id("d".to_owned()))),
        ] {
            assert!(matches!(v2_login(&method, &Secret::new("s"), &scope), Err(AuthError::NotInV2 { .. })));
        }
    }

    #[test]
    fn a_domain_anywhere_rules_v2_out() {
        let nameless = || password(User::Name { name: "demo".to_owned(), domain: None });
        let elsewhere = User::Name { name: "wile".to_owned(), domain: Some(Domain::Name("acme".to_owned())) };
        assert!(names_a_domain(&password(elsewhere), &Scope::Default));
        assert!(!names_a_domain(&password(demo()), &Scope::Default));
        assert!(names_a_domain(&nameless(), &Scope::Domain(Domain::Id("d".to_owned()))));
        assert!(!names_a_domain(&nameless(), &Scope::Project(Project::Id("p".to_owned()))));
        assert!(!names_a_domain(&Method::Token(Secret::new("t").into()), &Scope::Default));
    }
}
