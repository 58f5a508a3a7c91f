//! GGUF files: directory, tokenizer, decoder, weights.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Gguf.begin(), |bytes: &[u8]| {
    Loader::Gguf.feed(bytes);
});
