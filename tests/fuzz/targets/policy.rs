#![no_main]

use keyway_fuzz::properties::policy;

libfuzzer_sys::fuzz_target!(|request: &str| policy::check(request));
