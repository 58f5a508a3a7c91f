//! Files that are written, read again.

use super::*;
use crate::{
    model::{DecoderConfig, LanguageModel, plan::decoder_tensors},
    quantised::{Instructions, testing::unpacked},
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const VOCAB: usize = 40;

/// A folder as published, of a model of some kind with random weights.
fn folder(at: &Path, kind: &str, width: usize) -> HashMap<String, Tensor> {
    let config = json!({
        "model_type": kind, "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "tie_word_embeddings": kind == "qwen2", "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 1, "use_sliding_window": false,
    });
    std::fs::write(at.join("config.json"), config.to_string()).unwrap();
    let added = |id: u32, text: &str, special: bool| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": special})
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(0, "<s>", true), added(1, "</s>", true), added(9, "<b>", false)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "merges": [["a", "b"], ["Ġ", "ab"]],
            "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "Ġ": 5, "1": 6, "Ġab": 7, "!": 8}},
    });
    std::fs::write(at.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(at.join("chat_template.jinja"), "{{ messages[0].content }}!").unwrap();
    let hf = serde_json::from_value::<crate::model::HfDecoderConfig>(config).unwrap();
    let config = DecoderConfig::from_hf(&hf, "").unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
    let random = |spec: spotter_vision::encoder::TensorSpec| {
        let (n, centre) = (spec.shape.iter().product::<usize>(), if spec.name.contains("norm") { 1.0 } else { 0.0 });
        let values: Vec<f32> = (0..n).map(|_| centre + rng.random_range(-0.1..0.1)).collect();
        (spec.name, Tensor::from_vec(values, spec.shape, &Device::Cpu).unwrap())
    };
    let tensors: HashMap<String, Tensor> = embedding.into_iter().chain(layers).map(random).collect();
    candle_core::safetensors::save(&tensors, at.join("model.safetensors")).unwrap();
    tensors
}

fn logits(model: &LanguageModel) -> Vec<f32> {
    let ids: Vec<u32> = (0..24).map(|i| (i * 7 + 2) % VOCAB as u32).collect();
    let x = model.decoder.embed(&Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
    let hidden = model.decoder.forward(&x, None).unwrap();
    model.decoder.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    let off: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (off / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

fn open(path: &Path) -> LanguageModel {
    LanguageModel::open(path, DType::F32, &Device::Cpu).unwrap()
}

fn quietly(source: &Source<'_>, out: &Path, target: Target) -> Quantised {
    quantise(source, out, target, &mut |_, _| ()).unwrap()
}

#[test]
fn a_folder_becomes_a_file_that_says_the_same() {
    for (kind, width) in [("llama", 256), ("qwen2", 96)] {
        let at = tempfile::tempdir().unwrap();
        folder(at.path(), kind, width);
        let plain = open(at.path());
        let expected = logits(&plain);
        let mut sizes = Vec::new();
        for target in Target::ALL {
            let out = at.path().join("out.gguf");
            let report = quietly(&Source::Model(at.path()), &out, target);
            sizes.push(report.bytes);
            let model = open(&out);
            let off = apart(&logits(&model), &expected);
            // What so many bits lose of evenly spread numbers, over two layers.
            let most = match target {
                Target::F16 => 2e-3,
                Target::Q8_0 => 0.03,
                Target::Q6K => 0.08,
                Target::Q5K => 0.15,
                _ => 0.3,
            };
            assert!(off < most, "{kind} {target:?}: {off}");
            assert_eq!(numbers(&model), numbers(&plain));
            let texts = ["ab ab1<s>!", "ba</s>", "a<b>b 1 1"];
            for text in texts {
                let [a, b] = [&model, &plain].map(|m| m.tokenizer.encode(text, false).unwrap());
                assert_eq!(a, b, "{text}");
            }
            assert_eq!(model.prompt("ab").unwrap(), plain.prompt("ab").unwrap());
            assert_eq!(model.ends(), plain.ends());
        }
        let q8 = sizes[2];
        assert!(sizes[6] > q8 && q8 > sizes[0] && (width == 96 || sizes[4] < sizes[5]), "{sizes:?}");
    }
}

/// The numbers of a decoder, as far as a file keeps them.
fn numbers(model: &LanguageModel) -> DecoderConfig {
    let config = model.decoder.config().clone();
    DecoderConfig { norm_eps: f64::from(config.norm_eps as f32), ..config }
}

#[test]
fn a_file_becomes_another_and_keeps_what_is_packed_so() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path(), "llama", 256);
    let path = |name: &str| at.path().join(name);
    quietly(&Source::Model(at.path()), &path("q8.gguf"), Target::Q8_0);
    quietly(&Source::Model(&path("q8.gguf")), &path("again.gguf"), Target::Q8_0);
    let [one, two] = ["q8.gguf", "again.gguf"].map(|name| Gguf::open(&path(name)).unwrap());
    assert_eq!(one.metadata(), two.metadata());
    for (name, entry) in one.tensors() {
        assert_eq!(one.data(entry), two.data(&two.tensors()[name]), "{name}");
    }
    quietly(&Source::Model(&path("q8.gguf")), &path("q4.gguf"), Target::Q4K);
    assert!(apart(&logits(&open(&path("q4.gguf"))), &logits(&open(&path("q8.gguf")))) < 0.3);
    let types: Vec<_> = Gguf::open(&path("q4.gguf")).unwrap().tensors().values().map(|t| t.dtype).collect();
    let count = |wanted: candle_core::quantized::GgmlDType| types.iter().filter(|t| **t == wanted).count();
    use candle_core::quantized::GgmlDType::{F32, Q4K, Q6K};
    // Seven weights a layer and the embedding; the head; two norms a layer and the last.
    assert_eq!((count(Q4K), count(Q6K), count(F32)), (15, 1, 5));
}

#[test]
fn packed_files_compute_what_their_numbers_do() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path(), "llama", 256);
    let out = at.path().join("out.gguf");
    quietly(&Source::Model(at.path()), &out, Target::Q4K);
    let (model, file) = (open(&out), Arc::new(Gguf::open(&out).unwrap()));
    let config = model.decoder.config().clone();
    let weights = decoder_weights(&file, &config, DType::F32, &Device::Cpu).unwrap();
    if Instructions::best() == Instructions::Scalar {
        println!("left out: this processor multiplies unpacked weights");
        return;
    }
    assert!(weights.contains_tensor("model.layers.1.self_attn.q_proj.weight:q4_k"));
    assert!(!weights.contains_tensor("model.layers.1.self_attn.q_proj.weight:q4_0"));
    assert!(!weights.contains_tensor("model.norm.weight:q4_k"));
    let half = decoder_weights(&file, &config, DType::F16, &Device::Cpu).unwrap();
    assert!(!half.contains_tensor("model.layers.1.self_attn.q_proj.weight:q4_k"), "packed weights compute in f32");
    let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
    let tensors = embedding.iter().chain(&layers);
    let tensors: HashMap<String, Tensor> =
        tensors.map(|t| (t.name.clone(), weights.get(t.shape.as_slice(), &t.name).unwrap())).collect();
    let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
    let decoder = crate::model::Decoder::new(&config, vb, crate::model::Mode::Infer).unwrap();
    let plain =
        LanguageModel { decoder, tokenizer: model.tokenizer.clone(), template: None, drafted: None, adapter: None };
    let off = apart(&logits(&model), &logits(&plain));
    assert!(off > 1e-5 && off < 0.02, "{off}");
    // Of already packed numbers, packing again changes little.
    let again = unpacked(&tensors, crate::quantised::Format::Q8_0);
    assert!(again.contains_tensor("model.norm.weight"));
}

