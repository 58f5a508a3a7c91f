//! The gated MLP of a decoder layer: `down(silu(gate(x)) * up(x))`.

#[cfg(feature = "cuda")]
use super::layers::Weight;
use super::{
    config::DecoderConfig,
    fused::gated,
    layers::{INIT_STD, Linear, Mode},
};
use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

/// SwiGLU.
#[derive(Clone, Debug)]
pub struct Mlp {
    input: Input,
    down: Linear,
    width: usize,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has few of them, one a layer")]
enum Input {
    /// gate and up in one product.
    Joined(Linear),
    Apart {
        gate: Linear,
        up: Linear,
    },
}

impl Mlp {
    /// Tensors `gate_proj`, `up_proj` and `down_proj` under `vb`.
    pub fn new(cfg: &DecoderConfig, vb: VarBuilder, mode: Mode) -> Result<Self> {
        let part = |name: &str| Linear::new(cfg.width, cfg.mlp_width, cfg.mlp_bias, INIT_STD, vb.pp(name));
        let parts = [("gate_proj", cfg.mlp_width), ("up_proj", cfg.mlp_width)];
        let input = match mode {
            Mode::Infer => Input::Joined(Linear::joined(cfg.width, &parts, cfg.mlp_bias, true, &vb)?),
            Mode::Train => Input::Apart { gate: part("gate_proj")?, up: part("up_proj")? },
        };
        let std = INIT_STD / (2.0 * cfg.layers as f64).sqrt();
        let down = Linear::new(cfg.mlp_width, cfg.width, cfg.mlp_bias, std, vb.pp("down_proj"))?;
        Ok(Self { input, down, width: cfg.mlp_width })
    }

    /// The map to gate and up side by side, and the one behind them; nothing where they are apart.
    #[cfg(feature = "cuda")]
    pub(super) fn joined(&self) -> Option<[(&Weight, Option<&Tensor>); 2]> {
        match &self.input {
            Input::Joined(input) => Some([input.parts()?, self.down.parts()?]),
            Input::Apart { .. } => None,
        }
    }

    /// `x [b, n, width]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = match &self.input {
            Input::Joined(linear) => {
                if let Some(inner) = linear.gated(x)? {
                    return self.down.forward(&inner);
                }
                let both = linear.forward(x)?;
                if let Some(inner) = gated(&both, self.width)? {
                    return self.down.forward(&inner);
                }
                (both.narrow(D::Minus1, 0, self.width)?, both.narrow(D::Minus1, self.width, self.width)?)
            }
            Input::Apart { gate, up } => (gate.forward(x)?, up.forward(x)?),
        };
        self.down.forward(&(gate.silu()? * up)?)
    }
}
