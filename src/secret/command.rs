//! Which secret does a program print?

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command as Process};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::Secret;
use super::source::{LONGEST, Unreadable, text};

/// How long a program may take to print a secret.
const PATIENCE: Duration = Duration::from_secs(10);

/// What asks the system's keyring.
const KEYRING: &str = "secret-tool";

/// A program that prints a secret: the first line of what it prints. It is run without a shell and without input, when
/// the secret is needed for the first time and when Keystone has rejected it; in between the secret is kept in memory.
/// Clones share it.
#[derive(Clone)]
pub struct Command(Arc<Inner>);

struct Inner {
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    /// Held while it runs, so that it runs once for all who wait for it.
    printed: Mutex<Option<Secret>>,
}

/// What is run; not what it printed so far.
impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.0, &other.0);
        ours.program == theirs.program
            && ours.arguments == theirs.arguments
            && ours.variables == theirs.variables
    }
}

impl Eq for Command {}

impl fmt::Debug for Command {
    /// The program alone: arguments and variables are the operator's, and may be anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Command").field(&self.0.program).finish()
    }
}

impl Command {
    /// A program by its path, with its arguments and all of its environment.
    pub fn new(program: PathBuf, arguments: Vec<String>, variables: Vec<(String, String)>) -> Self {
        Self(Arc::new(Inner { program, arguments, variables, printed: Mutex::default() }))
    }

    /// The secret that it printed last; one other than `known` where that is given, if there is one by now.
    ///
    /// # Errors
    /// [`Unreadable`]; the secret that was printed before is kept all the same.
    pub(super) async fn read(&self, known: Option<&Secret>) -> Result<Secret, Unreadable> {
        let mut printed = self.0.printed.lock().await;
        if let Some(secret) = &*printed
            && known != Some(secret)
        {
            return Ok(secret.clone());
        }
        let program = &self.0.program;
        let secret = self.run().await.map_err(|why| {
            // Why it found nothing it says on stderr, if at all.
            let hint = match program.file_name().is_some_and(|name| name == KEYRING) {
                true => "; is there such an entry, is the keyring unlocked, and does DBUS_SESSION_BUS_ADDRESS lead to it?",
                false => "",
            };
            Unreadable::new(format!("the command {} {why}{hint}", program.display()))
        })?;
        *printed = Some(secret.clone());
        Ok(secret)
    }

    /// The same at once, on a thread of its own: for what is read with the configuration.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read_now(&self) -> Result<Secret, Unreadable> {
        let read = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Unreadable::new(format!("no command can be run: {error}")))?;
            runtime.block_on(self.read(None))
        };
        let read = std::thread::scope(|scope| scope.spawn(read).join());
        read.unwrap_or_else(|_| Err(Unreadable::new("no command can be run".to_owned())))
    }

    async fn run(&self) -> Result<Secret, String> {
        let mut process = Process::new(&self.0.program);
        process.args(&self.0.arguments).env_clear();
        process.envs(self.0.variables.iter().map(|(name, value)| (name, value)));
        // What it says on stderr may hold the secret, so nobody hears it.
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own, so that whatever it starts ends with it.
        process.process_group(0).kill_on_drop(true);
        let child = process.spawn().map_err(|error| format!("can't be started: {error}"))?;
        let mut running = Running { group: pid(&child), child };
        let printed = tokio::time::timeout(PATIENCE, running.finish()).await;
        let printed = printed.map_err(|_| format!("did not end within {} s", PATIENCE.as_secs()))??;
        let end = printed.iter().position(|byte| *byte == b'\n').unwrap_or(printed.len());
        text(&printed[..end]).map_err(|why| format!("printed no secret: its first line {why}"))
    }
}

/// A program that runs. Dropped, it is killed, and what it started with it.
struct Running {
    /// Its process group, until it has ended.
    group: Option<Pid>,
    child: Child,
}

