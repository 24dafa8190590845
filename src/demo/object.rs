//! Objects that stay as long as the cloud runs: swift.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;

use super::call::Call;
use super::content::{Collector, Data, Part, Upload};
use super::reply::{self, Answer, Reply, With, swift_message, swift_page};
use super::{Shared, microseconds};

#[derive(Default)]
pub(super) struct State {
    /// By project.
    accounts: HashMap<&'static str, Account>,
    /// Bytes of all objects, those that are being uploaded included.
    kept: u64,
}

#[derive(Default)]
struct Account {
    meta: HeaderMap,
    containers: BTreeMap<String, Container>,
}

struct Container {
    created: Timestamp,
    meta: HeaderMap,
    objects: BTreeMap<String, Object>,
}

#[derive(Clone)]
struct Object {
    data: Data,
    size: u64,
    etag: String,
    content_type: HeaderValue,
    modified: Timestamp,
    meta: HeaderMap,
}

impl Container {
    fn bytes(&self) -> u64 {
        self.objects.values().map(|object| object.size).sum()
    }
}

impl State {
    #[cfg(test)]
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    fn container(&mut self, project: &str, name: &str) -> Option<&mut Container> {
        self.accounts.get_mut(project)?.containers.get_mut(name)
    }

    /// Stores what was reserved before, and gives the room of what it replaces back.
    fn put(&mut self, project: &str, container: &str, name: String, object: Object) -> bool {
        let Some(container) = self.container(project, container) else {
            return false;
        };
        if let Some(old) = container.objects.insert(name, object) {
            self.kept -= old.size;
        }
        true
    }
}

/// Room for an upload. It is given back unless the object was stored.
struct Room<'a> {
    cloud: &'a Shared,
    bytes: u64,
}

impl Room<'_> {
    fn grow(&mut self, bytes: u64) -> bool {
        let kept = &mut self.cloud.state().objects.kept;
        let fits = *kept + bytes <= self.cloud.config.object_limit;
        if fits {
            *kept += bytes;
            self.bytes += bytes;
        }
        fits
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.cloud.state().objects.kept -= self.bytes;
    }
}

/// `/info`, which needs no token.
pub(super) fn info(call: &Call) -> Option<Reply> {
    let info = json!({"swift": {"version": "2.37.4", "max_file_size": 5_368_709_122_u64,
        "container_listing_limit": 10000, "max_object_name_length": 1024}});
    (call.path == "/info").then(|| reply::ok(&info))
}

pub(super) async fn serve(cloud: &Shared, call: &Call, project: &'static str, body: &mut Upload) -> Answer {
    // The name of an object is all that follows the container, empty segments included.
    let mut parts = call.path.splitn(5, '/').skip(1);
    let (version, account) = (parts.next(), parts.next().unwrap_or_default());
    if version != Some("v1") || account.is_empty() {
        return Err(no(StatusCode::NOT_FOUND));
    }
    if account != format!("AUTH_{project}") {
        return Err(no(StatusCode::FORBIDDEN));
    }
    let mut name = || -> Result<String, Box<Reply>> {
        let decoded = percent_decode_str(parts.next().unwrap_or_default()).decode_utf8();
        decoded.ok().filter(|name| !name.contains('\0')).map(|name| name.into_owned()).ok_or_else(|| {
            Box::new(swift_message(StatusCode::PRECONDITION_FAILED, "Invalid UTF8 or contains NULL"))
        })
    };
    let (container, object) = (name()?, name()?);
    match (container.is_empty(), object.is_empty()) {
        (true, _) => serve_account(cloud, call, project),
        (false, true) => serve_container(cloud, call, project, container),
        (false, false) => serve_object(cloud, call, project, &container, object, body).await,
    }
}

fn no(status: StatusCode) -> Box<Reply> {
    Box::new(swift_page(status))
}

fn done(status: StatusCode) -> Answer {
    Ok(reply::empty(status))
}

