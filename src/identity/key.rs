//! API keys: what they look like, and what is kept of them.
//!
//! A key is `kwk_`, 16 hexadecimal digits that name it, `_`, and 43 characters of base64url for 32 random bytes.
//! What is kept is SHA-256 of all that: with so many random bytes there is nothing to guess, so no slow hash is
//! needed, and a key costs a request no more than a token.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::keystone::Secret;
use crate::private::random;

/// How each key begins, which tells it from every token of Keystone's; programs that look for lost secrets look for it.
pub const KEY_START: &[u8] = b"kwk_";

/// How long a key is, characters.
const LENGTH: usize = 4 + 16 + 1 + 43;

/// A key's name, which is no secret.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        from_hex(text).map(Self)
    }
}

/// The bytes of so many small hexadecimal digits, no other way to write them.
fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ()> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(()),
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return Err(());
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Ok(bytes)
}

/// What is kept of a key: SHA-256 of its text.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Of a key's text.
    pub fn of(text: &[u8]) -> Self {
        Self(digest(&SHA256, text).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// That of no text that anybody knows.
    pub fn of_nothing() -> Self {
        Self(random())
    }

    /// Compares in a time that tells nothing.
    pub fn is(&self, other: &Self) -> bool {
        #[cfg(test)]
        tests::COMPARED.set(tests::COMPARED.get() + 1);
        self.0.ct_eq(&other.0).into()
    }

    /// For what is derived from it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In a file it is `sha256:` and 64 hexadecimal digits.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

impl FromStr for KeyHash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        from_hex(text.strip_prefix("sha256:").ok_or(())?).map(Self)
    }
}

/// Makes a key. Its text is shown once, to whom it is for.
pub fn make() -> (KeyId, Secret) {
    let id = KeyId(random());
    let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(random::<32>()).as_slice()));
    (id, Secret::new(&*Zeroizing::new(format!("kwk_{id}_{}", *secret))))
}

/// The name of the key that a text may be; `None` for what is not shaped like one.
pub fn id_of(text: &[u8]) -> Option<KeyId> {
    let (id, secret) = text.strip_prefix(KEY_START)?.split_at_checked(16)?;
    let url_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    if text.len() != LENGTH || secret[0] != b'_' || !secret[1..].iter().all(url_safe) {
        return None;
    }
    std::str::from_utf8(id).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How many hashes this thread compared.
        pub(in super::super) static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn a_key_has_its_own_name_in_it_and_no_two_are_alike() {
        let (id, key) = make();
        assert_eq!(key.expose().len(), LENGTH);
        assert_eq!(id_of(key.expose().as_bytes()), Some(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        let (_, other) = make();
        let hash = KeyHash::of(key.expose().as_bytes());
        assert!(hash.is(&KeyHash::of(key.expose().as_bytes())));
        assert!(!hash.is(&KeyHash::of(other.expose().as_bytes())));
        let read: KeyHash = hash.to_string().parse().expect("as it was written");
        assert!(read.is(&hash));
    }

    #[test]
    fn what_has_another_shape_is_no_key() {
        let (_, key) = make();
        let key = key.expose();
        for wrong in [
            "",
            "kwk_",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}x"),
            &key.replace("kwk_", "kwx_"),
            &key.to_uppercase(),
            &format!("{}+", &key[..key.len() - 1]),
            &format!("{}é", &key[..key.len() - 2]),
        ] {
            assert_eq!(id_of(wrong.as_bytes()), None, "{wrong}");
        }
        for wrong in ["", "sha256:", "sha256:00", &format!("sha256:{}", "g".repeat(64)), &"0".repeat(64)] {
            assert!(wrong.parse::<KeyHash>().is_err(), "{wrong}");
        }
        assert!("sha256:+0".parse::<KeyHash>().is_err());
        assert!(format!("sha256:{}", "+0".repeat(32)).parse::<KeyHash>().is_err());
    }
}
