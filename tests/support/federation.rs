//! An identity provider and a Keystone that trusts it. Both check every field of what they get.
//!
//! The provider knows one client and one user. Keystone is the demo cloud's, behind a door that exchanges the
//! provider's tokens for unscoped ones, as mod_auth_openidc and Keystone's mappings do together.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use keyway::demo::{self, Cloud};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Connection, Task, cloud, request};

/// The provider's only client.
pub(crate) const CLIENT: &str = "keyway-client";
pub(crate) const CLIENT_SECRET: &str = "canaryClientSecretQ7w+E/r4%T=y";
/// Its only user, who is the demo cloud's at Keystone.
pub(crate) const USER: &str = "ada@idp.example";
pub(crate) const PASSWORD: &str = "canaryProviderPassword& U8i O9p";
/// What clients ask for.
pub(crate) const SCOPE: &str = "openid profile";
/// The same, by clients that want to renew a login without its person.
pub(crate) const OFFLINE: &str = "openid profile offline_access";
/// Keystone's names for the two.
pub(crate) const IDENTITY_PROVIDER: &str = "my idp";
pub(crate) const PROTOCOL: &str = "openid";
/// What a person enters.
pub(crate) const USER_CODE: &str = "WDJB-MJHT";
/// RFC 8628, section 3.4.
pub(crate) const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A request to the provider.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) form: BTreeMap<String, String>,
}

/// What the provider does instead of what it should.
#[derive(Clone, Debug)]
pub(crate) enum Instead {
    /// This answer.
    Answer(u16, &'static [(&'static str, &'static str)], String),
    /// None.
    Silence,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    instead: VecDeque<Instead>,
    always: Option<Instead>,
    /// Whether the client has a secret.
    public: bool,
    /// Members of the discovery document that are other ones.
    document: BTreeMap<&'static str, Value>,
    /// Tokens of the provider that Keystone takes.
    tokens: Vec<String>,
    /// Unscoped tokens that Keystone gave for them.
    unscoped: Vec<String>,
    refuses: bool,
    device: Option<Device>,
    code: Option<Code>,
    /// What the next id token says in place of its login's nonce.
    nonce: Option<&'static str>,
    /// Whether the login that began last may be renewed, and with what: another one each time.
    offline: bool,
    refresh: Option<String>,
    refreshes: Vec<String>,
    /// What is said before it is looked at whether a person agreed.
    before: VecDeque<&'static str>,
}

/// A login of a person's browser.
struct Code {
    code: String,
    redirect_uri: String,
    challenge: String,
    nonce: String,
}

/// A login that a person has to agree to.
struct Device {
    code: String,
    challenge: Option<(String, String)>,
    agreed: Option<bool>,
}

/// See the module's documentation.
pub(crate) struct Federation {
    pub(crate) cloud: Cloud,
    provider: SocketAddr,
    keystone: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: [Task; 2],
}

impl Federation {
    pub(crate) async fn start() -> Self {
        let cloud = cloud().await;
        let state: Arc<Mutex<State>> = Arc::default();
        let demo = address_of(&cloud);
        let ((provider, at_provider), (keystone, at_keystone)) = (bind().await, bind().await);
        let base = format!("http://{at_provider}");
        let shared = Arc::clone(&state);
        let answer = move |head: http::request::Parts, body: Bytes| {
            let (shared, base) = (Arc::clone(&shared), base.clone());
            async move { provide(&shared, &base, &head, &body).await }
        };
        let provider = Task::spawn(listen(provider, answer));
        let shared = Arc::clone(&state);
        let answer = move |head: http::request::Parts, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { keep(&shared, demo, head, body).await }
        };
        let _tasks = [provider, Task::spawn(listen(keystone, answer))];
        Self { cloud, provider: at_provider, keystone: at_keystone, state, _tasks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn auth_url(&self) -> String {
        format!("http://{}/v3", self.keystone)
    }

    /// An address at the provider.
    pub(crate) fn provider(&self, path: &str) -> String {
        format!("http://{}{path}", self.provider)
    }

    /// What the provider was asked, from the beginning.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// The same, but only what went to this path.
    pub(crate) fn asked_at(&self, path: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path == path).collect()
    }

    /// What the provider does with its next requests.
    pub(crate) fn next(&self, instead: Instead) {
        self.state().instead.push_back(instead);
    }

    /// What the provider does with every request, or what it should.
    pub(crate) fn always(&self, instead: Option<Instead>) {
        self.state().always = instead;
    }

    pub(crate) fn set_public(&self) {
        self.state().public = true;
    }

