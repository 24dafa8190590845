//! `keyway health`: how is the keyway that runs here? For those who start programs and ask them by running one.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Outcome;
use crate::server::Address;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read, bytes.
const LONGEST: u64 = 64 << 10;

/// Asks the admin listener at this address whether keyway lives, or whether it is ready to serve.
///
/// # Errors
/// Nobody answers there, or not as keyway does.
pub fn health(admin: &Address, ready: bool) -> Result<Outcome, String> {
    let path = if ready { "/readyz" } else { "/livez" };
    let answer = ask(admin, path).map_err(|error| {
        format!(
            "no answer at {admin} ({error}); is keyway running, and is this its admin listener? name it with --admin"
        )
    })?;
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let Some(status) = status else {
        return Err(format!(
            "what answers at {admin} is no HTTP: ask an admin listener without TLS, which is one on loopback or on a \
             socket file"
        ));
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(Outcome { text: format!("{}\n", body.trim_end()), failed: status != 200 })
}

fn ask(admin: &Address, path: &str) -> io::Result<String> {
    match admin {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, path)
        }
        Address::Unix(file) => {
            let stream = UnixStream::connect(file)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, path)
        }
    }
}

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
