//! Is this request allowed? Rules over method, service, path and project, decided on the very target
//! that goes to the service.

/// Rules of one name; a listener or a cloud refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// As the configuration calls it.
    pub name: String,
    /// Only methods that change nothing: GET, HEAD and OPTIONS.
    pub read_only: bool,
    /// What happens to a request that no rule speaks of.
    pub default: Effect,
    /// The first rule that speaks of a request decides.
    pub rules: Vec<Rule>,
}

/// What a rule does to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// It may pass.
    #[default]
    Allow,
    /// It is refused with the rule's name.
    Deny,
}

/// One rule. It speaks of a request that every list has an entry for; an empty list has one for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Shown to the client, and the metric's label.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// Methods, in capitals.
    pub methods: Vec<String>,
    /// Service types or aliases.
    pub services: Vec<String>,
    /// Patterns of the path below the service's endpoint, without its version and project.
    pub paths: Vec<String>,
    /// Projects by id or name.
    pub projects: Vec<String>,
}
