//! Where does a request go, and may it?
//!
//! Its route and its token's catalog say which endpoint is meant. Rights and policies are asked about what the service
//! would get, before anything goes there.

use std::sync::Arc;
use std::time::Instant;

use http::Method;
use http::request::Parts;

use super::known::{ScopeKey, scope_of};
use super::record::Trail;
use super::spelling::{check_spelling, keystones};
use super::{Door, Gateway};
use crate::error::ProxyError;
use crate::facade::{Session, Unusable};
use crate::identity::Identity;
use crate::keystone::{self, AllowHttp, Asked, Auth, AuthError, NoEndpoint, Token, service_type};
use crate::metrics::ServiceMetrics;
use crate::policy::{Guard, View};
use crate::proxy::origins::{self, Origins, Place};
use crate::proxy::{Destination, Extras, rewrite};
use crate::route::{Form, Route};
use crate::upstream::{BaseUrl, Scheme};

/// Who asks for something, by which listener, and when.
pub(super) struct Asking<'a> {
    pub(super) door: &'a Door,
    /// The door's place among all.
    pub(super) listener: usize,
    pub(super) session: Option<&'a Session>,
    pub(super) identity: Option<&'a Identity>,
    pub(super) now: Instant,
    /// A service that did not say yet which versions it has may be asked.
    pub(super) may_ask: bool,
}

impl Gateway {
    /// Where a request goes, and the path there: its destination is found, and rights and policies are asked.
    #[inline]
    pub(super) async fn aim(
        &self,
        asking: &Asking<'_>,
        route: &Route<'_>,
        parts: &Parts,
        trail: &mut Trail,
    ) -> Result<(Arc<Destination>, String), ProxyError> {
        let &Asking { door, listener, session, identity, now, may_ask } = asking;
        let of_identity = identity.and_then(|identity| identity.rights.policy.as_ref());
        for policy in [door.policy.as_ref(), of_identity].into_iter().flatten() {
            policy.before(&parts.method)?;
        }
        let scope = scope_of(session, identity, route);
        let (destination, cached_token) = match self.known(scope, route, now) {
            Some(destination) => (destination, true),
            // Boxed, as all that is rare: a request's future is moved a few times, so it should be small.
            None => {
                let resolving =
                    self.resolve(door, (session, identity, scope), route, parts, &mut trail.service);
                Box::pin(resolving).await?
            }
        };
        trail.service = Arc::clone(&destination.metrics);
        if trail.is_audited {
            trail.token = Some(Arc::clone(&destination.token));
        }
        if let Some(identity) = identity {
            self.check_rights(identity, &destination)?;
        }
        trail.cached_token = cached_token;
        // Listeners have theirs first, then identities.
        let policy_of_identity =
            identity.and_then(|identity| identity.policy).map(|index| self.shared.doors.len() + index);
        let asked = (listener, policy_of_identity);
        let permits = |target: &str| -> Result<(), ProxyError> {
            if let Some(identity) = identity {
                check_spelling(&destination, route, parts, target)?;
                if let Some(guard) = &destination.guard {
                    check_guard(identity, guard, &parts.method, target)?;
                }
            }
            Ok(destination.permits(asked, &parts.method, target)?)
        };
        let at_endpoint = route.form == Form::Endpoint;
        let versions;
        let current = if at_endpoint && destination.base.needs_version(route.rest) {
            versions = match self.shared.discovery.known(&destination.unversioned) {
                Some(known) => Some(known),
                None => {
                    // The question carries a token too, so nobody asks it for a request that is denied.
                    // Which version it will be does not matter to a policy.
                    let likely = destination.base.target(route.rest, Some("v1"));
                    permits(&likely)?;
                    if may_ask {
                        let client = &self.shared.clients[destination.key.cloud];
                        let token = Some(&destination.token);
                        let asked = self.shared.discovery.versions(client, &destination.unversioned, token);
                        let versions = Box::pin(asked).await;
                        destination.warn_without_versions(&versions);
                        Some(versions)
                    } else {
                        None
                    }
                }
            };
            match &versions {
                Some(versions) => destination.segment(versions)?,
                None => None,
            }
        } else {
            None
        };
        let target = match route.form {
            Form::Endpoint => destination.base.target(route.rest, current),
            Form::Root => verbatim(destination.base.root(), route.rest, parts),
            Form::Origin => verbatim("", route.rest, parts),
        };
        permits(&target)?;
        Ok((destination, target))
    }

