//! What CLIP and SigLIP have in common: patches, learned positions, and layers of attention and a plain MLP.
//!
//! Only the layers that are asked for are loaded and run, so a model that reads the last but one layer never pays for
//! the last.

#[cfg(feature = "cuda")]
use super::card;
use super::tosa::{Block, Join, Outline, Tosa, TosaOptions};
use crate::nn;
use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

/// A tensor that a model needs: its name in the checkpoint and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full name, with dots.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor under a prefix, which ends in a dot or is empty.
    pub fn new(prefix: &str, name: &str, shape: &[usize]) -> Self {
        Self { name: format!("{prefix}{name}"), shape: shape.to_vec() }
    }
}

/// The activation inside the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// The exact one.
    #[serde(rename = "gelu")]
    Gelu,
    /// The one through tanh.
    #[serde(rename = "gelu_pytorch_tanh", alias = "gelu_new")]
    GeluTanh,
}

impl Activation {
    /// Elementwise.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
        }
    }
}

/// `vision_config` of a checkpoint, with what the file leaves out filled in by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TowerConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers of the checkpoint, whether used or not.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Side of a picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Colours.
    pub num_channels: usize,
    /// Inside the MLP.
    pub hidden_act: Activation,
    /// Added under the root of the norms.
    pub layer_norm_eps: f64,
    /// Layers that work on some tokens only; left out, all work on all.
    #[serde(default)]
    pub tosa: Option<TosaOptions>,
}

impl TowerConfig {
    /// Patches along one side; a remainder of pixels is not looked at.
    pub fn side(&self) -> usize {
        self.image_size.checked_div(self.patch_size).unwrap_or(0)
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        self.side().pow(2)
    }

    /// The first field that can't make a tower: name, what it should be, what it is.
    pub fn problem(&self) -> Option<(&'static str, String, String)> {
        let fields = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("num_channels", self.num_channels),
        ];
        for (name, value) in fields {
            if value == 0 || value > 1 << 20 {
                return Some((name, "a number from 1 to 2^20".into(), value.to_string()));
            }
        }
        if self.num_hidden_layers > 1 << 10 {
            return Some(("num_hidden_layers", "at most 1024".into(), self.num_hidden_layers.to_string()));
        }
        if self.num_channels != 3 {
            return Some(("num_channels", "3".into(), self.num_channels.to_string()));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a divisor of hidden_size ({})", self.hidden_size);
            return Some(("num_attention_heads", expected, self.num_attention_heads.to_string()));
        }
        (self.patch_size > self.image_size)
            .then(|| ("patch_size", format!("at most image_size ({})", self.image_size), self.patch_size.to_string()))
    }

    /// Which hidden state an index of `vision_feature_layer` names: number of layers to run. 0 is the embedding;
    /// negative numbers count from the end. `None` when there is no such layer.
    pub fn depth(&self, layer: i64) -> Option<usize> {
        let states = self.num_hidden_layers as i64 + 1;
        let index = if layer < 0 { states + layer } else { layer };
        (0..states).contains(&index).then_some(index as usize)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        Self::of(vb.get((output, input), "weight")?, vb.get(output, "bias")?)
    }

    /// Of a weight `[out, in]` and a bias `[out]`.
    pub(super) fn of(weight: Tensor, bias: Tensor) -> Result<Self> {
        Ok(Self { weight: nn::laid_out(weight)?, bias })
    }

    /// Several maps of the same input as one.
    #[cfg(feature = "cuda")]
    fn joined(parts: [&Self; 3]) -> Result<Self> {
        let (weights, biases) = (parts.map(|p| &p.weight), parts.map(|p| &p.bias));
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias: Tensor::cat(&biases, 0)? })
    }

    /// `x [b, n, in]`, contiguous.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::linear(x, &self.weight, Some(&self.bias))
    }

    /// The same, and the activation behind it.
    fn activated(&self, x: &Tensor, act: Activation) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if card::fits(&[x, &self.bias]) {
            return card::activate(&nn::linear(x, &self.weight, None)?, &self.bias, act);
        }
        act.forward(&self.forward(x)?)
    }

    /// The same, added to `to`.
    fn added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if card::fits(&[x, to, &self.bias]) {
            return card::add(&nn::linear(x, &self.weight, None)?, &self.bias, to);
        }
        to + self.forward(x)?
    }
}

