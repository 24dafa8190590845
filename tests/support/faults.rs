//! A cloud whose lines fail: what happens to each request and to each answer is a test's decision.
//!
//! A [`Line`] stands between keyway and one of the demo cloud's services. It reads a request, asks its
//! script for a [`Fault`], and counts both. What is decided at random comes from [`Dice`], whose seed
//! is printed, and taken from `KEYWAY_TEST_SEED` to see the same run again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use keyway::config::Config;
use keyway::demo::Cloud;
use keyway::keystone::{self, Auth};
use keyway::upstream::BaseUrl;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Task, TestKeyway, cloud, eventually};

/// What happens to one request and its answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends, and the service has seen nothing.
    Lose(End),
    /// The service sees nothing, and no answer comes for as long as keyway waits.
    Silence,
    /// The service sees nothing; these bytes are the answer, and the connection ends.
    Instead(Vec<u8>),
    /// The answer's head comes late, and its body again later.
    Late { head: Duration, body: Duration },
    /// The answer comes byte by byte.
    Dribble(Duration),
    /// The service did what it was asked for, and the answer ends early.
    Cut(Part, End),
    /// The same, and the answer is noise.
    Garbage,
    /// The same, and the answer's head never ends.
    EndlessHead,
    /// The same, and the answer's body never ends.
    EndlessBody,
    /// `Content-Length` promises more than comes.
    Long,
    /// `Content-Length` promises less than comes.
    Short,
    /// More bytes follow the answer.
    Surplus,
    /// The answer is another one.
    Edited(fn(&mut Message)),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Close,
    Reset,
}

/// Where an answer ends early.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    BeforeHead,
    WithinHead,
    AfterHead,
    WithinBody,
}

impl Fault {
    /// An answer in place of the service's.
    pub fn instead(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Self::Instead(text.into_bytes())
    }

    /// Every way in which an answer ends early.
    pub fn cuts() -> impl Iterator<Item = Self> {
        let parts = [Part::BeforeHead, Part::WithinHead, Part::AfterHead, Part::WithinBody];
        parts.into_iter().flat_map(|part| [End::Close, End::Reset].map(|end| Self::Cut(part, end)))
    }
}

/// An answer that can be changed.
#[derive(Debug)]
pub struct Message {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The length that a bodiless answer (to HEAD) has none the less.
    length: usize,
}

impl Message {
    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub fn set_body(&mut self, body: impl Into<Vec<u8>>) {
        self.body = body.into();
        self.length = self.body.len();
    }

    /// Changes the token in a login's answer. Other answers stay.
    pub fn token(&mut self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let Ok(mut document) = serde_json::from_slice::<Value>(&self.body) else { return };
        if let Some(token) = document["token"].as_object_mut() {
            change(token);
            self.set_body(document.to_string());
        }
    }

    fn head(&self, length: Option<usize>) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {}\r\n", self.status);
        self.headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if let Some(length) = length {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Whether its status allows a `Content-Length`.
    fn has_length(&self) -> bool {
        !self.status.starts_with("204") && !self.status.starts_with("304")
    }
}

/// One request as a line saw it.
#[derive(Clone, Debug)]
pub struct Passed {
    pub at: Instant,
    pub method: String,
    pub target: String,
    pub fault: Fault,
}

type Script = Box<dyn FnMut(&str, &str) -> Fault + Send>;

/// The line to one service.
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: Task,
}

struct Shared {
    service: SocketAddr,
    script: Mutex<Script>,
    next: Mutex<VecDeque<Fault>>,
    passed: Mutex<Vec<Passed>>,
}

