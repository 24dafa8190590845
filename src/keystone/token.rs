//! How long is a token good, and when is it time for the next one?
//!
//! A [`Token`] carries everything that came with it, the catalog above all. Its life is counted on
//! the monotonic clock from before Keystone was asked, so neither a wrong clock on this machine nor
//! one that jumps makes an expired token look fresh. Nothing here asks a clock: `now` is an
//! argument.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Catalog, Domain, Project, Scope, Secret};
use crate::secret;

/// The token's header, which keyway writes and nobody else.
pub static X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// Renewal starts this long before a token's end, if its life is not short.
const RENEWAL_MARGIN: Duration = Duration::from_secs(120);

/// No life is counted as longer than this: an `Instant` can't hold an arbitrary year.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How often at most a token's proof is noted, milliseconds.
const PROOF_INTERVAL: u64 = 1000;

/// What fingerprints are made with. One for the whole process and in no configuration: it must never
/// leave this process, or a fingerprint could be checked against guesses.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A token's value, ready to be an `X-Auth-Token` header. Never printed. Clones share its bytes, which
/// are wiped with the last of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenId(HeaderValue);

/// The text is no token: empty, or not what a header field can hold. It is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token must be visible ASCII without line breaks, and not empty")]
pub struct InvalidToken;

impl TokenId {
    /// Takes a token in.
    ///
    /// # Errors
    /// When it is empty or could not be a header value.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let bytes = secret::hold(text.as_bytes().to_vec());
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| InvalidToken)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The header value, marked sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// What tells tokens apart in a log without telling anything about them: 32 bits of a hash with
    /// a key that is new in each process, as 8 hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        format!("{:08x}", FINGERPRINTS.hash_one(self.0.as_bytes()) >> 32)
    }

    /// The value of a header that names it with a scheme: `Bearer`.
    pub(super) fn with_scheme(&self, scheme: &str) -> HeaderValue {
        let text = secret::hold(format!("{scheme} {}", self.expose()).into_bytes());
        let mut value = HeaderValue::from_maybe_shared(text).expect("both are visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// The token itself, for the one who sends or shows it.
    pub fn expose(&self) -> &str {
        self.0.to_str().expect("`new` lets only visible ASCII in")
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenId(redacted)")
    }
}

/// Who or what a token names: a project, a user or a domain. All that Identity v2.0 knows is in the domain with
/// the id `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The id.
    pub id: String,
    /// The name; empty where Keystone left it out.
    pub name: String,
    /// The id of the domain that it belongs to.
    pub domain_id: Option<String>,
    /// That domain's name, where Keystone told it.
    pub domain_name: Option<String>,
}

/// A token and what came with it. Where a login has none, what services are shown instead of one.
#[derive(Debug)]
pub struct Token {
    /// Its value; without one, what tells this from others.
    pub id: TokenId,
    /// Where the services are; empty for an unscoped token.
    pub catalog: Arc<Catalog>,
    /// The project that it is scoped to, if it is.
    pub project: Option<Named>,
    /// The domain that it is scoped to, if it is.
    pub domain: Option<Named>,
    /// Whether it is scoped to the system.
    pub system: bool,
    /// The id of the trust that it is scoped to, if it is.
    pub trust: Option<String>,
    /// Whose it is; unknown for a fixed token.
    pub user: Option<Named>,
    /// What Keystone said of it: the text of the `token` object of Identity v3, catalog included. Of an
    /// Identity v2.0 token, the same as v3 would have said it. `None` for a fixed token.
    pub document: Option<Bytes>,
    /// Identity v2.0 issued it, so its Keystone may know nothing else.
    pub by_v2: bool,
    /// The person's login that it came of, if it took one.
    pub login: Option<super::LoginId>,
    /// Its end by Keystone's clock, UNIX seconds, for people and metrics; `None` where it has none.
    pub expires_at: Option<i64>,
    /// What a request carries.
    fields: Vec<(HeaderName, HeaderValue)>,
    /// What of it must not be seen by anybody else.
    secrets: Vec<TokenId>,
    /// How long the shortest of these is, without padding: most of what comes back is shorter.
    shortest: usize,
    born: Instant,
    expires: Option<Instant>,
    lifetime: Duration,
    used: AtomicBool,
    proved: AtomicU64,
    refused: AtomicBool,
}

