//! Those parts of the integration tests' support that speak bytes.

#[path = "../../support/direct.rs"]
#[allow(dead_code)]
pub(crate) mod direct;
#[path = "../../support/judge.rs"]
#[allow(dead_code)]
pub(crate) mod judge;
#[path = "../../support/raw.rs"]
#[allow(dead_code)]
pub(crate) mod raw;
