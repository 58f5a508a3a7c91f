//! What every training in Spotter shares: seeded variables, AdamW whose state can be saved, data-parallel steps,
//! checkpoints. The encoder's own training is beside it; the coach's is in the engine.

pub mod encoder;
pub mod selectors;
pub mod skipping;

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var, backprop::GradStore, bail, safetensors};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
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
        Self::load_all(&[file], seed, device)
    }

    /// The same from several files; a later one wins.
    pub fn load_all(files: &[&Path], seed: u64, device: &Device) -> Result<Self> {
        let this = Self::seeded(seed, device);
        for file in files {
            this.lock().saved.extend(safetensors::load(file, device)?);
        }
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
/// candle-nn's can't be. All variables are updated as one vector: a step is a few operations, not a few for each variable.
pub struct AdamW {
    vars: Vec<(String, Var)>,
    moments: (Tensor, Tensor),
    /// 1 for numbers that decay, 0 for others.
    decaying: Tensor,
    /// Steps taken.
    pub step: usize,
    settings: AdamWSettings,
    begun: Instant,
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
    /// The rate falls faster, and the run ends earlier, where not all steps can be taken by then.
    pub until: Option<Instant>,
}

const BETAS: (f64, f64) = (0.9, 0.98);
const EPSILON: f64 = 1e-8;

/// Tensors one after another as a vector.
fn flat<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
    Tensor::cat(&tensors.map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?, 0)
}

impl AdamW {
    /// An optimiser over variables, all of which need a gradient at each step.
    pub fn new(vars: Vec<(String, Var)>, settings: AdamWSettings) -> Result<Self> {
        if vars.is_empty() {
            bail!("nothing to train");
        }
        let zeros = flat(vars.iter().map(|(_, v)| v.as_tensor()))?.zeros_like()?.detach();
        let decays = |(_, v): &(String, Var)| -> Result<Tensor> {
            let v = v.as_tensor();
            if v.rank() >= 2 { v.ones_like() } else { v.zeros_like() }
        };
        let decaying = flat(vars.iter().map(decays).collect::<Result<Vec<_>>>()?.iter())?.detach();
        Ok(Self { vars, moments: (zeros.clone(), zeros), decaying, step: 0, settings, begun: Instant::now() })
    }

    /// Calls `f` with the name of each variable and where it lies in the vectors.
    fn each(&self, mut f: impl FnMut(&str, &Var, usize) -> Result<()>) -> Result<()> {
        let mut at = 0;
        for (name, var) in &self.vars {
            f(name, var, at)?;
            at += var.elem_count();
        }
        Ok(())
    }

