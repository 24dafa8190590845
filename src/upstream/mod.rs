//! How does a request get to a server, and its answer back?
//!
//! [`Client`] keeps connections to any number of origins, over plain TCP or TLS, HTTP/1.1 or
//! HTTP/2. A worker has its own, so nothing here is shared between threads while requests run.
//! Nothing here knows OpenStack.
//!
//! # How much is taken of a service
//!
//! | what | at most | else |
//! | --- | --- | --- |
//! | an answer's head | 64 KiB, 200 fields | [`Error::Protocol`] |
//! | interim answers (1xx) before it | 16 over HTTP/1.1; as many as come in time over HTTP/2 | [`Error::Protocol`] |
//! | a chunk's size with its extensions | 4 KiB | the body is cut |
//! | trailers | 16 KiB, 64 fields | the body is cut |
//! | what waits for a client that does not read | 512 KiB over HTTP/1.1, 1 MiB over HTTP/2 | the service waits |
//! | silence where the service is waited for | [`Timeouts::response`] | [`Error::Timeout`], or the body is cut |
//!
//! A body that is cut ends in an error, so that nobody takes what came for the whole.

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
