//! What is asked of the operating system for the process as a whole: what others may see of it, and
//! how much it may use.
//!
//! Everyone who may read `/proc/PID/environ` sees the environment that a program was started with, for
//! as long as it runs, whatever it does to its own copy: with `OS_PASSWORD` in it, that is the password.
//! [`environment`] therefore hands the secrets over to a second image of the same program in the same
//! process, in memory, and starts that without them.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use zeroize::{Zeroize as _, Zeroizing};

/// Tells the second image where its secrets are: `PID:DESCRIPTOR`. A child that inherits the variable
/// has another PID, and leaves it alone.
const HANDED_OVER: &str = "KEYWAY_ENVIRONMENT";

/// What the memory file is called in `/proc/PID/fd`.
const NAME: &str = "keyway-environment";

/// This program, even if its file was replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The process' environment, secrets included.
pub(crate) struct Environment {
    /// Every variable.
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// Why secrets are still to be seen in `/proc/PID/environ`, if they are.
    pub(crate) warning: Option<String>,
}

/// Reads the environment. If there is a secret in it, this does not return at first: the program starts
/// itself once more in this process, with the secrets handed over, and returns there.
pub(crate) fn environment() -> Environment {
    let mut variables: Vec<_> = std::env::vars_os().collect();
    let mut warning = None;
    if let Some(at) = variables.iter().position(|(name, _)| name == HANDED_OVER) {
        let (_, place) = variables.remove(at);
        if let Some(descriptor) = place.to_str().and_then(descriptor_of_this_process) {
            show_own_name();
            match receive(&descriptor) {
                Ok(secrets) => variables.extend(secrets),
                Err(error) => warning = Some(format!("the secrets of the environment were lost: {error}")),
            }
            return Environment { variables, warning };
        }
    }
    if variables.iter().any(is_secret) {
        let error = hand_over(&variables);
        let names: Vec<_> = variables
            .iter()
            .filter(|variable| is_secret(variable))
            .map(|(name, _)| name.to_string_lossy())
            .collect();
        warning = Some(format!(
            "{} stays in the environment of this process, which root can read in /proc/{}/environ: keyway could not \
             start itself once more without it ({error}); give secrets in clouds.yaml or secure.yaml instead",
            names.join(", "),
            std::process::id()
        ));
    }
    Environment { variables, warning }
}

/// Whether a variable is one of ours and holds a secret, going by the words that name one.
fn is_secret((name, value): &(OsString, OsString)) -> bool {
    let name = name.to_string_lossy();
    let ours = name.starts_with("OS_") || name.starts_with("KEYWAY_");
    let words = ["PASSWORD", "PASSCODE", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "API_KEY"];
    // Who the credential is and where tokens come from is no secret, and `/proc` may tell it.
    let harmless =
        ["_ID", "_NAME", "_ENDPOINT", "_URL", "_FILE", "_TYPE"].iter().any(|end| name.ends_with(end));
    ours && !harmless && !value.is_empty() && words.iter().any(|word| name.contains(word))
}

/// Starts this program once more, without the secrets of its environment but with a file in memory
/// that holds them. Returns only if that failed.
fn hand_over(variables: &[(OsString, OsString)]) -> io::Error {
    let secrets = || variables.iter().filter(|variable| is_secret(variable));
    // At once in the size that it will have: growing would leave copies behind.
    let size = secrets().map(|(name, value)| name.len() + value.len() + 2).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in secrets() {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        text.push(0);
    }
    let mut file = match memory_file() {
        Ok(file) => file,
        Err(error) => return error,
    };
    if let Err(error) = file.write_all(&text) {
        return error;
    }
    drop(text);
    let mut arguments = std::env::args_os();
    let mut command = Command::new(THIS_PROGRAM);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    for (name, _) in secrets() {
        command.env_remove(name);
    }
    command.env(HANDED_OVER, format!("{}:{}", std::process::id(), file.as_raw_fd()));
    command.exec()
}

/// An empty file in memory that stays open when another program takes over.
fn memory_file() -> io::Result<File> {
    let flags = MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 don't know the flag by which it says that nothing in it is to be executed.
    let file = rustix::fs::memfd_create(NAME, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(NAME, flags))?;
    Ok(file.into())
}

/// The descriptor in `PID:DESCRIPTOR`, if that is meant for this process.
fn descriptor_of_this_process(place: &str) -> Option<String> {
    let (pid, descriptor) = place.split_once(':')?;
    let ours = pid == std::process::id().to_string() && descriptor.bytes().all(|byte| byte.is_ascii_digit());
    ours.then(|| descriptor.to_owned())
}

