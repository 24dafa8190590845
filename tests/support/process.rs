//! The program itself, as a process: its environment, its output, its signals, its end.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use keyway::demo::{self, Cloud};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::eventually;

/// A running `keyway`. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// Tests that a shell without job control started in the background ignore what a terminal sends, and so would
/// every program that they start. A signal that is handled here has its usual meaning there.
fn stop_ignoring_signals() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap_or(0);
    for kind in [SignalKind::interrupt(), SignalKind::quit()] {
        if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
            drop(signal(kind).expect("a signal can be handled"));
        }
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Process {
    /// Starts it with these arguments and nothing but these variables, in `home`.
    pub(crate) fn start<V: AsRef<OsStr>>(home: &Path, arguments: &[&str], variables: &[(&str, V)]) -> Self {
        Self::start_with(home, arguments, variables, |_| {})
    }

    /// The same with so few file descriptors.
    pub(crate) fn start_with_descriptors<V: AsRef<OsStr>>(
        most: usize,
        home: &Path,
        arguments: &[&str],
        variables: &[(&str, V)],
    ) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &most.to_string()]);
        command.arg(env!("CARGO_BIN_EXE_keyway"));
        Self::run(command, home, arguments, variables, |_| {})
    }

    /// The same, with changes: another program file, another user.
    pub(crate) fn start_with<V: AsRef<OsStr>>(
        home: &Path,
        arguments: &[&str],
        variables: &[(&str, V)],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_keyway")), home, arguments, variables, change)
    }

    fn run<V: AsRef<OsStr>>(
        mut command: Command,
        home: &Path,
        arguments: &[&str],
        variables: &[(&str, V)],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        command.args(arguments).env_clear().env("HOME", home).current_dir(home);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        stop_ignoring_signals();
        let mut child = command.spawn().expect("the program was built");
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdout(&self) -> String {
        text(&self.stdout)
    }

    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Waits for a line on stdout that `read` makes something of.
    pub(crate) async fn stdout_line<T>(&self, what: &str, read: impl Fn(&str) -> Option<T>) -> T {
        eventually(what, async || find(&self.stdout, &read)).await
    }

    /// Waits for a line on stderr that `read` makes something of.
    pub(crate) async fn stderr_line<T>(&self, what: &str, read: impl Fn(&str) -> Option<T>) -> T {
        eventually(what, async || find(&self.stderr, &read)).await
    }

    /// Waits until it serves; its data and its admin address. Wants `--log-format json`.
    pub(crate) async fn addresses(&self) -> (String, String) {
        self.stderr_line("the line that says where it serves", |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            Some((line["listen"].as_str()?.to_owned(), line["admin"].as_str()?.to_owned()))
        })
        .await
    }

    /// The processor time that it has taken.
    pub(crate) fn cpu(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it runs on Linux");
        let fields = stat.rsplit(") ").next().expect("what follows the name").split(' ');
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        // USER_HZ is 100 on every architecture that Linux runs on today.
        std::time::Duration::from_millis(ticks * 10)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the process is there");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is ours")
    }

    /// Waits for its end. Its output is complete then.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let status =
            eventually("the end of the process", async || self.child.try_wait().expect("it is ours")).await;
        // The readers hold the lines as long as the pipes are open.
        eventually("the end of its output", async || {
            (Arc::strong_count(&self.stdout) == 1 && Arc::strong_count(&self.stderr) == 1).then_some(())
        })
        .await;
        status
    }

    /// Waits for its end; exit code, stdout and stderr.
    pub(crate) async fn outcome(mut self) -> (i32, String, String) {
        let status = self.exit().await;
        (status.code().expect("not killed"), self.stdout(), self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
    lines
}

fn text(lines: &Lines) -> String {
    lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
}

fn find<T>(lines: &Lines, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    lines.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|line| read(line))
}

/// The variables that log in to the demo cloud with a password.
pub(crate) fn cloud_variables(cloud: &Cloud) -> Vec<(&'static str, String)> {
    vec![
        ("OS_AUTH_URL", cloud.auth_url()),
        ("OS_USERNAME", demo::USER.to_owned()),
        ("OS_PASSWORD", demo::PASSWORD.to_owned()),
        ("OS_PROJECT_NAME", demo::PROJECT.to_owned()),
        ("OS_USER_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("OS_PROJECT_DOMAIN_NAME", demo::DOMAIN.to_owned()),
        ("OS_REGION_NAME", "RegionOne".to_owned()),
    ]
}
