//! What do we say to Keystone, and what does its answer mean?
//!
//! Request bodies and answers of Identity v3 and v2.0, without any I/O. Answers come from a peer:
//! nothing about them is taken for granted, and nothing of them but times, names and ids is shown.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode, Uri};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::token::{lifetime, parse_time};
use super::{
    ApplicationCredential, AuthError, Catalog, Domain, Factor, Interface, Method, Named, Project, Scope,
    Secret, Token, TokenId, User,
};
use crate::secret;
use crate::upstream::{BaseUrl, Origin};

/// The header in which Identity v3 hands a receipt over, and takes it back.
pub(super) static AUTH_RECEIPT: HeaderName = HeaderName::from_static("openstack-auth-receipt");

/// What [`refusal`] calls a login.
pub(super) const LOGIN: &str = "the login";

/// How many rules of how many methods are looked at.
const LONGEST_RULE: usize = 16;

/// The header in which Identity v3 hands a token over.
const SUBJECT_TOKEN: &str = "x-subject-token";

/// The id and the name of the domain in which Identity v3 shows what Identity v2.0 made.
const DEFAULT_DOMAIN: (&str, &str) = ("default", "Default");

/// The shortest token that is looked for in what came with it.
const SHORTEST_ECHO: usize = 8;

/// How much of a message of Keystone's is kept for the log, characters.
const LONGEST_MESSAGE: usize = 300;

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
pub(super) fn v3_login_by_header(method: &str, scope: Option<&Scope>) -> Bytes {
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
pub(super) fn scope_names_a_domain(scope: &Scope) -> bool {
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
    let id = answer.headers().get(SUBJECT_TOKEN).and_then(|id| id.to_str().ok());
    let id = id.and_then(|id| TokenId::new(id.trim()).ok());
    read_v3_document(answer, id, sent)
}

/// What `GET /v3/auth/tokens` says of a token, or `POST` of a new one.
///
/// # Errors
/// As with [`read_v3_token`].
pub(super) fn read_v3_document(
    answer: &Response<Bytes>,
    id: Option<TokenId>,
    sent: Sent,
) -> Result<Token, AuthError> {
    let mut document = json_body(answer)?;
    let Some(token) = document.get_mut("token").filter(|token| token.is_object()) else {
        return Err(bad_reply("Keystone's answer to the login has no `token`; is auth_url right?"));
    };
    let id = id.ok_or_else(|| {
        bad_reply("Keystone's answer to the login has no usable X-Subject-Token header; does a proxy before it remove it?")
    })?;
    let catalog = Catalog::from_v3(&token["catalog"]);
    let (expires, issued) = times(&token["expires_at"], &token["issued_at"], answer, sent)?;
    let mut read = living(id, catalog, expires, issued, sent)?;
    describe(&mut read, token);
    Ok(read)
}

/// Notes what the `token` object of Identity v3 says of a token.
fn describe(read: &mut Token, token: &mut Value) {
    read.project = named(&token["project"], "name");
    read.domain = named(&token["domain"], "name");
    read.system = token["system"]["all"] == true;
    read.trust = token["OS-TRUST:trust"]["id"].as_str().map(str::to_owned);
    read.user = named(&token["user"], "name");
    read.document = Some(without(token, &read.id));
}

/// A token from its own [`document`](Token::document), with a life of `lifetime` that began at `born`. `None`
/// for what is no such document.
pub(super) fn read_document(
    id: TokenId,
    document: &[u8],
    by_v2: bool,
    born: Instant,
    lifetime: Duration,
) -> Option<Token> {
    let mut token: Value = serde_json::from_slice(document).ok()?;
    let expires = token["expires_at"].as_str().and_then(parse_time)?;
    let mut read = Token::new(id, Catalog::from_v3(&token["catalog"]), born, lifetime);
    read.expires_at = Some(expires.as_second());
    read.by_v2 = by_v2;
    describe(&mut read, &mut token);
    // A document that was made for Identity v2.0 has a user, known or not.
    read.user.take_if(|user| by_v2 && user.id.is_empty());
    Some(read)
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
    let (expires, issued) = times(&token["expires"], &token["issued_at"], answer, sent)?;
    let mut read = living(id, catalog, expires, issued, sent)?;
    read.by_v2 = true;
    read.project = named_in_v2(&token["tenant"], "name");
    read.user = named_in_v2(&access["user"], "name").or_else(|| named_in_v2(&access["user"], "username"));
    let mut document = v3_document(access, &read, expires, issued);
    read.document = Some(without(&mut document, &read.id));
    secret::wipe(&mut document);
    Ok(read)
}

/// What Keystone says of a login that is right so far, where the user's rules want more methods.
#[derive(Debug)]
pub(super) struct Receipt {
    /// What vouches for the methods that were shown.
    pub(super) id: TokenId,
    /// The methods that it accepted.
    pub(super) accepted: Vec<String>,
    /// Its rules: all methods of one of them are wanted.
    pub(super) rules: Vec<Vec<String>>,
}

impl Receipt {
    /// That of a 401, if it has one.
    pub(super) fn read(answer: &Response<Bytes>) -> Option<Self> {
        let id = answer.headers().get(&AUTH_RECEIPT)?.to_str().ok()?;
        let document: Value = serde_json::from_slice(answer.body()).ok()?;
        let names = |list: &Value| {
            let names = list.as_array()?.iter().filter_map(Value::as_str);
            // They are shown to people, so they are names and nothing else.
            let is_name = |name: &&str| {
                name.len() <= 64
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            };
            Some(names.filter(is_name).take(LONGEST_RULE).map(str::to_owned).collect())
        };
        let rules = document["required_auth_methods"].as_array()?;
        Some(Self {
            id: TokenId::new(id.trim()).ok()?,
            accepted: names(&document["receipt"]["methods"]).unwrap_or_default(),
            rules: rules.iter().take(LONGEST_RULE).filter_map(names).collect(),
        })
    }

    /// The methods of a rule that are still missing.
    fn missing<'a>(&self, rule: &'a [String]) -> Vec<&'a str> {
        rule.iter().filter(|name| !self.accepted.contains(name)).map(String::as_str).collect()
    }

    /// The missing methods of the first rule that needs nothing but these.
    pub(super) fn choose(&self, available: &[&str]) -> Option<Vec<&str>> {
        let mut missing = self.rules.iter().map(|rule| self.missing(rule));
        missing.find(|names| !names.is_empty() && names.iter().all(|name| available.contains(name)))
    }

    /// Why this is the end of it.
    pub(super) fn unmet(&self) -> AuthError {
        let rules: Vec<_> = self.rules.iter().map(|rule| self.missing(rule).join(" and ")).collect();
        let or = |names: Vec<String>, word, none: &str| {
            let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
            if names.is_empty() { none.to_owned() } else { names.join(word) }
        };
        AuthError::MoreMethods {
            shown: or(self.accepted.clone(), " and ", "what it was shown"),
            wanted: or(rules, ", or ", "another method"),
        }
    }
}

