//! A computation that comes again and again with inputs of one shape: on an NVIDIA card it becomes a CUDA graph, whose kernels are
//! launched at once. A picture's tokens are few to a card, so launches are most of what a tower costs.

use candle_core::{Result, Tensor};

/// Graphs of one computation, by the shape of its input. Only for what depends on nothing but its input, and asks nothing of the
/// processor.
#[derive(Debug, Default)]
pub struct Repeated {
    #[cfg(feature = "cuda")]
    known: std::sync::Mutex<Vec<card::Known>>,
}

impl Repeated {
    /// `compute(x)`. On a card the second call with a shape makes a graph; where the driver refuses, it is computed as it is.
    ///
    /// # Errors
    /// Those of `compute`, and of the device.
    pub fn run(&self, x: &Tensor, compute: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(dev) = x.device()
            && !x.track_op()
        {
            let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            return card::run(&mut known, x, dev, &compute);
        }
        compute(x)
    }
}

#[cfg(feature = "cuda")]
mod card {
    use crate::nn::card::Graph;
    use candle_core::{CudaDevice, DType, Result, Shape, Tensor};
    use std::fmt;

    /// Shapes that are kept; what came first makes room.
    const MOST: usize = 4;

    /// A shape that was met.
    #[derive(Debug)]
    pub(super) struct Known {
        shape: Shape,
        dtype: DType,
        state: State,
    }

    #[derive(Debug)]
    enum State {
        Met,
        /// The driver made no graph of it.
        Refused,
        Graph(Fixed),
    }

    /// A graph, what it reads and what it writes.
    struct Fixed {
        graph: Graph,
        x: Tensor,
        y: Tensor,
    }

    impl fmt::Debug for Fixed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Fixed").field("x", &self.x.shape()).field("y", &self.y.shape()).finish()
        }
    }

    pub(super) fn run(
        known: &mut Vec<Known>,
        x: &Tensor,
        dev: &CudaDevice,
        compute: &dyn Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some(met) = known.iter_mut().find(|k| k.shape == *x.shape() && k.dtype == x.dtype()) else {
            let y = compute(x)?;
            if known.len() >= MOST {
                known.remove(0);
            }
            known.push(Known { shape: x.shape().clone(), dtype: x.dtype(), state: State::Met });
            return Ok(y);
        };
        match &met.state {
            State::Graph(fixed) => {
                fixed.x.slice_set(&x.contiguous()?, 0, 0)?;
                fixed.graph.launch()?;
                fixed.y.copy()
            }
            State::Refused => compute(x),
            State::Met => {
                let (y, state) = captured(x, dev, compute)?;
                met.state = state;
                Ok(y)
            }
        }
    }

    /// What is computed, and its graph where there is one.
    fn captured(x: &Tensor, dev: &CudaDevice, compute: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<(Tensor, State)> {
        let x = x.contiguous()?.copy()?;
        // Shapes that kernels are told are sent once, and a graph finds them where they are.
        let _sent = dev.enable_cuda_graph_htod_cache();
        let y = compute(&x)?.contiguous()?;
        let into = y.copy()?;
        let queue = || compute(&x).and_then(|y| into.slice_set(&y.contiguous()?, 0, 0));
        let graph = Graph::captured(dev, queue)?;
        let state = graph.map_or(State::Refused, |graph| State::Graph(Fixed { graph, x, y: into }));
        Ok((y, state))
    }

    #[cfg(test)]
    mod tests {
        use crate::nn::{self, repeated::Repeated};
        use candle_core::{D, DType, Device, Tensor};

        #[test]
        #[ignore = "needs an NVIDIA card"]
        fn a_graph_gives_what_the_computation_gives_on_a_card() {
            let card = Device::new_cuda(0).unwrap();
            let weight = Tensor::randn(0f32, 0.1, (64, 64), &card).unwrap().to_dtype(DType::F16).unwrap();
            let compute = |x: &Tensor| {
                let y = nn::linear(x, &weight, None)?.gelu_erf()?;
                let scores = y.matmul(&y.t()?)?;
                nn::softmax(&scores, 1.0, false)?
                    .matmul(&y)?
                    .transpose(1, 2)?
                    .contiguous()?
                    .broadcast_add(&y.mean_keepdim(1)?.transpose(1, 2)?)
            };
            let repeated = Repeated::default();
            for (round, n) in [5, 5, 5, 7, 5, 7, 7, 5].into_iter().enumerate() {
                let x = Tensor::randn(0f32, 1.0, (2, n, 64), &card).unwrap().to_dtype(DType::F16).unwrap();
                let (a, b) = (repeated.run(&x, compute).unwrap(), compute(&x).unwrap());
                let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(D::Minus1).unwrap();
                assert_eq!(off.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap(), 0.0, "round {round}");
            }
            let known = repeated.known.lock().unwrap();
            assert!(known.iter().all(|k| matches!(k.state, super::State::Graph(_))), "{known:?}");
        }
    }
}
