//! `[policy.NAME]`, and who refers to it.

use super::*;
use crate::policy::{Effect, Policy, Rule};

const PROD: &str = "[cloud.prod]\npolicy = 'p'\n";

fn setup(policy: &str) -> Setup {
    Setup::new().clouds(&yaml(&["prod"])).toml(&format!("{PROD}{policy}"))
}

#[track_caller]
fn check(policy: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|line| format!("{TOML}: policy.p.{line}")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    setup(policy).check_problems(&expected);
}

#[test]
fn a_policy_has_its_rules_in_their_order() {
    let setup = setup(
        "[policy.p]
        read_only = true
        default = 'deny'
        [[policy.p.rule]]
        name = 'no identity writes'
        effect = 'deny'
        methods = ['GET', 'HEAD']
        services = ['Key_Manager', 'identity']
        paths = ['/servers', '/servers/*/action']
        projects = ['ops', '8c1d6f0b3a7e4b5c9d2e1f0a6b7c8d02']
        [[policy.p.rule]]
        name = 'rest'
        effect = 'allow'
        services = ['image']",
    );
    let config = setup.config();
    let policy = &config.cloud_policies["prod"];
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rules = vec![
        Rule {
            name: "no identity writes".to_owned(),
            effect: Effect::Deny,
            methods: texts(&["GET", "HEAD"]),
            services: texts(&["Key_Manager", "identity"]),
            paths: texts(&["/servers", "/servers/*/action"]),
            projects: texts(&["ops", "8c1d6f0b3a7e4b5c9d2e1f0a6b7c8d02"]),
        },
        Rule { name: "rest".to_owned(), services: texts(&["image"]), ..Rule::default() },
    ];
    assert_eq!(**policy, Policy::new("p", true, Effect::Deny, rules).expect("a right policy"));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn everything_wrong_with_a_policy_is_told_at_once() {
    check(
        "[policy.p]
        read_only = 'yes'
        default = 'refuse'
        [[policy.p.rule]]
        efect = 'deny'
        methods = ['get', 'B AD']
        services = ['a/b']
        paths = ['servers', '/a?b', '/a b']
        projects = ['']
        [[policy.p.rule]]
        name = 'twice'
        effect = 'deny'
        services = []
        [[policy.p.rule]]
        name = 'twice'
        effect = 'maybe'
        services = ['image']
        [[policy.p.rule]]
        name = 'caf\u{e9}'
        effect = 'allow'
        services = ['image']",
        &[
            "rule[1].efect: unknown key: did you mean `effect`?",
            "read_only: a text, not true or false: write read_only = true",
            "default: `refuse` is neither allow nor deny",
            "rule[1].effect: is missing: write effect = \"allow\" or effect = \"deny\"",
            "rule[2].services: an empty list",
            "rule[3].effect: `maybe` is neither allow nor deny",
            "rule[1].name: a name has 1 to 64 letters",
            "rule[1].methods: `get` is no method that keyway knows: write one of GET",
            "rule[1].methods: `B AD` is no method that keyway knows",
            "rule[1].services: `a/b` is no service's name",
            "rule[1].projects: `` is no project's name",
            "rule[1].paths: `servers` does not start with `/`",
            "rule[1].paths: `/a?b` has `?`",
            "rule[2]: the rule speaks of every request",
            "rule[3].name: another rule is called `twice` already",
            "rule[4].name: a name has 1 to 64 letters",
        ],
    );
    check("[policy.p]\nrule = 1", &["rule: a number, not a list of tables: write [[policy.p.rule]]"]);
    check("[policy.p]\nrules = []", &["rules: unknown key: did you mean `rule`?"]);
}

#[test]
fn a_policy_that_protects_nothing_is_warned_of() {
    let unused = Setup::new().vars(PASSWORD).toml("[policy.p]\nread_only = true").config().warnings;
    assert_eq!(unused.len(), 1, "{unused:?}");
    assert!(
        unused[0].contains("keyway.toml: policy.p is in force nowhere: write policy = \"p\""),
        "{unused:?}"
    );
    let idle = setup("[policy.p]\n[[policy.p.rule]]\nname = 'a'\neffect = 'allow'\nservices = ['image']")
        .config()
        .warnings;
    assert_eq!(idle.len(), 1, "{idle:?}");
    assert!(idle[0].contains("policy.p refuses nothing: set read_only = true"), "{idle:?}");
}

#[test]
fn a_clouds_policy_must_be_there_and_is_the_clouds_alone() {
    let missing = Setup::new().clouds(&yaml(&["prod"])).toml(PROD);
    missing.check_problems(&[&format!("{TOML}: cloud.prod.policy: there is no policy `p`")]);
    let toml = format!("{PROD}[policy.p]\nread_only = true");
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"])).toml(&toml).cloud("lab");
    let config = setup.config();
    assert!(config.cloud_policies.is_empty());
    assert_eq!(config.warnings, [""; 0]);
}
