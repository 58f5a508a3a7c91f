//! VideoLLM-online ("VideoLLM-online: Online Video Large Language Model for Streaming Video", Chen et al. 2024; repository
//! showlab/videollm-online): a LoRA adapter over Llama 3 that was trained on streams. A folder with the adapter has the Llama in
//! its folder `base` and the SigLIP tower, which the adapter does not bring, in its folder `vision`.
//!
//! A frame is the token of SigLIP's head and the means of a grid of its patches; between frames stands a separator, which the
//! model is to write itself as long as it has nothing to say.

use super::{
    config::{ConfigError, DecoderConfig, HfDecoderConfig},
    llava_config::{ConnectorConfig, Family, LlavaConfig, VisionConfig},
    plan::Layout,
    projector::Pooling,
};
use crate::weights::{TOWER, WeightsError, file_of, read_json};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// The module that the adapter keeps whole.
const CONNECTOR: &str = "connector";
/// Stands for a visual token in a conversation; the tokenizer may have it behind the last row of the embedding.
pub(crate) const PLACE: &str = "<v>";
/// Between frames, where `config.json` says nothing.
const SEPARATOR: &str = ",";
/// Means along a side of a frame, where `config.json` says nothing.
const GRID: usize = 3;

/// How a stream is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// What is kept of a frame.
    pub pooling: Pooling,
    /// Stands between two frames; without one the model ends its turn to stay silent.
    pub separator: Option<String>,
}

/// The fields of a `config.json` that describe the stream. The published folder has none, only the base's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HfLive {
    frame_token_cls: Option<bool>,
    frame_token_pooled: Option<Vec<usize>>,
    frame_token_interval: Option<String>,
}

/// Whether a folder is one: an adapter that keeps a connector.
///
/// # Errors
/// An `adapter_config.json` that is none.
pub(crate) fn is_live(folder: &Path) -> Result<bool, WeightsError> {
    #[derive(Deserialize)]
    struct Saved {
        modules_to_save: Option<Vec<String>>,
    }
    let path = folder.join("adapter_config.json");
    if !path.is_file() {
        return Ok(false);
    }
    let saved: Saved = read_json(&path)?;
    Ok(saved.modules_to_save.is_some_and(|modules| modules.iter().any(|module| module == CONNECTOR)))
}

/// Names of the tensors.
pub(crate) fn layout() -> Layout {
    let own = |name: &str| name.to_owned();
    Layout {
        vision: own("vision_model"),
        projector: own(CONNECTOR),
        body: own("model"),
        head: own("lm_head"),
        newline: String::new(),
    }
}

/// The numbers of a folder: of its Llama, of its tower, and what a frame becomes. The Llama's part of `config.json` comes back
/// as well.
///
/// # Errors
/// A tower that is missing or of another kind, or a field that can't be used.
pub(crate) fn read(folder: &Path) -> Result<(LlavaConfig, HfDecoderConfig), WeightsError> {
    let path = file_of(folder, "config.json");
    let (hf, live): (HfDecoderConfig, HfLive) = (read_json(&path)?, read_json(&path)?);
    let text = DecoderConfig::from_hf(&hf, "")?;
    let vision = tower(folder)?;
    let live = live.resolve()?;
    let config = LlavaConfig {
        family: Family::Live,
        vision_depth: match &vision {
            VisionConfig::SiglipHead(cfg) => cfg.num_hidden_layers,
            _ => 0,
        },
        keep_class: true,
        image_token: None,
        video_token: None,
        // A sequence with the activation in its middle.
        connector: ConnectorConfig::Mlp { bias: true, names: ["0", "2"] },
        tiling: None,
        live: Some(live),
        text,
        vision,
    };
    Ok((config, hf))
}

impl HfLive {
    fn resolve(self) -> Result<Live, ConfigError> {
        let class = self.frame_token_cls.unwrap_or(true);
        // A file that names neither is the Llama's own.
        let grid = match (self.frame_token_pooled.as_deref(), self.frame_token_cls) {
            (None, None) => Some(GRID),
            (None, Some(_)) => None,
            (Some([a, b]), _) if a == b => Some(*a),
            (Some(other), _) => {
                return Err(ConfigError::new("frame_token_pooled", "two equal numbers", format!("{other:?}")));
            }
        };
        let pooling = match (class, grid) {
            (true, Some(k)) => Pooling::ClassAverage(k),
            (false, Some(k)) => Pooling::Average(k),
            (true, None) => Pooling::Cls,
            (false, None) => {
                return Err(ConfigError::new("frame_token_cls", "true where frame_token_pooled is missing", false));
            }
        };
        let separator = self.frame_token_interval.unwrap_or_else(|| SEPARATOR.to_owned());
        Ok(Live { pooling, separator: Some(separator).filter(|s| !s.is_empty()) })
    }
}

/// The tower in its own folder: the `config.json` of a whole SigLIP, or of its tower alone.
fn tower(folder: &Path) -> Result<VisionConfig, WeightsError> {
    let path = folder.join(TOWER).join("config.json");
    if !path.is_file() {
        return Err(WeightsError::missing(
            &path,
            "VideoLLM-online sees with a SigLIP tower that its adapter does not bring: put google/siglip-large-patch16-384 into the \
             folder `vision` beside adapter_config.json, or a link to it",
        ));
    }
    let mut file: Map<String, Value> = read_json(&path)?;
    if let Some(Value::Object(mut inner)) = file.remove("vision_config") {
        inner.entry("model_type").or_insert_with(|| Value::from("siglip_vision_model"));
        file = inner;
    }
    match VisionConfig::from_hf(&file)? {
        VisionConfig::Siglip(cfg) if cfg.tosa.is_none() => Ok(VisionConfig::SiglipHead(cfg)),
        other => {
            let found = format!("`{}`", other.model_type());
            Err(ConfigError::new("vision/config.json: model_type", "siglip_vision_model, dense", found).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_frame_becomes() {
        let of = |json: &str| {
            let hf: HfLive = serde_json::from_str(json).unwrap();
            hf.resolve().map(|live| (live.pooling, live.separator.unwrap_or_default())).map_err(|e| e.to_string())
        };
        let told = |pooling, separator: &str| Ok((pooling, separator.to_owned()));
        assert_eq!(of("{\"model_type\": \"llama\"}"), told(Pooling::ClassAverage(3), ","));
        assert_eq!(of("{\"frame_token_cls\": true, \"frame_token_interval\": \"\"}"), told(Pooling::Cls, ""));
        let grid = "{\"frame_token_cls\": false, \"frame_token_pooled\": [2, 2], \"frame_token_interval\": \";\"}";
        assert_eq!(of(grid), told(Pooling::Average(2), ";"));
        assert!(of("{\"frame_token_pooled\": [2, 3]}").unwrap_err().contains("two equal numbers, found [2, 3]"));
        assert!(of("{\"frame_token_cls\": false}").unwrap_err().contains("frame_token_cls"));
    }
}
