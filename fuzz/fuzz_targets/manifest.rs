//! `spotter.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_engine::coach::manifest::Manifest;

fuzz_target!(|text: &str| {
    let _ = Manifest::parse(text);
});
