//! The cache against a Keystone that counts, waits at a gate, and fails on demand. Time is paused:
//! it moves when everyone waits, so that hours pass in no time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::*;
use crate::keystone::{
    ApplicationCredential, Catalog, Domain, Identity, IdentityVersion, Method, Named, Secret, User, catalog,
};
use crate::upstream::BaseUrl;

mod kept;
mod lockout;
mod scopes;

/// How long a login may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A Keystone that numbers its tokens: `t1`, `t2`, ...
struct FakeKeystone {
    logins: Mutex<Vec<Scope>>,
    lists: AtomicUsize,
    checks: AtomicUsize,
    /// What the next logins end with; none is a token.
    failures: Mutex<VecDeque<AuthError>>,
    /// A login takes a permit of it.
    gate: Semaphore,
    lifetime: Duration,
    /// Projects whose logins are rejected; [`WRONG`] stands for all scopes.
    closed: Mutex<Vec<String>>,
    /// How many logins are under way, and the most at a time.
    busy: Mutex<(usize, usize)>,
    /// The scopes of those that are under way.
    scopes: Mutex<Vec<Scope>>,
    /// How long a login takes.
    latency: Mutex<Duration>,
    /// No login is answered.
    down: AtomicBool,
    /// When each login was sent, and what came of it.
    log: Mutex<Vec<(Instant, Outcome)>>,
    /// The projects that have names: id, name and domain.
    named: Mutex<Vec<[&'static str; 3]>>,
    /// Projects beside the named ones: `q0`, `q1`, ...
    more: AtomicUsize,
    /// How many lists of projects are refused with 401.
    refused_lists: AtomicUsize,
    panics: AtomicBool,
    silent: AtomicBool,
    /// The number of the password that keyway has.
    password: AtomicUsize,
    /// With which password each login was that Keystone rejected since it accepted one.
    rejected: Mutex<Vec<usize>>,
    /// The most of them that there ever were in a row, and with the same password.
    most_rejected: Mutex<(usize, usize)>,
}

/// See [`FakeKeystone::closed`].
const WRONG: &str = "the password";

impl FakeKeystone {
    fn logins(&self) -> usize {
        self.logins.lock().unwrap().len()
    }

    fn fail(&self, times: usize, error: AuthError) {
        self.failures.lock().unwrap().extend(std::iter::repeat_n(error, times));
    }

    /// Rejects logins for this project, or with [`WRONG`] all of them.
    fn close(&self, project: &str) {
        self.closed.lock().unwrap().push(project.to_owned());
    }

    /// keyway has another password, and Keystone takes it.
    fn correct(&self) {
        self.closed.lock().unwrap().retain(|closed| closed != WRONG);
        self.password.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts as Keystone does, whose account would be locked.
    fn count(&self, password: usize, accepted: bool) {
        let mut rejected = self.rejected.lock().unwrap();
        if accepted {
            return rejected.clear();
        }
        rejected.push(password);
        let same = rejected.iter().filter(|rejected| **rejected == password).count();
        let mut most = self.most_rejected.lock().unwrap();
        *most = (most.0.max(rejected.len()), most.1.max(same));
    }

    fn rejects(&self, scope: &Scope) -> bool {
        let closed = self.closed.lock().unwrap();
        closed
            .iter()
            .any(|closed| closed == WRONG || matches!(scope, Scope::Project(Project::Id(id)) if id == closed))
            || matches!(scope, Scope::Project(Project::Name { .. })) && self.project(scope).is_none()
    }

    /// The named project that a scope means.
    fn project(&self, scope: &Scope) -> Option<[&'static str; 3]> {
        let is_meant = |[id, name, domain]: &[&str; 3]| match scope {
            Scope::Default => *id == "p1",
            Scope::Project(Project::Id(wanted)) => wanted == id,
            Scope::Project(Project::Name { name: wanted, domain: within }) => {
                wanted == name
                    && match within {
                        None => true,
                        Some(Domain::Id(id)) => id == domain,
                        Some(Domain::Name(name)) => *name == domain.to_uppercase(),
                    }
            }
            _ => false,
        };
        self.named.lock().unwrap().iter().copied().find(is_meant)
    }

    fn most_at_a_time(&self) -> usize {
        self.busy.lock().unwrap().1
    }

    /// Stops logins until `gate.add_permits`.
    fn close_gate(&self) {
        self.gate.forget_permits(usize::MAX >> 3);
    }
}

/// One login under way.
struct Busy<'a>(&'a FakeKeystone, Scope);

impl<'a> Busy<'a> {
    fn new(keystone: &'a FakeKeystone, scope: &Scope) -> Self {
        let mut busy = keystone.busy.lock().unwrap();
        busy.0 += 1;
        busy.1 = busy.1.max(busy.0);
        let mut scopes = keystone.scopes.lock().unwrap();
        assert!(!scopes.contains(scope), "two logins for {scope:?} at a time");
        scopes.push(scope.clone());
        Self(keystone, scope.clone())
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap().0 -= 1;
        self.0.scopes.lock().unwrap().retain(|scope| *scope != self.1);
    }
}

impl Issuer for Arc<FakeKeystone> {
    fn authenticate<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Token, AuthError>> {
        Box::pin(async move {
            let born = slot::now();
            let password = self.password.load(Ordering::Relaxed);
            let number = {
                let mut logins = self.logins.lock().unwrap();
                logins.push(scope.clone());
                logins.len()
            };
            let _busy = Busy::new(self, scope);
            let latency = *self.latency.lock().unwrap();
            sleep(latency).await;
            if self.down.load(Ordering::Relaxed) {
                self.log.lock().unwrap().push((born, Outcome::Unavailable));
                return Err(unreachable());
            }
            assert!(!self.panics.load(Ordering::Relaxed), "a defect");
            self.gate.acquire().await.unwrap().forget();
            let changed = password != self.password.load(Ordering::Relaxed);
            let wrong = changed || self.closed.lock().unwrap().iter().any(|closed| closed == WRONG);
            self.count(password, !wrong);
            if wrong || self.rejects(scope) {
                self.log.lock().unwrap().push((born, Outcome::Rejected));
                return Err(rejected());
            }
            self.log.lock().unwrap().push((born, Outcome::Ok));
            if let Some(error) = self.failures.lock().unwrap().pop_front() {
                return Err(error);
            }
            let id = TokenId::new(&format!("t{number}")).unwrap();
            let mut token = Token::new(id, Catalog::default(), born, self.lifetime);
            match scope {
                Scope::Unscoped => {}
                Scope::System => token.system = true,
                Scope::Trust(id) => token.trust = Some(id.clone()),
                Scope::Domain(Domain::Id(id)) => token.domain = Some(named(id, &id.to_uppercase(), "")),
                Scope::Domain(Domain::Name(name)) => {
                    token.domain = Some(named(&name.to_lowercase(), name, ""));
                }
                Scope::Project(Project::Id(id)) if self.project(scope).is_none() => {
                    token.project = Some(named(id, "other", "default"));
                }
                Scope::Project(_) | Scope::Default => {
                    token.project = self.project(scope).map(|[id, name, domain]| named(id, name, domain));
                }
            }
            token.expires_at = Some(1_795_299_673);
            Ok(token)
        })
    }

