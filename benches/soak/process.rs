//! keyway as a process, and what it takes of the system.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keyway::demo::{self, Cloud};
use rustix::process::{Pid, Signal, kill_process};

/// A running keyway. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
    address: SocketAddr,
}

impl Process {
    /// Starts it for the demo cloud, and waits until it serves.
    pub(crate) async fn start(cloud: &Cloud) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyway"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json"])
            .args(["--log-level", "info,keyway::request=off"])
            .env_clear()
            .env("OS_AUTH_URL", cloud.auth_url())
            .env("OS_USERNAME", demo::USER)
            .env("OS_PASSWORD", demo::PASSWORD)
            .env("OS_PROJECT_NAME", demo::PROJECT)
            .env("OS_USER_DOMAIN_NAME", demo::DOMAIN)
            .env("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN)
            .env("OS_REGION_NAME", "RegionOne")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("keyway was built");
        let stderr = child.stderr.take().expect("it is piped");
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (serving, wait) = tokio::sync::oneshot::channel();
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            let mut serving = Some(serving);
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let listen = serde_json::from_str::<serde_json::Value>(&line).ok();
                let listen = listen.and_then(|line| line["listen"].as_str()?.parse::<SocketAddr>().ok());
                if let (Some(listen), Some(_)) = (listen, &serving) {
                    let _ = serving.take().expect("it is there").send(listen);
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > 20 {
                    kept.pop_front();
                }
            }
        });
        let address = tokio::time::timeout(Duration::from_secs(60), wait).await;
        let address = address.ok().and_then(Result::ok).expect("keyway says where it serves");
        Self { child, lines, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("    {line}\n")).collect()
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let process = format!("/proc/{}", self.child.id());
        let status = fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        let field = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        Footprint {
            resident: field("VmRSS:"),
            peak: field("VmHWM:"),
            threads: field("Threads:"),
            descriptors: fs::read_dir(format!("{process}/fd")).map_or(0, Iterator::count),
        }
    }

    /// What it takes once its clients are gone: descriptors need a moment to be closed.
    pub(crate) async fn settled(&self, start: &Footprint) -> Footprint {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = self.footprint();
            if now.descriptors <= start.descriptors || Instant::now() > deadline {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Tells it to stop; its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process takes; memory in KiB.
#[derive(Clone, Debug, Default)]
pub(crate) struct Footprint {
    resident: usize,
    peak: usize,
    threads: usize,
    descriptors: usize,
}

impl Footprint {
    /// What grew further than it may. By the middle everything has its size.
    pub(crate) fn grown_since(&self, start: &Self, middle: &Self, clients: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let most = start.resident.max(middle.resident) / 10 * 11 + 24 * 1024;
        if self.resident > most {
            faults.push(format!("keyway holds {} KiB, {most} would do", self.resident));
        }
        // Idle connections to services stay for a while.
        let most = start.descriptors + 2 * clients + 16;
        if self.descriptors > most {
            faults.push(format!("keyway holds {} descriptors, {most} would do", self.descriptors));
        }
        if self.threads > start.threads {
            faults.push(format!("keyway has {} threads, {} at its start", self.threads, start.threads));
        }
        faults
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>8} KiB resident (at most {:>8}) {:>6} descriptors {:>4} threads",
            self.resident, self.peak, self.descriptors, self.threads
        )
    }
}
