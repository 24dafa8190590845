//! Which token should this request carry?
//!
//! [`TokenCache`] keeps one token per cloud and scope, renews it shortly before it expires, and
//! makes sure that any number of requests waiting for the same token cost Keystone one call. A
//! token that a service refused is replaced by naming it ([`TokenCache::replace`]), so a late 401 for
//! an old token never throws away a new one, and the old one stays until the new one is there.
//!
//! Keystone is protected from us: failures back off, rejected credentials most of all (accounts get
//! locked; all scopes of a cloud share one breaker, and all clouds of a user one account), and buckets cap the logins that refused tokens and
//! made-up scopes may cause. Calls to Keystone run on a runtime of their own and outlive the requests
//! that wait for them. Nothing here knows about routes or downstream clients.

mod account;
mod breaker;
mod kept;
mod slot;
mod standing;

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::sync::broadcast::{self, error::RecvError};

use self::account::{Account, Secrets};
pub use self::breaker::Protection;
use self::breaker::{Breaker, Permit, Verdict};
pub use self::kept::Keeping;
use self::slot::{Login, Slot, Trouble};
use self::standing::Standing;
use super::shared::{self, News};
use super::{
    Auth, AuthError, Client, Config, Destination, Domain, LoginId, Named, NoEndpoint, Place, Project,
    ProjectInfo, ProviderError, Scope, Token, TokenId, catalog,
};
use crate::secret;
use crate::upstream;

/// How many scopes' tokens are kept beside those of the clouds' own, and of how many it is remembered that
/// there is none.
const MOST_SCOPES: u64 = 1024;

/// The longest name or id in a scope that is worth asking for, bytes; Keystone has none of more than 255
/// characters. What somebody asked for is kept for a while, so it must not be of any size.
const LONGEST_NAME: usize = 1024;

/// How long a list of projects answers for names that are in it, and for those that are not. The latter
/// also for whoever wants the list itself, and for a failure to get one.
const KNOWN_PROJECTS: Duration = Duration::from_secs(60);
const UNKNOWN_PROJECTS: Duration = Duration::from_secs(5);

/// How long Keystone may take to say whether a token is good, before an upload starts without its
/// word; and how long it is not asked again then.
const CHECK_DEADLINE: Duration = Duration::from_secs(2);
const UNCHECKED: Duration = Duration::from_secs(10);

/// How often it is looked whether a rejected secret has changed, or a person's login.
const WATCH: Duration = Duration::from_secs(1);

/// Which token: of which cloud, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The cloud's place in the list that the cache was made from.
    pub cloud: usize,
    /// For what.
    pub scope: Asked,
}

/// What a token should be good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// The scope that the cloud's configuration asks for.
    Own,
    /// A project of the user, by id or name: which one is found out first.
    Project(String),
    /// This very scope, whatever Keystone says to it.
    Exactly(Scope),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the cloud's own scope"),
            Self::Project(project) => f.write_str(project),
            Self::Exactly(scope) => scope.fmt(f),
        }
    }
}

impl Key {
    /// The key of a cloud's own scope.
    pub fn of_cloud(cloud: usize) -> Self {
        Self { cloud, scope: Asked::Own }
    }
}

/// What happens in the cache, for metrics. Called on the path of a login, so it must be quick.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Keystone was asked for a token.
    Asked {
        /// Of which cloud.
        cloud: usize,
        /// Why.
        reason: Reason,
        /// What came of it.
        outcome: Outcome,
        /// How long it took.
        took: Duration,
        /// The end of the new token, UNIX seconds, if this was for the cloud's own scope.
        expires_at: Option<i64>,
    },
    /// A token of an earlier login or of another keyway's was found, so that Keystone was not asked.
    Restored {
        /// Of which cloud.
        cloud: usize,
        /// Its end, UNIX seconds, if this was for the cloud's own scope.
        expires_at: Option<i64>,
    },
    /// Someone got a token, or waits for one, without a call of its own. Readers of a
    /// [`TokenCache::snapshot`] count for themselves.
    Saved {
        /// Of which cloud.
        cloud: usize,
    },
    /// No login of a cloud goes to Keystone for a while.
    Paused {
        /// Of which cloud.
        cloud: usize,
        /// For how long.
        wait: Duration,
        /// Keystone rejected the credentials; else it did not answer.
        rejected: bool,
    },
    /// A login went well after [`Paused`](Self::Paused).
    Resumed {
        /// Of which cloud.
        cloud: usize,
    },
    /// Keystone was asked for the user's projects.
    Listed {
        /// Of which cloud.
        cloud: usize,
        /// What came of it.
        outcome: Outcome,
    },
    /// A service refused a token, and no new one was asked for: there were too many of late.
    Capped {
        /// Of which cloud.
        cloud: usize,
    },
    /// The store that keyways share was asked for something.
    StoreAsked(shared::Answer),
    /// It can be used from now on, or can't.
    StoreIs {
        /// It can.
        up: bool,
    },
}

/// Why Keystone was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There was no token yet.
    Cold,
    /// The token was about to end, or over.
    Renewal,
    /// A service refused the token.
    Rejected,
}

impl Reason {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Renewal => "renewal",
            Self::Rejected => "rejected",
        }
    }
}

/// What came of asking Keystone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A token.
    Ok,
    /// The credentials or the scope were not accepted.
    Rejected,
    /// Keystone did not answer, or could not.
    Unavailable,
    /// Keystone asked for fewer questions.
    Throttled,
    /// Not what Keystone would answer, or nothing that can be used.
    BadReply,
}

