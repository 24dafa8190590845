#![no_main]

use keyway_fuzz::properties::headers;

libfuzzer_sys::fuzz_target!(|lines: &[u8]| headers::check(lines));
