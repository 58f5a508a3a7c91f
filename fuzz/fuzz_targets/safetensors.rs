//! safetensors files: header and tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Safetensors.begin(), |bytes: &[u8]| {
    Loader::Safetensors.feed(bytes);
});
