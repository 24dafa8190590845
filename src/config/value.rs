//! Single values as people write them: addresses, sizes, durations, counts, booleans.
//!
//! Each error is the end of a sentence that starts with the key, and says how to write it right.

use std::time::Duration;

use crate::server::Address;

/// The longest duration: later arithmetic on it must not overflow, and nobody waits longer.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `ADDRESS:PORT` or `unix:/path`; `localhost` is 127.0.0.1.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|error| {
        if text.starts_with("unix:") {
            return error;
        }
        format!(
            "`{text}` is no address: write ADDRESS:PORT, for example 127.0.0.1:8180, or unix:/path/to/socket"
        )
    })
}

/// A whole number from 1 up.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err(format!("`{text}` is no whole number")),
    }
}

/// Bytes: a number alone or with B, KiB, MiB or GiB.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    number
        .parse::<usize>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is no size: write bytes, or for example 64KiB or 1MiB"))
}

/// A size, or `none`.
pub(super) fn size_or_none(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    match size(text) {
        Ok(size) => Ok(Some(size as u64)),
        Err(message) => Err(format!("{message}, or \"none\"")),
    }
}

/// A duration with its unit: ms, s, m, h or d.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    duration_up_to(text, LONGEST, "24h")
}

/// The same with another limit, and its name.
pub(super) fn duration_up_to(text: &str, longest: Duration, name: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        "d" => Some(24 * 60 * 60 * 1000),
        _ => None,
    };
    let duration = number
        .parse::<u64>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!("`{text}` is no duration: write it with its unit, for example 500ms, 30s or 5m")
        })?;
    if duration > longest {
        return Err(format!("`{text}` is too long: at most {name}"));
    }
    Ok(duration)
}

/// A boolean in any of the ways that YAML and the OpenStack clients know.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" | "t" | "y" => Ok(true),
        "false" | "no" | "off" | "0" | "f" | "n" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

pub(super) fn at_most(count: usize, most: usize) -> Result<usize, String> {
    if count <= most { Ok(count) } else { Err(format!("must be at most {most}")) }
}

pub(super) fn within(size: usize, least: usize, most: usize) -> Result<usize, String> {
    if (least..=most).contains(&size) {
        Ok(size)
    } else {
        Err(format!("must be at least {least} and at most {most} bytes"))
    }
}

/// A number from `least` to 1000.
pub(super) fn small(text: &str, least: u32) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if (least..=1000).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is no whole number from {least} to 1000")),
    }
}

/// A duration from `least` to `most`, as people write them.
pub(super) fn within_times(text: &str, least: &str, most: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let bounds = duration(least)?..=duration(most)?;
    if bounds.contains(&time) { Ok(time) } else { Err(format!("`{text}` is not between {least} and {most}")) }
}

pub(super) fn nonzero(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must not be zero".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("2B", 2), ("64KiB", 65536), ("1 MiB", 1 << 20), ("1gib", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64KB", "1.5MiB", "-1", "99999999999GiB", "64 KiB each"] {
            assert!(size(text).unwrap_err().contains("64KiB"), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5 m", 300_000),
            ("24h", 86_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "1.5s", "-1s", "30sec", "99999999999999999999s"] {
            assert!(duration(text).unwrap_err().contains("unit"), "{text}");
        }
        assert!(duration("25h").unwrap_err().contains("at most 24h"));
    }

    #[test]
    fn addresses_have_a_port() {
        assert_eq!(address("localhost:1").unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(address("[::1]:80").unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(address("unix:/run/k.sock").unwrap(), Address::Unix("/run/k.sock".into()));
        assert!(address("unix:k.sock").unwrap_err().contains("unix:/absolute/path"));
        for text in ["", "8180", ":8180", "127.0.0.1", "example.org:80", "127.0.0.1:99999"] {
            assert!(address(text).unwrap_err().contains("ADDRESS:PORT"), "{text}");
        }
    }

    #[test]
    fn counts_start_at_one_and_booleans_are_words() {
        assert_eq!(count("3"), Ok(3));
        assert!(count("0").is_err() && count("many").is_err() && count("-1").is_err());
        assert_eq!(boolean("True"), Ok(true));
        assert_eq!(boolean("no"), Ok(false));
        assert!(boolean("maybe").is_err());
    }
}
