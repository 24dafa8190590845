//! keyway through its listeners: real sockets in front of simulated and of raw services.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod support;

#[path = "../fuzz/src/properties/mod.rs"]
#[allow(unreachable_pub)]
mod properties;

mod admin;
mod demo;
mod errors;
mod framing;
mod fuzzed;
mod http2;
mod promises;
mod refusal;
mod replay;
mod routing;
mod stopping;
mod streaming;
mod tls;
mod tokens;
mod versions;
