//! Which requests a listener lets in: meant for it, and not from a web page. What stays out reaches
//! neither a service nor Keystone.

use std::net::SocketAddr;

use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyway::config::Listener;
use keyway::demo::Cloud;
use keyway::entry::{host, origin, required_header};
use keyway::server::Address;
use tokio::net::TcpStream;

use crate::support::{Answer, TestKeyway, answering, bounded, cloud, raw, request, targets};

const SERVICES: [&str; 5] = ["compute", "image", "network", "block-storage", "object-store"];

async fn start() -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    (cloud, keyway)
}

/// `GET` or another method with these fields and nothing else but `Connection: close`.
async fn ask(address: SocketAddr, line: &str, fields: &[&str]) -> Answer {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    raw(address, format!("{line}\r\n{fields}Connection: close\r\n\r\n").as_bytes()).await
}

/// Nobody at the cloud has heard of any request but keyway's own login.
#[track_caller]
fn nothing_arrived(cloud: &Cloud) {
    for service in SERVICES {
        assert!(cloud.requests(service).is_empty(), "{service}: {:?}", targets(cloud, service));
    }
    assert_eq!(targets(cloud, "identity"), ["/v3/auth/tokens"]);
}

// Promises 2, 9, 16.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_bound_to_loopback_gets_nothing() {
    let (cloud, keyway) = start().await;
    let listen = keyway.listen();
    let port = listen.port();
    let names = [
        "rebind.example",
        "127.0.0.1.rebind.example",
        "localhost.rebind.example",
        "7f000001.rebind.example",
        "rebind-localhost",
        "notlocalhost",
        "localhost.example",
        "0.0.0.0",
        "0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::]",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
        "192.168.0.1",
        "host.docker.internal",
        "%6c%6fcalhost",
        "*",
    ];
    for name in names {
        for host in [name.to_owned(), format!("{name}:{port}")] {
            let answer = ask(listen, "GET /compute/servers HTTP/1.1", &[&format!("Host: {host}")]).await;
            let message = answer.message(421, "foreign_host");
            assert!(message.contains("`hosts`") && !message.contains("rebind"), "{message}");
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            assert_eq!(answer.header("cache-control"), "no-store");
        }
    }
    // The right name with another listener's port.
    for host in ["localhost:1", "127.0.0.1:80", "[::1]:65535"] {
        ask(listen, "GET /compute/servers HTTP/1.1", &[&format!("Host: {host}")])
            .await
            .message(421, "foreign_host");
    }
    // Nor with a body.
    let upload = ["Host: rebind.example", "Content-Length: 5"];
    let text = format!(
        "PUT /object-store/box HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\nhello",
        upload.join("\r\n")
    );
    keyway.raw(text).await.message(421, "foreign_host");
    nothing_arrived(&cloud);
    let refused = keyway.metric(r#"keyway_errors_total{reason="foreign_host"}"#).await;
    assert_eq!(refused, (names.len() * 2 + 4) as f64);
}

// Promise 2.
#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_loopback_is_served() {
    let (cloud, keyway) = start().await;
    let (listen, port) = (keyway.listen(), keyway.listen().port());
    let names =
        ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.0.0.53", "[::1]", "[0:0:0:0:0:0:0:1]"];
    for name in names {
        for host in [name.to_owned(), format!("{name}:{port}")] {
            let answer = ask(listen, "GET /compute/servers HTTP/1.1", &[&format!("Host: {host}")]).await;
            assert_eq!(answer.status, 200, "{host}: {answer:?}");
        }
    }
    let answer = ask(listen, "GET /compute/servers HTTP/1.0", &["Host: localhost"]).await;
    assert_eq!(answer.status, 200);
    // Below localhost, the name is the service's.
    for host in ["compute.localhost".to_owned(), format!("Compute.Demo.LOCALHOST.:{port}")] {
        let answer = ask(listen, "GET /v2.1/servers HTTP/1.1", &[&format!("Host: {host}")]).await;
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
    }
    assert_eq!(cloud.requests("compute").len(), names.len() * 2 + 3);
}

