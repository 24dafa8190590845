//! An identity provider that speaks SAML and WS-Trust, and a service provider before Keystone that trusts it. All of
//! them check every field of what they get, and that what is signed arrives byte for byte.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http::request::Parts;
use keyway::demo::{self, Cloud};
use roxmltree::{Document, Node};
use serde_json::json;

use super::federation::{
    Instead, Reply, address_of, bind, form, header, json_reply, listen, log_in_unscoped, pass_on, reply,
};
use super::{Task, cloud};

/// The provider's only user.
pub(crate) const USER: &str = "ada <ada@idp.example> & co";
pub(crate) const PASSWORD: &str = "canaryProviderPassword&<\"'> ü\tO9p";
/// Keystone's names for the two.
pub(crate) const IDENTITY_PROVIDER: &str = "my idp";
pub(crate) const PROTOCOL: &str = "saml2";
/// Where the provider is asked.
pub(crate) const ECP: &str = "/idp/SOAP/ECP?tenant=1";
pub(crate) const TRUST: &str = "/adfs/services/trust/13/usernamemixed";
/// Where the service provider takes assertions by way of AD FS.
pub(crate) const SIGN_IN: &str = "/Shibboleth.sso/ADFS";
/// What the service provider calls itself.
pub(crate) const ENTITY: &str = "urn:keystone?a=b&c";

const CONSUMER: &str = "/sp/paos?from=1";
const STATE: &str = "ss:mem:<&>\"' \u{e9}";
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP_12: &str = "http://www.w3.org/2003/05/soap-envelope";
const PAOS: &str = "urn:liberty:paos:2003-08";
const ECP_PROFILE: &str = "urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp";
const ADDRESSING: &str = "http://www.w3.org/2005/08/addressing";
const WS_TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
const OLD_TRUST: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust";
const WSS: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-";
const MEDIA_TYPE: &str = "application/vnd.paos+xml";

/// A request to the provider, or to the service provider or Keystone.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) provider: bool,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// All of it that is sent: fields and body.
    pub(crate) text: String,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    provider: VecDeque<Instead>,
    always: Option<Instead>,
    service: VecDeque<Option<Instead>>,
    /// Where the service provider wants answers, in place of what is right.
    consumer: Option<String>,
    /// For whom the provider says its answer is, in place of what is right.
    audience: Option<String>,
    password: Option<&'static str>,
    question: Option<Question>,
    /// The part of an envelope that is signed.
    assertion: Option<String>,
    session: Option<String>,
    message_ids: Vec<String>,
    faults: usize,
    unscoped: Vec<String>,
    secrets: Vec<String>,
}

/// What the service provider asked.
struct Question {
    /// Behind the header and before it.
    rest: String,
    message_id: String,
    cookie: String,
}

/// See the module's documentation.
pub(crate) struct Saml {
    pub(crate) cloud: Cloud,
    provider: SocketAddr,
    keystone: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: [Task; 2],
}

impl Saml {
    pub(crate) async fn start() -> Self {
        let cloud = cloud().await;
        let state: Arc<Mutex<State>> = Arc::default();
        let demo = address_of(&cloud);
        let ((provider, at_provider), (keystone, at_keystone)) = (bind().await, bind().await);
        let shared = Arc::clone(&state);
        let answer = move |head: Parts, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { provide(&shared, at_provider, at_keystone, &head, &body).await }
        };
        let provider = Task::spawn(listen(provider, answer));
        let shared = Arc::clone(&state);
        let answer = move |head: Parts, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { serve(&shared, demo, at_keystone, head, body).await }
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

    /// An address at the service provider.
    pub(crate) fn service_provider(&self, path: &str) -> String {
        format!("http://{}{path}", self.keystone)
    }

    /// What was asked of either, from the beginning; of Keystone only what belongs to federated logins.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How often the provider was asked.
    pub(crate) fn logins(&self) -> usize {
        self.state().asked.iter().filter(|asked| asked.provider).count()
    }

