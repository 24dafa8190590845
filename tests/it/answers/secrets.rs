//! What was sent as a secret does not come back, and what only keyway says nobody else says.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyway::demo::PASSWORD;

use super::*;
use crate::support::direct::{TOKEN, point_all};
use crate::support::raw::{field, status};
use crate::support::{TestKeyway, refusing};

// Promises 7, 20, 46, 47.
#[tokio::test]
async fn a_field_that_shows_the_token_does_not_come_back() {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    service
        .answer(format!(
            "HTTP/1.1 200 {TOKEN}\r\nContent-Length: 2\r\nX-Echo: {TOKEN}\r\nX-Request: x-auth-token={TOKEN}; a=b\r\n\
             X-Echo: harmless\r\nLocation: http://elsewhere.example/?t={TOKEN}\r\n\
             Content-Location: {}/a?t={TOKEN}\r\nWWW-Authenticate: Keystone token=\"{TOKEN}\"\r\n\
             ETag: \"{TOKEN}\"\r\nX-Auth-Token: other\r\nX-Storage-Token: other\r\nX-Subject-Token: other\r\n\
             Set-Cookie: a=b\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: *\r\n\
             X-Keyway-Error: denied\r\nX-Keyway-Retry: body_gone\r\nX-Almost: the-toke\r\n\r\nok",
            service.url()
        ))
        .await;
    let (head, body) = client.response().await;
    let names: Vec<_> = head.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(
        names.iter().filter(|name| !name.is_empty()).collect::<Vec<_>>(),
        [&"content-length", &"x-almost", &"date"]
    );
    assert!(!head.contains(TOKEN), "{head}");
    assert_eq!((status(&head), body.as_slice()), (200, &b"ok"[..]));
}

