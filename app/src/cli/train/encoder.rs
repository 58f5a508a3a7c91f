//! Drawn bodies for the encoder.

use super::{Meter, Run, recipe::Recipe};
use crate::parallel::in_parallel;
use anyhow::Result;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::{
    Exercise, Mistake,
    camera::{Camera, PoseNoise},
    exercise::{FPS, Take},
    motion::{self, Fault, MotionLibrary, Person, Split, Style},
};
use spotter_vision::{
    avatar::{AvatarView, render},
    body::JOINTS,
    encoder::{
        tosa::Tosa,
        vit::{Vit, VitConfig},
    },
    training::{
        Variables,
        encoder::{EncoderModel, EncoderTraining, Sample, SampleSource, train as train_encoder},
        selectors::{SelectorTraining, train as train_selectors},
        skipping::{SkippingTraining, compare, train as train_skipping},
    },
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// Frames a second of the stream that a sample is cut from.
const STREAM_FPS: f32 = 8.0;
/// Samples cut from one take.
const PER_TAKE: usize = 8;

/// Random people doing random exercises before random cameras.
struct Bodies {
    side: usize,
    split: Split,
    library: Option<Arc<MotionLibrary>>,
    recorded: f64,
}

/// A style with up to two mistakes at random.
fn random_style(exercise: Exercise, rng: &mut ChaCha8Rng) -> Style {
    let mut style = Style::clean();
    for mistake in exercise.mistakes() {
        if rng.random_bool(0.25) {
            style.faults.push(Fault {
                mistake: *mistake,
                severity: rng.random_range(0.3..1.2),
                from: 0,
                to: usize::MAX,
            });
        }
    }
    style.varied(exercise, rng)
}

/// Phase and mistakes (a bit each) of the repetition that a posture belongs to; at rest between two of them.
fn moment(take: &Take, at: usize) -> (f32, u32) {
    let Some(rep) = take.reps.iter().find(|rep| (rep.start..rep.end).contains(&at)) else { return (0.0, 0) };
    let part = |from: usize, to: usize| at.saturating_sub(from) as f32 / to.saturating_sub(from).max(1) as f32;
    let phase = if at < rep.peak { part(rep.start, rep.peak) / 2.0 } else { 0.5 + part(rep.peak, rep.end) / 2.0 };
    (phase, rep.mistakes.iter().fold(0, |bits, m| bits | 1 << *m as u32))
}

impl Bodies {
    fn take(&self, rng: &mut ChaCha8Rng) -> Vec<Sample> {
        let exercise = Exercise::ALL[rng.random_range(0..Exercise::ALL.len())];
        let person = Person::random(rng);
        let style = random_style(exercise, rng);
        let reps = (8.0 / motion::seconds_per_rep(exercise)).ceil().max(2.0) as usize;
        let library = self.library.as_ref().filter(|_| rng.random_bool(self.recorded));
        let recorded = library.and_then(|l| l.take(exercise, reps, style.facing, self.split, rng));
        let take = recorded.unwrap_or_else(|| motion::take(exercise, &person, &style, reps, rng));
        let postures = &take.postures;
        let (camera, mut noise) = (Camera::random(rng), PoseNoise::random(rng));
        let mut view = AvatarView::new(self.side);
        let seconds = postures.len() as f32 / FPS;
        let frames = (seconds * STREAM_FPS) as usize;
        let mut samples = Vec::new();
        for i in 0..frames {
            let t = i as f32 / STREAM_FPS;
            let at = (t * FPS) as usize;
            let Some(posture) = postures.get(at) else { break };
            let clean = camera.project(posture);
            let seen = noise.corrupt(f64::from(t), &clean);
            let placement = view.follow(Duration::from_secs_f32(t), &seen);
            // The frame settles in the first second.
            if i < 8 || !rng.random_bool((PER_TAKE as f64 / (frames.saturating_sub(8)).max(1) as f64).min(1.0)) {
                continue;
            }
            let half = self.side as f32 / 2.0;
            let joints: [[f32; 3]; JOINTS] = clean.joints.map(|j| {
                let [x, y, z] = placement.place(j);
                [(x / half - 1.0).clamp(-1.5, 1.5), (y / half - 1.0).clamp(-1.5, 1.5), (z / half).clamp(-1.5, 1.5)]
            });
            let (phase, mistakes) = moment(&take, at);
            let rgb = render(self.side, &placement, &seen);
            samples.push(Sample { rgb, joints, exercise: exercise as u32, phase, mistakes });
        }
        samples
    }
}

impl SampleSource for Bodies {
    fn classes(&self) -> usize {
        Exercise::ALL.len()
    }

    fn mistakes(&self) -> usize {
        Mistake::ALL.len()
    }

    fn samples(&self, seed: u64, count: usize) -> Vec<Sample> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut samples = Vec::with_capacity(count + PER_TAKE * 4);
        while samples.len() < count {
            samples.extend(self.take(&mut rng));
        }
        samples.truncate(count);
        samples
    }
}

