//! `[policy.NAME]`: rules that listeners and clouds refer to by name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::file::{File, Options};
use super::problems::{Problems, closest};
use crate::policy::{Effect, Mistake, Policy, Rule};

/// All policies of keyway.toml, and which of them something refers to.
pub(super) struct Policies {
    all: BTreeMap<String, Arc<Policy>>,
    /// Those with mistakes, which were told.
    broken: BTreeSet<String>,
    used: RefCell<BTreeSet<String>>,
}

impl Policies {
    /// Checks every policy, used or not.
    pub(super) fn check(file: &File, problems: &mut Problems, warnings: &mut Vec<String>) -> Self {
        let mut all = BTreeMap::new();
        let mut broken = BTreeSet::new();
        for (name, (options, rules)) in &file.policies {
            let key = format!("policy.{name}");
            let source = file.path.display();
            let mut problem = |option: &str, message: String| {
                problems.add(&source, format!("{key}.{option}"), message);
            };
            let default = match options.text("default").map(effect) {
                None => Effect::Allow,
                Some(Ok(effect)) => effect,
                Some(Err(message)) => {
                    problem("default", message);
                    Effect::Deny
                }
            };
            let read_only = options.text("read_only") == Some("true");
            let mut read = Vec::new();
            for (number, rule) in rules.iter().enumerate() {
                let place = format!("rule[{}]", number + 1);
                read.push(read_rule(rule, &mut |option, message| {
                    problem(&format!("{place}.{option}"), message);
                }));
            }
            let denies = read_only
                || default == Effect::Deny
                || read.iter().any(|rule: &Rule| rule.effect == Effect::Deny);
            match Policy::new(name, read_only, default, read) {
                Ok(policy) => drop(all.insert(name.clone(), Arc::new(policy))),
                Err(mistakes) => {
                    for Mistake { rule, key, message } in mistakes {
                        let place = rule.map(|number| format!("rule[{}]", number + 1));
                        let key = (!key.is_empty()).then(|| key.to_owned());
                        let option = place.into_iter().chain(key).collect::<Vec<_>>().join(".");
                        problem(&option, message);
                    }
                    broken.insert(name.clone());
                }
            }
            if !denies {
                warnings.push(format!(
                    "{source}: {key} refuses nothing: set read_only = true or default = \"deny\", or add a rule \
                     with effect = \"deny\""
                ));
            }
        }
        Self { all, broken, used: RefCell::default() }
    }

    /// The policy that something refers to; none for one whose mistakes were told already.
    ///
    /// # Errors
    /// There is none of this name; what there is.
    pub(super) fn named(&self, name: &str) -> Result<Option<Arc<Policy>>, String> {
        if let Some(policy) = self.all.get(name) {
            self.used.borrow_mut().insert(name.to_owned());
            return Ok(Some(Arc::clone(policy)));
        }
        if self.broken.contains(name) {
            return Ok(None);
        }
        Err(match closest(name, self.all.keys().map(String::as_str)) {
            Some(near) => format!("there is no policy `{name}`: did you mean `{near}`?"),
            None if self.all.is_empty() => {
                format!("there is no policy `{name}`: write a table [policy.{name}]")
            }
            None => {
                let known: Vec<_> = self.all.keys().map(String::as_str).collect();
                format!("there is no policy `{name}`: there is {}", known.join(", "))
            }
        })
    }

    /// Warns of policies that protect nothing, since nothing refers to them.
    pub(super) fn warn_of_unused(&self, file: &File, warnings: &mut Vec<String>) {
        let used = self.used.borrow();
        for name in self.all.keys().filter(|name| !used.contains(*name)) {
            warnings.push(format!(
                "{}: policy.{name} is in force nowhere: write policy = \"{name}\" in [listener.main], in another \
                 listener's table or in a cloud's",
                file.path.display()
            ));
        }
    }
}

/// Reads a rule; what its texts mean is [`Policy::new`]'s question.
fn read_rule(options: &Options, problem: &mut dyn FnMut(&str, String)) -> Rule {
    let effect = match options.text("effect").map(effect) {
        Some(Ok(effect)) => effect,
        Some(Err(message)) => {
            problem("effect", message);
            Effect::Deny
        }
        None => {
            problem("effect", "is missing: write effect = \"allow\" or effect = \"deny\"".to_owned());
            Effect::Deny
        }
    };
    let mut list = |option: &str| {
        if options.is_empty(option) {
            // It would speak of nothing, or of everything: nobody can tell what was meant.
            problem(
                option,
                "an empty list: name what the rule speaks of, or leave the key out for all".to_owned(),
            );
        }
        options.list(option).map(str::to_owned).collect()
    };
    Rule {
        name: options.text("name").unwrap_or_default().to_owned(),
        effect,
        methods: list("methods"),
        services: list("services"),
        paths: list("paths"),
        projects: list("projects"),
    }
}

fn effect(text: &str) -> Result<Effect, String> {
    match text {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        _ => Err(format!("`{text}` is neither allow nor deny")),
    }
}

/// A service type or an alias of one.
pub(super) fn service(text: &str) -> Result<String, String> {
    let is_type =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_type {
        Ok(text.to_ascii_lowercase().replace('_', "-"))
    } else {
        Err(format!("`{text}` is no service type, such as compute or block-storage"))
    }
}
