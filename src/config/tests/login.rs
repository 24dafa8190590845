//! Logging in.

use super::*;

#[test]
fn a_password_is_for_a_user_by_id_or_by_name_and_domain() {
    let setup = || Setup::new().vars(PASSWORD);
    let identity = setup().identity();
    assert_eq!(identity.auth_url.to_string(), "https://cloud.example:5000/v3");
    assert_eq!(identity.version, IdentityVersion::V3);
    assert_eq!(identity.scope, Scope::Default);
    assert_password(&identity.method, "hunter2");

    for (vars, user) in [
        ("", ada(default_domain())),
        ("OS_USER_DOMAIN_NAME=Users", ada(Domain::Name("Users".to_owned()))),
        ("OS_USER_DOMAIN_ID=u1\nOS_USER_DOMAIN_NAME=Users", ada(Domain::Id("u1".to_owned()))),
        ("OS_DEFAULT_DOMAIN_NAME=Dflt", ada(Domain::Name("Dflt".to_owned()))),
        ("OS_DOMAIN_NAME=D\nOS_PROJECT_NAME=p", ada(Domain::Name("D".to_owned()))),
        ("OS_DOMAIN_NAME=D", ada(default_domain())),
        (
            // The shared id becomes the user's domain id, which keystoneauth prefers to a name.
            "OS_DOMAIN_ID=d\nOS_PROJECT_NAME=p\nOS_USER_DOMAIN_NAME=Users",
            ada(Domain::Id("d".to_owned())),
        ),
        ("OS_USER_ID=42", User::Id("42".to_owned())),
    ] {
        match setup().vars(vars).identity().method {
            Method::Password { user: found, .. } => assert_eq!(found, user, "{vars}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_token_is_a_login() {
    for vars in ["OS_AUTH_TYPE=token", "OS_AUTH_TYPE=v3token", ""] {
        let setup = Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_TOKEN=gAAAA").vars(vars);
        match setup.identity().method {
            Method::Token(token) => assert_eq!(token, given("gAAAA")),
            other => panic!("{other:?}"),
        }
    }
    let setup = Setup::new().clouds(
        "clouds: {prod: {auth_type: token, auth-token: gAAAA, auth: {auth_url: 'https://c.example', token: no}}}",
    );
    assert!(matches!(setup.identity().method, Method::Token(token) if token == given("no")));
    let setup = Setup::new().vars(PASSWORD).vars("OS_TOKEN=gAAAA");
    assert_password(&setup.identity().method, "hunter2");
}

#[test]
fn an_application_credential_is_by_id_or_by_name_and_user() {
    let base = "OS_AUTH_URL=https://c.example\nOS_APPLICATION_CREDENTIAL_SECRET=hunter2";
    let check = |vars: &str, expected: ApplicationCredential| {
        let identity = Setup::new().vars(base).vars(vars).identity();
        assert_eq!(identity.version, IdentityVersion::V3);
        assert_eq!(identity.scope, Scope::Default);
        match identity.method {
            Method::ApplicationCredential { which, secret } => {
                assert_eq!(which, expected);
                assert_eq!(secret, given("hunter2"));
            }
            other => panic!("{other:?}"),
        }
    };
    check("OS_APPLICATION_CREDENTIAL_ID=a1", ApplicationCredential::Id("a1".to_owned()));
    check(
        "OS_AUTH_TYPE=v3applicationcredential\nOS_APPLICATION_CREDENTIAL_ID=a1",
        ApplicationCredential::Id("a1".to_owned()),
    );
    check(
        "OS_APPLICATION_CREDENTIAL_NAME=deploy\nOS_USER_ID=42",
        ApplicationCredential::Name { name: "deploy".to_owned(), user: User::Id("42".to_owned()) },
    );
    check(
        "OS_APPLICATION_CREDENTIAL_NAME=deploy\nOS_USERNAME=ada\nOS_USER_DOMAIN_ID=d",
        ApplicationCredential::Name { name: "deploy".to_owned(), user: ada(Domain::Id("d".to_owned())) },
    );
}

#[test]
fn an_application_credential_has_no_scope_of_its_own() {
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example\nOS_APPLICATION_CREDENTIAL_ID=a\nOS_APPLICATION_CREDENTIAL_SECRET=s\n\
         OS_PROJECT_NAME=p",
    );
    assert_eq!(setup.identity().scope, Scope::Default);
    assert!(setup.config().warnings[0].starts_with("environment: OS_PROJECT_NAME: ignored"));
}

#[test]
fn a_fixed_token_needs_no_keystone() {
    for auth_type in ["admin_token", "token_endpoint"] {
        let setup = Setup::new().clouds(&format!(
            "clouds: {{prod: {{auth_type: {auth_type}, auth: {{endpoint: 'https://c.example/', token: t}}}}}}"
        ));
        match setup.config().clouds.remove(0).auth {
            Auth::Fixed { endpoint, token } => {
                assert_eq!((endpoint.to_string().as_str(), token), ("https://c.example", given("t")));
            }
            other => panic!("{other:?}"),
        }
    }
    let setup = Setup::new().file("run/token", "hunter2\n").clouds(
        "clouds: {prod: {auth_type: admin_token, auth: {endpoint: 'https://c.example/', token_file: ../run/token}}}",
    );
    match setup.config().clouds.remove(0).auth {
        Auth::Fixed { token: Source::File(path), .. } => assert!(path.ends_with("run/token")),
        other => panic!("{other:?}"),
    }
    check_cloud(
        "{auth_type: admin_token, auth: {endpoint: 'https://c.example', token: t, token_command: [sh]}}",
        &["auth.token_command: clouds.prod.auth.token is set too: keep one of them"],
    );
    check_cloud("{auth_type: admin_token}", &["auth.endpoint: missing", "auth.token: missing"]);
}

#[test]
fn the_identity_version_comes_from_auth_type_key_or_url() {
    use IdentityVersion::{Discover, V2, V3};
    for (url, vars, version) in [
        ("https://c", "", Discover),
        ("https://c/identity", "", Discover),
        ("https://c/identity/v3/", "", V3),
        ("https://c/v2.0", "", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=2", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=2.0", V2),
        ("https://c", "OS_IDENTITY_API_VERSION=3", V3),
        ("https://c", "OS_AUTH_TYPE=v2password", V2),
        ("https://c", "OS_AUTH_TYPE=v3password\nOS_IDENTITY_API_VERSION=2", V3),
    ] {
        let setup =
            Setup::new().vars("OS_USERNAME=ada\nOS_PASSWORD=hunter2").vars(&format!("OS_AUTH_URL={url}"));
        assert_eq!(setup.vars(vars).identity().version, version, "{url} {vars}");
    }
    let numbers = "clouds: {prod: {identity_api_version: 2.0, auth: {auth_url: 'http://127.0.0.1', username: ada, password: 1}}}";
    assert_eq!(Setup::new().clouds(numbers).identity().version, V2);
}

#[test]
fn identity_v2_knows_no_domains_and_tenants_are_projects() {
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example/v2.0\nOS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_TENANT_NAME=t\n\
         OS_USER_DOMAIN_NAME=Default",
    );
    let identity = setup.identity();
    assert_eq!(identity.scope, Scope::Project(Project::Name { name: "t".to_owned(), domain: None }));
    match identity.method {
        Method::Password { user, .. } => {
            assert_eq!(user, User::Name { name: "ada".to_owned(), domain: None })
        }
        other => panic!("{other:?}"),
    }
    let setup =
        Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_TOKEN=t\nOS_AUTH_TYPE=v2token\nOS_TENANT_ID=1");
    assert_eq!(setup.identity().scope, Scope::Project(Project::Id("1".to_owned())));
}

#[test]
fn a_scope_is_a_project_a_domain_the_system_or_none() {
    let by_name = |domain| Scope::Project(Project::Name { name: "p".to_owned(), domain: Some(domain) });
    let named = |name: &str| Domain::Name(name.to_owned());
    check_scope("x: y", &Scope::Default);
    check_scope("unscoped: true", &Scope::Unscoped);
    check_scope("project_id: 0123", &Scope::Project(Project::Id("0123".to_owned())));
    check_scope("project_id: 90617e46, project_name: p", &Scope::Project(Project::Id("90617e46".to_owned())));
    check_scope("tenant-id: 1", &Scope::Project(Project::Id("1".to_owned())));
    check_scope("project_name: p", &by_name(default_domain()));
    check_scope("tenant_name: q, project_name: p", &by_name(default_domain()));
    check_scope("project_name: p, project_domain_name: D", &by_name(named("D")));
    check_scope("project_name: p, domain_name: D", &by_name(named("D")));
    check_scope("project_name: p, default_domain_name: D", &by_name(named("D")));
    check_scope("project-name: p, project-domain-id: d", &by_name(Domain::Id("d".to_owned())));
    check_scope("domain_id: d", &Scope::Domain(Domain::Id("d".to_owned())));
    check_scope("domain_name: D", &Scope::Domain(named("D")));
    check_scope("system_scope: all", &Scope::System);
    check_scope("project_name: '', domain_name: ~, system_scope: all", &Scope::System);
}

#[test]
fn login_options_may_stand_beside_auth() {
    let setup = Setup::new().clouds(
        "clouds: {prod: {auth-url: 'https://c.example', username: bob, password: no, project-name: q, \
         auth: {username: ada, password: 007, project_name: p}}}",
    );
    let identity = setup.identity();
    assert_password(&identity.method, "007");
    let Method::Password { user, .. } = identity.method else { panic!("a password") };
    assert_eq!(user, ada(default_domain()));
    let project = Project::Name { name: "q".to_owned(), domain: Some(default_domain()) };
    assert_eq!(identity.scope, Scope::Project(project));
}

#[test]
fn an_unknown_auth_type_lists_those_there_are() {
    check_cloud(
        "{auth_type: v3voms}",
        &["auth_type: `v3voms` is not supported: there is password, v3password, v2password, token"],
    );
    let setup = Setup::new().vars(PASSWORD).vars("OS_AUTH_TYPE=v2kerberos");
    setup.check_problems(&["environment: OS_AUTH_TYPE: `v2kerberos` is not supported"]);
    let Err(problems) = setup.load() else { panic!("it is not supported") };
    for known in ["v2token", "v3totp", "v3multifactor", "v3oauth2mtlsclientcredential", "http_basic", "none"]
    {
        assert!(problems.to_string().contains(known), "{problems}");
    }
    // Only what this build has is offered.
    assert_eq!(problems.to_string().contains("v3kerberos, v3fedkerb"), cfg!(feature = "kerberos"));
}

#[test]
fn missing_options_are_named_all_at_once() {
    check_cloud(
        "{auth: {project_name: p}}",
        &["auth.auth_url: missing", "auth.username: missing", "auth.password: missing"],
    );
    check_cloud("{}", &["auth.auth_url: missing", "auth.username: missing", "auth.password: missing"]);
    check_cloud("{auth: [x]}", &["auth: not a mapping", "auth.auth_url", "auth.username", "auth.password"]);
    check_cloud(
        "{auth: {auth_url: 'https://c.example', username: [ada], password: hunter2}}",
        &["auth.username: a list or a mapping", "auth.username: missing"],
    );
    check_cloud(
        "{auth_type: token, auth: {auth_url: 'https://c.example'}}",
        &["auth.token: missing: auth_type token needs a token"],
    );
    check_cloud(
        "{auth_type: v3applicationcredential, auth: {auth_url: 'https://c.example'}}",
        &["auth.application_credential_id: missing", "auth.application_credential_secret: missing"],
    );
    check_cloud(
        "{auth: {auth_url: 'https://c.example', application_credential_name: n, application_credential_secret: s}}",
        &["auth.username: missing: an application credential's name is unique per user only"],
    );
    let setup = Setup::new().vars("OS_AUTH_URL=https://c.example\nOS_USERNAME=ada\nOS_PASSWORD=");
    setup.check_problems(&["environment: OS_PASSWORD: missing"]);
}

#[test]
fn auth_url_must_be_a_plain_url() {
    for (url, message) in [
        ("cloud.example", "no usable URL: not an absolute URL"),
        ("ftp://cloud.example", "no usable URL: the scheme must be http or https"),
        ("https://ada:hunter2@cloud.example", "no usable URL: it must not hold a user name or password"),
        ("https://cloud.example?x=hunter2", "no usable URL: it must not have a query"),
        ("https://{region_name}.example", "a template names no value of this cloud"),
        ("https://{region_name.example", "`{` and `}` stand around another value's name"),
    ] {
        check_cloud(
            &format!("{{auth: {{auth_url: '{url}', username: ada, password: hunter2}}}}"),
            &[&format!("auth.auth_url: {message}")],
        );
    }
}

#[test]
fn one_login_has_one_scope() {
    let check = |options: &str, expected: &[&str]| {
        let base = "auth_url: 'https://c.example/v3', username: ada, password: hunter2";
        check_cloud(&format!("{{auth: {{{base}, {options}}}}}"), expected);
    };
    check(
        "project_name: p, system_scope: all",
        &["auth.system_scope: one login has one scope, and clouds.prod.auth.project_name asks for another"],
    );
    check(
        "domain_name: d, system_scope: all",
        &["auth.system_scope: one login has one scope, and clouds.prod.auth.domain_name asks for another"],
    );
    check("project_id: p, unscoped: yes", &["auth.project_id: `unscoped` is set too"]);
    check("system_scope: some", &["auth.system_scope: `some` is no system scope: the only one is `all`"]);
    check(
        "trust_id: t, project_id: p",
        &["auth.trust_id: one login has one scope, and clouds.prod.auth.project_id"],
    );
    check("trust_id: t, unscoped: yes", &["auth.trust_id: `unscoped` is set too"]);
    check("project_id: p, project_name: q, project_domain_name: d", &[]);
}

#[test]
fn identity_v2_takes_one_tenant_and_nothing_else() {
    let base = "OS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_TENANT_ID=1\nOS_TENANT_NAME=t";
    for how in [
        "OS_AUTH_URL=https://c.example/v2.0",
        "OS_AUTH_URL=https://c.example\nOS_IDENTITY_API_VERSION=2",
        "OS_AUTH_URL=https://c.example\nOS_AUTH_TYPE=v2password",
    ] {
        Setup::new().vars(base).vars(how).check_problems(&[
            "environment: OS_TENANT_ID: Identity v2.0 takes a tenant's id or its name, and OS_TENANT_NAME is set too",
        ]);
    }
    let setup = Setup::new()
        .vars("OS_AUTH_URL=https://c.example/v2.0\nOS_USERNAME=ada\nOS_PASSWORD=hunter2\nOS_DOMAIN_NAME=d");
    setup.check_problems(&[
        "environment: OS_DOMAIN_NAME: Identity v2.0 has neither domains nor a system scope",
    ]);
    let setup = Setup::new().vars(
        "OS_AUTH_URL=https://c.example/v2.0\nOS_APPLICATION_CREDENTIAL_ID=a\nOS_APPLICATION_CREDENTIAL_SECRET=s",
    );
    setup.check_problems(&[
        "environment: OS_APPLICATION_CREDENTIAL_ID: Identity v2.0 has no application credentials",
    ]);
}

#[test]
fn versions_that_contradict_each_other_are_problems() {
    let setup = |vars| Setup::new().vars("OS_USERNAME=ada\nOS_PASSWORD=hunter2").vars(vars);
    setup("OS_AUTH_URL=https://c.example/v2.0\nOS_IDENTITY_API_VERSION=3").check_problems(&[
        "environment: OS_AUTH_URL: ends in /v2.0, but identity_api_version asks for Identity v3",
    ]);
    setup("OS_AUTH_URL=https://c.example/v3\nOS_AUTH_TYPE=v2password")
        .check_problems(&["environment: OS_AUTH_URL: ends in /v3, but auth_type asks for Identity v2.0"]);
    setup("OS_AUTH_URL=https://c.example\nOS_IDENTITY_API_VERSION=4")
        .check_problems(&["environment: OS_IDENTITY_API_VERSION: `4` is no Identity API version"]);
}

#[test]
fn problems_of_several_clouds_come_together() {
    let setup = Setup::new()
        .clouds("clouds: {a: {auth: {auth_url: x}}, b: {auth_type: magic}}")
        .toml("listen = 1")
        .cloud("a")
        .cloud("b")
        .cloud("c");
    setup.check_problems(&[
        &format!("{TOML}: listen: "),
        &format!("{CLOUDS}: clouds.a.auth.auth_url: "),
        &format!("{CLOUDS}: clouds.a.auth.username: missing"),
        &format!("{CLOUDS}: clouds.a.auth.password: missing"),
        &format!("{CLOUDS}: clouds.b.auth_type: `magic` is not supported"),
        "command line: --cloud: there is no cloud `c`: there is a, b",
    ]);
}

#[test]
fn a_configuration_is_printed_without_secrets() {
    let config = Setup::new().vars(PASSWORD).config();
    let shown = format!("{config:?}");
    assert!(shown.contains("ada") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let setup = || Setup::new().file("run/secret", "hunter2\n");
    let source = |setup: Setup| match setup.identity().method {
        Method::Password { password: source, .. }
        | Method::Token(source)
        | Method::ApplicationCredential { secret: source, .. } => source,
        other => panic!("{other:?}"),
    };
    let url = "OS_AUTH_URL=https://cloud.example:5000/v3";
    for (vars, clouds) in [
        (format!("{url}\nOS_USERNAME=ada\nOS_PASSWORD_FILE=DIR/run/secret"), ""),
        (format!("{url}\nOS_TOKEN_FILE=DIR/run/secret"), ""),
        (
            format!(
                "{url}\nOS_APPLICATION_CREDENTIAL_ID=a\nOS_APPLICATION_CREDENTIAL_SECRET_FILE=../run/secret"
            ),
            "",
        ),
        (
            String::new(),
            "clouds: {prod: {auth: {auth_url: 'https://h', username: u, password_file: ../run/secret}}}",
        ),
    ] {
        let setup = setup().vars(&vars);
        let setup = if clouds.is_empty() { setup } else { setup.clouds(clouds) };
        let Source::File(path) = source(setup) else { panic!("{vars}{clouds}: a file") };
        assert!(path.ends_with("run/secret"), "{}", path.display());
    }
    setup()
        .vars(&format!("{url}\nOS_USERNAME=ada\nOS_PASSWORD=x\nOS_PASSWORD_FILE=DIR/run/secret"))
        .check_problems(&["environment: OS_PASSWORD_FILE: OS_PASSWORD is set too: keep one of them"]);
    setup()
        .vars(&format!("{url}\nOS_USERNAME=ada\nOS_PASSWORD_FILE=/nowhere"))
        .check_problems(&["environment: OS_PASSWORD_FILE: /nowhere cannot be read"]);
}

const TOTP: &str = "JBSWY3DPEHPK3PXP";

fn auth(setup: Setup) -> Auth {
    setup.config().clouds.remove(0).auth
}

/// A cloud `prod` with these options, and what stands under its `auth` beside the URL.
fn cloud(options: &str, auth: &str) -> Setup {
    Setup::new()
        .clouds(&format!("clouds: {{prod: {{{options} auth: {{auth_url: 'https://c.example', {auth}}}}}}}"))
}

#[test]
fn a_passcode_is_given_or_computed_from_a_secret() {
    let check = |options: &str, expected: Passcode| match cloud("auth_type: v3totp,", options).identity() {
        Identity { method: Method::Totp { user, passcode }, version, .. } => {
            assert_eq!((user, passcode, version), (ada(default_domain()), expected, IdentityVersion::V3));
        }
        other => panic!("{other:?}"),
    };
    check("username: ada, passcode: 123456", Passcode::Given(given("123456")));
    check(&format!("username: ada, totp_secret: {TOTP}"), Passcode::Computed(given(TOTP)));
    let problems = |auth: &str, expected: &[&str]| {
        check_cloud(
            &format!("{{auth_type: v3totp, auth: {{auth_url: 'https://c.example', {auth}}}}}"),
            expected,
        );
    };
    problems("", &["auth.username: missing"]);
    problems("username: ada, totp_secret: 'hunter2!'", &["auth.totp_secret: is not in base32"]);
    problems(
        &format!("username: ada, totp_secret: {TOTP}, passcode: 123456"),
        &["auth.totp_secret: passcode is set too"],
    );
    check_cloud(
        "{auth_type: v3totp, auth: {auth_url: 'https://c.example/v2.0', user_id: u, passcode: 1}}",
        &["auth.auth_url: ends in /v2.0, but auth_type asks for Identity v3"],
    );
}

#[test]
fn several_methods_are_combined_and_what_is_left_is_for_a_receipt() {
    let names = |method: &Method| match method {
        Method::Password { .. } => "password",
        Method::Totp { .. } => "totp",
        Method::Token(_) => "token",
        Method::ApplicationCredential { .. } => "application_credential",
        other => panic!("{other:?}"),
    };
    let check = |options: &str, auth: &str, expected: (&[&str], &[&str])| match cloud(options, auth)
        .identity()
        .method
    {
        Method::MultiFactor { shown, spare } => {
            let shown: Vec<_> = shown.iter().map(names).collect();
            let spare: Vec<_> = spare.iter().map(names).collect();
            assert_eq!((&shown[..], &spare[..]), expected, "{options} {auth}");
        }
        other => panic!("{other:?}"),
    };
    let both = "username: ada, password: hunter2, passcode: 123456";
    for methods in ["[v3password, v3totp]", "'v3password,v3totp'", "'v3password, v3totp'"] {
        let options = format!("auth_type: v3multifactor, auth_methods: {methods},");
        check(&options, both, (&["password", "totp"], &[]));
        check(
            "auth_type: v3multifactor,",
            &format!("auth_methods: {methods}, {both}"),
            (&["password", "totp"], &[]),
        );
    }
    check("auth_type: v3multifactor, auth_methods: [v3totp],", both, (&["totp"], &["password"]));
    check("", both, (&["password"], &["totp"]));
    check("auth_type: v3totp,", both, (&["totp"], &["password"]));
    check(
        "auth_type: v3multifactor, auth_methods: [v3token, v3totp],",
        "token: t, user_id: u, passcode: 1",
        (&["token", "totp"], &[]),
    );
    assert_password(&cloud("auth_type: v2password,", both).identity().method, "hunter2");

    let problems = |methods: &str, auth: &str, expected: &[&str]| {
        check_cloud(
            &format!(
                "{{auth_type: v3multifactor, {methods} auth: {{auth_url: 'https://c.example', {auth}}}}}"
            ),
            expected,
        );
    };
    problems(
        "",
        both,
        &["auth.auth_methods: missing: auth_type v3multifactor needs a list of methods; there is v3pass"],
    );
    for nothing in ["[]", "''", "~"] {
        problems(&format!("auth_methods: {nothing},"), both, &["auth_methods: missing"]);
    }
    problems(
        "auth_methods: [v3password, v3kerberos],",
        both,
        &["auth_methods: `v3kerberos` can't be combined"],
    );
    problems("auth_methods: {v3password: 1},", both, &["auth_methods: missing"]);
    problems("auth_methods: [[1]],", both, &["auth_methods: `` can't be combined"]);
    problems("auth_methods: [v3totp, v3totp],", both, &["auth_methods: `v3totp` is there twice"]);
    problems(
        "auth_methods: [v3password, v3totp],",
        "",
        &["auth.username: missing", "auth.password: missing"],
    );
}

#[test]
fn a_passcode_that_nothing_says_is_typed_by_a_person() {
    let person = |options: &str, auth: &str| {
        let config = cloud(options, auth).config();
        let (identity, place) = config.clouds[0].by_person().expect("it needs one");
        assert!(identity.method.wants_passcode());
        let typed = identity.method.clone().with_passcode(&Secret::new("123456"));
        assert!(!typed.wants_passcode() && typed.person().is_none());
        (identity.method.person().expect("it needs one").cloud.clone(), format!("{place:?}"))
    };
    let (cloud, totp) = person("auth_type: v3totp,", "username: ada");
    assert_eq!(cloud, "prod");
    assert!(totp.contains("/home/.local/state/keyway"), "{totp}");
    let both = "username: ada, password: hunter2";
    let (_, several) = person("auth_type: v3multifactor, auth_methods: [v3password, v3totp],", both);
    let (_, other) = person("auth_type: v3totp,", "username: bob");
    assert!(totp != several && totp != other);

    check_cloud(
        "{auth_type: v3multifactor, auth_methods: [v3applicationcredential, v3totp], auth: {auth_url: \
         'https://c.example', application_credential_id: a, application_credential_secret: s, user_id: u}}",
        &["auth.passcode: missing: what is combined with it"],
    );
}

#[test]
fn a_multi_factor_login_with_an_application_credential_has_its_scope() {
    let setup = cloud(
        "auth_type: v3multifactor, auth_methods: [v3applicationcredential, v3totp],",
        "application_credential_id: a, application_credential_secret: s, user_id: u, passcode: 1, project_id: p",
    );
    assert_eq!(setup.identity().scope, Scope::Default);
    assert!(setup.config().warnings[0].contains("clouds.prod.auth.project_id: ignored"));
}

#[test]
fn an_oauth2_client_has_an_endpoint_an_id_and_a_secret_or_a_certificate() {
    let url = "https://c.example/v3/OS-OAUTH2/token";
    let options = format!("oauth2_endpoint: '{url}', oauth2_client_id: c1");
    let setup =
        cloud("auth_type: v3oauth2clientcredential,", &format!("{options}, oauth2_client_secret: hunter2"));
    match setup.identity() {
        Identity {
            method: Method::OAuth2 { endpoint, client_id, client_secret }, scope, version, ..
        } => {
            assert_eq!((endpoint.to_string().as_str(), client_id.as_str()), (url, "c1"));
            assert_eq!(
                (client_secret, scope, version),
                (given("hunter2"), Scope::Default, IdentityVersion::V3)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(setup.config().clouds[0].endpoint_overrides.is_empty(), "oauth2 is no service");
    let all = [
        "auth.oauth2_endpoint: missing",
        "auth.oauth2_client_id: missing",
        "auth.oauth2_client_secret: missing",
    ];
    let missing = |kind: &str, auth: &str, expected: &[&str]| {
        check_cloud(
            &format!("{{auth_type: {kind}, auth: {{auth_url: 'https://c.example', {auth}}}}}"),
            expected,
        );
    };
    missing("v3oauth2clientcredential", "", &all);
    missing("v3oauth2clientcredential", &format!("{options}, oauth2_client_secret: ''"), &all[2..]);

    let mtls = "v3oauth2mtlsclientcredential";
    missing(mtls, &options, &["cert: missing: auth_type v3oauth2mtlsclientcredential logs in by a client"]);
    let by_cert =
        |options: &str| cloud(&format!("auth_type: {mtls}, cert: ../c.pem,"), options).file("c.pem", "x");
    match by_cert(&options).identity().method {
        Method::OAuth2Mtls { endpoint, client_id } => {
            assert_eq!((endpoint.to_string().as_str(), client_id.as_str()), (url, "c1"));
        }
        other => panic!("{other:?}"),
    }
    by_cert(&options.replace("https:", "http:"))
        .check_problems(&[&format!("{CLOUDS}: clouds.prod.auth.oauth2_endpoint: is plain http")]);
}

#[test]
fn a_consumer_has_two_keys_and_two_secrets() {
    let options = "consumer_key: c1, access_key: a1";
    let secrets = "consumer_secret: hunter2, access_secret_file: ../run/secret";
    let setup = cloud("auth_type: v3oauth1,", &format!("{options}, {secrets}, project_id: p"))
        .file("run/secret", "hunter3\n");
    let identity = setup.identity();
    assert_eq!((&identity.scope, identity.version), (&Scope::Default, IdentityVersion::V3));
    match identity.method {
        Method::OAuth1 { consumer_key, consumer_secret, access_key, access_secret } => {
            assert_eq!((consumer_key.as_str(), access_key.as_str()), ("c1", "a1"));
            assert_eq!(consumer_secret, given("hunter2"));
            assert!(matches!(access_secret, Source::File(_)), "{access_secret:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(setup.config().warnings[0].contains("clouds.prod.auth.project_id: ignored"));
    let variables = "OS_AUTH_URL=https://c.example\nOS_AUTH_TYPE=v3oauth1\nOS_CONSUMER_KEY=c1\n\
                     OS_CONSUMER_SECRET=hunter2\nOS_ACCESS_KEY=a1\nOS_ACCESS_SECRET=hunter3";
    assert!(matches!(Setup::new().vars(variables).identity().method, Method::OAuth1 { .. }));
    check_cloud(
        "{auth_type: v3oauth1, auth: {auth_url: 'https://c.example'}}",
        &[
            "auth.consumer_key: missing",
            "auth.consumer_secret: missing",
            "auth.access_key: missing",
            "auth.access_secret: missing",
        ],
    );
    check_cloud(
        &format!(
            "{{auth_type: v3oauth1, auth: {{auth_url: 'https://c.example/v2.0', {options}, consumer_secret: a, access_secret: b}}}}"
        ),
        &["auth.auth_url: ends in /v2.0, but auth_type asks for Identity v3"],
    );
}

#[test]
fn services_without_keystone_have_an_endpoint_or_overrides() {
    let cloud = |options: &str| Setup::new().clouds(&format!("clouds: {{prod: {{{options}}}}}"));
    for auth_type in ["none", "None"] {
        match auth(cloud(&format!("auth_type: {auth_type}, auth: {{endpoint: 'http://127.0.0.1:6385'}}"))) {
            Auth::None { endpoint } => assert_eq!(endpoint.unwrap().to_string(), "http://127.0.0.1:6385"),
            other => panic!("{other:?}"),
        }
    }
    let setup = cloud("auth_type: none, baremetal_endpoint_override: 'http://127.0.0.1:6385'");
    assert_eq!(setup.config().clouds[0].auth, Auth::None { endpoint: None });
    check_cloud("{auth_type: none}", &["auth.endpoint: missing: auth_type none needs"]);
    check_cloud("{auth_type: none, auth: {endpoint: x}}", &["auth.endpoint: no usable URL"]);

    match auth(cloud(
        "auth_type: http_basic, auth: {endpoint: 'https://c.example', username: ada, password: hunter2}",
    )) {
        Auth::Basic { endpoint, username, password } => {
            assert_eq!(endpoint.unwrap().to_string(), "https://c.example");
            assert_eq!((username.as_str(), password), ("ada", given("hunter2")));
        }
        other => panic!("{other:?}"),
    }
    check_cloud(
        "{auth_type: http_basic}",
        &["auth.endpoint: missing", "auth.username: missing", "auth.password: missing"],
    );
    check_cloud(
        "{auth_type: http_basic, auth: {endpoint: 'https://c.example', username: 'a:b', password: hunter2}}",
        &["auth.username: has a colon"],
    );
}

#[test]
fn a_tokenless_login_has_a_certificate_and_one_scope() {
    let setup = |options: &str| {
        Setup::new().file("c.pem", "x").clouds(&format!(
            "clouds: {{prod: {{auth_type: v3tokenlessauth, cert: ../c.pem, auth: {{{options}}}}}}}"
        ))
    };
    let problems = |options: &str, expected: &str| {
        setup(options).check_problems(&[&format!("{CLOUDS}: clouds.prod.{expected}")]);
    };
    problems("auth_url: 'https://c.example'", "auth.project_id: missing: auth_type v3tokenlessauth needs");
    problems("auth_url: 'https://c.example', system_scope: all", "auth.project_id: missing");
    problems("auth_url: 'http://c.example', project_id: p", "auth.auth_url: is plain http");
    problems(
        "auth_url: 'https://c.example', project_name: pr\u{f6}",
        "auth.project_id: missing: no header field",
    );
    check_cloud(
        "{auth_type: v3tokenlessauth, auth: {auth_url: 'https://c.example', domain_id: d}}",
        &["cert: missing: auth_type v3tokenlessauth logs in by a client certificate"],
    );
    for (options, url, scope) in [
        ("project_id: p", "https://c.example", Scope::Project(Project::Id("p".to_owned()))),
        ("domain_name: d", "https://c.example/v3", Scope::Domain(Domain::Name("d".to_owned()))),
    ] {
        match auth(setup(&format!("auth_url: '{url}', {options}"))) {
            Auth::Tokenless { auth_url, scope: found } => {
                assert_eq!((auth_url.to_string().as_str(), found), ("https://c.example/v3", scope));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_trust_is_a_scope() {
    check_scope("trust_id: t1", &Scope::Trust("t1".to_owned()));
    let setup = Setup::new().vars(PASSWORD).vars("OS_TRUST_ID=t1");
    assert_eq!(setup.identity().scope, Scope::Trust("t1".to_owned()));
}

#[test]
fn a_secret_may_come_from_a_command_or_from_systemd() {
    let setup = || Setup::new().file("run/secret", "hunter2\n");
    let url = "OS_AUTH_URL=https://cloud.example:5000/v3\nOS_USERNAME=ada";
    let source = |setup: Setup| match setup.identity().method {
        Method::Password { password, .. } => password,
        other => panic!("{other:?}"),
    };
    for (vars, clouds) in [
        (format!("{url}\nOS_PASSWORD_COMMAND=/bin/sh -c 'cat \"$0\"' DIR/run/secret"), ""),
        (format!("{url}\nOS_PASSWORD_COMMAND=sh -c 'cat \"$0\"' DIR/run/secret\nPATH=/nowhere:/bin"), ""),
        (
            String::new(),
            "clouds: {prod: {auth: {auth_url: 'https://h', username: u, password_command: [sh, -c, 'echo hunter2']}}}",
        ),
        (
            String::new(),
            "clouds: {prod: {password_command: 'sh -c \"echo hunter2\"', auth: {auth_url: 'https://h', username: u}}}",
        ),
    ] {
        let setup = setup().vars(&vars);
        let source = source(if clouds.is_empty() { setup } else { setup.clouds(clouds) });
        assert!(matches!(source, Source::Command(_)), "{vars}{clouds}: {source:?}");
        assert!(!format!("{source:?}").contains("hunter2"), "{source:?}");
    }
    let vars = format!("{url}\nOS_PASSWORD_CREDENTIAL=secret\nCREDENTIALS_DIRECTORY=DIR/run");
    let Source::File(path) = source(setup().vars(&vars)) else { panic!("a file") };
    assert!(path.ends_with("run/secret"), "{}", path.display());
    for (method, option) in [("token", "token"), ("v3applicationcredential", "application_credential_secret")]
    {
        let auth = format!("auth_url: 'https://h', application_credential_id: a, {option}_command: [sh]");
        let clouds = format!("clouds: {{prod: {{auth_type: {method}, auth: {{{auth}}}}}}}");
        setup().clouds(&clouds).config();
    }
}

#[test]
fn each_wrong_place_of_a_secret_gets_one_message() {
    let check = |options: &str, expected: &[&str]| {
        check_cloud(&format!("{{auth: {{auth_url: 'https://h', username: u, {options}}}}}"), expected);
    };
    let command = "auth.password_command: ";
    check("password_command: []", &[&format!("{command}is empty: write a program")]);
    check("password_command: '  '", &[&format!("{command}is empty: write a program")]);
    check("password_command: \"sh -c 'x\"", &[&format!("{command}a quote is not closed")]);
    check("password_command: {sh: x}", &[&format!("{command}neither a list nor a text")]);
    check("password_command: [sh, [hunter2]]", &[&format!("{command}not a list of texts")]);
    check("password_command: hunter2 hunter2", &[&format!("{command}there is no such program in ")]);
    check("password_command: /no/program", &[&format!("{command}there is no program /no/program")]);
    check("password_command: /etc/passwd", &[&format!("{command}/etc/passwd is no program")]);
    check("password_credential: p", &["auth.password_credential: there is no $CREDENTIALS_DIRECTORY"]);
    check("password_credential: ../p", &["auth.password_credential: `../p` is no credential's name"]);
    check(
        "password_env: HUNTER",
        &["auth.password_env: unknown: a secret may come from password_file, password_command"],
    );
    check("password_keyring: k", &["auth.password_keyring: unknown: a secret may come from"]);
    check(
        "password: hunter2, password_file: f, password_command: [hunter2]",
        &[
            "auth.password_command: clouds.prod.auth.password and clouds.prod.auth.password_file are set too: keep one",
        ],
    );
    check(
        "password_file: f, password_credential: c",
        &["auth.password_credential: clouds.prod.auth.password_file is set too: keep one of them"],
    );
    check("password: hunter2, password_cmd: x", &["auth.password_cmd: unknown"]);
    check("user_domain_name: d", &["auth.password: missing"]);
}
