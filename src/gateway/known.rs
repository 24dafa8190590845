//! Which destinations were found before?
//!
//! They are kept by path prefix, and found anew when the token cache says that anything changed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::Gateway;
use crate::facade::Session;
use crate::identity::Identity;
use crate::keystone::{self, Scope, Token};
use crate::proxy::Destination;
use crate::proxy::origins::{Origins, Place};
use crate::route::{Form, Route};

/// Destinations that one worker keeps; clients decide how many different prefixes there are.
const MAX_DESTINATIONS: usize = 1024;

/// A cloud's name, and a scope there; without a name, of whatever cloud the path names.
pub(super) type ScopeKey = (Box<str>, Scope);

/// Destinations that were found: of requests with the cloud's own scope, and of others.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    own: Found,
    of_scopes: HashMap<ScopeKey, Found>,
}

/// Destinations by path prefix.
#[derive(Debug, Default)]
struct Found {
    services: HashMap<Box<str>, Arc<Destination>>,
    /// An origin may have several: there, the rest of the path tells which.
    origins: HashMap<Box<str>, AtOrigin>,
}

/// The destinations at one origin.
#[derive(Debug)]
struct AtOrigin {
    place: Arc<Place>,
    /// Of each entry of the place, once somebody asked for it.
    destinations: Vec<Option<Arc<Destination>>>,
}

impl Gateway {
    /// A destination that was resolved before and still holds.
    pub(super) fn known(
        &self,
        scope: Option<&ScopeKey>,
        route: &Route<'_>,
        now: Instant,
    ) -> Option<Arc<Destination>> {
        let destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match scope {
            None => &destinations.own,
            // A session's cloud and scope never change, so its key is made once.
            Some(scope) => destinations.of_scopes.get(scope)?,
        };
        let destination = match route.form {
            Form::Endpoint | Form::Root => found.services.get(route.prefix)?,
            Form::Origin => found.origins.get(route.prefix)?.of(route.rest)?,
        };
        let holds = destination.version == self.shared.tokens.version() && destination.token.is_fresh(now);
        holds.then(|| Arc::clone(destination))
    }

    /// Remembers a destination for the prefix that led there, `at_origin` if that is one of a place's.
    pub(super) fn remember(
        &self,
        scope: Option<&ScopeKey>,
        prefix: &str,
        at_origin: Option<(Arc<Place>, usize)>,
        destination: Arc<Destination>,
    ) {
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if destinations.len() >= MAX_DESTINATIONS {
            *destinations = Destinations::default();
        }
        let known = match scope {
            None => &mut destinations.own,
            Some(scope) => destinations.of_scopes.entry(scope.clone()).or_default(),
        };
        match at_origin {
            None => drop(known.services.insert(prefix.into(), destination)),
            Some((place, entry)) => known.add(prefix, place, entry, destination),
        }
    }

    /// Lets go of destinations with a token that was replaced, which nobody may ask for again.
    pub(super) fn forget_replaced(&self) {
        let version = self.shared.tokens.version();
        let mut destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        destinations.own.keep(version);
        destinations.of_scopes.retain(|_, found| {
            found.keep(version);
            found.all().next().is_some()
        });
    }

    /// The origins of a token's catalog, of which a destination that was found before may know.
    pub(super) fn origins(
        &self,
        scope: Option<&ScopeKey>,
        cloud: &keystone::Config,
        token: &Arc<Token>,
    ) -> Arc<Origins> {
        let destinations = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match scope {
            None => Some(&destinations.own),
            Some(scope) => destinations.of_scopes.get(scope),
        };
        let same = found.and_then(|found| found.all().find(|known| Arc::ptr_eq(&known.token, token)));
        match same {
            Some(known) => Arc::clone(&known.origins),
            None => Arc::new(Origins::new(cloud, token)),
        }
    }
}

/// Under which scope the destinations of a request are known. `None` is the cloud's own.
pub(super) fn scope_of<'a>(
    session: Option<&'a Session>,
    identity: Option<&'a Identity>,
    route: &Route<'_>,
) -> Option<&'a ScopeKey> {
    match session {
        Some(session) => Some(&session.key),
        // A project that the path names is part of what destinations are known by.
        None if route.names_project() => None,
        None => identity?.key.as_ref(),
    }
}

impl Destinations {
    fn len(&self) -> usize {
        [&self.own].into_iter().chain(self.of_scopes.values()).map(|found| found.all().count()).sum()
    }
}

impl Found {
    fn all(&self) -> impl Iterator<Item = &Arc<Destination>> {
        let at_origins = self.origins.values().flat_map(|at| at.destinations.iter().flatten());
        self.services.values().chain(at_origins)
    }

    /// Keeps a destination at a place, with those that are of the same catalog.
    fn add(&mut self, prefix: &str, place: Arc<Place>, entry: usize, destination: Arc<Destination>) {
        let none = vec![None; place.entries().len()];
        let at = self
            .origins
            .entry(prefix.into())
            .or_insert_with(|| AtOrigin { place: Arc::clone(&place), destinations: none.clone() });
        if !Arc::ptr_eq(&at.place, &place) {
            *at = AtOrigin { place, destinations: none };
        }
        at.destinations[entry] = Some(destination);
    }

    /// Lets go of what was read at another version of the token cache.
    fn keep(&mut self, version: u64) {
        let current = |destination: &Arc<Destination>| destination.version == version;
        self.services.retain(|_, destination| current(destination));
        self.origins.retain(|_, at| at.destinations.iter().flatten().all(current));
    }
}

impl AtOrigin {
    /// The destination that a path at the origin leads to.
    fn of(&self, path: &str) -> Option<&Arc<Destination>> {
        self.destinations[self.place.entry(path)?].as_ref()
    }
}
