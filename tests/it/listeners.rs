//! Listeners that are socket files or speak TLS: who gets in, and who does not.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyway::app::{App, StartError};
use keyway::config::{Config, Env, Listener, Overrides};
use keyway::server::{self, Address};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::direct::fixed_cloud;
use crate::support::eventually;
use crate::support::raw::{Peer, Recorder, status, within};
use crate::support::tls::Authority;

const GET: &str = "GET /svc/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// keyway with one listener, before a service that answers everything.
struct Serving {
    app: App,
    service: Recorder,
}

fn any_port() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

async fn start(listener: server::Config) -> Result<Serving, StartError> {
    start_with(listener, |_| {}).await
}

async fn start_with(
    listener: server::Config,
    change: impl FnOnce(&mut Config),
) -> Result<Serving, StartError> {
    let service = Recorder::start().await;
    let overrides = Overrides {
        admin: Some("127.0.0.1:0".to_owned()),
        workers: Some("2".to_owned()),
        ..Overrides::default()
    };
    let env = Env::new([] as [(String, String); 0], "/nonexistent").with_root("/nonexistent");
    let mut config = Config::load_without_clouds(&overrides, &env).expect("a good configuration");
    config.clouds = vec![fixed_cloud(&service.url())];
    let mut main = Listener::at("main", any_port());
    main.server = listener;
    config.listeners = vec![main];
    config.drain = Duration::from_millis(100);
    change(&mut config);
    Ok(Serving { app: App::start(&config, &Handle::current())?, service })
}

impl Serving {
    fn closed(&self, reason: &str) -> u64 {
        let sample = format!("keyway_connections_closed_total{{reason=\"{reason}\"}} ");
        let text = self.app.shared().metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(&sample));
        value.unwrap_or_else(|| panic!("no such reason: {reason}")).parse().expect("a count")
    }

    /// Waits until so many connections were closed or refused for this reason.
    async fn until_closed(&self, reason: &str, count: u64) {
        eventually(reason, async || (self.closed(reason) == count).then_some(())).await;
    }
}

/// The error as the log shows it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[track_caller]
fn refused(outcome: Result<Serving, StartError>, says: &str) {
    let error = whole(&outcome.err().expect("it must not start"));
    assert!(error.contains(says), "{error}");
}

mod socket_files {
    use super::*;

    fn directory() -> TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn at(path: &Path) -> server::Config {
        server::Config::at(Address::Unix(path.to_owned()))
    }

