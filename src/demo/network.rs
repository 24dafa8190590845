//! Networks and what hangs on them: neutron, v2.0.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::Upload;
use super::identity::PROJECT_ID;
use super::reply::{self, Answer, Reply, json, neutron_error, ok};
use super::{Shared, seconds, uuid, uuid_of};

/// What is in each collection.
pub(super) type State = Vec<(Collection, Vec<Value>)>;

/// One kind of thing.
#[derive(Clone, Copy)]
pub(super) struct Collection {
    path: &'static str,
    many: &'static str,
    one: &'static str,
    /// As it begins the types and messages of errors.
    title: &'static str,
}

const fn collection(
    path: &'static str,
    many: &'static str,
    one: &'static str,
    title: &'static str,
) -> Collection {
    Collection { path, many, one, title }
}

pub(super) fn seed() -> State {
    let network = uuid_of("network demo-net");
    let public = uuid_of("network public");
    let subnet = uuid_of("subnet demo-subnet");
    let group = uuid_of("group default");
    let item = |kind: &str, name: &str, more: Value| {
        let id = uuid_of(&format!("{kind} {name}"));
        let now = seconds(Timestamp::now());
        let mut item = json!({"id": id, "name": name, "description": "", "project_id": PROJECT_ID,
            "tenant_id": PROJECT_ID, "tags": [], "created_at": now, "updated_at": now, "revision_number": 1});
        for (key, value) in more.as_object().into_iter().flatten() {
            item[key] = value.clone();
        }
        item
    };
    let network_fields = |subnets: Value, external: bool| {
        json!({"admin_state_up": true, "status": "ACTIVE", "mtu": 1450, "shared": external, "subnets": subnets,
               "router:external": external, "port_security_enabled": true, "availability_zones": []})
    };
    let rule = |direction: &str| {
        json!({"id": uuid_of(&format!("rule {direction}")), "direction": direction, "ethertype": "IPv4",
               "protocol": null, "port_range_min": null, "port_range_max": null, "remote_ip_prefix": null,
               "security_group_id": group, "project_id": PROJECT_ID})
    };
    vec![
        (
            collection("networks", "networks", "network", "Network"),
            vec![
                item("network", "demo-net", network_fields(json!([subnet]), false)),
                item("network", "public", network_fields(json!([]), true)),
            ],
        ),
        (
            collection("subnets", "subnets", "subnet", "Subnet"),
            vec![item(
                "subnet",
                "demo-subnet",
                json!({"network_id": network, "ip_version": 4,
                "cidr": "10.7.0.0/24", "gateway_ip": "10.7.0.1", "enable_dhcp": true, "dns_nameservers": [],
                "host_routes": [], "allocation_pools": [{"start": "10.7.0.2", "end": "10.7.0.254"}]}),
            )],
        ),
        (
            collection("ports", "ports", "port", "Port"),
            vec![item(
                "port",
                "web-1",
                json!({"network_id": network, "status": "ACTIVE",
                "admin_state_up": true, "mac_address": "fa:16:3e:00:00:07", "device_owner": "compute:nova",
                "device_id": uuid_of("server web-1"), "security_groups": [group],
                "fixed_ips": [{"subnet_id": subnet, "ip_address": "10.7.0.7"}]}),
            )],
        ),
        (
            collection("routers", "routers", "router", "Router"),
            vec![item(
                "router",
                "demo-router",
                json!({"status": "ACTIVE", "admin_state_up": true,
                "routes": [], "external_gateway_info": {"network_id": public, "enable_snat": true}}),
            )],
        ),
        (
            collection("security-groups", "security_groups", "security_group", "SecurityGroup"),
            vec![item(
                "group",
                "default",
                json!({"stateful": true, "shared": false,
                "security_group_rules": [rule("egress"), rule("ingress")]}),
            )],
        ),
        (collection("floatingips", "floatingips", "floatingip", "FloatingIP"), vec![]),
    ]
}

