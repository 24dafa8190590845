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
        // An answer is no place to plant text in, so only names that are known are repeated.
        let known = ["password", "token", "application_credential", "totp"];
        let shown = known.into_iter().find(|known| known == &name).unwrap_or("each of the methods");
        let given = identity.get(name).ok_or_else(|| missing(shown, "identity"))?;
        let given =
            given.as_object().ok_or_else(|| bad(format!("`{shown}` in identity must be an object.")))?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn v3(identity: Value, scope: Option<Value>) -> Result<Login, Refusal> {
        let mut auth = json!({ "identity": identity });
        if let Some(scope) = scope {
            auth["scope"] = scope;
        }
        read(json!({ "auth": auth }).to_string().as_bytes(), Version::V3)
    }

    fn scope(scope: Value) -> Result<Wanted, Refusal> {
        v3(json!({"methods": ["totp"], "totp": {}}), Some(scope)).map(|login| login.wanted)
    }

    fn secret(name: &str, secret: &str) -> Proof {
        Proof::Secret { name: name.to_owned(), secret: Secret::new(secret) }
    }

    #[track_caller]
    fn check_bad(read: Result<Login, Refusal>, message: &str) {
        assert_eq!(read, Err(bad(message)));
    }

    #[test]
    fn any_method_is_read_and_several_are() {
        let user = json!({"name": "ada", "domain": {"id": "default"}, "password": "p"});
        let login = v3(
            json!({
                "methods": ["password", "totp", "password", "application_credential", "token", "v3oidc-x"],
                "password": {"user": user},
                "totp": {"user": {"id": "u", "passcode": "123456"}},
                "application_credential": {"id": "c", "name": "n", "secret": "s"},
                "token": {"id": "t"},
                "v3oidc-x": {"anything": [1]},
            }),
            None,
        );
        let login = login.unwrap();
        assert_eq!(login.methods, ["password", "totp", "application_credential", "token", "v3oidc-x"]);
        let token = Proof::Token(Secret::new("t"));
        assert_eq!(login.proofs, [secret("ada", "p"), Proof::Other, secret("c", "s"), token, Proof::Other]);
        assert_eq!(login.wanted, Wanted::Default);
    }

    #[test]
    fn each_kind_of_scope_is_read() {
        let id = |id: &str| Wanted::Exactly(Scope::Project(Project::Id(id.to_owned())));
        assert_eq!(scope(json!(null)), Ok(Wanted::Default));
        assert_eq!(scope(json!("unscoped")), Ok(Wanted::Exactly(Scope::Unscoped)));
        assert_eq!(scope(json!({"unscoped": {}})), Ok(Wanted::Exactly(Scope::Unscoped)));
        assert_eq!(scope(json!({"system": {"all": true}})), Ok(Wanted::Exactly(Scope::System)));
        assert_eq!(scope(json!({"project": {"id": "p"}})), Ok(id("p")));
        assert_eq!(scope(json!({"OS-TRUST:trust": {"id": "t"}})), Ok(Wanted::Trust("t".to_owned())));
        let by_name = Scope::Project(Project::Name {
            name: "n".to_owned(),
            domain: Some(Domain::Name("Default".to_owned())),
        });
        let written = json!({"project": {"name": "n", "domain": {"name": "Default"}}});
        assert_eq!(scope(written), Ok(Wanted::Exactly(by_name)));
        let domain = Scope::Domain(Domain::Id("d".to_owned()));
        assert_eq!(scope(json!({"domain": {"id": "d"}})), Ok(Wanted::Exactly(domain)));
    }

    #[test]
    fn a_bad_scope_says_what_is_wrong() {
        let only_one =
            "`scope` must name one of project, domain, system, OS-TRUST:trust or unscoped, and only one.";
        for (written, message) in [
            (json!("scoped"), "`scope` must be an object, or \"unscoped\"."),
            (json!([]), "`scope` must be an object, or \"unscoped\"."),
            (json!({}), only_one),
            (json!({"project": {"id": "p"}, "domain": {"id": "d"}}), only_one),
            (json!({"project": "p"}), "`project` in scope must be an object."),
            (json!({"project": {"id": 5}}), "`id` in project must be a string."),
            (json!({"project": {"id": ""}}), "`id` in project must not be empty."),
            (json!({"project": {"domain": {"id": "d"}}}), "Expecting to find name in project."),
            (json!({"project": {"name": "n"}}), "Expecting to find domain in project."),
            (json!({"domain": {}}), "Expecting to find name in domain."),
            (json!({"system": {"all": "yes"}}), "`system` must be {\"all\": true}."),
            (json!({"OS-TRUST:trust": {}}), "Expecting to find id in OS-TRUST:trust."),
        ] {
            assert_eq!(scope(written.clone()), Err(bad(message)), "{written}");
        }
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_kind_is_named() {
        let text = |text: &str| read(text.as_bytes(), Version::V3);
        check_bad(text(""), "The request body is not JSON (line 1).");
        check_bad(text("{\"auth\":\n{"), "The request body is not JSON (line 2).");
        check_bad(text("[]"), "The request body must be a JSON object.");
        check_bad(text("{}"), "Expecting to find auth in request body.");
        check_bad(text(r#"{"auth": 1}"#), "`auth` in request body must be an object.");
        check_bad(text(r#"{"auth": {}}"#), "Expecting to find identity in auth.");
        check_bad(text(&"[".repeat(10_000)), "The request body is not JSON (line 1).");
        assert!(read(b"\xff\xfe", Version::V3).is_err());
        for (identity, message) in [
            (json!({}), "Expecting to find methods in identity."),
            (json!({"methods": "password"}), "`methods` must be a list of names."),
            (json!({"methods": []}), "`methods` is empty; name the methods that you log in with."),
            (json!({"methods": [1]}), "`methods` holds something that is no method's name."),
            (json!({"methods": ["a b"]}), "`methods` holds something that is no method's name."),
            (json!({"methods": ["x".repeat(33)]}), "`methods` holds something that is no method's name."),
            (json!({"methods": ["password"]}), "Expecting to find password in identity."),
            (json!({"methods": ["password"], "password": []}), "`password` in identity must be an object."),
            (json!({"methods": ["password"], "password": {}}), "Expecting to find user in password."),
            (
                json!({"methods": ["password"], "password": {"user": {"name": "n"}}}),
                "Expecting to find password in user.",
            ),
            (
                json!({"methods": ["password"], "password": {"user": {"password": "p"}}}),
                "Expecting to find id or name in user.",
            ),
            (
                json!({"methods": ["password"], "password": {"user": {"name": "n", "password": 5}}}),
                "`password` in user must be a string.",
            ),
            (json!({"methods": ["token"], "token": {}}), "Expecting to find id in token."),
            (
                json!({"methods": ["application_credential"], "application_credential": {"id": "i"}}),
                "Expecting to find secret in application_credential.",
            ),
        ] {
            check_bad(v3(identity, None), message);
        }
        let names: Vec<_> = (0..9).map(|number| format!("m{number}")).collect();
        let mut identity: Map<String, Value> = names.iter().map(|name| (name.clone(), json!({}))).collect();
        identity.insert("methods".to_owned(), json!(names));
        check_bad(v3(identity.into(), None), "`methods` names more than 8 methods.");
    }

    #[test]
    fn v2_is_read_and_never_mixed_with_v3() {
        let read = |auth: Value, version| read(json!({ "auth": auth }).to_string().as_bytes(), version);
        let user = json!({"username": "ada", "password": "p"});
        let login = read(json!({"passwordCredentials": user, "tenantName": ""}), Version::V2).unwrap();
        assert_eq!((login.methods, login.proofs), (vec!["password".to_owned()], vec![secret("ada", "p")]));
        assert_eq!(login.wanted, Wanted::Default);
        let wanted = |more: (&str, &str)| {
            let mut auth = json!({"token": {"id": "t"}});
            auth[more.0] = more.1.into();
            read(auth, Version::V2).map(|login| login.wanted)
        };
        assert_eq!(wanted(("tenantName", "n")), Ok(Wanted::Project("n".to_owned())));
        let by_id = Wanted::Exactly(Scope::Project(Project::Id("i".to_owned())));
        assert_eq!(wanted(("tenantId", "i")), Ok(by_id));
        assert_eq!(wanted(("trust_id", "t")), Ok(Wanted::Trust("t".to_owned())));
        let both = "The request body is a login by Identity v3 and by v2.0 at once; send one of them.";
        for version in [Version::V2, Version::V3] {
            check_bad(read(json!({"identity": {}, "passwordCredentials": user}), version), both);
            check_bad(read(json!({"scope": {}, "tenantName": "n"}), version), both);
        }
        check_bad(
            read(json!({"passwordCredentials": user}), Version::V3),
            "This is a login by Identity v2.0; POST it to /v2.0/tokens.",
        );
        check_bad(
            read(json!({"identity": {}}), Version::V2),
            "This is a login by Identity v3; POST it to /v3/auth/tokens.",
        );
        for (auth, message) in [
            (json!({}), "Expecting to find passwordCredentials or token in auth."),
            (json!({"passwordCredentials": 1}), "`passwordCredentials` in auth must be an object."),
            (
                json!({"passwordCredentials": {"password": "p"}}),
                "Expecting to find username or userId in passwordCredentials.",
            ),
            (
                json!({"passwordCredentials": {"userId": "u"}}),
                "Expecting to find password in passwordCredentials.",
            ),
            (json!({"token": {"id": 5}}), "`id` in token must be a string."),
            (json!({"token": {"id": "t"}, "tenantId": 5}), "`tenantId` in auth must be a string."),
            (
                json!({"token": {"id": "t"}, "tenantId": "i", "tenantName": "n"}),
                "`auth` has a tenantId and a tenantName; send one of them.",
            ),
            (
                json!({"token": {"id": "t"}, "passwordCredentials": user}),
                "`auth` has passwordCredentials and a token; send one of them.",
            ),
        ] {
            check_bad(read(auth, Version::V2), message);
        }
    }

    #[test]
    fn swifts_v1_names_a_project_or_none() {
        let read = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            read_swift(&headers)
        };
        for (user, name, wanted) in [
            ("ada", "ada", Wanted::Default),
            (":ada", "ada", Wanted::Default),
            ("demo:ada", "ada", Wanted::Project("demo".to_owned())),
            ("demo:ada:b", "ada:b", Wanted::Project("demo".to_owned())),
        ] {
            for names in [["x-auth-user", "x-auth-key"], ["x-storage-user", "x-storage-pass"]] {
                let login = read(&[(names[0], user), (names[1], "p")]).unwrap();
                assert_eq!((login.proofs, login.wanted), (vec![secret(name, "p")], wanted.clone()));
            }
        }
        for fields in [&[][..], &[("x-auth-user", "ada")], &[("x-auth-user", ""), ("x-auth-key", "p")]] {
            assert!(read(fields).is_err(), "{fields:?}");
        }
    }

    // Promise 9.
    #[test]
    fn no_message_repeats_what_was_sent() {
        let sent = "s3cret-s3cret";
        for body in [
            format!("{{\"auth\": \"{sent}\"}}"),
            format!("{{\"auth\": {{\"identity\": {{\"methods\": [\"{sent}\"]}}, \"scope\": \"{sent}\"}}}}"),
            format!("{{\"auth\": {sent}}}"),
            format!("\"{sent}"),
        ] {
            for version in [Version::V2, Version::V3] {
                let refusal = format!("{:?}", read(body.as_bytes(), version).expect_err(&body));
                assert!(!refusal.contains(sent), "{refusal}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in "\\PC{0,200}|(\\{\"auth\":\\{\"(identity|token|scope)\":[\\[{\"a-z:,0-9}\\]]{0,40})") {
            let _ = read(body.as_bytes(), Version::V3);
            let _ = read(body.as_bytes(), Version::V2);
        }
    }
}
