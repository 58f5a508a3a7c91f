//! What every training in Spotter shares: seeded variables, AdamW whose state can be saved, data-parallel steps,
//! checkpoints. The encoder's own training is beside it; the coach's is in the engine.

pub mod encoder;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var, backprop::GradStore, bail, safetensors};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Variables by name, created from a seed or from a checkpoint. candle can't seed its CPU generator; this can.
#[derive(Clone)]
pub struct Variables {
    inner: Arc<Mutex<Inner>>,
    device: Device,
}

struct Inner {
    vars: BTreeMap<String, Var>,
    saved: HashMap<String, Tensor>,
    rng: ChaCha8Rng,
}

impl Variables {
    /// Fresh variables from a seed.
    pub fn seeded(seed: u64, device: &Device) -> Self {
        let inner = Inner { vars: BTreeMap::new(), saved: HashMap::new(), rng: ChaCha8Rng::seed_from_u64(seed) };
        Self { inner: Arc::new(Mutex::new(inner)), device: device.clone() }
    }

    /// Variables that take the values of `file` where it has them, and of the seed elsewhere.
    pub fn load(file: &Path, seed: u64, device: &Device) -> Result<Self> {
        let this = Self::seeded(seed, device);
        this.lock().saved = safetensors::load(file, device)?;
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a model takes its variables from.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// All variables made so far, in order of name.
    pub fn all(&self) -> Vec<(String, Var)> {
        self.lock().vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Writes the variables, in the type given, under their names.
    pub fn save(&self, file: &Path, dtype: DType) -> Result<()> {
        let tensors = self.all().into_iter().map(|(name, var)| Ok((name, var.as_tensor().to_dtype(dtype)?)));
        save_whole(file, &tensors.collect::<Result<_>>()?)
    }
}

/// Writes beside the file first, so that a kill leaves the old one.
fn save_whole(file: &Path, tensors: &HashMap<String, Tensor>) -> Result<()> {
    let part = file.with_extension("part");
    safetensors::save(tensors, &part)?;
    std::fs::rename(&part, file).map_err(Error::wrap)
}

/// Deviation of the normal distribution a weight starts from; `None` for constants.
fn deviation(shape: &Shape, name: &str) -> Option<f32> {
    let dims = shape.dims();
    if name.contains("embed_tokens") || name.contains("embeddings.class") || name.contains("embeddings.position") {
        Some(0.02)
    } else if dims.len() >= 2 {
        Some(0.7 / (dims[1..].iter().product::<usize>() as f32).sqrt())
    } else {
        None
    }
}

impl SimpleBackend for Variables {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut inner = self.lock();
        if let Some(var) = inner.vars.get(name) {
            return Ok(var.as_tensor().clone());
        }
        let start = match inner.saved.get(name) {
            Some(saved) if saved.shape() != &shape => {
                bail!("checkpoint tensor {name} is {:?}; {shape:?} expected", saved.shape())
            }
            Some(saved) => saved.to_dtype(dtype)?,
            None => match deviation(&shape, name) {
                Some(std) => {
                    let normal = rand_normal(&mut inner.rng, shape.elem_count(), std);
                    Tensor::from_vec(normal, &shape, device)?
                }
                None if name.ends_with("bias") => Tensor::zeros(&shape, dtype, device)?,
                None => Tensor::ones(&shape, dtype, device)?,
            },
        };
        let var = Var::from_tensor(&start)?;
        inner.vars.insert(name.to_owned(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        let inner = self.lock();
        inner.vars.get(name).map(|v| v.as_tensor().clone()).ok_or_else(|| Error::Msg(format!("no variable {name}")))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        // A model under training may create whatever it asks for, but optional tensors are only there when saved.
        self.lock().vars.contains_key(name)
    }
}

/// Box-Muller normal numbers of deviation `std`.
fn rand_normal(rng: &mut ChaCha8Rng, n: usize, std: f32) -> Vec<f32> {
    let mut pair = || {
        let radius = (-2.0 * rng.random::<f32>().max(1e-12).ln()).sqrt() * std;
        let angle = rng.random::<f32>() * std::f32::consts::TAU;
        [radius * angle.cos(), radius * angle.sin()]
    };
    let mut values: Vec<f32> = (0..n.div_ceil(2)).flat_map(|_| pair()).collect();
    values.truncate(n);
    values
}

/// AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay. Its state is saved with a checkpoint, which
/// candle-nn's can't be.
pub struct AdamW {
    vars: Vec<(String, Var)>,
    moments: Vec<(Tensor, Tensor)>,
    /// Steps taken.
    pub step: usize,
    settings: AdamWSettings,
}

/// Settings of [`AdamW`].
#[derive(Clone, Debug)]
pub struct AdamWSettings {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay of matrices; vectors do not decay.
    pub weight_decay: f64,
    /// Steps up to the highest rate.
    pub warmup: usize,
    /// Steps in all; the rate ends at a twentieth of its height.
    pub steps: usize,
    /// Gradients are scaled to at most this norm.
    pub clip: f64,
}

const BETAS: (f64, f64) = (0.9, 0.98);
const EPSILON: f64 = 1e-8;

impl AdamW {
    /// An optimiser over variables, all of which need a gradient at each step.
    pub fn new(vars: Vec<(String, Var)>, settings: AdamWSettings) -> Result<Self> {
        let zero = |v: &Var| Ok((v.as_tensor().zeros_like()?.detach(), v.as_tensor().zeros_like()?.detach()));
        let moments = vars.iter().map(|(_, v)| zero(v)).collect::<Result<_>>()?;
        Ok(Self { vars, moments, step: 0, settings })
    }

    /// The rate of the coming step.
    pub fn rate(&self) -> f64 {
        let AdamWSettings { learning_rate, warmup, steps, .. } = self.settings;
        if self.step < warmup {
            return learning_rate * (self.step + 1) as f64 / warmup as f64;
        }
        let done = (self.step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + (done.min(1.0) * std::f64::consts::PI).cos()))
    }

    /// One step; returns the norm of the gradient. A variable without gradient is an error: it would silently not learn.
    pub fn step(&mut self, grads: &[Tensor]) -> Result<f64> {
        let norms = grads.iter().map(|g| Ok(f64::from(g.sqr()?.sum_all()?.to_scalar::<f32>()?)));
        let norm = norms.sum::<Result<f64>>()?.sqrt();
        if !norm.is_finite() {
            bail!("the gradient is not finite at step {}; lower the learning rate", self.step);
        }
        let scale = (self.settings.clip / norm.max(1e-12)).min(1.0);
        let rate = self.rate();
        self.step += 1;
        let bias = |beta: f64| 1.0 - beta.powi(self.step as i32);
        for (((_, var), (m, v)), grad) in self.vars.iter().zip(&mut self.moments).zip(grads) {
            let grad = (grad.detach() * scale)?;
            *m = ((&*m * BETAS.0)? + (&grad * (1.0 - BETAS.0))?)?;
            *v = ((&*v * BETAS.1)? + (grad.sqr()? * (1.0 - BETAS.1))?)?;
            let move_by = ((&*m / bias(BETAS.0))? / ((&*v / bias(BETAS.1))?.sqrt()? + EPSILON)?)?;
            let decay = if var.rank() >= 2 { rate * self.settings.weight_decay } else { 0.0 };
            var.set(&((var.as_tensor() * (1.0 - decay))? - (move_by * rate)?)?.detach())?;
        }
        Ok(norm)
    }

    /// Gradients of all variables in their order; an error names the variables without one.
    pub fn gradients(&self, store: &GradStore) -> Result<Vec<Tensor>> {
        let missing: Vec<&str> =
            self.vars.iter().filter(|(_, v)| store.get(v.as_tensor()).is_none()).map(|(n, _)| n.as_str()).collect();
        if !missing.is_empty() {
            bail!("no gradient for {}", missing.join(", "));
        }
        Ok(self.vars.iter().filter_map(|(_, v)| store.get(v.as_tensor()).cloned()).collect())
    }

    /// Saves the state beside a checkpoint.
    pub fn save(&self, file: &Path) -> Result<()> {
        let mut tensors = HashMap::new();
        for ((name, _), (m, v)) in self.vars.iter().zip(&self.moments) {
            tensors.insert(format!("m.{name}"), m.clone());
            tensors.insert(format!("v.{name}"), v.clone());
        }
        tensors.insert("step".to_owned(), Tensor::new(&[self.step as i64], &Device::Cpu)?);
        save_whole(file, &tensors)
    }

    /// Takes up a saved state.
    pub fn restore(&mut self, file: &Path, device: &Device) -> Result<()> {
        let saved = safetensors::load(file, device)?;
        let find = |name: String| {
            saved.get(&name).cloned().ok_or_else(|| Error::Msg(format!("{}: no tensor {name}", file.display())))
        };
        for ((name, _), moments) in self.vars.iter().zip(&mut self.moments) {
            *moments = (find(format!("m.{name}"))?, find(format!("v.{name}"))?);
        }
        self.step = find("step".to_owned())?.to_vec1::<i64>()?.first().map_or(0, |s| *s as usize);
        Ok(())
    }
}

/// Runs `work(i)` on `workers` threads; each gives losses and gradients of its share of a batch; means come back.
///
/// On two cores this is faster than threads inside each operation, most of which candle runs on one core.
pub fn data_parallel<W>(workers: usize, work: W) -> Result<(Vec<f64>, Vec<Tensor>)>
where
    W: Fn(usize) -> Result<(Vec<f64>, Vec<Tensor>)> + Sync,
{
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|i| {
                scope.spawn({
                    let work = &work;
                    move || work(i)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|h| h.join().unwrap_or_else(|_| Err(Error::Msg("a training worker panicked".into()))))
            .collect()
    });
    let mut sums: Option<(Vec<f64>, Vec<Tensor>)> = None;
    for result in results {
        let (losses, grads) = result?;
        sums = Some(match sums {
            None => (losses, grads),
            Some((l, g)) => (
                l.iter().zip(&losses).map(|(a, b)| a + b).collect(),
                g.iter().zip(&grads).map(|(a, b)| a + b).collect::<Result<_>>()?,
            ),
        });
    }
    let Some((losses, grads)) = sums else { bail!("no worker") };
    let share = 1.0 / workers as f64;
    Ok((losses.iter().map(|l| l * share).collect(), grads.iter().map(|g| g * share).collect::<Result<_>>()?))
}