fn serve_account(cloud: &Shared, call: &Call, project: &'static str) -> Answer {
    let mut state = cloud.state();
    let account = state.objects.accounts.entry(project).or_default();
    match call.method.as_str() {
        "GET" | "HEAD" => {
            let objects: usize = account.containers.values().map(|container| container.objects.len()).sum();
            let rows = account.containers.iter().map(|(name, container)| Row {
                name: name.clone(),
                json: json!({"name": name, "count": container.objects.len(), "bytes": container.bytes(),
                             "last_modified": microseconds(container.created)}),
            });
            let bytes: u64 = account.containers.values().map(Container::bytes).sum();
            let reply = list(call, rows.collect())
                .with("x-account-container-count", account.containers.len())
                .with("x-account-object-count", objects)
                .with("x-account-bytes-used", bytes);
            Ok(with_all(reply, &account.meta))
        }
        "POST" => {
            merge(&mut account.meta, call, "x-account-meta-");
            done(StatusCode::NO_CONTENT)
        }
        _ => Err(no(StatusCode::METHOD_NOT_ALLOWED)),
    }
}

fn serve_container(cloud: &Shared, call: &Call, project: &'static str, name: String) -> Answer {
    let mut state = cloud.state();
    let containers = &mut state.objects.accounts.entry(project).or_default().containers;
    if call.method == "PUT" {
        let status = if containers.contains_key(&name) { StatusCode::ACCEPTED } else { StatusCode::CREATED };
        let container = containers.entry(name).or_insert_with(|| Container {
            created: Timestamp::now(),
            meta: HeaderMap::new(),
            objects: BTreeMap::new(),
        });
        merge(&mut container.meta, call, "x-container-");
        return if status == StatusCode::CREATED { done(status) } else { Ok(swift_page(status)) };
    }
    let container = containers.get_mut(&name).ok_or_else(|| no(StatusCode::NOT_FOUND))?;
    match call.method.as_str() {
        "GET" | "HEAD" => {
            let rows = container.objects.iter().map(|(name, object)| Row {
                name: name.clone(),
                json: json!({"name": name, "bytes": object.size, "hash": object.etag,
                             "content_type": object.content_type.to_str().unwrap_or_default(),
                             "last_modified": microseconds(object.modified)}),
            });
            let reply = list(call, rows.collect())
                .with("x-container-object-count", container.objects.len())
                .with("x-container-bytes-used", container.bytes())
                .with("x-storage-policy", "Policy-0");
            Ok(with_all(reply, &container.meta))
        }
        "POST" => {
            merge(&mut container.meta, call, "x-container-");
            done(StatusCode::NO_CONTENT)
        }
        "DELETE" if !container.objects.is_empty() => Err(no(StatusCode::CONFLICT)),
        "DELETE" => {
            containers.remove(&name);
            done(StatusCode::NO_CONTENT)
        }
        _ => Err(no(StatusCode::METHOD_NOT_ALLOWED)),
    }
}

async fn serve_object(
    cloud: &Shared,
    call: &Call,
    project: &'static str,
    container: &str,
    name: String,
    body: &mut Upload,
) -> Answer {
    if call.method == "PUT" {
        return upload(cloud, call, project, container, name, body).await;
    }
    let mut state = cloud.state();
    let objects = &mut state.objects;
    let known = objects.container(project, container).ok_or_else(|| no(StatusCode::NOT_FOUND))?;
    let object = known.objects.get_mut(&name).ok_or_else(|| no(StatusCode::NOT_FOUND))?;
    match call.method.as_str() {
        "GET" | "HEAD" => Ok(download(call, object)),
        "POST" => {
            object.meta = object_meta(&call.headers);
            if let Some(content_type) = call.headers.get("content-type") {
                object.content_type = content_type.clone();
            }
            Ok(swift_page(StatusCode::ACCEPTED))
        }
        "DELETE" => {
            let size = object.size;
            known.objects.remove(&name);
            objects.kept -= size;
            done(StatusCode::NO_CONTENT)
        }
        "COPY" => {
            let mut copy = object.clone();
            drop(state);
            copy.modified = Timestamp::now();
            let fresh =
                call.header("x-fresh-metadata").is_some_and(|fresh| fresh.eq_ignore_ascii_case("true"));
            if fresh {
                copy.meta.clear();
            }
            copy.meta.extend(object_meta(&call.headers));
            let destination =
                call.header("destination").and_then(|path| path.trim_start_matches('/').split_once('/'));
            let Some((to, to_name)) = destination else {
                let message = "Destination header must be of the form <container name>/<object name>";
                return Ok(swift_message(StatusCode::PRECONDITION_FAILED, message));
            };
            let decode = |name| percent_decode_str(name).decode_utf8_lossy().into_owned();
            let source = utf8_percent_encode(&name, NON_ALPHANUMERIC).to_string().replace("%2F", "/");
            store(cloud, project, &decode(to), decode(to_name), copy, Room { cloud, bytes: 0 }, true)
                .map(|reply| reply.with("x-copied-from", format_args!("{container}/{source}")))
        }
        _ => Err(no(StatusCode::METHOD_NOT_ALLOWED)),
    }
}

