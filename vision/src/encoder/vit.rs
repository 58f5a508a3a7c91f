//! Spotter's own vision transformer: pre-norm, learned positions, a class token (Dosovitskiy et al., ICLR 2021).
//!
//! Small and plain: it looks at drawn bodies, not at photographs.

use super::{
    Encoder, TensorSpec,
    tosa::{Block, Join, Outline, Tosa, TosaOptions},
    trunk::{Prepare, Trunk},
};
use crate::{Frame, nn};
use candle_core::{DType, Device, Error, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

/// Shape of a [`Vit`]; `vision_config` of a checkpoint with `model_type = "spotter_vit"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Side of the square picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Of layer normalisation.
    pub layer_norm_eps: f32,
    /// Layers that work on some tokens only; left out, all work on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tosa: Option<TosaOptions>,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            image_size: 128,
            patch_size: 16,
            hidden_size: 128,
            intermediate_size: 512,
            num_hidden_layers: 6,
            num_attention_heads: 4,
            layer_norm_eps: 1e-5,
            tosa: None,
        }
    }
}

impl VitConfig {
    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size.max(1)).pow(2)
    }

    fn outline(&self) -> Outline {
        Outline { depth: self.num_hidden_layers, heads: self.num_attention_heads, class_tokens: 1 }
    }

    /// The reason why no model has this shape, if so.
    pub fn problem(&self) -> Option<String> {
        let Self { image_size, patch_size, hidden_size, num_attention_heads, .. } = self;
        let sizes = [*image_size, *hidden_size, self.intermediate_size];
        if sizes.iter().any(|size| *size > 1 << 20) || self.num_hidden_layers > 1 << 10 {
            return Some("no size may be above 2^20, and there may be 1024 layers".into());
        }
        if *patch_size == 0 || image_size % patch_size != 0 || *image_size == 0 {
            return Some(format!("image_size {image_size} must be a multiple of patch_size {patch_size}"));
        }
        if *num_attention_heads == 0 || hidden_size % num_attention_heads != 0 {
            return Some(format!(
                "hidden_size {hidden_size} must be a multiple of num_attention_heads {num_attention_heads}"
            ));
        }
        self.tosa.as_ref().and_then(|t| t.problem(self.num_hidden_layers))
    }
}

#[derive(Clone, Debug)]
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: (1.0 / inputs as f64).sqrt() * 0.7 };
        Ok(Self {
            weight: nn::laid_out(vb.get_with_hints((outputs, inputs), "weight", init)?)?,
            bias: vb.get_with_hints(outputs, "bias", Init::Const(0.0))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::linear(x, &self.weight, Some(&self.bias))
    }
}

#[derive(Clone, Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(config.hidden_size, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(config.hidden_size, "bias", Init::Const(0.0))?,
            eps: config.layer_norm_eps,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        nn::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Layer {
    fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        let (d, m) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            norm1: LayerNorm::new(config, vb.pp("norm1"))?,
            qkv: Linear::new(d, 3 * d, vb.pp("attn.qkv"))?,
            out: Linear::new(d, d, vb.pp("attn.proj"))?,
            norm2: LayerNorm::new(config, vb.pp("norm2"))?,
            fc1: Linear::new(d, m, vb.pp("mlp.fc1"))?,
            fc2: Linear::new(m, d, vb.pp("mlp.fc2"))?,
            heads: config.num_attention_heads,
        })
    }

    /// Queries, keys and values, `[b, heads, n, width]`.
    fn split(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (b, n, d) = x.dims3()?;
        let shape = (b, n, 3, self.heads, d / self.heads);
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?.reshape(shape)?.permute((2, 0, 3, 1, 4))?.contiguous()?;
        Ok([qkv.get(0)?, qkv.get(1)?, qkv.get(2)?])
    }

    fn scale(&self, q: &Tensor) -> f32 {
        1.0 / (q.dims().last().copied().unwrap_or(1) as f32).sqrt()
    }

    /// `x` with attention's `mixed [b, heads, n, width]` and the MLP added.
    fn finish(&self, x: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape(x.shape())?;
        let x = (x + self.out.forward(&mixed)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x)?)?.relu()?;
        &x + self.fc2.forward(&hidden)?
    }
}

impl Block for Layer {
    fn heads(&self) -> usize {
        self.heads
    }

    fn scores(&self, x: &Tensor) -> Result<Tensor> {
        let [q, k, _] = self.split(x)?;
        (&q * f64::from(self.scale(&q)))?.matmul(&k.t()?)?.to_dtype(DType::F32)
    }

    fn forward_joined(&self, x: &Tensor, join: Join<'_>) -> Result<Tensor> {
        let [q, k, v] = self.split(x)?;
        let (k, v) = join(k, v)?;
        self.finish(x, &nn::attention(&q, &k, &v, self.scale(&q), false)?)
    }

    fn forward_scored(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let [q, k, v] = self.split(x)?;
        // Half types lose the sum of many small weights.
        let scores = (&q * f64::from(self.scale(&q)))?.matmul(&k.t()?)?.to_dtype(DType::F32)?;
        let mixed = nn::softmax(&scores, 1.0, false)?.to_dtype(v.dtype())?.matmul(&v)?;
        Ok((self.finish(x, &mixed)?, scores))
    }
}

/// The vision transformer.
#[derive(Clone, Debug)]
pub struct Vit {
    config: VitConfig,
    patch: Linear,
    class: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: LayerNorm,
    tosa: Option<Tosa>,
    device: Device,
}

