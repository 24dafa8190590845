//! Stacks that hold nothing: heat, v1.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::Call;
use super::content::Upload;
use super::identity::PROJECT_ID;
use super::reply::{self, Answer, Reply, With, heat_error, json, no_such_path, ok};
use super::{Shared, seconds, uuid, uuid_of};

pub(super) struct Stack {
    id: String,
    name: String,
    project: &'static str,
    created: Timestamp,
}

pub(super) fn seed() -> Vec<Stack> {
    let stack = |name: &str| Stack {
        id: uuid_of(&format!("stack {name}")),
        name: name.to_owned(),
        project: PROJECT_ID,
        created: Timestamp::now(),
    };
    vec![stack("demo-stack"), stack("web-stack")]
}

/// The version document of the root, which needs no token.
pub(super) fn version(call: &Call) -> Option<Reply> {
    let links = json!([{"rel": "self", "href": format!("{}/v1/", call.base)}]);
    let versions = json!({"versions": [{"id": "v1.0", "status": "CURRENT", "links": links}]});
    call.parts().is_empty().then(|| json(StatusCode::MULTIPLE_CHOICES, &versions))
}

pub(super) async fn serve(cloud: &Shared, call: &Call, project: &'static str, body: &mut Upload) -> Answer {
    let parts = call.parts();
    let ["v1", tenant, rest @ ..] = &parts[..] else { return Ok(no_such_path()) };
    if *tenant != project {
        let message = "You are not authorized to complete this action.";
        return Ok(heat_error(StatusCode::FORBIDDEN, "Forbidden", message));
    }
    let given = if call.method == "POST" { body.json().await } else { None };
    let mut state = cloud.state();
    let stacks = &mut state.stacks;
    let base = format!("{}/v1/{project}/stacks", call.base);
    match (call.method.as_str(), rest) {
        ("GET", ["stacks"]) => {
            let own = stacks.iter().rev().filter(|stack| stack.project == project);
            match call.paginate(own.map(|stack| stack.summary(&base)).collect(), cloud.config.page_size) {
                Ok(page) => {
                    let mut answer = json!({"stacks": page.items});
                    if let Some(next) = page.next {
                        answer["links"] = json!([{"rel": "next", "href": format!("{}{next}", call.base)}]);
                    }
                    Ok(ok(&answer))
                }
                Err(marker) => {
                    let message = format!("The Stack ({marker}) could not be found.");
                    Ok(heat_error(StatusCode::NOT_FOUND, "EntityNotFound", &message))
                }
            }
        }
        ("POST", ["stacks"]) => {
            let given = given.unwrap_or_default();
            let Some(name) = given["stack_name"].as_str() else {
                let message = "No stack name specified";
                return Ok(heat_error(StatusCode::BAD_REQUEST, "HTTPBadRequest", message));
            };
            if stacks.iter().any(|stack| stack.project == project && stack.name == name) {
                let message = format!("The Stack ({name}) already exists.");
                return Ok(heat_error(StatusCode::CONFLICT, "StackExists", &message));
            }
            let stack = Stack { id: uuid(), name: name.to_owned(), project, created: Timestamp::now() };
            let links = json!([{"rel": "self", "href": stack.url(&base)}]);
            let answer = json!({"stack": {"id": stack.id, "links": links}});
            let reply = json(StatusCode::CREATED, &answer).with("location", stack.url(&base));
            stacks.push(stack);
            Ok(reply)
        }
        (method, ["stacks", wanted, below @ ..]) => {
            let found = stacks
                .iter()
                .position(|stack| stack.project == project && (stack.name == *wanted || stack.id == *wanted));
            let Some(index) = found else {
                let message = format!("The Stack ({wanted}) could not be found.");
                return Ok(heat_error(StatusCode::NOT_FOUND, "EntityNotFound", &message));
            };
            let stack = &stacks[index];
            match (method, below) {
                ("GET", [id]) if *id == stack.id => Ok(ok(&json!({"stack": stack.describe(&base)}))),
                ("DELETE", [id]) if *id == stack.id => {
                    stacks.remove(index);
                    Ok(reply::empty(StatusCode::NO_CONTENT))
                }
                ("GET", [id, "resources"]) if *id == stack.id => {
                    let url = stack.url(&base);
                    let links = json!([{"rel": "self", "href": format!("{url}/resources/port")},
                                       {"rel": "stack", "href": url}]);
                    let resource = json!({"resource_name": "port", "logical_resource_id": "port",
                        "physical_resource_id": uuid_of("port web-1"), "resource_type": "OS::Neutron::Port",
                        "resource_status": "CREATE_COMPLETE", "links": links});
                    Ok(ok(&json!({"resources": [resource]})))
                }
                // Whoever has a name or an id alone is sent to where both are in the path.
                ("GET" | "DELETE", [] | ["resources"]) => {
                    let mut location = stack.url(&base);
                    for part in below {
                        location = format!("{location}/{part}");
                    }
                    let message = "The resource was found at another place.";
                    let answer = json!({"code": "302 Found", "title": "Found", "message": message});
                    Ok(json(StatusCode::FOUND, &answer).with("location", location))
                }
                _ => Ok(no_such_path()),
            }
        }
        _ => Ok(no_such_path()),
    }
}

impl Stack {
    fn url(&self, base: &str) -> String {
        format!("{base}/{}/{}", self.name, self.id)
    }

    fn summary(&self, base: &str) -> Value {
        json!({"id": self.id, "stack_name": self.name, "description": "", "stack_status": "CREATE_COMPLETE",
               "stack_status_reason": "Stack CREATE completed successfully", "tags": null, "parent": null,
               "creation_time": seconds(self.created), "updated_time": null, "deletion_time": null,
               "links": [{"rel": "self", "href": self.url(base)}]})
    }

    /// With outputs: addresses that a server calls by itself, and that nobody may change on the way.
    fn describe(&self, base: &str) -> Value {
        let mut stack = self.summary(base);
        let signal = format!("{}/resources/wait/signal?Signature=demo", self.url(base));
        stack["outputs"] =
            json!([{"output_key": "signal_url", "output_value": signal, "description": "Call it"}]);
        stack["parameters"] = json!({"OS::stack_id": self.id, "OS::stack_name": self.name});
        stack
    }
}
