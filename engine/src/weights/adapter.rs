//! LoRA adapters in PEFT's layout ("LoRA: Low-Rank Adaptation of Large Language Models", Hu et al. 2021), merged as
//! weights are loaded: `adapter_config.json` and `adapter_model.safetensors`, in the folder of their base model, or in one
//! of their own that has the base as its folder `base` or names it by a path.

use super::{TensorInfo, WeightsError, header::read_header, mapped::Mapped, read_json};
use crate::model::ConfigError;
use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// What PEFT puts before every name.
const ROOT: &str = "base_model.model.";
/// The base of an adapter, inside its folder.
pub const BASE: &str = "base";

/// The fields that are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HfAdapter {
    peft_type: Option<String>,
    lora_alpha: Option<f64>,
    use_rslora: bool,
    use_dora: bool,
    fan_in_fan_out: bool,
    alpha_pattern: BTreeMap<String, f64>,
    base_model_name_or_path: Option<String>,
}

/// A product of two narrow matrices that is added to a weight.
#[derive(Clone, Debug)]
struct Delta {
    /// Names in the adapter: `[rank, in]` and `[out, rank]`.
    down: String,
    up: String,
    scale: f64,
    /// The product is that of an embedding's rows, turned around.
    turned: bool,
}

/// An adapter whose tensors were matched to those of its base.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    pub(super) file: PathBuf,
    /// Its header.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// By the base's name of a weight.
    deltas: BTreeMap<String, Delta>,
    /// Whole tensors in the place of the base's, or beside them: the base's name, then the adapter's.
    whole: BTreeMap<String, String>,
    /// Headers of these, by the base's name.
    pub(super) added: BTreeMap<String, TensorInfo>,
}

/// Where the base of the adapter in a folder lies; `None` where there is no adapter.
///
/// # Errors
/// An adapter whose base is not on this machine.
pub(super) fn base_of(folder: &Path) -> std::result::Result<Option<PathBuf>, WeightsError> {
    let path = folder.join(CONFIG);
    if !path.is_file() || !folder.join(TENSORS).is_file() {
        return Ok(None);
    }
    let has_weights =
        |f: &Path| f.join("model.safetensors").is_file() || f.join("model.safetensors.index.json").is_file();
    if has_weights(folder) {
        return Ok(Some(folder.to_path_buf()));
    }
    let config: HfAdapter = read_json(&path)?;
    let named = config.base_model_name_or_path.unwrap_or_default();
    let mut places = vec![folder.join(BASE)];
    // An empty name would be the folder itself.
    places.extend((!named.is_empty()).then(|| folder.join(&named)));
    places.into_iter().find(|place| has_weights(place)).map(Some).ok_or_else(|| {
        let problem = format!(
            "the adapter's base `{named}` is no folder here: put that model into the folder `{BASE}` beside this file, or a link to it"
        );
        WeightsError::file(&path, problem)
    })
}

/// A file of a model folder, or of its base where the folder itself has none.
pub fn file_of(folder: &Path, name: &str) -> PathBuf {
    let own = folder.join(name);
    if own.is_file() {
        return own;
    }
    let base = base_of(folder).ok().flatten().map(|base| base.join(name));
    base.filter(|path| path.is_file()).unwrap_or(own)
}

impl Adapter {
    /// Reads headers and matches names; `base` are the tensors of the base.
    ///
    /// # Errors
    /// A kind of adapter that is not merged here, or a tensor that does not fit the base.
    pub(super) fn open(folder: &Path, base: &BTreeMap<String, TensorInfo>) -> std::result::Result<Self, WeightsError> {
        let config: HfAdapter = read_json(&folder.join(CONFIG))?;
        config.check()?;
        let file = folder.join(TENSORS);
        let header = read_header(&file)?;
        let wrong = |name: &str, problem: String| WeightsError::file(&file, format!("tensor `{name}`: {problem}"));
        let mut adapter = Self {
            file: file.clone(),
            tensors: header.clone(),
            deltas: BTreeMap::new(),
            whole: BTreeMap::new(),
            added: BTreeMap::new(),
        };
        let known: BTreeMap<String, &String> = base.keys().map(|name| (canonical(name), name)).collect();
        let in_base =
            |plain: &str| known.get(&canonical(plain)).map_or_else(|| plain.to_owned(), |name| (*name).clone());
        // Whole tensors first: one may stand in the place of a weight that is then adapted.
        for (name, info) in &header {
            let plain = plain(name);
            if module_of(&plain, "A").or(module_of(&plain, "B")).is_some() {
                continue;
            }
            if plain.contains("lora_") {
                return Err(wrong(name, "a kind of LoRA that is not merged here".into()));
            }
            adapter.added.insert(in_base(&plain), info.clone());
            adapter.whole.insert(in_base(&plain), name.clone());
        }
        for (name, info) in &header {
            let plain = plain(name);
            let Some((module, turned)) = module_of(&plain, "A") else { continue };
            let up = name.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B");
            let target = in_base(&format!("{module}.weight"));
            let weight = adapter.added.get(&target).or(base.get(&target));
            let weight = weight.ok_or_else(|| wrong(name, format!("the base has no `{target}`")))?;
            let other = header.get(&up).ok_or_else(|| wrong(name, format!("`{up}` is missing")))?;
            let rank = fits(info, other, &weight.shape, turned);
            let shapes = || format!("{:?} and {:?} do not fit {:?}", info.shape, other.shape, weight.shape);
            let rank = rank.ok_or_else(|| wrong(name, shapes()))?;
            let scale = config.scale(module, rank);
            adapter.deltas.insert(target, Delta { down: name.clone(), up, scale, turned });
        }
        Ok(adapter)
    }
}