#[test]
fn weights_by_chance_have_the_tokenizer_of_a_model() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path(), "llama", 96);
    for target in [Target::Q4K, Target::Q8_0, Target::F16] {
        let out = at.path().join("random.gguf");
        let report = quietly(&Source::Random(at.path(), "tiny"), &out, target);
        let model = open(&out);
        let config = model.decoder.config();
        assert_eq!((config.vocab, config.width, config.layers, config.tied), (VOCAB, 256, 2, true));
        assert_eq!(report.numbers, model.decoder.parameters() + 5 * 256);
        let all = logits(&model);
        assert!(all.iter().all(|l| l.is_finite() && l.abs() < 20.0) && all.iter().any(|l| l.abs() > 0.1));
        assert_eq!(model.tokenizer.encode("ab1", false).unwrap(), [4, 6]);
    }
}

#[test]
fn what_has_no_place_in_a_file_is_named() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path(), "llama", 96);
    let out: PathBuf = at.path().join("out.gguf");
    let change = |file: &str, from: &str, to: &str| {
        let path = at.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = quantise(&Source::Model(at.path()), &out, Target::Q8_0, &mut |_, _| ()).unwrap_err();
        std::fs::write(&path, text).unwrap();
        assert!(!out.exists());
        error.to_string()
    };
    let error = change("tokenizer.json", "\"use_regex\":true", "\"use_regex\":false");
    assert!(error.contains("pre_tokenizer: expected that of GPT-2"), "{error}");
    assert!(change("tokenizer.json", "\"BPE\"", "\"Unigram\"").contains("type"));
    let llama3 = "\"rope_theta\":5000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\
                  \"high_freq_factor\":4.0,\"original_max_position_embeddings\":16}";
    let other = change("config.json", "\"rope_theta\":5000.0", &llama3.replace("llama3", "yarn"));
    assert!(other.contains("rope_type"), "{other}");
    let kind = "\"model_type\":\"qwen2\"";
    let qwen = change("config.json", "\"model_type\":\"llama\"", &llama3.replace("\"rope_theta\":5000.0", kind));
    assert!(qwen.contains("rope_scaling: expected none or linear") || qwen.contains("q_proj.bias"), "{qwen}");
    let biased = change("config.json", "\"hidden_act\"", "\"attention_bias\":true,\"hidden_act\"");
    assert!(biased.contains("biases") || biased.contains("q_proj.bias"), "{biased}");
    let nowhere = quantise(&Source::Model(at.path()), Path::new("/nowhere/x.gguf"), Target::F16, &mut |_, _| ());
    assert!(nowhere.unwrap_err().to_string().contains("/nowhere/x.gguf: can't be written"));
}
