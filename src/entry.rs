//! May this request come in at all? What a listener asks before a route, a policy or a token is
//! looked at: that no web page sent it, and that it was meant for this listener.

use http::{HeaderName, HeaderValue};

/// What one listener lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Names that `Host` may have besides those of loopback and the listener's own address, in lower
    /// case; with a port where it differs from the listener's.
    pub hosts: Vec<String>,
    /// Origins (`https://dashboard.example`) whose pages may send requests.
    pub origins: Vec<String>,
    /// A field that every request must have, with this very value.
    pub required: Option<(HeaderName, HeaderValue)>,
}
