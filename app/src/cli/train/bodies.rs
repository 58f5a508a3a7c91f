//! Drawn bodies: pictures whose truth is known.

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
    training::heads::{Sample, SampleSource},
};
use std::{sync::Arc, time::Duration};

/// Frames a second of the stream that a sample is cut from.
const STREAM_FPS: f32 = 8.0;
/// Samples cut from one take.
const PER_TAKE: usize = 8;

/// Random people doing random exercises before random cameras.
#[derive(Clone)]
pub(super) struct Bodies {
    /// Side of the picture in pixels.
    pub(super) side: usize,
    pub(super) split: Split,
    /// Recorded people, who do a share of the exercises.
    pub(super) library: Option<Arc<MotionLibrary>>,
    pub(super) recorded: f64,
    /// Each picture comes with the one before it.
    pub(super) pairs: bool,
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
        let mut last = None;
        for i in 0..frames {
            let t = i as f32 / STREAM_FPS;
            let at = (t * FPS) as usize;
            let Some(posture) = postures.get(at) else { break };
            let clean = camera.project(posture);
            let seen = noise.corrupt(f64::from(t), &clean);
            let placement = view.follow(Duration::from_secs_f32(t), &seen);
            let before = last.replace((placement, seen.clone())).filter(|_| self.pairs);
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
            let before = before.map(|(placement, seen)| render(self.side, &placement, &seen));
            samples.push(Sample { rgb, before, joints, exercise: exercise as u32, phase, mistakes });
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
