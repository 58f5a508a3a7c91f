//! `config.json` of language models and of models that see.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spotter_engine::model::{
    DecoderConfig, HfDecoderConfig,
    llava_config::{HfLlavaConfig, LlavaConfig},
    plan::decoder_tensors,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hf) = serde_json::from_slice::<HfDecoderConfig>(bytes)
        && let Ok(config) = DecoderConfig::from_hf(&hf, "")
    {
        decoder_tensors(&config, "model.", "lm_head.");
    }
    if let Ok(hf) = serde_json::from_slice::<HfLlavaConfig>(bytes)
        && let Ok(config) = LlavaConfig::from_hf(&hf)
    {
        config.vision.tensors(config.vision_depth, "vision_tower.");
    }
});
