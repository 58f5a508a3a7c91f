//! Making a file: of a folder with safetensors, of another file, or of weights by chance. A LLaVA folder becomes two files.

use super::{
    Gguf, Planned, Value, decoder_config, mmproj, mmproj_of,
    names::{DECODER, ROPE_FACTORS},
    target::{Rule, Target, Wanted},
    vocabulary, write,
};
use crate::{
    model::{
        DecoderConfig, DecoderKind, HfDecoderConfig, Plan,
        config::Multipliers,
        plan::{decoder_tensors, settle, template_folder},
        rope::{self, RopeScaling},
    },
    prompt::template_source,
    tokenizer::Tokenizer,
    weights::{Checkpoint, WeightsError, file_of, read_json},
};
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml},
};
use candle_nn::VarBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

/// Numbers that a thread packs at once.
const PIECE: usize = 1 << 16;
/// Numbers by chance that are packed; every tensor is made of units of these.
const POOL: usize = 1 << 18;
/// Standard deviation of weights by chance.
const STD: f32 = 0.02;

/// Where weights come from.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A folder with `config.json`, `tokenizer.json` and safetensors, or a GGUF file.
    Model(&'a Path),
    /// Chance: one of [`SHAPES`] with the tokenizer of such a model.
    Random(&'a Path, &'a str),
}

/// Shapes for weights by chance.
pub const SHAPES: [&str; 4] = ["tiny", "135m", "1b", "7b"];

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantised {
    /// The file.
    pub file: PathBuf,
    /// Numbers in all tensors.
    pub numbers: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Tensors of each type.
    pub types: BTreeMap<String, usize>,
    /// Of a LLaVA folder, the file with tower and projector.
    pub mmproj: Option<Box<Quantised>>,
}

/// A file to be written.
pub(super) struct Model {
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) tensors: Vec<(String, Vec<usize>)>,
    pub(super) rule: Rule,
    pub(super) weights: Weights,
}

