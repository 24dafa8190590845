//! Requests that keyway answers itself, as Keystone would: logins, tokens, catalogs, version documents.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use super::{Door, Gateway};
use crate::error::ProxyError;
use crate::facade::Session;
use crate::incoming::Incoming;
use crate::route::Route;

impl Gateway {
    /// Whose request this is: the session of its token, if it brings one of ours.
    ///
    /// # Errors
    /// The token is like ours and not good, or the listener wants one and there is none.
    pub(super) fn session(&self, _door: &Door, _parts: &Parts) -> Result<Option<Arc<Session>>, ProxyError> {
        Ok(None)
    }

    /// Answers what the facade answers; `None` for what goes to the service. The body is taken only if
    /// there is an answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn facade(
        &self,
        _door: &Door,
        _route: &Route<'_>,
        _session: Option<&Session>,
        _parts: &Parts,
        _incoming: &mut Option<Incoming>,
    ) -> Result<Option<Response<Bytes>>, ProxyError> {
        Ok(None)
    }
}
