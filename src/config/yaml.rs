//! YAML (and JSON, its subset) as text: every scalar stays as it was written.
//!
//! `password: 0123`, `project_id: 12345e67` and `username: no` are a number, a float and a boolean to
//! YAML, but a password, an id and a name to whoever wrote them. So [`parse`] gives a tree in which
//! each scalar is a string; whoever wants a boolean reads it out of the text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{Spanned, UserMessageFormatter};

/// Why a text is not YAML. Says where, and never shows the text itself: it may hold a password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    line: Option<u64>,
    message: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Reads a document into strings, lists, maps and nulls. An empty document is null.
pub(super) fn parse(text: &str) -> Result<Value, Malformed> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
    };
    match serde_saphyr::from_str_with_options::<Option<Spanned<Node>>>(text, options) {
        Ok(Some(node)) => Ok(node_value(node, text)),
        Ok(None) => Ok(Value::Null),
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
            Err(Malformed { line, message: message(error) })
        }
    }
}

/// Reads a JSON document the same way. It is not read as YAML, whose texts know no surrogate pairs.
pub(super) fn parse_json(text: &[u8]) -> Result<Value, Malformed> {
    let mut document = serde_json::from_slice(text).map_err(|error| Malformed {
        line: Some(error.line() as u64),
        // Words of our own: those of serde_json may quote the document some day.
        message: if error.is_eof() { "it ends too early" } else { "a syntax error" }.to_owned(),
    })?;
    as_texts(&mut document);
    Ok(document)
}

fn as_texts(value: &mut Value) {
    match value {
        Value::Bool(_) | Value::Number(_) => *value = Value::String(value.to_string()),
        Value::Array(items) => items.iter_mut().for_each(as_texts),
        Value::Object(members) => members.values_mut().for_each(as_texts),
        Value::Null | Value::String(_) => {}
    }
}

/// What is wrong, in words that are never the document's own.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        // The parser's words about syntax are fixed ones; these variants hold nothing else.
        Error::ExternalMessage { .. }
        | Error::Eof { .. }
        | Error::MultipleDocuments { .. }
        | Error::Unexpected { .. }
        | Error::UnknownAnchor { .. }
        | Error::IndentationError { .. }
        | Error::ContainerEndMismatch { .. } => {
            serde_saphyr::MessageFormatter::format_message(&UserMessageFormatter, error).into_owned()
        }
        Error::DuplicateMappingKey { .. } => "the same key twice in one mapping: remove one".to_owned(),
        Error::Budget { .. } => "too large or too deeply nested".to_owned(),
        _ => "malformed; quote texts that hold any of : # & * ! | > ' \" % @ `".to_owned(),
    }
}

