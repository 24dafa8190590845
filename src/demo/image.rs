//! Images that can be uploaded and downloaded: glance, v2.

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::{Collector, Data, Part, Upload};
use super::reply::{self, Answer, Reply, With, json, no_such_path, ok, page};
use super::{Shared, seconds, uuid, uuid_of};

pub(super) struct Image {
    /// As it is answered.
    fields: Value,
    data: Option<Data>,
}

impl Image {
    fn new(id: String, owner: &str, given: &Value) -> Self {
        let now = seconds(Timestamp::now());
        let mut fields = json!({
            "name": null, "disk_format": null, "container_format": null, "visibility": "shared", "size": null,
            "virtual_size": null, "status": "queued", "checksum": null, "protected": false, "min_ram": 0,
            "min_disk": 0, "owner": owner, "os_hidden": false, "os_hash_algo": null, "os_hash_value": null,
            "created_at": now, "updated_at": now, "tags": [], "schema": "/v2/schemas/image",
        });
        for (name, value) in given.as_object().into_iter().flatten() {
            fields[name] = value.clone();
        }
        let id = fields["id"].as_str().map_or(id, str::to_owned);
        fields["self"] = format!("/v2/images/{id}").into();
        fields["file"] = format!("/v2/images/{id}/file").into();
        fields["id"] = id.into();
        Self { fields, data: None }
    }

    pub(super) fn id(&self) -> &str {
        self.fields["id"].as_str().unwrap_or_default()
    }

    pub(super) fn is_visible_to(&self, project: &str) -> bool {
        self.fields["visibility"] == "public" || self.fields["owner"] == project
    }

    fn fill(&mut self, data: Data, size: u64, checksum: &str) {
        self.fields["size"] = size.into();
        self.fields["virtual_size"] = size.into();
        self.fields["checksum"] = checksum.into();
        self.fields["status"] = "active".into();
        self.fields["updated_at"] = seconds(Timestamp::now()).into();
        self.data = Some(data);
    }
}

/// A region's own images. `blank-1g` is a disk of zeros, which takes no memory here and time to download.
pub(super) fn seed(region: &str) -> Vec<Image> {
    let image = |name: &str, data: Data, size, checksum: &str| {
        let given = json!({"name": name, "disk_format": "raw", "container_format": "bare",
                           "visibility": "public"});
        let mut image = Image::new(uuid_of(&format!("{region} {name}")), "admin", &given);
        image.fill(data, size, checksum);
        image
    };
    let small = |name: &str| {
        let mut content = Collector::default();
        content.push(format!("This is {name}, an image of the demo cloud.\n").repeat(100).as_bytes());
        let size = content.length();
        let (data, checksum) = content.finish();
        image(name, data, size, &checksum)
    };
    if region != "RegionOne" {
        return vec![small("debian-13-two"), small("cirros-0.6.2-two")];
    }
    let gibibyte = 1 << 30;
    let blank = image("blank-1g", Data::Zeros, gibibyte, "cd573cfaace07e7949bc0c46028904ff");
    vec![blank, small("debian-13"), small("cirros-0.6.2")]
}

/// The image that nova makes of a server: a MiB of zeros.
pub(super) fn snapshot(name: &str, owner: &str) -> Image {
    let given = json!({"name": name, "disk_format": "raw", "container_format": "bare"});
    let mut image = Image::new(uuid(), owner, &given);
    image.fill(Data::Zeros, 1 << 20, "b6d81b360a5672d80c27430f39153e2c");
    image
}

/// Version documents, which need no token; `base` is what their links begin with.
pub(super) fn version(call: &Call, base: &str) -> Option<Reply> {
    let status = match call.parts()[..] {
        ["versions"] => StatusCode::OK,
        ["v2", ..] => return None,
        // The root, and every path without a version: nova's bookmarks.
        _ => StatusCode::MULTIPLE_CHOICES,
    };
    let links = json!([{"rel": "self", "href": format!("{base}/v2/")}]);
    let version = |id: &str, status: &str| json!({"id": id, "status": status, "links": links});
    let versions = [version("v2.16", "SUPPORTED"), version("v2.17", "CURRENT"), version("v2.0", "SUPPORTED")];
    Some(json(status, &json!({"versions": versions})))
}