pub(super) enum Weights {
    File(Gguf),
    Folder { vb: VarBuilder<'static>, names: HashMap<String, Origin> },
    Random(Box<ChaCha8Rng>, HashMap<&'static str, Vec<u8>>),
}

/// What a folder has for a tensor of a file.
pub(super) enum Origin {
    /// A tensor by its name; with heads, whose rows llama.cpp has in another order.
    Tensor(String, Option<usize>),
    /// Numbers that its configuration tells.
    Numbers(Vec<f32>),
}

/// Writes `out`, and of a LLaVA folder also the file that [`mmproj_of`] names; `told` hears of each tensor before it is made: how many
/// are done, and of how many.
///
/// # Errors
/// A model that can't be read or has no place in a GGUF file, or a file that can't be written.
pub fn quantise(
    source: &Source<'_>,
    out: &Path,
    wanted: impl Into<Wanted>,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Quantised, WeightsError> {
    let wanted = wanted.into();
    let (mut decoder, mut eyes) = match source {
        Source::Model(path) if sees(path) => Model::llava(path)?,
        Source::Model(path) => (Model::open(path)?, None),
        Source::Random(path, shape) => (Model::open(path)?.random(shape)?, None),
    };
    let beside = mmproj_of(out);
    if eyes.is_some() && beside.exists() {
        return Err(WeightsError::file(&beside, "is there already: name another file, or remove it first"));
    }
    let all = decoder.tensors.len() + eyes.as_ref().map_or(0, |eyes| eyes.tensors.len());
    let mut done = 0;
    let mut next = || {
        told(done, all);
        done += 1;
    };
    let mmproj = match &mut eyes {
        Some(eyes) => Some(Box::new(eyes.write(&beside, wanted.mmproj, &mut next)?)),
        None => None,
    };
    let report = decoder.write(out, wanted.decoder, &mut next)?;
    told(all, all);
    Ok(Quantised { mmproj, ..report })
}

/// Whether a folder's configuration has a tower in it.
fn sees(path: &Path) -> bool {
    let config = read_json::<serde_json::Value>(&file_of(path, "config.json"));
    path.is_dir() && config.is_ok_and(|config| config.get("vision_config").is_some())
}

impl Model {
    fn open(path: &Path) -> Result<Self, WeightsError> {
        if path.is_dir() { Self::folder(path) } else { Self::file(path) }
    }

    fn file(path: &Path) -> Result<Self, WeightsError> {
        let file = Gguf::open(path)?;
        // What is no decoder that is read here would be written without anyone knowing how its tensors are used.
        let config = decoder_config(&file)?;
        let metadata = file.metadata().iter().filter(|(key, _)| *key != "general.alignment");
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        let tensors = file.tensors().iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect();
        let rule = Rule::Decoder { tied: config.tied };
        Ok(Self { metadata, tensors, rule, weights: Weights::File(file) })
    }

    /// Packs and writes all of it.
    fn write(&mut self, out: &Path, target: Target, next: &mut dyn FnMut()) -> Result<Quantised, WeightsError> {
        self.set("general.file_type", Value::Integer(target.number()));
        self.set("general.quantization_version", Value::Integer(2));
        let plan = |(name, shape): &(String, Vec<usize>)| Planned {
            dtype: self.rule.dtype(name, shape, target),
            name: name.clone(),
            shape: shape.clone(),
        };
        let planned: Vec<Planned> = self.tensors.iter().map(plan).collect();
        let (file, types) = (out.to_owned(), BTreeMap::new());
        let mut report = Quantised { file, numbers: 0, bytes: 0, types, mmproj: None };
        for tensor in &planned {
            report.numbers += tensor.shape.iter().product::<usize>();
            report.bytes += tensor.bytes();
            *report.types.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
        }
        write(out, &self.metadata, &planned, |tensor| {
            next();
            self.weights.bytes(tensor)
        })?;
        Ok(report)
    }

    /// Both files of a LLaVA folder.
    fn llava(folder: &Path) -> Result<(Self, Option<Self>), WeightsError> {
        let plan = Plan::open(folder)?;
        let eyes = mmproj::model(&plan)?;
        let (body, head) = (format!("{}.", plan.layout.body), format!("{}.", plan.layout.head));
        let decoder = Self::decoder(&plan.config.text, &plan.checkpoint, (&body, &head))?;
        Ok((decoder, Some(eyes)))
    }

    fn folder(folder: &Path) -> Result<Self, WeightsError> {
        let config_file = file_of(folder, "config.json");
        let hf: HfDecoderConfig = read_json(&config_file)?;
        let mut config = DecoderConfig::from_hf(&hf, "")?;
        let checkpoint = Checkpoint::open(folder)?;
        settle(&mut config, &hf, &checkpoint, "model")?;
        Self::decoder(&config, &checkpoint, ("model.", "lm_head."))
    }

    /// The decoder of a folder, whose tensors lie under the prefixes of body and head.
    fn decoder(
        config: &DecoderConfig,
        checkpoint: &Checkpoint,
        (body, head): (&str, &str),
    ) -> Result<Self, WeightsError> {
        let folder = checkpoint.folder();
        let wrong = |what| WeightsError::file(&file_of(folder, "config.json"), what);
        let arch = architecture(config).map_err(wrong)?;
        let (embedding, layers) = decoder_tensors(config, body, head);
        checkpoint.require(&embedding)?;
        checkpoint.require(&layers)?;
        let tokenizer_file = file_of(folder, "tokenizer.json");
        let mut metadata = vec![("general.architecture".to_owned(), Value::Text(arch.into()))];
        metadata.extend(numbers(config, arch));
        metadata.extend(vocabulary::keys(&tokenizer_file, &read_json(&tokenizer_file)?, config.vocab)?);
        let ids = [("bos_token_id", config.bos), ("eos_token_id", config.eos.first().copied())];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id?)));
        metadata.extend(ids.map(|(name, id)| (format!("tokenizer.ggml.{name}"), Value::Integer(i64::from(id)))));
        // Whether a text begins with it is what the tokenizer does.
        let begins = Tokenizer::from_file(&tokenizer_file)?.encode("", true).unwrap_or_default();
        let begins = config.bos.is_some() && begins.first().copied() == config.bos;
        metadata.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(begins)));
        if let Some(template) = template_source(&template_folder(folder))? {
            metadata.push(("tokenizer.chat_template".into(), Value::Text(template)));
        }
        let mut names = HashMap::new();
        let mut tensors = Vec::new();
        let (plain_embedding, plain_layers) = decoder_tensors(config, "model.", "lm_head.");
        let plain = plain_embedding.into_iter().chain(plain_layers);
        for (spec, plain) in embedding.into_iter().chain(layers).zip(plain) {
            let name = DECODER.short(&plain.name).ok_or_else(|| {
                WeightsError::file(folder, format!("tensor {}: llama.cpp has no name for it", spec.name))
            })?;
            // llama.cpp turns neighbours in its `llama`, the checkpoints turn halves.
            let heads = match name.rsplit('.').nth(1) {
                Some("attn_q") if arch == "llama" => Some(config.heads),
                Some("attn_k") if arch == "llama" => Some(config.kv_heads),
                _ => None,
            };
            tensors.push((name.clone(), spec.shape));
            names.insert(name, Origin::Tensor(spec.name, heads));
        }
        if let Some(factors) = own_factors(config) {
            tensors.push((ROPE_FACTORS.to_owned(), vec![factors.len()]));
            names.insert(ROPE_FACTORS.to_owned(), Origin::Numbers(factors));
        }
        let weights = Weights::Folder { vb: checkpoint.var_builder(DType::F32, &Device::Cpu)?, names };
        Ok(Self { metadata, tensors, rule: Rule::Decoder { tied: config.tied }, weights })
    }

    /// The same tokenizer with weights by chance of another shape.
    fn random(self, shape: &str) -> Result<Self, WeightsError> {
        let vocab = self.metadata.iter().find_map(|(key, value)| match value {
            Value::Texts(tokens) if key == "tokenizer.ggml.tokens" => Some(tokens.len()),
            _ => None,
        });
        let vocab = vocab.unwrap_or(0);
        // Width, inside of the MLP, layers, heads, key heads, positions, base of the rotations.
        let (width, mlp, layers, heads, kv_heads, positions, theta) = match shape {
            "135m" => (576, 1536, 30, 9, 3, 8192, 1e5),
            "1b" => (2048, 8192, 16, 32, 8, 8192, 5e5),
            "7b" => (4096, 11008, 32, 32, 32, 4096, 1e4),
            _ => (256, 512, 2, 4, 2, 512, 1e4),
        };
        let hf = HfDecoderConfig {
            model_type: Some("llama".into()),
            vocab_size: Some(vocab),
            hidden_size: Some(width),
            intermediate_size: Some(mlp),
            num_hidden_layers: Some(layers),
            num_attention_heads: Some(heads),
            num_key_value_heads: Some(kv_heads),
            max_position_embeddings: Some(positions),
            rms_norm_eps: Some(1e-5),
            rope_theta: Some(theta),
            tie_word_embeddings: Some(true),
            ..HfDecoderConfig::default()
        };
        let config = DecoderConfig::from_hf(&hf, "")?;
        let mut metadata = vec![("general.architecture".to_owned(), Value::Text("llama".into()))];
        metadata.extend(numbers(&config, "llama"));
        metadata.extend(self.metadata.into_iter().filter(|(key, _)| key.starts_with("tokenizer.")));
        let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
        let named = |spec: spotter_vision::encoder::TensorSpec| Some((DECODER.short(&spec.name)?, spec.shape));
        let tensors = embedding.into_iter().chain(layers).filter_map(named).collect();
        let weights = Weights::Random(Box::new(ChaCha8Rng::seed_from_u64(1)), HashMap::new());
        Ok(Self { metadata, tensors, rule: Rule::Decoder { tied: true }, weights })
    }

    fn set(&mut self, key: &str, value: Value) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }
}

