//! What is said to an identity provider, and what does it answer?
//!
//! Its addresses, which may come from an OpenID Connect discovery document, the forms that are sent there (OAuth 2.0,
//! RFC 6749), and how answers are read; without any I/O. Answers come from a peer: nothing about them is taken for
//! granted, and of their words only a short text is shown, and only where no secret is in it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Response, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::protocol::{error_message, redirect_host, retry_after};
use super::{Secret, TokenId, TokenKind};
use crate::secret;
use crate::upstream::{self, BaseUrl, Origin, Scheme, UrlError};

/// The longest refresh token that is kept, bytes: the file has to hold it.
const LONGEST_REFRESH: usize = 16 << 10;

/// The longest that is waited for a person, seconds.
const LONGEST_WAIT: u64 = 3600;

/// An address at an identity provider, as it is written: some want a slash at its end, or have a query. Secrets
/// are sent to it, so it is https, or leads to this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderUrl {
    origin: Origin,
    target: String,
}

/// Why a text is no such address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderUrlError {
    /// No URL that requests are sent to.
    #[error("{0}")]
    Url(#[from] UrlError),
    /// Plain http to another machine.
    #[error("it must be https, since secrets are sent there (http only to this machine)")]
    PlainHttp,
}

impl ProviderUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// See [`ProviderUrlError`].
    pub fn parse(text: &str) -> Result<Self, ProviderUrlError> {
        let url = Self::read(text)?;
        if url.origin.scheme() != Scheme::Https && !is_loopback(url.origin.host()) {
            return Err(ProviderUrlError::PlainHttp);
        }
        Ok(url)
    }

    /// Path and query of a URL at this origin.
    pub(super) fn target_at(origin: &Origin, text: &str) -> Option<String> {
        Self::read(text).ok().filter(|url| url.origin == *origin).map(|url| url.target)
    }

    fn read(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        if query.contains('#') {
            return Err(UrlError::Query);
        }
        let base = BaseUrl::parse(path)?;
        let uri: Uri = text.parse().map_err(|_| UrlError::NotAUrl)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        Ok(Self { origin: base.origin().clone(), target })
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The same address with more in its query.
    pub(super) fn with_query(&self, fields: &[(&str, &str)]) -> String {
        let query = String::from_utf8(form(fields).to_vec()).expect("a form is ASCII");
        let sign = if self.target.contains('?') { '&' } else { '?' };
        format!("{}{}{sign}{query}", self.origin, self.target)
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

/// Without path and query, which may be anything.
impl fmt::Debug for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/...", self.origin)
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Why an identity provider's login came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProviderError {
    /// No answer.
    #[error("the identity provider at {host} can't be reached; is `{option}` right, and is it up?")]
    Unreachable {
        /// Who.
        host: String,
        /// The option that leads there.
        option: &'static str,
        /// Why.
        #[source]
        cause: Arc<upstream::Error>,
    },
    /// No answer in time.
    #[error("the identity provider at {host} did not answer within {} s; it is asked again later", .after.as_secs())]
    Timeout {
        /// Who.
        host: String,
        /// What it had.
        after: Duration,
    },
    /// 429 or 5xx: not now.
    #[error("the identity provider at {host} answered {status}{}; it is asked again later", said(.message.as_deref()))]
    Unavailable {
        /// Who.
        host: String,
        /// The status.
        status: u16,
        /// What it said, fit for the log.
        message: Option<String>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It said no (RFC 6749, section 5.2).
    #[error(
        "the identity provider at {host} refused the login with {status}{}{}; {}",
        .code.map(|code| format!(" {code}")).unwrap_or_default(), said(.message.as_deref()), advice(*.code)
    )]
    Refused {
        /// Who.
        host: String,
        /// The status.
        status: u16,
        /// Its error code, if that is a known one.
        code: Option<&'static str>,
        /// What it said, fit for the log.
        message: Option<String>,
    },
    /// It said no to a user's name and password (SAML, WS-Trust).
    #[error(
        "the identity provider at {host} refused the user with {status}{}{}; check username and password, and that this user may log in there without a browser",
        .code.as_ref().map(|code| format!(" {code}")).unwrap_or_default(), said(.message.as_deref())
    )]
    RefusedUser {
        /// Who.
        host: String,
        /// The status.
        status: u16,
        /// Its error code.
        code: Option<String>,
        /// What it said, fit for the log.
        message: Option<String>,
    },
    /// An answer that an identity provider would not give.
    #[error("the identity provider at {host} {what}")]
    BadReply {
        /// Who.
        host: String,
        /// What was wrong with it, and what may help.
        what: String,
    },
    /// 401 or 403 of Keystone for what the identity provider gave.
    #[error(
        "Keystone did not accept what the identity provider gave ({status}{}); check identity_provider, protocol and \
         access_token_type (if the login has one), and that Keystone's mapping lets this user in", said(.message.as_deref())
    )]
    NotAccepted {
        /// The status.
        status: u16,
        /// What Keystone said, fit for the log.
        message: Option<String>,
    },
}

