//! Everything that keyway says while it does everything it can do, searched for every secret there is.
//!
//! Each of these tests runs the program with all logging on and collects its output, its metrics and
//! status, and its own answers. Every secret that went in is searched for in each form that a log
//! might give it; a marker that must be found proves that the search can find something.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keyway::demo::{Cloud, Trouble};
use rustix::process::Signal;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::{CREDENTIAL_SECRET, PASSWORD, by_credential, by_password, cloud, home, tokens};
use crate::support::direct::point;
use crate::support::raw::{Peer, Upstream};
use crate::support::tls::{self, Authority};
use crate::support::{
    Answer, Connection, Process, answering, bounded, cloud_variables, eventually, refusing, request,
};

/// What clients send along that is nobody's business.
const CLIENT_TOKEN: &str = "canaryClientTokenG5fH2jK8";
const AUTHORIZATION: &str = "canaryBasicL9pO3iU7yT1rE";
const COOKIE: &str = "canaryCookieW6qA4sD8fG2hJ";
const API_KEY: &str = "canaryApiKeyX3cV7bN1mQ5wE";
const QUERY: &str = "canaryQueryZ8xC2vB6nM4kL";
const BODY: &str = "canaryBodyP1oI5uY9tR3eW";
const DEBUG_DATA: &str = "canaryGoawayD4fG8hJ2kL6zX";

/// What must be found in the log.
const MARKER: &str = "marker-R2d7K9";

/// A secret in each form that something might give it.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex =
        |separator: &str| -> String { bytes.iter().map(|byte| format!("{separator}{byte:02x}")).collect() };
    let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let reversed: String = secret.chars().rev().collect();
    let mut forms = vec![
        secret.to_owned(),
        hex(""),
        hex("%"),
        hex("\\x"),
        numbers.join(", "),
        numbers.join(","),
        reversed,
    ];
    for before in 0..3 {
        let mut padded = vec![b'x'; before];
        padded.extend_from_slice(bytes);
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push(encoded[(before * 8).div_ceil(6)..padded.len() * 8 / 6].to_owned());
        }
    }
    forms
}

fn holds(text: &str, secret: &str) -> bool {
    let text = text.to_ascii_lowercase();
    // A part of a token is a part too much.
    let mut parts = forms(secret);
    if secret.len() > 60 {
        parts.extend(forms(&secret[10..50]));
        parts.extend(forms(&secret[secret.len() - 40..]));
    }
    parts.iter().any(|form| text.contains(&form.to_ascii_lowercase()))
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    for text in [
        format!("password={PASSWORD}"),
        format!("password={}", PASSWORD.to_uppercase()),
        STANDARD_NO_PAD.encode(format!("demo:{PASSWORD}")),
        STANDARD_NO_PAD.encode(format!("de:{PASSWORD}")),
        URL_SAFE_NO_PAD.encode(format!("d:{PASSWORD}?")),
        PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        format!("{:?}", PASSWORD.as_bytes()),
    ] {
        assert!(holds(&text, PASSWORD), "{text}");
    }
    assert!(!holds("password", PASSWORD));
    let long = "gAAAA0123456789".repeat(12);
    assert!(holds(&format!("token starts with {}", &long[..60]), &long));
}

/// One run of the program, and what it said besides its log.
struct Run {
    process: Process,
    listen: String,
    admin: String,
    said: Vec<(String, String)>,
}

/// Every kind of log, and both ways to ask for all of it.
const FORMATS: [&str; 2] = ["json", "text"];