/// `POST` to an OAuth 2.0 endpoint: a grant of client credentials (RFC 6749, section 4.4.2).
pub(super) fn access_token_form(client_id: Option<&str>) -> Bytes {
    let mut form = "grant_type=client_credentials".to_owned();
    if let Some(id) = client_id {
        let _ = write!(form, "&client_id={}", utf8_percent_encode(id, NON_ALPHANUMERIC));
    }
    form.into()
}

/// The access token of a successful answer, and how long it is good, where that is told.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer.
pub(super) fn read_access_token(answer: &Response<Bytes>) -> Result<(TokenId, Option<Duration>), AuthError> {
    let mut document = json_body(answer)?;
    let id = document["access_token"].as_str().and_then(|id| TokenId::new(id.trim()).ok());
    let life = document["expires_in"].as_u64().map(Duration::from_secs);
    secret::wipe(&mut document);
    let id = id.ok_or_else(|| {
        bad_reply("the answer of oauth2_endpoint has no usable `access_token`; is it right?")
    })?;
    if life.is_some_and(|life| life.is_zero()) {
        return Err(bad_reply(
            "the access token of oauth2_endpoint has already expired; is its clock right?",
        ));
    }
    Ok((id, life))
}

/// The text of a token's document without the token itself: what Keystone writes holds it nowhere, but there
/// are services that repeat in an answer whatever went into it.
fn without(document: &mut Value, token: &TokenId) -> Bytes {
    let text = document.to_string();
    // One that is shorter than any real token would be found in anything.
    if token.expose().len() < SHORTEST_ECHO || !secret::is_echoed(&text, token.expose()) {
        return text.into();
    }
    drop(secret::hold(text.into_bytes()));
    remove(document, token.expose());
    document.to_string().into()
}