/// Reads what the first image handed over, and leaves an empty file that nobody can write to. It stays
/// open: closing a descriptor by its number is not something that safe code may do.
fn receive(descriptor: &str) -> io::Result<Vec<(OsString, OsString)>> {
    let path = format!("/proc/self/fd/{descriptor}");
    if !fs::read_link(&path)?.as_os_str().as_bytes().starts_with(format!("/memfd:{NAME}").as_bytes()) {
        return Err(io::Error::other("something else is where they were"));
    }
    let mut file = File::options().read(true).write(true).open(path)?;
    let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut text = Zeroizing::new(vec![0; size]);
    file.read_exact(&mut text)?;
    let secrets = text.split(|byte| *byte == 0).filter_map(|variable| {
        let equals = variable.iter().position(|byte| *byte == b'=')?;
        let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        Some((owned(&variable[..equals]), owned(&variable[equals + 1..])))
    });
    let secrets = secrets.collect();
    text.as_mut_slice().zeroize();
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(0)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(secrets)
}

/// `ps` and `pkill` go by the name of the program's file, which is `exe` for [`THIS_PROGRAM`].
fn show_own_name() {
    let name = std::env::current_exe().ok();
    let name = name.as_deref().and_then(|path| path.file_name()).map(|name| name.to_owned().into_vec());
    if let Some(name) = name.and_then(|name| CString::new(name).ok()) {
        // It is for people only.
        let _ = rustix::thread::set_name(&name);
    }
}

/// The limits that this process was started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    core: Rlimit,
    files: Rlimit,
}

impl Limits {
    /// Those in force now, which is before [`harden`].
    pub(crate) fn current() -> Self {
        Self { core: getrlimit(Resource::Core), files: getrlimit(Resource::Nofile) }
    }

    /// Puts these limits in force for as long as `start` takes, for a process that it starts: what this one
    /// asked for itself is no matter of the other's. Undumpable it is only until it runs another program.
    pub(crate) fn lend<T>(&self, start: impl FnOnce() -> T) -> io::Result<T> {
        let own = Self::current();
        self.set()?;
        let started = start();
        own.set()?;
        Ok(started)
    }

    fn set(&self) -> io::Result<()> {
        setrlimit(Resource::Core, self.core)?;
        Ok(setrlimit(Resource::Nofile, self.files)?)
    }
}

/// Whether core dumps are switched off for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CoreDumps {
    /// Here and in whatever this process starts.
    Never,
    /// Here; what it starts may have them back, see [`Limits::lend`].
    NotHere,
}

/// No core dump, nobody of the same user looks into this process' memory, and as many open files as
/// the system allows, since a client in flight takes two. What could not be had is returned, for the log.
pub(crate) fn harden(dumps: CoreDumps) -> Vec<String> {
    let mut warnings = Vec::new();
    // A core dump would hold the password and the token. This goes for those that a handler in user
    // space collects too, whatever the limit below, and also keeps out debuggers of the same user.
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warnings.push(format!("this process could not be made undumpable: {error}"));
    }
    let Limits { core, files } = Limits::current();
    let maximum = if dumps == CoreDumps::Never { Some(0) } else { core.maximum };
    let none = Rlimit { current: Some(0), maximum };
    if core != none
        && let Err(error) = setrlimit(Resource::Core, none)
    {
        warnings.push(format!("core dumps could not be switched off: {error}"));
    }
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })
    {
        warnings.push(format!("the limit of open files could not be raised: {error}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secret: bool, names: &[&str]) {
        for name in names {
            assert_eq!(is_secret(&(name.into(), "x".into())), secret, "{name}");
            assert!(!is_secret(&(name.into(), "".into())), "{name} is empty");
        }
    }

    // Promise 15.
    #[test]
    fn a_variable_is_a_secret_by_its_name() {
        check(
            true,
            &[
                "OS_PASSWORD",
                "OS_TOKEN",
                "OS_AUTH_TOKEN",
                "OS_APPLICATION_CREDENTIAL_SECRET",
                "OS_PASSCODE",
                "OS_CLIENT_SECRET",
                "OS_ACCESS_TOKEN",
                "KEYWAY_TOKEN_SECRET",
            ],
        );
        check(
            false,
            &[
                "OS_AUTH_URL",
                "OS_USERNAME",
                "OS_APPLICATION_CREDENTIAL_ID",
                "OS_APPLICATION_CREDENTIAL_NAME",
                "OS_ACCESS_TOKEN_ENDPOINT",
                "OS_ACCESS_TOKEN_TYPE",
                "OS_CLIENT_SECURE_FILE",
                "KEYWAY_LISTEN",
                "GITHUB_TOKEN",
                "PASSWORD",
            ],
        );
    }

    #[test]
    fn a_place_that_was_meant_for_another_process_is_none() {
        let own = std::process::id();
        assert_eq!(descriptor_of_this_process(&format!("{own}:3")).as_deref(), Some("3"));
        for place in ["", "3", "1:3", ":3", &format!("{own}:../3"), &format!("{own}0:3")] {
            assert_eq!(descriptor_of_this_process(place), None, "{place}");
        }
    }
}
