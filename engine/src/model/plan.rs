//! A LLaVA checkpoint that was read and checked, before anything is allocated for it.

use super::{
    config::{ConfigError, DecoderConfig, DecoderKind, HfDecoderConfig, TokenIds},
    connector::Connector,
    live,
    llava::Llava,
    llava_config::{ConnectorConfig, Family, HfLlavaConfig, LlavaConfig, VisionConfig},
    projector::{Pooling, TokenGrid, VisionManifest},
    seed,
};
use crate::{
    device::Choice,
    gguf,
    prompt::ChatTemplate,
    tokenizer::Tokenizer,
    weights::{Checkpoint, WeightsError, file_of},
};
use serde::Deserialize;
use spotter_vision::{
    encoder::{Prepare, TensorSpec},
    preprocess::{Fit, HfImageProcessor, Preprocess},
};
use std::path::{Path, PathBuf};

/// Where the parts are in a checkpoint: the published names, and those transformers uses in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the tower's `embeddings` and `encoder`.
    pub vision: String,
    /// Of the projector's tensors.
    pub projector: String,
    /// Of `embed_tokens`, `layers` and `norm`.
    pub body: String,
    /// Of the head's `weight`.
    pub head: String,
    /// The token at the end of a row of tiles.
    pub newline: String,
}

impl Layout {
    /// The one that a checkpoint's names follow.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let any = |prefix: &str| {
            checkpoint.tensors().range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
        };
        // The last of each is what is named where there is none.
        let first = |names: &[&str]| -> String {
            let there = names.iter().find(|name| any(&format!("{name}.")) || any(name) && name.ends_with("newline"));
            there.or(names.last()).map(|name| (*name).to_string()).unwrap_or_default()
        };
        let mut vision = first(&["model.vision_tower", "model.vision_model", "vision_model", "vision_tower"]);
        if any(&format!("{vision}.vision_model.")) {
            vision.push_str(".vision_model");
        }
        Self {
            vision,
            projector: first(&[
                "model.multi_modal_projector",
                "model.mm_projector",
                "mm_projector",
                "multi_modal_projector",
            ]),
            body: first(&["model.language_model.model", "model.language_model", "language_model.model"]),
            head: first(&["model.language_model.lm_head", "lm_head", "language_model.lm_head"]),
            newline: first(&["model.image_newline", "image_newline"]),
        }
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
    /// Of a model of some shape, by the names of its layout.
    pub(crate) fn of(cfg: &LlavaConfig, vision: &VisionManifest, layout: &Layout) -> Self {
        let tower = format!("{}.", layout.vision);
        let (embedding, layers) =
            decoder_tensors(&cfg.text, &format!("{}.", layout.body), &format!("{}.", layout.head));
        let hidden = cfg.vision.hidden_size();
        let mut projector = Connector::tensors(&cfg.connector, vision, hidden, cfg.text.width, &layout.projector);
        if cfg.tiling.is_some() {
            projector.push(TensorSpec::new("", &layout.newline, &[cfg.text.width]));
        }
        Self { vision: cfg.vision.tensors(cfg.vision_depth, &tower), projector, embedding, layers }
    }

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
    /// Reads a folder and checks all of it: configuration, tokenizer, every tensor's name, shape and type. A model of GGUF files is
    /// that folder, or the file with the decoder.
    ///
    /// # Errors
    /// The first thing that does not fit: its name, what was expected and what was found.
    pub fn open(folder: &Path) -> Result<Self, WeightsError> {
        if gguf::is_gguf(folder) {
            return gguf::plan(folder);
        }
        if !folder.is_dir() {
            return Err(WeightsError::missing(
                folder,
                "a model is a folder with config.json, tokenizer.json and model.safetensors, or with a GGUF file and its mmproj",
            ));
        }
        let (mut config, text) = if live::is_live(folder)? {
            live::read(folder)?
        } else {
            let hf: HfLlavaConfig = crate::weights::read_json(&file_of(folder, "config.json"))?;
            (LlavaConfig::from_hf(&hf)?, hf.text_config.unwrap_or_default())
        };
        let vision = read_vision(folder, &config)?;
        check_pooling(&vision, &config)?;
        let tokenizer = Tokenizer::from_file(&file_of(folder, "tokenizer.json"))?;
        let checkpoint = Checkpoint::open(folder)?;
        let layout = if config.family == Family::Live { live::layout() } else { Layout::of(&checkpoint) };
        settle(&mut config.text, &text, &checkpoint, &layout.body)?;
        if config.family == Family::Seed {
            find_places(&mut config, &tokenizer)?;
        }
        // The place of a visual token was never a row of the embedding.
        let beyond = config.live.is_some() && tokenizer.id(live::PLACE) == u32::try_from(config.text.vocab).ok();
        tokenizer.check(config.text.vocab + usize::from(beyond), config.image_token)?;
        let prepare = read_prepare(&checkpoint, &config)?;
        let plan = Self { layout, checkpoint, config, vision, prepare, tokenizer };
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
        let mlp = matches!(self.config.connector, ConnectorConfig::Mlp { .. });
        if mlp && inputs != Some(given.joined(hidden)) && inputs == Some(other.joined(hidden)) {
            let expected = format!("{}, as the model was trained", other.delta);
            return Err(ConfigError::new("spotter.toml: vision.delta", expected, given.delta));
        }
        Ok(())
    }

    /// What the model reads, by part.
    pub fn parts(&self) -> Parts {
        Parts::of(&self.config, &self.vision, &self.layout)
    }

    /// Tokens a frame takes in the language model's context.
    pub fn tokens_per_image(&self) -> usize {
        Connector::frame_tokens(&self.config.connector, &self.vision, self.grid())
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
            Pooling::ClassAverage(_) => 0..class + patches,
            Pooling::None | Pooling::Average(_) | Pooling::Bilinear(_) => class..class + patches,
        }
    }

    /// How the image token is written.
    pub fn image_token(&self) -> String {
        self.config.image_token.and_then(|id| self.tokenizer.token(id)).unwrap_or_else(|| "<image>".into())
    }

    /// The checkpoint's chat template.
    pub fn template(&self) -> Result<ChatTemplate, WeightsError> {
        match self.checkpoint.gguf() {
            Some(file) => Ok(gguf::template(file, &self.image_token(), self.config.family)?),
            None => ChatTemplate::load(&template_folder(self.checkpoint.folder()), &self.image_token()),
        }
    }

    /// Loads the weights.
    pub fn build(&self, choice: &Choice) -> Result<Llava, WeightsError> {
        let vb = self.checkpoint.var_builder(choice.dtype, &choice.device)?;
        Ok(Llava::new(self, vb)?)
    }
}