    /// Checks that a destination is within an identity's rights, whatever the request does there.
    fn check_rights(&self, identity: &Identity, destination: &Destination) -> Result<(), ProxyError> {
        let (rights, shared) = (&identity.rights, &self.shared);
        let beyond = if !rights.has_cloud(&shared.clouds[destination.key.cloud].name) {
            "clouds"
        } else if !rights.has_project(destination.token.project.as_ref()) {
            "projects"
        } else if !rights.has_region(destination.region.as_deref()) {
            "regions"
        } else {
            return Ok(());
        };
        Err(ProxyError::beyond(identity, beyond))
    }

    /// Finds a route's destination, and tells whether its token was at hand. Where it fails once the
    /// cloud is known, that is where the request is `counted`.
    async fn resolve(
        &self,
        door: &Door,
        (session, identity, scope): (Option<&Session>, Option<&Identity>, Option<&ScopeKey>),
        route: &Route<'_>,
        parts: &Parts,
        counted: &mut Arc<ServiceMetrics>,
    ) -> Result<(Arc<Destination>, bool), ProxyError> {
        let shared = &self.shared;
        let index = match route.cloud()? {
            None => 0,
            Some(asked) => {
                let named = shared.clouds.iter().position(|cloud| cloud.name == asked);
                named.ok_or_else(|| self.unknown_cloud(identity))?
            }
        };
        let cloud = &shared.clouds[index];
        if let Some(identity) = identity.filter(|identity| !identity.rights.has_cloud(&cloud.name)) {
            return Err(ProxyError::beyond(identity, "clouds"));
        }
        let cloud_policy = &shared.cloud_policies[index];
        if let Some(policy) = cloud_policy {
            policy.before(&parts.method)?;
        }
        *counted = shared.metrics.service(&self.worker, &cloud.name, "none");
        let asked = match (session, route.project()?) {
            (Some(session), _) if session.cloud() != cloud.name => {
                return Err(self.unauthorized(door, Some(route), parts, Unusable::OtherCloud));
            }
            (Some(session), None) => session.asked(),
            (Some(_), Some(_)) => return Err(ProxyError::TokenScope),
            (None, Some(project)) => Asked::Project(project.into_owned()),
            (None, None) => match identity.and_then(|identity| identity.rights.projects.first()) {
                Some(first) => Asked::Project(first.clone()),
                None => Asked::Own,
            },
        };
        let key = keystone::Key { cloud: index, scope: asked };
        // Read first: what changes while this goes on is noticed by the next request.
        let version = shared.tokens.version();
        let cached = shared.tokens.snapshot(&key).is_some();
        let token = shared.tokens.current(&key).await.map_err(|error| no_token(error, identity))?;
        if let Some(view) = shared.facade.clouds.get(&cloud.name)
            && !view.permits(&key.scope, token.project.as_ref())
        {
            // A session is from before a reload that took its project away.
            return Err(match session {
                Some(_) => self.unauthorized(door, Some(route), parts, Unusable::Revoked),
                None => {
                    let (asked, available) = (key.scope.to_string(), view.projects.clone());
                    no_token(Arc::new(AuthError::UnknownProject { asked, available }), identity)
                }
            });
        }
        let cloud = &*cloud.of_token(&token);
        let origins = self.origins(scope, cloud, &token);
        let asked_service = if route.form == Form::Origin { None } else { Some(route.service()?) };
        let at_origin = match route.origin()? {
            None => None,
            Some(id) => {
                let found = at_origin(&origins, &id, route.rest);
                Some(found.ok_or_else(|| ProxyError::NoOrigin { available: services(&token, identity) })?)
            }
        };
        let found = match &at_origin {
            None => {
                let service = asked_service.as_deref().unwrap_or_default();
                let region = route.region()?;
                keystone::catalog::choose(cloud, &token.catalog, service, region.as_deref())
                    .map_err(|missing| no_endpoint(missing, region.as_deref(), &token, identity))?
            }
            Some((place, entry)) => {
                let origins::Entry { service_type, region, url, .. } = &place.entries()[*entry];
                keystone::Destination { service_type, region: region.as_deref(), url }
            }
        };
        let official = service_type::canonical(found.service_type);
        if !may_carry_token(cloud, found.url, found.service_type) {
            if let Some(identity) = identity.filter(|identity| !identity.rights.has_region(found.region)) {
                return Err(ProxyError::beyond(identity, "regions"));
            }
            return Err(ProxyError::PlainHttp { service: official.into_owned(), cloud: cloud.name.clone() });
        }
        let project = token.project.as_ref();
        let base = rewrite::Base::new(found.url.path(), project.map(|project| project.id.as_str()));
        let of_doors = shared.doors.iter().map(|door| door.policy.as_ref());
        let of_identities = shared.identities.policies.iter().map(Some);
        let policies = of_doors.chain(of_identities).chain([cloud_policy.as_ref()]);
        let policies = if policies.clone().all(|policy| policy.is_none()) {
            None
        } else {
            let views = views(&token, &origins, &found, &base);
            let project = project.map(|project| (project.id.as_str(), project.name.as_str()));
            Some(policies.map(|policy| policy.map(|policy| policy.at(&views, project))).collect())
        };
        let asked_service = asked_service.as_deref().unwrap_or(found.service_type);
        let guarded = if shared.identities.is_empty() {
            None
        } else {
            guarded(cloud, &token, &origins, &found, asked_service, &base)
        };
        let asked_version = cloud.api_version_of(asked_service);
        let base = base.wanting(asked_version);
        let destination = Arc::new(Destination {
            unversioned: found.url.with_path(base.root()),
            asked_version,
            extras: Extras::new(cloud, [found.service_type, asked_service], &shared.limits),
            base,
            policies,
            guard: guarded.map(|views| Box::new(shared.identities.guards.at(&views))),
            pool: self.clients[index].pool(found.url.origin()).map_err(ProxyError::Upstream)?,
            url: found.url.clone(),
            links: self.links(index, &official, route)?,
            identity: official == "identity",
            keystones: keystones(&origins, found.url),
            region: found.region.map(Into::into),
            body_limit: shared.body_limits.of(&official),
            metrics: shared.metrics.service(&self.worker, &cloud.name, &official),
            key,
            version,
            token: Arc::clone(&token),
            origins: Arc::clone(&origins),
        });
        self.remember(scope, route.prefix, at_origin, Arc::clone(&destination));
        Ok((destination, cached))
    }
}

