//! Which endpoints does a cloud's entry choose?

use std::collections::BTreeMap;

use serde_json::Value;

use super::Reader;
use crate::keystone::Interface;
use crate::upstream::BaseUrl;

/// Options that end in `_endpoint` but belong to a login.
const LOGIN_ENDPOINTS: [&str; 5] = [
    "oauth2_endpoint",
    "access_token_endpoint",
    "discovery_endpoint",
    "device_authorization_endpoint",
    "service_provider_endpoint",
];

impl Reader<'_> {
    pub(super) fn interfaces(&mut self) -> Vec<Interface> {
        let mut interfaces = Vec::new();
        for key in ["interface", "endpoint_type"] {
            let texts: Vec<String> = match self.entry.values.get(key) {
                Some(Value::String(text)) if !text.is_empty() => vec![text.clone()],
                Some(Value::Array(items)) => {
                    items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
                }
                None | Some(Value::Null | Value::String(_)) => continue,
                Some(_) => vec![String::new()],
            };
            for text in texts {
                match text.parse() {
                    Ok(interface) if interfaces.contains(&interface) => {}
                    Ok(interface) => interfaces.push(interface),
                    Err(message) => {
                        let (source, key) = self.entry.name_of(key, false);
                        self.problems.add(source, key, message);
                    }
                }
            }
            break;
        }
        if interfaces.is_empty() {
            interfaces.push(Interface::Public);
        }
        interfaces
    }

    /// Whether there is an endpoint override.
    pub(super) fn has_override(&mut self) -> bool {
        let is_override = |key: &String| {
            key.ends_with("_endpoint_override")
                || key.ends_with("_endpoint") && !LOGIN_ENDPOINTS.contains(&key.as_str())
        };
        let mut keys = self.entry.values.keys().filter(|key| is_override(key));
        keys.any(|key| self.entry.values[key].as_str().is_some_and(|url| !url.is_empty()))
    }

    pub(super) fn endpoint_overrides(&mut self) -> BTreeMap<String, BaseUrl> {
        let mut overrides = BTreeMap::new();
        // The longer form wins, so it comes last.
        for suffix in ["_endpoint", "_endpoint_override"] {
            for key in self.entry.values.keys() {
                let Some(service) = key.strip_suffix(suffix).filter(|service| !service.is_empty()) else {
                    continue;
                };
                if LOGIN_ENDPOINTS.contains(&key.as_str()) {
                    continue;
                }
                if let Some(url) = self.text(&[key]).and_then(|at| self.url(&at)) {
                    overrides.insert(service.replace('_', "-"), url);
                }
            }
        }
        overrides
    }
}
