//! `config.json` of a LLaVA checkpoint: raw and resolved.

use super::{
    config::{ConfigError, DecoderConfig, HfDecoderConfig},
    live::Live,
    projector::{LINEAR, TokenGrid},
    seed::{self, AbstractorConfig, HfSeed},
    tiling::{Tiling, most_tiles},
};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spotter_vision::encoder::{
    TensorSpec, TowerConfig, Trunk,
    clip::{self, Clip},
    siglip::{self, Siglip},
    tosa::TosaOptions,
    vit::{Vit, VitConfig},
};

/// The file, field by field.
#[allow(missing_docs, reason = "the fields are those of the file; LlavaConfig documents them")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HfLlavaConfig {
    pub architectures: Option<Vec<String>>,
    pub model_type: Option<String>,
    #[serde(alias = "language_config")]
    pub text_config: Option<HfDecoderConfig>,
    pub vision_config: Option<Map<String, Value>>,
    #[serde(alias = "image_token_id")]
    pub image_token_index: Option<u32>,
    #[serde(alias = "video_token_id")]
    pub video_token_index: Option<u32>,
    pub image_grid_pinpoints: Option<Vec<(usize, usize)>>,
    pub vision_aspect_ratio: Option<String>,
    pub projector_hidden_act: Option<String>,
    pub multimodal_projector_bias: Option<bool>,
    pub vision_feature_layer: Option<Value>,
    pub vision_feature_select_strategy: Option<String>,
    pub tie_word_embeddings: Option<bool>,
    #[serde(flatten)]
    pub seed: HfSeed,
}

/// The published families around a tower, a projector and a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaVA 1.5: one view of a picture.
    Llava,
    /// LLaVA-NeXT (1.6): the whole picture and tiles of it.
    Next,
    /// LLaVA-OneVision: the same, several pictures as wholes, and frames of a video with fewer tokens.
    OneVision,
    /// HyperCLOVA X SEED Vision: tiles, and a C-Abstractor for a projector.
    Seed,
    /// VideoLLM-online: an adapter over a Llama, told by its connector (see [`super::live`]); streams alone.
    Live,
}

/// Architecture of [`Family::Live`], whose `model_type` is that of its Llama.
const LIVE: &str = "LiveLlamaForCausalLM";

/// `model_type` and architecture of the others.
const FAMILIES: [(Family, &str, &str); 4] = [
    (Family::Llava, "llava", "LlavaForConditionalGeneration"),
    (Family::Next, "llava_next", "LlavaNextForConditionalGeneration"),
    (Family::OneVision, "llava_onevision", "LlavaOnevisionForConditionalGeneration"),
    (Family::Seed, "hyperclovax_vlm", "HCXVisionForCausalLM"),
];

impl Family {
    /// By the `model_type` of a `config.json`, and its architecture where that is named.
    fn of(hf: &HfLlavaConfig) -> Result<Self, ConfigError> {
        let types = FAMILIES.map(|(_, model_type, _)| model_type).join(", ");
        let given = hf.model_type.as_deref();
        let given = given.ok_or_else(|| ConfigError::new("model_type", format!("one of {types}"), "nothing"))?;
        let known = FAMILIES.iter().find(|(_, model_type, _)| *model_type == given);
        let known =
            known.ok_or_else(|| ConfigError::new("model_type", format!("one of {types}"), format!("`{given}`")));
        let (family, _, expected) = known?;
        match hf.architectures.as_ref().and_then(|a| a.first()) {
            Some(found) if found != expected => Err(ConfigError::new("architectures", *expected, format!("`{found}`"))),
            _ => Ok(*family),
        }
    }

    /// The architecture's name.
    pub fn architecture(self) -> &'static str {
        FAMILIES.iter().find(|(family, ..)| *family == self).map_or(LIVE, |(_, _, name)| name)
    }
}

/// From the tower's width to the decoder's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectorConfig {
    /// Two linear maps.
    Mlp {
        /// Both have biases.
        bias: bool,
        /// What they are called.
        names: [&'static str; 2],
    },
    /// SEED's.
    Abstractor(AbstractorConfig),
}