/// Checks that a request is nothing that an identity may not do at Keystone.
fn check_guard(identity: &Identity, guard: &Guard, method: &Method, target: &str) -> Result<(), ProxyError> {
    let rights = &identity.rights;
    let beyond = if !guard.permits(rights.identity_api, method, target) {
        "identity_api"
    } else if !rights.projects.is_empty() && guard.lists_projects(method, target) {
        "projects"
    } else if !rights.regions.is_empty() && guard.lists_regions(method, target) {
        "regions"
    } else {
        return Ok(());
    };
    Err(ProxyError::beyond(identity, beyond))
}

/// Why there is no token. What projects there are besides its own is nothing that an identity may know.
#[cold]
fn no_token(error: Arc<AuthError>, identity: Option<&Identity>) -> ProxyError {
    let is_about_project =
        matches!(error.root(), AuthError::UnknownProject { .. } | AuthError::AmbiguousProject { .. });
    match identity {
        Some(identity) if is_about_project && !identity.rights.projects.is_empty() => {
            ProxyError::beyond(identity, "projects")
        }
        _ => ProxyError::Auth(error),
    }
}

/// Why there is no endpoint. An identity hears of its own regions only, and of what is there.
#[cold]
pub(super) fn no_endpoint(
    mut missing: NoEndpoint,
    asked_region: Option<&str>,
    token: &Token,
    identity: Option<&Identity>,
) -> ProxyError {
    let Some(identity) = identity.filter(|identity| !identity.rights.regions.is_empty()) else {
        return missing.into();
    };
    if asked_region.is_some_and(|region| !identity.rights.has_region(Some(region))) {
        return ProxyError::beyond(identity, "regions");
    }
    match &mut missing {
        NoEndpoint::NoRegion { available, .. } => {
            available.retain(|region| identity.rights.has_region(Some(region)));
        }
        NoEndpoint::NoService { available, .. } => *available = services(token, Some(identity)),
        _ => {}
    }
    missing.into()
}

/// The official types of the services that there are, for an identity in its own regions.
#[cold]
fn services(token: &Token, identity: Option<&Identity>) -> Vec<String> {
    let Some(Identity { rights, .. }) = identity.filter(|identity| !identity.rights.regions.is_empty())
    else {
        return token.catalog.official_types();
    };
    let mut types = Vec::new();
    for endpoint in token.catalog.endpoints().filter(|there| rights.has_region(there.region.as_deref())) {
        let official = service_type::canonical(&endpoint.service_type);
        if !types.iter().any(|known| *known == official) {
            types.push(official.into_owned());
        }
    }
    types.sort();
    types
}

/// The place of an origin's id, and which of its entries a path there belongs to.
fn at_origin(origins: &Origins, id: &str, path: &str) -> Option<(Arc<Place>, usize)> {
    let place = origins.place(id)?;
    let entry = place.entry(path)?;
    Some((Arc::clone(place), entry))
}