/// Trains the encoder of a recipe; prints its scores on bodies it never saw.
pub(super) fn train(recipe: &Recipe, run: &Run) -> Result<()> {
    let bodies = |split| Bodies {
        side: recipe.vision.image_size,
        split,
        library: run.library.clone(),
        recorded: recipe.recorded,
    };
    let held_out = bodies(Split::Validation).samples(u64::MAX, 2048);
    let settings = EncoderTraining {
        batch: recipe.encoder.batch,
        workers: run.workers,
        drawers: run.makers,
        device: run.device.clone(),
        optimiser: recipe.encoder.optimiser.settings(run.until),
        seed: recipe.seed,
        out: run.out.clone(),
        save_every: 500,
    };
    let mut meter = Meter::new(settings.optimiser.steps, 100);
    let mut smooth: Option<[f64; 4]> = None;
    let scores = train_encoder(&recipe.vision, &settings, &bodies(Split::Train), &held_out, &mut |p| {
        let now = [p.joints, p.exercise, p.phase, p.mistakes];
        let mean = smooth.get_or_insert(now);
        mean.iter_mut().zip(now).for_each(|(m, n)| *m += 0.05 * (n - *m));
        let [joints, exercise, phase, mistakes] = mean;
        meter.at(
            p.step,
            &format!("joints {joints:.5}, exercise {exercise:.3}, phase {phase:.3}, mistakes {mistakes:.3}"),
        );
    })?;
    super::super::print_json(&scores)
}

/// The trained tower of a run, that of the joint stage where there is one.
fn tower(run: &Run) -> Result<PathBuf> {
    let joint = run.out.join("joint.safetensors");
    if joint.exists() { Ok(joint) } else { super::coach::earlier(run, "encoder") }
}

/// Trains selectors for the tower of a run; prints how well they choose.
pub(super) fn selectors(recipe: &Recipe, run: &Run) -> Result<()> {
    let frozen = Variables::load(&tower(run)?, recipe.seed, &run.device)?;
    let vit = Vit::new(&recipe.vision, frozen.builder().pp("vision_tower"))?;
    let vars = Variables::seeded(recipe.seed, &run.device);
    let (depth, heads) = (recipe.vision.num_hidden_layers, recipe.vision.num_attention_heads);
    let tosa = Tosa::new(&recipe.selectors.tosa, depth, heads, &vars.builder().pp("vision_tower").pp("layers"))?;
    let bodies = |split| Bodies {
        side: recipe.vision.image_size,
        split,
        library: run.library.clone(),
        recorded: recipe.recorded,
    };
    let cut = |bodies: &Bodies, seed: u64, count: usize| {
        let samples = bodies.samples(seed, count);
        Vit::cut(&recipe.vision, &samples.iter().map(|s| s.rgb.as_slice()).collect::<Vec<_>>())
    };
    let (seen, unseen) = (bodies(Split::Train), bodies(Split::Validation));
    let settings = SelectorTraining {
        optimiser: recipe.selectors.optimiser.settings(run.until),
        makers: run.makers,
        weights: run.out.join("selectors.safetensors"),
    };
    let mut meter = Meter::new(settings.optimiser.steps, 50);
    let found = train_selectors(
        &vit,
        &tosa,
        &vars,
        &settings,
        |step| cut(&seen, recipe.seed.wrapping_add(step as u64), recipe.selectors.batch),
        cut(&unseen, u64::MAX, 256)?,
        &mut |step, divergence| meter.at(step, &format!("divergence {divergence:.4}")),
    )?;
    super::super::print_json(&found)?;
    let (_, mut model) = with_selectors(recipe, run)?;
    scores(&mut model, recipe, run)
}

