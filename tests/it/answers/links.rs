//! Where a service's `Location` leads, and that keyway never goes there by itself.

use super::*;
use crate::support::raw::{field, status};

async fn location(request: &str, reference: &str) -> (Option<String>, Option<String>) {
    let (service, keyway) = start().await;
    let mut client = keyway.connect().await;
    client.send(request).await;
    let reference = reference.replace("SERVICE", &service.authority());
    let answer = format!(
        "HTTP/1.1 201 Created\r\nLocation: {reference}\r\nContent-Location: {reference}\r\nContent-Length: 0\r\n\r\n"
    );
    service.answer(answer).await;
    let head = client.head().await;
    assert_eq!(status(&head), 201);
    // Nobody went there.
    assert!(!service.has_connection().await);
    let field = |name| field(&head, name).map(|text| text.replace(&service.authority(), "SERVICE"));
    (field("location"), field("content-location"))
}

async fn check(request: &str, reference: &str, expected: &str) {
    let (location, content_location) = location(request, reference).await;
    assert_eq!(location.as_deref(), Some(expected), "{reference}");
    assert_eq!(content_location.as_deref(), Some(expected), "{reference}");
}

// Promise 18.
#[tokio::test]
async fn a_location_under_the_endpoint_is_one_at_keyway() {
    let get = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    check(get, "http://SERVICE/v1/a/b?c=d#e", "http://localhost/svc/a/b?c=d#e").await;
    check(get, "/v1/a%2Fb//", "http://localhost/svc/a%2Fb//").await;
    check(get, "//SERVICE/v1", "http://localhost/svc").await;
    check(get, "http://SERVICE/v2/a", "http://localhost/svc/v2/a").await;
    let long = "GET /cloud/raw/region/x/svc/v1/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    check(long, "http://SERVICE/v1/b", "http://localhost/cloud/raw/region/x/svc/b").await;
}

// Promise 18.
#[tokio::test]
async fn any_other_location_stays_as_it_is() {
    for reference in [
        "http://SERVICE/elsewhere",
        "https://SERVICE/v1/a",
        "http://elsewhere.example/v1/a",
        "http://SERVICE@elsewhere.example/v1/a",
        "http://SERVICE/v1/../admin",
        "http://SERVICE/v1evil",
        "a/b",
        "?page=2",
        "//elsewhere.example/v1/a",
    ] {
        check(GET, reference, reference).await;
    }
}

// Promises 18, 50.
#[tokio::test]
async fn a_redirect_is_never_followed() {
    for code in [
        "300 Multiple Choices",
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        for target in ["http://SERVICE/v1/b", "/v1/b", "http://OTHER/"] {
            let (service, keyway) = start().await;
            let other = Upstream::start().await;
            let mut client = keyway.connect().await;
            client.send(GET).await;
            let target = target.replace("SERVICE", &service.authority()).replace("OTHER", &other.authority());
            let answer = format!("HTTP/1.1 {code}\r\nLocation: {target}\r\nContent-Length: 2\r\n\r\nok");
            let (mut server, _) = service.answer(answer).await;
            let (head, body) = client.response().await;
            assert_eq!(format!("{}", status(&head)), code[..3]);
            assert_eq!(body, b"ok");
            assert!(field(&head, "location").is_some());
            assert!(!other.has_connection().await && !service.has_connection().await);
            drop((client, keyway));
            assert_eq!(server.rest().await, b"");
        }
    }
}
