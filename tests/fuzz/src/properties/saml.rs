//! What a service provider and an identity provider say in a login by SAML: whatever it is, nothing panics, what is
//! carried on is XML of which nothing but a header was changed, and no secret is quoted.

use keyway::keystone::saml::{AuthnRequest, sign_in};
use percent_encoding::percent_decode_str;
use roxmltree::Document;

/// What was sent along, and must not come back in an error's text.
const PASSWORD: &str = "canary-Pa55word";
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const OLD_TRUST: &str = "http://schemas.xmlsoap.org/ws/2005/02/trust";

/// A service provider's envelope, and behind a line with `---8<---` the identity provider's answer.
///
/// # Panics
/// If one of the above does not hold.
pub fn check(data: &[u8]) {
    let cut = data.windows(10).position(|window| window == b"\n---8<---\n");
    let (question, answer) = cut.map_or((data, data), |cut| (&data[..cut], &data[cut + 10..]));
    match AuthnRequest::read(question) {
        Err(error) => check_quiet(&error),
        Ok(asked) => {
            check_envelope(&asked.envelope, question, 0);
            match asked.answer(answer, &[PASSWORD]) {
                Err(error) => check_quiet(&error),
                Ok(carried) => {
                    check_envelope(&carried, answer, 1);
                }
            }
        }
    }
    match sign_in(answer, &[PASSWORD]) {
        Err(error) => check_quiet(&error),
        Ok(form) => check_form(&form, answer),
    }
}

fn check_quiet(error: &(impl std::fmt::Display + std::fmt::Debug)) {
    let told = format!("{error} {error:?}");
    assert!(!told.contains(PASSWORD), "{told}");
    assert!(told.len() < 2000, "{told}");
}

/// An envelope with so many headers, which is `original` but for a piece in the middle.
fn check_envelope(carried: &[u8], original: &[u8], headers: usize) {
    let text = std::str::from_utf8(carried).expect("it is UTF-8");
    let document = Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let root = document.root_element();
    let found: Vec<_> = root.children().filter(|node| node.has_tag_name((SOAP, "Header"))).collect();
    assert_eq!(found.len(), headers, "{text}");
    let (before, after) = match found.first() {
        Some(header) => (&text[..header.range().start], &text[header.range().end..]),
        None => {
            let mut same = carried.iter().zip(original).take_while(|(a, b)| a == b).count();
            while !text.is_char_boundary(same) {
                same -= 1;
            }
            text.split_at(same)
        }
    };
    assert!(original.starts_with(before.as_bytes()) && original.ends_with(after.as_bytes()), "{text}");
}

fn check_form(form: &[u8], original: &[u8]) {
    let form = std::str::from_utf8(form).expect("it is ASCII");
    let result = form.strip_prefix("wa=wsignin1%2E0&wresult=").expect("two fields");
    let result = percent_decode_str(result).decode_utf8().expect("it is UTF-8");
    // Two attributes may have become one and the same.
    if original.windows(OLD_TRUST.len()).any(|window| window == OLD_TRUST.as_bytes()) {
        return;
    }
    let document = Document::parse(&result).unwrap_or_else(|error| panic!("{error}: {result}"));
    let root = document.root_element();
    assert!(root.has_tag_name((OLD_TRUST, "RequestSecurityTokenResponse")), "{result}");
    let token = root.children().find(|node| node.has_tag_name((OLD_TRUST, "RequestedSecurityToken")));
    let assertion = token.and_then(|token| token.first_element_child()).expect("there is one");
    let assertion = &result.as_bytes()[assertion.range()];
    assert!(
        original.windows(assertion.len()).any(|window| window == assertion),
        "the assertion was changed: {result}"
    );
}
