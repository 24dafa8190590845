//! A cloud whose place only its vendor knows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use keyway::demo::{self, Cloud};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::{Process, cloud, eventually, raw};

/// A vendor's host: where it is, and the heads of the requests that it had.
struct Vendor {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Vendor {
    /// One whose answers are all the same.
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = String::new();
                let mut reader = BufReader::new(&mut stream);
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).await.expect("text") > 0 {}
                kept.lock().expect("nobody panics").push(head);
                // Who has seen enough goes away.
                drop(stream.write_all(answer.as_bytes()).await);
            }
        });
        Self { url, seen, serving }
    }

    /// One that says where the demo cloud is, to whoever knows its number.
    async fn of(cloud: &Cloud) -> Self {
        let root = cloud.identity_root();
        let (before, _) = root.rsplit_once(':').expect("a port");
        let profile = json!({"name": "demo", "profile": {
            "auth": {"auth_url": format!("{before}:{{number}}/v3"), "user_domain_name": demo::DOMAIN},
            "regions": ["RegionTwo", {"name": "RegionOne", "values": {"compute_api_version": 2}}],
            "password_command": "touch ran", "insecure": true,
        }});
        Self::start(answer("200 OK", &profile.to_string())).await
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("nobody panics").clone()
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// A home directory with a cloud that names a vendor, and its password in another file.
fn home(profile: &str, number: &str) -> TempDir {
    let home = tempfile::tempdir().expect("a directory for temporary files");
    let clouds = format!(
        "clouds:\n  mine:\n    profile: '{profile}'\n    number: {number}\n    region_name: RegionOne\n    auth:\n      \
         user-name: {}\n      tenant_name: {}\n      project-domain-name: {}\n",
        demo::USER,
        demo::PROJECT,
        demo::DOMAIN
    );
    write(home.path(), "clouds.yaml", &clouds);
    let secure = format!("clouds: {{mine: {{auth: {{password: '{}'}}}}}}", demo::PASSWORD);
    write(home.path(), "secure.yaml", &secure);
    home
}

fn write(home: &Path, name: &str, text: &str) {
    let path = home.join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
}

const SERVE: [&str; 6] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"];

async fn get(address: &str, path: &str) -> u16 {
    let address = address.trim_start_matches("http://");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    raw(address.parse().expect("an address"), request.as_bytes()).await.status
}

// Promises 18, 71.
#[tokio::test(flavor = "multi_thread")]
async fn a_vendors_profile_leads_to_its_cloud_and_a_reload_without_the_vendor_changes_nothing() {
    let cloud = cloud().await;
    let vendor = Vendor::of(&cloud).await;
    let number = cloud.identity_root().rsplit_once(':').map(|(_, port)| port.to_owned()).expect("a port");
    let home = home(&vendor.url, &number);
    let process = Process::start::<&str>(home.path(), &SERVE, &[]);
    let (listen, _) = process.addresses().await;
    assert_eq!(get(&listen, "/compute/servers").await, 200);
    let seen = vendor.seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].starts_with("GET /.well-known/openstack/api HTTP/1.1\r\n"), "{seen:?}");
    assert!(!seen[0].contains(demo::PASSWORD) && !seen[0].contains(demo::USER), "{seen:?}");

    vendor.serving.abort();
    eventually("the end of the vendor", async || vendor.serving.is_finished().then_some(())).await;
    process.signal(Signal::HUP);
    process
        .stderr_line("that nothing was reloaded", |line| {
            line.contains("the old one stays in force").then_some(())
        })
        .await;
    assert!(
        process.stderr().contains("clouds.mine.profile: no vendor profile from "),
        "{}",
        process.stderr()
    );
    assert_eq!(get(&listen, "/compute/servers").await, 200);
    assert_eq!(cloud.token_requests(), 1);
    assert!(!home.path().join("ran").exists(), "a vendor runs nothing here");
    assert!(!process.stderr().contains("certificates are not checked"), "nor does it say what is trusted");
}

// Promises 18, 69.
#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_sends_elsewhere_is_not_followed() {
    let cloud = cloud().await;
    let other = Vendor::of(&cloud).await;
    let location = format!("302 Found\r\nlocation: {}/.well-known/openstack/api", other.url);
    let vendor = Vendor::start(answer(&location, "")).await;
    let home = home(&vendor.url, "1");
    let (code, _, err) = Process::start::<&str>(home.path(), &SERVE, &[]).outcome().await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("it answered 302 Found, and redirects are not followed"), "{err}");
    assert_eq!((vendor.seen().len(), other.seen().len()), (1, 0));
}

// Promise 66.
#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_whose_answer_breaks_off_is_a_problem() {
    let vendor = Vendor::start("HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n{".to_owned()).await;
    let home = home(&vendor.url, "1");
    let (code, _, err) = Process::start::<&str>(home.path(), &SERVE, &[]).outcome().await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("clouds.mine.profile: no vendor profile from "), "{err}");
}
