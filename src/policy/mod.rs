//! Is this request allowed? Rules over method, service, path and project, decided on the very target
//! that goes to the service.
//!
//! A [`Policy`] is what the configuration says. [`Scoped`] is what of it can matter at one destination:
//! services and the token's project are compared once, not with every request. What is left is the
//! method and the path, and a path is a matter of opinion: a denial holds if any way to read
//! it is denied, a permission only if every way is allowed.
//!
//! A policy sees neither fields nor bodies. What a request names there (`X-Copy-From`, `Destination` and
//! `X-Object-Manifest` of object storage, the action in a body of `/servers/{id}/action`) is no part of
//! its path: to close a container, deny the methods that write to the others, too.

mod identity_api;
mod path;

use std::sync::Arc;

use http::Method;

pub use self::identity_api::{Guard, Guards, IdentityApi};
use self::path::{Pattern, Reading};
use crate::keystone::service_type;
use crate::proxy::rewrite::{Base, is_id};

/// What decided where no rule did because the policy is [read only](Policy::new).
pub const READ_ONLY: &str = "read_only";
/// What decided where no rule spoke of the request.
pub const DEFAULT: &str = "default";

/// The methods that a rule can name.
const METHODS: [&str; 8] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "COPY"];
/// Those that change nothing (RFC 9110, section 9.2.1).
const SAFE: [&str; 3] = ["GET", "HEAD", "OPTIONS"];
/// A name is a metric's label and stands in answers.
const LONGEST_NAME: usize = 64;

/// What a rule does to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// It may pass.
    #[default]
    Allow,
    /// It is refused with the rule's name.
    Deny,
}

/// One rule as the operator wrote it. It speaks of a request that every list has an entry for; an empty
/// list has one for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Shown to the client, and the metric's label.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// Methods, in capitals.
    pub methods: Vec<String>,
    /// Service types, aliases, or the catalog's names.
    pub services: Vec<String>,
    /// Patterns of the path below the service's endpoint, without its version and project: `/servers`,
    /// `/servers/*` (one more segment), `/servers/**` (any more, or none).
    pub paths: Vec<String>,
    /// Projects by id or name: the token's, and the one that a path names before the resource.
    pub projects: Vec<String>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Which rule, counted from 0; `None` for the policy itself.
    pub rule: Option<usize>,
    /// Which of its keys; empty for all of it.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Rules of one name, checked; a listener or a cloud refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    name: String,
    read_only: bool,
    default: Effect,
    rules: Vec<Checked>,
    /// How many segments the longest pattern has.
    longest: usize,
}

/// A [`Rule`] that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checked {
    name: String,
    effect: Effect,
    methods: Vec<String>,
    services: Vec<String>,
    paths: Vec<Pattern>,
    projects: Vec<String>,
}

/// Who denied a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// The rule's name, [`READ_ONLY`] or [`DEFAULT`].
    pub rule: &'a str,
}

impl Policy {
    /// Checks a policy. `read_only` denies every method but GET, HEAD and OPTIONS before any rule is
    /// asked; then the first rule that speaks of a request decides, and where none does, `default`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(name: &str, read_only: bool, default: Effect, rules: Vec<Rule>) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        if let Err(message) = check_name(name) {
            mistakes.push(Mistake { rule: None, key: "", message });
        }
        let mut checked: Vec<Checked> = Vec::new();
        for (index, rule) in rules.into_iter().enumerate() {
            let taken = checked.iter().any(|other| other.name == rule.name);
            checked.push(rule.check(read_only, taken, &mut |key, message| {
                mistakes.push(Mistake { rule: Some(index), key, message });
            }));
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let patterns = checked.iter().flat_map(|rule| &rule.paths);
        let longest = patterns.map(Pattern::len).max().unwrap_or(0);
        Ok(Self { name: name.to_owned(), read_only, default, rules: checked, longest })
    }

    /// As the configuration calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether every method that changes something is denied before any rule is asked.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What holds where no rule speaks of a request.
    pub fn default_effect(&self) -> Effect {
        self.default
    }

    /// The names of its rules and what they do, in their order.
    pub fn rules(&self) -> impl Iterator<Item = (&str, Effect)> {
        self.rules.iter().map(|rule| (rule.name.as_str(), rule.effect))
    }

    /// What is known of a request before anybody knows where it goes.
    ///
    /// # Errors
    /// It will be denied wherever it goes.
    pub fn before(&self, method: &Method) -> Result<(), Denied<'_>> {
        self.check_method(method)?;
        for rule in &self.rules {
            let everywhere = rule.services.is_empty() && rule.paths.is_empty() && rule.projects.is_empty();
            match rule.effect {
                _ if !rule.has_method(method) => {}
                Effect::Deny if everywhere => return Err(self.denied(&rule.name)),
                // What it says depends on more.
                _ => return Ok(()),
            }
        }
        self.by_default()
    }

    /// What of this policy can matter to requests that go to one destination: `views` says what that
    /// is, the destination itself first.
    pub fn at(self: &Arc<Self>, views: &Arc<[View]>, project: Option<(&str, &str)>) -> Scoped {
        let mut rules = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let in_views: Box<[bool]> = views.iter().map(|view| view.is_one_of(rule)).collect();
            let possible = match rule.effect {
                Effect::Allow => in_views[0] && (rule.projects.is_empty() || rule.has_project(project)),
                Effect::Deny => in_views.contains(&true),
            };
            if possible {
                let project = rule.projects.is_empty() || project.is_none() || rule.has_project(project);
                rules.push(ScopedRule { index, views: in_views, project });
            }
        }
        let by_path = |rule: &ScopedRule| {
            let rule = &self.rules[rule.index];
            !rule.paths.is_empty() || !rule.projects.is_empty()
        };
        Scoped {
            by_path: views.len() > 1 || rules.iter().any(by_path),
            policy: Arc::clone(self),
            views: Arc::clone(views),
            project: project.map(|(id, _)| id.to_owned()),
            rules,
        }
    }

    fn check_method(&self, method: &Method) -> Result<(), Denied<'_>> {
        // A method that is only spelled like a safe one is another method.
        if self.read_only && !SAFE.contains(&method.as_str()) {
            return Err(self.denied(READ_ONLY));
        }
        Ok(())
    }

    fn by_default(&self) -> Result<(), Denied<'_>> {
        match self.default {
            Effect::Allow => Ok(()),
            Effect::Deny => Err(self.denied(DEFAULT)),
        }
    }

    fn denied<'a>(&'a self, rule: &'a str) -> Denied<'a> {
        Denied { policy: &self.name, rule }
    }
}

