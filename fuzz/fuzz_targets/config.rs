//! `config.json` of language models and of models that see.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Config.begin(), |bytes: &[u8]| {
    Loader::Config.feed(bytes);
});
