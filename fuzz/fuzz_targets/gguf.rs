//! GGUF files: directory, tokenizer, decoder, weights.
#![no_main]

#[path = "../../tests/tests/common/loaders.rs"]
mod loaders;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = spotter_fuzz::folder();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("bytes");
    loaders::gguf(&path);
});
