//! clouds.yaml and secure.yaml.

use super::*;

#[test]
fn clouds_yaml_is_found_where_openstacksdk_looks() {
    let mut setup = Setup::new();
    for (path, vars) in [
        ("etc/openstack/clouds.json", ""),
        ("etc/openstack/clouds.yml", ""),
        ("etc/openstack/clouds.yaml", ""),
        ("etc/xdg/openstack/clouds.json", ""),
        ("home/.config/openstack/clouds.yml", ""),
        ("xdg/openstack/clouds.yaml", "XDG_CONFIG_HOME=DIR/xdg"),
        ("srv/clouds.json", ""),
        ("elsewhere/my.yaml", "OS_CLIENT_CONFIG_FILE=../elsewhere/my.yaml"),
    ] {
        let name = path.replace(['/', '.'], "-");
        let text = yaml(&[&name]);
        let text = if path.ends_with(".json") { json(&name) } else { text };
        setup = setup.file(path, &text).vars(vars);
        assert_eq!(served(&setup.config()), [name]);
    }
}

#[test]
fn secure_yaml_is_merged_over_clouds_yaml_at_any_depth() {
    let setup = Setup::new()
        .clouds("clouds:\n  prod:\n    auth: {auth_url: 'https://c.example', username: ada, password: old}\n")
        .file("etc/openstack/secure.yaml", "clouds: {prod: {auth: {password: new}, region_name: r2}}");
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r2"));
    assert_password(&setup.identity().method, "new");
    let setup = setup
        .file("srv/own.yaml", "clouds: {prod: {auth: {password: own}}}")
        .vars("OS_CLIENT_SECURE_FILE=own.yaml");
    assert_password(&setup.identity().method, "own");
}

#[test]
fn malformed_unreadable_and_misshapen_files_are_problems_with_their_line() {
    let setup = Setup::new().clouds("clouds:\n  prod:\n    auth: {password: hunter2\n  lab: x\n");
    setup.check_problems(&[&format!("{CLOUDS}: not YAML: line ")]);
    let setup = Setup::new().clouds("clouds:\n  prod: 'hunter2\n").cloud("prod");
    setup.check_problems(&[&format!("{CLOUDS}: not YAML: line ")]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).file("srv/secure.yaml", "a: [").cloud("prod");
    setup.check_problems(&["/srv/secure.yaml: not YAML: line "]);
    let setup = Setup::new().file("srv/clouds.yaml/x", "");
    setup.check_problems(&["/srv/clouds.yaml: cannot be read"]);
    Setup::new()
        .clouds("[a, b]")
        .check_problems(&[&format!("{CLOUDS}: not a mapping: it starts with `clouds:`")]);
    Setup::new().clouds("clouds: [a]").check_problems(&[&format!("{CLOUDS}: clouds: not a mapping")]);
    Setup::new()
        .clouds("clouds: {prod: 3}")
        .check_problems(&[&format!("{CLOUDS}: clouds.prod: not a mapping")]);
    Setup::new().clouds("").check_problems(&["environment: no cloud is configured"]);
    Setup::new()
        .vars("OS_CLIENT_CONFIG_FILE=none.yaml")
        .check_problems(&["environment: OS_CLIENT_CONFIG_FILE: there is no file /srv/none.yaml"]);
}

#[test]
fn a_problem_names_the_file_that_holds_the_value() {
    let setup = Setup::new()
        .clouds("clouds: {prod: {auth: {username: ada, password: hunter2}}}")
        .file("home/.config/openstack/secure.yaml", "clouds: {prod: {auth: {auth-url: 'ftp://c'}}}");
    setup.check_problems(&[
        "/home/.config/openstack/secure.yaml: clouds.prod.auth.auth_url: no usable URL: the scheme must be",
    ]);
}

// Promise 14.
#[test]
fn files_with_secrets_that_others_can_read_are_warned_of() {
    let path = "home/.config/openstack/clouds.yaml";
    let setup = Setup::new().clouds(&yaml(&["prod"])).mode(path, 0o644);
    let warnings = setup.config().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("clouds.yaml holds a secret and can be read by other users: chmod 600 /"));
    assert_eq!(setup.vars("CREDENTIALS_DIRECTORY=DIR/home").config().warnings, [""; 0]);

    let setup = Setup::new()
        .clouds("clouds: {prod: {auth: {auth_url: 'https://c.example', username: ada}}}")
        .mode(path, 0o644)
        .file("home/.config/openstack/secure.yaml", "clouds: {prod: {auth: {password: hunter2}}}");
    assert_eq!(setup.config().warnings, [""; 0]);
    let warnings = setup.mode("home/.config/openstack/secure.yaml", 0o604).config().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("secure.yaml"), "{warnings:?}");
}

#[test]
fn the_first_region_is_the_default_and_brings_its_values() {
    let text = "
clouds:
  prod:
    auth: {auth_url: 'https://c.example', username: ada, password: hunter2, project_name: p}
    interface: internal
    regions:
      - name: r1
        values: {interface: admin, auth: {project-name: q}}
      - r2
";
    let setup = Setup::new().clouds(text);
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r1"));
    assert_eq!(config.clouds[0].interfaces, [Interface::Admin]);
    let project = Project::Name { name: "q".to_owned(), domain: Some(default_domain()) };
    assert_eq!(setup.identity().scope, Scope::Project(project));

    let setup = setup.vars("OS_CLOUD=prod\nOS_REGION_NAME=r2");
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r2"));
    assert_eq!(config.clouds[0].interfaces, [Interface::Internal]);

    let setup = Setup::new().clouds(text).vars("OS_CLOUD=prod\nOS_REGION_NAME=R2");
    setup.check_problems(&["environment: OS_REGION_NAME: the cloud has no region `R2`: it has r1, r2"]);
    let setup = Setup::new().clouds(&text.replace("    interface", "    region_name: r2\n    interface"));
    let config = setup.config();
    assert_eq!(config.clouds[0].region.as_deref(), Some("r1"));
    assert!(config.warnings[0].contains("clouds.prod.region_name: ignored"), "{:?}", config.warnings);
    let setup = Setup::new().clouds(text).vars("OS_REGION_NAME=r3").cloud("prod");
    assert_eq!(setup.config().clouds[0].region.as_deref(), Some("r1"));
    check_cloud(
        "{regions: r1}",
        &["regions: not a list", "auth.auth_url: ", "auth.username: ", "auth.password: "],
    );
}

#[test]
fn a_region_name_may_be_a_list_in_a_text() {
    let setup = Setup::new().vars(PASSWORD).vars("OS_REGION_NAME=r1,r2");
    assert_eq!(setup.config().clouds[0].region.as_deref(), Some("r1"));
}
