//! What an operator decided about one service, and what services say about their versions.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use keyway::demo::{self, Cloud};
use keyway::keystone::service::Limits;
use keyway::keystone::{self, Interface, Retries, ServiceOptions};
use keyway::upstream::BaseUrl;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::direct::{Keyway, fixed_cloud, point};
use crate::support::faults::{Fault, Line};
use crate::support::raw::{Upstream, status};
use crate::support::{TestKeyway, answering, cloud, eventually, request, statuses, targets};

/// keyway for a cloud with these options of one service.
async fn with(cloud: &Cloud, service: &str, options: ServiceOptions) -> TestKeyway {
    TestKeyway::for_cloud(cloud, |config| {
        config.services.insert(service.to_owned(), options);
    })
    .await
}

fn override_with(config: &mut keystone::Config, service: &str, url: &str) {
    let url = BaseUrl::parse(url).expect("the test writes a URL");
    config.endpoint_overrides.insert(service.to_owned(), url);
}

fn version(version: u32) -> ServiceOptions {
    ServiceOptions { api_version: Some(version), ..ServiceOptions::default() }
}

/// What a service saw of a field, by request.
fn seen(cloud: &Cloud, service: &str, name: &str) -> Vec<Vec<String>> {
    let values = |headers: &http::HeaderMap| {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    cloud.requests(service).iter().map(|seen| values(&seen.headers)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn region_interface_type_and_name_of_a_service_choose_its_endpoint() {
    let cloud = cloud().await;
    let image = cloud.url("image");
    let endpoint = |interface: &str, region: &str, path: &str| json!({"interface": interface, "region_id": region, "url": format!("{image}{path}")});
    cloud.set_catalog(json!([
        {"type": "compute", "name": "nova", "endpoints": [
            endpoint("public", "RegionOne", "/one/v2"), endpoint("public", "RegionTwo", "/two/v2"),
            endpoint("internal", "RegionOne", "/inside/v2")]},
        {"type": "compute", "name": "nova2", "endpoints": [endpoint("public", "RegionOne", "/named/v2")]},
        {"type": "compute_legacy", "endpoints": [endpoint("public", "RegionOne", "/legacy/v2")]},
    ]));
    let text = |text: &str| Some(text.to_owned());
    for (options, target) in [
        (ServiceOptions::default(), "/one/v2/servers"),
        (ServiceOptions { region: text("RegionTwo"), ..Default::default() }, "/two/v2/servers"),
        (
            ServiceOptions { interfaces: vec![Interface::Admin, Interface::Internal], ..Default::default() },
            "/inside/v2/servers",
        ),
        (ServiceOptions { service_name: text("nova2"), ..Default::default() }, "/named/v2/servers"),
        (ServiceOptions { service_type: text("compute_legacy"), ..Default::default() }, "/legacy/v2/servers"),
    ] {
        let keyway = with(&cloud, "compute", options).await;
        keyway.get("/compute/servers").await;
        assert_eq!(targets(&cloud, "image").pop().as_deref(), Some(target));
        // Who asks for a region gets that one.
        if target.starts_with("/two") {
            keyway.get("/region/RegionOne/compute/servers").await;
            assert_eq!(targets(&cloud, "image").pop().as_deref(), Some("/one/v2/servers"));
        }
    }
    let wrong = ServiceOptions { service_name: text("nova3"), ..Default::default() };
    let message =
        with(&cloud, "compute", wrong).await.get("/compute/servers").await.message(502, "no_endpoint");
    assert!(message.contains("with the name `nova3`; it has nova, nova2"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_needs_no_entry_in_the_catalog() {
    let cloud = cloud().await;
    cloud.set_catalog(json!([{"type": "compute", "endpoints": [
        {"interface": "public", "region_id": "RegionOne", "url": cloud.url("compute")}]}]));
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        override_with(config, "metric", &format!("{}/v2", cloud.url("image")));
    })
    .await;
    keyway.get("/metric/images").await.passed_on(200);
    let listed = keyway.status().await["clouds"][0]["services"].to_string();
    assert!(listed.contains(r#""type":"metric""#), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_has_the_id_of_the_project_that_the_request_is_for() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let own = cloud.url("object-store");
        let url = own.replace(demo::PROJECT_ID, "%(project_id)s");
        assert_ne!(own, url);
        override_with(config, "object-store", &url);
        override_with(config, "metric", &format!("{}/v2/%(user_id)s", cloud.url("image")));
    })
    .await;
    keyway.get("/object-store/c").await;
    keyway.get("/project/other/object-store/c").await;
    keyway.get("/metric/images").await;
    let own = |project: &str| format!("/v1/AUTH_{project}/c");
    assert_eq!(targets(&cloud, "object-store"), [own(demo::PROJECT_ID), own(demo::OTHER_PROJECT_ID)]);
    assert_eq!(targets(&cloud, "image"), [format!("/v2/{}/images", demo::USER_ID)]);
    let listed = keyway.status().await["clouds"][0]["services"].to_string();
    assert!(listed.contains(demo::PROJECT_ID) && !listed.contains("%("), "{listed}");

    // What clients of keyway's own Keystone see is that too.
    let login = json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": "x",
        "domain": {"id": "default"}, "password": "y"}}}}});
    let answer = keyway.post("/identity/v3/auth/tokens", &login).await;
    assert_eq!(answer.status, 201);
    assert!(answer.text().contains(&format!("/AUTH_{}", demo::PROJECT_ID)), "{}", answer.text());
    assert!(!answer.text().contains("%("), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_wants_a_project_is_of_no_use_without_one() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let keystone::Auth::Identity(identity) = &mut config.auth else { unreachable!() };
        identity.scope = keystone::Scope::Domain(keystone::Domain::Id(demo::DOMAIN_ID.to_owned()));
        override_with(config, "object-store", &format!("{}/%(project_id)s", cloud.url("object-store")));
    })
    .await;
    let message = keyway.get("/object-store/c").await.message(502, "no_endpoint");
    assert!(message.contains("`object_store_endpoint_override` wants a project_id"), "{message}");
    keyway.get("/image/images").await;
    assert_eq!((targets(&cloud, "object-store").len(), targets(&cloud, "image").is_empty()), (0, false));
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_clouds_own_timeout_takes_the_place_of_that_for_all() {
    let cloud = cloud().await;
    let keyway =
        TestKeyway::for_cloud(&cloud, |config| config.api_timeout = Some(Duration::from_millis(300))).await;
    let service = Upstream::start().await;
    point(&cloud, "compute", &service.url());
    cloud.revoke_all();
    keyway.get("/image/images").await.passed_on(200);
    let silent = tokio::spawn(async move {
        let mut connection = service.accept().await;
        connection.head().await;
        connection.closed().await;
    });
    keyway.get("/compute/servers").await.message(504, "upstream_timeout");
    silent.await.expect("the connection is over");
}

