//! How does a cloud's entry want its connections protected?

use std::fs;
use std::path::PathBuf;

use super::{Reader, Written};
use crate::config::exposure;
use crate::upstream::{BaseUrl, Scheme, tls};

impl Reader<'_> {
    pub(super) fn tls(&mut self) -> tls::Config {
        let verify = self.boolean("verify", true);
        let insecure = self.boolean("insecure", false) || !verify;
        if insecure {
            let cloud = &self.entry.name;
            let warning = format!(
                "cloud {cloud}: certificates are not checked (insecure, or verify: false): whoever is on the way can \
                 take the password and the token"
            );
            self.warnings.push(warning);
        }
        let ca_file = match self.text(&["cacert"]) {
            Some(at) if !insecure => self.file(&at),
            _ => None,
        };
        let cert = self.text(&["cert"]);
        let key = self.text(&["key"]);
        if let (None, Some(key)) = (&cert, &key) {
            self.problem_at(key, "a key without a certificate: set `cert` too, or remove it");
        }
        let key_file = key.as_ref().and_then(|at| self.file(at));
        let client_cert = cert.and_then(|at| self.file(&at)).map(|cert| (cert, key_file));
        if let Some((cert, key)) = &client_cert {
            let (option, file) = match key {
                Some(key) => ("key", key),
                None => ("cert", cert),
            };
            if let Err(message) = exposure::check_key(file, self.env, self.warnings) {
                let (source, option) = self.entry.name_of(option, false);
                self.problems.add(source, option, message);
            }
        }
        tls::Config { ca_file, insecure, client_cert }
    }

    /// A file that is there and can be read.
    pub(super) fn file(&mut self, at: &Written) -> Option<PathBuf> {
        let path = self.env.path(&at.text);
        match fs::File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => Some(path),
            Ok(_) => {
                self.problem_at(at, format!("{} is not a file", path.display()));
                None
            }
            Err(error) => {
                self.problem_at(at, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    pub(super) fn warn_of_plain_http(&mut self, url: &BaseUrl) {
        if crosses_in_the_clear(url) {
            self.warnings.push(format!(
                "cloud {}: {} is plain http: credentials and tokens cross the network in the clear",
                self.entry.name,
                url.origin()
            ));
        }
    }
}

/// Plain http, and not to this machine.
pub(in crate::config) fn crosses_in_the_clear(url: &BaseUrl) -> bool {
    let origin = url.origin();
    let local = origin.host() == "localhost"
        || origin.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    origin.scheme() == Scheme::Http && !local
}
