//! Which token did Keystone issue, what is it good for, and how long?
//!
//! Answers of Identity v3 and v2.0 alike become a [`Token`], with a document as v3 writes it; and what an OAuth 2.0
//! server says of an access token.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Response;
use http::header::DATE;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{DEFAULT_DOMAIN, bad_reply, json_body, named, named_in_v2};
use crate::keystone::token::{lifetime, parse_time};
use crate::keystone::{AuthError, Catalog, Interface, Token, TokenId};
use crate::secret;

/// The header in which Identity v3 hands a token over.
const SUBJECT_TOKEN: &str = "x-subject-token";

/// The shortest token that is looked for in what came with it.
const SHORTEST_ECHO: usize = 8;

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
pub(in crate::keystone) fn read_v3_document(
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
pub(in crate::keystone) fn read_document(
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

/// The access token of a successful answer, and how long it is good, where that is told.
///
/// # Errors
/// [`AuthError::BadReply`] when it is no such answer.
pub(in crate::keystone) fn read_access_token(
    answer: &Response<Bytes>,
) -> Result<(TokenId, Option<Duration>), AuthError> {
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::super::tests::{answer, sent};
    use super::*;

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
        assert!(token.catalog.endpoint("compute", None, None, &[Interface::Public]).is_ok());
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
}
