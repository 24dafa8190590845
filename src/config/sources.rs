//! Where else may a secret be than in the configuration itself?
//!
//! Each error is the end of a sentence that starts with the key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Env;
use crate::secret::Command;

/// The forms beside the secret itself: what stands behind its name.
pub(super) const FORMS: [&str; 3] = ["_file", "_command", "_credential"];

/// What others call these forms, and what there is none of.
pub(super) const NO_FORMS: [&str; 10] =
    ["_cmd", "_cred", "_credentials", "_env", "_exec", "_keyring", "_path", "_program", "_script", "_vault"];

/// Where an option is found that names a secret or its place: without the form.
pub(super) fn without_form(key: &str) -> &str {
    FORMS.iter().find_map(|form| key.strip_suffix(form)).unwrap_or(key)
}

/// The file of a credential that systemd handed to this service.
pub(super) fn credential(name: &str, env: &Env) -> Result<PathBuf, String> {
    if name.contains('/') || [".", ".."].contains(&name) {
        return Err(format!(
            "`{name}` is no credential's name: write the name that LoadCredential= gives it"
        ));
    }
    match env.var("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(Path::new(directory).join(name)),
        None => Err("there is no $CREDENTIALS_DIRECTORY: start keyway as a systemd service with \
                     LoadCredential= or SetCredentialEncrypted=, or name a file"
            .to_owned()),
    }
}

/// The words of a command in one text, split as a shell would; nothing else of a shell's is done.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    shlex::split(text).ok_or_else(|| {
        "a quote is not closed, or a backslash ends it: write the command's words as a list".to_owned()
    })
}

/// A command that prints a secret. Whether there is such a program is looked at, but it is not run.
pub(super) fn command(words: Vec<String>, env: &Env) -> Result<Command, String> {
    let mut words = words.into_iter();
    let name = words.next().filter(|name| !name.is_empty());
    let name = name.ok_or("is empty: write a program that prints the secret, and its arguments")?;
    let program = if name.contains('/') || name.starts_with('~') {
        let path = env.path(&name);
        match fs::metadata(&path) {
            Ok(_) if is_program(&path) => path,
            Ok(_) => return Err(format!("{} is no program that keyway may run", path.display())),
            Err(error) => return Err(format!("there is no program {} ({error})", path.display())),
        }
    } else {
        let path = env.var("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
        let mut found = path.split(':').map(|directory| env.path(directory).join(&name));
        found
            .find(|path| is_program(path))
            // Its name is not shown: somebody may have written the secret itself.
            .ok_or_else(|| {
                format!("there is no such program in {path}: correct it, or write its whole path")
            })?
    };
    // What is about OpenStack or about keyway is not the program's affair, and may be a secret.
    let passed_on = |name: &str| ["OS_", "KEYWAY_"].iter().all(|prefix| !name.starts_with(prefix));
    let variables = env.vars().filter(|(name, _)| passed_on(name));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Command::new(program, words.collect(), variables))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
