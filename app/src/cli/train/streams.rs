//! Synthetic sessions as the coach learns from them: what is said, and what the lens draws.

use super::{Run, recipe::Recipe};
use anyhow::{Result, anyhow};
use candle_core::Tensor;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::{
    phrases::{self, Lang},
    session::{Session, SessionOptions, Split},
};
use spotter_engine::{
    coach::manifest::Manifest,
    training::{
        coach::{Encoded, Eyes, Stream, Stretch},
        dense::FrameTruth,
    },
};
use spotter_vision::{
    Body,
    avatar::{AvatarView, render},
    encoder::{Trunk as _, vit::Vit},
    training::prefetch,
};
use std::time::Duration;
use tokenizers::Tokenizer;

/// Frames a second of the slowest camera that is imitated.
const SLOWEST_CAMERA: f64 = 4.5;
/// Frames encoded at a time: a card wants many, a processor what fits its caches.
fn chunk(vit: &Vit) -> usize {
    if vit.device().is_cpu() { 32 } else { 512 }
}

/// What sessions are like.
#[derive(Clone, Copy)]
pub(super) struct Scenario<'a> {
    /// Of the coach they are for.
    pub(super) manifest: &'a Manifest,
    /// Every so many sessions is Korean; at least 1.
    pub(super) korean_every: usize,
    /// Share of exercises that recorded people do.
    pub(super) recorded: f64,
}

impl<'a> Scenario<'a> {
    /// Of a coach's recipe.
    pub(super) fn of(recipe: &'a Recipe) -> Self {
        Self { manifest: &recipe.manifest, korean_every: recipe.coach.korean_every, recorded: recipe.recorded }
    }

    /// The session of an index: its seed and language.
    fn session(&self, run: &Run, split: Split, index: usize) -> Session {
        let korean = index % self.korean_every == self.korean_every - 1;
        let options = SessionOptions {
            lang: if korean { Lang::Ko } else { Lang::En },
            split,
            fps: self.manifest.frame_rate,
            library: run.library.clone(),
            library_share: self.recorded,
            ..SessionOptions::default()
        };
        Session::generate(index as u64, &options)
    }
}

/// The bodies of a session as the lens finds them. Every third session comes from a slow camera, whose last picture is
/// seen again until there is a new one.
pub(super) struct Film {
    bodies: Vec<(f64, Body)>,
    camera_fps: f64,
}

impl Film {
    fn new(session: &Session, fps: f64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(session.seed ^ 0x5EED);
        // A model that sees so few frames itself knows no slower camera.
        let slow = rng.random_bool(0.33) && fps > SLOWEST_CAMERA;
        let camera_fps = if slow { rng.random_range(SLOWEST_CAMERA..fps) } else { fps };
        Self { bodies: session.noisy_bodies(), camera_fps }
    }

    /// Avatars of the frames `from .. to`, one after another. The view follows the person from the beginning.
    pub(super) fn draw(&self, side: usize, from: usize, to: usize) -> Vec<Vec<u8>> {
        let mut view = AvatarView::new(side);
        let mut pictures: Vec<Vec<u8>> = Vec::with_capacity(to.saturating_sub(from));
        let mut held = None;
        for (index, (t, body)) in self.bodies.iter().enumerate().take(to) {
            let number = (t * self.camera_fps).floor() as i64;
            let (_, placement, seen) = match held {
                Some(same @ (before, _, _)) if before == number => same,
                _ => (number, view.follow(Duration::from_secs_f64(*t), body), index),
            };
            held = Some((number, placement, seen));
            if index < from {
                continue;
            }
            let picture = match (pictures.last(), self.bodies.get(seen)) {
                (Some(last), _) if seen != index => last.clone(),
                (_, Some((_, body))) => render(side, &placement, body),
                _ => continue,
            };
            pictures.push(picture);
        }
        pictures
    }
}

/// Films seen through a tower that learns.
pub(super) struct Drawn {
    pub(super) films: Vec<Film>,
    pub(super) vit: Vit,
}