/// Which tower, with its numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum VisionConfig {
    /// CLIP: a class token, then the patches.
    Clip(TowerConfig),
    /// SigLIP: patches alone.
    Siglip(TowerConfig),
    /// All of SigLIP: the token of its head, then the patches behind the last norm.
    SiglipHead(TowerConfig),
    /// Spotter's own: a class token, then the patches; all layers are run.
    Spotter(VitConfig),
}

impl VisionConfig {
    /// The `model_type` in the file.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Clip(_) => "clip_vision_model",
            Self::Siglip(_) | Self::SiglipHead(_) => "siglip_vision_model",
            Self::Spotter(_) => "spotter_vit",
        }
    }

    /// Width of a token.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => cfg.hidden_size,
            Self::Spotter(cfg) => cfg.hidden_size,
        }
    }

    /// Side of a picture in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => cfg.image_size,
            Self::Spotter(cfg) => cfg.image_size,
        }
    }

    /// Share of a picture's side that whole patches cover.
    pub fn whole(&self) -> f32 {
        let (patch, image) = match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => (cfg.patch_size, cfg.image_size),
            Self::Spotter(cfg) => (cfg.patch_size, cfg.image_size),
        };
        (self.grid(false).side * patch) as f32 / image.max(1) as f32
    }

    /// How its tokens lie; `keep_class` is the strategy `full`.
    pub fn grid(&self, keep_class: bool) -> TokenGrid {
        let side = match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => cfg.side(),
            Self::Spotter(cfg) => cfg.image_size.checked_div(cfg.patch_size).unwrap_or(0),
        };
        let class = self.has_class_token();
        TokenGrid { side, class, keep_class: class && keep_class }
    }

    /// How its layers skip tokens; `None` where they do not.
    pub fn tosa(&self) -> Option<&TosaOptions> {
        match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => cfg.tosa.as_ref(),
            Self::Spotter(cfg) => cfg.tosa.as_ref(),
        }
    }

    /// The same tower skipping tokens in another way, or not at all.
    pub fn with_tosa(mut self, tosa: Option<TosaOptions>) -> Self {
        match &mut self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => cfg.tosa = tosa,
            Self::Spotter(cfg) => cfg.tosa = tosa,
        }
        self
    }

    /// The tower up to a layer, from the tensors under `vb`.
    ///
    /// # Errors
    /// Options or tensors that do not fit.
    pub fn build(&self, depth: usize, vb: VarBuilder) -> candle_core::Result<Box<dyn Trunk>> {
        Ok(match self {
            Self::Clip(cfg) => Box::new(Clip::new(cfg, depth, vb)?),
            Self::Siglip(cfg) => Box::new(Siglip::new(cfg, depth, vb)?),
            Self::SiglipHead(cfg) => Box::new(Siglip::whole(cfg, vb)?),
            Self::Spotter(cfg) => Box::new(Vit::new(cfg, vb)?),
        })
    }

    /// Where the layers lie among the tower's tensors, selectors beside them.
    pub fn layers(&self) -> &'static str {
        match self {
            Self::Clip(_) | Self::Siglip(_) | Self::SiglipHead(_) => "encoder.layers",
            Self::Spotter(_) => "layers",
        }
    }

    /// What [`build`](Self::build) reads; `prefix` ends in a dot or is empty.
    pub fn tensors(&self, depth: usize, prefix: &str) -> Vec<TensorSpec> {
        match self {
            Self::Clip(cfg) => Clip::tensors(cfg, depth, prefix),
            Self::Siglip(cfg) => Siglip::tensors(cfg, depth, prefix),
            Self::SiglipHead(cfg) => Siglip::whole_tensors(cfg, prefix),
            Self::Spotter(cfg) => Vit::tensors(cfg, prefix),
        }
    }

    /// Layers to run for a `vision_feature_layer`.
    fn depth(&self, layer: Option<&Value>) -> Result<usize, ConfigError> {
        match self {
            Self::Clip(cfg) | Self::Siglip(cfg) | Self::SiglipHead(cfg) => feature_depth(layer, cfg),
            Self::Spotter(cfg) => Ok(cfg.num_hidden_layers),
        }
    }

    /// A token for the whole picture leaves the tower before the patches.
    pub fn has_class_token(&self) -> bool {
        matches!(self, Self::Clip(_) | Self::SiglipHead(_) | Self::Spotter(_))
    }

    /// Reads a `vision_config`.
    pub fn from_hf(hf: &Map<String, Value>) -> Result<Self, ConfigError> {
        let field = "vision_config.model_type";
        match hf.get("model_type").and_then(Value::as_str) {
            Some("clip_vision_model") => Ok(Self::Clip(tower(hf, &clip::default_config())?)),
            Some("siglip_vision_model") => Ok(Self::Siglip(tower(hf, &siglip::default_config())?)),
            Some("spotter_vit") => {
                let broken = |e: String| ConfigError::new("vision_config", "the fields of a spotter_vit", e);
                let config: VitConfig =
                    serde_json::from_value(Value::Object(hf.clone())).map_err(|e| broken(e.to_string()))?;
                config.problem().map_or(Ok(Self::Spotter(config)), |problem| Err(broken(problem)))
            }
            Some(other) => Err(ConfigError::new(
                field,
                "clip_vision_model, siglip_vision_model or spotter_vit",
                format!("`{other}`"),
            )),
            None => Err(ConfigError::new(field, "a string", "nothing")),
        }
    }
}

