//! `spotter train selectors` and `skipping`: a model folder whose tower learns to skip tokens.

use super::{
    Meter, Run, TrainArgs, folder,
    frames::Frames,
    recipe::{OptimiserRecipe, TosaRecipe},
};
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use clap::Args;
use spotter_datasets::synthetic::{Exercise, Mistake};
use spotter_engine::{
    coach::manifest::{LensKind, Manifest},
    model::Plan,
};
use spotter_vision::{
    encoder::{
        Trunk,
        tosa::{Tosa, TosaOptions},
    },
    training::{
        AdamWSettings, Keep, Variables,
        heads::Heads,
        selectors::{SelectorTraining, train as train_selectors},
        skipping::{SkippingTraining, compare, fit_heads, train as train_skipping},
    },
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Steps between checkpoints.
const SAVE_EVERY: usize = 100;
/// Held-out pictures at most.
const HELD_OUT: usize = 2048;
/// The options of the selectors of a run, beside their weights.
const OPTIONS: &str = "tosa.json";

/// What training a tower to skip tokens takes beside the rest.
#[derive(Debug, Args)]
pub(super) struct TosaTrainArgs {
    /// With `selectors`, `skipping`, `export`: the model folder (CLIP, SigLIP or Spotter's own tower)
    #[arg(long, value_name = "DIR")]
    pub(super) model: Option<PathBuf>,
    /// With `selectors`, `skipping`: `synth` (drawn bodies), a recording, or a folder of recordings or pictures; every fifth
    /// recording, or the last fifth of a single one, is held out
    #[arg(long, value_name = "synth|PATH", default_value = "synth")]
    frames: PathBuf,
    /// Shares of the tokens that selective layers work on: the first is the folder's, `skipping` trains at each in turn
    #[arg(long, value_name = "RATIO", value_delimiter = ',', value_parser = ratio)]
    ratio: Vec<f64>,
    /// With `skipping`: skipped tokens take what they were given in the frame before
    #[arg(long)]
    reuse: bool,
    /// With `selectors`, `skipping`: pictures a step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Option<u16>,
    /// With `selectors`, `skipping`: steps at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// With `export`: the share of the tokens in the folder that is written, or off
    #[arg(long, value_name = "RATIO|off", value_parser = share)]
    tosa: Option<Share>,
}

/// Whether the tower of a folder skips tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Share {
    Off,
    Of(f64),
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if ratio > 0.0 && ratio <= 1.0 { Ok(ratio) } else { Err(format!("{ratio}: expected above 0 and at most 1")) }
}

fn share(text: &str) -> Result<Share, String> {
    if text == "off" { Ok(Share::Off) } else { ratio(text).map(Share::Of) }
}

/// A model folder in training.
struct Work<'a> {
    args: &'a TrainArgs,
    run: Run,
    recipe: TosaRecipe,
    plan: Plan,
    options: TosaOptions,
    /// The frozen tower, which works on all tokens.
    teacher: Box<dyn Trunk>,
}

/// Opens the folder that `--model` names, and makes the one for checkpoints.
fn open(args: &TrainArgs) -> Result<Plan> {
    let model =
        args.tosa.model.as_deref().context("--model DIR is missing: the model folder whose tower is trained")?;
    if let Some(to) = &args.to {
        folder::check(model, to)?;
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: can't be made", args.out.display()))?;
    let plan = Plan::open(model)?;
    if plan.checkpoint.gguf().is_some() {
        bail!("--model {}: selectors are trained for a folder with safetensors, not for GGUF files", model.display());
    }
    Ok(plan)
}

/// The options of the selectors that a run trained, or those of the model folder itself.
fn trained_options(args: &TrainArgs, plan: &Plan) -> Result<Option<TosaOptions>> {
    let path = args.out.join(OPTIONS);
    if !path.is_file() {
        return Ok(plan.config.vision.tosa().cloned());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}: can't be read", path.display()))?;
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("{}: not the options of selectors", path.display()))?))
}