impl Outcome {
    /// The label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::BadReply => "bad_reply",
        }
    }

    fn of(error: &AuthError) -> Self {
        match error.root() {
            AuthError::Rejected { .. } | AuthError::ScopeRefused { .. } | AuthError::MoreMethods { .. } => {
                Self::Rejected
            }
            AuthError::Provider(error) if error.is_rejection() => Self::Rejected,
            AuthError::Provider(ProviderError::Unavailable { status: 429, .. }) => Self::Throttled,
            AuthError::Provider(error) if error.is_temporary() => Self::Unavailable,
            AuthError::Unavailable { status: 429, .. } => Self::Throttled,
            AuthError::Unavailable { .. }
            | AuthError::Unreachable(_)
            | AuthError::Timeout { .. }
            | AuthError::Waiting { .. }
            | AuthError::Spent { .. }
            | AuthError::TooManyRefusals { .. }
            | AuthError::TooManyScopes { .. }
            | AuthError::NoSecret { .. }
            | AuthError::LoginRequired { .. }
            | AuthError::PasscodeUsed { .. }
            | AuthError::Stopped => Self::Unavailable,
            AuthError::BadReply { .. }
            | AuthError::Provider(_)
            | AuthError::NoBrowser { .. }
            | AuthError::NoCatalog { .. }
            | AuthError::AlreadyExpired { .. }
            | AuthError::NoTenant
            | AuthError::ManyTenants { .. }
            | AuthError::UnknownProject { .. }
            | AuthError::AmbiguousProject { .. }
            | AuthError::ScopeFixed { .. }
            | AuthError::FixedToken
            | AuthError::NotInV2 { .. }
            | AuthError::NoSuchCloud => Self::BadReply,
        }
    }
}

/// How a cloud's own token is doing, for `/status`, `/readyz` and people.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The token, if there is one that still lives.
    pub token: Option<Arc<Token>>,
    /// The last failure since the last success, and how long until the next attempt.
    pub failure: Option<(Arc<AuthError>, Duration)>,
    /// Keystone's last word on the credentials was no, so no scope of the cloud gets a new token.
    pub breaker_open: bool,
    /// How many more logins refused tokens may cause right now.
    pub refusals_left: u32,
    /// The same in the whole cloud.
    pub cloud_refusals_left: u32,
    /// How many scopes that nobody asked for so far Keystone may refuse right now.
    pub new_scopes_left: u32,
    /// How many logins Keystone rejected since the last success, and how many more there may be with the same
    /// credentials, if that is limited.
    pub rejections: (u32, Option<u32>),
    /// How many scopes beside the cloud's own there is a token of.
    pub scopes: usize,
}

impl Status {
    /// How the cloud's breaker stands: `closed`, all is well; `backing_off`, a login failed; `open`, Keystone rejected
    /// the credentials, and they are tried once more later; `stopped`, they are not tried again until they change.
    pub fn breaker(&self) -> &'static str {
        match &self.failure {
            Some((error, _)) if matches!(**error, AuthError::Spent { .. }) => "stopped",
            Some(_) if self.breaker_open && self.rejections.1 == Some(0) => "stopped",
            Some(_) if self.breaker_open => "open",
            Some(_) => "backing_off",
            None => "closed",
        }
    }
}

/// A future that is boxed, since logins are rare.
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who issues tokens: Keystone, or a test.
trait Issuer: Send + Sync {
    fn authenticate<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Token, AuthError>>;
    fn projects<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<Vec<ProjectInfo>, AuthError>>;
    fn validate<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<bool, AuthError>>;
    fn revoke<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<(), AuthError>>;
    /// What a login would show; with `wrong`, something else if that is to be had.
    fn secrets<'a>(&'a self, wrong: Option<&'a Secrets>) -> BoxFuture<'a, Result<Secrets, AuthError>>;
    /// Whether that has changed since, as far as it can be told at no cost.
    fn has_changed<'a>(&'a self, known: &'a Secrets) -> BoxFuture<'a, bool>;
}

impl Issuer for Client {
    fn authenticate<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Token, AuthError>> {
        Box::pin(self.authenticate(scope))
    }

    fn projects<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<Vec<ProjectInfo>, AuthError>> {
        Box::pin(self.projects(token))
    }

    fn validate<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<bool, AuthError>> {
        Box::pin(self.validate(token))
    }

    fn revoke<'a>(&'a self, token: &'a TokenId) -> BoxFuture<'a, Result<(), AuthError>> {
        Box::pin(self.revoke(token))
    }

    fn secrets<'a>(&'a self, wrong: Option<&'a Secrets>) -> BoxFuture<'a, Result<Secrets, AuthError>> {
        Box::pin(self.identity().method.secrets(wrong.map(Vec::as_slice)))
    }

    fn has_changed<'a>(&'a self, known: &'a Secrets) -> BoxFuture<'a, bool> {
        Box::pin(self.identity().method.has_changed(known))
    }
}

/// The tokens of all clouds. A clone shares them. Dropping the last one ends renewal.
#[derive(Clone)]
pub struct TokenCache {
    shared: Arc<Shared>,
}

/// What the cache's slots and tasks share.
struct Shared {
    clouds: Vec<Cloud>,
    /// Where tokens outlive the process.
    store: Option<Keeping>,
    /// Scopes beside the clouds' own that Keystone granted. A slot may be there under several keys: those
    /// that its token is good for.
    scopes: moka::sync::Cache<Key, Arc<Slot>>,
    /// Those that it did not grant so far. Apart from the others, so that no number of scopes that somebody
    /// made up can push out one that works.
    tried: moka::sync::Cache<Key, Arc<Slot>>,
    /// Accounts of clouds that an earlier configuration had: what was rejected stays so, should they come back.
    departed: Mutex<Vec<Arc<Account>>>,
    version: AtomicU64,
    /// How long a login may take, and a caller wait.
    deadline: Duration,
    protection: Protection,
    runtime: Handle,
    observer: Observer,
}

struct Cloud {
    config: Config,
    source: Source,
    /// What all of its logins have in common. A reload hands it on to the next cache.
    breaker: Mutex<Arc<Breaker>>,
    /// The cloud's own scope. Not among the others, so that these can never push it out.
    slot: Arc<Slot>,
    /// The user's projects.
    projects: Mutex<Projects>,
    /// Held by the one who asks for them.
    listing: tokio::sync::Mutex<()>,
    /// The last question whether a token is good.
    check: Mutex<Option<Arc<Check>>>,
}

/// What Keystone said when it was asked for the user's projects, and when.
#[derive(Clone, Default)]
struct Projects {
    listed: Option<(Instant, Arc<[ProjectInfo]>)>,
    /// Since then, if at all.
    failed: Option<(Instant, AuthError)>,
}

