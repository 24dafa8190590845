//! Sockets and connections: accept, speak HTTP/1.1 or HTTP/2, drain. Knows no OpenStack.

mod address;
pub mod certificate;
mod clients;
mod connection;
mod drain;
mod io;
mod listener;
mod streak;
pub mod tls;
mod watch;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch as settings;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

use self::certificate::SubjectName;
use self::connection::{Connection, Exec, Shared};
use self::io::{Io, Stream};
use self::listener::Peer;
use self::watch::Watch;
use crate::incoming::Incoming;
use crate::metrics::{Closed, ConnectionMetrics};

pub use address::Address;
pub use clients::Clients;
pub use drain::Drain;
pub use listener::{Socket, bind};

/// hyper's read buffer: large enough that a large upload is read in large pieces. The size of a
/// request's head is limited by the handler.
const READ_BUFFER: usize = 400 * 1024;
const MAX_FIELDS: usize = 200;
/// HTTP/2: exchanges of one connection at a time, and what a client may send ahead of anybody reading
/// it, for one of them and for all.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
const MAX_HEADER_LIST: u32 = 64 << 10;
/// HTTP/2: requests that were reset before anybody saw them, and exchanges that the client made keyway
/// reset by breaking the rules. One more, and the connection ends.
const MAX_UNSEEN_RESETS: usize = 32;
const MAX_PROVOKED_RESETS: usize = 128;
/// How long nothing more is said of what was said before.
const QUIET: Duration = Duration::from_secs(10);
/// How long to wait after the system could not hand over a connection, and how many idle ones then
/// make room.
const PAUSE: Duration = Duration::from_millis(100);
const ROOM: usize = 16;
/// How many clients for whom there is no room are told so at a time, and for how long each is listened
/// to, so that it gets to read that.
const MOST_REFUSED: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);

/// Where a listener is, how it speaks TLS, and who may connect to its socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where.
    pub address: Address,
    /// With TLS.
    pub tls: Option<tls::Config>,
    /// A socket file's mode.
    pub mode: u32,
    /// The users (uid) that may connect to a socket file. Empty: the one that keyway runs as, and root.
    pub users: Vec<u32>,
}

impl Config {
    /// Without TLS; a socket file for its owner alone.
    pub fn at(address: Address) -> Self {
        Self { address, tls: None, mode: 0o600, users: Vec::new() }
    }
}

/// How much a listener may take on, and how long a client may take. It changes on reload, also for
/// connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, of all workers and listeners that share [`Clients`]. One more, and the one
    /// that has been idle for longest is closed, of those of the worker that it came to; if none of
    /// them is idle, the new one is refused.
    pub connections: usize,
    /// Requests at a time on one worker; further ones are answered with `overloaded`.
    pub requests: usize,
    /// Connections at a time of one client address, on all workers together. `None`: no limit.
    pub per_client: Option<usize>,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a request's whole head.
    pub head: Duration,
    /// How long a connection without a request is kept.
    pub keepalive: Duration,
    /// How long a client that has to send or to read may do neither.
    pub stall: Duration,
    /// What a client that has to send must send at least, bytes per second, measured over a `stall` of
    /// its own time: what a service takes is not counted.
    pub min_rate: u64,
}

/// What a listener needs while it serves. A reload replaces it.
#[derive(Clone)]
pub struct Settings {
    /// See [`Limits`].
    pub limits: Limits,
    /// With TLS.
    pub tls: Option<Arc<tls::Loaded>>,
    /// Who may connect to a socket file.
    pub users: Users,
}

/// What a handler answers when it can't.
#[derive(Debug)]
pub struct Fallback<O, B> {
    /// Too many requests at a time: one more came, with this head. `None` where there are too many connections, and
    /// nobody reads what comes by this one.
    pub overloaded: O,
    /// The handler panicked.
    pub panicked: fn() -> Response<B>,
    /// A request's head took too long.
    pub late: fn() -> Response<B>,
}

