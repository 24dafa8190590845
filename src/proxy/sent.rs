//! Does an answer show a token or another secret that its request was sent with?

use std::sync::Arc;

use http::HeaderValue;

use crate::keystone::Token;

/// The tokens that a request went out with: nothing secret of them comes back.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The one of the last attempt.
    pub token: Arc<Token>,
    /// The one that was refused before.
    pub refused: Option<Arc<Token>>,
}

impl Sent {
    /// Whether a field of an answer holds one of them.
    pub(super) fn shows_in(&self, value: &HeaderValue) -> bool {
        let shows = |token: &Token| {
            let mut secrets = token.secrets().iter();
            secrets.any(|secret| shows(value.as_bytes(), secret.header().as_bytes()))
        };
        shows(&self.token) || self.refused.as_ref().is_some_and(|token| shows(token))
    }
}

/// A token that is no longer could stand in any text by chance, so it must be all of it.
const SHORT: usize = 7;

/// Whether a text holds a token, with or without the padding of its base64.
fn shows(text: &[u8], token: &[u8]) -> bool {
    let padding = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let token = &token[..token.len() - padding];
    if token.len() <= SHORT {
        return !token.is_empty() && text == token;
    }
    // Most values are shorter than any token.
    text.len() >= token.len() && text.windows(token.len()).any(|part| part == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_wherever_it_stands() {
        for text in ["gAAAA-b_c", "gAAAA-b_c==", "Keystone gAAAA-b_c==, x", "http://h/?t=gAAAA-b_c%3D%3D"] {
            assert!(shows(text.as_bytes(), b"gAAAA-b_c=="), "{text}");
        }
        for text in ["", "==", "gAAAA-b_", "gAAAA-B_C"] {
            assert!(!shows(text.as_bytes(), b"gAAAA-b_c=="), "{text}");
        }
        assert!(!shows(b"anything", b"=="));
        assert!(shows(b"ADMIN", b"ADMIN") && !shows(b"ADMINISTRATOR", b"ADMIN"));
    }
}
