//! Which versions does a service have, where the catalog does not name the right one?
//!
//! Many catalogs hold unversioned URLs, and an operator may choose another version than the
//! catalog's. The service's own version document, at the root of its URL, says which path segment a
//! version has. Only that segment is taken from it: scheme, host and path stay the catalog's, since
//! documents often have the wrong ones behind proxies. So nothing that a document says leads to
//! another place, and neither does a redirect: it is followed to the same URL with or without a
//! slash or a version at its end, and to nothing else.
//!
//! What is no document (a page in HTML, a list of containers, an error) says nothing, and neither do
//! entries without a status, an id or a link to themselves. An empty link leads to the root itself.
//!
//! A question runs in a task of its own, outlives the request that caused it, and is shared by all
//! that need its answer. A service that is slow or broken costs those requests a bounded wait, and
//! then they go out as they came.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::Token;
use super::protocol::{MOST_REDIRECTS, is_version, redirect_path, version_entries, version_segment};
use crate::upstream::{self, BaseUrl};

/// How long an answer is believed, and how long it is that there was none.
const KNOWN: Duration = Duration::from_secs(600);
const UNKNOWN: Duration = Duration::from_secs(60);

/// How long a service that could not answer is left alone, doubling up to [`UNKNOWN`]; what it said
/// before counts until then.
const UNANSWERED: Duration = Duration::from_secs(1);

/// How long a service may take to answer, and a request wait for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// How many services are asked at a time.
const QUESTIONS: usize = 16;

/// The longest document that is read; real ones have a few KiB.
const LONGEST_DOCUMENT: usize = 256 << 10;

/// How many base URLs are remembered.
const MOST_URLS: u64 = 4096;

/// What a service's version document says. The default is a service without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Those that anybody may use, as the document has them.
    usable: Vec<Version>,
    /// The path segment of the one for those who ask for none.
    current: Option<Box<str>>,
}

/// One version of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    number: (u32, u32),
    standing: u8,
    /// `None` where it has no path of its own (placement).
    segment: Option<Box<str>>,
}

impl Versions {
    /// Reads a document in any of its shapes. `None` where the text is none.
    pub fn read(document: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(document).ok()?;
        let entries = match version_entries(&document) {
            Some(entries) => entries,
            // An older ironic answers with the bare entry, and without a status.
            None if document["id"].is_string() && document["links"].is_array() => {
                let version = Version::read(&document, 3)?;
                return Some(Self { current: version.segment.clone(), usable: vec![version] });
            }
            None => return None,
        };
        let usable: Vec<_> = entries
            .iter()
            .filter_map(|entry| Version::read(entry, standing(entry["status"].as_str()?)?))
            .collect();
        let current = usable.iter().max_by_key(|version| (version.standing, version.number));
        Some(Self { current: current.and_then(|version| version.segment.clone()), usable })
    }

    /// The path segment to put in for those who ask for no version: of those entries that are CURRENT or
    /// stable, else SUPPORTED, else DEPRECATED, the highest one's; or, of the `major` version, the
    /// highest one's, which is empty where that is at the root. `None` where the catalog's URL is to stay
    /// as it is.
    ///
    /// # Errors
    /// The service has other versions only: these.
    pub fn segment(&self, major: Option<u32>) -> Result<Option<&str>, Vec<String>> {
        let Some(major) = major.filter(|_| !self.usable.is_empty()) else {
            return Ok(self.current.as_deref());
        };
        let fits = self.usable.iter().filter(|version| version.number.0 == major);
        match fits.max_by_key(|version| version.number) {
            Some(version) => Ok(Some(version.segment.as_deref().unwrap_or_default())),
            None => Err(self.usable.iter().map(Version::to_string).collect()),
        }
    }

    /// Whether there is no version to be used, most likely since there is no document.
    pub fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }
}

impl Version {
    fn read(entry: &Value, standing: u8) -> Option<Self> {
        let id = entry["id"].as_str()?;
        let links = entry["links"].as_array()?;
        let is_self =
            |link: &&Value| link["rel"].as_str().is_some_and(|rel| rel.eq_ignore_ascii_case("self"));
        links.iter().find(is_self)?["href"].as_str()?;
        let segment = version_segment(entry).map(Box::from);
        Some(Self { number: number(id), standing, segment })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number.0, self.number.1)
    }
}

