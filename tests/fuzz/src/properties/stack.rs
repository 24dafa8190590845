//! The whole program: a client's raw bytes in, judged by the bytes that reach the service.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::LocalSet;

use crate::properties::wire::{self, Read};
use crate::support::direct::{self, TOKEN};
use crate::support::judge;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// keyway in front of a service that judges every byte. It lives on one thread.
pub struct Stack {
    keyway: direct::Keyway,
    service: Rc<RefCell<Service>>,
    /// Another client, which keeps its connection.
    other: Mutex<TcpStream>,
    /// What that one asks for.
    mark: String,
    tasks: LocalSet,
}

#[derive(Default)]
struct Service {
    authority: String,
    /// The target of the other client's requests, which are not counted.
    mark: String,
    /// Bytes of all the others.
    received: usize,
    /// How many requests it answered; each answer carries its number.
    answered: usize,
    /// How many of them had a body in chunks.
    chunked: usize,
    /// Connections that hold the start of a request.
    unfinished: usize,
    /// It got what it must not get, and said so.
    refused: bool,
}

impl Stack {
    /// Starts both.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let authority = listener.local_addr().expect("it is bound").to_string();
        let cloud = direct::fixed_cloud(&format!("http://{authority}/v1"));
        let keyway = direct::Keyway::start_with(cloud, |config| {
            // Small, so that small bodies reach every way of sending one.
            config.limits.replay_buffer = 64;
        });
        let mark = format!("other-{}", authority.replace(':', "-"));
        let other = TcpStream::connect(keyway.address()).await.expect("keyway listens");
        let service = Service { authority, mark: format!("/v1/{mark}"), ..Service::default() };
        let service = Rc::new(RefCell::new(service));
        let tasks = LocalSet::new();
        tasks.spawn_local(accept(listener, Rc::clone(&service)));
        Self { keyway, service, other: Mutex::new(other), mark, tasks }
    }

    /// Sends these bytes on a connection of their own, waits until nothing more comes of them, and ends
    /// the connection.
    ///
    /// # Panics
    /// If keyway does not end the exchange, or the service or the client got what they must not get.
    pub async fn check(&self, input: &[u8]) {
        self.tasks.run_until(self.exchange(input)).await;
    }

    async fn exchange(&self, input: &[u8]) {
        let (numbered, chunked) = {
            let service = self.service.borrow();
            (service.answered, service.chunked)
        };
        let stream = TcpStream::connect(self.keyway.address()).await.expect("keyway listens");
        let (mut reader, mut writer) = stream.into_split();
        let got = Rc::new(RefCell::new((Vec::new(), false)));
        let receiving = Rc::clone(&got);
        tokio::task::spawn_local(async move {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let read = reader.read(&mut buffer).await.unwrap_or(0);
                let mut got = receiving.borrow_mut();
                got.0.extend_from_slice(&buffer[..read]);
                got.1 = read == 0;
                if got.1 {
                    return;
                }
            }
        });
        // keyway may have closed already.
        let _ = writer.write_all(input).await;
        let (mut before, mut quiet) = ((0, 0, 0), 0);
        while !got.borrow().1 && quiet < 2 {
            self.round().await;
            let service = self.service.borrow();
            let now = (got.borrow().0.len(), service.answered, service.received);
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
        let _ = writer.shutdown().await;
        let finished = async {
            while !got.borrow().1 || self.service.borrow().unfinished > 0 {
                tokio::task::yield_now().await;
            }
        };
        let finished = tokio::time::timeout(PATIENCE, finished).await;
        finished.expect("keyway ends what its client ended, towards the service too");
        self.judge(input, &got.borrow().0, numbered, chunked);
    }

    /// A request of another client. keyway and the service took up what came before it.
    async fn round(&self) {
        let mut other = self.other.lock().await;
        let request = format!("GET /svc/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.mark);
        let answer = async {
            other.write_all(request.as_bytes()).await.expect("keyway reads");
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\nok") {
                assert!(
                    other.read_buf(&mut got).await.expect("keyway answers") > 0,
                    "another client was cut off"
                );
            }
            got
        };
        let got = tokio::time::timeout(PATIENCE, answer).await.expect("other clients are served");
        assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", String::from_utf8_lossy(&got));
    }

    fn judge(&self, input: &[u8], got: &[u8], numbered: usize, chunked: usize) {
        assert!(!self.service.borrow().refused, "see above what the service got");
        let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        assert!(holds(input, TOKEN.as_bytes()) || !holds(got, TOKEN.as_bytes()), "the client got the token");
        if input.starts_with(b"PRI") {
            return;
        }
        // Each answer belongs to a request of this client, in the order in which they were sent.
        let text = String::from_utf8_lossy(got);
        let numbers: Vec<usize> = text
            .split("\r\nx-number: ")
            .skip(1)
            .map(|rest| rest.split("\r\n").next().and_then(|number| number.parse().ok()).expect("a number"))
            .collect();
        let service = self.service.borrow();
        assert!(numbers.is_sorted() && numbers.iter().all(|number| *number > numbered), "{text}");
        assert!(numbers.len() <= service.answered - numbered, "{text}");
        // Nothing ends a body in chunks but its sender.
        let ends = input.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"0")).count();
        assert!(service.chunked - chunked <= ends, "a body that broke off was completed");
    }
}

