//! A Python program that answers for openstacksdk: see `tests/oracle/README.md`.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// A running program that answers one line of JSON with one.
pub(crate) struct Oracle {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts a script of `tests/oracle`. `None`, with a line that says why, means that this machine
    /// can't; where `KEYWAY_REQUIRE_ORACLE` is set, that is a failure.
    pub(crate) fn start(script: &str) -> Option<Self> {
        match Self::try_start(script) {
            Ok(oracle) => Some(oracle),
            Err(why) if std::env::var_os("KEYWAY_REQUIRE_ORACLE").is_some_and(|set| !set.is_empty()) => {
                panic!("the oracle {script} is required, and {why}")
            }
            Err(why) => {
                // Past what the test harness holds back.
                drop(writeln!(io::stderr(), "skipped: the oracle {script} can't be asked: {why}"));
                None
            }
        }
    }

    fn try_start(script: &str) -> Result<Self, String> {
        let python = environment()?;
        let mut child = Command::new(&python)
            .arg("-I")
            .arg(directory().join(script))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", python.display()))?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Ok(Self { child, questions, answers })
    }

    /// The next line of the program.
    pub(crate) fn read(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the oracle's answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the oracle said {line:?}: {error}"))
    }

    /// What the program says to this.
    pub(crate) fn ask(&mut self, question: &Value) -> Value {
        let questions = self.questions.as_mut().expect("it is open until the end");
        writeln!(questions, "{question}").expect("the oracle listens");
        self.read()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.questions.take());
        drop(self.child.wait());
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle")
}

/// The interpreter of a virtual environment with everything in `requirements.lock`, made once.
fn environment() -> Result<PathBuf, String> {
    let lock = directory().join("requirements.lock");
    let wanted = fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let failed = |error: io::Error| format!("{} is of no use: {error}", below.display());
    // Several tests, and several runs of them, may want it at a time.
    let guard = File::create(below.join("oracle.lock")).map_err(failed)?;
    guard.lock().map_err(failed)?;
    let home = below.join("oracle");
    let python = home.join("bin/python");
    let marker = home.join("installed.lock");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if home.exists() {
        fs::remove_dir_all(&home).map_err(failed)?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&home), "python3 makes no virtual environment")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"]);
    run(install.arg(&lock), "pip installs nothing")?;
    fs::write(&marker, wanted).map_err(failed)?;
    Ok(python)
}

fn run(command: &mut Command, failure: &str) -> Result<(), String> {
    let Output { status, stderr, .. } =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{failure}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    Err(format!("{failure}: {}", said.trim().lines().last().unwrap_or("it says nothing")))
}
