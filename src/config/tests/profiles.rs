//! Vendor profiles: clouds-public.yaml, those that come with keyway, and those behind a URL.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use super::*;

const LOGIN: &str = "auth: {username: ada, password: hunter2, project_name: p}";

/// The URL and the region of the only cloud.
#[track_caller]
fn place(setup: &Setup) -> (String, Option<String>) {
    let region = setup.config().clouds.remove(0).region;
    (setup.identity().auth_url.to_string(), region)
}

/// A vendor's host: its URL, and the heads of the requests that it had.
fn vendor(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).expect("a request") == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            heads.push(String::from_utf8(head).expect("text"));
            // Who has seen enough goes away.
            drop(stream.write_all(answer.as_bytes()));
        }
        heads
    });
    (url, seen)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[test]
fn a_bundled_profile_says_where_a_vendors_cloud_is() {
    for key in ["profile", "cloud"] {
        let setup = Setup::new().clouds(&format!("clouds: {{mine: {{{key}: vexx, {LOGIN}}}}}"));
        setup.check_problems(&[&format!("{CLOUDS}: clouds.mine.auth.auth_url: missing")]);
        let setup = Setup::new().clouds(&format!("clouds: {{mine: {{{key}: otc, {LOGIN}}}}}"));
        let url = "https://iam.eu-de.otc.t-systems.com/v3".to_owned();
        assert_eq!(place(&setup), (url, Some("eu-de".to_owned())));
        let setup = setup.vars("OS_REGION_NAME=eu-nl");
        assert_eq!(place(&setup).0, "https://iam.eu-nl.otc.t-systems.com/v3");
    }
    let setup = Setup::new().vars("OS_PROFILE=auro\nOS_USERNAME=ada\nOS_PASSWORD=hunter2");
    assert_eq!(place(&setup).1.as_deref(), Some("RegionOne"));
}

#[test]
fn what_the_cloud_says_itself_wins_over_its_profile() {
    let setup = Setup::new().clouds(
        "clouds: {mine: {profile: auro, region_name: r2, interface: internal,
            auth: {username: ada, password: hunter2, user_domain_name: Mine}}}",
    );
    assert_eq!(place(&setup), ("https://api.van2.auro.io:5000/v3".to_owned(), Some("r2".to_owned())));
    assert_eq!(setup.config().clouds[0].interfaces, [Interface::Internal]);
    let Method::Password { user, .. } = setup.identity().method else { panic!("a password") };
    assert_eq!(user, ada(Domain::Name("Mine".to_owned())));
}

#[test]
fn a_profile_of_clouds_public_yaml_comes_before_a_bundled_one() {
    let setup = Setup::new().clouds(&format!("clouds: {{mine: {{profile: auro, {LOGIN}}}}}")).file(
        "etc/openstack/clouds-public.yml",
        "public-clouds: {auro: {auth: {auth-url: 'https://own.example'}}}",
    );
    assert_eq!(place(&setup), ("https://own.example".to_owned(), None));
    let setup = Setup::new()
        .clouds(&format!("clouds: {{mine: {{profile: x, {LOGIN}}}}}"))
        .file("etc/openstack/clouds-public.yaml", "public-clouds: {x: {auth: {auth_url: nowhere}}}");
    setup
        .check_problems(&["/etc/openstack/clouds-public.yaml: public-clouds.x.auth.auth_url: no usable URL"]);
    let setup = setup.file("etc/openstack/clouds-public.yaml", "public-clouds: {x: y}");
    setup.check_problems(&["/etc/openstack/clouds-public.yaml: public-clouds.x: not a mapping"]);
    let setup = setup.file("etc/openstack/clouds-public.yaml", "public-clouds: [");
    setup.check_problems(&["/etc/openstack/clouds-public.yaml: not YAML: line 1"]);
}

#[test]
fn problems_of_a_bundled_profile_name_it() {
    let setup = Setup::new().clouds(&format!("clouds: {{mine: {{profile: otc-swiss, {LOGIN}}}}}"));
    setup.check_problems(&["vendor profile otc-swiss: auth.auth_url: no usable URL: not an absolute URL"]);
    let setup = setup.vars("OS_REGION_NAME=nowhere");
    setup.check_problems(&["environment: OS_REGION_NAME: the cloud has no region `nowhere`: it has eu-ch2"]);
    check_cloud("{profile: [otc]}", &["profile: not a name"]);
}

#[test]
fn a_cloud_that_was_shut_down_is_a_problem_and_one_that_will_be_a_warning() {
    check_cloud("{profile: ultimum}", &["profile: the vendor of `ultimum` has shut this cloud down"]);
    let setup = Setup::new().clouds(&format!("clouds: {{mine: {{profile: fuga, {LOGIN}}}}}"));
    assert_eq!(setup.config().warnings.len(), 1);
    assert!(
        setup.config().warnings[0].contains("clouds.mine.profile: the vendor profile `fuga` is deprecated")
    );
}