impl Line {
    /// To the service at `url`; without faults so far.
    pub async fn to(url: &str) -> Self {
        Self::behind(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), url)
    }

    /// The same behind a listener of the test's own.
    pub fn behind(listener: TcpListener, url: &str) -> Self {
        let authority = url.split('/').nth(2).expect("a URL");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            service: authority.parse().expect("the demo cloud is at addresses"),
            script: Mutex::new(Box::new(|_, _| Fault::None)),
            next: Mutex::default(),
            passed: Mutex::default(),
        });
        let _task = Task::spawn(listen(listener, Arc::clone(&shared)));
        Self { address, shared, _task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What happens to every request from now on, by method and target.
    pub fn script(&self, script: impl FnMut(&str, &str) -> Fault + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// The same happens to every request from now on.
    pub fn always(&self, fault: Fault) {
        self.script(move |_, _| fault.clone());
    }

    /// What happens to the next requests, before the script decides again.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.next.lock().unwrap().extend(faults);
    }

    /// No faults from now on.
    pub fn heal(&self) {
        self.shared.next.lock().unwrap().clear();
        self.always(Fault::None);
    }

    /// What came, oldest first.
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.passed.lock().unwrap().clone()
    }

    /// How many logins came.
    pub fn logins(&self) -> usize {
        self.passed().iter().filter(|passed| passed.method == "POST").count()
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// A connection from keyway, for as long as it lasts.
async fn serve(stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let _ = stream.set_nodelay(true);
    let mut wire = Wire { stream, read: Vec::new() };
    loop {
        let head = wire.head().await?;
        let mut line = head.split(' ');
        let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
        let fault = match shared.next.lock().unwrap().pop_front() {
            Some(fault) => fault,
            None => (shared.script.lock().unwrap())(&method, &target),
        };
        let passed = Passed { at: Instant::now(), method: method.clone(), target, fault: fault.clone() };
        shared.passed.lock().unwrap().push(passed);
        match &fault {
            Fault::Lose(end) => return wire.end(*end).await,
            Fault::Silence => {
                while wire.fill().await? > 0 {}
                return None;
            }
            _ => {}
        }
        if head.to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n") {
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let body = wire.body(&head).await?;
        if let Fault::Instead(answer) = &fault {
            wire.send(answer).await?;
            return wire.end(End::Close).await;
        }
        let Some(message) = ask(shared.service, &head, &body, method == "HEAD").await else {
            return wire.end(End::Close).await;
        };
        wire.answer(message, &fault).await?;
    }
}

/// The service's own answer.
async fn ask(service: SocketAddr, head: &str, body: &[u8], head_only: bool) -> Option<Message> {
    let mut wire = Wire { stream: TcpStream::connect(service).await.ok()?, read: Vec::new() };
    let framing = ["connection:", "content-length:", "transfer-encoding:", "expect:"];
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.is_empty() && !framing.iter().any(|name| line.starts_with(name))
    });
    let mut request: String = kept.map(|line| format!("{line}\r\n")).collect();
    request.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n", body.len()));
    wire.send(request.as_bytes()).await?;
    wire.send(body).await?;
    let head = wire.head().await?;
    let (line, fields) = head.split_once("\r\n")?;
    let mut message = Message {
        status: line.split_once(' ')?.1.to_owned(),
        headers: fields
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        body: if head_only { Vec::new() } else { wire.body(&head).await? },
        length: 0,
    };
    let announced = message.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let announced = announced.and_then(|(_, length)| length.parse().ok());
    message.length = if head_only { announced.unwrap_or(0) } else { message.body.len() };
    ["connection", "content-length", "transfer-encoding"].iter().for_each(|name| message.remove(name));
    Some(message)
}

/// One end of a connection. What can't go on is `None`.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn fill(&mut self) -> Option<usize> {
        self.stream.read_buf(&mut self.read).await.ok().filter(|read| *read > 0)
    }

    async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    async fn end(mut self, end: End) -> Option<()> {
        match end {
            End::Close => self.stream.shutdown().await.ok()?,
            End::Reset => self.stream.set_zero_linger().ok()?,
        }
        None
    }

    /// Everything up to `needle`, which is taken and not returned.
    async fn until(&mut self, needle: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(needle.len()).position(|window| window == needle) {
                let rest = self.read.split_off(at + needle.len());
                let mut found = std::mem::replace(&mut self.read, rest);
                found.truncate(at);
                return Some(found);
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            self.fill().await?;
        }
        let rest = self.read.split_off(length);
        Some(std::mem::replace(&mut self.read, rest))
    }

    /// A head with its last line's end.
    async fn head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        Some(format!("{}\r\n", String::from_utf8(head).ok()?))
    }

    /// The body that a head announces.
    async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        let head = head.to_ascii_lowercase();
        if head.contains("\r\ntransfer-encoding: chunked\r\n") {
            let mut body = Vec::new();
            loop {
                let size = self.until(b"\r\n").await?;
                let size = usize::from_str_radix(std::str::from_utf8(&size).ok()?, 16).ok()?;
                if size == 0 {
                    while !self.until(b"\r\n").await?.is_empty() {}
                    return Some(body);
                }
                body.extend(self.take(size).await?);
                self.take(2).await?;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        self.take(length.map_or(Some(0), |length| length.parse().ok())?).await
    }

    async fn answer(&mut self, mut message: Message, fault: &Fault) -> Option<()> {
        if let Fault::Edited(edit) = fault {
            edit(&mut message);
        }
        let length = message.has_length().then_some(message.length);
        let (head, body) = (message.head(length), &message.body);
        match fault {
            Fault::Late { head: before, body: between } => {
                tokio::time::sleep(*before).await;
                self.send(&head).await?;
                tokio::time::sleep(*between).await;
                self.send(body).await
            }
            Fault::Dribble(pause) => {
                for byte in [&head, body].into_iter().flatten() {
                    self.send(&[*byte]).await?;
                    match pause.is_zero() {
                        true => tokio::task::yield_now().await,
                        false => tokio::time::sleep(*pause).await,
                    }
                }
                Some(())
            }
            Fault::Cut(part, end) => {
                let (of_head, of_body) = match part {
                    Part::BeforeHead => (0, 0),
                    Part::WithinHead => (head.len() / 2, 0),
                    Part::AfterHead => (head.len(), 0),
                    Part::WithinBody => (head.len(), body.len() / 2),
                };
                self.send(&head[..of_head]).await?;
                self.send(&body[..of_body]).await?;
                self.finish(*end).await
            }
            Fault::Garbage => {
                let noise: Vec<u8> = (0..512).map(|_| fastrand::u8(..)).collect();
                self.send(&noise).await?;
                self.finish(End::Close).await
            }
            Fault::EndlessHead => {
                self.send(b"HTTP/1.1 200 OK\r\n").await?;
                self.endless(b"X-Endless: and one more and one more and one more\r\n").await
            }
            Fault::EndlessBody => {
                let mut chunked = message.head(None);
                chunked.truncate(chunked.len() - 2);
                chunked.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                self.send(&chunked).await?;
                let chunk = [&b"1000\r\n"[..], &[b' '; 0x1000], b"\r\n"].concat();
                self.endless(&chunk).await
            }
            Fault::Long => {
                self.send(&message.head(Some(body.len() + 100))).await?;
                self.send(body).await?;
                self.finish(End::Close).await
            }
            Fault::Short => {
                self.send(&message.head(Some(body.len() / 2))).await?;
                self.send(body).await
            }
            Fault::Surplus => {
                let more = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother";
                self.send(&[&head, &body[..], more].concat()).await
            }
            _ => self.send(&[&head, &body[..]].concat()).await,
        }
    }

    async fn finish(&mut self, end: End) -> Option<()> {
        match end {
            End::Close => self.stream.shutdown().await.ok()?,
            End::Reset => self.stream.set_zero_linger().ok()?,
        }
        None
    }

    async fn endless(&mut self, piece: &[u8]) -> Option<()> {
        loop {
            self.send(piece).await?;
        }
    }
}

