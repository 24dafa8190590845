//! Where each request has a line, and what happens where it can't.

use super::*;
use crate::audit::{Config as Audit, OnFailure, Target};

/// What `[audit]` is with this keyway.toml, files below the directory of this test.
fn audit(toml: &str) -> Option<Audit> {
    let setup = Setup::new().vars(PASSWORD).toml(toml);
    let audit = setup.config().audit?;
    let target = match audit.target {
        Target::File(path) => Target::File(path.strip_prefix(setup.dir.path()).unwrap_or(&path).to_owned()),
        target => target,
    };
    Some(Audit { target, ..audit })
}

#[test]
fn there_is_an_audit_only_if_somebody_asks_for_it() {
    for toml in ["", "audit.sink = 'none'", "audit.on_failure = 'stop'"] {
        assert_eq!(audit(toml), None, "{toml}");
    }
    let target = |sink: &str| audit(&format!("audit.sink = '{sink}'")).unwrap().target;
    assert_eq!(target("/var/log/audit"), Target::File("/var/log/audit".into()));
    assert_eq!(target("~/audit"), Target::File("home/audit".into()));
    assert_eq!(target("syslog"), Target::Syslog("/dev/log".into()));
    assert_eq!(target("journald"), Target::Journald);
    let setup = Setup::new().vars(PASSWORD).vars("KEYWAY_AUDIT_SINK=stdout").toml("audit.sink = 'syslog'");
    assert_eq!(setup.config().audit.unwrap().target, Target::Stdout);
}

// Promise 73.
#[test]
fn a_broker_serves_nothing_without_its_line_unless_that_is_wanted() {
    let broker = "[identity.ada]\npassword = 'hunter2-ada'\n[listener.main]\nlogin = 'configured'\n";
    let on_failure = |toml: &str| {
        let setup = Setup::new().vars(PASSWORD).toml(toml).mode("home/.config/keyway/keyway.toml", 0o600);
        setup.config().audit.unwrap().on_failure
    };
    assert_eq!(on_failure("audit.sink = 'syslog'"), OnFailure::Count);
    assert_eq!(on_failure(&format!("audit.sink = 'syslog'\n{broker}")), OnFailure::Stop);
    let chosen = |choice: &str| format!("audit.sink = 'syslog'\naudit.on_failure = '{choice}'\n");
    assert_eq!(on_failure(&(chosen("count") + broker)), OnFailure::Count);
    assert_eq!(on_failure(&chosen("stop")), OnFailure::Stop);
}

#[test]
fn a_sink_or_a_choice_that_there_is_not_is_a_problem() {
    Setup::new()
        .vars(PASSWORD)
        .toml("[audit]\nsink = 'sysloog'\non_failure = 'ignore'\nfile = 'x'")
        .check_problems(&[
            &format!("{TOML}: audit.file: unknown key"),
            &format!("{TOML}: audit.sink: `sysloog` is no sink: write a file's path"),
            &format!("{TOML}: audit.on_failure: `ignore` is neither stop nor count"),
        ]);
}
