//! Which files make a LLaVA model: a decoder, and what sees for it, which llama.cpp calls `mmproj`, in the same folder.

use super::GgufError;
use std::path::{Path, PathBuf};

/// What the name of a file with a tower and a projector has in it.
const MMPROJ: &str = "mmproj";

/// The files of a LLaVA model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The language model.
    pub decoder: PathBuf,
    /// Tower and projector.
    pub mmproj: PathBuf,
}

/// Whether a path is a model of GGUF files: one of them, or a folder that has some and no other weights.
pub fn is_gguf(path: &Path) -> bool {
    if path.is_file() {
        return named_gguf(path);
    }
    let others = ["model.safetensors", "model.safetensors.index.json", "adapter_config.json"];
    !others.iter().any(|name| path.join(name).is_file()) && !files(path).is_empty()
}

/// Where the projector of a decoder is written, and looked for first.
pub fn mmproj_of(decoder: &Path) -> PathBuf {
    let name = decoder.file_name().unwrap_or_default().to_string_lossy();
    decoder.with_file_name(format!("{MMPROJ}-{name}"))
}

/// The files of a model: `path` is its decoder, or a folder with a decoder and a projector.
///
/// # Errors
/// None or several files that could be meant; they are named.
pub fn pair(path: &Path) -> Result<Pair, GgufError> {
    let failed = |problem: String| GgufError { path: path.to_owned(), problem };
    let folder = match path.parent() {
        _ if path.is_dir() => path,
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (projectors, decoders): (Vec<_>, Vec<_>) = files(folder).into_iter().partition(|file| is_mmproj(file));
    let decoder = match decoders.as_slice() {
        _ if path.is_file() && is_mmproj(path) => {
            let found = names(&decoders);
            return Err(failed(format!(
                "this is a projector: expected the decoder beside it, of which there are {found}"
            )));
        }
        _ if path.is_file() => path.to_owned(),
        [one] => one.clone(),
        [] => return Err(failed("expected a decoder beside the projector, found none".into())),
        several => return Err(failed(format!("expected one decoder, found {}: name the file", names(several)))),
    };
    let own = mmproj_of(&decoder);
    let mmproj = match projectors.as_slice() {
        several if several.contains(&own) => own,
        [one] => one.clone(),
        found => {
            let own = own.file_name().unwrap_or_default().to_string_lossy();
            return Err(failed(format!(
                "expected one file with `{MMPROJ}` in its name beside {}, with tower and projector, found {}; of several, {own} is \
                 taken",
                decoder.file_name().unwrap_or_default().to_string_lossy(),
                names(found)
            )));
        }
    };
    Ok(Pair { decoder, mmproj })
}

fn named_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

fn is_mmproj(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains(MMPROJ))
}

/// The GGUF files of a folder, by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> = entries.filter(|path| named_gguf(path) && path.is_file()).collect();
    all.sort();
    all
}

fn names(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy())).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
