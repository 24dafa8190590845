//! Logging in at an identity provider.

use std::time::Duration;

use super::*;
use crate::keystone::{
    Challenge, CodeSource, Federated, Grant, OAuthClient, ProviderEndpoint, ProviderUrl, ProviderUser,
    TokenKind,
};

const IDP: &str = "identity_provider: idp, protocol: openid";
const CLIENT: &str =
    "client_id: c, client_secret: hunter2, access_token_endpoint: 'https://idp.example/token/'";

#[test]
fn a_browsers_login_has_keystoneauths_defaults_and_stays_on_this_machine() {
    let websso = |more: &str| federated("v3websso", &format!("{IDP}{more}")).grant;
    let expected = |redirect_host: &str, redirect_port, seconds, username: Option<&str>| Grant::WebSso {
        redirect_host: redirect_host.to_owned(),
        redirect_port,
        login_timeout: Duration::from_secs(seconds),
        username: username.map(str::to_owned),
    };
    assert_eq!(websso(""), expected("localhost", 9990, 60, None));
    let all = ", redirect_host: '[::1]', redirect_port: 8000, login_timeout: 300, username: ada";
    assert_eq!(websso(all), expected("[::1]", 8000, 300, Some("ada")));
    for (more, problem) in [
        ("redirect_host: keyway.example", "auth.redirect_host: `keyway.example` is not this machine"),
        ("redirect_host: 0.0.0.0", "auth.redirect_host: `0.0.0.0` is not this machine"),
        ("redirect_port: 0", "auth.redirect_port: `0` is no number from 1 to 65535"),
        ("redirect_port: 70000", "auth.redirect_port: `70000` is no number"),
        ("login_timeout: 1h", "auth.login_timeout: `1h` is no number from 1 to 3600"),
    ] {
        check("v3websso", &format!("{IDP}, {more}"), &[problem]);
    }
    check("v3websso", "", &["auth.identity_provider: missing", "auth.protocol: missing"]);
}

#[test]
fn a_code_is_brought_to_this_machine_or_written_down() {
    let auth = format!("{IDP}, client_id: c, discovery_endpoint: 'https://idp.example/d'");
    let code = |more: &str| match federated("v3oidcauthcode", &format!("{auth}, {more}")).grant {
        Grant::Code { redirect_uri, from, .. } => (redirect_uri, from),
        other => panic!("{other:?}"),
    };
    let here = "http://localhost:9990/callback";
    let (redirect_uri, from) = code(&format!("redirect_uri: '{here}', login_timeout: 300"));
    assert_eq!(redirect_uri.as_deref(), Some(here));
    let expected = CodeSource::Browser {
        authorization: ProviderEndpoint::Discovered(url("https://idp.example/d")),
        redirect: url(here),
        login_timeout: Duration::from_secs(300),
    };
    assert_eq!(from, expected);
    for name in ["code", "authorization_code"] {
        assert_eq!(code(&format!("{name}: hunter2")), (None, CodeSource::Given(given("hunter2"))));
    }
    let wrong = |more: &str, expected: &[&str]| check("v3oidcauthcode", &format!("{auth}{more}"), expected);
    wrong("", &["auth.redirect_uri: missing: set it to an address on this machine"]);
    for there in
        ["https://keyway.example/callback", "http://keyway.example/", "http://localhost/?a=b", "localhost"]
    {
        wrong(
            &format!(", redirect_uri: '{there}'"),
            &["auth.redirect_uri: is no http address on this machine"],
        );
    }
    check(
        "v3oidcauthcode",
        &format!(
            "{IDP}, client_id: c, access_token_endpoint: 'https://idp.example/t', redirect_uri: '{here}'"
        ),
        &["auth.authorization_endpoint: missing: set it to where people log in"],
    );
}

/// A cloud's entry with this `auth_type` and these options of `auth`.
fn options(auth_type: &str, auth: &str) -> String {
    format!("{{auth_type: {auth_type}, auth: {{auth_url: 'https://c.example', {auth}}}}}")
}

