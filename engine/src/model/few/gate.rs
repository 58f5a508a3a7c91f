//! `silu(gate) * up` of a product that has both side by side, in one pass.
//!
//! Of several rows the two halves are no contiguous tensors, over which plain operations go number by number; and the
//! exponential is the one that the compiler vectorises. Every number is computed alike however many rows there are.

use super::floats;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use spotter_vision::nn::exp;

/// `both [.., 2 width]` to `[.., width]`; `None` where plain operations serve better: another type or device, tensors that
/// learn.
pub(in super::super) fn gated(both: &Tensor, width: usize) -> Result<Option<Tensor>> {
    let plain = both.device().is_cpu() && both.dtype() == DType::F32 && both.is_contiguous() && !both.track_op();
    if !plain || width == 0 {
        return Ok(None);
    }
    both.apply_op1_no_bwd(&Gated { width }).map(Some)
}

struct Gated {
    width: usize,
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, both: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == 2 * self.width => *last = self.width,
            _ => bail!("gated: {:?} does not hold a gate and {} numbers for it", layout.shape(), self.width),
        }
        let both = floats(both, layout)?;
        let mut y = Vec::with_capacity(both.len() / 2);
        for row in both.chunks_exact(2 * self.width) {
            let (gate, up) = row.split_at(self.width);
            y.extend(gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up));
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }
}

/// `x / (1 + exp(-x))`, with an exponential of what is at most 0.
fn silu(x: f32) -> f32 {
    let e = exp(-x.abs());
    x * (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};

    #[test]
    fn gates_are_those_of_plain_operations() {
        let numbers = (0..5 * 74).map(|i| (i as f32 * 0.37).sin() * if i % 7 == 0 { 120.0 } else { 6.0 });
        let both = Tensor::from_iter(numbers, &Device::Cpu).unwrap().reshape((1, 5, 74)).unwrap();
        let half = |i: usize| both.narrow(D::Minus1, i * 37, 37).unwrap();
        let expected = (half(0).silu().unwrap() * half(1)).unwrap();
        let found = gated(&both, 37).unwrap().unwrap();
        assert_eq!(found.dims(), [1, 5, 37]);
        let off = ((&found - &expected).unwrap().abs().unwrap() / (expected.abs().unwrap() + 1.0).unwrap()).unwrap();
        assert!(off.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
        // A row by itself has the same numbers.
        let alone = gated(&both.narrow(1, 3, 1).unwrap().contiguous().unwrap(), 37).unwrap().unwrap();
        assert_eq!(alone.to_vec3::<f32>().unwrap()[0][0], found.to_vec3::<f32>().unwrap()[0][3]);
        assert!(gated(&both, 36).is_err());
        assert!(gated(Var::from_tensor(&both).unwrap().as_tensor(), 37).unwrap().is_none());
        assert!(gated(&both.to_dtype(DType::F64).unwrap(), 37).unwrap().is_none());
    }
}
