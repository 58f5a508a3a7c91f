//! The optimiser, and where a run keeps its state.

use super::{Variables, save_whole};
use candle_core::{DType, Device, Error, Result, Tensor, Var, backprop::GradStore, bail, safetensors};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Instant,
};

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

/// Where a run that can be stopped keeps what it has.
#[derive(Clone, Debug)]
pub struct Keep {
    /// The variables.
    pub weights: PathBuf,
    /// The optimiser's state.
    pub state: PathBuf,
    /// Steps between checkpoints.
    pub every: usize,
}

impl Keep {
    /// `{part}.safetensors` and `{part}-optimiser.safetensors` of a folder.
    pub fn new(folder: &Path, part: &str, every: usize) -> Self {
        let file = |name: String| folder.join(name);
        let (weights, state) = (format!("{part}.safetensors"), format!("{part}-optimiser.safetensors"));
        Self { weights: file(weights), state: file(state), every }
    }

    /// Whether there is a run to be taken up.
    pub fn begun(&self) -> bool {
        self.weights.exists() && self.state.exists()
    }

    /// An optimiser over `vars`, where it was stopped if it was.
    ///
    /// # Errors
    /// A state of another model.
    pub fn optimiser(&self, vars: &Variables, settings: AdamWSettings, device: &Device) -> Result<AdamW> {
        let mut optimiser = AdamW::new(vars.all(), settings)?;
        if self.begun() {
            optimiser.restore(&self.state, device)?;
        }
        Ok(optimiser)
    }

    /// Saves now and then, and at the end.
    ///
    /// # Errors
    /// Files that can't be written.
    pub fn save(&self, vars: &Variables, optimiser: &AdamW) -> Result<()> {
        if optimiser.step.is_multiple_of(self.every.max(1)) || optimiser.over() {
            vars.save(&self.weights, DType::F32)?;
            optimiser.save(&self.state)?;
        }
        Ok(())
    }
}
