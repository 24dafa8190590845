//! keyway: an auth-caching reverse proxy for OpenStack.
//!
//! The library holds every part of the program but the process itself (arguments, environment,
//! signals, exit codes), so that tests can drive the real listeners inside their own process.

// What came from the network is never unwrapped; what the code itself proves says so with `expect`.
#![warn(clippy::unwrap_used)]

pub mod admin;
pub mod app;
pub mod audit;
pub mod body;
pub mod cli;
pub mod commands;
pub mod config;
pub mod demo;
pub mod directory;
pub mod entry;
pub mod error;
pub mod facade;
pub mod framing;
pub mod gateway;
pub mod identity;
pub mod incoming;
pub mod keystone;
pub mod metrics;
pub mod openrc;
pub mod policy;
pub mod private;
pub mod proxy;
pub mod route;
pub mod secret;
pub mod server;
pub mod shown;
pub mod telemetry;
pub mod upstream;