/// Where a model's chat template lies: with its tokenizer's settings, which an adapter may leave to its base.
pub(crate) fn template_folder(folder: &Path) -> PathBuf {
    file_of(folder, "tokenizer_config.json").parent().map_or_else(|| folder.to_path_buf(), Path::to_path_buf)
}

/// Refuses pooling that tower or projector can't do.
pub(crate) fn check_pooling(vision: &VisionManifest, config: &LlavaConfig) -> Result<(), ConfigError> {
    vision.pooling.check(config.vision.grid(config.keep_class))?;
    if matches!(config.connector, ConnectorConfig::Mlp { .. }) {
        return Ok(());
    }
    match vision.pooling {
        _ if vision.delta => {
            Err(ConfigError::new("spotter.toml: vision.delta", "false: the projector knows no change", true))
        }
        Pooling::None | Pooling::Average(_) => Ok(()),
        other => Err(ConfigError::new("spotter.toml: vision.pooling", "none or average", format!("{other:?}"))),
    }
}

/// SEED's places for pictures and videos go by their names.
fn find_places(config: &mut LlavaConfig, tokenizer: &Tokenizer) -> Result<(), WeightsError> {
    let image = tokenizer.id(seed::IMAGE_TOKEN);
    config.image_token = Some(image.ok_or_else(|| WeightsError::Tokenizer {
        what: "image token".into(),
        expected: format!("a token {}", seed::IMAGE_TOKEN),
        found: "none".into(),
    })?);
    config.video_token = tokenizer.id(seed::VIDEO_TOKEN);
    Ok(())
}

