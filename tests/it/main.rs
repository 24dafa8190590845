//! keyway through its listeners: real sockets in front of simulated and of raw services.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod support;

#[path = "../fuzz/src/properties/mod.rs"]
#[allow(unreachable_pub)]
mod properties;

mod addresses;
mod admin;
mod answers;
mod audit;
mod demo;
mod endpoints;
mod entry;
mod env;
mod errors;
mod facade;
mod facade_v2;
mod failure;
mod federation;
mod fuzzed;
mod h2_wire;
mod http2;
mod identities;
mod identity_api;
mod identity_commands;
mod intruders;
mod kept;
#[cfg(feature = "kerberos")]
mod kerberos;
mod kubernetes;
mod limits;
mod links;
mod listeners;
mod methods;
mod oracle;
mod panics;
mod policy;
mod promises;
mod protection;
mod refusal;
mod reload;
mod replay;
mod routing;
mod run;
mod saml;
mod scopes;
mod secrets;
mod services;
mod sessions;
mod shared;
mod stopping;
mod streaming;
mod systemd;
mod tls;
mod tokens;
mod typed;
mod vendors;
mod versions;
mod wire;