async fn upload(
    cloud: &Shared,
    call: &Call,
    project: &'static str,
    container: &str,
    name: String,
    body: &mut Upload,
) -> Answer {
    let too_large = || {
        let limit = cloud.config.object_limit;
        let message = format!("The demo cloud keeps {limit} bytes of objects at most.");
        Box::new(swift_message(StatusCode::PAYLOAD_TOO_LARGE, &message))
    };
    // What can be said without the body is said before it is read.
    if cloud.state().objects.container(project, container).is_none() {
        return Err(no(StatusCode::NOT_FOUND));
    }
    let expected = call.header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<u64>().ok());
    if expected.is_some_and(|length| length > cloud.config.object_limit) {
        return Err(too_large());
    }
    let mut room = Room { cloud, bytes: 0 };
    let mut content = Collector::default();
    loop {
        match body.chunk().await {
            Ok(Some(chunk)) if room.grow(chunk.len() as u64) => content.push(&chunk),
            Ok(Some(_)) => return Err(too_large()),
            Ok(None) => break,
            Err(_) => return Err(no(StatusCode::BAD_REQUEST)),
        }
    }
    let size = content.length();
    let (data, etag) = content.finish();
    if call.header(ETAG.as_str()).is_some_and(|wanted| wanted.trim_matches('"') != etag) {
        return Err(no(StatusCode::UNPROCESSABLE_ENTITY));
    }
    let content_type = call.headers.get("content-type").cloned();
    let object = Object {
        data,
        size,
        etag,
        content_type: content_type.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream")),
        modified: Timestamp::now(),
        meta: object_meta(&call.headers),
    };
    store(cloud, project, container, name, object, room, false)
}

