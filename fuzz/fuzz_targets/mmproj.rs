//! GGUF files of what sees for a decoder: keys, tower, projector, tiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_fuzz::Loader;

fuzz_target!(init: Loader::Mmproj.begin(), |bytes: &[u8]| {
    Loader::Mmproj.feed(bytes);
});
