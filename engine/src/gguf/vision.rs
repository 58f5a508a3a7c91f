//! A LLaVA model of two files: a decoder, and a tower with its projector in llama.cpp's layout (`general.architecture = clip`).

use super::{
    Gguf, GgufError, Value, chat_template, decoder_config,
    names::{DOWN, UP, in_file, seeing},
    pair,
    source::Tensors,
    tiles, tokenizer_with,
};
use crate::{
    model::{
        Plan,
        llava_config::{ConnectorConfig, Family, LlavaConfig, VisionConfig},
        plan::{Layout, Parts, check_pooling, read_vision},
        projector::LINEAR,
        tiling::Tiling,
    },
    prompt::ChatTemplate,
    weights::{Checkpoint, WeightsError, home},
};
use spotter_vision::{
    encoder::{Activation, Prepare, TowerConfig},
    preprocess::{Fit, Preprocess},
};
use std::{path::Path, sync::Arc};

/// Stands for a picture in a prompt.
pub(super) const IMAGE: &str = "<image>";

/// Stands for a video in one.
const VIDEO: &str = "<video>";

/// How Vicuna is asked, for files that do not tell.
const VICUNA: &str = "\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content ~ ' ' }}
{%- elif message.role == 'user' %}{{ 'USER: ' ~ message.content ~ ' ' }}
{%- else %}{{ 'ASSISTANT: ' ~ message.content ~ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}";

/// How Mistral is asked in LLaVA-NeXT, for files that do not tell.
const MISTRAL: &str = "\
{%- set ns = namespace(before='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}{% set ns.before = '<<SYS>>\n' ~ message.content ~ '\n<</SYS>>\n\n' %}
{%- elif message.role == 'user' %}{{ '[INST] ' ~ ns.before ~ message.content ~ ' [/INST]' }}{% set ns.before = '' %}
{%- else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}
{%- endfor %}";

/// What a file says about its tower.
struct Tower {
    config: VisionConfig,
    depth: usize,
    prepare: Preprocess,
    family: Family,
    tiling: Option<Tiling>,
}

/// Reads and checks both files of a model; `path` is the decoder or a folder with both.
///
/// # Errors
/// Files that are missing, or the first key or tensor that does not fit.
pub(crate) fn plan(path: &Path) -> Result<Plan, WeightsError> {
    let files = pair(path)?;
    let [decoder, mmproj] = [Gguf::open(&files.decoder)?, Gguf::open(&files.mmproj)?].map(Arc::new);
    let text = decoder_config(&decoder)?;
    let tower = tower(&mmproj)?;
    // The original LLaVA has no token for pictures: one behind all others stands for them, which no logits are for.
    let tokens = decoder.texts("tokenizer.ggml.tokens")?;
    let known = tokens.iter().any(|token| token == IMAGE);
    let tokenizer = tokenizer_with(&decoder, (!known).then_some(IMAGE))?;
    let image_token = tokenizer.id(IMAGE);
    tokenizer.check(text.vocab.max(if known { 0 } else { tokens.len() + 1 }), image_token)?;
    let config = LlavaConfig {
        family: tower.family,
        text,
        vision: tower.config,
        vision_depth: tower.depth,
        keep_class: false,
        image_token,
        video_token: tokenizer.id(VIDEO).filter(|_| tower.family == Family::OneVision),
        connector: ConnectorConfig::Mlp { bias: mmproj.tensors().contains_key("mm.0.bias"), names: LINEAR },
        tiling: tower.tiling,
        live: None,
    };
    let vision = read_vision(home(path), &config)?;
    check_pooling(&vision, &config)?;
    let layout = Layout {
        vision: "vision_tower.vision_model".into(),
        projector: "multi_modal_projector".into(),
        body: "language_model.model".into(),
        head: "language_model.lm_head".into(),
        newline: "image_newline".into(),
    };
    let parts = Parts::of(&config, &vision, &layout);
    let mut tensors = Tensors::default();
    let [body, head] = [&layout.body, &layout.head].map(|prefix| format!("{prefix}."));
    tensors.add_decoder(&decoder, &config.text, &body, &head)?;
    add_vision(&mut tensors, &mmproj, &config.vision, &parts, &layout)?;
    let checkpoint = Checkpoint::of_gguf(path, decoder, Arc::new(tensors));
    Ok(Plan { checkpoint, config, layout, vision, prepare: Prepare::Pixels(tower.prepare), tokenizer })
}

/// How a model of a family is asked: by the file's template, or where it has none and Llama 2's kind of tokenizer, as Vicuna; a
/// LLaVA-NeXT whose heads share keys, as no Vicuna's do, as Mistral.
pub(crate) fn template(file: &Gguf, image_token: &str, family: Family) -> Result<ChatTemplate, GgufError> {
    let missing = match file.text("tokenizer.ggml.model") {
        Ok("llama") if family == Family::Next && shares_keys(file)? => Some(MISTRAL),
        Ok("llama") => Some(VICUNA),
        _ => None,
    };
    let template = chat_template(file, image_token, missing)?;
    template.ok_or_else(|| file.error("tokenizer.chat_template: expected a chat template, found nothing"))
}

/// Whether a decoder has fewer heads of keys than of queries.
fn shares_keys(file: &Gguf) -> Result<bool, GgufError> {
    let config = decoder_config(file)?;
    Ok(config.kv_heads < config.heads)
}

/// Where the tensors of tower and projector lie.
fn add_vision(
    tensors: &mut Tensors,
    mmproj: &Arc<Gguf>,
    vision: &VisionConfig,
    parts: &Parts,
    layout: &Layout,
) -> Result<(), GgufError> {
    let swapped = swapped(mmproj, vision);
    // Towers compute with numbers; the projector multiplies like the decoder.
    for (specs, packs) in [(&parts.vision, false), (&parts.projector, true)] {
        for spec in specs {
            let missing = || mmproj.error(format!("llama.cpp has no name for {}", spec.name));
            let mut name = seeing(&spec.name, layout).ok_or_else(missing)?;
            if swapped {
                name = match name.contains(UP) {
                    true => name.replace(UP, DOWN),
                    false => name.replace(DOWN, UP),
                };
            }
            tensors.add(mmproj, in_file(&name, mmproj), spec.name.clone(), &spec.shape, None, packs)?;
        }
    }
    Ok(())
}

/// Older converters called the first map of an MLP its second; shapes tell.
fn swapped(file: &Gguf, vision: &VisionConfig) -> bool {
    let (VisionConfig::Clip(cfg) | VisionConfig::Siglip(cfg)) = vision else { return false };
    let down = file.tensors().get(&format!("v.blk.0.{DOWN}.weight"));
    cfg.hidden_size != cfg.intermediate_size
        && down.is_some_and(|t| t.shape == [cfg.intermediate_size, cfg.hidden_size])
}

/// Reads the keys of a tower and a projector of two maps.
fn tower(file: &Gguf) -> Result<Tower, GgufError> {
    for (key, expected, missing) in [("general.architecture", "clip", ""), ("clip.projector_type", "mlp", "mlp")] {
        let found = file.text_or(key, missing)?;
        if found != expected {
            return Err(file.error(format!("{key}: expected {expected}, found `{found}`")));
        }
    }
    if !file.flag("clip.has_vision_encoder", true)? || file.flag("clip.use_silu", false)? {
        return Err(file.error("expected a vision tower with GELU (clip.has_vision_encoder, clip.use_silu)"));
    }
    // Its norm behind the last layer would be left out.
    if file.tensors().contains_key("v.post_ln.weight") {
        return Err(file.error("tensor v.post_ln.weight: towers with a norm behind their layers are not read"));
    }
    let class = file.tensors().contains_key("v.class_embd");
    let size = |name: &str| file.size(&format!("clip.vision.{name}"));
    let tower = TowerConfig {
        hidden_size: size("embedding_length")?,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: size("block_count")?,
        num_attention_heads: size("attention.head_count")?,
        image_size: size("image_size")?,
        patch_size: size("patch_size")?,
        num_channels: 3,
        hidden_act: match (file.flag("clip.use_gelu", false)?, class) {
            (false, _) => Activation::QuickGelu,
            (true, true) => Activation::Gelu,
            (true, false) => Activation::GeluTanh,
        },
        layer_norm_eps: file.float("clip.vision.attention.layer_norm_epsilon")?,
        tosa: None,
    };
    if let Some((field, expected, found)) = tower.problem() {
        return Err(file.error(format!("clip.vision: {field}: expected {expected}, found {found}")));
    }
    let depth = depth(file, tower.num_hidden_layers)?;
    let tiles = tiles::read(file, tower.image_size)?;
    let prepare = prepare(file, class, tower.image_size, tiles.is_some())?;
    let (family, tiling) = tiles.map_or((Family::Llava, None), |(family, tiling)| (family, Some(tiling)));
    let config = if class { VisionConfig::Clip(tower) } else { VisionConfig::Siglip(tower) };
    Ok(Tower { config, depth, prepare, family, tiling })
}

/// Layers to run. Without a word, all that are in the file: converters leave out those behind the one that LLaVA reads.
fn depth(file: &Gguf, layers: usize) -> Result<usize, GgufError> {
    let key = "clip.vision.feature_layer";
    match file.metadata().get(key) {
        None => Ok(layers),
        Some(Value::Integers(all)) => match all.as_slice() {
            [one] if usize::try_from(*one).is_ok_and(|one| one <= layers) => Ok(*one as usize),
            _ => Err(file.error(format!("{key}: expected one number from 0 to {layers}, found {all:?}"))),
        },
        Some(other) => Err(file.error(format!("{key}: expected one number, found {}", other.kind()))),
    }
}

/// Key and value for how a picture becomes a square.
pub(super) const ASPECT: &str = "clip.vision.image_aspect_ratio";
/// With bars, as LLaVA 1.5 was trained.
pub(super) const PAD: &str = "pad";
/// As the tower was trained.
pub(super) const SQUARE: &str = "square";

fn prepare(file: &Gguf, class: bool, side: usize, tiled: bool) -> Result<Preprocess, GgufError> {
    let mut pixels = if class { Preprocess::clip(side) } else { Preprocess::siglip(side) };
    match file.text_or(ASPECT, PAD)? {
        // Tiles keep the proportions, so the whole need not.
        _ if tiled => pixels.fit = Fit::Stretch,
        PAD => pixels.fit = Fit::Pad,
        SQUARE => {}
        other => return Err(file.error(format!("{ASPECT}: expected {PAD} or {SQUARE}, found `{other}`"))),
    }
    for (key, colours) in [("image_mean", &mut pixels.mean), ("image_std", &mut pixels.std)] {
        let key = format!("clip.vision.{key}");
        let given = match file.metadata().get(&key) {
            None => continue,
            Some(Value::Floats(given)) => given.as_slice(),
            Some(_) => &[],
        };
        let [r, g, b] = given else { return Err(file.error(format!("{key}: expected three numbers"))) };
        *colours = [*r as f32, *g as f32, *b as f32];
    }
    match pixels.std.iter().all(|s| s.is_normal()) {
        true => Ok(pixels),
        false => {
            Err(file.error(format!("clip.vision.image_std: expected numbers other than 0, found {:?}", pixels.std)))
        }
    }
}