fn store(
    cloud: &Shared,
    project: &'static str,
    container: &str,
    name: String,
    object: Object,
    mut room: Room<'_>,
    grows: bool,
) -> Answer {
    if grows && !room.grow(object.size) {
        let message = "The demo cloud has no room for another copy.";
        return Ok(swift_message(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    let reply = reply::empty(StatusCode::CREATED)
        .with("etag", &object.etag)
        .with("last-modified", http_date(object.modified));
    if !cloud.state().objects.put(project, container, name, object) {
        return Err(no(StatusCode::NOT_FOUND));
    }
    room.bytes = 0;
    Ok(reply)
}

fn download(call: &Call, object: &Object) -> Reply {
    let part = Part::of(&call.headers, object.size);
    let matches = |etags: &str| {
        etags
            .split(',')
            .any(|etag| matches!(etag.trim(), "*") || etag.trim().trim_matches('"') == object.etag)
    };
    let mut reply = match part {
        _ if call.header(IF_NONE_MATCH.as_str()).is_some_and(matches) => {
            reply::empty(StatusCode::NOT_MODIFIED)
        }
        Part::Unsatisfiable => swift_page(StatusCode::RANGE_NOT_SATISFIABLE)
            .with("content-range", format_args!("bytes */{}", object.size)),
        Part::Slice(start, end) => {
            let mut reply = reply::empty(StatusCode::PARTIAL_CONTENT)
                .with("content-range", format_args!("bytes {start}-{}/{}", end - 1, object.size));
            *reply.body_mut() = object.data.body(start, end);
            reply
        }
        Part::Whole => {
            let mut reply = reply::empty(StatusCode::OK);
            *reply.body_mut() = object.data.body(0, object.size);
            if object.size == 0 {
                reply = reply.with("content-length", 0);
            }
            reply
        }
    };
    if reply.status() != StatusCode::RANGE_NOT_SATISFIABLE {
        reply.headers_mut().insert("content-type", object.content_type.clone());
    }
    let modified = object.modified;
    let timestamp = format!("{}.{:05}", modified.as_second(), modified.subsec_nanosecond() / 10_000);
    let reply = reply
        .with("etag", &object.etag)
        .with("last-modified", http_date(modified))
        .with("x-timestamp", timestamp)
        .with("accept-ranges", "bytes");
    with_all(reply, &object.meta)
}

fn http_date(time: Timestamp) -> String {
    httpdate::fmt_http_date(SystemTime::from(time))
}

fn with_all(mut reply: Reply, headers: &HeaderMap) -> Reply {
    reply.headers_mut().extend(headers.clone());
    reply
}

fn object_meta(headers: &HeaderMap) -> HeaderMap {
    let kept = |name: &HeaderName| {
        name.as_str().starts_with("x-object-meta-")
            || matches!(name.as_str(), "content-encoding" | "content-disposition" | "x-delete-at")
    };
    headers.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Metadata of accounts and containers is changed one by one; an empty value takes it away.
fn merge(meta: &mut HeaderMap, call: &Call, prefix: &str) {
    for (name, value) in &call.headers {
        if !name.as_str().starts_with(prefix) {
            continue;
        }
        if value.is_empty() {
            meta.remove(name);
        } else {
            meta.insert(name.clone(), value.clone());
        }
    }
}

struct Row {
    name: String,
    json: serde_json::Value,
}

/// A page of names, in byte order: with `prefix`, after `marker`, before `end_marker`, and cut at the
/// first `delimiter`.
fn list(call: &Call, rows: Vec<Row>) -> Reply {
    let parameter = |name: &str| call.parameter(name).unwrap_or_default();
    let (prefix, marker, end) = (parameter("prefix"), parameter("marker"), parameter("end_marker"));
    let delimiter = parameter("delimiter");
    let limit = call.parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10_000).min(10_000);
    let mut page: Vec<Row> = Vec::new();
    for row in rows {
        if page.len() == limit {
            break;
        }
        if !row.name.starts_with(&prefix) || row.name <= marker || !end.is_empty() && row.name >= end {
            continue;
        }
        let below = &row.name[prefix.len()..];
        match below.find(&delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => {
                let name = row.name[..prefix.len() + at + delimiter.len()].to_owned();
                // A folder that the marker names was on the page before, with all that is in it.
                if name != marker && page.last().is_none_or(|last| last.name != name) {
                    page.push(Row { json: json!({"subdir": name}), name });
                }
            }
            None => page.push(row),
        }
    }
    let accepts_json = call.header("accept").is_some_and(|accept| accept.contains("application/json"));
    if parameter("format") == "json" || parameter("format").is_empty() && accepts_json {
        let items: Vec<_> = page.into_iter().map(|row| row.json).collect();
        let body = serde_json::Value::from(items).to_string();
        return reply::reply(StatusCode::OK, "application/json; charset=utf-8", body);
    }
    let text: String = page.into_iter().map(|row| row.name + "\n").collect();
    let status =
        if text.is_empty() || call.method == "HEAD" { StatusCode::NO_CONTENT } else { StatusCode::OK };
    let text = if status == StatusCode::OK { text } else { String::new() };
    reply::reply(status, "text/plain; charset=utf-8", text)
}
