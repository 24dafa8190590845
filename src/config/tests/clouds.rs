//! Which clouds are served.

use super::*;

#[test]
fn clouds_are_chosen_by_flag_then_variable_then_file() {
    let mut setup = Setup::new().clouds(&yaml(&["a", "b", "c", "d"])).vars("OS_CLOUD=d");
    assert_eq!(served(&setup.config()), ["d"]);
    setup = setup.toml("clouds = ['b', 'c']");
    assert_eq!(served(&setup.config()), ["b", "c"]);
    setup = setup.vars("KEYWAY_CLOUDS=c, a");
    assert_eq!(served(&setup.config()), ["c", "a"]);
    setup = setup.cloud("d").cloud("a");
    assert_eq!(served(&setup.config()), ["d", "a"]);
}

#[test]
fn without_a_choice_the_environment_wins_over_the_only_cloud() {
    let setup = Setup::new().clouds(&yaml(&["only"]));
    assert_eq!(served(&setup.config()), ["only"]);
    let setup = setup.vars(PASSWORD);
    assert_eq!(served(&setup.config()), ["envvars"]);
    let setup = setup.vars("OS_CLOUD_NAME=mine").cloud("mine").cloud("only");
    assert_eq!(served(&setup.config()), ["mine", "only"]);
}

#[test]
fn variables_that_describe_no_cloud_make_none() {
    let setup = Setup::new().clouds(&yaml(&["only"])).vars(
        "OS_REGION_NAME=r1\nOS_CLOUD_NAME=x\nOS_VERSION=12\nOS_TEST_PATH=/\nOS_LOG_PATH=/\nOS_STDOUT_CAPTURE=1\n\
         OS_PASSWORD=",
    );
    assert_eq!(served(&setup.config()), ["only"]);
}

#[test]
fn no_cloud_at_all_says_the_three_ways() {
    let setup = Setup::new();
    setup.check_problems(&["environment: no cloud is configured: set OS_* variables"]);
    let shown = setup.load().unwrap_err().to_string();
    for way in ["OS_AUTH_URL", "--cloud NAME", "clouds.yaml", "keyway demo"] {
        assert!(shown.contains(way), "{way}: {shown}");
    }
    Setup::new()
        .cloud("prod")
        .check_problems(&["command line: --cloud: there is no cloud `prod`, and no other"]);
    Setup::new().cloud("envvars").check_problems(&[
        "command line: --cloud: there is no cloud `envvars`, since no OS_* variable describes one",
    ]);
}

#[test]
fn an_unknown_cloud_lists_those_that_are_known() {
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"]));
    setup
        .vars("OS_CLOUD=prd")
        .check_problems(&["environment: OS_CLOUD: there is no cloud `prd`: there is lab, prod"]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).vars(PASSWORD).cloud("lab");
    setup.check_problems(&["command line: --cloud: there is no cloud `lab`: there is envvars, prod"]);
}

#[test]
fn several_clouds_need_a_choice() {
    let setup = Setup::new().clouds(&yaml(&["prod", "lab"]));
    setup.check_problems(&[&format!("{CLOUDS}: clouds: several clouds and none is chosen")]);
    assert!(setup.load().unwrap_err().to_string().ends_with("there is lab, prod"));
}

#[test]
fn empty_and_repeated_choices_are_problems() {
    let setup = Setup::new().clouds(&yaml(&["prod"]));
    setup
        .cloud("prod")
        .cloud("prod")
        .check_problems(&["command line: --cloud: names the cloud `prod` twice"]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).toml("clouds = []");
    setup.check_problems(&[&format!("{TOML}: clouds: names no cloud")]);
    let setup = Setup::new().clouds(&yaml(&["prod"])).vars("KEYWAY_CLOUDS=prod,");
    setup.check_problems(&["environment: KEYWAY_CLOUDS: an empty name"]);
}

#[test]
fn two_clouds_of_one_name_are_a_problem() {
    let setup =
        Setup::new().clouds(&yaml(&["prod"])).vars(PASSWORD).vars("OS_CLOUD_NAME=prod\nOS_CLOUD=prod");
    setup.check_problems(&["environment: OS_CLOUD_NAME: clouds.yaml has a cloud `prod` too"]);
}

#[test]
fn a_broken_clouds_yaml_does_not_matter_to_who_does_not_use_it() {
    let setup = Setup::new().clouds("clouds: [").vars(PASSWORD);
    assert_eq!(served(&setup.config()), ["envvars"]);
}

#[test]
fn clouds_that_keyway_brings_itself_need_no_configuration() {
    let setup = Setup::new().clouds("clouds: [").toml("workers = 2\nclouds = ['none']\n[cloud.none]");
    let config = Config::load_without_clouds(&setup.overrides, &setup.env()).expect("it is right");
    assert!(config.clouds.is_empty());
    assert_eq!(config.workers, 2);
}