    /// What the provider does with its next request, or with every one.
    pub(crate) fn provider_does(&self, instead: Instead) {
        self.state().provider.push_back(instead);
    }

    pub(crate) fn provider_always_does(&self, instead: Option<Instead>) {
        self.state().always = instead;
    }

    /// What the service provider does after so many requests that it answers as it should.
    pub(crate) fn service_provider_does_after(&self, before: usize, instead: Instead) {
        let mut state = self.state();
        state.service.extend((0..before).map(|_| None));
        state.service.push_back(Some(instead));
    }

    /// Where the service provider wants answers.
    pub(crate) fn set_consumer(&self, url: Option<&str>) {
        self.state().consumer = url.map(str::to_owned);
    }

    /// For whom the provider says its answers are.
    pub(crate) fn set_audience(&self, url: Option<&str>) {
        self.state().audience = url.map(str::to_owned);
    }

    /// The user has another password now.
    pub(crate) fn set_password(&self, password: &'static str) {
        self.state().password = Some(password);
    }

    /// How often the service provider was told that an answer is not for it.
    pub(crate) fn faults(&self) -> usize {
        self.state().faults
    }

    /// The unscoped tokens that Keystone gave out.
    pub(crate) fn unscoped(&self) -> Vec<String> {
        self.state().unscoped.clone()
    }

    /// Assertions, sessions, unscoped tokens and the password.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let state = self.state();
        state.secrets.iter().chain(&state.unscoped).cloned().chain([PASSWORD.to_owned()]).collect()
    }

    /// The options of `v3samlpassword`, as variables.
    pub(crate) fn by_saml(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OS_AUTH_URL", self.auth_url()),
            ("OS_AUTH_TYPE", "v3samlpassword".to_owned()),
            ("OS_IDENTITY_PROVIDER", IDENTITY_PROVIDER.to_owned()),
            ("OS_PROTOCOL", PROTOCOL.to_owned()),
            ("OS_IDENTITY_PROVIDER_URL", self.provider(ECP)),
            ("OS_USERNAME", USER.to_owned()),
            ("OS_PASSWORD", PASSWORD.to_owned()),
            ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
            ("OS_REGION_NAME", "RegionOne".to_owned()),
        ]
    }

    /// The options of `v3adfspassword`, as variables.
    pub(crate) fn by_adfs(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.by_saml();
        variables.retain(|(name, _)| !["OS_AUTH_TYPE", "OS_IDENTITY_PROVIDER_URL"].contains(name));
        variables.extend([
            ("OS_AUTH_TYPE", "v3adfspassword".to_owned()),
            ("OS_IDENTITY_PROVIDER_URL", self.provider(TRUST)),
            ("OS_SERVICE_PROVIDER_ENDPOINT", self.service_provider(SIGN_IN)),
            ("OS_SERVICE_PROVIDER_ENTITY_ID", ENTITY.to_owned()),
        ]);
        variables
    }
}

fn path_of(head: &Parts) -> String {
    head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()
}

fn note(provider: bool, head: &Parts, body: &[u8]) -> Asked {
    let fields: Vec<_> =
        head.headers.values().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let text = format!("{} {}", fields.join("\n"), String::from_utf8_lossy(body));
    Asked { provider, method: head.method.clone(), path: path_of(head), text }
}

/// A secret that no other login has.
fn canary(state: &mut State, kind: &str) -> String {
    let secret = format!("canary{kind}{:016x}", fastrand::u64(..));
    state.secrets.push(secret.clone());
    secret
}

fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The only element of this name below another.
fn find<'a, 'd>(node: Node<'a, 'd>, namespace: &str, name: &str) -> Node<'a, 'd> {
    let mut found = node.descendants().filter(|node| node.has_tag_name((namespace, name)));
    let only = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "several {name}");
    only
}

fn texts<'a>(node: Node<'a, '_>, namespace: &str, name: &str) -> &'a str {
    find(node, namespace, name).text().unwrap_or_default()
}