/// Serves connections until `drain` begins; those that are open then finish what they are at.
///
/// `clients` is shared by all workers and listeners whose connections are counted together.
pub async fn serve<H, F, O, B>(
    socket: Socket,
    settings: settings::Receiver<Settings>,
    handler: H,
    fallback: Fallback<O, B>,
    drain: Drain,
    metrics: Arc<ConnectionMetrics>,
    clients: Clients,
) where
    H: Fn(Arc<Client>, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    O: Fn(Option<(Arc<Client>, Parts)>) -> Response<B> + Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let address = socket.address().clone();
    let listener = match socket.listen() {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, %address, "a worker could not listen"),
    };
    let mut settings = Current::new(settings);
    let shared = Arc::new(Shared {
        requests: AtomicUsize::new(0),
        most: AtomicUsize::new(settings.now.limits.requests),
        metrics: Arc::clone(&metrics),
        late: text((fallback.late)()),
        full: text((fallback.overloaded)(None)),
    });
    let mut watch = Watch::default();
    let mut tick = tokio::time::interval(watch::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let refused = Arc::new(AtomicUsize::new(0));
    let mut complaint = Complaint::default();
    let mut draining = pin!(drain.begun());
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.as_mut() => return,
            _ = tick.tick(), if !watch.is_empty() => {
                settings.update();
                watch.look(&settings.now, Instant::now());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_gone(&error) => continue,
            Err(error) => {
                metrics.count(Closed::Accept);
                if complaint.is_due() {
                    tracing::warn!(%error, %address, "no connection could be accepted; is the limit of open files too low?");
                }
                (0..ROOM).take_while(|_| watch.make_room()).count();
                // Without a pause, this would spin: the client still waits to be accepted.
                tokio::select! {
                    () = draining.as_mut() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
                watch.look(&settings.now, Instant::now());
                continue;
            }
        };
        settings.update();
        shared.most.store(settings.now.limits.requests, Ordering::Relaxed);
        let Settings { limits, tls, users } = &settings.now;
        let place = match peer {
            Peer::User(user) if !users.welcome(user) => {
                metrics.count(Closed::User);
                let user = user.map(|(user, _)| user);
                if complaint.is_due() {
                    tracing::warn!(user, %address, "this user may not connect: list it in `users`, if it should");
                }
                continue;
            }
            Peer::User(_) => None,
            Peer::Address(client) => match limits.per_client.map(|limit| clients.enter(client, limit)) {
                Some(None) => {
                    metrics.count(Closed::Client);
                    continue;
                }
                place => place.flatten(),
            },
        };
        if clients.open() >= limits.connections {
            // So that those that came just before get to read their requests, and are idle no more.
            tokio::task::yield_now().await;
        }
        if clients.open() >= limits.connections && !watch.make_room() {
            metrics.count(Closed::Full);
            if tls.is_none() {
                refuse(stream, &shared, &refused);
            }
            continue;
        }
        if let Stream::Tcp(stream) = &stream
            && let Err(error) = stream.set_nodelay(true)
        {
            tracing::debug!(%error, "a connection ended before it began");
            continue;
        }
        let client = Arc::new(Client::new(peer));
        let connection = Connection::new(Arc::clone(&shared));
        if tls.is_none() {
            connection.is_ready();
        }
        watch.add(Arc::clone(&connection), tls.as_ref(), Instant::now());
        let (tls, handshake) = (tls.clone(), limits.handshake);
        let (begun, handler, who) = (Arc::clone(&connection), handler.clone(), Arc::clone(&client));
        let (overloaded, panicked) = (fallback.overloaded.clone(), fallback.panicked);
        let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let exchange = begun.begin(&mut request);
            let answering = if exchange.is_admitted() {
                let request = request.map(|body| Incoming::new(body, exchange.transfer()));
                // Boxed, since a connection's future would have room for it all the time.
                Ok(Box::pin(handler(Arc::clone(&who), request)))
            } else {
                Err(overloaded(Some((Arc::clone(&who), request.into_parts().0))))
            };
            async move {
                let response = match answering {
                    Ok(answering) => guarded(answering, panicked).await,
                    Err(response) => response,
                };
                Ok::<_, Infallible>(exchange.answer(response))
            }
        });
        let open = Open { connection: Arc::clone(&connection), _opened: clients.opened(), _place: place };
        metrics.open.fetch_add(1, Ordering::Relaxed);
        let drain = drain.clone();
        tokio::spawn(async move {
            let _open = open;
            let stream = match tls {
                None => stream,
                Some(tls) => {
                    let Some(stream) = Box::pin(secure(stream, tls, handshake, &connection)).await else {
                        return;
                    };
                    if let Some(own) = stream.certificates().first() {
                        let _ = client.names.set(certificate::names(own));
                        let _ = connection.shown.set(stream.certificates().to_vec());
                    }
                    connection.is_ready();
                    stream
                }
            };
            let io = TokioIo::new(Io::new(stream, Arc::clone(&connection)));
            let builder = builder(Exec(Arc::clone(&connection)));
            let serving = builder.serve_connection(io, service);
            if let Err(error) = drain.watch(pin!(serving), &connection).await {
                ended_badly(&*error, &connection);
            }
        });
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Default)]
pub struct Client {
    /// Its address; none at a socket file.
    pub address: Option<IpAddr>,
    /// The user and the group (uid, gid) that it runs as, at a socket file.
    pub user: Option<(u32, u32)>,
    /// The names of its certificate, which was verified; unset where it showed none.
    pub names: OnceLock<Vec<SubjectName>>,
}

impl Client {
    fn new(peer: Peer) -> Self {
        match peer {
            Peer::Address(address) => Self { address: Some(address), ..Self::default() },
            Peer::User(user) => Self { user, ..Self::default() },
        }
    }
}

/// A connection that is open, with its place among its client's.
struct Open {
    connection: Arc<Connection>,
    _opened: clients::Opened,
    _place: Option<clients::Place>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connection.end();
        self.connection.shared.metrics.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients can bring about at will is logged at most once in a while; every time is counted.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now.saturating_duration_since(last) >= QUIET);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// The settings of this moment. Looking whether they changed is a load.
