//! Does keyway choose the endpoints that keystoneauth chooses?
//!
//! Hundreds of made-up catalogs, questions and version documents are answered by both: by keystoneauth itself
//! (`tests/oracle/endpoints.py`, see `tests/oracle/README.md`), and by keyway's own choice.

use std::collections::BTreeMap;

use keyway::keystone::{
    self, Auth, Catalog, Interface, Secret, ServiceOptions, Versions, catalog, service_type,
};
use keyway::proxy::rewrite::Base;
use keyway::upstream::BaseUrl;
use serde_json::{Value, json};

use crate::support::faults::Dice;
use crate::support::oracle::Oracle;

const PROJECT: &str = "0123456789abcdef0123456789abcdef";
const QUESTIONS: usize = 1600;

/// Where keyway means to answer otherwise. Each has to occur, or it is not true any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// Who asks for one alias may get what the catalog has under another one of the same type: a client of old knows
    /// nothing but `volumev2`, and clouds have dropped it.
    OtherAlias,
    /// A document without any usable version says nothing, as one that is not there: the catalog's URL counts.
    UselessDocument,
    /// An alias with a version in it is a name like any other, so its endpoint in the catalog counts whatever version
    /// that has: clients of old write the version into their paths.
    VersionOfAlias,
    /// The path of a link does not count, but for the version at its end: behind a proxy it often lacks what the
    /// catalog has in front.
    PathOfLink,
}

/// What is asked of both.
#[derive(Clone, Debug)]
struct Question {
    catalog: Value,
    service: &'static str,
    interfaces: Vec<Interface>,
    region: Option<&'static str>,
    name: Option<&'static str>,
    version: Option<u32>,
    /// By URL: status and body.
    documents: BTreeMap<String, (u16, String)>,
    /// The documents' links lack the paths of their endpoints.
    short_links: bool,
}

impl Question {
    fn random(dice: &Dice) -> Self {
        let mut documents = BTreeMap::new();
        let short_links = dice.once_in(3);
        let names: &[(&str, &[&str])] = &[
            ("compute", &["nova", "nova2"]),
            ("block-storage", &["cinder"]),
            ("volumev3", &["cinderv3"]),
            ("volumev2", &["cinderv2"]),
            ("volume", &["cinder", "cinderv1"]),
            ("image", &["glance"]),
            ("network", &["neutron"]),
            ("object-store", &["swift"]),
            ("shared-file-system", &["manila"]),
            ("share", &["manila"]),
            ("container", &["zun"]),
            ("metric", &["gnocchi"]),
            ("rax:database", &["cloudDatabases"]),
        ];
        let mut services = Vec::new();
        for _ in 0..2 + dice.below(14) {
            let (kind, names) = dice.choose(names);
            let mut endpoints = Vec::new();
            for _ in 0..1 + dice.below(8) {
                let host = format!("h{}-{}.example", services.len(), endpoints.len());
                endpoints.push(endpoint(dice, &host, short_links, &mut documents));
            }
            let mut service = json!({"type": kind, "endpoints": endpoints});
            if !dice.once_in(4) {
                service["name"] = dice.choose(names).into();
            }
            services.push(service);
        }
        let asked = [
            "compute",
            "block-storage",
            "volumev3",
            "volumev2",
            "volume",
            "image",
            "network",
            "object-store",
            "shared-file-system",
            "share",
            "application-container",
            "container",
            "metric",
            "rax:database",
            "dns",
        ];
        // Nearly always one that is there in some form.
        let there: Vec<_> = names.iter().map(|(kind, _)| *kind).collect();
        let there: Vec<_> =
            there.into_iter().filter(|kind| services.iter().any(|s| s["type"] == **kind)).collect();
        let service =
            if there.is_empty() || dice.once_in(3) { dice.choose(&asked) } else { dice.choose(&there) };
        let mut interfaces = vec![Interface::Public, Interface::Internal, Interface::Admin];
        for _ in 0..dice.below(3) {
            interfaces.remove(dice.below(interfaces.len()));
        }
        let first = dice.below(interfaces.len());
        interfaces.rotate_left(first);
        // Such a name says a version itself, and keystoneauth refuses another one.
        let has_version = matches!(service, "volumev2" | "volumev3");
        Self {
            catalog: services.into(),
            service,
            interfaces,
            region: dice.choose(&[None, None, None, Some("One"), Some("One"), Some("Two"), Some("Three")]),
            name: if dice.once_in(8) { Some(dice.choose(&["nova2", "cinder", "glance"])) } else { None },
            version: dice.choose(&[None, Some(1), Some(2), Some(2), Some(3)]).filter(|_| !has_version),
            documents,
            short_links,
        }
    }

