//! Logging in by a Kerberos ticket.

use super::*;

const URL: &str = "auth_url: 'https://c.example'";
const IDP: &str = "identity_provider: kdc, protocol: mapped";

#[cfg(not(feature = "kerberos"))]
#[test]
fn a_build_without_kerberos_says_so_and_how_to_get_one() {
    for auth_type in ["v3kerberos", "v3fedkerb"] {
        let options = format!("{{auth_type: {auth_type}, auth: {{{URL}, {IDP}, mutual_auth: never}}}}");
        let problem = format!(
            "auth_type: `{auth_type}` needs Kerberos, which this keyway was built without; build one with `cargo build \
             --release --features kerberos`"
        );
        check_cloud(&options, &[&problem]);
    }
}

#[cfg(feature = "kerberos")]
#[test]
fn a_tickets_login_has_keystoneauths_options() {
    use crate::keystone::{Grant, MutualAuth};

    let method = |auth_type: &str, auth: &str| {
        let entry = format!("{{auth_type: {auth_type}, auth: {{{URL}, project_id: p1, {auth}}}}}");
        let identity = Setup::new().clouds(&format!("clouds: {{prod: {entry}}}")).identity();
        assert_eq!(identity.version, IdentityVersion::V3);
        assert_eq!(identity.scope, Scope::Project(Project::Id("p1".to_owned())));
        identity.method
    };
    for (written, expected) in [
        ("mutual_auth: ''", MutualAuth::Optional),
        ("mutual_auth: optional", MutualAuth::Optional),
        ("mutual_auth: Required", MutualAuth::Required),
        ("mutual-auth: DISABLED", MutualAuth::Disabled),
    ] {
        assert_eq!(method("v3kerberos", written), Method::Kerberos(expected), "{written}");
        let Method::Federated(federated) = method("v3fedkerb", &format!("{IDP}, {written}")) else {
            panic!("it is a federated login")
        };
        assert_eq!((&*federated.identity_provider, &*federated.protocol), ("kdc", "mapped"));
        assert_eq!(federated.grant, Grant::Kerberos(expected), "{written}");
        assert_eq!(federated.person.place, None, "it needs no person");
    }
}

#[cfg(feature = "kerberos")]
#[test]
fn what_is_wrong_with_a_tickets_login_is_named() {
    let mutual = "auth.mutual_auth: `yes` is neither required, optional nor disabled";
    check_cloud(&format!("{{auth_type: v3kerberos, auth: {{{URL}, mutual_auth: 'yes'}}}}"), &[mutual]);
    check_cloud(
        "{auth_type: v3fedkerb, auth: {mutual_auth: 'yes'}}",
        &["auth.auth_url: missing", "auth.identity_provider: missing", "auth.protocol: missing", mutual],
    );
    check_cloud(
        "{auth_type: v3kerberos, auth: {auth_url: 'https://c.example/v2.0'}}",
        &["auth.auth_url: ends in /v2.0, but auth_type asks for Identity v3"],
    );
    check_cloud(
        &format!("{{auth_type: v3multifactor, auth_methods: [v3kerberos], auth: {{{URL}}}}}"),
        &["auth_methods: `v3kerberos` can't be combined"],
    );
}