impl Running {
    /// What it prints until it ends.
    async fn finish(&mut self) -> Result<Zeroizing<Vec<u8>>, String> {
        // Large enough for most, so that it need not grow and leave a copy behind.
        let mut printed = Zeroizing::new(Vec::with_capacity(4096));
        let pipe = self.child.stdout.take().ok_or("can't be read")?;
        let read = pipe.take(LONGEST + 1).read_to_end(&mut printed).await;
        read.map_err(|error| format!("can't be read: {error}"))?;
        if printed.len() as u64 > LONGEST {
            return Err(format!("printed more than {LONGEST} bytes: is it a secret?"));
        }
        let ended = self.child.wait().await;
        self.group = None;
        match ended {
            Ok(status) if status.success() => Ok(printed),
            Ok(status) => Err(format!("failed: {status}")),
            // `keyway run` takes note of all children, and was faster: what was printed has to do.
            Err(error) if error.raw_os_error() == Some(Errno::CHILD.raw_os_error()) => Ok(printed),
            Err(error) => Err(format!("can't be waited for: {error}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its leader was not waited for, so the number is still its own.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Command::new("/bin/sh".into(), arguments, vec![("GIVEN".to_owned(), "s3cret".to_owned())])
    }

    async fn failure(script: &str) -> String {
        shell(script).read(None).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_first_line_is_the_secret_and_it_is_kept_until_it_is_of_no_use() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let command = shell(&format!("echo >> {0}; wc -l < {0}; echo more; echo noise >&2", count.display()));
        let one = command.read(None).await.unwrap();
        assert_eq!(one.expose().trim(), "1");
        assert_eq!(command.clone().read(None).await.unwrap(), one);
        let two = command.read(Some(&one)).await.unwrap();
        assert_eq!(two.expose().trim(), "2");
        assert_eq!(command.read(Some(&one)).await.unwrap(), two, "somebody asked already");
        assert_eq!(shell("cat; echo $GIVEN; env").read(None).await.unwrap().expose(), "s3cret");
    }

    // Promise 76.
    #[tokio::test]
    async fn what_goes_wrong_is_told_without_a_word_of_what_was_printed() {
        for (script, expected) in [
            ("echo hunter2; echo hunter2 >&2; exit 3", "failed: exit status: 3"),
            ("echo hunter2; kill -9 $$", "failed: signal: 9"),
            ("true", "its first line is empty"),
            ("echo; echo hunter2", "its first line is empty"),
            ("printf 'hunter2\\377\\n'", "its first line is no UTF-8 text"),
            ("while :; do echo hunter2hunter2hunter2; done", "printed more than 65536 bytes"),
        ] {
            let error = failure(script).await;
            assert!(error.contains(expected) && !error.contains("hunter2"), "{script}: {error}");
        }
        let command = Command::new("/nowhere".into(), Vec::new(), Vec::new());
        let error = command.read(None).await.unwrap_err().to_string();
        assert!(error.starts_with("the command /nowhere can't be started"), "{error}");
        assert_eq!(format!("{:?}", shell("hunter2")), r#"Command("/bin/sh")"#);
    }

    #[tokio::test]
    async fn a_keyring_that_gives_nothing_comes_with_what_to_look_at() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("secret-tool");
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let ask = async |script: &str| {
            let words = vec!["-c".to_owned(), script.to_owned()];
            Command::new(program.clone(), words, Vec::new()).read(None).await
        };
        for (script, expected) in
            [("exit 1", "failed: exit status: 1; is there"), ("true", "is empty; is there")]
        {
            let error = ask(script).await.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("is the keyring unlocked"), "{error}");
        }
        assert_eq!(ask("echo s3cret").await.unwrap().expose(), "s3cret");
    }

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_any_more_ends_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display());
        let command = shell(&script);
        let reading = tokio::spawn(async move { command.read(None).await });
        let pids = loop {
            match std::fs::read_to_string(&pids) {
                Ok(pids) => break pids,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        reading.abort();
        assert!(reading.await.unwrap_err().is_cancelled());
        for pid in pids.split_whitespace() {
            // What it started is nobody's child here; it may stay as a zombie until it is collected.
            let runs = || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ")
            };
            while runs() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_hangs_is_given_up() {
        assert!(failure("sleep 1000").await.ends_with("did not end within 10 s"));
    }
}
