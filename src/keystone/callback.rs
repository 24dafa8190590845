//! What does a browser bring back?
//!
//! Keystone's web single sign-on ends with a page that makes the browser post an unscoped token to a listener on
//! this machine. `Callback` is that listener: on loopback only, as long as a login goes on, and for one token.
//! Any page that is open in the browser could post a token of its own meanwhile; what tells it from Keystone's is
//! looked at, and who logged in is told to the person. An identity provider's login ends alike, with a code that
//! names the login which it belongs to.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::{Secret, TokenId};
use crate::upstream::{BaseUrl, Origin};

/// Where Keystone has the browser post to; its `trusted_dashboard` names it to the letter.
pub(super) const PATH: &str = "/auth/websso/";

/// The longest form that is read, bytes.
const LONGEST_FORM: usize = 64 << 10;

/// How long a connection may take: the browser is on this machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Browsers open more than they need.
const MOST_CONNECTIONS: usize = 16;

const DONE: &str = "You are logged in. keyway has what it needs, and this page may be closed.\n";
const DECLINED: &str =
    "The login was declined. keyway says more in its terminal, and this page may be closed.\n";
const REFUSED: &str = "This is not what keyway waits for. Log in at the address that keyway login shows.\n";

/// A listener for one token.
#[derive(Debug)]
pub(super) struct Callback {
    sockets: Vec<TcpListener>,
    place: Place,
}

/// Where a browser comes to.
#[derive(Clone, Debug)]
struct Place {
    /// As it is in the address: `localhost:9990`.
    host: String,
    path: String,
}

/// What a browser should bring.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// A token, from a page of the Keystone at this origin.
    Token(Origin),
    /// A code, with this state beside it.
    Code(Secret),
}

/// What a browser brought.
#[derive(Debug)]
pub enum Brought {
    /// An unscoped token.
    Token(TokenId),
    /// A code, good once.
    Code(Secret),
    /// Why there is no code: the error's name.
    No(String),
}

