//! Broken files of every kind, thousands of them: each loader answers with a value or an error, without a panic and without
//! asking for more memory than the file justifies.
//!
//! `SPOTTER_FUZZ=1000000 cargo test --release --workspace --test fuzz -- --nocapture --test-threads=1` makes so many inputs
//! for each loader; without it a few thousand, for a second or two each. `SPOTTER_FUZZ_SEED=2` makes others. `fuzz/` has the same
//! loaders for cargo-fuzz.
#![expect(clippy::print_stdout, reason = "the counts are shown")]

use std::{fs, panic::RefUnwindSafe};

#[path = "common/fuzzing.rs"]
mod fuzzing;
#[path = "common/loaders.rs"]
mod loaders;
#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/watch.rs"]
mod watch;

use fuzzing::{Dice, Loader, folder};
use seeds::goldens;
use watch::{PLAIN, TOKENIZER, Watched, justified};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

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
    let (piece, all) = justified(fixed);
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

#[test]
fn gguf_files() {
    let folder = folder();
    let path = folder.path().join("model.gguf");
    feed("gguf", TOKENIZER, &seeds::gguf(), &|bytes| {
        fs::write(&path, bytes).unwrap();
        loaders::gguf(&path)
    });
}

/// What sees for a decoder, in a file of its own.
#[test]
fn projectors() {
    let folder = folder();
    let (decoder, mmproj, seeds) = seeds::mmproj(folder.path());
    feed("mmproj", TOKENIZER, &seeds, &|bytes| {
        fs::write(&mmproj, bytes).unwrap();
        loaders::folder(&decoder)
    });
}

#[test]
fn safetensors_headers() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    feed("safetensors", PLAIN, &seeds::safetensors(folder.path()), &|bytes| {
        fs::write(&path, bytes).unwrap();
        loaders::safetensors(folder.path())
    });
}

#[test]
fn configurations() {
    feed("config.json", PLAIN, &seeds::configs(), &loaders::config);
}

#[test]
fn tokenizers() {
    feed("tokenizer.json", TOKENIZER, &seeds::tokenizers(), &loaders::tokenizer);
}

#[test]
fn manifests() {
    feed("spotter.toml", PLAIN, &seeds::manifests(), &loaders::manifest);
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
        let good = fs::read(source.join(file)).unwrap();
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
