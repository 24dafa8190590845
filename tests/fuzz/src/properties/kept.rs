//! Tokens that were kept on disk or in the store that keyways share, and what these say to each other: nothing opens
//! that was not sealed, and what was sealed is a token that lives no longer than it says, or none.

use std::time::{Duration, Instant};

use keyway::keystone::Token;
use keyway::keystone::seal::{Moment, Seal, Unusable, read};
use keyway::keystone::shared::News;
use keyway::private::Key;
use serde_json::Value;

use super::token::says;

const NAME: &str = "0123456789abcdef0123456789abcdef.token";

/// Takes the input for a file, for what was sealed in one, and for what somebody does to a good one.
///
/// # Panics
/// If one of the above does not hold.
pub fn check(input: &[u8]) {
    let seal = Seal::new(&Key::new([7; 32]));
    let now =
        Moment { instant: Instant::now(), wall: 1_790_000_000_000, boot: Some(("b".to_owned(), 86_400_000)) };
    let why = |file: Vec<u8>| seal.open(NAME, file, &now).err();
    assert!(matches!(why(input.to_vec()), Some(Unusable::NoEntry | Unusable::Foreign)));
    let begun = [b"keyway token v1\n", input].concat();
    assert!(matches!(why(begun), Some(Unusable::NoEntry | Unusable::Foreign)));

    assert!(News::open(&seal, input).is_none(), "nobody with the key said it");
    // With the key it may be anything as well.
    let said = seal.close_message(input);
    assert_eq!(seal.open_message(&said).as_deref(), Some(input));
    if let Some(news) = News::open(&seal, &said) {
        assert_eq!(News::open(&seal, &news.close(&seal)), Some(news));
    }
    assert!(matches!(why(said), Some(Unusable::NoEntry | Unusable::Foreign)), "a message is no entry");

    let Ok(token) = read(input, &now) else { return };
    check_token(&token, &now);
    // Times are written in milliseconds; of a token that has less than one left, nothing is.
    let Some(file) = seal.close(NAME, &token, &now) else {
        assert!(token.life_left(now.instant).is_some_and(|left| left < Duration::from_millis(1)));
        return;
    };
    let kept = match seal.open(NAME, file.clone(), &now) {
        Ok(kept) => kept,
        // A time that quoted the token was left out of the document, and without it that is none.
        Err(why) => {
            let document = document(&token);
            assert!(document.get("expires_at").is_none() || document.get("issued_at").is_none(), "{why:?}");
            return;
        }
    };
    assert_eq!((&kept.id, kept.expires_at, kept.by_v2), (&token.id, token.expires_at, token.by_v2));
    assert!(same(&document(&kept), &document(&token)), "{:?} became {:?}", token.document, kept.document);
    assert!(kept.life_left(now.instant) <= token.life_left(now.instant));
    let id = token.id.expose().as_bytes();
    // A shorter one may be anywhere by chance.
    assert!(id.len() < 8 || !file.windows(id.len()).any(|window| window == id), "it can be read");

    let mut changed = file.clone();
    for (index, byte) in input.iter().take(32).enumerate() {
        let at = (index * 37 + usize::from(*byte) * 5) % changed.len();
        changed[at] ^= byte;
    }
    if changed != file {
        assert!(why(changed).is_some(), "it was changed");
    }
    assert!(why(file[..file.len() - 1 - input.len() % file.len()].to_vec()).is_some(), "it was cut");
    assert!(seal.open(&NAME.replace('0', "1"), file.clone(), &now).is_err(), "it is another's");
    let ended = now.instant + token.life_left(now.instant).expect("it has an end");
    let later = Moment { instant: ended, wall: i64::MAX, ..now };
    assert!(matches!(seal.open(NAME, file, &later), Err(Unusable::Expired)));
}

fn document(token: &Token) -> Value {
    let document = token.document.as_deref().expect("Keystone said something");
    serde_json::from_slice(document).expect("it is JSON")
}

/// Whether two documents say the same. Fractions, which Keystone's have none of, may differ in their last digits: to
/// read and to write one is not exact.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let [one, other] = [one, other].map(|number| number.as_f64().unwrap_or_default());
            (one - other).abs() <= one.abs() * 1e-12
        }
        (one, other) => one == other,
    }
}

fn check_token(token: &Token, now: &Moment) {
    let left = token.life_left(now.instant).expect("it has an end");
    assert!(token.is_fresh(now.instant) && !left.is_zero() && left <= token.lifetime());
    let (renew, end) = (token.renew_at(0.5).expect("an end"), token.expires().expect("an end"));
    assert!(renew <= end, "it would be renewed after its end");
    let id = token.id.expose();
    assert_eq!(format!("{:?}", token.id), "TokenId(redacted)");
    let document = document(token);
    assert!(document.is_object());
    // Not in the text of it: a token may end with a quote, and what is nearly the token before one.
    assert!(id.len() < 8 || !says(&document, id), "the document holds the token");
    for endpoint in token.catalog.endpoints() {
        let _ = endpoint.base_url();
    }
}