impl Callback {
    /// Listens on loopback, whatever the host is called.
    ///
    /// # Errors
    /// The port is taken, or there is no such address.
    pub(super) async fn bind(host: &str, port: u16, path: &str) -> io::Result<Self> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let sockets = match host.parse::<Ipv4Addr>() {
            Ok(address) if address.is_loopback() => vec![TcpListener::bind((address, port)).await?],
            Ok(_) => return Err(io::ErrorKind::AddrNotAvailable.into()),
            Err(_) if host == "localhost" => {
                // A browser takes either.
                let mut sockets = vec![TcpListener::bind(v4).await?];
                sockets.extend(TcpListener::bind(v6).await);
                sockets
            }
            Err(_) => vec![TcpListener::bind(v6).await?],
        };
        let name =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        // A browser leaves that port out.
        let host = if port == 80 { name } else { format!("{name}:{port}") };
        Ok(Self { sockets, place: Place { host, path: path.to_owned() } })
    }

    /// The address that Keystone has the browser post to.
    pub(super) fn address(&self) -> String {
        format!("http://{}{}", self.place.host, self.place.path)
    }

    /// The first that a browser brings of what is wanted, within this time.
    pub(super) async fn wait(&self, wanted: &Wanted, within: Duration) -> Option<Brought> {
        let (found, mut brought) = mpsc::channel(1);
        let mut connections = JoinSet::new();
        let serving = async {
            loop {
                let stream = tokio::select! {
                    stream = self.accept(), if connections.len() < MOST_CONNECTIONS => stream,
                    Some(_) = connections.join_next() => continue,
                    first = brought.recv() => return first,
                };
                let (found, wanted, place) = (found.clone(), wanted.clone(), self.place.clone());
                connections.spawn(tokio::time::timeout(PATIENCE, serve(stream, found, wanted, place)));
            }
        };
        let first = tokio::time::timeout(within, serving).await.ok().flatten();
        if first.is_some() {
            // The browser should show the page.
            let ended = async { while connections.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        }
        first
    }

    async fn accept(&self) -> TcpStream {
        loop {
            let accepted = match &self.sockets[..] {
                [one, other] => tokio::select! {
                    accepted = one.accept() => accepted,
                    accepted = other.accept() => accepted,
                },
                sockets => sockets[0].accept().await,
            };
            match accepted {
                Ok((stream, _)) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn serve(stream: TcpStream, found: mpsc::Sender<Brought>, wanted: Wanted, place: Place) {
    let answer = service_fn(|request: Request<Incoming>| {
        let (found, wanted, place) = (found.clone(), wanted.clone(), place.clone());
        async move {
            let brought = read(request, &wanted, &place).await;
            let is_no = matches!(brought, Some(Brought::No(_)));
            // A second one is one too many.
            let is_first = brought.is_some_and(|brought| found.try_send(brought).is_ok());
            let (status, text) = match (is_first, is_no) {
                (true, true) => (StatusCode::OK, DECLINED),
                (true, false) => (StatusCode::OK, DONE),
                (false, _) => (StatusCode::BAD_REQUEST, REFUSED),
            };
            Ok::<_, Infallible>(page(status, text))
        }
    });
    // A browser that breaks off comes back.
    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONNECTION, "close"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a request brings, if it is what is waited for.
async fn read(request: Request<Incoming>, wanted: &Wanted, place: &Place) -> Option<Brought> {
    let (head, body) = request.into_parts();
    let keystone = match wanted {
        Wanted::Token(keystone) => keystone.to_string(),
        Wanted::Code(state) => {
            let is_here = head.method == Method::GET && head.uri.path() == place.path;
            let is_ours = only(&head.headers, header::HOST).flatten() == Some(&place.host);
            return code_in(head.uri.query()?, state).filter(|_| is_here && is_ours);
        }
    };
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    if head.method != Method::POST
        || target != place.path
        || !comes_from(&head.headers, &keystone, &place.host)
    {
        return None;
    }
    let body = Limited::new(body, LONGEST_FORM).collect().await.ok()?.to_bytes();
    token_in(&body).map(Brought::Token)
}

/// The only value of a field, or none. `None` where it is there twice, which is as bad as a wrong one.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<Option<&str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) => value.to_str().ok().map(Some),
        _ => None,
    }
}

/// A code, or why there is none, if it belongs to the login with this state.
pub fn code_in(query: &str, state: &Secret) -> Option<Brought> {
    let fields: Vec<_> = query.split('&').filter_map(|field| field.split_once('=')).collect();
    // A name that is there twice is as bad as a wrong one.
    let one = |name: &str| {
        let mut values = fields.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        let value = values.next().filter(|_| values.next().is_none())?.replace('+', " ");
        let value = percent_decode(value.as_bytes()).decode_utf8().ok()?.into_owned();
        (!value.is_empty()).then(|| Secret::new(value))
    };
    if one("state")? != *state {
        return None;
    }
    match (one("code"), one("error")) {
        (Some(code), None) => Some(Brought::Code(code)),
        (None, Some(error)) => Some(Brought::No(error.expose().to_owned())),
        _ => None,
    }
}

/// Whether a page of this Keystone may have had the browser send this.
fn comes_from(headers: &HeaderMap, keystone: &str, host: &str) -> bool {
    let one = |name| only(headers, name);
    let fetch = |name: &'static str| one(HeaderName::from_static(name)).flatten();
    let form = one(header::CONTENT_TYPE).flatten().and_then(|kind| kind.split(';').next());
    let origin = one(header::ORIGIN);
    let referer = one(header::REFERER);
    one(header::HOST).flatten() == Some(host)
        && form.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
        // A form that was sent by a page, not by its script and not by hand.
        && fetch("sec-fetch-mode") == Some("navigate")
        && fetch("sec-fetch-dest") == Some("document")
        && fetch("sec-fetch-site").is_some_and(|site| site != "none")
        // From https to http browsers hide where it comes from.
        && origin.is_some_and(|origin| origin.is_none_or(|origin| origin == "null" || is_at(origin, keystone)))
        && referer.is_some_and(|referer| referer.is_none_or(|referer| is_at(referer, keystone)))
}

/// Whether a URL has this origin.
fn is_at(url: &str, origin: &str) -> bool {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    BaseUrl::parse(url).is_ok_and(|url| url.origin().to_string() == origin)
}

/// The only `token` of a form.
pub fn token_in(form: &[u8]) -> Option<TokenId> {
    let mut tokens = form.split(|byte| *byte == b'&').filter_map(|field| field.strip_prefix(b"token="));
    let (Some(token), None) = (tokens.next(), tokens.next()) else { return None };
    let token = Zeroizing::new(percent_decode(token).collect::<Vec<_>>());
    TokenId::new(std::str::from_utf8(&token).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYSTONE: &str = "https://k.example:5000";
    const HOST: &str = "localhost:9990";

    /// What a browser sends for Keystone's page, with these fields in place of its own.
    fn sent(changes: &[(&'static str, Option<&'static str>)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", HOST),
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", "null"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            ("sec-fetch-site", "cross-site"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in changes {
            headers.remove(*name);
            if let Some(value) = value {
                headers.insert(*name, HeaderValue::from_static(value));
            }
        }
        comes_from(&headers, KEYSTONE, HOST)
    }

    // Promises 2, 4, 5.
    #[test]
    fn only_what_keystones_page_sends_is_looked_at() {
        for fine in [
            &[][..],
            &[("origin", None)],
            &[("origin", Some(KEYSTONE)), ("referer", Some("https://k.example:5000/v3/auth/x?origin=y"))],
            &[("content-type", Some("application/x-www-form-urlencoded; charset=utf-8"))],
            &[("sec-fetch-site", Some("same-site"))],
        ] {
            assert!(sent(fine), "{fine:?}");
        }
        for wrong in [
            ("host", Some("evil.example:9990")),
            ("host", Some("localhost")),
            ("host", None),
            ("content-type", Some("text/plain")),
            ("content-type", None),
            ("origin", Some("https://evil.example")),
            ("origin", Some("http://k.example:5000")),
            ("origin", Some("https://k.example:5000.evil.example")),
            ("referer", Some("https://evil.example/https://k.example:5000/")),
            ("sec-fetch-mode", Some("cors")),
            ("sec-fetch-mode", Some("no-cors")),
            ("sec-fetch-mode", None),
            ("sec-fetch-dest", Some("iframe")),
            ("sec-fetch-dest", None),
            ("sec-fetch-site", Some("none")),
            ("sec-fetch-site", None),
        ] {
            assert!(!sent(&[wrong]), "{wrong:?}");
        }
    }

    #[test]
    fn a_form_has_one_token() {
        let token = |form: &str| token_in(form.as_bytes()).map(|token| token.expose().to_owned());
        assert_eq!(token("token=gAAAA%2Bb-_%3D").as_deref(), Some("gAAAA+b-_="));
        assert_eq!(token("a=b&token=t&c").as_deref(), Some("t"));
        for none in ["", "token=", "token", "xtoken=a", "token=a&token=b", "token=a%0d%0ab", "token=%ff"] {
            assert_eq!(token(none), None, "{none}");
        }
    }

    #[test]
    fn a_code_belongs_to_the_login_of_its_state() {
        let state = Secret::new("s1");
        let brought = |query: &str| match code_in(query, &state) {
            Some(Brought::Code(code)) => Some(code.expose().to_owned()),
            Some(Brought::No(error)) => Some(format!("no: {error}")),
            Some(Brought::Token(_)) | None => None,
        };
        assert_eq!(brought("code=c%2F1&state=s1&iss=x").as_deref(), Some("c/1"));
        assert_eq!(brought("error=access_denied&state=s1").as_deref(), Some("no: access_denied"));
        for none in [
            "",
            "code=c",
            "code=c&state=s2",
            "code=c&state=",
            "state=s1",
            "code=c&state=s1&state=s1",
            "code=a&code=b&state=s1",
            "code=a&error=b&state=s1",
        ] {
            assert_eq!(brought(none), None, "{none}");
        }
    }

    #[tokio::test]
    async fn it_listens_on_loopback_only() {
        for host in ["127.0.0.1", "localhost", "127.0.0.2"] {
            let callback = Callback::bind(host, 0, PATH).await.unwrap();
            for socket in &callback.sockets {
                assert!(socket.local_addr().unwrap().ip().is_loopback());
            }
        }
        for host in ["0.0.0.0", "192.0.2.1"] {
            assert!(Callback::bind(host, 0, PATH).await.is_err());
        }
    }
}
