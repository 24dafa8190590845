#![no_main]

use keyway_fuzz::properties::links;

libfuzzer_sys::fuzz_target!(|reference: &str| links::check(reference));
