//! Making a file: of a folder with safetensors, of another file, or of weights by chance.

use super::{
    Gguf, Planned, Value, decoder_config,
    model::{DECODER, LAYER},
    vocabulary, write,
};
use crate::{
    model::{
        DecoderConfig, DecoderKind, HfDecoderConfig,
        config::{Multipliers, RopeScaling},
        plan::{decoder_tensors, settle, template_folder},
    },
    prompt::template_source,
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
    path::Path,
};

/// Numbers that a thread packs at once.
const PIECE: usize = 1 << 16;
/// Numbers by chance that are packed; every tensor is made of units of these.
const POOL: usize = 1 << 18;
/// Standard deviation of weights by chance.
const STD: f32 = 0.02;

/// What weights are packed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the file format")]
pub enum Target {
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Q4_0, Self::Q4_1, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K, Self::F16];

    /// As programs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    fn dtype(self) -> GgmlDType {
        match self {
            Self::F16 => GgmlDType::F16,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }

    /// `general.file_type`.
    fn number(self) -> i64 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q4K => 14,
            Self::Q5K => 16,
            Self::Q6K => 18,
        }
    }

    /// How a tensor is packed: norms and biases stay numbers, what makes the logits gets six bits at least, and rows that do not go into
    /// blocks of 256 get the next type that has blocks of 32.
    fn of(self, shape: &[usize], head: bool) -> GgmlDType {
        let &[_, width] = shape else { return GgmlDType::F32 };
        let wanted = match self {
            Self::F16 | Self::Q8_0 => self.dtype(),
            _ if head => GgmlDType::Q6K,
            _ => self.dtype(),
        };
        match wanted {
            _ if !width.is_multiple_of(32) => GgmlDType::F16,
            GgmlDType::Q4K if !width.is_multiple_of(256) => GgmlDType::Q5_0,
            GgmlDType::Q5K if !width.is_multiple_of(256) => GgmlDType::Q5_1,
            GgmlDType::Q6K if !width.is_multiple_of(256) => GgmlDType::Q8_0,
            wanted => wanted,
        }
    }
}

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
    /// Numbers in all tensors.
    pub numbers: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Tensors of each type.
    pub types: BTreeMap<String, usize>,
}

/// A model to be written.
struct Model {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<usize>)>,
    tied: bool,
    weights: Weights,
}