impl Run {
    /// Starts it with all logging on, and waits until its listeners answer.
    async fn start(home: &tempfile::TempDir, format: &str, variables: &[(&'static str, String)]) -> Self {
        let mut variables = variables.to_vec();
        for (name, value) in [
            ("KEYWAY_LOG_LEVEL", "trace,h2=trace,hyper=trace,rustls=trace"),
            ("RUST_LOG", "trace"),
            ("RUST_BACKTRACE", "full"),
            ("KEYWAY_LOG_FORMAT", format),
        ] {
            variables.push((name, value.to_owned()));
        }
        let (listen, admin) = (free_address().await, free_address().await);
        let arguments = ["--listen", &listen, "--admin", &admin, "--workers", "2"];
        let process = Process::start(home.path(), &arguments, &variables);
        for address in [&listen, &admin] {
            eventually("a listener", async || TcpStream::connect(address).await.is_ok().then_some(())).await;
        }
        Self { process, listen, admin, said: Vec::new() }
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.listen.parse().expect("an address")).await
    }

    /// Keeps an answer if it is keyway's own.
    fn keep(&mut self, what: &str, answer: &Answer) {
        if answer.headers.contains_key("x-keyway-error") {
            self.said.push((what.to_owned(), format!("{:?} {}", answer.headers, answer.text())));
        }
    }

    async fn ask(&mut self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let basic = format!("Basic {}", STANDARD_NO_PAD.encode(format!("u:{AUTHORIZATION}")));
        let fields = [
            ("x-auth-token", CLIENT_TOKEN),
            ("x-service-token", CLIENT_TOKEN),
            ("authorization", &*basic),
            ("cookie", COOKIE),
            ("x-api-key", API_KEY),
            ("proxy-authorization", AUTHORIZATION),
        ];
        let what = format!("{method} {path}");
        let answer = self.connect().await.send(request(method, path, &fields, body)).await;
        self.keep(&what, &answer);
        answer
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path, "").await
    }

    /// Metrics and status, as they are now.
    async fn look(&mut self) {
        for path in ["/metrics", "/status", "/readyz", "/nothing"] {
            let mut connection = Connection::open(self.admin.parse().expect("an address")).await;
            let answer = connection.send(request(Method::GET, path, &[], "")).await;
            self.said.push((path.to_owned(), format!("{:?} {}", answer.headers, answer.text())));
        }
    }

    /// Ends it, and searches everything.
    async fn end(mut self, cloud: &Cloud, marker: &str) {
        self.look().await;
        self.process.signal(Signal::TERM);
        let status = self.process.exit().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.stderr());
        let log = self.process.stderr();
        assert!(holds(&log, marker), "the log does not even have the marker `{marker}`: {log}");
        let mut secrets = vec![
            PASSWORD,
            CREDENTIAL_SECRET,
            CLIENT_TOKEN,
            AUTHORIZATION,
            COOKIE,
            API_KEY,
            QUERY,
            BODY,
            DEBUG_DATA,
        ];
        let tokens = tokens(cloud);
        secrets.extend(tokens.iter().map(String::as_str));
        self.said.push(("stderr".to_owned(), log));
        self.said.push(("stdout".to_owned(), self.process.stdout()));
        for (place, text) in &self.said {
            for secret in &secrets {
                assert!(!holds(text, secret), "{secret} is in {place}:\n{text}");
            }
        }
    }
}

/// An address that nobody listens on, at a port that the system does not give to anyone by itself.
async fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let port = 20_000 + (std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).await.is_ok() {
            return address;
        }
    }
}

/// HTTP/2 with prior knowledge: one request with secrets of the client's own.
async fn over_http2(run: &mut Run, path: &str) -> u16 {
    let stream = TcpStream::connect(&run.listen).await.expect("keyway listens");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{path}"))
        .header("x-auth-token", CLIENT_TOKEN)
        .header("authorization", AUTHORIZATION)
        .header("cookie", COOKIE)
        .body(Full::new(Bytes::from(BODY)))
        .expect("a request");
    let answer = bounded("an answer", client.send_request(request)).await.expect("an answer");
    let (parts, body) = answer.into_parts();
    let body = bounded("a body", body.collect()).await.expect("a body").to_bytes();
    let status = parts.status.as_u16();
    run.keep(path, &Answer { status, headers: parts.headers, body });
    status
}