// Promise 3.
#[tokio::test(flavor = "multi_thread")]
async fn there_must_be_exactly_one_host() {
    let (cloud, keyway) = start().await;
    for address in [keyway.listen(), keyway.admin()] {
        for fields in [
            &[][..],
            &["Host: localhost", "Host: localhost"],
            &["Host: localhost", "host: rebind.example"],
            &["Host:"],
            &["Host:   "],
            &["Host: localhost, rebind.example"],
            &["Host: localhost,"],
            &["Host: user@localhost"],
            &["Host: rebind.example@localhost"],
            &["Host: localhost/compute"],
            &["Host: http://localhost"],
            &["Host: localhost?"],
            &["Host: localhost#x"],
            &["Host: localhost\\x"],
            &["Host: localhost:"],
            &["Host: localhost:x"],
            &["Host: localhost:0"],
            &["Host: localhost:-1"],
            &["Host: localhost:65536"],
            &["Host: localhost:1:2"],
            &["Host: ::1"],
            &["Host: [::1"],
            &["Host: [::1]x"],
            &["Host: local host"],
            &["Host: local\u{e4}host"],
        ] {
            for line in ["GET /compute/servers HTTP/1.1", "GET /compute/servers HTTP/1.0"] {
                let answer = ask(address, line, fields).await;
                assert_eq!(answer.status, 400, "{line} {fields:?}");
                assert_eq!(answer.header("x-keyway-error"), "bad_request", "{line} {fields:?}");
            }
        }
    }
    nothing_arrived(&cloud);
}

// Promise 19.
#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_must_be_this_listeners() {
    let (cloud, keyway) = start().await;
    let (listen, port) = (keyway.listen(), keyway.listen().port());
    for (target, host, status) in [
        ("http://rebind.example/compute/servers".to_owned(), "localhost".to_owned(), 400),
        ("http://rebind.example/compute/servers".to_owned(), "rebind.example".to_owned(), 421),
        ("http://localhost/compute/servers".to_owned(), "rebind.example".to_owned(), 400),
        ("http://localhost/compute/servers".to_owned(), format!("localhost:{port}"), 400),
        ("http://localhost:1/compute/servers".to_owned(), "localhost:1".to_owned(), 421),
        ("https://localhost/compute/servers".to_owned(), "localhost".to_owned(), 400),
        ("ftp://localhost/compute/servers".to_owned(), "localhost".to_owned(), 400),
        ("http://a@localhost/compute/servers".to_owned(), "localhost".to_owned(), 400),
        ("http://a@localhost/compute/servers".to_owned(), "a@localhost".to_owned(), 400),
        (cloud.url("compute"), "localhost".to_owned(), 400),
    ] {
        let answer = ask(listen, &format!("GET {target} HTTP/1.1"), &[&format!("Host: {host}")]).await;
        assert_eq!(answer.status, status, "{target} {host}: {answer:?}");
    }
    // Scheme-relative: that is a path, and one that names no service.
    ask(listen, "GET //rebind.example/compute/servers HTTP/1.1", &["Host: localhost"])
        .await
        .message(404, "no_route");
    let refused = ask(listen, "CONNECT rebind.example:443 HTTP/1.1", &["Host: rebind.example:443"]).await;
    assert!(matches!(refused.status, 421 | 501), "{refused:?}");
    nothing_arrived(&cloud);
    let own = format!("GET http://localhost:{port}/compute/servers HTTP/1.1");
    assert_eq!(ask(listen, &own, &[&format!("Host: LOCALHOST:{port}")]).await.status, 200);
}

/// One HTTP/2 request; its status and `X-Keyway-Error`.
async fn ask_h2(address: SocketAddr, authority: &str, host: Option<&str>) -> (u16, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(format!("http://{authority}/compute/servers"));
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = bounded("an answer", client.send_request(request)).await.unwrap();
    let reason =
        answer.headers().get("x-keyway-error").map_or("", |reason| reason.to_str().unwrap()).to_owned();
    let status = answer.status().as_u16();
    bounded("a body", answer.into_body().collect()).await.unwrap();
    (status, reason)
}

