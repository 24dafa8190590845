//! Endpoints and TLS.

use super::*;
use crate::keystone::service::Limits;

#[test]
fn interfaces_are_a_word_or_a_list() {
    use Interface::{Admin, Internal, Public};
    for (options, interfaces) in [
        ("", vec![Public]),
        ("interface: internal", vec![Internal]),
        ("endpoint_type: adminURL", vec![Admin]),
        ("endpoint-type: internalURL, interface: public", vec![Internal]),
        ("interface: [internal, public, internal]", vec![Internal, Public]),
    ] {
        let text = yaml(&["prod"]).replace("auth:", &format!("<<: {{{options}}}\n    auth:"));
        assert_eq!(Setup::new().clouds(&text).config().clouds[0].interfaces, interfaces, "{options}");
    }
    let setup = Setup::new().vars(PASSWORD).vars("OS_ENDPOINT_TYPE=internalURL");
    assert_eq!(setup.config().clouds[0].interfaces, [Internal]);
    let setup = Setup::new().vars(PASSWORD).vars("OS_INTERFACE=intern");
    setup.check_problems(&["environment: OS_INTERFACE: `intern` is no interface"]);
}

#[test]
fn endpoints_can_be_overridden() {
    let setup = Setup::new().vars(PASSWORD).vars(
        "OS_IMAGE_ENDPOINT_OVERRIDE=https://i.example/v2/\nOS_BLOCK_STORAGE_ENDPOINT=https://b.example\n\
         OS_IMAGE_ENDPOINT=https://other.example\nOS_DISCOVERY_ENDPOINT=no\nOS_ENDPOINT=no",
    );
    let overrides = setup.config().clouds.remove(0).endpoint_overrides;
    let overrides: Vec<_> = overrides.iter().map(|(service, url)| format!("{service} {url}")).collect();
    assert_eq!(overrides, ["block-storage https://b.example", "image https://i.example/v2"]);
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("OS_IMAGE_ENDPOINT_OVERRIDE=nowhere\nOS_VOLUME_ENDPOINT_OVERRIDE=https://v/%(region)s");
    setup.check_problems(&[
        "environment: OS_IMAGE_ENDPOINT_OVERRIDE: no usable URL: not an absolute URL",
        "environment: OS_VOLUME_ENDPOINT_OVERRIDE: nothing else can be put into it than %(project_id)s",
    ]);
}

#[test]
fn an_override_may_want_ids_in_its_path() {
    for (text, expected) in [
        ("https://v.example/v3/%(project_id)s", "https://v.example/v3/%(project_id)s"),
        ("https://v.example/v3/%(tenant_id)s/", "https://v.example/v3/%(project_id)s"),
        ("https://s.example/AUTH_$(tenant_id)s", "https://s.example/AUTH_%(project_id)s"),
        ("https://x.example/$(user_id)s/$(project_id)s", "https://x.example/%(user_id)s/%(project_id)s"),
    ] {
        let setup = Setup::new().vars(PASSWORD).vars(&format!("OS_VOLUME_ENDPOINT_OVERRIDE={text}"));
        assert_eq!(setup.config().clouds[0].endpoint_overrides["volume"].to_string(), expected);
    }
    for (key, text, message) in [
        ("OS_VOLUME_ENDPOINT_OVERRIDE", "https://%(project_id)s.example", "no usable URL"),
        ("OS_VOLUME_ENDPOINT_OVERRIDE", "https://v.example/?p=%(project_id)s", "no usable URL"),
        ("OS_AUTH_URL", "https://k.example/%(project_id)s", "no template can be put in here"),
    ] {
        let setup = Setup::new().vars(PASSWORD).vars(&format!("{key}={text}"));
        setup.check_problems(&[&format!("environment: {key}: {message}")]);
    }
    check_cloud(
        "{auth_type: none, volume_endpoint_override: 'https://v/%(project_id)s'}",
        &["volume_endpoint_override: no id can be put into it without a login at Keystone"],
    );
}

#[test]
fn tls_files_are_found_from_home_and_from_the_current_directory() {
    let setup = Setup::new()
        .vars(PASSWORD)
        .vars("OS_CACERT=~/ca.pem\nOS_CERT=cert.pem\nOS_KEY=DIR/key.pem")
        .file("home/ca.pem", "")
        .file("srv/cert.pem", "")
        .file("key.pem", "");
    let root = setup.dir.path();
    let tls = &setup.config().clouds[0].tls;
    assert_eq!(tls.ca_file.as_deref(), Some(root.join("home/ca.pem").as_path()));
    assert_eq!(tls.client_cert, Some((root.join("srv/cert.pem"), Some(root.join("key.pem")))));
    assert!(!tls.insecure);
}