async fn instead(instead: Option<Instead>) -> Option<Reply> {
    match instead? {
        Instead::Answer(status, headers, body) => Some(reply(status, headers, body)),
        Instead::Silence => std::future::pending().await,
    }
}

/// The identity provider.
async fn provide(
    state: &Mutex<State>,
    own: SocketAddr,
    keystone: SocketAddr,
    head: &Parts,
    body: &[u8],
) -> Reply {
    let other = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(note(true, head, body));
        state.provider.pop_front().or_else(|| state.always.clone())
    };
    if let Some(answer) = instead(other).await {
        return answer;
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if head.method != Method::POST
        || !header(&head.headers, "cookie").is_empty()
        || !header(&head.headers, "x-auth-token").is_empty()
    {
        return reply(400, &[], "what is that for?");
    }
    let text = std::str::from_utf8(body).expect("it is UTF-8");
    match path_of(head).as_str() {
        ECP => assert_by_saml(&mut state, keystone, head, text),
        TRUST => assert_by_trust(&mut state, own, head, text),
        _ => reply(404, &[], ""),
    }
}

fn assert_by_saml(state: &mut State, keystone: SocketAddr, head: &Parts, text: &str) -> Reply {
    assert_eq!(header(&head.headers, "content-type"), "text/xml; charset=utf-8");
    let pair = format!("{USER}:{}", state.password.unwrap_or(PASSWORD));
    if header(&head.headers, "authorization") != format!("Basic {}", STANDARD.encode(pair)) {
        return reply(401, &[("www-authenticate", "Basic realm=\"idp\"")], "who are you?");
    }
    let question = state.question.as_ref().expect("the service provider asked");
    assert_eq!(text, question.rest, "the request is to arrive as it is, without its header");
    let consumer = state.audience.clone().unwrap_or_else(|| format!("http://{keystone}{CONSUMER}"));
    let id = canary(state, "Assertion");
    // Prefixes that are declared outside, and whitespace that a signature would cover.
    let assertion = format!(
        "<soap:Body>\n <p:Response ID='{id}'><p:Status><p:StatusCode \
         Value=\"urn:oasis:names:tc:SAML:2.0:status:Success\"/></p:Status>\
         <saml:Assertion  xmlns:saml='urn:oasis:names:tc:SAML:2.0:assertion' ID = \"a\">&#233;&gt;<!-- c --></saml:Assertion>\
         </p:Response></soap:Body>"
    );
    let envelope = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soap:Envelope xmlns:soap=\"{SOAP}\" \
         xmlns:p=\"urn:oasis:names:tc:SAML:2.0:protocol\"><soap:Header><e:Response xmlns:e=\"{ECP_PROFILE}\" \
         soap:mustUnderstand=\"1\" AssertionConsumerServiceURL=\"{}\"/></soap:Header>{assertion}</soap:Envelope>\n",
        attribute(&consumer)
    );
    state.assertion = Some(assertion);
    reply(200, &[("content-type", "text/xml"), ("set-cookie", "canaryIdpSession=1")], envelope)
}

