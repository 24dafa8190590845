//! What does it cost to map the links in an answer?
//!
//!     cargo bench --bench links
//!
//! keyway runs as a process of its own with one worker, in front of a service that answers 4 KiB of JSON
//! over connections that are kept; once with `raw_links = ["*"]`, and once as it comes. Both are asked
//! for the same bodies in turns. The table has the CPU time (user and system) that keyway took for a
//! request, as the system counts it for its threads: the median over the rounds, and of the ratios
//! within each round to the same body with `raw_links`. The exit code is 1 if mapping costs more than
//! half of the request on top. `--requests` (of a sample), `--rounds`, `--clients` and `--keyway FILE`
//! (another program than the one that was just built) are all there is to set. Linux only.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::{fs, io, thread};

/// What a list with links may cost, as a ratio to the same bytes without mapping.
const MOST: f64 = 1.5;
const SIZE: usize = 4096;

struct Settings {
    keyway: String,
    requests: usize,
    rounds: usize,
    clients: usize,
}

/// A body, and what keyway finds in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// No reference at all.
    Plain,
    /// URLs, but none of the cloud's.
    Elsewhere,
    /// Ten links to the service.
    Links,
}

const CONTENTS: [(&str, Content); 3] =
    [("plain", Content::Plain), ("elsewhere", Content::Elsewhere), ("links", Content::Links)];

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("links: {why}; usage: [--requests N] [--rounds N] [--clients N] [--keyway FILE]");
            return ExitCode::from(2);
        }
    };
    let ratio = run(&settings).expect("sockets and processes");
    println!();
    if ratio <= MOST {
        println!(
            "mapping ten links in {SIZE} bytes costs {ratio:.2} times the request without (at most {MOST})"
        );
        ExitCode::SUCCESS
    } else {
        println!(
            "FAILED: mapping ten links in {SIZE} bytes costs {ratio:.2} times the request without (at most {MOST})"
        );
        ExitCode::FAILURE
    }
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings {
        keyway: env!("CARGO_BIN_EXE_keyway").to_owned(),
        requests: 20_000,
        rounds: 9,
        clients: 16,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        // cargo bench says so to every benchmark.
        if argument == "--bench" {
            continue;
        }
        let field = match argument.as_str() {
            "--keyway" => {
                settings.keyway = arguments.next().ok_or("--keyway wants a file")?;
                continue;
            }
            "--requests" => &mut settings.requests,
            "--rounds" => &mut settings.rounds,
            "--clients" => &mut settings.clients,
            _ => return Err(format!("`{argument}` is unknown")),
        };
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
        *field = value.ok_or_else(|| format!("{argument} wants a number"))?;
    }
    Ok(settings)
}

/// The ratio for a list with links.
fn run(settings: &Settings) -> io::Result<f64> {
    let service = TcpListener::bind("127.0.0.1:0")?;
    let authority = service.local_addr()?.to_string();
    let bodies = CONTENTS.map(|(name, content)| (name, body(content, &authority)));
    let answers: &'static [(&str, String)] = Box::leak(Box::new(bodies));
    thread::spawn(move || {
        for client in service.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(client, answers));
        }
    });

    let directory = tempfile::tempdir()?;
    let raw =
        Keyway::start(&settings.keyway, &directory.path().join("raw"), &authority, "raw_links = [\"*\"]")?;
    let mapping = Keyway::start(&settings.keyway, &directory.path().join("mapping"), &authority, "")?;
    let mut samples: Vec<[Vec<f64>; 2]> = CONTENTS.map(|_| Default::default()).into();
    for round in 0..=settings.rounds {
        for (index, (name, content)) in CONTENTS.into_iter().enumerate() {
            for (side, keyway) in [&raw, &mapping].into_iter().enumerate() {
                let mapped = side == 1 && content == Content::Links;
                let sample = keyway.load(settings, name, &authority, mapped)?;
                // The first round warms up.
                if round > 0 {
                    samples[index][side].push(sample);
                }
            }
        }
    }

    println!("CPU us/request ({} rounds of {} requests)\n", settings.rounds, settings.requests);
    println!("| 4 KiB of JSON | as it comes | raw_links | ratio |\n|---|--:|--:|--:|");
    let mut last = f64::NAN;
    for ((name, _), [raw, mapping]) in CONTENTS.iter().zip(samples) {
        let ratios = mapping.iter().zip(&raw).map(|(mapping, raw)| mapping / raw).collect();
        last = median(ratios);
        println!("| {name} | {:.2} | {:.2} | {last:.3} |", median(mapping), median(raw));
    }
    Ok(last)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// About as much JSON as asked, as nova writes it: ten servers, each with or without a link.
