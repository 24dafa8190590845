//! `[facade]`, who may log in at a listener, and what clients see of a cloud: keyway's own Keystone.

use std::path::PathBuf;
use std::time::Duration;

use super::file::Options;
use super::{Layers, policy, value};
use crate::facade::{Config, LONGEST_LIFE, Logins, View, check_state};
use crate::keystone::Interface;
use crate::secret;
use crate::server::Address;

impl Layers<'_> {
    /// Everything but the clouds. A `demo` keeps nothing, unless it is told where.
    pub(super) fn facade(&mut self, is_demo: bool, warnings: &mut Vec<String>) -> Config {
        let default = Config::default();
        let token_life = self.setting("facade.token_life", default.token_life, life);
        let state = self.state(is_demo, warnings);
        Config { token_life, state, ..default }
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
        if logins == Logins::Configured && self.file.identities.is_empty() && (address.is_local() || known) {
            let message = format!(
                "only configured identities are served at {address}, and there is none: write [identity.NAME], and make \
                 a key with `keyway key new NAME`, or login = \"any\" for whoever {}",
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