impl Cloud {
    /// Whether a login can say for what it is.
    fn takes_scope(&self) -> bool {
        matches!(&self.config.auth, Auth::Identity(identity) if identity.method.takes_scope())
    }

    /// Whether this is the scope that the configuration asks for, by its words alone.
    fn is_own(&self, asked: &Asked) -> bool {
        match (asked, &self.config.auth) {
            (Asked::Own, _) => true,
            (Asked::Exactly(scope), Auth::Identity(identity)) => *scope == identity.scope,
            (Asked::Exactly(_) | Asked::Project(_), _) => false,
        }
    }

    /// Whether a client may have thought of this scope by itself: one that the configuration or Keystone's list
    /// of projects does not have.
    fn may_be_made_up(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Own | Asked::Project(_) => false,
            Asked::Exactly(Scope::Project(Project::Id(id))) => !self
                .projects_within(KNOWN_PROJECTS)
                .is_some_and(|listed| listed.iter().any(|info| info.enabled && info.project.id == *id)),
            Asked::Exactly(_) => true,
        }
    }

    /// The user's projects, if Keystone listed them no longer than `span` ago.
    fn projects_within(&self, span: Duration) -> Option<Arc<[ProjectInfo]>> {
        let projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, listed) = projects.listed.as_ref()?;
        (slot::now().saturating_duration_since(*at) < span).then(|| Arc::clone(listed))
    }

    /// Why there was no list of them just now.
    fn listing_failed(&self) -> Option<AuthError> {
        let projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = projects.failed.as_ref()?;
        (slot::now().saturating_duration_since(*at) < UNKNOWN_PROJECTS).then(|| error.clone())
    }

    fn breaker(&self) -> Arc<Breaker> {
        Arc::clone(&self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A question whether a token is good, and its answer.
struct Check {
    token: TokenId,
    good: OnceCell<Result<bool, AuthError>>,
    asked: Instant,
}

impl Check {
    /// Whether its answer, or that there was none, still counts.
    fn holds(&self, now: Instant) -> bool {
        match self.good.get() {
            None => true,
            Some(Ok(_)) => false,
            Some(Err(_)) => now.saturating_duration_since(self.asked) < UNCHECKED,
        }
    }
}

enum Source {
    Keystone(Box<dyn Issuer>),
    /// There is nobody to ask for a token.
    Standing(Box<Standing>),
    /// The operator's fixed token can't be sent.
    Unusable(Arc<AuthError>),
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clouds: Vec<_> = self.shared.clouds.iter().map(|cloud| &cloud.config.name).collect();
        f.debug_struct("TokenCache").field("clouds", &clouds).finish_non_exhaustive()
    }
}

impl TokenCache {
    /// A cache for these clouds, each with the client for its TLS configuration. Logins run on
    /// `runtime`. Nothing is asked of any Keystone before someone needs a token or
    /// [`warm`](Self::warm) is called, and then only for what `store` does not have.
    pub fn new(
        clouds: Vec<(Config, upstream::Client)>,
        store: Option<Keeping>,
        deadline: Duration,
        protection: Protection,
        runtime: Handle,
        observer: Observer,
    ) -> Self {
        let clouds = clouds
            .into_iter()
            .map(|(config, http)| {
                let source = match &config.auth {
                    Auth::Identity(identity) => {
                        Source::Keystone(Box::new(Client::new(http, identity.clone(), deadline)))
                    }
                    standing => match Standing::new(standing) {
                        Ok(standing) => Source::Standing(Box::new(standing)),
                        Err(error) => Source::Unusable(Arc::new(error)),
                    },
                };
                (config, source)
            })
            .collect();
        Self::with_store(clouds, store, deadline, protection, runtime, observer)
    }

    #[cfg(test)]
    fn with_sources(
        clouds: Vec<(Config, Source)>,
        deadline: Duration,
        protection: Protection,
        runtime: Handle,
        observer: Observer,
    ) -> Self {
        Self::with_store(clouds, None, deadline, protection, runtime, observer)
    }

    fn with_store(
        clouds: Vec<(Config, Source)>,
        store: Option<Keeping>,
        deadline: Duration,
        protection: Protection,
        runtime: Handle,
        observer: Observer,
    ) -> Self {
        let mut accounts: Vec<Arc<Account>> = Vec::new();
        let cloud = |(index, (config, source)): (usize, (Config, Source))| {
            let account = Account::of(&config);
            let known = accounts.iter().find(|known| known.is_also(&account)).cloned();
            let account = known.unwrap_or_else(|| Arc::new(account));
            accounts.push(Arc::clone(&account));
            let own = match &config.auth {
                Auth::Identity(identity) => identity.scope.clone(),
                _ => Scope::Default,
            };
            Cloud {
                config,
                source,
                breaker: Mutex::new(Arc::new(Breaker::new(own, account, protection))),
                slot: Arc::new(Slot::new(Key::of_cloud(index), protection.scope_refusals)),
                projects: Mutex::default(),
                listing: tokio::sync::Mutex::default(),
                check: Mutex::default(),
            }
        };
        let clouds = clouds.into_iter().enumerate().map(cloud).collect();
        let [scopes, tried] = [(); 2].map(|()| moka::sync::Cache::new(MOST_SCOPES));
        let version = AtomicU64::new(0);
        let departed = Mutex::default();
        let shared = Shared {
            clouds,
            store,
            scopes,
            tried,
            departed,
            version,
            deadline,
            protection,
            runtime,
            observer,
        };
        let shared = Arc::new(shared);
        if let Some(Keeping::Shared(store)) = &shared.store {
            shared.runtime.spawn(listen(store.news(), Arc::downgrade(&shared)));
        }
        Self { shared }
    }

    /// Starts to log in to every cloud, in the background. Where that fails it is tried again until
    /// it succeeds. From now on the logins of people are watched.
    pub fn warm(&self) {
        for (index, cloud) in self.shared.clouds.iter().enumerate() {
            if let Some((_, place)) = cloud.config.by_person() {
                self.shared.runtime.spawn(Shared::watch_login(
                    Arc::downgrade(&self.shared),
                    index,
                    place.clone(),
                ));
            }
            match &cloud.source {
                Source::Keystone(_) => cloud.slot.warm(&self.shared),
                Source::Standing(standing) if standing.known().is_none() => {
                    let cache = self.clone();
                    self.shared
                        .runtime
                        .spawn(async move { cache.current(&Key::of_cloud(index)).await.map(drop) });
                }
                Source::Standing(_) | Source::Unusable(_) => {}
            }
        }
    }

    /// The clouds' configurations, in the order of [`Key::cloud`].
    pub fn clouds(&self) -> impl ExactSizeIterator<Item = &Config> {
        self.shared.clouds.iter().map(|cloud| &cloud.config)
    }

    /// Changes whenever a token is replaced or refused. Who keeps copies of tokens compares it, and
    /// asks again when it moved; nothing is written by reading.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// The token for `key`, if there is one that may be sent right now. Asks nobody. To be kept
    /// while [`version`](Self::version), read before this, stays the same and the token is fresh.
    pub fn snapshot(&self, key: &Key) -> Option<Arc<Token>> {
        let cloud = self.shared.clouds.get(key.cloud)?;
        let own = || match &cloud.source {
            Source::Keystone(_) => cloud.slot.snapshot(),
            Source::Standing(standing) => standing.known(),
            Source::Unusable(_) => None,
        };
        if cloud.is_own(&key.scope) {
            return own();
        }
        match self.shared.granted(key) {
            Some(slot) => slot.snapshot(),
            None => own().filter(|token| has_scope(token, &key.scope)),
        }
    }

    /// The token for `key`; waits for Keystone where there is none yet.
    ///
    /// # Errors
    /// Why there is none. After a failure Keystone is left alone for a while; until then this fails
    /// at once with [`AuthError::Waiting`].
    pub async fn current(&self, key: &Key) -> Result<Arc<Token>, Arc<AuthError>> {
        let cloud = self.shared.cloud(key)?;
        match &cloud.source {
            Source::Keystone(_) => {
                let seeking = async {
                    let slot = self.slot(cloud, key).await?;
                    let lister = self.lister(cloud, &slot).await?;
                    slot.current(&self.shared, lister).await
                };
                self.for_scope(key, seeking).await
            }
            Source::Standing(standing) => match &key.scope {
                Asked::Own => match standing.known() {
                    Some(token) => Ok(token),
                    None => standing.read(None).await.inspect(|_| self.shared.changed()),
                },
                asked => Err(Arc::new(AuthError::ScopeFixed { asked: asked.to_string() })),
            },
            Source::Unusable(error) => Err(Arc::clone(error)),
        }
    }

    /// A token for `key` other than `used`, which a service refused. If there is one already, that
    /// is it. Until the new one is there, [`current`](Self::current) waits too.
    ///
    /// # Errors
    /// As with [`current`](Self::current); [`AuthError::TooManyRefusals`] when services refuse new
    /// tokens as well. The old token stays in use then, for services that accept it.
    pub async fn replace(&self, key: &Key, used: &TokenId) -> Result<Arc<Token>, Arc<AuthError>> {
        let cloud = self.shared.cloud(key)?;
        match &cloud.source {
            Source::Keystone(_) => {
                let replacing = async {
                    let slot = self.slot(cloud, key).await?;
                    let lister = self.lister(cloud, &slot).await?;
                    slot.replace(&self.shared, used, lister).await
                };
                self.for_scope(key, replacing).await
            }
            Source::Standing(standing) => standing.replace(used).await.inspect(|_| self.shared.changed()),
            Source::Unusable(error) => Err(Arc::clone(error)),
        }
    }

    /// Asks Keystone whether a token is still good, and notes it in the token if it is. For uploads
    /// that can't be sent twice. Those who ask about the same token together share one question, and
    /// one that was not answered is not repeated for a while.
    ///
    /// # Errors
    /// [`AuthError`] when Keystone gives no clear answer.
    pub async fn validate(&self, cloud: usize, token: &Token) -> Result<bool, AuthError> {
        let place = self.shared.clouds.get(cloud).ok_or(AuthError::NoSuchCloud)?;
        let check = {
            let mut running = place.check.lock().unwrap_or_else(PoisonError::into_inner);
            match &*running {
                Some(check) if check.token == token.id && check.holds(slot::now()) => Arc::clone(check),
                _ => {
                    let (token, good, asked) = (token.id.clone(), OnceCell::new(), slot::now());
                    let check = Arc::new(Check { token, good, asked });
                    *running = Some(Arc::clone(&check));
                    check
                }
            }
        };
        let ask = || async {
            let (shared, id) = (Arc::clone(&self.shared), token.id.clone());
            let task = self.shared.runtime.spawn(async move {
                let Cloud { source, .. } = &shared.clouds[cloud];
                let breaker = shared.clouds[cloud].breaker();
                let Source::Keystone(keystone) = source else { return Ok(true) };
                if let Some(waiting) = breaker.waiting(slot::now()) {
                    return Err(waiting);
                }
                let limit = CHECK_DEADLINE.min(shared.deadline);
                let checking = tokio::time::timeout(limit, keystone.validate(&id));
                checking.await.unwrap_or(Err(AuthError::Timeout { after: limit }))
            });
            task.await.unwrap_or(Err(AuthError::Stopped))
        };
        let good = check.good.get_or_init(ask).await.clone()?;
        // It is answered, so nobody joins it any more: it must not outlive the token.
        place.check.lock().unwrap_or_else(PoisonError::into_inner).take_if(|last| Arc::ptr_eq(last, &check));
        if good {
            token.mark_proved(slot::now());
        }
        Ok(good)
    }

    /// The projects that a cloud's user may log in to, disabled ones included, as Keystone lists them now or
    /// listed them a moment ago. None where there is no Keystone to ask.
    ///
    /// # Errors
    /// Why there is no list.
    pub async fn projects(&self, cloud: usize) -> Result<Arc<[ProjectInfo]>, Arc<AuthError>> {
        let place = self.shared.cloud(&Key::of_cloud(cloud))?;
        match &place.source {
            Source::Keystone(_) => {}
            Source::Standing(_) => return Ok(Arc::new([])),
            Source::Unusable(error) => return Err(Arc::clone(error)),
        }
        if let Some(projects) = place.projects_within(UNKNOWN_PROJECTS) {
            return Ok(projects);
        }
        let start = slot::now();
        let own = place.slot.current(&self.shared, None).await?;
        let shared = Arc::clone(&self.shared);
        let task = self.shared.runtime.spawn(async move { shared.list_projects(cloud, &own, start).await });
        match task.await {
            Ok(listed) => listed.map_err(|trouble| Arc::new(trouble.error().clone())),
            Err(_) => Err(Arc::new(AuthError::Stopped)),
        }
    }

    /// Where requests for a service of a cloud go; see [`catalog::choose`].
    ///
    /// # Errors
    /// What is missing, and what there is instead.
    pub fn endpoint<'a>(
        &'a self,
        cloud: usize,
        token: &'a Token,
        service: &str,
        region: Option<&str>,
    ) -> Result<Destination<'a>, NoEndpoint> {
        let cloud = self.shared.clouds.get(cloud).ok_or(NoEndpoint::NoCatalog)?;
        catalog::choose(&cloud.config, &token.catalog, service, region)
    }

    /// How the store that keyways share is doing, if there is one.
    pub fn store(&self) -> Option<shared::Standing> {
        match &self.shared.store {
            Some(Keeping::Shared(store)) => Some(store.standing()),
            Some(Keeping::Disk(_)) | None => None,
        }
    }

    /// How a cloud's own token is doing.
    pub fn status(&self, cloud: usize) -> Status {
        match self.shared.clouds.get(cloud) {
            None => Status::default(),
            Some(place @ Cloud { source: Source::Keystone(_), slot, .. }) => {
                let breaker = place.breaker();
                let (cloud_refusals_left, new_scopes_left) = breaker.left();
                let rejections = breaker.account().status(breaker.protection().rejections);
                let mut others: Vec<_> = self.shared.scopes.iter().collect();
                others.retain(|(key, _)| key.cloud == cloud);
                // One may be there under several keys.
                let mut slots: Vec<_> = others.iter().map(|(_, slot)| Arc::as_ptr(slot)).collect();
                slots.sort_unstable();
                slots.dedup();
                let scopes = slots.len();
                let of_slot = slot.status(&breaker);
                Status { cloud_refusals_left, new_scopes_left, rejections, scopes, ..of_slot }
            }
            Some(Cloud { source: Source::Standing(standing), .. }) => standing.status(),
            Some(Cloud { source: Source::Unusable(error), .. }) => {
                Status { failure: Some((Arc::clone(error), Duration::MAX)), ..Status::default() }
            }
        }
    }

    /// Another scope's token may take two logins and a list of projects; whoever waits for it waits no
    /// longer than for one login.
    async fn for_scope(
        &self,
        key: &Key,
        seeking: impl Future<Output = Result<Arc<Token>, Arc<AuthError>>>,
    ) -> Result<Arc<Token>, Arc<AuthError>> {
        if key.scope == Asked::Own {
            return seeking.await;
        }
        let after = self.shared.deadline;
        tokio::time::timeout(after, seeking)
            .await
            .unwrap_or_else(|_| Err(Arc::new(AuthError::Timeout { after })))
    }

    /// The slot of a key. Whoever asks for what there is a token for shares it: for the cloud's own scope in
    /// other words, or for another one by name and by id.
    async fn slot(&self, cloud: &Cloud, key: &Key) -> Result<Arc<Slot>, Arc<AuthError>> {
        if cloud.is_own(&key.scope) {
            return Ok(Arc::clone(&cloud.slot));
        }
        if let Some(slot) = self.shared.granted(key).or_else(|| self.shared.tried.get(key)) {
            return Ok(slot);
        }
        let own = match cloud.slot.known() {
            Some(token) => token,
            None => cloud.slot.current(&self.shared, None).await?,
        };
        if has_scope(&own, &key.scope) {
            return Ok(Arc::clone(&cloud.slot));
        }
        if let Auth::Identity(identity) = &cloud.config.auth
            && !identity.method.takes_scope()
        {
            return Err(Arc::new(AuthError::ScopeFixed { asked: key.scope.to_string() }));
        }
        if let Asked::Exactly(scope) = &key.scope
            && names(scope).iter().any(|name| name.len() > LONGEST_NAME)
        {
            return Err(Arc::new(AuthError::Rejected { status: 401, message: None }.of_scope()));
        }
        let same = match &key.scope {
            // Several domains may have that name, so only the list of projects says which one is meant.
            Asked::Project(asked) => {
                let listed = cloud.projects_within(KNOWN_PROJECTS);
                let id = listed.and_then(|projects| match_project(&projects, asked, &own).ok());
                Asked::Exactly(Scope::Project(Project::Id(id.unwrap_or_else(|| asked.clone()))))
            }
            scope => scope.clone(),
        };
        let mut others = self.shared.scopes.iter().filter(|(known, _)| known.cloud == key.cloud);
        if let Some((_, slot)) = others.find(|(_, slot)| slot.serves(&same)) {
            self.shared.scopes.insert(key.clone(), Arc::clone(&slot));
            return Ok(slot);
        }
        Ok(self.shared.tried.get_with(key.clone(), || {
            Arc::new(Slot::new(key.clone(), self.shared.protection.scope_refusals))
        }))
    }

    /// The token with which a slot may ask for the user's projects, if it still has to.
    async fn lister(&self, cloud: &Cloud, slot: &Slot) -> Result<Option<Arc<Token>>, Arc<AuthError>> {
        if !slot.must_resolve() {
            return Ok(None);
        }
        Ok(Some(cloud.slot.current(&self.shared, None).await?))
    }
}

