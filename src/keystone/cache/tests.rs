//! The cache against a Keystone that counts, waits at a gate, and fails on demand. Time is paused:
//! it moves when everyone waits, so that hours pass in no time.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::*;
use crate::keystone::{
    AllowHttp, ApplicationCredential, Identity, IdentityVersion, Interface, Project, Secret, User,
};
use crate::upstream::BaseUrl;

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
}

impl FakeKeystone {
    fn logins(&self) -> usize {
        self.logins.lock().unwrap().len()
    }

    fn fail(&self, times: usize, error: AuthError) {
        self.failures.lock().unwrap().extend(std::iter::repeat_n(error, times));
    }

    /// Stops logins until `gate.add_permits`.
    fn close_gate(&self) {
        self.gate.forget_permits(usize::MAX >> 3);
    }
}

impl Issuer for Arc<FakeKeystone> {
    fn authenticate<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Token, AuthError>> {
        Box::pin(async move {
            let born = slot::now();
            let number = {
                let mut logins = self.logins.lock().unwrap();
                logins.push(scope.clone());
                logins.len()
            };
            self.gate.acquire().await.unwrap().forget();
            if let Some(error) = self.failures.lock().unwrap().pop_front() {
                return Err(error);
            }
            let id = TokenId::new(&format!("t{number}")).unwrap();
            let mut token = Token::new(id, Catalog::default(), born, self.lifetime);
            let (id, name) = match scope {
                Scope::Project(Project::Id(id)) => (id.as_str(), "other"),
                _ => ("p1", "demo"),
            };
            token.project = Some(named(id, name, "default"));
            token.expires_at = Some(1_795_299_673);
            Ok(token)
        })
    }

    fn projects<'a>(&'a self, _: &'a TokenId) -> BoxFuture<'a, Result<Vec<ProjectInfo>, AuthError>> {
        Box::pin(async move {
            self.lists.fetch_add(1, Ordering::Relaxed);
            let info = |id, name, domain| ProjectInfo { project: named(id, name, domain), enabled: true };
            Ok(vec![
                info("p1", "demo", "default"),
                info("p2", "lab", "default"),
                info("p3", "lab", "d2"),
                info("p4", "far", "d2"),
                info("p5", "far", "d3"),
                ProjectInfo { enabled: false, ..info("p6", "off", "default") },
            ])
        })
    }

    fn validate<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<bool, AuthError>> {
        Box::pin(async move {
            self.checks.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(token.expose() != "t1")
        })
    }
}

fn named(id: &str, name: &str, domain: &str) -> Named {
    Named { id: id.to_owned(), name: name.to_owned(), domain_id: Some(domain.to_owned()) }
}

fn config(method: Method) -> Config {
    Config {
        name: "lab".to_owned(),
        auth: Auth::Identity(Identity {
            auth_url: BaseUrl::parse("http://127.0.0.1:5000/v3").unwrap(),
            version: IdentityVersion::V3,
            method,
            scope: Scope::Default,
        }),
        region: None,
        interfaces: vec![Interface::Public],
        endpoint_overrides: [].into(),
        tls: upstream::tls::Config::default(),
        allow_http: AllowHttp::Never,
    }
}

fn password() -> Method {
    Method::Password { user: User::Id("u".to_owned()), password: Secret::new("s3cret") }
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
        let keystone = Arc::new(FakeKeystone {
            logins: Mutex::default(),
            lists: AtomicUsize::default(),
            checks: AtomicUsize::default(),
            failures: Mutex::default(),
            gate: Semaphore::new(100_000),
            lifetime: Duration::from_secs(lifetime),
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let observer: Observer = Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone()));
        let source = Source::Keystone(Box::new(Arc::clone(&keystone)));
        let cache = TokenCache::with_sources(vec![(config(method), source)], Handle::current(), observer);
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
            Event::Saved { .. } => None,
        });
        asked.collect()
    }
}

fn own() -> Key {
    Key::of_cloud(0)
}

fn key(project: &str) -> Key {
    Key { cloud: 0, project: Some(project.to_owned()) }
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
    assert_eq!(fixture.events.lock().unwrap().len(), 1000, "999 calls were saved");
}

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

#[tokio::test(start_paused = true)]
async fn a_late_401_for_an_old_token_costs_nothing() {
    let fixture = Fixture::new(3600);
    fixture.current().await.unwrap();
    assert_eq!(fixture.replace("t1").await.unwrap(), "t2");
    assert_eq!(fixture.replace("t1").await.unwrap(), "t2");
    assert_eq!(fixture.current().await.unwrap(), "t2");
    assert_eq!(fixture.keystone.logins(), 2);
}

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

#[tokio::test(start_paused = true)]
async fn rejected_credentials_are_hardly_ever_tried_again() {
    let fixture = Fixture::new(3600);
    fixture.keystone.fail(1000, rejected());
    assert!(fixture.current().await.unwrap_err().is_rejection());
    seconds(59).await;
    let error = fixture.current().await.unwrap_err();
    assert!(error.is_rejection() && error.retry_after().is_some());
    assert_eq!(fixture.keystone.logins(), 1);
    seconds(3600).await;
    assert!(fixture.keystone.logins() <= 14, "{}", fixture.keystone.logins());
}

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
    let clouds = vec![(config(password()), source)];
    fixture.cache = TokenCache::with_sources(clouds, runtime.handle().clone(), Arc::new(|_: &Event| {}));
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
        secret: Secret::new("s"),
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
    let auth = Auth::Fixed { endpoint: endpoint.clone(), token: Secret::new("fixed") };
    let token = Token::fixed(TokenId::new("fixed").unwrap(), Catalog::single(endpoint.clone()), slot::now());
    let clouds = vec![(Config { auth, ..config(password()) }, Source::Fixed(Arc::new(token)))];
    let cache = TokenCache::with_sources(clouds, Handle::current(), Arc::new(|_: &Event| {}));
    cache.warm();
    seconds(1_000_000).await;
    let token = cache.current(&own()).await.unwrap();
    let destination = cache.endpoint(0, &token, "baremetal", None).unwrap();
    assert_eq!(destination.url, &endpoint);
    assert!(cache.snapshot(&own()).is_some());
    let error = cache.replace(&own(), &token.id).await.unwrap_err();
    assert!(matches!(*error, AuthError::FixedToken));
    let error = cache.current(&key("lab")).await.unwrap_err();
    assert!(matches!(*error, AuthError::ScopeFixed { .. }));
    let elsewhere = Key { cloud: 7, project: None };
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
