//! HyperCLOVA X SEED Vision's way from a tower to the language model: the C-Abstractor ("Honeybee: Locality-enhanced
//! Projector for Multimodal LLM", Cha et al. 2024), in the form that NAVER published (specs: hyperclovax, section 7).
//!
//! Pictures are kept with their channels last, so that a 1x1 convolution is a product and a norm over channels is a plain
//! layer norm.

use super::{
    config::ConfigError,
    layers::Linear,
    llava_config::{HfLlavaConfig, VisionConfig},
    projector::means,
    tiling::Tiling,
};
use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use spotter_vision::{encoder::TensorSpec, nn};

/// How a prompt writes a picture's place.
pub const IMAGE_TOKEN: &str = "<|dummy3|>";
/// How it writes a video's.
pub const VIDEO_TOKEN: &str = "<|_unuse_missing_100270|>";

/// Bottlenecks of a stage.
const BLOCKS: usize = 3;
/// Of the norms over channels: those that timm puts behind convolutions, which is not the default of its plain norm.
const EPS: f32 = 1e-5;

/// The fields of `config.json` that only this family has.
#[allow(missing_docs, reason = "the fields are those of the file")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HfSeed {
    pub anyres: Option<bool>,
    pub unpad: Option<bool>,
    pub max_num_grids: Option<usize>,
    pub use_1x1_grid: Option<bool>,
    pub possible_resolutions: Option<Vec<(usize, usize)>>,
    pub num_queries_vis_abstractor_image: Option<usize>,
    pub mm_projector_type: Option<String>,
    pub proj_pos_emb: Option<bool>,
    pub proj_prenorm: Option<bool>,
    pub use_nth_layer: Option<i64>,
}

/// Numbers of a C-Abstractor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbstractorConfig {
    /// Tokens along a side that come in.
    pub from: usize,
    /// Tokens along a side that go out.
    pub to: usize,
    /// Width of the tower's tokens, and inside.
    pub width: usize,
    /// Width of what goes out.
    pub out: usize,
    /// Learned positions are added first.
    pub positions: bool,
    /// A norm stands before everything.
    pub prenorm: bool,
}

impl AbstractorConfig {
    /// Resolves what a file says.
    ///
    /// # Errors
    /// Another projector, or a number of queries that is no square or more than the tower has tokens.
    pub fn from_hf(hf: &HfLlavaConfig, vision: &VisionConfig, out: usize) -> std::result::Result<Self, ConfigError> {
        let seed = &hf.seed;
        if let Some(kind) = seed.mm_projector_type.as_deref().filter(|k| *k != "cabstractor") {
            return Err(ConfigError::new("mm_projector_type", "cabstractor", format!("`{kind}`")));
        }
        let from = vision.grid(false).side;
        let field = "num_queries_vis_abstractor_image";
        let queries = seed.num_queries_vis_abstractor_image;
        let queries = queries.ok_or_else(|| ConfigError::new(field, "a number", "nothing"))?;
        let to = queries.isqrt();
        if to == 0 || to * to != queries || to > from {
            return Err(ConfigError::new(field, format!("a square number up to {}", from * from), queries));
        }
        Ok(Self {
            from,
            to,
            width: vision.hidden_size(),
            out,
            positions: seed.proj_pos_emb.unwrap_or(true),
            prenorm: seed.proj_prenorm.unwrap_or(false),
        })
    }

