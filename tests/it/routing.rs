//! Which service, cloud, region and project an address means, and what reaches it.

use http::Method;
use keyway::demo::{Cloud, OTHER_PROJECT_ID, PROJECT_ID};
use keyway::keystone::{AllowHttp, Auth, Interface};
use keyway::upstream::BaseUrl;

use crate::support::{TestKeyway, answering, cloud, host, request, targets};

async fn start() -> (Cloud, TestKeyway) {
    let cloud = cloud().await;
    let keyway = TestKeyway::in_front_of(&cloud).await;
    (cloud, keyway)
}

/// What a service gets asked, for each of these paths at keyway. `{p}` is the project's id.
async fn check_targets(service: &str, cases: &[(&str, &str)]) {
    let (cloud, keyway) = start().await;
    let mut before = 0;
    for (path, expected) in cases {
        let path = path.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
        keyway.get(&path).await;
        let seen = targets(&cloud, service);
        let expected = expected.replace("{p}", PROJECT_ID).replace("{o}", OTHER_PROJECT_ID);
        assert_eq!(seen.last(), Some(&expected), "{path}");
        // One request each, but for the question for the version.
        assert!((before + 1..=before + 2).contains(&seen.len()), "{path}: {seen:?}");
        before = seen.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_goes_by_its_type_its_aliases_and_its_name() {
    check_targets(
        "block-storage",
        &[
            ("/block-storage/volumes", "/v3/volumes"),
            ("/block_storage/volumes", "/v3/volumes"),
            ("/Block-Storage/volumes", "/v3/volumes"),
            ("/volume/volumes", "/v3/volumes"),
            ("/volumev2/volumes", "/v3/volumes"),
            ("/block-store/volumes", "/v3/volumes"),
            ("/cinder/volumes", "/v3/volumes"),
            ("/volumev3/volumes", "/v3/{p}/volumes"),
            ("/cinderv3/volumes", "/v3/{p}/volumes"),
        ],
    )
    .await;
    check_targets("compute", &[("/compute/servers", "/v2.1/servers"), ("/nova/servers", "/v2.1/servers")])
        .await;
    check_targets("image", &[("/glance/images", "/v2/images")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_and_a_project_are_neither_doubled_nor_forced() {
    check_targets(
        "compute",
        &[
            ("/compute/v2.1/servers", "/v2.1/servers"),
            ("/compute/v2/servers", "/v2/servers"),
            ("/compute/v2.1/{p}/servers", "/v2.1/{p}/servers"),
            ("/compute/v2.1", "/v2.1"),
        ],
    )
    .await;
    check_targets(
        "volumev3",
        &[
            ("/volumev3/v3/{p}/volumes", "/v3/{p}/volumes"),
            ("/volumev3/v3/{o}/volumes", "/v3/{o}/volumes"),
            ("/volumev3/v3/volumes", "/v3/{p}/volumes"),
            ("/volumev3/v2/volumes", "/v2/{p}/volumes"),
            ("/volumev3/v3", "/v3"),
        ],
    )
    .await;
    check_targets(
        "object-store",
        &[
            ("/object-store/box", "/v1/AUTH_{p}/box"),
            ("/object-store/v1/AUTH_{p}/box", "/v1/AUTH_{p}/box"),
            ("/object-store/v1/AUTH_{o}/box", "/v1/AUTH_{o}/box"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_current_version_is_put_in_where_the_catalog_has_none() {
    check_targets(
        "image",
        &[
            ("/image/images", "/v2/images"),
            ("/image/v2/images", "/v2/images"),
            ("/image/v1/images", "/v1/images"),
            ("/image/schemas/images?x=1", "/v2/schemas/images?x=1"),
        ],
    )
    .await;
    check_targets(
        "network",
        &[("/network/networks", "/v2.0/networks"), ("/network/v2.0/networks", "/v2.0/networks")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_root_is_with_and_without_a_slash() {
    check_targets("compute", &[("/compute", "/v2.1"), ("/compute/", "/v2.1/"), ("/compute?x", "/v2.1?x")])
        .await;
    check_targets("image", &[("/image", "/"), ("/image/", "/")]).await;
    check_targets("object-store", &[("/object-store", "/v1/AUTH_{p}"), ("/object-store/", "/v1/AUTH_{p}/")])
        .await;
}

// 42
// Promise 42.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_arrives_byte_for_byte() {
    check_targets(
        "object-store",
        &[
            ("/object-store/box/a%2Fb", "/v1/AUTH_{p}/box/a%2Fb"),
            ("/object-store/box/%c3%bc%7e~", "/v1/AUTH_{p}/box/%c3%bc%7e~"),
            ("/object-store/box//a///b/", "/v1/AUTH_{p}/box//a///b/"),
            ("/object-store/box/a;b=c,d+e:f@g!$&'()*", "/v1/AUTH_{p}/box/a;b=c,d+e:f@g!$&'()*"),
            ("/object-store/box/...", "/v1/AUTH_{p}/box/..."),
            ("/object-store/box/100%25", "/v1/AUTH_{p}/box/100%25"),
            ("/object-store/box?", "/v1/AUTH_{p}/box?"),
            ("/object-store/box?a=%2f&b=+&&c&d=/?", "/v1/AUTH_{p}/box?a=%2f&b=+&&c&d=/?"),
            ("/object-store/box?x=../../y", "/v1/AUTH_{p}/box?x=../../y"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_chosen_by_the_path() {
    let (cloud, keyway) = start().await;
    assert_eq!(keyway.get("/region/RegionTwo/compute/servers").await.status, 200);
    let compute = cloud.requests("RegionTwo/compute");
    assert_eq!(compute[0].target, format!("/v2.1/{PROJECT_ID}/servers"));
    // That endpoint's host is a name.
    assert!(compute[0].headers["host"].to_str().unwrap().starts_with("localhost:"));
    assert_eq!(keyway.get("/region/RegionTwo/image/images").await.status, 200);
    assert!(cloud.requests("image").is_empty());
    assert_eq!(targets(&cloud, "RegionTwo/image").last().unwrap(), "/v2/images");
    assert_eq!(keyway.get("/cloud/demo/region/RegionOne/image/images").await.status, 200);
    assert_eq!(cloud.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_region_lists_those_that_there_are() {
    let (_cloud, keyway) = start().await;
    let message = keyway.get("/region/Atlantis/compute/servers").await.message(404, "no_region");
    assert_eq!(message, "the service is in no such region; it is in RegionOne, RegionTwo");
    let message = keyway.get("/region/RegionTwo/network/networks").await.message(404, "no_region");
    assert!(message.ends_with("it is in RegionOne"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_chosen_by_id_or_name_and_has_its_own_token() {
    let (cloud, keyway) = start().await;
    for project in ["other", OTHER_PROJECT_ID] {
        let servers = keyway.get(&format!("/project/{project}/compute/servers")).await;
        assert_eq!(servers.json()["servers"][0]["name"], "elsewhere-1", "{project}");
    }
    // The cloud's own project shares its token.
    for project in ["demo", PROJECT_ID] {
        let servers = keyway.get(&format!("/project/{project}/compute/servers")).await;
        assert_eq!(servers.json()["servers"].as_array().unwrap().len(), 3, "{project}");
    }
    assert_eq!(keyway.get("/compute/servers").await.json()["servers"].as_array().unwrap().len(), 3);
    let own = keyway.token().await;
    let used: Vec<_> = cloud
        .requests("compute")
        .iter()
        .map(|seen| seen.headers["x-auth-token"].to_str().unwrap() == own)
        .collect();
    assert_eq!(used, [false, false, true, true, true]);
    keyway.get("/project/other/volumev3/volumes").await;
    assert_eq!(targets(&cloud, "volumev3"), [format!("/v3/{OTHER_PROJECT_ID}/volumes")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_revoked_token_is_replaced_too() {
    let (cloud, keyway) = start().await;
    assert_eq!(keyway.get("/project/other/compute/servers").await.status, 200);
    cloud.revoke_all();
    let before = cloud.token_requests();
    assert_eq!(keyway.get_at_once(50, "/project/other/compute/servers").await, [200; 50]);
    assert_eq!(cloud.token_requests(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_project_lists_the_users_own() {
    let (cloud, keyway) = start().await;
    for _ in 0..20 {
        let message = keyway.get("/project/nobodys/compute/servers").await.message(404, "unknown_project");
        assert_eq!(message, "the user has no such project; there are: demo, other");
    }
    assert_eq!(cloud.token_requests(), 1);
    let lists = targets(&cloud, "identity").iter().filter(|target| *target == "/v3/auth/projects").count();
    assert!(lists <= 3, "{lists}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clouds_are_told_apart() {
    let (one, two) = (cloud().await, cloud().await);
    let mut lab = two.keystone_config();
    lab.name = "lab 2".to_owned();
    let keyway = TestKeyway::cold(vec![one.keystone_config(), lab], |_| {});
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/cloud/demo/compute/servers").await.status, 200);
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (2, 0));
    assert_eq!(keyway.get("/cloud/lab%202/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/cloud/lab%202/project/other/compute/servers").await.status, 200);
    assert_eq!((one.requests("compute").len(), two.requests("compute").len()), (2, 2));
    assert_eq!((one.token_requests(), two.token_requests()), (1, 2));
    // Each with a token of its own cloud.
    assert!(one.requests("compute").iter().chain(&two.requests("compute")).all(|seen| seen.token_was_good));

    two.revoke_all();
    assert_eq!(keyway.get("/cloud/lab%202/compute/servers").await.status, 200);
    assert_eq!((one.token_requests(), two.token_requests()), (1, 3));
    two.pause("identity").await;
    assert_eq!(keyway.admin_get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_cloud_lists_those_that_there_are() {
    let (_cloud, keyway) = start().await;
    let message = keyway.get("/cloud/prod/compute/servers").await.message(404, "unknown_cloud");
    assert_eq!(message, "there is no such cloud; there are: demo");
}

// Promises 9, 40.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_service_lists_those_that_there_are() {
    let (cloud, keyway) = start().await;
    let known = "block-storage, compute, identity, image, network, object-store, orchestration";
    // A prefix of a name is none.
    for asked in [
        "dns",
        "computeevil",
        "compute@x",
        "compute@elsewhere.example",
        "compute%40x",
        "compute;x",
        "compute%3Bx",
        "compute%2Fservers",
        "compute%252Fservers",
        "compute:80",
        "compute.",
        "compute%20",
        "comput",
        "admin",
        "@compute",
    ] {
        let message = keyway.get(&format!("/{asked}/servers")).await.message(404, "no_service");
        assert_eq!(message, format!("the catalog has no such service; it has {known}"));
    }
    for service in ["compute", "image", "network"] {
        assert!(cloud.requests(service).is_empty(), "{service}");
    }
    // The same name in other bytes is the same service.
    assert_eq!(keyway.get("/comp%75te/servers").await.status, 200);
    assert_eq!(targets(&cloud, "compute"), ["/v2.1/servers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_that_the_catalog_lacks_names_those_that_it_has() {
    let cloud = cloud().await;
    let mut catalog = cloud.catalog();
    for service in catalog.as_array_mut().unwrap() {
        service["endpoints"].as_array_mut().unwrap().retain(|endpoint| endpoint["interface"] != "admin");
    }
    cloud.set_catalog(catalog);
    let keyway = TestKeyway::for_cloud(&cloud, |config| config.interfaces = vec![Interface::Admin]).await;
    let message = keyway.get("/compute/servers").await.message(502, "no_endpoint");
    assert_eq!(message, "the service has no admin endpoint there; choose an interface of public, internal");
}

#[tokio::test(flavor = "multi_thread")]
async fn interfaces_are_tried_in_order() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        config.region = Some("RegionTwo".to_owned());
        config.interfaces = vec![Interface::Internal, Interface::Public];
    })
    .await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let host = cloud.requests("RegionTwo/compute")[0].headers["host"].clone();
    assert!(host.to_str().unwrap().starts_with("127.0.0.1:"), "{host:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_url_that_is_none_names_the_service_and_the_way_out() {
    for bad in ["not a url", "ftp://files.example/", "http://user:pw@files.example/", "", "/v2.1"] {
        let cloud = cloud().await;
        let mut catalog = cloud.catalog();
        for service in catalog.as_array_mut().unwrap() {
            if service["type"] == "compute" {
                for endpoint in service["endpoints"].as_array_mut().unwrap() {
                    endpoint["url"] = bad.into();
                }
            }
        }
        cloud.set_catalog(catalog);
        let keyway = TestKeyway::in_front_of(&cloud).await;
        let answer = keyway.get("/compute/servers").await;
        if bad.is_empty() {
            // As good as no endpoint at all.
            answer.message(404, "no_service");
        } else {
            let message = answer.message(502, "no_endpoint");
            assert!(message.contains("the catalog's URL of `compute` is not usable"), "{message}");
            assert!(message.contains("compute_endpoint_override"), "{message}");
            assert!(!message.contains("pw"), "{message}");
        }
        // The others are there.
        assert_eq!(keyway.get("/image/images").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_override_wins_over_the_catalog() {
    let cloud = cloud().await;
    let keyway = TestKeyway::for_cloud(&cloud, |config| {
        let url = BaseUrl::parse(&format!("{}/v2", cloud.url("image"))).unwrap();
        config.endpoint_overrides.insert("compute".to_owned(), url);
    })
    .await;
    keyway.get("/compute/images").await;
    assert_eq!(targets(&cloud, "image"), ["/v2/images"]);
    assert!(cloud.requests("compute").is_empty());
}

// Promise 17.
#[tokio::test(flavor = "multi_thread")]
async fn plain_http_behind_an_https_keystone_gets_no_token() {
    let cloud = cloud().await;
    let mut config = cloud.keystone_config();
    let Auth::Identity(identity) = &mut config.auth else { unreachable!() };
    identity.auth_url = BaseUrl::parse("https://keystone.example/v3").unwrap();
    let plain = BaseUrl::parse("http://image.example:9292").unwrap();
    let may = keyway::gateway::may_carry_token;
    assert!(!may(&config, &plain, "image"));
    assert!(may(&config, &BaseUrl::parse("https://image.example:9292").unwrap(), "image"));
    config.allow_http = AllowHttp::Only(vec!["compute".to_owned(), "http://image.example:9293".to_owned()]);
    assert!(!may(&config, &plain, "image"));
    for allowed in ["image", "http://image.example:9292"] {
        config.allow_http = AllowHttp::Only(vec![allowed.to_owned()]);
        assert!(may(&config, &plain, "image"), "{allowed}");
    }
}

// Promises 8, 20, 21, 22, 23, 24.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_assertion_of_the_client_arrives() {
    let (cloud, keyway) = start().await;
    let guarded = [
        "X-Auth-Token",
        "x_auth_token",
        "X-Auth_Token",
        "X-Storage-Token",
        "X_Storage_Token",
        "X-Service-Token",
        "X-Service-Identity-Status",
        "X-Identity-Status",
        "X-User-Id",
        "X_User_Id",
        "X-User-Name",
        "X-User",
        "X-Project-Id",
        "X-Project-Domain-Name",
        "X-Tenant-Id",
        "X-Tenant",
        "X-Domain-Id",
        "X-Roles",
        "X-Role",
        "X-Is-Admin-Project",
        "OpenStack-System-Scope",
        "Remote-User",
        "Remote_User",
        "SSL-Client-Cert",
        "Authorization",
        "Cookie",
        "Proxy-Authorization",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X_Forwarded_Proto",
        "X-Forwarded-Prefix",
        "Via",
    ];
    let headers: Vec<_> = guarded.iter().map(|name| (*name, "from-the-client")).collect();
    // Twice: a repeated field is no way around.
    let twice: Vec<_> = headers.iter().chain(&headers).copied().collect();
    let own = [("accept", "application/json"), ("openstack-api-version", "compute 2.90"), ("x-my-own", "1")];
    let all: Vec<_> = twice.iter().chain(&own).copied().collect();
    for path in ["/compute/servers", "/identity/auth/projects", "/object-store/box"] {
        keyway.get_with(path, &all).await;
    }
    for service in ["compute", "identity", "object-store"] {
        let seen = cloud.requests(service).pop().unwrap();
        assert!(seen.token_was_good);
        let tokens: Vec<_> = seen.headers.get_all("x-auth-token").iter().collect();
        assert_eq!(tokens, [keyway.token().await.as_str()]);
        for (name, value) in &seen.headers {
            assert_ne!(value, "from-the-client", "{service} got {name}");
        }
        for (name, value) in own {
            assert_eq!(seen.headers[name], value);
        }
        assert_eq!(seen.headers["host"], host(&cloud, service).as_str());
    }
}

// Promise 35.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_lists_in_connection_ends_here() {
    let (cloud, keyway) = start().await;
    let answer = keyway
        .raw(
            "GET /compute/servers HTTP/1.1\r\nHost: localhost\r\nX-Hop: 1\r\nX-Kept: 1\r\nKeep-Alive: timeout=5\r\n\
             TE: gzip\r\nUpgrade: websocket\r\nProxy-Connection: x\r\n\
             Connection: close, X-Hop, X-Auth-Token, Host, Content-Length, Upgrade, TE\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 200);
    let seen = cloud.requests("compute").pop().unwrap();
    assert!(seen.token_was_good);
    assert_eq!(seen.headers["x-kept"], "1");
    for gone in ["x-hop", "keep-alive", "te", "upgrade", "proxy-connection", "connection"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(seen.headers["host"], host(&cloud, "compute").as_str());
}

// Promises 7, 18, 46, 47.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_cookies_of_a_service_stay_behind() {
    let (cloud, keyway) = start().await;
    let headers = [
        ("x-subject-token", "secret-token"),
        ("x-auth-token", "secret-token"),
        ("x-storage-token", "secret-token"),
        ("set-cookie", "session=1"),
        ("set-cookie", "other=2"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("connection", "x-internal"),
        ("x-internal", "1"),
        ("x-compute-request-id", "req-kept"),
        ("location", "http://elsewhere.example/v2.1/servers/1"),
    ];
    cloud.set_trouble("compute", answering(302, &headers, "body"));
    let answer = keyway.get("/compute/servers").await;
    assert_eq!((answer.status, answer.text().as_str()), (302, "body"));
    for gone in [
        "x-subject-token",
        "x-auth-token",
        "x-storage-token",
        "set-cookie",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "x-internal",
    ] {
        assert!(!answer.headers.contains_key(gone), "{gone}");
    }
    // 18: a redirect is the client's to follow.
    assert_eq!(answer.header("location"), "http://elsewhere.example/v2.1/servers/1");
    assert_eq!(cloud.requests("compute").len(), 1);
}

// Promises 31, 38.
#[tokio::test(flavor = "multi_thread")]
async fn methods_and_bodies_arrive_as_they_are() {
    let (cloud, keyway) = start().await;
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "COPY", "BREW"];
    for method in methods {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        keyway.send(request(method, "/compute/servers/none", &[], "")).await;
    }
    let seen: Vec<_> = cloud.requests("compute").iter().map(|seen| seen.method.to_string()).collect();
    assert_eq!(seen, methods);
}