// Promises 2, 3, 19.
#[tokio::test(flavor = "multi_thread")]
async fn http2_has_the_same_names() {
    let (cloud, keyway) = start().await;
    let listen = keyway.listen();
    let own = listen.to_string();
    for (authority, host, status, reason) in [
        ("rebind.example", None, 421, "foreign_host"),
        ("0.0.0.0", None, 421, "foreign_host"),
        ("rebind.example", Some("localhost"), 400, "bad_request"),
        ("localhost", Some("rebind.example"), 400, "bad_request"),
        ("user@localhost", None, 400, "bad_request"),
        ("localhost:1", None, 421, "foreign_host"),
    ] {
        for address in [listen, keyway.admin()] {
            let answer = ask_h2(address, authority, host).await;
            assert_eq!(answer, (status, reason.to_owned()), "{authority} {host:?}");
        }
    }
    nothing_arrived(&cloud);
    for (authority, host) in [(own.as_str(), None), ("localhost", Some("localhost")), ("[::1]", None)] {
        assert_eq!(ask_h2(listen, authority, host).await.0, 200, "{authority}");
    }
}

// Promises 4, 5, 7.
#[tokio::test(flavor = "multi_thread")]
async fn no_page_gets_in() {
    let (cloud, keyway) = start().await;
    let (listen, port) = (keyway.listen(), keyway.listen().port());
    let own = format!("Origin: http://127.0.0.1:{port}");
    for address in [listen, keyway.admin()] {
        for fields in [
            &["Origin: https://page.example"][..],
            &["Origin: null"],
            &["Origin:"],
            &["Origin: file://"],
            &["Origin: http://localhost:3000"],
            &["Origin: chrome-extension://abcdefgh"],
            &["Origin: moz-extension://abcdefgh"],
            &[own.as_str()],
            &["Origin: https://page.example", "Origin: null"],
            &["Sec-Fetch-Site: cross-site"],
            &["Sec-Fetch-Site: same-site"],
            &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"],
            &["Sec-Fetch-Site: none, cross-site"],
            &["Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"],
            &["Sec-Fetch-Site: NONE"],
            &["Sec-Fetch-Site:"],
            &["Sec-Fetch-Site: same-origin", "Origin: https://page.example"],
            &["Origin: https://page.example", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
        ] {
            let host = format!("Host: {address}");
            let fields = [&[host.as_str()], fields].concat();
            for method in ["GET", "POST", "OPTIONS"] {
                let answer = ask(address, &format!("{method} /compute/servers HTTP/1.1"), &fields).await;
                assert_eq!(
                    (answer.status, answer.header("x-keyway-error")),
                    (403, "cross_origin"),
                    "{fields:?}"
                );
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
                assert!(!answer.text().contains("page.example"), "{answer:?}");
            }
        }
        // A preflight is told nothing.
        let preflight = [
            &format!("Host: {address}"),
            "Origin: https://page.example",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: x-keyway",
            "Access-Control-Request-Private-Network: true",
            "Access-Control-Request-Local-Network: true",
        ];
        let answer = ask(address, "OPTIONS /compute/servers HTTP/1.1", &preflight).await;
        assert_eq!(answer.status, 403);
        assert!(
            !answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")),
            "{answer:?}"
        );
    }
    nothing_arrived(&cloud);
    for site in ["none", "same-origin"] {
        let fields = ["Host: localhost", &format!("Sec-Fetch-Site: {site}")];
        assert_eq!(ask(listen, "GET /compute/servers HTTP/1.1", &fields).await.status, 200, "{site}");
    }
}

// Promises 4, 5, 7.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_origin_gets_in_and_is_granted_nothing_else() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].entry.origins = vec![origin("https://dashboard.example").unwrap()];
    })
    .await;
    let granting = [("access-control-allow-origin", "https://dashboard.example"), ("x-kept", "1")];
    cloud.set_trouble("compute", answering(200, &granting, "{}"));
    let listed = ["Host: localhost", "Origin: https://dashboard.example", "Sec-Fetch-Site: cross-site"];
    for method in ["GET", "POST", "OPTIONS"] {
        let answer = ask(keyway.listen(), &format!("{method} /compute/servers HTTP/1.1"), &listed).await;
        assert_eq!((answer.status, answer.header("x-kept")), (200, "1"), "{method}");
        assert!(
            !answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")),
            "{answer:?}"
        );
    }
    for other in
        ["http://dashboard.example", "https://dashboard.example:443", "https://dashboard.example.evil"]
    {
        let fields = ["Host: localhost", &format!("Origin: {other}")];
        ask(keyway.listen(), "GET /compute/servers HTTP/1.1", &fields).await.message(403, "cross_origin");
    }
    // It is the data listener's; the admin listener has a list of its own.
    assert_eq!(ask(keyway.admin(), "GET /status HTTP/1.1", &listed).await.status, 403);
    assert_eq!(cloud.requests("compute").len(), 3);
}

