//! Which code is it now?
//!
//! Time-based one-time passwords (RFC 6238) as Keystone's `totp` method has them: six digits, a new
//! one each 30 seconds, HMAC-SHA-1, and a secret that is written in base32.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::hmac;
use zeroize::Zeroizing;

use super::Secret;

/// How long a code is the present one, seconds.
const PERIOD: u64 = 30;

/// What base32 is made of (RFC 4648, section 6).
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The code at `now`; `None` where the secret is no base32.
pub fn code(secret: &Secret, now: SystemTime) -> Option<Secret> {
    let key = decode(secret.expose())?;
    let counter = since_epoch(now).as_secs() / PERIOD;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let tag = hmac::sign(&key, &counter.to_be_bytes());
    let tag = tag.as_ref();
    // RFC 4226, section 5.3: the last four bits say which 31 bits to take.
    let offset = usize::from(tag[tag.len() - 1] & 0xf);
    let word = tag[offset..offset + 4].iter().fold(0, |word: u32, byte| word << 8 | u32::from(*byte));
    Some(Secret::new(format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)))
}

/// How long until there is another code.
pub fn until_next(now: SystemTime) -> Duration {
    let into = since_epoch(now).as_nanos() % u128::from(PERIOD * 1_000_000_000);
    Duration::from_secs(PERIOD) - Duration::from_nanos(u64::try_from(into).unwrap_or_default())
}

/// Whether a secret is one: base32, in small letters and in groups too, as people copy it.
pub fn is_secret(secret: &str) -> bool {
    decode(secret).is_some()
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut bits, mut held) = (0_u16, 0);
    for byte in text.trim_end_matches('=').bytes().filter(|byte| !matches!(byte, b' ' | b'-')) {
        let value = ALPHABET.iter().position(|letter| *letter == byte.to_ascii_uppercase())?;
        bits = bits << 5 | u16::try_from(value).ok()?;
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `12345678901234567890`, the key of the tests in RFC 6238.
    const KEY: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The vectors of RFC 6238, appendix B: the last six of their eight digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (seconds, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code(&Secret::new(KEY), at(seconds)).unwrap().expose(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_secret_is_base32_however_it_is_grouped() {
        let expected = code(&Secret::new(KEY), at(59));
        for same in [
            "gezdgnbvgy3tqojqgezdgnbvgy3tqojq",
            "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ",
            &format!("{KEY}=="),
        ] {
            assert_eq!(code(&Secret::new(same), at(59)), expected, "{same}");
        }
        for bad in ["", "====", "0189", "GEZD!", "ä", "A"] {
            assert!(!is_secret(bad), "{bad}");
            assert_eq!(code(&Secret::new(bad), at(59)), None, "{bad}");
        }
    }

    #[test]
    fn the_next_code_comes_at_the_end_of_the_half_minute() {
        for (seconds, left) in [(0, 30), (29, 1), (30, 30), (59, 1)] {
            assert_eq!(until_next(at(seconds)), Duration::from_secs(left), "{seconds}");
        }
        assert_eq!(until_next(at(0) + Duration::from_millis(29_999)), Duration::from_millis(1));
    }
}
