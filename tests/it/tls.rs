//! TLS towards a service: whom keyway believes, who it says it is, and what it speaks then.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyway::demo::{self, Cloud};
use keyway::keystone::{self, AllowHttp};
use keyway::upstream::{Timeouts, tls};
use tokio::sync::{Mutex, mpsc};

use crate::support::direct::{Keyway, fixed_cloud, point};
use crate::support::raw::{self, Pattern, field, status, within};
use crate::support::tls::{Authority, Upstream, trusting};
use crate::support::{Process, cloud_variables};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HTTP1: &[&str] = &["http/1.1"];
const H2: &[&str] = &["h2", "http/1.1"];

fn cloud(url: &str, tls: tls::Config) -> keystone::Config {
    keystone::Config { tls, ..fixed_cloud(url) }
}

/// Whether a GET gets through to a service with this identity, and what keyway says if not.
async fn check(expected: Result<(), &str>, service: &Upstream, cloud: keystone::Config) {
    let keyway = Keyway::start(cloud);
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let serve = async {
        let Ok(stream) = service.try_accept().await else { return };
        let mut server = raw::Peer::new(stream);
        if expected.is_ok() {
            server.head().await;
            server.send(OK).await;
        } else {
            assert_eq!(server.rest().await, b"", "no request goes to whom keyway does not believe");
        }
    };
    let (_, (head, _)) = tokio::join!(serve, client.response());
    match expected {
        Ok(()) => assert_eq!(status(&head), 200, "{head}"),
        Err(reason) => {
            assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some(reason)), "{head}");
        }
    }
}

// Promise 55.
#[tokio::test]
async fn a_certificate_of_a_trusted_authority_is_believed() {
    let authority = Authority::new();
    for name in ["localhost", "127.0.0.1"] {
        let identity = authority.issue(name);
        for alpn in [HTTP1, &[]] {
            let service = Upstream::start(authority.server(&identity, alpn, false)).await;
            check(Ok(()), &service, cloud(&service.url(name), trusting(&authority.file()))).await;
        }
    }
}

// Promise 55.
#[tokio::test]
async fn nobody_else_is_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let trusted = || trusting(&authority.file());
    let unknown = other.issue("localhost");
    let wrong_name = authority.issue("elsewhere.example");
    let expired = authority.issue_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let future =
        authority.issue_with("localhost", |params| params.not_before = rcgen::date_time_ymd(2100, 1, 1));
    for identity in [unknown, wrong_name, expired, future] {
        let service = Upstream::start(authority.server(&identity, HTTP1, false)).await;
        check(Err("upstream_tls"), &service, cloud(&service.url("localhost"), trusted())).await;
        let insecure = tls::Config { insecure: true, ..tls::Config::default() };
        check(Ok(()), &service, cloud(&service.url("localhost"), insecure)).await;
    }
}

// Promise 55.
#[tokio::test]
async fn the_system_s_authorities_do_not_include_ours() {
    let authority = Authority::new();
    let service = Upstream::start(authority.server(&authority.issue("localhost"), HTTP1, false)).await;
    // Somebody else's file stands for the system's, which a machine may lack.
    check(
        Err("upstream_tls"),
        &service,
        cloud(&service.url("localhost"), trusting(&Authority::new().file())),
    )
    .await;
}

// Promise 55.
#[tokio::test]
async fn a_service_without_tls_is_named_as_such() {
    let service = raw::Upstream::start().await;
    let authority = Authority::new();
    let url = service.url().replace("http://", "https://");
    let keyway = Keyway::start(cloud(&url, trusting(&authority.file())));
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    server.try_send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert_eq!(field(&head, "x-keyway-error"), Some("upstream_tls"), "{head}");
    server.closed().await;
    assert!(!String::from_utf8_lossy(server.seen()).contains("the-token"));
}

