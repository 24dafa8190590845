//! What a cloud's entry comes to.

use super::*;

/// Checks what the cloud `prod`, in flow style, is written as: its options as JSON.
#[track_caller]
fn check(entry: &str, expected: &str) {
    let setup = Setup::new().clouds(&format!("clouds: {{prod: {entry}}}"));
    let clouds = Config::written_clouds(&setup.overrides, &setup.env()).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(serde_json::Value::Object(clouds[0].options().clone()).to_string(), expected, "{entry}");
}

#[test]
fn login_options_move_into_auth_under_their_names_of_today() {
    check(
        "{auth-plugin: v3token, auth-token: t, tenant_name: p, auth: {auth-url: u, user_name: n}}",
        r#"{"auth":{"auth_url":"u","project_name":"p","token":"t","username":"n"},"auth_type":"v3token"}"#,
    );
    check(
        "{project_name: a, tenant_name: b, passcode: 1, password: x,
            auth: {project_name: c, passcode: 2, password: y, tenant_id: d}}",
        r#"{"auth":{"passcode":"1","password":"y","project_id":"d","project_name":"a"}}"#,
    );
    check("{auth_type: v2password, project_id: a}", r#"{"auth":{"tenant_id":"a"},"auth_type":"v2password"}"#);
    check("{auth_type: token_endpoint, url: u}", r#"{"auth":{"endpoint":"u"},"auth_type":"admin_token"}"#);
    check("{auth_type: ~}", r#"{"auth_type":"none"}"#);
    check("{auth_type: '', auth_plugin: password}", r#"{"auth_type":"none"}"#);
}

#[test]
fn a_domain_given_with_a_project_is_the_users_and_the_projects() {
    check(
        "{domain_id: d, auth: {project_name: p, user_domain_id: u}}",
        r#"{"auth":{"project_domain_id":"d","project_name":"p","user_domain_id":"u"}}"#,
    );
    check("{domain_name: d}", r#"{"auth":{"domain_name":"d"}}"#);
}

#[test]
fn endpoint_type_is_the_old_name_of_interface() {
    check("{endpoint_type: admin, interface: public}", r#"{"interface":"admin"}"#);
    check("{compute_endpoint_type: admin}", r#"{"compute_interface":"admin"}"#);
    check("{compute-endpoint-type: a, compute_interface: b}", r#"{"compute_interface":"b"}"#);
}

#[test]
fn only_auth_is_merged_and_only_one_level_deep() {
    let setup = Setup::new()
        .clouds(
            "clouds: {prod: {profile: x, list: [a], map: {a: 1, b: 2}, auth: {auth_url: u, user_id: i},
                regions: [{name: r, values: {map: {a: 3}, list: ~, auth: {user_id: j}}}]}}",
        )
        .file(
            "srv/clouds-public.yaml",
            "public-clouds: {x: {map: {c: 4}, own: x, auth: {auth_url: v, token: t}}}",
        );
    let clouds = Config::written_clouds(&setup.overrides, &setup.env()).unwrap_or_else(|p| panic!("{p}"));
    let expected = r#"{"auth":{"auth_url":"u","token":"t","user_id":"j"},"list":["a"],"map":{"a":"3"},"own":"x","region_name":"r"}"#;
    assert_eq!(serde_json::Value::Object(clouds[0].options().clone()).to_string(), expected);
}

#[test]
fn templates_are_filled_in_beside_auth_and_in_auth_url() {
    check(
        "{region_name: r1, x: 'a{region_name}{interface}', password: '{region_name}', y: '{{}}',
            auth: {auth_url: 'https://{region_name}.{x}', username: '{region_name}'}}",
        r#"{"auth":{"auth_url":"https://r1.a{region_name}{interface}","password":"{region_name}","username":"{region_name}"},"region_name":"r1","x":"ar1public","y":"{}"}"#,
    );
    for text in ["{password}", "{token}", "{nothing}", "{auth}", "{region_name", "hunter2}"] {
        let options = format!("{{token: t, auth: {{auth_url: 'https://{text}', password: hunter2}}}}");
        let shown =
            Setup::new().clouds(&format!("clouds: {{prod: {options}}}")).load().unwrap_err().to_string();
        assert!(shown.contains("clouds.prod.auth.auth_url: ") && !shown.contains("hunter2"), "{shown}");
    }
    // Nobody here reads it.
    Setup::new().vars(PASSWORD).vars("OS_PROMPT={x}").config();
}

#[test]
fn a_problem_names_the_place_where_the_option_was_written() {
    check_cloud(
        "{auth-url: x, tenant_name: p, auth: {username: ada, password: hunter2, system_scope: all}}",
        &[
            "auth_url: no usable URL",
            "auth.system_scope: one login has one scope, and clouds.prod.tenant_name asks for another",
        ],
    );
}

// Promises 13, 76.
#[test]
fn a_cloud_is_shown_without_its_secrets() {
    let setup = Setup::new()
        .clouds("clouds: {prod: {x: 'https://u:hunter2@h', auth: {username: ada, password: hunter2}, token: hunter2}}");
    let clouds = Config::written_clouds(&setup.overrides, &setup.env()).expect("it can be read");
    let shown = format!("{} {:?}", clouds[0], clouds[0]);
    assert!(shown.contains("ada") && !shown.contains("hunter2"), "{shown}");
    assert_eq!(clouds[0].name(), "prod");
    assert_eq!(clouds[0].options()["auth"]["password"], "hunter2");
}
