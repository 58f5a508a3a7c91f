//! A file written here, byte by byte, against the decoder it was made of; and files that are broken.

use super::*;
use crate::model::{
    DecoderConfig, DecoderKind, HfDecoderConfig, LanguageModel, Mode, decoder::Decoder, rope::RopeScaling,
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// Writes GGUF version 3.
#[derive(Default)]
struct Writer {
    keys: Vec<u8>,
    key_count: u64,
    directory: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

impl Writer {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.key_count += 1;
        text(&mut self.keys, key);
        self.keys.extend(kind.to_le_bytes());
        &mut self.keys
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4).extend(value.to_le_bytes());
    }

    fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6).extend(value.to_le_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        text(self.key(key, 8), value);
    }

    fn texts(&mut self, key: &str, values: &[&str]) {
        let out = self.key(key, 9);
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|v| text(out, v));
    }

    fn numbers(&mut self, key: &str, values: &[i32]) {
        let out = self.key(key, 9);
        out.extend(5u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }

    fn tensor(&mut self, name: &str, value: &Tensor) {
        self.tensor_count += 1;
        text(&mut self.directory, name);
        self.directory.extend((value.rank() as u32).to_le_bytes());
        value.dims().iter().rev().for_each(|d| self.directory.extend((*d as u64).to_le_bytes()));
        self.directory.extend(0u32.to_le_bytes());
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.directory.extend((self.data.len() as u64).to_le_bytes());
        for v in value.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            self.data.extend(v.to_le_bytes());
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(self.tensor_count.to_le_bytes());
        out.extend(self.key_count.to_le_bytes());
        out.extend(&self.keys);
        out.extend(&self.directory);
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }
}

fn config() -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some("llama".into()),
        vocab_size: Some(8),
        hidden_size: Some(16),
        intermediate_size: Some(24),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        max_position_embeddings: Some(64),
        rms_norm_eps: Some(1e-5),
        rope_theta: Some(5000.0),
        bos_token_id: Some(0),
        ..HfDecoderConfig::default()
    };
    // A GGUF file keeps this one in 32 bits.
    DecoderConfig { eos: vec![1], norm_eps: f64::from(1e-5f32), ..DecoderConfig::from_hf(&hf, "").unwrap() }
}

/// Random weights by their names in a checkpoint.
fn weights(config: &DecoderConfig) -> HashMap<String, Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (embedding, layers) = crate::model::plan::decoder_tensors(config, "model.", "lm_head.");
    let random = |spec: spotter_vision::encoder::TensorSpec| {
        let n: usize = spec.shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| rng.random_range(-0.5..0.5)).collect();
        (spec.name, Tensor::from_vec(values, spec.shape, &Device::Cpu).unwrap())
    };
    embedding.into_iter().chain(layers).map(random).collect()
}

/// The order that llama.cpp's converter puts the rows of a head in: `a0 b0 a1 b1 ..`.
fn neighbours(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, width) = weight.dims2().unwrap();
    let apart = weight.reshape((heads, 2, rows / heads / 2, width)).unwrap();
    apart.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, width)).unwrap()
}