    pub(crate) fn set_in_document(&self, member: &'static str, value: Value) {
        self.state().document.insert(member, value);
    }

    /// A person looks at the code, and agrees or does not.
    pub(crate) fn decide(&self, user_code: &str, agrees: bool) {
        assert_eq!(user_code, USER_CODE);
        self.state().device.as_mut().expect("a login began").agreed = Some(agrees);
    }

    /// What the provider says to those who ask whether a person agreed, before it looks.
    pub(crate) fn say_before(&self, code: &'static str) {
        self.state().before.push_back(code);
    }

    /// The codes that clients ask with.
    pub(crate) fn device_code(&self) -> String {
        self.state().device.as_ref().expect("a login began").code.clone()
    }

    /// The next id token is one of another login.
    pub(crate) fn mix_up(&self) {
        self.state().nonce = Some("another");
    }

    /// Keystone accepts no more of the provider's tokens, or does again.
    pub(crate) fn set_refuses(&self, refuses: bool) {
        self.state().refuses = refuses;
    }

    /// A token of the provider that Keystone takes.
    pub(crate) fn provider_token(&self) -> String {
        issue(&mut self.state())
    }

    /// The unscoped tokens that Keystone gave out for the provider's.
    pub(crate) fn unscoped(&self) -> Vec<String> {
        self.state().unscoped.clone()
    }

    /// The provider's tokens.
    pub(crate) fn provider_tokens(&self) -> Vec<String> {
        self.state().tokens.clone()
    }

    /// What logins could be renewed with.
    pub(crate) fn refresh_tokens(&self) -> Vec<String> {
        self.state().refreshes.clone()
    }

    /// The login can't be renewed any more.
    pub(crate) fn forget_refresh_token(&self) {
        self.state().refresh = None;
    }

    /// Whether a login can be renewed.
    pub(crate) fn can_renew(&self) -> bool {
        self.state().refresh.is_some()
    }

    /// The options that every federated login has, as variables.
    pub(crate) fn variables(&self, auth_type: &str) -> Vec<(&'static str, String)> {
        vec![
            ("OS_AUTH_URL", self.auth_url()),
            ("OS_AUTH_TYPE", auth_type.to_owned()),
            ("OS_IDENTITY_PROVIDER", IDENTITY_PROVIDER.to_owned()),
            ("OS_PROTOCOL", PROTOCOL.to_owned()),
            ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
            ("OS_REGION_NAME", "RegionOne".to_owned()),
        ]
    }
}

pub(crate) fn address_of(cloud: &Cloud) -> SocketAddr {
    let url = cloud.auth_url();
    let rest = url.strip_prefix("http://").expect("the demo cloud is plain http");
    rest.split('/').next().expect("an authority").parse().expect("an address")
}

/// A socket on loopback, and its address.
pub(crate) async fn bind() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

pub(crate) type Reply = Response<Full<Bytes>>;

/// Serves connections, each request by `answer`.
pub(crate) async fn listen<F>(
    socket: TcpListener,
    answer: impl Fn(http::request::Parts, Bytes) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else { return };
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("keyway sends whole requests").to_bytes();
                Ok::<_, Infallible>(answer(head, body).await)
            }
        });
        connections.spawn(async move {
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into())).expect("a valid answer")
}

pub(super) fn json_reply(status: u16, body: &Value) -> Reply {
    reply(status, &[("content-type", "application/json")], body.to_string())
}

/// An error of RFC 6749, section 5.2.
fn error(status: u16, code: &str, description: &str) -> Reply {
    json_reply(status, &json!({"error": code, "error_description": description}))
}

fn issue(state: &mut State) -> String {
    let token = format!("canaryAccess.{:016x}.{}-_", fastrand::u64(..), state.tokens.len());
    state.tokens.push(token.clone());
    token
}

pub(super) fn header(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().expect("readable").to_owned()).unwrap_or_default()
}