fn assert_by_trust(state: &mut State, own: SocketAddr, head: &Parts, text: &str) -> Reply {
    assert_eq!(header(&head.headers, "content-type"), "application/soap+xml; charset=utf-8");
    assert_eq!(header(&head.headers, "authorization"), "");
    let document = Document::parse(text).expect("it is XML");
    let root = document.root_element();
    assert!(root.has_tag_name((SOAP_12, "Envelope")));
    let parts: Vec<_> = root.children().map(|part| part.tag_name().name()).collect();
    assert_eq!(parts, ["Header", "Body"]);
    let (header, body) = (find(root, SOAP_12, "Header"), find(root, SOAP_12, "Body"));
    assert_eq!(texts(header, ADDRESSING, "Action"), format!("{WS_TRUST}/RST/Issue"));
    assert_eq!(
        texts(find(header, ADDRESSING, "ReplyTo"), ADDRESSING, "Address"),
        format!("{ADDRESSING}/anonymous")
    );
    assert_eq!(texts(header, ADDRESSING, "To"), format!("http://{own}{TRUST}"));
    let id = texts(header, ADDRESSING, "MessageID").to_owned();
    let digits = id.strip_prefix("urn:uuid:").expect("a UUID");
    assert!(digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert!(!state.message_ids.contains(&id), "each message has an id of its own");
    state.message_ids.push(id);

    let (secext, utility) =
        (format!("{WSS}wssecurity-secext-1.0.xsd"), format!("{WSS}wssecurity-utility-1.0.xsd"));
    let security = find(header, &secext, "Security");
    for node in [find(header, ADDRESSING, "Action"), find(header, ADDRESSING, "To"), security] {
        assert_eq!(node.attribute((SOAP_12, "mustUnderstand")), Some("1"));
    }
    let time = |name| {
        let text = texts(find(security, &utility, "Timestamp"), &utility, name);
        text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    let (created, expires) = (time("Created"), time("Expires"));
    assert_eq!(expires.as_second() - created.as_second(), 120);
    assert!((jiff::Timestamp::now().as_second() - created.as_second()).abs() < 60);
    let token = find(security, &secext, "UsernameToken");
    assert!(token.attribute((utility.as_str(), "Id")).is_some_and(|id| id.starts_with("uuid-")));
    let password = find(token, &secext, "Password");
    assert_eq!(
        password.attribute("Type"),
        Some(format!("{WSS}username-token-profile-1.0#PasswordText").as_str())
    );

    let request = find(body, WS_TRUST, "RequestSecurityToken");
    let audience = find(request, "http://schemas.xmlsoap.org/ws/2004/09/policy", "AppliesTo");
    assert_eq!(texts(find(audience, ADDRESSING, "EndpointReference"), ADDRESSING, "Address"), ENTITY);
    assert_eq!(texts(request, WS_TRUST, "KeyType"), format!("{WS_TRUST}/Bearer"));
    assert_eq!(texts(request, WS_TRUST, "RequestType"), format!("{WS_TRUST}/Issue"));
    assert_eq!(texts(request, WS_TRUST, "TokenType"), "urn:oasis:names:tc:SAML:1.0:assertion");

    let shown = (texts(token, &secext, "Username"), password.text().unwrap_or_default());
    if shown != (USER, state.password.unwrap_or(PASSWORD)) {
        return reply(500, &[("content-type", "application/soap+xml")], fault_of_adfs(""));
    }
    let id = canary(state, "Assertion");
    let assertion = format!(
        "<saml:Assertion xmlns:saml=\"urn:oasis:names:tc:SAML:1.0:assertion\" AssertionID='{id}' \
         Issuer = '{WS_TRUST}'>\n  &#233;&amp;<saml:A b='x>y'/></saml:Assertion>"
    );
    let answer = format!(
        "<s:Envelope xmlns:s=\"{SOAP_12}\" xmlns:a=\"{ADDRESSING}\" xmlns:t=\"{WS_TRUST}\" xmlns:x='urn:x&amp;y'><s:Header/>\
         <s:Body><t:RequestSecurityTokenResponseCollection>\
         <t:RequestSecurityTokenResponse Context='a>b' xmlns:w=\"urn:w\" x:y=\"z\">\
         <t:Lifetime/><t:RequestedSecurityToken>{assertion}</t:RequestedSecurityToken><w:More/>\
         <t:TokenType>urn:oasis:names:tc:SAML:1.0:assertion</t:TokenType>\
         </t:RequestSecurityTokenResponse></t:RequestSecurityTokenResponseCollection></s:Body></s:Envelope>"
    );
    state.assertion = Some(assertion);
    reply(200, &[("content-type", "application/soap+xml")], answer)
}

/// What AD FS says of a wrong password.
pub(crate) fn fault_of_adfs(reason: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"{SOAP_12}\" xmlns:a=\"{ADDRESSING}\"><s:Body><s:Fault><s:Code><s:Value>s:Sender</s:Value>\
         <s:Subcode><s:Value xmlns:a=\"urn:security\">a:FailedAuthentication</s:Value></s:Subcode></s:Code>\
         <s:Reason><s:Text xml:lang=\"en\">ID3242: not authenticated{}</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>",
        attribute(reason)
    )
}

/// What an identity provider says with this status in place of an assertion.
pub(crate) fn declined_by_saml(code: &str, message: &str) -> String {
    let status = "urn:oasis:names:tc:SAML:2.0:status:";
    format!(
        "<s:Envelope xmlns:s=\"{SOAP}\"><s:Body><r:Response xmlns:r=\"urn:oasis:names:tc:SAML:2.0:protocol\"><r:Status>\
         <r:StatusCode Value=\"{status}Responder\"><r:StatusCode Value=\"{status}{code}\"/></r:StatusCode>\
         <r:StatusMessage>{}</r:StatusMessage></r:Status></r:Response></s:Body></s:Envelope>",
        attribute(message)
    )
}

/// Keystone, and the service provider before it.
async fn serve(state: &Mutex<State>, demo: SocketAddr, own: SocketAddr, head: Parts, body: Bytes) -> Reply {
    let path = path_of(&head);
    let door = format!(
        "/v3/OS-FEDERATION/identity_providers/{}/protocols/{PROTOCOL}/auth",
        IDENTITY_PROVIDER.replace(' ', "%20")
    );
    if !path.contains("OS-FEDERATION") && ![CONSUMER, SIGN_IN].contains(&path.as_str()) {
        return pass_on(demo, head, body).await;
    }
    let other = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(note(false, &head, &body));
        state.service.pop_front().flatten()
    };
    if let Some(answer) = instead(other).await {
        return answer;
    }
    let text = std::str::from_utf8(&body).expect("it is UTF-8");
    assert!(
        header(&head.headers, "authorization").is_empty() && header(&head.headers, "x-auth-token").is_empty()
    );
    let cookie = header(&head.headers, "cookie");
    if path == door {
        let session = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_open = state.session.as_ref().is_some_and(|session| cookie.contains(session.as_str()));
            if !is_open {
                assert_eq!((&head.method, body.len()), (&Method::GET, 0));
                return ask(&mut state, own, &head);
            }
            // A session is good for one token here, so that each login needs one of its own.
            state.session.take()
        };
        assert!(session.is_some());
        let answer = log_in_unscoped(demo).await;
        let id = header(answer.headers(), "x-subject-token");
        state.lock().unwrap_or_else(PoisonError::into_inner).unscoped.push(id);
        return answer;
    }
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    match (&head.method, path.as_str()) {
        (&Method::POST, CONSUMER) => consume(&mut state, &head, &cookie, text),
        (&Method::POST, SIGN_IN) => sign_in(&mut state, &head, &cookie, text),
        _ => json_reply(404, &json!({"error": {"code": 404, "message": "Could not find Identity Provider"}})),
    }
}

