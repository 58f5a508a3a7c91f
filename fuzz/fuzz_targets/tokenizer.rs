//! `tokenizer.json`. The library that reads it may panic, which is caught in the program and found here.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_engine::tokenizer::Tokenizer;

fuzz_target!(|text: &str| {
    if let Ok(tokenizer) = Tokenizer::from_json(text) {
        let _ = tokenizer.encode("Bend 무릎 12", true).map(|ids| tokenizer.decode(&ids));
    }
});
