//! A LLaVA checkpoint that was read and checked, before anything is allocated for it.

use super::{
    config::{ConfigError, DecoderConfig},
    llava::Llava,
    llava_config::{HfLlavaConfig, LlavaConfig, VisionConfig},
    projector::{Pooling, Projector, TokenGrid, VisionManifest},
};
use crate::{
    device::Choice,
    prompt::ChatTemplate,
    tokenizer::Tokenizer,
    weights::{Checkpoint, WeightsError},
};
use serde::Deserialize;
use spotter_vision::{
    encoder::{Prepare, TensorSpec},
    preprocess::{HfImageProcessor, Preprocess},
};
use std::path::Path;

/// Where the parts are in a checkpoint: the published names, and those transformers uses in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the tower's `embeddings` and `encoder`.
    pub vision: String,
    /// Of `linear_1` and `linear_2`.
    pub projector: String,
    /// Of `embed_tokens`, `layers` and `norm`.
    pub body: String,
    /// Of the head's `weight`.
    pub head: String,
}

impl Layout {
    /// The one that a checkpoint's names follow.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let any = |prefix: &str| {
            checkpoint.tensors().range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
        };
        let (root, body, head) = if any("model.language_model.") {
            ("model.", "model.language_model", "lm_head")
        } else {
            ("", "language_model.model", "language_model.lm_head")
        };
        let mut vision = format!("{root}vision_tower");
        if any(&format!("{vision}.vision_model.")) {
            vision.push_str(".vision_model");
        }
        Self { vision, projector: format!("{root}multi_modal_projector"), body: body.into(), head: head.into() }
    }
}

/// The tensors of a model by part.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The tower, as far as it is run.
    pub vision: Vec<TensorSpec>,
    /// The projector.
    pub projector: Vec<TensorSpec>,
    /// The embedding, and the head where it is not tied.
    pub embedding: Vec<TensorSpec>,
    /// Layers and last norm of the decoder.
    pub layers: Vec<TensorSpec>,
}

impl Parts {
    /// All of them.
    pub fn all(&self) -> Vec<TensorSpec> {
        [&self.vision, &self.projector, &self.embedding, &self.layers].into_iter().flatten().cloned().collect()
    }
}

/// The part of `spotter.toml` that shapes the model.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SpotterFile {
    vision: VisionManifest,
}

/// A checkpoint whose files fit together.
#[derive(Debug)]
pub struct Plan {
    /// Its weights on disk.
    pub checkpoint: Checkpoint,
    /// Its numbers.
    pub config: LlavaConfig,
    /// Its names.
    pub layout: Layout,
    /// What becomes of a picture's tokens.
    pub vision: VisionManifest,
    /// From frames to the tower's input.
    pub prepare: Prepare,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl Plan {
    /// Reads a folder and checks all of it: configuration, tokenizer, every tensor's name, shape and type.
    ///
    /// # Errors
    /// The first thing that does not fit: its name, what was expected and what was found.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        if !folder.is_dir() {
            return Err(WeightsError::missing(
                folder,
                "a model is a folder with config.json, tokenizer.json and model.safetensors",
            ));
        }
        let hf: HfLlavaConfig = crate::weights::read_json(&folder.join("config.json"))?;
        let config = LlavaConfig::from_hf(&hf)?;
        let vision = read_vision(folder)?;
        vision.pooling.check(config.vision.grid(config.keep_class))?;
        let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
        tokenizer.check(config.text.vocab, config.image_token)?;
        let checkpoint = Checkpoint::open(folder)?;
        let prepare = read_prepare(&checkpoint, &config)?;
        let plan = Self { layout: Layout::of(&checkpoint), checkpoint, config, vision, prepare, tokenizer };
        plan.check_change()?;
        plan.checkpoint.require(&plan.parts().all())?;
        Ok(plan)
    }

    /// Whether `vision.delta` is what the projector was trained with; its shape tells.
    fn check_change(&self) -> Result<(), ConfigError> {
        let first = format!("{}.linear_1.weight", self.layout.projector);
        let inputs = self.checkpoint.tensors().get(&first).and_then(|t| t.shape.get(1).copied());
        let (given, other) = (self.vision.clone(), VisionManifest { delta: !self.vision.delta, ..self.vision.clone() });
        let hidden = self.config.vision.hidden_size();
        if inputs != Some(given.joined(hidden)) && inputs == Some(other.joined(hidden)) {
            let expected = format!("{}, as the model was trained", other.delta);
            return Err(ConfigError::new("spotter.toml: vision.delta", expected, given.delta));
        }
        Ok(())
    }

    /// What the model reads, by part.
    pub fn parts(&self) -> Parts {
        let (cfg, layout) = (&self.config, &self.layout);
        let vision = format!("{}.", layout.vision);
        let (embedding, layers) =
            decoder_tensors(&cfg.text, &format!("{}.", layout.body), &format!("{}.", layout.head));
        Parts {
            vision: cfg.vision.tensors(cfg.vision_depth, &vision),
            projector: Projector::tensors(
                self.vision.joined(cfg.vision.hidden_size()),
                cfg.text.width,
                cfg.projector_bias,
                &format!("{}.", layout.projector),
            ),
            embedding,
            layers,
        }
    }

    /// Tokens a picture takes in the language model's context.
    pub fn tokens_per_image(&self) -> usize {
        self.vision.pooling.tokens(self.grid())
    }

    /// The tower's tokens before pooling.
    pub fn grid(&self) -> TokenGrid {
        self.config.vision.grid(self.config.keep_class)
    }

    /// The tower's tokens that are read behind it, of all that leave it.
    pub fn read(&self) -> std::ops::Range<usize> {
        let grid = self.grid();
        let (class, patches) = (usize::from(grid.class), grid.side.pow(2));
        match self.vision.pooling {
            Pooling::Cls => 0..1,
            Pooling::None if grid.keep_class => 0..class + patches,
            Pooling::None | Pooling::Average(_) => class..class + patches,
        }
    }

    /// How the image token is written.
    pub fn image_token(&self) -> String {
        self.config.image_token.and_then(|id| self.tokenizer.token(id)).unwrap_or_else(|| "<image>".into())
    }

    /// The checkpoint's chat template.
    pub fn template(&self) -> Result<ChatTemplate, WeightsError> {
        ChatTemplate::load(self.checkpoint.folder(), &self.image_token())
    }

    /// Loads the weights.
    pub fn build(&self, choice: &Choice) -> Result<Llava, WeightsError> {
        let vb = self.checkpoint.var_builder(choice.dtype, &choice.device)?;
        Ok(Llava::new(self, vb)?)
    }
}

