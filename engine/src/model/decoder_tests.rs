//! Training and inference must compute the same, step by step or at once, and every weight must learn.

use super::{
    cache::KvCache,
    config::{DecoderConfig, DecoderKind, HfDecoderConfig},
    decoder::Decoder,
    layers::Mode,
    plan::decoder_tensors,
    rope::RopeScaling,
};
use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use std::collections::BTreeMap;

fn config(kind: DecoderKind, window: Option<usize>) -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some(kind.model_type().into()),
        vocab_size: Some(40),
        hidden_size: Some(32),
        intermediate_size: Some(48),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        max_position_embeddings: Some(600),
        sliding_window: window,
        use_sliding_window: Some(window.is_some()),
        tie_word_embeddings: Some(kind == DecoderKind::Qwen2),
        ..HfDecoderConfig::default()
    };
    DecoderConfig::from_hf(&hf, "").unwrap()
}

fn kinds() -> [DecoderConfig; 5] {
    let mut llama = config(DecoderKind::Llama, None);
    llama.rope_scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64 };
    let mut factors = config(DecoderKind::Llama, None);
    factors.rope_scaling = RopeScaling::Factors(vec![1.5; factors.head_dim / 2]);
    [
        config(DecoderKind::Llama, None),
        llama,
        factors,
        config(DecoderKind::Qwen2, None),
        config(DecoderKind::Mistral, Some(5)),
    ]
}