impl<'a> Work<'a> {
    fn new(args: &'a TrainArgs, options: impl Fn(&Plan, &TosaRecipe) -> Result<TosaOptions>) -> Result<Self> {
        let recipe = TosaRecipe::read(args.config.as_deref())?;
        let plan = open(args)?;
        let run = Run::new(args)?;
        let mut options = options(&plan, &recipe)?;
        options.ratio = args.tosa.ratio.first().copied().unwrap_or(options.ratio);
        let vision = &plan.config.vision;
        if let Some(problem) = options.problem(plan.config.vision_depth) {
            bail!("{problem}");
        }
        let vb = plan.checkpoint.var_builder(DType::F32, &run.device)?.pp(&plan.layout.vision);
        let teacher = vision.clone().with_tosa(None).build(plan.config.vision_depth, vb)?;
        Ok(Self { args, run, recipe, plan, options, teacher })
    }

    fn frames(&self, pairs: bool) -> Result<Frames> {
        let folder = self.plan.checkpoint.folder();
        let manifest = folder.join("spotter.toml").is_file().then(|| Manifest::read(folder)).transpose()?;
        // A checkpoint as it is published looks at pictures, and nobody said how often.
        let (lens, rate) = manifest.map_or((LensKind::None, 8.0), |m| (m.lens, m.frame_rate));
        let synth = (self.recipe.seed, self.recipe.recorded, pairs);
        Frames::open(&self.args.tosa.frames, (&self.plan.prepare, lens, rate), &self.run, synth)
    }

    fn settings(&self, recipe: &OptimiserRecipe) -> AdamWSettings {
        let steps = self.args.tosa.steps.map_or(recipe.steps, |n| n as usize);
        AdamWSettings { steps, ..recipe.settings(self.run.until) }
    }

    fn batch(&self, recipe: usize) -> usize {
        self.args.tosa.batch.map_or(recipe, usize::from)
    }

    /// Says which selectors lie in the folder for checkpoints.
    fn save_options(&self) -> Result<()> {
        let path = self.args.out.join(OPTIONS);
        let text = serde_json::to_string_pretty(&self.options)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("{}: can't be written", path.display()))
    }

    /// Name of a tensor of the layers, as far as the layers.
    fn layers(&self) -> String {
        format!("{}.{}", self.plan.layout.vision, self.plan.config.vision.layers())
    }

    fn selectors(&self, vb: &VarBuilder) -> Result<Tosa> {
        Ok(Tosa::new(&self.options, self.teacher.outline(), &vb.pp(self.layers()))?)
    }

    fn export(&self) -> Result<()> {
        let Some(to) = &self.args.to else { return Ok(()) };
        write(&self.plan, &trained(&self.args.out)?, Some(&self.options), to)
    }
}

/// Tensors of the tower that a run trained, by their full names.
fn trained(out: &Path) -> Result<HashMap<String, Tensor>> {
    let files = ["skipping.safetensors", "selectors.safetensors"].map(|f| out.join(f));
    let Some(file) = files.iter().find(|f| f.is_file()) else {
        bail!("{}: no trained selectors; run `spotter train selectors` with the same --out first", out.display());
    };
    let saved = candle_core::safetensors::load(file, &candle_core::Device::Cpu)
        .with_context(|| format!("{}: can't be read", file.display()))?;
    Ok(saved.into_iter().filter(|(name, _)| !name.starts_with("heads.")).collect())
}

fn write(plan: &Plan, tower: &HashMap<String, Tensor>, tosa: Option<&TosaOptions>, to: &Path) -> Result<()> {
    folder::write(plan, tower, tosa, to)?;
    Plan::open(to).with_context(|| format!("{}: what was written can't be opened", to.display()))?;
    super::super::print_json(&serde_json::json!({ "folder": to, "tosa": tosa }))
}

