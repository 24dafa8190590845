//! What is said in a login by SAML without a browser, and what is answered?
//!
//! Two ways lead to an assertion, which the service provider before Keystone turns into a session: SAML's profile for
//! enhanced clients (ECP; SAML V2.0 Profiles, section 4.2), where the service provider's request is carried to the
//! identity provider and its answer back, and WS-Trust 1.3 with a user's name and password, as AD FS has it. Here are
//! the documents, without any I/O.
//!
//! A signature covers parts of what is carried, so it is passed on byte for byte: headers are cut out and put in,
//! nothing is written anew. What is read comes from peers: document type declarations, and with them entities, are
//! refused, and nothing of a document is shown but a known kind of short text without secrets.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue};
use roxmltree::{Document, Node, ParsingOptions};
use zeroize::{Zeroize as _, Zeroizing};

use super::Secret;
use super::protocol::presentable;
use super::provider::form;
use crate::secret;

/// The media type of envelopes that go by way of the client (PAOS).
pub(super) const PAOS: &str = "application/vnd.paos+xml";

/// What a client that can carry envelopes says in the header field `PAOS`.
pub(super) const PAOS_VERSIONS: &str =
    "ver=\"urn:liberty:paos:2003-08\";\"urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp\"";

const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP_12: &str = "http://www.w3.org/2003/05/soap-envelope";
const LIBERTY_PAOS: &str = "urn:liberty:paos:2003-08";
const ECP: &str = "urn:oasis:names:tc:SAML:2.0:profiles:SSO:ecp";
const SAML: &str = "urn:oasis:names:tc:SAML:2.0:protocol";
const TRUST: &str = "http://docs.oasis-open.org/ws-sx/ws-trust/200512";
/// What service providers that know AD FS want to read instead: the same, of the year 2005.
const OLD_TRUST: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust";
const UTILITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd";
const SECURITY: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd";

/// The most nodes of a document that is read: they cost more memory than the text.
const MOST_NODES: u32 = 50_000;

/// How long a request for an assertion is good, as keystoneauth has it.
const REQUEST_LIFE: Duration = Duration::from_secs(120);

/// The most cookies of a service provider, and the most bytes that they have together.
const MOST_COOKIES: (usize, usize) = (32, 16 << 10);

/// Why a document is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is another one than was asked for.
    #[error("{0}")]
    Other(&'static str),
    /// It says that the user is not let in.
    #[error("the login was declined")]
    Declined {
        /// The last part of the most precise code: `AuthnFailed`.
        code: Option<String>,
        /// What is said to people, fit for the log.
        message: Option<String>,
    },
    /// The identity provider answers somebody else than who asked.
    #[error("the answer is for another address than the one that asked for it")]
    OtherConsumer,
}

/// What the service provider asks of an identity provider.
#[derive(Clone, Debug)]
pub struct AuthnRequest {
    /// The envelope for the identity provider.
    pub envelope: Bytes,
    /// Where the service provider wants the answer.
    pub consumer: String,
    /// The header that the answer gets in place of its own.
    header: String,
}

impl AuthnRequest {
    /// Reads the service provider's envelope.
    ///
    /// # Errors
    /// [`Unusable::Other`].
    pub fn read(body: &[u8]) -> Result<Self, Unusable> {
        let text = text(body)?;
        let document = parse(text)?;
        let (header, body) = envelope(&document, SOAP)?;
        let header = header.ok_or(Unusable::Other("an envelope without a header"))?;
        let ask = only(header, LIBERTY_PAOS, "Request")
            .ok_or(Unusable::Other("an envelope without one PAOS request"))?;
        let consumer = ask
            .attribute("responseConsumerURL")
            .ok_or(Unusable::Other("a PAOS request without a responseConsumerURL"))?;
        only(body, SAML, "AuthnRequest").ok_or(Unusable::Other("an envelope without one AuthnRequest"))?;
        let state = only(header, ECP, "RelayState").and_then(|state| state.text());
        Ok(Self {
            envelope: Bytes::from([&text[..header.range().start], &text[header.range().end..]].concat()),
            consumer: consumer.to_owned(),
            header: answer_header(ask.attribute("messageID"), state),
        })
    }