    async fn get(path: &Path) -> u16 {
        let stream = within("a connection", UnixStream::connect(path)).await.expect("keyway listens");
        let mut client = Peer::new(stream);
        client.send(GET).await;
        status(&client.response().await.0)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).expect("the file is there").mode() & 0o777
    }

    // Promise 10.
    #[tokio::test]
    async fn it_serves_its_owner_alone_and_is_gone_at_the_end() {
        let home = directory();
        let path = home.path().join("keyway.sock");
        let keyway = start(at(&path)).await.unwrap();
        assert!(std::fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(keyway.app.addresses().next(), Some(&Address::Unix(path.clone())));
        for _ in 0..8 {
            assert_eq!(get(&path).await, 200);
        }
        keyway.app.drain();
        within("its end", keyway.app.ended()).await;
        assert!(!path.exists());
    }

    // Promise 10.
    #[tokio::test]
    async fn another_mode_can_be_asked_for_whatever_the_umask() {
        let home = directory();
        for asked in [0o600, 0o660, 0o666] {
            let path = home.path().join(format!("{asked:o}.sock"));
            let _keyway = start(server::Config { mode: asked, ..at(&path) }).await.unwrap();
            assert_eq!(mode(&path), asked);
            assert_eq!(get(&path).await, 200);
        }
    }

    // Promise 10.
    #[tokio::test]
    async fn a_file_that_nobody_listens_at_is_replaced() {
        let home = directory();
        let path = home.path().join("keyway.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let _keyway = start(at(&path)).await.unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(get(&path).await, 200);
    }

    // Promise 10.
    #[tokio::test]
    async fn a_socket_that_somebody_listens_at_is_in_use_and_stays() {
        let home = directory();
        let path = home.path().join("keyway.sock");
        let first = start(at(&path)).await.unwrap();
        refused(start(at(&path)).await, "in use");
        assert_eq!(get(&path).await, 200);
        drop(first);

        // Also when its queue is full, where connecting would wait.
        let path = home.path().join("busy.sock");
        let busy = socket_with_a_full_queue(&path);
        refused(start(at(&path)).await, "in use");
        drop(busy);
    }

    fn socket_with_a_full_queue(path: &Path) -> Vec<std::os::fd::OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let address = SocketAddrUnix::new(path).unwrap();
        let socket = || {
            let flags = SocketFlags::NONBLOCK;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
        };
        let listening = socket();
        rustix::net::bind(&listening, &address).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let mut held = vec![listening];
        loop {
            let client = socket();
            let full = rustix::net::connect(&client, &address).is_err();
            held.push(client);
            if full {
                return held;
            }
            assert!(held.len() < 1000, "the queue never fills");
        }
    }

    // Promise 10.
    #[tokio::test]
    async fn what_is_no_socket_is_never_replaced() {
        let home = directory();
        let path = home.path().join("keyway.sock");
        std::fs::write(&path, "mine").unwrap();
        refused(start(at(&path)).await, "no socket");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");

        // Nor what a link leads to.
        let link = home.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        refused(start(at(&link)).await, "no socket");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    // Promise 10.
    #[tokio::test]
    async fn a_file_that_took_its_place_is_not_removed() {
        let home = directory();
        let path = home.path().join("keyway.sock");
        let keyway = start(at(&path)).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        keyway.app.drain();
        within("its end", keyway.app.ended()).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    /// Connects as another user, from a thread that becomes that user for good.
    fn connect_as(user: u32, path: PathBuf) -> std::os::unix::net::UnixStream {
        let connecting = std::thread::spawn(move || {
            let user = rustix::process::Uid::from_raw(user);
            rustix::thread::set_thread_res_uid(user, user, user).expect("root may become anybody");
            std::os::unix::net::UnixStream::connect(path).expect("the mode lets everybody in")
        });
        connecting.join().expect("no panic")
    }

    async fn get_as(user: u32, path: &Path) -> Option<u16> {
        let stream = connect_as(user, path.to_owned());
        stream.set_nonblocking(true).unwrap();
        let mut client = Peer::new(UnixStream::from_std(stream).unwrap());
        client.try_send(GET).await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        (!answer.is_empty()).then(|| status(&answer))
    }

    // Promise 10.
    #[tokio::test]
    async fn another_user_is_turned_away_unless_listed_whatever_the_mode() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT CHECKED: only root can connect as another user; run this test as root");
            return;
        }
        const NOBODY: u32 = 65534;
        let home = directory();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = home.path().join("own.sock");
        let keyway = start(server::Config { mode: 0o666, ..at(&path) }).await.unwrap();
        assert_eq!(get_as(NOBODY, &path).await, None);
        keyway.until_closed("refused_user", 1).await;
        assert_eq!(keyway.service.connections().len(), 0);
        assert_eq!(get(&path).await, 200);

        let path = home.path().join("listed.sock");
        let listed = server::Config { mode: 0o666, users: vec![NOBODY], ..at(&path) };
        let keyway = start(listed).await.unwrap();
        assert_eq!(get_as(NOBODY, &path).await, Some(200));
        assert_eq!(get_as(NOBODY - 1, &path).await, None);
        keyway.until_closed("refused_user", 1).await;
    }
}

mod encrypted {
    use super::*;
    use crate::support::tls::client;

    /// A listener with a certificate of this authority; with `clients`, clients need one too.
    fn secured(authority: &Authority, clients: bool) -> server::Config {
        let identity = authority.issue("localhost");
        let tls = server::tls::Config {
            cert: authority.write("cert.pem", &identity.certificate),
            key: key(authority, &identity.key, 0o600),
            clients: clients.then(|| server::tls::Clients::of(authority.file())),
        };
        let address = any_port();
        server::Config { tls: Some(tls), ..server::Config::at(address) }
    }