/// A token without the padding of its base64, which others may leave out.
fn unpadded(token: &str) -> &str {
    token.trim_end_matches('=')
}

impl Token {
    /// A token whose life of `lifetime` began at `born`, an instant before it was asked for.
    pub fn new(id: TokenId, catalog: Catalog, born: Instant, lifetime: Duration) -> Self {
        let lifetime = lifetime.min(LONGEST_LIFE);
        Self {
            fields: vec![(X_AUTH_TOKEN.clone(), id.header().clone())],
            shortest: unpadded(id.expose()).len(),
            secrets: vec![id.clone()],
            id,
            catalog: Arc::new(catalog),
            project: None,
            domain: None,
            system: false,
            trust: None,
            user: None,
            document: None,
            by_v2: false,
            login: None,
            expires_at: None,
            born,
            expires: born.checked_add(lifetime),
            lifetime,
            used: AtomicBool::new(false),
            proved: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        }
    }

    /// A token that the operator gave: it never expires, as far as anyone knows.
    pub fn fixed(id: TokenId, catalog: Catalog, now: Instant) -> Self {
        Self { expires: None, ..Self::new(id, catalog, now, Duration::MAX) }
    }

    /// What stands for a token where services want a user's name and password (RFC 7617).
    pub fn basic(username: &str, password: &Secret, catalog: Catalog, now: Instant) -> Self {
        let (id, value) = basic(username, password);
        Self { fields: vec![(AUTHORIZATION, value)], ..Self::fixed(id, catalog, now) }
    }

    /// What stands for a token where services want none.
    pub fn none(catalog: Catalog, now: Instant) -> Self {
        let id = TokenId::new("none").expect("it is visible ASCII");
        let token = Self::fixed(id, catalog, now);
        Self { fields: Vec::new(), secrets: Vec::new(), shortest: usize::MAX, ..token }
    }

