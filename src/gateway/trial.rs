//! What would become of a request? It is not sent.

use std::sync::Arc;
use std::time::Instant;

use http::Request;

use super::destination::Asking;
use super::record::Trail;
use super::{Gateway, route_of};
use crate::error::ProxyError;
use crate::facade::Unusable;
use crate::facade::call::Call;
use crate::identity::Identity;
use crate::proxy::headers::Fields;

/// What would become of a request, see [`Gateway::dry_run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would go to a service.
    Service {
        /// There.
        url: String,
        /// The cloud's name.
        cloud: String,
        /// The service's official type.
        service: String,
        /// The name of the token's project.
        project: Option<String>,
    },
    /// keyway's own Keystone would answer.
    Local,
}

impl Gateway {
    /// What would become of a request of this identity at the listener with this index, if it came now: nothing is
    /// sent to a service, and no limit counts it.
    ///
    /// # Errors
    /// It would be refused.
    pub async fn dry_run(
        &self,
        listener: usize,
        identity: &Identity,
        request: Request<()>,
    ) -> Result<Trial, ProxyError> {
        let (door, (parts, ())) = (&self.shared.doors[listener], request.into_parts());
        let fields = Fields::of(&parts.headers);
        self.check(&parts, &fields)?;
        let route = route_of(door, None, &parts)?;
        if identity.rights.ends.is_some_and(|ends| ends <= jiff::Timestamp::now()) {
            return Err(self.unauthorized(door, Some(&route), &parts, Unusable::IdentityExpired));
        }
        if let Some(call) = Call::of(&parts.method, &route, parts.uri.path()) {
            let cloud = self.local_cloud(&route)?.map(|index| &self.shared.clouds[index]);
            if let Some(cloud) = cloud.filter(|_| !call.is_open())
                && !identity.rights.has_cloud(&cloud.name)
            {
                return Err(ProxyError::beyond(identity, "clouds"));
            }
            let view = cloud.and_then(|cloud| self.shared.facade.clouds.get(&cloud.name));
            let is_limited =
                !identity.rights.projects.is_empty() || view.is_some_and(|view| !view.projects.is_empty());
            // Where there is no limit, the real Keystone's own list is right.
            let is_local = match call {
                Call::Projects(None) | Call::Domains | Call::System | Call::Tenants => is_limited,
                Call::Projects(Some(_)) => false,
                _ => true,
            };
            if is_local && cloud.is_some() {
                return Ok(Trial::Local);
            }
        }
        let identity = Some(identity);
        let asking = Asking { door, listener, session: None, identity, now: Instant::now(), may_ask: false };
        let mut trail = Trail::new(Arc::clone(&self.nowhere));
        let (destination, target) = self.aim(&asking, &route, &parts, &mut trail).await?;
        let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        Ok(Trial::Service {
            url: format!("{}{target}{query}", destination.url.origin()),
            cloud: trail.service.cloud.clone(),
            service: trail.service.service.clone(),
            project: destination.token.project.as_ref().map(|project| project.name.clone()),
        })
    }
}