impl Shared {
    fn cloud(&self, key: &Key) -> Result<&Cloud, Arc<AuthError>> {
        self.clouds.get(key.cloud).ok_or_else(|| Arc::new(AuthError::NoSuchCloud))
    }

    /// The slot of a scope that Keystone granted. One that is there under another key than its own must still
    /// be what that asks for: projects get new names.
    fn granted(&self, key: &Key) -> Option<Arc<Slot>> {
        self.scopes.get(key).filter(|slot| slot.serves(&key.scope))
    }

    /// Tells everyone who keeps copies that a token was replaced or refused.
    fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// One login: finds the project, if that is still to be done, and asks Keystone for its token, unless one
    /// was kept.
    async fn log_in(self: &Arc<Self>, login: &mut Login) -> Result<Token, Trouble> {
        let cloud = self.clouds.get(login.key.cloud).ok_or(Trouble::NotAsked(AuthError::NoSuchCloud))?;
        let (Source::Keystone(keystone), Auth::Identity(identity)) = (&cloud.source, &cloud.config.auth)
        else {
            return Err(Trouble::NotAsked(AuthError::FixedToken));
        };
        let scope = match &login.key.scope {
            Asked::Own => identity.scope.clone(),
            Asked::Exactly(scope) => scope.clone(),
            Asked::Project(asked) => {
                let id = match (&login.project_id, &login.lister) {
                    (Some(id), _) => id.clone(),
                    (None, Some(own)) => self.find_project(asked, own, login).await?,
                    (None, None) => return Err(Trouble::NotAsked(AuthError::Stopped)),
                };
                login.project_id = Some(id.clone());
                Scope::Project(Project::Id(id))
            }
        };
        self.obtain(cloud, identity, keystone.as_ref(), &scope, login).await
    }

