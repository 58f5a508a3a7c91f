//! Good files of every kind, of which broken ones are made: by `tests/tests/fuzz.rs`, and by cargo-fuzz, which would never find its
//! way past a header from nothing.
#![allow(dead_code, reason = "not all who read this need all of it")]

use spotter_engine::gguf;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of a tiny checkpoint.
pub(crate) fn goldens(name: &str) -> PathBuf {
    root().join("tests/parity/goldens").join(name)
}

/// Of the repository, whose folders `tests` and `fuzz` hold the crates that this is part of.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    fs::read(folder.join(file)).unwrap()
}

/// GGUF files of decoders, with both kinds of tokenizers; one has factors of its rotations.
pub(crate) fn gguf() -> Vec<Vec<u8>> {
    vec![gguf_file(false), gguf_file(true)]
}

/// A decoder in a folder, the path of its projector, and projectors for it: of one view, and of tiles.
pub(crate) fn mmproj(folder: &Path) -> (PathBuf, PathBuf, Vec<Vec<u8>>) {
    let decoder = folder.join("a.gguf");
    let mmproj = gguf::mmproj_of(&decoder);
    let seeds = ["next-vicuna", "siglip-qwen2"].map(|name| {
        let source = goldens(name);
        let _ = fs::remove_file(&mmproj);
        gguf::quantise(&gguf::Source::Model(&source), &decoder, gguf::Target::F16, &mut |_, _| ()).unwrap();
        fs::read(&mmproj).unwrap()
    });
    (decoder, mmproj, seeds.to_vec())
}

/// Headers with some of their data: the rest of a large file is never looked at. Made in `folder`.
pub(crate) fn safetensors(folder: &Path) -> Vec<Vec<u8>> {
    let small = |name: &str| {
        let tensors =
            candle_core::safetensors::load(goldens(name).join("model.safetensors"), &candle_core::Device::Cpu);
        let few = tensors.unwrap().into_iter().filter(|(name, _)| name.contains("norm"));
        let file = folder.join("seed");
        candle_core::safetensors::save(&few.collect(), &file).unwrap();
        fs::read(file).unwrap()
    };
    vec![small("clip-llama"), small("hyperclovax")]
}

/// `config.json` of all kinds of models.
pub(crate) fn configs() -> Vec<Vec<u8>> {
    let names = ["clip-llama", "siglip-qwen2", "next-mistral", "onevision", "seed-vision", "hyperclovax", "seed-text"];
    let folders = names.map(goldens).into_iter().chain([root().join("assets/spotter-mini")]);
    folders.map(|folder| read(&folder, "config.json")).collect()
}

/// `tokenizer.json`.
pub(crate) fn tokenizers() -> Vec<Vec<u8>> {
    ["clip-llama", "siglip-qwen2", "seed-vision"].map(|name| read(&goldens(name), "tokenizer.json")).to_vec()
}

/// `spotter.toml`.
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let asked = b"frame_rate = 1.0\ncontext = 2048\n[vision]\npooling = { average = 4 }\n[speaking]\nkind = \"verbalisers\"\n\
                  question = \"?\"\nspeak = [\"Yes\"]\nsilent = [\"No\"]\nlead = \"L\"\n[prompt]\nen = \"a {exercise}\"\n\
                  en_unnamed = \"b\"\nko = \"c\"\nko_unnamed = \"d\"\n[cache]\npolicy = \"caote(h2o)\"\nbudget = 99\n\
                  [speculation]\ndrafter = \"ngram\"\nmethod = \"rsd-s(3,3)\"\n";
    vec![read(&root().join("assets/spotter-mini"), "spotter.toml"), asked.to_vec()]
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

fn of_text(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, value);
    out
}

fn texts(values: &[&str]) -> Vec<u8> {
    let mut out = 8u32.to_le_bytes().to_vec();
    out.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|v| text(&mut out, v));
    out
}

/// A small GGUF file: a decoder of one layer in f32 and Q8_0, and a tokenizer, SentencePiece's or GPT-2's.
fn gguf_file(spm: bool) -> Vec<u8> {
    let (mut keys, mut count) = (Vec::new(), 0u64);
    let mut key = |name: &str, kind: u32, value: &[u8]| {
        text(&mut keys, name);
        keys.extend(kind.to_le_bytes());
        keys.extend(value);
        count += 1;
    };
    key("general.architecture", 8, &of_text("llama"));
    for (name, value) in [
        ("embedding_length", 32u32),
        ("attention.head_count", 2),
        ("feed_forward_length", 32),
        ("block_count", 1),
        ("context_length", 64),
    ] {
        key(&format!("llama.{name}"), 4, &value.to_le_bytes());
    }
    key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    if spm {
        let scores = [0f32, -2.0, -3.0, -1.0];
        let list = |kind: u32, values: [[u8; 4]; 4]| {
            [&kind.to_le_bytes()[..], &4u64.to_le_bytes(), values.as_flattened()].concat()
        };
        key("tokenizer.ggml.model", 8, &of_text("llama"));
        key("tokenizer.ggml.tokens", 9, &texts(&["<unk>", "a", "b", "ab"]));
        key("tokenizer.ggml.scores", 9, &list(6, scores.map(f32::to_le_bytes)));
        key("tokenizer.ggml.token_type", 9, &list(5, [2i32, 1, 1, 1].map(i32::to_le_bytes)));
    } else {
        key("tokenizer.ggml.model", 8, &of_text("gpt2"));
        key("tokenizer.ggml.pre", 8, &of_text("smollm"));
        key("tokenizer.ggml.tokens", 9, &texts(&["a", "b", "ab", "c"]));
        key("tokenizer.ggml.merges", 9, &texts(&["a b"]));
    }
    let (mut directory, mut data, mut tensors) = (Vec::new(), Vec::<u8>::new(), 0u64);
    let mut tensor = |name: &str, dims: &[u64], packed: bool| {
        text(&mut directory, name);
        directory.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| directory.extend(d.to_le_bytes()));
        directory.extend((if packed { 8u32 } else { 0 }).to_le_bytes());
        directory.extend((data.len() as u64).to_le_bytes());
        let numbers = dims.iter().product::<u64>() as usize;
        let bytes = if packed { numbers / 32 * 34 } else { numbers * 4 };
        // Ones, or nothing where they are packed.
        let one = if packed { [0; 4] } else { 1f32.to_le_bytes() };
        data.extend(one.into_iter().cycle().take(bytes));
        data.resize(data.len().next_multiple_of(32), 0);
        tensors += 1;
    };
    if spm {
        tensor("rope_freqs.weight", &[8], false);
    }
    tensor("token_embd.weight", &[32, 4], false);
    tensor("output_norm.weight", &[32], false);
    for (name, dims) in [("attn_norm", &[32u64][..]), ("ffn_norm", &[32])] {
        tensor(&format!("blk.0.{name}.weight"), dims, false);
    }
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        tensor(&format!("blk.0.{name}.weight"), &[32, 32], true);
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(tensors.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(keys);
    out.extend(directory);
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
