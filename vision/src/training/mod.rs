//! What every training in Spotter shares: seeded variables, AdamW whose state can be saved, data-parallel steps,
//! checkpoints. The encoder's own training is beside it; the coach's is in the engine.

mod adamw;
pub mod encoder;
pub mod heads;
pub mod selectors;
pub mod skipping;

pub use adamw::{AdamW, AdamWSettings, Keep};

use candle_core::{DType, Device, Error, Result, Shape, Tensor, Var, bail, safetensors};
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

    /// Variables that take the values of `tensors` where they have them, and of the seed elsewhere.
    pub fn of(tensors: HashMap<String, Tensor>, seed: u64, device: &Device) -> Self {
        let this = Self::seeded(seed, device);
        this.lock().saved = tensors;
        this
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
    use std::time::Instant;

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
