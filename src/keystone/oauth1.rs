//! How does a request show that its sender knows two secrets, without showing them?
//!
//! OAuth 1.0 signatures (RFC 5849, section 3) with HMAC-SHA1, the method that every server has, in an `Authorization`
//! header. What is signed holds the request's URL as the server sees it: nobody before the server may change its
//! scheme, its host or its path.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use zeroize::Zeroizing;

use super::Secret;

/// What section 3.6 leaves as it is beside letters and digits.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who signs: a consumer, and the access token that a user let it have.
#[derive(Debug)]
pub(super) struct Signer<'a> {
    pub(super) consumer_key: &'a str,
    pub(super) consumer_secret: &'a Secret,
    pub(super) access_key: &'a str,
    pub(super) access_secret: &'a Secret,
}

impl Signer<'_> {
    /// The `Authorization` header for a request without parameters of its own. `url` is the base string URI (section
    /// 3.4.1.2): scheme and host in small letters, without a default port. `timestamp` is in seconds since 1970.
    /// Keystone takes the digits of hexadecimal numbers in a nonce, and nothing else.
    pub(super) fn authorization(
        &self,
        method: &str,
        url: &str,
        nonce: [u8; 16],
        timestamp: u64,
    ) -> HeaderValue {
        let nonce = format!("{:032x}", u128::from_be_bytes(nonce));
        let timestamp = timestamp.to_string();
        let parameters = [
            ("oauth_consumer_key", self.consumer_key),
            ("oauth_token", self.access_key),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", &timestamp),
            ("oauth_nonce", &nonce),
            ("oauth_version", "1.0"),
        ];
        let signature = self.signature(&base_string(method, url, &parameters));
        let parameters = parameters.iter().copied().chain([("oauth_signature", signature.as_str())]);
        let fields: Vec<_> =
            parameters.map(|(name, value)| format!("{name}=\"{}\"", encode(value))).collect();
        HeaderValue::try_from(format!("OAuth {}", fields.join(", "))).expect("what is not ASCII is encoded")
    }

    /// The signature of a base string (section 3.4.2).
    fn signature(&self, base: &str) -> String {
        // Large enough, so that it need not grow and leave a copy behind.
        let longest = 3 * (self.consumer_secret.expose().len() + self.access_secret.expose().len()) + 1;
        let mut key = Zeroizing::new(String::with_capacity(longest));
        key.extend(utf8_percent_encode(self.consumer_secret.expose(), ENCODED));
        key.push('&');
        key.extend(utf8_percent_encode(self.access_secret.expose(), ENCODED));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes());
        STANDARD.encode(hmac::sign(&key, base.as_bytes()))
    }
}

/// The signature base string (section 3.4.1).
fn base_string(method: &str, url: &str, parameters: &[(&str, &str)]) -> String {
    let mut encoded: Vec<_> = parameters.iter().map(|(name, value)| (encode(name), encode(value))).collect();
    encoded.sort_unstable();
    let encoded: Vec<_> = encoded.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{method}&{}&{}", encode(url), encode(&encoded.join("&")))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_signature(secrets: [&str; 2], base: &str, expected: &str) {
        let [consumer_secret, access_secret] = secrets.map(Secret::new);
        let signer = Signer {
            consumer_key: "",
            consumer_secret: &consumer_secret,
            access_key: "",
            access_secret: &access_secret,
        };
        assert_eq!(signer.signature(base), expected, "{base}");
    }

    /// The example of RFC 5849, sections 3.4.1.1 and 3.4.1.3.
    #[test]
    fn the_base_string_is_that_of_the_rfc() {
        let parameters = [
            ("b5", "=%3D"),
            ("a3", "a"),
            ("c@", ""),
            ("a2", "r b"),
            ("oauth_consumer_key", "9djdj82h48djs9d2"),
            ("oauth_token", "kkk9d7dh3k39sjv7"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "137131201"),
            ("oauth_nonce", "7d8f3e4a"),
            ("c2", ""),
            ("a3", "2 q"),
        ];
        assert_eq!(
            base_string("POST", "http://example.com/request", &parameters),
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%25\
             40%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_meth\
             od%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
    }

    /// The three requests of RFC 5849, section 1.2.
    #[test]
    fn signatures_are_those_of_the_rfc() {
        let signed = |method: &str, url: &str, time: &str, nonce: &str, others: &[(&str, &str)]| {
            let mut parameters = vec![
                ("oauth_consumer_key", "dpf43f3p2l4k3l03"),
                ("oauth_signature_method", "HMAC-SHA1"),
                ("oauth_timestamp", time),
                ("oauth_nonce", nonce),
            ];
            parameters.extend(others);
            base_string(method, url, &parameters)
        };
        let callback = [("oauth_callback", "http://printer.example.com/ready")];
        let base = signed("POST", "https://photos.example.net/initiate", "137131200", "wIjqoS", &callback);
        check_signature(["kd94hf93k423kf44", ""], &base, "74KNZJeDHnMBp0EMJ9ZHt/XKycU=");

        let verifier = [("oauth_token", "hh5s93j4hdidpola"), ("oauth_verifier", "hfdp7dh39dks9884")];
        let base = signed("POST", "https://photos.example.net/token", "137131201", "walatlh", &verifier);
        check_signature(["kd94hf93k423kf44", "hdhd0244k9j7ao03"], &base, "gKgrFCywp7rO0OXSjdot/IHF7IU=");

        let query = [("oauth_token", "nnch734d00sl2jdk"), ("file", "vacation.jpg"), ("size", "original")];
        let base = signed("GET", "http://photos.example.net/photos", "137131202", "chapoH", &query);
        check_signature(["kd94hf93k423kf44", "pfkkdhi9sl3r4s00"], &base, "MdpQcU8iPSUjWoN/UDMsK2sui9I=");
    }

    /// A secret that needs encoding; the expected value is oauthlib's.
    #[test]
    fn the_header_holds_what_was_signed_and_no_secret() {
        let (consumer_secret, access_secret) = (Secret::new("s&cret/1 ü"), Secret::new("~hunter2="));
        let signer = Signer {
            consumer_key: "c0ffee",
            consumer_secret: &consumer_secret,
            access_key: "a\"b",
            access_secret: &access_secret,
        };
        let url = "https://cloud.example:5000/v3/auth/tokens";
        let header = signer.authorization("POST", url, [7; 16], 1_700_000_000);
        assert_eq!(
            header.to_str().unwrap(),
            "OAuth oauth_consumer_key=\"c0ffee\", oauth_token=\"a%22b\", oauth_signature_method=\"HMAC-SHA1\", \
             oauth_timestamp=\"1700000000\", oauth_nonce=\"07070707070707070707070707070707\", oauth_version=\"1.0\", \
             oauth_signature=\"vAdDo408c9GVKsdGN1PDga6X6EQ%3D\""
        );
        let shown = format!("{signer:?}");
        assert!(!shown.contains("cret/") && !shown.contains("hunter2"), "{shown}");
    }
}
