//! What does Keystone say? Version documents and tokens, in the shapes of Identity v3 and v2.0.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Session, catalog};
use crate::keystone::Token;

/// The Identity API that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Identity v2.0.
    V2,
    /// Identity v3.
    V3,
}

impl Version {
    /// `/v3`
    pub fn path(self) -> &'static str {
        match self {
            Self::V2 => "/v2.0",
            Self::V3 => "/v3",
        }
    }
}

/// All versions, for a Keystone at `base`, as its root has them.
pub fn versions(base: &str) -> Value {
    json!({"versions": {"values": [entry(base, Version::V3), entry(base, Version::V2)]}})
}

/// One version, as its own root has it.
pub fn version(base: &str, version: Version) -> Value {
    json!({"version": entry(base, version)})
}

/// As Keystone of 2017 had v2.0, the last that did; v3 is as it is since.
fn entry(base: &str, version: Version) -> Value {
    let (id, status, updated) = match version {
        Version::V2 => ("v2.0", "deprecated", "2016-08-04T00:00:00Z"),
        Version::V3 => ("v3.14", "stable", "2020-04-07T00:00:00Z"),
    };
    let path = version.path();
    let media_type = format!("application/vnd.openstack.identity-{}+json", &path[1..]);
    json!({
        "id": id,
        "status": status,
        "updated": updated,
        "links": [{"rel": "self", "href": format!("{base}{path}/")}],
        "media-types": [{"base": "application/json", "type": media_type}],
    })
}

/// The `token` object of v3, without a catalog: Keystone's own one, but for what is another token's.
pub fn token_v3(document: Option<Map<String, Value>>, real: &Token, session: &Session) -> Map<String, Value> {
    let mut token = document.unwrap_or_else(|| made_up(real));
    // Which credential keyway has is nobody's matter, unless the client takes it for its own.
    if !session.methods.iter().any(|method| method == "application_credential") {
        token.remove("application_credential");
    }
    token.insert("methods".to_owned(), session.methods.iter().map(String::as_str).collect());
    token.insert("issued_at".to_owned(), time(session.issued_at).into());
    token.insert("expires_at".to_owned(), time(session.expires_at).into());
    token.insert("audit_ids".to_owned(), json!([URL_SAFE_NO_PAD.encode(session.id)]));
    token
}

/// What is known of a token that no Keystone said anything about.
fn made_up(real: &Token) -> Map<String, Value> {
    let domain = |id: Option<&String>| match id {
        Some(id) if id != "default" => json!({"id": id, "name": id}),
        _ => json!({"id": "default", "name": "Default"}),
    };
    let mut token = Map::new();
    let user = match &real.user {
        Some(user) => json!({"id": user.id, "name": user.name, "domain": domain(user.domain_id.as_ref())}),
        None => json!({"id": "keyway", "name": "keyway", "domain": domain(None)}),
    };
    token.insert("user".to_owned(), user);
    if let Some(project) = &real.project {
        let of = domain(project.domain_id.as_ref());
        token.insert("project".to_owned(), json!({"id": project.id, "name": project.name, "domain": of}));
        token.insert("is_domain".to_owned(), false.into());
        token.insert("roles".to_owned(), json!([]));
    }
    token
}

/// The whole document of v2.0, made from that of v3.
pub fn access_v2(id: &str, mut v3: Map<String, Value>, catalog: Option<&Value>) -> Value {
    let mut token = json!({
        "id": id,
        "issued_at": v3.remove("issued_at"),
        "expires": v3.remove("expires_at"),
        "audit_ids": v3.remove("audit_ids"),
    });
    let project = v3.get("project").filter(|project| project.is_object());
    if let Some(project) = project {
        token["tenant"] = tenant(project);
    }
    let roles = v3.get("roles").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<_> = roles.iter().map(|role| json!({"name": role["name"]})).collect();
    let ids: Vec<_> =
        roles.iter().filter(|role| role["id"].is_string()).map(|role| role["id"].clone()).collect();
    let user = &v3["user"];
    let mut access = json!({
        "token": token,
        "serviceCatalog": catalog.map_or_else(|| json!([]), catalog::in_v2),
        "user": {"id": user["id"], "name": user["name"], "username": user["name"],
                 "roles": names, "roles_links": []},
        "metadata": {"is_admin": 0, "roles": ids},
    });
    if let Some(trust) = v3.get("OS-TRUST:trust") {
        access["trust"] = json!({
            "id": trust["id"],
            "trustor_user_id": trust["trustor_user"]["id"],
            "trustee_user_id": trust["trustee_user"]["id"],
            "impersonation": trust["impersonation"],
        });
    }
    json!({"access": access})
}

/// A project as v2.0 has it.
pub fn tenant(project: &Value) -> Value {
    json!({
        "id": project["id"],
        "name": project["name"],
        "description": project["description"].as_str().unwrap_or_default(),
        "enabled": project["enabled"].as_bool().unwrap_or(true),
    })
}

/// UNIX seconds as Keystone writes them, with microseconds.
pub fn time(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}
