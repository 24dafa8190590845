//! Which strings of a JSON document are links, and how are they replaced?
//!
//! A document is never parsed and printed again: what has to change are a few spans of its bytes, and
//! all others stay as the service wrote them, with their numbers, spacing, order and duplicates.
//!
//! A string is a link only if the structure around it says so. What its text looks like says nothing:
//! a server's metadata may well hold a URL of the cloud, which is the user's own. So:
//!
//! | where | which strings |
//! | --- | --- |
//! | objects in a list called `links` or `*_links` | `href`, beside a `rel` |
//! | objects in any other list that have nothing but `href`, `rel` and `type` (ironic's sub-resources) | `href` |
//! | an object called `links` or `*_links` (Keystone, designate) | every one |
//! | the document's top | `next`, `previous`, `first` |
//! | the document's top, and the objects of a list there, for the image service | `self`, `file`, `schema` |
//!
//! A document of the image service that has a `self` is an image or the like and no page: what is
//! called `next` in there is a property that its owner gave it.
//!
//! An object counts with the document's top as the first: links are looked for in the first three on
//! the way down (`{"servers": [{"image": {"links": ..}}]}`), and so are at most in the fourth. Lists
//! count for nothing, but a list in a list is not looked into. Nor is what holds the data of somebody
//! (`is_data`), wherever it stands. A name that is written with escapes is taken for such a one.

use std::borrow::Cow;
use std::ops::Range;
use std::slice;

/// How many objects deep links are looked for.
const DEPTH: u8 = 3;

/// What a document says of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The reference, as it reads once JSON's escapes are resolved.
    pub reference: &'a str,
    /// Its `rel` is `self`.
    pub is_self: bool,
}

/// Replaces the beginnings of a document's links, and returns the new document; `None` where nothing
/// changes, and where the text is no JSON. `map` is asked about each link: it appends what comes into
/// the place of the link's beginning, and returns how many bytes of the link that beginning has.
pub fn rewrite(
    document: &[u8],
    image: bool,
    map: impl FnMut(Found<'_>, &mut String) -> Option<usize>,
) -> Option<Vec<u8>> {
    let quotes = quotes(document)?;
    let strings = quotes.as_chunks().0.iter();
    let (edits, texts) = (Vec::new(), String::new());
    let mut scanner = Scanner { bytes: document, at: 0, strings, image, map, edits, texts };
    scanner.document()?;
    if scanner.edits.is_empty() {
        return None;
    }
    let Scanner { edits, texts, .. } = scanner;
    let mut written = Vec::with_capacity(document.len() + texts.len());
    let mut copied = 0;
    for Edit { span, text } in edits {
        written.extend_from_slice(&document[copied..span.start]);
        escape(&texts[text], &mut written);
        copied = span.end;
    }
    written.extend_from_slice(&document[copied..]);
    Some(written)
}

/// Whether a body can hold any reference that matters: one that begins with `/`, where these count, stands
/// right behind a quote; an absolute one has `//` (some write `\/\/`) and a host and port for which
/// `is_known` holds.
pub fn may_hold_references(document: &[u8], rooted: bool, is_known: impl Fn(&[u8]) -> bool) -> bool {
    let ends = |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\\');
    // Documents repeat themselves.
    let mut unknown: &[u8] = b"";
    let mut rest = document;
    while let Some(at) = memchr::memchr(b'/', rest) {
        let before = at.checked_sub(1).map(|before| rest[before]);
        if before == Some(b'\\') || before == Some(b'"') && rooted {
            return true;
        }
        rest = &rest[at + 1..];
        if let [b'/', authority @ ..] = rest {
            let again = authority.strip_prefix(unknown).and_then(<[u8]>::first);
            let length = match again {
                Some(b'/') => unknown.len(),
                _ => authority.iter().position(ends).unwrap_or(authority.len()),
            };
            let (name, path) = authority.split_at(length);
            // Who escapes what need not be may have escaped anything.
            if again != Some(&b'/') && (path.first() == Some(&b'\\') || is_known(name)) {
                return true;
            }
            unknown = name;
            // What is left of this string is its path.
            rest = &path[memchr::memchr(b'"', path).unwrap_or(path.len())..];
        }
    }
    false
}

/// What holds somebody's data, and is never looked into: the names that the services have for it, and
/// extensions (`OS-FEDERATION`, `OS-TRUST:trust`, `os:scheduler_hints`). A list called `properties` is
/// none of these: it is ironic's, and holds links.
fn is_data(name: &[u8], is_list: bool) -> bool {
    match name {
        b"properties" => !is_list,
        b"attributes"
        | b"blob"
        | b"body"
        | b"config"
        | b"content"
        | b"context"
        | b"data"
        | b"definition"
        | b"environment"
        | b"extra"
        | b"files"
        | b"input"
        | b"inputs"
        | b"labels"
        | b"metadata"
        | b"options"
        | b"output"
        | b"outputs"
        | b"parameters"
        | b"parameter_defaults"
        | b"payload"
        | b"resource_registry"
        | b"result"
        | b"spec"
        | b"template"
        | b"user_data"
        | b"value" => true,
        _ => {
            let ending = name.iter().rposition(|byte| *byte == b'_').map(|at| &name[at + 1..]);
            let is_data = matches!(
                ending,
                Some(
                    b"attributes"
                        | b"data"
                        | b"files"
                        | b"hints"
                        | b"info"
                        | b"metadata"
                        | b"parameters"
                        | b"properties"
                        | b"ref"
                        | b"refs"
                        | b"specs"
                        | b"template"
                        | b"value"
                        | b"values"
                )
            );
            is_data || name.starts_with(b"OS-") || name.iter().any(|byte| matches!(byte, b':' | b'\\'))
        }
    }
}

fn is_links(name: &[u8]) -> bool {
    name.strip_suffix(b"links").is_some_and(|before| before.is_empty() || before.ends_with(b"_"))
}

/// Where an object stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is the document.
    Top,
    /// In a list right at the top.
    Element,
    /// In a list somewhere else.
    Item,
    /// Alone, where links are looked for.
    Inner,
    /// In a list of links.
    Link,
    /// It is a dictionary of links.
    Links,
}

