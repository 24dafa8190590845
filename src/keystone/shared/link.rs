//! The connection to the store: who keeps it, and what if there is none?

use std::error::Error as _;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
    TlsMode, Value,
};

use super::{Answer, Config, Place, Store, TAKE, news};
use crate::keystone::{Event, Secret, Source};
use crate::private::random;

/// How long it may take until there is a connection; nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first wait before it is tried again, which doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The same where a program has to be run for it that printed a wrong password the last time.
const LONGEST_PAUSE_OF_COMMANDS: Duration = Duration::from_secs(30);

/// How often it is looked whether the store is still there.
const CHECK: Duration = Duration::from_secs(1);

/// How the connection is.
pub(super) enum Link {
    /// Nobody knows yet.
    Starting,
    Up(Connection),
    /// And why.
    Down(String),
}

/// A connection, which any number may use at a time.
#[derive(Clone)]
pub(super) struct Connection {
    to: To,
    number: u64,
}

#[derive(Clone)]
enum To {
    One(MultiplexedConnection),
    Cluster(Box<ClusterConnection>),
}

impl Connection {
    async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match &mut self.to {
            To::One(connection) => command.query_async(connection).await,
            To::Cluster(connection) => command.query_async(connection.as_mut()).await,
        }
    }

    async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match &mut self.to {
            To::One(connection) => connection.subscribe(channel).await,
            To::Cluster(connection) => connection.subscribe(channel).await,
        }
    }
}