/// The name of a decoder's kind in a file; what it has that such a file does not say is the error.
fn architecture(config: &DecoderConfig) -> Result<&'static str, String> {
    let arch = match config.kind {
        DecoderKind::Llama | DecoderKind::Mistral => "llama",
        DecoderKind::Qwen2 => "qwen2",
        DecoderKind::HyperClovaX => {
            return Err("model_type: expected llama, mistral or qwen2, found hyperclovax".into());
        }
    };
    if arch == "qwen2" && own_factors(config).is_some() {
        return Err("rope_scaling: expected none or linear, as `qwen2` has no place for others in a file".into());
    }
    if config.window.is_some_and(|window| window < config.max_positions) {
        return Err("sliding_window: expected none, as a GGUF file of this kind does not tell of one".into());
    }
    let plain = config.multipliers == Multipliers::default() && !config.post_norm;
    if config.out_bias || config.mlp_bias || !plain || (config.qkv_bias && arch == "llama") {
        return Err(format!("a decoder with biases, norms or factors that `{arch}` does not have"));
    }
    Ok(arch)
}

/// What each frequency is divided by, where it is not one number for all.
fn own_factors(config: &DecoderConfig) -> Option<Vec<f32>> {
    match config.rope_scaling {
        RopeScaling::None | RopeScaling::Linear(_) => None,
        RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => rope::factors(config),
    }
}

/// Sizes and other numbers of a decoder.
fn numbers(config: &DecoderConfig, arch: &str) -> Vec<(String, Value)> {
    let sizes = [
        ("vocab_size", config.vocab),
        ("context_length", config.max_positions),
        ("embedding_length", config.width),
        ("block_count", config.layers),
        ("feed_forward_length", config.mlp_width),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ];
    let sizes = sizes.map(|(name, n)| (format!("{arch}.{name}"), Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))));
    let floats = [("attention.layer_norm_rms_epsilon", config.norm_eps), ("rope.freq_base", config.rope_theta)];
    let floats = floats.map(|(name, x)| (format!("{arch}.{name}"), Value::Float(x)));
    let stretched = match config.rope_scaling {
        RopeScaling::Linear(factor) => vec![
            (format!("{arch}.rope.scaling.type"), Value::Text("linear".into())),
            (format!("{arch}.rope.scaling.factor"), Value::Float(factor)),
        ],
        _ => Vec::new(),
    };
    sizes.into_iter().chain(floats).chain(stretched).collect()
}