impl Vit {
    /// Reads (or, for training, creates) the weights below `vb`.
    pub fn new(config: &VitConfig, vb: VarBuilder) -> Result<Self> {
        if let Some(problem) = config.problem() {
            bail!("vision_config: {problem}");
        }
        let d = config.hidden_size;
        let small = Init::Randn { mean: 0.0, stdev: 0.02 };
        Ok(Self {
            patch: Linear::new(config.patch_size * config.patch_size * 3, d, vb.pp("embeddings.patch"))?,
            class: vb.get_with_hints((1, 1, d), "embeddings.class", small)?,
            positions: vb.get_with_hints((1, config.patches() + 1, d), "embeddings.position", small)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::new(config, vb.pp(format!("layers.{i}"))))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(config, vb.pp("norm"))?,
            tosa: match &config.tosa {
                Some(options) => Some(Tosa::new(options, config.outline(), &vb.pp("layers"))?),
                None => None,
            },
            device: vb.device().clone(),
            config: config.clone(),
        })
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot or is empty.
    pub fn tensors(config: &VitConfig, prefix: &str) -> Vec<TensorSpec> {
        let VitConfig { hidden_size: d, intermediate_size: m, patch_size, num_hidden_layers: depth, .. } = *config;
        let mut all = vec![
            TensorSpec::new(prefix, "embeddings.class", &[1, 1, d]),
            TensorSpec::new(prefix, "embeddings.position", &[1, config.patches() + 1, d]),
        ];
        let mut map = |name: &str, weight: &[usize]| {
            all.push(TensorSpec::new(prefix, &format!("{name}.weight"), weight));
            all.push(TensorSpec::new(prefix, &format!("{name}.bias"), &weight[..1]));
        };
        map("embeddings.patch", &[d, patch_size * patch_size * 3]);
        for i in 0..depth {
            map(&format!("layers.{i}.norm1"), &[d]);
            map(&format!("layers.{i}.attn.qkv"), &[3 * d, d]);
            map(&format!("layers.{i}.attn.proj"), &[d, d]);
            map(&format!("layers.{i}.norm2"), &[d]);
            map(&format!("layers.{i}.mlp.fc1"), &[m, d]);
            map(&format!("layers.{i}.mlp.fc2"), &[d, m]);
        }
        map("norm", &[d]);
        if let Some(options) = &config.tosa {
            all.extend(Tosa::tensors(options, config.outline(), &format!("{prefix}layers.")));
        }
        all
    }

    /// The shape it was built with.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Patches of pictures one after another, bytes as they are.
    ///
    /// # Errors
    /// A picture is not `image_size * image_size * 3` bytes.
    pub fn cut(config: &VitConfig, rgb: &[&[u8]]) -> Result<Vec<u8>> {
        let (side, p) = (config.image_size, config.patch_size);
        let mut data = Vec::with_capacity(rgb.len() * side * side * 3);
        for picture in rgb {
            if picture.len() != side * side * 3 {
                bail!("picture of {} bytes; {side} x {side} RGB expected", picture.len());
            }
            for patch in 0..config.patches() {
                let (top, left) = (patch / (side / p) * p, patch % (side / p) * p);
                for y in top..top + p {
                    let from = (y * side + left) * 3;
                    data.extend_from_slice(&picture[from..from + p * 3]);
                }
            }
        }
        Ok(data)
    }

    /// What [`cut`](Self::cut) gave as a tensor `[b, patches, patch * patch * 3]`, values 0 to 1. Bytes travel to the
    /// device and become numbers there.
    pub fn patches(config: &VitConfig, cut: Vec<u8>, device: &Device) -> Result<Tensor> {
        let (n, width) = (config.patches(), config.patch_size * config.patch_size * 3);
        let shape = (cut.len() / (n * width).max(1), n, width);
        Tensor::from_vec(cut, shape, device)?.to_dtype(DType::F32)? / 255.0
    }

    /// Patches of pictures as a tensor: [`cut`](Self::cut) and [`patches`](Self::patches) in one.
    pub fn patchify(config: &VitConfig, rgb: &[&[u8]], device: &Device) -> Result<Tensor> {
        Self::patches(config, Self::cut(config, rgb)?, device)
    }

    /// The class tokens alone: `[b, d]`.
    pub fn class_tokens(&self, patches: &Tensor) -> Result<Tensor> {
        self.forward(patches)?.narrow(1, 0, 1)?.squeeze(1)
    }
}

impl Trunk for Vit {
    /// Patches `[b, patches, patch * patch * 3]` to `[b, 1 + patches, d]`, the class token first.
    fn embed(&self, patches: &Tensor) -> Result<Tensor> {
        let b = patches.dim(0)?;
        let x = self.patch.forward(patches)?;
        let class = self.class.broadcast_as((b, 1, self.config.hidden_size))?;
        Tensor::cat(&[&class, &x], 1)?.broadcast_add(&self.positions)
    }

    fn blocks(&self) -> Vec<&dyn Block> {
        self.layers.iter().map(|layer| layer as &dyn Block).collect()
    }

    fn finish(&self, tokens: &Tensor) -> Result<Tensor> {
        self.norm.forward(tokens)
    }

    fn has_class_token(&self) -> bool {
        true
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn tosa(&self) -> Option<&Tosa> {
        self.tosa.as_ref()
    }

    fn set_tosa(&mut self, tosa: Option<Tosa>) {
        self.tosa = tosa;
    }
}

impl Encoder for Vit {
    fn encode(&self, frames: &[Frame]) -> Result<Tensor> {
        let patches = Prepare::Patches(self.config.clone()).batch(frames, &self.device).map_err(Error::wrap)?;
        self.forward(&patches)?.to_dtype(DType::F32)
    }

    fn shape(&self) -> (usize, usize) {
        (self.config.patches() + 1, self.config.hidden_size)
    }
}