fn written(config: &DecoderConfig, weights: &HashMap<String, Tensor>) -> Writer {
    let mut file = Writer::default();
    file.text("general.architecture", "llama");
    for (key, value) in [
        ("embedding_length", config.width),
        ("feed_forward_length", config.mlp_width),
        ("block_count", config.layers),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("context_length", config.max_positions),
    ] {
        file.number(&format!("llama.{key}"), value as u32);
    }
    file.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    file.float("llama.rope.freq_base", 5000.0);
    file.number("tokenizer.ggml.bos_token_id", 0);
    file.number("tokenizer.ggml.eos_token_id", 1);
    file.text("tokenizer.ggml.model", "gpt2");
    file.text("tokenizer.ggml.pre", "smollm");
    file.texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "Ġ", "1", "Ġab"]);
    file.numbers("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1, 1, 1]);
    file.texts("tokenizer.ggml.merges", &["a b", "Ġ ab"]);
    let name = |name: &str| {
        let name = name.strip_prefix("model.").unwrap_or(name).replace("self_attn.", "attn_").replace("mlp.", "ffn_");
        name.replace("layers.", "blk.")
            .replace("_proj", "")
            .replace("attn_o.", "attn_output.")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("embed_tokens", "token_embd")
            .replace("lm_head", "output")
    };
    for (full, tensor) in weights {
        let short = if full == "model.norm.weight" { "output_norm.weight".to_owned() } else { name(full) };
        let tensor = match short.rsplit('.').nth(1) {
            Some("attn_q") => neighbours(tensor, config.heads),
            Some("attn_k") => neighbours(tensor, config.kv_heads),
            _ => tensor.clone(),
        };
        file.tensor(&short, &tensor);
    }
    file
}