/// What a folder's `spotter.toml` says about visual tokens.
pub(crate) fn read_vision(folder: &Path, config: &LlavaConfig) -> Result<VisionManifest, WeightsError> {
    let path = folder.join("spotter.toml");
    if !path.is_file() {
        let pooling = config.live.as_ref().map_or(Pooling::default(), |live| live.pooling);
        return Ok(VisionManifest { pooling, ..VisionManifest::default() });
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
        // Its published class has CLIP's colours, whatever the tower.
        VisionConfig::Siglip(_) if config.family == Family::Seed => Preprocess::clip(side),
        VisionConfig::Siglip(_) => Preprocess::siglip(side),
        // It was trained on frames that ffmpeg had scaled.
        VisionConfig::SiglipHead(_) => {
            return Ok(Prepare::Pixels(Preprocess { fit: Fit::Inside { black: true }, ..Preprocess::siglip(side) }));
        }
        VisionConfig::Spotter(cfg) => return Ok(Prepare::Patches(cfg.clone())),
    };
    let own: Option<HfImageProcessor> = checkpoint.json_if_present("preprocessor_config.json")?;
    let nested =
        || checkpoint.json_if_present::<Processor>("processor_config.json").map(|p| p.and_then(|p| p.image_processor));
    let hf = own.map_or_else(nested, |own| Ok(Some(own)))?;
    let mut pixels = match &hf {
        Some(hf) => default.with_settings(hf)?,
        None => default,
    };
    let squared = hf.as_ref().and_then(|hf| hf.pad_to_square).unwrap_or(true);
    match (config.family, &config.tiling) {
        (Family::Seed, _) => pixels.fit = if squared { Fit::Inside { black: false } } else { Fit::Stretch },
        // Tiles keep the proportions, so the whole need not.
        (_, Some(_)) => pixels.fit = Fit::Stretch,
        (_, None) => {}
    }
    let planes = hf.and_then(|hf| hf.possible_resolutions);
    if let (Some(planes), Some(tiling)) = (planes.filter(|p| !p.is_empty()), &config.tiling)
        && planes != tiling.planes
    {
        let expected = format!("those of config.json, {:?}", tiling.planes);
        return Err(ConfigError::new("preprocessor: possible_resolutions", expected, format!("{planes:?}")).into());
    }
    Ok(Prepare::Pixels(pixels))
}

/// Fills in what `config.json` leaves open about a decoder and the other files tell: norms behind attention and MLP, rows
/// that pad the embedding, ends of a turn. `body` is the prefix of its layers.
///
/// # Errors
/// Norms that the configuration denies, or a `generation_config.json` that is none.
pub(crate) fn settle(
    config: &mut DecoderConfig,
    hf: &HfDecoderConfig,
    checkpoint: &Checkpoint,
    body: &str,
) -> Result<(), WeightsError> {
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<TokenIds>,
    }
    let rows = checkpoint.tensors().get(&format!("{body}.embed_tokens.weight")).and_then(|t| t.shape.first().copied());
    if let Some(padded) = hf.padded_vocab_size.filter(|n| Some(*n) == rows && *n > config.vocab) {
        config.vocab = padded;
    }
    if config.kind == DecoderKind::HyperClovaX {
        // The published codes differ in what they take where the file says nothing.
        let there = checkpoint.tensors().contains_key(&format!("{body}.layers.0.post_norm1.weight"));
        if hf.use_post_norm == Some(false) && there {
            let found = format!("false, but {body}.layers.0.post_norm1.weight is there");
            return Err(ConfigError::new("use_post_norm", "true", found).into());
        }
        config.post_norm = hf.use_post_norm.unwrap_or(there);
    }
    let generation: Option<Generation> = checkpoint.json_if_present("generation_config.json")?;
    let more = generation.and_then(|g| g.eos_token_id).map(|ids| ids.to_vec()).unwrap_or_default();
    for id in more {
        if !config.eos.contains(&id) {
            config.eos.push(id);
        }
    }
    Ok(())
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
        let norms = ["input_layernorm", "post_attention_layernorm", "post_norm1", "post_norm2"];
        for norm in norms.into_iter().take(if cfg.post_norm { 4 } else { 2 }) {
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
