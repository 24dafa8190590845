//! What identity providers answer and what a browser brings: whatever it holds, nothing panics, no secret is quoted,
//! nothing leads to where secrets must not go, and only what belongs to a login ends it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use keyway::keystone::callback::{self, Brought};
use keyway::keystone::provider::{self, Device, Document};
use keyway::keystone::{ProviderError, ProviderUrl, Secret, TokenKind};
use percent_encoding::percent_decode;
use serde_json::Value;

/// What was sent along, and must not come back in an error's text.
const PASSWORD: &str = "canary-Pa55word";
/// What belongs to the login: its state, and its nonce.
const STATE: &str = "canary-St4te";

/// The first byte chooses what the rest is: an answer with one of several statuses, or what a browser brought.
///
/// # Panics
/// If one of the above does not hold.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let statuses = [200, 302, 400, 401, 429, 500];
    match usize::from(*first) % (statuses.len() + 2) {
        6 => check_query(&String::from_utf8_lossy(rest)),
        7 => check_form(rest),
        status => {
            let mut answer = Response::new(Bytes::copy_from_slice(rest));
            *answer.status_mut() = StatusCode::from_u16(statuses[status]).expect("a status");
            check_answer(&answer);
        }
    }
}

fn check_answer(answer: &Response<Bytes>) {
    let url = |text| ProviderUrl::parse(text).expect("a URL");
    let document: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let text = |name: &str| document.as_ref().and_then(|document| document[name].as_str());
    let is_ok = answer.status() == StatusCode::OK;
    for base in ["https://idp.example/d", "http://127.0.0.1/d"] {
        let from = url(base);
        for kind in [TokenKind::Access, TokenKind::Id] {
            match provider::read_token(from.origin(), answer, kind, &[PASSWORD]) {
                Ok(token) => {
                    assert!(is_ok && text(kind.as_str()).map(str::trim) == Some(token.expose()));
                    assert!(token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
                }
                Err(error) => check_error(&error),
            }
        }
        let nonce = Secret::new(STATE);
        match provider::check_nonce(from.origin(), answer, &nonce) {
            Ok(()) => assert!(text("id_token").is_none_or(|token| claims_hold(token, STATE))),
            Err(error) => check_error(&error),
        }
        let now = Instant::now();
        match Device::read(from.origin(), answer, now, &[PASSWORD]) {
            Ok(device) => {
                assert!(is_ok && Some(device.code.expose()) == text("device_code"));
                let shown = [Some(&device.address), Some(&device.user_code), device.complete.as_ref()];
                for shown in shown.into_iter().flatten() {
                    assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()) && shown.len() <= 2000);
                }
                let addresses = [Some(&device.address), device.complete.as_ref()];
                assert!(addresses.into_iter().flatten().all(|text| ProviderUrl::parse(text).is_ok()));
                assert!(device.ends > now && device.ends <= now + Duration::from_secs(3600));
                assert!((1..=60).contains(&device.interval.as_secs()));
            }
            Err(error) => check_error(&error),
        }
        match Document::read(&from, answer) {
            Ok(document) => {
                for member in ["token_endpoint", "authorization_endpoint", "revocation_endpoint"] {
                    match document.endpoint(member, member) {
                        Ok(url) => check_endpoint(&from, &url),
                        Err(error) => check_error(&error),
                    }
                }
                let _ = document.check_grant("password").inspect_err(check_error);
            }
            // No secret was sent for it.
            Err(error) => check_told(&error),
        }
        check_error(&provider::refusal(from.origin(), answer, "the login", &[PASSWORD]));
    }
    if let Some(refresh) = provider::read_refresh(answer) {
        assert_eq!(Some(refresh.expose()), text("refresh_token"));
        assert!(refresh.expose().bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
    }
    assert_eq!(provider::error_code(answer.body()).as_deref(), text("error"));
}

/// Secrets go by TLS, or stay on this machine.
fn check_endpoint(from: &ProviderUrl, to: &ProviderUrl) {
    let is_here = |url: &ProviderUrl| {
        let host = url.origin().host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    assert!(to.origin().to_string().starts_with("https://") || is_here(to), "{to:?}");
    assert!(!is_here(to) || is_here(from), "{from:?} leads to {to:?}");
}

fn check_error(error: &ProviderError) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PASSWORD), "a refusal quotes what was sent");
    check_told(error);
}

fn check_told(error: &ProviderError) {
    let told = error.to_string();
    assert!(told.len() < 4096 && !told.contains(|letter: char| letter.is_control()), "{told:?}");
    let _ = (error.retry_after(), error.is_rejection(), error.is_temporary());
}

/// Whether an id token's claims name this nonce, by other means than keyway's.
fn claims_hold(token: &str, nonce: &str) -> bool {
    let Some(claims) = token.split('.').nth(1) else { return false };
    let mut bits = 0u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for letter in claims.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return false,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    let claims: Option<Value> = serde_json::from_slice(&bytes).ok();
    claims.is_some_and(|claims| claims["nonce"].as_str() == Some(nonce))
}

/// The values of a name in a query or a form.
fn values<'a>(fields: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + 'a {
    fields.split(|byte| *byte == b'&').filter_map(move |field| {
        let value = field.strip_prefix(name)?.strip_prefix(b"=")?;
        let spaced: Vec<u8> = value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        Some(percent_decode(&spaced).collect())
    })
}

fn check_query(query: &str) {
    let Some(brought) = callback::code_in(query, &Secret::new(STATE)) else { return };
    let of = |name: &str| values(query.as_bytes(), name.as_bytes()).collect::<Vec<_>>();
    assert_eq!(of("state"), [STATE.as_bytes()], "a login of somebody else: {query:?}");
    match brought {
        Brought::Code(code) => assert_eq!(of("code"), [code.expose().as_bytes()]),
        Brought::No(error) => {
            assert_eq!(of("error"), [error.as_bytes()]);
            let origin = ProviderUrl::parse("https://idp.example").expect("a URL");
            check_error(&provider::declined(origin.origin(), &error));
        }
        Brought::Token(_) => panic!("a query brings no token"),
    }
}

fn check_form(form: &[u8]) {
    let Some(token) = callback::token_in(form) else { return };
    assert!(token.expose().bytes().all(|byte| byte.is_ascii_graphic()));
    let fields = form.split(|byte| *byte == b'&').filter(|field| field.starts_with(b"token="));
    assert_eq!(fields.count(), 1, "which of them?");
}
