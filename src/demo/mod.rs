//! What does a cloud look like when there is none? A simulated OpenStack inside this process.
//!
//! [`Cloud`] listens on loopback, one port per service as in a real cloud, and answers as the real
//! services do as far as curl, a client library or a proxy can see: tokens that expire, catalogs,
//! pages with next links, uploads and downloads, and each service's own way to say no. It serves
//! `keyway demo` and the integration tests, which also look at what arrived ([`Cloud::requests`])
//! and make services slow, wrong or unreachable ([`Trouble`]). Nothing in it is secret, nothing
//! outlives the process, and every answer says `Server: keyway-demo (simulated)`.

mod call;
mod compute;
mod content;
mod front;
mod identity;
mod image;
mod network;
mod object;
mod orchestration;
mod reply;
mod signed;
mod volume;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use call::Call;
use content::{Md5, Upload};
pub use front::instructions;
pub use identity::{
    APPLICATION_CREDENTIAL_ID, APPLICATION_CREDENTIAL_NAME, APPLICATION_CREDENTIAL_SECRET, DOMAIN, DOMAIN_ID,
    OTHER_PROJECT, OTHER_PROJECT_ID, PASSWORD, PROJECT, PROJECT_ID, TOTP_SECRET, TRUST_ID, USER, USER_ID,
};
use reply::{Body, Reply, With};
pub use signed::{ACCESS_KEY, ACCESS_SECRET, CONSUMER_KEY, CONSUMER_SECRET};

/// What the demo cloud is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a token lives.
    pub token_ttl: Duration,
    /// How long a new server is in BUILD, and a new volume `creating`.
    pub boot_time: Duration,
    /// The most entries that one page of a list has.
    pub page_size: usize,
    /// A longer image is read to its end, but only its length and checksum are kept.
    pub image_limit: u64,
    /// How many bytes of objects the object store keeps before it refuses more (413).
    pub object_limit: u64,
    /// The user's password.
    pub password: String,
    /// The application credential's secret.
    pub application_credential_secret: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_ttl: Duration::from_secs(5 * 60),
            boot_time: Duration::from_secs(3),
            page_size: 1000,
            image_limit: 1024 * 1024,
            object_limit: 256 * 1024 * 1024,
            password: PASSWORD.to_owned(),
            application_credential_secret: APPLICATION_CREDENTIAL_SECRET.to_owned(),
        }
    }
}

/// What a service does wrong, on purpose. The default is nothing.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// It waits so long before it does anything, even before it looks at the token.
    pub latency: Duration,
    /// It gives this answer to everything: a broken body, a 503 with `Retry-After`, a redirect.
    pub answer: Option<Response<Bytes>>,
    /// It refuses every token, good or not. Keystone then refuses every login.
    pub refuses_tokens: bool,
    /// It reads a whole request before it refuses the token, as an API behind nginx does; a client
    /// that waits for `100 Continue` gets it. Else a refused upload is never read.
    pub reads_before_refusing: bool,
}

/// One request as a service saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte as received.
    pub target: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// All headers, the token included.
    pub headers: HeaderMap,
    /// How many bytes of the body the service has read so far.
    pub body_length: u64,
    /// Whether it read the body to its proper end.
    pub body_complete: bool,
    /// The trailers that followed the body.
    pub trailers: Option<HeaderMap>,
    /// Whether it carried exactly one token and that was good. False where none is looked at.
    pub token_was_good: bool,
    /// The status of the answer; `None` while there is none yet, and if the client went away.
    pub status: Option<StatusCode>,
}

/// The part of [`Seen`] that changes while the request is served.
#[derive(Default)]
struct Progress {
    received: u64,
    complete: bool,
    trailers: Option<HeaderMap>,
    token_was_good: bool,
    status: Option<StatusCode>,
}

struct Record {
    method: Method,
    target: String,
    version: Version,
    headers: HeaderMap,
    progress: Arc<Mutex<Progress>>,
}

/// How many requests are remembered per service.
const REMEMBERED: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Identity,
    Compute,
    ComputeTwo,
    Image,
    ImageTwo,
    Network,
    Volume,
    Object,
    Orchestration,
}

