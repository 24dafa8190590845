//! How does a request get to a server, and its answer back?
//!
//! [`Client`] keeps connections to any number of origins, over plain TCP or TLS, HTTP/1.1 or
//! HTTP/2. A worker has its own, so nothing here is shared between threads while requests run.
//! Nothing here knows OpenStack.

mod chunked;
mod client;
mod deadline;
mod h1;
mod h2;
mod message;
mod pool;
mod stream;
pub mod tls;
mod url;

pub use client::{Client, Error, Timeouts};
pub use message::{Body, Head};
pub use pool::Pool;
pub use url::{BaseUrl, Origin, Scheme, UrlError};

use message::hop_by_hop;