impl Rule {
    fn check(self, read_only: bool, taken: bool, wrong: &mut dyn FnMut(&'static str, String)) -> Checked {
        let name = &self.name;
        if let Err(message) = check_name(name) {
            wrong("name", message);
        } else if name == READ_ONLY || name == DEFAULT {
            wrong("name", format!("`{name}` is what denials without a rule are called: choose another name"));
        } else if taken {
            wrong("name", format!("another rule is called `{name}` already: choose another name"));
        }
        if [&self.methods, &self.services, &self.paths, &self.projects].iter().all(|list| list.is_empty()) {
            let message = "the rule speaks of every request: give it methods, services, paths or projects, or \
                           set `default` of the policy instead";
            wrong("", message.to_owned());
        }
        for method in &self.methods {
            if !METHODS.contains(&method.as_str()) {
                let known = METHODS.join(", ");
                wrong("methods", format!("`{method}` is no method that keyway knows: write one of {known}"));
            } else if read_only && !SAFE.contains(&method.as_str()) {
                let message =
                    format!("the policy is read_only, which denies {method} before any rule is asked");
                wrong("methods", format!("{message}: remove it here, or read_only"));
            }
        }
        let named = |text: &String| {
            !text.is_empty() && text.trim() == text && !text.chars().any(|char| char.is_control())
        };
        for service in &self.services {
            if !named(service) || service.contains(['/', '*']) {
                let message = "is no service's name: write a type such as compute, or the catalog's name";
                wrong("services", format!("`{service}` {message}"));
            }
        }
        for project in &self.projects {
            if !named(project) {
                wrong("projects", format!("`{project}` is no project's name: write an id or a name"));
            }
        }
        let mut paths = Vec::new();
        for path in &self.paths {
            match path.parse() {
                Ok(pattern) => paths.push(pattern),
                Err(message) => wrong("paths", message),
            }
        }
        let Self { name, effect, methods, services, projects, .. } = self;
        Checked { name, effect, methods, services, paths, projects }
    }
}

impl Checked {
    /// A denial of POST holds for `post` as well: some server may fold them. A permission does not.
    fn has_method(&self, method: &Method) -> bool {
        let method = method.as_str();
        self.methods.is_empty()
            || self.methods.iter().any(|named| match self.effect {
                Effect::Allow => named == method,
                Effect::Deny => named.eq_ignore_ascii_case(method),
            })
    }

    fn has_project(&self, project: Option<(&str, &str)>) -> bool {
        project.is_some_and(|(id, name)| self.projects.iter().any(|named| named == id || named == name))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte);
    if name.trim().is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(known) {
        return Err(format!(
            "a name has 1 to {LONGEST_NAME} letters, digits, spaces, `-`, `_` or `.`: it is shown to clients"
        ));
    }
    Ok(())
}

/// Something that a destination's URLs may belong to: its service, or another one of the catalog
/// whose URLs look the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The service's type and its names in the catalog; without any, it may be every service.
    names: Vec<String>,
    /// The endpoint.
    base: Base,
    /// It may take `.json` at a path's end for a format.
    formats: bool,
}

