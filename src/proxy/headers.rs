//! Which of the client's fields go to a service, and which of a service's come back?
//!
//! Hop-by-hop fields and framing are `upstream`'s matter. Here stands what OpenStack's trust is made
//! of: credentials, identity assertions, and what middleware believes about the way a request came.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub use crate::keystone::token::X_AUTH_TOKEN;

/// More options in `Connection` than any honest client names.
pub const MAX_LISTED: usize = 64;

/// The same as X-Auth-Token, as Swift called it first; middleware takes it where there is no other.
pub static X_STORAGE_TOKEN: HeaderName = HeaderName::from_static("x-storage-token");
/// A service's id of a request; in the request, the one that its client gave it.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
/// Where the page is from that a browser sends a request for (Fetch Metadata).
pub static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What is asked of a request's fields again and again, found in one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Names and values with their punctuation, bytes.
    pub size: usize,
    /// How many Content-Length fields.
    pub content_lengths: usize,
    /// How many Transfer-Encoding fields.
    pub transfer_encodings: usize,
    /// There is an Expect.
    pub expect: bool,
    /// There is a Connection.
    pub connection: bool,
    /// How many Host fields.
    pub hosts: usize,
    /// There is an Origin or a Sec-Fetch-Site: a browser sent it.
    pub browser: bool,
    /// There is an X-Auth-Token or an X-Storage-Token.
    pub token: bool,
    /// There is an X-Subject-Token.
    pub subject: bool,
    /// There is an Authorization.
    pub authorization: bool,
}

impl Fields {
    /// Looks at each field once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.size += name.as_str().len() + value.len() + 4;
            match *name {
                header::CONTENT_LENGTH => fields.content_lengths += 1,
                header::TRANSFER_ENCODING => fields.transfer_encodings += 1,
                header::EXPECT => fields.expect = true,
                header::CONNECTION => fields.connection = true,
                header::HOST => fields.hosts += 1,
                header::ORIGIN => fields.browser = true,
                header::AUTHORIZATION => fields.authorization = true,
                _ if *name == X_AUTH_TOKEN || *name == X_STORAGE_TOKEN => fields.token = true,
                _ if *name == X_SUBJECT_TOKEN => fields.subject = true,
                _ => fields.browser |= *name == SEC_FETCH_SITE,
            }
        }
        fields
    }
}

/// Whether a client's field must not reach a service.
///
/// WSGI servers fold `_` and `-` together, and CGI servers have folded more, so a name counts as it
/// would look after that.
pub fn is_withheld(name: &HeaderName) -> bool {
    let name = name.as_str();
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if name.bytes().all(plain) { is_guarded(name) } else { is_guarded_folded(name) }
}

/// The same for a name that some server takes for another one.
#[cold]
fn is_guarded_folded(name: &str) -> bool {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let folded: String = name.chars().map(fold).collect();
    // A name that is framing or routing once it is folded: no such field goes on under that spelling.
    is_guarded(&folded)
        || matches!(
            folded.as_str(),
            "content-length" | "transfer-encoding" | "http2-settings" | "keep-alive" | "x-subject-token"
        )
}

fn is_guarded(name: &str) -> bool {
    match name.as_bytes()[0] {
        b'x' => name.strip_prefix("x-").is_some_and(is_guarded_extension),
        b'a' => name == "authorization",
        b'c' => name == "cookie",
        b'f' => name == "forwarded",
        b'o' => matches!(name, "openstack-system-scope" | "openstack-auth-receipt"),
        // A CGI server makes `HTTP_PROXY` of `Proxy`.
        b'p' => name == "proxy" || name.starts_with("proxy-"),
        b'r' => name == "remote-user" || name == "remote-addr",
        b's' => name.starts_with("ssl-client-"),
        // It speaks of keyway's message to the service, whose trailers keyway does not foresee.
        b't' => name == "trailer",
        b'v' => name == "via",
        _ => false,
    }
}

/// `name` is what follows `x-`.
fn is_guarded_extension(name: &str) -> bool {
    // Credentials, and what keystonemiddleware tells a service about them.
    matches!(name, "auth-token" | "storage-token" | "is-admin-project" | "delegated-roles")
        // Swift's own login.
        || matches!(name, "auth-key" | "auth-user" | "storage-user" | "storage-pass")
        || matches!(name, "role" | "roles" | "user" | "tenant")
        || ["service-", "identity-", "forwarded-", "user-", "project-", "domain-", "tenant-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        // Where a request is said to have come from.
        || matches!(name, "forwarded" | "real-ip" | "client-ip" | "cluster-client-ip")
        // What it is said to be instead: a policy was asked about the method and path that it has.
        || matches!(name, "http-method" | "http-method-override" | "method-override" | "rewrite-url")
        || matches!(name, "original-method" | "original-url" | "original-uri" | "original-host")
}

/// The fields that the client named in `Connection`, which end here (RFC 9110, section 7.6.1).
/// Naming a guarded field or the framing changes nothing.
pub fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(option) {
                named.push(name);
            }
        }
    }
    named
}

