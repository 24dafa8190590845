//! Who may do what, and where is everything? Keystone, with Identity v3 and v2.0 on one port.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::{Md5, Upload};
use super::reply::{self, Answer, Reply, With, json, keystone_error, ok};
use super::signed::{self, Wrong};
use super::{Caller, Service, Shared, State, microseconds};
use crate::keystone::{Secret, totp};

/// The name of the only user.
pub const USER: &str = "demo";
/// The id of the only user.
pub const USER_ID: &str = "5f2f7d2a4e5c4f6d9b1f0d6c7a8e9b01";
/// The user's password, unless the configuration has another.
pub const PASSWORD: &str = "secret";
/// The name of the user's default project.
pub const PROJECT: &str = "demo";
/// The id of the user's default project.
pub const PROJECT_ID: &str = "8c1d6f0b3a7e4b5c9d2e1f0a6b7c8d02";
/// The name of the user's second project.
pub const OTHER_PROJECT: &str = "other";
/// The id of the user's second project.
pub const OTHER_PROJECT_ID: &str = "3b9e4a7d5c6f4e8b8a1d2c3f4b5e6a03";
/// The name of the only domain.
pub const DOMAIN: &str = "Default";
/// The id of the only domain.
pub const DOMAIN_ID: &str = "default";
/// The id of an application credential for the default project.
pub const APPLICATION_CREDENTIAL_ID: &str = "d4c3b2a190817263544536271809fa04";
/// The name of that application credential.
pub const APPLICATION_CREDENTIAL_NAME: &str = "keyway";
/// Its secret, unless the configuration has another.
pub const APPLICATION_CREDENTIAL_SECRET: &str = "appsecret";

/// The secret of the user's credential of type totp.
pub const TOTP_SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
/// A trust that lets the user into the second project.
pub const TRUST_ID: &str = "7e6d5c4b3a2918070f1e2d3c4b5a6905";

/// How long Keystone still knows a token that is over, for services that ask with `allow_expired`.
const EXPIRED_WINDOW: Duration = Duration::from_secs(3600);

const PROJECTS: [(&str, &str); 2] = [(PROJECT_ID, PROJECT), (OTHER_PROJECT_ID, OTHER_PROJECT)];

/// The tokens that are good, by their ids.
pub(super) type Tokens = HashMap<String, Token>;

#[derive(Clone)]
pub(super) struct Token {
    scope: Scope,
    methods: Vec<String>,
    audit_ids: Vec<String>,
    issued: Timestamp,
    expires: Timestamp,
    /// When it really ends, whatever the clock in the answers says.
    deadline: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Unscoped,
    Project(&'static str),
    Domain,
    System,
    /// A project too, by way of a trust.
    Trust,
}

impl Scope {
    /// The project, if it is one.
    fn project(self) -> Option<&'static str> {
        match self {
            Self::Project(project) => Some(project),
            Self::Trust => Some(OTHER_PROJECT_ID),
            Self::Unscoped | Self::Domain | Self::System => None,
        }
    }
}

/// The user's password, and how often another one was shown.
pub(super) struct Passwords {
    right: String,
    /// Since the right one was shown.
    wrong: u32,
    most_wrong: u32,
    /// So many in a row lock the user out.
    limit: Option<u32>,
}

impl Passwords {
    pub(super) fn new(right: &str) -> Self {
        Self { right: right.to_owned(), wrong: 0, most_wrong: 0, limit: None }
    }

    pub(super) fn change(&mut self, right: &str) {
        right.clone_into(&mut self.right);
    }

    pub(super) fn lock_out_after(&mut self, wrong: u32) {
        self.limit = Some(wrong);
    }

    pub(super) fn most_wrong(&self) -> u32 {
        self.most_wrong
    }

    /// Whether the user gets in. Like Keystone, it counts until the right one comes, however long that takes.
    fn check(&mut self, shown: &Value) -> bool {
        if self.limit.is_some_and(|limit| self.wrong >= limit) {
            return false;
        }
        if *shown == *self.right {
            self.wrong = 0;
            return true;
        }
        self.wrong += 1;
        self.most_wrong = self.most_wrong.max(self.wrong);
        false
    }
}

/// One row of the catalog.
pub(super) struct Endpoint {
    pub(super) kind: &'static str,
    name: &'static str,
    pub(super) region: &'static str,
    pub(super) public: String,
    internal: String,
}