/// The version document, which needs no token.
pub(super) fn version(call: &Call) -> Option<Reply> {
    let links = json!([{"rel": "self", "href": format!("{}/v2.0/", call.base)}]);
    let versions = json!({"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]});
    call.parts().is_empty().then(|| ok(&versions))
}

pub(super) async fn serve(cloud: &Shared, call: &Call, project: &'static str, body: &mut Upload) -> Answer {
    let parts = call.parts();
    let given = if call.method == "POST" { body.json().await } else { None };
    let mut state = cloud.state();
    let collection = match parts[..] {
        ["v2.0", path] | ["v2.0", path, _] => {
            state.network.iter_mut().find(|(collection, _)| collection.path == path.trim_end_matches(".json"))
        }
        _ => None,
    };
    let Some((collection, items)) = collection else {
        let message = "The resource could not be found.";
        return Ok(neutron_error(StatusCode::NOT_FOUND, "HTTPNotFound", message));
    };
    match (call.method.as_str(), &parts[2..]) {
        ("GET", []) => {
            let filters: Vec<_> = call
                .parameters()
                .filter(|(key, _)| matches!(&key[..], "id" | "name" | "status" | "network_id" | "project_id"))
                .collect();
            let visible = items.iter().filter(|item| {
                is_visible_to(item, project) && filters.iter().all(|(key, value)| item[key] == value.as_str())
            });
            list(cloud, call, collection, visible.cloned().collect())
        }
        ("POST", []) => Ok(create(collection, items, project, given)),
        (method, [id]) => {
            let found = items.iter().position(|item| item["id"] == *id && is_visible_to(item, project));
            match (method, found) {
                ("GET", Some(index)) => Ok(ok(&json!({collection.one: items[index]}))),
                ("DELETE", Some(index))
                    if items[index]["subnets"].as_array().is_some_and(|all| !all.is_empty()) =>
                {
                    let message = format!(
                        "Unable to complete operation on network {id}. There are one or more ports still in \
                         use on the network."
                    );
                    Ok(neutron_error(StatusCode::CONFLICT, "NetworkInUse", &message))
                }
                ("DELETE", Some(index)) => {
                    items.remove(index);
                    Ok(reply::empty(StatusCode::NO_CONTENT))
                }
                (_, None) => {
                    let kind = format!("{}NotFound", collection.title);
                    let message = format!("{} {id} could not be found.", collection.title);
                    Ok(neutron_error(StatusCode::NOT_FOUND, &kind, &message))
                }
                _ => Ok(method_not_allowed()),
            }
        }
        _ => Ok(method_not_allowed()),
    }
}

fn method_not_allowed() -> Reply {
    let message = "The method is not allowed for this resource.";
    neutron_error(StatusCode::METHOD_NOT_ALLOWED, "HTTPMethodNotAllowed", message)
}

fn is_visible_to(item: &Value, project: &str) -> bool {
    item["project_id"] == project || item["shared"] == true
}

/// Only where a limit is given does neutron cut a list into pages and link them.
fn list(cloud: &Shared, call: &Call, collection: &Collection, mut items: Vec<Value>) -> Answer {
    if call.parameter("limit").is_none() {
        return Ok(ok(&json!({collection.many: items})));
    }
    let backwards = call.parameter("page_reverse").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if backwards {
        items.reverse();
    }
    let mut page = match call.paginate(items, cloud.config.page_size) {
        Ok(page) => page,
        Err(marker) => {
            let message = format!("Marker {marker} could not be found.");
            return Ok(neutron_error(StatusCode::BAD_REQUEST, "HTTPBadRequest", &message));
        }
    };
    if backwards {
        page.items.reverse();
    }
    let marker_of = |item: Option<&Value>| item.and_then(|item| item["id"].as_str()).map(str::to_owned);
    let (first, last) = (marker_of(page.items.first()), marker_of(page.items.last()));
    let limit = page.items.len();
    let href = |marker: &str, suffix| format!("{}{}{suffix}", call.base, call.next_page(limit, marker));
    let mut links = Vec::new();
    if let Some(last) = last.filter(|_| backwards || page.next.is_some()) {
        links.push(json!({"rel": "next", "href": href(&last, "")}));
    }
    if let Some(first) =
        first.filter(|_| call.parameter("marker").is_some() || backwards && page.next.is_some())
    {
        links.push(json!({"rel": "previous", "href": href(&first, "&page_reverse=True")}));
    }
    let links_name = format!("{}_links", collection.many);
    let mut answer = json!({collection.many: page.items});
    if !links.is_empty() {
        answer[links_name] = links.into();
    }
    Ok(ok(&answer))
}

fn create(collection: &Collection, items: &mut Vec<Value>, project: &str, given: Option<Value>) -> Reply {
    let bad = |message: &str| neutron_error(StatusCode::BAD_REQUEST, "HTTPBadRequest", message);
    let Some(Value::Object(fields)) = given.map(|mut given| given[collection.one].take()) else {
        return bad("Body contains invalid data");
    };
    if collection.one != "network" {
        return neutron_error(
            StatusCode::NOT_IMPLEMENTED,
            "HTTPNotImplemented",
            "The demo cloud creates networks only.",
        );
    }
    const KNOWN: [&str; 5] = ["name", "admin_state_up", "description", "shared", "mtu"];
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return bad(&format!("Unrecognized attribute(s) '{unknown}'"));
    }
    let now = seconds(Timestamp::now());
    let mut network = json!({"id": uuid(), "name": "", "description": "", "project_id": project,
        "tenant_id": project, "admin_state_up": true, "status": "ACTIVE", "mtu": 1450, "shared": false,
        "subnets": [], "router:external": false, "port_security_enabled": true, "availability_zones": [],
        "tags": [], "created_at": now, "updated_at": now, "revision_number": 1});
    for (key, value) in fields {
        network[key] = value;
    }
    items.push(network.clone());
    json(StatusCode::CREATED, &json!({"network": network}))
}
