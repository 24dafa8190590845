//! What do we say to Keystone, and what does its answer mean?
//!
//! Request bodies and answers of Identity v3 and v2.0, without any I/O. Answers come from a peer:
//! nothing about them is taken for granted, and nothing of them but times, names and ids is shown.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode, Uri};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::token::{lifetime, parse_time};
use super::{
    ApplicationCredential, AuthError, Catalog, Domain, Method, Named, Project, Scope, Secret, Token, TokenId,
    User,
};
use crate::secret;

/// The header in which Identity v3 hands a token over.
const SUBJECT_TOKEN: &str = "x-subject-token";

/// How much of a message of Keystone's is kept for the log, characters.
const LONGEST_MESSAGE: usize = 300;

/// `POST /v3/auth/tokens`: the body that logs in.
pub fn v3_login(method: &Method, scope: &Scope) -> Bytes {
    let (name, proof, place, secret) = match method {
        Method::Password { user, password } => {
            ("password", json!({ "user": v3_user(user) }), "/user/password", password)
        }
        Method::Token(token) => ("token", json!({}), "/id", token),
        Method::ApplicationCredential { which: ApplicationCredential::Id(id), secret } => {
            ("application_credential", json!({ "id": id }), "/secret", secret)
        }
        Method::ApplicationCredential { which: ApplicationCredential::Name { name, user }, secret } => {
            ("application_credential", json!({ "name": name, "user": v3_user(user) }), "/secret", secret)
        }
    };
    let place = format!("/auth/identity/{name}{place}");
    let mut identity = Map::new();
    identity.insert("methods".to_owned(), json!([name]));
    identity.insert(name.to_owned(), proof);
    let mut auth = json!({ "identity": identity });
    // An application credential brings its own scope; Keystone refuses any that is asked for.
    if !matches!(method, Method::ApplicationCredential { .. })
        && let Some(scope) = v3_scope(scope)
    {
        auth["scope"] = scope;
    }
    body(json!({ "auth": auth }), &place, secret)
}

/// `POST /v2.0/tokens`: the body that logs in. [`Scope::Default`] and [`Scope::Unscoped`] name no
/// tenant.
///
/// # Errors
/// [`AuthError::NotInV2`] for what this API does not know.
pub fn v2_login(method: &Method, scope: &Scope) -> Result<Bytes, AuthError> {
    let lacks = |what| Err(AuthError::NotInV2 { what });
    let (mut auth, place, secret) = match method {
        Method::Password { user, password } => {
            let user = match user {
                User::Id(id) => json!({ "userId": id }),
                User::Name { name, .. } => json!({ "username": name }),
            };
            (json!({ "passwordCredentials": user }), "/auth/passwordCredentials/password", password)
        }
        Method::Token(token) => (json!({ "token": {} }), "/auth/token/id", token),
        Method::ApplicationCredential { .. } => return lacks("application credentials"),
    };
    match scope {
        Scope::Default | Scope::Unscoped => {}
        Scope::Project(Project::Id(id)) => auth["tenantId"] = id.as_str().into(),
        Scope::Project(Project::Name { name, .. }) => auth["tenantName"] = name.as_str().into(),
        Scope::Domain(_) => return lacks("domain scope"),
        Scope::System => return lacks("system scope"),
    }
    Ok(body(json!({ "auth": auth }), place, secret))
}

/// Whether a login names a domain that Identity v2.0 can't mean. All of its users and tenants are in
/// the default one.
pub fn names_a_domain(method: &Method, scope: &Scope) -> bool {
    let user = match method {
        Method::Password { user, .. } => Some(user),
        Method::ApplicationCredential { which: ApplicationCredential::Name { user, .. }, .. } => Some(user),
        _ => None,
    };
    let is_other = |domain: &Domain| match domain {
        Domain::Id(id) => id != "default",
        Domain::Name(name) => !name.eq_ignore_ascii_case("default"),
    };
    let of_user = matches!(user, Some(User::Name { domain: Some(domain), .. }) if is_other(domain));
    match scope {
        Scope::Domain(_) => true,
        Scope::Project(Project::Name { domain: Some(domain), .. }) => of_user || is_other(domain),
        _ => of_user,
    }
}

