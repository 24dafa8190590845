//! The whole program: a service's raw bytes as an answer, judged by what the client sees.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::properties::wire::{self, Answer, Read};
use crate::support::direct::{self, TOKEN};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the service answers to the request after the one under test.
const NEXT: &str = "the answer to the next request";

/// keyway in front of a service that says what it is told to. It lives on one thread.
pub struct Stack {
    keyway: direct::Keyway,
    script: Rc<RefCell<Script>>,
    tasks: LocalSet,
}

#[derive(Default)]
struct Script {
    answer: Vec<u8>,
    /// The service closes the connection after that.
    closes: bool,
}

impl Stack {
    /// Starts both.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let keyway = direct::Keyway::start(direct::fixed_cloud(&format!("http://{address}/v1")));
        let script = Rc::new(RefCell::new(Script::default()));
        let tasks = LocalSet::new();
        tasks.spawn_local(accept(listener, Rc::clone(&script)));
        Self { keyway, script, tasks }
    }

    /// The first byte chooses the method and whether the service keeps the connection open; the others
    /// are its answer. The client then sends another request on its connection.
    ///
    /// # Panics
    /// If a broken answer looks whole to the client, if bytes that follow an answer reach it, or if
    /// keyway lets it wait for more than there is.
    pub async fn check(&self, data: &[u8]) {
        let Some((first, answer)) = data.split_first() else { return };
        let to_head = first & 2 != 0;
        let open = wire::answer(answer, to_head, false);
        // keyway waits for the rest of anything that is not whole.
        let closes = first & 1 != 0 || !matches!(open, Read::Whole(..));
        let expected = if closes { wire::answer(answer, to_head, true) } else { open };
        *self.script.borrow_mut() = Script { answer: answer.to_vec(), closes };
        self.tasks.run_until(self.exchange(to_head, &expected, answer)).await;
    }

    async fn exchange(&self, to_head: bool, expected: &Read<Answer>, sent: &[u8]) {
        let address = self.keyway.address();
        let mut stream = TcpStream::connect(address).await.expect("keyway listens");
        let method = if to_head { "HEAD" } else { "GET" };
        let request = format!("{method} /svc/first HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("keyway reads");
        let mut got = Vec::new();
        let Some(length) = receive(&mut stream, &mut got, to_head, expected, sent).await else { return };

        // The client may go on, and gets what belongs to its request.
        let rest = got.split_off(length);
        let request = format!("GET /svc/second HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        got = rest;
        let reading = async { while matches!(stream.read_buf(&mut got).await, Ok(1..)) {} };
        tokio::time::timeout(PATIENCE, reading).await.expect("keyway answers the next request");
        match wire::answer(&got, false, true) {
            Read::Whole(answer, length) => {
                assert!(
                    length == got.len() && answer.status == 200 && answer.body == NEXT.as_bytes(),
                    "{}",
                    show(&got)
                );
            }
            // keyway may close a connection after an answer, but nothing else may come.
            Read::Partial => assert!(got.is_empty(), "{}", show(&got)),
            Read::Broken(why) => panic!("{why}: {}", show(&got)),
        }
    }
}

/// Reads the answer to the first request, judges it, and tells how long it was; `None` if it was cut.
async fn receive(
    stream: &mut TcpStream,
    got: &mut Vec<u8>,
    to_head: bool,
    expected: &Read<Answer>,
    sent: &[u8],
) -> Option<usize> {
    let reading = async {
        loop {
            let ended = !matches!(stream.read_buf(got).await, Ok(1..));
            match wire::answer(got, to_head, false) {
                Read::Whole(answer, length) => return Some((answer, length)),
                Read::Broken(why) => panic!("keyway sent {why}: {}", show(got)),
                Read::Partial if ended => return None,
                Read::Partial => {}
            }
        }
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    let (answer, length) = read.unwrap_or_else(|_| panic!("keyway waits for more than {}", show(sent)))?;
    let head = String::from_utf8_lossy(&answer.head);
    let values: Vec<_> =
        head.lines().filter_map(|line| line.split_once(':')).map(|(_, value)| value).collect();
    assert!(values.iter().all(|value| !value.contains(TOKEN)), "the client got the token: {head}");
    assert!(answer.trailers.iter().all(|(_, value)| !value.contains(TOKEN)), "the client got the token");
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("\nset-cookie:") && !head.contains("\nx-auth-token:"), "{head}");
    if head.contains("\nx-keyway-error:") {
        assert!(answer.status >= 400, "{head}");
        return Some(length);
    }
    match expected {
        Read::Whole(expected, _) => {
            assert_eq!((answer.status, &answer.body), (expected.status, &expected.body), "{}", show(sent));
        }
        broken => panic!("{broken:?}, but the client got a whole answer: {} for {}", show(got), show(sent)),
    }
    Some(length)
}

fn show(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

async fn accept(listener: TcpListener, script: Rc<RefCell<Script>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::task::spawn_local(serve(stream, Rc::clone(&script)));
    }
}

async fn serve(mut stream: TcpStream, script: Rc<RefCell<Script>>) {
    let mut bytes = Vec::new();
    while matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
        while let Read::Whole(request, length) = wire::request(&bytes) {
            bytes.drain(..length);
            if request.target == "/v1/second" {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{NEXT}", NEXT.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                continue;
            }
            let (answer, closes) = {
                let script = script.borrow();
                (script.answer.clone(), script.closes)
            };
            if stream.write_all(&answer).await.is_err() || closes {
                return;
            }
        }
    }
}