async fn accept(listener: TcpListener, service: Rc<RefCell<Service>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (judging, service) =
            (tokio::task::spawn_local(serve(stream, Rc::clone(&service))), Rc::clone(&service));
        tokio::task::spawn_local(async move {
            let refused = judging.await.is_err();
            service.borrow_mut().refused |= refused;
        });
    }
}

/// Answers every request on one connection. What is not a whole request, read strictly, must never
/// look like one to anybody else either.
async fn serve(mut stream: TcpStream, service: Rc<RefCell<Service>>) {
    let (mut bytes, mut buffer, mut told) = (Vec::new(), vec![0; 64 * 1024], false);
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        let was_unfinished = !bytes.is_empty();
        bytes.extend_from_slice(&buffer[..read]);
        let mut answers = Vec::new();
        loop {
            match wire::request(&bytes) {
                Read::Whole(request, length) => {
                    let mut service = service.borrow_mut();
                    judge(&request, &bytes[..length], &service.authority);
                    bytes.drain(..length);
                    told = false;
                    let mut number = 0;
                    if request.target != service.mark {
                        service.answered += 1;
                        service.received += length;
                        service.chunked += usize::from(request.chunked);
                        number = service.answered;
                    }
                    let body = if request.method == "HEAD" { "" } else { "ok" };
                    let head = format!("HTTP/1.1 200 OK\r\nX-Number: {number}\r\nContent-Length: 2\r\n\r\n");
                    answers.extend(head.bytes().chain(body.bytes()));
                }
                Read::Partial => break,
                Read::Broken(why) => panic!("the service got {why}: {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        if !told && wire::waits(&bytes) {
            told = true;
            answers.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let ended = read == 0 || stream.write_all(&answers).await.is_err();
        let is_unfinished = !ended && !bytes.is_empty();
        {
            let mut service = service.borrow_mut();
            service.received += if is_unfinished { read } else { 0 };
            service.unfinished += usize::from(is_unfinished);
            service.unfinished -= usize::from(was_unfinished);
        }
        if ended {
            assert!(judge::requests(&bytes).is_empty(), "{:?}", String::from_utf8_lossy(&bytes));
            return;
        }
    }
}

fn judge(request: &wire::Request, bytes: &[u8], authority: &str) {
    let line = format!("{} {} HTTP/1.1", request.method, request.target);
    let read = judge::requests(bytes);
    assert!(
        read.len() == 1 && read[0].line == line && read[0].body == request.body,
        "another reader sees {read:?}"
    );
    assert!(!matches!(request.method.as_str(), "CONNECT" | "TRACE"), "{line}");
    assert!(request.target.starts_with("/v1"), "{line}");
    let values = |wanted: &str| -> Vec<&str> {
        let folded = |name: &str| name.replace('_', "-");
        request
            .fields
            .iter()
            .filter(|(name, _)| folded(name) == wanted)
            .map(|(_, value)| value.as_str())
            .collect()
    };
    assert_eq!(values("x-auth-token"), [TOKEN], "{line}");
    assert_eq!(values("host"), [authority], "{line}");
    for (name, _) in request.fields.iter().chain(&request.trailers) {
        let folded = name.replace('_', "-");
        let is_ours = matches!(name.as_str(), "host" | "x-auth-token" | "transfer-encoding");
        assert!(is_ours || !super::headers::is_guarded(&folded), "{name} reached the service");
    }
    assert!(request.trailers.iter().all(|(name, _)| !super::headers::is_guarded(&name.replace('_', "-"))));
}