impl ProviderError {
    /// Whether somebody said no to what was shown.
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::RefusedUser { .. } | Self::NotAccepted { .. })
    }

    /// Whether it may be better in a while, without anybody's doing.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Unavailable { .. })
    }

    /// How long to wait before it makes sense to ask again, as far as is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn said(message: Option<&str>) -> String {
    message.map(|message| format!(" (\"{message}\")")).unwrap_or_default()
}

/// The error codes of RFC 6749 (section 5.2) and RFC 8628 (section 3.5), and what to do.
const CODES: [(&str, &str); 9] = [
    ("invalid_client", "check client_id and client_secret"),
    ("invalid_grant", "check the user, the password or the code, and that the client may be used for this"),
    ("invalid_request", "it misses something or knows no such option; check the options of this auth_type"),
    ("invalid_scope", "check openid_scope"),
    (
        "unauthorized_client",
        "the provider does not let this client log in this way; have that allowed there, or use another auth_type",
    ),
    ("unsupported_grant_type", "the provider has no such login; use another auth_type"),
    ("unsupported_response_type", "the provider has no such login; use another auth_type"),
    ("access_denied", "the login was declined; start it again, and agree to it"),
    ("expired_token", "nobody agreed to it in time; start it again"),
];

fn advice(code: Option<&str>) -> &'static str {
    let known = CODES.iter().find(|(known, _)| Some(*known) == code);
    known.map_or("check client_id, client_secret and the user's options", |(_, advice)| advice)
}

/// A form (`application/x-www-form-urlencoded`), which is wiped when it is dropped.
pub(super) fn form(fields: &[(&str, &str)]) -> Bytes {
    // Of its full size from the start, so that it leaves no copy behind.
    let size = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut form = Vec::with_capacity(size);
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        let pieces = utf8_percent_encode(name, NON_ALPHANUMERIC).chain(["="]);
        for piece in pieces.chain(utf8_percent_encode(value, NON_ALPHANUMERIC)) {
            form.extend_from_slice(piece.as_bytes());
        }
    }
    secret::hold(form)
}

/// What a discovery document (OpenID Connect Discovery 1.0, section 3) says.
#[derive(Debug)]
pub struct Document {
    host: String,
    is_local: bool,
    members: Value,
}