// Promise 14.
#[test]
fn a_private_key_that_everyone_can_read_is_refused() {
    let vars = "OS_CERT=cert.pem\nOS_KEY=DIR/key.pem";
    let setup = || Setup::new().vars(PASSWORD).file("srv/cert.pem", "").file("key.pem", "");
    for mode in [0o644, 0o604, 0o666] {
        setup().vars(vars).mode("key.pem", mode).check_problems(&[
            "environment: OS_KEY: /key.pem holds a private key and can be read by every user of this machine: \
             chmod 600 /key.pem",
        ]);
    }
    // Where there is no key of its own, it is in the certificate's file.
    setup()
        .vars("OS_CERT=cert.pem")
        .mode("srv/cert.pem", 0o644)
        .check_problems(&["environment: OS_CERT: /srv/cert.pem holds a private key"]);
    let by_systemd = setup().vars(vars).mode("key.pem", 0o644).vars("CREDENTIALS_DIRECTORY=DIR");
    assert_eq!(by_systemd.config().warnings, [""; 0]);
}

#[test]
fn missing_tls_files_are_problems() {
    let setup = Setup::new().vars(PASSWORD).vars("OS_CACERT=ca.pem\nOS_CERT=cert.pem\nOS_KEY=~");
    setup.check_problems(&[
        "environment: OS_CACERT: /srv/ca.pem cannot be read",
        "environment: OS_KEY: /home",
        "environment: OS_CERT: /srv/cert.pem cannot be read",
    ]);
    let setup = Setup::new().vars(PASSWORD).vars("OS_KEY=key.pem").file("srv/key.pem", "");
    setup.check_problems(&["environment: OS_KEY: a key without a certificate"]);
}

#[test]
fn certificates_go_unchecked_only_when_told_so_and_with_a_warning() {
    for options in ["verify: false", "verify: no", "insecure: true", "insecure: 1, cacert: /none"] {
        let text = yaml(&["prod"]).replace("auth:", &format!("<<: {{{options}}}\n    auth:"));
        let config = Setup::new().clouds(&text).config();
        assert!(config.clouds[0].tls.insecure, "{options}");
        assert!(config.warnings[0].starts_with("cloud prod: certificates are not checked"), "{options}");
    }
    let setup = Setup::new().vars(PASSWORD).vars("OS_INSECURE=false");
    assert!(!setup.config().clouds[0].tls.insecure);
    let setup = Setup::new().vars(PASSWORD).vars("OS_INSECURE=maybe");
    setup.check_problems(&["environment: OS_INSECURE: `maybe` is neither true nor false"]);
}

#[test]
fn plain_http_across_a_network_is_warned_of() {
    let setup = |url| Setup::new().vars(PASSWORD).vars(&format!("OS_AUTH_URL={url}"));
    assert!(setup("http://10.0.0.1:5000").config().warnings[0].contains("plain http"));
    for url in ["http://127.0.0.1:5000", "http://[::1]/v3", "http://localhost:5000"] {
        assert_eq!(setup(url).config().warnings, [""; 0]);
    }
}

/// What the entry of the only cloud says of its services, with these options in it.
fn services(options: &str) -> Config {
    let text = yaml(&["prod"]).replace("auth:", &format!("{options}\n    auth:"));
    Setup::new().clouds(&text).config()
}