/// What of a destination is Keystone's, as the views of a [`crate::policy::Guard`]: all of it, what lies below it, or some
/// paths at a root that both have. `None` if nothing is.
fn guarded(
    cloud: &keystone::Config,
    token: &Token,
    origins: &Origins,
    found: &keystone::Destination<'_>,
    asked_service: &str,
    base: &rewrite::Base,
) -> Option<Arc<[View]>> {
    let is_keystone = |service_type: &str| {
        let mut of_type = token.catalog.endpoints().filter(|endpoint| endpoint.service_type == service_type);
        is_keystones_name(service_type) || of_type.any(|known| is_keystones_name(&known.service_name))
    };
    let whole = || Some([View::keystone(base.clone())].into());
    if is_keystones_name(asked_service) || is_keystone(found.service_type) {
        return whole();
    }
    if found.service_type == "*" {
        // The one endpoint that serves everything: Keystone, too, unless nobody logs in there.
        let is_without = matches!(cloud.auth, Auth::None { .. } | Auth::Basic { .. });
        return (!is_without).then(|| [View::beside_keystone(base.clone())].into());
    }
    let mut views = vec![View::new(Some(found.service_type), [], base.clone())];
    let all = origins.places().flat_map(|place| place.entries());
    for origins::Entry { service_type, base: other, url, .. } in all {
        if !is_keystone(service_type) {
            continue;
        }
        let is_here = url.origin() == found.url.origin();
        let (own, its) = (base.root(), other.root());
        let is_part = other.has_version() && is_above(&format!("{its}{}", other.version()), own);
        let view = if is_here && (is_part || own == its && !service_type::is_known(found.service_type)) {
            // A part of Keystone, or another name of it.
            return whole();
        } else if own != its && is_above(own, its) {
            // Elsewhere, too: a front may have several names and ports.
            View::keystone(other.clone())
        } else if is_here && is_above(its, own) {
            View::beside_keystone(other.clone())
        } else {
            continue;
        };
        if !views.contains(&view) {
            views.push(view);
        }
    }
    (views.len() > 1).then(|| views.into())
}

/// Whether a service's type or name is one of Keystone's: `identity`, `identityv3`, `keystone`.
fn is_keystones_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("identity") || name.contains("keystone")
}

/// Whether a path is another one or lies below it.
fn is_above(upper: &str, lower: &str) -> bool {
    lower.strip_prefix(upper).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The path at a service that is `path` below `root` and nothing else, with room for the query.
fn verbatim(root: &str, path: &str, parts: &Parts) -> String {
    let query = parts.uri.query().map_or(0, |query| query.len() + 1);
    let mut target = String::with_capacity(root.len() + path.len().max(1) + query);
    target.push_str(root);
    target.push_str(path);
    if target.is_empty() {
        target.push('/');
    }
    target
}

/// Whether an endpoint may get a token: over plain http only if Keystone gives it out that way, or
/// the configuration allows it for this service or origin.
pub fn may_carry_token(cloud: &keystone::Config, url: &BaseUrl, service: &str) -> bool {
    let Auth::Identity(identity) = &cloud.auth else { return true };
    if url.origin().scheme() == Scheme::Https || identity.auth_url.origin().scheme() == Scheme::Http {
        return true;
    }
    match &cloud.allow_http {
        AllowHttp::Never => false,
        AllowHttp::Only(allowed) => allowed.iter().any(|allowed| match BaseUrl::parse(allowed) {
            Ok(allowed) => allowed.origin() == url.origin(),
            Err(_) => {
                service_type::same(&service_type::canonical(allowed), &service_type::canonical(service))
            }
        }),
    }
}

/// What the URLs of an endpoint may belong to: its service, and whatever else is at the same origin
/// above or below it.
fn views(
    token: &Token,
    origins: &Origins,
    found: &keystone::Destination<'_>,
    base: &rewrite::Base,
) -> Arc<[View]> {
    let catalog = &token.catalog;
    let names = |service: &str, url: Option<&BaseUrl>| -> Vec<&str> {
        let of_service = catalog.endpoints().filter(|endpoint| endpoint.service_type == service);
        let there = of_service.filter(|endpoint| url.is_none() || endpoint.url.as_ref().ok() == url);
        there.map(|endpoint| endpoint.service_name.as_str()).collect()
    };
    if catalog.is_single() && found.service_type == "*" {
        return [View::new(None, [], base.clone())].into();
    }
    let own = View::new(Some(found.service_type), names(found.service_type, None), base.clone());
    let mut views = vec![own];
    let there = origins.at(found.url.origin()).into_iter().flat_map(|place| place.entries());
    for origins::Entry { service_type, url, base: other, .. } in there {
        if service_type == found.service_type && other == base
            || !is_above(base.root(), other.root()) && !is_above(other.root(), base.root())
        {
            continue;
        }
        let view = View::new(Some(service_type), names(service_type, Some(url)), other.clone());
        if !views.contains(&view) {
            views.push(view);
        }
    }
    views.into()
}