fn saved(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn logits(d: &Decoder, ids: &[u32]) -> Vec<f32> {
    let x = d.embed(&Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
    d.logits(&d.forward(&x, None).unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_file_says_what_its_checkpoint_says() {
    let (config, ids) = (config(), [2u32, 3, 4, 7, 5, 6]);
    let weights = weights(&config);
    let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let plain = Decoder::new(&config, vb, Mode::Infer).unwrap();
    let (_folder, path) = saved(&written(&config, &weights).bytes());
    let model = LanguageModel::open(&path, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(model.decoder.config(), &config);
    assert_eq!(config.kind, DecoderKind::Llama);
    assert_eq!(logits(&plain, &ids), logits(&model.decoder, &ids));
    assert_eq!(model.tokenizer.encode("ab ab1<s>", false).unwrap(), [4, 7, 6, 0]);
    assert_eq!(model.tokenizer.decode(&[4, 7, 6]).unwrap(), "ab ab1");
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let config = config();
    let weights = weights(&config);
    let open = |file: &Writer| {
        let (_folder, path) = saved(&file.bytes());
        LanguageModel::open(&path, DType::F32, &Device::Cpu).map(|_| ()).unwrap_err().to_string()
    };
    let mut less = weights.clone();
    less.remove("model.layers.1.mlp.up_proj.weight");
    assert!(open(&written(&config, &less)).contains("blk.1.ffn_up.weight: expected shape [24, 16]"));
    let mut wrong = weights.clone();
    wrong.insert("model.norm.weight".into(), Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap());
    assert!(open(&written(&config, &wrong)).contains("output_norm.weight: expected shape [16], found [8]"));
    let mut other = Writer::default();
    other.text("general.architecture", "mamba");
    assert!(open(&other).contains("expected llama or qwen2, found `mamba`"));
    let (_folder, path) = saved(b"{\"no\": 1}");
    let error = Gguf::open(&path).unwrap_err().to_string();
    assert!(error.contains("begins with other bytes"), "{error}");
    let whole = written(&config, &weights).bytes();
    let (_folder, path) = saved(&whole[..whole.len() - 64]);
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("beyond the end of the file"));
    let (_folder, path) = saved(&whole[..200]);
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("the file"));
    // A name, the number of its sides, one side and the type stand before an offset.
    let mut askew = whole.clone();
    let name = whole.windows(18).position(|bytes| bytes == b"output_norm.weight").unwrap();
    askew[name + 18 + 4 + 8 + 4] += 4;
    let (_folder, path) = saved(&askew);
    let error = Gguf::open(&path).unwrap_err().to_string();
    assert!(error.contains("tensor output_norm.weight: expected an offset that 32 divides, found"), "{error}");
    let mut close = written(&config, &weights);
    close.number("general.alignment", 4);
    assert!(open(&close).contains("general.alignment: expected a power of two from 8 on, found Integer(4)"));
    let missing = LanguageModel::open(std::path::Path::new("/nowhere.gguf"), DType::F32, &Device::Cpu);
    assert!(missing.map(|_| ()).unwrap_err().to_string().contains("/nowhere.gguf is missing"));
}

/// Positions of Llama 3.1 and later, and of files that are stretched by one number.
#[test]
fn stretched_rotations_are_read() {
    let (config, ids) = (config(), [2u32, 3, 4, 7, 5, 6]);
    let weights = weights(&config);
    let stretched = |scaling: RopeScaling| {
        let config = DecoderConfig { rope_scaling: scaling, ..config.clone() };
        let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
        logits(&Decoder::new(&config, vb, Mode::Infer).unwrap(), &ids)
    };
    let read = |file: &Writer| {
        let (_folder, path) = saved(&file.bytes());
        logits(&LanguageModel::open(&path, DType::F32, &Device::Cpu).unwrap().decoder, &ids)
    };
    let mut own = written(&config, &weights);
    own.tensor("rope_freqs.weight", &Tensor::new(&[1f32, 3.5], &Device::Cpu).unwrap());
    let plain = stretched(RopeScaling::None);
    assert_eq!(read(&own), stretched(RopeScaling::Factors(vec![1.0, 3.5])));
    assert_ne!(read(&own), plain);
    let mut linear = written(&config, &weights);
    linear.float("llama.rope.scaling.factor", 2.0);
    assert_eq!(read(&linear), stretched(RopeScaling::Linear(2.0)));
    linear.text("llama.rope.scaling.type", "none");
    assert_eq!(read(&linear), plain);
}

#[test]
fn rotations_that_are_not_read_are_named() {
    let config = config();
    let weights = weights(&config);
    let refused = |change: &dyn Fn(&mut Writer)| {
        let mut file = written(&config, &weights);
        change(&mut file);
        let (_folder, path) = saved(&file.bytes());
        LanguageModel::open(&path, DType::F32, &Device::Cpu).map(|_| ()).unwrap_err().to_string()
    };
    let factors =
        |values: &[f32]| refused(&|file| file.tensor("rope_freqs.weight", &Tensor::new(values, &Device::Cpu).unwrap()));
    let expected = "tensor rope_freqs.weight: expected 2 numbers in f32, half of a head's, found F32 of shape [3]";
    assert!(factors(&[1.0, 1.0, 1.0]).contains(expected));
    for (wrong, found) in
        [(0.0, "0"), (-8.0, "-8"), (f32::NAN, "NaN"), (f32::INFINITY, "inf"), (1e-20, "0.00000000000000000001")]
    {
        let error = factors(&[1.0, wrong]);
        assert!(error.contains(&format!("expected numbers from 1e-6 on, found {found} at place 1")), "{error}");
    }
    let both = refused(&|file| {
        file.tensor("rope_freqs.weight", &Tensor::new(&[1f32, 8.0], &Device::Cpu).unwrap());
        file.float("llama.rope.scaling.factor", 4.0);
    });
    assert!(both.contains("llama.rope.scaling.factor: expected none beside the tensor rope_freqs.weight"), "{both}");
    let yarn = refused(&|file| file.text("llama.rope.scaling.type", "yarn"));
    assert!(yarn.contains("llama.rope.scaling.type: expected none or linear, found `yarn`"), "{yarn}");
    let part = refused(&|file| file.number("llama.rope.dimension_count", 2));
    assert!(part.contains("llama.rope.dimension_count: expected 4, all of a head's numbers, found 2"), "{part}");
}

#[test]
fn mangled_headers_are_errors_and_never_panic() {
    let config = config();
    let good = written(&config, &weights(&config)).bytes();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let (mut refused, header) = (0, good.len() / 3);
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..header);
            match rng.random_range(0..3) {
                0 => bad[at] = rng.random(),
                1 => bad[at] = 0xFF,
                _ => bad.truncate(at.max(1)),
            }
            if bad.len() <= header {
                break;
            }
        }
        refused += usize::from(read::parse(&bad).is_err());
    }
    assert!(refused > 5_000, "{refused}");
}
