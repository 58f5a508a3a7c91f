//! Synthetic sessions seen through a trained encoder: what the coach learns from. Encoded once, kept on disk.

use super::{parallel::in_parallel, recipe::Recipe};
use anyhow::{Context as _, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::{
    phrases::{self, Lang},
    session::{Session, SessionOptions, Split},
};
use spotter_engine::training::coach::{Stream, Stretch};
use spotter_vision::{avatar::AvatarView, encoder::vit::Vit};
use std::{path::Path, time::Duration};
use tokenizers::Tokenizer;

/// Frames a second of the slowest camera that is imitated.
const SLOWEST_CAMERA: f64 = 4.5;

/// The session of an index: its seed and language.
fn session(recipe: &Recipe, split: Split, index: usize) -> Session {
    let lang = if index % recipe.coach.korean_every == recipe.coach.korean_every - 1 { Lang::Ko } else { Lang::En };
    Session::generate(
        index as u64,
        &SessionOptions { lang, split, fps: recipe.manifest.frame_rate, ..SessionOptions::default() },
    )
}

/// Encodes `count` sessions of a split, or takes them from the cache in `out`.
pub(super) fn build(
    recipe: &Recipe,
    split: Split,
    count: usize,
    vit: &Vit,
    tokenizer: &Tokenizer,
    out: &Path,
) -> Result<Vec<Stream>> {
    let cache = out.join("features");
    std::fs::create_dir_all(&cache).with_context(|| format!("{}: can't be made", cache.display()))?;
    let bar = indicatif::ProgressBar::new(count as u64).with_message("sessions seen");
    let see = |index: usize| {
        let session = session(recipe, split, index);
        let file = cache.join(format!("{}.safetensors", session.id));
        stream(recipe, &session, vit, tokenizer, &file)
    };
    let streams = in_parallel(count, see, |done| {
        bar.inc(1);
        if bar.is_hidden() && done.is_multiple_of(20) {
            tracing::info!("{done} of {count} sessions seen");
        }
    })?;
    bar.finish_and_clear();
    Ok(streams)
}

/// Avatars of a session at the model's frame rate, as the lens draws them. Every third session comes from a slow
/// camera, whose last picture is seen again until there is a new one.
fn pictures(session: &Session, side: usize, fps: f64) -> Vec<Vec<u8>> {
    let mut rng = ChaCha8Rng::seed_from_u64(session.seed ^ 0x5EED);
    // A model that sees so few frames itself knows no slower camera.
    let slow = rng.random_bool(0.33) && fps > SLOWEST_CAMERA;
    let source_fps = if slow { rng.random_range(SLOWEST_CAMERA..fps) } else { fps };
    let mut view = AvatarView::new(side);
    let bodies = session.noisy_bodies();
    let mut pictures: Vec<Vec<u8>> = Vec::with_capacity(bodies.len());
    let mut seen = None;
    for (t, body) in &bodies {
        let number = (t * source_fps).floor() as i64;
        let picture = match pictures.last() {
            Some(last) if seen == Some(number) => last.clone(),
            _ => view.draw(Duration::from_secs_f64(*t), body),
        };
        seen = Some(number);
        pictures.push(picture);
    }
    pictures
}

fn stream(recipe: &Recipe, session: &Session, vit: &Vit, tokenizer: &Tokenizer, file: &Path) -> Result<Stream> {
    let device = Device::Cpu;
    let features = if file.exists() {
        let saved = candle_core::safetensors::load(file, &device)?;
        saved
            .get("features")
            .with_context(|| format!("{}: no features; delete it", file.display()))?
            .to_dtype(DType::F32)?
    } else {
        let pictures = pictures(session, recipe.vision.image_size, recipe.manifest.frame_rate);
        let mut parts = Vec::new();
        for chunk in pictures.chunks(64) {
            let bytes: Vec<&[u8]> = chunk.iter().map(Vec::as_slice).collect();
            parts.push(vit.class_tokens(&Vit::patchify(&recipe.vision, &bytes, &device)?)?.detach());
        }
        let features = Tensor::cat(&parts, 0)?;
        let half = std::collections::HashMap::from([("features".to_owned(), features.to_dtype(DType::F16)?)]);
        candle_core::safetensors::save(&half, file)?;
        features
    };
    let fps = recipe.manifest.frame_rate;
    let frames = features.dim(0)?;
    let ids = |text: &str| -> Result<Vec<u32>> {
        Ok(tokenizer.encode(text, false).map_err(|e| anyhow!("tokenizer: {e}"))?.get_ids().to_vec())
    };
    let at = |t: f64| ((t * fps).round().max(0.0) as usize).min(frames.saturating_sub(1));
    let mut utterances: Vec<(usize, Vec<u32>)> = Vec::new();
    // Announcements are made by the program, not by the coach.
    for event in session.events.iter().filter(|e| !e.is_transition) {
        utterances.push((at(event.t), ids(&event.text)?));
    }
    let lang = session.lang;
    let mut rng = ChaCha8Rng::seed_from_u64(session.seed);
    let exercises = session
        .segments
        .iter()
        .map(|s| {
            let until = at(s.end + 2.5 + rng.random_range(0.0..0.5));
            let prompt = recipe.manifest.prompt.render(lang.code(), Some(phrases::name(s.exercise, lang)));
            Ok(Stretch { announced: at(s.announced), begin: at(s.start), end: until, prompt: ids(&prompt)? })
        })
        .collect::<Result<_>>()?;
    let unnamed = ids(&recipe.manifest.prompt.render(lang.code(), None))?;
    Ok(Stream { features, utterances, exercises, unnamed })
}
