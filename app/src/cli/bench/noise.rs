//! Weights for measuring times, which do not depend on them.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, var_builder::SimpleBackend};

/// Weights that look drawn by chance, made as they are asked for.
pub(super) struct Noise;

impl SimpleBackend for Noise {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        if !dev.is_cpu() {
            // A card draws billions of them itself.
            let noise = Tensor::rand(-0.04f32, 0.04f32, s, dev)?;
            return if name.contains("norm") { (noise + 1.0)?.to_dtype(dtype) } else { noise.to_dtype(dtype) };
        }
        let mut state = name.bytes().fold(1u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        let numbers: Vec<f32> = (0..s.elem_count())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1u32 << 23) as f32 - 1.0) * 0.04
            })
            .collect();
        let noise = Tensor::from_vec(numbers, s, dev)?;
        if name.contains("norm") { (noise + 1.0)?.to_dtype(dtype) } else { noise.to_dtype(dtype) }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: noise needs a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        // `weight:q4_0` asks for packed weights; these are plain.
        !name.contains(':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_never_packed() {
        assert!(Noise.contains_tensor("model.embed_tokens.weight"));
        assert!(!Noise.contains_tensor("model.embed_tokens.weight:q4_0"));
    }
}