/// Lays the fields of a file over the defaults of its kind.
fn tower(hf: &Map<String, Value>, default: &TowerConfig) -> Result<TowerConfig, ConfigError> {
    let broken = |e: serde_json::Error| ConfigError::new("vision_config", "the fields of a vision tower", e);
    let mut fields = serde_json::to_value(default).map_err(broken)?;
    if let Some(fields) = fields.as_object_mut() {
        for (name, value) in fields.iter_mut() {
            if let Some(given) = hf.get(name).filter(|v| !v.is_null()) {
                *value = given.clone();
            }
        }
    }
    let config: TowerConfig = serde_json::from_value(fields).map_err(broken)?;
    match config.problem() {
        Some((name, expected, found)) => Err(ConfigError::new(format!("vision_config.{name}"), expected, found)),
        None => Ok(config),
    }
}

/// A LLaVA model with every number resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct LlavaConfig {
    /// Which of the published ones.
    pub family: Family,
    /// The language model.
    pub text: DecoderConfig,
    /// The tower.
    pub vision: VisionConfig,
    /// Layers of the tower that are run.
    pub vision_depth: usize,
    /// The class token is given to the language model too (strategy `full`).
    pub keep_class: bool,
    /// Stands for a picture's tokens in a prompt; a model with Spotter's own tower, which is only streamed, may have none,
    /// and SEED's is found by its name in the tokenizer.
    pub image_token: Option<u32>,
    /// Stands for a video's tokens.
    pub video_token: Option<u32>,
    /// The projector.
    pub connector: ConnectorConfig,
    /// How pictures are cut into tiles, where they are.
    pub tiling: Option<Tiling>,
    /// How a stream is written down, where the model was trained on streams.
    pub live: Option<Live>,
}

impl LlavaConfig {
    /// Resolves what a file says.
    pub fn from_hf(hf: &HfLlavaConfig) -> Result<Self, ConfigError> {
        let family = Family::of(hf)?;
        let missing = |field: &str, expected: &str| ConfigError::new(field, expected, "nothing");
        let text = hf
            .text_config
            .as_ref()
            .ok_or_else(|| missing("text_config", "an object that describes the language model"))?;
        let mut text = DecoderConfig::from_hf(text, "text_config.")?;
        text.tied |= hf.tie_word_embeddings.unwrap_or(false);
        let vision = hf
            .vision_config
            .as_ref()
            .ok_or_else(|| missing("vision_config", "an object that describes the vision tower"))?;
        let vision = VisionConfig::from_hf(vision)?;
        if hf.image_token_index.is_none() && !matches!(vision, VisionConfig::Spotter(_)) && family != Family::Seed {
            return Err(missing("image_token_index", "the id of the image token"));
        }
        for (field, id) in [("image_token_index", hf.image_token_index), ("video_token_index", hf.video_token_index)] {
            if let Some(id) = id.filter(|id| *id as usize >= text.vocab) {
                let expected = format!("an id below text_config.vocab_size ({})", text.vocab);
                return Err(ConfigError::new(field, expected, id));
            }
        }
        if let Some(act) = hf.projector_hidden_act.as_deref().filter(|a| *a != "gelu") {
            return Err(ConfigError::new("projector_hidden_act", "gelu", format!("`{act}`")));
        }
        let vision_depth = vision_depth(hf, family, &vision)?;
        if let Some(problem) = vision.tosa().and_then(|t| t.problem(vision_depth)) {
            return Err(ConfigError::new("vision_config.tosa", "options that fit the layers that are run", problem));
        }
        Ok(Self {
            family,
            vision_depth,
            keep_class: keep_class(hf, family, &vision)?,
            image_token: hf.image_token_index,
            video_token: hf.video_token_index,
            connector: match family {
                Family::Seed => ConnectorConfig::Abstractor(AbstractorConfig::from_hf(hf, &vision, text.width)?),
                _ => ConnectorConfig::Mlp { bias: hf.multimodal_projector_bias.unwrap_or(true), names: LINEAR },
            },
            tiling: tiling(hf, family, vision.image_size())?,
            live: None,
            text,
            vision,
        })
    }
}

