#![no_main]

use keyway_fuzz::properties::saml;

libfuzzer_sys::fuzz_target!(|documents: &[u8]| saml::check(documents));