    fn revoke<'a>(&'a self, _: &'a TokenId) -> BoxFuture<'a, Result<(), AuthError>> {
        Box::pin(async { Ok(()) })
    }

    fn projects<'a>(&'a self, _: &'a TokenId) -> BoxFuture<'a, Result<Vec<ProjectInfo>, AuthError>> {
        Box::pin(async move {
            self.lists.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let refused = self
                .refused_lists
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if refused.is_ok() {
                return Err(rejected());
            }
            let info = |id, name, domain| ProjectInfo {
                project: named(id, name, domain),
                description: String::new(),
                enabled: true,
            };
            let more: Vec<_> = (0..self.more.load(Ordering::Relaxed)).map(|n| format!("q{n}")).collect();
            let more = more.iter().map(|id| info(id, id, "default"));
            let off = ProjectInfo { enabled: false, ..info("p6", "off", "default") };
            let named = self.named.lock().unwrap().clone();
            let named = named.into_iter().map(|[id, name, domain]| info(id, name, domain));
            Ok(named.chain([off]).chain(more).collect())
        })
    }

    fn validate<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<bool, AuthError>> {
        Box::pin(async move {
            self.checks.fetch_add(1, Ordering::Relaxed);
            if self.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            Ok(token.expose() != "t1")
        })
    }

    fn secrets<'a>(&'a self, _: Option<&'a Secrets>) -> BoxFuture<'a, Result<Secrets, AuthError>> {
        let secrets = vec![Secret::new(self.password.load(Ordering::Relaxed).to_string())];
        Box::pin(async { Ok(secrets) })
    }