impl View {
    /// A service by its type and its names in the catalog, at `base`. Without a type it may be any.
    pub fn new<'a>(
        service_type: Option<&'a str>,
        names: impl IntoIterator<Item = &'a str>,
        base: Base,
    ) -> Self {
        let names = names.into_iter().filter(|name| !name.is_empty());
        Self {
            names: service_type.into_iter().chain(names).map(str::to_owned).collect(),
            base,
            // An object's name is the object's own.
            formats: !service_type.is_some_and(|known| service_type::related(known, "object-store")),
        }
    }

    /// Where nobody knows which service it is, a denial holds and a permission does not.
    fn is_one_of(&self, rule: &Checked) -> bool {
        if rule.services.is_empty() {
            return true;
        }
        let Some((service_type, names)) = self.names.split_first() else {
            return rule.effect == Effect::Deny;
        };
        rule.services.iter().any(|service| {
            service_type::related(service, service_type)
                || names.iter().any(|name| service_type::same(service, name))
        })
    }
}

/// A policy at one destination.
#[derive(Debug)]
pub struct Scoped {
    policy: Arc<Policy>,
    views: Arc<[View]>,
    /// The id of the token's project.
    project: Option<String>,
    rules: Vec<ScopedRule>,
    /// The method alone does not decide.
    by_path: bool,
}

/// A rule that can speak of requests to this destination.
#[derive(Debug)]
struct ScopedRule {
    index: usize,
    /// In which of the views the rule's services are.
    views: Box<[bool]>,
    /// The token's project is one of the rule's, or may be.
    project: bool,
}

impl Scoped {
    /// Decides on a request whose target has this path: the very bytes that would go to the service.
    ///
    /// # Errors
    /// It is denied.
    pub fn decide(&self, method: &Method, path: &str) -> Result<(), Denied<'_>> {
        let policy = &*self.policy;
        policy.check_method(method)?;
        let root = self.views[0].base.root();
        let spellings = match path.strip_prefix(root) {
            Some(below) if self.by_path => path::spellings(below),
            _ => Vec::new(),
        };
        let read = |view: &View| path::readings(root, &spellings, view, policy.longest);
        let readings: Vec<Vec<Reading<'_>>> =
            if self.by_path { self.views.iter().map(read).collect() } else { Vec::new() };
        for scoped in &self.rules {
            let rule = &policy.rules[scoped.index];
            match rule.effect {
                _ if !rule.has_method(method) => {}
                Effect::Allow if !self.by_path || self.allows(rule, scoped, &readings) => return Ok(()),
                Effect::Deny if !self.by_path || self.denies(rule, scoped, &readings) => {
                    return Err(policy.denied(&rule.name));
                }
                _ => {}
            }
        }
        policy.by_default()
    }

    /// Any reading of any service that it may be for.
    fn denies(&self, rule: &Checked, scoped: &ScopedRule, readings: &[Vec<Reading<'_>>]) -> bool {
        let in_project = |reading: &Reading<'_>| match reading.project {
            _ if scoped.project => true,
            None => false,
            Some(id) if self.is_own(id) => false,
            // Nobody knows what the project with this id is called.
            Some(id) => {
                rule.projects.iter().any(|named| !is_id(named) || named.as_bytes().eq_ignore_ascii_case(id))
            }
        };
        let of_rule = readings.iter().zip(&scoped.views).filter(|(_, in_view)| **in_view);
        of_rule
            .flat_map(|(readings, _)| readings)
            .any(|reading| (rule.paths.is_empty() || reading.is_one_of(&rule.paths)) && in_project(reading))
    }

    /// Every reading, also of a service whose endpoint lies below this one's.
    fn allows(&self, rule: &Checked, scoped: &ScopedRule, readings: &[Vec<Reading<'_>>]) -> bool {
        let in_project = |reading: &Reading<'_>| match reading.project {
            _ if rule.projects.is_empty() => true,
            None => true,
            Some(id) => self.is_own(id) || rule.projects.iter().any(|named| named.as_bytes() == id),
        };
        let speaks = |reading: &Reading<'_>| {
            (rule.paths.is_empty() || reading.is_one_of(&rule.paths)) && in_project(reading)
        };
        let own = &self.views[0].base;
        // The other service's URLs begin with this one's, and the path with the other's.
        let closer = |view: &View, readings: &[Reading<'_>]| {
            let further = view.base.root().len() > own.root().len();
            further && !readings.is_empty()
                || !own.has_version() && readings.iter().any(|reading| reading.versioned)
        };
        let mut views = self.views.iter().zip(readings).zip(&scoped.views).enumerate();
        !readings[0].is_empty()
            && views.all(|(index, ((view, readings), in_view))| {
                let counts = index == 0 || closer(view, readings);
                !counts || (*in_view && readings.iter().filter(|reading| !reading.far_fetched).all(speaks))
            })
    }

    fn is_own(&self, id: &[u8]) -> bool {
        self.project.as_ref().is_some_and(|own| own.as_bytes() == id)
    }
}

#[cfg(test)]
mod tests;