// Promises 74, 75, 77, 78, 79.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_while_all_is_well_and_tokens_are_replaced() {
    for format in FORMATS {
        let (home, cloud) = (home(), cloud().await);
        for variables in [by_password(&cloud), by_credential(&cloud)] {
            let mut run = Run::start(&home, format, &variables).await;
            eventually("the login", async || (run.get("/compute/servers").await.status == 200).then_some(()))
                .await;
            run.get(&format!("/compute/servers/{MARKER}?token={QUERY}&temp_url_sig={QUERY}&{QUERY}{QUERY}"))
                .await;
            run.get(&format!("/nothing/{MARKER}?a={QUERY}")).await;
            run.ask(Method::PUT, "/object-store/box", "").await;
            assert_eq!(run.ask(Method::PUT, "/object-store/box/o", BODY).await.status, 201);
            assert_eq!(run.get("/object-store/box/o").await.text(), BODY);
            run.ask(Method::POST, "/compute/servers", json!({"server": {"adminPass": BODY}}).to_string())
                .await;
            let (known, path) = (tokens(&cloud), "/identity/v2.0/tokens");
            run.get(&format!("{path}/{}", known[0])).await;
            run.get(&format!("{path}/{}/endpoints", known[0])).await;
            assert_eq!(over_http2(&mut run, "/compute/servers").await, 400);
            assert_eq!(over_http2(&mut run, "/nothing/at/all").await, 404);

            cloud.revoke_all();
            assert_eq!(run.get("/compute/servers").await.status, 200);
            cloud.set_trouble("compute", refusing());
            assert_eq!(run.ask(Method::POST, "/compute/servers", BODY).await.status, 401);
            cloud.set_trouble("compute", Trouble::default());
            // Clients that leave: amid a head, amid a body, before their answer.
            for text in [
                format!(
                    "GET /compute/{MARKER} HTTP/1.1\r\nhost: {}\r\nx-auth-token: {CLIENT_TOKEN}",
                    run.listen
                ),
                format!(
                    "PUT /object-store/box/o HTTP/1.1\r\nhost: {}\r\ncontent-length: 999\r\n\r\n{BODY}",
                    run.listen
                ),
                format!(
                    "GET /compute/servers HTTP/1.1\r\nhost: {}\r\nx-auth-token: {CLIENT_TOKEN}\r\n\r\n",
                    run.listen
                ),
                format!("GET /a{QUERY}\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nhost: a\r\nx-auth-token {CLIENT_TOKEN}\r\n\r\n"),
                format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{CLIENT_TOKEN}"),
                http2_goodbye(DEBUG_DATA),
            ] {
                let mut peer = Peer::connect(run.listen.parse().expect("an address")).await;
                peer.send(text).await;
                peer.reset();
            }
            run.get(&format!("/compute/{MARKER}")).await;
            run.end(&cloud, MARKER).await;
        }
    }
}

/// HTTP/2: preface, empty settings, and a GOAWAY with debug data.
fn http2_goodbye(debug_data: &str) -> String {
    let mut text = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned();
    text.push_str("\0\0\0\u{4}\0\0\0\0\0");
    let length = char::from(u8::try_from(8 + debug_data.len()).expect("a short text"));
    assert!(length.is_ascii());
    text.push_str(&format!("\0\0{length}\u{7}\0\0\0\0\0\0\0\0\0\0\0\0\u{1}{debug_data}"));
    text
}

// Promises 46, 74, 75, 76.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_when_keystone_misbehaves() {
    for format in FORMATS {
        let quoted = |secret: &str| {
            json!({"error": {"code": 401, "message": format!("no user with {secret}")}}).to_string()
        };
        let encoded = STANDARD_NO_PAD.encode(format!("demo:{PASSWORD}"));
        let json = [("content-type", "application/json")];
        let place = format!("https://{PASSWORD}.example/{PASSWORD}?x={PASSWORD}");
        for trouble in [
            refusing(),
            answering(401, &json, &quoted(PASSWORD)),
            answering(401, &json, &quoted(&encoded)),
            answering(403, &json, &quoted(CREDENTIAL_SECRET)),
            answering(400, &json, &quoted(PASSWORD)),
            answering(500, &[("retry-after", PASSWORD)], &quoted(PASSWORD)),
            answering(503, &json, PASSWORD),
            answering(302, &[("location", &*place)], PASSWORD),
            answering(201, &[("content-type", PASSWORD), ("x-subject-token", PASSWORD)], PASSWORD),
            answering(201, &[("x-subject-token", PASSWORD)], &format!("{{\"token\": \"{PASSWORD}")),
            answering(
                201,
                &[("x-subject-token", PASSWORD)],
                &json!({"token": {"expires_at": PASSWORD}}).to_string(),
            ),
            answering(201, &[("date", PASSWORD)], &json!({"token": {"issued_at": PASSWORD}}).to_string()),
        ] {
            let (home, cloud) = (home(), cloud().await);
            let what = format!("{:?}", trouble.answer);
            cloud.set_trouble("identity", trouble);
            let mut variables = by_password(&cloud);
            if what.contains(CREDENTIAL_SECRET) {
                variables = by_credential(&cloud);
            }
            let mut run = Run::start(&home, format, &variables).await;
            let answer = run.ask(Method::POST, &format!("/compute/{MARKER}"), BODY).await;
            assert!(matches!(answer.status, 502 | 503), "{what}: {answer:?}");
            run.look().await;
            cloud.pause("identity").await;
            run.get(&format!("/compute/{MARKER}")).await;
            run.end(&cloud, "no token from keystone").await;
        }
    }
}

