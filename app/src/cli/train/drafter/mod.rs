//! `spotter train drafter`: a small language model that drafts for a target (specs: direct-alignment).

mod recipe;
mod texts;

use super::{Meter, Run, TrainArgs, recipe::OptimiserRecipe};
use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Tensor};
use clap::ValueEnum;
use recipe::DrafterRecipe;
use serde::Serialize;
use spotter_engine::{
    model::{AdapterConfig, DecoderConfig, adapter::PREFIX, language::DRAFTED},
    training::{
        align::Loss,
        drafter::{DrafterProgress, DrafterTraining, Head, Lesson, Teacher, pretrain, tune},
        judge::{Beside, Judged, judge},
        lines::{Line, Lines},
        watch::Pictures,
    },
};
use spotter_vision::training::Variables;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use texts::{Target, Texts};

/// A stage of a drafter's training, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Stage {
    /// All in turn
    #[default]
    All,
    /// Let the target speak
    Distil,
    /// Read text
    Pretrain,
    /// Towards the target's distributions, once for each loss
    Tune,
    /// Nothing: write a folder that `--draft` takes
    Export,
}

/// Utterances of a line, about.
const UTTERANCES: usize = 16;
/// Steps between checkpoints.
const SAVE_EVERY: usize = 500;

/// A run with its target.
struct Job<'a> {
    args: &'a TrainArgs,
    recipe: DrafterRecipe,
    target: Target,
    run: Run,
    config: DecoderConfig,
    /// What a drafter sees with that is trained beside one that reads text only.
    adapter: Option<AdapterConfig>,
    never: Vec<u32>,
    begun: Instant,
}

/// Trains a drafter, or some stage of it.
pub(super) fn run(args: &TrainArgs) -> Result<()> {
    let begun = Instant::now();
    let mut recipe = DrafterRecipe::read(args.config()?)?;
    recipe.adapter.tokens = args.adapter.map_or(recipe.adapter.tokens, usize::from);
    let path = args.target.as_deref().context("a drafter needs --target PATH, the model it drafts for")?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: can't be made", args.out.display()))?;
    let run = Run::new(args)?;
    let target = Target::open(path, &run)?;
    let mut config = DecoderConfig::from_hf(&recipe.text, "text.")?;
    config.vocab = target.vocab();
    let adapter = adapter(&recipe, &target, config.width)?;
    let job = Job { args, recipe, never: target.never()?, target, run, config, adapter, begun };
    let parameters = job.parameters();
    if parameters > job.recipe.most_parameters {
        bail!("recipe: the drafter has {parameters} parameters, more than most_parameters allows");
    }
    tracing::info!("a drafter of {parameters} parameters for a target of {}", job.target.parameters());
    job.stages()
}

/// The adapter that is asked for.
fn adapter(recipe: &DrafterRecipe, target: &Target, width: usize) -> Result<Option<AdapterConfig>> {
    let Some(Pictures { tokens, frames }) = texts::pictures(recipe) else { return Ok(None) };
    let from = target.sight().context("an adapter is for the drafter of a coach: the target is a language model")?;
    Ok(Some(AdapterConfig { tokens, frames, from, width }))
}

/// What a stage left, in one line.
#[derive(Serialize)]
struct Left<'a> {
    stage: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<Loss>,
    /// Visual tokens that it reads before an utterance.
    adapter: usize,
    steps: usize,
    seconds: f64,
    judged: Judged,
}

/// What is learnt from, the tokens that are drafted, where not all, and what is seen with, if anything.
struct Corpus {
    texts: Texts,
    head: Option<Arc<Head>>,
    /// Share of what was held out that the head has.
    covers: f64,
    adapter: Option<AdapterConfig>,
}

impl Corpus {
    /// The same for a drafter that reads text only.
    fn unseen(&self) -> Self {
        Self { texts: self.texts.unseen(), head: self.head.clone(), covers: self.covers, adapter: None }
    }

    /// Visual tokens of an utterance.
    fn tokens(&self) -> usize {
        self.adapter.map_or(0, |adapter| adapter.tokens)
    }

    /// Name of what is trained on it.
    fn name(&self, stage: &str) -> String {
        let loss = |text: &str| text.replace('+', "p");
        self.adapter.map_or_else(|| loss(stage), |adapter| format!("adapter{}-{}", adapter.tokens, loss(stage)))
    }
}