    /// What a [`CAbstractor`] reads; `prefix` ends in a dot or is empty.
    pub fn tensors(&self, prefix: &str) -> Vec<TensorSpec> {
        let (w, squeezed, mut all) = (self.width, self.squeezed(), Vec::new());
        let mut add = |name: String, shape: &[usize]| all.push(TensorSpec::new(prefix, &name, shape));
        if self.positions {
            add("pos_emb".into(), &[1, self.from * self.from, w]);
        }
        if self.prenorm {
            add("prenorm.weight".into(), &[w]);
            add("prenorm.bias".into(), &[w]);
        }
        for (stage, block) in [0, 2].into_iter().flat_map(|s| (1..=BLOCKS).map(move |b| (s, b))) {
            let at = format!("net.{stage}.b{block}.");
            for (conv, shape) in [("conv1", [w, w, 1, 1]), ("conv2", [w, 1, 3, 3]), ("conv3", [w, w, 1, 1])] {
                add(format!("{at}{conv}.conv.weight"), &shape);
                add(format!("{at}{conv}.bn.weight"), &[w]);
                add(format!("{at}{conv}.bn.bias"), &[w]);
            }
            for (name, from, to) in [("se.fc1", w, squeezed), ("se.fc2", squeezed, w)] {
                add(format!("{at}{name}.weight"), &[to, from, 1, 1]);
                add(format!("{at}{name}.bias"), &[to]);
            }
        }
        for (layer, from) in [(0, w), (2, self.out)] {
            add(format!("readout.{layer}.weight"), &[self.out, from]);
            add(format!("readout.{layer}.bias"), &[self.out]);
        }
        all
    }

    /// Channels inside a squeeze; halves are rounded to even, as Python does.
    fn squeezed(&self) -> usize {
        (self.width as f64 * 0.25).round_ties_even() as usize
    }
}

/// How SEED looks at large pictures; `None` where it is told not to.
///
/// # Errors
/// Grids that are none.
pub fn tiling(hf: &HfLlavaConfig, tile: usize) -> std::result::Result<Option<Tiling>, ConfigError> {
    let seed = &hf.seed;
    if !seed.anyres.unwrap_or(false) {
        return Ok(None);
    }
    let most = seed.max_num_grids.unwrap_or(0).min(256);
    let given = seed.possible_resolutions.clone().filter(|planes| !planes.is_empty());
    let planes = given.unwrap_or_else(|| {
        let grids = (1..=most).flat_map(|rows| (1..=most).map(move |columns| (rows, columns)));
        let fits = |(rows, columns): &(usize, usize)| {
            rows * columns <= most && (rows * columns > 1 || seed.use_1x1_grid.unwrap_or(false))
        };
        grids.filter(fits).map(|(rows, columns)| (rows * tile, columns * tile)).collect()
    });
    let unpad = seed.unpad.unwrap_or(false);
    let tiling = Tiling { tile, planes, most: None, unpad, rounded: false, mean_bars: true, several_whole: false };
    tiling.check("possible_resolutions")?;
    Ok(Some(tiling))
}

/// A norm over channels.
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(width: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { weight: vb.get(width, "weight")?, bias: vb.get(width, "bias")? })
    }

    fn forward(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        nn::layer_norm(&x.contiguous()?, &self.weight, &self.bias, eps)
    }
}

/// A 1x1 convolution.
fn pointwise(from: usize, to: usize, bias: bool, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get((to, from, 1, 1), "weight")?.flatten_from(1)?;
    Linear::from_parts(weight, if bias { Some(vb.get(to, "bias")?) } else { None })
}

/// A bottleneck of RegNet-Y: 1x1, 3x3 of each channel by itself, squeeze and excite, 1x1, and the input added.
struct Bottleneck {
    widen: (Linear, Norm),
    /// `[9, width]`, row by row of the kernel.
    near: Tensor,
    near_norm: Norm,
    squeeze: Linear,
    excite: Linear,
    narrow: (Linear, Norm),
}

impl Bottleneck {
    fn new(cfg: &AbstractorConfig, vb: VarBuilder) -> Result<Self> {
        let (w, squeezed) = (cfg.width, cfg.squeezed());
        let pointed = |name: &str| -> Result<(Linear, Norm)> {
            let vb = vb.pp(name);
            Ok((pointwise(w, w, false, vb.pp("conv"))?, Norm::new(w, vb.pp("bn"))?))
        };
        let near = vb.pp("conv2").pp("conv").get((w, 1, 3, 3), "weight")?;
        Ok(Self {
            widen: pointed("conv1")?,
            near: near.reshape((w, 9))?.t()?.contiguous()?,
            near_norm: Norm::new(w, vb.pp("conv2").pp("bn"))?,
            squeeze: pointwise(w, squeezed, true, vb.pp("se").pp("fc1"))?,
            excite: pointwise(squeezed, w, true, vb.pp("se").pp("fc2"))?,
            narrow: pointed("conv3")?,
        })
    }

