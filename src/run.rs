//! `keyway run -- CMD`: one command with a keyway of its own, which nobody else can use.
//!
//! The keyway of a run listens on loopback at ports that the system chooses, and serves only who proves to know
//! the run's secret: by logging in with it as a password, or by sending it as `X-Auth-Token`. The secret is made
//! here and handed to the command in its environment; it is nowhere else.
//!
//! Towards whoever started it, keyway is as much like the command itself as it can be: it passes signals on,
//! leaves stdin, stdout and stderr alone, and ends when the command ends, with its exit code.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::header::{HeaderName, HeaderValue};
use keyway::app::App;
use keyway::commands;
use keyway::config::{Config, Listener};
use keyway::facade::Logins;
use keyway::identity;
use keyway::keystone::{AuthError, Key, Secret, Token};
use keyway::openrc::{self, Access};
use ring::rand::SecureRandom as _;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::process::Limits;
use crate::side_runtime;

/// What the command can't be found ends with, as in a shell.
const NOT_FOUND: u8 = 127;
/// The same for what can't be executed.
const NOT_EXECUTABLE: u8 = 126;
/// What is added to the number of the signal that ended the command.
const SIGNALED: i32 = 128;

/// How many random bytes the secret has.
const SECRET: usize = 32;

/// The signals that are passed on.
const PASSED_ON: [Signal; 7] =
    [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH];

/// A SIGTERM that follows another so soon is the same one: some send it to a process and then to its group.
const SAME: Duration = Duration::from_secs(1);

/// How long a command that was asked twice to end may take, before keyway ends without it.
const LAST_CHANCE: Duration = Duration::from_secs(5);

/// What is to be run.
pub(crate) struct Task<'a> {
    /// Its name and arguments.
    pub(crate) command: &'a [OsString],
    /// See [`inherited`].
    pub(crate) inherited: Vec<(OsString, OsString)>,
    /// Those of whoever started keyway.
    pub(crate) limits: Limits,
}

/// What a command gets of keyway's own environment: all but what may lead it past keyway, and keyway's
/// own affairs.
pub(crate) fn inherited(variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let stays = |name: &OsStr| {
        ["OS_", "ST_", "KEYWAY_"].iter().all(|prefix| !name.as_bytes().starts_with(prefix.as_bytes()))
    };
    variables.iter().filter(|(name, _)| stays(name)).cloned().collect()
}

/// What a run has in its own environment besides: its tokens end with it, and it has one address.
pub(crate) fn settings() -> [(OsString, OsString); 3] {
    [("KEYWAY_FACADE_STATE", "none"), ("KEYWAY_FACADE_KEYS", "none"), ("KEYWAY_EMULATE_PORTS", "false")]
        .map(|(k, v)| (k.into(), v.into()))
}

/// Starts a private keyway, and the command once there is a token; ends when the command does.
pub(crate) fn run(config: Config, task: Task<'_>) -> anyhow::Result<ExitCode> {
    let secret = secret()?;
    let config = private(config, &secret)?;
    let runtime = side_runtime()?;
    let code = runtime.block_on(async {
        let mut heard = listen()?;
        let app = App::start(&config, runtime.handle())?;
        let token = tokio::select! {
            token = first_token(&app, config.timeouts.keystone) => token?,
            signal = next_signal(&mut heard) => return Ok(ended_by(signal)),
        };
        let region = config.facade.clouds.get(&config.clouds[0].name).and_then(|view| view.region.as_deref());
        let access = Access::new(&format!("{}/identity", app.url()), &config.clouds[0], region, &token);
        let mut command = process::Command::new(&task.command[0]);
        command.args(&task.command[1..]).env_clear();
        command.envs(without_web_proxy(task.inherited));
        command.envs(access.variables(openrc::USER, Some(&secret)));
        command.env("KEYWAY_URL", app.url()).env("KEYWAY_TOKEN", &*secret);
        let child = match task.limits.lend(|| command.spawn()).and_then(|started| started) {
            Ok(child) => Pid::from_child(&child),
            Err(error) => return Ok(not_started(&task.command[0], &error)),
        };
        // It holds the secret.
        drop(command);
        attend(child, heard).await
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

/// A new secret. It has no letter that a token of Keystone's begins with.
fn secret() -> anyhow::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; SECRET]);
    let filled = ring::rand::SystemRandom::new().fill(bytes.as_mut_slice());
    filled.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    let mut text = Zeroizing::new(String::with_capacity(2 * SECRET));
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("four bits are one digit");
    for byte in bytes.iter() {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    Ok(text)
}

/// The configuration for a run: the clouds, limits and policies as they are, and no way in without the secret.
fn private(mut config: Config, secret: &str) -> anyhow::Result<Config> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut main = Listener::at("main", anywhere);
    main.policy = config.listeners.swap_remove(0).policy;
    main.logins = Logins::Configured;
    let mut admin = Listener::at("admin", anywhere);
    let mut value = HeaderValue::from_str(secret).context("the secret is no text for a header")?;
    value.set_sensitive(true);
    admin.entry.required = Some((HeaderName::from_static("x-auth-token"), value));
    config.listeners = vec![main];
    config.admin = admin;
    let password = Some(Secret::new(secret));
    config.identities =
        vec![identity::Config { name: openrc::USER.to_owned(), password, ..Default::default() }];
    config.api_keys = None;
    // It tells of a team's members, and stdout is the command's.
    config.audit = None;
    Ok(config)
}