    fn has_changed<'a>(&'a self, known: &'a Secrets) -> BoxFuture<'a, bool> {
        let changed = known[0].expose() != self.password.load(Ordering::Relaxed).to_string();
        Box::pin(async move { changed })
    }
}

fn named(id: &str, name: &str, domain: &str) -> Named {
    Named {
        id: id.to_owned(),
        name: name.to_owned(),
        domain_id: Some(domain.to_owned()),
        domain_name: Some(domain.to_uppercase()),
    }
}

fn config(method: Method, scope: Scope) -> Config {
    let auth_url = BaseUrl::parse("http://127.0.0.1:5000/v3").unwrap();
    Config::new("lab", Auth::Identity(Identity { auth_url, version: IdentityVersion::V3, method, scope }))
}

fn password() -> Method {
    Method::Password { user: User::Id("u".to_owned()), password: Secret::new("s3cret").into() }
}

struct Fixture {
    keystone: Arc<FakeKeystone>,
    cache: TokenCache,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Fixture {
    fn new(lifetime: u64) -> Self {
        Self::with_method(lifetime, password())
    }

    fn with_method(lifetime: u64, method: Method) -> Self {
        Self::living(Duration::from_secs(lifetime), method)
    }

    /// With tokens for the cloud's own project and ten others, `q0` to `q9`.
    async fn with_ten_projects() -> Self {
        let fixture = Self::new(3600);
        fixture.keystone.more.store(10, Ordering::Relaxed);
        fixture.current().await.unwrap();
        for n in 0..10 {
            fixture.of(&format!("q{n}")).await.unwrap();
        }
        assert_eq!(fixture.keystone.logins(), 11);
        // Nothing that was proved just now, and from now on a login takes its time.
        seconds(60).await;
        *fixture.keystone.latency.lock().unwrap() = Duration::from_millis(100);
        fixture
    }

    /// What becomes of all eleven tokens when services refuse them at the same time.
    async fn refuse_everything(&self) -> Vec<Result<String, Arc<AuthError>>> {
        let mut crowd = JoinSet::new();
        for key in [own()].into_iter().chain((0..10).map(|n| key(&format!("q{n}")))) {
            let cache = self.cache.clone();
            let used = cache.snapshot(&key).unwrap();
            crowd.spawn(async move { cache.replace(&key, &used.id).await.map(id) });
        }
        crowd.join_all().await
    }

    fn living(lifetime: Duration, method: Method) -> Self {
        Self::of_scope(lifetime, method, Scope::Default)
    }

    /// For a cloud whose own scope is this one.
    fn of_scope(lifetime: Duration, method: Method, scope: Scope) -> Self {
        let keystone = Arc::new(FakeKeystone {
            logins: Mutex::default(),
            lists: AtomicUsize::default(),
            checks: AtomicUsize::default(),
            failures: Mutex::default(),
            gate: Semaphore::new(100_000),
            lifetime,
            closed: Mutex::default(),
            busy: Mutex::default(),
            scopes: Mutex::default(),
            latency: Mutex::default(),
            down: AtomicBool::default(),
            log: Mutex::default(),
            named: Mutex::new(vec![
                ["p1", "demo", "default"],
                ["p2", "lab", "default"],
                ["p3", "lab", "d2"],
                ["p4", "far", "d2"],
                ["p5", "far", "d3"],
            ]),
            more: AtomicUsize::default(),
            refused_lists: AtomicUsize::default(),
            panics: AtomicBool::default(),
            silent: AtomicBool::default(),
            password: AtomicUsize::default(),
            rejected: Mutex::default(),
            most_rejected: Mutex::default(),
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let observer: Observer = Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone()));
        let source = Source::Keystone(Box::new(Arc::clone(&keystone)));
        let cache = TokenCache::with_sources(
            vec![(config(method, scope), source)],
            None,
            DEADLINE,
            Protection::default(),
            Handle::current(),
            observer,
        );
        Self { keystone, cache, events }
    }

    async fn current(&self) -> Result<String, Arc<AuthError>> {
        self.cache.current(&own()).await.map(id)
    }

    async fn of(&self, project: &str) -> Result<String, Arc<AuthError>> {
        self.cache.current(&key(project)).await.map(id)
    }

    async fn replace(&self, used: &str) -> Result<String, Arc<AuthError>> {
        self.cache.replace(&own(), &TokenId::new(used).unwrap()).await.map(id)
    }

    fn outcomes(&self) -> Vec<(Reason, Outcome)> {
        let events = self.events.lock().unwrap();
        let asked = events.iter().filter_map(|event| match event {
            Event::Asked { reason, outcome, .. } => Some((*reason, *outcome)),
            _ => None,
        });
        asked.collect()
    }
}

fn own() -> Key {
    Key::of_cloud(0)
}

fn key(project: &str) -> Key {
    Key { cloud: 0, scope: Asked::Project(project.to_owned()) }
}

fn id(token: Arc<Token>) -> String {
    token.id.expose().to_owned()
}

fn unreachable() -> AuthError {
    AuthError::Timeout { after: Duration::from_secs(30) }
}

fn rejected() -> AuthError {
    AuthError::Rejected { status: 401, message: None }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// Lets every task go as far as it gets without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Runs the same thing a thousand times at once.
async fn crowd<F: Future<Output = Result<Arc<Token>, Arc<AuthError>>> + Send + 'static>(
    one: impl Fn() -> F,
) -> JoinSet<Result<Arc<Token>, Arc<AuthError>>> {
    let mut crowd = JoinSet::new();
    for _ in 0..1000 {
        crowd.spawn(one());
    }
    settle().await;
    crowd
}

async fn ids(crowd: JoinSet<Result<Arc<Token>, Arc<AuthError>>>) -> Vec<String> {
    let mut ids: Vec<_> = crowd.join_all().await.into_iter().map(|token| id(token.unwrap())).collect();
    assert_eq!(ids.len(), 1000);
    ids.dedup();
    ids
}

// Promise 63.
#[tokio::test(start_paused = true)]
async fn a_thousand_callers_on_a_cold_start_cost_one_call() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let crowd = crowd(move || {
        let cache = cache.clone();
        async move { cache.current(&own()).await }
    })
    .await;
    fixture.keystone.gate.add_permits(10);
    assert_eq!(ids(crowd).await, ["t1"]);
    assert_eq!(fixture.keystone.logins(), 1);
    assert_eq!(fixture.outcomes(), [(Reason::Cold, Outcome::Ok)]);
}

// Promise 63.
#[tokio::test(start_paused = true)]
async fn a_thousand_refusals_of_one_token_cost_one_call() {
    let fixture = Fixture::new(3600);
    assert_eq!(fixture.current().await.unwrap(), "t1");
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let crowd = crowd(move || {
        let cache = cache.clone();
        async move { cache.replace(&own(), &TokenId::new("t1").unwrap()).await }
    })
    .await;
    fixture.keystone.gate.add_permits(10);
    assert_eq!(ids(crowd).await, ["t2"]);
    assert_eq!(fixture.keystone.logins(), 2);
    assert_eq!(fixture.outcomes()[1], (Reason::Rejected, Outcome::Ok));
}

// Promise 63.
#[tokio::test(start_paused = true)]
async fn a_late_401_for_an_old_token_costs_nothing() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    assert_eq!(fixture.replace("t1").await.unwrap(), "t2");
    assert_eq!(fixture.replace("t1").await.unwrap(), "t2");
    assert_eq!(fixture.current().await.unwrap(), "t2");
    assert_eq!(fixture.keystone.logins(), 2);
}

// Promises 63, 64.
#[tokio::test(start_paused = true)]
async fn while_a_refused_token_is_replaced_nobody_sets_out_with_it() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    let version = fixture.cache.version();
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let replacing = tokio::spawn(async move { cache.replace(&own(), &TokenId::new("t1").unwrap()).await });
    settle().await;
    assert_ne!(fixture.cache.version(), version, "copies are void");
    assert!(fixture.cache.snapshot(&own()).is_none());
    let cache = fixture.cache.clone();
    let waiting = tokio::spawn(async move { cache.current(&own()).await });
    settle().await;
    assert!(!waiting.is_finished());
    fixture.keystone.gate.add_permits(1);
    assert_eq!(id(replacing.await.unwrap().unwrap()), "t2");
    assert_eq!(id(waiting.await.unwrap().unwrap()), "t2");
    assert_eq!(id(fixture.cache.snapshot(&own()).unwrap()), "t2");
}

// Promise 63.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_cost_a_second_call() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let caller = tokio::spawn(async move { cache.current(&own()).await });
    settle().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    fixture.keystone.gate.add_permits(1);
    assert_eq!(fixture.current().await.unwrap(), "t1");
    assert_eq!(fixture.keystone.logins(), 1);
}

// Promise 68.
#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_ahead_of_its_end_without_anyone_asking() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    seconds(3600 - 397).await;
    assert_eq!(fixture.keystone.logins(), 1);
    seconds(397 - 323).await;
    assert_eq!(fixture.keystone.logins(), 2);
    assert_eq!(id(fixture.cache.snapshot(&own()).unwrap()), "t2");
    assert_eq!(fixture.outcomes()[1], (Reason::Renewal, Outcome::Ok));
    seconds(24 * 3600).await;
    assert!((26..=31).contains(&fixture.keystone.logins()), "{}", fixture.keystone.logins());
}

