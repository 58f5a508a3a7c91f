//! `tokenizer.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Tokenizer.begin(), |bytes: &[u8]| {
    Loader::Tokenizer.feed(bytes);
});
