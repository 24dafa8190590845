//! The field `Link` (RFC 8288): `<https://h/a?page=2>; rel="next"; title="one, two", <..>; rel=..`.

use memchr::memchr;

/// Replaces the beginnings of the field's targets, and returns the new value; `None` where nothing
/// changes. `map` is asked about each target: it appends what comes into the place of the target's
/// beginning, and returns how many bytes of the target that beginning has. Of a value that is not
/// well-formed, what comes first and is counts.
pub(super) fn rewrite(
    value: &[u8],
    mut map: impl FnMut(&str, &mut String) -> Option<usize>,
) -> Option<Vec<u8>> {
    let mut written = Vec::new();
    let (mut at, mut copied) = (0, 0);
    loop {
        at += value[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
        let Some(after) = value[at..].strip_prefix(b"<") else { break };
        let Some(length) = memchr(b'>', after) else { break };
        let mut text = String::new();
        if let Ok(target) = std::str::from_utf8(&after[..length])
            && let Some(replaced) = map(target, &mut text)
        {
            written.extend_from_slice(&value[copied..=at]);
            written.extend_from_slice(text.as_bytes());
            copied = at + 1 + replaced;
        }
        at += 2 + length;
        at += parameters(&value[at..]);
    }
    if copied == 0 {
        return None;
    }
    written.extend_from_slice(&value[copied..]);
    Some(written)
}

/// The length of a link's parameters: up to the comma before the next link.
fn parameters(text: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    let is_end = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return true,
            _ => {}
        }
        false
    };
    text.iter().position(is_end).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps `http://a` to `http://b/x`.
    fn map(target: &str, text: &mut String) -> Option<usize> {
        target.starts_with("http://a").then(|| {
            text.push_str("http://b/x");
            "http://a".len()
        })
    }

    #[track_caller]
    fn check(value: &str, expected: &str) {
        let mapped = rewrite(value.as_bytes(), map).map(|value| String::from_utf8(value).unwrap());
        assert_eq!(mapped.as_deref().unwrap_or(value), expected);
        assert_eq!(mapped.is_none(), value == expected, "{value}");
    }

    #[test]
    fn each_target_is_mapped_and_nothing_else() {
        check("<http://a/1>; rel=next", "<http://b/x/1>; rel=next");
        check("<http://a>", "<http://b/x>");
        check(
            r#"<http://a/1>; rel="next"; title="one, <http://a/2>, \"three\"", <http://c/>; rel=up,<http://a/4>"#,
            r#"<http://b/x/1>; rel="next"; title="one, <http://a/2>, \"three\"", <http://c/>; rel=up,<http://b/x/4>"#,
        );
        check(", ,\t<http://a/1> ;rel=prev ,", ", ,\t<http://b/x/1> ;rel=prev ,");
        check("<http://a/1?a=,b>;anchor=\"http://a/\"", "<http://b/x/1?a=,b>;anchor=\"http://a/\"");
    }

    #[test]
    fn what_is_no_link_stays_as_it_is() {
        for value in ["", "<", "<http://a/1", "http://a/1", "x<http://a/1>", "<http://c/>, http://a/1", "<>"]
        {
            check(value, value);
        }
        check("<http://a/1>, x <http://a/2>", "<http://b/x/1>, x <http://a/2>");
        check("<http://a/1>; title=\", <http://a/2>", "<http://b/x/1>; title=\", <http://a/2>");
    }

    #[test]
    fn other_bytes_than_ascii_pass() {
        let mapped = rewrite(b"<http://a/1>; title=\"\xfc, x\", <http://a/\xfc>, <http://a/2>", map).unwrap();
        assert_eq!(mapped, b"<http://b/x/1>; title=\"\xfc, x\", <http://a/\xfc>, <http://b/x/2>");
    }
}
