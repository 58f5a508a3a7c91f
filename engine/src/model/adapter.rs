//! A few tokens of the newest pictures, for a drafter that sees a little (specs: speculative, section 2.4).
//!
//! The target's own visual tokens are used, no second tower: those of the newest frames are pooled to a handful by their
//! means, in the order of time, and projected to the drafter's width. So a picture costs the drafter nothing before
//! something is said, and then a few positions.

use super::projector::{LINEAR, Projector};
use crate::weights::{Checkpoint, WeightsError};
use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use spotter_vision::encoder::TensorSpec;

/// Where its tensors lie in a drafter's folder.
pub const PREFIX: &str = "adapter";
/// The most tokens that it gives.
pub const MOST_TOKENS: usize = 16;
/// The most frames that it pools.
pub const MOST_FRAMES: usize = 1024;

/// Numbers of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterConfig {
    /// Tokens that it gives before an utterance.
    pub tokens: usize,
    /// Newest frames that these are of.
    pub frames: usize,
    /// Width of the target's visual tokens.
    pub from: usize,
    /// Width of the drafter.
    pub width: usize,
}

impl AdapterConfig {
    /// What an [`Adapter`] reads. A folder has `adapter.frames` beside these, a number `[1]`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let prefix = format!("{PREFIX}.");
        let mut all = Projector::tensors(self.from, self.width, true, LINEAR, &prefix);
        all.push(TensorSpec::new(&prefix, "places", &[self.tokens, self.width]));
        all
    }

    /// Numbers in its weights.
    pub fn parameters(&self) -> usize {
        self.width * (self.from + self.width + self.tokens + 2)
    }
}

/// `rows [t, d]`, in the order of time, to `[tokens, d]`: means of parts as long as each other, which overlap by a row
/// where `t` is no multiple, and repeat rows where there are fewer.
///
/// # Errors
/// No row, or those of the device.
pub fn pool(rows: &Tensor, tokens: usize) -> Result<Tensor> {
    let (t, _) = rows.dims2()?;
    if t == 0 || tokens == 0 {
        bail!("{t} rows can't be pooled to {tokens}");
    }
    let part = |i: usize| {
        let (from, to) = (i * t / tokens, ((i + 1) * t).div_ceil(tokens));
        rows.narrow(0, from, to - from)?.mean_keepdim(0)
    };
    Tensor::cat(&(0..tokens).map(part).collect::<Result<Vec<_>>>()?, 0)
}

/// From pooled visual tokens of the target to tokens of the drafter: two linear maps with an activation between, and a
/// vector for each place.
#[derive(Clone, Debug)]
pub struct Adapter {
    projector: Projector,
    /// `[tokens, width]`.
    places: Tensor,
    config: AdapterConfig,
}