/// Whether the class token goes to the language model.
fn keep_class(hf: &HfLlavaConfig, family: Family, vision: &VisionConfig) -> Result<bool, ConfigError> {
    let field = "vision_feature_select_strategy";
    // What the families leave out of their files.
    let default = if matches!(family, Family::OneVision | Family::Seed) { "full" } else { "default" };
    match hf.vision_feature_select_strategy.as_deref().unwrap_or(default) {
        // `default` drops the first token, which here would be a patch.
        "default" if !vision.has_class_token() => {
            Err(ConfigError::new(field, "full for a tower without class token", "default"))
        }
        "default" => Ok(false),
        "full" if vision.has_class_token() && family != Family::Llava => {
            Err(ConfigError::new(field, "default: tiles are squares of patches without a class token", "full"))
        }
        "full" => Ok(true),
        other => Err(ConfigError::new(field, "default or full", format!("`{other}`"))),
    }
}

/// Layers of the tower that are run.
fn vision_depth(hf: &HfLlavaConfig, family: Family, vision: &VisionConfig) -> Result<usize, ConfigError> {
    let given = match family {
        Family::Seed => Some(Value::from(hf.seed.use_nth_layer.unwrap_or(-2))),
        Family::OneVision => Some(hf.vision_feature_layer.clone().unwrap_or(Value::from(-1))),
        Family::Llava | Family::Next | Family::Live => hf.vision_feature_layer.clone(),
    };
    vision.depth(given.as_ref())
}

/// How pictures are cut up; `side` is that of the tower's square.
fn tiling(hf: &HfLlavaConfig, family: Family, side: usize) -> Result<Option<Tiling>, ConfigError> {
    let squares: &[(usize, usize)] = match family {
        Family::Llava | Family::Live => return Ok(None),
        Family::Seed => return seed::tiling(hf, side),
        Family::Next => &[(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)],
        Family::OneVision => &[],
    };
    // The published files of OneVision leave out what is all planes up to six by six.
    let all = (1..=6).flat_map(|rows| (1..=6).map(move |columns| (rows, columns))).collect::<Vec<_>>();
    let default = || if squares.is_empty() { &all[..] } else { squares }.iter().map(|(h, w)| (h * side, w * side));
    let ratio = hf.vision_aspect_ratio.as_deref().unwrap_or("anyres_max_9");
    let most = most_tiles(ratio).filter(|_| family == Family::OneVision);
    if family == Family::OneVision && most.is_none() {
        return Err(ConfigError::new("vision_aspect_ratio", "anyres_max_ and a number", format!("`{ratio}`")));
    }
    let planes = hf.image_grid_pinpoints.clone().unwrap_or_else(|| default().collect());
    let tiling = Tiling::llava(side, planes, most);
    tiling.check("image_grid_pinpoints")?;
    Ok(Some(tiling))
}

fn feature_depth(layer: Option<&Value>, tower: &TowerConfig) -> Result<usize, ConfigError> {
    let layers = tower.num_hidden_layers;
    let wrong = |found: &Value| {
        ConfigError::new("vision_feature_layer", format!("one number from -{} to {layers}", layers + 1), found)
    };
    match layer {
        None => tower.depth(-2).ok_or_else(|| wrong(&Value::from(-2))),
        Some(value) => value.as_i64().and_then(|l| tower.depth(l)).ok_or_else(|| wrong(value)),
    }
}
