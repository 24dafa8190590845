//! Which versions does a service offer, and where does it keep the document that says so?
//!
//! Keystone and other services write these documents in the same shapes.

use bytes::Bytes;
use http::Response;
use http::header::LOCATION;
use serde_json::Value;

use crate::upstream::{BaseUrl, Origin};

/// How many redirects of a version document are followed.
pub(in crate::keystone) const MOST_REDIRECTS: usize = 3;

/// The last path segments (`v3`, `v2.0`) under which a Keystone offers its versions, from its version
/// document (300 or 200). `None` when the text is no such document.
pub fn read_versions(document: &[u8]) -> Option<Vec<String>> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let entries = version_entries(&document)?;
    Some(entries.iter().filter_map(|entry| version_segment(entry)).map(str::to_owned).collect())
}

/// The entries of a version document in any of its shapes; `None` for anything else.
pub(in crate::keystone) fn version_entries(document: &Value) -> Option<&[Value]> {
    let versions = &document["versions"];
    if let Some(entries) = versions.as_array().or_else(|| versions["values"].as_array()) {
        return Some(entries);
    }
    let version = &document["version"];
    version.is_object().then(|| std::slice::from_ref(version))
}

/// The last segment of the self link of an entry, if that is a version.
pub(in crate::keystone) fn version_segment(entry: &Value) -> Option<&str> {
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

/// The path at `origin` that an answer to a question for `path` there is a redirect to. `None` for no redirect, one to
/// another origin, and one to what is no plain path.
pub(in crate::keystone) fn redirect_path(
    answer: &Response<Bytes>,
    origin: &Origin,
    path: &str,
) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
