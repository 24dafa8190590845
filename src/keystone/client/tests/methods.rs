//! What each method of a login shows, and what comes of the answer.

use super::*;

/// A client with this method, and what it sends: each request with its headers that matter here.
fn client_with(
    method: Credentials,
    answer: impl Fn(usize, &Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
) -> (Client, Arc<Mutex<Vec<Asked>>>) {
    let identity = Identity {
        auth_url: BaseUrl::parse("http://k.example/v3").unwrap(),
        version: IdentityVersion::V3,
        method,
        scope: Scope::Project(Project::Id("p1".to_owned())),
    };
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let script = move |request: &Request<Bytes>| {
        let header = |name: &str| {
            request.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let mut seen = seen.lock().unwrap();
        seen.push(Asked {
            line: format!("{} {}", request.method(), request.uri()),
            authorization: header("authorization"),
            receipt: header("openstack-auth-receipt"),
            token: header("x-auth-token"),
            subject: header("x-subject-token"),
            body: String::from_utf8(request.body().to_vec()).unwrap(),
        });
        answer(seen.len(), request)
    };
    (Client::with_transport(Transport::Scripted(Arc::new(script)), identity, DEADLINE), asked)
}

struct Asked {
    line: String,
    authorization: String,
    receipt: String,
    token: String,
    subject: String,
    body: String,
}

impl Asked {
    fn auth(&self) -> Value {
        serde_json::from_str::<Value>(&self.body).unwrap()["auth"].take()
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl ToString) -> Response<Bytes> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Bytes::from(body.to_string())).unwrap()
}

fn issued(id: &str) -> Response<Bytes> {
    answer(201, &[("X-Subject-Token", id)], v3_token())
}

fn receipt(id: &str, methods: &[&str], rules: &Value) -> Response<Bytes> {
    let body = json!({"receipt": {"methods": methods}, "required_auth_methods": rules});
    answer(401, &[("Openstack-Auth-Receipt", id)], body)
}

fn ada() -> User {
    User::Id("ada".to_owned())
}

fn password() -> Credentials {
    Credentials::Password { user: ada(), password: Secret::new("s3cret").into() }
}

fn passcode(code: &str) -> Credentials {
    Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Given(Secret::new(code).into()) }
}

fn by_id() -> Scope {
    Scope::Project(Project::Id("p1".to_owned()))
}

#[tokio::test]
async fn several_methods_are_shown_at_once() {
    let method = Credentials::MultiFactor { shown: vec![password(), passcode("123456")], spare: vec![] };
    let (client, asked) = client_with(method, |count, _| issued(&format!("t{count}")));
    assert_eq!(client.authenticate(&by_id()).await.unwrap().id.expose(), "t2");
    let asked = asked.lock().unwrap();
    let first = asked[0].auth();
    assert_eq!(first["identity"]["methods"], json!(["password", "totp"]));
    assert_eq!(first["identity"]["password"]["user"], json!({"id": "ada", "password": "s3cret"}));
    assert_eq!(first["identity"]["totp"]["user"], json!({"id": "ada", "passcode": "123456"}));
    // The code is good once, so an unscoped token stands for it.
    assert_eq!(first["scope"], "unscoped");
    let second = asked[1].auth();
    assert_eq!(second["identity"], json!({"methods": ["token"], "token": {"id": "t1"}}));
    assert_eq!(second["scope"], json!({"project": {"id": "p1"}}));
}

#[tokio::test]
async fn a_receipt_is_answered_with_what_is_missing_and_the_scope() {
    let rules = json!([["password", "x509"], ["totp", "password"]]);
    let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("123456")] };
    let (client, asked) = client_with(method, move |count, _| match count {
        1 => receipt("r1", &["password"], &rules),
        count => issued(&format!("t{count}")),
    });
    assert_eq!(client.authenticate(&by_id()).await.unwrap().id.expose(), "t3");
    let asked = asked.lock().unwrap();
    let receipts: Vec<_> = asked.iter().map(|asked| asked.receipt.as_str()).collect();
    assert_eq!(receipts, ["", "r1", ""]);
    assert_eq!(asked[1].auth()["identity"]["methods"], json!(["totp"]));
    assert_eq!(asked[1].auth()["scope"], "unscoped");
    assert_eq!(asked[2].auth()["scope"], json!({"project": {"id": "p1"}}));
}