    /// Asks Keystone for a token when its turn comes.
    async fn authenticate(
        self: &Arc<Self>,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        login: &Login,
    ) -> Result<Token, Trouble> {
        let breaker = cloud.breaker();
        let permit = self.in_time(login.start, breaker.admit()).await.map_err(Trouble::NotAsked)?;
        if login.known || !cloud.may_be_made_up(&login.key.scope) {
            return self.ask(cloud, keystone, scope, login, permit).await;
        }
        // There is a limit to those that Keystone may refuse.
        breaker.take_scope().map_err(Trouble::NotAsked)?;
        let result = self.ask(cloud, keystone, scope, login, permit).await;
        if !matches!(&result, Err(Trouble::OfScope(AuthError::ScopeRefused { .. }))) {
            breaker.put_scope_back();
        }
        result
    }

    /// Asks Keystone for a token, and tells the breaker what came of it while nobody else's turn has
    /// come yet.
    async fn ask(
        self: &Arc<Self>,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        login: &Login,
        permit: Permit<'_>,
    ) -> Result<Token, Trouble> {
        let (breaker, index, start) = (cloud.breaker(), login.key.cloud, login.start);
        // Where a client named the scope and Keystone says no to it, that is the client's answer.
        let about_scope = |error: AuthError| {
            Trouble::OfScope(if login.key.scope == Asked::Own { error } else { error.of_scope() })
        };
        let mut sent = slot::now();
        let mut secrets = match self.in_time(start, self.secrets(&breaker, keystone)).await {
            Ok(secrets) => secrets,
            Err(error) => return Err(self.fail(index, error, sent)),
        };
        if breaker.is_last_chance(&secrets) && cloud.takes_scope() && *scope != Scope::Unscoped {
            // Once more may be once too often: without a scope, the answer is about the credentials alone.
            match self.show(cloud, keystone, &Scope::Unscoped, &secrets, login).await {
                Ok(_) => sent = slot::now(),
                Err(error) if error.is_rejection() || is_about_keystone(&error) => {
                    return Err(self.fail(index, error, sent));
                }
                // That is none of Keystone's answers to a wrong password.
                Err(_) => {}
            }
        }
        let mut answer = self.in_time(start, keystone.authenticate(scope)).await;
        let mut permit = permit;
        if let Err(error) = &answer
            && error.is_rejection()
        {
            breaker.account().reject(&secrets, error);
            permit = match self.in_time(start, breaker.alone(permit)).await {
                Ok(permit) => permit,
                Err(_) => {
                    return Err(
                        answer.map_or_else(Trouble::OfScope, |_| Trouble::NotAsked(AuthError::Stopped))
                    );
                }
            };
            // Somebody may have changed the password just now.
            let other = self.in_time(start, keystone.secrets(Some(&secrets))).await;
            if let Some(other) =
                other.ok().filter(|other| *other != secrets && breaker.may_show(other).is_ok())
            {
                tracing::info!(
                    cloud = cloud.config.name,
                    "the secret to log in with has changed: trying the new one"
                );
                self.asked(login, Outcome::Rejected, sent, None);
                (secrets, sent) = (other, slot::now());
                answer = self.in_time(start, keystone.authenticate(scope)).await;
                if let Err(error) = &answer
                    && error.is_rejection()
                {
                    breaker.account().reject(&secrets, error);
                }
            }
        }
        let _permit = permit;
        match answer {
            Ok(token) => {
                self.accept(cloud, scope, login);
                Ok(token)
            }
            Err(error) if is_about_keystone(&error) => Err(self.fail(index, error, sent)),
            Err(error) if error.is_rejection() => {
                let scope_alone = match breaker.verdict(scope, sent) {
                    Verdict::Good => true,
                    Verdict::Bad | Verdict::Unknown => false,
                    Verdict::Ask(other) => self.show(cloud, keystone, &other, &secrets, login).await.is_ok(),
                };
                if scope_alone {
                    breaker.absolve(scope);
                    return Err(about_scope(error));
                }
                Err(self.fail(index, error, sent))
            }
            Err(error @ AuthError::NotInV2 { .. }) => Err(about_scope(error)),
            Err(error) => Err(Trouble::OfScope(error)),
        }
    }

