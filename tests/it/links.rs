//! Links in answers, followed through keyway until there are no new ones, and compared with where they
//! lead without it; and what holding a body for them does to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use http::Method;
use keyway::config::Listener;
use keyway::demo::{self, Cloud};
use keyway::server::Address;
use serde_json::{Value, json};

use crate::support::direct::{Keyway, fixed_cloud, point};
use crate::support::raw::{Peer, Upstream, field, status};
use crate::support::{Answer, Connection, TestKeyway, cloud, request};

const SERVICES: [&str; 9] = [
    "identity",
    "compute",
    "RegionTwo/compute",
    "image",
    "RegionTwo/image",
    "network",
    "block-storage",
    "object-store",
    "orchestration",
];

/// `http://127.0.0.1:1234` of a URL.
fn origin(url: &str) -> &str {
    let start = url.find("://").expect("an absolute URL") + 3;
    url[start..].find('/').map_or(url, |end| &url[..start + end])
}

fn authority(origin: &str) -> &str {
    origin.strip_prefix("http://").expect("no TLS here")
}

fn address(origin: &str) -> SocketAddr {
    authority(origin).replace("localhost", "127.0.0.1").parse().expect("an address")
}

/// Pages that are as short as can be, so that there are many.
async fn paging_cloud() -> Cloud {
    let config = demo::Config { page_size: 1, ..demo::Config::default() };
    Cloud::start(config).await.expect("loopback has free ports")
}

/// What a service is asked for: its name, and the target.
type Place = (&'static str, String);

/// A request at a listener, and where it should lead to.
struct Step {
    listener: SocketAddr,
    host: String,
    path: String,
    expected: Option<Place>,
}

/// A client that follows links. It knows keyway's addresses, and what a service was asked for.
struct Crawler<'a> {
    cloud: &'a Cloud,
    keyway: &'a TestKeyway,
    token: String,
    /// Where each service is, and how many of its requests were looked at.
    services: BTreeMap<&'static str, (String, usize)>,
    queue: VecDeque<Step>,
    known: BTreeSet<(String, String)>,
    followed: usize,
}

impl<'a> Crawler<'a> {
    async fn new(cloud: &'a Cloud, keyway: &'a TestKeyway) -> Self {
        let services = SERVICES.map(|name| {
            let url = cloud.url(name);
            (name, (origin(&url).to_owned(), cloud.requests(name).len()))
        });
        let token = keyway.token().await;
        let services = services.into();
        Self { cloud, keyway, token, services, queue: VecDeque::new(), known: BTreeSet::new(), followed: 0 }
    }

    /// Follows everything that can be reached from these paths at a listener.
    async fn crawl(&mut self, listener: SocketAddr, host: &str, paths: &[&str]) {
        for path in paths {
            self.add(listener, host, path, None);
        }
        while let Some(step) = self.queue.pop_front() {
            assert!(self.known.len() < 1000, "this has no end");
            self.visit(step).await;
        }
    }

    fn add(&mut self, listener: SocketAddr, host: &str, path: &str, expected: Option<Place>) {
        if self.known.insert((host.to_owned(), path.to_owned())) {
            let (host, path) = (host.to_owned(), path.to_owned());
            self.queue.push_back(Step { listener, host, path, expected });
        }
    }

    /// The requests that services saw since this was asked last. A version document that nobody but
    /// keyway asked for has no token.
    fn seen(&mut self) -> Vec<Place> {
        let mut seen = Vec::new();
        for (name, (_, looked_at)) in &mut self.services {
            let requests = self.cloud.requests(name);
            let new = requests[*looked_at..].iter().filter(|seen| seen.headers.contains_key("x-auth-token"));
            seen.extend(new.map(|request| (*name, request.target.clone())));
            *looked_at = requests.len();
        }
        seen
    }