#[tokio::test]
async fn a_method_that_keyway_has_nothing_for_is_named() {
    for (rules, expected) in [
        (json!([["password", "totp"]]), "accepted password and wants totp to log"),
        (json!([["password", "totp"], ["password", "x509", "k\"x\""]]), "wants totp, or x509 to log"),
        (json!([]), "wants another method to log"),
        (json!([["password"]]), "wants another method to log"),
    ] {
        let (client, asked) = client_with(password(), move |_, _| receipt("r1", &["password"], &rules));
        let error = client.authenticate(&by_id()).await.unwrap_err();
        assert!(matches!(error, AuthError::MoreMethods { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_rejection(), "the password is right");
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
    // One receipt after the other comes to an end.
    let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("1")] };
    let rules = json!([["password", "totp"]]);
    let (client, asked) = client_with(method, move |_, _| receipt("r1", &["password"], &rules));
    assert!(matches!(client.authenticate(&by_id()).await, Err(AuthError::MoreMethods { .. })));
    assert_eq!(asked.lock().unwrap().len(), 2);
}

// Promise 76.
#[tokio::test]
async fn a_receipt_does_not_show_in_an_error() {
    let rules = json!([["password", "totp"]]);
    let method = Credentials::MultiFactor { shown: vec![password()], spare: vec![passcode("123456")] };
    let (client, _) = client_with(method, move |count, request| match count {
        1 => receipt("a-long-receipt", &["password"], &rules),
        _ => {
            let echo = format!("no: {:?} {:?}", request.headers(), request.body());
            answer(401, &[], json!({"error": {"message": format!("{echo} a-long-receipt 123456")}}))
        }
    });
    let error = client.authenticate(&by_id()).await.unwrap_err();
    assert!(error.is_rejection(), "{error:?}");
    let shown = format!("{error} {error:?} {client:?}");
    assert!(!shown.contains("a-long-receipt") && !shown.contains("123456"), "{shown}");
}

#[tokio::test]
async fn a_given_passcode_is_shown_once() {
    let (client, asked) = client_with(passcode("123456"), |count, _| match count {
        1 => answer(401, &[], json!({"error": {"message": "Invalid username or TOTP passcode"}})),
        _ => unreachable!("it is not right the second time"),
    });
    assert!(client.authenticate(&by_id()).await.unwrap_err().is_rejection());
    let error = client.authenticate(&by_id()).await.unwrap_err();
    assert!(matches!(error, AuthError::PasscodeUsed { wait: None }), "{error:?}");
    assert!(error.to_string().contains("set totp_secret"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_command_is_asked_for_another_passcode_after_each_login() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("echo >> '{0}'; wc -l < '{0}'", directory.path().join("asked").display());
    let words = ["-c".to_owned(), script];
    let command = crate::secret::Command::new(
        "/bin/sh".into(),
        words.into(),
        vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
    );
    let source = crate::keystone::Source::Command(command);
    let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Given(source) };
    let (client, asked) = client_with(method, |_, _| answer(401, &[], "{}"));
    for code in 1..4 {
        assert!(client.authenticate(&by_id()).await.unwrap_err().is_rejection());
        let asked = asked.lock().unwrap();
        let body: Value = serde_json::from_str(&asked.last().unwrap().body).unwrap();
        assert_eq!(body["auth"]["identity"]["totp"]["user"]["passcode"], code.to_string());
    }
}

#[tokio::test]
async fn a_computed_passcode_is_shown_once_and_there_is_another_soon() {
    let secret = Secret::new("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ").into();
    let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Computed(secret) };
    let (client, asked) = client_with(method, |_, _| answer(401, &[], "{}"));
    // The code may change in between.
    while asked.lock().unwrap().len() < 3 {
        match client.authenticate(&by_id()).await.unwrap_err() {
            AuthError::PasscodeUsed { wait: Some(wait) } => {
                assert!(wait <= Duration::from_secs(30));
                return;
            }
            error => assert!(error.is_rejection(), "{error:?}"),
        }
    }
    panic!("no code was used twice in a row");
}

/// A Keystone that forgets a token, and has words of its own for a scope that is not the user's.
#[tokio::test]
async fn the_kept_token_serves_every_scope_until_keystone_forgets_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("passcode");
    std::fs::write(&path, "111111").unwrap();
    let source = crate::keystone::Source::File(path.clone());
    let method = Credentials::Totp { user: ada(), passcode: crate::keystone::Passcode::Given(source) };
    let forgotten: Arc<Mutex<Vec<String>>> = Arc::default();
    let forgot = Arc::clone(&forgotten);
    let (client, asked) = client_with(method, move |count, request| {
        let forgot = forgot.lock().unwrap();
        if request.method() == Method::HEAD {
            let token = request.headers()["x-auth-token"].to_str().unwrap().to_owned();
            return answer(if forgot.contains(&token) { 401 } else { 200 }, &[], "");
        }
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        let token = body["auth"]["identity"]["token"]["id"].as_str().unwrap_or_default();
        if forgot.iter().any(|id| id == token) {
            return answer(404, &[], json!({"error": {"message": "Could not recognize Fernet token"}}));
        }
        if body["auth"]["scope"]["project"]["id"] == "closed" {
            return answer(401, &[], "{}");
        }
        issued(&format!("t{count}"))
    });
    let logins = || {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|asked| asked.body.contains("totp")).count()
    };
    for _ in 0..3 {
        client.authenticate(&by_id()).await.unwrap();
    }
    client.authenticate(&Scope::System).await.unwrap();
    assert_eq!(logins(), 1);
    let closed = Scope::Project(Project::Id("closed".to_owned()));
    assert!(client.authenticate(&closed).await.unwrap_err().is_rejection());
    assert_eq!(logins(), 1, "a scope that is not the user's costs no code");

    forgotten.lock().unwrap().push("t1".to_owned());
    let error = client.authenticate(&by_id()).await.unwrap_err();
    assert!(matches!(error, AuthError::PasscodeUsed { .. }), "{error:?}");
    std::fs::write(&path, "222222").unwrap();
    client.authenticate(&by_id()).await.unwrap();
    assert_eq!(logins(), 2);
    client.authenticate(&by_id()).await.unwrap();
    assert_eq!(logins(), 2);
}

