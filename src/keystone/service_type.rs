//! Which names mean the same service?
//!
//! The official service types and their historical aliases, as the Service Types Authority
//! publishes them (`service-types.json`, which is of os-service-types). In every look-up `_` is `-`
//! and case does not matter. A type that the table lacks is simply related to nothing but itself:
//! real catalogs hold many of those.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::Deserialize;

/// The Service Types Authority's data, with their source and version; `service-types.py` writes them anew.
const DATA: &str = include_str!("service-types.json");

/// One official type.
#[derive(Debug, Deserialize)]
struct ServiceType<'a> {
    /// The official name.
    #[serde(rename = "type")]
    official: &'a str,
    /// What it was called before, the preferred name first.
    #[serde(borrow)]
    aliases: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Table<'a> {
    #[serde(borrow)]
    services: Vec<ServiceType<'a>>,
}

/// Read when the first name is looked up, which no request does that has a destination already.
static SERVICE_TYPES: LazyLock<Vec<ServiceType<'static>>> = LazyLock::new(|| {
    let table: Table<'static> =
        serde_json::from_str(DATA).expect("the file is part of the program, and tests read it");
    table.services
});

/// The ports at which services are by convention, by type: those of "Firewalls and default ports" in
/// OpenStack's install guide. Three come from elsewhere: Keystone's admin port of old, which IANA has for
/// it, and those of placement (for which that table has another one) and zaqar from their own guides.
const PORTS: &[(&str, &[u16])] = &[
    ("identity", &[5000, 35357]),
    ("compute", &[8774]),
    ("image", &[9292]),
    ("network", &[9696]),
    ("block-storage", &[8776]),
    ("object-store", &[8080]),
    ("orchestration", &[8004]),
    ("cloudformation", &[8000]),
    ("placement", &[8778]),
    ("key-manager", &[9311]),
    ("dns", &[9001]),
    ("load-balancer", &[9876]),
    ("baremetal", &[6385]),
    ("shared-file-system", &[8786]),
    ("container-infrastructure-management", &[9511]),
    ("database", &[8779]),
    ("workflow", &[8989]),
    ("message", &[8888]),
];

/// Each service type that has ports by convention, with them.
pub fn conventional_ports() -> impl Iterator<Item = (&'static str, &'static [u16])> {
    PORTS.iter().copied()
}

/// The official type that a type or alias stands for; an unknown name is left as it is.
pub fn canonical(name: &str) -> Cow<'_, str> {
    entry(name).map_or(Cow::Borrowed(name), |entry| Cow::Borrowed(entry.official))
}

/// Whether a name is an official type or an alias of one.
pub fn is_known(name: &str) -> bool {
    entry(name).is_some()
}

/// Whether two names are the same one: `-` is `_`, and case does not matter.
pub fn same(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// Whether two names are the same service: the same name, or aliases of the same type.
pub fn related(a: &str, b: &str) -> bool {
    same(a, b) || matches!((entry(a), entry(b)), (Some(a), Some(b)) if std::ptr::eq(a, b))
}

/// The names under which a catalog may list what was asked for, the best match first: the name
/// itself, its official type, then the aliases in order.
pub fn candidates(asked: &str) -> impl Iterator<Item = &str> {
    let entry = entry(asked);
    let official = entry.map(|entry| entry.official);
    let aliases = entry.map_or(&[][..], |entry| &entry.aliases);
    std::iter::once(asked).chain(official).chain(aliases.iter().copied())
}

fn entry(name: &str) -> Option<&'static ServiceType<'static>> {
    let is = |known: &&ServiceType<'_>| {
        same(known.official, name) || known.aliases.iter().any(|alias| same(alias, name))
    };
    SERVICE_TYPES.iter().find(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_alias_leads_to_its_official_type() {
        for (name, official) in [
            ("compute", "compute"),
            ("Volume", "block-storage"),
            ("volumev3", "block-storage"),
            ("block_storage", "block-storage"),
            ("BLOCK_STORE", "block-storage"),
            ("application_deployment", "application-deployment"),
            ("sharev2", "shared-file-system"),
            ("container", "application-container"),
            ("metric", "metric"),
            ("rax:database", "rax:database"),
            ("networking", "networking"),
            ("", ""),
        ] {
            assert_eq!(canonical(name), official, "{name}");
        }
    }

    #[test]
    fn aliases_come_in_the_order_of_the_authority() {
        for name in ["block-storage", "volume"] {
            assert_eq!(entry(name).unwrap().aliases, ["volumev3", "volumev2", "volume", "block-store"]);
        }
        assert!(entry("compute").unwrap().aliases.is_empty());
        assert!(entry("metric").is_none());
    }

    #[test]
    fn only_aliases_of_one_type_are_related() {
        assert!(related("volumev2", "volumev3"));
        assert!(related("object_store", "Object-Store"));
        assert!(related("cloud_formation", "cloud-formation"));
        assert!(!related("compute", "compute_legacy"));
        assert!(!related("metric", "meter"));
    }

    #[test]
    fn the_asked_name_is_the_first_candidate() {
        let names: Vec<_> = candidates("volume").collect();
        assert_eq!(names, ["volume", "block-storage", "volumev3", "volumev2", "volume", "block-store"]);
        assert_eq!(candidates("metric").collect::<Vec<_>>(), ["metric"]);
    }

    #[test]
    fn a_port_belongs_to_one_service() {
        let mut ports: Vec<u16> = conventional_ports().flat_map(|(_, ports)| ports).copied().collect();
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
        assert!(conventional_ports().all(|(name, ports)| canonical(name) == name && !ports.is_empty()));
    }

    #[test]
    fn no_name_belongs_to_two_types() {
        let mut names: Vec<String> = SERVICE_TYPES
            .iter()
            .flat_map(|ServiceType { official, aliases, .. }| {
                let aliases = aliases.iter().filter(move |alias| !same(alias, official));
                std::iter::once(official).chain(aliases).map(|name| name.replace('_', "-"))
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!((SERVICE_TYPES.len(), names.len()), (45, count));
        assert!(names.iter().all(|name| !name.is_empty()));
    }

    #[test]
    fn the_data_name_their_source_and_version() {
        let data: serde_json::Value = serde_json::from_str(DATA).unwrap();
        assert!(data["source"].as_str().unwrap().starts_with("os-service-types 1."), "{}", data["source"]);
        for key in ["version", "sha", "refreshed_by"] {
            assert!(data[key].as_str().is_some_and(|text| text.len() > 10), "{key}");
        }
        assert!(is_known("volumev3") && is_known("bare_metal") && !is_known("metric"));
    }
}