/// What Keystone's times are measured against.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Just before the request was sent, on the monotonic clock.
    pub at: Instant,
    /// The same by the wall clock; the last resort where Keystone names no time of its own.
    pub wall: SystemTime,
}

/// The token of a successful `POST /v3/auth/tokens`.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer, [`AuthError::AlreadyExpired`].
pub fn read_v3_token(answer: &Response<Bytes>, sent: Sent) -> Result<Token, AuthError> {
    let document = json_body(answer)?;
    let token = &document["token"];
    if !token.is_object() {
        return Err(bad_reply("Keystone's answer to the login has no `token`; is auth_url right?"));
    }
    let id = answer.headers().get(SUBJECT_TOKEN).and_then(|id| id.to_str().ok());
    let id = id.and_then(|id| TokenId::new(id.trim()).ok()).ok_or_else(|| {
        bad_reply("Keystone's answer to the login has no usable X-Subject-Token header; does a proxy before it remove it?")
    })?;
    let catalog = Catalog::from_v3(&token["catalog"]);
    let mut read = with_times(id, catalog, &token["expires_at"], &token["issued_at"], answer, sent)?;
    read.project = named(&token["project"], "name");
    read.user = named(&token["user"], "name");
    read.document = Some(token.to_string().into());
    Ok(read)
}

/// The token of a successful `POST /v2.0/tokens`.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer, [`AuthError::AlreadyExpired`].
pub fn read_v2_token(answer: &Response<Bytes>, sent: Sent) -> Result<Token, AuthError> {
    // Its `id` is the token.
    let mut document = json_body(answer)?;
    let read = read_v2_document(&document, answer, sent);
    secret::wipe(&mut document);
    read
}

fn read_v2_document(document: &Value, answer: &Response<Bytes>, sent: Sent) -> Result<Token, AuthError> {
    let access = &document["access"];
    let token = &access["token"];
    if !token.is_object() {
        return Err(bad_reply("Keystone's answer to the login has no `access.token`; is auth_url right?"));
    }
    let id = token["id"].as_str().and_then(|id| TokenId::new(id.trim()).ok());
    let id = id.ok_or_else(|| bad_reply("Keystone's answer to the login has no usable token id"))?;
    let catalog = Catalog::from_v2(&access["serviceCatalog"]);
    let mut read = with_times(id, catalog, &token["expires"], &token["issued_at"], answer, sent)?;
    read.project = named(&token["tenant"], "name");
    read.user = named(&access["user"], "name").or_else(|| named(&access["user"], "username"));
    Ok(read)
}

/// A project that a user may log in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectInfo {
    /// Its id, name, and domain.
    pub project: Named,
    /// Whether it may be used at all.
    pub enabled: bool,
}

/// `GET /v3/auth/projects` or `GET /v2.0/tenants`.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer.
pub fn read_projects(answer: &Response<Bytes>) -> Result<Vec<ProjectInfo>, AuthError> {
    let document = json_body(answer)?;
    let list = document["projects"].as_array().or_else(|| document["tenants"].as_array());
    let list = list.ok_or_else(|| bad_reply("Keystone's list of projects is none"))?;
    let read = |entry: &Value| {
        let enabled = entry["enabled"].as_bool().unwrap_or(true);
        Some(ProjectInfo { project: named(entry, "name")?, enabled })
    };
    Ok(list.iter().filter_map(read).collect())
}

/// The last path segments (`v3`, `v2.0`) under which a Keystone offers its versions, from its version
/// document (300 or 200). `None` when the text is no such document.
pub fn read_versions(document: &[u8]) -> Option<Vec<String>> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let entries = version_entries(&document)?;
    Some(entries.iter().filter_map(|entry| version_segment(entry)).map(str::to_owned).collect())
}

/// The entries of a version document in any of its shapes; `None` for anything else.
pub(super) fn version_entries(document: &Value) -> Option<&[Value]> {
    let versions = &document["versions"];
    if let Some(entries) = versions.as_array().or_else(|| versions["values"].as_array()) {
        return Some(entries);
    }
    let version = &document["version"];
    version.is_object().then(|| std::slice::from_ref(version))
}

