//! What does an OpenStack client have to be told, so that it logs in at keyway?
//!
//! An [`Access`] says it in the forms that clients read: variables ([`Access::variables`], for a shell
//! [`exports`]) and an entry of clouds.yaml ([`Access::entry`]). It names the project and the domains that
//! keyway's own token has, so that a client asks for what there is. It has no password: who makes one says it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::keystone::{self, Token};

/// The user's name where any will do, and the only one of `keyway run`.
pub const USER: &str = "keyway";

/// Takes every variable away that may point a client elsewhere, in any shell.
const UNSET: &str = "for name in $(env | sed -n 's/^\\(OS_[A-Za-z0-9_]*\\)=.*/\\1/p'); do unset \"$name\"; done\n\
                     unset ST_AUTH ST_USER ST_KEY ST_AUTH_VERSION\n";

/// How a client gets into one cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    auth_url: String,
    user_domain: String,
    scope: Scope,
    region: Option<String>,
    /// The one that keyway prefers.
    interface: &'static str,
}

/// What a client asks for. Names, not ids: an id would win over a project that the user names on a
/// client's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// Nothing: keyway's own scope, whatever it is.
    None,
    Project {
        name: String,
        domain: String,
    },
    Domain(String),
    System,
}

impl Access {
    /// To a cloud whose Keystone a client finds at `identity` (`http://127.0.0.1:8180/identity`). `region` is
    /// the one that its catalog is cut down to, if it is.
    pub fn new(identity: &str, cloud: &keystone::Config, region: Option<&str>, token: &Token) -> Self {
        let document = token.document.as_deref().and_then(|text| serde_json::from_slice(text).ok());
        let document: Value = document.unwrap_or_default();
        let text = |place: &str| document.pointer(place).and_then(Value::as_str).map(str::to_owned);
        let default = || "Default".to_owned();
        let scope = match (text("/project/name"), text("/domain/name")) {
            (Some(name), _) => {
                Scope::Project { name, domain: text("/project/domain/name").unwrap_or_else(default) }
            }
            (None, Some(domain)) => Scope::Domain(domain),
            (None, None) if document["system"].is_object() => Scope::System,
            (None, None) => Scope::None,
        };
        Self {
            // With its version: many clients look for one there, and none minds it.
            auth_url: format!("{identity}/v3"),
            user_domain: text("/user/domain/name").unwrap_or_else(default),
            scope,
            region: region.map(str::to_owned).or_else(|| cloud.region.clone()),
            interface: cloud.interfaces.first().map_or("public", |interface| interface.as_str()),
        }
    }

    /// The environment of a client that logs in with this name and password. The password is left out
    /// where nobody here knows it.
    pub fn variables(&self, user: &str, password: Option<&str>) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("OS_AUTH_URL", self.auth_url.clone()),
            ("OS_IDENTITY_API_VERSION", "3".to_owned()),
            // Swift's clients; what they look for beside it are the names above and below.
            ("ST_AUTH_VERSION", "3".to_owned()),
            ("OS_USERNAME", user.to_owned()),
            ("OS_USER_DOMAIN_NAME", self.user_domain.clone()),
        ];
        variables.extend(password.map(|password| ("OS_PASSWORD", password.to_owned())));
        match &self.scope {
            Scope::None => {}
            Scope::Project { name, domain } => {
                variables.push(("OS_PROJECT_NAME", name.clone()));
                variables.push(("OS_TENANT_NAME", name.clone()));
                variables.push(("OS_PROJECT_DOMAIN_NAME", domain.clone()));
            }
            Scope::Domain(name) => variables.push(("OS_DOMAIN_NAME", name.clone())),
            Scope::System => variables.push(("OS_SYSTEM_SCOPE", "all".to_owned())),
        }
        variables.extend(self.region.clone().map(|region| ("OS_REGION_NAME", region)));
        variables.push(("OS_INTERFACE", self.interface.to_owned()));
        if self.interface != "public" {
            // Its old name. Public is what clients that know only this one choose by themselves.
            variables.push(("OS_ENDPOINT_TYPE", self.interface.to_owned()));
        }
        variables
    }

    /// An entry of clouds.yaml, below `clouds:`.
    pub fn entry(&self, name: &str, user: &str, password: Option<&str>) -> String {
        // JSON's texts are YAML's too, whatever is in them.
        let quoted = |text: &str| Value::from(text).to_string();
        let mut entry = format!("  {}:\n    auth:\n", quoted(name));
        let mut line = |indent: &str, key: &str, value: &str| {
            let _ = writeln!(entry, "{indent}{key}: {}", quoted(value));
        };
        let auth = "      ";
        line(auth, "auth_url", &self.auth_url);
        line(auth, "username", user);
        line(auth, "user_domain_name", &self.user_domain);
        if let Some(password) = password {
            line(auth, "password", password);
        }
        match &self.scope {
            Scope::None => {}
            Scope::Project { name, domain } => {
                line(auth, "project_name", name);
                line(auth, "project_domain_name", domain);
            }
            Scope::Domain(name) => line(auth, "domain_name", name),
            Scope::System => line(auth, "system_scope", "all"),
        }
        if let Some(region) = &self.region {
            line("    ", "region_name", region);
        }
        line("    ", "interface", self.interface);
        line("    ", "identity_api_version", "3");
        entry
    }
}

