#![no_main]

use keyway_fuzz::properties::session;

libfuzzer_sys::fuzz_target!(|input: &[u8]| session::check(input));