/// Removes what holds a secret from a document, and wipes it: members of objects and elements of arrays.
fn remove(document: &mut Value, secret: &str) {
    let stays = |value: &mut Value, name: &str| {
        let text = value.as_str().unwrap_or_default();
        let holds = [name, text].iter().any(|text| secret::is_echoed(text, secret));
        if holds {
            secret::wipe(value);
        } else {
            remove(value, secret);
        }
        !holds
    };
    match document {
        Value::Array(items) => items.retain_mut(|item| stays(item, "")),
        Value::Object(members) => members.retain(|name, value| stays(value, name)),
        _ => {}
    }
}

/// What Identity v3 would have said of an Identity v2.0 token: everything is in the default domain.
fn v3_document(access: &Value, read: &Token, expires: Timestamp, issued: Timestamp) -> Value {
    let domain = || json!({ "id": DEFAULT_DOMAIN.0, "name": DEFAULT_DOMAIN.1 });
    let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let user = read.user.clone().unwrap_or_default();
    let audit_ids = &access["token"]["audit_ids"];
    let mut document = json!({
        // That API does not say how; whoever logs in to it has a password, or a token that was got with one.
        "methods": ["password"],
        "user": { "id": user.id, "name": user.name, "domain": domain(), "password_expires_at": null },
        "audit_ids": if audit_ids.is_array() { audit_ids.clone() } else { json!([]) },
        "issued_at": time(issued),
        "expires_at": time(expires),
    });
    if let Some(project) = &read.project {
        document["project"] = json!({ "id": project.id, "name": project.name, "domain": domain() });
        document["is_domain"] = false.into();
        document["roles"] = v3_roles(access);
        document["catalog"] = v3_catalog(&access["serviceCatalog"]);
    }
    document
}

/// The roles of an Identity v2.0 token: names at the user and, in the same order if they are all there, ids in
/// the metadata.
fn v3_roles(access: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (names, ids) = (list(&access["user"]["roles"]), list(&access["metadata"]["roles"]));
    let role = |(index, role): (usize, &Value)| {
        let name = role["name"].as_str()?;
        let id = ids.get(index).filter(|_| ids.len() == names.len()).and_then(Value::as_str);
        Some(json!({ "id": id.or_else(|| role["id"].as_str()).unwrap_or(name), "name": name }))
    };
    names.iter().enumerate().filter_map(role).collect()
}

/// A catalog of Identity v2.0 as v3 writes it: an endpoint for each URL. What has no id gets one that stays the
/// same as long as the catalog does.
fn v3_catalog(catalog: &Value) -> Value {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut services = Vec::new();
    for service in catalog.as_array().into_iter().flatten() {
        let (kind, name) = (text(&service["type"]), text(&service["name"]));
        let mut endpoints = Vec::new();
        for (index, endpoint) in service["endpoints"].as_array().into_iter().flatten().enumerate() {
            let region = Some(&endpoint["region"]).filter(|region| region.is_string());
            let region = region.unwrap_or(&endpoint["region_id"]);
            let own_id = endpoint["id"].as_str().filter(|id| !id.is_empty());
            for interface in [Interface::Public, Interface::Internal, Interface::Admin] {
                let url = &endpoint[format!("{interface}URL")];
                if url.as_str().is_none_or(str::is_empty) {
                    continue;
                }
                let id = match (own_id, interface) {
                    (Some(id), Interface::Public) => id.to_owned(),
                    (Some(id), _) => format!("{id}-{interface}"),
                    (None, _) => format!("{kind}-{name}-{index}-{interface}"),
                };
                endpoints.push(json!({ "id": id, "interface": interface.as_str(), "region": region,
                                       "region_id": region, "url": url }));
            }
        }
        services.push(
            json!({ "id": format!("{kind}-{name}"), "type": kind, "name": name, "endpoints": endpoints }),
        );
    }
    services.into()
}

/// A project that a user may log in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectInfo {
    /// Its id, name, and domain.
    pub project: Named,
    /// What Keystone has to say about it; mostly nothing.
    pub description: String,
    /// Whether it may be used at all.
    pub enabled: bool,
}

