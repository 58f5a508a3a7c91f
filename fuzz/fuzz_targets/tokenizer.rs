//! `tokenizer.json`. The library that reads it may panic, which is caught in the program; libfuzzer aborts at a panic, so it is
//! told not to.
#![no_main]

#[path = "../../tests/tests/common/loaders.rs"]
mod loaders;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: spotter_fuzz::let_panics_be_caught(), |bytes: &[u8]| {
    loaders::tokenizer(bytes);
});
