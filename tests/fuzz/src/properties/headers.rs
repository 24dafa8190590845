//! Header fields: what must not reach a service does not, under any spelling, and what must, does.

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use keyway::proxy::headers::{self, Fields};
use keyway::upstream::Head;

/// Names that only keyway may write, or nobody, as a server folds them: `_` is `-`.
const GUARDED: [&str; 36] = [
    "x-auth-token",
    "x-storage-token",
    "x-service-token",
    "x-service-roles",
    "x-service-identity-status",
    "x-identity-status",
    "x-user",
    "x-user-id",
    "x-user-name",
    "x-user-domain-id",
    "x-project-id",
    "x-project-name",
    "x-domain-id",
    "x-tenant",
    "x-tenant-id",
    "x-role",
    "x-roles",
    "x-is-admin-project",
    "openstack-system-scope",
    "remote-user",
    "ssl-client-s-dn",
    "ssl-client-verify",
    "authorization",
    "proxy-authorization",
    "proxy-connection",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "host",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "http2-settings",
];

/// Whether only keyway may write a field of this name, which is in lower case and has no `_`.
pub fn is_guarded(folded: &str) -> bool {
    GUARDED.contains(&folded)
}

/// Names that services are asked with: they pass, unless `Connection` says that they end here.
const ASKED_WITH: [&str; 12] = [
    "accept",
    "content-type",
    "destination",
    "if-none-match",
    "openstack-api-version",
    "range",
    "user-agent",
    "x-container-meta-color",
    "x-copy-from",
    "x-newest",
    "x-object-meta-color",
    "x-openstack-nova-api-version",
];

/// Sends lines of `name: value` through the filter, as a head's fields and as trailers.
///
/// # Panics
/// If a guarded field is left, or one is lost that services are asked with.
pub fn check(lines: &[u8]) {
    let mut fields = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (Some(name), value) = (halves.next(), halves.next().unwrap_or_default()) else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()))
        {
            fields.append(name, value);
        }
    }
    let counted = Fields::of(&fields);
    assert_eq!(counted.content_lengths, fields.get_all("content-length").iter().count());
    assert_eq!(counted.transfer_encodings, fields.get_all("transfer-encoding").iter().count());
    assert_eq!(counted.connection, fields.contains_key("connection"));
    assert_eq!(counted.expect, fields.contains_key("expect"));

    let listed = headers::named_by_connection(&fields);
    let token = [(headers::X_AUTH_TOKEN.clone(), HeaderValue::from_static("the-token"))];
    let head = Head {
        method: &Method::GET,
        target: "/",
        authority: &HeaderValue::from_static("service.example"),
        headers: &fields,
        withhold: headers::is_withheld,
        listed: &listed,
        extra: &token,
        defaults: &[],
        had_length: counted.content_lengths > 0,
        expect_continue: false,
        read_ahead: false,
    };
    check_passed(&fields, &listed, &head.fields().collect::<Vec<_>>());
    check_passed(&fields, &listed, &head.trailers(&fields).iter().collect::<Vec<_>>());
}

fn check_passed(all: &HeaderMap, listed: &[HeaderName], passed: &[(&HeaderName, &HeaderValue)]) {
    for (name, _) in passed {
        let folded = name.as_str().to_ascii_lowercase().replace('_', "-");
        assert!(!is_guarded(&folded), "{name} reaches the service");
        assert!(!listed.contains(name), "{name} was named by Connection");
    }
    for name in ASKED_WITH {
        if listed.iter().any(|listed| listed == name) {
            continue;
        }
        let sent: Vec<_> = all.get_all(name).iter().collect();
        let arrived: Vec<_> =
            passed.iter().filter(|(passed, _)| *passed == name).map(|(_, value)| *value).collect();
        assert_eq!(sent, arrived, "{name}");
    }
}
