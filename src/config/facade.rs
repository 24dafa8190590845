//! `[facade]`, who may log in at a listener, and what clients see of a cloud: keyway's own Keystone.

use std::path::PathBuf;
use std::time::Duration;

use super::file::Options;
use super::{Layers, Listener, policy, value};
use crate::facade::{Config, LONGEST_LIFE, Logins, View, check_state, read_keys};
use crate::identity;
use crate::keystone::Interface;
use crate::secret;
use crate::server::Address;

impl Layers<'_> {
    /// Everything but the clouds. A `demo` keeps nothing, unless it is told where.
    pub(super) fn facade(&mut self, is_demo: bool, warnings: &mut Vec<String>) -> Config {
        let default = Config::default();
        let token_life = self.setting("facade.token_life", default.token_life, life);
        let state = self.state(is_demo, warnings);
        let keys = self.sealing_keys();
        Config { token_life, state, keys, ..default }
    }

    /// A file of keys that the operator named; keyway does not make it.
    fn sealing_keys(&mut self) -> Option<PathBuf> {
        let path = self.setting("facade.keys", None, |text| match text {
            "" => Err("is empty: write the path of a file, or leave the key out".to_owned()),
            text => Ok(Some(text.to_owned())),
        });
        let path = self.env.path(&path.filter(|path| path != "none")?);
        if !path.is_file() {
            let message = format!(
                "there is no file {0}: write 32 random bytes in base64 into it (`openssl rand -base64 32`), or leave \
                 the key out",
                path.display()
            );
            self.problem("facade.keys", &message);
        } else if let Err(error) = read_keys(&path) {
            self.problem("facade.keys", &secret::causes(&error));
        }
        Some(path)
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

impl Layers<'_> {
    /// A listener for identities is of use to nobody as long as there is none, here or in a file of its own.
    pub(super) fn check_logins(&mut self, listeners: &[Listener], identities: &[identity::Config]) {
        if !identities.is_empty() {
            return;
        }
        // Without these, check_strangers has refused an address that others reach.
        let wanted = self.file.settings.contains_key("identities.directory");
        let configured = |listener: &&Listener| listener.logins == Logins::Configured && !listener.emulated;
        for Listener { name, server, .. } in listeners.iter().filter(configured) {
            let known = self.file.listeners.get(name).is_some_and(|options| options.has("client_ca"));
            let whoever = match (server.address.is_local(), known) {
                (true, _) => ", or login = \"any\" for whoever reaches it",
                (false, true) => ", or login = \"any\" for whoever has a certificate of client_ca",
                (false, false) if server.tls.is_none() || !wanted => continue,
                (false, false) => "",
            };
            let message = format!(
                "only configured identities are served at {}, and there is none: write [identity.NAME], and make a key \
                 with `keyway key new NAME`{whoever}",
                server.address
            );
            self.listener_problem(name, "login", &message);
        }
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
    if options.is_empty("projects") {
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
