//! How is a token written down so that it is the same token later, and nobody else's?
//!
//! An entry is a token, what Keystone said of it, and what is left of its life, sealed with a key ([`Seal`]). Its name
//! is a keyed hash of who logs in where, how and for what, and what is sealed opens under its own name only: whoever
//! can write where entries lie (and lacks the key) can remove tokens, but neither make one nor hand one login's token
//! to another. Where that is, a [directory](super::store) or a [server](super::shared), is not known here.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Identity, Method, Scope, Secret, Source, Token, TokenId, protocol};
use crate::private::{self, Key};
use crate::upstream::tls;

/// How each entry begins.
pub(super) const MAGIC: &[u8; 16] = b"keyway token v1\n";
/// Beginning, end of life, nonce.
pub(super) const HEAD: usize = MAGIC.len() + 8 + NONCE_LEN;

/// What holds for each message: none is taken for an entry.
const MESSAGE: &[u8] = b"keyway message v1";

/// What follows the hash in the name of an entry.
pub(super) const ENTRY: &str = ".token";

/// How far an entry may be from the future: clocks are set by small steps all the time. Milliseconds.
const LEEWAY: i64 = 1000;

/// Why an entry is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no entry, or cut off.
    #[error("is no whole entry")]
    NoEntry,
    /// It was not sealed with this key, or under another name, or changed since.
    #[error("was not sealed by this keyway's key, or was changed since")]
    Foreign,
    /// It was written later than now, and nothing tells how long ago that really was.
    #[error("is from the future: was the clock set back?")]
    Future,
    /// The token is over.
    #[error("holds a token that is over")]
    Expired,
    /// What was sealed is no token.
    #[error("holds no token")]
    NoToken,
}

/// A moment by every clock that there is.
#[derive(Clone, Debug)]
pub struct Moment {
    /// By the clock that tokens live by.
    pub instant: Instant,
    /// By the wall clock, UNIX milliseconds.
    pub wall: i64,
    /// Which boot of the system this is, and milliseconds since then, also those that it slept: a clock that
    /// nobody sets. `None` where the system does not say.
    pub boot: Option<(String, u64)>,
}

impl Moment {
    /// Now; `boot` is the id of this boot of the system.
    pub(super) fn now(boot: Option<&String>) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up =
            u64::try_from(up.tv_sec).unwrap_or(0) * 1000 + u64::try_from(up.tv_nsec).unwrap_or(0) / 1_000_000;
        Self {
            instant: tokio::time::Instant::now().into_std(),
            wall: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            boot: boot.map(|boot| (boot.clone(), up)),
        }
    }
}

/// How long a token lives, as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Life {
    /// When it was written down: by the wall clock, UNIX milliseconds, and by the clock since the system's boot.
    saved: i64,
    boot: Option<(String, u64)>,
    /// What was left of it then, and the whole of it, milliseconds.
    left: u64,
    whole: u64,
    /// Identity v2.0 issued the token.
    by_v2: bool,
}

impl Life {
    /// What is left of it now, milliseconds.
    ///
    /// A clock that was set back must not make a dead token live, so of the two clocks the one counts by which
    /// more time went by; and where the wall clock is of no use, the other must tell.
    fn left(&self, now: &Moment) -> Result<u64, Unusable> {
        let by_wall = now.wall.checked_sub(self.saved).filter(|passed| *passed >= -LEEWAY);
        let by_wall = by_wall.map(|passed| u64::try_from(passed).unwrap_or(0));
        let by_boot = match (&self.boot, &now.boot) {
            (Some((then, at)), Some((boot, up))) if then == boot => up.checked_sub(*at),
            _ => None,
        };
        let passed = by_wall.max(by_boot).ok_or(Unusable::Future)?;
        self.left.checked_sub(passed).filter(|left| *left > 0).ok_or(Unusable::Expired)
    }
}

