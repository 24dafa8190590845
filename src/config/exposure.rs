//! Who else can read a file with a secret in it?
//!
//! The group `root` has no members but root, systemd's credentials are given to their service by an
//! access list, which looks like permission for the group, and Kubernetes hands root's files to the group that
//! keyway runs as: none of these is an exposure.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::Env;
use crate::private;

/// What a file's mode lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Nobody but its owner (and root) reads it.
    None,
    /// A group reads it.
    Group,
    /// Every account of this machine reads it.
    Everyone,
}

/// Who can read this file. One that is not there exposes nothing.
pub(super) fn of(path: &Path, env: &Env) -> Exposure {
    let by_systemd = env.var("CREDENTIALS_DIRECTORY").is_some_and(|dir| path.starts_with(dir));
    match fs::metadata(path) {
        Ok(metadata) if !by_systemd => {
            by_mode(metadata.permissions().mode() & !private::handed_over(&metadata), metadata.gid())
        }
        _ => Exposure::None,
    }
}

fn by_mode(mode: u32, group: u32) -> Exposure {
    if mode & 0o004 != 0 {
        Exposure::Everyone
    } else if mode & 0o040 != 0 && group != 0 {
        Exposure::Group
    } else {
        Exposure::None
    }
}

/// Warns of a file with a secret that others can read.
pub(super) fn warn(path: &Path, env: &Env, warnings: &mut Vec<String>) {
    let readers = match of(path, env) {
        Exposure::None => return,
        Exposure::Group => "its group",
        Exposure::Everyone => "other users",
    };
    warnings.push(format!("{} holds a secret and can be read by {readers}: chmod 600 {0}", path.display()));
}

/// Checks the file of a private key: nobody has a reason to let everyone read one, so that is refused; a
/// group may be meant to (`ssl-cert`), so it is warned of.
///
/// # Errors
/// The rest of a sentence that starts with the key's place.
pub(super) fn check_key(path: &Path, env: &Env, warnings: &mut Vec<String>) -> Result<(), String> {
    if of(path, env) == Exposure::Everyone {
        return Err(format!(
            "{} holds a private key and can be read by every user of this machine: chmod 600 {0}",
            path.display()
        ));
    }
    warn(path, env, warnings);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Promise 14.
    #[test]
    fn a_group_other_than_root_and_everyone_else_are_others() {
        for (mode, group, expected) in [
            (0o600, 1000, Exposure::None),
            (0o400, 1000, Exposure::None),
            (0o711, 1000, Exposure::None),
            (0o640, 0, Exposure::None),
            (0o640, 1000, Exposure::Group),
            (0o644, 1000, Exposure::Everyone),
            (0o644, 0, Exposure::Everyone),
            (0o604, 0, Exposure::Everyone),
        ] {
            assert_eq!(by_mode(mode, group), expected, "{mode:o} {group}");
        }
    }
}