// Promise 55.
#[tokio::test]
async fn a_service_that_speaks_nothing_newer_than_tls_1_1_gets_no_request() {
    // A ServerHello of TLS 1.1 and of TLS 1.0 (RFC 4346, section 7.4.1.3), which take what TLS 1.2
    // offers; and the alert of a server that does not (protocol_version).
    let hello = |minor: u8| {
        let hello = [&[3, minor][..], &[7; 32], &[0], &[0xc0, 0x14], &[0]].concat();
        let handshake = [&[2, 0, 0, hello.len() as u8][..], &hello].concat();
        [&[0x16, 3, minor, 0, handshake.len() as u8][..], &handshake].concat()
    };
    for answer in [hello(2), hello(1), vec![0x15, 3, 1, 0, 2, 2, 70]] {
        let service = raw::Upstream::start().await;
        let url = service.url().replace("http://", "https://");
        let keyway = Keyway::start(cloud(&url, trusting(&Authority::new().file())));
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        // keyway offers TLS 1.3 and 1.2 (RFC 8446, section 4.2.1), and nothing else.
        let header = server.take(5).await;
        let offer = server.take(usize::from(header[3]) << 8 | usize::from(header[4])).await;
        let versions = [0, 43, 0, 5, 4, 3, 4, 3, 3];
        assert!(offer.windows(versions.len()).any(|window| window == versions), "{offer:?}");
        server.send(&answer).await;
        let (head, _) = client.response().await;
        assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("upstream_tls")), "{head}");
        server.closed().await;
        assert!(!String::from_utf8_lossy(server.seen()).contains("the-token"));
    }
}

// Promise 55.
#[tokio::test]
async fn the_log_says_what_was_wrong_with_a_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let expired = authority.issue_with("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    for (identity, expected) in [
        (other.issue("localhost"), "invalid peer certificate: BadSignature"),
        (authority.issue("elsewhere.example"), "not valid for name"),
        (expired, "expired"),
    ] {
        let service = Upstream::start(authority.server(&identity, HTTP1, false)).await;
        let url = keyway::upstream::BaseUrl::parse(&service.url("localhost")).unwrap();
        let client =
            keyway::upstream::Client::new(&trusting(&authority.file()), Timeouts::default()).unwrap();
        let request = Request::get("/").body(Bytes::new()).unwrap();
        let (failed, _) = tokio::join!(client.fetch(url.origin(), request, 100), service.try_accept());
        // As the request's line in the log has it.
        let failed = anyhow::Error::from(failed.unwrap_err());
        let chain = format!("{failed:#}");
        assert!(
            chain.starts_with("no TLS session with https://localhost:") && chain.contains(expected),
            "{chain}"
        );
    }
}

// Promise 55.
#[tokio::test(flavor = "multi_thread")]
async fn each_start_warns_of_a_cloud_whose_certificates_are_not_checked() {
    let demo = Cloud::start(demo::Config::default()).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    for (insecure, warned) in [("true", true), ("false", false)] {
        let mut variables = cloud_variables(&demo);
        variables.push(("OS_INSECURE", insecure.to_owned()));
        let arguments = ["--log-format", "json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        for _ in 0..2 {
            let process = Process::start(home.path(), &arguments, &variables);
            process.addresses().await;
            assert_eq!(
                process.stderr().contains("certificates are not checked"),
                warned,
                "{}",
                process.stderr()
            );
        }
    }
}

#[tokio::test]
async fn many_requests_for_a_service_that_never_says_hello_give_up_together() {
    let service = raw::Upstream::start().await;
    let url = service.url().replace("http://", "https://");
    let keyway = Keyway::start_with(cloud(&url, trusting(&Authority::new().file())), |config| {
        config.timeouts.connect = std::time::Duration::from_secs(2);
    });
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = keyway.connect().await;
        client.send(GET).await;
        clients.push(client);
    }
    // One after the other they would take longer than anything here may take.
    let answers = async {
        for client in &mut clients {
            let (head, _) = client.response().await;
            assert_eq!(field(&head, "x-keyway-error"), Some("upstream_connect"), "{head}");
        }
    };
    within("all answers", answers).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_one_file_or_two() {
    let authority = Authority::new();
    let server = authority.server(&authority.issue("localhost"), HTTP1, true);
    let identity = authority.issue("keyway");
    let certificate = authority.write("cert.pem", &identity.certificate);
    let key = authority.write("key.pem", &identity.key);
    let both = authority.write("both.pem", &format!("{}{}", identity.certificate, identity.key));
    let both_reversed = authority.write("reversed.pem", &format!("{}{}", identity.key, identity.certificate));
    for client_cert in [(certificate, Some(key)), (both, None), (both_reversed, None)] {
        let service = Upstream::start(Arc::clone(&server)).await;
        let tls = tls::Config { client_cert: Some(client_cert), ..trusting(&authority.file()) };
        check(Ok(()), &service, cloud(&service.url("localhost"), tls)).await;
    }
    let service = Upstream::start(server).await;
    check(Err("upstream_tls"), &service, cloud(&service.url("localhost"), trusting(&authority.file()))).await;
}