impl Shared {
    /// Where everything is, for one project.
    pub(super) fn endpoints(&self, project: &str) -> Vec<Endpoint> {
        let row = |service, kind, name, region, path: &str| {
            let internal = format!("{}{path}", self.origin(service));
            Endpoint { kind, name, region, public: internal.clone(), internal }
        };
        let mut rows = vec![
            row(Service::Identity, "identity", "keystone", "RegionOne", "/v3"),
            row(Service::Compute, "compute", "nova", "RegionOne", "/v2.1"),
            row(Service::ComputeTwo, "compute", "nova", "RegionTwo", &format!("/v2.1/{project}")),
            row(Service::Image, "image", "glance", "RegionOne", ""),
            row(Service::ImageTwo, "image", "glance", "RegionTwo", ""),
            row(Service::Network, "network", "neutron", "RegionOne", "/"),
            row(Service::Volume, "block-storage", "cinder", "RegionOne", "/v3"),
            row(Service::Volume, "volumev3", "cinderv3", "RegionOne", &format!("/v3/{project}")),
            row(Service::Object, "object-store", "swift", "RegionOne", &format!("/v1/AUTH_{project}")),
            row(Service::Orchestration, "orchestration", "heat", "RegionOne", &format!("/v1/{project}")),
        ];
        // The public URL of RegionTwo's compute has a name for its host, so that the interfaces differ.
        rows[2].public = rows[2].internal.replace("127.0.0.1", "localhost");
        rows
    }

    /// The catalog as it is in a v3 token.
    pub(super) fn catalog(&self, project: &str) -> Value {
        let mut services: Vec<Value> = Vec::new();
        for endpoint in self.endpoints(project) {
            let id =
                |what: &str| Md5::hex(format!("{} {} {what}", endpoint.kind, endpoint.region).as_bytes());
            let interfaces = [
                ("public", &endpoint.public),
                ("internal", &endpoint.internal),
                ("admin", &endpoint.internal),
            ];
            let rows = interfaces.map(|(interface, url)| {
                json!({"id": id(interface), "interface": interface, "region": endpoint.region,
                       "region_id": endpoint.region, "url": url})
            });
            match services.iter_mut().find(|service| service["type"] == endpoint.kind) {
                Some(service) => {
                    service["endpoints"].as_array_mut().into_iter().for_each(|all| all.extend(rows.clone()))
                }
                None => services.push(json!({"type": endpoint.kind, "name": endpoint.name,
                                             "id": id("service"), "endpoints": rows})),
            }
        }
        services.into()
    }

    fn catalog_of(&self, scope: Scope) -> Option<Value> {
        let catalog = self.state().catalog.clone();
        match (scope, catalog) {
            (Scope::Unscoped, _) => None,
            (_, Some(catalog)) => Some(catalog).filter(|catalog| !catalog.is_null()),
            (Scope::Project(_) | Scope::Trust, None) => scope.project().map(|project| self.catalog(project)),
            // Without a project nova and the others that want one in their URL are left out.
            (Scope::Domain | Scope::System, None) => {
                let mut catalog = self.catalog(PROJECT_ID);
                for service in catalog.as_array_mut()? {
                    service["endpoints"].as_array_mut()?.retain(|endpoint| {
                        !endpoint["url"].as_str().is_some_and(|url| url.contains(PROJECT_ID))
                    });
                }
                Some(catalog)
            }
        }
    }

    /// Whom the request's token belongs to, if there is exactly one and it is good.
    pub(super) fn caller(&self, call: &Call) -> Option<Caller> {
        let mut ids = call.headers.get_all("x-auth-token").iter();
        let id = match (ids.next(), ids.next()) {
            (Some(id), None) => id,
            // Old clients of object storage.
            (None, None) => call.headers.get("x-storage-token")?,
            _ => return None,
        };
        let state = self.state();
        if let Some(service_token) = call.headers.get("x-service-token") {
            state.token(service_token.to_str().ok()?)?;
        }
        Some(Caller { project: state.token(id.to_str().ok()?)?.scope.project() })
    }
}

