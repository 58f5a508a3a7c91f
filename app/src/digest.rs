//! SHA-256 of files: what a run was made of.

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use spotter_engine::gguf;
use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// A digest in the making; parts are told apart by their names and lengths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest(Sha256);

impl Digest {
    /// Some bytes under a name.
    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.head(name, bytes.len() as u64);
        self.0.update(bytes);
    }

    /// The content of a file under a name; where it lies does not count.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let failed = || format!("{}: can't be read", path.display());
        let mut file = File::open(path).with_context(failed)?;
        self.head(name, file.metadata().with_context(failed)?.len());
        let mut block = vec![0; BLOCK];
        loop {
            let n = file.read(&mut block).with_context(failed)?;
            if n == 0 {
                return Ok(());
            }
            self.0.update(block.get(..n).unwrap_or_default());
        }
    }

    /// All files of a model: those with the endings of configuration and weights, by name. A file is taken as it is.
    ///
    /// # Errors
    /// One of them can't be read.
    pub(crate) fn model(&mut self, path: &Path) -> Result<()> {
        if path.is_file() {
            self.file("model", path)?;
            // Of a LLaVA model of two GGUF files, the other one.
            return match gguf::pair(path) {
                Ok(pair) => self.file("mmproj", &pair.mmproj),
                Err(_) => Ok(()),
            };
        }
        let failed = || format!("{}: can't be read", path.display());
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(path).with_context(failed)? {
            let file = entry.with_context(failed)?.path();
            let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if file.is_file() && ["json", "toml", "safetensors", "gguf"].contains(&ending) {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.file(&name, &file)?;
        }
        Ok(())
    }

    fn head(&mut self, name: &str, length: u64) {
        for number in [name.len() as u64, length] {
            self.0.update(number.to_le_bytes());
        }
        self.0.update(name.as_bytes());
    }

    /// The first 16 digits: enough to tell runs apart, short enough to be read.
    pub(crate) fn brief(self) -> String {
        let mut hex = hex(self.0);
        hex.truncate(16);
        hex
    }
}

/// SHA-256 of some bytes in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// SHA-256 of a file in hexadecimal digits.
///
/// # Errors
/// It can't be read.
pub(crate) fn sha256_of(path: &Path) -> Result<String> {
    let failed = || format!("{}: can't be read", path.display());
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path).with_context(failed)?, &mut hash).with_context(failed)?;
    Ok(hex(hash))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_hash_of_abc() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn content_and_name_count_and_the_place_does_not() {
        let of = |bytes: &[u8], name: &str| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), bytes).unwrap();
            std::fs::write(folder.path().join("README.md"), b"about it").unwrap();
            let mut digest = Digest::default();
            digest.model(folder.path()).unwrap();
            digest.brief()
        };
        assert_eq!(of(b"1", "a.json"), of(b"1", "a.json"));
        // Of one size, as weights of a training run are.
        assert_ne!(of(b"1", "a.json"), of(b"2", "a.json"));
        assert_ne!(of(b"1", "a.json"), of(b"1", "b.json"));
        assert!(Digest::default().model(Path::new("/nowhere")).is_err());
    }
}
