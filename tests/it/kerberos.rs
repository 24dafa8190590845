//! Logins by a Kerberos ticket, of which a door before Keystone makes something odd.
//!
//! There is no KDC: the tickets are in a credential cache that a test writes, made of nothing but their shape. So the
//! door can't show who it is, and what comes of right answers is for tests/openstack, which has a realm of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use keyway::demo::{self, Cloud, OTHER_PROJECT};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::federation::free_port;
use crate::support::federation::{Reply, address_of, bind, listen, reply};
use crate::support::{Answer, Connection, Process, Task, cloud, eventually, request};

const REALM: &str = "TEST.EXAMPLE";
/// RFC 4178, section 3.2: the bytes that say which mechanism it is.
const SPNEGO: &[u8] = &[0x06, 0x06, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x02];
/// "Accepted", by a server that shows nothing of itself.
const ACCEPTED_ONLY: &str = "Negotiate oRQwEqADCgEAoQsGCSqGSIb3EgECAg==";
const FEDERATED: &str = "/v3/OS-FEDERATION/identity_providers/kdc/protocols/mapped/auth";

/// What the door was asked.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    ticket: String,
    body: Bytes,
}

/// Status, headers and body of an answer.
type Instead = (u16, &'static [(&'static str, &'static str)], &'static str);

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// What it says of itself with a good answer.
    shows: Option<&'static str>,
    /// What it answers to a ticket, in place of what it should.
    instead: Option<Instead>,
}

/// The door: below `/krb` and for federated logins it wants a ticket; whoever has one is the demo cloud's user.
struct Door {
    _cloud: Cloud,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: Task,
}

impl Door {
    async fn start() -> Self {
        let cloud = cloud().await;
        let keystone = address_of(&cloud);
        let (socket, address) = bind().await;
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let answer = move |head: http::request::Parts, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { guard(&shared, keystone, head, body).await }
        };
        let _task = Task::spawn(listen(socket, answer));
        Self { _cloud: cloud, address, state, _task }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).asked.clone()
    }

    /// How often a ticket was shown.
    fn tickets(&self) -> usize {
        self.asked().iter().filter(|asked| !asked.ticket.is_empty()).count()
    }
}

async fn guard(state: &Mutex<State>, keystone: SocketAddr, head: http::request::Parts, body: Bytes) -> Reply {
    let authorization = head.headers.get("authorization").map_or("", |value| value.to_str().unwrap());
    let ticket = authorization.strip_prefix("Negotiate ").unwrap_or_default().to_owned();
    let path = head.uri.path_and_query().unwrap().as_str();
    let asked = Asked { line: format!("{} {path}", head.method), ticket: ticket.clone(), body: body.clone() };
    let (shows, instead) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.push(asked);
        (state.shows, state.instead)
    };
    let (path, guarded) = match path.strip_prefix("/krb") {
        Some(path) => (path, true),
        None => (path, path == FEDERATED),
    };
    if guarded {
        if ticket.is_empty() {
            return reply(401, &[("www-authenticate", "Negotiate")], "<html>401</html>");
        }
        if let Some((status, headers, body)) = instead {
            return reply(status, headers, body);
        }
        let ticket = STANDARD.decode(ticket).expect("base64");
        let has = |needle: &[u8]| ticket.windows(needle.len()).any(|window| window == needle);
        assert!(ticket[0] == 0x60 && has(SPNEGO) && has(b"localhost"), "{ticket:02x?}");
    }
    let user = json!({"name": demo::USER, "domain": {"id": "default"}, "password": demo::PASSWORD});
    let password = |mut auth: Value| {
        auth["identity"] = json!({"methods": ["password"], "password": {"user": user}});
        json!({ "auth": auth }).to_string()
    };
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (method, path, body) = if path == FEDERATED {
        assert_eq!((&head.method, body.is_empty()), (&Method::GET, true));
        (Method::POST, "/v3/auth/tokens", password(json!({"scope": "unscoped"})).into())
    } else if document["auth"]["identity"]["methods"] == json!(["kerberos"]) {
        assert!(guarded);
        assert_eq!(document["auth"]["identity"], json!({"methods": ["kerberos"], "kerberos": {}}));
        (head.method, path, password(document["auth"].clone()).into())
    } else {
        (head.method, path, body)
    };
    let headers = ["x-auth-token", "x-subject-token", "accept"].into_iter();
    let mut headers: Vec<_> =
        headers.filter_map(|name| Some((name, head.headers.get(name)?.to_str().unwrap()))).collect();
    headers.push(("content-type", "application/json"));
    let answer = Connection::open(keystone).await.send(request(method, path, &headers, body)).await;
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(
        Some(("x-subject-token", answer.header("x-subject-token"))).filter(|(_, token)| !token.is_empty()),
    );
    headers.extend(shows.filter(|_| guarded).map(|shown| ("www-authenticate", shown)));
    reply(answer.status, &headers, answer.body.clone())
}