// Promise 6.
#[tokio::test(flavor = "multi_thread")]
async fn a_required_header_is_the_listeners_and_no_services() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let mut second = Listener::at("second", "127.0.0.1:0".parse::<Address>().unwrap());
        second.entry.required = Some(required_header("X-Keyway: open-sesame").unwrap());
        config.listeners.push(second);
    })
    .await;
    let second = keyway.app().addresses().nth(1).and_then(Address::tcp).unwrap();
    for fields in [
        &[][..],
        &["X-Keyway:"],
        &["X-Keyway: open-sesam"],
        &["X-Keyway: open-sesamf"],
        &["X-Keyway: open-sesame1"],
        &["X_Keyway: open-sesame"],
        &["X-Keyway: open-sesame", "X-Keyway: open-sesame"],
    ] {
        let fields = [&["Host: localhost"], fields].concat();
        let message =
            ask(second, "GET /compute/servers HTTP/1.1", &fields).await.message(403, "header_required");
        assert!(message.contains("x-keyway") && !message.contains("sesam"), "{message}");
    }
    nothing_arrived(&cloud);
    let put = "PUT /object-store/box HTTP/1.1\r\nHost: localhost\r\nX-KEYWAY: open-sesame\r\n\
               Transfer-Encoding: chunked\r\nTrailer: x-keyway\r\nConnection: close\r\n\r\n\
               1\r\nx\r\n0\r\nX-Keyway: open-sesame\r\nX-Kept: 1\r\n\r\n";
    assert_eq!(raw(second, put.as_bytes()).await.status, 201);
    let seen = cloud.requests("object-store").pop().unwrap();
    assert!(!seen.headers.contains_key("x-keyway"), "{:?}", seen.headers);
    assert!(!seen.trailers.is_some_and(|trailers| trailers.contains_key("x-keyway")));
    // The first listener asks for none.
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
}

// Promise 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_has_the_names_of_its_own_configuration() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners[0].entry.hosts =
            ["Keyway.example", "tunnel.example:9999"].map(|name| host(name).unwrap()).to_vec();
        config.admin.entry.hosts = vec![host("admin.example").unwrap()];
    })
    .await;
    let port = keyway.listen().port();
    for (host, status) in [
        ("keyway.example", 200),
        ("KEYWAY.EXAMPLE.", 200),
        (&format!("keyway.example:{port}"), 200),
        ("keyway.example:9999", 421),
        ("tunnel.example:9999", 200),
        ("tunnel.example", 421),
        ("admin.example", 421),
        ("a.keyway.example", 421),
    ] {
        let answer = ask(keyway.listen(), "GET /compute/servers HTTP/1.1", &[&format!("Host: {host}")]).await;
        assert_eq!(answer.status, status, "{host}");
    }
    for (host, status) in [("admin.example", 200), ("keyway.example", 421)] {
        let answer = ask(keyway.admin(), "GET /livez HTTP/1.1", &[&format!("Host: {host}")]).await;
        assert_eq!(answer.status, status, "{host}");
    }
}