fn body(content: Content, authority: &str) -> String {
    let mut body = String::from("{\"servers\": [");
    for index in 0..10 {
        let separator = if index == 0 { "" } else { ", " };
        let id = format!("9168b536-cd40-4630-b43f-b259807c6e{index:02}");
        let _ = write!(
            body,
            "{separator}{{\"id\": \"{id}\", \"name\": \"server-{index}\", \"status\": \"ACTIVE\", "
        );
        let host = if content == Content::Links { authority } else { "elsewhere.example:8774" };
        if content == Content::Plain {
            let _ = write!(
                body,
                "\"links\": [{{\"rel\": \"self\", \"href\": \"{id} and as many bytes as a link has\"}}], "
            );
        } else {
            let _ = write!(
                body,
                "\"links\": [{{\"rel\": \"self\", \"href\": \"http://{host}/v2.1/servers/{id}\"}}], "
            );
        }
        let before = body.len();
        body.push_str("\"metadata\": {\"role\": \"web\", \"owner\": \"team\"}, \"progress\": 0, \"key_name\": null, \"tags\": [");
        let share = (SIZE - 20) / 10;
        while body.len() - before + 200 < share {
            body.push_str("\"a tag of some length\", ");
        }
        body.push_str("\"last\"]}");
    }
    body.push_str("]}");
    let padding = SIZE.saturating_sub(body.len());
    body.insert_str(body.len() - 1, &" ".repeat(padding));
    body
}

/// Answers requests for `/v2.1/NAME` with the body of that name.
fn serve(client: TcpStream, answers: &[(&str, String)]) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    loop {
        let mut asked = String::new();
        if reader.read_line(&mut asked)? == 0 {
            return Ok(());
        }
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
        }
        let path = asked.split(' ').nth(1).unwrap_or_default();
        let body = answers.iter().find(|(name, _)| path.strip_prefix("/v2.1/") == Some(name));
        let answer = match body {
            Some((_, body)) => format!(
                "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\nX-Openstack-Request-Id: req-0\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        };
        reader.get_mut().write_all(answer.as_bytes())?;
    }
}

/// A running keyway. Dropped, it is killed.
struct Keyway {
    child: Child,
    address: SocketAddr,
}

impl Keyway {
    fn start(program: &str, home: &Path, authority: &str, options: &str) -> io::Result<Self> {
        fs::create_dir(home)?;
        let clouds = format!(
            "clouds:\n  bench:\n    auth_type: admin_token\n    auth:\n      endpoint: http://{authority}/v2.1\n      token: the-token\n"
        );
        fs::write(home.join("clouds.yaml"), clouds)?;
        fs::write(home.join("keyway.toml"), format!("[cloud.bench]\n{options}\n"))?;
        let mut child = Command::new(program)
            .args(["serve", "--cloud", "bench", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--workers", "1", "--log-format", "json", "--log-level", "info,keyway::request=off"])
            .arg("--config")
            .arg(home.join("keyway.toml"))
            .env_clear()
            .env("HOME", home)
            .env("OS_CLIENT_CONFIG_FILE", home.join("clouds.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said = String::new();
        let mut lines = lines.map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| {
            said = format!("{said}{line}\n");
            let line: serde_json::Value = serde_json::from_str(&line).ok()?;
            line["listen"].as_str()?.parse().ok()
        });
        // What it says later is read too, so that it never waits for that.
        thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else { panic!("keyway did not start:\n{said}") };
        Ok(Self { child, address })
    }

    /// Sends as many requests as a sample has, and returns what each took of the CPU, microseconds.
    fn load(&self, settings: &Settings, name: &str, authority: &str, mapped: bool) -> io::Result<f64> {
        let each = settings.requests.div_ceil(settings.clients);
        let before = self.cpu()?;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..settings.clients)
                .map(|_| scope.spawn(|| client(self.address, name, each, authority, mapped)))
                .collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
        })?;
        Ok((self.cpu()? - before) / (each * settings.clients) as f64)
    }

    /// What all its threads have taken so far, microseconds.
    fn cpu(&self) -> io::Result<f64> {
        let mut nanoseconds = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let spent = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds +=
                spent.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        }
        Ok(nanoseconds / 1e3)
    }
}

impl Drop for Keyway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks one request after the other, and checks what comes.
fn client(address: SocketAddr, name: &str, count: usize, authority: &str, mapped: bool) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let request = format!("GET /compute/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut reader = BufReader::new(stream.try_clone()?);
    let (here, there) = (format!("http://{address}/compute/servers/"), format!("http://{authority}/v2.1/"));
    for index in 0..count {
        stream.write_all(request.as_bytes())?;
        let (mut line, mut length, mut is_good) = (String::new(), 0, false);
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            is_good |= line.starts_with("HTTP/1.1 200 ");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        // Looking into each one would cost more than keyway does.
        if index == 0 {
            let body = String::from_utf8_lossy(&body);
            let links = (body.matches(&here).count(), body.matches(&there).count());
            is_good &= links == if mapped { (10, 0) } else { (0, if name == "links" { 10 } else { 0 }) };
            is_good &= serde_json::from_str::<serde_json::Value>(&body).is_ok();
        }
        if !is_good {
            return Err(io::Error::other(format!(
                "a wrong answer for {name}: {}",
                String::from_utf8_lossy(&body)
            )));
        }
    }
    Ok(())
}