    /// Reads the identity provider's answer, and makes of it the envelope for the service provider. `secrets` are
    /// what was sent for it, so that no echo of them is shown.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub fn answer(&self, body: &[u8], secrets: &[&str]) -> Result<Bytes, Unusable> {
        let text = text(body)?;
        let document = parse(text)?;
        let (header, body) = envelope(&document, SOAP)?;
        if let Some(fault) = only(body, SOAP, "Fault") {
            let part =
                |name| fault.children().find(|node| node.has_tag_name(name)).and_then(|node| node.text());
            return Err(declined(part("faultcode"), part("faultstring"), secrets));
        }
        let response =
            only(body, SAML, "Response").ok_or(Unusable::Other("an envelope without one Response"))?;
        let status = only(response, SAML, "Status").ok_or(Unusable::Other("a Response without a status"))?;
        let codes = status.descendants().filter(|node| node.has_tag_name((SAML, "StatusCode")));
        let codes: Vec<_> = codes.filter_map(|code| code.attribute("Value")).take(2).collect();
        if codes.first() != Some(&"urn:oasis:names:tc:SAML:2.0:status:Success") {
            let message = only(status, SAML, "StatusMessage").and_then(|message| message.text());
            return Err(declined(codes.last().copied(), message, secrets));
        }
        let header = header.ok_or(Unusable::Other("an envelope without a header"))?;
        let consumer =
            only(header, ECP, "Response").and_then(|node| node.attribute("AssertionConsumerServiceURL"));
        let consumer = consumer.ok_or(Unusable::Other("an envelope that does not say where it goes"))?;
        if consumer != self.consumer {
            return Err(Unusable::OtherConsumer);
        }
        let (before, after) = (&text[..header.range().start], &text[header.range().end..]);
        Ok(secret::hold([before, &self.header, after].concat().into_bytes()))
    }
}

/// What the service provider hears when the answer is not for it (SAML V2.0 Profiles, section 4.2.4.4).
pub fn fault() -> Bytes {
    let text = "the identity provider's answer is for another address than responseConsumerURL";
    Bytes::from(format!(
        "<S:Envelope xmlns:S=\"{SOAP}\"><S:Body><S:Fault><faultcode>S:Server</faultcode>\
         <faultstring>{text}</faultstring></S:Fault></S:Body></S:Envelope>"
    ))
}

/// The header of an answer to the request with this id and this state.
fn answer_header(message_id: Option<&str>, state: Option<&str>) -> String {
    let to_next = "S:mustUnderstand=\"1\" S:actor=\"http://schemas.xmlsoap.org/soap/actor/next\"";
    let mut header = format!("<S:Header xmlns:S=\"{SOAP}\">");
    if let Some(id) = message_id {
        let id = escaped(id);
        let _ = write!(
            header,
            "<paos:Response xmlns:paos=\"{LIBERTY_PAOS}\" {to_next} refToMessageID=\"{}\"/>",
            *id
        );
    }
    if let Some(state) = state {
        let state = escaped(state);
        let _ = write!(header, "<ecp:RelayState xmlns:ecp=\"{ECP}\" {to_next}>{}</ecp:RelayState>", *state);
    }
    header.push_str("</S:Header>");
    header
}

/// Who asks for an assertion by WS-Trust, of whom and for whom.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// The identity provider's address.
    pub to: &'a str,
    /// The service provider's name of itself.
    pub applies_to: &'a str,
    /// The user.
    pub username: &'a str,
    /// The user's password.
    pub password: &'a Secret,
    /// What no other message has: 32 digits.
    pub id: &'a str,
}

