//! A checkpoint on disk: what lies in it, checked against what a model needs before anything is allocated for it.
//!
//! Weights are safetensors, in one file or in shards with an index, mapped and not copied. A LoRA adapter is merged into
//! them as they are loaded.

mod adapter;
mod error;
mod header;
mod mapped;

pub use adapter::{BASE, file_of};
pub use error::WeightsError;
pub use header::{TensorInfo, read_header};

use crate::{
    gguf::{self, Gguf},
    model::memory::Place,
};
use adapter::Adapter;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use mapped::Mapped;
use serde::de::DeserializeOwned;
use spotter_vision::encoder::TensorSpec;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Selectors, and the tower that was trained with them, beside the weights of a checkpoint.
pub const SELECTORS: &str = "selectors.safetensors";

/// Folder of a vision tower that a model does not bring itself, and how the names of its tensors begin; what else lies there,
/// such as the tower's own text model, is left.
pub const TOWER: &str = "vision";
const TOWER_TENSORS: &str = "vision_model.";

/// A folder with a model.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, TensorInfo>,
    adapter: Option<Adapter>,
    gguf: Option<Packed>,
}

/// Tensors of GGUF files, and the one with the decoder.
#[derive(Clone, Debug)]
struct Packed {
    decoder: Arc<Gguf>,
    tensors: Arc<gguf::Tensors>,
}

/// The folder of a model: itself, or that of its file.
pub fn home(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if path.is_file() => parent,
        _ => path,
    }
}

/// The part of `model.safetensors.index.json` that is read.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads the headers of a folder's weights, and nothing else of them.
    ///
    /// # Errors
    /// A folder or file that is missing, a header that is garbage, a file that ends early, an index that names a
    /// tensor its file does not have.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        if !folder.is_dir() {
            return Err(WeightsError::missing(
                folder,
                "a model is a folder with config.json, tokenizer.json and model.safetensors",
            ));
        }
        let base = adapter::base_of(folder)?;
        let home = base.as_deref().unwrap_or(folder);
        let (mut files, mut tensors) = weights_of(home)?;
        let tower = folder.join(TOWER);
        if base.is_some() && tower.is_dir() {
            let (more, all) = weights_of(&tower)?;
            let own = all.into_iter().filter(|(name, _)| name.starts_with(TOWER_TENSORS));
            tensors.extend(own.map(|(name, info)| (name, TensorInfo { file: files.len() + info.file, ..info })));
            files.extend(more);
        }
        // What training added to a checkpoint that is left as it came; its tensors come last and win.
        let added = folder.join(SELECTORS);
        if added.is_file() {
            let header = read_header(&added)?;
            tensors.extend(header.into_iter().map(|(name, info)| (name, TensorInfo { file: files.len(), ..info })));
            files.push(added);
        }
        let adapter = base.is_some().then(|| Adapter::open(folder, &tensors)).transpose()?;
        if let Some(adapter) = &adapter {
            let added = adapter.added.iter().map(|(name, info)| (name.clone(), info.clone()));
            tensors.extend(added.map(|(name, info)| (name, TensorInfo { file: files.len(), ..info })));
        }
        Ok(Self { folder: folder.to_path_buf(), files, tensors, adapter, gguf: None })
    }

    /// Of GGUF files, whose tensors have the names of a published checkpoint. `path` is what was asked for.
    pub(crate) fn of_gguf(path: &Path, decoder: Arc<Gguf>, packed: Arc<gguf::Tensors>) -> Self {
        let tensors = packed.infos();
        let gguf = Some(Packed { decoder, tensors: packed });
        Self { folder: path.to_path_buf(), files: Vec::new(), tensors, adapter: None, gguf }
    }

    /// The GGUF file with the decoder, where it is made of such files.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref().map(|packed| packed.decoder.as_ref())
    }

    /// Bytes that a tensor takes in memory when it is loaded in a type where it is computed with.
    pub fn loaded(&self, spec: &TensorSpec, dtype: DType, place: Place) -> usize {
        let packed = self.gguf.as_ref().and_then(|packed| packed.tensors.packed_bytes(&spec.name, dtype, place));
        packed.unwrap_or_else(|| spec.shape.iter().product::<usize>() * dtype.size_in_bytes())
    }

    /// The type most of its parameters have, as its files write it.
    pub fn stored(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for info in self.tensors.values() {
            *counts.entry(&info.stored).or_default() += info.elements();
        }
        counts.into_iter().max_by_key(|(_, n)| *n).map_or(String::new(), |(name, _)| name.to_lowercase())
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every tensor by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Bytes of the weights on disk.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|t| t.bytes).sum()
    }

    /// The type most of its parameters have.
    pub fn dtype(&self) -> Option<DType> {
        let mut counts: Vec<(DType, usize)> = Vec::new();
        for info in self.tensors.values() {
            let Some(dtype) = info.dtype() else { continue };
            match counts.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, n)) => *n += info.elements(),
                None => counts.push((dtype, info.elements())),
            }
        }
        counts.into_iter().max_by_key(|(_, n)| *n).map(|(d, _)| d)
    }

    /// Checks that every tensor a model needs is here, with its shape and a type that can be read.
    ///
    /// # Errors
    /// The first that is not: its name, what was expected and what was found.
    pub fn require(&self, needed: &[TensorSpec]) -> Result<(), WeightsError> {
        for spec in needed {
            let Some(info) = self.tensors.get(&spec.name) else {
                return Err(WeightsError::MissingTensor {
                    name: spec.name.clone(),
                    shape: spec.shape.clone(),
                    folder: self.folder.clone(),
                });
            };
            if info.shape != spec.shape {
                return Err(WeightsError::Shape {
                    name: spec.name.clone(),
                    expected: spec.shape.clone(),
                    found: info.shape.clone(),
                });
            }
            if info.dtype().is_none() && self.gguf.is_none() {
                return Err(WeightsError::Dtype { name: spec.name.clone(), found: info.stored.clone() });
            }
        }
        Ok(())
    }

    /// The weights, for building a model; call [`Self::require`] first.
    ///
    /// # Errors
    /// A file that can't be mapped.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> Result<VarBuilder<'static>, WeightsError> {
        if let Some(packed) = &self.gguf {
            return Ok(packed.tensors.var_builder(dtype, device));
        }
        let base = Mapped::open(&self.files, self.tensors.clone())?;
        let adapter = match &self.adapter {
            Some(adapter) => {
                let tensors = Mapped::open(std::slice::from_ref(&adapter.file), adapter.tensors.clone())?;
                Some((tensors, adapter.clone()))
            }
            None => None,
        };
        Ok(VarBuilder::from_backend(Box::new(Store { base, adapter }), dtype, device.clone()))
    }

    /// One of its JSON files.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, WeightsError> {
        read_json(&file_of(&self.folder, name))
    }

    /// One of its JSON files, if it is there.
    pub fn json_if_present<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, WeightsError> {
        let path = file_of(&self.folder, name);
        if path.is_file() { read_json(&path).map(Some) } else { Ok(None) }
    }
}

