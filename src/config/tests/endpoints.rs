//! Endpoints and TLS.

use super::*;

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
        .vars("OS_IMAGE_ENDPOINT_OVERRIDE=nowhere\nOS_VOLUME_ENDPOINT_OVERRIDE=https://v/%(project_id)s");
    setup.check_problems(&[
        "environment: OS_IMAGE_ENDPOINT_OVERRIDE: no usable URL: not an absolute URL",
        "environment: OS_VOLUME_ENDPOINT_OVERRIDE: templates in URLs are not supported yet",
    ]);
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