/// The last segment of the self link of an entry, if that is a version.
pub(super) fn version_segment(entry: &Value) -> Option<&str> {
    let links = entry["links"].as_array()?;
    let link = links.iter().find(|link| link["rel"].as_str() == Some("self"))?;
    let segment = link["href"].as_str()?.trim_end_matches('/').rsplit('/').next()?;
    is_version(segment).then_some(segment)
}

/// Whether a path segment is a version: `v2`, `v2.0`, `v3`.
pub fn is_version(segment: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.len() < 5 && text.bytes().all(|b| b.is_ascii_digit());
    segment.strip_prefix('v').is_some_and(|rest| match rest.split_once('.') {
        Some((major, minor)) => number(major) && number(minor),
        None => number(rest),
    })
}

/// What an answer means that does not hold what was asked for. `asked` names the request for people;
/// `secrets` are what was sent with it, so that no echo of them gets into a log.
pub fn refusal(answer: &Response<Bytes>, asked: &str, secrets: &[&str]) -> AuthError {
    let status = answer.status();
    let message = error_message(answer.body(), secrets);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            AuthError::Rejected { status: status.as_u16(), message }
        }
        StatusCode::TOO_MANY_REQUESTS => unavailable(answer, message),
        status if status.is_server_error() => unavailable(answer, message),
        status if status.is_redirection() => {
            let mut host = redirect_host(answer.headers());
            if secrets.iter().any(|secret| secret::is_echoed(&host, secret)) {
                "another host".clone_into(&mut host);
            }
            bad_reply(format!(
                "Keystone answered {asked} with {status}, a redirect to {host}, which keyway does not follow with \
                 credentials; set auth_url to where Keystone really is, https and version included"
            ))
        }
        _ => {
            let said = message.map(|message| format!(" (\"{message}\")")).unwrap_or_default();
            let hint = match status {
                StatusCode::BAD_REQUEST => {
                    "it misses something, or can't do it; check the user's, the project's and their domains' options"
                }
                _ => "is auth_url right? It looks like https://cloud.example:5000/v3",
            };
            bad_reply(format!("Keystone answered {asked} with {status}{said}; {hint}"))
        }
    }
}

/// A [`AuthError::BadReply`].
pub(super) fn bad_reply(what: impl Into<String>) -> AuthError {
    AuthError::BadReply { what: what.into() }
}

fn unavailable(answer: &Response<Bytes>, message: Option<String>) -> AuthError {
    let retry_after = retry_after(answer.headers(), SystemTime::now());
    AuthError::Unavailable { status: answer.status().as_u16(), message, retry_after }
}

/// `Retry-After` in either of its forms (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

/// Where a redirect leads, as far as it may be shown: the host only.
fn redirect_host(headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    match location.parse::<Uri>().ok().and_then(|uri| Some(uri.authority()?.host().to_owned())) {
        Some(host) => format!("host {host}"),
        None if location.is_empty() => "nowhere".to_owned(),
        None => "another path".to_owned(),
    }
}

/// What Keystone says in an error body: short, on one line, and only if none of `secrets` is in it, in
/// whatever form.
fn error_message(body: &[u8], secrets: &[&str]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let message = document["error"]["message"].as_str().or_else(|| document["error"].as_str())?;
    if secrets.iter().any(|secret| secret::is_echoed(message, secret)) {
        return None;
    }
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message: String = message.trim().chars().take(LONGEST_MESSAGE).collect();
    (!message.is_empty()).then_some(message)
}

fn json_body(answer: &Response<Bytes>) -> Result<Value, AuthError> {
    serde_json::from_slice(answer.body()).map_err(|_| {
        let kind = answer.headers().get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = match kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim()) {
            None => "no content type",
            Some(
                kind @ ("text/html" | "text/plain" | "text/xml" | "application/xml" | "application/xhtml+xml"
                | "application/json" | "application/octet-stream"),
            ) => kind,
            // What it says may be anything, also something that was sent to it.
            Some(_) => "another content type",
        };
        bad_reply(format!(
            "Keystone answered {} with something that is not JSON ({kind}); is auth_url right, and no login page \
             or proxy before it?",
            answer.status()
        ))
    })
}

