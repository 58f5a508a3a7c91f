//! Drawn bodies for the encoder.

use super::{Meter, parallel::workers, recipe::Recipe};
use anyhow::Result;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::{
    Exercise,
    camera::{Camera, PoseNoise},
    exercise::FPS,
    motion::{self, Fault, Person, Style},
};
use spotter_vision::{
    avatar::{AvatarView, render},
    body::JOINTS,
    training::encoder::{EncoderTraining, Sample, SampleSource, train as train_encoder},
};
use std::{path::Path, time::Duration};

/// Frames a second of the stream that a sample is cut from.
const STREAM_FPS: f32 = 8.0;
/// Samples cut from one take.
const PER_TAKE: usize = 8;

/// Random people doing random exercises before random cameras.
pub(super) struct Bodies {
    side: usize,
}

/// A style with up to two mistakes at random.
pub(super) fn random_style(exercise: Exercise, rng: &mut ChaCha8Rng) -> Style {
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

impl Bodies {
    fn take(&self, rng: &mut ChaCha8Rng) -> Vec<Sample> {
        let exercise = Exercise::ALL[rng.random_range(0..Exercise::ALL.len())];
        let person = Person::random(rng);
        let style = random_style(exercise, rng);
        let reps = (8.0 / motion::seconds_per_rep(exercise)).ceil().max(2.0) as usize;
        let postures = motion::take(exercise, &person, &style, reps, rng).postures;
        let (camera, mut noise) = (Camera::random(rng), PoseNoise::random(rng));
        let mut view = AvatarView::new(self.side);
        let seconds = postures.len() as f32 / FPS;
        let frames = (seconds * STREAM_FPS) as usize;
        let mut samples = Vec::new();
        for i in 0..frames {
            let t = i as f32 / STREAM_FPS;
            let Some(posture) = postures.get((t * FPS) as usize) else { break };
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
            samples.push(Sample { rgb: render(self.side, &placement, &seen), joints, exercise: exercise as u32 });
        }
        samples
    }
}

impl SampleSource for Bodies {
    fn classes(&self) -> usize {
        Exercise::ALL.len()
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
pub(super) fn train(recipe: &Recipe, out: &Path) -> Result<()> {
    let source = Bodies { side: recipe.vision.image_size };
    let held_out = source.samples(u64::MAX, 2048);
    let run = EncoderTraining {
        batch: recipe.encoder.batch,
        workers: workers(),
        optimiser: recipe.encoder.optimiser.settings(),
        seed: recipe.seed,
        out: out.to_owned(),
        save_every: 200,
    };
    let mut meter = Meter::new(run.optimiser.steps, 50);
    let mut smooth: Option<(f64, f64)> = None;
    let scores = train_encoder(&recipe.vision, &run, &source, &held_out, &mut |p| {
        let (j, e) = smooth.get_or_insert((p.joints, p.exercise));
        *j += 0.05 * (p.joints - *j);
        *e += 0.05 * (p.exercise - *e);
        meter.at(p.step, &format!("joints {j:.5}, exercise {e:.3}"));
    })?;
    super::super::print_json(&scores)
}