#[test]
fn an_unknown_profile_is_a_warning() {
    let text = format!("clouds: {{mine: {{profile: oct, auth_url: 'https://c.example', {LOGIN}}}}}");
    let warnings = Setup::new().clouds(&text).config().warnings;
    assert!(
        warnings[0]
            .ends_with("there is no vendor profile `oct`, so the cloud goes without: did you mean `otc`?")
    );
    // The key of osprofiler has this variable too.
    let warnings = Setup::new().vars(PASSWORD).vars("OS_PROFILE=hunter2").config().warnings;
    let expected = "environment: OS_PROFILE: there is no vendor profile, so the cloud goes without";
    assert_eq!(warnings, [expected]);
}

// Promise 18.
#[test]
fn a_profile_behind_a_url_is_asked_for_once_and_without_secrets() {
    let profile = r#"{"name": "own", "profile": {"profile": "otc", "verify": false, "password_command": "false",
        "auth": {"auth-url": "https://{region_name}.example/v3", "username": "eve"},
        "regions": ["r1", {"name": "r2", "values": {"interface": "internal", "insecure": true}}]}}"#;
    let (url, seen) = vendor(vec![answer("200 OK", profile)]);
    let text = format!(
        "clouds: {{a: {{profile: '{url}/some/path', {LOGIN}}}, b: {{profile: '{url}', regions: [r2], {LOGIN}}}}}"
    );
    let config = Setup::new().clouds(&text).cloud("a").cloud("b").config();
    let urls = config.clouds.iter().map(|cloud| match &cloud.auth {
        Auth::Identity(identity) => (identity.auth_url.to_string(), cloud.tls.insecure),
        other => panic!("{other:?}"),
    });
    let expected = ["https://r1.example/v3", "https://r2.example/v3"].map(|url| (url.to_owned(), false));
    assert_eq!(urls.collect::<Vec<_>>(), expected);
    assert_eq!(config.warnings, [""; 0]);
    let seen = seen.join().expect("the vendor was asked");
    assert!(seen[0].starts_with("GET /.well-known/openstack/api HTTP/1.1\r\n"), "{seen:?}");
    assert!(!seen[0].contains("hunter2") && !seen[0].contains("ada"), "{seen:?}");
}

#[test]
fn a_profile_that_another_one_has_a_name_with_is_under_it() {
    let profile =
        r#"{"name": "auro", "profile": {"interface": "admin", "auth": {"auth_url": "https://x.example"}}}"#;
    let (url, _) = vendor(vec![answer("200 OK", profile)]);
    let setup = Setup::new().clouds(&format!("clouds: {{a: {{profile: '{url}', {LOGIN}}}}}"));
    let config = setup.config();
    assert_eq!(config.clouds[0].interfaces, [Interface::Admin]);
    assert_eq!(config.clouds[0].region.as_deref(), Some("RegionOne"));
}

// Promise 18.
#[test]
fn what_is_no_profile_is_a_problem() {
    let big = format!("{{\"name\": \"{}\"}}", "x".repeat(300 << 10));
    for (answer, expected) in [
        (
            answer("302 Found\r\nlocation: /other", ""),
            "it answered 302 Found, and redirects are not followed",
        ),
        (answer("404 Not Found", "{}"), "it answered 404 Not Found"),
        (answer("200 OK", "<html>hunter2"), "its answer is not JSON: line 1"),
        (answer("200 OK", "[]"), "it answered with something that is no profile"),
        (answer("200 OK", "{\"name\": \"hunter2\"}"), "it answered with something that is no profile"),
        (answer("200 OK", &big), ""),
        (answer("200 OK", "{\"name\": \"x\", \"profile\": {\"status\": \"shutdown\"}}"), ""),
        ("SSH-2.0-hunter2\r\n".to_owned(), ""),
    ] {
        let (url, _) = vendor(vec![answer]);
        let setup = Setup::new().clouds(&format!("clouds: {{a: {{profile: '{url}', {LOGIN}}}}}"));
        let shown = setup.load().expect_err("it is wrong").to_string();
        let key = format!("{CLOUDS}: clouds.a.profile: ");
        assert!(shown.contains(&key) && shown.contains(expected) && !shown.contains("hunter2"), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
    for (url, expected) in [
        ("https://ada:hunter2@c.example", "no usable URL: it must not hold a user name or password"),
        ("ftp://c.example", "no usable URL: the scheme must be http or https"),
    ] {
        check_cloud(&format!("{{profile: '{url}'}}"), &[&format!("profile: {expected}")]);
    }
    let (url, vendor) = vendor(vec![]);
    vendor.join().expect("it is gone");
    check_cloud(
        &format!("{{profile: '{url}'}}"),
        &[&format!(
            "profile: no vendor profile from {url}/.well-known/openstack/api: could not connect to {url}"
        )],
    );
}
