//! Broken files of every kind, thousands of them: each loader answers with a value or an error, without a panic and without
//! asking for more memory than the file justifies.
//!
//! `SPOTTER_FUZZ=1000000 cargo test --release --workspace --test fuzz -- --nocapture` makes so many inputs for each loader;
//! without it a few thousand, for a second or two each. `fuzz/` has the same loaders for cargo-fuzz.
#![expect(clippy::print_stdout, reason = "the counts are shown")]

use spotter_engine::{
    coach::manifest::Manifest,
    gguf::{self, Gguf},
    model::{
        DecoderConfig, HfDecoderConfig, Plan,
        connector::Connector,
        llava_config::{HfLlavaConfig, LlavaConfig},
        plan::decoder_tensors,
        projector::VisionManifest,
    },
    prompt::{ChatTemplate, Message},
    tokenizer::Tokenizer,
    weights::{Checkpoint, read_header},
};
use spotter_tests::goldens;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Remembers the largest piece of memory that a thread asked for.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Without a wish, at most so many inputs, for at most so long.
const INPUTS: usize = 20_000;
const TIME: Duration = Duration::from_millis(1500);
/// A piece of memory may be this many bytes, and this many times the file's.
const JUSTIFIED: (usize, usize) = (2 << 20, 64);

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

/// Numbers by chance, the same in every run.
struct Dice(u64);

impl Dice {
    /// From 0 to below `n`.
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// A seed with a few things wrong.
fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + dice.below(4) {
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
                let Some(start) = (at..bytes.len()).find(|i| bytes[*i].is_ascii_digit()) else { continue };
                let end = (start..bytes.len()).find(|i| !bytes[*i].is_ascii_digit()).unwrap_or(bytes.len());
                bytes.splice(start..end, NUMBERS[dice.below(NUMBERS.len())].bytes());
            }
        }
    }
    bytes
}

/// Feeds a loader; it says whether it took the input.
fn feed(name: &str, seeds: &[Vec<u8>], load: &(dyn Fn(&[u8]) -> bool + std::panic::RefUnwindSafe)) {
    // The library behind tokenizers panics at some files, which the loader catches; a trace of each would take seconds.
    std::panic::set_hook(Box::new(|info| println!("{info}")));
    let wished = std::env::var("SPOTTER_FUZZ").ok().and_then(|n| n.parse::<usize>().ok());
    let mut dice = Dice(0x9e37_79b9 + name.len() as u64);
    let (begun, mut inputs, mut taken, mut most) = (Instant::now(), 0usize, 0usize, 0usize);
    assert!(seeds.iter().all(|seed| load(seed)), "{name}: the seeds are good");
    while inputs < wished.unwrap_or(INPUTS) && (wished.is_some() || begun.elapsed() < TIME) {
        let input = mutated(&seeds[dice.below(seeds.len())], &mut dice);
        LARGEST.with(|largest| largest.set(0));
        let result = catch_unwind(|| load(&input));
        let largest = LARGEST.with(Cell::get);
        let keep = |why: &str| -> ! {
            let path = std::env::temp_dir().join(format!("spotter-fuzz-{name}"));
            fs::write(&path, &input).unwrap();
            panic!("{name}: input {inputs}: {why}; it is in {}", path.display());
        };
        match result {
            Ok(fine) => taken += usize::from(fine),
            Err(_) => keep("a panic"),
        }
        if largest > JUSTIFIED.0 + JUSTIFIED.1 * input.len() {
            keep(&format!("{largest} bytes of memory for {} of the file", input.len()));
        }
        (inputs, most) = (inputs + 1, most.max(largest));
    }
    println!("{name:<16} {inputs:>9} inputs, {taken:>7} taken, at most {:>5} KiB at once", most >> 10);
    assert!(inputs > 20, "{name}: too slow to find anything");
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

/// A small GGUF file: a decoder of one layer in f32 and Q8_0, and a tokenizer.
fn gguf_file() -> Vec<u8> {
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
    key("tokenizer.ggml.model", 8, &of_text("gpt2"));
    key("tokenizer.ggml.pre", 8, &of_text("smollm"));
    key("tokenizer.ggml.tokens", 9, &texts(&["a", "b", "ab", "c"]));
    key("tokenizer.ggml.merges", 9, &texts(&["a b"]));
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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    feed("gguf", &[gguf_file()], &|bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(file) = Gguf::open(&path) else { return false };
        let tokenizer = gguf::tokenizer(&file);
        let Ok(config) = gguf::decoder_config(&file) else { return false };
        let (dtype, device) = (candle_core::DType::F32, candle_core::Device::Cpu);
        let Ok(weights) = gguf::decoder_weights(&std::sync::Arc::new(file), &config, dtype, &device) else {
            return false;
        };
        let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
        embedding.iter().chain(&layers).all(|t| weights.get(t.shape.as_slice(), &t.name).is_ok()) && tokenizer.is_ok()
    });
}