// Promises 2, 9, 12, 13.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_the_same_door() {
    let (cloud, keyway) = start().await;
    for path in ["/livez", "/readyz", "/metrics", "/status", "/compute/servers"] {
        let answer = ask(keyway.admin(), &format!("GET {path} HTTP/1.1"), &["Host: rebind.example"]).await;
        assert_eq!((answer.status, answer.header("x-keyway-error")), (421, "foreign_host"), "{path}");
        assert!(answer.header("content-type").starts_with("text/plain"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.text().contains("rebind"), "{}", answer.text());
        let local = ask(keyway.admin(), &format!("GET {path} HTTP/1.1"), &["Host: localhost"]).await;
        assert_eq!(local.status, if path == "/compute/servers" { 404 } else { 200 }, "{path}");
        assert_eq!(local.header("x-content-type-options"), "nosniff");
        assert_eq!(local.header("cache-control"), "no-store");
    }
    let answer = ask(keyway.admin(), "POST /status HTTP/1.1", &["Host: localhost"]).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
    nothing_arrived(&cloud);
}

// Promise 9.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_of_keyways_own_repeats_what_the_client_sent() {
    let (_cloud, keyway) = start().await;
    let marker = "<script>marker</script>";
    let encoded = "%3Cscript%3Emarker%3C%2Fscript%3E";
    for (line, fields) in [
        (format!("GET /{encoded}/servers"), vec!["Host: localhost".to_owned()]),
        ("GET /marker/servers".to_owned(), vec!["Host: localhost".to_owned()]),
        (format!("GET /cloud/{encoded}/compute"), vec!["Host: localhost".to_owned()]),
        (format!("GET /region/{encoded}/compute/servers"), vec!["Host: localhost".to_owned()]),
        (format!("GET /project/{encoded}/compute/servers"), vec!["Host: localhost".to_owned()]),
        ("GET /compute/marker/../x?marker".to_owned(), vec!["Host: localhost".to_owned()]),
        ("GET /compute/x".to_owned(), vec![format!("Host: {marker}")]),
        ("GET /compute/x".to_owned(), vec!["Host: marker.example".to_owned()]),
        ("GET /compute/x".to_owned(), vec!["Host: localhost".to_owned(), format!("Origin: {marker}")]),
        ("GET http://marker.example/compute/x".to_owned(), vec!["Host: localhost".to_owned()]),
        ("TRACE /compute/marker".to_owned(), vec!["Host: localhost".to_owned()]),
        (
            "GET /compute/x".to_owned(),
            vec!["Host: localhost".to_owned(), "Content-Length: marker".to_owned()],
        ),
        (
            "POST /compute/x".to_owned(),
            vec!["Host: localhost".to_owned(), "Transfer-Encoding: marker, chunked".to_owned()],
        ),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        for address in [keyway.listen(), keyway.admin()] {
            let answer = ask(address, &format!("{line} HTTP/1.1"), &fields).await;
            assert!((400..600).contains(&answer.status), "{line} {fields:?}: {answer:?}");
            let head = format!("{:?}", answer.headers);
            assert!(!answer.text().contains("marker") && !head.contains("marker"), "{line}: {answer:?}");
            if answer.body.is_empty() {
                continue;
            }
            let kind = answer.header("content-type");
            assert!(kind == "application/json" || kind.starts_with("text/plain"), "{line}: {kind}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
            assert_eq!(answer.header("cache-control"), "no-store", "{line}");
        }
    }
}

// Promise 8.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_proxy_says_of_the_client_is_dropped() {
    let (cloud, keyway) = start().await;
    let said = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Prefix",
        "X-Forwarded-Port",
        "X_Forwarded_For",
        "Forwarded",
        "Via",
        "X-Real-IP",
    ];
    let mut get = request(Method::GET, "/compute/servers", &[], "");
    for name in said {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        get.headers_mut().append(&name, HeaderValue::from_static("by=203.0.113.7"));
    }
    assert_eq!(keyway.send(get).await.status, 200);
    let seen = cloud.requests("compute").pop().unwrap();
    assert!(seen.headers.values().all(|value| value != "by=203.0.113.7"), "{:?}", seen.headers);
}
