//! Broken files of every kind, thousands of them: each loader answers with a value or an error, without a panic and without
//! asking for more memory than the file justifies.
//!
//! `SPOTTER_FUZZ=1000000 cargo test --release --workspace --test fuzz -- --nocapture --test-threads=1` makes so many inputs
//! for each loader; without it a few thousand, for a second or two each. `SPOTTER_FUZZ_SEED=2` makes others. `fuzz/` has the same
//! loaders for cargo-fuzz.
#![expect(clippy::print_stdout, reason = "the counts are shown")]

use spotter_engine::gguf;
use spotter_tests::goldens;
use std::{
    fs,
    panic::RefUnwindSafe,
    path::{Path, PathBuf},
};

#[path = "common/fuzzing.rs"]
mod fuzzing;
#[path = "common/loaders.rs"]
mod loaders;

use fuzzing::{Dice, Justified, Loader, Watched, folder};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Bytes in one piece and in all that a loader may take whatever is in its file: about twice what a million inputs showed.
const PLAIN: (usize, usize) = (128 << 10, 256 << 10);
/// A tokenizer has tables of a fixed size.
const TOKENIZER: (usize, usize) = (1 << 20, 3 << 19);
/// A whole folder takes as long as so many single files.
const FOLDER: usize = 50;

/// Numbers that are written over others.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "65536",
    "4294967295",
    "268435456",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
    "0.5",
];
/// Words that are written anywhere.
const WORDS: [&str; 14] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"llama\"",
    "\"hyperclovax\"",
    "\"llava_next\"",
    "\"siglip_vision_model\"",
    "\u{feff}",
    "\"full\"",
    "[[1,1]]",
    "\"BF16\"",
    "\"anyres_max_9\"",
];

/// Feeds a loader whose largest piece and sum may be `fixed` bytes each, and 16 and 64 times the file.
fn feed(name: &str, fixed: (usize, usize), seeds: &[Vec<u8>], load: &(dyn Fn(&[u8]) -> bool + RefUnwindSafe)) {
    feed_some(name, fixed, 1, seeds, load);
}

fn feed_some(
    name: &str,
    fixed: (usize, usize),
    weight: usize,
    seeds: &[Vec<u8>],
    load: &(dyn Fn(&[u8]) -> bool + RefUnwindSafe),
) {
    let (piece, all) = (Justified { fixed: fixed.0, times: 16 }, Justified { fixed: fixed.1, times: 64 });
    fuzzing::feed(&Loader { name, piece, all, weight, load }, seeds, mutated);
}

/// A seed with a few things wrong: in half of them only values, so that what reads the numbers sees them and not only the parser.
fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let values = std::str::from_utf8(seed).is_ok() && dice.below(2) == 0;
    for _ in 0..1 + dice.below(4) {
        if values { change_value(&mut bytes, dice) } else { change_bytes(&mut bytes, dice) }
    }
    bytes
}

/// Another value in the place of a number, a word or a text; or a line less, or twice.
fn change_value(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    if dice.below(4) == 0 {
        let start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| at + i + 1);
        let line = bytes[start..end].to_vec();
        bytes.splice(start..end, if dice.below(3) == 0 { line.repeat(2) } else { Vec::new() });
        return;
    }
    // Values come behind these in JSON and TOML.
    let Some(before) = (at..bytes.len()).find(|i| b":=[,".contains(&bytes[*i])) else { return };
    let Some(start) = (before + 1..bytes.len()).find(|i| !bytes[*i].is_ascii_whitespace()) else { return };
    let end = if bytes[start] == b'"' {
        (start + 1..bytes.len()).find(|i| bytes[*i] == b'"').map_or(bytes.len(), |i| i + 1)
    } else {
        (start..bytes.len()).find(|i| b",]}\n \r\t:[{\"".contains(&bytes[*i])).unwrap_or(bytes.len())
    };
    let value = if dice.below(2) == 0 { NUMBERS[dice.below(NUMBERS.len())] } else { WORDS[dice.below(WORDS.len())] };
    bytes.splice(start..end, value.bytes());
}

