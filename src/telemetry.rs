//! Where log lines go and how they look: stderr, text for a terminal, JSON for everything else.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Crates that see tokens on the wire: never below `info`, whatever the filter says.
const CAPPED: [&str; 5] = ["h2", "hyper", "hyper_util", "rustls", "tokio_rustls"];

/// Sets up the process' log.
pub fn init(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Beside the operator's filter, since a more exact directive of it would win over one of ours.
    let cap = filter_fn(|metadata| *metadata.level() <= Level::INFO || !is_capped(metadata.target()));
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

/// Whether an event's target is one of [`CAPPED`] or a module of it.
fn is_capped(target: &str) -> bool {
    CAPPED.contains(&target.split("::").next().unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_capped_with_all_its_modules_and_no_other() {
        for target in ["h2", "h2::codec::framed_write", "hyper::proto::h1", "hyper_util", "rustls::client"] {
            assert!(is_capped(target), "{target}");
        }
        for target in ["keyway", "keyway::request", "h2o", "hyperactive::h2", ""] {
            assert!(!is_capped(target), "{target}");
        }
    }
}
