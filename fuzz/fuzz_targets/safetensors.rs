//! safetensors files: header and tensors.
#![no_main]

#[path = "../../tests/tests/common/loaders.rs"]
mod loaders;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = spotter_fuzz::folder();
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("bytes");
    loaders::safetensors(folder.path());
});