/// The fields of a form, each once.
pub(super) fn form(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut fields = BTreeMap::new();
    for field in text.split('&').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=')?;
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(Into::into);
        if fields.insert(decode(name)?, decode(value)?).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// The identity provider.
async fn provide(state: &Mutex<State>, base: &str, head: &http::request::Parts, body: &[u8]) -> Reply {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let authorization = header(&head.headers, "authorization");
    let fields = form(body);
    let asked = Asked {
        path: path.clone(),
        authorization: authorization.clone(),
        form: fields.clone().unwrap_or_default(),
    };
    let instead = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(asked);
        state.instead.pop_front().or_else(|| state.always.clone())
    };
    match instead {
        Some(Instead::Answer(status, headers, body)) => return reply(status, headers, body),
        Some(Instead::Silence) => std::future::pending::<()>().await,
        None => {}
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if !header(&head.headers, "x-auth-token").is_empty() || !header(&head.headers, "cookie").is_empty() {
        return error(400, "invalid_request", "what is that for?");
    }
    match (&head.method, path.as_str()) {
        (&Method::GET, "/.well-known/openid-configuration")
            if authorization.is_empty() && body.is_empty() =>
        {
            let mut document = json!({
                "issuer": base,
                "token_endpoint": format!("{base}/token/?tenant=1"),
                "device_authorization_endpoint": format!("{base}/device"),
                "revocation_endpoint": format!("{base}/revoke"),
                "grant_types_supported":
                    ["password", "client_credentials", "authorization_code", "refresh_token", DEVICE_GRANT],
                "authorization_endpoint": format!("{base}/authorize?tenant=1"),
            });
            for (member, value) in &state.document {
                document[*member] = value.clone();
            }
            json_reply(200, &document)
        }
        (&Method::POST, "/token/?tenant=1") => {
            if header(&head.headers, "content-type") != "application/x-www-form-urlencoded" {
                return error(400, "invalid_request", "no form");
            }
            let Some(fields) = fields else { return error(400, "invalid_request", "no form") };
            token(&mut state, &authorization, fields)
        }
        (&Method::GET, path) if path.starts_with("/authorize?") => authorize(&mut state, path),
        (&Method::POST, "/revoke") => {
            let Some(fields) = fields else { return error(400, "invalid_request", "no form") };
            revoke(&mut state, &authorization, fields)
        }
        (&Method::POST, "/device") => {
            let Some(fields) = fields else { return error(400, "invalid_request", "no form") };
            begin(&mut state, base, &authorization, fields)
        }
        _ => reply(404, &[], ""),
    }
}

/// Where a person's browser logs in: it is sent back at once.
fn authorize(state: &mut State, path: &str) -> Reply {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let Some(mut fields) = form(query.as_bytes()) else { return reply(400, &[], "no query") };
    let mut take = |name: &str| fields.remove(name).unwrap_or_default();
    let scope = take("scope");
    // OpenID Connect Core 1.0, section 11.
    let prompt = if scope == OFFLINE { "consent" } else { "" };
    state.offline = scope == OFFLINE;
    let is_right = (take("tenant").as_str(), take("response_type").as_str()) == ("1", "code")
        && take("client_id") == CLIENT
        && [SCOPE, OFFLINE].contains(&scope.as_str())
        && take("prompt") == prompt
        && take("code_challenge_method") == "S256";
    let (redirect_uri, back) = (take("redirect_uri"), take("state"));
    let code = Code {
        code: format!("canaryCode.{:016x}/+", fastrand::u64(..)),
        challenge: take("code_challenge"),
        nonce: take("nonce"),
        redirect_uri: redirect_uri.clone(),
    };
    if !is_right
        || !fields.is_empty()
        || [&code.challenge, &code.nonce, &back].iter().any(|text| text.len() < 40)
    {
        return reply(400, &[], format!("{fields:?}"));
    }
    let encoded =
        percent_encoding::utf8_percent_encode(&code.code, percent_encoding::NON_ALPHANUMERIC).to_string();
    let target = format!("{redirect_uri}?code={encoded}&state={back}");
    state.code = Some(code);
    json_reply(200, &json!({ "location": target }))
}

/// The device authorization endpoint.
fn begin(state: &mut State, base: &str, authorization: &str, mut fields: BTreeMap<String, String>) -> Reply {
    let id = fields.get("client_id").cloned();
    if !is_client(state, authorization, &mut fields) || id.as_deref() != Some(CLIENT) {
        return error(401, "invalid_client", "Invalid client or Invalid client credentials");
    }
    fields.remove("client_id");
    let scope = fields.remove("scope").unwrap_or_default();
    if ![SCOPE, OFFLINE].contains(&scope.as_str()) {
        return error(400, "invalid_scope", "Invalid scopes");
    }
    state.offline = scope == OFFLINE;
    let challenge = fields.remove("code_challenge_method").zip(fields.remove("code_challenge"));
    if let Some((name, _)) = fields.first_key_value() {
        return error(400, "invalid_request", &format!("what is {name}?"));
    }
    let code = format!("canaryDevice.{:016x}", fastrand::u64(..));
    state.device = Some(Device { code: code.clone(), challenge, agreed: None });
    let address = format!("{base}/verify");
    json_reply(
        200,
        &json!({"device_code": code, "user_code": USER_CODE, "verification_uri": address,
                "verification_uri_complete": format!("{address}?code={USER_CODE}"), "expires_in": 600, "interval": 1}),
    )
}

/// Whether a person agreed.
fn agreed(state: &mut State, code: &str, verifier: Option<&str>) -> Result<(), Box<Reply>> {
    if let Some(said) = state.before.pop_front() {
        return Err(Box::new(error(400, said, "not yet")));
    }
    let Some(device) = state.device.as_ref().filter(|device| device.code == code) else {
        return Err(Box::new(error(400, "invalid_grant", "no such code")));
    };
    let hash = |verifier: &str| {
        let hash = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash)
    };
    let is_same = match &device.challenge {
        None => verifier.is_none(),
        Some((method, challenge)) => verifier.is_some_and(|verifier| match method.as_str() {
            "S256" => verifier.len() >= 43 && hash(verifier) == *challenge,
            "plain" => verifier.len() >= 43 && verifier == challenge,
            _ => false,
        }),
    };
    match device.agreed {
        _ if !is_same => Err(Box::new(error(400, "invalid_grant", "PKCE verification failed"))),
        None => {
            Err(Box::new(error(400, "authorization_pending", "The authorization request is still pending")))
        }
        Some(false) => Err(Box::new(error(400, "access_denied", "The end user denied the request"))),
        Some(true) => {
            state.device = None;
            Ok(())
        }
    }
}