/// A norm over the last dimension.
#[derive(Clone, Debug)]
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub(super) fn new(cfg: &TowerConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get(cfg.hidden_size, "weight")?,
            bias: vb.get(cfg.hidden_size, "bias")?,
            eps: cfg.layer_norm_eps as f32,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Cuts a picture into patches and maps each to a token.
#[derive(Clone, Debug)]
pub(super) struct PatchEmbedding {
    /// `[hidden, 3 * patch * patch]`.
    weight: Tensor,
    bias: Option<Tensor>,
    patch: usize,
    side: usize,
    image: usize,
}

impl PatchEmbedding {
    pub(super) fn new(cfg: &TowerConfig, bias: bool, vb: VarBuilder) -> Result<Self> {
        let shape = (cfg.hidden_size, cfg.num_channels, cfg.patch_size, cfg.patch_size);
        let weight = nn::laid_out(vb.get(shape, "weight")?.flatten_from(1)?)?;
        let bias = if bias { Some(vb.get(cfg.hidden_size, "bias")?) } else { None };
        Ok(Self { weight, bias, patch: cfg.patch_size, side: cfg.side(), image: cfg.image_size })
    }

    /// `[b, 3, h, w]` to `[b, patches, hidden]`. Patches do not overlap, so the convolution is one product.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (b, channels, height, width) = pixels.dims4()?;
        if (channels, height, width) != (3, self.image, self.image) {
            candle_core::bail!(
                "the vision tower expects pictures of 3 x {0} x {0}, not {channels} x {height} x {width}",
                self.image
            );
        }
        let (p, s) = (self.patch, self.side);
        let cut = pixels.narrow(2, 0, s * p)?.narrow(3, 0, s * p)?.contiguous()?;
        let rows = cut.reshape(&[b, 3, s, p, s, p][..])?.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?;
        let mut tokens = rows.reshape((b * s * s, 3 * p * p))?.matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            tokens = tokens.broadcast_add(bias)?;
        }
        tokens.reshape((b, s * s, ()))
    }
}

/// The maps to queries, keys and values.
#[derive(Clone, Debug)]
enum Input {
    Apart([Linear; 3]),
    /// As one product, where kernels take it apart.
    #[cfg(feature = "cuda")]
    Joined(Linear),
}

impl Input {
    fn new(parts: [Linear; 3], dim: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if dim.is_multiple_of(8) && parts.iter().all(|part| card::fits(&[&part.weight, &part.bias])) {
            return Linear::joined(parts.each_ref()).map(Self::Joined);
        }
        let _ = dim;
        Ok(Self::Apart(parts))
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    input: Input,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    act: Activation,
    heads: usize,
}

impl Layer {
    fn new(cfg: &TowerConfig, vb: VarBuilder) -> Result<Self> {
        let (width, attention) = (cfg.hidden_size, vb.pp("self_attn"));
        let square = |name: &str| Linear::new(width, width, attention.pp(name));
        Ok(Self {
            norm1: LayerNorm::new(cfg, vb.pp("layer_norm1"))?,
            input: Input::new(
                [square("q_proj")?, square("k_proj")?, square("v_proj")?],
                width / cfg.num_attention_heads.max(1),
            )?,
            out: square("out_proj")?,
            norm2: LayerNorm::new(cfg, vb.pp("layer_norm2"))?,
            fc1: Linear::new(width, cfg.intermediate_size, vb.pp("mlp").pp("fc1"))?,
            fc2: Linear::new(cfg.intermediate_size, width, vb.pp("mlp").pp("fc2"))?,
            act: cfg.hidden_act,
            heads: cfg.num_attention_heads,
        })
    }

    /// Queries (already scaled), keys and values, `[b, heads, n, dim]`.
    fn split(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (b, n, width) = x.dims3()?;
        let dim = width / self.heads;
        let (x, scale) = (self.norm1.forward(x)?, 1.0 / (dim as f64).sqrt());
        match &self.input {
            #[cfg(feature = "cuda")]
            Input::Joined(all) => card::split(&nn::linear(&x, &all.weight, None)?, &all.bias, self.heads, scale as f32),
            Input::Apart([q, k, v]) => {
                let split = |t: Tensor| t.reshape((b, n, self.heads, dim))?.transpose(1, 2)?.contiguous();
                let q = (split(q.forward(&x)?)? * scale)?;
                Ok([q, split(k.forward(&x)?)?, split(v.forward(&x)?)?])
            }
        }
    }