#[tokio::test]
async fn an_oauth2_client_gets_a_token_and_an_access_token() {
    let endpoint = || BaseUrl::parse("https://o.example/v3/OS-OAUTH2/token").unwrap();
    let by_secret = || Credentials::OAuth2 {
        endpoint: endpoint(),
        client_id: "c1".to_owned(),
        client_secret: Secret::new("s3cret").into(),
    };
    let (client, asked) = client_with(by_secret(), |count, _| match count {
        1 => issued("the-token"),
        _ => {
            answer(200, &[], json!({"access_token": "the-access", "token_type": "Bearer", "expires_in": 600}))
        }
    });
    let token = client.authenticate(&by_id()).await.unwrap();
    assert_eq!(token.lifetime(), Duration::from_secs(600));
    let carried: Vec<_> = token.fields().iter().map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(carried, ["the-token", "Bearer the-access"]);
    {
        let asked = asked.lock().unwrap();
        assert_eq!(
            asked[0].auth(),
            json!({"identity": {"methods": ["application_credential"],
                                "application_credential": {"id": "c1", "secret": "s3cret"}}})
        );
        assert_eq!(asked[1].line, "POST /v3/OS-OAUTH2/token");
        assert_eq!(
            (&*asked[1].authorization, &*asked[1].body),
            ("Basic YzE6czNjcmV0", "grant_type=client_credentials")
        );
    }

    let refused = json!({"error": "invalid_client", "error_description": "Client authentication failed."});
    for (status, body, expected) in [
        (401, refused, "(\"Client authentication failed.\")"),
        (
            401,
            json!({"error": "invalid_client", "error_description": "c1:s3cret is wrong"}),
            "with 401; check",
        ),
        (200, json!({"token_type": "Bearer"}), "no usable `access_token`"),
        (200, json!({"access_token": "a", "expires_in": 0}), "has already expired"),
        (503, json!({}), "answered 503"),
    ] {
        let (client, _) = client_with(by_secret(), move |count, _| match count {
            1 => issued("the-token"),
            _ => answer(status, &[], &body),
        });
        let error = client.authenticate(&by_id()).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_asks_what_its_access_token_is_good_for() {
    let method = || Credentials::OAuth2Mtls {
        endpoint: BaseUrl::parse("https://o.example/").unwrap(),
        client_id: "c 1&".to_owned(),
    };
    let access = json!({"access_token": "the-access", "token_type": "Bearer", "expires_in": 3600});
    let (client, asked) = client_with(method(), move |count, _| match count {
        1 => answer(200, &[], &access),
        _ => answer(200, &[], v3_token()),
    });
    let token = client.authenticate(&by_id()).await.unwrap();
    assert!(!token.catalog.is_empty());
    let carried: Vec<_> = token.fields().iter().map(|(_, value)| value.to_str().unwrap()).collect();
    assert_eq!(carried, ["the-access", "Bearer the-access"]);
    {
        let asked = asked.lock().unwrap();
        assert_eq!((&*asked[0].line, &*asked[0].authorization), ("POST /", ""));
        assert_eq!(asked[0].body, "grant_type=client_credentials&client_id=c%201%26");
        assert_eq!(asked[1].line, "GET /v3/auth/tokens");
        assert_eq!((&*asked[1].token, &*asked[1].subject), ("the-access", "the-access"));
    }

    let (client, _) = client_with(method(), |count, _| match count {
        1 => answer(200, &[], json!({"access_token": "the-access"})),
        _ => answer(401, &[], json!({"error": {"message": "the-access is unknown"}})),
    });
    let error = client.authenticate(&by_id()).await.unwrap_err();
    assert!(error.is_rejection() && !error.to_string().contains("the-access"), "{error}");
}
