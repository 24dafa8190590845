//! Which projects may a cloud's user log in to, and which of them does a request mean?
//!
//! Keystone is asked for the list by one at a time, and not again within moments.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::login::is_about_keystone;
use super::slot::{self, Login, Trouble};
use super::{Cloud, Event, Outcome, Shared, Source};
use crate::keystone::{AuthError, Named, ProjectInfo, Token};

/// How long a list of projects answers for names that are in it, and for those that are not. The latter
/// also for whoever wants the list itself, and for a failure to get one.
pub(super) const KNOWN_PROJECTS: Duration = Duration::from_secs(60);
pub(super) const UNKNOWN_PROJECTS: Duration = Duration::from_secs(5);

/// What Keystone said when it was asked for the user's projects, and when.
#[derive(Clone, Default)]
pub(super) struct Projects {
    listed: Option<(Instant, Arc<[ProjectInfo]>)>,
    /// Since then, if at all.
    failed: Option<(Instant, AuthError)>,
}

impl Cloud {
    /// The user's projects, if Keystone listed them no longer than `span` ago.
    pub(super) fn projects_within(&self, span: Duration) -> Option<Arc<[ProjectInfo]>> {
        let projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, listed) = projects.listed.as_ref()?;
        (slot::now().saturating_duration_since(*at) < span).then(|| Arc::clone(listed))
    }

    /// Why there was no list of them just now.
    fn listing_failed(&self) -> Option<AuthError> {
        let projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = projects.failed.as_ref()?;
        (slot::now().saturating_duration_since(*at) < UNKNOWN_PROJECTS).then(|| error.clone())
    }
}

impl Shared {
    /// The id of the project that a request means: an id, else a name; among equal names the one in
    /// the domain of the cloud's own project.
    pub(super) async fn find_project(
        self: &Arc<Self>,
        asked: &str,
        own: &Token,
        login: &Login,
    ) -> Result<String, Trouble> {
        let known = self.clouds[login.key.cloud].projects_within(KNOWN_PROJECTS);
        if let Some(found) = known.and_then(|projects| match_project(&projects, asked, own).ok()) {
            return Ok(found);
        }
        let projects = self.list_projects(login.key.cloud, own, login.start).await?;
        match_project(&projects, asked, own).map_err(Trouble::OfScope)
    }

    /// Asks Keystone for the user's projects, unless it was asked just now. `start` is when whoever needs
    /// them began.
    pub(super) async fn list_projects(
        self: &Arc<Self>,
        index: usize,
        own: &Token,
        start: Instant,
    ) -> Result<Arc<[ProjectInfo]>, Trouble> {
        let cloud = &self.clouds[index];
        let Source::Keystone(keystone) = &cloud.source else {
            return Err(Trouble::NotAsked(AuthError::FixedToken));
        };
        let turn = self.in_time(start, async { Ok(cloud.listing.lock().await) });
        let _turn = turn.await.map_err(Trouble::NotAsked)?;
        if let Some(projects) = cloud.projects_within(UNKNOWN_PROJECTS) {
            return Ok(projects);
        }
        if let Some(failed) = cloud.listing_failed() {
            return Err(Trouble::OfScope(failed));
        }
        if let Some(waiting) = cloud.breaker().waiting(slot::now()) {
            return Err(Trouble::NotAsked(waiting));
        }
        let sent = slot::now();
        let mut listed = self.in_time(start, keystone.projects(&own.id)).await;
        // The list's 401 is about the token that it was asked for with, not about the credentials.
        if let Err(AuthError::Rejected { status: 401, .. }) = listed {
            let replaced = cloud.slot.replace(self, &own.id, None).await;
            let own = replaced.map_err(|error| Trouble::NotAsked((*error).clone()))?;
            listed = self.in_time(start, keystone.projects(&own.id)).await;
        }
        let outcome = listed.as_ref().map_or_else(Outcome::of, |_| Outcome::Ok);
        (self.observer)(&Event::Listed { cloud: index, outcome });
        let mut projects = cloud.projects.lock().unwrap_or_else(PoisonError::into_inner);
        match listed {
            Ok(listed) => {
                let listed: Arc<[ProjectInfo]> = listed.into();
                *projects = Projects { listed: Some((slot::now(), Arc::clone(&listed))), failed: None };
                Ok(listed)
            }
            Err(error) if is_about_keystone(&error) => Err(self.fail(index, error, sent)),
            Err(error) => {
                projects.failed = Some((slot::now(), error.clone()));
                Err(Trouble::OfScope(error))
            }
        }
    }
}

pub(super) fn match_project(projects: &[ProjectInfo], asked: &str, own: &Token) -> Result<String, AuthError> {
    let usable = || projects.iter().filter(|info| info.enabled).map(|info| &info.project);
    if let Some(project) = usable().find(|project| project.id == asked) {
        return Ok(project.id.clone());
    }
    let mut named: Vec<&Named> = usable().filter(|project| project.name == asked).collect();
    let own_domain = own.project.as_ref().or(own.user.as_ref()).and_then(|own| own.domain_id.as_ref());
    if named.len() > 1 && named.iter().any(|project| project.domain_id.as_ref() == own_domain) {
        named.retain(|project| project.domain_id.as_ref() == own_domain);
    }
    match named[..] {
        [project] => Ok(project.id.clone()),
        [] => Err(AuthError::UnknownProject {
            asked: asked.to_owned(),
            available: usable().map(|project| project.name.clone()).collect(),
        }),
        _ => Err(AuthError::AmbiguousProject {
            asked: asked.to_owned(),
            ids: named.iter().map(|project| project.id.clone()).collect(),
        }),
    }
}