// Promises 65, 68.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_leaves_the_token_in_use_until_its_end_and_not_longer() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    fixture.keystone.fail(1000, unreachable());
    seconds(3600 - 5).await;
    assert_eq!(fixture.current().await.unwrap(), "t1");
    let attempts = fixture.keystone.logins();
    assert!((8..=13).contains(&attempts), "1, 2, 4 ... 60, 60 s: {attempts}");
    seconds(5).await;
    assert!(fixture.cache.snapshot(&own()).is_none());
    let error = fixture.current().await.unwrap_err();
    assert!(matches!(*error, AuthError::Waiting { .. } | AuthError::Timeout { .. }), "{error:?}");
    fixture.keystone.failures.lock().unwrap().clear();
    seconds(75).await;
    assert!(fixture.cache.snapshot(&own()).is_some(), "it recovers without traffic");
}

// Promise 68.
#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out() {
    let fixture = Fixture::new(8);
    fixture.current().await.unwrap();
    fixture.keystone.close_gate();
    seconds(9).await;
    assert!(fixture.cache.snapshot(&own()).is_none());
    let cache = fixture.cache.clone();
    let waiting = tokio::spawn(async move { cache.current(&own()).await });
    settle().await;
    assert!(!waiting.is_finished());
    fixture.keystone.gate.add_permits(1);
    // That flight took off seconds before, so its token is no longer fresh for all of its life.
    assert_eq!(id(waiting.await.unwrap().unwrap()), "t2");
    assert_eq!(fixture.keystone.logins(), 2);
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn failures_back_off_and_answer_at_once_meanwhile() {
    let fixture = Fixture::new(3600);
    fixture.keystone.fail(3, unreachable());
    let error = fixture.current().await.unwrap_err();
    assert!(matches!(*error, AuthError::Timeout { .. }), "the first one hears the failure itself");
    let error = fixture.current().await.unwrap_err();
    let wait = error.retry_after().unwrap();
    assert!((0.9..=1.2).contains(&wait.as_secs_f64()), "{wait:?}");
    assert!(matches!(error.root(), AuthError::Timeout { .. }));
    assert_eq!(fixture.keystone.logins(), 1);
    let (error, _) = fixture.cache.status(0).failure.unwrap();
    assert!(matches!(*error, AuthError::Timeout { .. }));
    // 1, 2 and 4 s, each up to a fifth more.
    seconds(9).await;
    assert_eq!(fixture.keystone.logins(), 4);
    let status = fixture.cache.status(0);
    assert!(status.token.is_some() && status.failure.is_none(), "{status:?}");
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn retry_after_is_honored_within_reason() {
    let throttled = |wait| AuthError::Unavailable {
        status: 429,
        message: None,
        retry_after: Some(Duration::from_secs(wait)),
    };
    let fixture = Fixture::new(3600);
    fixture.keystone.fail(1, throttled(100));
    fixture.keystone.fail(1, throttled(1_000_000));
    fixture.current().await.unwrap_err();
    seconds(99).await;
    assert_eq!(fixture.keystone.logins(), 1);
    seconds(2).await;
    assert_eq!(fixture.keystone.logins(), 2);
    seconds(601).await;
    assert_eq!(fixture.keystone.logins(), 3);
    assert_eq!(fixture.outcomes()[0], (Reason::Cold, Outcome::Throttled));
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_hardly_ever_tried_again() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close(WRONG);
    assert!(fixture.current().await.unwrap_err().is_rejection());
    seconds(59).await;
    let error = fixture.current().await.unwrap_err();
    assert!(error.is_rejection() && error.retry_after().is_some());
    assert_eq!(fixture.keystone.logins(), 1);
    seconds(24 * 3600).await;
    assert_eq!(fixture.keystone.logins(), 2, "once more, and never again");
    let error = fixture.cache.status(0).failure.unwrap().0;
    assert!(matches!(*error, AuthError::Spent { rejections: 2, .. }), "{error:?}");
}

// Promises 64, 66.
#[tokio::test(start_paused = true)]
async fn a_refused_token_that_can_not_be_replaced_stays_in_use() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    fixture.keystone.fail(1, unreachable());
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let replacing = tokio::spawn(async move { cache.replace(&own(), &TokenId::new("t1").unwrap()).await });
    settle().await;
    let cache = fixture.cache.clone();
    let waiting = tokio::spawn(async move { cache.current(&own()).await });
    settle().await;
    fixture.keystone.gate.add_permits(100);
    assert!(replacing.await.unwrap().is_err());
    assert_eq!(id(waiting.await.unwrap().unwrap()), "t1");
    assert_eq!(id(fixture.cache.snapshot(&own()).unwrap()), "t1");
    assert!(fixture.replace("t1").await.is_err(), "and Keystone is left alone for a while");
    assert_eq!(fixture.keystone.logins(), 2);
    seconds(2).await;
    assert_eq!(fixture.current().await.unwrap(), "t3", "the background tries again");
}

// Promise 64.
#[tokio::test(start_paused = true)]
async fn endless_refusals_are_capped() {
    let fixture = Fixture::new(3600);
    let mut token = fixture.current().await.unwrap();
    for _ in 0..10 {
        token = fixture.replace(&token).await.unwrap();
    }
    let error = fixture.replace(&token).await.unwrap_err();
    assert!(matches!(*error, AuthError::TooManyRefusals { .. }), "{error:?}");
    assert!(error.retry_after().unwrap() <= Duration::from_secs(5));
    assert_eq!(fixture.current().await.unwrap(), token, "services that accept it go on");
    advance(Duration::from_secs(5)).await;
    token = fixture.replace(&token).await.unwrap();
    assert!(fixture.replace(&token).await.is_err());
    assert_eq!(fixture.keystone.logins(), 12);
}

// Promise 69.
#[tokio::test(start_paused = true)]
async fn warming_up_logs_in_and_goes_on_until_it_succeeds() {
    let fixture = Fixture::new(3600);
    fixture.keystone.fail(2, unreachable());
    fixture.cache.warm();
    seconds(10).await;
    assert!(fixture.cache.status(0).token.is_some());
    assert_eq!(fixture.keystone.logins(), 3);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_cache_ends_renewal() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    let keystone = Arc::clone(&fixture.keystone);
    drop(fixture);
    seconds(24 * 3600).await;
    assert_eq!(keystone.logins(), 1);
}

