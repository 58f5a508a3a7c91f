//! The encoder of a recipe, trained on drawn bodies.

use super::{Meter, Run, bodies::Bodies, recipe::Recipe};
use anyhow::Result;
use spotter_datasets::synthetic::motion::Split;
use spotter_vision::training::{
    encoder::{EncoderTraining, train as train_encoder},
    heads::SampleSource as _,
};

/// Trains the encoder of a recipe; prints its scores on bodies it never saw.
pub(super) fn train(recipe: &Recipe, run: &Run) -> Result<()> {
    let bodies = |split| Bodies {
        side: recipe.vision.image_size,
        split,
        library: run.library.clone(),
        recorded: recipe.recorded,
        pairs: false,
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