impl Weights {
    /// The bytes of a tensor in the type that is planned.
    fn bytes(&mut self, tensor: &Planned) -> Result<Vec<u8>, WeightsError> {
        match self {
            Self::File(file) => {
                let Some(entry) = file.tensors().get(&tensor.name) else {
                    return Err(file.error(format!("tensor {} is gone", tensor.name)).into());
                };
                if entry.dtype == tensor.dtype {
                    return Ok(file.data(entry).to_vec());
                }
                let packed = qtensor_from_ggml(entry.dtype, file.data(entry), entry.shape.clone(), &Device::Cpu)?;
                let numbers = packed.dequantize(&Device::Cpu)?;
                file.give_back(entry);
                pack(&numbers, tensor.dtype)
            }
            Self::Folder { vb, names } => {
                let shape = tensor.shape.as_slice();
                let numbers = match names.get(&tensor.name) {
                    Some(Origin::Tensor(name, None)) => vb.get(shape, name)?,
                    Some(Origin::Tensor(name, Some(heads))) => neighbours(&vb.get(shape, name)?, *heads)?,
                    Some(Origin::Numbers(numbers)) => Tensor::from_slice(numbers, shape, &Device::Cpu)?,
                    None => {
                        return Err(candle_core::Error::Msg(format!("no tensor is written as {}", tensor.name)).into());
                    }
                };
                pack(&numbers, tensor.dtype)
            }
            Self::Random(rng, pools) => {
                if tensor.shape.len() == 1 {
                    return pack(&Tensor::ones(tensor.shape.as_slice(), DType::F32, &Device::Cpu)?, tensor.dtype);
                }
                let (size, columns) = (tensor.dtype.type_size(), tensor.dtype.block_size());
                let pool = match pools.entry(kind(tensor.dtype)) {
                    std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                    std::collections::hash_map::Entry::Vacant(new) => new.insert(by_chance(rng, tensor.dtype)?),
                };
                let mut bytes = Vec::with_capacity(tensor.bytes());
                for _ in 0..tensor.shape.iter().product::<usize>() / columns {
                    let unit = rng.random_range(0..pool.len() / size);
                    bytes.extend_from_slice(pool.get(unit * size..(unit + 1) * size).unwrap_or_default());
                }
                Ok(bytes)
            }
        }
    }
}

/// A type as a key.
fn kind(dtype: GgmlDType) -> &'static str {
    Target::ALL.into_iter().find(|t| t.dtype() == dtype).map_or("other", Target::name)
}

/// Numbers by chance in a type.
fn by_chance(rng: &mut ChaCha8Rng, dtype: GgmlDType) -> Result<Vec<u8>, WeightsError> {
    // A sum of twelve even ones is close enough to a normal one.
    let normal = |rng: &mut ChaCha8Rng| STD * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
    let numbers: Vec<f32> = (0..POOL).map(|_| normal(rng)).collect();
    pack(&Tensor::from_vec(numbers, (POOL / 1024, 1024), &Device::Cpu)?, dtype)
}

/// Numbers to the bytes of a type, rows on all threads.
fn pack(numbers: &Tensor, dtype: GgmlDType) -> Result<Vec<u8>, WeightsError> {
    let width = numbers.dims().last().copied().unwrap_or(1).max(1);
    let numbers = numbers.flatten_all()?.to_vec1::<f32>()?;
    let rows = (PIECE / width).max(1);
    let piece = |numbers: &[f32]| -> candle_core::Result<Vec<u8>> {
        let tensor = Tensor::from_slice(numbers, (numbers.len() / width, width), &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
    };
    let pieces = numbers.par_chunks(rows * width).map(piece).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(pieces.concat())
}

/// Rows of each head from `a0 a1 .. b0 b1 ..` to `a0 b0 a1 b1 ..`.
fn neighbours(weight: &Tensor, heads: usize) -> Result<Tensor, WeightsError> {
    let (rows, width) = weight.dims2()?;
    let apart = weight.reshape((heads, 2, rows / heads / 2, width))?;
    Ok(apart.transpose(1, 2)?.contiguous()?.reshape((rows, width))?)
}