    async fn visit(&mut self, Step { listener, host, path, expected }: Step) {
        self.seen();
        let asked = request(Method::GET, &path, &[("host", &host)], "");
        let answer = Connection::open(listener).await.send(asked).await;
        let what = format!("{path} at {host}");
        assert_eq!(answer.header("x-keyway-error"), "", "{what}: {}", answer.text());
        let seen = self.seen();
        let [(service, target)] = &seen[..] else { panic!("{what} led to {seen:?}") };
        if let Some(expected) = expected {
            assert_eq!((*service, target), (expected.0, &expected.1), "{what}");
            self.followed += 1;
        }
        // The same without keyway.
        let there = &self.services[service].0;
        let fields = [("x-auth-token", self.token.as_str()), ("host", authority(there))];
        let asked = request(Method::GET, target, &fields, "");
        let direct = Connection::open(address(there)).await.send(asked).await;
        self.seen();
        assert_eq!(answer.status, direct.status, "{what}");
        assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{what}");

        let mut changed = Vec::new();
        let mut unchanged = Vec::new();
        if direct.header("content-type").starts_with("application/json") && !direct.body.is_empty() {
            pairs(&direct.json(), &answer.json(), &mut changed, &mut unchanged);
        }
        for name in ["location", "content-location"] {
            if direct.header(name) != answer.header(name) {
                changed.push((direct.header(name).to_owned(), answer.header(name).to_owned()));
            } else if !direct.header(name).is_empty() {
                unchanged.push(direct.header(name).to_owned());
            }
        }
        for text in unchanged {
            let is_here = self.services.values().any(|(origin, _)| text.starts_with(origin.as_str()));
            assert!(!is_here || text.contains("/signal?"), "{what} has {text}");
        }
        for (from, to) in changed {
            self.note(listener, &host, service, target, &from, &to);
        }
    }

    /// Notes where a link that became `to` should lead to.
    fn note(
        &mut self,
        listener: SocketAddr,
        host: &str,
        service: &'static str,
        asked: &str,
        from: &str,
        to: &str,
    ) {
        let (service, path) = if from.starts_with('/') {
            (service, from.to_owned())
        } else {
            let of_origin = |(_, (known, _)): &(&&'static str, &(String, usize))| known == origin(from);
            let found = self.services.iter().find(of_origin).map(|(name, _)| *name);
            let path = &from[origin(from).len()..];
            // Only version documents are believed without their host.
            assert!(found.is_some() || path == "/v2/" && matches!(asked, "/" | "/versions"), "{from}");
            (found.unwrap_or(service), if path.is_empty() { "/" } else { path }.to_owned())
        };
        let (listener, host, to) = if to.starts_with('/') {
            (listener, host.to_owned(), to)
        } else {
            let host = authority(origin(to)).to_owned();
            let port: u16 = host.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
            let listeners = self.keyway.app().addresses().filter_map(Address::tcp);
            let listener = listeners.into_iter().find(|listener| listener.port() == port);
            (listener.unwrap_or_else(|| panic!("{to} is not keyway")), host, &to[origin(to).len()..])
        };
        self.add(listener, &host, to, Some((service, path)));
    }
}

/// The strings in which two documents differ, and those that are the same in both.
fn pairs(direct: &Value, via: &Value, changed: &mut Vec<(String, String)>, unchanged: &mut Vec<String>) {
    match (direct, via) {
        (Value::Object(direct), Value::Object(via)) => {
            assert!(direct.keys().eq(via.keys()));
            direct.values().zip(via.values()).for_each(|(a, b)| pairs(a, b, changed, unchanged));
        }
        (Value::Array(direct), Value::Array(via)) => {
            assert_eq!(direct.len(), via.len());
            direct.iter().zip(via).for_each(|(a, b)| pairs(a, b, changed, unchanged));
        }
        (Value::String(direct), Value::String(via)) if direct == via => unchanged.push(direct.clone()),
        (Value::String(direct), Value::String(via)) => changed.push((direct.clone(), via.clone())),
        (direct, via) => assert_eq!(direct, via),
    }
}

#[tokio::test]
async fn every_link_leads_through_keyway_to_where_it_leads_without_it() {
    let cloud = paging_cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let server = cloud.requests("compute").len();
    assert_eq!(server, 0);
    let image = keyway.get("/image/images").await.json()["images"][0]["id"].as_str().unwrap().to_owned();
    let mut crawler = Crawler::new(&cloud, &keyway).await;
    let host = keyway.listen().to_string();
    let paths = [
        "/compute/servers/detail",
        "/compute/v2.1/servers",
        "/compute/flavors",
        "/compute/v2.1/",
        &format!("/compute/images/{image}"),
        "/image/",
        "/image/images",
        "/image/v2/images?limit=1",
        "/network/networks?limit=1",
        "/network/ports?limit=1",
        "/network/v2.0/",
        "/block-storage/volumes/detail",
        "/block-storage/v3/volumes",
        "/orchestration/stacks",
        "/orchestration/stacks/demo-stack",
        "/orchestration/v1/",
        "/identity/v3/users",
        "/identity/v3/projects",
        "/region/RegionTwo/compute/servers/detail",
        "/region/RegionTwo/image/",
        "/region/RegionTwo/image/v2/images",
        "/project/demo/compute/servers",
        "/cloud/demo/compute/servers",
    ];
    crawler.crawl(keyway.listen(), &host, &paths).await;
    assert!(crawler.followed > 60, "{} links were followed", crawler.followed);
}

#[tokio::test]
async fn every_link_leads_to_the_same_place_at_origins_and_host_names_and_listeners_too() {
    let cloud = paging_cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut listener = Listener::at("compute", address);
        listener.pinned = Some("/compute".to_owned());
        config.listeners.push(listener);
        let mut listener = Listener::at("image", address);
        listener.pinned = Some("/cloud/demo/region/RegionTwo/image".to_owned());
        config.listeners.push(listener);
    })
    .await;
    let listeners: Vec<_> = keyway.app().addresses().filter_map(Address::tcp).collect();
    let port = keyway.listen().port();
    let mut crawler = Crawler::new(&cloud, &keyway).await;
    for (host, path) in [("compute", "/v2.1/servers/detail"), ("image.demo", "/v2/images"), ("image", "/")] {
        crawler.crawl(keyway.listen(), &format!("{host}.localhost:{port}"), &[path]).await;
    }
    let host = listeners[1].to_string();
    crawler.crawl(listeners[1], &host, &["/", "/v2.1/servers/detail", "/flavors/1"]).await;
    let host = listeners[2].to_string();
    crawler.crawl(listeners[2], &host, &["/", "/v2/images"]).await;
    for (service, path) in [
        ("compute", "/"),
        ("compute", "/v2.1/servers"),
        ("image", "/v2/images"),
        ("identity", "/v3/users"),
        ("identity", "/"),
        ("orchestration", "/"),
        ("RegionTwo/image", "/"),
    ] {
        let port = address(origin(&cloud.url(service))).port();
        let host = format!("localhost:{}", keyway.listen().port());
        let path = format!("/origin/http-127.0.0.1-{port}{path}");
        crawler.crawl(keyway.listen(), &host, &[&path]).await;
    }
    assert!(crawler.followed > 60, "{} links were followed", crawler.followed);
}