impl Job<'_> {
    /// Numbers in the weights, as they are counted for a target.
    fn parameters(&self) -> usize {
        let c = &self.config;
        let head = if c.tied { 0 } else { c.vocab * c.width };
        let attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads);
        let adapter = self.adapter.map_or(0, |adapter| adapter.parameters());
        c.vocab * c.width + head + c.layers * (attention + 3 * c.width * c.mlp_width) + adapter
    }

    fn stages(&self) -> Result<()> {
        match self.args.stage {
            Stage::Distil => self.distil(1.0).map(|_| ()),
            Stage::Pretrain => self.pretrain(&self.corpus(self.saved()?)?.unseen(), 1.0),
            Stage::Tune => self.tune_all(&self.corpus(self.saved()?)?).map(|_| ()),
            Stage::Export => {
                let [loss] = self.losses()[..] else { bail!("--stage export writes one drafter: name one --loss") };
                let to = self.args.to.as_deref().context("--stage export needs --to DIR")?;
                self.export(&self.corpus(self.saved()?)?, loss, to)
            }
            Stage::All => {
                let shares = self.recipe.shares;
                let all = shares.distil + shares.pretrain + shares.tune;
                let corpus = self.corpus(self.distil(shares.distil / all)?)?;
                self.pretrain(&corpus.unseen(), (shares.distil + shares.pretrain) / all)?;
                let best = self.tune_all(&corpus)?;
                match &self.args.to {
                    Some(to) => self.export(&corpus, best, to),
                    None => Ok(()),
                }
            }
        }
    }

    fn losses(&self) -> Vec<Loss> {
        self.args.loss.clone()
    }

    /// When a share of the time is gone.
    fn until(&self, share: f64) -> Option<Instant> {
        self.run.until.map(|until| self.begun + until.saturating_duration_since(self.begun).mul_f64(share))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.run.out.join(format!("{name}.safetensors"))
    }

    /// Texts of an earlier run.
    fn saved(&self) -> Result<Texts> {
        let load = |name: &str| {
            let file = self.file(name);
            Lines::load(&file)
                .with_context(|| format!("{}: run --stage distil with the same --out first", file.display()))
        };
        let texts = Texts { plain: load("plain")?.lines, said: load("said")?, held_out: load("held-out")? };
        let Some(adapter) = self.adapter else { return Ok(texts.unseen()) };
        let kept = |lines: &Lines| lines.seen.as_ref().map(|s| (s.tokens, s.frames, s.width));
        let (wanted, out) = ((adapter.tokens, adapter.frames, adapter.from), self.run.out.display());
        match (kept(&texts.said), kept(&texts.held_out)) {
            (Some(said), Some(held_out)) if said == wanted && held_out == wanted => Ok(texts),
            (None, _) | (_, None) => {
                bail!("{out}: the target has spoken before, without pictures being kept: give another --out")
            }
            (Some((tokens, frames, _)), _) => bail!(
                "{out}: pictures were kept as {tokens} tokens of {frames} frames, not {} of {}: give another --out",
                adapter.tokens,
                adapter.frames
            ),
        }
    }

    /// Lets the target speak until a share of the time is gone, unless it has spoken before.
    fn distil(&self, share: f64) -> Result<Texts> {
        if ["plain", "said", "held-out"].iter().all(|name| self.file(name).exists()) {
            tracing::info!("the target has spoken before");
            return self.saved();
        }
        let run = Run {
            until: self.until(share),
            out: self.run.out.clone(),
            device: self.run.device.clone(),
            library: self.run.library.clone(),
            ..self.run
        };
        let texts = self.target.texts(&self.recipe, &run, &self.args.text)?;
        Lines::new(texts.plain.clone(), None).save(&self.file("plain"))?;
        texts.said.save(&self.file("said"))?;
        texts.held_out.save(&self.file("held-out"))?;
        let utterances = |lines: &[Line]| lines.iter().map(|l| l.utterances().len()).sum::<usize>();
        super::super::print_json(&serde_json::json!({
            "stage": "distil",
            "plain_lines": texts.plain.len(),
            "said_lines": texts.said.lines.len(),
            "said_utterances": utterances(&texts.said.lines),
            "said_tokens": texts.said.spoken(),
            "held_out_tokens": texts.held_out.spoken(),
            "unlisted": texts.said.kept.as_ref().map(|k| k.tail()),
            "seconds": self.begun.elapsed().as_secs_f64(),
        }))?;
        Ok(texts)
    }

    /// Chooses the head by what the target says most often, before anything is trained: only its columns are.
    fn corpus(&self, texts: Texts) -> Result<Corpus> {
        let Some(most) = self.recipe.head.filter(|n| *n < self.config.vocab) else {
            return Ok(Corpus { texts, head: None, covers: 1.0, adapter: self.adapter });
        };
        let said = |lines: &[Line]| {
            let mut counts = vec![0usize; self.config.vocab];
            for line in lines {
                for (id, _) in line.ids.iter().zip(&line.spoken).filter(|(_, spoken)| **spoken) {
                    counts.get_mut(*id as usize).into_iter().for_each(|n| *n += 1);
                }
            }
            counts
        };
        let (counts, new) = (said(&texts.said.lines), said(&texts.held_out.lines));
        let mut ids: Vec<u32> = (0..self.config.vocab as u32).collect();
        ids.sort_by_key(|id| std::cmp::Reverse(counts.get(*id as usize).copied().unwrap_or(0)));
        ids.truncate(most);
        ids.sort_unstable();
        let covered: usize = ids.iter().filter_map(|id| new.get(*id as usize)).sum();
        let covers = covered as f64 / new.iter().sum::<usize>().max(1) as f64;
        let head = Some(Arc::new(Head::new(ids, self.config.vocab)?));
        Ok(Corpus { texts, head, covers, adapter: self.adapter })
    }

    fn training(
        &self,
        (name, corpus): (&str, &Corpus),
        batch: usize,
        optimiser: &OptimiserRecipe,
        until: Option<Instant>,
    ) -> DrafterTraining {
        DrafterTraining {
            batch,
            workers: self.run.workers,
            // What is seen is beside the words: as many of these are learnt from.
            length: (self.recipe.length + UTTERANCES * corpus.tokens()).min(self.config.max_positions),
            plain: self.recipe.tune.plain,
            optimiser: optimiser.settings(until),
            seed: self.recipe.seed,
            head: corpus.head.clone(),
            adapter: corpus.adapter,
            weights: self.file(name),
            state: self.file(&format!("{name}-optimiser")),
            save_every: SAVE_EVERY,
        }
    }

    /// The variables of a stage: its own when it is taken up again, else those of an earlier one, else new ones.
    fn variables(&self, training: &DrafterTraining, before: Option<&str>) -> Result<Variables> {
        let (seed, device) = (self.recipe.seed, &self.run.device);
        let file = match before {
            _ if training.resumes() => training.weights.clone(),
            Some(before) => self.file(before),
            None => return Ok(Variables::seeded(seed, device)),
        };
        Variables::load(&file, seed, device).with_context(|| format!("{}: run the stage before first", file.display()))
    }

    fn teacher<'a>(&'a self, lines: &'a Lines) -> Result<Teacher<'a>> {
        match (&lines.kept, &self.target) {
            (Some(kept), _) => Ok(Teacher::Kept(kept)),
            (None, Target::Language(model)) => Ok(Teacher::Model(&model.decoder)),
            (None, Target::Coach(_)) => bail!("the coach's distributions were not kept: let it speak again"),
        }
    }

    fn judged(&self, vars: &Variables, corpus: &Corpus) -> Result<Judged> {
        let held_out = &corpus.texts.held_out;
        let beside = Beside { never: &self.never, head: corpus.head.as_deref(), adapter: corpus.adapter };
        Ok(judge(&self.config, vars, held_out, self.teacher(held_out)?, beside)?)
    }

    fn pretrain(&self, corpus: &Corpus, share: f64) -> Result<()> {
        let own = &self.recipe.pretrain;
        let training = self.training(("pretrain", corpus), own.batch, &own.optimiser, self.until(share));
        let vars = self.variables(&training, None)?;
        let (mut meter, begun) = (Progress::new(training.optimiser.steps), Instant::now());
        let steps = pretrain(&self.config, &vars, &training, &corpus.texts.plain, &mut |p| meter.at(p))?;
        let seconds = begun.elapsed().as_secs_f64();
        let judged = self.judged(&vars, corpus)?;
        super::super::print_json(&Left { stage: "pretrain", loss: None, adapter: 0, steps, seconds, judged })
    }

    /// The drafter that reads text only, and with an adapter the one that sees, on the same texts; the best loss of the
    /// last.
    fn tune_all(&self, corpus: &Corpus) -> Result<Loss> {
        if corpus.adapter.is_none() {
            return self.tune(corpus, self.run.until);
        }
        let now = Instant::now();
        self.tune(&corpus.unseen(), self.run.until.map(|until| now + until.saturating_duration_since(now) / 2))?;
        self.tune(corpus, self.run.until)
    }

    /// KL from the pretrained drafter, then each loss from there with as many steps; the one with the best acceptance.
    fn tune(&self, corpus: &Corpus, until: Option<Instant>) -> Result<Loss> {
        let (own, losses) = (&self.recipe.tune, self.losses());
        let all = (own.warm.steps + losses.len() * own.optimiser.steps).max(1) as f64;
        let begun = Instant::now();
        let left = until.map(|until| until.saturating_duration_since(begun));
        let warm_until = left.map(|left| begun + left.mul_f64(own.warm.steps as f64 / all));
        let warm_name = corpus.name("warm");
        let warm = self.training((&warm_name, corpus), own.batch, &own.warm, warm_until);
        let (taken, seconds, _) = self.tuned("warm", Loss::Kl, &warm, "pretrain", corpus)?;
        let mut steps = own.optimiser.steps;
        if let Some(until) = until {
            let each = until.saturating_duration_since(Instant::now()).div_f64(losses.len().max(1) as f64);
            steps = steps.min(steps_in(each, taken, seconds));
        }
        let mut best = None;
        for loss in losses {
            // As many for each, so that they can be compared: the rate falls by steps; time is for the worst case.
            let optimiser = OptimiserRecipe { steps, ..own.optimiser.clone() };
            let name = corpus.name(&format!("tune-{loss}"));
            let training = self.training((&name, corpus), own.batch, &optimiser, until);
            let (_, _, judged) = self.tuned("tune", loss, &training, &warm_name, corpus)?;
            if best.is_none_or(|(_, acceptance)| judged.acceptance.mean > acceptance) {
                best = Some((loss, judged.acceptance.mean));
            }
        }
        best.map(|(loss, _)| loss).context("--loss names none")
    }

    fn tuned(
        &self,
        stage: &str,
        loss: Loss,
        training: &DrafterTraining,
        before: &str,
        corpus: &Corpus,
    ) -> Result<(usize, f64, Judged)> {
        let vars = self.variables(training, Some(before))?;
        let texts = &corpus.texts;
        let teacher = self.teacher(&texts.said)?;
        let lesson = Lesson { loss, lines: &texts.said, teacher, plain: &texts.plain, never: &self.never };
        let (mut meter, begun) = (Progress::new(training.optimiser.steps), Instant::now());
        let steps = tune(&self.config, &vars, training, &lesson, &mut |p| meter.at(p))?;
        let seconds = begun.elapsed().as_secs_f64();
        let judged = self.judged(&vars, corpus)?;
        let adapter = corpus.tokens();
        super::super::print_json(&Left { stage, loss: Some(loss), adapter, steps, seconds, judged: judged.clone() })?;
        Ok((steps, seconds, judged))
    }

    /// Writes `config.json`, `tokenizer.json` and `model.safetensors` (half precision).
    fn export(&self, corpus: &Corpus, loss: Loss, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to).with_context(|| format!("{}: can't be made", to.display()))?;
        let file = self.file(&corpus.name(&format!("tune-{loss}")));
        let saved = candle_core::safetensors::load(&file, &candle_core::Device::Cpu)
            .with_context(|| format!("{}: run --stage tune with this loss first", file.display()))?;
        let half = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_dtype(DType::F16)?));
        let mut tensors: HashMap<String, Tensor> = saved.into_iter().map(half).collect::<Result<_>>()?;
        if let Some(head) = &corpus.head {
            tensors.insert(DRAFTED.into(), Tensor::new(head.ids(), &candle_core::Device::Cpu)?);
        }
        if let Some(adapter) = &corpus.adapter {
            let frames = Tensor::new(&[adapter.frames as f32], &candle_core::Device::Cpu)?;
            tensors.insert(format!("{PREFIX}.frames"), frames);
        }
        let weights = to.join("model.safetensors");
        candle_core::safetensors::save(&tensors, &weights)?;
        std::fs::write(to.join("config.json"), serde_json::to_string_pretty(&self.config.to_hf())? + "\n")?;
        let tokenizer = to.join("tokenizer.json");
        if let Err(problem) = self.target.tokenizer().save(&tokenizer, false) {
            bail!("{}: can't be written: {problem}", tokenizer.display());
        }
        let bytes = std::fs::metadata(&weights)?.len();
        super::super::print_json(&serde_json::json!({
            "folder": to, "loss": loss, "adapter": corpus.tokens(), "parameters": self.parameters(), "weight_bytes": bytes,
            "head": corpus.head.as_ref().map(|head| head.ids().len()), "head_covers": corpus.covers,
        }))
    }
}

/// Part of the time that is planned: what is left is for judging and for a busy machine.
const PLANNED: f64 = 0.85;

/// Steps that fit a time, at the pace of `taken` steps in `seconds`.
fn steps_in(time: Duration, taken: usize, seconds: f64) -> usize {
    ((time.as_secs_f64() * PLANNED * taken as f64 / seconds.max(1e-9)) as usize).max(1)
}

/// A meter with smoothed numbers.
struct Progress {
    meter: Meter,
    mean: Option<(f64, f64)>,
}

impl Progress {
    fn new(steps: usize) -> Self {
        Self { meter: Meter::new(steps, 100), mean: None }
    }

    fn at(&mut self, p: &DrafterProgress) {
        let (loss, acceptance) = self.mean.get_or_insert((p.loss, p.acceptance));
        *loss += 0.05 * (p.loss - *loss);
        *acceptance += 0.05 * (p.acceptance - *acceptance);
        let accepted = if acceptance.is_nan() { String::new() } else { format!(", acceptance {acceptance:.4}") };
        self.meter.at(p.step, &format!("loss {loss:.4}{accepted}"));
    }
}