    /// What a login shows now. What Keystone rejected before is asked for anew, where that may help; and if it must not
    /// be shown once more, that is the answer.
    async fn secrets(&self, breaker: &Breaker, keystone: &dyn Issuer) -> Result<Secrets, AuthError> {
        let mut secrets = keystone.secrets(None).await?;
        if breaker.account().times(&secrets) > 0 {
            secrets = keystone.secrets(Some(&secrets)).await?;
        }
        breaker.may_show(&secrets)?;
        Ok(secrets)
    }

    /// Logs in for `scope` to see whether Keystone accepts these credentials at all.
    async fn show(
        &self,
        cloud: &Cloud,
        keystone: &dyn Issuer,
        scope: &Scope,
        secrets: &Secrets,
        login: &Login,
    ) -> Result<(), AuthError> {
        let (breaker, started) = (cloud.breaker(), slot::now());
        breaker.may_show(secrets)?;
        let answer = self.in_time(login.start, keystone.authenticate(scope)).await;
        let outcome = answer.as_ref().map_or_else(Outcome::of, |_| Outcome::Ok);
        self.asked(login, outcome, started, None);
        match answer {
            Ok(_) => {
                self.accept(cloud, scope, login);
                Ok(())
            }
            Err(error) => {
                if error.is_rejection() {
                    breaker.account().reject(secrets, &error);
                }
                Err(error)
            }
        }
    }