// Promise 62.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_requests_are_under_way_at_a_service_than_it_may_have() {
    let service = Upstream::start().await;
    let mut config = fixed_cloud(&service.url());
    config.limits.concurrency = Some(2);
    let keyway = Keyway::start(config);
    let mut clients = Vec::new();
    for n in 0..6 {
        let mut client = keyway.connect().await;
        client.send(format!("GET /svc/{n} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        clients.push(client);
    }
    for _ in 0..3 {
        let mut two = [service.accept().await, service.accept().await];
        assert!(!service.has_connection().await, "two are under way");
        for connection in &mut two {
            connection.head().await;
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
        }
    }
    for client in &mut clients {
        let (head, _) = client.response().await;
        assert_eq!(status(&head), 200, "{head}");
    }
}

// Promise 62.
#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_the_pace_and_hear_where_that_would_take_too_long() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        config.limits.pace = Some(Duration::from_millis(20));
        let slow = Limits { pace: Some(Duration::from_secs(1000)), concurrency: None };
        config.services.insert("image".to_owned(), ServiceOptions { limits: slow, ..Default::default() });
    })
    .await;
    assert_eq!(keyway.get_at_once(50, "/compute/servers").await, [200; 50], "everyone has a turn");
    keyway.get("/image/images").await.passed_on(200);
    let answer = keyway.get("/image/images").await;
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!(wait > 60, "{wait}");
    let message = answer.message(503, "service_limit");
    assert!(message.contains("`rate_limit` or `concurrency`"), "{message}");
    assert!(keyway.metric(r#"keyway_errors_total{reason="service_limit"}"#).await >= 1.0);
    let asked = targets(&cloud, "image");
    assert_eq!(asked.iter().filter(|target| *target == "/v2/images").count(), 1, "{asked:?}");
    keyway.get("/compute/servers").await.passed_on(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_microversion_goes_with_requests_that_name_none() {
    let cloud = cloud().await;
    let options = ServiceOptions { microversion: Some("2.79".to_owned()), ..Default::default() };
    let keyway = with(&cloud, "compute", options).await;
    keyway.get("/compute/servers").await.passed_on(200);
    keyway.post("/compute/servers", &json!({"server": {}})).await;
    for (name, value) in [("OpenStack-API-Version", "compute 2.1"), ("X-OpenStack-Nova-API-Version", "2.1")] {
        keyway.get_with("/compute/servers", &[(name, value)]).await.passed_on(200);
    }
    keyway.get("/image/images").await.passed_on(200);
    let both = |text: &str| vec![text.to_owned()];
    let (none, one) = (Vec::new(), both("2.1"));
    assert_eq!(
        seen(&cloud, "compute", "openstack-api-version"),
        [both("compute 2.79"), both("compute 2.79"), both("compute 2.1"), none.clone()]
    );
    assert_eq!(
        seen(&cloud, "compute", "x-openstack-nova-api-version"),
        [both("2.79"), both("2.79"), none.clone(), one]
    );
    assert!(seen(&cloud, "image", "openstack-api-version").iter().all(|values| *values == none));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_version_takes_the_place_of_the_catalogs() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        override_with(config, "image", &format!("{}/v1", cloud.url("image")));
        config.services.insert("image".to_owned(), version(2));
    })
    .await;
    for _ in 0..3 {
        keyway.get("/image/images").await.passed_on(200);
    }
    keyway.get("/image/v2/images").await.passed_on(200);
    // What a client writes counts.
    keyway.get("/image/v1/images").await;
    let expected = ["/", "/v2/images", "/v2/images", "/v2/images", "/v2/images", "/v1/images"];
    assert_eq!(targets(&cloud, "image"), expected, "the service is asked once");
    assert!(seen(&cloud, "image", "x-auth-token")[0].is_empty(), "and without the token");
}

// Promise 17.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_document_behind_a_redirect_is_found_at_the_same_host_only() {
    for (elsewhere, expected) in [(false, "/v2/images"), (true, "/images")] {
        let cloud = cloud().await;
        let (line, other) = (Line::to(&cloud.url("image")).await, Line::to(&cloud.url("image")).await);
        let location = if elsewhere { other.url("/v2/") } else { "/v2/".to_owned() };
        let document = json!({"versions": [{"id": "v2.17", "status": "CURRENT",
            "links": [{"rel": "self", "href": "http://wrong.example/v2/"}]}]});
        let redirect = Fault::instead("302 Found", &format!("Location: {location}\r\n"), "");
        let document = Fault::instead("200 OK", "", &document.to_string());
        line.script(move |_, target| match target {
            "/" => redirect.clone(),
            "/v2/" => document.clone(),
            _ => Fault::None,
        });
        let keyway =
            TestKeyway::for_cloud(&cloud, |config| override_with(config, "image", &line.url(""))).await;
        keyway.get("/image/images").await;
        let targets: Vec<_> = line.passed().into_iter().map(|passed| passed.target).collect();
        let asked: &[&str] = if elsewhere { &["/"] } else { &["/", "/v2/"] };
        assert_eq!(targets, [asked, &[expected][..]].concat());
        assert!(other.passed().is_empty(), "nobody follows it there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_version_that_the_catalog_has_costs_no_question() {
    let cloud = cloud().await;
    let keyway = with(&cloud, "compute", version(2)).await;
    keyway.get("/compute/servers").await.passed_on(200);
    assert_eq!(targets(&cloud, "compute"), ["/v2.1/servers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_version_that_the_service_lacks_is_answered_with_those_that_it_has() {
    let cloud = cloud().await;
    let keyway = with(&cloud, "image", version(3)).await;
    let message = keyway.get("/image/images").await.message(502, "no_endpoint");
    assert!(message.contains("`image` offers no version 3; it offers 2.16, 2.17, 2.0"), "{message}");
    assert!(message.contains("`image_api_version`"), "{message}");
    keyway.get("/image/v2/images").await.passed_on(200);
    assert_eq!(targets(&cloud, "image"), ["/", "/v2/images"]);
}

// Promises 17, 18.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_or_redirect_leads_to_no_other_host() {
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = trap.local_addr().unwrap();
    let elsewhere = format!("http://{address}/v7/");
    let document = json!({"versions": [{"id": "v7.0", "status": "CURRENT",
        "links": [{"rel": "self", "href": elsewhere}, {"rel": "collection", "href": elsewhere}]}]});
    let location: &[(&'static str, &str)] = &[("location", &elsewhere)];
    for (status, headers, body, target) in [
        (200, &[][..], document.to_string(), "/v7/images"),
        (300, &[][..], document.to_string(), "/v7/images"),
        (302, location, document.to_string(), "/images"),
        (200, &[][..], "<html><a href='/v7/'>v7</a>".to_owned(), "/images"),
        (200, &[][..], json!([{"name": "v7"}]).to_string(), "/images"),
    ] {
        let cloud = cloud().await;
        cloud.set_trouble("image", answering(status, headers, &body));
        let keyway = TestKeyway::in_front_of(&cloud).await;
        keyway.get("/image/images").await;
        assert_eq!(targets(&cloud, "image"), ["/", target], "{status} {body}");
        assert!(seen(&cloud, "image", "x-auth-token")[0].is_empty());
    }
    assert!(trap.accept().is_err(), "somebody came");
}

fn retrying(retries: Retries) -> ServiceOptions {
    ServiceOptions { retries, ..ServiceOptions::default() }
}

const SOON: Option<Duration> = Some(Duration::from_millis(20));

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_come_about_is_tried_again_as_often_as_configured() {
    let cloud = cloud().await;
    // A port that is taken, and where nobody listens yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let start = async |times: u32| {
        TestKeyway::for_cloud(&cloud, |config| {
            override_with(config, "image", &format!("http://{address}/v2"));
            let retries = Retries { connect: Some(times), connect_delay: SOON, ..Retries::default() };
            config.services.insert("image".to_owned(), retrying(retries));
        })
        .await
    };
    const TRIED: &str = "keyway_retries_total{cloud=\"demo\",result=\"connect\",service=\"image\"}";
    let keyway = start(3).await;
    keyway.post("/image/images", &json!({"name": "x"})).await.message(502, "upstream_connect");
    assert_eq!(keyway.metric(TRIED).await, 3.0);

    // As soon as the service is there, a request that waits gets to it, once.
    let keyway = start(100).await;
    let body = json!({"name": "x", "disk_format": "raw", "container_format": "bare"});
    let (created, line) = tokio::join!(keyway.post("/image/images", &body), async {
        eventually("a second attempt", async || (keyway.metric(TRIED).await >= 1.0).then_some(())).await;
        Line::behind(socket.listen(16).unwrap(), &cloud.url("image"))
    });
    created.passed_on(201);
    assert_eq!(line.passed().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_later_is_asked_for_again_as_often_as_configured() {
    let cloud = cloud().await;
    let line = Line::to(&cloud.url("image")).await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        override_with(config, "image", &line.url("/v2"));
        let retries = Retries { status: Some(2), status_delay: SOON, ..Retries::default() };
        config.services.insert("image".to_owned(), retrying(retries));
    })
    .await;
    let busy = || Fault::instead("503 Service Unavailable", "", "busy");
    let late = || Fault::instead("429 Too Many Requests", "Retry-After: 0\r\n", "busy");

    line.next([busy(), late()]);
    keyway.get("/image/images").await.passed_on(200);
    line.next([busy(), busy()]);
    let body = json!({"name": "x", "disk_format": "raw", "container_format": "bare"});
    keyway.post("/image/images", &body).await.passed_on(201);
    assert_eq!(statuses(&cloud, "image"), [200, 201], "each reached the service once");

    // Then the answer is the service's word, and so is any other status.
    line.next([busy(), busy(), busy()]);
    let answer = keyway.get("/image/images").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    line.next([Fault::instead("500 Internal Server Error", "", "broken")]);
    assert_eq!(keyway.get("/image/images").await.status, 500);
    assert_eq!(line.passed().len(), 3 + 3 + 3 + 1);
    let retried =
        keyway.metric("keyway_retries_total{cloud=\"demo\",result=\"status\",service=\"image\"}").await;
    assert_eq!(retried, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_gone_is_not_sent_again() {
    let cloud = cloud().await;
    let line = Line::to(&cloud.url("image")).await;
    let mut config = cloud.keystone_config();
    override_with(&mut config, "image", &line.url("/v2"));
    config.retries = Retries { status: Some(5), status_delay: SOON, ..Retries::default() };
    let keyway = TestKeyway::cold(vec![config], |config| config.limits.replay_buffer = 1024);
    keyway.logged_in().await;
    line.always(Fault::instead("503 Service Unavailable", "", "busy"));
    let upload = request(Method::PUT, "/image/images/1/file", &[], Bytes::from(vec![b'x'; 100_000]));
    assert_eq!(keyway.send(upload).await.status, 503);
    assert_eq!(line.passed().len(), 1);
    let small = request(Method::PUT, "/image/images/1/file", &[], "x");
    assert_eq!(keyway.send(small).await.status, 503);
    assert_eq!(line.passed().len(), 1 + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_again_where_nothing_is_configured() {
    let cloud = cloud().await;
    let line = Line::to(&cloud.url("image")).await;
    let keyway =
        TestKeyway::for_cloud(&cloud, |config| override_with(config, "image", &line.url("/v2"))).await;
    line.always(Fault::instead("503 Service Unavailable", "Retry-After: 0\r\n", "busy"));
    assert_eq!(keyway.get("/image/images").await.status, 503);
    assert_eq!(line.passed().len(), 1);
}
