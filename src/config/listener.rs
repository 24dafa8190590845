//! `listen`, `admin` and `[listener.NAME]`: where requests come in, and what each place asks of them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::file::Options;
use super::policy::Policies;
use super::{Layers, Listener, exposure, value};
use crate::entry;
use crate::keystone::service_type;
use crate::route::Route;
use crate::server::{self, Address, tls};

/// The ports of the main and of the admin listener, on 127.0.0.1, unless they are elsewhere.
const PORT: u16 = 8180;
pub(super) const ADMIN_PORT: u16 = 8181;

/// The ways out where an address would let strangers in.
const WAYS: &str = "bind 127.0.0.1 or a unix:/path socket, or set tls_cert, tls_key and client_ca";

impl Layers<'_> {
    /// The main listener, then the others by name; and the admin listener.
    pub(super) fn listeners(
        &mut self,
        policies: &Policies,
        warnings: &mut Vec<String>,
    ) -> (Vec<Listener>, Listener) {
        let file = self.file;
        let none = Options::default();
        let mut listeners = Vec::new();
        let mut admin = None;
        for (name, key, port) in [("main", "listen", PORT), ("admin", "admin", ADMIN_PORT)] {
            let address = self.address(key, port);
            let options = file.listeners.get(name).unwrap_or(&none);
            if options.has("address") {
                let message =
                    format!("this listener's address is the key `{key}` above all tables: move it there");
                self.listener_problem(name, "address", &message);
            }
            let listener = self.listener(name, address, options, policies, warnings);
            if name == "main" { listeners.push(listener) } else { admin = Some(listener) }
        }
        let mut admin = admin.expect("it was just made");
        if admin.policy.take().is_some() {
            let message = "the admin listener serves nothing that a policy speaks of: remove it";
            self.listener_problem("admin", "policy", message);
        }
        for (name, options) in &file.listeners {
            if name == "main" || name == "admin" {
                continue;
            }
            // What is wrong or missing is a problem, so nothing is ever bound here.
            let mut address = Address::from(SocketAddr::from(([127, 0, 0, 1], 0)));
            match options.text("address").map(value::address) {
                Some(Ok(written)) => address = written,
                Some(Err(message)) => self.listener_problem(name, "address", &message),
                None => {
                    let message = "is missing: write ADDRESS:PORT, for example 127.0.0.1:8774, or unix:/path";
                    self.listener_problem(name, "address", message);
                }
            }
            listeners.push(self.listener(name, address, options, policies, warnings));
        }
        self.check_addresses(&listeners, &admin);
        self.emulate_ports(&mut listeners, &admin, warnings);
        (listeners, admin)
    }

    /// The address that a key names; else this port of loopback.
    pub(super) fn address(&mut self, key: &'static str, port: u16) -> Address {
        let default = Address::from(SocketAddr::from(([127, 0, 0, 1], port)));
        self.setting(key, default, value::address)
    }

    /// A listener for each service whose conventional port is asked for, with all that the main one asks
    /// of a request. Where the operator has a listener there, that is the one.
    fn emulate_ports(&mut self, listeners: &mut Vec<Listener>, admin: &Listener, warnings: &mut Vec<String>) {
        let services = self.setting("emulate_ports", Vec::new(), emulated);
        let main = listeners[0].clone();
        let own = main.server.address.tcp().map(|address| address.ip()).filter(|ip| ip.is_loopback());
        let ip = own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        if !services.is_empty() && main.server.address.tcp().is_none() {
            warnings.push(format!(
                "emulate_ports serves at ports of {ip}, which every user of this machine reaches, although the main \
                 listener is a socket file"
            ));
        }
        for (service, ports) in services {
            for port in ports {
                let address = Address::from(SocketAddr::new(ip, *port));
                let taken = listeners.iter().chain([admin]).find(|other| other.server.address == address);
                match taken {
                    Some(other) if other.pinned.is_some() => continue,
                    Some(other) => {
                        let message = format!(
                            "the listener `{}`, which serves more than {service}, is at {address}: change its \
                             address, or leave {service} out",
                            other.name
                        );
                        self.problem("emulate_ports", &message);
                        continue;
                    }
                    None => {}
                }
                listeners.push(Listener {
                    // No name of a table has a colon.
                    name: format!("{service}:{port}"),
                    server: server::Config { tls: main.server.tls.clone(), ..server::Config::at(address) },
                    pinned: Some(Route::prefix_of(None, None, service)),
                    emulated: true,
                    ..main.clone()
                });
            }
        }
    }

    fn listener(
        &mut self,
        name: &str,
        address: Address,
        options: &Options,
        policies: &Policies,
        warnings: &mut Vec<String>,
    ) -> Listener {
        let mut hosts = Vec::new();
        let mut origins = Vec::new();
        for (option, check, checked) in [
            ("hosts", entry::host as fn(&str) -> Result<String, String>, &mut hosts),
            ("origins", entry::origin, &mut origins),
        ] {
            for text in options.list(option) {
                match check(text) {
                    Ok(text) => checked.push(text),
                    Err(message) => self.listener_problem(name, option, &message),
                }
            }
        }
        let required = options.text("required_header").and_then(|text| match entry::required_header(text) {
            Ok(field) => Some(field),
            Err(message) => {
                self.listener_problem(name, "required_header", &message);
                None
            }
        });
        let policy = options.text("policy").and_then(|policy| match policies.named(policy) {
            Ok(policy) => policy,
            Err(message) => {
                self.listener_problem(name, "policy", &message);
                None
            }
        });
        self.check_strangers(name, &address, options);
        let tls = self.listener_tls(name, options, warnings);
        let (mode, users) = self.socket_file(name, &address, options);
        let logins = self.listener_logins(name, &address, options, warnings);
        Listener {
            name: name.to_owned(),
            server: server::Config { address, tls, mode, users },
            entry: entry::Config { hosts, origins, required },
            policy,
            logins,
            pinned: self.pinned(name, options),
            emulated: false,
        }
    }

    /// What a listener for one service stands for. Whether there is such a cloud is checked with the clouds.
    fn pinned(&mut self, name: &str, options: &Options) -> Option<String> {
        let mut problem = false;
        for option in ["service", "cloud", "region"] {
            let Some(text) = options.text(option) else { continue };
            let message = if matches!(name, "main" | "admin") {
                "this listener serves more than one service: write a [listener.NAME] of its own for it"
            } else if text.is_empty() || text.contains(char::is_control) {
                "is no name: write one as the catalog has it, or leave it out"
            } else if !options.has("service") {
                "says where a service is, and there is none: set service = \"compute\", or remove it"
            } else {
                continue;
            };
            self.listener_problem(name, option, message);
            problem = true;
        }
        let service = options.text("service").filter(|_| !problem)?;
        Some(Route::prefix_of(options.text("cloud"), options.text("region"), service))
    }

    /// Whoever can connect acts as the cloud's user, so an address that others reach must know them.
    fn check_strangers(&mut self, name: &str, address: &Address, options: &Options) {
        let has_tls = options.has("tls_cert") && options.has("tls_key");
        let is_shown =
            !self.file.identities.is_empty() || self.file.settings.contains_key("identities.directory");
        // Whoever comes to the admin listener shows nothing but a certificate.
        let by_identity = is_shown && name != "admin" && options.text("login") != Some("any");
        if address.is_local() || has_tls && (options.has("client_ca") || by_identity) {
            return;
        }
        let table = format!("in [listener.{name}]");
        let message = if options.has("tls_cert") || options.has("tls_key") {
            format!(
                "{address} is no loopback address, and TLS alone does not say who a client is: set client_ca {table} \
                 too{}, or bind 127.0.0.1 or a unix:/path socket",
                if name == "admin" { "" } else { ", or write [identity.NAME], whose keys clients show" }
            )
        } else {
            format!(
                "{address} is no loopback address, and whoever reaches it would act as your cloud user: {WAYS} {table}"
            )
        };
        match name {
            "main" => self.problem("listen", &message),
            "admin" => self.problem("admin", &message),
            name => self.listener_problem(name, "address", &message),
        }
    }

    fn listener_tls(
        &mut self,
        name: &str,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> Option<tls::Config> {
        let [cert, key, ca, crl] = ["tls_cert", "tls_key", "client_ca", "client_crl"].map(|option| {
            let text = options.text(option)?;
            let path = self.env.path(text);
            let readable = match fs::File::open(&path).and_then(|file| file.metadata()) {
                Ok(metadata) if metadata.is_file() => Ok(()),
                Ok(_) => Err(format!("{} is not a file", path.display())),
                Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
            };
            let readable = readable.and_then(|()| match option {
                "tls_key" => exposure::check_key(&path, self.env, warnings),
                _ => Ok(()),
            });
            if let Err(message) = readable {
                self.listener_problem(name, option, &message);
            }
            Some(path)
        });
        let optional = match options.text("client_auth") {
            None | Some("required") => false,
            Some("optional") if name == "admin" || options.text("login") == Some("any") => {
                let message = "optional, but whoever comes without a certificate has nothing else to show here: remove it";
                self.listener_problem(name, "client_auth", message);
                false
            }
            Some("optional") => true,
            Some(other) => {
                let message = format!("`{other}` is neither required nor optional");
                self.listener_problem(name, "client_auth", &message);
                false
            }
        };
        for option in ["client_crl", "client_auth"] {
            if options.has(option) && ca.is_none() {
                self.listener_problem(name, option, "is of no use without client_ca: set it, or remove this");
            }
        }
        let clients = ca.map(|ca| tls::Clients { ca, crl, optional });
        match (cert, key, clients) {
            (Some(cert), Some(key), clients) => Some(tls::Config { cert, key, clients }),
            (None, None, None) => None,
            (Some(_), None, _) => self.lacks(name, "tls_key", "it belongs to tls_cert"),
            (None, Some(_), _) => self.lacks(name, "tls_cert", "tls_key belongs to it"),
            (None, None, Some(_)) => self.lacks(name, "tls_cert", "client_ca asks for tls_cert and tls_key"),
        }
    }

    fn lacks(&mut self, name: &str, option: &str, why: &str) -> Option<tls::Config> {
        self.listener_problem(name, option, &format!("is missing, but {why}: set it"));
        None
    }

    /// Mode and users of a socket file.
    fn socket_file(&mut self, name: &str, address: &Address, options: &Options) -> (u32, Vec<u32>) {
        let default = server::Config::at(address.clone());
        if let Some(tcp) = address.tcp() {
            for option in ["mode", "users"] {
                if options.has(option) {
                    let message =
                        format!("only a unix:/path socket has it, and this listener is at {tcp}: remove it");
                    self.listener_problem(name, option, &message);
                }
            }
            return (default.mode, default.users);
        }
        let mut users = Vec::new();
        for text in options.list("users") {
            match text.parse() {
                Ok(user) => users.push(user),
                Err(_) => {
                    let message = format!("{text} is no user id (see `id -u NAME`), such as 1000");
                    self.listener_problem(name, "users", &message);
                }
            }
        }
        let mode = match options.text("mode").map(|text| text.trim_start_matches('0')) {
            None | Some("600") => 0o600,
            Some("660") => 0o660,
            Some("666") => 0o666,
            Some(_) => {
                let written = options.text("mode").unwrap_or_default();
                let message = format!("`{written}` is none of the modes \"0600\", \"0660\" and \"0666\"");
                self.listener_problem(name, "mode", &message);
                0o600
            }
        };
        if mode != 0o600 && options.list("users").next().is_none() {
            let message =
                "lets others connect, so it takes a list of who may: set users = [1000, ..], or remove it";
            self.listener_problem(name, "mode", message);
        }
        (mode, users)
    }

    /// No two listeners share an address; port 0 is another one each time.
    fn check_addresses(&mut self, listeners: &[Listener], admin: &Listener) {
        let shared = |address: &Address| address.tcp().is_none_or(|address| address.port() != 0);
        let main = &listeners[0];
        if main.server.address == admin.server.address && shared(&main.server.address) {
            let address = &main.server.address;
            let message = format!("both the services and metrics would listen on {address}: change one");
            self.problem("admin", &message);
        }
        for (index, listener) in listeners.iter().enumerate().skip(1) {
            let address = &listener.server.address;
            let earlier = listeners[..index].iter().chain([admin]);
            if let Some(other) = earlier.into_iter().find(|other| other.server.address == *address)
                && shared(address)
            {
                let message =
                    format!("the listener `{}` would listen on {address} too: change one", other.name);
                self.listener_problem(&listener.name, "address", &message);
            }
        }
    }

    pub(super) fn listener_problem(&mut self, name: &str, option: &str, message: &str) {
        self.problems.add(self.file.path.display(), format!("listener.{name}.{option}"), message);
    }
}

/// The services of `emulate_ports`, each with its ports: `true` for all of them, `false` for none, or a list.
fn emulated(text: &str) -> Result<Vec<(&'static str, &'static [u16])>, String> {
    let known = || service_type::conventional_ports();
    match text {
        "true" => return Ok(known().collect()),
        "false" | "" => return Ok(Vec::new()),
        _ => {}
    }
    let mut services = Vec::new();
    for name in text.split(',').map(str::trim) {
        let found = known().find(|(service, _)| service_type::related(service, name));
        let Some(service) = found else {
            let known: Vec<_> = known().map(|(service, _)| service).collect();
            return Err(format!(
                "`{name}` is no service with a port by convention: write true for all of them, or some of {}",
                known.join(", ")
            ));
        };
        if !services.contains(&service) {
            services.push(service);
        }
    }
    Ok(services)
}
