//! Is a path another spelling of what keyway's own Keystone answers?

use http::request::Parts;

use crate::error::ProxyError;
use crate::facade::call::Call;
use crate::keystone::service_type;
use crate::proxy::Destination;
use crate::proxy::origins::Origins;
use crate::route::Route;
use crate::upstream::BaseUrl;

/// Where Keystone is at the origin of this URL.
pub(super) fn keystones(origins: &Origins, url: &BaseUrl) -> Vec<String> {
    let there = origins.at(url.origin()).into_iter().flat_map(|place| place.entries());
    let of_keystone = there.filter(|entry| {
        entry.service_type == "*" || service_type::canonical(&entry.service_type) == "identity"
    });
    let mut roots: Vec<_> = of_keystone.map(|entry| entry.base.root().to_owned()).collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// Refuses what keyway's own Keystone answers to identities when it is asked for in another way that leads to the
/// real one: with a login's password it would get a key of keyway's, and it would tell an identity of projects that
/// are not its own.
///
/// # Errors
/// [`ProxyError::Spelling`].
pub(super) fn check_spelling(
    destination: &Destination,
    route: &Route<'_>,
    parts: &Parts,
    target: &str,
) -> Result<(), ProxyError> {
    if destination.keystones.is_empty() {
        return Ok(());
    }
    // Plain paths of other services are the most, and told at a glance.
    let is_odd = destination.identity || target.contains(['%', ';']) || target.contains("//");
    let is_meant = |root: &String| {
        (is_odd || target.starts_with(root.as_str())) && Call::is_meant(&parts.method, root, target)
    };
    // What keyway leaves to Keystone although it knows the call is no other spelling.
    if destination.keystones.iter().any(is_meant)
        && Call::of(&parts.method, route, parts.uri.path()).is_none()
    {
        return Err(ProxyError::Spelling);
    }
    Ok(())
}
