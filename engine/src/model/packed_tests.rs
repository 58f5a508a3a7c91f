//! Decoders of packed weights against the same weights as numbers, and against themselves in passes of other lengths.

use super::{
    cache::KvCache,
    config::{DecoderConfig, DecoderKind, HfDecoderConfig},
    decoder::Decoder,
    layers::Mode,
    plan::decoder_tensors,
};
use crate::quantised::{
    Format,
    testing::{packed, unpacked},
};
use candle_core::{DType, Device, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

fn config(kind: DecoderKind, window: Option<usize>) -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some(kind.model_type().into()),
        vocab_size: Some(90),
        hidden_size: Some(256),
        intermediate_size: Some(512),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        max_position_embeddings: Some(128),
        sliding_window: window,
        use_sliding_window: Some(window.is_some()),
        tie_word_embeddings: Some(kind == DecoderKind::Qwen2),
        ..HfDecoderConfig::default()
    };
    DecoderConfig::from_hf(&hf, "").unwrap()
}

fn weights(config: &DecoderConfig) -> HashMap<String, Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (embedding, layers) = decoder_tensors(config, "model.", "lm_head.");
    let random = |spec: spotter_vision::encoder::TensorSpec| {
        let (n, centre) = (spec.shape.iter().product::<usize>(), if spec.name.contains("norm") { 1.0 } else { 0.0 });
        let values: Vec<f32> = (0..n).map(|_| centre + rng.random_range(-0.1..0.1)).collect();
        (spec.name, Tensor::from_vec(values, spec.shape, &Device::Cpu).unwrap())
    };
    embedding.into_iter().chain(layers).map(random).collect()
}

fn ids(n: u32) -> Tensor {
    Tensor::from_iter((0..n).map(|i| (i * 37 + 5) % 90), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// How far `a` is from `b`, as a part of how far `b` is from nothing.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    (off / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}

#[test]
fn logits_are_those_of_unpacked_weights_but_for_inputs_of_eight_bits() {
    for (kind, window) in [(DecoderKind::Llama, None), (DecoderKind::Qwen2, None), (DecoderKind::Mistral, Some(7))] {
        let config = config(kind, window);
        let weights = weights(&config);
        for format in Format::ALL {
            let small = Decoder::new(&config, packed(weights.clone(), format), Mode::Infer).unwrap();
            let plain = Decoder::new(&config, unpacked(&weights, format), Mode::Infer).unwrap();
            assert_eq!(small.dtype(), DType::F32);
            let x = small.embed(&ids(20)).unwrap();
            assert!(apart(&numbers(&x), &numbers(&plain.embed(&ids(20)).unwrap())) < 1e-6, "{format:?}");
            let [small_cache, plain_cache] =
                [(); 2].map(|()| KvCache::new(&config, 64, DType::F32, &Device::Cpu).unwrap());
            let run = |decoder: &Decoder, mut cache: KvCache| {
                // A prompt, a few at once, one by one.
                let pass = |(from, n): (usize, usize)| {
                    let hidden = decoder.forward(&x.narrow(1, from, n).unwrap(), Some(&mut cache)).unwrap();
                    numbers(&decoder.logits(&hidden).unwrap())
                };
                [(0, 17), (17, 2), (19, 1)].map(pass).concat()
            };
            let (small, plain) = (run(&small, small_cache), run(&plain, plain_cache));
            let off = apart(&small, &plain);
            // Weights that are numbers take inputs as they are.
            let exact = matches!(format, Format::F16 | Format::Bf16);
            let (least, most) = if exact { (0.0, 1e-5) } else { (1e-5, 0.02) };
            assert!(off > least && off < most, "{kind:?} {format:?}: {off}");
        }
    }
}

#[test]
fn a_position_has_the_same_bits_in_any_company() {
    let config = config(DecoderKind::Llama, None);
    let weights = weights(&config);
    for format in [Format::Q4_1, Format::Q6K, Format::F16] {
        let decoder = Decoder::new(&config, packed(weights.clone(), format), Mode::Infer).unwrap();
        let x = decoder.embed(&ids(60)).unwrap();
        let run = |lengths: &[usize]| {
            let mut cache = KvCache::new(&config, 64, DType::F32, &Device::Cpu).unwrap();
            let (mut at, mut all) = (0, Vec::new());
            for n in lengths.iter().copied() {
                let hidden = decoder.forward(&x.narrow(1, at, n).unwrap(), Some(&mut cache)).unwrap();
                all.extend(numbers(&decoder.logits(&hidden).unwrap()));
                at += n;
            }
            all
        };
        let alone = run(&[1; 60]);
        assert!(alone == run(&[3, 5, 16, 9, 2, 7, 1, 8, 9]), "{format:?}");
    }
}

#[test]
fn a_trimmed_head_gives_the_logits_of_its_tokens() {
    for kind in [DecoderKind::Llama, DecoderKind::Qwen2] {
        let config = config(kind, None);
        let mut decoder = Decoder::new(&config, packed(weights(&config), Format::Q5K), Mode::Infer).unwrap();
        let hidden = decoder.forward(&decoder.embed(&ids(3)).unwrap(), None).unwrap();
        let whole = decoder.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        let kept = [80u32, 3, 17, 18];
        decoder.trim_head(&kept).unwrap();
        let some = decoder.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        for (some, whole) in some.iter().zip(&whole) {
            assert_eq!(*some, kept.map(|id| whole[id as usize]));
        }
    }
}

/// What a packed decoder computes is in one order everywhere, so all processors give the same logits to the last bit. The angles of
/// positions come from the system's sines and powers, which may differ where the library is another.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn logits_have_the_same_bits_on_every_processor() {
    let config = config(DecoderKind::Llama, None);
    let weights = weights(&config);
    let found = Format::ALL.map(|format| {
        let decoder = Decoder::new(&config, packed(weights.clone(), format), Mode::Infer).unwrap();
        let x = decoder.embed(&ids(20)).unwrap();
        let mut cache = KvCache::new(&config, 64, DType::F32, &Device::Cpu).unwrap();
        let mut sum = 0xcbf2_9ce4_8422_2325u64;
        for (from, n) in [(0, 17), (17, 2), (19, 1)] {
            let hidden = decoder.forward(&x.narrow(1, from, n).unwrap(), Some(&mut cache)).unwrap();
            for byte in numbers(&decoder.logits(&hidden).unwrap()).into_iter().flat_map(f32::to_le_bytes) {
                sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        (format.name(), format!("{sum:016x}"))
    });
    assert_eq!(found.each_ref().map(|(name, sum)| (*name, sum.as_str())), SUMS);
}

/// FNV-1a over the logits, as an x86-64 processor with AVX-512 gave them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SUMS: [(&str, &str); 10] = [
    ("q4_0", "22872422473ed89c"),
    ("q4_1", "2befc0e5cd4b9565"),
    ("q5_0", "4f93c07002942711"),
    ("q5_1", "0a0bc2be7816e475"),
    ("q8_0", "9c5f7d45eef1103c"),
    ("q4_k", "ab346fbf825e2cf5"),
    ("q5_k", "3c9c3db19ccb3c5d"),
    ("q6_k", "63aece566c9cc10d"),
    ("f16", "a15eea5ebbd93ad4"),
    ("bf16", "86170d03edb29889"),
];