impl Document {
    /// Reads the answer of `from`.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn read(from: &ProviderUrl, answer: &Response<Bytes>) -> Result<Self, ProviderError> {
        let host = from.origin().to_string();
        if answer.status() != StatusCode::OK {
            return Err(refusal(from.origin(), answer, "the question for its discovery document", &[]));
        }
        match serde_json::from_slice::<Value>(answer.body()) {
            Ok(members) if members.is_object() => {
                Ok(Self { host, is_local: is_loopback(from.origin().host()), members })
            }
            _ => Err(ProviderError::BadReply {
                host,
                what: "has no discovery document there; discovery_endpoint mostly ends in \
                       /.well-known/openid-configuration"
                    .to_owned(),
            }),
        }
    }

    /// An endpoint that it names; `option` can stand for it.
    ///
    /// # Errors
    /// [`ProviderError::BadReply`] where there is none that secrets may be sent to.
    pub fn endpoint(&self, member: &str, option: &str) -> Result<ProviderUrl, ProviderError> {
        let fail = |why: &str| ProviderError::BadReply {
            host: self.host.clone(),
            what: format!("has a discovery document {why}; set {option}"),
        };
        let text = self.members[member].as_str().ok_or_else(|| fail(&format!("without a `{member}`")))?;
        let url = ProviderUrl::parse(text);
        let url =
            url.map_err(|_| fail(&format!("whose `{member}` is no https URL that keyway could use")))?;
        // A document from elsewhere has no say about what is on this machine.
        if is_loopback(url.origin().host()) && !self.is_local {
            return Err(fail(&format!("whose `{member}` leads to this machine")));
        }
        Ok(url)
    }

    /// Whether it has this grant, as far as it says.
    ///
    /// # Errors
    /// [`ProviderError::BadReply`] where it has not.
    pub fn check_grant(&self, grant: &str) -> Result<(), ProviderError> {
        match self.members["grant_types_supported"].as_array() {
            Some(supported) if !supported.is_empty() && !supported.iter().any(|known| known == grant) => {
                Err(ProviderError::BadReply {
                    host: self.host.clone(),
                    what: format!(
                        "does not offer logins with the grant {grant}; have it allowed there, or use another auth_type"
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}

/// The token of a successful answer. `secrets` are what was sent for it.
///
/// # Errors
/// [`ProviderError`].
pub fn read_token(
    from: &Origin,
    answer: &Response<Bytes>,
    kind: TokenKind,
    secrets: &[&str],
) -> Result<TokenId, ProviderError> {
    if answer.status() != StatusCode::OK {
        return Err(refusal(from, answer, "the request for a token", secrets));
    }
    let bad = |what: String| ProviderError::BadReply { host: from.to_string(), what };
    let Ok(mut document) = serde_json::from_slice::<Value>(answer.body()) else {
        return Err(bad("answered the request for a token with something that is not JSON; is access_token_endpoint right?".to_owned()));
    };
    let name = kind.as_str();
    let token = document[name].as_str().map(|token| TokenId::new(token.trim()));
    let is_error = document["error"].is_string();
    secret::wipe(&mut document);
    match token {
        Some(Ok(token)) => Ok(token),
        // There are some that say so with 200.
        None if is_error => Err(refusal(from, answer, "the request for a token", secrets)),
        _ => {
            let hint = match kind {
                TokenKind::Access => "is access_token_endpoint right?",
                TokenKind::Id => "is `openid` in openid_scope? Else set access_token_type to access_token",
            };
            Err(bad(format!("gave no usable `{name}`; {hint}")))
        }
    }
}

/// What a successful answer gives to get another one without the person (RFC 6749, section 5.1), if anything.
pub fn read_refresh(answer: &Response<Bytes>) -> Option<Secret> {
    let mut document: Value = serde_json::from_slice(answer.body()).ok()?;
    // Visible ASCII, and spaces at most (RFC 6749, appendix A.17).
    let is_one = |text: &&str| {
        (1..=LONGEST_REFRESH).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
    };
    let refresh = document["refresh_token"].as_str().filter(is_one).map(Secret::new);
    secret::wipe(&mut document);
    refresh
}

/// A login that a person has to agree to elsewhere (RFC 8628, section 3.2).
#[derive(Debug)]
pub struct Device {
    /// What the client asks with whether it was agreed to.
    pub code: Secret,
    /// Where the person goes.
    pub address: String,
    /// The code to enter there.
    pub user_code: String,
    /// The same address with the code in it, if there is one.
    pub complete: Option<String>,
    /// When it is over.
    pub ends: Instant,
    /// How long to wait between two questions.
    pub interval: Duration,
}

impl Device {
    /// Reads the answer of the device authorization endpoint, which came at `now`.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub fn read(
        from: &Origin,
        answer: &Response<Bytes>,
        now: Instant,
        secrets: &[&str],
    ) -> Result<Self, ProviderError> {
        if answer.status() != StatusCode::OK {
            return Err(refusal(from, answer, "the request for a code", secrets));
        }
        let bad = |what: &str| ProviderError::BadReply {
            host: from.to_string(),
            what: format!("{what}; is device_authorization_endpoint right?"),
        };
        let mut document: Value = serde_json::from_slice(answer.body())
            .map_err(|_| bad("answered the request for a code with something that is not JSON"))?;
        let read = Self::read_document(&document, now)
            .map_err(|name| bad(&format!("answered the request for a code without a usable `{name}`")));
        secret::wipe(&mut document);
        read
    }

    fn read_document(document: &Value, now: Instant) -> Result<Self, &'static str> {
        let text = |name| document[name].as_str().filter(|text| is_for_people(text)).ok_or(name);
        let address = |name| {
            text(name).and_then(|text| ProviderUrl::parse(text).map(|_| text.to_owned()).map_err(|_| name))
        };
        let code = document["device_code"].as_str().filter(|code| !code.is_empty()).ok_or("device_code")?;
        let life = document["expires_in"].as_u64().filter(|life| *life > 0).ok_or("expires_in")?;
        let interval = document["interval"].as_u64().unwrap_or(5).clamp(1, 60);
        // Some still say it as the drafts did.
        let verification = address("verification_uri").or_else(|_| address("verification_url"));
        Ok(Self {
            code: Secret::new(code),
            address: verification.map_err(|_| "verification_uri")?,
            user_code: text("user_code")?.to_owned(),
            complete: address("verification_uri_complete").ok(),
            ends: now + Duration::from_secs(life.min(LONGEST_WAIT)),
            interval: Duration::from_secs(interval),
        })
    }
}

/// Whether a text can be shown in a terminal as it is.
fn is_for_people(text: &str) -> bool {
    (1..=2000).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Checks that an id token belongs to the login with this nonce (OpenID Connect Core 1.0, section 3.1.3.7). There
/// may be none. Its signature is Keystone's business; it came from the provider itself.
///
/// # Errors
/// [`ProviderError::BadReply`] for one of another login.
pub fn check_nonce(from: &Origin, answer: &Response<Bytes>, nonce: &Secret) -> Result<(), ProviderError> {
    let mut document: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let is_ours = document["id_token"].as_str().is_none_or(|token| {
        let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        claims.is_some_and(|claims| claims["nonce"].as_str() == Some(nonce.expose()))
    });
    secret::wipe(&mut document);
    if is_ours {
        return Ok(());
    }
    let what = "gave an id token of another login (its nonce is not this one's); start it again".to_owned();
    Err(ProviderError::BadReply { host: from.to_string(), what })
}

/// The error of a login that a browser brought, as far as it is a known one.
pub fn declined(from: &Origin, error: &str) -> ProviderError {
    let code = CODES.iter().find(|(known, _)| *known == error).map(|(code, _)| *code);
    ProviderError::Refused { host: from.to_string(), status: 302, code, message: None }
}

/// What an answer means that does not hold what was asked for. `asked` names the request for people; `secrets`
/// are what was sent with it, so that no echo of them gets into a log.
pub fn refusal(from: &Origin, answer: &Response<Bytes>, asked: &str, secrets: &[&str]) -> ProviderError {
    let host = from.to_string();
    let status = answer.status();
    let message = error_message(answer.body(), secrets);
    let code = error_code(answer.body());
    let known = code.as_deref().and_then(|code| CODES.iter().find(|(known, _)| *known == code));
    let is_busy = matches!(code.as_deref(), Some("temporarily_unavailable" | "server_error"));
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() || is_busy {
        let retry_after = retry_after(answer.headers(), SystemTime::now());
        return ProviderError::Unavailable { host, status: status.as_u16(), message, retry_after };
    }
    if known.is_some() || code.is_some() || matches!(status.as_u16(), 401 | 403) {
        // The code says it already.
        let message = message.filter(|message| known.is_none() || Some(message) != code.as_ref());
        let code = known.map(|(code, _)| *code);
        return ProviderError::Refused { host, status: status.as_u16(), code, message };
    }
    let what = if status.is_redirection() {
        let mut to = redirect_host(answer.headers());
        if secrets.iter().any(|secret| secret::is_echoed(&to, secret)) {
            "another host".clone_into(&mut to);
        }
        format!(
            "answered {asked} with {status}, a redirect to {to}, which keyway does not follow; set the option to where it leads, if that is right"
        )
    } else {
        format!("answered {asked} with {status}; is its URL in the configuration right?")
    };
    ProviderError::BadReply { host, what }
}

/// The `error` of an answer (RFC 6749, section 5.2).
pub fn error_code(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    document["error"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(text: &str) -> ProviderUrl {
        ProviderUrl::parse(text).unwrap()
    }

    fn answer(status: u16, body: impl ToString) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .header("retry-after", "7")
            .body(Bytes::from(body.to_string()))
            .unwrap()
    }

    #[test]
    fn an_address_stays_as_it_is_written_and_is_https() {
        for (text, origin, target) in [
            ("https://idp.example/token/", "https://idp.example", "/token/"),
            ("https://idp.example:8443/a?p=B2C_1", "https://idp.example:8443", "/a?p=B2C_1"),
            ("https://idp.example", "https://idp.example", "/"),
            ("http://127.0.0.1:8080/t", "http://127.0.0.1:8080", "/t"),
            ("http://[::1]/t", "http://[::1]", "/t"),
            ("http://localhost/t", "http://localhost", "/t"),
        ] {
            let url = url(text);
            assert_eq!((url.origin().to_string().as_str(), url.target()), (origin, target));
            assert!(!format!("{url:?}").contains("B2C"));
        }
        for text in ["http://idp.example/t", "http://127.0.0.1.example/t", "http://localhost.example/"] {
            assert_eq!(ProviderUrl::parse(text), Err(ProviderUrlError::PlainHttp), "{text}");
        }
        for text in [
            "",
            "idp.example",
            "ftp://idp.example",
            "https://u:p@idp.example/",
            "https://idp.example/t?a#b",
            "https://idp.example/../t",
        ] {
            assert!(matches!(ProviderUrl::parse(text), Err(ProviderUrlError::Url(_))), "{text}");
        }
    }

    #[test]
    fn a_form_holds_any_text() {
        let form =
            form(&[("grant_type", "password"), ("scope", "openid profile"), ("password", "a&b=c+d%é")]);
        assert_eq!(form, "grant%5Ftype=password&scope=openid%20profile&password=a%26b%3Dc%2Bd%25%C3%A9");
    }

    #[test]
    fn a_discovery_document_leads_to_https_only() {
        let from = url("https://idp.example/.well-known/openid-configuration");
        let document =
            |member: Value| Document::read(&from, &answer(200, json!({ "token_endpoint": member })));
        let endpoint =
            |member: Value| document(member).unwrap().endpoint("token_endpoint", "access_token_endpoint");
        assert_eq!(endpoint("https://other.example/t".into()).unwrap(), url("https://other.example/t"));
        for (member, expected) in [
            (Value::Null, "without a `token_endpoint`; set access_token_endpoint"),
            (json!(["https://idp.example"]), "without a `token_endpoint`"),
            ("http://idp.example/t".into(), "is no https URL"),
            ("https://hunter2@idp.example/t".into(), "is no https URL"),
            ("http://127.0.0.1:5000/t".into(), "leads to this machine"),
            ("https://localhost/t".into(), "leads to this machine"),
        ] {
            let error = endpoint(member).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
        let local = url("http://127.0.0.1:1/d");
        let document =
            Document::read(&local, &answer(200, json!({"token_endpoint": "http://127.0.0.1:2/t"}))).unwrap();
        assert_eq!(document.endpoint("token_endpoint", "o").unwrap().target(), "/t");
        for body in ["", "[]", "<html>", "7"] {
            assert!(
                Document::read(&from, &answer(200, body))
                    .unwrap_err()
                    .to_string()
                    .contains("no discovery document")
            );
        }
        assert!(Document::read(&from, &answer(404, "")).unwrap_err().to_string().contains("with 404"));
    }

    #[test]
    fn a_grant_that_is_not_offered_is_named() {
        let from = url("https://idp.example/d");
        let check = |supported: Value| {
            let document = json!({ "grant_types_supported": supported });
            Document::read(&from, &answer(200, document)).unwrap().check_grant("password")
        };
        for fine in [Value::Null, json!([]), json!(["authorization_code", "password"])] {
            check(fine).unwrap();
        }
        let error = check(json!(["authorization_code"])).unwrap_err().to_string();
        assert!(error.contains("the grant password"), "{error}");
    }

    #[track_caller]
    fn check_token(status: u16, body: impl ToString, kind: TokenKind, expected: &str) {
        let from = url("https://idp.example/t");
        let error = read_token(from.origin(), &answer(status, body), kind, &["hunter2"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("https://idp.example"), "{text}");
        assert!(!format!("{text}{error:?}").contains("hunter2"), "{text} {error:?}");
    }

    // Promise 76.
    #[test]
    fn what_is_no_token_says_what_to_do_and_no_secret() {
        use TokenKind::{Access, Id};
        let error = |code: &str| json!({ "error": code });
        check_token(400, error("invalid_grant"), Access, "with 400 invalid_grant; check the user");
        check_token(
            401,
            error("invalid_client"),
            Access,
            "401 invalid_client; check client_id and client_secret",
        );
        check_token(400, error("invalid_scope"), Access, "check openid_scope");
        check_token(400, error("unauthorized_client"), Access, "does not let this client");
        check_token(400, error("its_own"), Access, "with 400 (\"its_own\"); check client_id");
        check_token(200, error("invalid_grant"), Access, "invalid_grant");
        check_token(401, "", Access, "with 401; check client_id");
        let described = json!({"error": "invalid_grant", "error_description": "no\nsuch user"});
        check_token(400, described, Access, "invalid_grant (\"no such user\")");
        let echo = json!({"error": "invalid_grant", "error_description": "hunter2 is wrong"});
        check_token(400, echo, Access, "with 400 invalid_grant; check");
        check_token(400, error("hunter2"), Access, "with 400; check");
        check_token(400, error("temporarily_unavailable"), Access, "answered 400");
        check_token(503, "", Access, "answered 503");
        check_token(429, "", Access, "asked again later");
        check_token(404, "", Access, "with 404 Not Found; is its URL");
        check_token(400, "no", Access, "with 400 Bad Request; is its URL");
        check_token(302, "", Access, "a redirect to nowhere");
        check_token(200, "<html>hunter2", Access, "not JSON");
        check_token(200, json!({"access_token": 7}), Access, "no usable `access_token`");
        check_token(200, json!({"access_token": ""}), Access, "no usable `access_token`");
        check_token(200, json!({"access_token": "a b\r\nx: y"}), Access, "no usable `access_token`");
        check_token(200, json!({"access_token": "a"}), Id, "is `openid` in openid_scope?");
        check_token(200, "[]", Access, "no usable `access_token`");
        let from = url("https://idp.example/t");
        let refused = refusal(from.origin(), &answer(503, ""), "it", &[]);
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(7)));
        let both = answer(200, json!({"access_token": "a", "id_token": "i"}));
        for (kind, expected) in [(Access, "a"), (Id, "i")] {
            assert_eq!(read_token(from.origin(), &both, kind, &[]).unwrap().expose(), expected);
        }
    }
}