/// What seals entries, and names them.
pub struct Seal {
    names: Key,
    contents: LessSafeKey,
}

impl Seal {
    /// Both from one key.
    ///
    /// # Panics
    /// Never: 32 bytes are a key.
    pub fn new(key: &Key) -> Self {
        let own = |what: &[u8]| {
            let mut own = Key::default();
            own.copy_from_slice(private::derive(key, &[b"keyway kept tokens", what]).as_ref());
            own
        };
        let contents =
            UnboundKey::new(&AES_256_GCM, own(b"contents").as_slice()).expect("32 bytes are a key");
        Self { names: own(b"names"), contents: LessSafeKey::new(contents) }
    }

    /// The name of the entry for a login and a scope. It is not about the secret, which may change, except
    /// where nothing else says who logs in: `bearer`, see [`bearer`].
    pub fn name(
        &self,
        login: &Identity,
        tls: &tls::Config,
        scope: &Scope,
        bearer: Option<&Secret>,
    ) -> String {
        // Debug shows all of a login but its secrets, also what will be added to it. If it ever reads otherwise,
        // entries have new names, which costs a login each.
        let login = format!("{:?}", Identity { scope: scope.clone(), ..login.clone() });
        let bearer = bearer.map_or("", Secret::expose);
        // Whom we believed to be Keystone is part of what its catalog is worth.
        let tls = format!("{tls:?}");
        let hash = private::derive(&self.names, &[login.as_bytes(), tls.as_bytes(), bearer.as_bytes()]);
        let half: [u8; 16] = hash.as_ref()[..16].try_into().expect("16 of 32 bytes");
        format!("{:032x}{ENTRY}", u128::from_be_bytes(half))
    }

    /// The entry of a token; `None` for one that has no end or no document, or is over.
    ///
    /// # Panics
    /// Never: what Keystone says is shorter than what can be sealed.
    pub fn close(&self, name: &str, token: &Token, now: &Moment) -> Option<Vec<u8>> {
        let document = token.document.as_ref()?;
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let left = token.life_left(now.instant).map(millis).filter(|left| *left > 0)?;
        let whole = millis(token.lifetime()).max(left);
        let life = Life { saved: now.wall, boot: now.boot.clone(), left, whole, by_v2: token.by_v2 };
        let life = serde_json::to_vec(&life).ok()?;
        let end = now.wall.saturating_add(i64::try_from(left).unwrap_or(i64::MAX));

        let id = token.id.expose().as_bytes();
        // Nothing that holds the token may grow: it would leave a copy behind.
        let mut file =
            Vec::with_capacity(HEAD + id.len() + life.len() + document.len() + 2 + AES_256_GCM.tag_len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&end.to_be_bytes());
        let nonce = private::random::<NONCE_LEN>();
        file.extend_from_slice(&nonce);
        for part in [id, b"\n", &life, b"\n", document] {
            file.extend_from_slice(part);
        }
        let about = about(&file[..HEAD], name);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.contents.seal_in_place_separate_tag(nonce, Aad::from(about), &mut file[HEAD..]);
        file.extend_from_slice(tag.expect("a document of this length can be sealed").as_ref());
        Some(file)
    }