    /// Tells of a login beside the one that brings the token.
    fn asked(&self, login: &Login, outcome: Outcome, started: Instant, expires_at: Option<i64>) {
        (self.observer)(&Event::Asked {
            cloud: login.key.cloud,
            reason: login.reason,
            outcome,
            took: slot::now().saturating_duration_since(started),
            expires_at,
        });
    }

    /// Looks again and again whether a rejected secret has changed where it comes from, until Keystone accepts one.
    fn watch_secrets(self: &Arc<Self>, index: usize) {
        let (shared, watch) = (Arc::downgrade(self), self.clouds[index].breaker().watch());
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(WATCH).await;
                let Some(shared) = shared.upgrade() else { return };
                let cloud = &shared.clouds[index];
                let breaker = cloud.breaker();
                let Source::Keystone(keystone) = &cloud.source else { return };
                if !breaker.watches(watch) {
                    return;
                }
                let changed = match breaker.account().last_rejected() {
                    Some(rejected) => keystone.has_changed(&rejected).await,
                    // Another cloud's login went well since.
                    None => true,
                };
                if changed
                    && let Ok(secrets) = keystone.secrets(None).await
                    && breaker.may_show(&secrets).is_ok()
                {
                    tracing::info!(
                        cloud = cloud.config.name,
                        "the rejected secret has changed: trying the new one"
                    );
                    breaker.lift();
                    cloud.slot.hurry(&shared);
                }
            }
        });
    }

    /// Looks again and again whether a person's login is still the one that tokens were got with. Once it is not,
    /// because of `keyway logout` or another login, they are used no more. Keystone does not end them with the login.
    async fn watch_login(shared: Weak<Self>, index: usize, place: Place) {
        loop {
            tokio::time::sleep(WATCH).await;
            let asked = place.clone();
            let Ok(loaded) = tokio::task::spawn_blocking(move || asked.load()).await else { return };
            let Some(shared) = shared.upgrade() else { return };
            // What is wrong with the place is told where the token is wanted, and is no logout.
            let Ok(kept) = loaded else { continue };
            shared.forget_logins(index, kept.map(|kept| kept.login)).await;
        }
    }

    /// Lets go of tokens that came of other logins than this one. Where there is none, Keystone revokes them.
    async fn forget_logins(self: &Arc<Self>, index: usize, login: Option<LoginId>) {
        let cloud = &self.clouds[index];
        let others = self.scopes.iter().chain(&self.tried);
        let others = others.filter(|(key, _)| key.cloud == index).map(|(_, slot)| slot);
        let slots: Vec<_> = std::iter::once(Arc::clone(&cloud.slot)).chain(others).collect();
        // The cloud's own goes last: it asks for another one at once.
        let forgotten: Vec<_> = slots.iter().rev().filter_map(|slot| slot.forget(self, login)).collect();
        if forgotten.is_empty() {
            return;
        }
        *cloud.projects.lock().unwrap_or_else(PoisonError::into_inner) = Projects::default();
        tracing::info!(
            cloud = cloud.config.name,
            tokens = forgotten.len(),
            "the login that these tokens came of is gone, and they with it"
        );
        let (Source::Keystone(keystone), None) = (&cloud.source, login) else { return };
        for token in forgotten {
            if let Err(error) = keystone.revoke(&token.id).await {
                let (cloud, error) = (&cloud.config.name, secret::causes(&error));
                tracing::warn!(cloud, error, "tokens of the login that is gone could not be revoked");
                return;
            }
        }
    }

    fn accept(&self, cloud: &Cloud, scope: &Scope, login: &Login) {
        if cloud.breaker().accept(scope) {
            tracing::info!(cloud = cloud.config.name, "Keystone accepts logins again");
            (self.observer)(&Event::Resumed { cloud: login.key.cloud });
        }
    }

    fn fail(self: &Arc<Self>, cloud: usize, error: AuthError, sent: Instant) -> Trouble {
        let failure = self.clouds[cloud].breaker().fail(error, sent);
        if failure.error.is_rejection() {
            self.watch_secrets(cloud);
        }
        (self.observer)(&Event::Paused {
            cloud,
            wait: failure.until.saturating_duration_since(slot::now()),
            rejected: failure.error.is_rejection(),
        });
        Trouble::OfCloud(failure)
    }

    /// A step of what began at `start`, as long as that may take in all.
    async fn in_time<T>(
        &self,
        start: Instant,
        step: impl Future<Output = Result<T, AuthError>>,
    ) -> Result<T, AuthError> {
        let due = start + self.deadline;
        let timed_out = |_| Err(AuthError::Timeout { after: self.deadline });
        tokio::time::timeout_at(due.into(), step).await.unwrap_or_else(timed_out)
    }

    /// The id of the project that a request means: an id, else a name; among equal names the one in
    /// the domain of the cloud's own project.
    async fn find_project(
        self: &Arc<Self>,
        asked: &str,
        own: &Token,
        login: &Login,
    ) -> Result<String, Trouble> {
        let known = self.clouds[login.key.cloud].projects_within(KNOWN_PROJECTS);
        if let Some(found) = known.and_then(|projects| match_project(&projects, asked, own).ok()) {
            return Ok(found);
        }
        let projects = self.list_projects(login.key.cloud, own, login.start).await?;
        match_project(&projects, asked, own).map_err(Trouble::OfScope)
    }

    /// Asks Keystone for the user's projects, unless it was asked just now. `start` is when whoever needs
    /// them began.
    async fn list_projects(
        self: &Arc<Self>,
        index: usize,
        own: &Token,
        start: Instant,
    ) -> Result<Arc<[ProjectInfo]>, Trouble> {
        let cloud = &self.clouds[index];
        let Source::Keystone(keystone) = &cloud.source else {
            return Err(Trouble::NotAsked(AuthError::FixedToken));
        };
        let turn = self.in_time(start, async { Ok(cloud.listing.lock().await) });
        let _turn = turn.await.map_err(Trouble::NotAsked)?;
        if let Some(projects) = cloud.projects_within(UNKNOWN_PROJECTS) {
            return Ok(projects);
        }
        if let Some(failed) = cloud.listing_failed() {
            return Err(Trouble::OfScope(failed));
        }
        if let Some(waiting) = cloud.breaker().waiting(slot::now()) {
            return Err(Trouble::NotAsked(waiting));
        }
        let sent = slot::now();
        let mut listed = self.in_time(start, keystone.projects(&own.id)).await;
        // The list's 401 is about the token that it was asked for with, not about the credentials.
        if let Err(AuthError::Rejected { status: 401, .. }) = listed {
            let replaced = cloud.slot.replace(self, &own.id, None).await;
            let own = replaced.map_err(|error| Trouble::NotAsked((*error).clone()))?;
            listed = self.in_time(start, keystone.projects(&own.id)).await;
        }
        let outcome = listed.as_ref().map_or_else(Outcome::of, |_| Outcome::Ok);
        (self.observer)(&Event::Listed { cloud: index, outcome });
        let mut projects = cloud.projects.lock().unwrap_or_else(PoisonError::into_inner);
        match listed {
            Ok(listed) => {
                let listed: Arc<[ProjectInfo]> = listed.into();
                *projects = Projects { listed: Some((slot::now(), Arc::clone(&listed))), failed: None };
                Ok(listed)
            }
            Err(error) if is_about_keystone(&error) => Err(self.fail(index, error, sent)),
            Err(error) => {
                projects.failed = Some((slot::now(), error.clone()));
                Err(Trouble::OfScope(error))
            }
        }
    }
}