// Promise 18.
#[tokio::test]
async fn what_was_created_and_what_lies_elsewhere_is_found_at_keyway() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let here = format!("http://{}", keyway.listen());
    let body = json!({"server": {"name": "new", "flavorRef": "1", "networks": "none",
                                 "imageRef": "5e0c2d0a-0537-498c-a3ee-c92a9adb4ba9"}});
    let created = keyway.post("/compute/servers", &body).await;
    created.passed_on(202);
    let location = created.header("location");
    let path = location.strip_prefix(&here).unwrap_or_else(|| panic!("{location}"));
    assert_eq!(created.json()["server"]["links"][0]["href"], location);
    assert_eq!(keyway.get(path).await.json()["server"]["name"], "new");

    let created = keyway.post("/image/images", &json!({"name": "mine", "next": "/v2/images/x"})).await;
    created.passed_on(201);
    let path = created.header("location").strip_prefix(&here).expect("at keyway").to_owned();
    let image = keyway.get(&path).await.json();
    // The owner's own properties are data, whatever they are called.
    assert_eq!((&image["name"], &image["next"]), (&json!("mine"), &json!("/v2/images/x")));
    assert_eq!(image["self"], path);

    let moved = keyway.get("/orchestration/stacks/demo-stack").await;
    moved.passed_on(302);
    let path = moved.header("location").strip_prefix(&here).expect("at keyway").to_owned();
    let stack = keyway.get(&path).await.json()["stack"].clone();
    assert_eq!(stack["stack_name"], "demo-stack");
    let signal = stack["outputs"][0]["output_value"].as_str().expect("an address to call");
    assert!(signal.starts_with(origin(&cloud.url("orchestration"))), "{signal}");
    // Nobody followed anything by itself.
    assert_eq!(cloud.requests("orchestration").len(), 2);
}