impl Store {
    /// Connects, and says why that did not work.
    pub(super) async fn try_once(self: &Arc<Self>) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.connect(&mut None)).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err("does not answer".to_owned()),
        }
    }

    /// Keeps a connection as long as anybody has the store, and hears what others say.
    pub fn keep(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let (store, mut link) = (Arc::downgrade(self), self.link.subscribe());
        async move {
            let (mut pause, mut wrong) = (PAUSE, None);
            loop {
                let Some(this) = store.upgrade() else { return };
                match tokio::time::timeout(PATIENCE, this.connect(&mut wrong)).await {
                    Ok(Ok(connection)) => {
                        pause = PAUSE;
                        this.rise(connection);
                        this.catch_up().await;
                    }
                    Ok(Err(why)) => this.fall(None, why),
                    Err(_) => this.fall(None, "does not answer".to_owned()),
                }
                let runs_command =
                    wrong.is_some() && matches!(this.config.password, Some(Source::Command(_)));
                let longest = if runs_command { LONGEST_PAUSE_OF_COMMANDS } else { LONGEST_PAUSE };
                drop(this);
                loop {
                    if !matches!(*link.borrow_and_update(), Link::Up(_)) {
                        break;
                    }
                    match tokio::time::timeout(CHECK, link.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return,
                        Err(_) => {
                            let Some(this) = store.upgrade() else { return };
                            let _ = this.send(&redis::cmd("PING")).await;
                        }
                    }
                }
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                pause = (pause * 2).min(longest);
            }
        }
    }

    /// Asks the store; `None` where it does not do it in time, or there is no connection.
    pub(super) async fn ask(&self, command: &Cmd) -> Option<Value> {
        let answer = self.send(command).await;
        self.count(answer.as_ref().map_or_else(|why| *why, |_| Answer::Ok));
        answer.ok()
    }

    /// The same; where it does not do it, the connection is given up.
    async fn send(&self, command: &Cmd) -> Result<Value, Answer> {
        let mut connection = self.connection().await.ok_or(Answer::Down)?;
        let (answer, why) = match tokio::time::timeout(self.config.timeout, connection.send(command)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => (Answer::Failed, what(&error)),
            Err(_) => (Answer::TimedOut, "does not answer".to_owned()),
        };
        self.fall(Some(connection.number), why);
        Err(answer)
    }

    /// The connection; only at the very start it is waited for, and never for long.
    async fn connection(&self) -> Option<Connection> {
        let mut link = self.link.subscribe();
        let known =
            tokio::time::timeout(self.config.timeout, link.wait_for(|link| !matches!(link, Link::Starting)));
        if let Ok(Ok(link)) = known.await {
            return match &*link {
                Link::Up(connection) => Some(connection.clone()),
                Link::Starting | Link::Down(_) => None,
            };
        }
        self.fall(None, "does not answer".to_owned());
        None
    }

    /// There is a connection.
    fn rise(&self, connection: Connection) {
        let was_up = self.link.send_replace(Link::Up(connection));
        let address = &self.config.address;
        match was_up {
            Link::Down(_) => tracing::info!("the token store {address} answers again: tokens are shared"),
            Link::Starting | Link::Up(_) => tracing::info!("tokens are shared by the store {address}"),
        }
        (self.observer)(&Event::StoreIs { up: true });
    }

    /// This connection is of no use any more, or (`None`) there is none. Told once.
    fn fall(&self, number: Option<u64>, why: String) {
        let mut told = None;
        self.link.send_if_modified(|link| {
            match (&*link, number) {
                (Link::Up(connection), Some(number)) if connection.number == number => told = Some(true),
                (Link::Starting, None) => told = Some(true),
                (Link::Down(known), None) if *known != why => told = Some(false),
                _ => return false,
            }
            *link = Link::Down(why.clone());
            true
        });
        let address = &self.config.address;
        match told {
            Some(true) => {
                tracing::warn!(
                    "the token store {address} {why}: until it can be used again, this keyway logs in by itself"
                );
                (self.observer)(&Event::StoreIs { up: false });
            }
            Some(false) => tracing::debug!("the token store {address} {why}"),
            None => {}
        }
    }

    /// Hears what was told while there was no connection, and tells what could not be told.
    async fn catch_up(&self) {
        let mut from = 0;
        while let Some(news) = news::recall(self, from).await.filter(|news| !news.is_empty()) {
            from += news.len();
            let _ = self.news.send(news.into_iter().flatten().collect());
        }
        let untold = std::mem::take(&mut *self.untold());
        for news in untold {
            self.tell(news).await;
        }
    }

    pub(super) fn channel(&self) -> String {
        format!("{}news", self.config.prefix)
    }

    /// A connection that hears what is told, to a server that can be written to. `wrong` is a password that it did
    /// not accept.
    async fn connect(self: &Arc<Self>, wrong: &mut Option<Secret>) -> Result<Connection, String> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let password = match (&self.config.password, &*wrong) {
            (None, _) => None,
            (Some(source), None) => Some(source.read().await.map_err(|why| why.to_string())?),
            (Some(source), Some(wrong)) => {
                Some(source.read_again(wrong).await.map_err(|why| why.to_string())?)
            }
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let opened = self.config.open(password.as_ref(), hear(Arc::downgrade(self), number)).await;
        let to = opened.map_err(|failed| {
            if let Failed::Redis(error) = &failed
                && (error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("WRONGPASS"))
            {
                wrong.clone_from(&password);
            }
            failed.what()
        })?;
        let mut connection = Connection { to, number };
        connection.subscribe(&self.channel()).await.map_err(|error| what(&error))?;
        // A server that can't be written to is of no use, and nor is a user who may not.
        let probe = format!("{}{{{:016x}}}", self.config.prefix, u64::from_be_bytes(random()));
        let mut command = redis::cmd("EVAL");
        command.arg(TAKE).arg(2).arg(format!("{probe}:token")).arg(format!("{probe}:lease"));
        command.arg("").arg("probe").arg("100");
        connection.send(&command).await.map_err(|error| what(&error))?;
        *wrong = None;
        Ok(connection)
    }
}

/// Takes in what the server says by itself. Nothing here may wait.
fn hear(store: Weak<Store>, number: u64) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
    move |push| {
        let store = store.upgrade().ok_or(())?;
        match push.kind {
            // A cluster's other servers are still there.
            PushKind::Disconnection if !matches!(store.config.address.place, Place::Cluster(_)) => {
                store.fall(Some(number), "closed the connection".to_owned());
            }
            PushKind::Message => match push.data.last().and_then(|told| news::hear(&store, told)) {
                Some(news) => drop(store.news.send([news].into())),
                None => store.count(Answer::Unusable),
            },
            _ => {}
        }
        Ok(())
    }
}

/// Why there is no connection.
enum Failed {
    Redis(RedisError),
    /// A file, and why it can't be read.
    File(String),
}

impl Failed {
    fn what(&self) -> String {
        match self {
            Self::Redis(error) => what(error),
            Self::File(why) => why.clone(),
        }
    }
}