// Promises 46, 74, 75, 76.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_when_a_service_sends_everything_back_in_an_answer_that_is_none() {
    for format in FORMATS {
        let (home, cloud) = (home(), cloud().await);
        let service = Upstream::start().await;
        point(&cloud, "compute", &service.url());
        let mut run = Run::start(&home, format, &by_password(&cloud)).await;
        eventually("the login", async || (run.get("/image/images").await.status == 200).then_some(())).await;
        let secret = tokens(&cloud).pop().expect("the image service saw it");
        for (status, answer) in [
            (502, "SECRET\r\n\r\n"),
            (502, "HTTP/1.1 SECRET OK\r\n\r\n"),
            (502, "HTTP/1.1 200 OK\r\nSECRET\r\n\r\n"),
            (502, "HTTP/1.1 200 OK\r\nx y: SECRET\r\n\r\n"),
            (502, "HTTP/1.1 200 OK\r\nContent-Length: SECRET\r\n\r\n"),
            (502, "HTTP/1.1 200 OK\r\nTransfer-Encoding: SECRET\r\n\r\n"),
            (502, "HTTP/1.1 200 SECRET\r\nx-a: SECRET"),
            (502, "HTTP/1.1 101 SECRET\r\nupgrade: SECRET\r\n\r\n"),
            (
                500,
                "HTTP/1.1 500 SECRET\r\nx-openstack-request-id: SECRET\r\nLocation: http://x/SECRET\r\nContent-Length: 0\r\n\r\n",
            ),
            (404, "HTTP/1.1 404 SECRET\r\nx-trans-id: txSECRET\r\nContent-Length: 0\r\n\r\n"),
        ] {
            let mut connection = run.connect().await;
            let path = format!("/compute/{MARKER}");
            let asked = connection.send(request(Method::GET, &path, &[], ""));
            let served = async {
                let mut service = service.accept().await;
                assert!(service.head().await.contains(&secret), "the token went to the service");
                service.send(answer.replace("SECRET", &secret)).await;
                service.finish().await;
            };
            let (answer, ()) = tokio::join!(asked, served);
            assert_eq!(answer.status, status, "{answer:?}");
            run.keep(&path, &answer);
        }
        // Bodies that break off, after their head went to the client.
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\nSECRET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nSE CRET SECRET\r\n\r\n",
        ] {
            let mut client = Peer::connect(run.listen.parse().expect("an address")).await;
            client.send(format!("GET /compute/{MARKER} HTTP/1.1\r\nhost: {}\r\n\r\n", run.listen)).await;
            let mut service = service.accept().await;
            service.head().await;
            service.send(answer.replace("SECRET", &secret)).await;
            service.finish().await;
            client.closed().await;
        }
        run.end(&cloud, MARKER).await;
    }
}

/// A service that gives back all that it got, in every place there is.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let token = parts.headers.get("x-auth-token").cloned().unwrap_or(HeaderValue::from_static("none"));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    for name in
        ["x-openstack-request-id", "x-trans-id", "server", "location", "www-authenticate", "x-auth-token"]
    {
        response.headers_mut().insert(name, token.clone());
    }
    Ok(response)
}