    /// The token of an entry, with what is left of its life.
    ///
    /// # Errors
    /// See [`Unusable`].
    ///
    /// # Panics
    /// Never: the parts have the lengths that were asked for.
    pub fn open(&self, name: &str, file: Vec<u8>, now: &Moment) -> Result<Token, Unusable> {
        let mut file = Zeroizing::new(file);
        if file.len() < HEAD || !file.starts_with(MAGIC) {
            return Err(Unusable::NoEntry);
        }
        let (head, sealed) = file.split_at_mut(HEAD);
        let nonce = head[HEAD - NONCE_LEN..].try_into().expect("that many bytes");
        let opened = self.contents.open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(about(head, name)),
            sealed,
        );
        read(opened.map_err(|_| Unusable::Foreign)?, now)
    }

    /// Something short that one keyway says to others: a nonce, and what it says, sealed.
    ///
    /// # Panics
    /// Never: anything short can be sealed.
    pub fn close_message(&self, said: &[u8]) -> Vec<u8> {
        let (nonce, mut sealed) = (private::random::<NONCE_LEN>(), said.to_vec());
        let closed = self.contents.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(MESSAGE),
            &mut sealed,
        );
        closed.expect("something short can be sealed");
        [&nonce[..], &sealed].concat()
    }

    /// What was said; `None` if that was not with this key.
    pub fn open_message(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = message.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let said = self.contents.open_in_place(nonce, Aad::from(MESSAGE), &mut sealed).ok()?;
        Some(said.to_vec())
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(redacted)")
    }
}

/// What is in the open, and holds for this entry alone.
fn about(head: &[u8], name: &str) -> Vec<u8> {
    [head, name.as_bytes()].concat()
}

/// Reads what was sealed: the token, its life, its document, on a line each. It is checked as an answer of
/// Keystone's is.
///
/// # Errors
/// See [`Unusable`].
pub fn read(opened: &[u8], now: &Moment) -> Result<Token, Unusable> {
    let mut lines = opened.splitn(3, |byte| *byte == b'\n');
    let [Some(id), Some(life), Some(document)] = [(); 3].map(|()| lines.next()) else {
        return Err(Unusable::NoToken);
    };
    let id = std::str::from_utf8(id).ok().and_then(|id| TokenId::new(id).ok()).ok_or(Unusable::NoToken)?;
    let life: Life = serde_json::from_slice(life).map_err(|_| Unusable::NoToken)?;
    let left = life.left(now)?;
    let spent = Duration::from_millis(life.whole.checked_sub(left).ok_or(Unusable::NoToken)?);
    let born = now.instant.checked_sub(spent).ok_or(Unusable::NoToken)?;
    let whole = Duration::from_millis(life.whole);
    let token = protocol::read_document(id, document, life.by_v2, born, whole);
    let token = token.ok_or(Unusable::NoToken)?;
    // The longest life that is counted with may be shorter than what the entry says.
    if token.is_fresh(now.instant) { Ok(token) } else { Err(Unusable::Expired) }
}