#[tokio::test]
async fn links_stay_as_they_are_where_the_operator_wants_them_so() {
    let cloud = cloud().await;
    let raw = |list: &[&str]| {
        let list: Vec<_> = list.iter().map(ToString::to_string).collect();
        TestKeyway::with(&cloud, move |config| {
            let name = config.clouds[0].name.clone();
            config.raw_links.insert(name, list);
        })
    };
    for (services, compute, image) in [
        (&["compute"][..], false, true),
        (&["image"], true, false),
        (&["*"], false, false),
        (&[], true, true),
    ] {
        let keyway = raw(services).await;
        let flavors = keyway.get("/compute/flavors").await.text();
        assert_eq!(!flavors.contains(origin(&cloud.url("compute"))), compute, "{services:?}");
        let images = keyway.get("/image/images").await.json();
        assert_eq!(images["first"] == "/image/v2/images", image, "{services:?}: {}", images["first"]);
        let created = keyway.post("/image/images", &json!({"name": "x"})).await;
        let here = format!("http://{}", keyway.listen());
        assert_eq!(created.header("location").starts_with(&here), image, "{services:?}");
    }
}

/// A document with a link to `authority`, about as large as asked.
fn page(authority: &str, size: usize) -> String {
    let padding = "x".repeat(size.saturating_sub(80));
    format!(r#"{{"links": {{"self": "http://{authority}/v1/a"}}, "n": 1.0e0, "padding": "{padding}"}}"#)
}

async fn start(links: usize, links_total: usize) -> (Upstream, Keyway) {
    let service = Upstream::start().await;
    let keyway = Keyway::start_with(fixed_cloud(&service.url()), |config| {
        config.limits.links = links;
        config.limits.links_total = links_total;
    });
    (service, keyway)
}

fn get(method: &str, version: &str) -> String {
    format!("{method} /svc/a HTTP/{version}\r\nHost: localhost\r\n\r\n")
}

/// What a client gets of an answer: head and body.
async fn answered(service: &Upstream, keyway: &Keyway, asked: &str, answer: &str) -> (String, Vec<u8>) {
    let mut client = keyway.connect().await;
    client.send(asked).await;
    let (server, _) = service.answer(answer).await;
    drop(server);
    client.response().await
}

fn json_answer(fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
}

fn chunked_answer(fields: &str, pieces: &[&str]) -> String {
    let chunks: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n{fields}\r\n{chunks}"
    )
}

fn mapped(page: &str, service: &Upstream) -> String {
    page.replace(&format!("http://{}/v1", service.authority()), "http://localhost/svc")
}