/// Whether the client shows who it is: by HTTP's Basic authentication, or, if it has no secret, by its id alone.
fn is_client(state: &State, authorization: &str, fields: &mut BTreeMap<String, String>) -> bool {
    if state.public {
        return authorization.is_empty() && fields.remove("client_id").as_deref() == Some(CLIENT);
    }
    authorization == format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{CLIENT_SECRET}")))
}

/// The token endpoint.
fn token(state: &mut State, authorization: &str, mut fields: BTreeMap<String, String>) -> Reply {
    if !is_client(state, authorization, &mut fields) {
        return error(401, "invalid_client", "Invalid client or Invalid client credentials");
    }
    if fields.get("grant_type").is_some_and(|grant| grant == DEVICE_GRANT) {
        // Some want it here, whatever else shows who asks.
        fields.remove("client_id");
        let verifier = fields.remove("code_verifier");
        let code = fields.remove("device_code").unwrap_or_default();
        if let Err(refused) = agreed(state, &code, verifier.as_deref()) {
            return *refused;
        }
    }
    let (mut nonce, mut renews) = (None, false);
    let mut take = |name: &str| fields.remove(name).unwrap_or_default();
    match take("grant_type").as_str() {
        "password" => {
            if take("scope") != SCOPE {
                return error(400, "invalid_scope", "Invalid scopes");
            }
            let one_time = take("totp");
            if (take("username").as_str(), take("password").as_str()) != (USER, PASSWORD) {
                return error(401, "invalid_grant", "Invalid user credentials");
            }
            if !one_time.is_empty() && one_time != "123456" {
                return error(401, "invalid_grant", "Invalid code");
            }
        }
        "authorization_code" => {
            let Some(known) = state.code.take() else { return error(400, "invalid_grant", "Code not valid") };
            let (code, redirect_uri, verifier) = (take("code"), take("redirect_uri"), take("code_verifier"));
            let hash = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
            let hash = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash);
            if (code, redirect_uri, hash) != (known.code, known.redirect_uri, known.challenge) {
                return error(400, "invalid_grant", "Code not valid");
            }
            if state.public {
                take("client_id");
            }
            nonce = Some(state.nonce.take().map_or(known.nonce, str::to_owned));
            renews = state.offline;
        }
        DEVICE_GRANT => renews = state.offline,
        "refresh_token" => {
            // One that is shown for the second time was stolen: the login is over (RFC 9700, section 4.14.2).
            let known = state.refresh.take();
            if known.is_none() || known != Some(take("refresh_token")) {
                return error(400, "invalid_grant", "Token is not active");
            }
            renews = true;
        }
        "client_credentials" if !state.public => {
            if take("scope") != SCOPE {
                return error(400, "invalid_scope", "Invalid scopes");
            }
        }
        _ => return error(400, "unsupported_grant_type", "Unsupported grant_type"),
    }
    if let Some((name, _)) = fields.first_key_value() {
        return error(400, "invalid_request", &format!("what is {name}?"));
    }
    let access = issue(state);
    let mut id = issue(state);
    if let Some(nonce) = nonce {
        let claims = json!({ "nonce": nonce }).to_string();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        id = format!("{}.{claims}.signature", id.replace('.', "-"));
        state.tokens.push(id.clone());
    }
    let mut answer =
        json!({"access_token": access, "id_token": id, "token_type": "Bearer", "expires_in": 60});
    if renews {
        let refresh = format!("canaryRefresh.{:016x}+/ {}", fastrand::u64(..), state.refreshes.len());
        state.refreshes.push(refresh.clone());
        state.refresh = Some(refresh.clone());
        answer["refresh_token"] = refresh.into();
    }
    json_reply(200, &answer)
}

