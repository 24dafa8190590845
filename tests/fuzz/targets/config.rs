#![no_main]

use std::sync::LazyLock;

use keyway_fuzz::properties::config;

static HOME: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    // In memory where there is such a place: three files are written for each input.
    let memory = std::path::Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a place for files")
});

libfuzzer_sys::fuzz_target!(|files: &str| config::check(HOME.path(), files));
