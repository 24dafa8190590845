//! Who logs in, with what, and for what? The bodies that clients send, of Identity v3 and v2.0, and the
//! fields of Swift's v1.
//!
//! What is missing or of the wrong kind is refused as Keystone would, with what is wrong. Whether the
//! credentials are any good is not asked here.

use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::Refusal;
use super::documents::Version;
use crate::keystone::{Domain, Project, Scope, Secret};
use crate::secret;

/// More than any client sends.
const METHODS: usize = 8;
const LONGEST_METHOD: usize = 32;

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// How: `password`, `token`, ... Each once, never empty.
    pub methods: Vec<String>,
    /// With what; one for each method.
    pub proofs: Vec<Proof>,
    /// For what.
    pub wanted: Wanted,
}

/// What a client shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A user, or an application credential, and its secret.
    Secret {
        /// The id or name that it goes by.
        name: String,
        /// The password.
        secret: Secret,
    },
    /// A token.
    Token(Secret),
    /// Something that keyway can't check.
    Other,
}

/// What a client wants the token to be good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever there is: nothing was asked for.
    Default,
    /// This very scope; never [`Scope::Default`].
    Exactly(Scope),
    /// A project of the user's, by id or by a name that belongs to no domain.
    Project(String),
    /// What a trust is for, by its id.
    Trust(String),
}

/// Reads the body of a login by `version`.
///
/// # Errors
/// 400: what is wrong with it.
pub fn read(body: &[u8], version: Version) -> Result<Login, Refusal> {
    // The parser's own words may quote the body.
    let mut document: Value = serde_json::from_slice(body)
        .map_err(|error| bad(format!("The request body is not JSON (line {}).", error.line())))?;
    let login = read_document(&document, version);
    secret::wipe(&mut document);
    login
}

fn read_document(document: &Value, version: Version) -> Result<Login, Refusal> {
    let document = document.as_object().ok_or_else(|| bad("The request body must be a JSON object."))?;
    let auth = object(document, "auth", "request body")?;
    let of_v2 = ["passwordCredentials", "tenantName", "tenantId", "token", "trust_id"];
    let is_v2 = of_v2.iter().any(|member| auth.contains_key(*member));
    let is_v3 = auth.contains_key("identity") || auth.contains_key("scope");
    match version {
        _ if is_v2 && is_v3 => {
            Err(bad("The request body is a login by Identity v3 and by v2.0 at once; send one of them."))
        }
        Version::V3 if is_v2 => Err(bad("This is a login by Identity v2.0; POST it to /v2.0/tokens.")),
        Version::V2 if is_v3 => Err(bad("This is a login by Identity v3; POST it to /v3/auth/tokens.")),
        Version::V3 => read_v3(auth),
        Version::V2 => read_v2(auth),
    }
}

fn read_v3(auth: &Map<String, Value>) -> Result<Login, Refusal> {
    let identity = object(auth, "identity", "auth")?;
    let names = identity.get("methods").ok_or_else(|| missing("methods", "identity"))?;
    let names = names.as_array().ok_or_else(|| bad("`methods` must be a list of names."))?;
    let (mut methods, mut proofs) = (Vec::new(), Vec::new());
    for name in names {
        let name = name.as_str().filter(|name| is_method(name));
        let name = name.ok_or_else(|| bad("`methods` holds something that is no method's name."))?;
        if methods.iter().any(|known| known == name) {
            continue;
        }
        if methods.len() == METHODS {
            return Err(bad(format!("`methods` names more than {METHODS} methods.")));
        }
        let given = object(identity, name, "identity")?;
        proofs.push(match name {
            "password" => {
                let user = object(given, "user", "password")?;
                let secret = text(user, "password", "user")?;
                Proof::Secret { name: id_or_name(user, "user")?, secret: Secret::new(secret) }
            }
            "application_credential" => {
                let secret = text(given, "secret", name)?;
                Proof::Secret { name: id_or_name(given, name)?, secret: Secret::new(secret) }
            }
            "token" => Proof::Token(Secret::new(text(given, "id", "token")?)),
            _ => Proof::Other,
        });
        methods.push(name.to_owned());
    }
    if methods.is_empty() {
        return Err(bad("`methods` is empty; name the methods that you log in with."));
    }
    let wanted = match auth.get("scope") {
        None | Some(Value::Null) => Wanted::Default,
        Some(scope) => scope_v3(scope)?,
    };
    Ok(Login { methods, proofs, wanted })
}

fn scope_v3(scope: &Value) -> Result<Wanted, Refusal> {
    if scope == "unscoped" {
        return Ok(Wanted::Exactly(Scope::Unscoped));
    }
    let scope = scope.as_object().ok_or_else(|| bad("`scope` must be an object, or \"unscoped\"."))?;
    let known = ["project", "domain", "system", "OS-TRUST:trust", "unscoped"];
    let asked: Vec<_> = known.into_iter().filter(|kind| scope.contains_key(*kind)).collect();
    let [kind] = asked[..] else {
        return Err(bad(
            "`scope` must name one of project, domain, system, OS-TRUST:trust or unscoped, and only one.",
        ));
    };
    if kind == "unscoped" {
        return Ok(Wanted::Exactly(Scope::Unscoped));
    }
    let asked = object(scope, kind, "scope")?;
    Ok(Wanted::Exactly(match kind {
        "project" => Scope::Project(match optional(asked, "id", kind)? {
            Some(id) => Project::Id(id),
            None => {
                let name = text(asked, "name", kind)?;
                let domain = Some(domain(object(asked, "domain", kind)?)?);
                Project::Name { name, domain }
            }
        }),
        "domain" => Scope::Domain(domain(asked)?),
        "system" if asked.get("all") == Some(&Value::Bool(true)) => Scope::System,
        "system" => return Err(bad("`system` must be {\"all\": true}.")),
        _ => return Ok(Wanted::Trust(text(asked, "id", kind)?)),
    }))
}