impl TokenRequest<'_> {
    /// The envelope (WS-Trust 1.3, section 4; WS-Security UsernameToken Profile 1.0), sent at `now`. Nothing where
    /// there is a character that XML has no place for.
    pub fn envelope(&self, now: SystemTime) -> Option<Bytes> {
        let time =
            |at: SystemTime| Some(jiff::Timestamp::try_from(at).ok()?.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"));
        let (created, expires) = (time(now)?, time(now + REQUEST_LIFE)?);
        let all = [self.to, self.applies_to, self.username, self.password.expose()];
        if !all.iter().all(|text| text.chars().all(is_xml)) {
            return None;
        }
        let [to, applies_to, username, password] = all.map(escaped);
        let id = self.id;
        // Of its full size from the start, so that it leaves no copy behind.
        let size = 4096 + to.len() + applies_to.len() + username.len() + password.len();
        let mut envelope = Zeroizing::new(String::with_capacity(size));
        let written = write!(
            envelope,
            "<s:Envelope xmlns:s=\"{SOAP_12}\" xmlns:a=\"http://www.w3.org/2005/08/addressing\" xmlns:u=\"{UTILITY}\">\
             <s:Header>\
             <a:Action s:mustUnderstand=\"1\">{TRUST}/RST/Issue</a:Action>\
             <a:MessageID>urn:uuid:{id}</a:MessageID>\
             <a:ReplyTo><a:Address>http://www.w3.org/2005/08/addressing/anonymous</a:Address></a:ReplyTo>\
             <a:To s:mustUnderstand=\"1\">{}</a:To>\
             <o:Security xmlns:o=\"{SECURITY}\" s:mustUnderstand=\"1\">\
             <u:Timestamp u:Id=\"_0\"><u:Created>{created}</u:Created><u:Expires>{expires}</u:Expires></u:Timestamp>\
             <o:UsernameToken u:Id=\"uuid-{id}-1\"><o:Username>{}</o:Username>\
             <o:Password Type=\"http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-username-token-profile-1.0\
             #PasswordText\">{}</o:Password></o:UsernameToken></o:Security>\
             </s:Header><s:Body>\
             <trust:RequestSecurityToken xmlns:trust=\"{TRUST}\">\
             <wsp:AppliesTo xmlns:wsp=\"http://schemas.xmlsoap.org/ws/2004/09/policy\">\
             <a:EndpointReference><a:Address>{}</a:Address></a:EndpointReference></wsp:AppliesTo>\
             <trust:KeyType>{TRUST}/Bearer</trust:KeyType>\
             <trust:RequestType>{TRUST}/Issue</trust:RequestType>\
             <trust:TokenType>urn:oasis:names:tc:SAML:1.0:assertion</trust:TokenType>\
             </trust:RequestSecurityToken></s:Body></s:Envelope>",
            *to, *username, *password, *applies_to,
        );
        written.ok()?;
        debug_assert!(envelope.len() <= size, "it grew, and left a copy behind");
        Some(secret::hold(std::mem::take(&mut *envelope).into_bytes()))
    }
}

/// Reads the answer to a [`TokenRequest`], and makes of it the form for the service provider (WS-Federation 1.2,
/// section 13.2.2). `secrets` are what was sent for it.
///
/// # Errors
/// [`Unusable::Other`] and [`Unusable::Declined`].
pub fn sign_in(body: &[u8], secrets: &[&str]) -> Result<Bytes, Unusable> {
    let text = text(body)?;
    let document = parse(text)?;
    let (_, body) = envelope(&document, SOAP_12)?;
    if let Some(fault) = only(body, SOAP_12, "Fault") {
        let values = fault.descendants().filter(|node| node.has_tag_name((SOAP_12, "Value")));
        let reason = fault.descendants().find(|node| node.has_tag_name((SOAP_12, "Text")));
        let code = values.filter_map(|value| value.text()).next_back();
        return Err(declined(code, reason.and_then(|reason| reason.text()), secrets));
    }
    let response = only(body, TRUST, "RequestSecurityTokenResponseCollection")
        .and_then(|collection| only(collection, TRUST, "RequestSecurityTokenResponse"))
        .ok_or(Unusable::Other("an envelope without one RequestSecurityTokenResponse"))?;
    let assertion = only(response, TRUST, "RequestedSecurityToken")
        .and_then(|token| token.first_element_child())
        .ok_or(Unusable::Other("an answer without a token"))?;
    let whole = Zeroizing::new(standalone(text, response));
    // It grew at its beginning only. The assertion stays as it was signed.
    let (before, rest) = whole.split_at(whole.len() - (response.range().end - assertion.range().start));
    let (assertion, after) = rest.split_at(assertion.range().len());
    let [before, after] = [before, after].map(|text| text.replace(TRUST, OLD_TRUST));
    let result = Zeroizing::new([&before, assertion, &after].concat());
    Ok(form(&[("wa", "wsignin1.0"), ("wresult", &result)]))
}