impl Service {
    const ALL: [Self; 9] = [
        Self::Identity,
        Self::Compute,
        Self::ComputeTwo,
        Self::Image,
        Self::ImageTwo,
        Self::Network,
        Self::Volume,
        Self::Object,
        Self::Orchestration,
    ];

    fn named(name: &str) -> Self {
        match name {
            "identity" => Self::Identity,
            "compute" => Self::Compute,
            "RegionTwo/compute" => Self::ComputeTwo,
            "image" => Self::Image,
            "RegionTwo/image" => Self::ImageTwo,
            "network" => Self::Network,
            "block-storage" | "volumev3" => Self::Volume,
            "object-store" => Self::Object,
            "orchestration" => Self::Orchestration,
            _ => panic!("the demo cloud has no service `{name}`"),
        }
    }
}

/// A running demo cloud. Dropped, it is gone, with all its connections.
pub struct Cloud {
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
}

struct Listener {
    wanted: watch::Sender<bool>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Cloud {
    /// Starts it on the current tokio runtime.
    pub async fn start(config: Config) -> std::io::Result<Self> {
        let mut sockets = Vec::new();
        for _ in Service::ALL {
            sockets.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        let addresses = sockets.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        let state = Mutex::new(State::new(&config));
        let shared = Arc::new(Shared { config, addresses, state });
        let listeners = Service::ALL
            .into_iter()
            .zip(sockets)
            .map(|(service, socket)| {
                let (wanted, wanted_now) = watch::channel(true);
                let (listening_now, listening) = watch::channel(true);
                let listen = listen(Arc::clone(&shared), service, socket, wanted_now, listening_now);
                Listener { wanted, listening, task: tokio::spawn(listen) }
            })
            .collect();
        Ok(Self { shared, listeners })
    }

    /// Keystone's URL with version 3, as `OS_AUTH_URL` has it.
    pub fn auth_url(&self) -> String {
        format!("{}/v3", self.identity_root())
    }

    /// Keystone's URL without a version.
    pub fn identity_root(&self) -> String {
        self.shared.origin(Service::Identity)
    }

    /// Keystone's URL with version 2.0.
    pub fn v2_url(&self) -> String {
        format!("{}/v2.0", self.identity_root())
    }

    /// The catalog's public URL of a service in RegionOne for the project [`PROJECT`]: `identity`,
    /// `compute`, `image`, `network`, `block-storage`, `volumev3`, `object-store`, `orchestration`.
    /// RegionTwo's are `RegionTwo/compute` and `RegionTwo/image`.
    ///
    /// # Panics
    /// If there is no such service; so do all methods that name one.
    pub fn url(&self, service: &str) -> String {
        let known = Service::named(service);
        let (region, kind) = service.split_once('/').unwrap_or(("RegionOne", service));
        self.shared
            .endpoints(PROJECT_ID)
            .into_iter()
            .find(|endpoint| endpoint.region == region && endpoint.kind == kind)
            .map_or_else(|| self.shared.origin(known), |endpoint| endpoint.public)
    }

    /// How many logins succeeded, v3 and v2.0.
    pub fn tokens_issued(&self) -> usize {
        self.shared.state().tokens_issued
    }

    /// How many logins were tried.
    pub fn token_requests(&self) -> usize {
        self.shared.state().token_requests
    }

    /// Whether this is a token that is good now, for a service of somebody else's that asks.
    pub fn accepts(&self, token: &str) -> bool {
        self.shared.state().token(token).is_some()
    }

    /// Makes every service refuse every token issued so far.
    pub fn revoke_all(&self) {
        self.shared.state().tokens.clear();
    }

    /// Gives the user another password.
    pub fn set_password(&self, password: &str) {
        self.shared.state().passwords.change(password);
    }

    /// From now on so many wrong passwords in a row lock the user out, for good.
    pub fn lock_out_after(&self, wrong: u32) {
        self.shared.state().passwords.lock_out_after(wrong);
    }

    /// The most wrong passwords that there ever were in a row.
    pub fn wrong_passwords(&self) -> u32 {
        self.shared.state().passwords.most_wrong()
    }

    /// Takes the user's role in a project away, or gives it back: without, Keystone neither lists the project
    /// nor issues tokens for it. Those that there are stay good.
    pub fn set_role(&self, project: &str, granted: bool) {
        let roleless = &mut self.shared.state().roleless;
        roleless.retain(|known| known != project);
        if !granted {
            roleless.push(project.to_owned());
        }
    }

    /// Which methods together Keystone wants of the user: all of one of these rules. Without a rule, any method
    /// will do.
    pub fn set_auth_rules(&self, rules: &[&[&str]]) {
        let rule = |rule: &&[&str]| rule.iter().map(|&name| name.to_owned()).collect();
        self.shared.state().rules = rules.iter().map(rule).collect();
    }

    /// Keystone no longer knows the access token of OAuth 1.0. What was issued for it is over.
    pub fn delete_access_token(&self) {
        self.shared.state().nonces = None;
        self.revoke_all();
    }

    /// How long tokens live that are issued from now on.
    pub fn set_token_ttl(&self, ttl: Duration) {
        self.shared.state().token_ttl = ttl;
    }

    /// Sets the clock of the cloud ahead (or, negative, back): the times in its answers and their
    /// `Date`. How long a token really lives stays the same.
    pub fn set_clock_skew(&self, skew: SignedDuration) {
        self.shared.state().clock_skew = skew;
    }

    /// The catalog of a token for [`PROJECT`], as it is in the body of a v3 token.
    pub fn catalog(&self) -> Value {
        self.shared.catalog(PROJECT_ID)
    }

    /// Puts this catalog into every token and `GET /v3/auth/catalog` from now on; `Value::Null` leaves
    /// it out of tokens.
    pub fn set_catalog(&self, catalog: Value) {
        self.shared.state().catalog = Some(catalog);
    }

    /// What a service saw, oldest first. The last few thousand are remembered.
    pub fn requests(&self, service: &str) -> Vec<Seen> {
        let state = self.shared.state();
        let seen = state.seen[Service::named(service) as usize].iter();
        seen.map(|record| {
            let progress = lock(&record.progress);
            Seen {
                method: record.method.clone(),
                target: record.target.clone(),
                version: record.version,
                headers: record.headers.clone(),
                body_length: progress.received,
                body_complete: progress.complete,
                trailers: progress.trailers.clone(),
                token_was_good: progress.token_was_good,
                status: progress.status,
            }
        })
        .collect()
    }

    /// Makes a service misbehave from now on; `Trouble::default()` ends it.
    pub fn set_trouble(&self, service: &str, trouble: Trouble) {
        self.shared.state().trouble[Service::named(service) as usize] = trouble;
    }

    /// Takes a service down: its connections are cut, new ones are refused. Returns when that is so.
    pub async fn pause(&self, service: &str) {
        self.switch(service, false).await;
    }

    /// Brings a service back on the same port. Returns when it listens.
    pub async fn resume(&self, service: &str) {
        self.switch(service, true).await;
    }

    async fn switch(&self, service: &str, on: bool) {
        let listener = &self.listeners[Service::named(service) as usize];
        listener.wanted.send_replace(on);
        // An error means that the runtime of the cloud is gone, and the listener with it.
        let _ = listener.listening.clone().wait_for(|listening| *listening == on).await;
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.task.abort();
        }
    }
}

/// Serves one port until the cloud is dropped. All connections belong to this task.
async fn listen(
    shared: Arc<Shared>,
    service: Service,
    socket: TcpListener,
    mut wanted: watch::Receiver<bool>,
    listening: watch::Sender<bool>,
) {
    let address = shared.addresses[service as usize];
    let mut socket = socket;
    loop {
        let mut connections = JoinSet::new();
        while *wanted.borrow_and_update() {
            tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve_connection(Arc::clone(&shared), service, stream));
                    }
                    // Out of file descriptors, most likely: they come back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                },
                Some(_) = connections.join_next() => {}
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
        drop(socket);
        connections.shutdown().await;
        // Bound but not listening: connections are refused, and nobody else gets the port meanwhile.
        let reserved = loop {
            match reserve(address) {
                Ok(reserved) => break reserved,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        listening.send_replace(false);
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        socket = match reserved.listen(1024) {
            Ok(socket) => socket,
            Err(_) => return,
        };
        listening.send_replace(true);
    }
}

fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve_connection(shared: Arc<Shared>, service: Service, stream: TcpStream) {
    // Small answers should not wait for each other; without the option they are only slower.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.serve(service, request).await) }
    });
    // A client that breaks off is the client's business.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
}

