#![no_main]

use keyway_fuzz::properties::kept;

libfuzzer_sys::fuzz_target!(|input: &[u8]| kept::check(input));