/// How good a version's status is; `None` for EXPERIMENTAL and whatever else there may be.
fn standing(status: &str) -> Option<u8> {
    match status.to_ascii_uppercase().as_str() {
        "CURRENT" | "STABLE" => Some(3),
        "SUPPORTED" => Some(2),
        "DEPRECATED" => Some(1),
        _ => None,
    }
}

/// `v2.17` as numbers; zero for what is none.
fn number(id: &str) -> (u32, u32) {
    let id = id.trim_start_matches('v');
    let (major, minor) = id.split_once('.').unwrap_or((id, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

/// Remembers the current versions of services. A clone shares what was found.
#[derive(Clone)]
pub struct Discovery {
    found: moka::sync::Cache<BaseUrl, Arc<Found>>,
    asking: Arc<Mutex<Asking>>,
    turns: Arc<Semaphore>,
    runtime: Handle,
}

/// The questions that are under way. A receiver whose sender is gone tells that its question is over.
type Asking = HashMap<BaseUrl, watch::Receiver<()>>;

/// What a service said, or that it did not.
struct Found {
    versions: Arc<Versions>,
    until: Instant,
    /// How often it could not answer since it last did.
    failures: u32,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("found", &self.found.entry_count()).finish_non_exhaustive()
    }
}

impl Discovery {
    /// Remembers nothing yet. Questions run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        let turns = Arc::new(Semaphore::new(QUESTIONS));
        Self { found: moka::sync::Cache::new(MOST_URLS), asking: Arc::default(), turns, runtime }
    }

    /// What is remembered of `base`, a service's URL without a version; `None` when it has to be asked.
    /// Asks nobody.
    pub fn known(&self, base: &BaseUrl) -> Option<Arc<Versions>> {
        let found = self.found.get(base).filter(|found| now() < found.until)?;
        Some(Arc::clone(&found.versions))
    }

    /// The versions below `base`. Callers that come together share one question; where the last answer
    /// named a version, nobody waits for the next.
    /// The service is asked without a token first, since most answer anyone, and once more with `token`
    /// if it wants one. Pass none for an endpoint that must not get it. `http` must be watched on the
    /// runtime that this was made with.
    pub async fn versions(
        &self,
        http: &upstream::Client,
        base: &BaseUrl,
        token: Option<&Arc<Token>>,
    ) -> Arc<Versions> {
        let (http, origin) = (http.clone(), base.origin().clone());
        self.versions_with(base, token, move |request| {
            let (http, origin) = (http.clone(), origin.clone());
            async move {
                let answer = http.fetch(&origin, request, LONGEST_DOCUMENT).await;
                answer.inspect_err(|error| tracing::debug!(%error, "no version document")).ok()
            }
        })
        .await
    }

    async fn versions_with<A, F>(&self, base: &BaseUrl, token: Option<&Arc<Token>>, ask: A) -> Arc<Versions>
    where
        A: Fn(Request<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = Option<Response<Bytes>>> + Send + 'static,
    {
        let mut answer = {
            let mut asking = lock(&self.asking);
            // Under the lock, since a question that ends is answered first and removed then.
            if let Some(known) = self.known(base) {
                return known;
            }
            match asking.get(base).filter(|answer| answer.has_changed().is_ok()) {
                Some(answer) => answer.clone(),
                None => {
                    let (ended, answer) = watch::channel(());
                    asking.insert(base.clone(), answer.clone());
                    self.runtime.spawn(self.clone().question(base.clone(), token.cloned(), ask, ended));
                    answer
                }
            }
        };
        let last = || self.found.get(base).map(|found| Arc::clone(&found.versions));
        if let Some(versions) = last().filter(|versions| !versions.is_empty()) {
            return versions;
        }
        // Nothing is ever sent: this waits for the end of the question, however it ends.
        let _ = answer.changed().await;
        last().unwrap_or_default()
    }

    /// One question's task.
    async fn question<A, F>(self, base: BaseUrl, token: Option<Arc<Token>>, ask: A, ended: watch::Sender<()>)
    where
        A: Fn(Request<Bytes>) -> F,
        F: Future<Output = Option<Response<Bytes>>>,
    {
        let asked = tokio::time::timeout(DEADLINE, async {
            let _turn = self.turns.acquire().await;
            discover(&base, token.as_ref(), ask).await
        });
        let outcome = asked.await.unwrap_or_else(|_| {
            tracing::debug!(%base, "no version document in time");
            Err(Unanswered)
        });
        let (versions, good_for, failures) = match outcome {
            Ok(versions) if versions.is_empty() => (Arc::default(), UNKNOWN, 0),
            Ok(versions) => (Arc::new(versions), KNOWN, 0),
            Err(Unanswered) => {
                let last = self.found.get(&base);
                let failures = last.as_ref().map_or(0, |found| found.failures);
                let wait = UNANSWERED.saturating_mul(1 << failures.min(16)).min(UNKNOWN);
                (last.map(|found| Arc::clone(&found.versions)).unwrap_or_default(), wait, failures + 1)
            }
        };
        let found = Found { versions, until: now() + good_for, failures };
        self.found.insert(base.clone(), Arc::new(found));
        lock(&self.asking).remove(&base);
        drop(ended);
    }
}

fn lock(asking: &Mutex<Asking>) -> MutexGuard<'_, Asking> {
    asking.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service is down, busy, or does not like the token: that says nothing about its versions.
struct Unanswered;

/// Looks for the document at the root, with a `/` at its end and, where there is no document at that,
/// without.
async fn discover<F: Future<Output = Option<Response<Bytes>>>>(
    base: &BaseUrl,
    token: Option<&Arc<Token>>,
    ask: impl Fn(Request<Bytes>) -> F,
) -> Result<Versions, Unanswered> {
    let path = base.path();
    let mut found = look(base, format!("{path}/"), token, &ask).await?;
    if found.is_none() && !path.is_empty() {
        // The service did answer, so whatever comes now is no reason to ask again soon.
        found = look(base, path.to_owned(), token, &ask).await.unwrap_or_default();
    }
    Ok(found.unwrap_or_default())
}

/// Asks once, or twice where a token is wanted; and where a redirect leads to, as far as that is below `base`.
async fn look<F: Future<Output = Option<Response<Bytes>>>>(
    base: &BaseUrl,
    mut path: String,
    token: Option<&Arc<Token>>,
    ask: &impl Fn(Request<Bytes>) -> F,
) -> Result<Option<Versions>, Unanswered> {
    for _ in 0..=MOST_REDIRECTS {
        let mut answer = ask(request(&path, None)).await.ok_or(Unanswered)?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(token) = token
        {
            answer = ask(request(&path, Some(token))).await.ok_or(Unanswered)?;
        }
        match answer.status() {
            StatusCode::OK | StatusCode::MULTIPLE_CHOICES => return Ok(Versions::read(answer.body())),
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => return Err(Unanswered),
            status if status.is_server_error() => return Err(Unanswered),
            _ => {}
        }
        match redirect_path(&answer, base.origin(), &path).filter(|next| is_of(base, next)) {
            Some(next) if next != path => path = next,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Whether a path is that of `base`, or of a version below it.
fn is_of(base: &BaseUrl, path: &str) -> bool {
    let rest = path.trim_end_matches('/').strip_prefix(base.path());
    rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('/').is_some_and(is_version))
}

fn request(path: &str, token: Option<&Arc<Token>>) -> Request<Bytes> {
    let mut request = Request::get(path).body(Bytes::new()).expect("a base URL's path was parsed as one");
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    for (name, value) in token.map_or(&[][..], |token| token.fields()) {
        request.headers_mut().insert(name.clone(), value.clone());
    }
    request
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystone::{Catalog, TokenId};

    #[track_caller]
    fn check(document: &str, expected: Option<&str>) {
        let versions = Versions::read(document.as_bytes()).unwrap_or_default();
        assert_eq!(versions.segment(None), Ok(expected), "{document}");
    }

    const GLANCE: &str = r#"{"versions": [
        {"id": "v2.16", "status": "SUPPORTED", "links": [{"rel": "self", "href": "http://127.0.0.1:9292/v2/"}]},
        {"id": "v2.17", "status": "CURRENT", "links": [{"rel": "self", "href": "http://127.0.0.1:9292/v2/"}]},
        {"id": "v2.7", "status": "SUPPORTED", "links": [{"rel": "self", "href": "http://127.0.0.1:9292/v2/"}]}]}"#;

    #[test]
    fn the_documents_of_real_services_lead_to_their_current_version() {
        // All of the 2026.1 release.
        check(GLANCE, Some("v2"));
        check(
            r#"{"versions": [{"id": "v2.0", "status": "CURRENT",
                "links": [{"rel": "self", "href": "http://127.0.0.1:9696/v2.0/"}]}]}"#,
            Some("v2.0"),
        );
        check(
            r#"{"versions": [
                {"id": "v2.0", "status": "DEPRECATED", "version": "", "min_version": "",
                    "links": [{"rel": "self", "href": "http://127.0.0.1:8774/v2/"}]},
                {"id": "v2.1", "status": "CURRENT", "version": "2.103", "min_version": "2.1",
                    "links": [{"rel": "self", "href": "http://127.0.0.1:8774/v2.1/"}]}]}"#,
            Some("v2.1"),
        );
        check(
            r#"{"versions": [{"id": "v3.0", "status": "CURRENT", "version": "3.71", "min_version": "3.0", "links": [
                {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
                {"rel": "self", "href": "http://127.0.0.1:8776/v3/"}]}]}"#,
            Some("v3"),
        );
        check(
            r#"{"versions": {"values": [{"id": "v3.14", "status": "stable",
                "links": [{"rel": "self", "href": "http://127.0.0.1:5000/v3/"}]}]}}"#,
            Some("v3"),
        );
        check(
            r#"{"versions": [{"id": "v1.0", "max_version": "1.39", "min_version": "1.0", "status": "CURRENT",
                "links": [{"rel": "self", "href": ""}]}]}"#,
            None,
        );
    }

    #[test]
    fn without_a_current_version_the_highest_supported_one_is_taken() {
        let entry = |id: &str, status: &str, path: &str| {
            format!(
                r#"{{"id": "{id}", "status": "{status}", "links": [{{"rel": "self", "href": "http://h/{path}"}}]}}"#
            )
        };
        let document = |entries: &[String]| format!(r#"{{"versions": [{}]}}"#, entries.join(","));
        let (old, two, ten) = (
            entry("v1", "DEPRECATED", "v1"),
            entry("v2.9", "SUPPORTED", "v2"),
            entry("v2.10", "SUPPORTED", "v10"),
        );
        let new = entry("v9", "EXPERIMENTAL", "v9");
        check(&document(&[two.clone(), ten, old.clone(), new.clone()]), Some("v10"));
        check(&document(&[old, two, new.clone()]), Some("v2"));
        check(&document(&[new]), None);
    }

    #[test]
    fn what_is_no_version_document_has_no_version() {
        for odd in
            ["", "<html>", "[]", "[{\"name\": \"c\"}]", "{}", "{\"versions\": {}}", "{\"versions\": [1]}"]
        {
            check(odd, None);
        }
        check(r#"{"versions": [{"id": "v1", "status": "CURRENT"}]}"#, None);
        let elsewhere = r#"{"version": {"id": "v1", "status": "CURRENT",
            "links": [{"rel": "self", "href": "http://evil.example/v1/../admin"}]}}"#;
        check(elsewhere, None);
    }

    /// A document with these versions: id, status, and the self link.
    fn document(entries: &[(&str, &str, &str)]) -> String {
        let entry = |(id, status, link): &(&str, &str, &str)| serde_json::json!({"id": id, "status": status, "links": [{"rel": "self", "href": link}]});
        serde_json::json!({"versions": entries.iter().map(entry).collect::<Vec<_>>()}).to_string()
    }

    // Promise 17.
    #[test]
    fn a_document_with_wrong_hosts_and_schemes_gives_nothing_but_a_segment() {
        for link in [
            "http://h/v2/",
            "https://evil.example:1/else/where/v2",
            "//other/v2",
            "/v2/",
            "v2",
            "http://10.0.0.1/v2/?a=/v9#/v8",
        ] {
            check(&document(&[("v2.1", "CURRENT", link)]), Some("v2"));
        }
        for link in
            ["http://h/v2/../admin", "http://h/v2%2F..%2Fadmin", "http://h/v2;x", "javascript:v2", "http://h"]
        {
            check(&document(&[("v2.1", "CURRENT", link)]), None);
        }
    }

    #[test]
    fn an_entry_without_a_link_to_itself_counts_for_nothing_and_an_empty_link_is_the_root() {
        let other =
            r#"{"id": "v3.0", "status": "CURRENT", "links": [{"rel": "self", "href": "http://h/v3"}]}"#;
        for broken in [
            r#"{"id": "v4.0", "status": "CURRENT"}"#,
            r#"{"id": "v4.0", "status": "CURRENT", "links": []}"#,
            r#"{"id": "v4.0", "status": "CURRENT", "links": {}}"#,
            r#"{"id": "v4.0", "status": "CURRENT", "links": [{"rel": "self"}]}"#,
            r#"{"id": "v4.0", "status": "CURRENT", "links": [{"rel": "describedby", "href": "http://h/v4"}]}"#,
            r#"{"id": "v4.0", "links": [{"rel": "self", "href": "http://h/v4"}]}"#,
            r#"{"status": "CURRENT", "links": [{"rel": "self", "href": "http://h/v4"}]}"#,
            r#"{"id": "v4.0", "status": "SHINY", "links": [{"rel": "self", "href": "http://h/v4"}]}"#,
            r#"{"id": "v4.0", "status": 1, "links": [{"rel": "self", "href": "http://h/v4"}]}"#,
            "null",
            "[]",
        ] {
            check(&format!(r#"{{"versions": [{broken}, {other}]}}"#), Some("v3"));
        }
        check(&document(&[("v4.0", "CURRENT", ""), ("v3.0", "SUPPORTED", "http://h/v3")]), None);
        let capital =
            r#"{"versions": [{"id": "v1", "status": "current", "links": [{"rel": "Self", "href": "v1"}]}]}"#;
        check(capital, Some("v1"));
    }

    #[test]
    fn every_shape_of_a_document_is_read() {
        let entry = r#"{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": "/v2.0/"}]}"#;
        check(&format!(r#"{{"versions": {{"values": [{entry}]}}}}"#), Some("v2.0"));
        check(&format!(r#"{{"versions": [{entry}]}}"#), Some("v2.0"));
        check(&format!(r#"{{"version": {entry}}}"#), Some("v2.0"));
        // An ironic of 2017, at /v1/.
        let ironic =
            r#"{"id": "v1", "links": [{"rel": "self", "href": "http://127.0.0.1:6385/v1/"}], "nodes": []}"#;
        check(ironic, Some("v1"));
        // What has an id is no document for that.
        check(r#"{"id": "5", "name": "box"}"#, None);
    }

    #[track_caller]
    fn check_major(document: &str, major: u32, expected: Result<Option<&str>, &[&str]>) {
        let versions = Versions::read(document.as_bytes()).unwrap_or_default();
        let expected = expected.map_err(|all| all.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        assert_eq!(versions.segment(Some(major)), expected, "{document} {major}");
    }

    #[test]
    fn the_highest_usable_version_of_a_major_one_is_found() {
        let nova = document(&[
            ("v2.0", "SUPPORTED", "http://h/v2/"),
            ("v2.1", "CURRENT", "http://h/v2.1/"),
            ("v2.2", "EXPERIMENTAL", "http://h/v2.2/"),
            ("v3", "DEPRECATED", "http://h/v3/"),
        ]);
        check_major(&nova, 2, Ok(Some("v2.1")));
        check_major(&nova, 3, Ok(Some("v3")));
        check_major(&nova, 1, Err(&["2.0", "2.1", "3.0"]));
        check_major(&document(&[("v1.0", "CURRENT", "")]), 1, Ok(Some("")));
        check_major("<html>", 2, Ok(None));
    }

    /// Answers from a list, and keeps whether a token came with each request.
    struct Service {
        answers: Mutex<Vec<(u16, &'static str)>>,
        asked: Mutex<Vec<(String, bool)>>,
    }

    impl Service {
        fn new(answers: &[(u16, &'static str)]) -> Arc<Self> {
            Arc::new(Self { answers: Mutex::new(answers.to_vec()), asked: Mutex::default() })
        }

        async fn ask(&self, request: Request<Bytes>) -> Option<Response<Bytes>> {
            tokio::task::yield_now().await;
            let with_token = request.headers().contains_key("x-auth-token");
            self.asked.lock().unwrap().push((request.uri().to_string(), with_token));
            let mut answers = self.answers.lock().unwrap();
            let (status, body) = if answers.is_empty() { return None } else { answers.remove(0) };
            let mut answer = Response::builder().status(status);
            if status < 400 && status > 300 {
                answer = answer.header("location", body);
            }
            Some(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
        }

        fn asked(&self) -> usize {
            self.asked.lock().unwrap().len()
        }
    }

    fn base() -> BaseUrl {
        BaseUrl::parse("http://127.0.0.1:9292/image").unwrap()
    }

    fn discovery() -> Discovery {
        Discovery::new(Handle::current())
    }

    async fn ask(
        discovery: &Discovery,
        service: &Arc<Service>,
        token: Option<&Arc<Token>>,
    ) -> Option<String> {
        let service = Arc::clone(service);
        let ask = move |request| {
            let service = Arc::clone(&service);
            async move { service.ask(request).await }
        };
        discovery.versions_with(&base(), token, ask).await.current.as_deref().map(str::to_owned)
    }

    /// Lets every task go as far as it gets without time passing.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_and_remembered_for_ten_minutes() {
        let service = Service::new(&[(300, GLANCE), (404, ""), (404, ""), (200, GLANCE)]);
        let discovery = discovery();
        let v2 = Some("v2".to_owned());
        let both =
            || async { tokio::join!(ask(&discovery, &service, None), ask(&discovery, &service, None)) };
        assert_eq!(both().await, (v2.clone(), v2.clone()));
        assert_eq!(*service.asked.lock().unwrap(), [("/image/".to_owned(), false)]);
        assert_eq!(discovery.known(&base()).unwrap().current.as_deref(), Some("v2"));

        tokio::time::advance(KNOWN).await;
        assert!(discovery.known(&base()).is_none());
        assert_eq!(both().await, (v2.clone(), v2.clone()), "nobody waits for the news");
        settle().await;
        assert_eq!((both().await, service.asked()), ((None, None), 3));
        assert_eq!(discovery.known(&base()), Some(Arc::default()), "that there is none is remembered too");
        tokio::time::advance(UNKNOWN).await;
        assert_eq!(both().await, (v2.clone(), v2));
        assert!(lock(&discovery.asking).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_could_not_answer_is_asked_again_soon_and_its_last_word_counts() {
        for (status, body) in [(500, ""), (503, GLANCE), (429, ""), (401, "")] {
            let service =
                Service::new(&[(status, body), (200, GLANCE), (status, body), (404, ""), (404, "")]);
            let discovery = discovery();
            assert_eq!(ask(&discovery, &service, None).await, None, "{status}");
            assert_eq!((ask(&discovery, &service, None).await, service.asked()), (None, 1));
            tokio::time::advance(UNANSWERED).await;
            assert_eq!(ask(&discovery, &service, None).await.as_deref(), Some("v2"));
            tokio::time::advance(KNOWN).await;
            for _ in 0..3 {
                assert_eq!(ask(&discovery, &service, None).await.as_deref(), Some("v2"));
                settle().await;
            }
            assert_eq!(service.asked(), 3);
            tokio::time::advance(UNANSWERED).await;
            ask(&discovery, &service, None).await;
            settle().await;
            assert_eq!(ask(&discovery, &service, None).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_never_answers_is_asked_ever_more_rarely() {
        let service = Service::new(&[]);
        let discovery = discovery();
        let started = now();
        while now() - started < Duration::from_secs(600) {
            assert_eq!(ask(&discovery, &service, None).await, None);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // After 1, 2, 4 ... 60, 60 s.
        assert!((10..=16).contains(&service.asked()), "{}", service.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_does_not_take_the_question_with_it() {
        let service = Service::new(&[(200, GLANCE)]);
        let discovery = discovery();
        let impatient = tokio::time::timeout(Duration::ZERO, ask(&discovery, &service, None)).await;
        assert!(impatient.is_err());
        assert_eq!(ask(&discovery, &service, None).await.as_deref(), Some("v2"));
        assert_eq!(service.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_service_costs_a_bounded_wait_and_a_question_that_panics_none_for_ever() {
        let discovery = discovery();
        let started = now();
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let discovery = discovery.clone();
            crowd.spawn(
                async move { discovery.versions_with(&base(), None, |_| std::future::pending()).await },
            );
        }
        assert!(crowd.join_all().await.iter().all(|versions| versions.is_empty()));
        assert_eq!(now() - started, DEADLINE);

        tokio::time::advance(UNANSWERED).await;
        let broken = |_| async { panic!("a defect") };
        assert!(discovery.versions_with(&base(), None, broken).await.is_empty());
        let service = Service::new(&[(200, GLANCE)]);
        assert_eq!(ask(&discovery, &service, None).await.as_deref(), Some("v2"));
    }

    // Promise 17.
    #[tokio::test(start_paused = true)]
    async fn a_redirect_is_followed_within_the_url_and_nowhere_else() {
        let id = TokenId::new("t").unwrap();
        let token = Arc::new(Token::fixed(id, Catalog::default(), now()));
        for (location, target) in [
            ("/image/v2/", "/image/v2/"),
            ("v2", "/image/v2"),
            ("http://127.0.0.1:9292/image", "/image"),
            ("//127.0.0.1:9292/image/v2", "/image/v2"),
        ] {
            let service = Service::new(&[(302, location), (401, ""), (200, GLANCE)]);
            assert_eq!(ask(&discovery(), &service, Some(&token)).await.as_deref(), Some("v2"), "{location}");
            let asked = [("/image/", false), (target, false), (target, true)];
            let asked = asked.map(|(path, token)| (path.to_owned(), token));
            assert_eq!(*service.asked.lock().unwrap(), asked, "{location}");
        }
        for elsewhere in [
            "http://evil.example:9292/image/v2",
            "https://127.0.0.1:9292/image/v2",
            "http://127.0.0.1:9293/image/v2",
            "//evil.example/image/v2",
            "http://u:p@127.0.0.1:9292/image/v2",
            "/compute/v2",
            "/image2/v2",
            "/image/v2/images",
            "/image/../compute/v2",
            "v2?x=y",
            "/image/",
            "",
        ] {
            let service = Service::new(&[(307, elsewhere), (404, ""), (200, GLANCE)]);
            assert_eq!(ask(&discovery(), &service, Some(&token)).await, None, "{elsewhere}");
            let asked = [("/image/".to_owned(), false), ("/image".to_owned(), false)];
            assert_eq!(*service.asked.lock().unwrap(), asked, "{elsewhere}");
        }
        let round = [(301, "/image/v1"), (301, "/image/v2")].repeat(20);
        let service = Service::new(&round);
        assert_eq!(ask(&discovery(), &service, Some(&token)).await, None);
        assert_eq!(service.asked(), 2 * (1 + MOST_REDIRECTS), "with a slash at the end, and without");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_sent_only_where_it_is_asked_for_and_allowed() {
        let id = TokenId::new("t").unwrap();
        let token = Arc::new(Token::fixed(id, Catalog::default(), now()));
        let service = Service::new(&[(401, ""), (200, GLANCE)]);
        assert_eq!(ask(&discovery(), &service, Some(&token)).await.as_deref(), Some("v2"));
        let tokens: Vec<_> = service.asked.lock().unwrap().iter().map(|(_, token)| *token).collect();
        assert_eq!(tokens, [false, true]);

        let service = Service::new(&[(401, ""), (200, GLANCE)]);
        assert_eq!((ask(&discovery(), &service, None).await, service.asked()), (None, 1));

        for (status, body) in [(302, ""), (200, "<html>"), (404, GLANCE)] {
            let service = Service::new(&[(status, body), (status, body), (200, GLANCE)]);
            assert_eq!(ask(&discovery(), &service, Some(&token)).await, None, "{status}");
            let asked = [("/image/".to_owned(), false), ("/image".to_owned(), false)];
            assert_eq!(*service.asked.lock().unwrap(), asked, "{status}");
        }
    }
}
