//! Which version is current where the catalog names none?
//!
//! Many catalogs hold unversioned URLs. The service's own version document, at the root of such a
//! URL, says which path segment the current version has. Only that segment is taken from it: scheme,
//! host and path stay the catalog's, since documents often have the wrong ones behind proxies.
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
use super::protocol::{version_entries, version_segment};
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

/// The path segment of the current version, from a service's version document: of those entries that
/// are CURRENT or stable, else SUPPORTED, else DEPRECATED, the highest one. `None` where the text is
/// no such document, or where the version has no path of its own (placement).
pub fn current_version(document: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(document).ok()?;
    let best = version_entries(&document)?
        .iter()
        .filter_map(|entry| Some((standing(entry["status"].as_str()?)?, number(entry), entry)))
        .max_by_key(|(standing, number, _)| (*standing, *number))?;
    version_segment(best.2).map(str::to_owned)
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
fn number(entry: &Value) -> (u32, u32) {
    let id = entry["id"].as_str().unwrap_or_default().trim_start_matches('v');
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
    segment: Option<Arc<str>>,
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

    /// What is remembered of `base`: `None` when it has to be asked, `Some(None)` when it has no
    /// version to put in. Asks nobody.
    pub fn known(&self, base: &BaseUrl) -> Option<Option<Arc<str>>> {
        let found = self.found.get(base).filter(|found| now() < found.until)?;
        Some(found.segment.clone())
    }

    /// The path segment of the current version below `base`, where there is one. Callers that come
    /// together share one question; where the last answer named a version, nobody waits for the next.
    /// The service is asked without a token first, since most answer anyone, and once more with `token`
    /// if it wants one. Pass none for an endpoint that must not get it. `http` must be watched on the
    /// runtime that this was made with.
    pub async fn current(
        &self,
        http: &upstream::Client,
        base: &BaseUrl,
        token: Option<&Arc<Token>>,
    ) -> Option<Arc<str>> {
        let (http, origin) = (http.clone(), base.origin().clone());
        self.current_with(base, token, move |request| {
            let (http, origin) = (http.clone(), origin.clone());
            async move {
                let answer = http.fetch(&origin, request, LONGEST_DOCUMENT).await;
                answer.inspect_err(|error| tracing::debug!(%error, "no version document")).ok()
            }
        })
        .await
    }

    async fn current_with<A, F>(&self, base: &BaseUrl, token: Option<&Arc<Token>>, ask: A) -> Option<Arc<str>>
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
        let last = || self.found.get(base).and_then(|found| found.segment.clone());
        if let Some(segment) = last() {
            return Some(segment);
        }
        // Nothing is ever sent: this waits for the end of the question, however it ends.
        let _ = answer.changed().await;
        last()
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
        let (segment, good_for, failures) = match outcome {
            Ok(Some(segment)) => (Some(Arc::from(segment)), KNOWN, 0),
            Ok(None) => (None, UNKNOWN, 0),
            Err(Unanswered) => {
                let last = self.found.get(&base);
                let failures = last.as_ref().map_or(0, |found| found.failures);
                let wait = UNANSWERED.saturating_mul(1 << failures.min(16)).min(UNKNOWN);
                (last.and_then(|found| found.segment.clone()), wait, failures + 1)
            }
        };
        let found = Found { segment, until: now() + good_for, failures };
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

/// Asks once, or twice where a token is wanted.
async fn discover<F: Future<Output = Option<Response<Bytes>>>>(
    base: &BaseUrl,
    token: Option<&Arc<Token>>,
    ask: impl Fn(Request<Bytes>) -> F,
) -> Result<Option<String>, Unanswered> {
    let mut answer = ask(request(base, None)).await.ok_or(Unanswered)?;
    if answer.status() == StatusCode::UNAUTHORIZED
        && let Some(token) = token
    {
        answer = ask(request(base, Some(token))).await.ok_or(Unanswered)?;
    }
    match answer.status() {
        StatusCode::OK | StatusCode::MULTIPLE_CHOICES => Ok(current_version(answer.body())),
        StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => Err(Unanswered),
        status if status.is_server_error() => Err(Unanswered),
        _ => Ok(None),
    }
}

fn request(base: &BaseUrl, token: Option<&Arc<Token>>) -> Request<Bytes> {
    let mut request = Request::get(format!("{}/", base.path()))
        .body(Bytes::new())
        .expect("a base URL's path was parsed as one");
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
        assert_eq!(current_version(document.as_bytes()).as_deref(), expected, "{document}");
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
            Some(Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
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
        discovery.current_with(&base(), token, ask).await.as_deref().map(str::to_owned)
    }

    /// Lets every task go as far as it gets without time passing.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_and_remembered_for_ten_minutes() {
        let service = Service::new(&[(300, GLANCE), (404, ""), (200, GLANCE)]);
        let discovery = discovery();
        let v2 = Some("v2".to_owned());
        let both =
            || async { tokio::join!(ask(&discovery, &service, None), ask(&discovery, &service, None)) };
        assert_eq!(both().await, (v2.clone(), v2.clone()));
        assert_eq!(*service.asked.lock().unwrap(), [("/image/".to_owned(), false)]);
        assert_eq!(discovery.known(&base()).flatten().as_deref(), Some("v2"));

        tokio::time::advance(KNOWN).await;
        assert!(discovery.known(&base()).is_none());
        assert_eq!(both().await, (v2.clone(), v2.clone()), "nobody waits for the news");
        settle().await;
        assert_eq!((both().await, service.asked()), ((None, None), 2));
        assert_eq!(discovery.known(&base()), Some(None), "that there is none is remembered too");
        tokio::time::advance(UNKNOWN).await;
        assert_eq!(both().await, (v2.clone(), v2));
        assert!(lock(&discovery.asking).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_could_not_answer_is_asked_again_soon_and_its_last_word_counts() {
        for (status, body) in [(500, ""), (503, GLANCE), (429, ""), (401, "")] {
            let service = Service::new(&[(status, body), (200, GLANCE), (status, body), (404, "")]);
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
                async move { discovery.current_with(&base(), None, |_| std::future::pending()).await },
            );
        }
        assert!(crowd.join_all().await.iter().all(Option::is_none));
        assert_eq!(now() - started, DEADLINE);

        tokio::time::advance(UNANSWERED).await;
        let broken = |_| async { panic!("a defect") };
        assert_eq!(discovery.current_with(&base(), None, broken).await, None);
        let service = Service::new(&[(200, GLANCE)]);
        assert_eq!(ask(&discovery, &service, None).await.as_deref(), Some("v2"));
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
            let service = Service::new(&[(status, body), (200, GLANCE)]);
            assert_eq!(
                (ask(&discovery(), &service, Some(&token)).await, service.asked()),
                (None, 1),
                "{status}"
            );
        }
    }
}