    /// `x` with attention and the MLP added, and the products of queries and keys.
    fn attend(&self, x: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let scores = products(q, k)?;
        let weights = nn::softmax(&scores, 1.0, false)?.to_dtype(v.dtype())?;
        let x = self.out.added(&merged(&weights.matmul(v)?)?, x)?;
        let inner = self.fc1.activated(&self.norm2.forward(&x)?, self.act)?;
        Ok((self.fc2.added(&inner, &x)?, scores))
    }
}

/// Heads `[b, heads, n, dim]` side by side, `[b, n, heads * dim]`.
fn merged(mixed: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if card::fits(&[mixed]) {
        return card::merge(mixed);
    }
    mixed.transpose(1, 2)?.contiguous()?.flatten_from(2)
}

/// Products of queries and keys, `[b, heads, n, n]`. Half types lose the sum of many small weights, so what follows has f32;
/// on a card our softmax adds up in f32 by itself, and the memory of a wider copy is what costs time.
fn products(q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let scores = q.matmul(&k.t()?)?;
    if cfg!(feature = "cuda") && scores.device().is_cuda() { Ok(scores) } else { scores.to_dtype(DType::F32) }
}

impl Block for Layer {
    fn heads(&self) -> usize {
        self.heads
    }

    fn scores(&self, x: &Tensor) -> Result<Tensor> {
        let [q, k, _] = self.split(x)?;
        products(&q, &k)
    }

    fn forward_joined(&self, x: &Tensor, join: Join<'_>) -> Result<Tensor> {
        let [q, k, v] = self.split(x)?;
        let (k, v) = join(k, v)?;
        Ok(self.attend(x, &q, &k, &v)?.0)
    }

    fn forward_scored(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let [q, k, v] = self.split(x)?;
        self.attend(x, &q, &k, &v)
    }
}

/// The first layers of a tower.
#[derive(Clone, Debug)]
pub(super) struct Layers(Vec<Layer>);

impl Layers {
    pub(super) fn new(cfg: &TowerConfig, depth: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self((0..depth).map(|i| Layer::new(cfg, vb.pp(i))).collect::<Result<_>>()?))
    }

    pub(super) fn blocks(&self) -> Vec<&dyn Block> {
        self.0.iter().map(|layer| layer as &dyn Block).collect()
    }

    /// The selectors that a configuration asks for, under `vb` beside the layers.
    pub(super) fn tosa(cfg: &TowerConfig, depth: usize, class_tokens: usize, vb: &VarBuilder) -> Result<Option<Tosa>> {
        let of = Outline { depth, heads: cfg.num_attention_heads, class_tokens };
        cfg.tosa.as_ref().map(|options| Tosa::new(options, of, vb)).transpose()
    }

    /// What [`Self::new`] reads under `prefix`.
    pub(super) fn tensors(cfg: &TowerConfig, depth: usize, prefix: &str) -> Vec<TensorSpec> {
        let (w, m) = (cfg.hidden_size, cfg.intermediate_size);
        let parts = [
            ("layer_norm1", 1, w),
            ("self_attn.q_proj", w, w),
            ("self_attn.k_proj", w, w),
            ("self_attn.v_proj", w, w),
            ("self_attn.out_proj", w, w),
            ("layer_norm2", 1, w),
            ("mlp.fc1", w, m),
            ("mlp.fc2", m, w),
        ];
        let mut all = Vec::with_capacity(depth * parts.len() * 2);
        for i in 0..depth {
            for (name, input, output) in parts {
                let weight: &[usize] = if name.starts_with("layer_norm") { &[output] } else { &[output, input] };
                all.push(TensorSpec::new(prefix, &format!("{i}.{name}.weight"), weight));
                all.push(TensorSpec::new(prefix, &format!("{i}.{name}.bias"), &[output]));
            }
        }
        if let Some(options) = &cfg.tosa {
            // Shapes do not depend on class tokens.
            let of = Outline { depth, heads: cfg.num_attention_heads, class_tokens: 0 };
            all.extend(Tosa::tensors(options, of, prefix));
        }
        all
    }
}

/// Tokens plus their learned positions, `[n, hidden]`.
pub(super) fn add_positions(tokens: &Tensor, positions: &Tensor) -> Result<Tensor> {
    if tokens.dim(D::Minus2)? != positions.dim(0)? {
        candle_core::bail!("{} tokens but {} positions", tokens.dim(D::Minus2)?, positions.dim(0)?);
    }
    tokens.broadcast_add(positions)
}
