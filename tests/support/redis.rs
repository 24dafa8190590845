//! A real redis-server, for one test alone.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyway::keystone::shared::{Address, Config};
use redis::{Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// A redis-server on loopback and at a socket file, which keeps nothing. Dropped, it is killed.
pub struct Redis {
    child: Option<Child>,
    home: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one. `None`, with a line that says why, means that this machine has none; where
    /// `KEYWAY_REQUIRE_REDIS` is set, that is a failure.
    pub async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let home = tempfile::tempdir().expect("a directory for temporary files");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut redis = Self { child: None, home, port: free_port(), arguments };
        redis.run().await;
        Some(redis)
    }

    /// A sentinel with this file, which it writes to.
    pub async fn start_sentinel(file: &Path) -> Self {
        let home = tempfile::tempdir().expect("a directory for temporary files");
        let (port, socket) = (free_port(), home.path().join("redis.sock"));
        let mut command = Command::new("redis-server");
        command.arg(file).args(["--sentinel", "--bind", "127.0.0.1", "--port", &port.to_string()]);
        command.arg("--unixsocket").arg(&socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = Some(command.spawn().expect("it is installed"));
        let sentinel = Self { child, home, port, arguments: Vec::new() };
        eventually("a sentinel", async || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
        sentinel
    }

    /// Starts it again where it was, empty.
    pub async fn run(&mut self) {
        let text = |path: &Path| path.display().to_string();
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &self.port.to_string(),
            "--unixsocket",
            &text(&self.socket()),
        ]);
        command.args([
            "--dir",
            &text(self.home.path()),
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ]);
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("it is installed"));
        eventually("redis-server", async || std::os::unix::net::UnixStream::connect(self.socket()).ok())
            .await;
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// From now on it does not answer, until it is [resumed](Self::resume).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is there");
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("redis.sock")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What keyway is told to share its tokens there.
    pub fn config(&self) -> Config {
        self.config_at(&format!("unix:{}", self.socket().display()))
    }

    pub fn config_at(&self, address: &str) -> Config {
        Config {
            address: address.parse::<Address>().expect("an address"),
            user: None,
            password: None,
            tls: keyway::upstream::tls::Config::default(),
            prefix: "keyway:".to_owned(),
            timeout: std::time::Duration::from_secs(2),
            key_file: self.key_file("token-key", &[7]),
        }
    }

    /// A file of keys, each of which is made of one byte.
    pub fn key_file(&self, name: &str, keys: &[u8]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.home.path().join(name);
        // Somebody may be reading it.
        if path.exists() {
            return path;
        }
        let lines: Vec<_> = keys.iter().map(|byte| STANDARD.encode([*byte; 32])).collect();
        std::fs::write(&path, lines.join("\n")).expect("it is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// A connection of the test's own, by the socket file.
    pub fn connection(&self) -> Connection {
        self.connect().expect("it answers")
    }

    fn connect(&self) -> RedisResult<Connection> {
        redis::Client::open(format!("unix://{}", self.socket().display()))?.get_connection()
    }

    /// What it says to a command.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.ask_bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    #[track_caller]
    pub fn ask_bytes<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.connection()).expect("it does as it is told")
    }

    /// The same, unless the connection is cut: a sentinel does that to all clients of whom it makes a master or replica.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let (name, arguments) = words.split_first()?;
        redis::cmd(name).arg(arguments).query(&mut self.connect().ok()?).ok()
    }

    /// The keys that end so, sorted.
    pub fn keys(&self, end: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", &format!("*{end}")]);
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_installed() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    let required = std::env::var_os("KEYWAY_REQUIRE_REDIS").is_some_and(|set| !set.is_empty());
    assert!(!required, "redis-server is required, and not installed");
    // Past what the test harness holds back.
    drop(writeln!(io::stderr(), "skipped: redis-server is not installed"));
    false
}

/// A port that nobody listens at just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}