impl State {
    pub(super) fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.get(id).filter(|token| token.deadline > Instant::now())
    }

    /// The projects in which the user has a role.
    fn projects(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        PROJECTS.iter().filter(|(id, _)| !self.roleless.iter().any(|roleless| roleless == id))
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() + self.clock_skew
    }

    /// Makes a token and remembers it. One that is made from another ends when that one does.
    fn issue(&mut self, scope: Scope, methods: Vec<String>, origin: Option<&Token>) -> (String, Token) {
        let issued = self.now();
        let mut audit_ids = vec![random_id(16)];
        let (expires, deadline) = match origin {
            Some(origin) => {
                audit_ids.extend(origin.audit_ids.last().cloned());
                (origin.expires, origin.deadline)
            }
            None => (issued + self.token_ttl, Instant::now() + self.token_ttl),
        };
        let token = Token { scope, methods, audit_ids, issued, expires, deadline };
        let id = fernet(issued);
        self.tokens.retain(|_, token| token.deadline + EXPIRED_WINDOW > Instant::now());
        self.tokens.insert(id.clone(), token.clone());
        self.tokens_issued += 1;
        (id, token)
    }
}

fn random_id(length: usize) -> String {
    URL_SAFE_NO_PAD.encode((0..length).map(|_| fastrand::u8(..)).collect::<Vec<_>>())
}