/// The demo cloud with lines to four of its services.
pub struct FaultyCloud {
    pub cloud: Cloud,
    pub keystone: Line,
    pub compute: Line,
    pub image: Line,
    pub objects: Line,
}

impl FaultyCloud {
    /// Without faults so far.
    pub async fn start() -> Self {
        watch_panics();
        let cloud = cloud().await;
        let mut catalog = cloud.catalog().to_string();
        let mut lines = Vec::new();
        for service in ["identity", "compute", "image", "object-store"] {
            let url = cloud.url(service);
            let line = Line::to(&url).await;
            let origin = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
            catalog = catalog.replace(&origin, &line.url(""));
            lines.push(line);
        }
        cloud.set_catalog(serde_json::from_str(&catalog).expect("only origins were replaced"));
        let [keystone, compute, image, objects] = lines.try_into().ok().expect("there are four");
        Self { cloud, keystone, compute, image, objects }
    }

    /// How keyway logs in to it.
    pub fn config(&self) -> keystone::Config {
        let mut config = self.cloud.keystone_config();
        let Auth::Identity(identity) = &mut config.auth else { unreachable!("there is a Keystone") };
        identity.auth_url = BaseUrl::parse(&self.keystone.url("/v3")).expect("a URL");
        config
    }

    /// keyway with one worker that has just begun to log in.
    pub fn cold(&self, change: impl FnOnce(&mut Config)) -> TestKeyway {
        TestKeyway::cold(vec![self.config()], |config| {
            config.workers = 1;
            change(config);
        })
    }

    /// keyway with one worker, logged in.
    pub async fn keyway(&self, change: impl FnOnce(&mut Config)) -> TestKeyway {
        let keyway = self.cold(change);
        // A short deadline may pass on a busy machine: then it is tried again.
        eventually("the login", async || (keyway.admin_get("/readyz").await.status == 200).then_some(()))
            .await;
        keyway
    }
}

/// Random decisions that can be repeated.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<fastrand::Rng>>);

impl Dice {
    pub fn new() -> Self {
        let given = std::env::var("KEYWAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("KEYWAY_TEST_SEED={seed}");
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A number below `bound`.
    pub fn below(&self, bound: usize) -> usize {
        self.0.lock().unwrap().usize(..bound)
    }

    /// True once in `many` throws.
    pub fn once_in(&self, many: usize) -> bool {
        self.below(many) == 0
    }

    pub fn choose<T: Clone>(&self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Where the program panicked since the first call of [`watch_panics`].
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes from now on every panic that is not one of the tests' own.
pub fn watch_panics() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            if !place.starts_with("tests/") {
                PANICS.lock().unwrap().push(place);
            }
            usual(panic);
        }));
    });
}

/// Checks that nothing panicked so far, but for tests that failed.
#[track_caller]
pub fn no_panics() {
    assert_eq!(*PANICS.lock().unwrap(), [] as [String; 0]);
}
