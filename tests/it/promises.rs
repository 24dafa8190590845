//! SECURITY.md's register of promises against the tests that name them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What a line of the register says of a promise.
enum State {
    Kept,
    /// Pieces of text, and the files that must hold them.
    Checked(Vec<(String, String)>),
    NotKept,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn register(problems: &mut String) -> BTreeMap<u32, State> {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md is there");
    let mut register = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, promise, state] = cells[..] else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let state = if state == "kept" {
            State::Kept
        } else if let Some(checks) = state.strip_prefix("checked by ") {
            // `text` in `file` and `text` in `file`
            let quoted: Vec<_> = checks.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            State::Checked(quoted.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        } else if state.strip_prefix("not kept: ").is_some_and(|reason| reason.len() > 10) {
            State::NotKept
        } else {
            let _ = writeln!(problems, "SECURITY.md: the state of {number} means nothing: {state}");
            continue;
        };
        if promise.is_empty() || register.insert(number, state).is_some() {
            let _ = writeln!(problems, "SECURITY.md: {number} has no text, or is there twice");
        }
    }
    register
}

/// The numbers that stand above tests, and where.
fn named(problems: &mut String) -> BTreeMap<u32, Vec<String>> {
    let mut named: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    sources(&root().join("tests"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable source");
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let Some(list) = numbers_after(line) else { continue };
            let place = format!("{}:{}", file.strip_prefix(root()).unwrap_or(&file).display(), index + 1);
            let numbers: Option<Vec<u32>> = list
                .strip_suffix('.')
                .and_then(|list| list.split(", ").map(|number| number.parse().ok()).collect());
            let next = lines.get(index + 1).copied().unwrap_or_default();
            match numbers {
                Some(numbers) if next == "#[test]" || next.starts_with("#[tokio::test") => {
                    for number in numbers {
                        named.entry(number).or_default().push(place.clone());
                    }
                }
                Some(_) => drop(writeln!(problems, "{place}: no test follows the line that names a promise")),
                None => drop(writeln!(
                    problems,
                    "{place}: write `// Promise 28.` or `// Promises 25, 26.`: {line}"
                )),
            }
        }
    }
    named
}

/// What follows the word in a line that begins to name promises.
fn numbers_after(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("// Promise")?;
    let list = rest.strip_prefix("s ").or_else(|| rest.strip_prefix(' '))?;
    list.starts_with(|first: char| first.is_ascii_digit()).then_some(list)
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether a file holds this text where it is in force, not in a comment.
fn holds(file: &str, text: &str) -> bool {
    let Ok(content) = fs::read_to_string(root().join(file)) else { return false };
    content.lines().map(str::trim).any(|line| line.starts_with(text))
}

#[test]
fn every_promise_is_kept_by_a_test_that_names_it_or_said_not_to_be() {
    let mut problems = String::new();
    let register = register(&mut problems);
    let named = named(&mut problems);
    let expected: Vec<u32> = (1..=93).collect();
    assert_eq!(register.keys().copied().collect::<Vec<_>>(), expected, "SECURITY.md\n{problems}");

    let mut without = Vec::new();
    for (number, state) in &register {
        match state {
            State::Kept if !named.contains_key(number) => without.push(number.to_string()),
            State::Checked(checks) if checks.is_empty() => {
                let _ = writeln!(problems, "{number}: say which `text` in which `file` checks it");
            }
            State::Checked(checks) => {
                for (text, file) in checks.iter().filter(|(text, file)| !holds(file, text)) {
                    let _ = writeln!(problems, "{number}: {file} has no line that begins with {text}");
                }
            }
            State::Kept | State::NotKept => {}
        }
    }
    if !without.is_empty() {
        let _ = writeln!(problems, "no test names these promises: {}", without.join(", "));
    }
    for (number, places) in named.iter().filter(|(number, _)| !register.contains_key(number)) {
        let _ = writeln!(problems, "{}: there is no promise {number}", places.join(", "));
    }
    assert!(problems.is_empty(), "\n{problems}");
}