#[track_caller]
fn federated(auth_type: &str, auth: &str) -> Federated {
    let setup = Setup::new().clouds(&format!("clouds: {{prod: {}}}", options(auth_type, auth)));
    let identity = setup.identity();
    assert_eq!(identity.version, IdentityVersion::V3);
    match identity.method {
        Method::Federated(federated) => *federated,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check(auth_type: &str, auth: &str, expected: &[&str]) {
    check_cloud(&options(auth_type, auth), expected);
}

fn url(text: &str) -> ProviderUrl {
    ProviderUrl::parse(text).expect("a URL")
}

#[test]
fn a_client_of_a_provider_has_keystoneauths_options() {
    let auth = format!("{IDP}, {CLIENT}");
    let federated_by = federated("v3oidcclientcredentials", &auth);
    assert_eq!((&*federated_by.identity_provider, &*federated_by.protocol), ("idp", "openid"));
    let client = |token_endpoint, scope: &str, token_kind| {
        let secret = Some(given("hunter2"));
        OAuthClient { id: "c".to_owned(), secret, scope: scope.to_owned(), token_endpoint, token_kind }
    };
    let at = || ProviderEndpoint::At(url("https://idp.example/token/"));
    let grant = |more: &str| federated("v3oidcclientcredentials", &format!("{auth}, {more}")).grant;
    for (more, expected) in [
        ("", client(at(), "openid profile", TokenKind::Access)),
        ("openid_scope: openid", client(at(), "openid", TokenKind::Access)),
        ("scope: openid email", client(at(), "openid email", TokenKind::Access)),
        ("openid_scope: a, scope: b", client(at(), "a", TokenKind::Access)),
        ("access_token_type: id_token", client(at(), "openid profile", TokenKind::Id)),
        ("access_token_type: access_token", client(at(), "openid profile", TokenKind::Access)),
        // What a document says gives way to what is written.
        ("discovery_endpoint: 'https://idp.example/d'", client(at(), "openid profile", TokenKind::Access)),
    ] {
        assert_eq!(grant(more), Grant::ClientCredentials(expected), "{more}");
    }
    let discovered =
        format!("{IDP}, client_id: c, client_secret: hunter2, discovery_endpoint: 'https://idp.example/d'");
    let endpoint = ProviderEndpoint::Discovered(url("https://idp.example/d"));
    let expected = client(endpoint, "openid profile", TokenKind::Access);
    assert_eq!(federated("v3oidcclientcredentials", &discovered).grant, Grant::ClientCredentials(expected));
}

#[test]
fn a_password_at_a_provider_may_need_a_passcode_and_its_client_no_secret() {
    let auth = format!(
        "{IDP}, client_id: c, discovery_endpoint: 'http://127.0.0.1/d', username: ada, password: hunter2"
    );
    match federated("v3oidcpassword", &auth).grant {
        Grant::Password { client, username, password, otp: None } => {
            assert_eq!((client.secret, username, password), (None, "ada".to_owned(), given("hunter2")));
        }
        other => panic!("{other:?}"),
    }
    match federated("v3oidcpassword", &format!("{auth}, idp_otp_key: totp, passcode: 123456")).grant {
        Grant::Password { otp, .. } => {
            assert_eq!(otp, Some(("totp".to_owned(), Passcode::Given(given("123456")))));
        }
        other => panic!("{other:?}"),
    }
    // Where nothing says which one, a person types it.
    match federated("v3oidcpassword", &format!("{auth}, idp_otp_key: totp")) {
        Federated {
            grant: Grant::Password { otp: Some((name, Passcode::Typed(typed))), .. },
            person,
            ..
        } => {
            assert_eq!((name.as_str(), typed.cloud.as_str(), person.place.is_some()), ("totp", "prod", true));
        }
        other => panic!("{other:?}"),
    }
    check(
        "v3oidcpassword",
        &format!("{auth}, idp_otp_key: password"),
        &["auth.idp_otp_key: `password` is another field"],
    );
}

#[test]
fn an_access_token_is_all_that_its_login_needs() {
    let Grant::AccessToken(token) =
        federated("v3oidcaccesstoken", &format!("{IDP}, access_token: hunter2")).grant
    else {
        panic!("it is another one");
    };
    assert_eq!(token, given("hunter2"));
    check(
        "v3oidcaccesstoken",
        "",
        &["auth.identity_provider: missing", "auth.protocol: missing", "auth.access_token: missing"],
    );
    let both = format!("{IDP}, access_token: hunter2, access_token_file: /f");
    check("v3oidcaccesstoken", &both, &["auth.access_token_file: clouds.prod.auth.access_token is set too"]);
}

#[test]
fn what_a_federated_login_misses_or_has_wrong_is_named() {
    check(
        "v3oidcpassword",
        "",
        &[
            "auth.identity_provider: missing: set it to Keystone's name",
            "auth.protocol: missing",
            "auth.client_id: missing",
            "auth.discovery_endpoint: missing: set it to the identity provider's discovery document, such as",
            "auth.username: missing: auth_type v3oidcpassword",
            "auth.password: missing",
        ],
    );
    check(
        "v3oidcclientcredentials",
        IDP,
        &["auth.client_id: missing", "auth.client_secret: missing", "auth.discovery_endpoint: missing"],
    );
    let client = |more: &str, expected: &[&str]| {
        check("v3oidcclientcredentials", &format!("{IDP}, {CLIENT}, {more}"), expected);
    };
    client(
        "access_token_type: hunter",
        &["auth.access_token_type: `hunter` is neither access_token nor id_token"],
    );
    client("client_secret_file: /f", &["auth.client_secret_file: clouds.prod.auth.client_secret is set too"]);
    client(
        "discovery_endpoint: 'http://idp.example/d'",
        &["auth.discovery_endpoint: no usable URL: it must be https"],
    );
    client(
        "discovery_endpoint: 'https://u:hunter2@idp.example/d'",
        &["auth.discovery_endpoint: no usable URL: it must not hold"],
    );
    client(
        "discovery_endpoint: idp.example",
        &["auth.discovery_endpoint: no usable URL: not an absolute URL"],
    );
    check(
        "v3oidcaccesstoken",
        "identity_provider: .., protocol: openid, access_token: hunter2",
        &["auth.identity_provider: is no name that a path can hold"],
    );
    let v2 = "{auth_type: v3oidcaccesstoken, auth: {auth_url: 'https://c.example/v2.0', identity_provider: i, protocol: p, access_token: t}}";
    check_cloud(v2, &["auth.auth_url: ends in /v2.0, but auth_type asks for Identity v3"]);
    let unknown =
        Setup::new().vars("OS_IDENTITY_PROVIDER=i\nOS_AUTH_TYPE=v3oidc\nOS_AUTH_URL=https://c.example");
    let shown = unknown.load().map(|_| ()).unwrap_err().to_string();
    assert!(shown.contains("v3oidcpassword, v3oidcclientcredentials, v3oidcaccesstoken"), "{shown}");
}

#[test]
fn a_login_with_a_code_leaves_its_token_in_the_state_directory() {
    let auth = format!("{IDP}, client_id: c, discovery_endpoint: 'https://idp.example/d'");
    let device = |auth: &str| match federated("v3oidcdeviceauthz", auth) {
        Federated { grant: Grant::Device { client, endpoint, challenge }, person, .. } => {
            assert_eq!((person.cloud.as_str(), client.secret), ("prod", None));
            assert!(person.place.is_some());
            (client.token_endpoint, endpoint, challenge)
        }
        other => panic!("{other:?}"),
    };
    let discovered = || ProviderEndpoint::Discovered(url("https://idp.example/d"));
    assert_eq!(device(&auth), (discovered(), discovered(), None));
    let (_, _, challenge) = device(&format!("{auth}, code_challenge_method: S256"));
    assert_eq!(challenge, Some(Challenge::S256));
    let (_, endpoint, challenge) = device(&format!(
        "{auth}, code_challenge_method: plain, device_authorization_endpoint: 'https://idp.example/device'"
    ));
    assert_eq!(
        (endpoint, challenge),
        (ProviderEndpoint::At(url("https://idp.example/device")), Some(Challenge::Plain))
    );

    let wrong =
        |more: &str, expected: &[&str]| check("v3oidcdeviceauthz", &format!("{auth}, {more}"), expected);
    wrong("code_challenge_method: s256", &["auth.code_challenge_method: `s256` is neither S256 nor plain"]);
    wrong(
        "device_authorization_endpoint: 'http://idp.example/'",
        &["auth.device_authorization_endpoint: no usable URL: it must be https"],
    );
    check("v3oidcdeviceauthz", &format!("{IDP}, client_id: c"), &["auth.discovery_endpoint: missing"]);
    check(
        "v3oidcdeviceauthz",
        &format!("{IDP}, client_id: c, discovery_endpoint: x"),
        &["auth.discovery_endpoint: no usable"],
    );
    check(
        "v3oidcdeviceauthz",
        &format!("{IDP}, client_id: c, access_token_endpoint: 'https://idp.example/t'"),
        &["auth.device_authorization_endpoint: missing: set it to where"],
    );

    let clouds = format!("clouds: {{prod: {}}}", options("v3oidcdeviceauthz", &auth));
    let place = |setup: Setup| {
        let config = setup.clouds(&clouds).config();
        format!("{:?}", config.clouds[0].by_person().expect("it needs one").1)
    };
    let home = place(Setup::new());
    assert!(home.contains("/home/.local/state/keyway"), "{home}");
    assert!(place(Setup::new().toml("[facade]\nstate = \"none\"")).contains("/home/.local/state/keyway"));
    let named = Setup::new().toml("[facade]\nstate = \"/var/lib/keyway\"");
    // As `keyway run` does, whose own tokens end with it.
    assert!(place(named.vars("KEYWAY_FACADE_STATE=none")).contains("/var/lib/keyway"));
}

#[test]
fn clouds_that_log_in_alike_share_a_persons_login_and_others_do_not() {
    let entry = |name: &str, auth: &str| {
        format!(
            "  {name}: {}\n",
            options("v3oidcdeviceauthz", &format!("discovery_endpoint: 'https://idp.example/d', {auth}"))
        )
    };
    let clouds = [
        entry("a", &format!("{IDP}, client_id: c, project_id: p1")),
        entry("b", &format!("{IDP}, client_id: c, project_id: p2")),
        entry("c", &format!("{IDP}, client_id: d")),
        entry("d", "identity_provider: other, protocol: openid, client_id: c"),
    ];
    let mut setup = Setup::new().clouds(&format!("clouds:\n{}", clouds.concat()));
    for name in ["a", "b", "c", "d"] {
        setup = setup.cloud(name);
    }
    let config = setup.config();
    let places: Vec<_> =
        config.clouds.iter().map(|cloud| cloud.by_person().expect("it needs one").1).collect();
    assert_eq!(places[0], places[1]);
    assert!(places[0] != places[2] && places[0] != places[3] && places[2] != places[3]);
}

const SAML: &str = "identity_provider: idp, protocol: saml2, identity_provider_url: 'https://idp.example/ECP?a=b', \
                    username: ada, password: hunter2";
const SERVICE_PROVIDER: &str =
    "service_provider_endpoint: 'https://c.example/Shibboleth.sso/ADFS', service_provider_entity_id: 'urn:c'";

#[test]
fn a_saml_provider_has_keystoneauths_options() {
    let user = || ProviderUser {
        endpoint: url("https://idp.example/ECP?a=b"),
        username: "ada".to_owned(),
        password: given("hunter2"),
    };
    assert_eq!(federated("v3samlpassword", SAML).grant, Grant::Saml(user()));
    let by_command = SAML.replace("password: hunter2", "password_command: /bin/true");
    assert!(
        matches!(federated("v3samlpassword", &by_command).grant, Grant::Saml(user) if user.password != given("hunter2"))
    );
    let expected = Grant::Adfs {
        user: user(),
        service_provider: url("https://c.example/Shibboleth.sso/ADFS"),
        entity_id: "urn:c".to_owned(),
    };
    assert_eq!(federated("v3adfspassword", &format!("{SAML}, {SERVICE_PROVIDER}")).grant, expected);
}

#[test]
fn what_a_saml_login_misses_or_has_wrong_is_named() {
    let missing = [
        "auth.identity_provider: missing",
        "auth.protocol: missing: set it to the name of the identity provider's protocol at Keystone, which often is openid or saml2",
        "auth.identity_provider_url: missing: set it to where",
        "auth.username: missing: set it to the user's name at the identity provider",
        "auth.password: missing",
    ];
    check("v3samlpassword", "", &missing);
    let more = [
        "auth.service_provider_endpoint: missing: set it to where",
        "auth.service_provider_entity_id: missing",
    ];
    check("v3adfspassword", "", &[&missing[..], &more[..]].concat());

    let saml =
        |from: &str, to: &str, expected: &[&str]| check("v3samlpassword", &SAML.replace(from, to), expected);
    let address = "https://idp.example/ECP?a=b";
    saml(address, "http://idp.example/", &["auth.identity_provider_url: no usable URL: it must be https"]);
    saml(
        address,
        "https://u:hunter2@idp.example/",
        &["auth.identity_provider_url: no usable URL: it must not hold"],
    );
    saml(address, "/ECP", &["auth.identity_provider_url: no usable URL: not an absolute URL"]);
    saml("ada", "'a:da'", &["auth.username: has a colon"]);
    saml("idp,", "..,", &["auth.identity_provider: is no name that a path can hold"]);
    let both = "hunter2, password_file: /f";
    saml("hunter2", both, &["auth.password_file: clouds.prod.auth.password is set too"]);

    let adfs = |from: &str, to: &str, expected: &[&str]| {
        check("v3adfspassword", &format!("{SAML}, {SERVICE_PROVIDER}").replace(from, to), expected);
    };
    let place = "https://c.example/Shibboleth.sso/ADFS";
    let elsewhere =
        &["auth.service_provider_endpoint: is not at auth_url's scheme, host and port (https://c.example)"];
    adfs(place, "https://other.example/ADFS", elsewhere);
    adfs(place, "https://c.example:8443/ADFS", elsewhere);
    adfs(place, "http://127.0.0.1/ADFS", elsewhere);
    adfs(
        place,
        "http://c.example/ADFS",
        &["auth.service_provider_endpoint: no usable URL: it must be https"],
    );
    // By WS-Trust, a colon is a character as any other.
    assert!(matches!(
        federated("v3adfspassword", &format!("{SAML}, {SERVICE_PROVIDER}").replace("ada", "'a:da'")).grant,
        Grant::Adfs { user, .. } if user.username == "a:da"
    ));
    let v2 = format!("{{auth_type: v3samlpassword, auth: {{auth_url: 'https://c.example/v2.0', {SAML}}}}}");
    check_cloud(&v2, &["auth.auth_url: ends in /v2.0, but auth_type asks for Identity v3"]);
}