// Promises 44, 55.
#[tokio::test]
async fn an_answer_cut_without_a_goodbye_is_cut_for_the_client_too() {
    let authority = Authority::new();
    let service = Upstream::start(authority.server(&authority.issue("localhost"), HTTP1, false)).await;
    let keyway = Keyway::start(cloud(&service.url("localhost"), trusting(&authority.file())));
    let mut client = keyway.connect().await;
    client.send("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut server = service.accept().await;
    server.head().await;
    // Ends with its connection, which ends without close_notify: an attacker may have cut it.
    server.send("HTTP/1.1 200 OK\r\n\r\npart of it").await;
    client.until("part of it").await;
    drop(server);
    let rest = client.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn connections_are_kept_and_uploads_flow_over_tls() {
    let authority = Authority::new();
    let service = Upstream::start(authority.server(&authority.issue("localhost"), HTTP1, false)).await;
    let keyway = Keyway::start(cloud(&service.url("localhost"), trusting(&authority.file())));
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    server.head().await;
    server.send(OK).await;
    client.response().await;
    let body = Pattern::new().start(500_000);
    client
        .send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n")
        .await;
    client.send(&body[..100_000]).await;
    client.send("\r\n").await;
    let head = server.head().await;
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    // What the client sent so far is there although it pauses.
    let mut got = Vec::new();
    while got.len() < 100_000 {
        let size = String::from_utf8(server.until("\r\n").await).unwrap();
        got.extend(server.take(usize::from_str_radix(size.trim(), 16).unwrap()).await);
        server.take(2).await;
    }
    assert!(got == body[..100_000]);
    client.send("61a80\r\n").await;
    client.send(&body[100_000..]).await;
    client.send("\r\n0\r\n\r\n").await;
    assert!(server.chunked().await.0 == body[100_000..]);
    server.send(OK).await;
    assert_eq!(status(&client.response().await.0), 200);
}

mod plain_http {
    use super::*;

    /// A cloud whose Keystone is https and whose compute service is not.
    async fn mixed(
        allow: impl FnOnce(&raw::Upstream) -> AllowHttp,
    ) -> (Keyway, raw::Upstream, Authority, Cloud, tokio::task::JoinHandle<()>) {
        let demo = Cloud::start(demo::Config::default()).await.unwrap();
        let service = raw::Upstream::start().await;
        point(&demo, "compute", &service.url());
        let authority = Authority::new();
        let front = Upstream::start(authority.server(&authority.issue("localhost"), HTTP1, false)).await;
        let mut config = demo.keystone_config();
        let keystone::Auth::Identity(identity) = &mut config.auth else { unreachable!("the demo logs in") };
        let plain = identity.auth_url.origin().to_string().replace("http://", "");
        let url = front.url("localhost").replace("/v1", "/v3");
        identity.auth_url = keyway::upstream::BaseUrl::parse(&url).unwrap();
        config.tls = trusting(&authority.file());
        config.allow_http = allow(&service);
        let tunnel = tokio::spawn(async move {
            while let Ok(mut stream) = front.try_accept().await {
                let Ok(mut inner) = tokio::net::TcpStream::connect(&plain).await else { return };
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut inner).await });
            }
        });
        (Keyway::start(config), service, authority, demo, tunnel)
    }

    // Promise 17.
    #[tokio::test]
    async fn a_token_from_https_does_not_go_to_an_endpoint_in_the_clear() {
        let (keyway, service, _authority, _demo, tunnel) = mixed(|_| AllowHttp::Never).await;
        let origin = format!("/origin/http-{}/v1/", service.authority().replace(':', "-"));
        for (path, host) in [("/compute/", "localhost"), (&origin, "localhost"), ("/", "compute.localhost")] {
            let mut client = keyway.connect().await;
            client
                .send(GET.replace("/svc/", path).replace("Host: localhost", &format!("Host: {host}")))
                .await;
            let (head, body) = client.response().await;
            assert_eq!((status(&head), field(&head, "x-keyway-error")), (502, Some("plain_http")), "{head}");
            assert!(String::from_utf8_lossy(&body).contains("allow_http"), "it says the way out");
        }
        assert!(!service.has_connection().await);
        tunnel.abort();
    }

    // Promise 17.
    #[tokio::test]
    async fn the_configuration_may_allow_it_by_service_and_by_origin() {
        for by_origin in [false, true] {
            let (keyway, service, _authority, _demo, tunnel) = mixed(|service| {
                let origin = format!("http://{}", service.authority());
                AllowHttp::Only(vec![if by_origin { origin } else { "compute".to_owned() }])
            })
            .await;
            let origin = format!("/origin/http-{}/v1/", service.authority().replace(':', "-"));
            let mut client = keyway.connect().await;
            client.send(GET.replace("/svc/", "/compute/")).await;
            let (mut server, head) = service.answer(OK).await;
            assert!(field(&head, "x-auth-token").is_some());
            assert_eq!(status(&client.response().await.0), 200);
            client.send(GET.replace("/svc/", &origin)).await;
            assert_eq!(server.head().await.lines().next(), head.lines().next());
            server.send(OK).await;
            assert_eq!(status(&client.response().await.0), 200);
            tunnel.abort();
        }
    }

    // Promise 17.
    #[tokio::test]
    async fn what_is_allowed_for_others_is_not_allowed_here() {
        let others = ["image", "http://127.0.0.1:1"].map(str::to_owned).to_vec();
        let (keyway, service, _authority, _demo, tunnel) = mixed(|_| AllowHttp::Only(others)).await;
        let mut client = keyway.connect().await;
        client.send(GET.replace("/svc/", "/compute/")).await;
        assert_eq!(field(&client.response().await.0, "x-keyway-error"), Some("plain_http"));
        assert!(!service.has_connection().await);
        tunnel.abort();
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// A request at an HTTP/2 service, and the way to answer it.
struct Call {
    request: Request<Incoming>,
    reply: tokio::sync::oneshot::Sender<Response<Body>>,
    /// Which connection it came on.
    connection: usize,
}

impl Call {
    fn answer(self, status: u16, body: &'static str) {
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let _ = self.reply.send(response);
    }
}

/// An HTTP/2 service that hands its requests to the test.
struct Http2 {
    calls: Mutex<mpsc::UnboundedReceiver<Call>>,
    url: String,
    connections: Arc<AtomicUsize>,
    /// Ends the newest connection gracefully (GOAWAY).
    goaway: tokio::sync::broadcast::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    authority: Authority,
}

impl Http2 {
    async fn start() -> Self {
        let authority = Authority::new();
        let service = Upstream::start(authority.server(&authority.issue("localhost"), H2, false)).await;
        let url = service.url("localhost");
        let (sender, calls) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let (goaway, _) = tokio::sync::broadcast::channel(4);
        let ends = goaway.clone();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let Ok(stream) = service.try_accept().await else { continue };
                let connection = count.fetch_add(1, Ordering::SeqCst) + 1;
                let sender = sender.clone();
                let mut end = ends.subscribe();
                tasks.spawn(async move {
                    let service = service_fn(move |request| {
                        let (reply, answer) = tokio::sync::oneshot::channel();
                        let _ = sender.send(Call { request, reply, connection });
                        async move { answer.await.map_err(|_| std::io::Error::other("no answer")) }
                    });
                    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    let mut serving = std::pin::pin!(serving);
                    tokio::select! {
                        _ = serving.as_mut() => return,
                        _ = end.recv() => serving.as_mut().graceful_shutdown(),
                    }
                    let _ = serving.await;
                });
            }
        });
        Self { calls: Mutex::new(calls), url, connections, goaway, task, authority }
    }

    fn cloud(&self) -> keystone::Config {
        cloud(&self.url, trusting(&self.authority.file()))
    }

    async fn call(&self) -> Call {
        let mut calls = self.calls.lock().await;
        within("a request", calls.recv()).await.expect("it runs")
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

mod http2 {
    use super::*;

    #[tokio::test]
    async fn a_default_microversion_goes_along() {
        let service = Http2::start().await;
        let options =
            keystone::ServiceOptions { microversion: Some("1.39".to_owned()), ..Default::default() };
        let cloud = keystone::Config { services: [("svc".to_owned(), options)].into(), ..service.cloud() };
        let keyway = Keyway::start(cloud);
        let mut client = keyway.connect().await;
        for (field, expected) in [("", "svc 1.39"), ("OpenStack-API-Version: svc 1.1\r\n", "svc 1.1")] {
            client.send(format!("GET /svc/a HTTP/1.1\r\nHost: localhost\r\n{field}\r\n")).await;
            let call = service.call().await;
            let values: Vec<_> = call.request.headers().get_all("openstack-api-version").iter().collect();
            assert_eq!(values, [expected]);
            call.answer(200, "ok");
            client.response().await;
        }
    }

    #[tokio::test]
    async fn requests_share_one_connection_and_carry_what_http_2_may() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = keyway.connect().await;
            client
                .send("GET /svc/a?b=c HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: mine\r\nConnection: x-hop\r\nX-Hop: 1\r\nAccept: a\r\nAccept: b\r\n\r\n")
                .await;
            clients.push(client);
        }
        for _ in 0..10 {
            let call = service.call().await;
            let request = &call.request;
            assert_eq!(request.version(), Version::HTTP_2);
            assert_eq!(request.uri().path_and_query().unwrap(), "/v1/a?b=c");
            assert_eq!(request.uri().authority().unwrap().as_str(), service.url[8..].trim_end_matches("/v1"));
            let tokens: Vec<_> = request.headers().get_all("x-auth-token").iter().collect();
            assert_eq!(tokens, [crate::support::direct::TOKEN]);
            assert_eq!(request.headers().get_all("accept").iter().count(), 2);
            for gone in ["host", "connection", "x-hop", "expect", "content-length"] {
                assert!(!request.headers().contains_key(gone), "{gone}");
            }
            call.answer(200, "ok");
        }
        for client in &mut clients {
            assert_eq!(client.response().await.1, b"ok");
        }
        assert_eq!(service.connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn uploads_arrive_whole_with_length_or_trailers() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let body = Pattern::new().start(3_000_000);
        let mut client = keyway.connect().await;
        client
            .send(format!("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()))
            .await;
        let serve = async {
            let mut call = service.call().await;
            assert_eq!(call.request.headers()["content-length"], "3000000");
            let got = within("the body", call.request.body_mut().collect()).await.unwrap();
            assert!(got.to_bytes() == body);
            call.answer(201, "");
        };
        tokio::join!(serve, client.send(&body));
        assert_eq!(status(&client.response().await.0), 201);

        client
            .send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Auth-Token: mine\r\n\r\n")
            .await;
        let mut call = service.call().await;
        assert!(!call.request.headers().contains_key("transfer-encoding"));
        let got = within("the body", call.request.body_mut().collect()).await.unwrap();
        let trailers = got.trailers().cloned().expect("trailers");
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("1")));
        assert_eq!(got.to_bytes(), "hello");
        call.answer(200, "ok");
        assert_eq!(status(&client.response().await.0), 200);
    }

    // Promise 54.
    #[tokio::test]
    async fn a_first_chunk_arrives_before_the_rest_is_sent() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        client
            .send(
                "PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            )
            .await;
        let mut call = service.call().await;
        let frame = within("a frame", call.request.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "first");
        let (sender, mut pieces) = mpsc::unbounded_channel();
        let body =
            Polled(move |cx: &mut Context<'_>| pieces.poll_recv(cx).map(|piece| piece.map(Frame::data)));
        call.reply.send(Response::new(body.boxed())).ok();
        sender.send(Bytes::from_static(b"early")).unwrap();
        client.until("early").await;
        sender.send(Bytes::from_static(b"late")).unwrap();
        client.until("late").await;
    }

    // Promise 53.
    #[tokio::test]
    async fn an_early_answer_reaches_the_client_and_ends_the_upload() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        client.send("PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nfirst").await;
        let call = service.call().await;
        call.answer(413, "too large");
        let (head, body) = client.response().await;
        assert_eq!((status(&head), body.as_slice()), (413, &b"too large"[..]));
        // The shared connection is as good as before.
        let mut other = keyway.connect().await;
        other.send(GET).await;
        let call = service.call().await;
        assert_eq!(call.connection, 1);
        call.answer(200, "ok");
        assert_eq!(other.response().await.1, b"ok");
    }

    // Promises 36, 61.
    #[tokio::test]
    async fn a_client_that_leaves_amid_an_upload_never_completes_it() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        client
            .send(
                "PUT /svc/o HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
            )
            .await;
        let mut call = service.call().await;
        within("a frame", call.request.body_mut().frame()).await.unwrap().unwrap();
        drop(client);
        let end = within("the end", call.request.body_mut().frame()).await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }

    // Promises 51, 52.
    #[tokio::test]
    async fn a_refused_token_is_replaced_and_a_small_body_sent_again() {
        let service = Http2::start().await;
        let demo = Cloud::start(demo::Config::default()).await.unwrap();
        point(&demo, "compute", &service.url);
        let mut config = demo.keystone_config();
        config.tls = trusting(&service.authority.file());
        let keyway = Keyway::start(config);
        let mut client = keyway.connect().await;
        client.send("POST /compute/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello").await;
        let mut tokens = Vec::new();
        for code in [401, 200] {
            let mut call = service.call().await;
            tokens.push(call.request.headers()["x-auth-token"].clone());
            assert_eq!(
                within("a body", call.request.body_mut().collect()).await.unwrap().to_bytes(),
                "hello"
            );
            call.answer(code, "ok");
        }
        assert_ne!(tokens[0], tokens[1]);
        assert_eq!(status(&client.response().await.0), 200);
    }

    #[tokio::test]
    async fn trailers_of_an_answer_do_not_disturb_a_client_that_takes_none() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let call = service.call().await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let mut frames = vec![Frame::trailers(trailers), Frame::data(Bytes::from_static(b"ok"))];
        let body = Polled(move |_: &mut Context<'_>| Poll::Ready(frames.pop()));
        let response = Response::builder().header("trailer", "x-sum").body(body.boxed()).unwrap();
        call.reply.send(response).ok();
        assert_eq!(field(&client.head().await, "trailer"), None);
        assert_eq!(client.chunked().await, (b"ok".to_vec(), String::new()));
    }

    // Promise 51.
    #[tokio::test]
    async fn a_connection_that_was_closed_is_replaced() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        for connection in 1..=3 {
            client.send(GET).await;
            let call = service.call().await;
            assert_eq!(call.connection, connection);
            // GOAWAY goes out while the last request is still served, which it may be to its end.
            service.goaway.send(()).unwrap();
            call.answer(200, "ok");
            assert_eq!(client.response().await.1, b"ok");
        }
    }

    // Promise 51.
    #[tokio::test]
    async fn a_service_that_resets_everything_is_not_asked_for_ever() {
        let service = Http2::start().await;
        let keyway = Keyway::start(service.cloud());
        let mut client = keyway.connect().await;
        for (method, most) in [("GET", 1), ("GET", 2), ("POST", 1)] {
            client.send(format!("{method} /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
            for _ in 0..most {
                drop(service.call().await.reply);
            }
            let (head, _) = client.response().await;
            assert_eq!(field(&head, "x-keyway-error"), Some("upstream_broken"), "{head}");
        }
    }
}

/// A body from a poll function.
struct Polled<F>(F);

impl<F> http_body::Body for Polled<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Frame<Bytes>>> + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        (self.0)(cx).map(|frame| frame.map(Ok))
    }
}