#[tokio::test]
async fn a_body_with_links_has_its_own_length_and_is_told_apart_by_its_tag() {
    let (service, keyway) = start(1 << 20, 1 << 20).await;
    let fields = "ETag: \"abc\"\r\nDigest: md5=x\r\nContent-MD5: x\r\nRepr-Digest: x=:x:\r\nContent-Digest: x=:x:\r\nAccept-Ranges: bytes\r\nX-Kept: 1\r\n";
    // In one read, and in many.
    for size in [100, 300_000] {
        let page = page(&service.authority(), size);
        let expected = mapped(&page, &service);
        let half = page.len() / 2;
        let answers = [
            json_answer(fields, &page),
            chunked_answer(fields, &[&page[..half], &page[half..], ""]),
            chunked_answer(fields, &[&page]) + "0\r\nX-Late: 1\r\nContent-MD5: x\r\n\r\n",
        ];
        for (index, answer) in answers.iter().enumerate() {
            for version in ["1.1", "1.0"] {
                let (head, body) = answered(&service, &keyway, &get("GET", version), answer).await;
                assert_eq!(status(&head), 200);
                if version == "1.1" || index < 2 {
                    assert_eq!(String::from_utf8_lossy(&body), expected, "{head}");
                }
                assert_eq!(field(&head, "etag"), Some("W/\"abc\""));
                assert_eq!(field(&head, "x-kept"), Some("1"));
                for gone in ["digest", "content-md5", "repr-digest", "content-digest", "accept-ranges"] {
                    assert_eq!(field(&head, gone), None, "{head}");
                }
                let length = expected.len().to_string();
                let has_trailers = index == 2;
                assert_eq!(
                    field(&head, "content-length"),
                    (!has_trailers).then_some(length.as_str()),
                    "{head}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_body_without_links_keeps_all_that_is_said_of_it() {
    let (service, keyway) = start(1 << 20, 1 << 20).await;
    let fields = "ETag: \"abc\"\r\nContent-MD5: x\r\nAccept-Ranges: bytes\r\n";
    for body in [
        r#"{"a": "http://elsewhere.example/", "links": [], "b": "10.0.0.0/8"}"#.to_owned(),
        page("elsewhere.example", 300_000),
        page(&service.authority(), 300_000).replacen("\"links\"", "\"metadata\"", 1),
        page(&service.authority(), 100).replacen('{', "[", 1),
    ] {
        let (head, got) = answered(&service, &keyway, &get("GET", "1.1"), &json_answer(fields, &body)).await;
        assert_eq!(String::from_utf8_lossy(&got), body);
        for (name, value) in [("etag", "\"abc\""), ("content-md5", "x"), ("accept-ranges", "bytes")] {
            assert_eq!(field(&head, name), Some(value), "{head}");
        }
        assert_eq!(field(&head, "content-length"), Some(body.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_head_tells_nothing_that_get_would_not() {
    let (service, keyway) = start(1000, 1000).await;
    let head_of = async |fields: &str| {
        let mut client = keyway.connect().await;
        client.send(get("HEAD", "1.1")).await;
        let (mut server, _) = service.answer(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await;
        let head = client.head().await;
        // The connection serves the next one.
        client.send(get("HEAD", "1.1")).await;
        server.head().await;
        server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(status(&client.head().await), 204);
        head
    };
    let said = "ETag: \"abc\"\r\nContent-MD5: x\r\n";
    let head = head_of(&format!("Content-Type: application/json\r\nContent-Length: 500\r\n{said}")).await;
    assert_eq!(field(&head, "etag"), Some("W/\"abc\""));
    assert_eq!((field(&head, "content-length"), field(&head, "content-md5")), (None, None), "{head}");
    // A GET would change nothing.
    for fields in [
        "Content-Type: application/json\r\nContent-Length: 1001\r\n",
        "Content-Type: application/octet-stream\r\nContent-Length: 500\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n",
    ] {
        let head = head_of(&format!("{fields}{said}")).await;
        assert_eq!((field(&head, "etag"), field(&head, "content-md5")), (Some("\"abc\""), Some("x")));
        let length = if fields.contains("1001") { "1001" } else { "500" };
        assert_eq!(field(&head, "content-length"), Some(length));
    }
    let asked = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: W/\"abc\"\r\n\r\n";
    let mut client = keyway.connect().await;
    client.send(asked).await;
    let answer = format!("HTTP/1.1 304 Not Modified\r\n{said}\r\n");
    let (_server, request) = service.answer(answer).await;
    assert_eq!(field(&request, "if-none-match"), Some("W/\"abc\""));
    let head = client.head().await;
    assert_eq!(
        (status(&head), field(&head, "etag"), field(&head, "content-md5")),
        (304, Some("W/\"abc\""), None)
    );
}

#[tokio::test]
async fn parts_and_encoded_bodies_and_other_types_pass_untouched() {
    let (service, keyway) = start(1 << 20, 1 << 20).await;
    let page = page(&service.authority(), 100);
    let length = page.len();
    for head in [
        "206 Partial Content\r\nContent-Type: application/json\r\nContent-Range: bytes 0-1/2",
        "200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip",
        "200 OK\r\nContent-Type: text/plain",
        "200 OK\r\nContent-Type: application/json; charset=utf-16",
        "200 OK\r\nX-No-Type: 1",
    ] {
        let answer = format!("HTTP/1.1 {head}\r\nETag: \"a\"\r\nContent-Length: {length}\r\n\r\n{page}");
        let asked = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-1\r\n\r\n";
        let (head, body) = answered(&service, &keyway, asked, &answer).await;
        assert_eq!(
            (String::from_utf8_lossy(&body).as_ref(), field(&head, "etag")),
            (page.as_str(), Some("\"a\""))
        );
    }
    // What lies in the object store is somebody's, whatever its type.
    let service = Upstream::start().await;
    let cloud = cloud().await;
    point(&cloud, "object-store", &service.url());
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let mut client = Peer::connect(keyway.listen()).await;
    client.send("GET /object-store/c/o HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let page = self::page(&service.authority(), 100);
    let _server = service.answer(json_answer("", &page)).await;
    assert_eq!(String::from_utf8_lossy(&client.response().await.1), page);
}

// Promise 54.
#[tokio::test]
async fn what_is_too_large_streams_by_from_its_first_byte() {
    let (service, keyway) = start(1000, 1000).await;
    let page = page(&service.authority(), 5000);
    let mut client = keyway.connect().await;
    client.send(get("GET", "1.1")).await;
    let answer = json_answer("ETag: \"a\"\r\n", &page);
    let first = answer.len() - page.len() + 10;
    let (mut server, _) = service.answer(&answer[..first]).await;
    let head = client.head().await;
    assert_eq!(
        (field(&head, "etag"), field(&head, "content-length")),
        (Some("\"a\""), Some(page.len().to_string().as_str()))
    );
    assert_eq!(client.take(10).await, page.as_bytes()[..10]);
    server.send(&answer[first..]).await;
    assert_eq!(client.take(page.len() - 10).await, page.as_bytes()[10..]);

    // Without a length it is known once it comes.
    let mut client = keyway.connect().await;
    client.send(get("GET", "1.1")).await;
    server.head().await;
    server.send(chunked_answer("ETag: \"a\"\r\n", &[&page[..600], &page[600..1100]])).await;
    let head = client.head().await;
    assert_eq!((field(&head, "etag"), field(&head, "transfer-encoding")), (Some("\"a\""), Some("chunked")));
    let mut got = Vec::new();
    while got.len() < 1100 {
        let line = String::from_utf8(client.until("\r\n").await).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).expect("a size");
        got.extend(client.take(size).await);
        client.take(2).await;
    }
    assert_eq!(got, page.as_bytes()[..1100]);
    server.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", page.len() - 1100, &page[1100..])).await;
    assert_eq!(client.chunked().await.0, page.as_bytes()[1100..]);
    let metrics = keyway.metrics();
    assert!(metrics.contains("keyway_links_unmapped_total{reason=\"size\"} 2"), "{metrics}");
}

#[tokio::test]
async fn at_the_limit_a_body_is_held_and_one_past_it_is_not() {
    let (service, keyway) = start(1000, 1000).await;
    let exact = page(&service.authority(), 1000);
    let exact = exact.replacen("xx", &"x".repeat(2 + 1000 - exact.len()), 1);
    assert_eq!(exact.len(), 1000);
    let longer = exact.replacen("xx", "xxx", 1);
    for (page, is_mapped) in [(&exact, true), (&longer, false)] {
        for answer in [json_answer("", page), chunked_answer("", &[&page[..500], &page[500..], ""])] {
            let (_, body) = answered(&service, &keyway, &get("GET", "1.1"), &answer).await;
            let expected = if is_mapped { mapped(page, &service) } else { page.clone() };
            assert_eq!(String::from_utf8_lossy(&body), expected);
        }
    }
}

#[tokio::test]
async fn all_bodies_that_are_held_have_one_bound() {
    let (service, keyway) = start(4000, 4000).await;
    let page = page(&service.authority(), 3900);
    let answer = json_answer("Connection: close\r\n", &page);
    let most = answer.len() - 1000;
    let mut slow = Vec::new();
    // There is room for two of the largest, since one that is mapped may be there twice.
    for _ in 0..2 {
        let mut client = keyway.connect().await;
        client.send(get("GET", "1.1")).await;
        let (server, _) = service.answer(&answer[..most]).await;
        slow.push((client, server));
    }
    // The next one gets no room once they are there, and is none the worse for it but for its links.
    let once = chunked_answer("Connection: close\r\n", &[&page, ""]);
    let metric = "keyway_links_unmapped_total{reason=\"memory\"} ";
    let mut unmapped = false;
    for _ in 0..1000 {
        let (_, body) = answered(&service, &keyway, &get("GET", "1.1"), &once).await;
        unmapped = body == page.as_bytes();
        if unmapped {
            break;
        }
    }
    assert!(unmapped && keyway.metrics().contains(metric), "{}", keyway.metrics());
    for (mut client, mut server) in slow {
        server.send(&answer[most..]).await;
        drop(server);
        let (head, body) = client.response().await;
        assert_eq!(field(&head, "content-length"), Some(body.len().to_string().as_str()));
    }
    // And there is room again.
    for _ in 0..3 {
        let (_, body) = answered(&service, &keyway, &get("GET", "1.1"), &once).await;
        assert_eq!(String::from_utf8_lossy(&body), mapped(&page, &service));
    }
}

// Promise 44.
#[tokio::test]
async fn a_body_that_breaks_off_is_never_a_whole_one() {
    let (service, keyway) = start(1 << 20, 1 << 20).await;
    let page = page(&service.authority(), 3000);
    let whole = json_answer("ETag: \"a\"\r\n", &page);
    let chunked = chunked_answer("ETag: \"a\"\r\n", &[&page]);
    for (answer, cut) in [(&whole, 500), (&whole, 1), (&chunked, 500), (&chunked, 2)] {
        let mut client = keyway.connect().await;
        client.send(get("GET", "1.1")).await;
        let (server, _) = service.answer(&answer[..answer.len() - cut]).await;
        drop(server);
        let head = client.head().await;
        assert_eq!((status(&head), field(&head, "etag")), (200, Some("\"a\"")));
        let rest = String::from_utf8(client.rest().await).unwrap();
        match field(&head, "content-length") {
            Some(length) => {
                assert_eq!(length, page.len().to_string());
                assert_eq!(rest, page[..page.len() - cut]);
            }
            None => assert!(!rest.ends_with("0\r\n\r\n") && !rest.is_empty(), "{rest}"),
        }
    }
    assert_eq!(keyway.errors("upstream_broken"), 4);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_what_is_held_for_it() {
    let (service, keyway) = start(1 << 20, 1 << 20).await;
    let mut client = keyway.connect().await;
    client.send(get("GET", "1.1")).await;
    let answer = json_answer("", &page(&service.authority(), 3000));
    let (mut server, _) = service.answer(&answer[..1000]).await;
    client.reset();
    assert_eq!(server.rest().await, b"");
}

#[tokio::test]
async fn fields_that_refer_to_several_things_are_mapped_one_by_one() {
    let (service, keyway) = start(0, 0).await;
    let authority = service.authority();
    let fields = format!(
        "Link: <http://{authority}/v1/a?page=2>; rel=\"next\"; title=\"a, <http://{authority}/v1/b>\", <http://other.example/>; rel=up\r\nLink: </v1/c>; rel=prev\r\nContent-Location: http://{authority}/v1/d\r\n"
    );
    let page = page(&authority, 100);
    let (head, body) = answered(&service, &keyway, &get("GET", "1.1"), &json_answer(&fields, &page)).await;
    // With no room for bodies, these stay as they are.
    assert_eq!(String::from_utf8_lossy(&body), page);
    let links: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("link: ")).collect();
    let expected = format!(
        "<http://localhost/svc/a?page=2>; rel=\"next\"; title=\"a, <http://{authority}/v1/b>\", <http://other.example/>; rel=up"
    );
    assert_eq!(links, [expected.as_str(), "<http://localhost/svc/c>; rel=prev"]);
    assert_eq!(field(&head, "content-location"), Some("http://localhost/svc/d"));
}

#[tokio::test]
async fn a_service_over_http_2_and_a_client_over_it_get_the_same() {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    let expected: Answer = keyway.get("/compute/flavors/detail").await;
    assert!(expected.text().contains(&format!("http://{}/compute/flavors/1", keyway.listen())));
    let stream = tokio::net::TcpStream::connect(keyway.listen()).await.expect("keyway listens");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let uri = format!("http://{}/compute/flavors/detail", keyway.listen());
    let asked = http::Request::get(uri).body(()).expect("a request");
    let (answer, _) = sender.send_request(asked, true).expect("a stream");
    let (head, mut body) = answer.await.expect("an answer").into_parts();
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.expect("a whole body");
        body.flow_control().release_capacity(piece.len()).expect("it was taken");
        text.extend_from_slice(&piece);
    }
    assert_eq!(head.headers["content-length"], text.len().to_string());
    assert_eq!(String::from_utf8_lossy(&text), expected.text());
}
