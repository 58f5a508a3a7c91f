//! Steps of a decoder on a card beside the same on the processor; they need an NVIDIA card.

use super::super::{Commit, Decoder, HfDecoderConfig, Mode};
use super::*;
use crate::quantised::{
    Format,
    testing::{packed_for, unpacked},
};
use candle_core::Device;
use candle_nn::{VarBuilder, VarMap};

fn config(kv_heads: usize, bias: bool) -> DecoderConfig {
    shaped(4, kv_heads, bias)
}

/// Of width 256.
fn shaped(heads: usize, kv_heads: usize, bias: bool) -> DecoderConfig {
    let hf = serde_json::json!({
        "model_type": if bias { "qwen2" } else { "llama" }, "vocab_size": 320, "hidden_size": 256,
        "intermediate_size": 736, "num_hidden_layers": 3, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": false,
        "hidden_act": "silu",
    });
    DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap()
}

/// The same noise in bf16 on the card and, widened again, in f32 on the processor.
fn decoders(cfg: &DecoderConfig, card: &Device) -> [Decoder; 2] {
    let map = VarMap::new();
    Decoder::new(cfg, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu), Mode::Infer).unwrap();
    let held = map.data().lock().unwrap();
    let half = |d: &Device| {
        // Larger than new weights are, so that attention has something to choose.
        let spread = |t: &Tensor| if t.rank() == 2 { (t * 3.0).unwrap() } else { t.clone() };
        let tensor = |t: &Tensor| spread(t).to_dtype(DType::BF16).unwrap().to_device(d).unwrap();
        held.iter().map(|(name, v)| (name.clone(), tensor(v.as_tensor()))).collect()
    };
    let (there, here) = (half(card), half(&Device::Cpu));
    [
        Decoder::new(cfg, VarBuilder::from_tensors(there, DType::BF16, card), Mode::Infer).unwrap(),
        Decoder::new(cfg, VarBuilder::from_tensors(here, DType::F32, &Device::Cpu), Mode::Infer).unwrap(),
    ]
}

/// Reads `lengths` of ids one after another with both: what `ours` makes of them on the card is what `theirs` makes on the processor, and
/// where they are few the same bits as one by one.
fn beside(name: &str, [ours, theirs]: [&Decoder; 2], capacity: usize, lengths: &[usize]) {
    assert!(ours.express().is_some(), "{name}");
    let cache = |d: &Decoder| KvCache::new(d.config(), capacity, d.dtype(), d.device()).unwrap();
    let (mut a, mut b, mut one) = (cache(ours), cache(theirs), cache(ours));
    for (round, &n) in lengths.iter().enumerate() {
        let ids = ids(n, round);
        let (got, expected) = (logits(ours, &ids, None, &mut a), logits(theirs, &ids, None, &mut b));
        let apart = off(&got, &expected);
        assert!(apart < 0.03, "{name}, round {round} of {n}: {apart}");
        if n > FEW {
            logits(ours, &ids, None, &mut one);
        } else {
            let single: Vec<_> = ids.iter().flat_map(|id| logits(ours, &[*id], None, &mut one)).collect();
            assert!(single == got, "{name}, round {round}: bits of {n} tokens and of one");
        }
    }
}

/// The same for what is read, in passes that sum as is fastest. Lengths that come again are graphs; in between a question is taken back.
fn reads_beside(name: &str, [ours, theirs]: [&Decoder; 2], capacity: usize, lengths: &[usize]) {
    let cache = |d: &Decoder| KvCache::new(d.config(), capacity, d.dtype(), d.device()).unwrap();
    let (mut a, mut b) = (cache(ours), cache(theirs));
    let read = |decoder: &Decoder, cache: &mut KvCache, ids: &[u32]| {
        let x = decoder.embed(&Tensor::new(ids, decoder.device()).unwrap().unsqueeze(0).unwrap()).unwrap();
        let hidden = decoder.read(&x, Some(cache)).unwrap();
        let logits = decoder.logits(&hidden).unwrap().squeeze(0).unwrap().to_dtype(DType::F32).unwrap();
        logits.to_vec2::<f32>().unwrap()
    };
    for (round, &n) in lengths.iter().enumerate() {
        let text = ids(n, round);
        let apart = off(&read(ours, &mut a, &text), &read(theirs, &mut b, &text));
        assert!(apart < 0.03, "{name}, round {round} of {n}: {apart}");
        let asked = ids(20, 90);
        a.begin().unwrap();
        b.begin().unwrap();
        let apart = off(&read(ours, &mut a, &asked), &read(theirs, &mut b, &asked));
        assert!(apart < 0.03, "{name}, question {round}: {apart}");
        a.rollback().unwrap();
        b.rollback().unwrap();
    }
}