fn domain(domain: &Map<String, Value>) -> Result<Domain, Refusal> {
    Ok(match optional(domain, "id", "domain")? {
        Some(id) => Domain::Id(id),
        None => Domain::Name(text(domain, "name", "domain")?),
    })
}

fn read_v2(auth: &Map<String, Value>) -> Result<Login, Refusal> {
    let given = |name| auth.get(name).filter(|given| !given.is_null());
    let (method, proof) = match (given("passwordCredentials"), given("token")) {
        (Some(_), Some(_)) => {
            return Err(bad("`auth` has passwordCredentials and a token; send one of them."));
        }
        (Some(_), None) => {
            let user = object(auth, "passwordCredentials", "auth")?;
            let place = "passwordCredentials";
            let (id, name) = (optional(user, "userId", place)?, optional(user, "username", place)?);
            let name = id.or(name).ok_or_else(|| missing("username or userId", place))?;
            ("password", Proof::Secret { name, secret: Secret::new(text(user, "password", place)?) })
        }
        (None, Some(_)) => {
            let token = object(auth, "token", "auth")?;
            ("token", Proof::Token(Secret::new(text(token, "id", "token")?)))
        }
        (None, None) => return Err(missing("passwordCredentials or token", "auth")),
    };
    // Old clients send an empty name for none.
    let tenant = |name| match auth.get(name).and_then(Value::as_str) {
        Some("") => Ok(None),
        _ => optional(auth, name, "auth"),
    };
    let wanted = match (tenant("trust_id")?, tenant("tenantId")?, tenant("tenantName")?) {
        (Some(trust), _, _) => Wanted::Trust(trust),
        (None, Some(_), Some(_)) => {
            return Err(bad("`auth` has a tenantId and a tenantName; send one of them."));
        }
        (None, Some(id), None) => Wanted::Exactly(Scope::Project(Project::Id(id))),
        (None, None, Some(name)) => Wanted::Project(name),
        (None, None, None) => Wanted::Default,
    };
    Ok(Login { methods: vec![method.to_owned()], proofs: vec![proof], wanted })
}

/// Reads the fields of a login by Swift's v1: `X-Auth-User: PROJECT:USER`, or `USER` alone for the cloud's
/// default project, and `X-Auth-Key`; or their older names.
///
/// # Errors
/// 401 when there are none.
pub fn read_swift(headers: &HeaderMap) -> Result<Login, Refusal> {
    let field = |names: [&str; 2]| names.iter().find_map(|name| headers.get(*name)?.to_str().ok());
    let user = field(["x-auth-user", "x-storage-user"]).filter(|user| !user.is_empty());
    let key = field(["x-auth-key", "x-storage-pass"]);
    let (Some(user), Some(key)) = (user, key) else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "Send X-Auth-User, which is USER or PROJECT:USER, and X-Auth-Key.",
        ));
    };
    let (project, user) = user.split_once(':').unwrap_or(("", user));
    let wanted = if project.is_empty() { Wanted::Default } else { Wanted::Project(project.to_owned()) };
    let proof = Proof::Secret { name: user.to_owned(), secret: Secret::new(key) };
    Ok(Login { methods: vec!["password".to_owned()], proofs: vec![proof], wanted })
}

fn is_method(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.len() <= LONGEST_METHOD && name != "methods" && name.bytes().all(plain)
}

fn id_or_name(of: &Map<String, Value>, place: &str) -> Result<String, Refusal> {
    let (id, name) = (optional(of, "id", place)?, optional(of, "name", place)?);
    id.or(name).ok_or_else(|| missing("id or name", place))
}

fn object<'a>(
    of: &'a Map<String, Value>,
    name: &str,
    place: &str,
) -> Result<&'a Map<String, Value>, Refusal> {
    let value = of.get(name).ok_or_else(|| missing(name, place))?;
    value.as_object().ok_or_else(|| bad(format!("`{name}` in {place} must be an object.")))
}

fn text(of: &Map<String, Value>, name: &str, place: &str) -> Result<String, Refusal> {
    let value = of.get(name).ok_or_else(|| missing(name, place))?;
    value.as_str().map(str::to_owned).ok_or_else(|| bad(format!("`{name}` in {place} must be a string.")))
}

/// A text that may be missing, but not empty.
fn optional(of: &Map<String, Value>, name: &str, place: &str) -> Result<Option<String>, Refusal> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => {
            Err(bad(format!("`{name}` in {place} must not be empty.")))
        }
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(bad(format!("`{name}` in {place} must be a string."))),
    }
}

fn missing(what: &str, place: &str) -> Refusal {
    bad(format!("Expecting to find {what} in {place}."))
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}
