//! What does an answer mean that does not hold what was asked for?
//!
//! Identity providers say it in much the same way, so what reads a message, a redirect and `Retry-After` serves for
//! both.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode, Uri};
use serde_json::Value;

use crate::keystone::AuthError;
use crate::secret;

/// What [`refusal`] calls a login.
pub(in crate::keystone) const LOGIN: &str = "the login";

/// How much of a message of Keystone's is kept for the log, characters.
const LONGEST_MESSAGE: usize = 300;

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
pub(in crate::keystone) fn bad_reply(what: impl Into<String>) -> AuthError {
    AuthError::BadReply { what: what.into() }
}

fn unavailable(answer: &Response<Bytes>, message: Option<String>) -> AuthError {
    let retry_after = retry_after(answer.headers(), SystemTime::now());
    AuthError::Unavailable { status: answer.status().as_u16(), message, retry_after }
}

/// `Retry-After` in either of its forms (RFC 9110, section 10.2.3).
pub(in crate::keystone) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

/// Where a redirect leads, as far as it may be shown: the host only.
pub(in crate::keystone) fn redirect_host(headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
    match location.parse::<Uri>().ok().and_then(|uri| Some(uri.authority()?.host().to_owned())) {
        Some(host) => format!("host {host}"),
        None if location.is_empty() => "nowhere".to_owned(),
        None => "another path".to_owned(),
    }
}

/// What Keystone says in an error body: short, on one line, and only if none of `secrets` is in it, in
/// whatever form.
pub(in crate::keystone) fn error_message(body: &[u8], secrets: &[&str]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let message = document["error"]["message"].as_str();
    // OAuth 2.0 has words of its own (RFC 6749, section 5.2).
    let message = message.or_else(|| document["error_description"].as_str());
    presentable(message.or_else(|| document["error"].as_str())?, secrets)
}

/// A peer's words, fit for the log: short, on one line, and only if none of `secrets` is in it, in whatever form.
pub(in crate::keystone) fn presentable(message: &str, secrets: &[&str]) -> Option<String> {
    if secrets.iter().any(|secret| secret::is_echoed(message, secret)) {
        return None;
    }
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message: String = message.trim().chars().take(LONGEST_MESSAGE).collect();
    (!message.is_empty()).then_some(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::answer;
    use super::*;

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