/// `GET /v3/auth/projects` or `GET /v2.0/tenants`.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer.
pub fn read_projects(answer: &Response<Bytes>) -> Result<Vec<ProjectInfo>, AuthError> {
    let document = json_body(answer)?;
    let (list, named): (_, fn(&Value, &str) -> Option<Named>) = match &document["projects"] {
        Value::Array(projects) => (Some(projects), named),
        _ => (document["tenants"].as_array(), named_in_v2),
    };
    let list = list.ok_or_else(|| bad_reply("Keystone's list of projects is none"))?;
    let read = |entry: &Value| {
        let enabled = entry["enabled"].as_bool().unwrap_or(true);
        let description = entry["description"].as_str().unwrap_or_default().to_owned();
        Some(ProjectInfo { project: named(entry, "name")?, description, enabled })
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
    let is_self = |link: &&Value| link["rel"].as_str().is_some_and(|rel| rel.eq_ignore_ascii_case("self"));
    let path = links.iter().find(is_self)?["href"].as_str()?.split(['?', '#']).next()?;
    let segment = path.trim_end_matches('/').rsplit('/').next()?;
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
        // An application credential, a token or a trust that Keystone does not know, and says so itself.
        StatusCode::NOT_FOUND if asked == LOGIN && message.is_some() => {
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
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

/// How many redirects of a version document are followed.
pub(super) const MOST_REDIRECTS: usize = 3;

/// The path at `origin` that an answer to a question for `path` there is a redirect to. `None` for no redirect, one to
/// another origin, and one to what is no plain path.
pub(super) fn redirect_path(answer: &Response<Bytes>, origin: &Origin, path: &str) -> Option<String> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers().get(LOCATION)?.to_str().ok()?.trim();
    let whole = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", origin.scheme().as_str())
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else {
        // What stands behind the last slash is what it takes the place of (RFC 3986, section 5.2.3).
        format!("{origin}{}/{location}", path.rsplit_once('/')?.0)
    };
    let url = BaseUrl::parse(&whole).ok()?;
    // A slash at the end is often all that it is about.
    let slash = if whole.ends_with('/') || url.path().is_empty() { "/" } else { "" };
    (url.origin() == origin).then(|| format!("{}{slash}", url.path()))
}

/// Where a redirect leads, as far as it may be shown: the host only.
pub(super) fn redirect_host(headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    match location.parse::<Uri>().ok().and_then(|uri| Some(uri.authority()?.host().to_owned())) {
        Some(host) => format!("host {host}"),
        None if location.is_empty() => "nowhere".to_owned(),
        None => "another path".to_owned(),
    }
}

/// What Keystone says in an error body: short, on one line, and only if none of `secrets` is in it, in
/// whatever form.
pub(super) fn error_message(body: &[u8], secrets: &[&str]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let message = document["error"]["message"].as_str();
    // OAuth 2.0 has words of its own (RFC 6749, section 5.2).
    let message = message.or_else(|| document["error_description"].as_str());
    presentable(message.or_else(|| document["error"].as_str())?, secrets)
}

/// A peer's words, fit for the log: short, on one line, and only if none of `secrets` is in it, in whatever form.
pub(super) fn presentable(message: &str, secrets: &[&str]) -> Option<String> {
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

/// When a token ends and when it was issued, by Keystone's clock.
fn times(
    expires: &Value,
    issued: &Value,
    answer: &Response<Bytes>,
    sent: Sent,
) -> Result<(Timestamp, Timestamp), AuthError> {
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
    Ok((expires, issued))
}

/// A token with this life.
fn living(
    id: TokenId,
    catalog: Catalog,
    expires: Timestamp,
    issued: Timestamp,
    sent: Sent,
) -> Result<Token, AuthError> {
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
        domain_name: value["domain"]["name"].as_str().map(str::to_owned),
    })
}

/// The same in Identity v2.0, all of which v3 shows in the default domain.
fn named_in_v2(value: &Value, name: &str) -> Option<Named> {
    let (id, domain) = DEFAULT_DOMAIN;
    let named = named(value, name)?;
    Some(Named { domain_id: Some(id.to_owned()), domain_name: Some(domain.to_owned()), ..named })
}

pub(super) fn v3_user(user: &User) -> Map<String, Value> {
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
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

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

    fn document(token: &Token) -> Value {
        serde_json::from_slice(token.document.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn what_a_v3_token_is_good_for_is_read() {
        let read = |scope: &str, value: Value| {
            let mut answered = v3_answer();
            let token = answered["token"].as_object_mut().unwrap();
            token.remove("project");
            token.insert(scope.to_owned(), value);
            read_v3_token(&answer(201, &[("X-Subject-Token", "gAAAAABrAgtJ")], answered), sent()).unwrap()
        };
        let domain = read("domain", json!({"id": "d2", "name": "Two"}));
        assert_eq!(domain.domain.as_ref().map(|domain| (&*domain.id, &*domain.name)), Some(("d2", "Two")));
        assert!(domain.project.is_none() && !domain.system);
        assert!(read("system", json!({"all": true})).system);
        let unscoped = read("x", json!(1));
        assert!(unscoped.project.is_none() && unscoped.domain.is_none() && !unscoped.system);
        let answered = answer(201, &[("X-Subject-Token", "gAAAAABrAgtJ")], v3_answer());
        let token = read_v3_token(&answered, sent()).unwrap();
        assert_eq!(token.project.as_ref().unwrap().domain_name.as_deref(), Some("Default"));
        assert_eq!(document(&token), v3_answer()["token"], "as Keystone said it");
    }

    // Promise 74.
    #[test]
    fn a_token_is_nowhere_in_its_document() {
        let id = "gAAAAABrAgtJ05-hunter2";
        let mut v3 = v3_answer();
        let token = &mut v3["token"];
        token["id"] = id.into();
        token[id] = "x".into();
        token["audit_ids"] = json!(["f4NJtv1nTsWpwmnc3pNwLw", format!("was {id}")]);
        token["catalog"][0]["endpoints"][0]["url"] = format!("http://127.0.0.1/?token={id}").into();
        token["user"]["extra"] = STANDARD.encode(format!("x {id}")).into();
        let mut v2 = v2_answer(json!({"id": "ba3a43d4", "name": "demo"}));
        v2["access"]["token"]["id"] = id.into();
        v2["access"]["token"]["audit_ids"] = json!([id]);
        v2["access"]["user"]["name"] = id.into();
        v2["access"]["serviceCatalog"][0]["name"] = id.into();
        let v3 = read_v3_token(&answer(201, &[("X-Subject-Token", id)], v3), sent()).unwrap();
        let v2 = read_v2_token(&answer(200, &[], v2), sent()).unwrap();
        for token in [&v3, &v2] {
            let text = String::from_utf8(token.document.as_ref().unwrap().to_vec()).unwrap();
            assert!(!secret::is_echoed(&text, id) && !text.contains("hunter2"), "{text}");
        }
        let kept = document(&v3);
        assert_eq!(
            (&kept["user"]["name"], &kept["audit_ids"]),
            (&json!("demo"), &json!(["f4NJtv1nTsWpwmnc3pNwLw"]))
        );
        assert_eq!(
            kept["catalog"].as_array().map(Vec::len),
            v3_answer()["token"]["catalog"].as_array().map(Vec::len)
        );
        assert_eq!(document(&v2)["project"]["id"], "ba3a43d4");
    }

    /// Keystone 12 (Pike), with two regions and without some of what it tells.
    fn v2_answer(tenant: Value) -> Value {
        json!({"access": {
            "token": {"id": "gAAAAABrAgtJ05", "issued_at": "2026-11-21T21:21:13.5Z",
                "expires": "2026-11-21T22:21:13Z", "audit_ids": ["x"], "tenant": tenant},
            "serviceCatalog": [
                {"type": "compute", "name": "nova", "endpoints_links": [], "endpoints": [
                    {"id": "e1", "region": "RegionOne", "publicURL": "http://p:8774/v2.1/ba",
                     "internalURL": "http://i:8774/v2.1/ba", "adminURL": "http://a:8774/v2.1/ba"},
                    {"id": "e2", "region": "RegionTwo", "publicURL": "http://p2:8774/v2.1/ba"}]},
                {"type": "image", "name": "glance", "endpoints": [
                    {"region": "RegionOne", "internalURL": "http://i:9292", "publicURL": "http://p:9292", "adminURL": ""},
                    {"region": "RegionTwo", "adminURL": "http://a:9292"}]},
                {"type": "empty", "name": "empty", "endpoints": []}],
            "user": {"id": "09c945c9", "name": "demo", "username": "demo", "roles_links": [],
                "roles": [{"name": "_member_"}, {"name": "member"}]},
            "metadata": {"is_admin": 0, "roles": ["r1", "r2"]}}})
    }

    #[test]
    fn a_v2_tokens_document_is_as_v3_would_have_written_it() {
        let read = |answered: Value| document(&read_v2_token(&answer(200, &[], answered), sent()).unwrap());
        let default = json!({"id": "default", "name": "Default"});
        let endpoint = |id: &str, interface: &str, region: &str, url: &str| json!({"id": id, "interface": interface, "region": region, "region_id": region, "url": url});
        let answered =
            v2_answer(json!({"id": "ba3a43d4", "name": "demo", "enabled": true, "description": null}));
        let expected = json!({
            "methods": ["password"], "audit_ids": ["x"], "is_domain": false,
            "user": {"id": "09c945c9", "name": "demo", "domain": default, "password_expires_at": null},
            "issued_at": "2026-11-21T21:21:13.500000Z", "expires_at": "2026-11-21T22:21:13.000000Z",
            "project": {"id": "ba3a43d4", "name": "demo", "domain": default},
            "roles": [{"id": "r1", "name": "_member_"}, {"id": "r2", "name": "member"}],
            "catalog": [
                {"id": "compute-nova", "type": "compute", "name": "nova", "endpoints": [
                    endpoint("e1", "public", "RegionOne", "http://p:8774/v2.1/ba"),
                    endpoint("e1-internal", "internal", "RegionOne", "http://i:8774/v2.1/ba"),
                    endpoint("e1-admin", "admin", "RegionOne", "http://a:8774/v2.1/ba"),
                    endpoint("e2", "public", "RegionTwo", "http://p2:8774/v2.1/ba")]},
                {"id": "image-glance", "type": "image", "name": "glance", "endpoints": [
                    endpoint("image-glance-0-public", "public", "RegionOne", "http://p:9292"),
                    endpoint("image-glance-0-internal", "internal", "RegionOne", "http://i:9292"),
                    endpoint("image-glance-1-admin", "admin", "RegionTwo", "http://a:9292")]},
                {"id": "empty-empty", "type": "empty", "name": "empty", "endpoints": []}],
        });
        assert_eq!(read(answered.clone()), expected);
        // The same catalog in both shapes.
        let token = read_v2_token(&answer(200, &[], &answered), sent()).unwrap();
        let as_v3 = Catalog::from_v3(&expected["catalog"]);
        assert!(token.catalog.endpoints().eq(as_v3.endpoints()));
        assert_eq!(token.project.unwrap().domain_name.as_deref(), Some("Default"));

        let mut fewer = answered;
        fewer["access"]["metadata"]["roles"] = json!(["r1"]);
        fewer["access"]["token"]["audit_ids"] = Value::Null;
        let fewer = read(fewer);
        assert_eq!(
            fewer["roles"][1],
            json!({"id": "member", "name": "member"}),
            "which id is whose is unknown"
        );
        assert_eq!(fewer["audit_ids"], json!([]));
        let unscoped = read(v2_answer(Value::Null));
        for absent in ["project", "roles", "catalog", "is_domain"] {
            assert!(unscoped.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn projects_and_tenants_are_read() {
        let v3 = json!({"projects": [{"id": "164b", "name": "demo", "domain_id": "default", "description": "",
            "enabled": true, "parent_id": "default", "is_domain": false, "tags": [], "options": {}}, {"x": 1}],
            "links": {"next": null, "self": "http://127.0.0.1:5000/v3/auth/projects", "previous": null}});
        let projects = read_projects(&answer(200, &[], v3)).unwrap();
        assert_eq!(projects.len(), 1);
        assert_eq!(projects[0].project.domain_id.as_deref(), Some("default"));
        let v2 = json!({"tenants_links": [], "tenants": [
            {"description": "A tenant", "enabled": false, "id": "ba3a", "name": "demo"},
            {"description": null, "id": "ba3b", "name": "lab"}]});
        let tenants = read_projects(&answer(200, &[], v2)).unwrap();
        assert_eq!((tenants[0].enabled, &*tenants[0].description), (false, "A tenant"));
        assert_eq!((tenants[1].enabled, &*tenants[1].description), (true, ""));
        assert_eq!(tenants[1].project.domain_id.as_deref(), Some("default"));
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
        let unknown =
            json!({"error": {"code": 404, "message": "Could not find Application Credential: a1."}});
        check_refusal(answer(404, &[], unknown), "rejected the login with 404 (\"Could not find Application");
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