/// The same random weights for both modes; norms and biases are moved away from their neutral start.
fn pair(cfg: &DecoderConfig) -> (VarMap, Decoder, Decoder) {
    let map = VarMap::new();
    let vb = || VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    Decoder::new(cfg, vb(), Mode::Train).unwrap();
    for var in map.all_vars() {
        let noise = Tensor::randn(0f32, 0.1, var.shape(), &Device::Cpu).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
    let (train, infer) = (Decoder::new(cfg, vb(), Mode::Train).unwrap(), Decoder::new(cfg, vb(), Mode::Infer).unwrap());
    (map, train, infer)
}

fn ids(n: usize) -> Tensor {
    Tensor::from_iter((0..n as u32).map(|i| (i * 7 + 3) % 40), &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn training_and_inference_agree() {
    for cfg in kinds() {
        let (_map, train, infer) = pair(&cfg);
        let x = train.embed(&Tensor::cat(&[ids(11), ids(11)], 0).unwrap()).unwrap();
        let [a, b] = [&train, &infer].map(|m| m.logits(&m.forward(&x, None).unwrap()).unwrap());
        assert_eq!(a.dims(), [2, 11, 40]);
        assert!(difference(&a, &b) < 1e-5, "{:?}: {}", cfg.kind, difference(&a, &b));
    }
}

#[test]
fn steps_agree_with_one_pass_across_a_growing_cache() {
    for cfg in kinds() {
        let (_map, _, model) = pair(&cfg);
        let n = 300; // beyond the first allocation of the cache
        let x = model.embed(&ids(n)).unwrap();
        let whole = model.forward(&x, None).unwrap();
        let mut cache = KvCache::new(&cfg, 400, DType::F32, &Device::Cpu).unwrap();
        let mut start = 0;
        for length in [1, 9, 240, 1, 8].into_iter().chain(std::iter::repeat_n(1, 41)) {
            let part = model.forward(&x.narrow(1, start, length).unwrap(), Some(&mut cache)).unwrap();
            let expected = whole.narrow(1, start, length).unwrap();
            assert!(difference(&part, &expected) < 2e-5, "{:?} at {start}", cfg.kind);
            start += length;
        }
        assert_eq!((cache.len(), cache.position()), (n, n));
        cache.clear().unwrap();
        model.forward(&x.narrow(1, 0, 12).unwrap(), Some(&mut cache)).unwrap();
        cache.begin().unwrap();
        model.forward(&x.narrow(1, 40, 9).unwrap(), Some(&mut cache)).unwrap();
        cache.rollback().unwrap();
        let again = model.forward(&x.narrow(1, 12, 3).unwrap(), Some(&mut cache)).unwrap();
        assert!(difference(&again, &whole.narrow(1, 12, 3).unwrap()) < 2e-5);
    }
}

#[test]
fn every_weight_has_a_gradient() {
    for cfg in kinds() {
        let (map, model, _) = pair(&cfg);
        let x = model.embed(&ids(9)).unwrap();
        let loss = model.logits(&model.forward(&x, None).unwrap()).unwrap().sqr().unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in map.data().lock().unwrap().iter() {
            let grad = grads.get(var).unwrap_or_else(|| panic!("{:?}: no gradient for {name}", cfg.kind));
            let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            // The bias of the keys moves all scores of a query alike, which softmax takes out: only rotation
            // leaves a little.
            assert!(size.is_finite() && size > 0.0, "{:?}: gradient of {name} is {size}", cfg.kind);
        }
    }
}

#[test]
fn the_list_of_tensors_is_what_the_decoder_reads() {
    for cfg in kinds() {
        let (map, _, _) = pair(&cfg);
        let (embedding, layers) = decoder_tensors(&cfg, "model.", "lm_head.");
        let listed: BTreeMap<_, _> = embedding.into_iter().chain(layers).map(|t| (t.name, t.shape)).collect();
        let read: BTreeMap<_, _> =
            map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.dims().to_vec())).collect();
        assert_eq!(listed, read);
    }
}

/// Run by hand: `cargo test --release -- --ignored --nocapture step_time`.
#[test]
#[ignore = "measures time"]
fn step_time_of_a_small_model() {
    let mut cfg = config(DecoderKind::Llama, None);
    (cfg.vocab, cfg.width, cfg.mlp_width, cfg.layers, cfg.heads, cfg.kv_heads, cfg.head_dim) =
        (8000, 256, 688, 8, 4, 2, 64);
    cfg.max_positions = 2048;
    let (_map, _, model) = pair(&cfg);
    let mut cache = KvCache::new(&cfg, 2048, DType::F32, &Device::Cpu).unwrap();
    let x = model.embed(&ids(1)).unwrap();
    for round in 0..4 {
        let start = std::time::Instant::now();
        for _ in 0..256 {
            model.logits(&model.forward(&x, Some(&mut cache)).unwrap()).unwrap();
        }
        println!(
            "{} to {} tokens held: {:.2} ms a step",
            round * 256,
            (round + 1) * 256,
            start.elapsed().as_secs_f64() * 1e3 / 256.0
        );
    }
}

#[test]
fn half_precision_activations_train() {
    let (_map, model, _) = pair(&config(DecoderKind::Qwen2, None));
    let x = model.embed(&ids(6)).unwrap();
    let exact = model.forward(&x, None).unwrap();
    let half = model.forward(&x.to_dtype(DType::BF16).unwrap(), None).unwrap();
    assert_eq!(half.dtype(), DType::BF16);
    let off = difference(&exact, &half.to_dtype(DType::F32).unwrap());
    assert!(off > 0.0 && off < 0.1, "{off}");
}

#[test]
fn a_full_context_is_an_error_and_changes_nothing() {
    let cfg = config(DecoderKind::Llama, None);
    let (_map, _, model) = pair(&cfg);
    let x = model.embed(&ids(4)).unwrap();
    let mut cache = KvCache::new(&cfg, 6, DType::F32, &Device::Cpu).unwrap();
    model.forward(&x, Some(&mut cache)).unwrap();
    let error = model.forward(&x, Some(&mut cache)).unwrap_err().to_string();
    assert!(error.contains("the context of 6 tokens is full"), "{error}");
    assert_eq!(cache.len(), 4);
    let long = Tensor::zeros((1, 601, 32), DType::F32, &Device::Cpu).unwrap();
    let error = model.forward(&long, None).unwrap_err().to_string();
    assert!(error.contains("do not fit the model's 600"), "{error}");
}

#[test]
fn configs_survive_the_file_and_bad_ones_are_named() {
    for cfg in kinds() {
        let text = serde_json::to_string(&cfg.to_hf()).unwrap();
        let hf: HfDecoderConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(DecoderConfig::from_hf(&hf, "").unwrap(), cfg);
    }
    let check = |edit: fn(&mut HfDecoderConfig), expected: &str| {
        let mut hf = config(DecoderKind::Llama, None).to_hf();
        edit(&mut hf);
        let error = DecoderConfig::from_hf(&hf, "text_config.").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        |c| c.model_type = Some("mamba".into()),
        "`text_config.model_type`: expected a decoder of type llama, qwen2, mistral or hyperclovax, found `mamba`",
    );
    check(|c| c.model_type = None, "`text_config.model_type`: expected a string, found nothing");
    check(
        |c| c.num_key_value_heads = Some(3),
        "`text_config.num_key_value_heads`: expected a divisor of num_attention_heads (4), found 3",
    );
    check(
        |c| c.num_hidden_layers = Some(0),
        "`text_config.num_hidden_layers`: expected a number from 1 to 2^28, found 0",
    );
    check(
        |c| c.rope_scaling = RopeScaling::Factors(vec![1.0]).to_hf(),
        "`text_config.rope_scaling.factors`: expected 4 numbers, half of head_dim, found 1",
    );
    check(
        |c| c.rope_scaling = RopeScaling::Factors(vec![1.0, f32::NAN, 1.0, 1.0]).to_hf(),
        "`text_config.rope_scaling.factors`: expected numbers from 1e-6 on, found NaN at place 1",
    );
    check(|c| c.hidden_act = Some("gelu".into()), "`text_config.hidden_act`: expected silu, found `gelu`");
}
