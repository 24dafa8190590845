//! Which paths does a rule mean, and what may a service take a path for?
//!
//! Servers differ in what they do to a path before they look at it: decode it once or twice, before or
//! after they cut it at `/`, drop `;parameters`, join `//`, ignore a `/` at the end or a `.json`. Which
//! of them a cloud has nobody knows, so a path has readings, and a rule is asked about each.

use std::str::FromStr;

use percent_encoding::percent_decode;

use super::View;
use crate::proxy::rewrite::is_version;

/// A rule's pattern: `/servers/*/action`, `/images/**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    segments: Vec<Segment>,
    /// `/**` follows.
    any_rest: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `*`: one segment that is not empty.
    Any,
    Name(Box<[u8]>),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("`{text}` {why}"));
        let Some(path) = text.strip_prefix('/') else {
            return wrong("does not start with `/`: write the path below the service, such as /servers/*");
        };
        if text.contains('%') {
            return wrong(
                "has a `%`: write the character itself, patterns are compared with the decoded path",
            );
        }
        if text.contains(['?', '#', ';', '\\']) || text.chars().any(char::is_control) {
            return wrong(
                "has `?`, `#`, `;`, `\\` or a control character, which no path has when it is compared",
            );
        }
        let mut segments = Vec::new();
        let mut any_rest = false;
        for (index, segment) in path.split('/').enumerate().filter(|_| !path.is_empty()) {
            match segment {
                _ if any_rest => return wrong("goes on after `**`, which stands for any rest: end it there"),
                "" => return wrong("has an empty segment: leave out `//` and the `/` at its end"),
                "." | ".." => return wrong("has a dot segment, and no such request passes"),
                "*" => segments.push(Segment::Any),
                "**" => any_rest = true,
                _ if segment.contains('*') => {
                    return wrong("has `*` within a segment: `*` is a whole segment, `**` any rest");
                }
                _ if index == 0 && is_version(segment) => {
                    return wrong("starts with a version: leave it out, a rule holds for every version");
                }
                name => segments.push(Segment::Name(name.as_bytes().into())),
            }
        }
        Ok(Self { segments, any_rest })
    }
}

impl Pattern {
    /// How many segments it names.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    fn matches(&self, path: &[&[u8]]) -> bool {
        let long_enough = if self.any_rest { path.len() >= self.len() } else { path.len() == self.len() };
        long_enough
            && self.segments.iter().zip(path).all(|(segment, given)| match segment {
                Segment::Any => !given.is_empty(),
                Segment::Name(name) => **name == **given,
            })
    }
}

/// One way in which a service may take a path, below its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reading<'a> {
    segments: Vec<&'a [u8]>,
    /// The project's id that the path has before them.
    pub(super) project: Option<&'a [u8]>,
    /// So few services read it this way that only a denial heeds it.
    pub(super) far_fetched: bool,
    /// It has the very version of the view's endpoint.
    pub(super) versioned: bool,
}

impl Reading<'_> {
    /// Whether one of the patterns matches.
    pub(super) fn is_one_of(&self, patterns: &[Pattern]) -> bool {
        patterns.iter().any(|pattern| pattern.matches(&self.segments))
    }
}

/// The ways in which the bytes of a path may be cut into segments, with NUL between them: the route
/// refuses a path that has one under any reading.
pub(super) fn spellings(path: &str) -> Vec<Vec<u8>> {
    let cut = |bytes: &[u8], at: u8| -> Vec<u8> {
        bytes.iter().map(|byte| if *byte == at { 0 } else { *byte }).collect()
    };
    let raw = cut(path.as_bytes(), b'/');
    if !raw.contains(&b'%') {
        return vec![raw];
    }
    let decode = |bytes: &[u8]| -> Vec<u8> { percent_decode(bytes).collect() };
    let cut_then_decoded = decode(&raw);
    let decoded = cut(&cut_then_decoded, b'/');
    let decoded_again = decode(&decoded);
    let decoded_twice = cut(&decoded_again, b'/');
    let mut all = vec![
        decode_needed(&raw),
        decode(&cut_then_decoded),
        cut_then_decoded,
        cut(&decoded, b'\\'),
        decoded,
        cut(&decoded_twice, b'\\'),
        decoded_again,
        decoded_twice,
    ];
    all.sort_unstable();
    all.dedup();
    all
}

