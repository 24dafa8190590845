//! Which token should this request carry?
//!
//! [`TokenCache`] keeps one token per cloud and scope, renews it shortly before it expires, and
//! makes sure that any number of requests waiting for the same token cost Keystone one call. A
//! token that a service refused is replaced by naming it ([`TokenCache::replace`]), so a late 401 for
//! an old token never throws away a new one, and the old one stays until the new one is there.
//!
//! Keystone is protected from us: failures back off, rejected credentials most of all (accounts get
//! locked; all scopes of a cloud share one breaker, and all clouds of a user one account), and buckets
//! cap the logins that refused tokens and made-up scopes may cause. Calls to Keystone run on a runtime
//! of their own and outlive the requests that wait for them. Nothing here knows about routes or
//! downstream clients.

mod account;
mod asked;
mod breaker;
mod check;
mod event;
mod kept;
mod login;
mod projects;
mod slot;
mod standing;
mod watch;

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use self::account::{Account, Secrets};
pub use self::asked::{Asked, Key};
use self::asked::{has_scope, may_exist};
use self::breaker::Breaker;
pub use self::breaker::Protection;
use self::check::Check;
pub use self::event::{Event, Observer, Outcome, Reason};
pub use self::kept::Keeping;
use self::projects::{KNOWN_PROJECTS, Projects, UNKNOWN_PROJECTS, match_project};
use self::slot::Slot;
use self::standing::Standing;
use super::{Auth, AuthError, Client, Config, Project, ProjectInfo, Scope, Token, TokenId, shared};
use crate::upstream;

/// How many scopes' tokens are kept beside those of the clouds' own, and of how many it is remembered that
/// there is none.
const MOST_SCOPES: u64 = 1024;

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

enum Source {
    Keystone(Box<dyn Issuer>),
    /// There is nobody to ask for a token.
    Standing(Box<Standing>),
    /// The operator's fixed token can't be sent.
    Unusable(Arc<AuthError>),
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

    fn breaker(&self) -> Arc<Breaker> {
        Arc::clone(&self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
        Self::with_sources(clouds, store, deadline, protection, runtime, observer)
    }

    fn with_sources(
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
            shared.runtime.spawn(watch::listen(store.news(), Arc::downgrade(&shared)));
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
            && !may_exist(scope)
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
}

#[cfg(test)]
mod tests;
