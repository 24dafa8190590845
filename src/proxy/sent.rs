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
            // A token of this kind is longer than most fields.
            if value.len() < token.shortest_secret() {
                return false;
            }
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
    text.len() >= token.len() && text.windows(token.len()).any(|part| part == token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_may_hold_the_shorter_of_two_secrets() {
        let now = std::time::Instant::now();
        let token = |id: &str| {
            let catalog = crate::keystone::Catalog::default();
            let token = Token::fixed(crate::keystone::TokenId::new(id).unwrap(), catalog, now);
            token.with_bearer(crate::keystone::TokenId::new("access-1==").unwrap(), None)
        };
        let sent = Sent { token: Arc::new(token("a-much-longer-token")), refused: None };
        let shows = |sent: &Sent, text| sent.shows_in(&HeaderValue::from_static(text));
        assert!(
            shows(&sent, "a-much-longer-token") && shows(&sent, "access-1") && shows(&sent, "x access-1==")
        );
        assert!(!shows(&sent, "access-2") && !shows(&sent, "access-") && !shows(&sent, ""));
        let sent = Sent { refused: Some(Arc::new(token("old"))), ..sent };
        assert!(shows(&sent, "old") && !shows(&sent, "older"));
        let nothing = Arc::new(Token::none(crate::keystone::Catalog::default(), now));
        assert!(!shows(&Sent { token: nothing, refused: None }, "none"));
    }

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
