//! `spotter.toml`.
#![no_main]

#[path = "../../tests/tests/common/loaders.rs"]
mod loaders;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    loaders::manifest(bytes);
});
