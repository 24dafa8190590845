//! Which of Keystone's calls does keyway answer itself?
//!
//! Those, in their exact spelling. Another slash, or percent-encoding where none is needed, makes it a
//! request for Keystone like any other.

use http::Method;
use percent_encoding::percent_decode_str;

use super::documents::Version;
use crate::route::{Form, Route};

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// `GET /`
    Versions,
    /// `GET /v3`, `GET /v2.0`
    Version(Version),
    /// `POST /v3/auth/tokens`, `POST /v2.0/tokens`
    LogIn(Version),
    /// `GET /auth/v1.0`
    LogInToSwift,
    /// `GET /v3/auth/tokens`, about the token in X-Subject-Token.
    Show,
    /// `DELETE /v3/auth/tokens`, the same.
    Revoke,
    /// `GET /v3/auth/catalog`
    Catalog,
    /// `GET /v3/auth/projects`, `/v3/OS-FEDERATION/projects`, `/v3/projects`; `/v3/users/{id}/projects` has a user.
    Projects(Option<&'a str>),
    /// `GET /v3/auth/domains`, `/v3/OS-FEDERATION/domains`
    Domains,
    /// `GET /v3/auth/system`
    System,
    /// `GET /v2.0/tenants`
    Tenants,
    /// `GET /v2.0/extensions`
    Extensions,
    /// `GET /v2.0/tokens/{token}`
    ShowV2(&'a str),
    /// `DELETE /v2.0/tokens/{token}`
    RevokeV2(&'a str),
    /// `GET /v2.0/tokens/{token}/endpoints`
    Endpoints(&'a str),
}

impl<'a> Call<'a> {
    /// The call that a request makes; `path` is its whole one. `None` for what goes to a service.
    pub fn of(method: &Method, route: &Route<'a>, path: &'a str) -> Option<Self> {
        Self::parse(method, below(route, path)?)
    }

    /// The call that is asked for at `path` below Keystone's root; `None` for Keystone's own matters. HEAD is
    /// GET without a body.
    pub fn parse(method: &Method, path: &'a str) -> Option<Self> {
        match (method.as_str(), path) {
            ("GET" | "HEAD", _) => Self::read(path),
            ("POST", "/v3/auth/tokens") => Some(Self::LogIn(Version::V3)),
            ("POST", "/v2.0/tokens") => Some(Self::LogIn(Version::V2)),
            ("DELETE", "/v3/auth/tokens") => Some(Self::Revoke),
            ("DELETE", _) => Some(Self::RevokeV2(id(path.strip_prefix("/v2.0/tokens/")?)?)),
            _ => None,
        }
    }

    fn read(path: &'a str) -> Option<Self> {
        Some(match path {
            "" | "/" => Self::Versions,
            "/v3" | "/v3/" => Self::Version(Version::V3),
            "/v2.0" | "/v2.0/" => Self::Version(Version::V2),
            "/auth/v1.0" | "/auth/v1" => Self::LogInToSwift,
            "/v3/auth/tokens" => Self::Show,
            "/v3/auth/catalog" => Self::Catalog,
            "/v3/auth/projects" | "/v3/OS-FEDERATION/projects" | "/v3/projects" => Self::Projects(None),
            "/v3/auth/domains" | "/v3/OS-FEDERATION/domains" => Self::Domains,
            "/v3/auth/system" => Self::System,
            "/v2.0/tenants" => Self::Tenants,
            "/v2.0/extensions" => Self::Extensions,
            _ => {
                if let Some(user) = path.strip_prefix("/v3/users/") {
                    return Some(Self::Projects(Some(id(user.strip_suffix("/projects")?)?)));
                }
                let token = path.strip_prefix("/v2.0/tokens/")?;
                match token.strip_suffix("/endpoints") {
                    Some(token) => Self::Endpoints(id(token)?),
                    None => Self::ShowV2(id(token)?),
                }
            }
        })
    }

    /// Whether somebody means a call of the Keystone below `root` that has a password in it, or whose answer says more
    /// than each client may know: by a path that a server may take for that, since it decodes paths, joins slashes and
    /// leaves out the last one; or by one that ends with it, which a client makes of a URL with too much in it.
    pub fn is_meant(method: &Method, root: &str, path: &str) -> bool {
        let (root, path) = (plain(root), plain(path));
        let Some(below) = path.strip_prefix(&root).filter(|below| below.starts_with('/')) else {
            return false;
        };
        below.match_indices('/').any(|(at, _)| match Call::parse(method, &below[at..]) {
            // Whoever may see the list of all projects sees Keystone's own.
            Some(Call::Projects(None)) => &below[at..] != "/v3/projects",
            Some(
                Call::LogIn(_)
                | Call::Catalog
                | Call::Projects(_)
                | Call::Domains
                | Call::System
                | Call::Tenants,
            ) => true,
            _ => false,
        })
    }

    /// Whether it is for those too who have no token, or a bad one: they come to get one.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Versions | Self::Version(_) | Self::LogIn(_) | Self::LogInToSwift)
    }
}

/// A path as a server may read it.
fn plain(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut plain = String::with_capacity(decoded.len());
    for segment in decoded.split('/').filter(|segment| !segment.is_empty()) {
        plain.push('/');
        plain.push_str(segment.split(';').next().unwrap_or_default());
    }
    plain
}

/// One segment, as it is.
fn id(segment: &str) -> Option<&str> {
    (!segment.is_empty() && !segment.contains(['/', '%'])).then_some(segment)
}

/// Whether a request at an ordinary listener is what a client asks Keystone for that was given the listener's own
/// URL: it reads `/`, or goes below a version.
pub fn is_at_root(method: &Method, path: &str) -> bool {
    let below = |version: &str| {
        path.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    (path == "/" && matches!(*method, Method::GET | Method::HEAD)) || below("/v3") || below("/v2.0")
}

/// What a route asks for below Keystone's root: `path` is the request's whole one. `None` for the routes of
/// other services.
fn below<'a>(route: &Route<'a>, path: &'a str) -> Option<&'a str> {
    match route.service_as_written() {
        "identity" | "keystone" => Some(route.rest),
        // Swift's own login, which is at its root.
        "object-store" if matches!(route.rest, "/auth/v1.0" | "/auth/v1") => Some(route.rest),
        "auth" if route.form == Form::Endpoint && matches!(route.rest, "/v1.0" | "/v1") => {
            path.get(route.prefix.len() - "/auth".len()..)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, expected: Option<Call<'_>>) {
        let route =
            if is_at_root(&method, path) { Route::at_root("/identity", path) } else { Route::parse(path) };
        assert_eq!(Call::of(&method, &route.expect(path), path), expected, "{method} {path}");
    }

    #[test]
    fn calls_are_known_wherever_keystones_root_is() {
        for root in ["/identity", "/keystone", "/cloud/lab/identity", "/region/r/project/p/identity", ""] {
            let at = |path: &str| format!("{root}{path}");
            check(Method::GET, &at("/"), Some(Call::Versions));
            check(Method::HEAD, &at("/v3"), Some(Call::Version(Version::V3)));
            check(Method::GET, &at("/v2.0/"), Some(Call::Version(Version::V2)));
            check(Method::POST, &at("/v3/auth/tokens"), Some(Call::LogIn(Version::V3)));
            check(Method::POST, &at("/v2.0/tokens"), Some(Call::LogIn(Version::V2)));
            check(Method::HEAD, &at("/v3/auth/tokens"), Some(Call::Show));
            check(Method::DELETE, &at("/v3/auth/tokens"), Some(Call::Revoke));
            check(Method::GET, &at("/v3/users/u/projects"), Some(Call::Projects(Some("u"))));
            check(Method::GET, &at("/v3/projects"), Some(Call::Projects(None)));
            check(Method::GET, &at("/v2.0/tokens/t"), Some(Call::ShowV2("t")));
            check(Method::DELETE, &at("/v2.0/tokens/t"), Some(Call::RevokeV2("t")));
            check(Method::GET, &at("/v2.0/tokens/t/endpoints"), Some(Call::Endpoints("t")));
            check(Method::GET, &at("/v2.0/tenants"), Some(Call::Tenants));
        }
        check(Method::GET, "/identity", Some(Call::Versions));
    }

    #[test]
    fn other_spellings_and_methods_are_keystones() {
        for (method, path) in [
            (Method::PUT, "/identity/v3/auth/tokens"),
            (Method::POST, "/identity/v3/auth/tokens/"),
            (Method::POST, "/identity/v3//auth/tokens"),
            (Method::POST, "/identity/v3/auth/token%73"),
            (Method::POST, "/identity/auth/tokens"),
            (Method::POST, "/Identity/v3/auth/tokens"),
            (Method::GET, "/identity//"),
            (Method::GET, "/identity/v3/users/u/x/projects"),
            (Method::GET, "/identity/v3/users/projects"),
            (Method::GET, "/identity/v3/users/%75/projects"),
            (Method::DELETE, "/identity/v2.0/tokens/"),
            (Method::DELETE, "/v3/users/u"),
            (Method::POST, "/v3/projects"),
            (Method::GET, "/v3/projects/p"),
            (Method::GET, "/v2.0/users"),
            (Method::GET, "/v3x"),
            (Method::GET, "/compute/v3/auth/tokens"),
        ] {
            check(method, path, None);
        }
    }

    #[test]
    fn another_spelling_of_a_call_is_known_for_what_it_may_be_taken_for() {
        for path in [
            "/v3/auth/projects",
            "/v3/auth/projects/",
            "/v3//auth/projects//",
            "/v3/auth/project%73",
            "/v3/auth%2Fprojects",
            "/v3/auth;x/projects;y=z",
            "/v3/auth/%2fdomains",
            "/v3/OS%2DFEDERATION/projects",
            "/v3/users/%75/projects",
            "/v2.0/tenants/",
            "/v3//v3/auth/projects",
        ] {
            assert!(Call::is_meant(&Method::GET, "", path), "{path}");
            assert!(Call::is_meant(&Method::GET, "/a/keystone", &format!("//%61//keystone{path}")), "{path}");
            assert!(!Call::is_meant(&Method::PUT, "", path), "{path}");
        }
        assert!(Call::is_meant(&Method::POST, "", "/v3/auth/tokens/"));
        for path in
            ["/", "/v3", "/v3/projects", "/v3/auth/tokens", "/v3/auth/projects/x", "/V3/auth/projects"]
        {
            assert!(!Call::is_meant(&Method::GET, "", path), "{path}");
        }
    }

    #[test]
    fn swifts_login_is_where_its_clients_look() {
        for path in
            ["/auth/v1.0", "/auth/v1", "/object-store/auth/v1.0", "/cloud/lab/auth/v1.0", "/identity/auth/v1"]
        {
            check(Method::GET, path, Some(Call::LogInToSwift));
        }
        check(Method::GET, "/auth", None);
        check(Method::GET, "/auth/v1.0/x", None);
        check(Method::PUT, "/auth/v1.0", None);
        check(Method::GET, "/object-store/box/auth/v1.0", None);
    }
}