/// The cloud as its services share it.
struct Shared {
    config: Config,
    addresses: Vec<SocketAddr>,
    state: Mutex<State>,
}

struct State {
    token_ttl: Duration,
    clock_skew: SignedDuration,
    catalog: Option<Value>,
    tokens: identity::Tokens,
    /// Ids of projects in which the user has no role.
    roleless: Vec<String>,
    /// The user's rules.
    rules: Vec<Vec<String>>,
    /// The methods that were accepted, by the receipts for them.
    receipts: HashMap<String, Vec<String>>,
    /// The one-time passcodes that were used.
    passcodes: Vec<String>,
    /// What signed logins showed, as long as there is an access token for them.
    nonces: Option<Vec<String>>,
    passwords: identity::Passwords,
    tokens_issued: usize,
    token_requests: usize,
    seen: [VecDeque<Record>; Service::ALL.len()],
    trouble: [Trouble; Service::ALL.len()],
    compute: [compute::State; 2],
    images: [Vec<image::Image>; 2],
    network: network::State,
    volumes: Vec<volume::Volume>,
    objects: object::State,
    stacks: Vec<orchestration::Stack>,
}

impl State {
    fn new(config: &Config) -> Self {
        Self {
            token_ttl: config.token_ttl,
            clock_skew: SignedDuration::ZERO,
            catalog: None,
            tokens: identity::Tokens::new(),
            roleless: Vec::new(),
            rules: Vec::new(),
            receipts: HashMap::new(),
            passcodes: Vec::new(),
            nonces: Some(Vec::new()),
            passwords: identity::Passwords::new(&config.password),
            tokens_issued: 0,
            token_requests: 0,
            seen: Default::default(),
            trouble: Default::default(),
            compute: [compute::seed("RegionOne"), compute::seed("RegionTwo")],
            images: [image::seed("RegionOne"), image::seed("RegionTwo")],
            network: network::seed(),
            volumes: volume::seed(),
            objects: object::State::default(),
            stacks: orchestration::seed(),
        }
    }
}