#[tokio::test]
async fn a_runtime_that_is_gone_is_an_error_and_no_deadlock() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut fixture = Fixture::new(3600);
    let source = Source::Keystone(Box::new(Arc::clone(&fixture.keystone)));
    let clouds = vec![(config(password(), Scope::Default), source)];
    fixture.cache = TokenCache::with_sources(
        clouds,
        None,
        DEADLINE,
        Protection::default(),
        runtime.handle().clone(),
        Arc::new(|_: &Event| {}),
    );
    runtime.shutdown_background();
    for _ in 0..2 {
        assert!(matches!(*fixture.current().await.unwrap_err(), AuthError::Stopped));
    }
}

#[tokio::test(start_paused = true)]
async fn a_project_that_is_the_clouds_own_shares_its_token() {
    let fixture = Fixture::new(3600);
    assert!(fixture.cache.snapshot(&key("demo")).is_none());
    assert_eq!(fixture.of("demo").await.unwrap(), "t1");
    assert_eq!(fixture.of("p1").await.unwrap(), "t1");
    assert_eq!(id(fixture.cache.snapshot(&key("p1")).unwrap()), "t1");
    assert!(fixture.cache.snapshot(&key("lab")).is_none());
    assert_eq!(fixture.keystone.logins(), 1);
    let replaced = fixture.cache.replace(&key("demo"), &TokenId::new("t1").unwrap()).await;
    assert_eq!(id(replaced.unwrap()), fixture.current().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn another_project_has_a_token_of_its_own() {
    let fixture = Fixture::new(3600);
    assert_eq!(fixture.of("lab").await.unwrap(), "t2", "the one in the own project's domain");
    assert_eq!(fixture.of("lab").await.unwrap(), "t2");
    assert_eq!(fixture.of("p3").await.unwrap(), "t3");
    let scopes = fixture.keystone.logins.lock().unwrap().clone();
    let project = |id: &str| Scope::Project(Project::Id(id.to_owned()));
    assert_eq!(scopes, [Scope::Default, project("p2"), project("p3")]);
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), 1, "the list is kept for a while");
    assert_eq!(id(fixture.cache.snapshot(&key("lab")).unwrap()), "t2");
}

#[tokio::test(start_paused = true)]
async fn a_project_that_is_not_there_says_which_are() {
    let fixture = Fixture::new(3600);
    let error = fixture.of("nope").await.unwrap_err().to_string();
    assert_eq!(error, "the user has no project `nope`; there are: demo, lab, lab, far, far");
    assert!(fixture.of("off").await.is_err());
    let error = fixture.of("far").await.unwrap_err().to_string();
    assert_eq!(error, "the user has several projects named `far`; use an id: p4, p5");
    assert_eq!(fixture.keystone.logins(), 1);
    for _ in 0..100 {
        fixture.of("nope").await.unwrap_err();
    }
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn another_projects_token_is_renewed_only_while_it_is_used() {
    let fixture = Fixture::new(3600);
    fixture.of("lab").await.unwrap();
    seconds(3600).await;
    // Both were used since they were issued, so both were renewed once ...
    assert_eq!(fixture.keystone.logins(), 4);
    seconds(10 * 3600).await;
    // ... and then only the cloud's own.
    let labs =
        fixture.keystone.logins.lock().unwrap().iter().filter(|scope| **scope != Scope::Default).count();
    assert_eq!(labs, 2);
    assert!(fixture.of("lab").await.is_ok());
}

// Promise 85.
#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_uses_any_more_is_let_go_when_it_is_over() {
    let fixture = Fixture::new(100);
    let used = fixture.of("p2").await.unwrap();
    // Used once, so it is renewed once; the next one nobody asks for.
    seconds(60).await;
    let renewed = Arc::downgrade(&fixture.cache.snapshot(&key("p2")).unwrap());
    assert!(renewed.upgrade().map(id).is_some_and(|id| id != used));
    let version = fixture.cache.version();
    seconds(110).await;
    assert!(renewed.upgrade().is_none(), "it has ended, and the cache has it no more");
    assert!(fixture.cache.version() > version, "copies are given up too");
    fixture.of("p2").await.unwrap();
    assert_eq!(fixture.outcomes().last(), Some(&(Reason::Cold, Outcome::Ok)));
}