/// The files with a folder's weights, and what lies in them.
fn weights_of(home: &Path) -> Result<(Vec<PathBuf>, BTreeMap<String, TensorInfo>), WeightsError> {
    let (single, index) = (home.join("model.safetensors"), home.join("model.safetensors.index.json"));
    let (files, index) = if single.is_file() {
        (vec![single], None)
    } else if index.is_file() {
        let parsed: Index = read_json(&index)?;
        (shard_paths(home, &index, &parsed)?, Some((index, parsed)))
    } else {
        return Err(WeightsError::missing(
            &single,
            "weights as safetensors, or model.safetensors.index.json with its shards",
        ));
    };
    let mut tensors = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        tensors.extend(read_header(file)?.into_iter().map(|(name, info)| (name, TensorInfo { file: i, ..info })));
    }
    if let Some((path, index)) = index {
        for (name, shard) in &index.weight_map {
            let found = tensors.get(name).and_then(|t| files.get(t.file));
            if found.and_then(|f| f.file_name()).is_none_or(|f| f != shard.as_str()) {
                return Err(WeightsError::file(
                    &path,
                    format!("it says that tensor `{name}` is in {shard}, but it is not there"),
                ));
            }
        }
    }
    Ok((files, tensors))
}

/// The name by which a [`Checkpoint`] gives several tensors of one width below one another.
pub(crate) fn side_by_side(modules: &[&str], kind: &str) -> String {
    format!("{{{}}}.{kind}", modules.join(","))
}

/// The names that such a name stands for; nothing for a plain one.
fn parts_of(name: &str) -> Option<Vec<String>> {
    let (before, rest) = name.split_once('{')?;
    let (modules, after) = rest.split_once('}')?;
    Some(modules.split(',').map(|module| format!("{before}{module}{after}")).collect())
}

/// What a model reads its tensors from.
struct Store {
    base: Mapped,
    adapter: Option<(Mapped, Adapter)>,
}

impl SimpleBackend for Store {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if *tensor.shape() != shape {
            candle_core::bail!("tensor `{name}`: expected shape {shape:?}, found {:?}", tensor.shape());
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match (&self.adapter, parts_of(name)) {
            (None, None) => self.base.load(name, dtype, device),
            (None, Some(parts)) => self.base.load_joined(&parts, dtype, device),
            (Some((tensors, adapter)), None) => adapter.merge((&self.base, tensors), name, dtype, device),
            (Some(_), Some(parts)) => {
                let parts = parts.iter().map(|part| self.get_unchecked(part, dtype, device));
                Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        if let Some(parts) = parts_of(name) {
            return parts.iter().all(|part| self.contains_tensor(part));
        }
        self.base.contains(name) || self.adapter.as_ref().is_some_and(|(_, adapter)| adapter.brings(name))
    }
}

/// Reads a JSON file; the error names the file and the place in it.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(WeightsError::missing(path, "part of every checkpoint"));
        }
        Err(e) => return Err(WeightsError::file(path, e)),
    };
    serde_json::from_str(&text).map_err(|e| WeightsError::file(path, format!("expected JSON of another form: {e}")))
}

/// The files an index names, each once, in order.
fn shard_paths(folder: &Path, index: &Path, parsed: &Index) -> Result<Vec<PathBuf>, WeightsError> {
    let mut names: Vec<&String> = parsed.weight_map.values().collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(WeightsError::file(index, "`weight_map` names no file"));
    }
    let inside = |name: &String| Path::new(name).components().count() == 1 && Path::new(name).file_name().is_some();
    if let Some(name) = names.iter().find(|n| !inside(n)) {
        return Err(WeightsError::file(
            index,
            format!("`weight_map` names `{name}`, which is not a file of this folder"),
        ));
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}
