//! From a tower's tokens to the language model's: pooling, the change since the last frame, then two linear maps with an
//! activation between.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use spotter_vision::encoder::TensorSpec;

use super::{
    config::ConfigError,
    layers::{INIT_STD, Linear},
};

/// How the tokens of a picture become fewer. `vision.pooling` of a model's `spotter.toml`: `"none"`, `"cls"`,
/// `{ average = 2 }`, `{ class_average = 3 }` or `{ bilinear = 14 }`. A C-Abstractor, which has fewer tokens anyway, takes `average` as the grid that
/// it gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// All of them.
    #[default]
    None,
    /// The means of a grid of this many cells along each side, before the projector.
    Average(usize),
    /// Resampled to so many along each side behind the projector, as LLaVA-OneVision does with the frames of a video.
    Bilinear(usize),
    /// The class token alone.
    Cls,
    /// The class token, then the means of a grid of this many cells along each side (VideoLLM-online).
    #[serde(rename = "class_average")]
    ClassAverage(usize),
}

/// Visual tokens of a frame; `vision` of a model's `spotter.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionManifest {
    /// How the tower's tokens are pooled.
    #[serde(default)]
    pub pooling: Pooling,
    /// Each token is joined by its change since the last frame before it is projected.
    #[serde(default)]
    pub delta: bool,
}

impl VisionManifest {
    /// Width of what the projector reads behind a tower of width `hidden`.
    pub fn joined(&self, hidden: usize) -> usize {
        if self.delta { 2 * hidden } else { hidden }
    }
}

/// Joins tokens `[n, k, d]` of successive frames by their change: `[n, k, 2 d]`. `before` is the frame before the first.
pub fn join_change(tokens: &Tensor, before: Option<&Tensor>) -> Result<Tensor> {
    let n = tokens.dim(0)?;
    let first = match before {
        Some(before) => before.clone(),
        None => tokens.narrow(0, 0, 1)?,
    };
    let shifted = if n == 1 { first } else { Tensor::cat(&[&first, &tokens.narrow(0, 0, n - 1)?], 0)? };
    Tensor::cat(&[tokens, &(tokens - shifted)?], D::Minus1)
}

/// What a picture is after the tower, as far as pooling must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenGrid {
    /// Patches along one side.
    pub side: usize,
    /// A class token stands before them.
    pub class: bool,
    /// The model itself uses the class token where nothing is pooled.
    pub keep_class: bool,
}

impl Pooling {
    /// Refuses what a tower can't give.
    pub fn check(self, grid: TokenGrid) -> std::result::Result<(), ConfigError> {
        match self {
            Self::Average(k) | Self::Bilinear(k) | Self::ClassAverage(k) if k == 0 || k > grid.side => {
                Err(ConfigError::new(
                    match self {
                        Self::Bilinear(_) => "spotter.toml: vision.pooling.bilinear",
                        Self::ClassAverage(_) => "spotter.toml: vision.pooling.class_average",
                        _ => "spotter.toml: vision.pooling.average",
                    },
                    format!("a number from 1 to {} (patches along a side)", grid.side),
                    k,
                ))
            }
            Self::Cls | Self::ClassAverage(_) if !grid.class => Err(ConfigError::new(
                "spotter.toml: vision.pooling",
                "none, average or bilinear: this tower has no class token",
                if self == Self::Cls { "cls" } else { "class_average" },
            )),
            _ => Ok(()),
        }
    }

    /// Tokens a picture after pooling.
    pub fn tokens(self, grid: TokenGrid) -> usize {
        match self {
            Self::None => grid.side.pow(2) + usize::from(grid.keep_class),
            Self::Average(k) | Self::Bilinear(k) => k * k,
            Self::Cls => 1,
            Self::ClassAverage(k) => 1 + k * k,
        }
    }

    /// `x [b, tokens, width]` of the tower to what the projector reads, `[b, fewer, width]`.
    pub(crate) fn forward(self, x: &Tensor, grid: TokenGrid) -> Result<Tensor> {
        let first = usize::from(grid.class);
        let patches = || x.narrow(1, first, grid.side.pow(2));
        match self {
            Self::None if grid.keep_class => Ok(x.clone()),
            Self::None | Self::Bilinear(_) => patches(),
            Self::Cls => x.narrow(1, 0, 1),
            Self::Average(k) => means(grid.side, k, x.dtype(), x.device())?.broadcast_matmul(&patches()?.contiguous()?),
            Self::ClassAverage(k) => Tensor::cat(&[&x.narrow(1, 0, 1)?, &Self::Average(k).forward(x, grid)?], 1),
        }
    }
}