#[tokio::test(start_paused = true)]
async fn credentials_with_a_scope_of_their_own_reach_no_other_project() {
    let method = Method::ApplicationCredential {
        which: ApplicationCredential::Id("a".to_owned()),
        secret: Secret::new("s").into(),
    };
    let fixture = Fixture::with_method(3600, method);
    assert_eq!(fixture.of("demo").await.unwrap(), "t1");
    let error = fixture.of("lab").await.unwrap_err();
    assert!(matches!(*error, AuthError::ScopeFixed { .. }));
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_token_serves_every_service_and_is_never_renewed() {
    let endpoint = BaseUrl::parse("http://127.0.0.1:6385").unwrap();
    let auth = Auth::Fixed { endpoint: endpoint.clone(), token: Secret::new("fixed").into() };
    let standing = Source::Standing(Box::new(Standing::new(&auth).unwrap()));
    let clouds = vec![(Config { auth, ..config(password(), Scope::Default) }, standing)];
    let cache = TokenCache::with_sources(
        clouds,
        None,
        DEADLINE,
        Protection::default(),
        Handle::current(),
        Arc::new(|_: &Event| {}),
    );
    cache.warm();
    seconds(1_000_000).await;
    let token = cache.current(&own()).await.unwrap();
    let config = &cache.shared.clouds[0].config;
    let destination = catalog::choose(config, &token.catalog, "baremetal", None).unwrap();
    assert_eq!(destination.url, &endpoint);
    assert!(cache.snapshot(&own()).is_some());
    let error = cache.replace(&own(), &token.id).await.unwrap_err();
    assert!(matches!(*error, AuthError::FixedToken));
    let error = cache.current(&key("lab")).await.unwrap_err();
    assert!(matches!(*error, AuthError::ScopeFixed { .. }));
    let elsewhere = Key::of_cloud(7);
    assert!(matches!(*cache.current(&elsewhere).await.unwrap_err(), AuthError::NoSuchCloud));
    assert!(cache.snapshot(&elsewhere).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_keystone_calls_good_is_proved() {
    let fixture = Fixture::new(3600);
    let token = fixture.cache.current(&own()).await.unwrap();
    assert!(!fixture.cache.validate(0, &token).await.unwrap());
    let token = fixture.cache.replace(&own(), &token.id).await.unwrap();
    seconds(300).await;
    let minute = Duration::from_secs(60);
    assert!(!token.proved_within(slot::now(), minute));
    assert!(fixture.cache.validate(0, &token).await.unwrap());
    assert!(token.proved_within(slot::now(), minute));
    assert_eq!(fixture.keystone.checks.load(Ordering::Relaxed), 2);

    let mut crowd = JoinSet::new();
    for _ in 0..1000 {
        let (cache, token) = (fixture.cache.clone(), Arc::clone(&token));
        crowd.spawn(async move { cache.validate(0, &token).await.unwrap() });
    }
    assert!(crowd.join_all().await.into_iter().all(|good| good));
    assert_eq!(fixture.keystone.checks.load(Ordering::Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_on_other_runtimes_are_served() {
    let fixture = Fixture::new(3600);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let cache = fixture.cache.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let first = cache.current(&own()).await.unwrap();
                    id(cache.replace(&own(), &first.id).await.unwrap())
                })
            })
        })
        .collect();
    // The test's own runtime is the one on which logins run.
    let joined =
        tokio::task::spawn_blocking(|| threads.into_iter().map(|thread| thread.join().unwrap()).collect());
    let ids: Vec<String> = joined.await.unwrap();
    assert!(fixture.keystone.logins() <= 9, "one each at most, and the first: {ids:?}");
    let last = fixture.current().await.unwrap();
    assert!(ids.contains(&last));
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn ten_projects_with_a_password_that_turned_wrong_make_two_attempts() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.close(WRONG);
    let answers = fixture.refuse_everything().await;
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.is_rejection())),
        "{answers:?}"
    );
    assert_eq!(fixture.keystone.logins(), 13, "the first one, and one for a scope that was accepted before");
    assert!(fixture.cache.status(0).breaker_open);
    seconds(59).await;
    for n in 0..10 {
        assert!(fixture.of(&format!("q{n}")).await.is_ok(), "the tokens live on");
    }
    assert_eq!(fixture.keystone.logins(), 13);
    seconds(24 * 3600).await;
    assert_eq!(fixture.keystone.logins(), 13);
    let paused = fixture.events.lock().unwrap().iter().any(|event| {
        matches!(event, Event::Paused { rejected: true, wait, .. } if *wait >= Duration::from_secs(60))
    });
    assert!(paused);

    fixture.keystone.correct();
    seconds(2).await;
    assert!(!fixture.cache.status(0).breaker_open);
    for n in 0..10 {
        assert!(fixture.of(&format!("q{n}")).await.is_ok());
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_password_that_turns_wrong_just_after_a_login_does_not_lock_the_account_either() {
    let fixture = Fixture::with_ten_projects().await;
    let used = fixture.cache.snapshot(&own()).unwrap();
    fixture.cache.replace(&own(), &used.id).await.unwrap();
    fixture.keystone.close(WRONG);
    let before = fixture.keystone.logins();
    fixture.refuse_everything().await;
    let attempts = fixture.keystone.logins() - before;
    assert!(attempts <= 2, "{attempts}");
    let (_, wait) = fixture.cache.status(0).failure.unwrap();
    assert!(wait <= Duration::from_secs(72), "what failed together counts once: {wait:?}");
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn logins_that_fail_together_count_as_one_attempt() {
    let fixture = Fixture::with_ten_projects().await;
    let unlimited = Protection { rejections: None, ..Protection::default() };
    fixture.cache.shared.clouds[0].breaker().protect(unlimited);
    let used = fixture.cache.snapshot(&own()).unwrap();
    fixture.cache.replace(&own(), &used.id).await.unwrap();
    fixture.keystone.down.store(true, Ordering::Relaxed);
    let before = fixture.keystone.logins();
    fixture.refuse_everything().await;
    assert_eq!(fixture.keystone.logins() - before, 4, "so many go at a time while all is well");
    let (_, wait) = fixture.cache.status(0).failure.unwrap();
    assert!(wait <= Duration::from_millis(1200), "{wait:?}");
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_project_that_is_closed_to_the_user_does_not_stop_the_others() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.close("p2");
    let error = fixture.of("lab").await.unwrap_err();
    assert!(matches!(*error, AuthError::ScopeRefused { status: 401, .. }), "{error:?}");
    assert_eq!(fixture.keystone.logins(), 13, "one for the project, one to see what it is about");
    assert!(!fixture.cache.status(0).breaker_open);
    assert!(fixture.cache.status(0).failure.is_none());
    let answers = fixture.refuse_everything().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // It is left alone by itself.
    let before = fixture.keystone.logins();
    seconds(3).await;
    for _ in 0..100 {
        let error = fixture.of("lab").await.unwrap_err();
        assert!(matches!(error.root(), AuthError::ScopeRefused { .. }), "{error:?}");
    }
    assert_eq!(fixture.keystone.logins(), before);
    fixture.keystone.closed.lock().unwrap().clear();
    seconds(3).await;
    assert!(fixture.of("lab").await.is_ok());
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn until_a_login_was_accepted_a_rejection_counts_for_every_project() {
    let fixture = Fixture::new(3600);
    fixture.keystone.close(WRONG);
    assert!(fixture.current().await.unwrap_err().is_rejection());
    for project in ["demo", "lab", "p3", "p4", "p5"] {
        assert!(fixture.of(project).await.unwrap_err().is_rejection());
    }
    assert_eq!(fixture.keystone.logins(), 1);
    assert_eq!(fixture.keystone.lists.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn after_the_pause_one_login_goes_first_and_the_others_follow_its_success() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.close(WRONG);
    fixture.refuse_everything().await;
    fixture.keystone.correct();
    seconds(75).await;
    let before = fixture.keystone.logins();
    *fixture.keystone.busy.lock().unwrap() = (0, 0);
    let answers = fixture.refuse_everything().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(fixture.keystone.logins() - before <= 11);
    assert!(fixture.keystone.most_at_a_time() <= 4);
    let resumed = fixture.events.lock().unwrap().iter().any(|event| matches!(event, Event::Resumed { .. }));
    assert!(resumed);
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn all_projects_of_a_cloud_back_off_together() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.fail(100_000, unreachable());
    let started = slot::now();
    let before = fixture.keystone.logins();
    while slot::now() - started < Duration::from_secs(600) {
        fixture.refuse_everything().await;
        sleep(Duration::from_millis(100)).await;
    }
    let attempts = fixture.keystone.logins() - before;
    // 1, 2, 4 ... 60, 60 s: eleven slots that back off by themselves would make 150.
    assert!((8..=16).contains(&attempts), "{attempts}");
    fixture.keystone.failures.lock().unwrap().clear();
    seconds(75).await;
    assert!(fixture.refuse_everything().await.iter().all(Result::is_ok));
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn what_keystone_asks_of_one_project_holds_for_all() {
    let fixture = Fixture::with_ten_projects().await;
    let retry_after = Some(Duration::from_secs(100));
    fixture.keystone.fail(1, AuthError::Unavailable { status: 429, message: None, retry_after });
    fixture.of("lab").await.unwrap_err();
    let before = fixture.keystone.logins();
    seconds(99).await;
    assert!(fixture.refuse_everything().await.iter().all(Result::is_err));
    assert_eq!(fixture.keystone.logins(), before);
    seconds(25).await;
    assert!(fixture.refuse_everything().await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn trouble_with_one_projects_catalog_does_not_stop_the_others() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.fail(1, AuthError::Unavailable { status: 500, message: None, retry_after: None });
    fixture.of("lab").await.unwrap_err();
    assert!(fixture.refuse_everything().await.iter().all(Result::is_ok));
}

// Promise 64.
#[tokio::test(start_paused = true)]
async fn endless_refusals_in_many_projects_are_capped_together() {
    let fixture = Fixture::with_ten_projects().await;
    // No time passes.
    *fixture.keystone.latency.lock().unwrap() = Duration::ZERO;
    let before = fixture.keystone.logins();
    for _ in 0..20 {
        fixture.refuse_everything().await;
    }
    let logins = fixture.keystone.logins() - before;
    assert_eq!(logins, 40);
    let capped = |event: &&Event| matches!(event, Event::Capped { .. });
    assert_eq!(fixture.events.lock().unwrap().iter().filter(capped).count(), 20 * 11 - 40);
    assert!(fixture.cache.status(0).refusals_left > 0, "its own are not used up");
    for n in 0..10 {
        assert!(fixture.of(&format!("q{n}")).await.is_ok());
    }
}

// Promises 63, 66.
#[tokio::test(start_paused = true)]
async fn logins_for_many_projects_at_once_are_few_at_a_time() {
    let fixture = Fixture::new(3600);
    fixture.keystone.more.store(100, Ordering::Relaxed);
    *fixture.keystone.latency.lock().unwrap() = Duration::from_millis(100);
    let mut crowd = JoinSet::new();
    for n in 0..100 {
        let cache = fixture.cache.clone();
        crowd.spawn(async move { cache.current(&key(&format!("q{n}"))).await.is_ok() });
    }
    assert!(crowd.join_all().await.into_iter().all(|served| served));
    assert_eq!(fixture.keystone.logins(), 101);
    assert!(fixture.keystone.most_at_a_time() <= 4, "{}", fixture.keystone.most_at_a_time());
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_silent_keystone_hears_within_the_deadline() {
    let fixture = Fixture::with_ten_projects().await;
    fixture.keystone.more.store(30, Ordering::Relaxed);
    seconds(61).await;
    fixture.keystone.close_gate();
    let started = slot::now();
    let mut crowd = JoinSet::new();
    for n in 0..30 {
        let cache = fixture.cache.clone();
        crowd.spawn(async move { cache.current(&key(&format!("q{n}"))).await.is_ok() });
    }
    let served = crowd.join_all().await.into_iter().filter(|served| *served).count();
    assert_eq!(served, 10);
    assert!(slot::now() - started <= DEADLINE, "{:?}", slot::now() - started);
    assert_eq!(fixture.keystone.logins(), 12, "and Keystone had one of them to deal with");
}

// Promise 67.
#[tokio::test(start_paused = true)]
async fn a_token_that_hardly_lives_costs_no_login_per_request() {
    for life in [1, 10, 300, 999] {
        let fixture = Fixture::living(Duration::from_millis(life), password());
        let started = slot::now();
        while slot::now() - started < Duration::from_secs(60) {
            fixture.current().await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
        assert!(fixture.keystone.logins() <= 62, "{life} ms: {}", fixture.keystone.logins());
    }
}

// Promise 66.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_over_when_it_comes_is_not_sent() {
    let fixture = Fixture::new(8);
    fixture.keystone.close_gate();
    let cache = fixture.cache.clone();
    let waiting = tokio::spawn(async move { cache.current(&own()).await });
    seconds(9).await;
    fixture.keystone.gate.add_permits(10);
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("was over when it came"), "{error}");
}

// Promise 72.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_login_costs_those_who_wait_for_it_and_nobody_else() {
    let fixture = Fixture::new(3600);
    fixture.keystone.panics.store(true, Ordering::Relaxed);
    let cache = fixture.cache.clone();
    let crowd = crowd(move || {
        let cache = cache.clone();
        async move { cache.current(&own()).await }
    })
    .await;
    let answers = crowd.join_all().await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_err_and(|error| matches!(**error, AuthError::Stopped)))
    );
    fixture.keystone.panics.store(false, Ordering::Relaxed);
    assert!(fixture.current().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_list_of_projects_that_is_refused_is_about_the_token_and_not_the_password() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    fixture.keystone.refused_lists.store(1, Ordering::Relaxed);
    assert_eq!(fixture.of("lab").await.unwrap(), "t3", "after a new token of the cloud's own");
    assert!(!fixture.cache.status(0).breaker_open);

    fixture.keystone.refused_lists.store(1000, Ordering::Relaxed);
    seconds(120).await;
    assert!(fixture.of("p3").await.is_err());
    assert!(!fixture.cache.status(0).breaker_open);
    assert!(fixture.current().await.is_ok());
}

// Promise 65.
#[tokio::test(start_paused = true)]
async fn a_silent_keystone_hardly_delays_the_uploads_that_would_have_their_token_checked() {
    let fixture = Fixture::new(3600);
    let token = fixture.cache.current(&own()).await.unwrap();
    fixture.keystone.silent.store(true, Ordering::Relaxed);
    let started = slot::now();
    for _ in 0..100 {
        fixture.cache.validate(0, &token).await.unwrap_err();
    }
    assert!(slot::now() - started <= Duration::from_secs(2));
    assert_eq!(fixture.keystone.checks.load(Ordering::Relaxed), 1);
    fixture.keystone.silent.store(false, Ordering::Relaxed);
    seconds(10).await;
    assert!(fixture.cache.validate(0, &token).await.is_ok());
}

/// What may happen to a cache.
#[derive(Clone, Debug)]
enum Step {
    /// Three requests need a token of this project at once.
    Ask(usize),
    /// A service refuses the token of this project that a request went out with.
    Refuse(usize),
    /// A service refuses a token that was replaced long ago.
    RefuseOld(usize),
    Wait(Duration),
    Latency(Duration),
    Down(bool),
    Wrong(bool),
    Close(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize).prop_map(Step::Ask),
        3 => (0..3usize).prop_map(Step::Refuse),
        1 => (0..3usize).prop_map(Step::RefuseOld),
        4 => (1..20_000u64).prop_map(|wait| Step::Wait(Duration::from_millis(wait))),
        1 => (0..40_000u64).prop_map(|latency| Step::Latency(Duration::from_millis(latency / 10))),
        1 => any::<bool>().prop_map(Step::Down),
        1 => any::<bool>().prop_map(Step::Wrong),
        1 => any::<bool>().prop_map(Step::Close),
    ]
}

async fn check_steps(steps: Vec<Step>, life: u64) {
    let fixture = Fixture::new(life);
    let keystone = &fixture.keystone;
    keystone.more.store(2, Ordering::Relaxed);
    let keys = [own(), key("q0"), key("q1")];
    let mut sent: [Option<TokenId>; 3] = [const { None }; 3];
    let check = |started: Instant, answer: &Result<Arc<Token>, Arc<AuthError>>| {
        let now = slot::now();
        // A flight may have to wait a second, so that it is not one per request.
        assert!(now - started <= DEADLINE + Duration::from_secs(1), "{:?}", now - started);
        if let Ok(token) = answer {
            assert!(token.is_fresh(now), "an expired token");
        }
    };
    for step in steps {
        let started = slot::now();
        match step {
            Step::Ask(which) => {
                let ask = || fixture.cache.current(&keys[which]);
                let (one, two, three) = tokio::join!(ask(), ask(), ask());
                for answer in [one, two, three] {
                    check(started, &answer);
                    sent[which] = answer.map(|token| token.id.clone()).ok().or(sent[which].take());
                }
            }
            Step::Refuse(which) => {
                let Some(used) = sent[which].clone() else { continue };
                let answer = fixture.cache.replace(&keys[which], &used).await;
                check(started, &answer);
                if let Ok(token) = answer {
                    assert_ne!(token.id, used, "the refused token again");
                    sent[which] = Some(token.id.clone());
                }
            }
            Step::RefuseOld(which) => {
                let before = keystone.logins();
                let had = fixture.cache.snapshot(&keys[which]).is_some();
                let answer = fixture.cache.replace(&keys[which], &TokenId::new("t0").unwrap()).await;
                check(started, &answer);
                let at_once = slot::now() == started;
                assert!(!(had && at_once && keystone.logins() > before), "a late 401 costs nothing");
            }
            Step::Wait(wait) => sleep(wait).await,
            Step::Latency(latency) => *keystone.latency.lock().unwrap() = latency,
            Step::Down(down) => keystone.down.store(down, Ordering::Relaxed),
            Step::Wrong(wrong) => {
                keystone.correct();
                if wrong {
                    keystone.close(WRONG);
                }
            }
            Step::Close(closed) => {
                keystone.closed.lock().unwrap().retain(|closed| closed == WRONG);
                if closed {
                    keystone.close("q0");
                }
            }
        }
    }
    let log = keystone.log.lock().unwrap().clone();
    for failures in log.split(|(_, outcome)| *outcome == Outcome::Ok) {
        for (index, (at, _)) in failures.iter().enumerate() {
            let rest =
                failures[index..].iter().take_while(|(other, _)| *other - *at < Duration::from_secs(59));
            assert!(rest.count() <= 14, "Keystone is asked too often: {failures:?}");
        }
    }
    let (in_a_row, same) = *keystone.most_rejected.lock().unwrap();
    assert!(in_a_row <= 4 && same <= 2, "{in_a_row} wrong passwords in a row, {same} times the same");
    keystone.down.store(false, Ordering::Relaxed);
    keystone.closed.lock().unwrap().clear();
    keystone.correct();
    *keystone.latency.lock().unwrap() = Duration::ZERO;
    // As a reload does, should there have been too many wrong ones.
    fixture.cache.shared.clouds[0].breaker().account().correct();
    seconds(700).await;
    for key in &keys {
        assert!(fixture.cache.current(key).await.is_ok(), "it recovers");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    // Promises 63, 64, 66, 67.
    #[test]
    fn whatever_happens_tokens_are_fresh_logins_are_few_and_it_recovers(
        steps in proptest::collection::vec(step(), 1..60),
        life in prop_oneof![Just(1u64), Just(4), Just(60), Just(3600)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(check_steps(steps, life));
    }
}