/// A piece of the document, and a piece of `texts` that comes into its place.
struct Edit {
    span: Range<usize>,
    text: Range<usize>,
}

/// What an object has that makes it a link, or a page.
#[derive(Default)]
struct Seen {
    href: Option<Range<usize>>,
    rel: Option<Range<usize>>,
    /// Something else than `href`, `rel` and `type`.
    more: bool,
    /// `self`, as the image service writes it.
    own: bool,
    /// `next`, `previous` and `first`.
    pages: [Option<Range<usize>>; 3],
}

struct Scanner<'a, F> {
    bytes: &'a [u8],
    at: usize,
    /// The quotes of those to come.
    strings: slice::Iter<'a, [u32; 2]>,
    image: bool,
    map: F,
    /// In the document's order.
    edits: Vec<Edit>,
    texts: String,
}

/// All of these return `None` for what is no JSON. What is said of it elsewhere does not matter: then
/// nothing is changed.
impl<F: FnMut(Found<'_>, &mut String) -> Option<usize>> Scanner<'_, F> {
    fn document(&mut self) -> Option<()> {
        match self.skip_space()? {
            b'{' => self.object(Place::Top, 1)?,
            b'[' => self.list(Place::Element, 2)?,
            _ => return None,
        }
        self.skip_space().is_none().then_some(())
    }

    /// Reads an object, which is the `depth`th on the way down, and finds the links in it.
    fn object(&mut self, place: Place, depth: u8) -> Option<()> {
        let mut seen = Seen::default();
        self.at += 1;
        if self.skip_space()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let name = self.string()?;
            if self.skip_space()? != b':' {
                return None;
            }
            self.at += 1;
            let value = self.skip_space()?;
            match value {
                b'"' => {
                    let text = self.string()?;
                    self.text(place, name, text, &mut seen);
                }
                b'{' | b'[' => {
                    seen.more = true;
                    let bytes = self.bytes;
                    self.container(place, depth, &bytes[name], value == b'[')?;
                }
                _ => {
                    seen.more = true;
                    self.scalar();
                }
            }
            match self.skip_space()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    break;
                }
                _ => return None,
            }
            self.skip_space()?;
        }
        if let (Some(href), Some(rel)) = (seen.href, seen.rel)
            && (place == Place::Link || matches!(place, Place::Element | Place::Item) && !seen.more)
        {
            let is_self = &self.bytes[rel] == b"self";
            self.link(href, is_self);
        }
        if !seen.own && seen.pages.iter().any(Option::is_some) {
            for page in seen.pages.into_iter().flatten() {
                self.link(page, false);
            }
            self.edits.sort_unstable_by_key(|edit| edit.span.start);
        }
        Some(())
    }

    /// Takes note of a member of an object that is a string.
    fn text(&mut self, place: Place, name: Range<usize>, text: Range<usize>, seen: &mut Seen) {
        if place == Place::Links {
            return self.link(text, &self.bytes[name] == b"self");
        }
        let bytes = self.bytes;
        match &bytes[name] {
            b"href" => seen.href = Some(text),
            b"rel" => seen.rel = Some(text),
            b"type" => {}
            b"next" if place == Place::Top => seen.pages[0] = Some(text),
            b"previous" if place == Place::Top => seen.pages[1] = Some(text),
            b"first" if place == Place::Top => seen.pages[2] = Some(text),
            name @ (b"self" | b"file" | b"schema")
                if self.image && matches!(place, Place::Top | Place::Element) =>
            {
                seen.own |= name == b"self";
                seen.more = true;
                self.link(text, false);
            }
            _ => seen.more = true,
        }
    }

    /// Reads an object or a list that a member of an object has.
    fn container(&mut self, place: Place, depth: u8, name: &[u8], is_list: bool) -> Option<()> {
        let hidden = matches!(place, Place::Link | Place::Links) || depth > DEPTH;
        if hidden || is_data(name, is_list) {
            return self.skip();
        }
        match (is_list, is_links(name)) {
            (true, true) => self.list(Place::Link, depth + 1),
            (true, false) => {
                self.list(if place == Place::Top { Place::Element } else { Place::Item }, depth + 1)
            }
            (false, true) => self.object(Place::Links, depth + 1),
            (false, false) if depth < DEPTH => self.object(Place::Inner, depth + 1),
            (false, false) => self.skip(),
        }
    }

    /// Reads a list whose objects have this place and depth.
    fn list(&mut self, place: Place, depth: u8) -> Option<()> {
        self.at += 1;
        if self.skip_space()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            match self.skip_space()? {
                b'{' => self.object(place, depth)?,
                b'[' => self.skip()?,
                b'"' => {
                    self.string()?;
                }
                _ => self.scalar(),
            }
            match self.skip_space()? {
                b',' => self.at += 1,
                b']' => break,
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }

    /// Asks what becomes of a string that is a link.
    fn link(&mut self, span: Range<usize>, is_self: bool) {
        let raw = &self.bytes[span.clone()];
        let escaped = memchr::memchr(b'\\', raw).is_some();
        let reference = if escaped {
            serde_json::from_slice(&self.bytes[span.start - 1..=span.end]).ok().map(Cow::Owned)
        } else {
            std::str::from_utf8(raw).ok().map(Cow::Borrowed)
        };
        let Some(reference) = reference else { return };
        let before = self.texts.len();
        match (self.map)(Found { reference: &reference, is_self }, &mut self.texts) {
            Some(length) => {
                let length = if escaped { raw_length(raw, length) } else { length };
                if self.edits.is_empty() {
                    self.edits.reserve(32);
                    self.texts.reserve(1024);
                }
                let text = before..self.texts.len();
                self.edits.push(Edit { span: span.start..span.start + length, text });
            }
            None => self.texts.truncate(before),
        }
    }

    /// The next byte that is no white space; `None` at the end.
    fn skip_space(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    /// Reads a string; where its text is, without the quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        let [open, close] = *self.strings.next()?;
        let (open, close) = (open as usize, close as usize);
        if open != self.at {
            return None;
        }
        self.at = close + 1;
        Some(open + 1..close)
    }

    /// Passes over a number or a word.
    fn scalar(&mut self) {
        while let Some(byte) = self.bytes.get(self.at)
            && !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
        {
            self.at += 1;
        }
    }

    /// Passes over an object or a list with all that is in it.
    fn skip(&mut self) -> Option<()> {
        let mut open = 0_usize;
        loop {
            match *self.bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => {
                    open -= 1;
                    if open == 0 {
                        self.at += 1;
                        return Some(());
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// Where strings begin and end, in turns. To find all of them at once, eight bytes at a time, takes half as
/// long as to look for each when the one before has ended. `None` for more than 4 GiB.
fn quotes(document: &[u8]) -> Option<Vec<u32>> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    u32::try_from(document.len()).ok()?;
    let mut found = Vec::with_capacity(document.len() / 8);
    let (words, rest) = document.as_chunks::<8>();
    let mut start = 0;
    for word in words {
        let word = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'"'));
        // The highest bit of each byte that is zero, and no other.
        let mut zeros = !(((word & !HIGH) + !HIGH) | word) & HIGH;
        while zeros != 0 {
            found.push(start + zeros.trailing_zeros() / 8);
            zeros &= zeros - 1;
        }
        start += 8;
    }
    found.extend((start..).zip(rest).filter(|(_, byte)| **byte == b'"').map(|(at, _)| at));
    if memchr::memchr(b'\\', document).is_some() {
        found.retain(|at| {
            let before = document[..*at as usize].iter().rev();
            before.take_while(|byte| **byte == b'\\').count() % 2 == 0
        });
    }
    Some(found)
}

/// How many bytes of a string with escapes the first `length` bytes of its text take.
fn raw_length(raw: &[u8], length: usize) -> usize {
    let (mut at, mut counted) = (0, 0);
    while counted < length && at < raw.len() {
        let step = match raw[at..] {
            [b'\\', b'u', ..] => 6,
            [b'\\', ..] => 2,
            _ => 1,
        };
        // What a link begins with is ASCII, however it is written.
        counted += 1;
        at += step;
    }
    at
}

/// Writes a text as JSON has it in a string.
fn escape(text: &str, written: &mut Vec<u8>) {
    if !text.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
        return written.extend_from_slice(text.as_bytes());
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => written.extend_from_slice(&[b'\\', byte]),
            0..0x20 => written.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => written.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Maps `http://h` to `http://k/"x"`, and puts `/image` before what begins with `/v2`.
    fn map(found: Found<'_>, text: &mut String) -> Option<usize> {
        if found.reference.starts_with("/v2") {
            text.push_str("/image");
            return Some(0);
        }
        found.reference.starts_with("http://h").then(|| {
            text.push_str("http://k/\"x\"");
            "http://h".len()
        })
    }

    fn mapped(document: &str, image: bool) -> Option<String> {
        let mapped = rewrite(document.as_bytes(), image, map)?;
        Some(String::from_utf8(mapped).expect("it was UTF-8"))
    }

    /// Checks that exactly those links of a document are mapped that are written `http://h/yes..`.
    #[track_caller]
    fn check(document: &Value) {
        check_service(document, false);
        check_service(document, true);
    }

    #[track_caller]
    fn check_service(document: &Value, image: bool) {
        for text in [document.to_string(), format!("\r\n{document:#}\t ")] {
            let expected =
                text.replace("http://h/yes", "http://k/\\\"x\\\"/yes").replace("/v2/yes", "/image/v2/yes");
            let mapped = mapped(&text, image);
            assert_eq!(mapped.is_none(), expected == text);
            assert_eq!(mapped.unwrap_or_else(|| text.clone()), expected, "image: {image}");
        }
    }

    #[test]
    fn links_of_things_and_lists_are_found() {
        let links = json!([{"rel": "self", "href": "http://h/yes/1"}, {"href": "http://h/yes/2", "rel": "bookmark", "type": "x", "x": [1]}]);
        check(&json!({"server": {"id": "1", "links": links, "image": {"id": "2", "links": links},
                                 "flavor": {"original_name": "m1", "links": links}}}));
        check(
            &json!({"servers": [{"id": "1", "links": links, "image": "", "flavor": {"id": "2", "links": links}}],
                      "servers_links": [{"rel": "next", "href": "http://h/yes"}]}),
        );
        check(&json!([{"links": links}, {"id": "http://h/no"}]));
        check(&json!({"role_inferences": [{"prior_role": {"links": {"self": "http://h/yes"}},
                                           "implies": [{"id": "1", "links": {"self": "http://h/yes"}}]}]}));
        check(&json!({"users": [{"links": {"self": "http://h/yes/1"}, "name": "http://h/no"}],
                      "links": {"self": "http://h/yes/2", "next": null, "previous": "http://h/yes/3"}}));
        check(&json!({"trust": {"roles_links": {"next": null, "self": "http://h/yes"}}}));
        check(
            &json!({"next": "http://h/yes/1", "secrets": [{"next": "http://h/no"}], "previous": "http://h/yes/2",
                      "first": "http://h/yes/3", "last": "http://h/no"}),
        );
        let choices = json!([{"id": "v2.1", "links": [{"rel": "self", "href": "http://h/yes"}]}]);
        check(&json!({"versions": choices}));
        check(&json!({"versions": {"values": choices}}));
        check(&json!({"choices": choices}));
        check(&json!({"version": choices[0], "default_version": choices[0]}));
    }

    #[test]
    fn sub_resources_are_links_by_their_shape() {
        let yes = json!([{"href": "http://h/yes/1", "rel": "self"}, {"rel": "bookmark", "href": "http://h/yes/2", "type": "x"}]);
        check(&json!({"id": "v1", "nodes": yes, "driver": {"properties": yes}, "chassis": [{"ports": yes}]}));
        for no in [
            json!({"href": "http://h/no"}),
            json!({"href": "http://h/no", "rel": 1}),
            json!({"href": "http://h/no", "rel": "self", "name": "mine"}),
            json!({"href": "http://h/no", "rel": "self", "x": null}),
            json!({"href": ["http://h/no"], "rel": "self"}),
        ] {
            check(&json!({"nodes": [no], "node": no}));
        }
        check(&json!({"node": {"href": "http://h/no", "rel": "self"}}));
        check(&json!({"links": [{"href": "http://h/no"}, "http://h/no", ["http://h/no"], {"rel": "x"}]}));
        check(
            &json!({"links": "http://h/no", "x_links": {"a": {"self": "http://h/no"}, "b": ["http://h/no"]}}),
        );
        check(&json!({"linksx": {"self": "http://h/no"}, "xlinks": {"self": "http://h/no"}}));
    }

    #[test]
    fn the_image_service_has_its_own_names() {
        let image = json!({"id": "1", "self": "/v2/yes/1", "file": "/v2/yes/1/file", "schema": "/v2/yes/schema",
                           "next": "/v2/no", "first": "http://h/no", "direct_url": "http://h/no"});
        check_service(&image, true);
        let page = json!({"images": [image], "first": "/v2/yes", "next": "/v2/yes?marker=1", "schema": "/v2/yes/schema"});
        check_service(&page, true);
        // Elsewhere these are names like any other.
        check_service(&json!({"self": "http://h/no", "file": "/v2/no", "next": "http://h/yes"}), false);
        check_service(&json!({"x": {"self": "/v2/no"}, "y": [{"z": {"file": "/v2/no"}}]}), true);
    }

    #[test]
    fn data_is_never_looked_into() {
        let links = json!({"links": [{"rel": "self", "href": "http://h/no"}], "next": "http://h/no"});
        for name in [
            "metadata",
            "properties",
            "outputs",
            "output_value",
            "parameters",
            "template",
            "environment",
            "attributes",
            "user_data",
            "body",
            "value",
            "OS-TRUST:trust",
            "OS-FEDERATION",
            "os:scheduler_hints",
            "secret_ref",
            "container_refs",
            "extra_specs",
            "driver_info",
            "instance_info",
            "volume_image_metadata",
            "input",
            "output",
            "result",
            "files",
            "payload",
            "extra",
            "config",
            "output_values",
        ] {
            check(
                &json!({name: links, "server": {name: links}, "servers": [{name: links, "x": [{name: links}]}]}),
            );
            check(&json!({"stack": {name: {"links": {"self": "http://h/no"}}}}));
            if name != "properties" {
                check(&json!({name: [{"rel": "self", "href": "http://h/no"}]}));
            }
        }
        check(&json!({"secret_ref": "http://h/no", "href": "http://h/no", "rel": "self",
                      "remote_console": {"url": "http://h/no", "type": "novnc"}}));
        // Deeper than any service has links.
        check(
            &json!({"a": {"b": {"links": [{"rel": "self", "href": "http://h/yes"}], "c": {"links": {"self": "http://h/no"}}}}}),
        );
        check(
            &json!({"a": [[{"links": {"self": "http://h/no"}}]], "links": [[{"rel": "self", "href": "http://h/no"}]]}),
        );
    }

    #[test]
    fn only_the_beginning_of_a_link_is_touched() {
        #[track_caller]
        fn check(document: &str, expected: &str) {
            assert_eq!(mapped(document, false).as_deref(), Some(expected));
        }
        check(
            r#"{"links":{"self":"http:\/\/h\/a?b=1\u0026c=\u00e4\/"},"n":1.50e+1,"n":-0,"x":"\u0000\ud83d\ude00"}"#,
            r#"{"links":{"self":"http://k/\"x\"\/a?b=1\u0026c=\u00e4\/"},"n":1.50e+1,"n":-0,"x":"\u0000\ud83d\ude00"}"#,
        );
        check(
            r#" {"next" :"\u0068ttp:\u002f/h\"" , "next":"http://h\\"} "#,
            r#" {"next" :"\u0068ttp:\u002f/h\"" , "next":"http://k/\"x\"\\"} "#,
        );
        check(r#"{"next":"http://h/\u0068"}"#, r#"{"next":"http://k/\"x\"/\u0068"}"#);
        // In the order of the document, wherever they are found.
        check(
            r#"{"next":"http://h/1","a":[{"links":{"b":"http://h/2"}}],"first":"http://h/3"}"#,
            r#"{"next":"http://k/\"x\"/1","a":[{"links":{"b":"http://k/\"x\"/2"}}],"first":"http://k/\"x\"/3"}"#,
        );
        // A name with an escape in it is nobody's.
        for odd in [
            r#"{"li\u006eks":{"self":"http://h"}}"#,
            r#"{"met\u0061data":{"links":{"self":"http://h"}}}"#,
            r#"{"n\u0065xt":"http://h"}"#,
        ] {
            assert_eq!(mapped(odd, false), None, "{odd}");
        }
    }

    #[test]
    fn what_is_no_json_stays_as_it_is() {
        let good = r#"{"links":{"self":"http://h/1"}}"#;
        assert!(mapped(good, false).is_some());
        for end in 0..good.len() {
            assert_eq!(mapped(&good[..end], false), None, "{}", &good[..end]);
        }
        for odd in [
            "",
            "1",
            "null",
            "\"http://h\"",
            r#"{"next":"http://h"}}"#,
            r#"{"next":"http://h"} {"#,
            r#"{"next" "http://h"}"#,
            r#"{next:"http://h"}"#,
            r#"{"next":"http://h" "a":1}"#,
            r#"{"next":"http://h","#,
            r#"{"a":{"b":[},"next":"http://h"}"#,
            r#"[{"links":{"a":"http://h"}}"#,
            r#"{"next":"http://h\"}"#,
        ] {
            assert_eq!(mapped(odd, false), None, "{odd}");
        }
        let latin = b"{\"next\":\"http://h/\xfc\",\"first\":\"http://h/1\"}";
        let mapped = rewrite(latin, false, map).unwrap();
        assert_eq!(mapped, b"{\"next\":\"http://h/\xfc\",\"first\":\"http://k/\\\"x\\\"/1\"}");
    }

    #[test]
    fn a_body_without_references_is_known_by_its_slashes_and_hosts() {
        for (expected, rooted, body) in [
            (true, false, r#"{"a":"http://h"}"#),
            (true, false, r#"{"a":"http:\/\/h"}"#),
            (true, true, r#"{"a":"/v2"}"#),
            (false, false, r#"{"a":"http://elsewhere/h"}"#),
            (true, false, r#"{"a":"http://elsewhere","b":"http://h?c"}"#),
            (true, false, r#"{"a":"http://\u0068/1"}"#),
            (false, false, r#"{"a":"/v2"}"#),
            (false, true, r#"{"a":"10.0.0.0/24","b":"a/b"}"#),
            (false, true, ""),
            (false, true, "/"),
        ] {
            assert_eq!(may_hold_references(body.as_bytes(), rooted, |host| host == b"h"), expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn strings_begin_and_end_where_they_do_for_serde(texts in prop::collection::vec("([a-z\u{22a2}\u{a2}\u{dc}!#\"\\\\\\[\\]]{0,20})", 0..8)) {
            let document = serde_json::to_string(&texts).unwrap();
            let quotes = quotes(document.as_bytes()).unwrap();
            let (strings, rest) = quotes.as_chunks::<2>();
            prop_assert!(rest.is_empty());
            let read = |[open, close]: &[u32; 2]| {
                serde_json::from_str::<String>(&document[*open as usize..=*close as usize]).unwrap()
            };
            prop_assert_eq!(strings.iter().map(read).collect::<Vec<_>>(), texts);
        }

        #[test]
        fn no_bytes_make_it_panic(document in "([{}\\[\\]:, ]|\"(links|rel|href|self|next|http://h|[\\\\u0-9]{0,3})\"|1|\\PC){0,40}", image in any::<bool>()) {
            let _ = mapped(&document, image);
        }
    }
}