/// One node; a scalar that YAML takes for a number or a boolean is to be read from the source again.
enum Node {
    Null,
    Text(String),
    Typed(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

fn node_value(node: Spanned<Node>, source: &str) -> Value {
    match node.value {
        Node::Null => Value::Null,
        Node::Text(text) => Value::String(text),
        Node::Typed(shown) => {
            let span = node.defined.span();
            let written = span.byte_offset().zip(span.byte_len()).and_then(|(start, len)| {
                let start = usize::try_from(start).ok()?;
                source.get(start..start.checked_add(usize::try_from(len).ok()?)?)
            });
            Value::String(written.map_or(shown, |text| text.trim().to_owned()))
        }
        Node::List(items) => Value::Array(items.into_iter().map(|item| node_value(item, source)).collect()),
        Node::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key, node_value(value, source)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML node")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Typed(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Typed(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Typed(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Typed(value.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, json: &str) {
        let value = parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(value.to_string(), json);
    }

    #[track_caller]
    fn check_malformed(text: &str, line: u64) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, Some(line), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn scalars_stay_as_they_were_written() {
        check("a: 0123", r#"{"a":"0123"}"#);
        check("a: 12345678901234567890123456789012", r#"{"a":"12345678901234567890123456789012"}"#);
        check("a: 90617e46", r#"{"a":"90617e46"}"#);
        check("a: 1e999", r#"{"a":"1e999"}"#);
        check("a: .inf", r#"{"a":".inf"}"#);
        check("a: no # not yes", r#"{"a":"no"}"#);
        check("a: 1_000", r#"{"a":"1_000"}"#);
        check("ä: 3\nb: -2.0", r#"{"b":"-2.0","ä":"3"}"#);
        check("3: x", r#"{"3":"x"}"#);
        check("a: '2'\nb: \"no\"", r#"{"a":"2","b":"no"}"#);
    }

    #[test]
    fn lists_maps_anchors_and_json_are_read() {
        check("a: [x, 1, true]", r#"{"a":["x","1","true"]}"#);
        check("a:\nb: ~\nc: {}", r#"{"a":null,"b":null,"c":{}}"#);
        check(
            "a: &x {v: 007}\nb: *x\nc: {<<: *x, w: 1}",
            r#"{"a":{"v":"007"},"b":{"v":"007"},"c":{"v":"007","w":"1"}}"#,
        );
        check(r#"{"a": {"verify": false, "n": 2.0}}"#, r#"{"a":{"n":"2.0","verify":"false"}}"#);
        check("", "null");
        check("# nothing\n", "null");
    }

    // Promise 76.
    #[test]
    fn json_is_read_into_the_same_texts() {
        let json = br#"{"a": {"verify": false, "n": 2.0, "id": 17, "none": null},
            "l": [1, "\ud83d\ude00"]}"#;
        let value = parse_json(json).expect("JSON");
        let expected = "{\"a\":{\"id\":\"17\",\"n\":\"2.0\",\"none\":null,\"verify\":\"false\"},\"l\":[\"1\",\"\u{1f600}\"]}";
        assert_eq!(value.to_string(), expected);
        for (text, shown) in [
            ("{\"password\":\n\"hunter2", "line 2: it ends too early"),
            ("{\"password\": hunter2}", "line 1: a syntax error"),
            ("", "line 1: it ends too early"),
        ] {
            assert_eq!(parse_json(text.as_bytes()).unwrap_err().to_string(), shown);
        }
    }

    // Promise 76.
    #[test]
    fn a_malformed_document_names_the_line_and_shows_nothing() {
        check_malformed("a:\n  b: [1, 2\nc: 'hunter2'\n", 3);
        check_malformed("a: hunter2\n b: hunter2\n", 2);
        check_malformed("password: 'hunter2\n", 2);
        check_malformed("a: hunter2\na: hunter2\n", 2);
        check_malformed("a: 1\n\tb: hunter2\n", 1);
    }

    // Promise 76.
    #[test]
    fn no_syntax_error_shows_what_stands_around_it() {
        let values = [
            "hunter2",
            "*hunter2",
            "&hunter2",
            "!hunter2",
            "!hunter2 x",
            "!!hunter2 x",
            "%hunter2",
            "@hunter2",
            "`hunter2",
            "[hunter2",
            "{hunter2",
            "]hunter2",
            "}hunter2",
            "'hunter2",
            "\"hunter2",
            "\"hunter2\\q\"",
            "\"\\uhunter2\"",
            "\"\\xhunter2\"",
            "|hunter2",
            ">hunter2",
            "hunter2: hunter2: hunter2",
            "- hunter2",
            "? hunter2",
            "<<: *hunter2",
            "{<<: hunter2}",
            "!!int hunter2",
            "!!binary hunter2",
            "!<hunter2> x",
            "!a!hunter2 x",
            "hunter2\thunter2",
            "hunter2\u{7f}",
            "${hunter2}",
            "[a, b: {hunter2: hunter2, hunter2: 1}]",
            "hunter2\n---\nhunter2",
            "hunter2\n...\nhunter2",
            "\"hunter2\" hunter2",
            "'hunter2' 'hunter2'",
            "hunter2\n  - hunter2",
            "hunter2\nhunter2",
            "~hunter2: {",
            "!include hunter2",
        ];
        for value in values {
            for document in [
                format!("a:\n  password: {value}\n  b: 1\n"),
                format!("{value}\n"),
                format!("{value}: 1\n{value}: 2\n"),
                format!("{{\"password\": {value}"),
                format!("a: [1, 2\npassword: {value}\n"),
                format!("\tpassword: {value}\n"),
                format!("%YAML 9.9 {value}\n%TAG {value}\n---\n{value}"),
            ] {
                if let Err(error) = parse(&document) {
                    assert!(!format!("{error} {error:?}").contains("hunter2"), "{document}: {error}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_error_shows_a_word_of_the_document(text in "([a-c&*!<>:,\\[\\]{}'\"0-9e. \n%|?-]|hunter2){0,40}") {
            if let Err(error) = parse(&text) {
                proptest::prop_assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[ -~\n\t\u{e4}]{0,200}", yaml in "([a-c&*!<>:,\\[\\]{}'\"0-9e. \n-]){0,80}") {
            drop(parse(&text));
            drop(parse(&yaml));
        }

        #[test]
        fn a_plain_word_or_number_comes_back_as_written(word in "[a-zA-Z0-9][a-zA-Z0-9_.+]{0,40}") {
            let value = parse(&format!("a: {word} # comment\n")).expect("YAML");
            if !["null", "Null", "NULL"].contains(&word.as_str()) {
                proptest::prop_assert_eq!(value["a"].as_str(), Some(word.as_str()));
            }
        }
    }
}
