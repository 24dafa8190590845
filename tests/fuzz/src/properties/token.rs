//! Keystone's answers: whatever they hold, nothing panics, no secret is quoted, no token is in its own document,
//! and none goes to an endpoint that is not in the catalog.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use keyway::keystone::protocol::{self, Sent};
use keyway::keystone::{Auth, Config, Interface, Secret, Token, catalog, discovery};
use keyway::upstream::BaseUrl;
use serde_json::Value;

/// What was sent along, and must not come back in an error's text.
const PASSWORD: &str = "canary-Pa55word";
const SERVICES: [&str; 6] = ["compute", "object-store", "identity", "volumev3", "nova", "*"];

/// An answer: the first byte chooses its status, header lines follow up to an empty line, then the body.
///
/// # Panics
/// If one of the above does not hold.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let answer = read_answer(*first, rest);
    let sent = Sent { at: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000) };
    for read in [protocol::read_v3_token(&answer, sent), protocol::read_v2_token(&answer, sent)] {
        match read {
            Ok(token) => check_token(&token, answer.body()),
            Err(error) => assert!(!format!("{error} {error:?}").contains(PASSWORD)),
        }
    }
    for error in [
        protocol::read_projects(&answer).err(),
        Some(protocol::refusal(&answer, "POST /v3/auth/tokens", &[PASSWORD])),
    ]
    .into_iter()
    .flatten()
    {
        assert!(!format!("{error} {error:?}").contains(PASSWORD), "a refusal quotes what was sent");
        let _ = (error.retry_after(), error.is_rejection());
    }
    for version in protocol::read_versions(answer.body()).into_iter().flatten() {
        assert!(protocol::is_version(&version), "{version:?}");
    }
    let versions = discovery::Versions::read(answer.body()).unwrap_or_default();
    for major in [None, Some(1), Some(2), Some(3)] {
        if let Ok(Some(version)) = versions.segment(major) {
            // A version that was asked for may be at the root.
            let at_root = version.is_empty() && major.is_some();
            assert!(at_root || protocol::is_version(version), "{version:?}");
        }
    }
}

fn read_answer(first: u8, mut rest: &[u8]) -> Response<Bytes> {
    let statuses = [200, 201, 300, 301, 400, 401, 403, 404, 429, 500, 503];
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(statuses[usize::from(first) % statuses.len()]).unwrap();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            if line.is_empty() {
                rest = after;
            }
            break;
        };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()))
        {
            answer.headers_mut().append(name, value);
        }
        rest = after;
    }
    *answer.body_mut() = Bytes::copy_from_slice(rest);
    answer
}

fn check_token(token: &Token, body: &[u8]) {
    let now = Instant::now();
    let (fresh, left) = (token.is_fresh(now), token.life_left(now));
    assert!(!fresh || left.is_none_or(|left| !left.is_zero()));
    if let (Some(renew), Some(end)) = (token.renew_at(0.5), token.expires()) {
        assert!(renew <= end, "it would be renewed after its end");
    }
    let id = token.id.expose();
    assert_eq!(format!("{:?}", token.id).contains(id), "TokenId(redacted)".contains(id));
    let document = token.document.as_deref().expect("Keystone said something");
    let document: Value = serde_json::from_slice(document).expect("it is JSON");
    assert!(document.is_object());
    // A shorter one may be part of any word.
    assert!(id.len() < 8 || !says(&document, id), "the document holds the token");

    let mut urls = Vec::new();
    collect(&serde_json::from_slice(body).unwrap_or_default(), &mut urls);
    let mut services: Vec<_> = SERVICES.map(str::to_owned).to_vec();
    for endpoint in token.catalog.endpoints().take(8) {
        services.extend([endpoint.service_type.clone(), endpoint.service_name.clone()]);
    }
    let regions: Vec<_> = token.catalog.regions().into_iter().take(4).map(Some).chain([None]).collect();
    let cloud = cloud();
    for service in &services {
        for region in &regions {
            match catalog::choose(&cloud, &token.catalog, service, *region) {
                Ok(found) => assert!(urls.contains(found.url), "{} is not in the catalog", found.url),
                Err(missing) => drop(missing.to_string()),
            }
        }
    }
}

/// Whether a text in a document, or the name of a member, holds `what`.
pub(super) fn says(value: &Value, what: &str) -> bool {
    match value {
        Value::String(text) => text.contains(what),
        Value::Array(items) => items.iter().any(|item| says(item, what)),
        Value::Object(items) => items.iter().any(|(name, item)| name.contains(what) || says(item, what)),
        _ => false,
    }
}

/// Every text in a document that is a URL.
fn collect(value: &Value, urls: &mut Vec<BaseUrl>) {
    match value {
        Value::String(text) => urls.extend(BaseUrl::parse(text.trim())),
        Value::Array(items) => items.iter().for_each(|item| collect(item, urls)),
        Value::Object(items) => items.values().for_each(|item| collect(item, urls)),
        _ => {}
    }
}

fn cloud() -> Config {
    let endpoint = BaseUrl::parse("https://unused.example").unwrap();
    let auth = Auth::Fixed { endpoint, token: Secret::new("the-token").into() };
    Config { interfaces: vec![Interface::Public, Interface::Internal], ..Config::new("fuzzed", auth) }
}
