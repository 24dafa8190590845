#![no_main]

use keyway_fuzz::properties::provider;

libfuzzer_sys::fuzz_target!(|brought: &[u8]| provider::check(brought));