/// An element as a document of its own: it says itself what its prefixes mean.
fn standalone(text: &str, element: Node<'_, '_>) -> String {
    let whole = &text[element.range()];
    let name = whole[1..].find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>'));
    let (name, rest) = whole.split_at(name.map_or(whole.len(), |at| at + 1));
    let own = own_prefixes(rest);
    let mut declared = String::new();
    for namespace in element.namespaces() {
        let prefix = namespace.name().unwrap_or_default();
        // That one needs no words.
        if prefix == "xml" || own.contains(&prefix) {
            continue;
        }
        let colon = if prefix.is_empty() { "" } else { ":" };
        let _ = write!(declared, " xmlns{colon}{prefix}=\"{}\"", *escaped(namespace.uri()));
    }
    [name, &declared, rest].concat()
}

/// The prefixes that a start tag declares, where `rest` begins behind its name; the default one is empty. The
/// document was parsed: its attributes are well-formed.
fn own_prefixes(mut rest: &str) -> Vec<&str> {
    let mut own = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        let Some((name, value)) = rest.split_once('=').filter(|_| !rest.starts_with(['/', '>'])) else {
            return own;
        };
        let name = name.trim_ascii_end();
        if name == "xmlns" {
            own.push("");
        }
        own.extend(name.strip_prefix("xmlns:"));
        let value = value.trim_ascii_start();
        let Some((_, behind)) =
            value.chars().next().and_then(|quote| value[quote.len_utf8()..].split_once(quote))
        else {
            return own;
        };
        rest = behind;
    }
}

fn text(body: &[u8]) -> Result<&str, Unusable> {
    std::str::from_utf8(body).map_err(|_| Unusable::Other("something that is not UTF-8"))
}

/// Reads a document: no document type declaration, a bounded number of nodes. What the parser says may quote the
/// document, and stays here.
fn parse(text: &str) -> Result<Document<'_>, Unusable> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| {
        Unusable::Other(match error {
            roxmltree::Error::DtdDetected => "XML with a document type declaration, which is never read",
            roxmltree::Error::NodesLimitReached => "XML with too many elements",
            _ => "something that is not XML",
        })
    })
}

/// Header and body of an envelope of this SOAP.
fn envelope<'a, 'd>(
    document: &'a Document<'d>,
    soap: &str,
) -> Result<(Option<Node<'a, 'd>>, Node<'a, 'd>), Unusable> {
    let root = document.root_element();
    if !root.has_tag_name((soap, "Envelope")) {
        return Err(Unusable::Other("XML that is no SOAP envelope"));
    }
    let body = only(root, soap, "Body").ok_or(Unusable::Other("an envelope without one body"))?;
    Ok((only(root, soap, "Header"), body))
}

/// The child of this name, if there is exactly one.
fn only<'a, 'd>(parent: Node<'a, 'd>, namespace: &str, name: &str) -> Option<Node<'a, 'd>> {
    let mut found = parent.children().filter(|node| node.has_tag_name((namespace, name)));
    found.next().filter(|_| found.next().is_none())
}