/// Trains selectors for the tower of a model folder; prints how well they choose.
pub(super) fn selectors(args: &TrainArgs) -> Result<()> {
    let work = Work::new(args, |_, recipe| Ok(recipe.selectors.tosa.clone()))?;
    let keep = Keep::new(&args.out, "selectors", SAVE_EVERY);
    let (seed, device) = (work.recipe.seed, &work.run.device);
    let vars = if keep.begun() {
        let same = |o: &TosaOptions| TosaOptions { ratio: 1.0, reuse: false, ..o.clone() };
        if trained_options(args, &work.plan)?.as_ref().map(same) != Some(same(&work.options)) {
            bail!("{}: selectors with other options lie here; name another --out", args.out.display());
        }
        Variables::load(&keep.weights, seed, device)?
    } else {
        Variables::seeded(seed, device)
    };
    let tosa = work.selectors(&vars.builder())?;
    work.save_options()?;
    let frames = work.frames(false)?;
    let batch = work.batch(work.recipe.selectors.batch);
    let held_out: Vec<Tensor> =
        frames.held_out(batch, 256, work.run.makers)?.into_iter().map(|held| held.input).collect();
    let settings =
        SelectorTraining { optimiser: work.settings(&work.recipe.selectors.optimiser), makers: work.run.makers, keep };
    let mut meter = Meter::new(settings.optimiser.steps, 50);
    let found = train_selectors(
        work.teacher.as_ref(),
        &tosa,
        &vars,
        &settings,
        |step| frames.batch(step, batch).map(|pictures| pictures.input),
        &held_out,
        &mut |step, divergence| meter.at(step, &format!("divergence {divergence:.4}")),
    )?;
    super::super::print_json(&found)?;
    work.export()
}

/// Heads for a tower that has none, fitted to what its tokens say as they are; kept in a file beside the checkpoints.
fn heads(work: &Work<'_>, frames: &Frames) -> Result<Option<PathBuf>> {
    if !frames.known() {
        return Ok(None);
    }
    let file = work.args.out.join("heads.safetensors");
    if file.is_file() {
        return Ok(Some(file));
    }
    let vars = Variables::seeded(work.recipe.seed, &work.run.device);
    let heads = new_heads(work, &vars)?;
    let recipe = &work.recipe.skipping;
    // Heads are fitted in a fifth of the time at most.
    let until = work.run.until.map(|end| {
        let now = std::time::Instant::now();
        now + end.saturating_duration_since(now) / 5
    });
    let settings = AdamWSettings { until, ..work.settings(&recipe.heads) };
    let batch = work.batch(recipe.batch);
    let mut meter = Meter::new(settings.steps, 50);
    fit_heads(
        work.teacher.as_ref(),
        (&heads, &vars),
        &work.plan.read(),
        &settings,
        work.run.makers,
        |step| frames.batch(usize::MAX / 2 + step, batch),
        &mut |step, loss| meter.at(step, &format!("heads {loss:.4}")),
    )?;
    vars.save(&file, DType::F32)?;
    Ok(Some(file))
}

fn new_heads(work: &Work<'_>, vars: &Variables) -> Result<Heads> {
    let width = work.plan.config.vision.hidden_size();
    Ok(Heads::new(width, Exercise::ALL.len(), Mistake::ALL.len(), vars)?)
}

/// The variables that skipping trains: tower, selectors and heads, where they were left.
fn variables(work: &Work<'_>, keep: &Keep, heads: Option<&Path>) -> Result<Variables> {
    let (seed, device) = (work.recipe.seed, &work.run.device);
    if keep.begun() {
        return Ok(Variables::load(&keep.weights, seed, device)?);
    }
    let config = &work.plan.config;
    let own = work.args.out.join("selectors.safetensors");
    // Selectors of this run come first, then those that the model has.
    let tosa = if own.is_file() { None } else { config.vision.tosa().cloned() };
    let vb = work.plan.checkpoint.var_builder(DType::F32, device)?;
    let tower = config.vision.clone().with_tosa(tosa);
    let specs = tower.tensors(config.vision_depth, &format!("{}.", work.plan.layout.vision));
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for spec in specs {
        let tensor = vb.get(spec.shape.as_slice(), &spec.name)?;
        tensors.insert(spec.name, tensor);
    }
    for file in [own.is_file().then_some(own.as_path()), heads].into_iter().flatten() {
        tensors.extend(candle_core::safetensors::load(file, device)?);
    }
    Ok(Variables::of(tensors, seed, device))
}

