//! Services by host name, by a listener of their own, and every place of the catalog by its origin.

use std::collections::BTreeMap;

use http::Method;
use keyway::app::{self, App, StartError};
use keyway::commands;
use keyway::config::{Config, Env, Listener, Overrides};
use keyway::demo::{Cloud, OTHER_PROJECT_ID, PROJECT_ID};
use keyway::policy::{Effect, Policy, Rule};
use keyway::proxy::{BodyLimits, origins};
use keyway::server::Address;
use keyway::upstream::BaseUrl;
use serde_json::json;
use tokio::runtime::Handle;

use crate::support::raw::Recorder;
use crate::support::{Answer, Connection, TestKeyway, bounded, cloud, request, targets};

async fn start() -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    (cloud, keyway)
}

/// The origin of a URL, as it stands in a path.
fn id(url: &str) -> String {
    origins::id(BaseUrl::parse(url).expect(url).origin())
}

fn fill(path: &str) -> String {
    path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID)
}

/// A catalog in which these services are at one host, all but the object store below paths of their own.
fn one_host(cloud: &Cloud, service: &Recorder, services: &[&str]) {
    let origin = service.url().replace("/v1", "");
    let entry = |service: &str, path: &str| {
        let url = format!("{origin}{}", fill(path));
        json!({"type": service, "name": service, "endpoints": [
            {"id": service, "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": url}]})
    };
    let all = [
        ("compute", "/compute/v2.1"),
        ("volumev2", "/volume/v2/{p}"),
        ("block-storage", "/volume/v3/{p}"),
        ("image", "/image"),
        ("object-store", "/v1/AUTH_{p}"),
    ];
    let entries = services.iter().map(|name| {
        let (name, path) = all.iter().find(|(known, _)| known == name).expect("it is one of them");
        entry(name, path)
    });
    cloud.set_catalog(entries.collect());
}

/// Request lines and tokens, in the order in which they came on each connection.
fn seen(service: &Recorder) -> Vec<String> {
    let connections = service.connections();
    let texts = connections.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    texts
        .flat_map(|text| {
            let lines = text.lines().map(str::to_owned).collect::<Vec<_>>();
            lines.into_iter().filter_map(|line| Some(line.strip_suffix(" HTTP/1.1")?.to_owned()))
        })
        .collect()
}

impl TestKeyway {
    async fn at(&self, host: &str, path: &str) -> Answer {
        self.get_with(path, &[("host", host)]).await
    }

    /// A connection to the listener of this place in the configuration.
    async fn nth(&self, index: usize) -> Connection {
        let address = self.app().addresses().nth(index).and_then(Address::tcp);
        Connection::open(address.expect("an IP address")).await
    }
}

fn listener(name: &str, pinned: Option<&str>) -> Listener {
    let address: Address = "127.0.0.1:0".parse().expect("an address");
    Listener { pinned: pinned.map(str::to_owned), ..Listener::at(name, address) }
}

