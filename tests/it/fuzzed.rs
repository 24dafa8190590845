//! What the fuzz targets look for, with their seeds and with inputs made up on the fly.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;

use crate::properties::{
    answer, config, headers, kept, links, path, policy, provider, saml, session, stack, token,
};

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let files = fs::read_dir(&directory).expect("the target has seeds");
    let seeds: Vec<_> =
        files.map(|file| fs::read(file.expect("a file").path()).expect("a readable seed")).collect();
    assert!(seeds.len() > 5, "{} is nearly empty", directory.display());
    seeds
}

fn text(seed: &[u8]) -> String {
    String::from_utf8_lossy(seed).into_owned()
}

/// Seeds cut in two and put together anew, with something in between.
fn spliced(target: &str, between: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let seeds = seeds(target);
    let piece = (prop::sample::select(seeds), any::<prop::sample::Index>(), any::<prop::sample::Index>());
    let pieces = prop::collection::vec((piece, prop::sample::select(between)), 1..4);
    pieces.prop_map(|pieces| {
        let mut spliced = Vec::new();
        for ((seed, from, to), between) in pieces {
            let (from, to) = (from.index(seed.len() + 1), to.index(seed.len() + 1));
            // The first one keeps its beginning, which decides what all of it is.
            let from = if spliced.is_empty() { 0 } else { from };
            spliced.extend_from_slice(seed.get(from..to).unwrap_or(&seed));
            spliced.extend_from_slice(between.as_bytes());
        }
        spliced
    })
}

/// A program of one thread, as the targets have it.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn try_spliced(target: &str, cases: u32, between: &'static [&'static str], check: impl Fn(&[u8])) {
    let mut runner = TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let outcome = runner.run(&spliced(target, between), |input| {
        check(&input);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

// Promises 40, 41, 42.
#[test]
fn no_reading_of_any_target_leaves_the_base() {
    seeds("path").iter().for_each(|seed| path::check(&text(seed)));
    let between = &["/", "..", "%2e%2e", "%2f", "%252e", "%5c", ";", "%c0%ae", "/v2/", "//"];
    try_spliced("path", 2000, between, |input| path::check(&text(input)));
}

// Promises 41, 43.
#[test]
fn no_spelling_gets_past_a_policy() {
    seeds("policy").iter().for_each(|seed| policy::check(&text(seed)));
    let between = &["", "/", "%73", "%2f", "%252f", "%5c", ";", "//", "/v2/", "/secrets", "/servers"];
    try_spliced("policy", 1000, between, |input| policy::check(&text(input)));
}

// Promises 18, 46.
#[test]
fn no_reference_is_mapped_to_anything_but_its_own_place() {
    seeds("links").iter().for_each(|seed| links::check(&text(seed)));
    let between = &[
        "",
        "/",
        "//",
        "http://",
        "@",
        ":80",
        "?",
        "#",
        "..",
        "%2f",
        "/v2.1",
        "\"}]}",
        "\",\"next\":\"",
        "{",
    ];
    try_spliced("links", 1000, between, |input| links::check(&text(input)));
}

// Promises 20, 21, 22, 23, 24, 35.
#[test]
fn no_list_of_fields_carries_a_guarded_one_to_a_service() {
    seeds("headers").iter().for_each(|seed| headers::check(seed));
    let between = &["\n", "_", "-", ": ", ", ", "\nConnection: ", "\nx_", "X-Auth"];
    try_spliced("headers", 2000, between, headers::check);
}

// Promises 17, 76.
#[test]
fn no_answer_of_keystone_leads_out_of_its_catalog_or_quotes_a_secret() {
    seeds("token").iter().for_each(|seed| token::check(seed));
    try_spliced("token", 1000, &["", "\"", "}", "]", ",", "{", "null", "\n\n"], token::check);
}

// Promises 72, 76.
#[test]
fn whatever_is_carried_between_saml_providers_is_changed_in_its_header_alone() {
    seeds("saml").iter().for_each(|seed| saml::check(seed));
    let between = &[
        "",
        "\n---8<---\n",
        "<S:Header/>",
        "xmlns:a=\"urn:a\" ",
        "<![CDATA[",
        "]]>",
        "<!-- ",
        " -->",
        "'",
        "\"",
        "&#60;",
        "<?a ",
        "<!DOCTYPE a [",
    ];
    try_spliced("saml", 2000, between, saml::check);
}

// Promises 72, 76.
#[test]
fn no_answer_of_a_provider_and_nothing_that_a_browser_brings_ends_a_login_of_somebody_else() {
    seeds("provider").iter().for_each(|seed| provider::check(seed));
    let between =
        &["", "\"", "}", "{", ",", ":", "null", "&", "=", "%2D", "&state=", "&code=", "canary-St4te"];
    try_spliced("provider", 2000, between, provider::check);
}

// Promise 72.
#[test]
fn nobody_but_keyway_makes_its_tokens() {
    seeds("session").iter().for_each(|seed| session::check(seed));
    try_spliced("session", 2000, &["", "gAAAAA", "=", "==", "%3D", "\0", "A"], session::check);
}

// Promises 72, 84.
#[test]
fn nothing_on_disk_is_a_token_but_what_keyway_left_there() {
    seeds("kept").iter().for_each(|seed| kept::check(seed));
    let between = &["", "\n", "\0", "{", "}", "null", "-1", "18446744073709551615", "keyway token v1\n"];
    try_spliced("kept", 1000, between, kept::check);
}

// Promises 72, 76.
#[test]
fn no_configuration_file_panics_or_has_its_secret_quoted() {
    let home = tempfile::tempdir().expect("a directory");
    seeds("config").iter().for_each(|seed| config::check(home.path(), &text(seed)));
    let between = &["", "\n", "---8<---\n", "  ", ": ", "- ", "[", "\"", "      "];
    try_spliced("config", 300, between, |input| config::check(home.path(), &text(input)));
}

// Promises 25, 26, 27, 28, 29, 30, 31, 32, 36, 38.
#[test]
fn whatever_a_client_sends_a_service_gets_plain_requests_or_nothing() {
    let runtime = runtime();
    let stack = runtime.block_on(stack::Stack::start());
    let check = |input: &[u8]| runtime.block_on(stack.check(input));
    seeds("stack").iter().for_each(|seed| check(seed));
    let between = &["", "\r\n", "\r\n\r\n", "0\r\n\r\n", "Host: localhost\r\n", "\n", " ", "\t", "\0"];
    try_spliced("stack", 500, between, check);
}

// Promises 44, 45, 46.
#[test]
fn whatever_a_service_answers_a_client_gets_one_whole_answer_or_sees_that_it_is_cut() {
    let runtime = runtime();
    let stack = runtime.block_on(answer::Stack::start());
    let check = |input: &[u8]| runtime.block_on(stack.check(input));
    seeds("answer").iter().for_each(|seed| check(seed));
    let between = &["", "\r\n", "\r\n\r\n", "0\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\n", " ", "\0"];
    try_spliced("answer", 500, between, check);
}