/// The trained tower of a run with its trained selectors and the heads of single pictures.
fn with_selectors(recipe: &Recipe, run: &Run) -> Result<(Variables, EncoderModel)> {
    // A joint stage has no heads of single pictures; those of the encoder's stage are near enough to begin with.
    let (heads, selectors) = (super::coach::earlier(run, "encoder")?, super::coach::earlier(run, "selectors")?);
    let vars = Variables::load_all(&[&heads, &tower(run)?, &selectors], recipe.seed, &run.device)?;
    let vision = VitConfig { tosa: Some(recipe.selectors.tosa.clone()), ..recipe.vision.clone() };
    let model = EncoderModel::new(&vision, Exercise::ALL.len(), Mistake::ALL.len(), &vars)?;
    Ok((vars, model))
}

/// Trains tower and selectors of a run together while tokens are skipped; prints what single pictures score at each ratio.
pub(super) fn skipping(recipe: &Recipe, run: &Run) -> Result<()> {
    let frozen = Variables::load(&tower(run)?, recipe.seed, &run.device)?;
    let teacher = Vit::new(&recipe.vision, frozen.builder().pp("vision_tower"))?;
    let (vars, mut model) = with_selectors(recipe, run)?;
    let bodies = Bodies {
        side: recipe.vision.image_size,
        split: Split::Train,
        library: run.library.clone(),
        recorded: recipe.recorded,
    };
    let settings = SkippingTraining {
        batch: recipe.skipping.batch,
        ratios: recipe.skipping.ratios.clone(),
        selector_weight: recipe.skipping.selector_weight,
        distil_weight: recipe.skipping.distil_weight,
        optimiser: recipe.skipping.optimiser.settings(run.until),
        drawers: run.makers,
        seed: recipe.seed,
        weights: run.out.join("skipping.safetensors"),
    };
    let mut meter = Meter::new(settings.optimiser.steps, 50);
    train_skipping(&teacher, &model, &vars, &settings, &bodies, &mut |p| {
        meter.at(p.step, &format!("task {:.4}, divergence {:.4}, distance {:.5}", p.task, p.divergence, p.distance));
    })?;
    scores(&mut model, recipe, run)
}

/// Prints a line for each ratio and way of choosing, on bodies that training never saw.
fn scores(model: &mut EncoderModel, recipe: &Recipe, run: &Run) -> Result<()> {
    let bodies = Bodies {
        side: recipe.vision.image_size,
        split: Split::Validation,
        library: run.library.clone(),
        recorded: recipe.recorded,
    };
    let drawn = in_parallel(run.makers, 32, |i| Ok(bodies.samples(u64::MAX - i as u64, 256)), |_| {})?;
    let held_out: Vec<Sample> = drawn.into_iter().flatten().collect();
    let mut ratios = recipe.skipping.ratios.clone();
    ratios.sort_by(|a, b| b.total_cmp(a));
    for row in compare(model, &ratios, &held_out)? {
        super::super::print_json(&row)?;
    }
    Ok(())
}