/// What whoever has no session is asked to carry to the identity provider.
fn ask(state: &mut State, own: SocketAddr, head: &Parts) -> Reply {
    let accepted = header(&head.headers, "accept");
    assert!(accepted.split(',').any(|kind| kind.trim() == MEDIA_TYPE), "{accepted}");
    assert_eq!(header(&head.headers, "paos"), format!("ver=\"{PAOS}\";\"{ECP_PROFILE}\""));
    let consumer = state.consumer.clone().unwrap_or_else(|| format!("http://{own}{CONSUMER}"));
    let (cookie, message_id) = (canary(state, "State"), format!("_{:016x}\"&", fastrand::u64(..)));
    let before = format!("<?xml version='1.0'?><S:Envelope xmlns:S=\"{SOAP}\" xmlns:q='urn:q'>");
    let header = format!(
        "<S:Header><paos:Request xmlns:paos=\"{PAOS}\" responseConsumerURL=\"{}\" messageID=\"{}\" S:mustUnderstand=\"1\"/>\
         <ecp:Request xmlns:ecp=\"{ECP_PROFILE}\"/><ecp:RelayState xmlns:ecp=\"{ECP_PROFILE}\">{}</ecp:RelayState></S:Header>",
        attribute(&consumer),
        attribute(&message_id),
        attribute(STATE)
    );
    let after = "\n<S:Body><p:AuthnRequest xmlns:p=\"urn:oasis:names:tc:SAML:2.0:protocol\"  ID='a' q:b=\"c\">&#x41;\
                 <!-- signed --></p:AuthnRequest></S:Body></S:Envelope>";
    let envelope = format!("{before}{header}{after}");
    state.question = Some(Question { rest: format!("{before}{after}"), message_id, cookie: cookie.clone() });
    let set = format!("_state={cookie}; Path=/; HttpOnly");
    reply(200, &[("content-type", &format!("{MEDIA_TYPE};charset=utf-8")), ("set-cookie", &set)], envelope)
}

