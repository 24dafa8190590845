//! Values that name other values of the same cloud: `https://{region_name}.example`.

/// Why a template can't be expanded. Neither shows the text, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// A brace without its other half, or more than a name between two.
    #[error(
        "`{{` and `}}` stand around another value's name, as in {{region_name}}: write {{{{ and }}}} for braces"
    )]
    Malformed,
    /// Nothing of this name, or a list, or a secret.
    #[error("a template names no value of this cloud that it may show: write the value out")]
    Unknown,
}

/// The text with each `{name}` replaced by what `value` has for it. `{{` and `}}` are braces.
pub(super) fn expand<'a>(
    text: &str,
    value: impl Fn(&str) -> Option<&'a str>,
) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        expanded.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            expanded.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            expanded.push('}');
            rest = after;
        } else {
            let named = from.strip_prefix('{').and_then(|from| from.split_once('}'));
            let (name, after) = named.ok_or(TemplateError::Malformed)?;
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !is_name {
                return Err(TemplateError::Malformed);
            }
            expanded.push_str(value(name).ok_or(TemplateError::Unknown)?);
            rest = after;
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, TemplateError>) {
        let found = expand(text, |name| (name == "region_name").then_some("r1"));
        assert_eq!(found.as_deref(), expected.as_ref().map(|text| *text), "{text}");
    }

    #[test]
    fn names_are_replaced_and_doubled_braces_are_braces() {
        check("https://c.example", Ok("https://c.example"));
        check("https://{region_name}.c/{region_name}", Ok("https://r1.c/r1"));
        check("{{region_name}} {region_name}}}", Ok("{region_name} r1}"));
        check("", Ok(""));
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        check("{region}", Err(TemplateError::Unknown));
        for text in
            ["{", "}", "a{b", "{}", "{0.x}", "{region_name!r}", "{region_name:>9}", "{auth[x]}", "{{}"]
        {
            check(text, Err(TemplateError::Malformed));
        }
    }
}