// Promise 42.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_goes_to_its_origin_byte_for_byte() {
    let (cloud, keyway) = start().await;
    for (service, paths) in [
        (
            "compute",
            &[
                "/v2.1/servers",
                "/v2.1/{p}/servers",
                "/v2/servers",
                "/servers/1",
                "/",
                "/v2.1",
                "/v2.1/",
                "//v2.1//servers/",
                "/v2.1/a%2Fb;c=d,e@f:g!%7e~",
                "/v2.1/servers?limit=1&x=%2f&&../y",
                "/v2.1/servers?",
                "/?x",
            ][..],
        ),
        ("image", &["/v2/images", "/images", "/"]),
        ("object-store", &["/v1/AUTH_{p}/box", "/v1/AUTH_{o}/box/a//b%20c", "/info"]),
        ("volumev3", &["/v3/{p}/volumes", "/v3/{o}/volumes", "/v3/volumes", "/"]),
        ("identity", &["/v3/auth/projects", "/v2.0/tenants", "/v3"]),
    ] {
        let id = id(&cloud.url(service));
        for path in paths {
            let path = fill(path);
            let answer = keyway.get(&format!("/origin/{id}{path}")).await;
            assert_eq!(answer.header("x-keyway-error"), "", "{path}: {answer:?}");
            assert_eq!(targets(&cloud, service).last(), Some(&path), "{service}");
        }
    }
    // Without any path it is the top, as with any URL.
    let compute = id(&cloud.url("compute"));
    keyway.get(&format!("/origin/{compute}")).await;
    keyway.get(&format!("/origin/{compute}?x")).await;
    assert_eq!(targets(&cloud, "compute")[12..], ["/", "/?x"]);
    let asked = targets(&cloud, "image");
    assert_eq!(asked, ["/v2/images", "/images", "/"], "nobody asks which version it has");
    assert_eq!(cloud.token_requests(), 1);
    // It counts as what it is.
    let sample = |service: &str| {
        format!(r#"keyway_requests_total{{cloud="demo",code="200",method="GET",service="{service}"}}"#)
    };
    assert_eq!(keyway.metric(&sample("image")).await, 1.0);
    assert!(keyway.metric(&sample("compute")).await >= 4.0);
    assert_eq!(keyway.metric(&sample("none")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_goes_with_a_cloud_and_a_project_and_has_its_region() {
    let (cloud, keyway) = start().await;
    let [one, two] = ["compute", "RegionTwo/compute"].map(|service| id(&cloud.url(service)));
    assert!(two.starts_with("http-localhost-"), "{two}");
    let names = |answer: Answer| {
        let servers = answer.json()["servers"].as_array().expect("a list").clone();
        servers.iter().map(|server| server["name"].clone()).collect::<Vec<_>>()
    };
    let own = names(keyway.get(&format!("/origin/{one}/v2.1/servers")).await);
    let other = names(keyway.get(&format!("/project/other/origin/{one}/v2.1/servers")).await);
    assert_ne!(own, other);
    assert_eq!(other, names(keyway.get("/project/other/compute/servers").await));
    assert_eq!(own, names(keyway.get(&format!("/cloud/demo/origin/{one}/v2.1/servers")).await));
    // The other region, and both names of its host.
    let elsewhere = names(keyway.get(&format!("/origin/{two}/v2.1/{PROJECT_ID}/servers")).await);
    assert_eq!(elsewhere, names(keyway.get("/region/RegionTwo/compute/servers").await));
    let internal = two.replace("localhost", "127.0.0.1");
    keyway.get(&format!("/origin/{internal}/v2.1/{PROJECT_ID}/servers")).await.passed_on(200);
    let hosts: Vec<_> =
        cloud.requests("RegionTwo/compute").iter().map(|s| s.headers["host"].clone()).collect();
    assert!(
        hosts[0].to_str().unwrap().starts_with("localhost:")
            && hosts[2].to_str().unwrap().starts_with("127.")
    );

    let message =
        keyway.get(&format!("/region/RegionTwo/origin/{two}/v2.1")).await.message(400, "bad_request");
    assert!(message.contains("leave `/region/"), "{message}");
    let message = keyway.get(&format!("/cloud/lab/origin/{one}/")).await.message(404, "unknown_cloud");
    assert_eq!(message, "there is no such cloud; there are: demo");
    for path in ["/origin", "/origin/", "/origin//v2.1", "/cloud/demo/origin"] {
        let message = keyway.get(path).await.message(404, "no_route");
        assert!(message.contains("/origin/http-HOST-PORT/"), "{message}");
    }
}

// Promises 17, 19.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_catalog_and_configuration_is_ever_reached() {
    let (cloud, keyway) = start().await;
    let elsewhere = Recorder::start().await;
    let stranger = id(&elsewhere.url());
    let port = stranger.rsplit('-').next().unwrap();
    let known = id(&cloud.url("compute"));
    let compute_port = known.rsplit('-').next().unwrap();
    let mut ids: Vec<String> = [
        stranger.clone(),
        format!("http-localhost-{port}"),
        format!("{stranger}%40{known}"),
        format!("{known}%40{stranger}"),
        format!("{known}@{stranger}"),
        format!("http-{known}"),
        format!("https-127.0.0.1-{compute_port}"),
        format!("http-127.0.0.1-0{compute_port}"),
        format!("http-127.0.0.1:{compute_port}"),
        format!("http:127.0.0.1-{port}"),
        format!("http%3A%2F%2F127.0.0.1:{port}"),
        format!("HTTP-127.0.0.1-{compute_port}"),
        format!("http-127.1-{compute_port}"),
        format!("http-0.0.0.0-{compute_port}"),
        format!("http-2130706433-{compute_port}"),
        format!("http-..1-{compute_port}"),
        format!("{known}%20"),
        format!("{known}%00").replace("%00", "%01"),
        format!("{known};x"),
        format!("{known}-"),
        "http-127.0.0.1".to_owned(),
        "127.0.0.1".to_owned(),
        "*".to_owned(),
        "compute".to_owned(),
    ]
    .into();
    ids.push(id("http://169.254.169.254"));
    ids.push(id(&format!("http://{}", keyway.admin())));
    ids.push(id(&format!("http://{}", keyway.listen())));
    for id in ids {
        for path in ["", "/", "/v1/a", "/v2.1/servers"] {
            for form in ["", "/cloud/demo", "/project/demo"] {
                let answer = keyway.get(&format!("{form}/origin/{id}{path}")).await;
                let reason = answer.header("x-keyway-error").to_owned();
                match reason.as_str() {
                    "no_origin" => assert_eq!(answer.status, 404),
                    "bad_request" => assert_eq!(answer.status, 400),
                    other => panic!("{id}: {other}: {answer:?}"),
                }
            }
        }
    }
    let message = keyway.get(&format!("/origin/{stranger}/v1/a")).await.message(404, "no_origin");
    assert!(message.ends_with("compute, identity, image, network, object-store, orchestration"), "{message}");
    assert!(elsewhere.connections().is_empty());
    assert!(cloud.requests("compute").is_empty());
    // Other bytes for the same id.
    let spelled = known.replace('.', "%2E");
    keyway.get(&format!("/origin/{spelled}/v2.1/servers")).await.passed_on(200);
}

// Promises 17, 40, 41.
#[tokio::test(flavor = "multi_thread")]
async fn at_one_host_a_path_belongs_to_the_service_below_whose_root_it_is() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    // Without the object store, whose root is the host's top and has everything.
    one_host(&cloud, &service, &["compute", "volumev2", "block-storage", "image"]);
    let keyway = TestKeyway::with(&cloud, |config| {
        let services = BTreeMap::from([("image".to_owned(), 3), ("compute".to_owned(), 5)]);
        config.body_limits = BodyLimits { default: Some(4), services };
    })
    .await;
    let id = id(&service.url());
    let outside = [
        "",
        "/",
        "/computex",
        "/comput",
        "/%63ompute/v2.1",
        "//compute/v2.1",
        "/v2.1/servers",
        "/identity/v3",
    ];
    for path in outside {
        keyway.get(&format!("/origin/{id}{path}")).await.message(404, "no_origin");
    }
    for path in
        ["/compute/../identity", "/compute/%2e%2e/x", "/compute/..%2fx", "/compute/a%00", "/compute/..;x/y"]
    {
        keyway.get(&format!("/origin/{id}{path}")).await.message(400, "bad_request");
    }
    assert!(service.connections().is_empty());
    let count = async |service: &str| {
        let labels = format!(r#"cloud="demo",code="200",method="GET",service="{service}""#);
        keyway.metric(&format!("keyway_requests_total{{{labels}}}")).await
    };
    let mut paths = Vec::new();
    for (service, path) in [
        ("compute", "/compute/v2.1/servers"),
        ("block-storage", "/volume/v3/{p}/volumes"),
        ("compute", "/compute/servers/1"),
        ("image", "/image/v2/images"),
        ("block-storage", "/volume/"),
        ("image", "/image"),
        ("compute", "/compute"),
    ] {
        let before = count(service).await;
        let path = fill(path);
        assert_eq!(keyway.get(&format!("/origin/{id}{path}")).await.status, 200, "{path}");
        assert_eq!(count(service).await, before + 1.0, "{path}");
        paths.push(format!("GET {path}"));
    }
    let mut seen = seen(&service);
    seen.sort();
    paths.sort();
    assert_eq!(seen, paths);
    // Whose path it is decides on the body, too.
    for (path, length, status) in [
        ("/compute/v2.1/x", 5, 200),
        ("/compute/v2.1/x", 6, 413),
        ("/volume/v3/x", 4, 200),
        ("/volume/v3/x", 5, 413),
        ("/image/x", 3, 200),
        ("/image/x", 4, 413),
    ] {
        let put = keyway.put(&format!("/origin/{id}{path}"), vec![b'x'; length]).await;
        assert_eq!(put.status, status, "{path} {length}");
    }
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn overrides_and_keystone_have_origins_too() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    cloud.set_catalog(json!([{"type": "compute", "name": "nova", "endpoints": [
        {"id": "c", "interface": "admin", "region": "Elsewhere", "region_id": "Elsewhere", "url": cloud.url("compute")}]}]));
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let url = BaseUrl::parse(&service.url()).unwrap();
        config.endpoint_overrides.insert("dns".to_owned(), url);
    })
    .await;
    let of = |url: &str| format!("/origin/{}", id(url));
    assert_eq!(keyway.get(&format!("{}/v2/zones", of(&service.url()))).await.status, 200);
    assert_eq!(seen(&service), ["GET /v2/zones"]);
    // Of whatever region and interface, and not in the catalog at all.
    keyway.get(&format!("{}/v2.1/servers", of(&cloud.url("compute")))).await.passed_on(200);
    keyway.get(&format!("{}/v3/auth/projects", of(&cloud.auth_url()))).await.passed_on(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_replaced_at_an_origin_as_well() {
    let (cloud, keyway) = start().await;
    let path = format!("/origin/{}/v2.1/servers", id(&cloud.url("compute")));
    assert_eq!(keyway.get(&path).await.status, 200);
    cloud.revoke_all();
    assert_eq!(keyway.get_at_once(30, &path).await, [200; 30]);
    assert_eq!(cloud.token_requests(), 2);
    // A place that is gone from the new catalog is gone here.
    let mut catalog = cloud.catalog();
    catalog.as_array_mut().unwrap().retain(|service| service["type"] != "compute");
    cloud.set_catalog(catalog);
    cloud.revoke_all();
    assert_eq!(keyway.get("/block-storage/volumes").await.status, 200);
    keyway.get(&path).await.message(404, "no_origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_stands_for_a_service_at_its_root() {
    let (cloud, keyway) = start().await;
    let port = keyway.listen().port();
    for host in [
        "compute.localhost".to_owned(),
        format!("compute.localhost:{port}"),
        format!("Compute.LocalHost.:{port}"),
        "nova.localhost".to_owned(),
        "COMPUTE.DEMO.localhost".to_owned(),
        format!("compute.demo.localhost.:{port}"),
    ] {
        keyway.at(&host, "/v2.1/servers").await.passed_on(200);
        assert_eq!(targets(&cloud, "compute").last().unwrap(), "/v2.1/servers", "{host}");
    }
    // The path is the service's, whatever it looks like.
    for path in [
        "/",
        "//",
        "/v2",
        "/v2.1/{o}/servers",
        "/cloud/demo/image/images",
        "/origin/x/y",
        "/compute",
        "/a%2Fb?c=",
    ] {
        let path = fill(path);
        let answer = keyway.at("compute.localhost", &path).await;
        assert_eq!(answer.header("x-keyway-error"), "", "{path}");
        assert_eq!(targets(&cloud, "compute").last(), Some(&path));
    }
    keyway.at("compute.localhost", "/v2.1/%2e%2e/x").await.message(400, "bad_request");
    // No version is put in, and nobody is asked for one.
    keyway.at("image.localhost", "/v2/images").await.passed_on(200);
    keyway.at("image.localhost", "/images").await;
    keyway.at("object-store.localhost", &fill("/v1/AUTH_{p}/box")).await.passed_on(404);
    keyway.at("block_storage.localhost", "/v3/volumes").await.passed_on(200);
    assert_eq!(targets(&cloud, "image"), ["/v2/images", "/images"]);
    // localhost alone is what it was.
    keyway.at("localhost", "/compute/servers").await.passed_on(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_name_lists_what_there_is() {
    let (cloud, keyway) = start().await;
    let known = "block-storage, compute, identity, image, network, object-store, orchestration";
    for host in
        ["dns.localhost", "keyway.localhost", "cloud.localhost", "origin.localhost", "comput.localhost"]
    {
        for path in ["/", "/compute/servers", "/v3"] {
            let message = keyway.at(host, path).await.message(404, "no_service");
            assert_eq!(message, format!("the catalog has no such service; it has {known}"));
        }
    }
    for host in ["compute.lab.localhost", "compute.demo.lab.localhost", "a.compute.localhost"] {
        let message = keyway.at(host, "/v2.1/servers").await.message(404, "unknown_cloud");
        assert_eq!(message, "there is no such cloud; there are: demo");
    }
    for host in [
        "compute.localhost.example",
        "compute-localhost",
        "compute.localhost:1",
        ".localhost",
        "a..localhost",
    ] {
        keyway.at(host, "/v2.1/servers").await.message(421, "foreign_host");
    }
    assert!(cloud.requests("compute").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_may_name_the_cloud() {
    let (one, two) = (cloud().await, cloud().await);
    let named = |cloud: &Cloud, name: &str| {
        let mut config = cloud.keystone_config();
        config.name = name.to_owned();
        config
    };
    let keyway = TestKeyway::cold(vec![named(&one, "demo"), named(&two, "Lab.Example")], |_| {});
    keyway.at("compute.localhost", "/v2.1/servers").await.passed_on(200);
    keyway.at("compute.demo.localhost", "/v2.1/servers").await.passed_on(200);
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (2, 0));
    keyway.at("compute.lab.example.localhost", "/v2.1/servers").await.passed_on(200);
    keyway.at("compute.Lab.Example.localhost", "/v2.1/servers").await.passed_on(200);
    keyway.at("lab.example.localhost", "/v2.1/servers").await.message(404, "unknown_cloud");
    let origin = format!("/cloud/Lab.Example/origin/{}/v2.1/servers", id(&two.url("compute")));
    keyway.get(&origin).await.passed_on(200);
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (2, 3));
    // One cloud's places are not the other's.
    let stranger = format!("/origin/{}/v2.1/servers", id(&two.url("compute")));
    keyway.get(&stranger).await.message(404, "no_origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_below_a_path_is_at_its_root_all_the_same() {
    let cloud = cloud().await;
    let service = Recorder::start().await;
    one_host(&cloud, &service, &["compute", "block-storage", "image", "object-store"]);
    let keyway = TestKeyway::with(&cloud, |config| {
        config.listeners.push(listener("volumes", Some("/block-storage")));
    })
    .await;
    for (host, path) in [
        ("compute.localhost", "/v2.1/servers"),
        ("compute.localhost", "/"),
        ("image.localhost", "/v2/images"),
        ("object-store.localhost", "/v1/AUTH_{p}/c"),
        ("object-store.localhost", "/compute/v2.1/servers"),
    ] {
        assert_eq!(keyway.at(host, &fill(path)).await.status, 200, "{path}");
    }
    let mut volumes = keyway.nth(1).await;
    for path in ["/v3/{p}/volumes", "/v2", "/"] {
        assert_eq!(volumes.send(request(Method::GET, &fill(path), &[], "")).await.status, 200, "{path}");
    }
    let mut seen = seen(&service);
    seen.sort();
    let mut expected = [
        "GET /compute/v2.1/servers",
        "GET /compute/",
        "GET /image/v2/images",
        "GET /v1/AUTH_{p}/c",
        "GET /compute/v2.1/servers",
        "GET /volume/v3/{p}/volumes",
        "GET /volume/v2",
        "GET /volume/",
    ]
    .map(fill);
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_serve_one_service_alone() {
    let cloud = cloud().await;
    let keyway = TestKeyway::with(&cloud, |config| {
        let denied = Rule {
            name: "no-keys".to_owned(),
            effect: Effect::Deny,
            paths: vec!["/os-keypairs".to_owned()],
            ..Rule::default()
        };
        let policy = Policy::new("careful", false, Effect::Allow, vec![denied]).expect("a good policy");
        let two = listener("two", Some("/cloud/demo/region/RegionTwo/compute"));
        let nova = Listener { policy: Some(policy.into()), ..listener("nova", Some("/compute")) };
        let none = listener("none", Some("/dns"));
        config.listeners.extend([nova, two, none]);
    })
    .await;
    let mut nova = keyway.nth(1).await;
    let mut ask = async |path: &str, host: &str| {
        let headers: &[(&str, &str)] = if host.is_empty() { &[] } else { &[("host", host)] };
        nova.send(request(Method::GET, path, headers, "")).await
    };
    ask("/v2.1/servers", "").await.passed_on(200);
    ask("/", "").await.passed_on(200);
    // No other address means anything here, whatever the host's name.
    ask("/image/images", "").await;
    ask("/origin/x", "localhost").await;
    ask("/v2.1/flavors", "image.localhost").await.passed_on(200);
    assert_eq!(
        targets(&cloud, "compute"),
        ["/v2.1/servers", "/", "/image/images", "/origin/x", "/v2.1/flavors"]
    );
    ask("/v2.1/servers/../x", "").await.message(400, "bad_request");
    ask("/v2.1/servers", "elsewhere.example").await.message(421, "foreign_host");
    for path in ["/v2.1/os-keypairs", "/v2.1/os%2Dkeypairs", "/v2/os-keypairs/", "/os-keypairs"] {
        ask(path, "").await.message(403, "denied");
    }
    let mut two = keyway.nth(2).await;
    let path = format!("/v2.1/{PROJECT_ID}/servers");
    two.send(request(Method::GET, &path, &[], "")).await.passed_on(200);
    assert_eq!(targets(&cloud, "RegionTwo/compute"), [path]);
    let mut none = keyway.nth(3).await;
    let message = none.send(request(Method::GET, "/v2/zones", &[], "")).await.message(404, "no_service");
    assert!(message.contains("it has block-storage, compute"), "{message}");

    // /status tells where they are.
    let listeners = keyway.status().await["listeners"].clone();
    let addresses: Vec<_> = keyway.app().addresses().skip(1).map(|address| address.url(false)).collect();
    let main = keyway.app().url();
    assert_eq!(
        listeners,
        json!([
            {"url": addresses[0], "stands_for": format!("{main}/compute")},
            {"url": addresses[1], "stands_for": format!("{main}/cloud/demo/region/RegionTwo/compute")},
            {"url": addresses[2], "stands_for": format!("{main}/dns")},
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_listeners_of_one_service() {
    let cloud = cloud().await;
    let shown = |text: &str, listener: &str, main: &str| {
        let line = format!("\n{listener} is the root of {main}/region/RegionTwo/compute\n");
        assert!(text.contains(&line), "{text}");
    };
    let pin = |config: &mut Config| {
        config.listeners.push(listener("nova", Some("/region/RegionTwo/compute")));
    };
    let keyway = TestKeyway::with(&cloud, pin).await;
    let nova = keyway.app().addresses().nth(1).expect("it was asked for").url(false);
    let overrides = Overrides { listen: Some("127.0.0.1:1".to_owned()), ..Overrides::default() };
    let env = Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
    let mut config = Config::load_without_clouds(&overrides, &env).expect("it is right");
    config.clouds = vec![cloud.keystone_config()];
    pin(&mut config);
    let banner =
        commands::banner(&config, &keyway.app().shared(), keyway.app().url(), keyway.app().admin_url());
    shown(&banner, &nova, keyway.app().url());
    let shared = app::parts(&config, &Handle::current()).expect("it is right");
    let routes = commands::routes(&config, &shared).await;
    assert!(!routes.failed);
    shown(&routes.text, "http://127.0.0.1:0", "http://127.0.0.1:1");
    let check = commands::check(&config, &shared).await.text;
    assert!(check.contains("  nova        127.0.0.1:0, only /region/RegionTwo/compute\n"), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conventional_port_that_is_taken_is_named_with_the_way_out() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".to_owned()),
        admin: Some("127.0.0.1:0".to_owned()),
        emulate_ports: Some("compute".to_owned()),
        ..Overrides::default()
    };
    let env = Env::new::<&str, &str>([], "/nonexistent").with_root("/nonexistent");
    let mut config = Config::load_without_clouds(&overrides, &env).expect("it is right");
    let nova = config.listeners.pop().unwrap();
    assert_eq!((nova.pinned.as_deref(), nova.emulated), (Some("/compute"), true));
    let mut elsewhere = Listener { ..nova };
    elsewhere.server.address = taken.local_addr().unwrap().into();
    config.listeners.push(elsewhere);
    let error = App::start(&config, &Handle::current()).expect_err("the port is taken");
    assert!(matches!(error, StartError::Bind { .. }));
    let text = error.to_string();
    let address = taken.local_addr().unwrap();
    assert!(text.contains(&format!("can't listen on {address}")), "{text}");
    assert!(text.contains("leave compute out of emulate_ports"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_by_every_form_at_once_reach_what_they_mean() {
    let (cloud, keyway) = start().await;
    let compute = format!("/origin/{}/v2.1/servers", id(&cloud.url("compute")));
    let mut tasks = tokio::task::JoinSet::new();
    let listen = keyway.listen();
    for round in 0..20 {
        for (host, path) in [
            ("localhost", "/compute/servers".to_owned()),
            ("compute.localhost", "/v2.1/servers".to_owned()),
            ("localhost", compute.clone()),
            ("localhost", format!("/cloud/demo{compute}")),
            ("localhost", format!("/project/demo{compute}")),
        ] {
            tasks.spawn(async move {
                let path = format!("{path}?round={round}");
                let get = request(Method::GET, &path, &[("host", host)], "");
                Connection::open(listen).await.send(get).await.status
            });
        }
    }
    assert_eq!(bounded("all answers", tasks.join_all()).await, [200; 100]);
    let seen = targets(&cloud, "compute");
    assert_eq!(seen.len(), 100);
    assert!(seen.iter().all(|target| target.starts_with("/v2.1/servers?round=")), "{seen:?}");
    assert_eq!(cloud.token_requests(), 1);
}