/// Serves the images of one region (0 or 1).
pub(super) async fn serve(
    cloud: &Shared,
    region: usize,
    call: &Call,
    project: &'static str,
    body: &mut Upload,
) -> Answer {
    let parts = call.parts();
    let not_found = |message: String| Ok(page(StatusCode::NOT_FOUND, &message));
    match (call.method.as_str(), &parts[..]) {
        ("GET", ["v2", "images"]) => list(cloud, region, call, project),
        ("POST", ["v2", "images"]) => {
            let given = body.json().await.filter(Value::is_object);
            let Some(given) = given else {
                return Ok(page(StatusCode::BAD_REQUEST, "Malformed JSON in request body."));
            };
            let mut names = given.as_object().into_iter().flatten().map(|(name, _)| name);
            if let Some(name) = names.find(|name| *name != "id" && is_read_only(name)) {
                return Ok(page(StatusCode::FORBIDDEN, &format!("Attribute '{name}' is read-only.")));
            }
            let image = Image::new(uuid(), project, &given);
            let images = &mut cloud.state().images[region];
            if images.iter().any(|known| known.id() == image.id()) {
                let message = format!("Image ID {} already exists!", image.id());
                return Ok(page(StatusCode::CONFLICT, &message));
            }
            let location = format!("{}/v2/images/{}", call.base, image.id());
            let reply = json(StatusCode::CREATED, &image.fields)
                .with("location", location)
                .with("openstack-image-import-methods", "glance-direct");
            images.push(image);
            Ok(reply)
        }
        ("GET", ["v2", "schemas", "image"]) => Ok(ok(&schema())),
        ("GET", ["v2", "schemas", "images"]) => Ok(ok(&json!({"name": "images",
            "properties": {"images": {"type": "array", "items": schema()}, "first": {"type": "string"},
                "next": {"type": "string"}, "schema": {"type": "string"}},
            "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"},
                {"rel": "describedby", "href": "{schema}"}]}))),
        (method, ["v2", "images", id, rest @ ..]) => {
            if (method, rest) == ("PUT", &["file"]) {
                return upload(cloud, region, id, project, body).await;
            }
            let patch = if method == "PATCH" { body.json().await } else { None };
            let images = &mut cloud.state().images[region];
            let found = images.iter().position(|image| image.id() == *id && image.is_visible_to(project));
            let Some(index) = found else {
                return match method {
                    "DELETE" => not_found(format!("Failed to find image {id} to delete")),
                    _ => not_found(format!("No image found with ID {id}")),
                };
            };
            let image = &mut images[index];
            let is_owner = image.fields["owner"] == project;
            match (method, rest) {
                ("GET", []) => Ok(ok(&image.fields)),
                ("GET", ["file"]) => Ok(download(image, &call.headers)),
                ("PATCH" | "DELETE", []) if !is_owner => {
                    let message = format!("You are not permitted to modify image {id}.");
                    Ok(page(StatusCode::FORBIDDEN, &message))
                }
                ("DELETE", []) if image.fields["protected"] == true => {
                    let message = format!("Image {id} is protected and cannot be deleted.");
                    Ok(page(StatusCode::FORBIDDEN, &message))
                }
                ("DELETE", []) => {
                    images.remove(index);
                    Ok(reply::empty(StatusCode::NO_CONTENT))
                }
                ("PATCH", []) => Ok(update(image, patch)),
                _ => Ok(method_not_allowed()),
            }
        }
        ("HEAD", _) => Ok(method_not_allowed()),
        _ => Ok(no_such_path()),
    }
}

/// What an image may have. Its links are templates and lead nowhere.
fn schema() -> Value {
    let text = json!({"type": ["null", "string"]});
    json!({"name": "image", "additionalProperties": {"type": "string"},
        "properties": {"id": text, "name": text, "status": text, "owner": text, "checksum": text},
        "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"},
                  {"rel": "describedby", "href": "{schema}"}]})
}

fn method_not_allowed() -> Reply {
    page(StatusCode::METHOD_NOT_ALLOWED, "The method specified is not allowed for this resource.")
}

