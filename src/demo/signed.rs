//! Was a request signed by whom it says? OAuth 1.0, as Keystone's method `oauth1` checks it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use ring::hmac;

use super::call::Call;

/// The id of a consumer.
pub const CONSUMER_KEY: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f06";
/// Its secret.
pub const CONSUMER_SECRET: &str = "consumer&secret";
/// The id of an access token for the second project.
pub const ACCESS_KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e107";
/// Its secret.
pub const ACCESS_SECRET: &str = "access%secret";

/// How far a signature's time may be from the clock.
const TOLERANCE: Duration = Duration::from_secs(600);

/// What is wrong with a request's signature.
pub(super) enum Wrong {
    /// It names an access token that there is none of.
    Unknown(String),
    /// It is not signed, or wrongly.
    Refused,
}

/// Looks at the signature of a request whose body is no form.
pub(super) fn check(call: &Call, now: SystemTime, nonces: &mut Vec<String>) -> Result<(), Wrong> {
    let fields = call.header("authorization").and_then(fields).ok_or(Wrong::Refused)?;
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    if field("oauth_token") != ACCESS_KEY {
        return Err(Wrong::Unknown(field("oauth_token").to_owned()));
    }
    let time = field("oauth_timestamp").parse().map(Duration::from_secs).map_err(|_| Wrong::Refused)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nonce = field("oauth_nonce");
    // Stricter than Keystone, which forgets what was used.
    let is_new = nonce.len() > 20 && !nonces.iter().any(|known| known == nonce);
    let is_nonce = nonce.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_right = field("oauth_consumer_key") == CONSUMER_KEY
        && field("oauth_signature_method") == "HMAC-SHA1"
        && field("oauth_version") == "1.0"
        && fields.len() == 7
        && now.abs_diff(time) <= TOLERANCE
        && is_new
        && is_nonce;
    if !is_right {
        return Err(Wrong::Refused);
    }
    // RFC 5849, section 3.4.1: what is in order by its name already.
    let mut parameters = String::new();
    for (name, value) in fields.iter().filter(|(name, _)| *name != "oauth_signature") {
        let and = if parameters.is_empty() { "" } else { "&" };
        parameters.push_str(&format!("{and}{name}={}", encode(value)));
    }
    let url = encode(&format!("{}{}", call.base, call.path));
    let text = format!("{}&{url}&{}", call.method, encode(&parameters));
    let key = format!("{}&{}", encode(CONSUMER_SECRET), encode(ACCESS_SECRET));
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
    let signature = STANDARD.decode(field("oauth_signature")).map_err(|_| Wrong::Refused)?;
    hmac::verify(&key, text.as_bytes(), &signature).map_err(|_| Wrong::Refused)?;
    nonces.push(nonce.to_owned());
    Ok(())
}

/// The fields of `OAuth name="value", ...`, decoded, each once.
fn fields(header: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for field in header.strip_prefix("OAuth ")?.split(',') {
        let (name, value) = field.trim().split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
        if fields.insert(name.to_owned(), value).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// Section 3.6.
fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