fn logits(decoder: &Decoder, ids: &[u32], parents: Option<&[Option<usize>]>, cache: &mut KvCache) -> Vec<Vec<f32>> {
    let x = decoder.embed(&Tensor::new(ids, decoder.device()).unwrap().unsqueeze(0).unwrap()).unwrap();
    let hidden = match parents {
        Some(parents) => decoder.forward_tree(&x, parents, cache).unwrap(),
        None => decoder.forward(&x, Some(cache)).unwrap(),
    };
    decoder.logits(&hidden).unwrap().squeeze(0).unwrap().to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

fn ids(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 97 + seed * 31 + 7) % 320) as u32).collect()
}

/// Root of the mean square of the difference, relative to that of `b`.
fn off(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (apart, whole) = pairs.fold((0.0, 0.0), |(d, w), (a, b)| (d + square(a - b), w + square(*b)));
    (apart / whole).sqrt()
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn a_graph_gives_what_the_processor_gives_and_the_same_bits_for_one_token_as_for_many() {
    let card = Device::new_cuda(0).unwrap();
    for (kv_heads, bias) in [(4, false), (2, false), (1, true)] {
        let cfg = config(kv_heads, bias);
        let [ours, theirs] = decoders(&cfg, &card);
        // Prompts of many tokens are matrix products; across their end a cache grows.
        let lengths = [200, 1, 5, 8, 9, 32, 33, 64, 65, 40, 1, 17, 3, 700, 2, 1];
        beside(&format!("{kv_heads} key heads"), [&ours, &theirs], 1500, &lengths);
    }
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn packed_weights_give_what_they_give_unpacked_and_the_same_bits_for_one_token_as_for_many() {
    let card = Device::new_cuda(0).unwrap();
    for (format, kv_heads, bias) in [(Format::Q4K, 4, false), (Format::Q6K, 2, true), (Format::Q8_0, 2, false)] {
        let cfg = DecoderConfig { mlp_width: 768, ..config(kv_heads, bias) };
        let map = VarMap::new();
        Decoder::new(&cfg, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu), Mode::Infer).unwrap();
        let spread = |t: &Tensor| if t.rank() == 2 { (t * 3.0).unwrap() } else { t.clone() };
        let held = map.data().lock().unwrap();
        let tensors: std::collections::HashMap<_, _> =
            held.iter().map(|(name, v)| (name.clone(), spread(v.as_tensor()).detach())).collect();
        let theirs = Decoder::new(&cfg, unpacked(&tensors, format), Mode::Infer).unwrap();
        let ours = Decoder::new(&cfg, packed_for(tensors, format, DType::BF16, &card), Mode::Infer).unwrap();
        beside(&format!("{format:?}"), [&ours, &theirs], 600, &[100, 1, 5, 8, 9, 32, 64, 65, 1, 17, 2]);
        reads_beside(&format!("{format:?}"), [&ours, &theirs], 600, &[100, 64, 49, 65, 100, 48, 65, 49]);
    }
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn what_is_read_in_wide_passes_is_what_the_processor_reads() {
    let card = Device::new_cuda(0).unwrap();
    for (heads, kv_heads, bias) in [(4, 4, false), (4, 2, false), (4, 1, true), (2, 2, false), (2, 1, true)] {
        let cfg = shaped(heads, kv_heads, bias);
        let [ours, theirs] = decoders(&cfg, &card);
        let lengths = [100, 17, 64, 65, 100, 16, 100, 256, 65, 257, 650, 65, 129, 100];
        reads_beside(&format!("{kv_heads} of {heads} heads"), [&ours, &theirs], 2040, &lengths);
    }
}

#[test]
#[ignore = "needs an NVIDIA card"]
fn a_tree_sees_its_ancestors_and_a_path_is_kept() {
    let card = Device::new_cuda(0).unwrap();
    let cfg = config(2, false);
    let [ours, theirs] = decoders(&cfg, &card);
    let cache = |d: &Decoder| KvCache::new(&cfg, 400, d.dtype(), d.device()).unwrap();
    let (mut a, mut b) = (cache(&ours), cache(&theirs));
    let parents = [None, Some(0), Some(0), Some(1), Some(2), Some(2), None];
    for round in 0..6 {
        let text = ids(60, round);
        logits(&ours, &text, None, &mut a);
        logits(&theirs, &text, None, &mut b);
        let drafted = ids(parents.len(), 50 + round);
        a.begin().unwrap();
        b.begin().unwrap();
        let got = logits(&ours, &drafted, Some(&parents), &mut a);
        let expected = logits(&theirs, &drafted, Some(&parents), &mut b);
        assert!(off(&got, &expected) < 0.03, "round {round}: {}", off(&got, &expected));
        a.commit(Commit::Path(&[0, 2, 5])).unwrap();
        b.commit(Commit::Path(&[0, 2, 5])).unwrap();
        let (got, expected) = (logits(&ours, &[7], None, &mut a), logits(&theirs, &[7], None, &mut b));
        assert!(off(&got, &expected) < 0.03, "round {round}, behind the path: {}", off(&got, &expected));
    }
}
