//! `spotter.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Manifest.begin(), |bytes: &[u8]| {
    Loader::Manifest.feed(bytes);
});
