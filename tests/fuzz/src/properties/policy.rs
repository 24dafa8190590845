//! Policies: no spelling of a path gets past a rule that denies it, or through one that allows another.

use std::sync::Arc;

use http::Method;
use http::uri::PathAndQuery;
use keyway::policy::{Effect, Policy, Rule, Scoped, View};
use keyway::proxy::rewrite::{self, Base};
use keyway::route::{Form, Route};

use super::path::readings;

const PROJECT: &str = "0123456789abcdef0123456789abcdef";
const BASES: [&str; 4] = ["", "/v2.1", "/compute/v2.1", "/a/v3/0123456789abcdef0123456789abcdef"];

/// A target as a client writes it, with a method before it: `POST /compute/servers`. One policy denies
/// everything below `/secrets`, another allows lists of servers only.
///
/// # Panics
/// If some reading of the target is denied, or not allowed, and the request passes.
pub fn check(text: &str) {
    let Some((method, target)) = text.split_once(' ') else { return };
    let (Ok(method), Ok(asked)) = (method.parse::<Method>(), PathAndQuery::try_from(target)) else { return };
    let at_endpoint = Route::parse(asked.path()).ok().filter(|route| route.form == Form::Endpoint);
    let at_root = Route::at_root("/compute", asked.path()).ok();
    for (catalog, route) in BASES
        .into_iter()
        .flat_map(|catalog| [&at_endpoint, &at_root].into_iter().flatten().map(move |route| (catalog, route)))
    {
        let (base, with_project) = (Base::new(catalog, Some(PROJECT)), catalog.ends_with(PROJECT));
        let current = base.needs_version(route.rest).then_some("v2");
        let target = match route.form {
            Form::Endpoint => base.target(route.rest, current),
            _ => format!("{}{}", base.root(), route.rest),
        };
        let view = || View::new(Some("compute"), ["nova"], base.clone());
        let views: Arc<[View]> = [view()].into();
        let at = |policy: Policy| Arc::new(policy).at(&views, Some((PROJECT, "demo")));
        let (deny, allow) = (at(no_secrets()), at(lists_only()));
        let paths: Vec<_> = readings(target.as_bytes())
            .iter()
            .map(|reading| segments(reading, &base, with_project))
            .collect();
        if passes(&deny, &method, &target) {
            let secret = |path: &Vec<String>| path.first().is_some_and(|first| first == "secrets");
            assert!(
                !paths.iter().any(secret),
                "{method} {target} passes although it may be read as a secret"
            );
        }
        if passes(&allow, &method, &target) {
            assert!(method == Method::GET, "{method} passes");
            assert!(paths.iter().all(|path| path.join("/") == "servers"), "{target} passes: {paths:?}");
        }
    }
}

fn passes(policy: &Scoped, method: &Method, target: &str) -> bool {
    policy.decide(method, target).is_ok()
}

fn no_secrets() -> Policy {
    let rule = Rule {
        name: "no-secrets".to_owned(),
        effect: Effect::Deny,
        paths: vec!["/secrets/**".to_owned()],
        ..Rule::default()
    };
    Policy::new("no-secrets", false, Effect::Allow, vec![rule]).expect("a good policy")
}

fn lists_only() -> Policy {
    let rule = Rule {
        name: "lists".to_owned(),
        effect: Effect::Allow,
        methods: vec!["GET".to_owned()],
        paths: vec!["/servers".to_owned()],
        ..Rule::default()
    };
    Policy::new("lists-only", false, Effect::Deny, vec![rule]).expect("a good policy")
}

/// The segments below the endpoint of one reading, without version, project and empty ones. Where the
/// endpoint's URL ends with a project, any project's id may stand in its place: rules ask for it apart.
fn segments(reading: &[u8], base: &Base, with_project: bool) -> Vec<String> {
    let text = String::from_utf8_lossy(reading);
    let below = text.strip_prefix(base.root()).unwrap_or(&text);
    let mut segments: Vec<_> =
        below.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    if segments.first().is_some_and(|first| rewrite::is_version(first)) {
        segments.remove(0);
        let is_project = |first: &String| first == PROJECT || with_project && rewrite::is_id(first);
        if segments.first().is_some_and(is_project) {
            segments.remove(0);
        }
    }
    segments
}
