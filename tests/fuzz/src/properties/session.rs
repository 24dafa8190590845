//! Tokens of keyway's own: nobody but keyway makes one, and what was changed opens nothing.

use keyway::facade::{Keys, Session, Unusable, random_id};
use keyway::keystone::{Domain, Project, Scope, Secret};

/// How each token begins that could be one of ours.
const START: &[u8] = b"gAAAAA";

/// Takes the input for a token, for what a token says, and for what somebody does to a good one.
///
/// # Panics
/// If anything opens that was not sealed, or what was sealed does not.
pub fn check(input: &[u8]) {
    let keys = Keys::default();
    let foreign = if input.starts_with(START) { Unusable::Foreign } else { Unusable::NoToken };
    assert_eq!(keys.open(input, 0), Err(foreign));
    assert!(!keys.is_own(input));

    let session = session(&keys, input);
    let token = keys.seal(&session);
    assert!(token.as_bytes().starts_with(START) && token.is_ascii());
    assert_eq!(keys.open(token.as_bytes(), session.issued_at), Ok(session));
    assert_eq!(keys.open(token.as_bytes(), i64::MAX), Err(Unusable::Expired));

    let mut changed = token.clone().into_bytes();
    for (index, byte) in input.iter().take(32).enumerate() {
        let at = (index * 37 + usize::from(*byte) * 5) % changed.len();
        changed[at] ^= byte;
    }
    if changed != token.as_bytes() {
        assert!(keys.open(&changed, 0).is_err(), "{token} was changed");
        assert!(!keys.is_own(&changed), "{token} was changed");
    }
    let cut = &token.as_bytes()[..token.len() - 1 - input.len() % token.len().min(64)];
    assert!(!keys.is_own(cut), "{token} was cut");
}

/// A session that says what the input says, as far as there is room.
fn session(keys: &Keys, input: &[u8]) -> Session {
    let text: String = String::from_utf8_lossy(input).chars().take(200).collect();
    let (first, rest) = text.split_at(text.char_indices().nth(8).map_or(text.len(), |(at, _)| at));
    let (first, rest) = (first.to_owned(), rest.to_owned());
    let scope = match input.first().copied().unwrap_or_default() % 6 {
        0 => Scope::Default,
        1 => Scope::Unscoped,
        2 => Scope::System,
        3 => Scope::Domain(Domain::Name(rest.clone())),
        4 => Scope::Project(Project::Id(rest.clone())),
        _ => Scope::Project(Project::Name { name: rest.clone(), domain: Some(Domain::Id(first.clone())) }),
    };
    let (name, shown) = (first.clone(), Secret::new(rest.as_str()));
    Session {
        id: random_id(),
        key: (first.into(), scope),
        login: input.len().is_multiple_of(2).then(|| keys.vouch(&name, &shown)),
        methods: rest.split(' ').filter(|method| method.len() <= 32).take(8).map(str::to_owned).collect(),
        issued_at: input.len() as i64,
        expires_at: input.len() as i64 + 1,
    }
}