/// Waits for the default cloud's token. A Keystone that can't answer now is asked again for so long; anything else
/// is told at once.
async fn first_token(app: &App, patience: Duration) -> anyhow::Result<Arc<Token>> {
    let start = Instant::now();
    loop {
        let error = match app.shared().tokens.current(&Key::of_cloud(0)).await {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        let may_pass = matches!(
            error.root(),
            AuthError::Unreachable(_) | AuthError::Timeout { .. } | AuthError::Unavailable { .. }
        );
        let wait = error.retry_after().unwrap_or_default().max(Duration::from_millis(100));
        anyhow::ensure!(
            may_pass && start.elapsed() + wait < patience,
            "there is no token, so the command was not started: {}",
            commands::whole(&error)
        );
        tokio::time::sleep(wait).await;
    }
}

/// The environment, so that requests to keyway, and the secret in them, do not go to a web proxy.
fn without_web_proxy(mut variables: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let value = |wanted: &str| {
        variables
            .iter()
            .find(|(name, value)| name == wanted && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    let proxied =
        ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].iter().any(|name| value(name).is_some());
    if !proxied {
        return variables;
    }
    let exceptions = ["no_proxy", "NO_PROXY"].map(|name| (name, value(name)));
    let other = exceptions.iter().find_map(|(_, value)| value.clone());
    for (name, value) in exceptions {
        let mut list = value.or_else(|| other.clone()).unwrap_or_default();
        if !list.is_empty() {
            list.push(",");
        }
        list.push("127.0.0.1");
        variables.retain(|(known, _)| known != name);
        variables.push((name.into(), list));
    }
    variables
}

fn not_started(command: &OsStr, error: &std::io::Error) -> ExitCode {
    let (code, advice) = match error.kind() {
        std::io::ErrorKind::NotFound => (NOT_FOUND, "is it installed, and in PATH?"),
        _ => (NOT_EXECUTABLE, "is it a program that you may run?"),
    };
    eprintln!("keyway: can't run {}: {error}; {advice}", command.display());
    ExitCode::from(code)
}

/// What there is to hear.
enum Heard {
    Signal(Signal),
    /// Some child of this process has ended.
    Child,
}

/// Listens for signals, but for those that whoever started keyway had ignored (`nohup`): the command
/// ignores them too then.
fn listen() -> anyhow::Result<mpsc::Receiver<Heard>> {
    let ignored = ignored_signals();
    let (sender, heard) = mpsc::channel(64);
    for signal in PASSED_ON.into_iter().chain([Signal::CHILD]) {
        let number = signal.as_raw();
        if signal != Signal::CHILD && ignored & (1 << (number - 1)) != 0 {
            continue;
        }
        let kind = SignalKind::from_raw(number);
        let mut signals = unix::signal(kind).context("the system refused a signal handler")?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let heard = if signal == Signal::CHILD { Heard::Child } else { Heard::Signal(signal) };
                if sender.send(heard).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(heard)
}

/// The signals that this process ignores, a bit for each, as `/proc` tells it.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

async fn next_signal(heard: &mut mpsc::Receiver<Heard>) -> Signal {
    loop {
        match heard.recv().await {
            Some(Heard::Signal(signal)) if signal != Signal::WINCH => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Passes signals on until the command ends. Its children may go on; if this is the first process of a
/// container, they are then its own to look after, and so are those that end before.
async fn attend(child: Pid, mut heard: mpsc::Receiver<Heard>) -> anyhow::Result<ExitCode> {
    let mut asked: Option<Instant> = None;
    let mut end: Option<tokio::time::Instant> = None;
    loop {
        let over = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            heard = heard.recv() => match heard {
                Some(Heard::Signal(signal)) => signal,
                _ => match reap(child)? {
                    Some(status) => return Ok(exit_code(status)),
                    None => continue,
                },
            },
            () = over => {
                tracing::warn!("the command did not end although it was asked to twice; keyway ends without it");
                return Ok(ended_by(Signal::TERM));
            }
        };
        if sent_to_both(signal) {
            continue;
        }
        // Only a process that was not reaped yet has this id, and nobody else reaps it.
        let _ = rustix::process::kill_process(child, signal);
        if signal == Signal::TERM {
            match asked {
                None => asked = Some(Instant::now()),
                Some(first) if first.elapsed() < SAME => {}
                Some(_) => end = end.or_else(|| Some(tokio::time::Instant::now() + LAST_CHANCE)),
            }
        }
    }
}

/// Whether a signal comes from the terminal, which sends it to every process of the group in its foreground:
/// the command has it already.
fn sent_to_both(signal: Signal) -> bool {
    let from_keyboard = matches!(signal, Signal::INT | Signal::QUIT | Signal::WINCH);
    let foreground = || {
        let terminal = File::open("/dev/tty").ok()?;
        rustix::termios::tcgetpgrp(&terminal).ok()
    };
    from_keyboard && foreground() == Some(rustix::process::getpgrp())
}

/// Takes note of every child that has ended; how the command did, if it is among them.
fn reap(command: Pid) -> anyhow::Result<Option<WaitStatus>> {
    let mut end = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => end = Some(status),
            // An orphan that the system gave to this process.
            Ok(Some(_)) => {}
            Ok(None) => return Ok(end),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) if end.is_some() => return Ok(end),
            Err(error) => return Err(error).context("the command got lost"),
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or_else(|| Some(SIGNALED + status.terminating_signal()?));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

fn ended_by(signal: Signal) -> ExitCode {
    ExitCode::from(u8::try_from(SIGNALED + signal.as_raw()).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use keyway::config::{Env, Overrides};

    use super::*;

    fn variables(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    // Promise 11.
    #[test]
    fn every_secret_is_another_and_long_enough_not_to_be_guessed() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_ne!(*one, *other);
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    // Promise 11.
    #[test]
    fn nothing_of_a_private_keyway_is_open_without_the_secret() {
        let overrides = Overrides { listen: Some("127.0.0.1:8180".to_owned()), ..Overrides::default() };
        let env = Env::new(settings(), "/nonexistent").with_root("/nonexistent");
        let config = Config::load_without_clouds(&overrides, &env).expect("defaults are right");
        let private = private(config, "s3cret").unwrap();
        let [main] = &private.listeners[..] else { panic!("one listener") };
        for listener in [main, &private.admin] {
            assert_eq!(listener.server.address, SocketAddr::from(([127, 0, 0, 1], 0)).into());
        }
        assert_eq!(main.logins, Logins::Configured);
        let (name, value) = private.admin.entry.required.as_ref().expect("the admin listener asks for it");
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-auth-token", "s3cret"));
        assert!(!format!("{private:?}").contains("s3cret"));
        assert_eq!((private.identities.len(), private.facade.state), (1, None));
    }

    #[test]
    fn what_could_lead_past_keyway_is_not_inherited() {
        let all = variables(&[
            ("PATH", "/bin"),
            ("OS_CLOUD", "prod"),
            ("OS_CLIENT_CONFIG_FILE", "/x"),
            ("OS_PASSWORD", "p"),
            ("ST_AUTH", "http://x"),
            ("KEYWAY_LISTEN", "x"),
            ("OSTYPE", "linux"),
        ]);
        assert_eq!(inherited(&all), variables(&[("PATH", "/bin"), ("OSTYPE", "linux")]));
    }

    #[test]
    fn a_web_proxy_is_not_asked_for_keyway() {
        let plain = variables(&[("PATH", "/bin")]);
        assert_eq!(without_web_proxy(plain.clone()), plain);
        for (given, expected) in [
            (vec![], "127.0.0.1"),
            (vec![("no_proxy", "a,b")], "a,b,127.0.0.1"),
            (vec![("NO_PROXY", "a")], "a,127.0.0.1"),
            (vec![("NO_PROXY", "")], "127.0.0.1"),
        ] {
            let given: Vec<_> = given.into_iter().chain([("HTTP_PROXY", "http://proxy:3128")]).collect();
            let set = without_web_proxy(variables(&given));
            for name in ["no_proxy", "NO_PROXY"] {
                let values: Vec<_> = set.iter().filter(|(known, _)| known == name).collect();
                assert_eq!(values.len(), 1, "{given:?}");
                assert_eq!(values[0].1, expected, "{given:?}");
            }
        }
    }
}
