//! What was asked? The head of a request, the parameters of its query, and the page it wants.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// A request without its body.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// Scheme, host and port as the client wrote them: links in answers begin like that.
    pub(super) base: String,
}

impl Call {
    pub(super) fn new(head: &Parts) -> Self {
        let host = head.uri.authority().map(|authority| authority.as_str());
        let host = host.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or("localhost");
        Self {
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers.clone(),
            base: format!("http://{host}"),
        }
    }

    /// The segments of the path, without empty ones.
    pub(super) fn parts(&self) -> Vec<&str> {
        self.path.split('/').filter(|part| !part.is_empty()).collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A parameter of the query, decoded. The first one counts.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        self.query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
    }

    /// The path and query of the page that starts after `marker`.
    pub(super) fn next_page(&self, limit: usize, marker: &str) -> String {
        let kept = self.query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !matches!(name, "" | "limit" | "marker" | "page_reverse")
        });
        let query: String = kept.map(|pair| format!("{pair}&")).collect();
        format!("{}?{query}limit={limit}&marker={marker}", self.path)
    }

    /// Cuts one page out of a list, with the `limit` and `marker` of the query. Also tells the marker of
    /// the next page; there may be one whenever this page is full, as with the real services. The error is
    /// a marker that is not in the list.
    pub(super) fn paginate(&self, items: Vec<Value>, most: usize) -> Result<Page, String> {
        let limit = self.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(most).min(most);
        let mut start = 0;
        if let Some(marker) = self.parameter("marker") {
            let found = items.iter().position(|item| item["id"] == marker.as_str());
            start = found.ok_or(marker)? + 1;
        }
        let items: Vec<_> = items.into_iter().skip(start).take(limit).collect();
        let last = items.last().and_then(|item| item["id"].as_str());
        let next = last.filter(|_| items.len() == limit).map(|last| self.next_page(limit, last));
        Ok(Page { items, next })
    }
}

pub(super) struct Page {
    pub(super) items: Vec<Value>,
    /// Path and query.
    pub(super) next: Option<String>,
}

impl Page {
    /// `{"servers": [..], "servers_links": [{"rel": "next", ..}]}`, as nova, cinder and neutron write it.
    pub(super) fn with_links(self, call: &Call, name: &str) -> Value {
        let mut page = json!({ name: self.items });
        if let Some(next) = self.next {
            let href = format!("{}{next}", call.base);
            page[format!("{name}_links")] = json!([{"rel": "next", "href": href}]);
        }
        page
    }
}
