//! Does the time that a wrong key or password takes tell what was wrong with it?
//!
//!     cargo bench --bench timing
//!
//! Keys and passwords of several classes are looked at in random order, one call at a time, each from the same
//! place in memory: [`Identities::by_secret`], which every way in asks. Through a listener nothing could be seen,
//! since it looks at one wrong key a second after the first ten. The slowest tenth, where something else ran, is
//! left out (of all classes by the same limit). For each pair of classes there is Welch's t, in the manner of
//! dudect (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", 2017), and the difference of the means.
//! It measures, and judges nothing. `--samples` (of all classes together) and `--seed` are all there is to set.

use std::hint::black_box;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use std::{fs, io};

use jiff::Timestamp;
use keyway::identity::keyring::ApiKey;
use keyway::identity::{Config, Identities, KeyHash, Keyring, key};
use keyway::keystone::Secret;

const IDENTITIES: usize = 100;
/// Keys of each kind.
const KEYS: usize = 300;
/// `kwk_`, the key's name, `_`.
const BEFORE_SECRET: usize = 4 + 16 + 1;
/// So much of a near miss is right.
const NEAR: usize = 20;
/// What is kept of the times: all up to this share of them, in percent.
const KEPT: usize = 90;

/// Texts that are wrong in one way, with the name that is shown with them, if any.
struct Class {
    name: &'static str,
    wrong: Box<dyn Fn() -> (Option<String>, String)>,
}

/// Count, mean and variance, nanoseconds.
struct Times {
    count: f64,
    mean: f64,
    variance: f64,
}

fn main() -> ExitCode {
    let (mut samples, mut seed) = (3_000_000, 1);
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse().ok());
        match (word.as_str(), value) {
            ("--samples", Some(value)) => samples = value,
            ("--seed", Some(value)) => seed = value,
            _ => {
                eprintln!("timing: {word} is not understood; usage: [--samples N] [--seed N]");
                return ExitCode::from(2);
            }
        }
    }
    fastrand::seed(seed);
    let home = tempfile::tempdir().expect("a directory");
    let (identities, keys, passwords) = classes(home.path()).expect("files");
    println!("{IDENTITIES} identities, {KEYS} keys; {samples} samples, seed {seed}\n");
    let samples = usize::try_from(samples).unwrap_or(usize::MAX) / 2;
    // Each with one that is like it but for what it is called for; the first pair is twice the same.
    report("Keys", &identities, &keys, samples, &[(1, 0), (2, 0), (3, 0), (3, 2), (5, 4), (6, 4)]);
    report("Passwords", &identities, &passwords, samples, &[(1, 0), (2, 0), (3, 0), (3, 2)]);
    println!(
        "|t| below 4.5: no difference was found with so many samples. From 4.5 to 10 there may be one, and above 10\n\
         there is one: look at how large it is. Two classes that are the same tell what noise is here. What only\n\
         who has a right secret can bring about (expired, revoked) tells nobody anything about a secret."
    );
    ExitCode::SUCCESS
}

/// The identities, and what is wrong in all ways.
///
/// Processors learn what they see often, so each class of keys has as many names as the others; secrets are new each
/// time, but for those classes whose secrets are right, and one to compare these with.
fn classes(home: &Path) -> io::Result<(Identities, Vec<Class>, Vec<Class>)> {
    let made: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let (path, mut lines) = (home.join("api-keys"), String::new());
    let mut make = |ends: Option<Timestamp>, is_kept: bool| -> Vec<String> {
        let one = |_| {
            let (id, secret) = key::make();
            let (identity, hash) =
                (name_of(fastrand::usize(..IDENTITIES)), KeyHash::of(secret.expose().as_bytes()));
            if is_kept {
                let key = ApiKey { id, identity, hash, made, ends, note: String::new() };
                lines += &format!("{key}\n");
            }
            secret.expose().to_owned()
        };
        (0..KEYS).map(one).collect()
    };
    let (known, expired, revoked) = (make(None, true), make(Some(made), true), make(None, false));
    let (unknown, others, repeated) = (make(None, false), make(None, false), make(None, false));
    fs::write(&path, lines)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let passwords: Vec<String> = (0..IDENTITIES).map(|_| letters(43)).collect();
    let config = |(number, password): (usize, &String)| Config {
        name: name_of(number),
        password: Some(Secret::new(password.as_str())),
        ..Config::default()
    };
    let configs: Vec<Config> = passwords.iter().enumerate().map(config).collect();
    let identities = Identities::new(&configs, Keyring::load(Some(path)).into(), None);
    // Else the classes would not be what they are called.
    assert!(known.iter().all(|text| identities.by_secret(None, text.as_bytes(), Timestamp::now()).is_some()));

    let any = |of: &[String]| fastrand::choice(of).expect("there are some").clone();
    let same = move |name, of: Vec<String>| Class { name, wrong: Box::new(move || (None, any(&of))) };
    // All after so many characters of the secret is another text.
    let missed = move |name, of: &[String], right: usize| {
        let of = of.to_vec();
        let wrong = move || (None, other_after(&any(&of), BEFORE_SECRET + right));
        Class { name, wrong: Box::new(wrong) }
    };
    let keys = vec![
        missed("unknown name", &unknown, 0),
        missed("unknown name, again", &others, 0),
        missed("known name, no byte right", &known, 0),
        missed("known name, 20 characters right", &known, NEAR),
        same("unknown name, the same keys each time", repeated),
        same("expired, all right", expired),
        same("revoked, all right", revoked),
    ];
    let stranger = || (Some(format!("stranger{:02}", fastrand::usize(..IDENTITIES))), letters(43));
    let member = |name, right: usize| {
        let passwords = passwords.clone();
        let wrong = move || {
            let number = fastrand::usize(..IDENTITIES);
            (Some(name_of(number)), other_after(&passwords[number], right))
        };
        Class { name, wrong: Box::new(wrong) }
    };
    let passwords = vec![
        Class { name: "unknown name", wrong: Box::new(stranger) },
        Class { name: "unknown name, again", wrong: Box::new(stranger) },
        member("known name, no byte right", 0),
        member("known name, 20 characters right", NEAR),
    ];
    Ok((identities, keys, passwords))
}