/// A name without what PEFT puts around it.
fn plain(name: &str) -> String {
    let name = name.strip_prefix(ROOT).unwrap_or(name);
    name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").replace(".base_layer.", ".")
}

impl HfAdapter {
    fn check(&self) -> std::result::Result<(), ConfigError> {
        let field = |name: &str| format!("{CONFIG}: {name}");
        match self.peft_type.as_deref() {
            None | Some("LORA") => {}
            Some(other) => return Err(ConfigError::new(field("peft_type"), "LORA", format!("`{other}`"))),
        }
        for (name, set) in [("use_dora", self.use_dora), ("fan_in_fan_out", self.fan_in_fan_out)] {
            if set {
                return Err(ConfigError::new(field(name), "false", true));
            }
        }
        if !self.lora_alpha.is_some_and(f64::is_finite) {
            return Err(ConfigError::new(field("lora_alpha"), "a number", "nothing"));
        }
        let plain = |key: &String| key.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
        match self.alpha_pattern.keys().find(|key| !plain(key)) {
            Some(key) => Err(ConfigError::new(field("alpha_pattern"), "names of modules", format!("`{key}`"))),
            None => Ok(()),
        }
    }

    /// What the product of a module's matrices is multiplied by.
    fn scale(&self, module: &str, rank: usize) -> f64 {
        let named = |key: &&String| module == key.as_str() || module.ends_with(&format!(".{key}"));
        let own = self.alpha_pattern.keys().find(named).and_then(|key| self.alpha_pattern.get(key));
        let alpha = own.copied().or(self.lora_alpha).unwrap_or(0.0);
        alpha / if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 }
    }
}

/// The module that a matrix belongs to, and whether it is an embedding.
fn module_of<'a>(name: &'a str, which: &str) -> Option<(&'a str, bool)> {
    let plain = name.strip_suffix(&format!(".lora_{which}.weight")).map(|module| (module, false));
    plain.or_else(|| name.strip_suffix(&format!(".lora_embedding_{which}")).map(|module| (module, true)))
}

/// The rank of two matrices that fit a weight.
fn fits(down: &TensorInfo, up: &TensorInfo, weight: &[usize], turned: bool) -> Option<usize> {
    let ([rank, from], [to, same], [rows, columns]) = (&down.shape[..], &up.shape[..], weight) else { return None };
    let (rows, columns) = if turned { (columns, rows) } else { (rows, columns) };
    let types = down.dtype().is_some() && up.dtype().is_some();
    (types && rank == same && *rank > 0 && to == rows && from == columns).then_some(*rank)
}

/// One spelling of the names that published files and classes in memory use for the same tensor.
fn canonical(name: &str) -> String {
    let inner = name.strip_prefix("model.").filter(|rest| {
        ["vision_tower", "vision_model", "multi_modal_projector", "mm_projector", "language_model", "image_newline"]
            .iter()
            .any(|part| rest.starts_with(part))
    });
    let name = inner.unwrap_or(name);
    let name =
        name.strip_prefix("language_model.lm_head").map_or_else(|| name.to_owned(), |rest| format!("lm_head{rest}"));
    name.replacen("language_model.model.", "language_model.", 1).replacen(
        "vision_tower.vision_model.",
        "vision_tower.",
        1,
    )
}

impl Adapter {
    /// A weight of the base with the adapter in it, merged in f32; `tensors` is the adapter's file.
    ///
    /// # Errors
    /// Those of reading and of the device.
    pub(super) fn merge(
        &self,
        (base, tensors): (&Mapped, &Mapped),
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let weight = |dtype: DType| match self.whole.get(name) {
            Some(own) => tensors.load(own, dtype, device),
            None => base.load(name, dtype, device),
        };
        let Some(delta) = self.deltas.get(name) else { return weight(dtype) };
        let part = |name: &str| tensors.load(name, DType::F32, device);
        let product = (part(&delta.up)?.matmul(&part(&delta.down)?)? * delta.scale)?;
        let product = if delta.turned { product.t()? } else { product };
        (weight(DType::F32)? + product)?.to_dtype(dtype)
    }

    /// It brings a whole tensor for the base's name.
    pub(super) fn brings(&self, name: &str) -> bool {
        self.whole.contains_key(name)
    }
}