/// Hears which tokens services refused to other keyways, and replaces those here as well.
async fn listen(mut news: broadcast::Receiver<Arc<[News]>>, shared: Weak<Shared>) {
    loop {
        let news = match news.recv().await {
            Ok(news) => news,
            // What was missed is learnt from the services.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let Some(shared) = shared.upgrade() else { return };
        for news in news.iter() {
            let News::Refused(token) = news else { continue };
            let own = shared.clouds.iter().map(|cloud| Arc::clone(&cloud.slot));
            for slot in own.chain(shared.scopes.iter().map(|(_, slot)| slot)) {
                slot.hear_of_refusal(&shared, token);
            }
        }
    }
}

/// Whether a failure would meet every login alike. A 500 may be about one project's catalog.
fn is_about_keystone(error: &AuthError) -> bool {
    match error {
        AuthError::Unreachable(_)
        | AuthError::Timeout { .. }
        | AuthError::NoSecret { .. }
        | AuthError::PasscodeUsed { .. }
        | AuthError::LoginRequired { .. }
        | AuthError::Provider(_) => true,
        AuthError::Unavailable { status, retry_after, .. } => {
            matches!(status, 429 | 502 | 503 | 504) || retry_after.is_some()
        }
        _ => false,
    }
}

/// Whether a token is good for what is asked, as far as it tells.
fn has_scope(token: &Token, asked: &Asked) -> bool {
    let scope = match asked {
        Asked::Own => return true,
        Asked::Project(asked) => {
            return token.project.as_ref().is_some_and(|own| own.id == *asked || own.name == *asked);
        }
        Asked::Exactly(scope) => scope,
    };
    match scope {
        // Only Keystone knows what that is.
        Scope::Default => false,
        Scope::Unscoped => token.project.is_none() && token.domain.is_none() && !token.system,
        Scope::System => token.system,
        Scope::Trust(id) => token.trust.as_ref() == Some(id),
        Scope::Project(Project::Id(id)) => token.project.as_ref().is_some_and(|own| own.id == *id),
        Scope::Project(Project::Name { name, domain }) => {
            let in_domain = |own: &Named| match domain {
                None => true,
                Some(Domain::Id(id)) => own.domain_id.as_ref() == Some(id),
                Some(Domain::Name(name)) => own.domain_name.as_ref() == Some(name),
            };
            token.project.as_ref().is_some_and(|own| own.name == *name && in_domain(own))
        }
        Scope::Domain(domain) => token.domain.as_ref().is_some_and(|own| match domain {
            Domain::Id(id) => own.id == *id,
            Domain::Name(name) => own.name == *name,
        }),
    }
}

/// The names and ids in a scope.
fn names(scope: &Scope) -> [&str; 2] {
    fn of_domain(domain: &Domain) -> &str {
        match domain {
            Domain::Id(name) | Domain::Name(name) => name,
        }
    }
    match scope {
        Scope::Project(Project::Id(id)) => [id, ""],
        Scope::Project(Project::Name { name, domain }) => [name, domain.as_ref().map_or("", of_domain)],
        Scope::Domain(domain) => [of_domain(domain), ""],
        Scope::Trust(id) => [id, ""],
        Scope::Default | Scope::Unscoped | Scope::System => ["", ""],
    }
}

fn match_project(projects: &[ProjectInfo], asked: &str, own: &Token) -> Result<String, AuthError> {
    let usable = || projects.iter().filter(|info| info.enabled).map(|info| &info.project);
    if let Some(project) = usable().find(|project| project.id == asked) {
        return Ok(project.id.clone());
    }
    let mut named: Vec<&Named> = usable().filter(|project| project.name == asked).collect();
    let own_domain = own.project.as_ref().or(own.user.as_ref()).and_then(|own| own.domain_id.as_ref());
    if named.len() > 1 && named.iter().any(|project| project.domain_id.as_ref() == own_domain) {
        named.retain(|project| project.domain_id.as_ref() == own_domain);
    }
    match named[..] {
        [project] => Ok(project.id.clone()),
        [] => Err(AuthError::UnknownProject {
            asked: asked.to_owned(),
            available: usable().map(|project| project.name.clone()).collect(),
        }),
        _ => Err(AuthError::AmbiguousProject {
            asked: asked.to_owned(),
            ids: named.iter().map(|project| project.id.clone()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests;
