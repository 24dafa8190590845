//! What must hold for any input. Fuzz targets look for inputs that break it; the project's own tests
//! try the seeds and some made up on the fly.

pub mod answer;
pub mod config;
pub mod headers;
pub mod kept;
pub mod links;
pub mod path;
pub mod policy;
pub mod provider;
pub mod saml;
pub mod session;
pub mod stack;
pub mod token;
pub mod wire;