/// Decodes what has to be encoded. An encoded letter stays as it is: who decodes nothing does not
/// read a letter there, and who means one can write it.
fn decode_needed(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low) as u8),
            _ => None,
        };
        match byte {
            Some(byte) if !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// Every way in which the service of `view` may take a path that is spelled like this. `root` is the
/// part of the path that the spellings leave out; there are no readings if the path lies outside of
/// the view's endpoint. `longest` is how many segments the longest pattern has: what is behind them
/// is left out.
pub(super) fn readings<'a>(
    root: &'a str,
    spellings: &'a [Vec<u8>],
    view: &View,
    longest: usize,
) -> Vec<Reading<'a>> {
    let root: Vec<&[u8]> = root.split('/').skip(1).map(str::as_bytes).collect();
    // One more than can match, and what may be taken off before that: version and project.
    let limit = longest + 3 + view.base.root().split('/').count();
    let mut readings = Vec::new();
    for spelling in spellings {
        // What is before the first separator is nothing.
        let whole: Vec<&[u8]> = spelling.split(|byte| *byte == 0).skip(1).collect();
        let bare: Option<Vec<&[u8]>> = spelling.contains(&b';').then(|| {
            let name = |segment: &&'a [u8]| segment.split(|byte| *byte == b';').next().unwrap_or_default();
            whole.iter().map(name).collect()
        });
        for segments in std::iter::once(&whole).chain(&bare) {
            let full = segments.iter().rposition(|segment| !segment.is_empty()).map_or(0, |last| last + 1);
            let joined = || segments.iter().copied().filter(|segment| !segment.is_empty());
            let mut add = |segments: &mut dyn Iterator<Item = &'a [u8]>| {
                let path = root.iter().copied().chain(segments).take(limit + root.len()).collect();
                view.add_readings(path, &mut readings);
            };
            add(&mut segments.iter().copied());
            if full < segments.len() {
                add(&mut segments[..full].iter().copied());
            }
            if segments[..full].iter().any(|segment| segment.is_empty()) {
                add(&mut joined());
                if full < segments.len() {
                    add(&mut joined().chain([&b""[..]]));
                }
            }
        }
    }
    readings
}

impl View {
    /// Takes the endpoint's own part off a path.
    fn add_readings<'a>(&self, path: Vec<&'a [u8]>, readings: &mut Vec<Reading<'a>>) {
        let Some(below) = self.base.below(&path) else { return };
        let mut add = |segments: &[&'a [u8]], project| {
            let segments = if segments == [b""] { &[] } else { segments };
            let reading = |segments: &[&'a [u8]], far_fetched| Reading {
                segments: segments.to_vec(),
                project,
                far_fetched,
                versioned: below.versioned,
            };
            readings.push(reading(segments, false));
            let Some((last, before)) = segments.split_last().filter(|_| self.formats) else { return };
            // `/servers.json`: some routers take what follows the first dot for a format, some what
            // follows the last.
            let dot = |at: Option<usize>| at.filter(|at| *at > 0);
            let ends = [
                dot(last.iter().position(|byte| *byte == b'.')),
                dot(last.iter().rposition(|byte| *byte == b'.')),
            ];
            for end in ends.into_iter().flatten() {
                let usual =
                    [&b".json"[..], b".xml"].iter().any(|form| last[end..].eq_ignore_ascii_case(form));
                readings.push(reading(&[before, &[&last[..end]]].concat(), !usual));
            }
        };
        add(below.segments, below.project);
        if let Some(id) = below.may_have_project {
            add(&below.segments[1..], Some(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_segments() {
        for (pattern, path, expected) in [
            ("/", "", true),
            ("/", "servers", false),
            ("/servers", "servers", true),
            ("/servers", "servers/1", false),
            ("/servers/*", "servers/1", true),
            ("/servers/*", "servers", false),
            ("/servers/*", "servers/", false),
            ("/servers/*", "servers/1/action", false),
            ("/servers/*/action", "servers/1/action", true),
            ("/servers/**", "servers", true),
            ("/servers/**", "servers/1/a/b", true),
            ("/servers/**", "serversx/1", false),
            ("/**", "", true),
            ("/**", "a/b", true),
            ("/my box/*", "my box/1", true),
        ] {
            let path: Vec<&[u8]> = path.split('/').map(str::as_bytes).filter(|_| !path.is_empty()).collect();
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(&path), expected, "{pattern} {path:?}");
        }
    }

    #[test]
    fn a_pattern_that_could_not_match_says_why() {
        for (pattern, why) in [
            ("", "does not start with `/`"),
            ("servers", "does not start with `/`"),
            ("/servers/", "empty segment"),
            ("/servers//1", "empty segment"),
            ("//", "empty segment"),
            ("/a/../b", "dot segment"),
            ("/./b", "dot segment"),
            ("/**/a", "goes on after `**`"),
            ("/serv*", "`*` within a segment"),
            ("/***", "`*` within a segment"),
            ("/v2.1/servers", "starts with a version"),
            ("/a%20b", "write the character itself"),
            ("/a?b", "control character"),
            ("/a;b", "control character"),
            ("/a\\b", "control character"),
            ("/a\nb", "control character"),
        ] {
            let message = pattern.parse::<Pattern>().unwrap_err();
            assert!(message.contains(why), "{message}");
        }
        assert!("/c/v2".parse::<Pattern>().is_ok());
    }

    #[test]
    fn a_plain_path_has_one_spelling() {
        assert_eq!(spellings("/servers/1"), [b"\0servers\x001".to_vec()]);
        assert_eq!(spellings(""), [b"".to_vec()]);
        assert_eq!(spellings("/my%20box"), [b"\0my box".to_vec()]);
        assert_eq!(spellings("/%73"), [b"\0%73".to_vec(), b"\0s".to_vec()]);
        assert_eq!(spellings("/a%2Fb"), [b"\0a\0b".to_vec(), b"\0a/b".to_vec()]);
    }
}
