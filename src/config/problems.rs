//! Everything that is wrong with a configuration, collected rather than one at a time.

use std::fmt;

/// Where something was written, as a person would look for it.
pub(super) const COMMAND_LINE: &str = "command line";
/// See [`COMMAND_LINE`].
pub(super) const ENVIRONMENT: &str = "environment";

/// One thing that is wrong. Its message says what to do, and never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A file's path, `environment` or `command line`.
    pub source: String,
    /// The key, variable or flag; empty where the whole source is meant.
    pub key: String,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All problems of one configuration, in the order in which they were found. Displays one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes one more.
    pub(super) fn add(
        &mut self,
        source: impl fmt::Display,
        key: impl Into<String>,
        message: impl fmt::Display,
    ) {
        let problem = Problem { source: source.to_string(), key: key.into(), message: message.to_string() };
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known word that `word` was probably meant to be: at most two edits away.
pub(super) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (edits(word, known), known))
        .filter(|(edits, known)| *edits <= 2 && *edits < known.len())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, known)| known)
}

/// The Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_one_line_that_names_source_and_key() {
        let mut problems = Problems::default();
        problems.add("/etc/keyway/keyway.toml", "listen", "no address");
        problems.add(ENVIRONMENT, "", "empty");
        problems.add(ENVIRONMENT, "", "empty");
        assert_eq!(problems.to_string(), "/etc/keyway/keyway.toml: listen: no address\nenvironment: empty");
    }

    #[test]
    fn a_near_word_is_found_and_a_far_one_is_not() {
        let known = ["listen", "admin", "workers"];
        assert_eq!(closest("lisen", known), Some("listen"));
        assert_eq!(closest("worker", known), Some("workers"));
        assert_eq!(closest("threads", known), None);
        assert_eq!(closest("", ["a"]), None);
    }
}
