//! keyway: an auth-caching reverse proxy for OpenStack.
//!
//! The library holds every part of the program but the process itself (arguments, environment,
//! signals, exit codes), so that tests can drive the real listeners inside their own process.

pub mod body;
pub mod cli;
pub mod config;
pub mod demo;
pub mod keystone;
pub mod upstream;