impl Adapter {
    /// Tensors `adapter.*` under `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn new(config: AdapterConfig, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp(PREFIX);
        let places = vb.get_with_hints((config.tokens, config.width), "places", Init::Const(0.0))?;
        Ok(Self { projector: Projector::new(config.from, config.width, true, LINEAR, vb)?, places, config })
    }

    /// That of a drafter's folder, if it has one; `width` is the drafter's.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape, or numbers that can't be.
    pub fn load(
        checkpoint: &Checkpoint,
        width: usize,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Option<Self>, WeightsError> {
        let tensors = checkpoint.tensors();
        let prefix = format!("{PREFIX}.");
        if !tensors.keys().any(|name| name.starts_with(&prefix)) {
            return Ok(None);
        }
        let size = |name: &str, dim: usize| {
            let info = tensors.get(&format!("{prefix}{name}"))?;
            (info.shape.len() == 2).then(|| info.shape.get(dim).copied()).flatten()
        };
        let (tokens, from) = (size("places", 0).unwrap_or(1), size("linear_1.weight", 1).unwrap_or(1));
        let mut config = AdapterConfig { tokens, frames: 1, from, width };
        checkpoint.require(&config.tensors())?;
        checkpoint.require(&[TensorSpec::new(&prefix, "frames", &[1])])?;
        let frames: f32 = checkpoint
            .var_builder(DType::F32, &Device::Cpu)?
            .get(1, &format!("{prefix}frames"))?
            .get(0)?
            .to_scalar()?;
        config.frames = frames as usize;
        for (name, found, most) in [("places", tokens as f32, MOST_TOKENS), ("frames", frames, MOST_FRAMES)] {
            if !(1.0..=most as f32).contains(&found) || found.fract() != 0.0 {
                let problem = format!("{prefix}{name}: {found}; 1 to {most} expected");
                return Err(WeightsError::File { path: checkpoint.folder().to_owned(), problem });
            }
        }
        Ok(Some(Self::new(config, checkpoint.var_builder(dtype, device)?)?))
    }

    /// Its numbers.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Pooled tokens `[m, tokens, from]` of `m` moments to `[m, tokens, width]`.
    ///
    /// # Errors
    /// Other shapes, or those of the device.
    pub fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        self.projector.forward(pooled)?.broadcast_add(&self.places)
    }

    /// Single pooled tokens `[m, from]`, each with its place among those of its moment, to `[m, width]`.
    ///
    /// # Errors
    /// A place that it does not have, other shapes, or those of the device.
    pub fn rows(&self, pooled: &Tensor, places: &[u32]) -> Result<Tensor> {
        let places = self.places.index_select(&Tensor::new(places, self.places.device())?, 0)?;
        self.projector.forward(&pooled.unsqueeze(0)?)?.squeeze(0)? + places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_vision::training::Variables;
    use std::collections::HashMap;

    const SMALL: AdapterConfig = AdapterConfig { tokens: 3, frames: 2, from: 4, width: 6 };

    fn numbers(shape: (usize, usize)) -> Tensor {
        let all = (0..shape.0 * shape.1).map(|i| (i as f32 * 0.7).sin());
        Tensor::from_iter(all, &Device::Cpu).unwrap().reshape(shape).unwrap()
    }

    #[test]
    fn rows_are_pooled_in_the_order_of_time() {
        let check = |rows: &[f32], tokens: usize, expected: &[f32]| {
            let rows = Tensor::new(rows, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
            let pooled: Vec<f32> = pool(&rows, tokens).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(pooled, expected);
        };
        check(&[1.0, 2.0, 3.0, 4.0], 4, &[1.0, 2.0, 3.0, 4.0]);
        check(&[1.0, 2.0, 3.0, 6.0], 2, &[1.5, 4.5]);
        check(&[1.0, 2.0, 3.0], 2, &[1.5, 2.5]);
        check(&[1.0, 2.0, 3.0], 1, &[2.0]);
        check(&[5.0], 3, &[5.0, 5.0, 5.0]);
        check(&[1.0, 2.0], 3, &[1.0, 1.5, 2.0]);
        assert!(pool(&numbers((2, 2)), 0).is_err());
    }

    #[test]
    fn rows_one_by_one_are_those_of_the_whole() {
        let adapter = Adapter::new(SMALL, Variables::seeded(1, &Device::Cpu).builder()).unwrap();
        let pooled = numbers((6, 4));
        let whole = adapter.forward(&pooled.reshape((2, 3, 4)).unwrap()).unwrap().reshape((6, 6)).unwrap();
        let some = adapter.rows(&pooled.narrow(0, 2, 3).unwrap(), &[2, 0, 1]).unwrap();
        let off = (some - whole.narrow(0, 2, 3).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-6);
        // Places matter: the same row elsewhere is another token.
        let same = |place: u32| adapter.rows(&pooled.narrow(0, 0, 1).unwrap(), &[place]).unwrap();
        assert_ne!(same(0).to_vec2::<f32>().unwrap(), same(1).to_vec2::<f32>().unwrap());
        assert!(adapter.rows(&pooled, &[3; 6]).is_err());
    }

    /// Every variable has a gradient, and each that of finite differences.
    #[test]
    fn every_variable_has_its_gradient() {
        let vars = Variables::seeded(2, &Device::Cpu);
        let adapter = Adapter::new(SMALL, vars.builder()).unwrap();
        let (pooled, weights) = (numbers((6, 4)).reshape((2, 3, 4)).unwrap(), numbers((6, 6)));
        let loss = || {
            let y = adapter.forward(&pooled).unwrap().reshape((6, 6)).unwrap();
            (y.sin().unwrap() * &weights).unwrap().sum_all().unwrap()
        };
        let grads = loss().backward().unwrap();
        let all = vars.all();
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        let mut expected: Vec<String> = SMALL.tensors().into_iter().map(|spec| spec.name).collect();
        expected.sort();
        assert_eq!(names, expected);
        assert_eq!(all.iter().map(|(_, v)| v.elem_count()).sum::<usize>(), SMALL.parameters());
        for (name, var) in &all {
            let grad: Vec<f32> = grads.get(var.as_tensor()).expect(name).flatten_all().unwrap().to_vec1().unwrap();
            let start: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            assert!(grad.iter().any(|g| g.abs() > 1e-3), "{name}");
            for at in [0, grad.len() / 2, grad.len() - 1] {
                let moved = |by: f32| {
                    let mut values = start.clone();
                    values[at] += by;
                    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
                    loss().to_scalar::<f32>().unwrap()
                };
                let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                moved(0.0);
                assert!((slope - grad[at]).abs() < 2e-3 + 0.01 * slope.abs(), "{name} {at}: {slope}, {}", grad[at]);
            }
        }
    }

    #[test]
    fn a_folder_is_checked() {
        let check = |change: &dyn Fn(&mut HashMap<String, Tensor>), expected: &str| {
            let folder = tempfile::tempdir().unwrap();
            let vars = Variables::seeded(1, &Device::Cpu);
            Adapter::new(SMALL, vars.builder()).unwrap();
            let mut all: HashMap<String, Tensor> =
                vars.all().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
            all.insert("adapter.frames".into(), Tensor::new(&[7f32], &Device::Cpu).unwrap());
            change(&mut all);
            candle_core::safetensors::save(&all, folder.path().join("model.safetensors")).unwrap();
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            match Adapter::load(&checkpoint, 6, DType::F32, &Device::Cpu) {
                Ok(None) => assert_eq!(expected, "none"),
                Ok(Some(adapter)) => {
                    assert_eq!(expected, "");
                    assert_eq!(*adapter.config(), AdapterConfig { frames: 7, ..SMALL });
                }
                Err(problem) => assert!(!expected.is_empty() && problem.to_string().contains(expected), "{problem}"),
            }
        };
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        check(&|_| {}, "");
        check(&|all| *all = HashMap::from([("other".into(), zeros((1, 1)))]), "none");
        check(&|all| drop(all.remove("adapter.places")), "adapter.places");
        check(&|all| drop(all.remove("adapter.linear_2.bias")), "adapter.linear_2.bias");
        check(&|all| drop(all.remove("adapter.frames")), "adapter.frames");
        check(&|all| drop(all.insert("adapter.places".into(), zeros((3, 5)))), "adapter.places");
        check(&|all| drop(all.insert("adapter.places".into(), zeros((17, 6)))), "adapter.places: 17; 1 to 16");
        check(&|all| drop(all.insert("adapter.linear_1.weight".into(), zeros((5, 4)))), "adapter.linear_1.weight");
        for (found, expected) in [(0.0, "adapter.frames: 0; 1 to 1024"), (1.5, "1.5"), (f32::NAN, "NaN")] {
            let found = Tensor::new(&[found], &Device::Cpu).unwrap();
            check(&|all| drop(all.insert("adapter.frames".into(), found.clone())), expected);
        }
    }
}
