//! `[facade]`, `[login.NAME]`, and what clients see of a cloud: keyway's own Keystone.

use std::path::PathBuf;
use std::time::Duration;

use super::file::Options;
use super::{Layers, exposure, policy, sources, value};
use crate::facade::{Config, LONGEST_LIFE, Login, Logins, View, check_state};
use crate::keystone::{Interface, Secret};
use crate::secret;
use crate::server::Address;

/// How short a password of a login may be, characters.
const SHORTEST: usize = 8;

impl Layers<'_> {
    /// Everything but the clouds. A `demo` keeps nothing, unless it is told where.
    pub(super) fn facade(&mut self, is_demo: bool, warnings: &mut Vec<String>) -> Config {
        let default = Config::default();
        let token_life = self.setting("facade.token_life", default.token_life, life);
        let state = self.state(is_demo, warnings);
        let logins = self.logins(warnings);
        Config { token_life, state, logins, ..default }
    }

    fn state(&mut self, is_demo: bool, warnings: &mut Vec<String>) -> Option<PathBuf> {
        let written = self.setting("facade.state", None, |text| match text {
            "" => Err("is empty: write a directory, or \"none\"".to_owned()),
            text => Ok(Some(text.to_owned())),
        });
        let state = match written.as_deref() {
            Some("none") => return None,
            Some(path) => self.env.path(path),
            None if is_demo => return None,
            None => match self.env.state_home() {
                Some(path) => path,
                None => {
                    warnings.push(
                        "there is no directory for the keys of keyway's own tokens, so tokens end with this process: \
                         set facade.state, or HOME"
                            .to_owned(),
                    );
                    return None;
                }
            },
        };
        if let Err(error) = check_state(&state) {
            self.problem("facade.state", &secret::causes(&error));
        }
        Some(state)
    }

    fn logins(&mut self, warnings: &mut Vec<String>) -> Vec<Login> {
        let file = self.file;
        let mut logins: Vec<Login> = Vec::new();
        for (name, options) in &file.logins {
            match self.password(options, warnings) {
                Ok(password) => {
                    if let Some(other) = logins.iter().find(|login| login.password == password) {
                        let message = format!(
                            "is that of login.{} too, and a password alone must tell whose it is: choose another",
                            other.name
                        );
                        self.login_problem(name, "password", &message);
                    }
                    logins.push(Login { name: name.clone(), password });
                }
                Err((option, message)) => self.login_problem(name, option, &message),
            }
        }
        if file.logins.values().any(|options| options.has("password")) {
            exposure::warn(&file.path, self.env, warnings);
        }
        logins
    }

    /// # Errors
    /// The option that is wrong, and the rest of a sentence that starts with it.
    fn password(
        &self,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> Result<Secret, (&'static str, String)> {
        let forms = ["password", "password_file", "password_command", "password_credential"];
        let mut set = forms.into_iter().filter(|option| options.has(option));
        let Some(option) = set.next() else {
            let message = "is missing: write password = \"..\", password_file = \"/path\" or \
                           password_command = [\"program\", \"argument\"]";
            return Err(("password", message.to_owned()));
        };
        if let Some(other) = set.next() {
            return Err((option, format!("there is a {other} too: remove one of them")));
        }
        let told = |why: String| (option, why);
        let place = options.text(option).unwrap_or_default();
        if option == "password_command" {
            let words = options.list(option).map(str::to_owned).collect();
            let command = sources::command(words, self.env).map_err(told)?;
            let secret = command.read_now().map_err(|unreadable| told(unreadable.to_string()))?;
            return check_password(secret.expose()).map(|()| secret).map_err(told);
        }
        let path = match option {
            "password" => None,
            "password_file" => Some(self.env.path(place)),
            _ => Some(sources::credential(place, self.env).map_err(told)?),
        };
        let secret = match path {
            None => Secret::new(options.whole(option).unwrap_or_default()),
            Some(path) => {
                exposure::warn(&path, self.env, warnings);
                secret::read_file(&path).map_err(|unreadable| told(unreadable.to_string()))?
            }
        };
        match check_password(secret.expose()) {
            Ok(()) => Ok(secret),
            Err(why) => Err((option, why)),
        }
    }

    fn login_problem(&mut self, name: &str, option: &str, message: &str) {
        self.problems.add(self.file.path.display(), format!("login.{name}.{option}"), message);
    }

    /// Who may log in at a listener.
    pub(super) fn listener_logins(
        &mut self,
        name: &str,
        address: &Address,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> Logins {
        if name == "admin" {
            if options.has("login") {
                self.listener_problem(name, "login", "nobody logs in at the admin listener: remove it");
            }
            return Logins::Any;
        }
        let default = if address.is_local() { Logins::Any } else { Logins::Configured };
        let logins = match options.text("login") {
            None => default,
            Some("any") => Logins::Any,
            Some("configured") => Logins::Configured,
            Some(other) => {
                self.listener_problem(name, "login", &format!("`{other}` is neither any nor configured"));
                return default;
            }
        };
        let known = options.has("client_ca");
        if logins == Logins::Configured && self.file.logins.is_empty() && (address.is_local() || known) {
            let message = format!(
                "only configured logins are taken at {address}, and there is none: write [login.NAME] with \
                 password_file = \"/path\", or login = \"any\" for whoever {}",
                if address.is_local() { "reaches it" } else { "has a certificate of client_ca" }
            );
            self.listener_problem(name, "login", &message);
        }
        // Without client_ca the address itself is refused.
        if logins == Logins::Any && !address.is_local() && known {
            warnings.push(format!(
                "{}: listener.{name}.login: whoever has a certificate of client_ca acts as the cloud's user, with any \
                 password or none",
                self.file.path.display()
            ));
        }
        logins
    }
}

/// What clients see of a cloud: the options of `[cloud.NAME]` that say so.
pub(super) fn view(options: &Options, problem: &mut dyn FnMut(&str, String)) -> View {
    let mut view = View::default();
    for project in options.list("projects") {
        match project {
            "" => problem("projects", "one is empty: write a project's id or name".to_owned()),
            project => view.projects.push(project.to_owned()),
        }
    }
    if options.has("projects") && options.list("projects").next().is_none() {
        let message = "an empty list: name projects, or leave the key out for all that the user has";
        problem("projects", message.to_owned());
    }
    for (option, services) in [("legacy_types", &mut view.legacy_types), ("hide", &mut view.hidden)] {
        for text in options.list(option) {
            match policy::service(text) {
                Ok(service) if services.contains(&service) => {}
                Ok(service) => services.push(service),
                Err(message) => problem(option, message),
            }
        }
    }
    match options.text("only_interface").map(str::parse::<Interface>) {
        Some(Ok(interface)) => view.interface = Some(interface),
        Some(Err(message)) => problem("only_interface", message),
        None => {}
    }
    match options.text("only_region") {
        Some("") => problem("only_region", "is empty: write a region, or leave the key out".to_owned()),
        region => view.region = region.map(str::to_owned),
    }
    view
}

/// How long a token lives.
fn life(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(LONGEST_LIFE.unsigned_abs());
    let life = value::duration_up_to(text, longest, "30d")?;
    if life < Duration::from_secs(60) { Err(format!("`{text}` is too short: at least 1m")) } else { Ok(life) }
}

/// # Errors
/// What is wrong with it, without the password.
fn check_password(text: &str) -> Result<(), String> {
    let generate = "choose another, for example what `openssl rand -hex 16` prints";
    if text.chars().count() < SHORTEST {
        return Err(format!("is shorter than {SHORTEST} characters: {generate}"));
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(format!(
            "holds a line break or another control character, or has a space at an end: {generate}"
        ));
    }
    if text.starts_with("gAAAAA") {
        return Err(format!("begins as tokens do: {generate}"));
    }
    Ok(())
}