    /// `x [b, h, w, channels]` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.widen.1.forward(&self.widen.0.forward(x)?, EPS)?.silu()?;
        let y = self.near_norm.forward(&self.convolve(&y)?, EPS)?.silu()?;
        let mean = y.mean_keepdim(2)?.mean_keepdim(1)?.contiguous()?;
        let gate = candle_nn::ops::sigmoid(&self.excite.forward(&self.squeeze.forward(&mean)?.silu()?)?)?;
        let y = self.narrow.1.forward(&self.narrow.0.forward(&y.broadcast_mul(&gate)?)?, EPS)?;
        (x + y)?.silu()
    }

    /// 3x3 with zeros around: the sum of nine shifted pictures, each times a number of its own for every channel.
    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let wide = x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
        let mut sum: Option<Tensor> = None;
        for (i, (dy, dx)) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))).enumerate() {
            let shifted = wide.narrow(1, dy, h)?.narrow(2, dx, w)?.broadcast_mul(&self.near.get(i)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + shifted)?,
                None => shifted,
            });
        }
        sum.map_or_else(|| Ok(x.clone()), Ok)
    }
}

/// From a tower's tokens to fewer of the language model's width.
pub struct CAbstractor {
    positions: Option<Tensor>,
    prenorm: Option<Norm>,
    first: Vec<Bottleneck>,
    second: Vec<Bottleneck>,
    readout: (Linear, Linear),
    config: AbstractorConfig,
}

impl CAbstractor {
    /// Tensors `pos_emb`, `net.*` and `readout.*` under `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn new(cfg: &AbstractorConfig, vb: VarBuilder) -> Result<Self> {
        let stage = |i: usize| {
            let vb = vb.pp("net").pp(i);
            (1..=BLOCKS).map(|b| Bottleneck::new(cfg, vb.pp(format!("b{b}")))).collect::<Result<Vec<_>>>()
        };
        let line = |i: usize, from: usize| -> Result<Linear> {
            let vb = vb.pp("readout").pp(i);
            Linear::from_parts(vb.get((cfg.out, from), "weight")?, Some(vb.get(cfg.out, "bias")?))
        };
        let tokens = cfg.from * cfg.from;
        Ok(Self {
            positions: if cfg.positions { Some(vb.get((1, tokens, cfg.width), "pos_emb")?) } else { None },
            prenorm: if cfg.prenorm { Some(Norm::new(cfg.width, vb.pp("prenorm"))?) } else { None },
            first: stage(0)?,
            second: stage(2)?,
            readout: (line(0, cfg.width)?, line(2, cfg.out)?),
            config: cfg.clone(),
        })
    }

    /// `x [b, from * from, width]` to `[b, to * to, out]`; another `to` than the model's own makes fast frames of a video.
    ///
    /// # Errors
    /// Another number of tokens, or those of the device.
    pub fn forward(&self, x: &Tensor, to: usize) -> Result<Tensor> {
        let (b, n, width) = x.dims3()?;
        let side = self.config.from;
        if n != side * side || width != self.config.width {
            bail!("the C-Abstractor reads {side} x {side} tokens of {}, not {n} of {width}", self.config.width);
        }
        let x = match &self.prenorm {
            Some(norm) => norm.forward(x, 1e-5)?,
            None => x.clone(),
        };
        let x = match &self.positions {
            Some(positions) => x.broadcast_add(positions)?,
            None => x,
        };
        let mut x = x.contiguous()?.reshape((b, side, side, width))?;
        for block in &self.first {
            x = block.forward(&x)?;
        }
        let pool = means(side, to, x.dtype(), x.device())?;
        let mut x = pool.broadcast_matmul(&x.contiguous()?.reshape((b, n, width))?)?.reshape((b, to, to, width))?;
        for block in &self.second {
            x = block.forward(&x)?;
        }
        let x = self.readout.0.forward(&x.contiguous()?.reshape((b, to * to, width))?)?.silu()?;
        self.readout.1.forward(&x)
    }

    /// Tokens along a side that go out unless told otherwise.
    pub fn side(&self) -> usize {
        self.config.to
    }
}