/// Lines for any shell that put a client's variables in the place of those that are there.
pub fn exports(variables: &[(&'static str, String)]) -> String {
    let mut text = UNSET.to_owned();
    for (name, value) in variables {
        let _ = writeln!(text, "export {name}={}", for_shell(value));
    }
    text
}

/// A text as one word of a shell, in quotes only where it needs them.
fn for_shell(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_one_word_with_nothing_in_it_that_acts() {
        for (text, word) in [
            ("demo", "demo"),
            ("http://127.0.0.1:8180/identity/v3", "http://127.0.0.1:8180/identity/v3"),
            ("", "''"),
            ("my project", "'my project'"),
            ("it's", r"'it'\''s'"),
            ("$(id)`id`;\"&\n#", "'$(id)`id`;\"&\n#'"),
            ("~", "'~'"),
            ("Ümlaut", "'Ümlaut'"),
        ] {
            assert_eq!(for_shell(text), word);
            let shell = std::process::Command::new("sh").args(["-c", &format!("printf %s {word}")]).output();
            assert_eq!(String::from_utf8(shell.expect("there is a shell").stdout).unwrap(), text);
        }
    }

    fn access(scope: Scope) -> Access {
        Access {
            auth_url: "http://h/identity/v3".to_owned(),
            user_domain: "Users".to_owned(),
            scope,
            region: None,
            interface: "internal",
        }
    }

    #[test]
    fn each_scope_is_asked_for_in_its_own_words() {
        let project = Scope::Project { name: "demo".to_owned(), domain: "Projects".to_owned() };
        for (scope, variables, keys) in [
            (
                project,
                "OS_PROJECT_NAME=demo OS_TENANT_NAME=demo OS_PROJECT_DOMAIN_NAME=Projects",
                "project_name project_domain_name",
            ),
            (Scope::Domain("d".to_owned()), "OS_DOMAIN_NAME=d", "domain_name"),
            (Scope::System, "OS_SYSTEM_SCOPE=all", "system_scope"),
            (Scope::None, "", ""),
        ] {
            let access = access(scope);
            let set: Vec<_> = access
                .variables("u", None)
                .iter()
                .filter(|(name, _)| {
                    ["PROJECT", "TENANT", "OS_DOMAIN", "SCOPE"].iter().any(|w| name.contains(w))
                })
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(set.join(" "), variables);
            let entry = access.entry("c", "u", None);
            let keys_there: Vec<_> = entry
                .lines()
                .filter_map(|line| line.strip_prefix("      ")?.split(':').next())
                .filter(|key| !["auth_url", "username", "user_domain_name"].contains(key))
                .collect();
            assert_eq!(keys_there.join(" "), keys, "{entry}");
        }
    }

    #[test]
    fn a_password_is_there_only_if_somebody_knows_it() {
        let access = access(Scope::None);
        let password = |variables: Vec<(&str, String)>| {
            variables.into_iter().find(|(name, _)| *name == "OS_PASSWORD").map(|(_, value)| value)
        };
        assert_eq!(password(access.variables("u", Some("p"))).as_deref(), Some("p"));
        assert_eq!(password(access.variables("u", None)), None);
        assert!(access.entry("c", "u", Some("p")).contains("      password: \"p\"\n"));
        assert!(!access.entry("c", "u", None).contains("password"));
        assert!(access.entry("a: b", "u", None).starts_with("  \"a: b\":\n"));
    }
}
