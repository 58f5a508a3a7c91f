//! What KeyDiff keeps against an independent implementation, the Python package kvpress, on the same tiny model. The
//! golden comes from `tests/python/kvpress_keydiff.py`.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;
use spotter_engine::model::{CacheOptions, Decoder, DecoderConfig, HfDecoderConfig, KvCache, Mode, Policy};
use std::path::Path;

/// Where this runs: what `SPOTTER_TEST_DEVICE` names, `cpu` (left out) or `cuda`.
fn device() -> Device {
    match std::env::var("SPOTTER_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => Device::new_cuda(0).expect("SPOTTER_TEST_DEVICE names a card"),
        Ok(other) => panic!("SPOTTER_TEST_DEVICE {other}: cpu or cuda expected"),
    }
}

/// Kept positions of each layer and head, one after the other.
fn kept(decoder: &Decoder, ids: &Tensor, policy: Policy, budget: usize) -> Vec<u32> {
    let cfg = decoder.config();
    let n = ids.dim(1).expect("a prompt");
    let options = CacheOptions {
        policy,
        budget: Some(budget),
        block: n,
        every: 1,
        window: 0.0,
        sinks: 0,
        ..CacheOptions::default()
    };
    let mut cache = KvCache::bounded(cfg, &options, 256, 0, DType::F32, decoder.device()).expect("a cache");
    decoder.forward(&decoder.embed(ids).expect("embeddings"), Some(&mut cache)).expect("a pass");
    let layers = 0..cfg.layers;
    layers.flat_map(|l| (0..cfg.kv_heads).flat_map(|h| cache.positions(l, h).to_vec()).collect::<Vec<_>>()).collect()
}

#[test]
fn keydiff_keeps_what_kvpress_keeps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/kvpress_keydiff.safetensors");
    let bytes = std::fs::read(&path).expect("the golden");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a safetensors header");
    let config = metadata.metadata().as_ref().and_then(|m| m.get("config")).expect("the configuration");
    let hf: HfDecoderConfig = serde_json::from_str(config).expect("a configuration");
    let config = DecoderConfig::from_hf(&hf, "").expect("a decoder");
    let device = device();
    let vb = VarBuilder::from_slice_safetensors(&bytes, DType::F32, &device).expect("weights");
    let decoder = Decoder::new(&config, vb, Mode::Infer).expect("a decoder");
    let golden = SafeTensors::deserialize(&bytes).expect("tensors");
    let numbers = |name: &str| -> Vec<u32> {
        let data = golden.tensor(name).expect("a golden").data().to_vec();
        data.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
    };
    let ids = Tensor::new(numbers("golden.ids"), &device).and_then(|t| t.unsqueeze(0)).expect("ids");
    for budget in [45, 30, 11] {
        let expected = numbers(&format!("golden.kept.{budget}"));
        assert_eq!(kept(&decoder, &ids, Policy::KeyDiff, budget), expected, "budget {budget}");
        // The golden tells policies apart.
        assert_ne!(kept(&decoder, &ids, Policy::Random, budget), expected);
    }
}