/// What a Fernet token looks like: version, time, and bytes that mean nothing without the key.
fn fernet(time: Timestamp) -> String {
    let mut bytes = vec![0x80];
    bytes.extend(time.as_second().to_be_bytes());
    bytes.extend((0..128).map(|_| fastrand::u8(..)));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether the request asks for a new token.
pub(super) fn is_login(call: &Call) -> bool {
    call.method == Method::POST && matches!(call.parts()[..], ["v3", "auth", "tokens"] | ["v2.0", "tokens"])
}

pub(super) async fn serve(
    cloud: &Shared,
    call: &Call,
    caller: Option<Caller>,
    body: &mut Upload,
    refuses: bool,
) -> Reply {
    let parts = call.parts();
    let answer = match (call.method.as_str(), &parts[..]) {
        ("GET" | "HEAD", []) => {
            let versions = json!({"versions": {"values": [v3_document(call), v2_document(call)]}});
            let location = format!("{}/v3/", call.base);
            Ok(json(StatusCode::MULTIPLE_CHOICES, &versions).with("location", location))
        }
        ("GET" | "HEAD", ["v3"]) => Ok(ok(&json!({"version": v3_document(call)}))),
        ("GET" | "HEAD", ["v2.0"]) => Ok(ok(&json!({"version": v2_document(call)}))),
        ("POST", ["v3", "auth", "tokens"] | ["v2.0", "tokens"]) if refuses => Err(unauthorized()),
        ("POST", ["v3", "auth", "tokens"]) => login_v3(cloud, call, body.json().await),
        ("POST", ["v2.0", "tokens"]) => login_v2(cloud, body.json().await),
        ("POST", ["v3", "OS-OAUTH2", "token"]) => access_token(cloud, call, body.whole().await),
        (_, ["v3" | "v2.0", _, ..]) if caller.is_none() => Err(unauthorized()),
        (method, ["v3", "auth", "tokens"]) => subject(cloud, call, method),
        // Only an administrator may look at tokens there, and this user is none.
        ("GET" | "HEAD" | "DELETE", ["v2.0", "tokens", _]) => Err(forbidden("admin_required")),
        ("GET" | "HEAD", ["v2.0", "tenants"]) => {
            let tenants: Vec<_> = cloud.state().projects().map(|(id, name)| tenant(id, name)).collect();
            Ok(ok(&json!({"tenants": tenants, "tenants_links": []})))
        }
        ("GET" | "HEAD", ["v3", "auth", "catalog"]) => catalog(cloud, call, caller),
        ("GET" | "HEAD", ["v3", "users", id, "projects"]) if *id != USER_ID => {
            Err(forbidden("identity:list_user_projects"))
        }
        (
            "GET" | "HEAD",
            ["v3", "auth", "projects"] | ["v3", "projects"] | ["v3", "users", _, "projects"],
        ) => {
            let projects = cloud.state().projects().map(|(id, name)| project(call, id, name)).collect();
            list(call, "projects", projects)
        }
        ("GET" | "HEAD", ["v3", "projects", id]) => match PROJECTS.iter().find(|(known, _)| known == id) {
            Some((id, name)) => Ok(ok(&json!({"project": project(call, id, name)}))),
            None => Err(not_found("project", id)),
        },
        ("GET" | "HEAD", ["v3", "auth", "domains"] | ["v3", "domains"]) => {
            list(call, "domains", vec![domain(call)])
        }
        ("GET" | "HEAD", ["v3", "domains", DOMAIN_ID]) => Ok(ok(&json!({"domain": domain(call)}))),
        ("GET" | "HEAD", ["v3", "domains", id]) => Err(not_found("domain", id)),
        ("GET" | "HEAD", ["v3", "auth", "system"]) => {
            let links = json!({"self": format!("{}/v3/auth/system", call.base)});
            Ok(ok(&json!({"system": [{"all": true}], "links": links})))
        }
        ("GET" | "HEAD", ["v3", "users"]) => list(call, "users", vec![user(call)]),
        ("GET" | "HEAD", ["v3", "users", USER_ID]) => Ok(ok(&json!({"user": user(call)}))),
        ("GET" | "HEAD", ["v3", "users", id]) => Err(not_found("user", id)),
        _ => Ok(reply::reply(
            StatusCode::NOT_FOUND,
            "text/html; charset=utf-8",
            "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The \
             requested URL was not found on the server. If you entered the URL manually please check your \
             spelling and try again.</p>\n",
        )),
    };
    let reply = answer.unwrap_or_else(|error| *error);
    if reply.status() == StatusCode::UNAUTHORIZED {
        let version = if parts.first() == Some(&"v3") { "/v3" } else { "" };
        return reply.with("www-authenticate", format_args!("Keystone uri=\"{}{version}\"", call.base));
    }
    reply
}

fn v3_document(call: &Call) -> Value {
    document(call, "v3.14", "stable", "v3")
}

fn v2_document(call: &Call) -> Value {
    document(call, "v2.0", "deprecated", "v2.0")
}

fn document(call: &Call, id: &str, status: &str, path: &str) -> Value {
    let media_type = format!("application/vnd.openstack.identity-{path}+json");
    json!({"id": id, "status": status, "updated": "2020-04-07T00:00:00Z",
           "links": [{"rel": "self", "href": format!("{}/{path}/", call.base)}],
           "media-types": [{"base": "application/json", "type": media_type}]})
}

/// A list, in pages where there is a `limit`.
fn list(call: &Call, name: &str, items: Vec<Value>) -> Answer {
    let page = call.paginate(items, usize::MAX).map_err(|marker| not_found("marker", &marker))?;
    let next = page.next.map(|next| format!("{}{next}", call.base));
    let links = json!({"self": format!("{}{}", call.base, call.path), "next": next, "previous": null});
    Ok(ok(&json!({name: page.items, "links": links})))
}

fn user(call: &Call) -> Value {
    json!({"id": USER_ID, "name": USER, "domain_id": DOMAIN_ID, "enabled": true, "options": {},
           "password_expires_at": null, "default_project_id": PROJECT_ID,
           "links": {"self": format!("{}/v3/users/{USER_ID}", call.base)}})
}

fn domain(call: &Call) -> Value {
    json!({"id": DOMAIN_ID, "name": DOMAIN, "description": "The default domain", "enabled": true, "tags": [],
           "options": {}, "links": {"self": format!("{}/v3/domains/{DOMAIN_ID}", call.base)}})
}

fn project(call: &Call, id: &str, name: &str) -> Value {
    json!({"id": id, "name": name, "domain_id": DOMAIN_ID, "parent_id": DOMAIN_ID, "description": format!("Project {name}"),
           "enabled": true, "is_domain": false, "tags": [], "options": {},
           "links": {"self": format!("{}/v3/projects/{id}", call.base)}})
}

fn tenant(id: &str, name: &str) -> Value {
    json!({"id": id, "name": name, "description": format!("Project {name}"), "enabled": true})
}

fn unauthorized() -> Box<Reply> {
    let message = "The request you have made requires authentication.";
    Box::new(keystone_error(StatusCode::UNAUTHORIZED, message))
}

fn forbidden(action: &str) -> Box<Reply> {
    let message = format!("You are not authorized to perform the requested action: {action}.");
    Box::new(keystone_error(StatusCode::FORBIDDEN, &message))
}

fn not_found(what: &str, id: &str) -> Box<Reply> {
    Box::new(keystone_error(StatusCode::NOT_FOUND, &format!("Could not find {what}: {id}.")))
}

fn missing(what: &str, place: &str) -> Box<Reply> {
    bad_request(&format!("Expecting to find {what} in {place}."))
}

fn bad_request(message: &str) -> Box<Reply> {
    let message = format!(
        "{message} The server could not comply with the request since it is either malformed or otherwise \
         incorrect. The client is assumed to be in error."
    );
    Box::new(keystone_error(StatusCode::BAD_REQUEST, &message))
}

fn unrecognized() -> Box<Reply> {
    Box::new(keystone_error(StatusCode::NOT_FOUND, "Could not recognize Fernet token"))
}

fn login_v3(cloud: &Shared, call: &Call, body: Option<Value>) -> Answer {
    let body = body.ok_or_else(|| missing("valid JSON", "request body"))?;
    let auth = body.get("auth").ok_or_else(|| missing("auth", "request body"))?;
    let identity = auth.get("identity").ok_or_else(|| missing("identity", "auth"))?;
    let methods = identity["methods"].as_array().ok_or_else(|| missing("methods", "identity"))?;

    let mut state = cloud.state();
    let mut origin = None;
    let mut names = Vec::new();
    for method in methods {
        let name = method.as_str().unwrap_or_default();
        let given = identity.get(name).ok_or_else(|| missing(name, "identity"))?;
        match name {
            "password" => check_user(&mut state, &given["user"])?,
            "token" => {
                let id = given["id"].as_str().ok_or_else(|| missing("id", "token"))?;
                let token = state.token(id).ok_or_else(unrecognized)?.clone();
                let signed = token.methods.iter().any(|method| method == "oauth1");
                if token.scope == Scope::Trust || signed {
                    return Err(forbidden("Using trust-scoped token to create another token"));
                }
                names.extend(token.methods.clone());
                origin = Some(token);
            }
            "totp" => {
                let user = &given["user"];
                check_user_name(user)?;
                let passcode = user["passcode"].as_str().unwrap_or_default().to_owned();
                let now = std::time::SystemTime::from(state.now());
                let good = [now, now - Duration::from_secs(30)].into_iter().any(|time| {
                    totp::code(&Secret::new(TOTP_SECRET), time).is_some_and(|code| code.expose() == passcode)
                });
                // Stricter than Keystone, which forgets what was used.
                if !good || state.passcodes.contains(&passcode) {
                    return Err(unauthorized());
                }
                state.passcodes.push(passcode);
            }
            "application_credential" => {
                check_application_credential(cloud, given, auth.get("scope").is_some())?;
            }
            "oauth1" => check_signature(&mut state, call)?,
            _ => return Err(unauthorized()),
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        return Err(unauthorized());
    }
    let bound = |origin: &Token| origin.methods.iter().any(|method| method == "application_credential");
    if origin.as_ref().is_some_and(bound) && auth.get("scope").is_some() {
        return Err(no_scope_to_ask_for());
    }
    let scope = match auth.get("scope") {
        // Whatever scope is asked for: as with Keystone, that of the access token counts.
        _ if names.iter().any(|name| name == "oauth1") => Scope::Project(OTHER_PROJECT_ID),
        Some(scope) => scope_v3(&state, scope)?,
        None => Scope::Project(PROJECT_ID),
    };
    if let Some(receipt) = call.header("openstack-auth-receipt") {
        let accepted = state.receipts.remove(receipt).ok_or_else(unauthorized)?;
        names.extend(accepted.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
    }
    if !state.rules.is_empty() && !state.rules.iter().any(|rule| rule.iter().all(|name| names.contains(name)))
    {
        return Ok(receipt(&mut state, names));
    }
    let (id, token) = state.issue(scope, names, origin.as_ref());
    drop(state);
    let body = token_v3(cloud, &token, call.parameter("nocatalog").is_none());
    Ok(json(StatusCode::CREATED, &body).with("x-subject-token", id))
}

fn is_default_domain(domain: &Value) -> bool {
    domain["id"] == DOMAIN_ID || domain["name"] == DOMAIN
}

/// Keystone's answer to a login that is right, and not enough.
fn receipt(state: &mut State, methods: Vec<String>) -> Reply {
    let issued = state.now();
    let id = fernet(issued);
    let body = json!({
        "receipt": {
            "methods": methods,
            "user": {"id": USER_ID, "name": USER, "domain": {"id": DOMAIN_ID, "name": DOMAIN}},
            "issued_at": format!("{}Z", microseconds(issued)),
            "expires_at": format!("{}Z", microseconds(issued + Duration::from_secs(300))),
        },
        "required_auth_methods": state.rules,
    });
    state.receipts.insert(id.clone(), methods);
    json(StatusCode::UNAUTHORIZED, &body).with("openstack-auth-receipt", id)
}

/// `POST /v3/OS-OAUTH2/token`: an access token for an application credential, which is a token like any other.
fn access_token(cloud: &Shared, call: &Call, form: Option<Vec<u8>>) -> Answer {
    let failed = || {
        let body = json!({"error": "invalid_client", "error_description": "Client authentication failed."});
        Box::new(json(StatusCode::UNAUTHORIZED, &body))
    };
    if form.as_deref() != Some(b"grant_type=client_credentials") {
        let body =
            json!({"error": "invalid_request", "error_description": "The parameter grant_type is required."});
        return Ok(json(StatusCode::BAD_REQUEST, &body));
    }
    let shown =
        call.header("authorization").and_then(|shown| shown.strip_prefix("Basic ")).ok_or_else(failed)?;
    let secret = &cloud.config.application_credential_secret;
    if STANDARD.decode(shown).ok() != Some(format!("{APPLICATION_CREDENTIAL_ID}:{secret}").into_bytes()) {
        return Err(failed());
    }
    let mut state = cloud.state();
    let methods = vec!["application_credential".to_owned()];
    let (id, _) = state.issue(Scope::Project(PROJECT_ID), methods, None);
    let life = state.token_ttl.as_secs();
    Ok(ok(&json!({"access_token": id, "token_type": "Bearer", "expires_in": life})))
}

fn check_signature(state: &mut State, call: &Call) -> Result<(), Box<Reply>> {
    let now = std::time::SystemTime::from(state.now());
    let Some(nonces) = &mut state.nonces else { return Err(not_found("Access Token", signed::ACCESS_KEY)) };
    signed::check(call, now, nonces).map_err(|wrong| match wrong {
        Wrong::Unknown(key) => not_found("Access Token", &key),
        Wrong::Refused => {
            Box::new(keystone_error(StatusCode::UNAUTHORIZED, "Could not validate the access token"))
        }
    })
}

fn check_user(state: &mut State, user: &Value) -> Result<(), Box<Reply>> {
    check_user_name(user)?;
    if state.passwords.check(&user["password"]) { Ok(()) } else { Err(unauthorized()) }
}

fn check_user_name(user: &Value) -> Result<(), Box<Reply>> {
    let known = match (user.get("id"), user.get("name"), user.get("domain")) {
        (Some(id), _, _) => id == USER_ID,
        (None, Some(name), Some(domain)) => name == USER && is_default_domain(domain),
        (None, Some(_), None) => return Err(missing("domain", "user")),
        (None, None, _) => return Err(missing("id or name", "user")),
    };
    if known { Ok(()) } else { Err(unauthorized()) }
}

fn check_application_credential(cloud: &Shared, given: &Value, has_scope: bool) -> Result<(), Box<Reply>> {
    if has_scope {
        return Err(no_scope_to_ask_for());
    }
    let user = &given["user"];
    let known = match given.get("id") {
        Some(id) => id == APPLICATION_CREDENTIAL_ID,
        None => {
            let is_user = user["id"] == USER_ID || user["name"] == USER && is_default_domain(&user["domain"]);
            given["name"] == APPLICATION_CREDENTIAL_NAME && is_user
        }
    };
    if known && given["secret"] == cloud.config.application_credential_secret {
        Ok(())
    } else {
        Err(unauthorized())
    }
}

fn no_scope_to_ask_for() -> Box<Reply> {
    let message = "Error authenticating with application credential: Application credentials cannot request a \
                   scope.";
    Box::new(keystone_error(StatusCode::UNAUTHORIZED, message))
}

fn scope_v3(state: &State, scope: &Value) -> Result<Scope, Box<Reply>> {
    if scope == "unscoped" || scope.get("unscoped").is_some() {
        return Ok(Scope::Unscoped);
    }
    if ["project", "domain", "system", "OS-TRUST:trust"]
        .iter()
        .filter(|kind| scope.get(kind).is_some())
        .count()
        > 1
    {
        return Err(missing("exactly one scope", "scope"));
    }
    if let Some(project) = scope.get("project") {
        let by_name = project.get("id").is_none();
        if by_name && project.get("domain").is_none() {
            return Err(missing("domain", "project"));
        }
        return state
            .projects()
            .find(|(id, name)| {
                if by_name {
                    project["name"] == *name && is_default_domain(&project["domain"])
                } else {
                    project["id"] == *id
                }
            })
            .map(|(id, _)| Scope::Project(id))
            .ok_or_else(unauthorized);
    }
    if let Some(domain) = scope.get("domain") {
        return if is_default_domain(domain) { Ok(Scope::Domain) } else { Err(unauthorized()) };
    }
    if scope["system"]["all"] == true {
        return Ok(Scope::System);
    }
    if scope["OS-TRUST:trust"]["id"] == TRUST_ID {
        return Ok(Scope::Trust);
    }
    Err(unauthorized())
}

/// The body of a v3 token.
fn token_v3(cloud: &Shared, token: &Token, with_catalog: bool) -> Value {
    let domain = json!({"id": DOMAIN_ID, "name": DOMAIN});
    let mut body = json!({
        "methods": token.methods,
        "user": {"id": USER_ID, "name": USER, "domain": domain, "password_expires_at": null},
        "audit_ids": token.audit_ids,
        "issued_at": format!("{}Z", microseconds(token.issued)),
        "expires_at": format!("{}Z", microseconds(token.expires)),
    });
    if token.scope == Scope::Trust {
        body["OS-TRUST:trust"] = json!({"id": TRUST_ID, "impersonation": false,
            "trustor_user": {"id": Md5::hex(b"trustor")}, "trustee_user": {"id": USER_ID}});
    }
    match token.scope {
        Scope::Unscoped => {}
        Scope::Project(_) | Scope::Trust => {
            let id = token.scope.project();
            let name = PROJECTS.iter().find(|(known, _)| Some(*known) == id).map(|(_, name)| name);
            body["project"] = json!({"id": id, "name": name, "domain": domain});
            body["is_domain"] = false.into();
        }
        Scope::Domain => body["domain"] = domain,
        Scope::System => body["system"] = json!({"all": true}),
    }
    if token.scope != Scope::Unscoped {
        let role = |name: &str| json!({"id": Md5::hex(name.as_bytes()), "name": name});
        body["roles"] = json!([role("member"), role("reader")]);
    }
    if token.methods.iter().any(|method| method == "application_credential") {
        body["application_credential"] = json!({"id": APPLICATION_CREDENTIAL_ID,
            "name": APPLICATION_CREDENTIAL_NAME, "restricted": true});
    }
    if let Some(catalog) = cloud.catalog_of(token.scope).filter(|_| with_catalog) {
        body["catalog"] = catalog;
    }
    json!({"token": body})
}

/// `GET`, `HEAD`, `DELETE /v3/auth/tokens`: about the token in `X-Subject-Token`.
fn subject(cloud: &Shared, call: &Call, method: &str) -> Answer {
    let id = call.header("x-subject-token").ok_or_else(|| forbidden("identity:validate_token"))?;
    let allow_expired = call.parameter("allow_expired").is_some_and(|value| value != "0");
    let known = {
        let state = cloud.state();
        if allow_expired { state.tokens.get(id).cloned() } else { state.token(id).cloned() }
    };
    let token = known.ok_or_else(unrecognized)?;
    match method {
        "GET" | "HEAD" => {
            let body = token_v3(cloud, &token, call.parameter("nocatalog").is_none());
            Ok(ok(&body).with("x-subject-token", id))
        }
        "DELETE" => {
            cloud.state().tokens.remove(id);
            Ok(reply::empty(StatusCode::NO_CONTENT))
        }
        _ => Ok(keystone_error(StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed.")),
    }
}

fn catalog(cloud: &Shared, call: &Call, caller: Option<Caller>) -> Answer {
    let project = caller.and_then(|caller| caller.project);
    let project = project.ok_or_else(|| forbidden("identity:get_auth_catalog"))?;
    let catalog = cloud.catalog_of(Scope::Project(project)).unwrap_or_else(|| json!([]));
    Ok(ok(&json!({"catalog": catalog, "links": {"self": format!("{}/v3/auth/catalog", call.base)}})))
}

/// Identity v2.0. Keystone of 2017 took `tenantName` and `tenantId` at once; a client that sends both
/// has misread its configuration, so this one says no.
fn login_v2(cloud: &Shared, body: Option<Value>) -> Answer {
    let body = body.ok_or_else(|| missing("valid JSON", "request body"))?;
    let auth = &body["auth"];
    let mut state = cloud.state();
    let mut origin = None;
    let mut methods = vec!["password".to_owned()];
    if let Some(given) = auth.get("passwordCredentials") {
        let known = match given.get("userId") {
            Some(id) => id == USER_ID,
            None => given["username"] == USER,
        };
        if !known || !state.passwords.check(&given["password"]) {
            return Err(unauthorized());
        }
    } else if let Some(given) = auth.get("token") {
        let id = given["id"].as_str().ok_or_else(|| missing("id", "token"))?;
        let token = state.token(id).ok_or_else(unauthorized)?.clone();
        methods.clone_from(&token.methods);
        methods.push("token".to_owned());
        origin = Some(token);
    } else {
        return Err(missing("auth", "request body"));
    }
    let find = |by: fn(&(&'static str, &'static str)) -> &'static str, wanted: &Value| {
        state.projects().find(|project| wanted == by(project)).ok_or_else(unauthorized)
    };
    let found = match (auth.get("tenantName"), auth.get("tenantId")) {
        (Some(_), Some(_)) => return Err(bad_request("Both tenantName and tenantId are given.")),
        (Some(name), None) => Some(find(|project| project.1, name)?),
        (None, Some(id)) => Some(find(|project| project.0, id)?),
        (None, None) => None,
    };
    let scope = found.map_or(Scope::Unscoped, |(id, _)| Scope::Project(id));
    let (id, token) = state.issue(scope, methods, origin.as_ref());
    drop(state);
    let mut answer = json!({
        "id": id,
        "issued_at": format!("{}Z", microseconds(token.issued)),
        "expires": format!("{}Z", microseconds(token.expires)),
        "audit_ids": token.audit_ids,
    });
    let (mut roles, mut role_ids) = (json!([]), json!([]));
    if let Some((id, name)) = found {
        answer["tenant"] = tenant(id, name);
        roles = json!([{"name": "_member_"}, {"name": "member"}]);
        role_ids = json!(["9fe2ff9ee4384b1894a90878d3e92bab", Md5::hex(b"member")]);
    }
    let catalog = cloud.catalog_of(scope).map_or_else(|| json!([]), |catalog| catalog_v2(cloud, &catalog));
    let user = json!({"id": USER_ID, "name": USER, "username": USER, "roles": roles, "roles_links": []});
    Ok(ok(&json!({"access": {"token": answer, "serviceCatalog": catalog, "user": user,
                             "metadata": {"is_admin": 0, "roles": role_ids}}})))
}

/// The same catalog in the shape of v2.0: one entry for each region, with all its interfaces.
fn catalog_v2(cloud: &Shared, catalog: &Value) -> Value {
    let root = cloud.origin(Service::Identity);
    let mut services = Vec::new();
    for service in catalog.as_array().into_iter().flatten() {
        let mut regions: Vec<Value> = Vec::new();
        for endpoint in service["endpoints"].as_array().into_iter().flatten() {
            let key = format!("{}URL", endpoint["interface"].as_str().unwrap_or_default());
            let url = match endpoint["url"].as_str() {
                Some(url) if service["type"] == "identity" && url.starts_with(&root) => {
                    format!("{root}/v2.0").into()
                }
                _ => endpoint["url"].clone(),
            };
            match regions.iter_mut().find(|region| region["region"] == endpoint["region"]) {
                Some(region) => region[key] = url,
                None => regions.push(json!({"id": endpoint["id"], "region": endpoint["region"], key: url})),
            }
        }
        services.push(json!({"type": service["type"], "name": service["name"], "endpoints": regions,
                             "endpoints_links": []}));
    }
    services.into()
}