    fn key(authority: &Authority, text: &str, mode: u32) -> PathBuf {
        let path = authority.write("key.pem", text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    async fn connect(keyway: &Serving, client: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
        let address = keyway.app.addresses().next().and_then(Address::tcp).unwrap();
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        within("a handshake", client.connect(ServerName::try_from("localhost").unwrap(), stream)).await
    }

    /// The status of a GET; `None` if there is no answer. With TLS 1.3, a client learns only after its
    /// handshake that its certificate is not taken.
    async fn get(keyway: &Serving, client: &TlsConnector) -> Option<u16> {
        let mut client = Peer::new(connect(keyway, client).await.ok()?);
        client.try_send(GET).await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        (!answer.is_empty()).then(|| status(&answer))
    }

    #[tokio::test]
    async fn it_serves_http_1_1_and_http_2_as_the_client_prefers() {
        let authority = Authority::new();
        let keyway = start(secured(&authority, false)).await.unwrap();
        assert!(keyway.app.url().starts_with("https://127.0.0.1:"));
        assert_eq!(get(&keyway, &client(&authority, None, &["http/1.1"])).await, Some(200));
        assert_eq!(get(&keyway, &client(&authority, None, &[])).await, Some(200));

        let stream = connect(&keyway, &client(&authority, None, &["h2", "http/1.1"])).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let get = http::Request::get("https://localhost/svc/a").body(http_body_util::Empty::<&[u8]>::new());
        let answer = within("an answer", sender.send_request(get.unwrap())).await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    // Promise 73.
    #[tokio::test]
    async fn a_client_needs_a_good_certificate_where_one_is_demanded() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let keyway = start(secured(&authority, true)).await.unwrap();
        let for_clients = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        let good = authority.issue_with("client", for_clients);
        assert_eq!(get(&keyway, &client(&authority, Some(&good), &["http/1.1"])).await, Some(200));

        let expired = authority.issue_with("client", |params| {
            for_clients(params);
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        let future = authority.issue_with("client", |params| {
            for_clients(params);
            params.not_before = rcgen::date_time_ymd(2200, 1, 1);
            params.not_after = rcgen::date_time_ymd(2300, 1, 1);
        });
        let for_servers = authority.issue_with("client", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let foreign = stranger.issue_with("client", for_clients);
        let bad = [None, Some(&expired), Some(&future), Some(&for_servers), Some(&foreign)];
        for (count, identity) in (1..).zip(bad) {
            assert_eq!(get(&keyway, &client(&authority, identity, &["http/1.1"])).await, None);
            keyway.until_closed("tls", count).await;
        }
        assert_eq!(keyway.service.connections().len(), 1, "nothing of the others' went on");
    }

    // Promise 73.
    #[tokio::test]
    async fn a_certificate_that_its_authority_revoked_gets_nowhere() {
        let authority = Authority::new();
        let with_serial = |serial: u64| {
            authority.issue_with("client", |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.serial_number = Some(serial.into());
            })
        };
        let (good, revoked) = (with_serial(7), with_serial(8));
        let mut secured = secured(&authority, true);
        let tls = secured.tls.as_mut().unwrap();
        let clients = tls.clients.as_mut().unwrap();
        clients.crl = Some(authority.revoke(8));
        let keyway = start(secured).await.unwrap();
        assert_eq!(get(&keyway, &client(&authority, Some(&good), &["http/1.1"])).await, Some(200));
        assert_eq!(get(&keyway, &client(&authority, Some(&revoked), &["http/1.1"])).await, None);
        keyway.until_closed("tls", 1).await;
    }

    // Promise 73.
    #[tokio::test]
    async fn a_session_is_resumed_except_where_certificates_are_looked_at() {
        let authority = Authority::new();
        let for_clients = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        };
        let identity = authority.issue_with("client", for_clients);
        // Else a certificate would be good after its end.
        for (asks, kind) in [(false, HandshakeKind::Resumed), (true, HandshakeKind::Full)] {
            let keyway = start(secured(&authority, asks)).await.unwrap();
            let client = client(&authority, Some(&identity), &["http/1.1"]);
            assert_eq!(get(&keyway, &client).await, Some(200));
            let again = connect(&keyway, &client).await.unwrap();
            assert_eq!(again.get_ref().1.handshake_kind(), Some(kind));
        }
    }

    /// A ClientHello of TLS 1.1, as a client that knows nothing newer sends it.
    fn old_hello() -> Vec<u8> {
        let mut hello = vec![3, 2];
        hello.extend([7; 32]);
        // No session; TLS_RSA_WITH_AES_128_CBC_SHA; no compression.
        hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
        let mut message = vec![1, 0, 0, hello.len() as u8];
        message.extend(hello);
        let mut record = vec![22, 3, 1, 0, message.len() as u8];
        record.extend(message);
        record
    }

    #[tokio::test]
    async fn tls_1_1_and_what_is_no_tls_get_nowhere() {
        let authority = Authority::new();
        let keyway = start(secured(&authority, false)).await.unwrap();
        let address = keyway.app.addresses().next().and_then(Address::tcp).unwrap();
        for (count, sent) in (1..).zip([old_hello(), GET.as_bytes().to_vec()]) {
            let mut client = Peer::connect(address).await;
            client.send(sent).await;
            let answer = client.rest().await;
            // A fatal alert, or nothing.
            assert!(answer.is_empty() || (answer[0], answer[5]) == (21, 2), "{answer:?}");
            keyway.until_closed("tls", count).await;
        }
        assert_eq!(keyway.service.connections().len(), 0);
    }

    // Promise 57.
    #[tokio::test]
    async fn a_handshake_that_stands_still_is_ended_and_others_are_served_meanwhile() {
        let authority = Authority::new();
        let short = |config: &mut Config| config.timeouts.handshake = Duration::from_millis(500);
        let keyway = start_with(secured(&authority, false), short).await.unwrap();
        let address = keyway.app.addresses().next().and_then(Address::tcp).unwrap();
        let (mut silent, mut half) = (Peer::connect(address).await, Peer::connect(address).await);
        half.send(&old_hello()[..20]).await;
        assert_eq!(get(&keyway, &client(&authority, None, &["http/1.1"])).await, Some(200));
        assert_eq!(silent.rest().await, b"");
        assert_eq!(half.rest().await, b"");
        keyway.until_closed("handshake", 2).await;
        assert_eq!(get(&keyway, &client(&authority, None, &["http/1.1"])).await, Some(200));
    }

    // Promise 14.
    #[tokio::test]
    async fn files_that_are_of_no_use_are_named_and_nothing_of_a_key_is_shown() {
        let authority = Authority::new();
        let check = async |tls: server::tls::Config, names: &str, says: &str| {
            let listener = server::Config { tls: Some(tls), ..server::Config::at(any_port()) };
            let error = whole(&start(listener).await.err().expect("it must not start"));
            assert!(error.contains(names) && error.contains(says), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        };
        let good = || secured(&authority, true).tls.expect("it has TLS");
        check(
            server::tls::Config { cert: "/nonexistent/c.pem".into(), ..good() },
            "/nonexistent/c.pem",
            "can't be read",
        )
        .await;
        check(
            server::tls::Config { key: "/nonexistent/k.pem".into(), ..good() },
            "/nonexistent/k.pem",
            "can't be read",
        )
        .await;
        check(
            server::tls::Config {
                clients: Some(server::tls::Clients::of("/nonexistent/a.pem".into())),
                ..good()
            },
            "/nonexistent/a.pem",
            "can't be read",
        )
        .await;
        let empty = authority.write("empty.pem", "");
        check(server::tls::Config { cert: empty.clone(), ..good() }, "empty.pem", "no certificate").await;
        let odd =
            authority.write("odd.pem", "-----BEGIN PRIVATE KEY-----\nSECRET!!\n-----END PRIVATE KEY-----\n");
        std::fs::set_permissions(&odd, std::fs::Permissions::from_mode(0o600)).unwrap();
        check(server::tls::Config { key: odd, ..good() }, "odd.pem", "malformed").await;
        let other = authority.issue("localhost");
        let tls = server::tls::Config { cert: authority.write("other.pem", &other.certificate), ..good() };
        check(tls, "other.pem", "do not work together").await;
        for mode in [0o604, 0o644, 0o606] {
            let tls = good();
            std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(mode)).unwrap();
            check(tls, "key.pem", "chmod 600").await;
        }
    }
}
