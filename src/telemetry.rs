//! Where log lines go and how they look: stderr, text for a terminal, JSON for everything else. There
//! is no other way out: keyway exports no traces, and reports no crashes to anyone.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal as _;
use std::panic::{self, PanicHookInfo};

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Sets up the process' log.
pub fn init(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Beside the operator's filter, since a more exact directive of it would win over one of ours.
    let cap = filter_fn(|metadata| {
        (*metadata.level() <= Level::INFO && !quotes_servers(metadata.target())) || is_own(metadata.target())
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    if text {
        builder.with_ansi(terminal).with_target(false).finish().with(cap).init();
    } else {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        builder.finish().with(cap).init();
    }
}

/// Whether an event is keyway's own. Whatever the filter says, no other crate gets below `info`: some of
/// them see tokens and passwords on the wire, and log what they see (h2 its frames, hyper its buffers,
/// rustls its messages). Which ones do may change with any update, so none is trusted.
fn is_own(target: &str) -> bool {
    target.strip_prefix("keyway").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether an event may quote what a server said: the client of the token store passes on its errors whole, and what
/// they come to is told by keyway.
fn quotes_servers(target: &str) -> bool {
    target.strip_prefix("redis").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// From now on a panic is a line in the log like any other error.
///
/// It says where, and what only if that was written in the program: a message that was put together at
/// run time may quote what a peer sent, or a secret. A backtrace (`RUST_BACKTRACE=1`) has names of
/// functions and places in the source, and no values.
pub fn report_panics() {
    panic::set_hook(Box::new(report));
}

fn report(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let location = location.as_deref().unwrap_or("an unknown place");
    let current = std::thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let message = message(panic.payload());
    if !tracing::dispatcher::has_been_set() {
        eprintln!("keyway: a defect at {location}, please report it: {message}");
        return;
    }
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(thread, location, backtrace, "a defect of keyway, please report it: {message}");
}

/// A panic's message, if it may be shown.
fn message(payload: &(dyn Any + Send)) -> &'static str {
    match payload.downcast_ref::<&'static str>() {
        Some(written) => written,
        None => "(its message may quote data, and is left out)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 75.
    #[test]
    fn every_crate_but_keyway_is_capped() {
        for target in
            ["h2", "h2::codec::framed_write", "hyper::proto::h1", "rustls::client", "log", "keywayx", ""]
        {
            assert!(!is_own(target), "{target}");
        }
        for target in ["keyway", "keyway::request", "keyway::keystone::cache"] {
            assert!(is_own(target), "{target}");
        }
    }

    // Promise 76.
    #[test]
    fn a_panic_s_message_is_shown_only_if_it_is_part_of_the_program() {
        let secret = std::hint::black_box("hunter2");
        let put_together = panic::catch_unwind(|| panic!("no such token: {secret}")).unwrap_err();
        assert!(!message(&*put_together).contains("hunter2"));
        let unwrapped =
            panic::catch_unwind(|| secret.parse::<u8>().map_err(|_| secret).expect("a token")).unwrap_err();
        assert!(!message(&*unwrapped).contains("hunter2"));
        let written = panic::catch_unwind(|| panic!("the head was parsed")).unwrap_err();
        assert_eq!(message(&*written), "the head was parsed");
    }
}
