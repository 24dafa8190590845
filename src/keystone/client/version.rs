//! Which Identity API does a Keystone speak, and where?
//!
//! The end of `auth_url` says so, or the configuration, or else Keystone's version document. Only a path may come from
//! that: scheme and host stay those of `auth_url`.

use std::sync::PoisonError;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::{Client, request};
use crate::keystone::protocol::{self, bad_reply};
use crate::keystone::{AuthError, IdentityVersion};
use crate::upstream::BaseUrl;

/// An Identity API and its base URL, version included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Api {
    pub(super) version: ApiVersion,
    pub(super) base: BaseUrl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiVersion {
    V2,
    V3,
}

impl ApiVersion {
    /// The last path segment of its base URL.
    fn segment(self) -> &'static str {
        match self {
            Self::V2 => "v2.0",
            Self::V3 => "v3",
        }
    }

    fn from_segment(segment: &str) -> Option<Self> {
        [Self::V2, Self::V3].into_iter().find(|version| version.segment() == segment)
    }
}

impl Client {
    /// Which API to speak, and where. What a version document said is remembered; a guess is not.
    pub(super) async fn api(&self) -> Result<Api, AuthError> {
        let auth_url = &self.identity.auth_url;
        let (root, named) = split_version(auth_url);
        let forced = match self.identity.version {
            IdentityVersion::V2 => Some(ApiVersion::V2),
            IdentityVersion::V3 => Some(ApiVersion::V3),
            IdentityVersion::Discover => named,
        };
        if let Some(version) = forced {
            return Ok(Api { version, base: versioned(&root, version) });
        }
        if let Some(found) = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(found);
        }
        let (answer, root) = self.version_document(root).await?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(protocol::refusal(&answer, "the question for its versions", &[]));
        }
        let offered = match status {
            StatusCode::OK | StatusCode::MULTIPLE_CHOICES => protocol::read_versions(answer.body()),
            _ => None,
        };
        let Some(offered) = offered else {
            return Ok(Api { version: ApiVersion::V3, base: versioned(&root, ApiVersion::V3) });
        };
        let api = Api { version: self.choose(&offered)?, base: root };
        let api = Api { base: versioned(&api.base, api.version), ..api };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(api.clone());
        Ok(api)
    }

    /// What there is at `root`, or where its redirects lead to at the same origin; and the root of that.
    async fn version_document(&self, root: BaseUrl) -> Result<(Response<Bytes>, BaseUrl), AuthError> {
        let mut path = format!("{}/", root.path());
        let mut answer = self.send(&root, request(Method::GET, &root, "/", Bytes::new())).await?;
        for _ in 0..protocol::MOST_REDIRECTS {
            let Some(next) = protocol::redirect_path(&answer, root.origin(), &path) else { break };
            let mut asked = request(Method::GET, &root, "/", Bytes::new());
            *asked.uri_mut() =
                next.parse().map_err(|_| bad_reply("Keystone redirects to what is no path"))?;
            answer = self.send(&root, asked).await?;
            path = next;
        }
        let (root, _) = split_version(&root.with_path(&path));
        Ok((answer, root))
    }

    fn choose(&self, offered: &[String]) -> Result<ApiVersion, AuthError> {
        let offers = |version: ApiVersion| offered.iter().any(|segment| segment == version.segment());
        if offers(ApiVersion::V3) {
            return Ok(ApiVersion::V3);
        }
        if !offers(ApiVersion::V2) {
            let mut offered = offered.to_vec();
            offered.dedup();
            let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            return Err(bad_reply(format!(
                "auth_url leads to a service that has neither Identity v3 nor v2.0 (its versions: {offered}); is \
                 it Keystone's?"
            )));
        }
        if protocol::names_a_domain(&self.identity.method, &self.identity.scope) {
            return Err(AuthError::NotInV2 {
                what: "domains, and this Keystone offers nothing newer than v2.0",
            });
        }
        Ok(ApiVersion::V2)
    }
}

/// `auth_url` without the version at its end, and that version.
fn split_version(auth_url: &BaseUrl) -> (BaseUrl, Option<ApiVersion>) {
    let Some((root, last)) = auth_url.path().rsplit_once('/') else {
        return (auth_url.clone(), None);
    };
    match ApiVersion::from_segment(last) {
        Some(version) => (auth_url.with_path(root), Some(version)),
        None => (auth_url.clone(), None),
    }
}

fn versioned(root: &BaseUrl, version: ApiVersion) -> BaseUrl {
    root.with_path(&format!("{}/{}", root.path(), version.segment()))
}
