//! What the targets share: good files to begin with, the loaders, and a watch on their memory.

#[path = "../../tests/tests/common/loaders.rs"]
mod loaders;
#[path = "../../tests/tests/common/seeds.rs"]
mod seeds;
#[path = "../../tests/tests/common/watch.rs"]
mod watch;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};
use watch::{PLAIN, TOKENIZER, Watched, justified, watch};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// A folder for inputs, below the system's for passing files: `TMPDIR` may say that it is in memory.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// What reads an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// `config.json`.
    Config,
    /// GGUF files of decoders.
    Gguf,
    /// `spotter.toml`.
    Manifest,
    /// GGUF files of what sees for a decoder.
    Mmproj,
    /// safetensors files.
    Safetensors,
    /// `tokenizer.json`.
    Tokenizer,
}

fn folder() -> &'static Path {
    FOLDER.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("spotter-fuzz-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        path
    })
}

impl Loader {
    /// Makes good files, sees that they are taken, and puts them into the folder that `SPOTTER_FUZZ_SEEDS` names.
    ///
    /// # Panics
    /// When one is refused or can't be written.
    pub fn begin(self) {
        // The library that reads tokenizers may panic, which is caught in the program; libfuzzer ends at a panic, caught or not.
        if self == Self::Tokenizer {
            std::panic::set_hook(Box::new(|_| {}));
        }
        let seeds = match self {
            Self::Config => seeds::configs(),
            Self::Gguf => seeds::gguf(),
            Self::Manifest => seeds::manifests(),
            Self::Mmproj => seeds::mmproj(folder()).2,
            Self::Safetensors => seeds::safetensors(folder()),
            Self::Tokenizer => seeds::tokenizers(),
        };
        let to = std::env::var_os("SPOTTER_FUZZ_SEEDS").map(PathBuf::from);
        for (i, seed) in seeds.iter().enumerate() {
            assert!(self.load(seed), "{self:?}: seed {i} is good");
            if let Some(to) = &to {
                fs::create_dir_all(to).and_then(|()| fs::write(to.join(format!("seed{i}")), seed)).expect("a seed");
            }
        }
    }

    /// Reads an input; ends the process where more memory is taken than it justifies.
    pub fn feed(self, bytes: &[u8]) {
        // Where a decoder is read, its tokenizer is.
        let fixed = if matches!(self, Self::Gguf | Self::Mmproj | Self::Tokenizer) { TOKENIZER } else { PLAIN };
        let (piece, all) = justified(fixed);
        let (_, memory) = watch(|| self.load(bytes));
        for (taken, most, how) in [(memory.piece, piece, "in one piece"), (memory.all, all, "at once")] {
            let most = most.by(bytes.len());
            if taken > most {
                eprintln!("{self:?}: {taken} bytes {how} for {} of the file, which justify {most}", bytes.len());
                std::process::abort();
            }
        }
    }

    fn load(self, bytes: &[u8]) -> bool {
        let put = |name: &str| {
            let path = folder().join(name);
            fs::write(&path, bytes).expect("bytes");
            path
        };
        match self {
            Self::Config => loaders::config(bytes),
            Self::Gguf => loaders::gguf(&put("model.gguf")),
            Self::Manifest => loaders::manifest(bytes),
            Self::Mmproj => {
                put("mmproj-a.gguf");
                loaders::folder(&folder().join("a.gguf"))
            }
            Self::Safetensors => {
                put("model.safetensors");
                loaders::safetensors(folder())
            }
            Self::Tokenizer => loaders::tokenizer(bytes),
        }
    }
}
