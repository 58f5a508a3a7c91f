//! From a frame to embeddings of the decoder: tower, pooling, change since the last frame, projector.

use super::manifest::{Pooling, VisionManifest};
use candle_core::{D, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use spotter_vision::{Frame, encoder::Encoder, nn};

/// LLaVA's two-layer projector (Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning").
#[derive(Clone, Debug)]
pub struct Projector {
    first: (Tensor, Tensor),
    second: (Tensor, Tensor),
}

impl Projector {
    /// Tensors `linear_1` and `linear_2` below `vb`.
    pub fn new(inputs: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let layer = |name: &str, n: usize, m: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            Ok((vb.get((m, n), "weight")?, vb.get_with_hints(m, "bias", Init::Const(0.0))?))
        };
        Ok(Self { first: layer("linear_1", inputs, width)?, second: layer("linear_2", width, width)? })
    }

    /// `[.., inputs]` to `[.., width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = nn::linear(x, &self.first.0, Some(&self.first.1))?.gelu_erf()?;
        nn::linear(&hidden, &self.second.0, Some(&self.second.1))
    }
}

/// Pools tower tokens `[b, n, d]`; `class` says whether the first is a class token.
pub fn pool(tokens: &Tensor, pooling: Pooling, class: bool) -> Result<Tensor> {
    let (b, n, d) = tokens.dims3()?;
    let patches = || tokens.narrow(1, usize::from(class), n - usize::from(class));
    match pooling {
        Pooling::None => patches(),
        Pooling::Class if class => tokens.narrow(1, 0, 1),
        Pooling::Class => bail!("pooling = \"class\" needs a tower with a class token"),
        Pooling::Grid(k) => {
            let patches = patches()?;
            let side = (patches.dim(1)? as f64).sqrt() as usize;
            if k == 0 || side * side != patches.dim(1)? || side < k {
                bail!("pooling to a {k} x {k} grid needs a square of at least as many patches, found {}", patches.dim(1)?);
            }
            let square = patches.reshape((b, side, side, d))?;
            let cut = |i: usize| i * side / k;
            let mut cells = Vec::with_capacity(k * k);
            for y in 0..k {
                let rows = square.narrow(1, cut(y), cut(y + 1) - cut(y))?;
                for x in 0..k {
                    cells.push(rows.narrow(2, cut(x), cut(x + 1) - cut(x))?.mean((1, 2))?);
                }
            }
            Tensor::stack(&cells, 1)
        }
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

/// Sees the frames of one stream.
pub struct Eye {
    tower: Box<dyn Encoder>,
    projector: Projector,
    manifest: VisionManifest,
    class: bool,
    before: Option<Tensor>,
}

impl Eye {
    /// An eye of a tower whose first token is a class token or not.
    pub fn new(tower: Box<dyn Encoder>, projector: Projector, manifest: VisionManifest, class: bool) -> Self {
        Self { tower, projector, manifest, class, before: None }
    }

    /// Embeddings of a frame, `[1, k, width]`.
    pub fn see(&mut self, frame: &Frame) -> Result<Tensor> {
        let pooled = pool(&self.tower.encode(std::slice::from_ref(frame))?, self.manifest.pooling, self.class)?;
        let seen = if self.manifest.delta { join_change(&pooled, self.before.as_ref())? } else { pooled.clone() };
        self.before = Some(pooled);
        self.projector.forward(&seen)
    }

    /// The last frame once more, as a model told of change sees it when nothing moved; `None` for other models, which
    /// gain nothing by it, and before the first frame.
    pub fn again(&self) -> Result<Option<Tensor>> {
        match &self.before {
            Some(before) if self.manifest.delta => Ok(Some(self.projector.forward(&join_change(before, Some(before))?)?)),
            _ => Ok(None),
        }
    }

    /// A new stream begins.
    pub fn reset(&mut self) {
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn pools_and_joins() {
        let tokens = Tensor::arange(0f32, 17.0, &Device::Cpu).unwrap().reshape((1, 17, 1)).unwrap();
        let grid = pool(&tokens, Pooling::Grid(2), true).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(grid, [3.5, 5.5, 11.5, 13.5]);
        assert_eq!(pool(&tokens, Pooling::None, true).unwrap().dims(), [1, 16, 1]);
        assert!(pool(&tokens, Pooling::Class, false).is_err());
        assert!(pool(&tokens, Pooling::Grid(5), true).is_err());
        let frames = Tensor::new(&[[[1f32]], [[3.0]], [[6.0]]], &Device::Cpu).unwrap();
        let joined = join_change(&frames, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(joined, [1.0, 0.0, 3.0, 2.0, 6.0, 3.0]);
    }
}
