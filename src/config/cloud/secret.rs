//! Where does a cloud's entry have its secret?

use serde_json::Value;
use zeroize::Zeroize as _;

use super::{Reader, Written};
use crate::config::exposure;
use crate::config::sources::{self, FORMS, NO_FORMS};
use crate::keystone::{Secret, Source};
use crate::secret;

impl Reader<'_> {
    /// A secret that stands in the entry, or whose place does: under the same name with one of [`FORMS`] behind it.
    pub(super) fn secret(&mut self, names: &[&str], message: &str) -> Option<Source> {
        let before = self.problems.len();
        self.refuse_unknown_forms(names);
        let given = self.text(names);
        let mut found = Vec::new();
        for form in FORMS {
            let option = names.iter().map(|name| format!("{name}{form}")).find(|option| self.is_set(option));
            found.extend(option.map(|option| (form, option)));
        }
        match (given, &found[..]) {
            (Some(given), []) => Some(Source::Given(Secret::new(given.text))),
            (None, [(form, option)]) => self.elsewhere(form, option),
            (None, []) => {
                // Whoever wrote an unknown form hears of that.
                if self.problems.len() == before {
                    self.missing(names[0], message);
                }
                None
            }
            (given, found) => {
                let mut keys: Vec<_> = found.iter().map(|(_, option)| self.place_of(option)).collect();
                let (source, last) = keys.pop().expect("there are several, and one at most is given");
                let mut others: Vec<_> = keys.into_iter().map(|(_, key)| key).collect();
                if let Some(mut given) = given {
                    given.text.zeroize();
                    others.insert(0, given.key);
                }
                let set = if others.len() == 1 { "is" } else { "are" };
                let message = format!("{} {set} set too: keep one of them", others.join(" and "));
                self.problems.add(source, last, message);
                None
            }
        }
    }

    /// Whether [`Reader::secret`] would find one.
    pub(super) fn has_secret(&mut self, names: &[&str]) -> bool {
        let forms = || FORMS.iter().chain(&NO_FORMS);
        self.has(names) || names.iter().any(|name| forms().any(|form| self.is_set(&format!("{name}{form}"))))
    }

    fn elsewhere(&mut self, form: &str, option: &str) -> Option<Source> {
        let found = match form {
            "_command" => self.command(option)?,
            _ => {
                let at = self.text(&[option])?;
                let path = match form {
                    "_credential" => sources::credential(&at.text, self.env),
                    _ => Ok(self.env.path(&at.text)),
                };
                path.and_then(|path| {
                    exposure::warn(&path, self.env, self.warnings);
                    secret::read_file(&path).map_err(|unreadable| unreadable.to_string())?;
                    Ok(Source::File(path))
                })
            }
        };
        found.map_err(|message| self.problem_of(option, &message)).ok()
    }

    /// A list of words, or one text with all of them. `None`: the problem has been told.
    fn command(&mut self, option: &str) -> Option<Result<Source, String>> {
        let value = self.value(option)?;
        let words = match value {
            Value::Array(items) => {
                let words = items.iter().map(|item| item.as_str().map(str::to_owned));
                words.collect::<Option<Vec<_>>>().ok_or_else(|| {
                    "not a list of texts: write the program and its arguments, each as a text".to_owned()
                })
            }
            Value::String(text) => sources::words(text),
            _ => Err("neither a list nor a text: write the program and its arguments".to_owned()),
        };
        Some(words.and_then(|words| sources::command(words, self.env)).map(Source::Command))
    }

    fn refuse_unknown_forms(&mut self, names: &[&str]) {
        for (name, form) in names.iter().flat_map(|name| NO_FORMS.map(|form| (name, form))) {
            let option = format!("{name}{form}");
            if self.is_set(&option) {
                let keyring = match form {
                    "_keyring" => {
                        "; a keyring's secret is to be had as a command: secret-tool lookup ATTRIBUTE VALUE"
                    }
                    _ => "",
                };
                let there_is = FORMS.map(|form| format!("{name}{form}")).join(", ");
                let message = format!("unknown: a secret may come from {there_is}{keyring}");
                self.problem_of(&option, &message);
            }
        }
    }

    /// Whether an option is there, whatever its value is; an empty text is none.
    fn is_set(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    fn value(&self, option: &str) -> Option<&Value> {
        let set = |value: &&Value| !value.is_null() && value.as_str() != Some("");
        self.auth.get(option).filter(set).or_else(|| self.entry.values.get(option).filter(set))
    }

    fn place_of(&self, option: &str) -> (String, String) {
        let in_auth = self.auth.get(option).is_some_and(|value| !value.is_null());
        self.entry.name_of(option, in_auth)
    }

    fn problem_of(&mut self, option: &str, message: &str) {
        let (source, key) = self.place_of(option);
        self.problem_at(&Written { text: String::new(), source, key }, message);
    }
}