/// As long as `stranger00`.
fn name_of(number: usize) -> String {
    format!("member{number:04}")
}

fn letters(count: usize) -> String {
    (0..count).map(|_| fastrand::alphanumeric()).collect()
}

/// As long, the same at its start, and another character in each place after that.
fn other_after(text: &str, same: usize) -> String {
    let (start, rest) = text.split_at(same);
    let another = |not: char| {
        loop {
            let one = fastrand::alphanumeric();
            if one != not {
                return one;
            }
        }
    };
    start.chars().chain(rest.chars().map(another)).collect()
}

fn report(what: &str, identities: &Identities, classes: &[Class], samples: usize, pairs: &[(usize, usize)]) {
    let mut times: Vec<Vec<u32>> = classes.iter().map(|_| Vec::new()).collect();
    let (mut name, mut text) = (String::with_capacity(64), String::with_capacity(64));
    // Rounds at the beginning are for the caches.
    let warm = samples / 20;
    for number in 0..samples + warm {
        let of = fastrand::usize(..classes.len());
        let (shown, wrong) = (classes[of].wrong)();
        // The same places in memory for all.
        name.clear();
        name.push_str(shown.as_deref().unwrap_or_default());
        text.clear();
        text.push_str(&wrong);
        let shown = shown.is_some().then_some(name.as_str());
        let now = Timestamp::now();
        let start = Instant::now();
        let found = black_box(identities.by_secret(black_box(shown), black_box(text.as_bytes()), now));
        let took = start.elapsed();
        assert!(found.is_none(), "{}: it is good", classes[of].name);
        if number >= warm {
            times[of].push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
        }
    }
    let mut all: Vec<u32> = times.concat();
    all.sort_unstable();
    let limit = all[(all.len() * KEPT / 100).min(all.len() - 1)];
    let times: Vec<Times> = times.iter().map(|times| Times::of(times, limit)).collect();
    println!("{what}\n\n| class | samples | mean, ns |\n|---|---:|---:|");
    for (class, times) in classes.iter().zip(&times) {
        println!("| {} | {:.0} | {:.1} |", class.name, times.count, times.mean);
    }
    println!("\n| pair | difference, ns | t |\n|---|---:|---:|");
    for &(one, other) in pairs {
        let (its, theirs) = (&times[one], &times[other]);
        let (difference, t) = (its.mean - theirs.mean, its.t(theirs));
        println!("| {} / {} | {difference:+.2} | {t:+.1} |", classes[one].name, classes[other].name);
    }
    println!();
}

impl Times {
    fn of(times: &[u32], limit: u32) -> Self {
        let kept: Vec<f64> =
            times.iter().filter(|time| **time <= limit).map(|time| f64::from(*time)).collect();
        let count = kept.iter().fold(0.0, |count, _| count + 1.0);
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self { count, mean, variance }
    }

    /// Welch's t.
    fn t(&self, other: &Self) -> f64 {
        (self.mean - other.mean) / (self.variance / self.count + other.variance / other.count).sqrt()
    }
}