fn with_times(
    id: TokenId,
    catalog: Catalog,
    expires: &Value,
    issued: &Value,
    answer: &Response<Bytes>,
    sent: Sent,
) -> Result<Token, AuthError> {
    let read = |value: &Value| value.as_str().and_then(parse_time);
    let expires = read(expires).ok_or_else(|| {
        bad_reply("Keystone's answer to the login does not say when the token expires, or not as a time")
    })?;
    let issued = read(issued)
        .or_else(|| {
            let date = answer.headers().get(DATE)?.to_str().ok()?;
            Timestamp::try_from(httpdate::parse_http_date(date).ok()?).ok()
        })
        .or_else(|| Timestamp::try_from(sent.wall).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let Some(lifetime) = lifetime(expires, issued) else {
        return Err(AuthError::AlreadyExpired {
            expires_at: expires.to_string(),
            issued_at: issued.to_string(),
        });
    };
    let mut token = Token::new(id, catalog, sent.at, lifetime);
    token.expires_at = Some(expires.as_second());
    Ok(token)
}

fn named(value: &Value, name: &str) -> Option<Named> {
    Some(Named {
        id: value["id"].as_str()?.to_owned(),
        name: value[name].as_str().unwrap_or_default().to_owned(),
        domain_id: value["domain"]["id"].as_str().or_else(|| value["domain_id"].as_str()).map(str::to_owned),
    })
}

fn v3_user(user: &User) -> Map<String, Value> {
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
    })
}

