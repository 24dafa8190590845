#![no_main]

use keyway_fuzz::properties::token;

libfuzzer_sys::fuzz_target!(|answer: &[u8]| token::check(answer));
