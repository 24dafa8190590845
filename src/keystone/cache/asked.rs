//! For what is a token wanted, and is one that there is good for it?

use std::fmt;

use crate::keystone::{Domain, Named, Project, Scope, Token};

/// The longest name or id in a scope that is worth asking for, bytes; Keystone has none of more than 255
/// characters. What somebody asked for is kept for a while, so it must not be of any size.
const LONGEST_NAME: usize = 1024;

/// Which token: of which cloud, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The cloud's place in the list that the cache was made from.
    pub cloud: usize,
    /// For what.
    pub scope: Asked,
}

/// What a token should be good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// The scope that the cloud's configuration asks for.
    Own,
    /// A project of the user, by id or name: which one is found out first.
    Project(String),
    /// This very scope, whatever Keystone says to it.
    Exactly(Scope),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("the cloud's own scope"),
            Self::Project(project) => f.write_str(project),
            Self::Exactly(scope) => scope.fmt(f),
        }
    }
}

impl Key {
    /// The key of a cloud's own scope.
    pub fn of_cloud(cloud: usize) -> Self {
        Self { cloud, scope: Asked::Own }
    }
}

/// Whether a token is good for what is asked, as far as it tells.
pub(super) fn has_scope(token: &Token, asked: &Asked) -> bool {
    let scope = match asked {
        Asked::Own => return true,
        Asked::Project(asked) => {
            return token.project.as_ref().is_some_and(|own| own.id == *asked || own.name == *asked);
        }
        Asked::Exactly(scope) => scope,
    };
    match scope {
        // Only Keystone knows what that is.
        Scope::Default => false,
        Scope::Unscoped => token.project.is_none() && token.domain.is_none() && !token.system,
        Scope::System => token.system,
        Scope::Trust(id) => token.trust.as_ref() == Some(id),
        Scope::Project(Project::Id(id)) => token.project.as_ref().is_some_and(|own| own.id == *id),
        Scope::Project(Project::Name { name, domain }) => {
            let in_domain = |own: &Named| match domain {
                None => true,
                Some(Domain::Id(id)) => own.domain_id.as_ref() == Some(id),
                Some(Domain::Name(name)) => own.domain_name.as_ref() == Some(name),
            };
            token.project.as_ref().is_some_and(|own| own.name == *name && in_domain(own))
        }
        Scope::Domain(domain) => token.domain.as_ref().is_some_and(|own| match domain {
            Domain::Id(id) => own.id == *id,
            Domain::Name(name) => own.name == *name,
        }),
    }
}

/// Whether a scope is worth asking for, as far as the length of its names and ids tells.
pub(super) fn may_exist(scope: &Scope) -> bool {
    names(scope).iter().all(|name| name.len() <= LONGEST_NAME)
}

/// The names and ids in a scope.
fn names(scope: &Scope) -> [&str; 2] {
    fn of_domain(domain: &Domain) -> &str {
        match domain {
            Domain::Id(name) | Domain::Name(name) => name,
        }
    }
    match scope {
        Scope::Project(Project::Id(id)) => [id, ""],
        Scope::Project(Project::Name { name, domain }) => [name, domain.as_ref().map_or("", of_domain)],
        Scope::Domain(domain) => [of_domain(domain), ""],
        Scope::Trust(id) => [id, ""],
        Scope::Default | Scope::Unscoped | Scope::System => ["", ""],
    }
}