/// Anything at all, at any byte.
fn change_bytes(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(bytes.len() + 1);
    match dice.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
        1 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
        2 => bytes.truncate(at),
        3 => {
            let end = (at + dice.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + dice.below(256)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = dice.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        5 => {
            let word = WORDS[dice.below(WORDS.len())].bytes();
            bytes.splice(at..at, word);
        }
        6 => {
            // A number of eight bytes, as binary headers have them.
            let value: u64 = [0, 1, u64::MAX, 1 << 32, 1 << 62, 255][dice.below(6)];
            let end = (at + 8).min(bytes.len());
            bytes.splice(at..end, value.to_le_bytes());
        }
        _ => {
            // A number in digits.
            let Some(start) = (at..bytes.len()).find(|i| bytes[*i].is_ascii_digit()) else { return };
            let end = (start..bytes.len()).find(|i| !bytes[*i].is_ascii_digit()).unwrap_or(bytes.len());
            bytes.splice(start..end, NUMBERS[dice.below(NUMBERS.len())].bytes());
        }
    }
}

fn read(folder: &Path, file: &str) -> Vec<u8> {
    fs::read(folder.join(file)).unwrap()
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
        data.resize((data.len() + bytes).next_multiple_of(32), 0);
        tensors += 1;
    };
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

#[test]
fn gguf_files() {
    let folder = folder();
    let path = folder.path().join("model.gguf");
    feed("gguf", TOKENIZER, &[gguf_file(false), gguf_file(true)], &|bytes| {
        fs::write(&path, bytes).unwrap();
        loaders::gguf(&path)
    });
}

/// What sees for a decoder, in a file of its own.
#[test]
fn projectors() {
    let folder = folder();
    let decoder = folder.path().join("a.gguf");
    let source = goldens("siglip-qwen2");
    gguf::quantise(&gguf::Source::Model(&source), &decoder, gguf::Target::F16, &mut |_, _| ()).unwrap();
    let path = gguf::mmproj_of(&decoder);
    let seed = fs::read(&path).unwrap();
    feed("mmproj", PLAIN, &[seed], &|bytes| {
        fs::write(&path, bytes).unwrap();
        loaders::folder(&decoder)
    });
}

#[test]
fn safetensors_headers() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    // Headers with some of their data: the rest of a large file is never looked at.
    let small = |name: &str| {
        let tensors =
            candle_core::safetensors::load(goldens(name).join("model.safetensors"), &candle_core::Device::Cpu);
        let few = tensors.unwrap().into_iter().filter(|(name, _)| name.contains("norm"));
        let file = folder.path().join("seed");
        candle_core::safetensors::save(&few.collect(), &file).unwrap();
        fs::read(file).unwrap()
    };
    feed("safetensors", PLAIN, &[small("clip-llama"), small("hyperclovax")], &|bytes| {
        fs::write(&path, bytes).unwrap();
        loaders::safetensors(folder.path())
    });
}

#[test]
fn configurations() {
    let seeds: Vec<Vec<u8>> =
        ["clip-llama", "siglip-qwen2", "next-mistral", "onevision", "seed-vision", "hyperclovax", "seed-text"]
            .iter()
            .map(|name| read(&goldens(name), "config.json"))
            .chain([read(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini"), "config.json")])
            .collect();
    feed("config.json", PLAIN, &seeds, &loaders::config);
}

#[test]
fn tokenizers() {
    let seeds: Vec<Vec<u8>> =
        ["clip-llama", "siglip-qwen2", "seed-vision"].iter().map(|n| read(&goldens(n), "tokenizer.json")).collect();
    feed("tokenizer.json", TOKENIZER, &seeds, &loaders::tokenizer);
}

#[test]
fn manifests() {
    let mini = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let asked = b"frame_rate = 1.0\ncontext = 2048\n[vision]\npooling = { average = 4 }\n[speaking]\nkind = \"verbalisers\"\n\
                  question = \"?\"\nspeak = [\"Yes\"]\nsilent = [\"No\"]\nlead = \"L\"\n[prompt]\nen = \"a {exercise}\"\n\
                  en_unnamed = \"b\"\nko = \"c\"\nko_unnamed = \"d\"\n[cache]\npolicy = \"caote(h2o)\"\nbudget = 99\n\
                  [speculation]\ndrafter = \"ngram\"\nmethod = \"rsd-s(3,3)\"\n";
    feed("spotter.toml", PLAIN, &[read(&mini, "spotter.toml"), asked.to_vec()], &loaders::manifest);
}

/// Whole folders with one broken file.
#[test]
fn folders() {
    let folder = folder();
    let source = goldens("seed-vision");
    let files =
        ["config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json", "chat_template.jinja"];
    let all = files.iter().copied().chain(["model.safetensors", "tokenizer_config.json"]);
    for file in all {
        fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    for file in files {
        let good = read(&source, file);
        feed_some(&format!("a folder's {file}"), TOKENIZER, FOLDER, std::slice::from_ref(&good), &|bytes| {
            fs::write(folder.path().join(file), bytes).unwrap();
            loaders::folder(folder.path())
        });
        fs::write(folder.path().join(file), good).unwrap();
    }
}

/// What a loader does wrong is found, and its input kept.
#[test]
fn planted_mistakes_are_found() {
    let seed = b"{\"layers\": 24, \"width\": 576}".to_vec();
    let number = |bytes: &[u8]| {
        let digits: String = bytes
            .iter()
            .skip_while(|b| !b.is_ascii_digit())
            .take_while(|b| b.is_ascii_digit())
            .map(|b| char::from(*b))
            .collect();
        digits.parse::<usize>().unwrap_or(0).min(1 << 22)
    };
    type Bad<'a> = (&'a str, &'a (dyn Fn(&[u8]) -> bool + RefUnwindSafe));
    let bad: [Bad<'_>; 3] = [
        ("a panic: index out of bounds", &|bytes| number(bytes) < 70_000 || bytes[bytes.len()] > 0),
        ("in one piece", &|bytes| std::hint::black_box(vec![1u8; number(bytes)]).len() > 1),
        ("at once", &|bytes| {
            let pieces: Vec<_> = (0..number(bytes) >> 12).map(|_| vec![1u8; 1 << 12]).collect();
            std::hint::black_box(pieces).len() < 1 << 22
        }),
    ];
    for (said, load) in bad {
        let found = std::panic::catch_unwind(|| feed("a planted mistake", PLAIN, std::slice::from_ref(&seed), load));
        let found = found.err().and_then(|why| why.downcast_ref::<String>().cloned()).unwrap_or_default();
        assert!(found.contains(said), "`{said}` expected: {found:?}");
        let kept = std::env::temp_dir().join("spotter-fuzz-a planted mistake");
        assert!(fs::read(&kept).is_ok_and(|input| number(&input) >= 70_000));
        fs::remove_file(kept).unwrap();
    }
}