/// The token that a client asks Keystone about, and that Keystone answers with.
pub static X_SUBJECT_TOKEN: HeaderName = HeaderName::from_static("x-subject-token");

/// Takes out of a service's answer what is not the client's: tokens (outside identity, where they
/// are what was asked for), cookies of an origin that all services share, CORS grants, what only
/// keyway says, and any field that shows a token that the request was `sent` with. Only a client that
/// `asked` Keystone about this very token, and so has it, gets it back. Bodies are not looked at.
pub fn clean_answer(
    headers: &mut HeaderMap,
    identity: bool,
    asked: Option<&HeaderValue>,
    sent: &super::Sent,
) {
    let unwanted = |(name, value): &(&HeaderName, &HeaderValue)| match name.as_str() {
        "x-auth-token" | "x-storage-token" | "openstack-auth-receipt" | "set-cookie" => true,
        // The body's framing, whatever a fixed token looks like.
        "content-length" => false,
        "x-subject-token" => !identity || (sent.shows_in(value) && asked != Some(value)),
        name if name.starts_with("access-control-") || name.starts_with("x-keyway-") => true,
        _ => sent.shows_in(value),
    };
    // One look at each field is cheaper than several look-ups, and there is hardly ever one to take out.
    if headers.iter().any(|field| unwanted(&field)) {
        let names: Vec<_> = headers.iter().filter(unwanted).map(|(name, _)| name.clone()).collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// The same for its trailers, where no token is ever asked for.
pub fn clean_trailers(trailers: &mut HeaderMap, sent: &super::Sent) {
    clean_answer(trailers, false, None, sent);
}

/// The service's id of a request: `X-Openstack-Request-Id`, or Swift's `X-Trans-Id`.
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    static TRANS_ID: HeaderName = HeaderName::from_static("x-trans-id");
    headers.get(&REQUEST_ID).or_else(|| headers.get(&TRANS_ID))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(withheld: bool, names: &[&str]) {
        for name in names {
            let header = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(is_withheld(&header), withheld, "{name}");
        }
    }

    // Promises 20, 21, 22, 23, 24, 43.
    #[test]
    fn credentials_and_identity_assertions_stay_behind() {
        check(
            true,
            &[
                "X-Auth-Token",
                "x_auth_token",
                "X-Auth_Token",
                "X-Storage-Token",
                "X-Service-Token",
                "X-Service-Roles",
                "X-Identity-Status",
                "X-User-Id",
                "X_User_Id",
                "X-Project-Id",
                "X-Domain-Name",
                "X-Tenant-Id",
                "X-Tenant",
                "X-Roles",
                "X-Role",
                "X-Is-Admin-Project",
                "OpenStack-System-Scope",
                "Openstack-Auth-Receipt",
                "X-Project-Domain-Id",
                "X_Domain_Id",
                "Remote-User",
                "Remote_User",
                "SSL-Client-S-DN",
                "Authorization",
                "Cookie",
                "Proxy-Authorization",
                "Forwarded",
                "X-Forwarded-For",
                "X-Forwarded-Proto",
                "X-Forwarded-Prefix",
                "X_Forwarded_Host",
                "Transfer_Encoding",
                "Content_Length",
                "Via",
                "Trailer",
                "Proxy",
                "Proxy-Authenticate",
                "X-Forwarded",
                "X-Client-IP",
                "X-HTTP-Method-Override",
                "X_HTTP_Method_Override",
                "X-HTTP-Method",
                "X-Method_Override",
                "X-Original-URL",
                "X-Original-Method",
                "X-Rewrite-URL",
                "X.Auth.Token",
                "X-Auth~Token",
            ],
        );
    }

    #[test]
    fn what_services_are_asked_with_passes() {
        check(
            false,
            &[
                "Accept",
                "Content-Type",
                "User-Agent",
                "OpenStack-API-Version",
                "X-OpenStack-Nova-API-Version",
                "X-Openstack-Request-Id",
                "X-Subject-Token",
                "X-Object-Meta-Color",
                "X-Container-Read",
                "X-Copy-From",
                "X-Delete-After",
                "Destination",
                "Range",
                "If-None-Match",
                "X-Image-Meta-Name",
                "X-Newest",
                "X-Timestamp",
                "X_Timestamp",
                "Proxied",
                "X-Userland",
            ],
        );
    }

    #[test]
    fn fields_named_by_connection_are_found() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-Hop"));
        headers.append("connection", HeaderValue::from_static("keep-alive,,x-other , bad name"));
        assert_eq!(named_by_connection(&headers), ["x-hop", "x-other"]);
    }
}