/// Whom a good token belongs to.
#[derive(Clone, Copy)]
struct Caller {
    /// None: the token is unscoped, or for a domain or the system.
    project: Option<&'static str>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn origin(&self, service: Service) -> String {
        format!("http://{}", self.addresses[service as usize])
    }

    async fn serve(&self, service: Service, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let progress = Arc::new(Mutex::new(Progress::default()));
        let target = head.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        let call = Call::new(&head);
        let trouble = {
            let mut state = self.state();
            if service == Service::Identity && identity::is_login(&call) {
                state.token_requests += 1;
            }
            let seen = &mut state.seen[service as usize];
            if seen.len() == REMEMBERED {
                seen.pop_front();
            }
            let progress = Arc::clone(&progress);
            seen.push_back(Record {
                method: head.method,
                target,
                version: head.version,
                headers: head.headers,
                progress,
            });
            state.trouble[service as usize].clone()
        };
        if !trouble.latency.is_zero() {
            tokio::time::sleep(trouble.latency).await;
        }

        let mut body = Upload::new(body, Arc::clone(&progress));
        let caller = self.caller(&call).filter(|_| !trouble.refuses_tokens);
        lock(&progress).token_was_good = caller.is_some();
        let reply = match trouble.answer {
            Some(answer) => answer.map(|body| Body::chunks([body].into())),
            None => self.answer(service, &call, caller, &mut body, trouble.refuses_tokens).await,
        };
        if reply.status() == StatusCode::UNAUTHORIZED && trouble.reads_before_refusing {
            body.discard().await;
        }
        lock(&progress).status = Some(reply.status());
        self.finish(service, &call, reply)
    }

    async fn answer(
        &self,
        service: Service,
        call: &Call,
        caller: Option<Caller>,
        body: &mut Upload,
        refuses: bool,
    ) -> Reply {
        let open = match service {
            Service::Identity => return identity::serve(self, call, caller, body, refuses).await,
            Service::Compute | Service::ComputeTwo => compute::version(call),
            Service::Image => image::version(call, &call.base),
            // Its public_endpoint was never corrected, as so often.
            Service::ImageTwo => image::version(call, "https://glance.region-two.example:9292"),
            Service::Network => network::version(call),
            Service::Volume => volume::version(call),
            Service::Object => object::info(call),
            Service::Orchestration => orchestration::version(call),
        };
        if let Some(reply) = open {
            return reply;
        }
        let keystone = format!("{}/", self.origin(Service::Identity));
        let refusal = |status| reply::refusal(service, status, &call.path, &keystone);
        let Some(caller) = caller else {
            return refusal(StatusCode::UNAUTHORIZED);
        };
        let Some(project) = caller.project else {
            return refusal(StatusCode::FORBIDDEN);
        };
        let answer = match service {
            Service::Compute => compute::serve(self, 0, call, project, body).await,
            Service::ComputeTwo => compute::serve(self, 1, call, project, body).await,
            Service::Image => image::serve(self, 0, call, project, body).await,
            Service::ImageTwo => image::serve(self, 1, call, project, body).await,
            Service::Network => network::serve(self, call, project, body).await,
            Service::Volume => volume::serve(self, call, project, body).await,
            Service::Orchestration => orchestration::serve(self, call, project, body).await,
            Service::Object | Service::Identity => object::serve(self, call, project, body).await,
        };
        answer.unwrap_or_else(|error| *error)
    }

    /// The headers that every answer of a service has.
    fn finish(&self, service: Service, call: &Call, mut reply: Reply) -> Reply {
        let id = uuid();
        let request_id = match service {
            Service::Object => format!("tx{}-{:010x}", &id.replace('-', "")[..21], fastrand::u32(..)),
            _ => format!("req-{id}"),
        };
        let skew = self.state().clock_skew;
        if !skew.is_zero() {
            let date = httpdate::fmt_http_date((Timestamp::now() + skew).into());
            reply = reply.with("date", date);
        }
        reply = reply.with("server", "keyway-demo (simulated)").with("x-openstack-request-id", &request_id);
        match service {
            Service::Identity => reply = reply.with("vary", "X-Auth-Token"),
            Service::Compute | Service::ComputeTwo => {
                reply = reply
                    .with("x-compute-request-id", &request_id)
                    .with("openstack-api-version", "compute 2.1")
                    .with("x-openstack-nova-api-version", "2.1")
                    .and("vary", "OpenStack-API-Version")
                    .and("vary", "X-OpenStack-Nova-API-Version");
            }
            Service::Volume => {
                reply =
                    reply.with("openstack-api-version", "volume 3.0").with("vary", "OpenStack-API-Version");
            }
            Service::Object => reply = reply.with("x-trans-id", &request_id),
            Service::Image | Service::ImageTwo | Service::Network | Service::Orchestration => {}
        }
        if call.method == Method::HEAD {
            let length = reply.body().length();
            if length > 0 && !reply.headers().contains_key(CONTENT_LENGTH) {
                reply = reply.with("content-length", length);
            }
            *reply.body_mut() = Body::default();
        }
        reply
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new random UUID. Nothing here is worth guessing, so any randomness will do.
fn uuid() -> String {
    dashed(&format!("{:032x}", fastrand::u128(..)))
}

/// The same UUID for the same name, in every demo cloud: an example that was pasted once works again.
fn uuid_of(name: &str) -> String {
    dashed(&Md5::hex(name.as_bytes()))
}

fn dashed(hex: &str) -> String {
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// `2026-11-21T21:22:40Z`
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-21T21:22:40.123456`
fn microseconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

fn is_over(since: Instant, duration: Duration) -> bool {
    since.elapsed() >= duration
}

#[cfg(test)]
mod tests;
