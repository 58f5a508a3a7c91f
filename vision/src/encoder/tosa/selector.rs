//! Predicts the next attention map from the products of the last: two convolutions over heads, along the keys.

use candle_core::{D, Result, Tensor};
use candle_nn::{Init, VarBuilder};

/// A selector: as many hidden channels as heads.
#[derive(Clone, Debug)]
pub struct Selector {
    /// `[heads, heads, kernel]`, as a convolution's.
    first: (Tensor, Tensor),
    second: (Tensor, Tensor),
    kernel: usize,
}

impl Selector {
    /// `conv1.*` and `conv2.*` under `vb`.
    pub(super) fn new(heads: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        let conv = |name: &str| -> Result<(Tensor, Tensor)> {
            let init = Init::Randn { mean: 0.0, stdev: (1.0 / (heads * kernel) as f64).sqrt() };
            let weight = vb.pp(name).get_with_hints((heads, heads, kernel), "weight", init)?;
            Ok((weight, vb.pp(name).get_with_hints(heads, "bias", Init::Const(0.0))?))
        };
        Ok(Self { first: conv("conv1")?, second: conv("conv2")?, kernel })
    }

    /// Logarithms of the predicted map up to a constant a row: `[b, heads, n, n]` from products of the same shape.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(&self, scores: &Tensor) -> Result<Tensor> {
        let hidden = self.convolve(scores, &self.first)?.relu()?;
        self.convolve(&hidden, &self.second)
    }

    /// The predicted map; each row sums to 1.
    ///
    /// # Errors
    /// Those of the device.
    pub fn map(&self, scores: &Tensor) -> Result<Tensor> {
        candle_nn::ops::softmax_last_dim(&self.logits(scores)?)
    }

    /// One product: heads are channels, and neighbouring keys lie side by side as more of them.
    fn convolve(&self, x: &Tensor, (weight, bias): &(Tensor, Tensor)) -> Result<Tensor> {
        let (b, heads, n, m) = x.dims4()?;
        let pad = self.kernel / 2;
        let x = if pad == 0 {
            x.contiguous()?
        } else {
            let wide = x.pad_with_zeros(D::Minus1, pad, pad)?;
            let taps = (0..self.kernel).map(|t| wide.narrow(3, t, m)).collect::<Result<Vec<_>>>()?;
            Tensor::cat(&taps, 1)?.contiguous()?
        };
        let channels = heads * self.kernel;
        // Taps lie outside of heads above.
        let weight = weight.transpose(1, 2)?.contiguous()?.reshape((1, weight.dim(0)?, channels))?;
        let y = weight.broadcast_as((b, weight.dim(1)?, channels))?.contiguous()?.matmul(&x.reshape((
            b,
            channels,
            n * m,
        ))?)?;
        y.broadcast_add(&bias.reshape((1, (), 1))?)?.reshape((b, (), n, m))
    }
}