/// Somebody with a credential cache, who runs keyway.
struct Bearer {
    home: TempDir,
}

impl Bearer {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory for temporary files");
        // No name is looked up, and no KDC is there.
        let config = format!(
            "[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_canonicalize_hostname = false\nrdns = false\n\
             [realms]\n{REALM} = {{\nkdc = 127.0.0.1:1\n}}\n[domain_realm]\nlocalhost = {REALM}\n"
        );
        fs::write(home.path().join("krb5.conf"), config).expect("a writable directory");
        Self { home }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("tickets")
    }

    /// Leaves tickets that end so many seconds from now.
    fn get_tickets(&self, left: i64) {
        fs::write(self.cache(), tickets(left)).expect("a writable directory");
    }

    fn variables(&self, door: &Door, auth_type: &str) -> Vec<(&'static str, String)> {
        let prefix = if auth_type == "v3kerberos" { "/krb" } else { "" };
        vec![
            ("OS_AUTH_TYPE", auth_type.to_owned()),
            ("OS_AUTH_URL", format!("http://localhost:{}{prefix}/v3", door.address.port())),
            ("OS_IDENTITY_PROVIDER", "kdc".to_owned()),
            ("OS_PROTOCOL", "mapped".to_owned()),
            ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
            ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
            ("OS_REGION_NAME", "RegionOne".to_owned()),
            ("KRB5_CONFIG", self.home.path().join("krb5.conf").display().to_string()),
            ("KRB5CCNAME", format!("FILE:{}", self.cache().display())),
            ("KEYWAY_LOG_LEVEL", "trace".to_owned()),
        ]
    }

    /// keyway with this login, and more variables.
    async fn keyway(&self, door: &Door, auth_type: &str, more: &[(&'static str, &str)]) -> Keyway {
        let mut variables = self.variables(door, auth_type);
        for (name, value) in more {
            variables.retain(|(known, _)| known != name);
            variables.push((*name, (*value).to_owned()));
        }
        variables.retain(|(_, value)| !value.is_empty());
        // It says where it serves when it has a token, and here it may never have one.
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let address = listen.to_string();
        let arguments = ["--listen", &address, "--admin", "127.0.0.1:0", "--log-format", "json"];
        let process = Process::start(self.home.path(), &arguments, &variables);
        eventually("that it listens", async || TcpStream::connect(listen).await.ok()).await;
        Keyway { process, listen }
    }
}

struct Keyway {
    process: Process,
    listen: SocketAddr,
}

impl Keyway {
    async fn get(&self, path: &str) -> Answer {
        Connection::open(self.listen).await.send(request(Method::GET, path, &[], "")).await
    }

    /// Waits for a line of the log with this text in it.
    async fn says(&self, text: &str) {
        self.process.stderr_line(text, |line| line.contains(text).then_some(())).await;
    }
}

/// A credential cache (MIT's format, version 4): one ticket for Keystone, and one that others are got with.
fn tickets(left: i64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    let now = i64::try_from(now.as_secs()).expect("small");
    let principal = |kind: u32, names: &[&str]| {
        let count = u32::try_from(names.len()).expect("few");
        let mut out = [kind.to_be_bytes(), count.to_be_bytes()].concat();
        for text in [REALM].iter().chain(names) {
            out.extend(counted(text.as_bytes()));
        }
        out
    };
    let user = principal(1, &["ada"]);
    let mut out = vec![5, 4, 0, 0];
    out.extend(&user);
    for service in [["krbtgt", REALM], ["HTTP", "localhost"]] {
        out.extend(&user);
        out.extend(principal(2, &service));
        // aes256-cts-hmac-sha1-96
        out.extend(18_u16.to_be_bytes());
        out.extend(counted(&[7; 32]));
        for time in [now - 7200, now - 7200, now + left, 0] {
            out.extend(u32::try_from(time).expect("a time of this century").to_be_bytes());
        }
        // It is no user-to-user key and has neither flags, addresses nor data.
        out.extend([0; 13]);
        out.extend(counted(&ticket(&service)));
        out.extend(counted(&[]));
    }
    out
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short");
    [&length.to_be_bytes(), bytes].concat()
}

/// RFC 4120, section 5.3. What it holds is for the one who has the key, and nobody has.
fn ticket(service: &[&str]) -> Vec<u8> {
    let names: Vec<_> = service.iter().flat_map(|name| der(0x1b, name.as_bytes())).collect();
    let name = [der(0xa0, &der(0x02, &[2])), der(0xa1, &der(0x30, &names))].concat();
    let sealed = [der(0xa0, &der(0x02, &[18])), der(0xa2, &der(0x04, &[9; 64]))].concat();
    let fields = [
        der(0xa0, &der(0x02, &[5])),
        der(0xa1, &der(0x1b, REALM.as_bytes())),
        der(0xa2, &der(0x30, &name)),
        der(0xa3, &der(0x30, &sealed)),
    ];
    der(0x61, &der(0x30, &fields.concat()))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("short");
    let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
    [&head, content].concat()
}

// Promises 74, 75.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_shown_once_for_each_login_and_never_logged() {
    let (door, bearer) = (Door::start().await, Bearer::new());
    bearer.get_tickets(3600);
    let keyway = bearer.keyway(&door, "v3kerberos", &[]).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    let asked = door.asked();
    assert_eq!(
        asked.iter().map(|asked| asked.line.as_str()).collect::<Vec<_>>(),
        ["POST /krb/v3/auth/tokens"]
    );
    let body: Value = serde_json::from_slice(&asked[0].body).unwrap();
    let project = json!({"name": demo::PROJECT, "domain": {"name": demo::DOMAIN}});
    assert_eq!(body["auth"]["scope"], json!({ "project": project }));
    let path = format!("/project/{OTHER_PROJECT}/compute/servers");
    assert_eq!(keyway.get(&path).await.status, 200);
    let logins = door.asked().into_iter().filter(|asked| asked.line == "POST /krb/v3/auth/tokens");
    assert_eq!(logins.count(), 2, "one for each project");
    // It is another one each time, since it says when it was shown.
    let tickets: Vec<_> =
        door.asked().into_iter().map(|asked| asked.ticket).filter(|ticket| !ticket.is_empty()).collect();
    assert_ne!(tickets[0], tickets[1]);
    keyway.says("/compute/servers").await;
    let log = keyway.process.stderr();
    for ticket in tickets {
        assert!(!keyway::secret::is_echoed(&log, &ticket), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_every_project_for_one_unscoped_token_where_it_is_federated() {
    let (door, bearer) = (Door::start().await, Bearer::new());
    bearer.get_tickets(3600);
    let keyway = bearer.keyway(&door, "v3fedkerb", &[]).await;
    assert_eq!(keyway.get("/compute/servers").await.status, 200);
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
    let asked = door.asked();
    let logins: Vec<_> =
        asked.iter().filter(|asked| asked.line.starts_with("POST") || !asked.ticket.is_empty()).collect();
    let lines: Vec<_> = logins.iter().map(|asked| asked.line.as_str()).collect();
    let federated = format!("GET {FEDERATED}");
    assert_eq!(lines, [&federated, "POST /v3/auth/tokens", "POST /v3/auth/tokens"]);
    assert_eq!(door.tickets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_a_token_are_asked_again_with_a_ticket_where_the_door_wants_one() {
    let (door, bearer) = (Door::start().await, Bearer::new());
    bearer.get_tickets(3600);
    let keyway =
        bearer.keyway(&door, "v3kerberos", &[("OS_PROJECT_NAME", ""), ("OS_SYSTEM_SCOPE", "all")]).await;
    assert_eq!(keyway.get(&format!("/project/{OTHER_PROJECT}/compute/servers")).await.status, 200);
    let lines: Vec<_> =
        door.asked().into_iter().map(|asked| (asked.line, !asked.ticket.is_empty())).collect();
    let list = "GET /krb/v3/auth/projects";
    let first = lines.iter().position(|(line, _)| line == list).expect("the list of projects");
    assert_eq!(lines[first..first + 2], [(list.to_owned(), false), (list.to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_show_who_it_is_gets_no_further_than_mutual_auth_lets_it() {
    let another = "Negotiate bm90IGEgdG9rZW4=";
    for (shows, mutual, good) in [
        (None, "required", false),
        (None, "optional", true),
        (Some("Negotiate"), "required", false),
        (Some("Negotiate"), "optional", true),
        (Some("Basic realm=\"a\""), "required", false),
        (Some(ACCEPTED_ONLY), "required", false),
        (Some(ACCEPTED_ONLY), "optional", false),
        (Some(ACCEPTED_ONLY), "disabled", true),
        (Some(another), "optional", false),
        (Some("Negotiate !"), "optional", false),
        (Some("Negotiate !"), "disabled", true),
    ] {
        for auth_type in ["v3kerberos", "v3fedkerb"] {
            let (door, bearer) = (Door::start().await, Bearer::new());
            bearer.get_tickets(3600);
            door.change(|state| state.shows = shows);
            let keyway = bearer.keyway(&door, auth_type, &[("OS_MUTUAL_AUTH", mutual)]).await;
            let answer = keyway.get("/compute/servers").await;
            if good {
                assert_eq!(answer.status, 200, "{auth_type} {shows:?} {mutual} {}", answer.text());
                continue;
            }
            let message = answer.message(502, "keystone_bad_reply");
            assert!(message.starts_with("Keystone's answer was of no use"), "{message}");
            keyway.says("does not show that it is the one of HTTP@localhost").await;
            keyway.says(&format!("(mutual_auth is {mutual})")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_ticket_is_not_shown_again_at_once() {
    let keystones = r#"{"error": {"message": "Unable to lookup user ada"}}"#;
    let json: &[_] = &[("content-type", "application/json"), ("www-authenticate", "Negotiate oQ==")];
    for (headers, body, expected) in [
        // The server could not read it; then Keystone knows nobody of that name.
        (
            &[("www-authenticate", "Negotiate")][..],
            "",
            "the Kerberos ticket for HTTP@localhost was not accepted",
        ),
        (json, keystones, "Unable to lookup user ada"),
    ] {
        for auth_type in ["v3kerberos", "v3fedkerb"] {
            let (door, bearer) = (Door::start().await, Bearer::new());
            bearer.get_tickets(3600);
            door.change(|state| state.instead = Some((401, headers, body)));
            let keyway = bearer.keyway(&door, auth_type, &[]).await;
            for _ in 0..5 {
                let answer = keyway.get("/compute/servers").await;
                assert!([502, 503].contains(&answer.status), "{answer:?}");
            }
            keyway.says(expected).await;
            assert_eq!(door.asked().len(), 1, "{:?}", door.asked());
        }
    }
}

// Promise 18.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_does_not_follow_a_redirect() {
    for auth_type in ["v3kerberos", "v3fedkerb"] {
        let (door, bearer) = (Door::start().await, Bearer::new());
        bearer.get_tickets(3600);
        let location: &[_] = &[("location", "/krb/v3/auth/login")];
        door.change(|state| state.instead = Some((StatusCode::FOUND.as_u16(), location, "")));
        let keyway = bearer.keyway(&door, auth_type, &[]).await;
        keyway.get("/compute/servers").await.message(502, "keystone_bad_reply");
        keyway.says("redirect").await;
        assert_eq!(door.asked().len(), 1, "{:?}", door.asked());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ticket_nobody_is_asked_and_a_new_one_needs_no_restart() {
    for (left, expected) in [(None, "No Kerberos credentials available"), (Some(-3600), "expired")] {
        for auth_type in ["v3kerberos", "v3fedkerb"] {
            let (door, bearer) = (Door::start().await, Bearer::new());
            if let Some(left) = left {
                bearer.get_tickets(left);
            }
            let keyway = bearer.keyway(&door, auth_type, &[]).await;
            let message = keyway.get("/compute/servers").await.message(503, "no_secret");
            assert!(!message.contains("tickets"), "the path is for the log: {message}");
            keyway.says(expected).await;
            keyway.says("run `kinit` as the user that keyway runs as").await;
            assert_eq!(door.asked().len(), 0, "{:?}", door.asked());

            bearer.get_tickets(3600);
            eventually("an answer of the service", async || {
                (keyway.get("/compute/servers").await.status == 200).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kdc_that_is_not_there_is_named_and_nobody_is_asked() {
    let (door, bearer) = (Door::start().await, Bearer::new());
    bearer.get_tickets(3600);
    // There is a ticket for localhost and for nobody else.
    let url = format!("http://127.0.0.1:{}/krb/v3", door.address.port());
    let keyway = bearer.keyway(&door, "v3kerberos", &[("OS_AUTH_URL", &url)]).await;
    keyway.get("/compute/servers").await.message(503, "no_secret");
    keyway.says("no Kerberos ticket for HTTP@127.0.0.1: Cannot contact any KDC").await;
    assert_eq!(door.asked().len(), 0, "{:?}", door.asked());
}
