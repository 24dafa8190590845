//! Volumes without data: cinder, v3.

use std::time::Instant;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::Upload;
use super::identity::{PROJECT_ID, USER_ID};
use super::reply::{self, Answer, Reply, fault, json, no_such_path, ok};
use super::{Shared, is_over, microseconds, uuid, uuid_of};

pub(super) struct Volume {
    id: String,
    name: Value,
    size: u64,
    project: &'static str,
    created: Timestamp,
    /// None: it was there before the cloud was.
    creating: Option<Instant>,
}

pub(super) fn seed() -> Vec<Volume> {
    let volume = |name: &str, size| Volume {
        id: uuid_of(&format!("volume {name}")),
        name: name.into(),
        size,
        project: PROJECT_ID,
        created: Timestamp::now(),
        creating: None,
    };
    vec![volume("data-1", 10), volume("backup-1", 100)]
}

/// The version document of the root, which needs no token.
pub(super) fn version(call: &Call) -> Option<Reply> {
    call.parts().is_empty().then(|| json(StatusCode::MULTIPLE_CHOICES, &versions(call)))
}

fn versions(call: &Call) -> Value {
    let media_type =
        json!({"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"});
    json!({"versions": [{"id": "v3.0", "status": "CURRENT", "version": "3.0", "min_version": "3.0",
        "updated": "2023-08-31T00:00:00Z", "media-types": [media_type],
        "links": [{"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
                  {"rel": "self", "href": format!("{}/v3/", call.base)}]}]})
}

pub(super) async fn serve(cloud: &Shared, call: &Call, project: &'static str, body: &mut Upload) -> Answer {
    let mut parts = call.parts();
    if parts.remove(0) != "v3" {
        return Ok(no_such_path());
    }
    // With and without the project in the path; links repeat what was asked.
    let mut infix = String::new();
    if parts.first().is_some_and(|part| part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        if parts[0] != project {
            return Ok(fault(StatusCode::BAD_REQUEST, "Malformed request url"));
        }
        parts.remove(0);
        infix = format!("/{project}");
    }
    let given = if call.method == "POST" { body.json().await } else { None };
    let mut state = cloud.state();
    let volumes = &mut state.volumes;
    match (call.method.as_str(), &parts[..]) {
        ("GET", []) => Ok(ok(&versions(call))),
        ("GET", ["volumes"] | ["volumes", "detail"]) => {
            let name = call.parameter("name");
            let own = volumes.iter().rev().filter(|volume| {
                volume.project == project && name.as_ref().is_none_or(|name| volume.name == name.as_str())
            });
            let listed = own.map(|volume| match parts.len() {
                1 => json!({"id": volume.id, "name": volume.name, "links": volume.links(call, &infix)}),
                _ => volume.describe(cloud, call, &infix),
            });
            match call.paginate(listed.collect(), cloud.config.page_size) {
                Ok(page) => Ok(ok(&page.with_links(call, "volumes"))),
                Err(marker) => {
                    let message = format!("marker [{marker}] not found");
                    Ok(fault(StatusCode::NOT_FOUND, &message))
                }
            }
        }
        ("POST", ["volumes"]) => {
            let given = given.unwrap_or_default()["volume"].take();
            let Some(size) = given["size"].as_u64().filter(|size| *size > 0) else {
                let message = "The server could not comply with the request since it is either malformed or \
                               otherwise incorrect.";
                return Ok(fault(StatusCode::BAD_REQUEST, message));
            };
            let volume = Volume {
                id: uuid(),
                name: given["name"].clone(),
                size,
                project,
                created: Timestamp::now(),
                creating: Some(Instant::now()),
            };
            let answer = json!({"volume": volume.describe(cloud, call, &infix)});
            volumes.push(volume);
            Ok(json(StatusCode::ACCEPTED, &answer))
        }
        (method @ ("GET" | "DELETE"), ["volumes", id]) => {
            let found = volumes.iter().position(|volume| volume.id == *id && volume.project == project);
            match (method, found) {
                (_, None) => {
                    let message = format!("Volume {id} could not be found.");
                    Ok(fault(StatusCode::NOT_FOUND, &message))
                }
                ("GET", Some(index)) => {
                    Ok(ok(&json!({"volume": volumes[index].describe(cloud, call, &infix)})))
                }
                (_, Some(index)) => {
                    volumes.remove(index);
                    Ok(reply::empty(StatusCode::ACCEPTED))
                }
            }
        }
        ("GET", ["types"]) => Ok(ok(&json!({"volume_types": [{"id": uuid_of("type"), "name": "__DEFAULT__",
            "is_public": true, "description": "Default Volume Type", "extra_specs": {}}]}))),
        ("GET", ["snapshots"] | ["snapshots", "detail"]) => Ok(ok(&json!({"snapshots": []}))),
        _ => Ok(no_such_path()),
    }
}

impl Volume {
    fn links(&self, call: &Call, infix: &str) -> Value {
        let path = format!("{infix}/volumes/{}", self.id);
        json!([{"rel": "self", "href": format!("{}/v3{path}", call.base)},
               {"rel": "bookmark", "href": format!("{}{path}", call.base)}])
    }

    fn describe(&self, cloud: &Shared, call: &Call, infix: &str) -> Value {
        let ready = self.creating.is_none_or(|since| is_over(since, cloud.config.boot_time));
        json!({"id": self.id, "name": self.name, "size": self.size, "metadata": {}, "attachments": [],
            "status": if ready { "available" } else { "creating" }, "availability_zone": "nova",
            "created_at": microseconds(self.created), "updated_at": null, "description": null,
            "volume_type": "__DEFAULT__", "snapshot_id": null, "source_volid": null, "bootable": "false",
            "encrypted": false, "multiattach": false, "user_id": USER_ID, "links": self.links(call, infix),
            "os-vol-tenant-attr:tenant_id": self.project})
    }
}
