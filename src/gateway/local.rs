//! Requests that keyway answers itself, as Keystone would: logins, tokens, catalogs, version documents.

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::session::Caller;
use super::{Door, Gateway};
use crate::error::ProxyError;
use crate::incoming::Incoming;
use crate::route::Route;

impl Gateway {
    /// Answers what the facade answers; `None` for what goes to the service. The body is taken only if
    /// there is an answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn facade(
        &self,
        _door: &Door,
        _route: &Route<'_>,
        _caller: &Caller,
        _parts: &Parts,
        _incoming: &mut Option<Incoming>,
    ) -> Result<Option<Response<Bytes>>, ProxyError> {
        Ok(None)
    }
}