    fn as_json(&self) -> Value {
        let documents = self
            .documents
            .iter()
            .map(|(url, (status, body))| (url.clone(), json!({"status": status, "body": body})));
        json!({
            "project": PROJECT,
            "catalog": self.catalog,
            "service": self.service,
            "interfaces": self.interfaces.iter().map(|interface| interface.as_str()).collect::<Vec<_>>(),
            "region": self.region,
            "name": self.name,
            "version": self.version.map(|version| version.to_string()),
            "documents": documents.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn answer(&self) -> Answer {
        let options = ServiceOptions {
            service_name: self.name.map(str::to_owned),
            region: self.region.map(str::to_owned),
            interfaces: self.interfaces.clone(),
            api_version: self.version,
            ..ServiceOptions::default()
        };
        let auth = Auth::Fixed { endpoint: url("http://nowhere.example"), token: Secret::new("t").into() };
        let cloud = keystone::Config {
            region: Some("Elsewhere".to_owned()).filter(|_| self.region.is_some()),
            services: [(self.service.to_owned(), options)].into(),
            ..keystone::Config::new("oracle", auth)
        };
        let catalog = Catalog::from_v3(&self.catalog);
        let found = match catalog::choose(&cloud, &catalog, self.service, None) {
            Ok(found) => found,
            Err(why) => return Answer { catalog: None, url: Err(why.to_string()) },
        };
        let version = cloud.api_version_of(self.service);
        let base = Base::new(found.url.path(), Some(PROJECT)).wanting(version);
        let versions = self.versions(&found.url.with_path(base.root()));
        let segment = match version.filter(|_| base.needs_version("/x")) {
            None => Ok(None),
            wanted => versions.unwrap_or_default().segment(wanted).map(|segment| segment.map(str::to_owned)),
        };
        let url = segment.map(|segment| {
            let target = base.target("/x", segment.as_deref());
            let path = target.strip_suffix("/x").expect("what a client writes is the end");
            found.url.with_path(path).to_string()
        });
        Answer { catalog: Some(found.url.to_string()), url: url.map_err(|there| format!("it has {there:?}")) }
    }

    /// What the service at a root says of its versions.
    fn versions(&self, root: &BaseUrl) -> Option<Versions> {
        let with_slash = format!("{}/", root.to_string().trim_end_matches('/'));
        let document = self.documents.get(&with_slash).filter(|(status, _)| matches!(status, 200 | 300));
        document.and_then(|(_, body)| Versions::read(body.as_bytes()))
    }

    /// Why the answers differ, if that is meant.
    fn difference(&self, theirs: &Answer, ours: &Answer) -> Option<Difference> {
        let (catalog, ours_url) = (ours.catalog.as_deref()?, ours.url.as_deref());
        let Some(their_catalog) = &theirs.catalog else {
            let services = self.catalog.as_array().into_iter().flatten();
            let has = |service: &&Value| {
                let endpoints = service["endpoints"].as_array().into_iter().flatten();
                endpoints
                    .into_iter()
                    .any(|endpoint| same(endpoint["url"].as_str().unwrap_or_default(), catalog))
            };
            let kind = services.into_iter().find(has)?["type"].as_str()?;
            let official = service_type::canonical(kind);
            let other = kind != self.service && self.service != official && kind != official;
            return (other && service_type::related(kind, self.service)).then_some(Difference::OtherAlias);
        };
        if !same(their_catalog, catalog) {
            return None;
        }
        if matches!(self.service, "volumev2" | "volumev3") {
            let as_listed = ours_url.is_ok_and(|ours| same(ours, catalog));
            return as_listed.then_some(Difference::VersionOfAlias);
        }
        let root = url(catalog).with_path(Base::new(url(catalog).path(), Some(PROJECT)).root());
        match (&theirs.url, ours_url) {
            (Err(_), Ok(ours)) if same(ours, catalog) => {
                self.versions(&root)?.is_empty().then_some(Difference::UselessDocument)
            }
            (Ok(theirs), Ok(ours)) if self.short_links && !root.path().is_empty() => {
                let last = |text: &str| {
                    text.replace(PROJECT, "").trim_end_matches('/').rsplit('/').next().map(str::to_owned)
                };
                let place = url(theirs).origin() == url(ours).origin() && last(theirs) == last(ours);
                place.then_some(Difference::PathOfLink)
            }
            _ => None,
        }
    }
}

/// What one of the two says.
#[derive(Debug)]
struct Answer {
    /// The catalog's URL of the service; `None` if there is none.
    catalog: Option<String>,
    /// The URL of the version that was asked for, or why there is none.
    url: Result<String, String>,
}

fn url(text: &str) -> BaseUrl {
    BaseUrl::parse(text).expect(text)
}

/// Whether two URLs are the same endpoint's.
fn same(a: &str, b: &str) -> bool {
    match (BaseUrl::parse(a), BaseUrl::parse(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// An endpoint at a host of its own, and what there is at its root.
fn endpoint(
    dice: &Dice,
    host: &str,
    short_links: bool,
    documents: &mut BTreeMap<String, (u16, String)>,
) -> Value {
    let scheme = dice.choose(&["http", "https"]);
    let root = dice.choose(&["", "", "/svc", "/a/b"]);
    let end = dice.choose(&[
        "",
        "/",
        "/v1",
        "/v2",
        "/v2.1",
        "/v2.0/",
        "/v3",
        "/v3/ID",
        "/v2/ID",
        "/ID",
        "/v1/AUTH_ID",
    ]);
    let written = format!("{scheme}://{host}{root}{}", end.replace("ID", PROJECT));
    // Swift has none.
    if !end.contains("AUTH") && !dice.once_in(4) {
        let document = document(dice, scheme, host, root, short_links);
        documents.insert(format!("{scheme}://{host}{root}/"), document.clone());
        if end.is_empty() {
            documents.insert(format!("{scheme}://{host}{root}"), document);
        }
    }
    let mut endpoint = json!({
        "id": host,
        "interface": dice.choose(&["public", "public", "internal", "admin"]),
        "url": if dice.once_in(12) { "" } else { &written },
    });
    let region = dice.choose(&["One", "Two"]);
    if !dice.once_in(6) {
        endpoint["region_id"] = region.into();
    }
    endpoint["region"] = region.into();
    endpoint
}

/// What may be at a root: documents of every kind, and what is none.
fn document(dice: &Dice, scheme: &str, host: &str, root: &str, short_links: bool) -> (u16, String) {
    match dice.below(12) {
        0 => return (200, "<html><h1>It works!</h1></html>".to_owned()),
        1 => return (200, json!([{"name": "box", "count": 1}]).to_string()),
        2 => return (404, json!({"versions": []}).to_string()),
        3 => return (200, json!({"versions": []}).to_string()),
        _ => {}
    }
    let mut entries = Vec::new();
    for (id, segment) in [("v1.0", "v1"), ("v2.0", "v2"), ("v2.1", "v2.1"), ("v3.71", "v3"), ("v4", "v4")] {
        if dice.once_in(3) {
            continue;
        }
        let status = dice.choose(&[
            "CURRENT",
            "CURRENT",
            "stable",
            "SUPPORTED",
            "SUPPORTED",
            "DEPRECATED",
            "EXPERIMENTAL",
            "BETA",
        ]);
        let path = if short_links { format!("/{segment}/") } else { format!("{root}/{segment}/") };
        let href = match dice.below(6) {
            0 if !short_links => format!("http://10.0.0.1:8774/{segment}"),
            1 if !short_links => format!("{segment}/"),
            2 => format!("http://{host}{path}"),
            3 if !short_links => String::new(),
            _ => format!("{scheme}://{host}{path}"),
        };
        let mut links = vec![json!({"rel": "self", "href": href})];
        if dice.once_in(3) {
            links.insert(0, json!({"rel": "describedby", "href": "https://docs.example/v9"}));
        }
        let mut entry = json!({"id": id, "status": status, "links": links, "min_version": "", "version": ""});
        match dice.below(12) {
            0 => drop(entry.as_object_mut().expect("an object").remove("links")),
            1 => entry["links"] = json!([]),
            2 => drop(entry.as_object_mut().expect("an object").remove("status")),
            _ => {}
        }
        entries.push(entry);
    }
    let body = match dice.below(4) {
        0 => json!({"versions": {"values": entries}}),
        1 if entries.len() == 1 => json!({"version": entries[0]}),
        _ => json!({"versions": entries}),
    };
    (dice.choose(&[200, 300]), body.to_string())
}

/// keystoneauth's answer.
fn ask(oracle: &mut Oracle, question: &Question) -> Answer {
    let answer = oracle.ask(&question.as_json());
    let text = |key: &str| answer[key].as_str().map(str::to_owned);
    let url = text("url").ok_or_else(|| text("error").expect("a URL or an error"));
    Answer { catalog: text("catalog"), url }
}

#[test]
fn keyway_chooses_the_endpoints_that_keystoneauth_chooses() {
    let Some(mut oracle) = Oracle::start("endpoints.py") else { return };
    let dice = Dice::new();
    let questions: Vec<_> = (0..QUESTIONS).map(|_| Question::random(&dice)).collect();
    let theirs: Vec<_> = questions.iter().map(|question| ask(&mut oracle, question)).collect();
    let (mut found, mut versions, mut missing) = (0, 0, 0);
    let mut differences: BTreeMap<Difference, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (question, theirs) in questions.iter().zip(&theirs) {
        let ours = question.answer();
        let same_catalog = match (&theirs.catalog, &ours.catalog) {
            (Some(theirs), Some(ours)) => same(theirs, ours),
            (theirs, ours) => theirs.is_none() && ours.is_none(),
        };
        match (&theirs.url, &ours.url) {
            (Ok(their_url), Ok(our_url)) if same_catalog && same(their_url, our_url) => {
                found += 1;
                versions += usize::from(!same(our_url, ours.catalog.as_deref().unwrap_or_default()));
            }
            (Err(_), Err(_)) if same_catalog => missing += 1,
            _ => match question.difference(theirs, &ours) {
                Some(difference) => *differences.entry(difference).or_default() += 1,
                None => {
                    wrong.push(format!("{}\nkeystoneauth: {theirs:?}\nkeyway: {ours:?}", question.as_json()))
                }
            },
        }
    }
    println!("{found} the same ({versions} not the catalog's URL), {missing} none for both, {differences:?}");
    assert!(
        wrong.is_empty(),
        "{} differ, such as\n{}",
        wrong.len(),
        wrong[..wrong.len().min(3)].join("\n\n")
    );
    assert!(found > QUESTIONS / 4 && versions > QUESTIONS / 40 && missing > QUESTIONS / 20);
    use Difference::{OtherAlias, PathOfLink, UselessDocument, VersionOfAlias};
    let all = [OtherAlias, UselessDocument, VersionOfAlias, PathOfLink];
    assert!(all.iter().all(|difference| differences.contains_key(difference)), "{differences:?}");
}