    /// The rate of the coming step.
    pub fn rate(&self) -> f64 {
        let AdamWSettings { learning_rate, warmup, steps, .. } = self.settings;
        if self.step < warmup {
            return learning_rate * (self.step + 1) as f64 / warmup as f64;
        }
        let done = (self.step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        let done = done.max(self.time());
        learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + (done.min(1.0) * std::f64::consts::PI).cos()))
    }

    /// Share of the time that is gone; 0 where there is no limit.
    fn time(&self) -> f64 {
        let Some(until) = self.settings.until else { return 0.0 };
        let all = until.saturating_duration_since(self.begun).as_secs_f64();
        if all > 0.0 { self.begun.elapsed().as_secs_f64() / all } else { 1.0 }
    }

    /// Whether all steps are taken, or the time is over.
    pub fn over(&self) -> bool {
        self.step >= self.settings.steps || self.time() >= 1.0
    }

    /// One step; returns the norm of the gradient. A variable without gradient is an error: it would silently not learn.
    pub fn step(&mut self, grads: &[Tensor]) -> Result<f64> {
        let grad = flat(grads.iter())?.detach();
        let norm = f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
        if !norm.is_finite() {
            bail!("the gradient is not finite at step {}; lower the learning rate", self.step);
        }
        let rate = self.rate();
        self.step += 1;
        let bias = |beta: f64| 1.0 - beta.powi(self.step as i32);
        let grad = (grad * (self.settings.clip / norm.max(1e-12)).min(1.0))?;
        let (m, v) = &self.moments;
        let m = ((m * BETAS.0)? + (&grad * (1.0 - BETAS.0))?)?;
        let v = ((v * BETAS.1)? + (grad.sqr()? * (1.0 - BETAS.1))?)?;
        let move_by = ((&m / bias(BETAS.0))? / ((&v / bias(BETAS.1))?.sqrt()? + EPSILON)?)?;
        let now = flat(self.vars.iter().map(|(_, v)| v.as_tensor()))?.detach();
        let move_by = (move_by + (&now * &self.decaying)?.affine(self.settings.weight_decay, 0.0)?)?;
        let next = (now - (move_by * rate)?)?;
        self.moments = (m, v);
        self.each(|_, var, at| var.set(&next.narrow(0, at, var.elem_count())?.reshape(var.shape())?))?;
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
        self.each(|name, var, at| {
            for (kind, moment) in [("m", &self.moments.0), ("v", &self.moments.1)] {
                let own = moment.narrow(0, at, var.elem_count())?.reshape(var.shape())?;
                tensors.insert(format!("{kind}.{name}"), own);
            }
            Ok(())
        })?;
        tensors.insert("step".to_owned(), Tensor::new(&[self.step as i64], &Device::Cpu)?);
        save_whole(file, &tensors)
    }

    /// Takes up a saved state.
    pub fn restore(&mut self, file: &Path, device: &Device) -> Result<()> {
        let saved = safetensors::load(file, device)?;
        let find = |name: String| {
            saved.get(&name).cloned().ok_or_else(|| Error::Msg(format!("{}: no tensor {name}", file.display())))
        };
        let all = |kind: &str| -> Result<Tensor> {
            let parts = self.vars.iter().map(|(name, _)| find(format!("{kind}.{name}"))).collect::<Result<Vec<_>>>()?;
            flat(parts.iter())
        };
        let (m, v) = (all("m")?, all("v")?);
        if m.dims() != self.decaying.dims() || v.dims() != self.decaying.dims() {
            bail!("{}: of another model; delete it to begin anew", file.display());
        }
        self.moments = (m, v);
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
    if workers <= 1 {
        // A CUDA device works for the thread that made it.
        return work(0);
    }
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

/// Makes `make(i)` for each `i` of `range` on `threads` threads, a little ahead, and hands the results to `consume` in
/// order, on the calling thread, until it answers `false`.
///
/// # Errors
/// The first error of `make` or `consume`, or that a maker panicked.
pub fn prefetch<T: Send, E: From<Error> + Send>(
    range: std::ops::Range<usize>,
    threads: usize,
    make: impl Fn(usize) -> std::result::Result<T, E> + Sync,
    mut consume: impl FnMut(usize, T) -> std::result::Result<bool, E>,
) -> std::result::Result<(), E> {
    let threads = threads.clamp(1, range.len().max(1));
    std::thread::scope(|scope| {
        let mut made = Vec::with_capacity(threads);
        for first in 0..threads {
            // Two wait at each maker: enough to even out slow pieces.
            let (send, receive) = std::sync::mpsc::sync_channel(2);
            made.push(receive);
            let (make, range) = (&make, range.clone());
            scope.spawn(move || {
                for index in range.skip(first).step_by(threads) {
                    // The other side is gone when it has enough.
                    if send.send(make(index)).is_err() {
                        return;
                    }
                }
            });
        }
        for (index, receive) in range.clone().zip(made.iter().cycle()) {
            let result = receive.recv().map_err(|_| Error::Msg("a thread that prepares data panicked".into()))?;
            if !consume(index, result?)? {
                break;
            }
        }
        drop(made);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetched_pieces_come_in_order_and_stop_when_told() {
        for threads in [1, 3, 8, 50] {
            let mut seen = Vec::new();
            prefetch(
                5..25,
                threads,
                |i| Ok::<_, Error>(i * i),
                |i, square| {
                    seen.push((i, square));
                    Ok(i < 19)
                },
            )
            .unwrap();
            assert_eq!(seen, (5..20).map(|i| (i, i * i)).collect::<Vec<_>>());
        }
        let broken = |i: usize| if i == 7 { Err(Error::Msg("seven".into())) } else { Ok(i) };
        let mut last = 0;
        let failed = prefetch(0..20, 4, broken, |i, _| {
            last = i;
            Ok(true)
        });
        assert!(failed.unwrap_err().to_string().contains("seven"));
        assert_eq!(last, 6);
        prefetch(3..3, 4, Ok::<_, Error>, |_, _| panic!("nothing to consume")).unwrap();
    }

    fn settings(steps: usize) -> AdamWSettings {
        AdamWSettings { learning_rate: 0.1, weight_decay: 0.1, warmup: 2, steps, clip: 10.0, until: None }
    }

    /// Steps down `|x - target|^2` for a matrix and a vector.
    fn descend(vars: &Variables, optimiser: &mut AdamW, steps: usize) {
        let (w, b) = (vars.builder().get((2, 3), "w").unwrap(), vars.builder().get(3, "b.bias").unwrap());
        for _ in 0..steps {
            let loss = (((&w - 2.0).unwrap().sqr().unwrap().sum_all().unwrap())
                + ((&b + 1.0).unwrap().sqr().unwrap().sum_all().unwrap()))
            .unwrap();
            let grads = optimiser.gradients(&loss.backward().unwrap()).unwrap();
            optimiser.step(&grads).unwrap();
        }
    }

    fn fresh(seed: u64) -> (Variables, AdamW) {
        let vars = Variables::seeded(seed, &Device::Cpu);
        vars.builder().get((2, 3), "w").unwrap();
        vars.builder().get(3, "b.bias").unwrap();
        let optimiser = AdamW::new(vars.all(), settings(60)).unwrap();
        (vars, optimiser)
    }

    fn values(vars: &Variables) -> Vec<f32> {
        vars.all().iter().flat_map(|(_, v)| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    }

    #[test]
    fn matrices_decay_vectors_do_not_and_both_learn() {
        let (vars, mut optimiser) = fresh(1);
        descend(&vars, &mut optimiser, 60);
        for (name, var) in vars.all() {
            let values = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let target = if name == "w" { 2.0 } else { -1.0 };
            assert!(values.iter().all(|v| (v - target).abs() < 0.3), "{name}: {values:?}");
        }
        // Without a gradient only decay moves anything.
        let (vars, mut optimiser) = fresh(2);
        vars.all()[0].1.set(&Tensor::ones(3, DType::F32, &Device::Cpu).unwrap()).unwrap();
        let before = values(&vars);
        let still: Vec<Tensor> = vars.all().iter().map(|(_, v)| v.zeros_like().unwrap()).collect();
        optimiser.step(&still).unwrap();
        let after = values(&vars);
        assert_eq!(before[..3], after[..3], "vectors stay");
        assert!(before[3..].iter().zip(&after[3..]).all(|(b, a)| (a - b * (1.0 - 0.05 * 0.1)).abs() < 1e-6));
    }

    #[test]
    fn a_run_ends_in_time_with_its_rate_down() {
        let (vars, _) = fresh(4);
        let soon = Instant::now() + std::time::Duration::from_millis(60);
        let hurried = AdamWSettings { until: Some(soon), ..settings(1_000_000) };
        let mut optimiser = AdamW::new(vars.all(), hurried).unwrap();
        descend(&vars, &mut optimiser, 3);
        let early = optimiser.rate();
        while !optimiser.over() {
            descend(&vars, &mut optimiser, 1);
        }
        assert!(Instant::now() >= soon && optimiser.step < 1_000_000);
        assert!(early > 0.05 && optimiser.rate() < 0.006, "{early} to {}", optimiser.rate());
    }

    #[test]
    fn a_run_taken_up_again_ends_where_an_unbroken_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, state) = (folder.path().join("w.safetensors"), folder.path().join("s.safetensors"));
        let (whole, mut optimiser) = fresh(3);
        descend(&whole, &mut optimiser, 20);
        let (first, mut optimiser) = fresh(3);
        descend(&first, &mut optimiser, 8);
        first.save(&weights, DType::F32).unwrap();
        optimiser.save(&state).unwrap();
        let again = Variables::load(&weights, 99, &Device::Cpu).unwrap();
        again.builder().get((2, 3), "w").unwrap();
        again.builder().get(3, "b.bias").unwrap();
        let mut optimiser = AdamW::new(again.all(), settings(60)).unwrap();
        optimiser.restore(&state, &Device::Cpu).unwrap();
        assert_eq!(optimiser.step, 8);
        descend(&again, &mut optimiser, 12);
        assert_eq!(values(&whole), values(&again));
    }
}
