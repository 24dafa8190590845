#![no_main]

use keyway_fuzz::properties::path;

libfuzzer_sys::fuzz_target!(|target: &str| path::check(target));