fn declined(code: Option<&str>, message: Option<&str>, secrets: &[&str]) -> Unusable {
    // A URN or a qualified name: only the last part says something.
    let code = code.map(|code| code.trim().rsplit([':', '/']).next().unwrap_or_default());
    let code = code.filter(|code| {
        (1..=40).contains(&code.len())
            && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && !secrets.iter().any(|secret| secret::is_echoed(code, secret))
    });
    let message = message.and_then(|message| presentable(message, secrets));
    Unusable::Declined { code: code.map(str::to_owned), message }
}

/// Whether XML 1.0 can hold it (section 2.2).
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A text as it stands in an element or between double quotes. It is wiped when it is dropped.
fn escaped(text: &str) -> Zeroizing<String> {
    // Of its full size from the start, so that it leaves no copy behind.
    let mut escaped = Zeroizing::new(String::with_capacity(6 * text.len()));
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Else they would be read as spaces.
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// What a service provider wants to be told again with each request. All of its requests go to one host in one
/// login, so where a cookie belongs is not looked at.
#[derive(Default)]
pub struct Cookies(Vec<(String, String)>);

/// The session is in them.
impl Drop for Cookies {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl Cookies {
    /// Takes what an answer brings (RFC 6265, section 5.2); too many, and what no header field can hold, is left out.
    pub fn take(&mut self, headers: &HeaderMap) {
        for field in headers.get_all(SET_COOKIE) {
            let pair = field.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=').map(|(name, value)| (name.trim(), value.trim()))
            else {
                continue;
            };
            if name.is_empty() {
                continue;
            }
            self.0.retain(|(known, _)| known != name);
            let size: usize = self.0.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
            if self.0.len() < MOST_COOKIES.0 && size + name.len() + value.len() < MOST_COOKIES.1 {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Adds them to a request, if there are any.
    pub fn put(&self, headers: &mut HeaderMap) {
        // Of its full size from the start, so that it leaves no copy behind.
        let mut field = Zeroizing::new(String::with_capacity(2 * MOST_COOKIES.1));
        for (name, value) in &self.0 {
            let separator = if field.is_empty() { "" } else { "; " };
            field.extend([separator, name, "=", value]);
        }
        if let Ok(mut value) = HeaderValue::try_from(field.as_str())
            && !value.is_empty()
        {
            value.set_sensitive(true);
            headers.insert(COOKIE, value);
        }
    }

    /// What is said, without its names.
    pub fn values(&self) -> Vec<&str> {
        self.0.iter().map(|(_, value)| value.as_str()).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    const SUCCESS: &str = "urn:oasis:names:tc:SAML:2.0:status:Success";

    fn soap(header: &str, body: &str) -> String {
        format!(
            "<S:Envelope xmlns:S='{SOAP}' xmlns:e='{ECP}' xmlns:p='{LIBERTY_PAOS}' xmlns:r='{SAML}'>{header}<S:Body>{body}</S:Body></S:Envelope>"
        )
    }

    fn question() -> AuthnRequest {
        let header = "<S:Header><p:Request responseConsumerURL='https://k/&amp;'/></S:Header>";
        AuthnRequest::read(soap(header, "<r:AuthnRequest/>").as_bytes()).unwrap()
    }

    fn response(status: &str) -> String {
        let status = format!("<r:Response><r:Status>{status}</r:Status></r:Response>");
        soap("<S:Header><e:Response AssertionConsumerServiceURL='https://k/&amp;'/></S:Header>", &status)
    }

    #[test]
    fn an_envelope_loses_its_header_and_nothing_else() {
        let question = question();
        assert_eq!(question.consumer, "https://k/&");
        assert_eq!(question.envelope, soap("", "<r:AuthnRequest/>"));
        let status = format!("<r:StatusCode Value='{SUCCESS}'/>");
        let answer = question.answer(response(&status).as_bytes(), &[]).unwrap();
        let header = format!("<S:Header xmlns:S=\"{SOAP}\"></S:Header>");
        let expected = soap(&header, &format!("<r:Response><r:Status>{status}</r:Status></r:Response>"));
        assert_eq!(answer, expected, "without a state and an id, there is nothing to say");
    }

    #[track_caller]
    fn check_question(document: &str, expected: &str) {
        let error = AuthnRequest::read(document.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn what_is_no_question_is_told() {
        let ask = "<p:Request responseConsumerURL='https://k/'/>";
        for (header, body, expected) in [
            ("", "<r:AuthnRequest/>", "without a header"),
            ("<S:Header/>", "<r:AuthnRequest/>", "without one PAOS request"),
            ("<S:Header><p:Request/></S:Header>", "<r:AuthnRequest/>", "without a responseConsumerURL"),
            (&format!("<S:Header>{ask}{ask}</S:Header>"), "<r:AuthnRequest/>", "without one PAOS request"),
            (&format!("<S:Header>{ask}</S:Header>"), "", "without one AuthnRequest"),
            (
                &format!("<S:Header>{ask}</S:Header>"),
                "<r:AuthnRequest/><r:AuthnRequest/>",
                "without one AuthnRequest",
            ),
        ] {
            check_question(&soap(header, body), expected);
        }
        check_question("<a/>", "no SOAP envelope");
        check_question(&format!("<S:Envelope xmlns:S='{SOAP_12}'/>"), "no SOAP envelope");
        check_question("", "not XML");
        check_question("<a>&e;</a>", "not XML");
        check_question("<!DOCTYPE a [<!ENTITY e 'hunter2'>]><a>&e;</a>", "document type declaration");
        check_question("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type declaration");
        check_question(&"<a>".repeat(60_000), "too many elements");
        assert!(AuthnRequest::read(b"<a>\xff</a>").unwrap_err().to_string().contains("not UTF-8"));
    }

    // Promise 76.
    #[test]
    fn a_declined_login_says_why_in_short_and_quotes_no_secret() {
        let code = |value: &str| format!("<r:StatusCode Value='{value}'/>");
        let check = |status: String, expected: Option<&str>, message: Option<&str>| {
            let error = question().answer(response(&status).as_bytes(), &["hunter2"]).unwrap_err();
            let (code, message) = (expected.map(str::to_owned), message.map(str::to_owned));
            assert_eq!(error, Unusable::Declined { code, message });
            assert!(!format!("{error:?}").contains("hunter2"));
        };
        check(code("urn:oasis:names:tc:SAML:2.0:status:AuthnFailed"), Some("AuthnFailed"), None);
        check(String::new(), None, None);
        check(code("urn:hunter2"), None, None);
        check(code("a b"), None, None);
        check(code(&"x".repeat(41)), None, None);
        let told = |text: &str| format!("{}<r:StatusMessage>{text}</r:StatusMessage>", code("a:B"));
        check(told("no\nsuch &lt;user&gt;"), Some("B"), Some("no such <user>"));
        check(told("hunter2 is wrong"), Some("B"), None);
        let nested = "<r:StatusCode Value='a:Responder'><r:StatusCode Value='a:AuthnFailed'/></r:StatusCode>";
        check(nested.to_owned(), Some("AuthnFailed"), None);
    }

    #[test]
    fn an_answer_for_another_address_is_of_no_use() {
        let status = format!("<r:StatusCode Value='{SUCCESS}'/>");
        for consumer in ["https://k/", "https://k/&amp; ", "https://K/&amp;", ""] {
            let other = response(&status).replace("https://k/&amp;", consumer);
            assert_eq!(question().answer(other.as_bytes(), &[]), Err(Unusable::OtherConsumer), "{consumer}");
        }
        let none = response(&status).replace("AssertionConsumerServiceURL", "other");
        assert!(matches!(question().answer(none.as_bytes(), &[]), Err(Unusable::Other(_))));
    }

    fn request<'a>(username: &'a str, password: &'a Secret) -> TokenRequest<'a> {
        TokenRequest { to: "https://idp/?a&b", applies_to: "urn:sp", username, password, id: "0123" }
    }

    #[test]
    fn a_request_holds_any_text_that_xml_can() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let strange = "a<b>&amp;\"'\t\n\r\u{e9}\u{1f600} ";
        let password = Secret::new(strange.repeat(500));
        let envelope = request(strange, &password).envelope(now).unwrap();
        let text = std::str::from_utf8(&envelope).unwrap();
        let document = Document::parse(text).unwrap();
        let find =
            |name: &str| document.descendants().find(|node| node.has_tag_name(name)).unwrap().text().unwrap();
        assert_eq!(
            (find("Username"), find("Password"), find("To")),
            (strange, password.expose(), "https://idp/?a&b")
        );
        assert_eq!(
            (find("Created"), find("Expires")),
            ("2026-09-21T14:13:20.000Z", "2026-09-21T14:15:20.000Z")
        );
        for none in ["\0", "\u{1}", "\u{b}", "\u{fffe}"] {
            assert!(request(none, &password).envelope(now).is_none());
            assert!(request("ada", &Secret::new(none)).envelope(now).is_none());
        }
    }

    /// The element that `sign_in` makes of this one, below an envelope that declares `a`, `t` and a default.
    #[track_caller]
    fn check_standalone(element: &str, expected: &str) {
        let document = format!("<e xmlns='urn:d' xmlns:a=\"urn:a'&quot;&lt;\" xmlns:t='urn:t'>{element}</e>");
        let parsed = Document::parse(&document).unwrap();
        let element = parsed.root_element().first_element_child().unwrap();
        let alone = standalone(&document, element);
        assert_eq!(alone, expected);
        let again = Document::parse(&alone).unwrap();
        let names = |node: Node<'_, '_>| -> Vec<_> {
            node.descendants().map(|node| format!("{:?} {:?}", node.tag_name(), node.text())).collect()
        };
        assert_eq!(names(again.root_element()), names(element));
    }

    #[test]
    fn an_element_says_itself_what_its_prefixes_mean_and_says_it_once() {
        let a = "xmlns:a=\"urn:a'&quot;&lt;\"";
        check_standalone("<t:x/>", &format!("<t:x xmlns=\"urn:d\" {a} xmlns:t=\"urn:t\"/>"));
        check_standalone(
            "<x a:b = 'x>y' c=\"xmlns:t=''\">z</x >",
            &format!("<x xmlns=\"urn:d\" {a} xmlns:t=\"urn:t\" a:b = 'x>y' c=\"xmlns:t=''\">z</x >"),
        );
        check_standalone(
            "<x\n\txmlns:t\n= 'urn:t' xmlns='' xmlnsa='b' ><t:y/></x>",
            &format!("<x {a}\n\txmlns:t\n= 'urn:t' xmlns='' xmlnsa='b' ><t:y/></x>"),
        );
    }

    #[test]
    fn a_service_providers_cookies_are_told_again() {
        let mut cookies = Cookies::default();
        let take = |cookies: &mut Cookies, fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(SET_COOKIE, HeaderValue::from_str(field).unwrap());
            }
            cookies.take(&headers);
        };
        let shown = |cookies: &Cookies| {
            let mut headers = HeaderMap::new();
            cookies.put(&mut headers);
            let shown = headers.get(HeaderName::from_static("cookie"));
            assert!(shown.is_none_or(HeaderValue::is_sensitive));
            shown.map(|shown| shown.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        assert_eq!((shown(&cookies), cookies.is_empty()), (String::new(), true));
        take(&mut cookies, &["a=1; Path=/", "b = 2 ;HttpOnly", "=3", "c", ""]);
        assert_eq!(shown(&cookies), "a=1; b=2");
        take(&mut cookies, &["a=4=5"]);
        assert_eq!(shown(&cookies), "b=2; a=4=5");
        take(&mut cookies, &[&format!("d={}", "x".repeat(20_000))]);
        assert_eq!(shown(&cookies), "b=2; a=4=5", "too long");
        for number in 0..100 {
            take(&mut cookies, &[&format!("c{number}=x")]);
        }
        assert_eq!(cookies.values().len(), MOST_COOKIES.0);
    }
}
