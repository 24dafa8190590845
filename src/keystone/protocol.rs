//! What do we say to Keystone, and what does its answer mean?
//!
//! Request bodies and answers of Identity v3 and v2.0, without any I/O. Answers come from a peer:
//! nothing about them is taken for granted, and nothing of them but times, names and ids is shown.

mod login;
mod receipt;
mod refusal;
mod token;
mod version;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

pub(super) use self::login::{access_token_form, scope_names_a_domain, v3_login_by_header, v3_user};
pub use self::login::{names_a_domain, v2_login, v3_login};
pub(super) use self::receipt::{AUTH_RECEIPT, Receipt};
pub use self::refusal::refusal;
pub(super) use self::refusal::{LOGIN, bad_reply, error_message, presentable, redirect_host, retry_after};
pub use self::token::{Sent, read_v2_token, read_v3_token};
pub(super) use self::token::{read_access_token, read_document, read_v3_document};
pub(super) use self::version::{MOST_REDIRECTS, redirect_path, version_entries, version_segment};
pub use self::version::{is_version, read_versions};
use super::{AuthError, Named};

/// The id and the name of the domain in which Identity v3 shows what Identity v2.0 made.
const DEFAULT_DOMAIN: (&str, &str) = ("default", "Default");

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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Response<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        response.body(Bytes::from(body.to_string())).unwrap()
    }

    pub(super) fn sent() -> Sent {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_296_073);
        Sent { at: Instant::now(), wall }
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
}