// Promises 46, 74, 75.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_over_tls_with_either_http() {
    for format in FORMATS {
        for alpn in [&["http/1.1"][..], &["h2"]] {
            let (home, cloud) = (home(), cloud().await);
            let authority = Authority::new();
            let config = authority.server(&authority.issue("localhost"), alpn, false);
            let service = tls::Upstream::start(config).await;
            point(&cloud, "compute", &service.url("localhost"));
            let serving = tokio::spawn(async move {
                loop {
                    let Ok(stream) = service.try_accept().await else { continue };
                    tokio::spawn(async move {
                        let builder = auto::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
                    });
                }
            });
            let mut variables = by_password(&cloud);
            let authorities = authority.file().display().to_string();
            variables.push(("OS_CACERT", authorities));
            let mut run = Run::start(&home, format, &variables).await;
            eventually("the login", async || (run.get("/image/images").await.status == 200).then_some(()))
                .await;
            for _ in 0..2 {
                let path = format!("/compute/{MARKER}?sig={QUERY}");
                assert_eq!(run.ask(Method::POST, &path, BODY).await.text(), BODY);
                assert_eq!(over_http2(&mut run, &path).await, 404);
                cloud.revoke_all();
                assert_eq!(run.get("/image/images").await.status, 200);
            }
            run.end(&cloud, MARKER).await;
            serving.abort();
        }
    }
}

// Promises 75, 76.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_when_tls_fails_or_http2_breaks() {
    let (home, cloud) = (home(), cloud().await);
    let authority = Authority::new();
    let identity = authority.issue("localhost");
    let service = tls::Upstream::start(authority.server(&identity, &["h2"], false)).await;
    point(&cloud, "compute", &service.url("localhost"));
    let (trusted, foreign) = (by_password(&cloud), by_password(&cloud));
    let with = |mut variables: Vec<(&'static str, String)>, authority: &Authority| {
        variables.push(("OS_CACERT", authority.file().display().to_string()));
        variables
    };
    // A peer that ends the connection with words of its own.
    let mut run = Run::start(&home, "json", &with(trusted, &authority)).await;
    eventually("the login", async || (run.get("/image/images").await.status == 200).then_some(())).await;
    let path = format!("/compute/{MARKER}");
    let mut connection = run.connect().await;
    let asked = connection.send(request(Method::POST, &path, &[], BODY));
    let served = async {
        let mut service = service.accept().await;
        let goodbye = http2_goodbye(DEBUG_DATA);
        let (_, frames) = goodbye.split_once("SM\r\n\r\n").expect("a preface");
        service.until("SM\r\n\r\n").await;
        service.send(frames).await;
        service.closed().await;
    };
    let (answer, ()) = tokio::join!(asked, served);
    assert_eq!(answer.status, 502, "{answer:?}");
    run.keep(&path, &answer);
    run.end(&cloud, MARKER).await;

    let other = Authority::new();
    let mut run = Run::start(&home, "json", &with(foreign, &other)).await;
    eventually("the login", async || (run.get("/image/images").await.status == 200).then_some(())).await;
    let (answer, refused) = tokio::join!(run.get(&path), service.try_accept());
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(refused.is_err());
    run.end(&cloud, MARKER).await;
}

// Promises 74, 76.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_print_do_not_print_secrets() {
    let (home, cloud) = (home(), cloud().await);
    for (command, shows) in [("check", "compute"), ("routes", "compute"), ("env", "OS_PROJECT_NAME=demo")] {
        for variables in [by_password(&cloud), by_credential(&cloud)] {
            let listen = ["--listen", "127.0.0.1:9999", "--admin", "127.0.0.1:0", "--log-format", "json"];
            let arguments = [&[command], &listen[..], &["--log-level", "trace"]].concat();
            let (code, out, err) = Process::start(home.path(), &arguments, &variables).outcome().await;
            assert_eq!(code, 0, "{out}{err}");
            assert!(holds(&out, shows), "{out}");
            for secret in tokens(&cloud).iter().map(String::as_str).chain([PASSWORD, CREDENTIAL_SECRET]) {
                assert!(!holds(&format!("{out}{err}"), secret), "{command}: {out}{err}");
            }
        }
    }
    // A wrong password: what Keystone says is shown, and what was sent is not.
    let mut variables = cloud_variables(&cloud);
    variables.push(("OS_PASSWORD", CREDENTIAL_SECRET.to_owned()));
    let (code, out, err) = Process::start(home.path(), &["check"], &variables).outcome().await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("rejected the login with 401"), "{out}");
    assert!(!holds(&format!("{out}{err}"), CREDENTIAL_SECRET), "{out}{err}");
}
