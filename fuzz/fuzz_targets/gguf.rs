//! GGUF files: directory, decoder, tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_engine::gguf::{self, Gguf};
use std::io::Write as _;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("bytes");
    if let Ok(file) = Gguf::open(file.path()) {
        let _ = (gguf::decoder_config(&file), gguf::tokenizer(&file));
    }
});
