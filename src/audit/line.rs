//! A line: what it says of a request, and how.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

/// A request's line, with its line break.
pub type Line = Box<[u8]>;

/// How long a line is that needs no more room than most, bytes.
const USUAL: usize = 640;

/// What keyway made of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was for its service, or for keyway's own Keystone, whatever came of it there.
    Allowed,
    /// It was refused: a rule, a right, or its form.
    Denied,
    /// There were too many of them.
    Limited,
    /// It did not prove whose it is.
    Unauthorized,
}

/// What is written of a request. A field whose name the log has too is called as there. None of them has a secret:
/// see [`crate::shown`] for those that a client wrote.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// When its head had come, UTC with milliseconds.
    #[serde(serialize_with = "milliseconds")]
    pub timestamp: Timestamp,
    /// Whose it is; none where it proved nothing.
    pub identity: Option<&'a str>,
    /// How that was proved, see [`crate::identity::Proof`].
    pub proof: Option<String>,
    /// The client's address, or its user at a socket file (`uid:1000`).
    pub peer: Option<String>,
    /// The listener by which it came.
    pub listener: &'a str,
    /// The cloud that it is for, where that was found out.
    pub cloud: Option<&'a str>,
    /// The project of the token that it was to carry.
    #[serde(rename = "project.id")]
    pub project_id: Option<&'a str>,
    /// That project's name.
    #[serde(rename = "project.name")]
    pub project_name: Option<&'a str>,
    /// The service's official type.
    pub service: Option<&'a str>,
    /// Its method.
    #[serde(rename = "http.request.method")]
    pub method: &'a str,
    /// Its path as the client sent it.
    #[serde(rename = "url.path")]
    pub path: &'a str,
    /// The names in its query.
    #[serde(rename = "url.query")]
    pub query: Option<&'a str>,
    /// The answer's status; 499 if the client went away before there was one.
    #[serde(rename = "http.response.status_code")]
    pub status: u16,
    /// Bytes of its body that were read.
    #[serde(rename = "http.request.body.size")]
    pub received: u64,
    /// Bytes of the answer's body that were passed on.
    #[serde(rename = "http.response.body.size")]
    pub sent: u64,
    /// From its head to the end of its answer.
    pub duration_ms: f64,
    /// The service's id of it.
    #[serde(rename = "openstack.request_id")]
    pub request_id: Option<&'a str>,
    /// The id that its client gave it, which services call the global one.
    #[serde(rename = "openstack.global_request_id")]
    pub global_request_id: Option<&'a str>,
    /// What keyway made of it.
    pub decision: Decision,
    /// What decided, where it was not allowed.
    pub rule: Option<String>,
}

impl Entry<'_> {
    /// As a line of ASCII, whatever the texts hold: no line break, control character or unusual letter of theirs
    /// reaches whoever reads or prints the file.
    pub fn line(&self) -> Line {
        let mut text = Vec::with_capacity(USUAL);
        serde_json::to_writer(&mut text, self).expect("texts and numbers are JSON");
        // Without a way out amid the line, several bytes are looked at together.
        let is_odd = text.iter().fold(false, |odd, byte| odd | !matches!(byte, b' '..=b'~'));
        if is_odd {
            text = escaped(&text);
        }
        text.push(b'\n');
        text.into()
    }
}

/// Everything that is not printable ASCII stands inside of strings, where it may be escaped.
#[cold]
fn escaped(text: &[u8]) -> Vec<u8> {
    use std::fmt::Write as _;
    let text = String::from_utf8_lossy(text);
    let mut escaped = String::with_capacity(2 * text.len());
    for char in text.chars() {
        if matches!(char, ' '..='~') {
            escaped.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped.into_bytes()
}

fn milliseconds<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

/// Who is at the other end of a connection, as a line has it.
pub fn peer(address: Option<IpAddr>, user: Option<(u32, u32)>) -> Option<String> {
    match (address, user) {
        (Some(address), _) => Some(address.to_canonical().to_string()),
        (None, Some((user, _))) => Some(format!("uid:{user}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn entry<'a>(name: &'a str, path: &'a str) -> Entry<'a> {
        Entry {
            timestamp: "2026-11-22T10:00:00.0004Z".parse().unwrap(),
            identity: Some(name),
            proof: Some(format!("certificate:uri:{name}")),
            peer: peer(Some("::ffff:10.0.0.5".parse().unwrap()), None),
            listener: "main",
            cloud: Some(name),
            project_id: Some("0123"),
            project_name: Some(name),
            service: Some("compute"),
            method: "GET",
            path,
            query: None,
            status: 200,
            received: 0,
            sent: u64::MAX,
            duration_ms: 1.5,
            request_id: None,
            global_request_id: None,
            decision: Decision::Unauthorized,
            rule: Some(name.to_owned()),
        }
    }

    #[test]
    fn a_line_has_every_field_also_those_without_a_value() {
        let line = entry("ada", "/compute/servers").line();
        let text = std::str::from_utf8(&line).unwrap();
        assert_eq!(
            text,
            "{\"timestamp\":\"2026-11-22T10:00:00.000Z\",\"identity\":\"ada\",\"proof\":\"certificate:uri:ada\",\
             \"peer\":\"10.0.0.5\",\"listener\":\"main\",\"cloud\":\"ada\",\"project.id\":\"0123\",\
             \"project.name\":\"ada\",\"service\":\"compute\",\"http.request.method\":\"GET\",\
             \"url.path\":\"/compute/servers\",\"url.query\":null,\"http.response.status_code\":200,\
             \"http.request.body.size\":0,\"http.response.body.size\":18446744073709551615,\"duration_ms\":1.5,\
             \"openstack.request_id\":null,\"openstack.global_request_id\":null,\"decision\":\"unauthorized\",\
             \"rule\":\"ada\"}\n"
        );
        assert_eq!(peer(None, Some((7, 8))).as_deref(), Some("uid:7"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_line(name in any::<String>(), path in any::<String>()) {
            let line = entry(&name, &path).line();
            let (end, text) = line.split_last().unwrap();
            prop_assert_eq!(*end, b'\n');
            prop_assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')));
            let value: Value = serde_json::from_slice(text).unwrap();
            prop_assert_eq!(&value["identity"], &Value::from(name.as_str()));
            prop_assert_eq!(&value["url.path"], &Value::from(path.as_str()));
            prop_assert_eq!(value.as_object().unwrap().len(), 20);
        }
    }
}
