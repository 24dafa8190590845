//! keyway in front of the cloud that `OS_*` variables make.

use keyway::config::{Config, Env, Overrides};
use keyway::keystone;

use super::{Connection, Process, TestKeyway, bounded, request};

pub(crate) type Variables = Vec<(&'static str, String)>;

pub(crate) fn set(variables: &mut Variables, name: &'static str, value: impl Into<String>) {
    variables.retain(|(known, _)| *known != name);
    variables.push((name, value.into()));
}

/// The cloud that these variables make.
pub(crate) fn clouds(variables: &Variables) -> Vec<keystone::Config> {
    let env = Env::new(variables.iter().cloned(), "/nonexistent").with_root("/nonexistent");
    Config::load(&Overrides::default(), &env).unwrap_or_else(|problems| panic!("{problems}")).clouds
}

pub(crate) fn cold(variables: &Variables) -> TestKeyway {
    TestKeyway::cold(clouds(variables), |_| {})
}

pub(crate) async fn logged_in(variables: &Variables) -> TestKeyway {
    let keyway = cold(variables);
    keyway.logged_in().await;
    keyway
}

/// Everything that a keyway of its own says once it has served a request: its log at the lowest level, its metrics and
/// its status.
pub(crate) async fn said(variables: &Variables) -> String {
    let home = tempfile::tempdir().expect("a directory");
    let flags =
        ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "trace", "--log-format", "json"];
    let process = Process::start(home.path(), &flags, variables);
    let (listen, admin) = process.addresses().await;
    let get = async |address: &str, path: &str| {
        let request = request(http::Method::GET, path, &[], "");
        let address = address.parse().expect("an address");
        bounded("an answer", async { Connection::open(address).await.send(request).await }).await
    };
    assert_eq!(get(&listen, "/compute/servers").await.status, 200);
    process
        .stderr_line("the line of the request", |line| line.contains("/compute/servers").then_some(()))
        .await;
    let seen = [get(&admin, "/metrics").await.text(), get(&admin, "/status").await.text()].join("\n");
    format!("{seen}\n{}\n{}", process.stderr(), process.stdout())
}