#[test]
fn safetensors_headers() {
    let folder = tempfile::tempdir().unwrap();
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
    feed("safetensors", &[small("clip-llama"), small("hyperclovax")], &|bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(header) = read_header(&path) else { return false };
        let sizes = header.values().map(|info| info.elements()).max();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let weights = checkpoint.var_builder(candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        for (name, info) in header.iter().take(4) {
            let _ = weights.get(info.shape.as_slice(), name);
        }
        sizes.is_some()
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
    feed("config.json", &seeds, &|bytes| {
        let text = serde_json::from_slice::<HfDecoderConfig>(bytes).ok();
        let text = text.and_then(|hf| DecoderConfig::from_hf(&hf, "").ok());
        let decoder = text.inspect(|cfg| drop(decoder_tensors(cfg, "model.", "lm_head."))).is_some();
        let llava = serde_json::from_slice::<HfLlavaConfig>(bytes).ok();
        let Some(config) = llava.and_then(|hf| LlavaConfig::from_hf(&hf).ok()) else { return decoder };
        let vision = VisionManifest::default();
        let specs = config.vision.tensors(config.vision_depth, "v.").len()
            + Connector::tensors(&config.connector, &vision, config.vision.hidden_size(), config.text.width, "p").len()
            + decoder_tensors(&config.text, "m.", "h.").1.len();
        let tokens = config.tiling.map_or(1, |tiling| tiling.tokens((640, 3), 5));
        specs > 0 && tokens > 0
    });
}

#[test]
fn tokenizers() {
    let seeds: Vec<Vec<u8>> =
        ["clip-llama", "siglip-qwen2", "seed-vision"].iter().map(|n| read(&goldens(n), "tokenizer.json")).collect();
    feed("tokenizer.json", &seeds, &|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(tokenizer) = Tokenizer::from_json(text) else { return false };
        let _ = tokenizer.check(288, Some(3));
        let Ok(ids) = tokenizer.encode("Bend 무릎 12 <image>", true) else { return true };
        tokenizer.decode(&ids).is_ok() || !ids.is_empty()
    });
}

#[test]
fn manifests() {
    let mini = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let asked = b"frame_rate = 1.0\ncontext = 2048\n[vision]\npooling = { average = 4 }\n[speaking]\nkind = \"verbalisers\"\n\
                  question = \"?\"\nspeak = [\"Yes\"]\nsilent = [\"No\"]\nlead = \"L\"\n[prompt]\nen = \"a {exercise}\"\n\
                  en_unnamed = \"b\"\nko = \"c\"\nko_unnamed = \"d\"\n[cache]\npolicy = \"caote(h2o)\"\nbudget = 99\n\
                  [speculation]\ndrafter = \"ngram\"\nmethod = \"rsd-s(3,3)\"\n";
    feed("spotter.toml", &[read(&mini, "spotter.toml"), asked.to_vec()], &|bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| Manifest::parse(text).is_ok())
    });
}

/// Whole folders with one broken file.
#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    let source = goldens("seed-vision");
    let files =
        ["config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json", "chat_template.jinja"];
    let all = files.iter().copied().chain(["model.safetensors", "tokenizer_config.json"]);
    for file in all {
        fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    for file in files {
        let good = read(&source, file);
        feed(file, std::slice::from_ref(&good), &|bytes| {
            fs::write(folder.path().join(file), bytes).unwrap();
            let Ok(plan) = Plan::open(folder.path()) else { return false };
            let template = plan.template();
            template.is_ok_and(|t: ChatTemplate| t.render(&[Message::with_image("?")], true).is_ok())
        });
        fs::write(folder.path().join(file), good).unwrap();
    }
}