#[test]
fn a_services_own_options_are_read() {
    let config = services(
        "compute_region_name: two\n    compute_interface: [internal, public]\n    compute_service_type: compute_legacy\n    \
         compute_service_name: nova2\n    compute_api_version: 2\n    compute_default_microversion: 2.79\n    \
         block-storage-api-version: 3.60\n    volume_endpoint_type: adminURL\n    identity_api_version: 3\n    \
         network_api_version: ''\n    share_default_microversion: latest",
    );
    let services = &config.clouds[0].services;
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["block-storage", "compute", "identity", "share", "volume"]
    );
    let compute = keystone::ServiceOptions {
        service_type: Some("compute_legacy".to_owned()),
        service_name: Some("nova2".to_owned()),
        region: Some("two".to_owned()),
        interfaces: vec![Interface::Internal, Interface::Public],
        api_version: Some(2),
        microversion: Some("2.79".to_owned()),
        retries: keystone::Retries::default(),
        limits: Limits::default(),
    };
    assert_eq!(services["compute"], compute);
    let volume = (services["block-storage"].api_version, services["block-storage"].microversion.as_deref());
    assert_eq!(volume, (Some(3), Some("3.60")), "a number with a minor one is a microversion");
    assert_eq!(services["volume"].interfaces, [Interface::Admin]);
    assert_eq!(services["share"].microversion.as_deref(), Some("latest"));
    assert_eq!(config.warnings, [""; 0]);
    let setup = Setup::new().vars(PASSWORD).vars("OS_COMPUTE_API_VERSION=2.60\nOS_IDENTITY_API_VERSION=3");
    assert_eq!(setup.config().clouds[0].services["compute"].microversion.as_deref(), Some("2.60"));
}