/// The secret that alone says who logs in: tokens are somebody's, and nothing beside them tells whose.
pub fn bearer(method: &Method) -> Option<&Source> {
    match method {
        Method::Token(token) => Some(token),
        Method::MultiFactor { shown, spare } => shown.iter().chain(spare).find_map(bearer),
        Method::Password { .. }
        | Method::ApplicationCredential { .. }
        | Method::Totp { .. }
        | Method::OAuth2 { .. }
        | Method::OAuth2Mtls { .. }
        | Method::OAuth1 { .. }
        | Method::Kerberos(_)
        | Method::Federated(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::Response;
    use serde_json::{Value, json};

    use super::*;
    use crate::keystone::{ApplicationCredential, Domain, IdentityVersion, Project, User};
    use crate::upstream::BaseUrl;

    pub(in crate::keystone) const NAME: &str = "0123456789abcdef0123456789abcdef.token";
    const TOKEN: &str = "gAAAAABcanary-of-a-token";

    fn seal() -> Seal {
        Seal::new(&Key::new([7; 32]))
    }

    /// So many milliseconds after the moment at which tests write entries.
    fn at(start: Instant, wall: i64, boot: Option<(&str, u64)>) -> Moment {
        let passed = boot.map_or_else(|| u64::try_from(wall).unwrap_or(0), |(_, up)| up);
        Moment {
            instant: start + Duration::from_millis(passed),
            wall: 1_790_000_000_000 + wall,
            boot: boot.map(|(id, up)| (id.to_owned(), 5_000_000 + up)),
        }
    }

    fn sent(at: Instant) -> protocol::Sent {
        protocol::Sent { at, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000) }
    }

    /// What Keystone answers to a login, v3; the token lives for an hour.
    pub(in crate::keystone) fn token(born: Instant) -> Token {
        let endpoint = |interface| {
            json!({"id": "e", "interface": interface, "region": "R", "region_id": "R",
                                          "url": "https://nova.example/v2.1"})
        };
        let document = json!({"token": {
            "methods": ["password"], "user": {"id": "u", "name": "ada", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "issued_at": "2026-11-21T21:21:13.000000Z", "expires_at": "2026-11-21T22:21:13.000000Z",
            "catalog": [{"type": "compute", "name": "nova", "id": "s",
                         "endpoints": [endpoint("public"), endpoint("odd")]}],
        }});
        let answer = Response::builder().header("x-subject-token", TOKEN).body(document.to_string().into());
        protocol::read_v3_token(&answer.unwrap(), sent(born)).unwrap()
    }

    /// The same by v2.0.
    fn v2_token(born: Instant) -> Token {
        let document = json!({"access": {
            "token": {"id": TOKEN, "expires": "2026-11-21T22:21:13Z", "issued_at": "2026-11-21T21:21:13Z",
                      "tenant": {"id": "p", "name": "demo"}},
            "serviceCatalog": [{"type": "compute", "name": "nova", "endpoints": [
                {"region_id": "R", "publicURL": "https://nova.example/v2", "adminURL": "http://nova.example/v2"}]}],
        }});
        protocol::read_v2_token(&Response::new(document.to_string().into()), sent(born)).unwrap()
    }

    /// Everything that a token is, but for the clock.
    fn shown(token: &Token) -> String {
        let Token { id, catalog, project, domain, system, user, document, by_v2, expires_at, .. } = token;
        let document: Value = serde_json::from_slice(document.as_ref().unwrap()).unwrap();
        let id = id.expose();
        format!("{id} {catalog:?} {project:?} {domain:?} {system} {user:?} {document} {by_v2} {expires_at:?}")
    }

    // Promise 84.
    #[test]
    fn what_was_kept_is_the_same_token_with_what_is_left_of_its_life() {
        let start = Instant::now();
        for token in [token(start), v2_token(start)] {
            let saved = at(start, 60_000, None);
            let file = seal().close(NAME, &token, &saved).unwrap();
            let now = at(start, 600_000, None);
            let kept = seal().open(NAME, file, &now).unwrap();
            assert_eq!(shown(&kept), shown(&token));
            assert_eq!(kept.life_left(now.instant), Some(Duration::from_secs(3600 - 600)));
            assert_eq!(kept.lifetime(), token.lifetime());
            assert_eq!(kept.renew_at(0.0), token.renew_at(0.0), "it is renewed when it would have been");
            assert!(!kept.proved_within(now.instant, Duration::from_secs(60)), "nobody accepted it just now");
        }
    }

    #[test]
    fn no_clock_makes_a_dead_token_live() {
        let start = Instant::now();
        let (hour, boot) = (3_600_000, Some(("b", 0)));
        for (saved_boot, wall, boot, expected) in [
            (None, 0, None, Ok(3600)),
            (None, hour - 1000, None, Ok(1)),
            (None, hour, None, Err(Unusable::Expired)),
            (None, 1_000_000 * hour, None, Err(Unusable::Expired)),
            // A small step back is none; a large one, or a file from the future, tells nothing.
            (None, -1000, None, Ok(3600)),
            (None, -1001, None, Err(Unusable::Future)),
            (None, -1_000_000 * hour, None, Err(Unusable::Future)),
            (None, -1001, boot, Err(Unusable::Future)),
            // The clock that nobody sets counts as well, as long as it is the same.
            (boot, 1000, Some(("b", 2000)), Ok(3598)),
            (boot, 3000, Some(("b", 2000)), Ok(3597)),
            (boot, -hour, Some(("b", 2000)), Ok(3598)),
            (boot, -hour, Some(("b", 3_600_000)), Err(Unusable::Expired)),
            (boot, 10, Some(("b", 3_600_000)), Err(Unusable::Expired)),
            (boot, -hour, Some(("c", 2000)), Err(Unusable::Future)),
            (boot, 1000, Some(("c", 3_600_000)), Ok(3599)),
        ] {
            let file = seal().close(NAME, &token(start), &at(start, 0, saved_boot)).unwrap();
            let now = at(start, wall, boot);
            let kept = seal().open(NAME, file, &now);
            let left = kept.map(|token| token.life_left(now.instant).unwrap().as_secs());
            assert_eq!(left, expected, "{wall} {boot:?}");
        }
    }

    #[test]
    fn what_is_over_or_has_no_end_is_not_kept() {
        let start = Instant::now();
        assert!(seal().close(NAME, &token(start), &at(start, 3_600_000, None)).is_none());
        let fixed = Token::fixed(TokenId::new("fixed").unwrap(), crate::keystone::Catalog::default(), start);
        assert!(seal().close(NAME, &fixed, &at(start, 0, None)).is_none());
    }

    // Promise 84.
    #[test]
    fn an_entry_opens_whole_with_its_key_and_under_its_name_only() {
        let (start, now) = (Instant::now(), at(Instant::now(), 0, None));
        let file = seal().close(NAME, &token(start), &now).unwrap();
        let open = |name: &str, file: &[u8]| seal().open(name, file.to_vec(), &now).map(|_| ());
        assert_eq!(open(NAME, &file), Ok(()));
        assert_eq!(open(&NAME.replace('0', "1"), &file), Err(Unusable::Foreign));
        let other = Seal::new(&Key::new([8; 32]));
        assert_eq!(other.open(NAME, file.clone(), &now).map(|_| ()), Err(Unusable::Foreign));
        for length in 0..file.len() {
            let expected = if length < HEAD { Unusable::NoEntry } else { Unusable::Foreign };
            assert_eq!(open(NAME, &file[..length]), Err(expected), "{length}");
        }
        assert_eq!(open(NAME, &[&file[..], b"x"].concat()), Err(Unusable::Foreign));
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1 << (index % 8);
            let expected = if index < MAGIC.len() { Unusable::NoEntry } else { Unusable::Foreign };
            assert_eq!(open(NAME, &changed), Err(expected), "byte {index}");
        }
        for secret in [TOKEN, "ada", "nova.example", "demo"] {
            assert!(!file.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
        assert_ne!(seal().close(NAME, &token(start), &now).unwrap(), file, "a nonce is used once");
    }

    #[test]
    fn what_was_sealed_is_checked_as_an_answer_of_keystones_is() {
        let now = at(Instant::now(), 0, None);
        let life = |left: u64, whole: u64| {
            json!({"saved": now.wall, "boot": null, "left": left, "whole": whole, "by_v2": false}).to_string()
        };
        let document = r#"{"expires_at": "2026-11-21T22:21:13Z"}"#;
        let whole = format!("{TOKEN}\n{}\n{document}", life(1000, 2000));
        assert_eq!(read(whole.as_bytes(), &now).map(|_| ()), Ok(()));
        for wrong in [
            String::new(),
            TOKEN.to_owned(),
            format!("{TOKEN}\n{}", life(1000, 2000)),
            format!("\n{}\n{document}", life(1000, 2000)),
            format!("a b\n{}\n{document}", life(1000, 2000)),
            format!("{TOKEN}\n{{}}\n{document}"),
            format!("{TOKEN}\n{}\n{document}", life(2001, 2000)),
            format!("{TOKEN}\n{}\n{{}}", life(1000, 2000)),
            format!("{TOKEN}\n{}\n[]", life(1000, 2000)),
            format!("{TOKEN}\n{}\n{document}x", life(1000, 2000)),
        ] {
            assert_eq!(read(wrong.as_bytes(), &now).map(|_| ()), Err(Unusable::NoToken), "{wrong}");
        }
    }

    fn password(user: User, password: &str) -> Identity {
        Identity {
            auth_url: BaseUrl::parse("https://keystone.example/v3").unwrap(),
            version: IdentityVersion::Discover,
            method: Method::Password { user, password: Secret::new(password).into() },
            scope: Scope::Default,
        }
    }

    fn by_name(name: &str, domain: Domain) -> User {
        User::Name { name: name.to_owned(), domain: Some(domain) }
    }

    // Promise 84.
    #[test]
    fn logins_that_differ_in_more_than_their_password_have_entries_of_their_own() {
        let domain = |name: &str| Domain::Name(name.to_owned());
        let ada = || password(by_name("ada", domain("Default")), "hunter2");
        let tls = tls::Config::default();
        let of = |login: &Identity, scope: &Scope| seal().name(login, &tls, scope, None);
        let own = of(&ada(), &Scope::Default);
        assert_eq!(own.len(), NAME.len());
        assert_eq!(of(&password(by_name("ada", domain("Default")), "hunter3"), &Scope::Default), own);
        // The cloud's own scope is not what this token is for.
        assert_eq!(of(&Identity { scope: Scope::System, ..ada() }, &Scope::Default), own);

        let project = |name: &str, domain: Option<Domain>| {
            Scope::Project(Project::Name { name: name.to_owned(), domain })
        };
        let credential = |which, secret: &str| Identity {
            method: Method::ApplicationCredential { which, secret: Secret::new(secret).into() },
            ..ada()
        };
        let elsewhere = BaseUrl::parse("https://keystone.example:5000/v3").unwrap();
        let id = |id: &str| ApplicationCredential::Id(id.to_owned());
        let named = |user| ApplicationCredential::Name { name: "ada".to_owned(), user };
        let mut names = vec![
            own,
            of(&password(by_name("bob", domain("Default")), "hunter2"), &Scope::Default),
            of(&password(by_name("ada", domain("Other")), "hunter2"), &Scope::Default),
            of(&password(by_name("ada", Domain::Id("Default".to_owned())), "hunter2"), &Scope::Default),
            of(&password(User::Id("ada".to_owned()), "hunter2"), &Scope::Default),
            of(&Identity { auth_url: elsewhere, ..ada() }, &Scope::Default),
            of(&Identity { version: IdentityVersion::V2, ..ada() }, &Scope::Default),
            of(&ada(), &Scope::Unscoped),
            of(&ada(), &Scope::System),
            of(&ada(), &Scope::Domain(domain("demo"))),
            of(&ada(), &Scope::Project(Project::Id("demo".to_owned()))),
            of(&ada(), &project("demo", None)),
            of(&ada(), &project("demo", Some(domain("Default")))),
            of(&ada(), &project("demo", Some(Domain::Id("Default".to_owned())))),
            of(&credential(id("ada"), "s"), &Scope::Default),
            of(&credential(named(User::Id("ada".to_owned())), "s"), &Scope::Default),
            of(&credential(named(User::Id("bob".to_owned())), "s"), &Scope::Default),
            seal().name(&ada(), &tls::Config { insecure: true, ..tls.clone() }, &Scope::Default, None),
            Seal::new(&Key::new([8; 32])).name(&ada(), &tls, &Scope::Default, None),
        ];
        // Nothing but the token itself says whose it is.
        for token in ["one", "other"] {
            let method = Method::Token(Secret::new(token).into());
            let Some(Source::Given(given)) = bearer(&method) else { panic!("it stands there") };
            let login = Identity { method: method.clone(), ..ada() };
            names.push(seal().name(&login, &tls, &Scope::Default, Some(given)));
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(bearer(&ada().method).is_none());
    }
}