/// The revocation endpoint (RFC 7009).
fn revoke(state: &mut State, authorization: &str, mut fields: BTreeMap<String, String>) -> Reply {
    if !is_client(state, authorization, &mut fields) {
        return error(401, "invalid_client", "Invalid client or Invalid client credentials");
    }
    let token = fields.remove("token");
    if fields.remove("token_type_hint").as_deref() != Some("refresh_token") || !fields.is_empty() {
        return error(400, "invalid_request", "what is that?");
    }
    // That there is none such is as good.
    state.refresh.take_if(|refresh| Some(&*refresh) == token.as_ref());
    reply(200, &[], "")
}

/// Keystone, behind the door that knows the provider's tokens.
async fn keep(state: &Mutex<State>, demo: SocketAddr, head: http::request::Parts, body: Bytes) -> Reply {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let provider = IDENTITY_PROVIDER.replace(' ', "%20");
    let door = format!("/v3/OS-FEDERATION/identity_providers/{provider}/protocols/{PROTOCOL}/auth");
    let browser =
        format!("/v3/auth/OS-FEDERATION/identity_providers/{provider}/protocols/{PROTOCOL}/websso?origin=");
    if let Some(origin) = path.strip_prefix(&browser) {
        let origin = percent_decode_str(origin).decode_utf8_lossy();
        let is_trusted =
            origin.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix("/auth/websso/"));
        if head.method != Method::GET || is_trusted.is_none_or(|port| port.parse::<u16>().is_err()) {
            return json_reply(401, &json!({"error": {"code": 401, "message": "untrusted dashboard"}}));
        }
        let answer = log_in_unscoped(demo).await;
        let id = header(answer.headers(), "x-subject-token");
        state.lock().unwrap_or_else(PoisonError::into_inner).unscoped.push(id.clone());
        return json_reply(200, &json!({"action": origin, "token": id}));
    }
    if path.contains("OS-FEDERATION") {
        if (&head.method, path.as_str()) != (&Method::POST, door.as_str()) {
            return json_reply(
                404,
                &json!({"error": {"code": 404, "message": "Could not find Identity Provider"}}),
            );
        }
        let shown = header(&head.headers, "authorization");
        let is_good = {
            let state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let known = |token: &str| state.tokens.iter().any(|known| known == token);
            !state.refuses
                && shown.strip_prefix("Bearer ").is_some_and(known)
                && body.is_empty()
                && header(&head.headers, "x-auth-token").is_empty()
        };
        if !is_good {
            let message = format!("The request you have made requires authentication. ({shown})");
            return json_reply(401, &json!({"error": {"code": 401, "message": message}}));
        }
        let answer = log_in_unscoped(demo).await;
        let id = header(answer.headers(), "x-subject-token");
        state.lock().unwrap_or_else(PoisonError::into_inner).unscoped.push(id);
        return answer;
    }
    pass_on(demo, head, body).await
}

/// Whatever is not about federation.
pub(super) async fn pass_on(demo: SocketAddr, head: http::request::Parts, body: Bytes) -> Reply {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let headers: Vec<_> = ["x-auth-token", "x-subject-token", "content-type"]
        .into_iter()
        .map(|name| (name, header(&head.headers, name)))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    forward(demo, request(head.method, &path, &headers, body)).await
}

pub(super) async fn log_in_unscoped(demo: SocketAddr) -> Reply {
    let user = json!({"name": demo::USER, "domain": {"name": demo::DOMAIN}, "password": demo::PASSWORD});
    let identity = json!({"methods": ["password"], "password": {"user": user}});
    let body = json!({"auth": {"identity": identity, "scope": "unscoped"}}).to_string();
    forward(demo, request(Method::POST, "/v3/auth/tokens", &[("content-type", "application/json")], body))
        .await
}

pub(super) async fn forward(demo: SocketAddr, request: Request<super::Payload>) -> Reply {
    let answer = Connection::open(demo).await.send(request).await;
    let token = answer.header("x-subject-token");
    let token = [("x-subject-token", token)];
    let kept = token.iter().filter(|(_, value)| !value.is_empty());
    let headers: Vec<_> = kept.copied().chain([("content-type", "application/json")]).collect();
    reply(answer.status, &headers, answer.body.clone())
}
