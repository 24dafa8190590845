//! Which methods does Keystone want beside those that it accepted?

use bytes::Bytes;
use http::Response;
use http::header::HeaderName;
use serde_json::Value;

use crate::keystone::{AuthError, TokenId};

/// The header in which Identity v3 hands a receipt over, and takes it back.
pub(in crate::keystone) static AUTH_RECEIPT: HeaderName = HeaderName::from_static("openstack-auth-receipt");

/// How many rules of how many methods are looked at.
const LONGEST_RULE: usize = 16;

/// What Keystone says of a login that is right so far, where the user's rules want more methods.
#[derive(Debug)]
pub(in crate::keystone) struct Receipt {
    /// What vouches for the methods that were shown.
    pub(in crate::keystone) id: TokenId,
    /// The methods that it accepted.
    pub(in crate::keystone) accepted: Vec<String>,
    /// Its rules: all methods of one of them are wanted.
    pub(in crate::keystone) rules: Vec<Vec<String>>,
}

impl Receipt {
    /// That of a 401, if it has one.
    pub(in crate::keystone) fn read(answer: &Response<Bytes>) -> Option<Self> {
        let id = answer.headers().get(&AUTH_RECEIPT)?.to_str().ok()?;
        let document: Value = serde_json::from_slice(answer.body()).ok()?;
        let names = |list: &Value| {
            let names = list.as_array()?.iter().filter_map(Value::as_str);
            // They are shown to people, so they are names and nothing else.
            let is_name = |name: &&str| {
                name.len() <= 64
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            };
            Some(names.filter(is_name).take(LONGEST_RULE).map(str::to_owned).collect())
        };
        let rules = document["required_auth_methods"].as_array()?;
        Some(Self {
            id: TokenId::new(id.trim()).ok()?,
            accepted: names(&document["receipt"]["methods"]).unwrap_or_default(),
            rules: rules.iter().take(LONGEST_RULE).filter_map(names).collect(),
        })
    }

    /// The methods of a rule that are still missing.
    fn missing<'a>(&self, rule: &'a [String]) -> Vec<&'a str> {
        rule.iter().filter(|name| !self.accepted.contains(name)).map(String::as_str).collect()
    }

    /// The missing methods of the first rule that needs nothing but these.
    pub(in crate::keystone) fn choose(&self, available: &[&str]) -> Option<Vec<&str>> {
        let mut missing = self.rules.iter().map(|rule| self.missing(rule));
        missing.find(|names| !names.is_empty() && names.iter().all(|name| available.contains(name)))
    }

    /// Why this is the end of it.
    pub(in crate::keystone) fn unmet(&self) -> AuthError {
        let rules: Vec<_> = self.rules.iter().map(|rule| self.missing(rule).join(" and ")).collect();
        let or = |names: Vec<String>, word, none: &str| {
            let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
            if names.is_empty() { none.to_owned() } else { names.join(word) }
        };
        AuthError::MoreMethods {
            shown: or(self.accepted.clone(), " and ", "what it was shown"),
            wanted: or(rules, ", or ", "another method"),
        }
    }
}