struct Current {
    receiver: settings::Receiver<Settings>,
    now: Settings,
}

impl Current {
    fn new(mut receiver: settings::Receiver<Settings>) -> Self {
        let now = receiver.borrow_and_update().clone();
        Self { receiver, now }
    }

    fn update(&mut self) {
        if self.receiver.has_changed().unwrap_or(false) {
            self.now = self.receiver.borrow_and_update().clone();
        }
    }
}

fn builder(exec: Exec) -> auto::Builder<Exec> {
    let mut builder = auto::Builder::new(exec);
    builder.http1().max_buf_size(READ_BUFFER).max_headers(MAX_FIELDS);
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_UNSEEN_RESETS)
        .max_local_error_reset_streams(MAX_PROVOKED_RESETS);
    builder
}

/// Whether a connection that died in the queue is all that went wrong.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Who may connect to a socket file.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// See [`Config::users`].
    pub listed: Vec<u32>,
    /// Users and groups that are an identity's own.
    pub identities: (Vec<u32>, Vec<u32>),
}

impl Users {
    fn welcome(&self, who: Option<(u32, u32)>) -> bool {
        let Some((user, group)) = who else { return false };
        let (users, groups) = &self.identities;
        let by_default = || user == 0 || user == rustix::process::geteuid().as_raw();
        self.listed.contains(&user)
            || self.listed.is_empty() && by_default()
            || users.contains(&user)
            || groups.contains(&group)
    }
}

/// The TLS handshake; `None` if it did not succeed in time.
async fn secure(
    stream: Stream,
    config: Arc<tls::Loaded>,
    within: Duration,
    connection: &Connection,
) -> Option<Stream> {
    let acceptor = TlsAcceptor::from(Arc::clone(&config.server));
    let handshake = async {
        Ok(match stream {
            Stream::Tcp(stream) => Stream::TcpTls(Box::new(acceptor.accept(stream).await?)),
            Stream::Unix(stream) => Stream::UnixTls(Box::new(acceptor.accept(stream).await?)),
            secure => secure,
        })
    };
    match tokio::time::timeout(within, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            let error: std::io::Error = error;
            // A client that went away in the middle of it is no one's fault.
            if error.get_ref().is_some_and(|source| source.is::<rustls::Error>()) {
                connection.count(Closed::Tls);
                tracing::info!(%error, "a TLS handshake failed");
            }
            None
        }
        Err(_) => {
            connection.count(Closed::Handshake);
            None
        }
    }
}

/// Counts a connection that ended because of what the client sent, but not because it went away.
#[cold]
fn ended_badly(error: &(dyn std::error::Error + Send + Sync + 'static), connection: &Connection) {
    let Some(cause) = error.downcast_ref::<hyper::Error>() else { return };
    let h2 = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<h2::Error>());
    if cause.is_parse() || h2.is_some_and(|error| error.is_library()) {
        connection.count(Closed::Protocol);
    }
    tracing::debug!(error = cause as &dyn std::error::Error, "a connection ended badly");
}

/// Tells a client that there is no room for it, if there aren't too many to be told.
#[cold]
fn refuse(stream: Stream, shared: &Arc<Shared>, refused: &Arc<AtomicUsize>) {
    if refused.load(Ordering::Relaxed) >= MOST_REFUSED {
        return;
    }
    refused.fetch_add(1, Ordering::Relaxed);
    let (shared, refused) = (Arc::clone(shared), Arc::clone(refused));
    tokio::spawn(async move {
        let _ = tokio::time::timeout(REFUSAL, async {
            match stream {
                Stream::Tcp(stream) => tell(stream, &shared.full).await,
                Stream::Unix(stream) => tell(stream, &shared.full).await,
                Stream::TcpTls(_) | Stream::UnixTls(_) => Ok(()),
            }
        })
        .await;
        refused.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Closing with something unread would be a reset, and the text lost.
async fn tell(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    text: &[u8],
) -> std::io::Result<()> {
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}

/// An answer of keyway's own as it is on the wire, for HTTP/1.
fn text<B>(response: Response<B>) -> Bytes
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (parts, mut body) = response.into_parts();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let mut text =
        format!("HTTP/1.1 {} {reason}\r\nconnection: close\r\n", parts.status.as_str()).into_bytes();
    for (name, value) in &parts.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let length = body.size_hint().exact();
    if let (Some(length), false) = (length, parts.headers.contains_key(http::header::CONTENT_LENGTH)) {
        text.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    // It waits for nothing.
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
    }
    text.into()
}

/// A panic in a handler costs its request, not the connection or the worker.
async fn guarded<F: Future<Output = Response<B>>, B>(
    mut answer: Pin<Box<F>>,
    panicked: fn() -> Response<B>,
) -> Response<B> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(response)) => Poll::Ready(response),
        Err(_) => Poll::Ready(panicked()),
    })
    .await
}