enum Weights {
    File(Gguf),
    Folder { vb: VarBuilder<'static>, names: HashMap<String, (String, Option<usize>)> },
    Random(Box<ChaCha8Rng>, HashMap<&'static str, Vec<u8>>),
}

/// Writes `out`; `told` hears of each tensor before it is made: how many are done, and of how many.
///
/// # Errors
/// A model that can't be read or has no place in a GGUF file, or a file that can't be written.
pub fn quantise(
    source: &Source<'_>,
    out: &Path,
    target: Target,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Quantised, WeightsError> {
    let mut model = match source {
        Source::Model(path) => Model::open(path)?,
        Source::Random(path, shape) => Model::open(path)?.random(shape)?,
    };
    model.set("general.file_type", Value::Integer(target.number()));
    model.set("general.quantization_version", Value::Integer(2));
    let head = if model.tied { "token_embd.weight" } else { "output.weight" };
    let plan = |(name, shape): &(String, Vec<usize>)| Planned {
        dtype: target.of(shape, name == head),
        name: name.clone(),
        shape: shape.clone(),
    };
    let planned: Vec<Planned> = model.tensors.iter().map(plan).collect();
    let mut report = Quantised { numbers: 0, bytes: 0, types: BTreeMap::new() };
    for tensor in &planned {
        report.numbers += tensor.shape.iter().product::<usize>();
        report.bytes += tensor.bytes();
        *report.types.entry(format!("{:?}", tensor.dtype)).or_default() += 1;
    }
    let mut done = 0;
    write(out, &model.metadata, &planned, |tensor| {
        told(done, planned.len());
        done += 1;
        model.weights.bytes(tensor)
    })?;
    told(done, planned.len());
    Ok(report)
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
        Ok(Self { metadata, tensors, tied: config.tied, weights: Weights::File(file) })
    }

    fn folder(folder: &Path) -> Result<Self, WeightsError> {
        let config_file = file_of(folder, "config.json");
        let hf: HfDecoderConfig = read_json(&config_file)?;
        let mut config = DecoderConfig::from_hf(&hf, "")?;
        let checkpoint = Checkpoint::open(folder)?;
        settle(&mut config, &hf, &checkpoint, "model")?;
        let arch = architecture(&config).map_err(|what| WeightsError::file(&config_file, what))?;
        let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
        checkpoint.require(&embedding)?;
        checkpoint.require(&layers)?;
        let tokenizer_file = file_of(folder, "tokenizer.json");
        let mut metadata = vec![("general.architecture".to_owned(), Value::Text(arch.into()))];
        metadata.extend(numbers(&config, arch));
        metadata.extend(vocabulary::keys(&tokenizer_file, &read_json(&tokenizer_file)?, config.vocab)?);
        let ids = [("bos_token_id", config.bos), ("eos_token_id", config.eos.first().copied())];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id?)));
        metadata.extend(ids.map(|(name, id)| (format!("tokenizer.ggml.{name}"), Value::Integer(i64::from(id)))));
        metadata.push(("tokenizer.ggml.add_bos_token".into(), Value::Bool(false)));
        if let Some(template) = template_source(&template_folder(folder))? {
            metadata.push(("tokenizer.chat_template".into(), Value::Text(template)));
        }
        let mut names = HashMap::new();
        let mut tensors = Vec::new();
        for spec in embedding.into_iter().chain(layers) {
            let name = short(&spec.name).ok_or_else(|| {
                WeightsError::file(folder, format!("tensor {}: llama.cpp has no name for it", spec.name))
            })?;
            // llama.cpp turns neighbours in its `llama`, the checkpoints turn halves.
            let heads = match name.rsplit('.').nth(1) {
                Some("attn_q") if arch == "llama" => Some(config.heads),
                Some("attn_k") if arch == "llama" => Some(config.kv_heads),
                _ => None,
            };
            tensors.push((name.clone(), spec.shape));
            names.insert(name, (spec.name, heads));
        }
        let weights = Weights::Folder { vb: checkpoint.var_builder(DType::F32, &Device::Cpu)?, names };
        Ok(Self { metadata, tensors, tied: config.tied, weights })
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
        let named = |spec: spotter_vision::encoder::TensorSpec| Some((short(&spec.name)?, spec.shape));
        let tensors = embedding.into_iter().chain(layers).filter_map(named).collect();
        let weights = Weights::Random(Box::new(ChaCha8Rng::seed_from_u64(1)), HashMap::new());
        Ok(Self { metadata, tensors, tied: true, weights })
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
    if config.rope_scaling != RopeScaling::None {
        return Err("rope_scaling: expected none, as files with stretched positions are not read here".into());
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
    sizes.into_iter().chain(floats).collect()
}

/// llama.cpp's name of a tensor of a published checkpoint.
fn short(name: &str) -> Option<String> {
    if let Some((short, _)) = DECODER.iter().find(|(_, full)| *full == name) {
        return Some((*short).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (short, _) = LAYER.iter().find(|(_, full)| *full == part)?;
    Some(format!("blk.{layer}.{short}.{kind}"))
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
                let Some((name, heads)) = names.get(&tensor.name) else {
                    return Err(candle_core::Error::Msg(format!("no tensor is written as {}", tensor.name)).into());
                };
                let numbers = vb.get(tensor.shape.as_slice(), name)?;
                let numbers = match heads {
                    Some(heads) => neighbours(&numbers, *heads)?,
                    None => numbers,
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