impl From<RedisError> for Failed {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl Config {
    async fn open(
        &self,
        password: Option<&Secret>,
        hear: impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static,
    ) -> Result<To, Failed> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.address.database.into())
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password.expose());
        }
        let certificates = if self.address.tls { Some(self.certificates()?) } else { None };
        // What a request waits for has a limit of its own.
        let config = || {
            AsyncConnectionConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE))
        };
        let client = match &self.address.place {
            Place::Socket(path) => Client::open(
                ConnectionAddr::Unix(path.clone()).into_connection_info()?.set_redis_settings(settings),
            )?,
            Place::Server(host, port) => {
                let info =
                    node(host, *port, self.address.tls).into_connection_info()?.set_redis_settings(settings);
                match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates)?,
                    None => Client::open(info)?,
                }
            }
            Place::Sentinel(nodes, name) => {
                let nodes = nodes.iter().map(|(host, port)| node(host, *port, self.address.tls));
                let mut builder = SentinelClientBuilder::new(nodes, name, SentinelServerType::Master)?
                    .set_client_to_redis_db(self.address.database.into())
                    .set_client_to_redis_protocol(ProtocolVersion::RESP3);
                if let Some(user) = &self.user {
                    builder = builder.set_client_to_redis_username(user);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password.expose());
                }
                if let Some(certificates) = certificates {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_certificates(certificates);
                }
                builder.build()?.async_get_client().await?
            }
            Place::Cluster(nodes) => {
                let nodes = nodes.iter().map(|(host, port)| {
                    let info = node(host, *port, self.address.tls).into_connection_info()?;
                    Ok(info.set_redis_settings(settings.clone()))
                });
                let nodes = nodes.collect::<RedisResult<Vec<_>>>()?;
                let mut builder = redis::cluster::ClusterClientBuilder::new(nodes)
                    .connection_timeout(PATIENCE)
                    .response_timeout(PATIENCE)
                    .use_protocol(ProtocolVersion::RESP3)
                    .push_sender(hear);
                if let Some(certificates) = certificates {
                    builder = builder.tls(TlsMode::Secure).certs(certificates);
                }
                return Ok(To::Cluster(Box::new(builder.build()?.get_async_connection().await?)));
            }
        };
        let config = config().set_push_sender(hear);
        Ok(To::One(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    /// Read anew for each connection, so that other certificates are taken up.
    fn certificates(&self) -> Result<TlsCertificates, Failed> {
        let read = |path: &std::path::Path| {
            let failed =
                |error| Failed::File(format!("can't be asked: {} can't be read: {error}", path.display()));
            fs::read(path).map_err(failed)
        };
        let root_cert = self.tls.ca_file.as_deref().map(read).transpose()?;
        let client_tls = match &self.tls.client_cert {
            None => None,
            Some((cert, key)) => {
                let client_key = read(key.as_ref().unwrap_or(cert))?;
                Some(ClientTlsConfig { client_cert: read(cert)?, client_key })
            }
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

fn node(host: &str, port: u16, tls: bool) -> ConnectionAddr {
    let host = host.to_owned();
    match tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    }
}

/// What went wrong, in words of ours: a server may quote the password that it was shown, so of its own words only
/// the first is told, and only if it is such a word as `READONLY`.
fn what(error: &RedisError) -> String {
    if let Some(code) = error.code() {
        let is_code = |code: &&str| code.len() <= 20 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        return match Some(code).filter(is_code) {
            Some(code) => format!("refuses: {code}"),
            None => "refuses".to_owned(),
        };
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => "does not accept user and password".to_owned(),
        ErrorKind::RESP3NotSupported => "is too old: Redis 6, or any Valkey, is needed".to_owned(),
        ErrorKind::MasterNameNotFoundBySentinel => "is not known to its sentinels by this name".to_owned(),
        ErrorKind::Io if error.is_timeout() => "does not answer".to_owned(),
        ErrorKind::Io if error.is_connection_dropped() => "closed the connection".to_owned(),
        ErrorKind::Io => {
            // The system's own words, or those of TLS: nothing was sent to the server that it could quote.
            let cause = error.source().map(ToString::to_string);
            format!("can't be reached: {}", cause.unwrap_or_else(|| error.to_string()))
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => "says what no Redis would".to_owned(),
        _ => "can't be used".to_owned(),
    }
}