// Promises 20, 46.
#[tokio::test]
async fn neither_the_refused_token_nor_the_new_one_comes_back() {
    let service = Upstream::start().await;
    let cloud = with_keystone(&service.url()).await;
    let keyway = Keyway::start(cloud.keystone_config());
    let mut client = keyway.connect().await;
    client.send("GET /object-store/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut server = service.accept().await;
    let mut tokens = Vec::new();
    let mut echo = String::new();
    for code in ["401 Unauthorized", "200 OK"] {
        let token = field(&server.head().await, "x-auth-token").expect("a token").to_owned();
        tokens.push(token);
        echo = tokens.iter().enumerate().map(|(at, token)| format!("X-Echo-{at}: {token}\r\n")).collect();
        server.send(format!("HTTP/1.1 {code}\r\n{echo}Content-Length: 0\r\n\r\n")).await;
    }
    assert!(tokens[0] != tokens[1] && echo.contains(&tokens[0]));
    let head = client.head().await;
    assert_eq!(status(&head), 200);
    assert!(!tokens.iter().any(|token| head.contains(token.as_str())) && !head.contains("x-echo"), "{head}");
}

// Promises 20, 46.
#[tokio::test]
async fn a_trailer_that_shows_a_token_does_not_come_back() {
    let (service, keyway) = start().await;
    let stream = tokio::net::TcpStream::connect(keyway.address()).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://localhost/svc/a").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\
         X-Echo: a {TOKEN}\r\nX-Subject-Token: other\r\nContent-Length: 7\r\nSet-Cookie: a=b\r\n\r\n"
    );
    let (response, _) = tokio::join!(client.send_request(request), service.answer(answer));
    let response = response.unwrap();
    assert!(!response.headers().contains_key("trailer"));
    let body = within("the body", response.into_body().collect()).await.unwrap();
    let trailers = body.trailers().expect("trailers").clone();
    assert_eq!(trailers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-sum"]);
    assert_eq!(body.to_bytes(), "ok");
}

// Promises 20, 46.
#[tokio::test]
async fn a_token_in_the_answer_of_a_stream_does_not_come_back() {
    let (service, keyway) = start_h2().await;
    let mut client = keyway.connect().await;
    client.send(GET).await;
    let mut server = service.accept().await;
    let stream = server.head().await;
    let fields = [
        ("x-echo", TOKEN),
        ("x-auth-token", "a"),
        ("x-subject-token", "b"),
        ("set-cookie", "c"),
        ("x-kept", "d"),
    ];
    server.answer(stream, 204, &fields, true).await;
    let head = client.head().await;
    for gone in [TOKEN, "x-echo", "x-auth-token", "x-subject-token", "set-cookie"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert_eq!(field(&head, "x-kept"), Some("d"));
}

// Promise 46.
#[tokio::test]
async fn a_new_token_that_a_client_asked_keystone_for_is_the_client_s() {
    for (path, expected) in [("identity/v3//auth/tokens", Some("fresh")), ("compute/v3/auth/tokens", None)] {
        let service = Upstream::start().await;
        let cloud = with_keystone(&service.url()).await;
        point_all(&cloud, &["identity", "compute"], &service.url());
        let keyway = Keyway::start(cloud.keystone_config());
        let mut client = keyway.connect().await;
        client
            .send(format!("POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"))
            .await;
        let mut server = service.accept().await;
        server.head().await;
        server.take(2).await;
        server.send("HTTP/1.1 201 Created\r\nX-Subject-Token: fresh\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(field(&client.head().await, "x-subject-token"), expected, "{path}");
    }
}

// Promise 46.
#[tokio::test]
async fn keyway_s_token_comes_back_from_keystone_only_to_who_asked_about_it() {
    let service = Upstream::start().await;
    let cloud = with_keystone(&service.url()).await;
    point_all(&cloud, &["identity"], &service.url());
    let keyway = Keyway::start(cloud.keystone_config());
    let mut client = keyway.connect().await;
    client.send("GET /identity/v3/auth/tokens HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut server = service.accept().await;
    let token = field(&server.head().await, "x-auth-token").expect("a token").to_owned();
    let answer = format!("HTTP/1.1 200 OK\r\nX-Subject-Token: {token}\r\nContent-Length: 0\r\n\r\n");
    server.send(&answer).await;
    assert_eq!(field(&client.head().await, "x-subject-token"), None);
    client
        .send(format!(
            "GET /identity/v3/auth/tokens HTTP/1.1\r\nHost: localhost\r\nX-Subject-Token: {token}\r\n\r\n"
        ))
        .await;
    server.head().await;
    server.send(&answer).await;
    assert_eq!(field(&client.head().await, "x-subject-token"), Some(token.as_str()));
}

// Promise 46.
#[tokio::test]
async fn keyway_s_own_errors_name_no_secret_and_no_address() {
    let (service, keyway) = start_impatient().await;
    let mut answers = Vec::new();
    // Not HTTP, cut, silent.
    for answer in [format!("{TOKEN}\r\n\r\n"), format!("HTTP/1.1 200 OK\r\nX-Echo: {TOKEN}"), String::new()] {
        let mut client = keyway.connect().await;
        client.send(GET).await;
        let mut server = service.accept().await;
        server.head().await;
        server.send(&answer).await;
        if !answer.is_empty() {
            server.finish().await;
        }
        answers.push(client.response().await);
    }
    let authority = service.authority();
    drop(service);
    let mut client = keyway.connect().await;
    client.send(GET).await;
    answers.push(client.response().await);
    let reasons: Vec<_> =
        answers.iter().map(|(head, _)| field(head, "x-keyway-error").expect("a reason")).collect();
    assert_eq!(reasons, ["upstream_broken", "upstream_broken", "upstream_timeout", "upstream_connect"]);
    for (head, body) in &answers {
        let text = format!("{head}{}", String::from_utf8_lossy(body));
        assert!(!text.contains(TOKEN) && !text.contains(&authority), "{text}");
    }

    let cloud = crate::support::cloud().await;
    cloud.set_trouble("identity", refusing());
    let keyway = TestKeyway::cold(vec![cloud.keystone_config()], |_| {});
    let answer = keyway.get("/compute/servers").await;
    answer.message(502, "credentials_rejected");
    assert!(!answer.text().contains(PASSWORD));
}