#[test]
fn retries_are_read_for_all_services_and_for_one() {
    let config = services(
        "connect_retries: 2\n    status_code_retry_delay: 0.5\n    image_status_code_retries: '5'\n    \
         image_retriable_status_codes: 503, 504\n    image_connect_retry_delay: 1\n    image_connect_retries: 0\n    \
         retriable_status_codes: [500, '502']",
    );
    let cloud = &config.clouds[0];
    assert_eq!((cloud.retries.connect, cloud.retries.status), (Some(2), None));
    assert_eq!(cloud.retries.status_delay, Some(Duration::from_millis(500)));
    assert_eq!(cloud.retries.statuses.as_deref(), Some(&[500, 502][..]));
    let image = &cloud.services["image"].retries;
    assert_eq!((image.connect, image.status), (Some(0), Some(5)));
    assert_eq!(image.statuses.as_deref(), Some(&[503, 504][..]));
    assert_eq!(image.connect_delay, Some(Duration::from_secs(1)));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn each_wrong_option_of_a_service_is_one_problem() {
    let text = yaml(&["prod"]).replace(
        "auth:",
        "compute_interface: intern\n    compute_region_name: [a]\n    compute_api_version: v2\n    \
         image_api_version: 2.x\n    image_default_microversion: two\n    volume_api_version: 3.60\n    \
         volume_default_microversion: 3.59\n    dns_connect_retries: many\n    dns_connect_retry_delay: -1\n    \
         dns_status_code_retries: 1000\n    dns_status_code_retry_delay: 1e9\n    \
         dns_retriable_status_codes: [200, 401, x]\n    status_code_retries: -1\n    auth:",
    );
    let at = |key: &str| format!("{CLOUDS}: clouds.prod.{key}: ");
    let expected = [
        ("compute_interface", "`intern` is no interface"),
        ("compute_region_name", "a list or a mapping where one value belongs"),
        ("compute_api_version", "`v2` is no API version: write a number"),
        ("image_api_version", "`2.x` is no API version"),
        ("image_default_microversion", "`two` is no microversion: write for example 2.79, or latest"),
        (
            "volume_default_microversion",
            "`3.59`, but volume_api_version is the microversion 3.60: remove one of them",
        ),
        ("dns_connect_retries", "`many` is no number of attempts: 0 to 100"),
        ("dns_connect_retry_delay", "`-1` is no delay: 0 to 60 seconds"),
        ("dns_status_code_retries", "`1000` is no number of attempts"),
        ("dns_status_code_retry_delay", "`1e9` is no delay"),
        ("dns_retriable_status_codes", "`200` is no status of an error: 400 to 599"),
        ("dns_retriable_status_codes", "401 can't be among them: keyway answers it with a new token"),
        ("dns_retriable_status_codes", "`x` is no status of an error"),
        ("status_code_retries", "`-1` is no number of attempts"),
    ];
    let expected: Vec<_> = expected.iter().map(|(key, message)| at(key) + message).collect();
    Setup::new().clouds(&text).check_problems(&expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn limits_are_for_one_service_or_for_each() {
    let limits =
        |pace: Option<u64>, concurrency| Limits { pace: pace.map(Duration::from_millis), concurrency };
    let none = limits(None, None);
    for (options, all, compute, image) in [
        ("rate_limit: 5", limits(Some(200), None), none, none),
        (
            "rate_limit: {compute: 2, image: '0.5'}\n    concurrency: {compute: 4}",
            none,
            limits(Some(500), Some(4)),
            limits(Some(2000), None),
        ),
        ("concurrency: 3\n    compute_concurrency: 1", limits(None, Some(3)), limits(None, Some(1)), none),
        ("image_rate_limit: 10", none, none, limits(Some(100), None)),
        ("rate_limit: 0\n    concurrency: {compute: 0}", none, none, none),
    ] {
        let cloud = services(options).clouds.remove(0);
        let of = |name: &str| cloud.services.get(name).map_or(none, |options| options.limits);
        assert_eq!((cloud.limits, of("compute"), of("image")), (all, compute, image), "{options}");
    }
    let cloud = services("rate_limit: 5\n    concurrency: {volume: 4}").clouds.remove(0);
    assert_eq!(
        cloud.limits_of(["block-storage"; 2]),
        Some(limits(Some(200), Some(4))),
        "under each of its names"
    );
    assert_eq!(cloud.limits_of(["dns"; 2]), Some(limits(Some(200), None)));
    for (option, message) in [
        ("rate_limit: -1", "rate_limit: `-1` is no number of requests per second: 0.001 to 100000, or 0"),
        ("rate_limit: {compute: fast}", "rate_limit.compute: `fast` is no number of requests per second"),
        ("compute_rate_limit: .inf", "compute_rate_limit: `"),
        ("concurrency: [1]", "concurrency: a list or a mapping where one value belongs"),
        ("image_concurrency: 1.5", "image_concurrency: `1.5` is no number of requests at a time: 1 to"),
    ] {
        check_cloud(
            &format!("{{auth: {{auth_url: 'https://c.example', username: u, password: x}}, {option}}}"),
            &[message],
        );
    }
}

#[test]
fn a_cloud_has_one_timeout() {
    for (options, expected) in [
        ("api_timeout: 30", Some(30_000)),
        ("api_timeout: '0.5'", Some(500)),
        ("compute_timeout: 3", Some(3000)),
        ("api_timeout: 30\n    compute_timeout: 3", Some(3000)),
        ("api_timeout: ~", None),
        ("api_timeout: 30\n    compute_timeout: ~", Some(30_000)),
        ("timeout: 3", None),
    ] {
        let config = services(options);
        assert_eq!(config.clouds[0].api_timeout, expected.map(Duration::from_millis), "{options}");
        assert_eq!(config.warnings, [""; 0], "{options}");
    }
    let config = services("compute_timeout: 3\n    image_timeout: 90");
    assert_eq!(config.clouds[0].api_timeout, Some(Duration::from_secs(90)));
    assert!(config.warnings[0].contains("of compute_timeout and image_timeout the longest counts"));
    for (option, message) in [
        ("api_timeout: 0", "api_timeout: `0` is no timeout: 0.1 to 86400 seconds"),
        ("image_timeout: soon", "image_timeout: `soon` is no timeout"),
    ] {
        check_cloud(
            &format!("{{auth: {{auth_url: 'https://c.example', username: u, password: x}}, {option}}}"),
            &[message],
        );
    }
}

#[test]
fn an_option_of_a_service_that_does_nothing_is_warned_of() {
    for (option, warning) in [
        ("comptue_region_name: two", "comptue_region_name is for a service of exactly this type"),
        ("compute_api_version: latest", "compute_api_version says nothing"),
        (
            "image_status_code_retry_delay: 1",
            "image_status_code_retry_delay has no effect without image_status_code",
        ),
        ("retriable_status_codes: [503]", "retriable_status_codes has no effect without status_code_retries"),
        ("connect_retry_delay: 2", "connect_retry_delay has no effect without connect_retries"),
    ] {
        let warnings = services(option).warnings;
        assert_eq!(warnings.len(), 1, "{option}: {warnings:?}");
        assert!(warnings[0].contains(warning), "{}", warnings[0]);
    }
    for fine in [
        "connect_retries: 1\n    image_connect_retry_delay: 1",
        "connect_retry_delay: 1\n    image_connect_retries: 3",
        "retriable_status_codes: [503]\n    image_status_code_retries: 3",
        "metric_endpoint_override: https://metric.example",
    ] {
        assert_eq!(services(fine).warnings, [""; 0], "{fine}");
    }
}
