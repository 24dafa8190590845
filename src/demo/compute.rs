//! Servers that boot by waiting: nova, v2.1.

use std::time::Instant;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::{Md5, Upload};
use super::identity::{OTHER_PROJECT_ID, PROJECT_ID, USER_ID};
use super::reply::{self, Answer, Reply, With, fault, json, no_such_path, ok};
use super::{Service, Shared, image, is_over, microseconds, seconds, uuid, uuid_of};

pub(super) struct State {
    servers: Vec<Server>,
    /// Project and keypair.
    keypairs: Vec<(&'static str, Value)>,
}

struct Server {
    id: String,
    name: String,
    project: &'static str,
    flavor: &'static str,
    image: Option<String>,
    key_name: Option<String>,
    metadata: Value,
    created: Timestamp,
    /// When it began to boot; none: it was there before the cloud was.
    booting: Option<Instant>,
    stopped: bool,
}

/// Id, name, MiB of memory, GiB of disk, virtual CPUs.
const FLAVORS: [(&str, &str, u32, u32, u32); 5] = [
    ("1", "m1.tiny", 512, 1, 1),
    ("2", "m1.small", 2048, 20, 1),
    ("3", "m1.medium", 4096, 40, 2),
    ("4", "m1.large", 8192, 80, 4),
    ("5", "m1.xlarge", 16384, 160, 8),
];

/// A region's own servers.
pub(super) fn seed(region: &str) -> State {
    let (suffix, image) = match region {
        "RegionOne" => ("", "cirros-0.6.2"),
        _ => ("-two", "cirros-0.6.2-two"),
    };
    let server = |name: &str, project, flavor| Server {
        id: uuid_of(&format!("server {name}{suffix}")),
        name: format!("{name}{suffix}"),
        project,
        flavor,
        image: Some(uuid_of(&format!("{region} {image}"))),
        key_name: None,
        metadata: json!({}),
        created: Timestamp::now(),
        booting: None,
        stopped: name == "build-1",
    };
    let servers = vec![
        server("web-1", PROJECT_ID, "2"),
        server("web-2", PROJECT_ID, "2"),
        server("build-1", PROJECT_ID, "4"),
        server("elsewhere-1", OTHER_PROJECT_ID, "1"),
    ];
    State { servers, keypairs: Vec::new() }
}

/// Version documents, which need no token.
pub(super) fn version(call: &Call) -> Option<Reply> {
    let self_link = json!({"rel": "self", "href": format!("{}/v2.1/", origin(call))});
    let mut version = json!({"id": "v2.1", "status": "CURRENT", "version": "2.1", "min_version": "2.1",
                             "updated": "2013-07-23T11:33:21Z", "links": [self_link]});
    let media_type =
        json!({"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"});
    match call.parts()[..] {
        [] => Some(ok(&json!({"versions": [version]}))),
        ["v2.1"] => {
            version["media-types"] = json!([media_type]);
            Some(ok(&json!({"version": version})))
        }
        ["v2.1", ..] => None,
        // Bookmarks have no version; nova answers them with where to look.
        _ => {
            let links = json!([{"rel": "self", "href": format!("{}/v2.1{}", origin(call), call.path)}]);
            let choice =
                json!({"id": "v2.1", "status": "CURRENT", "links": links, "media-types": [media_type]});
            Some(json(StatusCode::MULTIPLE_CHOICES, &json!({"choices": [choice]})))
        }
    }
}

/// Nova believes `X-Forwarded-Proto`, whoever sent it.
fn origin(call: &Call) -> String {
    match call.header("x-forwarded-proto") {
        Some("https") => call.base.replacen("http:", "https:", 1),
        _ => call.base.clone(),
    }
}

/// The links of one thing. The version's are below the path that was asked, bookmarks have no version.
fn links(call: &Call, prefix: &str, path: &str) -> Value {
    let origin = origin(call);
    let bookmark = format!("{origin}{}/{path}", &prefix["/v2.1".len()..]);
    json!([{"rel": "self", "href": format!("{origin}{prefix}/{path}")}, {"rel": "bookmark", "href": bookmark}])
}

impl Shared {
    /// Where a region's images are, as nova links them (`glance_link_prefix`).
    fn glance(&self, region: usize) -> String {
        self.origin([Service::Image, Service::ImageTwo][region])
    }
}

/// Serves the servers of one region (0 or 1).
pub(super) async fn serve(
    cloud: &Shared,
    region: usize,
    call: &Call,
    project: &'static str,
    body: &mut Upload,
) -> Answer {
    let mut parts = call.parts();
    parts.remove(0);
    let mut prefix = "/v2.1".to_owned();
    if parts[0].len() == 32 && parts[0].bytes().all(|byte| byte.is_ascii_hexdigit()) {
        if parts[0] != project {
            let message = format!(
                "Malformed request URL: URL's project_id '{}' doesn't match Context's project_id '{project}'",
                parts[0]
            );
            return Ok(fault(StatusCode::BAD_REQUEST, &message));
        }
        parts.remove(0);
        prefix = format!("{prefix}/{project}");
    }
    let most = cloud.config.page_size;
    match (call.method.as_str(), &parts[..]) {
        ("GET" | "HEAD", ["flavors"] | ["flavors", "detail"]) => {
            let flavors =
                FLAVORS.iter().map(|flavor| describe_flavor(call, &prefix, flavor, parts.len() > 1));
            page(call, flavors.collect(), most, "flavors")
        }
        ("GET" | "HEAD", ["flavors", id]) => {
            let flavor = FLAVORS.iter().find(|flavor| flavor.0 == *id).ok_or_else(|| {
                Box::new(fault(StatusCode::NOT_FOUND, &format!("Flavor {id} could not be found.")))
            })?;
            Ok(ok(&json!({"flavor": describe_flavor(call, &prefix, flavor, true)})))
        }
        ("GET" | "HEAD", ["servers"] | ["servers", "detail"]) => {
            let (name, status) = (call.parameter("name"), call.parameter("status"));
            let state = cloud.state();
            let servers = state.compute[region].servers.iter().rev().filter(|server| {
                let status = status.as_ref().is_none_or(|status| *status == server.status(cloud));
                let name = name.as_ref().is_none_or(|name| server.name.contains(name));
                server.project == project && status && name
            });
            let servers = servers.map(|server| match parts.len() {
                1 => json!({"id": server.id, "name": server.name, "links": server.links(call, &prefix)}),
                _ => server.describe(cloud, region, call, &prefix),
            });
            page(call, servers.collect(), most, "servers")
        }
        ("POST", ["servers"]) => create(cloud, region, call, project, &prefix, body.json().await),
        (method, ["servers", id, rest @ ..]) => {
            let given = if method == "POST" { body.json().await } else { None };
            let mut state = cloud.state();
            let servers = &mut state.compute[region].servers;
            let Some(index) = servers.iter().position(|server| server.id == *id && server.project == project)
            else {
                let message = format!("Instance {id} could not be found.");
                return Ok(fault(StatusCode::NOT_FOUND, &message));
            };
            match (method, rest) {
                ("GET" | "HEAD", []) => {
                    Ok(ok(&json!({"server": servers[index].describe(cloud, region, call, &prefix)})))
                }
                ("DELETE", []) => {
                    servers.remove(index);
                    Ok(reply::reply(StatusCode::NO_CONTENT, "application/json", ""))
                }
                ("POST", ["action"])
                    if given.as_ref().is_some_and(|given| given["createImage"].is_object()) =>
                {
                    let image = given.unwrap_or_default()["createImage"]["name"].take();
                    let image = image::snapshot(image.as_str().unwrap_or_default(), project);
                    let location = format!("{}/images/{}", cloud.glance(region), image.id());
                    state.images[region].push(image);
                    Ok(reply::reply(StatusCode::ACCEPTED, "application/json", "").with("location", location))
                }
                ("POST", ["action"]) => Ok(servers[index].act(cloud, given)),
                _ => Ok(no_such_path()),
            }
        }
        // What is left of nova's own view of images: links to glance.
        ("GET" | "HEAD", ["images", id]) => {
            let state = cloud.state();
            if !state.images[region].iter().any(|image| image.id() == *id && image.is_visible_to(project)) {
                return Ok(fault(StatusCode::NOT_FOUND, &format!("Image {id} could not be found.")));
            }
            let mut links = links(call, &prefix, &format!("images/{id}"));
            let alternate = json!({"rel": "alternate", "type": "application/vnd.openstack.image",
                                   "href": format!("{}/images/{id}", cloud.glance(region))});
            links.as_array_mut().into_iter().for_each(|links| links.push(alternate.clone()));
            Ok(ok(&json!({"image": {"id": id, "status": "ACTIVE", "links": links}})))
        }
        ("GET" | "HEAD", ["limits"]) => {
            let state = cloud.state();
            let count =
                state.compute[region].servers.iter().filter(|server| server.project == project).count();
            Ok(ok(&json!({"limits": {"rate": [], "absolute": {
                "maxTotalInstances": 100, "maxTotalCores": 400, "maxTotalRAMSize": 1_048_576,
                "maxTotalKeypairs": 100, "maxServerMeta": 128, "totalInstancesUsed": count}}})))
        }
        ("GET" | "HEAD", ["os-keypairs"]) => {
            let state = cloud.state();
            let own = state.compute[region].keypairs.iter().filter(|(owner, _)| *owner == project);
            let keypairs: Vec<_> = own.map(|(_, keypair)| json!({"keypair": keypair})).collect();
            Ok(ok(&json!({"keypairs": keypairs})))
        }
        ("POST", ["os-keypairs"]) => create_keypair(cloud, region, project, body.json().await),
        _ => Ok(no_such_path()),
    }
}

fn page(call: &Call, items: Vec<Value>, most: usize, name: &str) -> Answer {
    match call.paginate(items, most) {
        Ok(page) => Ok(ok(&page.with_links(call, name))),
        Err(marker) => Ok(fault(StatusCode::BAD_REQUEST, &format!("marker [{marker}] not found"))),
    }
}

fn describe_flavor(
    call: &Call,
    prefix: &str,
    flavor: &(&'static str, &str, u32, u32, u32),
    detail: bool,
) -> Value {
    let (id, name, ram, disk, vcpus) = *flavor;
    let links = links(call, prefix, &format!("flavors/{id}"));
    if !detail {
        return json!({"id": id, "name": name, "links": links});
    }
    json!({"id": id, "name": name, "ram": ram, "disk": disk, "vcpus": vcpus, "swap": "", "rxtx_factor": 1.0,
           "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": false,
           "os-flavor-access:is_public": true, "links": links})
}

fn create(
    cloud: &Shared,
    region: usize,
    call: &Call,
    project: &'static str,
    prefix: &str,
    body: Option<Value>,
) -> Answer {
    let bad = |message: &str| Box::new(fault(StatusCode::BAD_REQUEST, message));
    let body = body.ok_or_else(|| bad("Malformed request body"))?;
    let given = &body["server"];
    let text = |name: &str| {
        given[name].as_str().map(str::to_owned).ok_or_else(|| {
            bad(&format!(
                "Invalid input for field/attribute server. Value: {given}. '{name}' is a required property"
            ))
        })
    };
    let name = text("name")?;
    // A link to a flavor or an image is as good as its id.
    let wanted = text("flavorRef")?.rsplit('/').next().unwrap_or_default().to_owned();
    let flavor = FLAVORS
        .iter()
        .find(|flavor| flavor.0 == wanted)
        .ok_or_else(|| bad(&format!("Flavor {wanted} could not be found.")))?;
    let image = given["imageRef"].as_str().and_then(|image| image.rsplit('/').next()).map(str::to_owned);
    let mut state = cloud.state();
    if let Some(image) = &image
        && !state.images[region].iter().any(|known| known.id() == image)
    {
        return Err(bad(&format!("Image {image} could not be found.")));
    }
    let server = Server {
        id: uuid(),
        name,
        project,
        flavor: flavor.0,
        image: image.filter(|image| !image.is_empty()),
        key_name: given["key_name"].as_str().map(str::to_owned),
        metadata: given.get("metadata").cloned().unwrap_or_else(|| json!({})),
        created: Timestamp::now(),
        booting: Some(Instant::now()),
        stopped: false,
    };
    let location = format!("{}{prefix}/servers/{}", origin(call), server.id);
    let answer = json!({"server": {"id": server.id, "links": server.links(call, prefix),
        "OS-DCF:diskConfig": "MANUAL", "security_groups": [{"name": "default"}], "adminPass": &uuid()[..12]}});
    state.compute[region].servers.push(server);
    Ok(json(StatusCode::ACCEPTED, &answer).with("location", location))
}

fn create_keypair(cloud: &Shared, region: usize, project: &'static str, body: Option<Value>) -> Answer {
    let given = body.unwrap_or_default()["keypair"].take();
    let (Some(name), Some(key)) = (given["name"].as_str(), given["public_key"].as_str()) else {
        let message = "Invalid input for field/attribute keypair. 'name' and 'public_key' are required";
        return Ok(fault(StatusCode::BAD_REQUEST, message));
    };
    let keypairs = &mut cloud.state().compute[region].keypairs;
    if keypairs.iter().any(|(owner, keypair)| *owner == project && keypair["name"] == name) {
        return Ok(fault(StatusCode::CONFLICT, &format!("Key pair '{name}' already exists.")));
    }
    let hex = Md5::hex(key.as_bytes());
    let pairs: Vec<_> = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]).collect();
    let keypair =
        json!({"name": name, "public_key": key, "fingerprint": pairs.join(":"), "user_id": USER_ID});
    keypairs.push((project, keypair.clone()));
    Ok(ok(&json!({"keypair": keypair})))
}