    /// The same where Keystone wants to know with each request what it is for. A name that no header field
    /// can hold is left out.
    pub fn tokenless(scope: &Scope, catalog: Catalog, now: Instant) -> Self {
        let mut token = Self::none(catalog, now);
        let mut say = |name: &'static str, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                token.fields.push((HeaderName::from_static(name), value));
            }
        };
        match scope {
            Scope::Project(Project::Id(id)) => say("x-project-id", id),
            Scope::Project(Project::Name { name, domain }) => {
                say("x-project-name", name);
                match domain {
                    Some(Domain::Id(id)) => say("x-project-domain-id", id),
                    Some(Domain::Name(name)) => say("x-project-domain-name", name),
                    None => {}
                }
            }
            Scope::Domain(Domain::Id(id)) => say("x-domain-id", id),
            Scope::Domain(Domain::Name(name)) => say("x-domain-name", name),
            Scope::Default | Scope::Unscoped | Scope::System | Scope::Trust(_) => {}
        }
        token
    }

    /// The same token with an access token beside it (RFC 6750), which is good for `life`.
    #[must_use]
    pub fn with_bearer(mut self, access: TokenId, life: Option<Duration>) -> Self {
        self.fields.push((AUTHORIZATION, access.with_scheme("Bearer")));
        self.shortest = self.shortest.min(unpadded(access.expose()).len());
        self.secrets.push(access);
        if let Some(life) = life.filter(|life| *life < self.lifetime) {
            let earlier = i64::try_from((self.lifetime - life).as_secs()).unwrap_or_default();
            self.expires_at = self.expires_at.map(|at| at - earlier);
            self.expires = self.born.checked_add(life);
            self.lifetime = life;
        }
        self
    }

    /// The fields that a request carries, so that its service knows who asks.
    pub fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// How long a text must be to hold one of [`Token::secrets`], bytes.
    pub fn shortest_secret(&self) -> usize {
        self.shortest
    }

    /// What of these must not come back in an answer: tokens, without the scheme before them.
    pub fn secrets(&self) -> &[TokenId] {
        &self.secrets
    }

    /// Its value, for who sends it; `None` where there is only something else.
    pub fn value(&self) -> Option<&TokenId> {
        self.fields.iter().any(|(name, _)| *name == X_AUTH_TOKEN).then_some(&self.id)
    }

    /// Whether it may still be sent.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// When it ends on the monotonic clock; `None` for a fixed token.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// What is left of its life; zero once it is over, `None` for a fixed token.
    pub fn life_left(&self, now: Instant) -> Option<Duration> {
        self.expires.map(|expires| expires.saturating_duration_since(now))
    }

    /// The whole of its life, as Keystone gave it.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// When to fetch the next one: 120 s or a tenth of its life before its end, whichever is more,
    /// but never before half of its life is over. `jitter`, from -1 to 1, moves that by up to a tenth
    /// of the margin, so that many processes do not renew at once. `None` for a fixed token.
    pub fn renew_at(&self, jitter: f64) -> Option<Instant> {
        let half = self.lifetime / 2;
        let margin = RENEWAL_MARGIN.max(self.lifetime / 10).min(half);
        let margin = margin.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0)).min(half);
        self.expires.map(|expires| expires.checked_sub(margin).unwrap_or(self.born))
    }

    /// Notes that a request carried it. Writes once, so that the hot path only reads.
    pub fn mark_used(&self) {
        if !self.was_used() {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request has carried it.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes that a service (or Keystone) accepted it just now. Writes once a second at most.
    pub fn mark_proved(&self, now: Instant) {
        let age = self.age(now);
        if age.saturating_sub(self.proved.load(Ordering::Relaxed)) >= PROOF_INTERVAL {
            self.proved.store(age, Ordering::Relaxed);
        }
    }

    /// Whether it was accepted (or issued) no longer than `span` ago.
    pub fn proved_within(&self, now: Instant, span: Duration) -> bool {
        let ago = self.age(now).saturating_sub(self.proved.load(Ordering::Relaxed));
        Duration::from_millis(ago) <= span
    }

    /// When it was asked for.
    pub fn born(&self) -> Instant {
        self.born
    }

    /// When a service (or Keystone) accepted it for the last time, or it was asked for; up to a second early. Once it was
    /// refused elsewhere that counts for nothing: services remember for minutes what they accepted.
    pub fn proved_at(&self) -> Instant {
        let proved =
            if self.refused.load(Ordering::Relaxed) { 0 } else { self.proved.load(Ordering::Relaxed) };
        self.born + Duration::from_millis(proved)
    }

    /// Notes that a service refused it to another keyway.
    pub fn mark_refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Milliseconds since it was asked for.
    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// A user's name and password as RFC 7617 encodes them, and the `Authorization` that shows them.
pub(super) fn basic(username: &str, password: &Secret) -> (TokenId, HeaderValue) {
    // Of its full size from the start, so that it leaves no copy behind.
    let mut pair = Zeroizing::new(String::with_capacity(username.len() + 1 + password.expose().len()));
    pair.push_str(username);
    pair.push(':');
    pair.push_str(password.expose());
    let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    let id = TokenId::new(&encoded).expect("base64 is visible ASCII, and the colon makes it some");
    let value = id.with_scheme("Basic");
    (id, value)
}

/// Reads a time as Keystones write it: any number of decimals, `Z`, an offset or neither, which
/// means UTC.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let shortened;
    let text = match text.find(['.', ',']) {
        // jiff holds nanoseconds and refuses finer ones.
        Some(point) => {
            let (whole, rest) = text.split_at(point);
            let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
            shortened = format!("{whole}{}{}", &rest[..=digits.min(9)], &rest[1 + digits..]);
            &shortened
        }
        None => text,
    };
    text.parse::<Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}

/// How long a token lives that ends at `expires`: counted from when Keystone says it was issued,
/// else from the `now` that comes closest to Keystone's clock. `None` when nothing is left of it.
pub(super) fn lifetime(expires: Timestamp, issued: Timestamp) -> Option<Duration> {
    Duration::try_from(expires.duration_since(issued)).ok().filter(|life| !life.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(born: Instant, seconds: u64) -> Token {
        let id = TokenId::new("gAAAAAB").unwrap();
        Token::new(id, Catalog::default(), born, Duration::from_secs(seconds))
    }

    // Promise 80.
    #[test]
    fn a_token_is_what_a_header_can_hold_and_is_never_printed() {
        let id = TokenId::new("gAAAAABra-secret").unwrap();
        assert_eq!(format!("{id:?}"), "TokenId(redacted)");
        assert!(!format!("{:?}", id.header()).contains("secret"));
        for bad in ["", "a b", "a\nb", "ä", "a\0"] {
            assert_eq!(TokenId::new(bad), Err(InvalidToken), "{bad:?}");
        }
        assert!(TokenId::new(&"M".repeat(16_384)).is_ok(), "PKI tokens are that long");
    }

    // Promise 81.
    #[test]
    fn a_fingerprint_tells_tokens_apart_and_nothing_else() {
        let id = TokenId::new("gAAAAABra-secret").unwrap();
        let fingerprint = id.fingerprint();
        assert_eq!(fingerprint, TokenId::new("gAAAAABra-secret").unwrap().fingerprint());
        assert_ne!(fingerprint, TokenId::new("gAAAAABra-secreu").unwrap().fingerprint());
        assert_eq!(fingerprint.len(), 8);
        assert!(fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()), "{fingerprint}");
        let unkeyed = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
        let guessed = format!("{:08x}", unkeyed.hash_one(id.header().as_bytes()) >> 32);
        assert_ne!(fingerprint, guessed, "anyone could check a guess without a key");
    }

    #[test]
    fn times_are_read_in_every_form_that_keystones_write() {
        let expected: Timestamp = "2026-11-21T22:21:13Z".parse().unwrap();
        for text in [
            "2026-11-21T22:21:13.000000Z",
            "2026-11-21T22:21:13Z",
            "2026-11-21T22:21:13",
            "2026-11-21T22:21:13.000000",
            "2026-11-21 22:21:13",
            "2026-11-21T22:21:13.000000000000001Z",
            "2026-11-22T00:21:13+02:00",
            "2026-11-22T00:21:13.0+0200",
            " 2026-11-21T17:21:13.000000-05:00 ",
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
        for text in ["", "tomorrow", "2026-13-01T00:00:00Z", "1795299673", ".", "2026-11-21T22:21:13.ä"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn a_life_must_be_positive() {
        let at = |text| parse_time(text).unwrap();
        let life = lifetime(at("2026-11-21T22:21:13Z"), at("2026-11-21T21:21:13.5Z"));
        assert_eq!(life, Some(Duration::from_millis(3_599_500)));
        assert_eq!(lifetime(at("2026-11-21T21:21:13Z"), at("2026-11-21T21:21:13Z")), None);
        assert_eq!(lifetime(at("2026-11-21T21:21:13Z"), at("2027-11-21T21:21:13Z")), None);
    }

    #[track_caller]
    fn check_renewal(life: u64, jitter: f64, expected: u64) {
        let born = Instant::now();
        let at = token(born, life).renew_at(jitter).unwrap();
        assert_eq!((at - born).as_secs(), expected, "{life} s, jitter {jitter}");
    }

    #[test]
    fn renewal_comes_ahead_of_expiry_but_never_before_half_of_life() {
        check_renewal(3600, 0.0, 3600 - 360);
        check_renewal(3600, 1.0, 3600 - 396);
        check_renewal(3600, -1.0, 3600 - 324);
        check_renewal(900, 0.0, 900 - 120);
        check_renewal(240, 0.0, 120);
        check_renewal(240, 1.0, 120);
        check_renewal(240, -1.0, 132);
        check_renewal(8, 1.0, 4);
        check_renewal(86_400, 0.0, 86_400 - 8640);
    }

    #[test]
    fn an_expired_token_is_not_fresh_and_a_fixed_one_always_is() {
        let born = Instant::now();
        let token = token(born, 60);
        assert!(token.is_fresh(born + Duration::from_secs(59)));
        assert!(!token.is_fresh(born + Duration::from_secs(60)));
        assert_eq!(token.life_left(born + Duration::from_secs(90)), Some(Duration::ZERO));

        let fixed = Token::fixed(TokenId::new("t").unwrap(), Catalog::default(), born);
        assert!(fixed.is_fresh(born + LONGEST_LIFE * 2));
        assert_eq!((fixed.renew_at(0.0), fixed.life_left(born)), (None, None));
    }

    #[track_caller]
    fn check_fields(token: &Token, expected: &[(&str, &str)], secrets: &[&str]) {
        let fields: Vec<_> =
            token.fields().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(fields, expected);
        let kept: Vec<_> = token.secrets().iter().map(TokenId::expose).collect();
        assert_eq!(kept, secrets);
        let shortest = secrets.iter().map(|secret| secret.trim_end_matches('=').len()).min();
        assert_eq!(token.shortest_secret(), shortest.unwrap_or(usize::MAX));
        let shown = format!("{token:?}");
        assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    }

    // Promises 20, 80.
    #[test]
    fn a_request_carries_what_its_login_has_and_nothing_else() {
        let now = Instant::now();
        let catalog = Catalog::default;
        check_fields(&token(now, 60), &[("x-auth-token", "gAAAAAB")], &["gAAAAAB"]);
        let access = TokenId::new("an-access-token").unwrap();
        check_fields(
            &token(now, 60).with_bearer(access, None),
            &[("x-auth-token", "gAAAAAB"), ("authorization", "Bearer an-access-token")],
            &["gAAAAAB", "an-access-token"],
        );
        let basic = Token::basic("ada", &Secret::new("pass:w\u{f6}rd"), catalog(), now);
        check_fields(&basic, &[("authorization", "Basic YWRhOnBhc3M6d8O2cmQ=")], &["YWRhOnBhc3M6d8O2cmQ="]);
        assert!(!format!("{:?}", basic.fields()).contains("YWRh"), "it is marked sensitive");
        assert_eq!((basic.value(), basic.expires()), (None, None));
        check_fields(&Token::none(catalog(), now), &[], &[]);

        let by_name =
            |domain| Scope::Project(Project::Name { name: "demo".to_owned(), domain: Some(domain) });
        let (id, name) = (|| Domain::Id("d1".to_owned()), || Domain::Name("acme".to_owned()));
        for (scope, expected) in [
            (Scope::Project(Project::Id("p1".to_owned())), &[("x-project-id", "p1")][..]),
            (by_name(id()), &[("x-project-name", "demo"), ("x-project-domain-id", "d1")]),
            (by_name(name()), &[("x-project-name", "demo"), ("x-project-domain-name", "acme")]),
            (Scope::Domain(id()), &[("x-domain-id", "d1")]),
            (Scope::Domain(name()), &[("x-domain-name", "acme")]),
        ] {
            check_fields(&Token::tokenless(&scope, catalog(), now), expected, &[]);
        }
    }

    #[test]
    fn a_token_ends_with_the_access_token_beside_it() {
        let born = Instant::now();
        let access = || TokenId::new("access").unwrap();
        let mut whole = token(born, 3600);
        whole.expires_at = Some(5000);
        let shorter = whole.with_bearer(access(), Some(Duration::from_secs(600)));
        assert_eq!(shorter.expires(), Some(born + Duration::from_secs(600)));
        assert_eq!((shorter.lifetime().as_secs(), shorter.expires_at), (600, Some(2000)));
        let longer = token(born, 3600).with_bearer(access(), Some(Duration::from_secs(7200)));
        assert_eq!(longer.lifetime().as_secs(), 3600);
    }

    #[test]
    fn an_absurd_life_does_not_overflow() {
        let born = Instant::now();
        let id = TokenId::new("t").unwrap();
        let token = Token::new(id, Catalog::default(), born, Duration::MAX);
        assert!(token.is_fresh(born));
        assert!(token.renew_at(1.0).is_some());
    }

    #[test]
    fn proof_is_noted_and_ages() {
        let born = Instant::now();
        let token = token(born, 3600);
        let at = |seconds| born + Duration::from_secs(seconds);
        let minute = Duration::from_secs(60);
        assert!(token.proved_within(at(30), minute), "Keystone just issued it");
        assert!(!token.proved_within(at(90), minute));
        token.mark_proved(at(100));
        assert!(token.proved_within(at(150), minute));
        token.mark_proved(at(50));
        assert!(token.proved_within(at(150), minute), "an older proof changes nothing");
        assert_eq!(token.proved_at(), at(100));
        token.mark_refused();
        assert_eq!(token.proved_at(), born, "what replaced it need not be younger than its last use");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_of_times_panic(text in "(2026-11-21T22:21:13)?[.,]?[0-9]{0,30}\\PC*") {
            let _ = parse_time(&text);
        }
    }
}