impl Drawn {
    /// Frames of a film, cut into patches.
    fn cut(vit: &Vit, film: &Film, from: usize, to: usize) -> candle_core::Result<Vec<u8>> {
        let pictures = film.draw(vit.config().image_size, from, to);
        Vit::cut(vit.config(), &pictures.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

impl Eyes for Drawn {
    type Frames = Vec<u8>;

    fn width(&self) -> usize {
        self.vit.config().hidden_size
    }

    fn fetch(&self, stream: usize, from: usize, to: usize) -> candle_core::Result<Vec<u8>> {
        match self.films.get(stream) {
            Some(film) => Self::cut(&self.vit, film, from, to),
            None => candle_core::bail!("stream {stream} has no film"),
        }
    }

    fn see(&self, frames: Vec<u8>) -> candle_core::Result<Tensor> {
        self.vit.class_tokens(&Vit::patches(self.vit.config(), frames, self.vit.device())?)
    }
}

/// Sessions of a split: what is said in each, and its film. `each` hears of every session, in order, on the calling
/// thread, with what `prepare` made of its number, words and film on another, until it answers `false`.
pub(super) fn sessions<T: Send>(
    scenario: Scenario<'_>,
    run: &Run,
    (split, count): (Split, usize),
    tokenizer: &Tokenizer,
    prepare: impl Fn(usize, &Stream, &Film) -> Result<T> + Sync,
    mut each: impl FnMut(Stream, Film, T) -> Result<bool>,
) -> Result<()> {
    let bar = indicatif::ProgressBar::new(count as u64).with_message("sessions");
    let make = |index: usize| -> Result<(Stream, Film, T), Failure> {
        let session = scenario.session(run, split, index);
        let film = Film::new(&session, scenario.manifest.frame_rate);
        let stream = stream(scenario.manifest, &session, film.bodies.len(), tokenizer)?;
        let prepared = prepare(index, &stream, &film)?;
        Ok((stream, film, prepared))
    };
    prefetch(0..count, run.makers, make, |index, (stream, film, prepared)| {
        let more = each(stream, film, prepared)?;
        bar.inc(1);
        if bar.is_hidden() && (index + 1).is_multiple_of(100) {
            tracing::info!("{} of {count} sessions", index + 1);
        }
        Ok(more)
    })
    .map_err(|Failure(e)| e)?;
    bar.finish_and_clear();
    Ok(())
}

/// An error of either kind on its way through [`prefetch`].
struct Failure(anyhow::Error);

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        Self(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

/// Sessions seen through a trained tower.
pub(super) fn encoded(
    recipe: &Recipe,
    run: &Run,
    split: (Split, usize),
    vit: &Vit,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Stream>, Encoded)> {
    let (mut streams, mut features) = (Vec::new(), Vec::new());
    let bytes = chunk(vit) * recipe.vision.image_size.pow(2) * 3;
    let cut = |_: usize, _: &Stream, film: &Film| Ok(Drawn::cut(vit, film, 0, film.bodies.len())?);
    sessions(Scenario::of(recipe), run, split, tokenizer, cut, |stream, _, cut| {
        let parts = cut
            .chunks(bytes)
            .map(|chunk| Ok(vit.class_tokens(&Vit::patches(vit.config(), chunk.to_vec(), vit.device())?)?.detach()));
        features.push(Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?);
        streams.push(stream);
        Ok(true)
    })?;
    Ok((streams, Encoded(features)))
}

/// Sessions whose films are kept.
pub(super) fn drawn(
    recipe: &Recipe,
    run: &Run,
    split: (Split, usize),
    vit: &Vit,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Stream>, Drawn)> {
    let (mut streams, mut films) = (Vec::new(), Vec::new());
    sessions(
        Scenario::of(recipe),
        run,
        split,
        tokenizer,
        |_, _, _| Ok(()),
        |stream, film, ()| {
            streams.push(stream);
            films.push(film);
            Ok(true)
        },
    )?;
    Ok((streams, Drawn { films, vit: vit.clone() }))
}

fn stream(manifest: &Manifest, session: &Session, frames: usize, tokenizer: &Tokenizer) -> Result<Stream> {
    let fps = manifest.frame_rate;
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
            let prompt = manifest.prompt.render(lang.code(), Some(phrases::name(s.exercise, lang)));
            Ok(Stretch { announced: at(s.announced), begin: at(s.start), end: until, prompt: ids(&prompt)? })
        })
        .collect::<Result<_>>()?;
    let unnamed = ids(&manifest.prompt.render(lang.code(), None))?;
    let truths = (0..frames).map(|frame| truth(session, frame as f64 / fps)).collect();
    Ok(Stream { truths, utterances, exercises, unnamed })
}

/// A prompt and utterances as a language model reads them that sees no pictures.
pub(super) fn told<'a>(
    prompt: &[u32],
    utterances: impl Iterator<Item = &'a (usize, Vec<u32>)>,
    feedback: u32,
    end: u32,
) -> Vec<u32> {
    let mut line = prompt.to_vec();
    for (_, words) in utterances {
        line.push(feedback);
        line.extend_from_slice(words);
        line.push(end);
    }
    line
}

/// Seconds for which the mistakes of a complete repetition are news.
const RECENT: f64 = 4.0;

/// What is true at a time of a session.
fn truth(session: &Session, t: f64) -> FrameTruth {
    let Some(segment) = session.segments.iter().find(|s| (s.start..s.end).contains(&t)) else {
        return FrameTruth::default();
    };
    let phase = segment.reps.iter().find(|rep| (rep.start..rep.end).contains(&t)).map(|rep| {
        let part = |from: f64, to: f64| ((t - from) / (to - from).max(1e-6)) as f32 / 2.0;
        if t < rep.peak { part(rep.start, rep.peak) } else { 0.5 + part(rep.peak, rep.end) }
    });
    let complete = segment.reps.iter().filter(|rep| rep.end <= t).count();
    let recent = segment.reps.iter().filter(|rep| rep.end <= t && rep.end >= t - RECENT);
    FrameTruth {
        exercise: 1 + segment.exercise as u32,
        phase,
        count: Some(complete as u32),
        mistakes: recent.flat_map(|rep| &rep.mistakes).fold(0, |bits, m| bits | 1 << *m as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_film_is_a_part_of_the_whole() {
        for (seed, camera_fps) in [(1, 8.0), (2, 5.3)] {
            let session = Session::generate(seed, &SessionOptions { min_seconds: 20.0, ..SessionOptions::default() });
            let film = Film { bodies: session.noisy_bodies(), camera_fps };
            let whole = film.draw(48, 0, 120);
            assert_eq!(whole.len(), 120);
            for (from, to) in [(0, 1), (17, 60), (18, 19), (61, 120)] {
                assert_eq!(film.draw(48, from, to), whole[from..to], "{from} to {to} at {camera_fps}");
            }
            let repeated = whole.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(if camera_fps < 8.0 { repeated > 30 } else { repeated < 5 }, "{repeated} repeated");
        }
    }
}