fn list(cloud: &Shared, region: usize, call: &Call, project: &str) -> Answer {
    let state = cloud.state();
    let filters: Vec<_> = call
        .parameters()
        .filter(|(key, _)| matches!(&key[..], "name" | "status" | "visibility" | "owner" | "disk_format"))
        .collect();
    let images = state.images[region].iter().rev().filter(|image| {
        image.is_visible_to(project) && filters.iter().all(|(key, value)| image.fields[key] == value.as_str())
    });
    let images = images.map(|image| image.fields.clone()).collect();
    // Glance's own default is 25 to a page.
    let limit = if call.parameter("limit").is_some() { 1000 } else { 25 };
    let paged = match call.paginate(images, cloud.config.page_size.min(limit)) {
        Ok(paged) => paged,
        Err(marker) => {
            return Ok(page(StatusCode::BAD_REQUEST, &format!("No image found with ID {marker}")));
        }
    };
    let first: Vec<_> = call.query.split('&').filter(|pair| !pair.starts_with("marker=")).collect();
    let first = first.join("&");
    let first = if first.is_empty() { "/v2/images".to_owned() } else { format!("/v2/images?{first}") };
    let mut answer = json!({"images": paged.items, "first": first, "schema": "/v2/schemas/images"});
    if let Some(next) = paged.next {
        answer["next"] = next.into();
    }
    Ok(ok(&answer))
}

async fn upload(cloud: &Shared, region: usize, id: &str, project: &str, body: &mut Upload) -> Answer {
    {
        let images = &mut cloud.state().images[region];
        let image = images.iter_mut().find(|image| image.id() == id && image.is_visible_to(project));
        let Some(image) = image else {
            return Ok(page(StatusCode::NOT_FOUND, &format!("No image found with ID {id}")));
        };
        if image.fields["owner"] != project {
            return Ok(page(StatusCode::FORBIDDEN, "You are not authorized to complete this action."));
        }
        if image.fields["status"] != "queued" {
            let status = image.fields["status"].as_str().unwrap_or_default();
            let message = format!("Image status transition from {status} to saving is not allowed");
            return Ok(page(StatusCode::CONFLICT, &message));
        }
    }
    let mut content = Collector::default();
    loop {
        match body.chunk().await {
            Ok(Some(chunk)) => content.push(&chunk),
            Ok(None) => break,
            Err(_) => return Ok(page(StatusCode::BAD_REQUEST, "The upload broke off.")),
        }
        if content.length() > cloud.config.image_limit {
            content.forget();
        }
    }
    let size = content.length();
    let (data, checksum) = content.finish();
    let images = &mut cloud.state().images[region];
    match images.iter_mut().find(|image| image.id() == id) {
        Some(image) => image.fill(data, size, &checksum),
        None => return Ok(page(StatusCode::GONE, "The image was deleted during the upload.")),
    }
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn download(image: &Image, headers: &HeaderMap) -> Reply {
    let size = image.fields["size"].as_u64().unwrap_or(0);
    let data = match &image.data {
        None => return reply::empty(StatusCode::NO_CONTENT),
        Some(Data::Dropped) => {
            let message = "The demo cloud keeps only small images. Of this one it has length and checksum.";
            return page(StatusCode::GONE, message);
        }
        Some(data) => data,
    };
    let (status, start, end) = match Part::of(headers, size) {
        Part::Whole => (StatusCode::OK, 0, size),
        Part::Slice(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Part::Unsatisfiable => {
            return page(StatusCode::RANGE_NOT_SATISFIABLE, "The Range requested is not available.");
        }
    };
    let mut reply = reply::reply(status, "application/octet-stream", "");
    if status == StatusCode::PARTIAL_CONTENT {
        reply = reply.with("content-range", format_args!("bytes {start}-{}/{size}", end - 1));
    }
    reply = reply.with("content-md5", image.fields["checksum"].as_str().unwrap_or_default());
    *reply.body_mut() = data.body(start, end);
    reply
}

fn is_read_only(name: &str) -> bool {
    matches!(name, "" | "id" | "status" | "size" | "virtual_size" | "checksum" | "file" | "self" | "owner")
}

/// JSON Patch, as far as it is used: `add`, `replace` and `remove` of whole properties.
fn update(image: &mut Image, patch: Option<Value>) -> Reply {
    let Some(Value::Array(steps)) = patch else {
        return page(StatusCode::BAD_REQUEST, "Request body must be a JSON array of operation objects.");
    };
    for step in &steps {
        let name = step["path"].as_str().and_then(|path| path.strip_prefix('/')).unwrap_or_default();
        if is_read_only(name) {
            let message = format!("Attribute '{name}' is read-only.");
            return page(StatusCode::FORBIDDEN, &message);
        }
        match (step["op"].as_str(), image.fields.as_object_mut()) {
            (Some("add" | "replace"), Some(fields)) => {
                fields.insert(name.to_owned(), step["value"].clone());
            }
            (Some("remove"), Some(fields)) => {
                fields.remove(name);
            }
            _ => return page(StatusCode::BAD_REQUEST, "Operations must be add, replace or remove."),
        }
    }
    ok(&image.fields)
}