impl Server {
    fn is_building(&self, cloud: &Shared) -> bool {
        self.booting.is_some_and(|since| !is_over(since, cloud.config.boot_time))
    }

    fn status(&self, cloud: &Shared) -> &'static str {
        match (self.is_building(cloud), self.stopped) {
            (true, _) => "BUILD",
            (false, true) => "SHUTOFF",
            (false, false) => "ACTIVE",
        }
    }

    fn links(&self, call: &Call, prefix: &str) -> Value {
        links(call, prefix, &format!("servers/{}", self.id))
    }

    fn describe(&self, cloud: &Shared, region: usize, call: &Call, prefix: &str) -> Value {
        let bookmark =
            |origin: String, path: String| json!([{"rel": "bookmark", "href": format!("{origin}/{path}")}]);
        let status = self.status(cloud);
        let (vm_state, power_state, task_state) = match status {
            "BUILD" => ("building", 0, Some("spawning")),
            "SHUTOFF" => ("stopped", 4, None),
            _ => ("active", 1, None),
        };
        let running = status != "BUILD";
        // The last byte of an address that stays the same.
        let host = self.id.bytes().fold(2, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte)).max(2);
        let address = json!([{"version": 4, "addr": format!("10.7.0.{host}"), "OS-EXT-IPS:type": "fixed",
                              "OS-EXT-IPS-MAC:mac_addr": format!("fa:16:3e:00:00:{host:02x}")}]);
        let image = match &self.image {
            Some(id) => json!({"id": id, "links": bookmark(cloud.glance(region), format!("images/{id}"))}),
            None => json!(""),
        };
        json!({
            "id": self.id, "name": self.name, "status": status, "tenant_id": self.project, "user_id": USER_ID,
            "created": seconds(self.created), "updated": seconds(self.created), "metadata": self.metadata,
            "flavor": {"id": self.flavor, "links": bookmark(origin(call), format!("flavors/{}", self.flavor))},
            "image": image, "links": self.links(call, prefix), "key_name": self.key_name,
            "addresses": if running { json!({"demo-net": address}) } else { json!({}) },
            "accessIPv4": "", "accessIPv6": "", "progress": 0, "config_drive": "",
            "hostId": if running { Md5::hex(self.project.as_bytes()) } else { String::new() },
            "security_groups": [{"name": "default"}], "os-extended-volumes:volumes_attached": [],
            "OS-DCF:diskConfig": "MANUAL", "OS-EXT-AZ:availability_zone": if running { "nova" } else { "" },
            "OS-EXT-STS:task_state": task_state, "OS-EXT-STS:vm_state": vm_state,
            "OS-EXT-STS:power_state": power_state, "OS-SRV-USG:terminated_at": null,
            "OS-SRV-USG:launched_at": running.then(|| microseconds(self.created)),
        })
    }

    fn act(&mut self, cloud: &Shared, given: Option<Value>) -> Reply {
        let action = given.as_ref().and_then(Value::as_object).and_then(|given| given.keys().next());
        let (verb, stopped) = match action.map(String::as_str) {
            Some("os-start") => ("start", false),
            Some("os-stop") => ("stop", true),
            Some("reboot") => ("reboot", false),
            Some(other) => {
                let message = format!("There is no such action: {other}");
                return fault(StatusCode::BAD_REQUEST, &message);
            }
            None => return fault(StatusCode::BAD_REQUEST, "Malformed request body"),
        };
        let vm_state = match self.status(cloud) {
            "BUILD" => "building",
            "SHUTOFF" if verb != "start" => "stopped",
            "ACTIVE" if verb == "start" => "active",
            _ => {
                self.stopped = stopped;
                return reply::reply(StatusCode::ACCEPTED, "application/json", "");
            }
        };
        let message = format!("Cannot '{verb}' instance {} while it is in vm_state {vm_state}", self.id);
        fault(StatusCode::CONFLICT, &message)
    }
}