/// An answer of the identity provider's.
fn consume(state: &mut State, head: &Parts, cookie: &str, text: &str) -> Reply {
    assert_eq!(header(&head.headers, "content-type"), MEDIA_TYPE);
    let question = state.question.take().expect("it was asked for");
    assert_eq!(cookie, format!("_state={}", question.cookie));
    let document = Document::parse(text).expect("it is XML");
    let root = document.root_element();
    if root.descendants().any(|node| node.has_tag_name((SOAP, "Fault"))) {
        state.faults += 1;
        return reply(500, &[], "");
    }
    let header = find(root, SOAP, "Header");
    let next = Some("http://schemas.xmlsoap.org/soap/actor/next");
    let (response, relay) = (find(header, PAOS, "Response"), find(header, ECP_PROFILE, "RelayState"));
    for node in [response, relay] {
        assert_eq!(
            (node.attribute((SOAP, "mustUnderstand")), node.attribute((SOAP, "actor"))),
            (Some("1"), next)
        );
    }
    assert_eq!(header.children().count(), 2, "the identity provider's own header is gone");
    assert_eq!(response.attribute("refToMessageID"), Some(question.message_id.as_str()));
    assert_eq!(relay.text(), Some(STATE));
    assert!(
        text.contains(state.assertion.as_ref().expect("there is one")),
        "the assertion is to arrive as it is"
    );
    open(state, "/elsewhere")
}

/// A form with an assertion of AD FS's.
fn sign_in(state: &mut State, head: &Parts, cookie: &str, text: &str) -> Reply {
    assert_eq!(
        (header(&head.headers, "content-type").as_str(), cookie),
        ("application/x-www-form-urlencoded", "")
    );
    let fields = form(text.as_bytes()).expect("a form");
    assert_eq!(fields.keys().map(String::as_str).collect::<Vec<_>>(), ["wa", "wresult"]);
    assert_eq!(fields["wa"], "wsignin1.0");
    let document = Document::parse(&fields["wresult"]).expect("it is XML of its own");
    let root = document.root_element();
    assert!(root.has_tag_name((OLD_TRUST, "RequestSecurityTokenResponse")));
    assert_eq!((root.attribute("Context"), root.attribute(("urn:x&y", "y"))), (Some("a>b"), Some("z")));
    find(root, "urn:w", "More");
    find(root, OLD_TRUST, "RequestedSecurityToken");
    let assertion = state.assertion.take().expect("there is one");
    assert!(fields["wresult"].contains(&assertion), "the assertion is to arrive as it is");
    open(state, "https://elsewhere.example/")
}

fn open(state: &mut State, location: &str) -> Reply {
    let session = canary(state, "Session");
    state.session = Some(session.clone());
    let set = format!("_shibsession_1={session}; path=/; secure; HttpOnly");
    reply(302, &[("location", location), ("set-cookie", &set)], "")
}