/// A document as text, with a secret at a place (a JSON pointer) that no member has yet. Neither the
/// text nor what it is made from leaves the secret in memory, so it is put in last, and nothing that
/// holds it grows.
fn body(mut document: Value, place: &str, secret: &Secret) -> Bytes {
    // At most six characters for one (`\u0000`), and quotes.
    let longest = document.to_string().len() + place.len() + 6 * secret.expose().len() + 8;
    let (parent, member) = place.rsplit_once('/').expect("a place is a path");
    let parent = document.pointer_mut(parent).expect("the caller made it");
    parent[member] = Value::from(secret.expose());
    let mut text = Vec::with_capacity(longest);
    serde_json::to_writer(&mut text, &document).expect("texts and maps can be written to memory");
    secret::wipe(&mut document);
    secret::hold(text)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::keystone::Interface;

    fn password(user: User) -> Method {
        Method::Password { user, password: Secret::new("s3cret") }
    }

    fn demo() -> User {
        User::Name { name: "demo".to_owned(), domain: Some(Domain::Name("Default".to_owned())) }
    }

    #[track_caller]
    fn check_v3(method: &Method, scope: &Scope, expected: Value) {
        let sent: Value = serde_json::from_slice(&v3_login(method, scope)).unwrap();
        assert_eq!(sent["auth"], expected);
    }

    #[track_caller]
    fn check_v2(method: &Method, scope: &Scope, expected: Value) {
        let sent: Value = serde_json::from_slice(&v2_login(method, scope).unwrap()).unwrap();
        assert_eq!(sent["auth"], expected);
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(Bytes::from(body.to_string())).unwrap()
    }

    fn sent() -> Sent {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_296_073);
        Sent { at: Instant::now(), wall }
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
        let with_token = Method::Token(Secret::new("t0"));
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
        let credential = |which| Method::ApplicationCredential { which, secret: Secret::new("s") };
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
            &Method::Token(Secret::new("t0")),
            &tenant("x"),
            json!({"token": {"id": "t0"}, "tenantName": "x"}),
        );
        let credential = Method::ApplicationCredential {
            which: ApplicationCredential::Id("a".to_owned()),
            secret: Secret::new("s"),
        };
        for (method, scope) in [
            (credential, Scope::Default),
            (password(demo()), Scope::System),
            (password(demo()), Scope::Domain(Domain::Id("d".to_owned()))),
        ] {
            assert!(matches!(v2_login(&method, &scope), Err(AuthError::NotInV2 { .. })));
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
        assert!(!names_a_domain(&Method::Token(Secret::new("t")), &Scope::Default));
    }

    /// Keystone 29.1 (2026.1).
    fn v3_answer() -> Value {
        json!({"token": {"methods": ["password"],
            "user": {"domain": {"id": "default", "name": "Default"}, "id": "5053a48f", "name": "demo",
                "password_expires_at": null},
            "audit_ids": ["f4NJtv1nTsWpwmnc3pNwLw"],
            "expires_at": "2026-11-21T22:21:13.000000Z", "issued_at": "2026-11-21T21:21:13.000000Z",
            "project": {"domain": {"id": "default", "name": "Default"}, "id": "164bc2bc", "name": "demo"},
            "is_domain": false, "roles": [{"id": "eac4485c", "name": "member"}],
            "catalog": crate::keystone::catalog::tests::v3()}})
    }

    #[test]
    fn a_v3_token_is_read() {
        let sent = sent();
        let token =
            read_v3_token(&answer(201, &[("X-Subject-Token", "gAAAAABrAgtJ")], v3_answer()), sent).unwrap();
        assert_eq!(token.id.expose(), "gAAAAABrAgtJ");
        assert_eq!(token.expires_at, Some(1_795_299_673));
        assert_eq!(token.lifetime(), Duration::from_secs(3600));
        assert_eq!(token.expires(), Some(sent.at + Duration::from_secs(3600)));
        let project = token.project.unwrap();
        assert_eq!((project.id.as_str(), project.name.as_str()), ("164bc2bc", "demo"));
        assert_eq!(token.user.unwrap().domain_id.as_deref(), Some("default"));
        assert!(token.catalog.endpoint("compute", None, &[Interface::Public]).is_ok());
    }

    #[test]
    fn a_life_without_issued_at_is_measured_by_the_date_header_else_by_our_clock() {
        let mut document = v3_answer();
        document["token"]["issued_at"] = Value::Null;
        let headers = [("X-Subject-Token", "t"), ("Date", "Sat, 21 Nov 2026 22:20:13 GMT")];
        let token = read_v3_token(&answer(201, &headers, &document), sent()).unwrap();
        assert_eq!(token.lifetime(), Duration::from_secs(60));
        let token = read_v3_token(&answer(201, &headers[..1], &document), sent()).unwrap();
        assert_eq!(token.lifetime(), Duration::from_secs(3600));
    }

    #[test]
    fn a_token_that_is_over_names_both_times() {
        let mut document = v3_answer();
        document["token"]["expires_at"] = json!("2026-11-21T21:21:13.000000Z");
        let error = read_v3_token(&answer(201, &[("X-Subject-Token", "t")], document), sent()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Keystone sent a token that had already expired: it ends at 2026-11-21T21:21:13Z, and it was issued \
             at 2026-11-21T21:21:13Z; check Keystone's clock, or give a token that still lives"
        );
    }

    // Promise 76.
    #[test]
    fn no_answer_to_a_login_is_quoted_when_it_can_t_be_read() {
        let secret = "gAAAAABrAgtJ05-hunter2";
        let token =
            json!({"token": {"id": secret, "expires_at": secret, "issued_at": secret, "catalog": secret}});
        let access = json!({"access": {"token": {"id": format!("{secret}\n"), "expires": secret}}});
        for body in [
            secret.to_owned(),
            format!("{{\"token\": \"{secret}"),
            format!("{{\"token\": {secret}}}"),
            format!("{{\"token\": {{\"{secret}\": 1, \"{secret}\": "),
            format!("[\"{secret}\"]"),
            json!({ secret: { secret: [secret] } }).to_string(),
            token.to_string(),
            access.to_string(),
        ] {
            for headers in [
                &[("X-Subject-Token", secret), ("Content-Type", secret)][..],
                &[("X-Subject-Token", "hunter2 gAAAAABrAgtJ05-hunter2"), ("Date", secret)],
            ] {
                let answer = answer(201, headers, &body);
                for error in [
                    read_v3_token(&answer, sent()).unwrap_err(),
                    read_v2_token(&answer, sent()).unwrap_err(),
                    read_projects(&answer).unwrap_err(),
                ] {
                    let shown = format!("{error} {error:?}");
                    assert!(!shown.contains("hunter2"), "{body}: {shown}");
                }
            }
        }
        for status in [200, 302, 400, 401, 403, 404, 429, 500, 503] {
            for said in
                [secret.to_owned(), format!("no {secret}!"), STANDARD.encode(format!("token {secret}"))]
            {
                let body = json!({"error": {"message": said}});
                let headers = [("Location", format!("https://{}.example/", secret.to_lowercase()))];
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                let error = refusal(&answer(status, &headers, &body), "the login", &[secret]);
                let shown = format!("{error} {error:?}").to_lowercase();
                assert!(
                    !shown.contains("hunter2") && !shown.contains(&said.to_lowercase()),
                    "{said}: {shown}"
                );
            }
        }
    }

    #[track_caller]
    fn check_bad_v3(answer: &Response<Bytes>, expected: &str) {
        let error = read_v3_token(answer, sent()).unwrap_err();
        assert!(matches!(error, AuthError::BadReply { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn what_is_no_v3_token_says_what_was_got() {
        let subject = ("X-Subject-Token", "t");
        let html = answer(200, &[subject, ("Content-Type", "text/html; charset=utf-8")], "<html>");
        check_bad_v3(&html, "answered 200 OK with something that is not JSON (text/html)");
        check_bad_v3(&answer(201, &[], v3_answer()), "X-Subject-Token");
        check_bad_v3(&answer(201, &[("X-Subject-Token", "")], v3_answer()), "X-Subject-Token");
        for odd in ["{}", "[]", "null", "{\"token\": 5}"] {
            check_bad_v3(&answer(201, &[subject], odd), "no `token`");
        }
        check_bad_v3(&answer(201, &[subject], "{\"token\": {}}"), "when the token expires");
    }

    #[test]
    fn a_v2_token_is_read() {
        // Keystone 12 (Pike).
        let document = json!({"access": {"token": {"issued_at": "2026-11-21T21:21:13.000000Z",
            "expires": "2026-11-21T22:21:13.000000Z", "id": "gAAAAABrAgtJ05",
            "tenant": {"description": "", "enabled": true, "id": "ba3a43d4", "name": "demo"}, "audit_ids": ["x"]},
            "serviceCatalog": [{"endpoints": [{"adminURL": "http://127.0.0.1:9294", "region": "RegionOne",
                "internalURL": "http://127.0.0.1:9294", "publicURL": "http://127.0.0.1:9294"}],
                "endpoints_links": [], "type": "image", "name": "glance"}],
            "user": {"username": "demo", "roles_links": [], "id": "09c945c9", "roles": [], "name": "demo"},
            "metadata": {"is_admin": 0, "roles": []}}});
        let token = read_v2_token(&answer(200, &[], document), sent()).unwrap();
        assert_eq!(token.id.expose(), "gAAAAABrAgtJ05");
        assert_eq!(token.project.unwrap().id, "ba3a43d4");
        assert_eq!(token.user.unwrap().name, "demo");
        assert_eq!(token.catalog.service_types(), ["image"]);
        let unscoped = json!({"access": {"token": {"id": "t", "expires": "2026-11-21T22:21:13Z"}, "serviceCatalog": {}}});
        assert!(read_v2_token(&answer(200, &[], unscoped), sent()).unwrap().catalog.is_empty());
        assert!(read_v2_token(&answer(200, &[], "{\"access\": []}"), sent()).is_err());
    }

    #[test]
    fn projects_and_tenants_are_read() {
        let v3 = json!({"projects": [{"id": "164b", "name": "demo", "domain_id": "default", "description": "",
            "enabled": true, "parent_id": "default", "is_domain": false, "tags": [], "options": {}}, {"x": 1}],
            "links": {"next": null, "self": "http://127.0.0.1:5000/v3/auth/projects", "previous": null}});
        let projects = read_projects(&answer(200, &[], v3)).unwrap();
        assert_eq!(projects.len(), 1);
        assert_eq!(projects[0].project.domain_id.as_deref(), Some("default"));
        let v2 = json!({"tenants_links": [],
            "tenants": [{"description": "", "enabled": false, "id": "ba3a", "name": "demo"}]});
        assert!(!read_projects(&answer(200, &[], v2)).unwrap()[0].enabled);
        assert!(read_projects(&answer(200, &[], "{}")).is_err());
    }

    #[test]
    fn version_documents_are_read_in_every_shape() {
        // Keystone 29.1, then Keystone 12.
        let new = r#"{"versions": {"values": [{"id": "v3.14", "status": "stable", "links": [{"rel": "self",
            "href": "http://127.0.0.1:5000/v3/"}]}]}}"#;
        assert_eq!(read_versions(new.as_bytes()).unwrap(), ["v3"]);
        let old = r#"{"versions": {"values": [
            {"id": "v3.8", "links": [{"href": "http://127.0.0.1:5001/v3/", "rel": "self"}]},
            {"id": "v2.0", "links": [{"href": "http://127.0.0.1:5001/v2.0/", "rel": "self"},
                {"href": "https://docs.openstack.org/", "type": "text/html", "rel": "describedby"}]}]}}"#;
        assert_eq!(read_versions(old.as_bytes()).unwrap(), ["v3", "v2.0"]);
        let one =
            r#"{"version": {"id": "v3.14", "links": [{"rel": "self", "href": "http://x/identity/v3"}]}}"#;
        assert_eq!(read_versions(one.as_bytes()).unwrap(), ["v3"]);
        for odd in ["<html>", "[]", "{}", "{\"versions\": 1}", ""] {
            assert_eq!(read_versions(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_version_is_v_and_a_number() {
        for good in ["v2", "v2.0", "v3", "v2.17"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "v", "v3.", "v.1", "3", "V3", "v2.0.1", "vault", "v3x", "v123456"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[track_caller]
    fn check_refusal(answer: Response<Bytes>, expected: &str) -> AuthError {
        let error = refusal(&answer, "the login", &["s3cret"]);
        assert!(error.to_string().contains(expected), "{error}");
        error
    }

    #[test]
    fn a_refusal_says_what_it_is_and_what_to_do() {
        let body = json!({"error": {"code": 401, "title": "Unauthorized",
            "message": "The request you have made requires authentication."}});
        let error = check_refusal(answer(401, &[], &body), "401 (\"The request you have made");
        assert!(error.is_rejection());
        let error = check_refusal(answer(429, &[("Retry-After", "7")], &body), "asked again later");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        let error = check_refusal(answer(503, &[("Retry-After", "soon")], "<html>"), "answered 503;");
        assert_eq!(error.retry_after(), None);
        check_refusal(
            answer(302, &[("Location", "https://sso.example/login?x=y")], ""),
            "to host sso.example, ",
        );
        check_refusal(answer(308, &[("Location", "/v3/")], ""), "to another path,");
        check_refusal(answer(404, &[], "<html>"), "404 Not Found; is auth_url right?");
        check_refusal(answer(300, &[], "{}"), "300 Multiple Choices");
        let body = json!({"error": {"code": 400, "message": "Expecting to find domain in user."}});
        check_refusal(
            answer(400, &[], &body),
            "(\"Expecting to find domain in user.\"); it misses something",
        );
    }

    // Promise 76.
    #[test]
    fn a_message_is_short_and_never_holds_what_we_sent() {
        let message = |text: &str| {
            error_message(json!({"error": {"message": text}}).to_string().as_bytes(), &["", "s3cret"])
        };
        assert_eq!(message("no\r\nsuch\u{1b}[1m thing").as_deref(), Some("no  such [1m thing"));
        assert_eq!(message("bad password s3cret"), None);
        assert_eq!(message("Authorization: Basic ZGVtbzpzM2NyZXQ="), None);
        assert_eq!(message(" "), None);
        assert_eq!(message(&"x".repeat(5000)).map(|text| text.len()), Some(LONGEST_MESSAGE));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 21:21:13 GMT").unwrap();
        let read = |text: &str| {
            let headers = [(RETRY_AFTER, text.parse().unwrap())].into_iter().collect();
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sat, 21 Nov 2026 21:22:13 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Sat, 21 Nov 2026 21:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("-1"), None);
    }
}