/// Weights `[k * k, side * side]` of the mean over each cell; cells overlap by a patch where `side` is no multiple.
pub(super) fn means(side: usize, k: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let range = |cell: usize| (cell * side / k)..((cell + 1) * side).div_ceil(k);
    let mut weights = vec![0f32; k * k * side * side];
    for (cell, row) in weights.chunks_exact_mut(side * side).enumerate() {
        let (ys, xs) = (range(cell / k), range(cell % k));
        let share = 1.0 / (ys.len() * xs.len()) as f32;
        for (i, weight) in row.iter_mut().enumerate() {
            if ys.contains(&(i / side)) && xs.contains(&(i % side)) {
                *weight = share;
            }
        }
    }
    Tensor::from_vec(weights, (k * k, side * side), device)?.to_dtype(dtype)
}

/// What LLaVA calls the maps of its projector.
pub const LINEAR: [&str; 2] = ["linear_1", "linear_2"];

/// Two maps with an exact GELU between.
#[derive(Clone, Debug)]
pub struct Projector {
    first: Linear,
    second: Linear,
}

impl Projector {
    /// From a tower's width to the decoder's; tensors of these names under `vb`, mostly [`LINEAR`].
    pub fn new(from: usize, to: usize, bias: bool, names: [&str; 2], vb: VarBuilder) -> Result<Self> {
        let first = Linear::new(from, to, bias, INIT_STD, vb.pp(names[0]))?;
        Ok(Self { first, second: Linear::new(to, to, bias, INIT_STD, vb.pp(names[1]))? })
    }

    /// `x [b, n, from]` to `[b, n, to]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.first.forward(&x.contiguous()?)?.gelu_erf()?)
    }

    /// What [`Self::new`] reads; `prefix` ends in a dot or is empty.
    pub fn tensors(from: usize, to: usize, bias: bool, names: [&str; 2], prefix: &str) -> Vec<TensorSpec> {
        let mut all = Vec::new();
        for (name, input) in names.into_iter().zip([from, to]) {
            all.push(TensorSpec::new(prefix, &format!("{name}.weight"), &[to, input]));
            if bias {
                all.push(TensorSpec::new(prefix, &format!("{name}.bias"), &[to]));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_takes_the_means_of_cells() {
        // 3 x 3 patches with values 0..9 behind a class token of -1.
        let values: Vec<f32> = std::iter::once(-1.0).chain((0..9).map(|v| v as f32)).collect();
        let x = Tensor::from_vec(values, (1, 10, 1), &Device::Cpu).unwrap();
        let grid = TokenGrid { side: 3, class: true, keep_class: false };
        let run = |pooling: Pooling| {
            let y = pooling.forward(&x, grid).unwrap();
            assert_eq!(y.dim(1).unwrap(), pooling.tokens(grid));
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(run(Pooling::None), (0..9).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(run(Pooling::Cls), [-1.0]);
        let close = |a: Vec<f32>, b: &[f32]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?}");
        close(run(Pooling::Average(1)), &[4.0]);
        close(run(Pooling::Average(2)), &[2.0, 3.0, 5.0, 6.0]);
        close(run(Pooling::ClassAverage(2)), &[-1.0, 2.0, 3.0, 5.0, 6.0]);
    }

    #[test]
    fn change_is_joined() {
        let frames = Tensor::new(&[[[1f32]], [[3.0]], [[6.0]]], &Device::Cpu).unwrap();
        let joined = join_change(&frames, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(joined, [1.0, 0.0, 3.0, 2.0, 6.0, 3.0]);
        let last = frames.narrow(0, 2, 1).unwrap();
        let first = frames.narrow(0, 0, 1).unwrap();
        let joined = join_change(&last, Some(&first)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(joined, [6.0, 5.0]);
    }

    #[test]
    fn pooling_is_read_from_toml_and_checked() {
        #[derive(Deserialize)]
        struct File {
            pooling: Pooling,
        }
        let read = |text: &str| toml::from_str::<File>(text).unwrap().pooling;
        assert_eq!(read("pooling = \"cls\""), Pooling::Cls);
        assert_eq!(read("pooling = { average = 2 }"), Pooling::Average(2));
        let bare = TokenGrid { side: 3, class: false, keep_class: false };
        assert!(Pooling::Cls.check(bare).unwrap_err().to_string().contains("no class token"));
        assert_eq!(read("pooling = { bilinear = 2 }"), Pooling::Bilinear(2));
        assert_eq!(read("pooling = { class_average = 3 }"), Pooling::ClassAverage(3));
        assert!(Pooling::ClassAverage(3).check(bare).unwrap_err().to_string().contains("no class token"));
        let error = Pooling::ClassAverage(4).check(bare).unwrap_err().to_string();
        assert!(error.contains("pooling.class_average") && error.contains("from 1 to 3"), "{error}");
        assert!(Pooling::Average(4).check(bare).unwrap_err().to_string().contains("from 1 to 3"));
    }
}