/// Trains tower and selectors of a model folder together while tokens are skipped; prints what single pictures score at each
/// ratio, with each way of choosing.
pub(super) fn skipping(args: &TrainArgs) -> Result<()> {
    let mut work = Work::new(args, |plan, _| {
        trained_options(args, plan)?.with_context(|| {
            format!(
                "{}: no trained selectors; run `spotter train selectors` with the same --out first",
                args.out.display()
            )
        })
    })?;
    work.options.reuse |= args.tosa.reuse;
    work.save_options()?;
    let frames = work.frames(work.options.reuse)?;
    let heads_file = heads(&work, &frames)?;
    let keep = Keep::new(&args.out, "skipping", SAVE_EVERY);
    let vars = variables(&work, &keep, heads_file.as_deref())?;
    let config = &work.plan.config;
    let vision = config.vision.clone().with_tosa(Some(work.options.clone()));
    let mut tower = vision.build(config.vision_depth, vars.builder().pp(&work.plan.layout.vision))?;
    let heads = heads_file.map(|_| new_heads(&work, &vars)).transpose()?;
    let recipe = &work.recipe.skipping;
    let ratios = if args.tosa.ratio.is_empty() { recipe.ratios.clone() } else { args.tosa.ratio.clone() };
    let settings = SkippingTraining {
        ratios: ratios.clone(),
        selector_weight: recipe.selector_weight,
        distil_weight: recipe.distil_weight,
        optimiser: work.settings(&recipe.optimiser),
        makers: work.run.makers,
        keep,
    };
    let (batch, which) = (work.batch(recipe.batch), work.plan.read());
    let mut meter = Meter::new(settings.optimiser.steps, 50);
    train_skipping(
        work.teacher.as_ref(),
        tower.as_ref(),
        (heads.as_ref(), &vars),
        &which,
        &settings,
        |step| frames.batch(step, batch),
        &mut |p| {
            meter
                .at(p.step, &format!("task {:.4}, divergence {:.4}, distance {:.5}", p.task, p.divergence, p.distance));
        },
    )?;
    work.export()?;
    let held_out = frames.held_out(batch, HELD_OUT, work.run.makers)?;
    let mut ratios = ratios;
    ratios.sort_by(|a, b| b.total_cmp(a));
    for row in compare(work.teacher.as_ref(), tower.as_mut(), heads.as_ref(), &which, &ratios, &held_out)? {
        super::super::print_json(&row)?;
    }
    Ok(())
}

/// Writes a model folder with the tower that a run trained.
pub(super) fn export(args: &TrainArgs) -> Result<()> {
    let to = args.to.as_deref().context("export needs --to DIR, the model folder to write")?;
    let plan = open(args)?;
    let tower = trained(&args.out)?;
    let options = trained_options(args, &plan)?
        .with_context(|| format!("{}: {OPTIONS} is missing, which training writes", args.out.display()))?;
    let options = match args.tosa.tosa {
        Some(Share::Off) => None,
        Some(Share::Of(ratio)) => Some(TosaOptions { ratio, ..options }),
        None => Some(options),
    };
    write(&plan, &tower, options.as_ref(), to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        assert_eq!(share("off"), Ok(Share::Off));
        assert_eq!(share("0.5"), Ok(Share::Of(0.5)));
        assert!(share("0").is_err() && share("1.5").is_err() && share("on").is_err() && ratio("NaN").is_err());
    }
}
