//! `[policy.NAME]`: rules that listeners and clouds refer to by name.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Method;

use super::file::{File, Options};
use super::problems::{Problems, closest};
use crate::policy::{Effect, Policy, Rule};

/// The longest name of a rule: it is a metric's label.
const LONGEST_NAME: usize = 64;

/// All policies of keyway.toml, and which of them something refers to.
pub(super) struct Policies {
    all: BTreeMap<String, Arc<Policy>>,
    used: RefCell<BTreeSet<String>>,
}

impl Policies {
    /// Checks every policy, used or not.
    pub(super) fn check(file: &File, problems: &mut Problems, warnings: &mut Vec<String>) -> Self {
        let mut all = BTreeMap::new();
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
            let mut checked: Vec<Rule> = Vec::new();
            for (number, rule) in rules.iter().enumerate() {
                let place = format!("rule[{}]", number + 1);
                let rule = check_rule(rule, &mut |option, message| {
                    problem(&format!("{place}.{option}"), message);
                });
                if checked.iter().any(|other| other.name == rule.name && !rule.name.is_empty()) {
                    problem(
                        &format!("{place}.name"),
                        format!("`{}` is another rule's too: change one", rule.name),
                    );
                }
                checked.push(rule);
            }
            if !read_only
                && default == Effect::Allow
                && checked.iter().all(|rule| rule.effect == Effect::Allow)
            {
                warnings.push(format!(
                    "{source}: {key} refuses nothing: set read_only = true or default = \"deny\", or add a rule \
                     with effect = \"deny\""
                ));
            }
            let policy = Policy { name: name.clone(), read_only, default, rules: checked };
            all.insert(name.clone(), Arc::new(policy));
        }
        Self { all, used: RefCell::default() }
    }

    /// The policy that something refers to.
    ///
    /// # Errors
    /// There is none of this name; what there is.
    pub(super) fn named(&self, name: &str) -> Result<Arc<Policy>, String> {
        if let Some(policy) = self.all.get(name) {
            self.used.borrow_mut().insert(name.to_owned());
            return Ok(Arc::clone(policy));
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

fn check_rule(options: &Options, problem: &mut dyn FnMut(&str, String)) -> Rule {
    let name = options.text("name").unwrap_or_default();
    if name.is_empty() {
        problem("name", "is missing: it tells a refused client which rule it was".to_owned());
    } else if name.len() > LONGEST_NAME || !name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        problem("name", format!("at most {LONGEST_NAME} printable ASCII characters"));
    }
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
    let mut list = |option: &str, check: fn(&str) -> Result<String, String>| {
        if options.has(option) && options.list(option).next().is_none() {
            // It would speak of nothing, or of everything: nobody can tell what was meant.
            problem(
                option,
                "an empty list: name what the rule speaks of, or leave the key out for all".to_owned(),
            );
        }
        let mut checked = Vec::new();
        for text in options.list(option) {
            match check(text) {
                Ok(text) => checked.push(text),
                Err(message) => problem(option, message),
            }
        }
        checked
    };
    Rule {
        name: name.to_owned(),
        effect,
        methods: list("methods", method),
        services: list("services", service),
        paths: list("paths", path),
        projects: list("projects", project),
    }
}

fn effect(text: &str) -> Result<Effect, String> {
    match text {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        _ => Err(format!("`{text}` is neither allow nor deny")),
    }
}

/// Methods are case-sensitive (RFC 9110, section 9.1), and those of OpenStack are in capitals.
fn method(text: &str) -> Result<String, String> {
    if Method::from_bytes(text.as_bytes()).is_err() {
        return Err(format!("`{text}` is no method: write for example GET"));
    }
    let capitals = text.to_ascii_uppercase();
    if text == capitals { Ok(capitals) } else { Err(format!("`{text}` is no method: write {capitals}")) }
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

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#'])
    {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is no pattern of a path: it starts with / and has no query, such as /servers or /servers/**"
        ))
    }
}

fn project(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("an empty name: write a project's id or name".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