fn read_vision(folder: &Path) -> Result<VisionManifest, WeightsError> {
    let path = folder.join("spotter.toml");
    if !path.is_file() {
        return Ok(VisionManifest::default());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| WeightsError::file(&path, e))?;
    let file: SpotterFile = toml::from_str(&text).map_err(|e| WeightsError::file(&path, e))?;
    Ok(file.vision)
}

/// `preprocessor_config.json`, or the part of `processor_config.json` that newer files keep it in.
fn read_prepare(checkpoint: &Checkpoint, config: &LlavaConfig) -> Result<Prepare, WeightsError> {
    #[derive(Deserialize)]
    struct Processor {
        image_processor: Option<HfImageProcessor>,
    }
    let side = config.vision.image_size();
    let default = match &config.vision {
        VisionConfig::Clip(_) => Preprocess::clip(side),
        VisionConfig::Siglip(_) => Preprocess::siglip(side),
        VisionConfig::Spotter(cfg) => return Ok(Prepare::Patches(cfg.clone())),
    };
    let own: Option<HfImageProcessor> = checkpoint.json_if_present("preprocessor_config.json")?;
    let nested =
        || checkpoint.json_if_present::<Processor>("processor_config.json").map(|p| p.and_then(|p| p.image_processor));
    Ok(Prepare::Pixels(match own.map_or_else(nested, |own| Ok(Some(own)))? {
        Some(hf) => default.with_settings(&hf)?,
        None => default,
    }))
}

/// What a [`super::Decoder`] reads: embedding (and head), layers (and last norm). Prefixes end in a dot.
pub fn decoder_tensors(cfg: &DecoderConfig, body: &str, head: &str) -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    let (w, m, q, kv) = (cfg.width, cfg.mlp_width, cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim);
    let mut embedding = vec![TensorSpec::new(body, "embed_tokens.weight", &[cfg.vocab, w])];
    if !cfg.tied {
        embedding.push(TensorSpec::new(head, "weight", &[cfg.vocab, w]));
    }
    let maps = [
        ("self_attn.q_proj", w, q, cfg.qkv_bias),
        ("self_attn.k_proj", w, kv, cfg.qkv_bias),
        ("self_attn.v_proj", w, kv, cfg.qkv_bias),
        ("self_attn.o_proj", q, w, cfg.out_bias),
        ("mlp.gate_proj", w, m, cfg.mlp_bias),
        ("mlp.up_proj", w, m, cfg.mlp_bias),
        ("mlp.down_proj", m, w, cfg.mlp_bias),
    ];
    let mut layers = Vec::with_capacity(cfg.layers * 12 + 1);
    for i in 0..cfg.layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            layers.push(TensorSpec::new(body, &format!("layers.{i}.{norm}.weight"), &[w]));
        }
        for (name, input, output, bias) in maps {
            layers.push(TensorSpec::new(body, &format!("layers.{i}.{name}.weight"), &[output, input]));
            if bias {
                layers.push(TensorSpec::new(body, &format!("layers.{i}.{name}.bias"), &[output]));
            }
        }
    }
    layers.push(TensorSpec::new(body, "norm.weight", &[w]));
    (embedding, layers)
}
