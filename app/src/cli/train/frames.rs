//! Pictures for a tower in training: drawn bodies, or frames of recordings as the model would see them.

use super::bodies::Bodies;
use crate::{cli::train::Run, parallel::in_parallel, parts};
use anyhow::{Context as _, Result, bail};
use candle_core::{Device, Error, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_datasets::synthetic::{Mistake, motion::Split};
use spotter_engine::coach::manifest::LensKind;
use spotter_vision::{
    Frame,
    encoder::Prepare,
    lens::{Lens, View},
    source::{self, OpenOptions},
    training::{
        heads::{Sample, SampleSource as _, Truth},
        skipping::{HeldOut, Pictures},
    },
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Frames of recordings that are kept in memory, in bytes.
const POOL: usize = 512 << 20;
/// Held-out pictures, in bytes of the tower's input.
const HELD_OUT: usize = 512 << 20;
/// Files that are videos by their names.
const VIDEOS: [&str; 9] = ["mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "ts", "gif"];

/// Where pictures come from.
enum Origin {
    /// Drawn people, those held out never seen in training.
    Drawn { seen: Bodies, unseen: Bodies },
    /// Frames of recordings, each a stretch of one stream.
    Recorded { seen: Vec<Vec<Frame>>, unseen: Vec<Vec<Frame>> },
}

/// Pictures as a tower takes them.
pub(super) struct Frames {
    origin: Origin,
    prepare: Prepare,
    seed: u64,
    /// Each comes with the one before it.
    pairs: bool,
}

impl Frames {
    /// `from` is `synth`, a recording, or a folder of recordings or pictures, which go through the model's `lens` at its
    /// `rate` of frames a second.
    pub(super) fn open(
        from: &Path,
        (prepare, lens, rate): (&Prepare, LensKind, f64),
        run: &Run,
        (seed, recorded, pairs): (u64, f64, bool),
    ) -> Result<Self> {
        let origin = if from == Path::new("synth") {
            let (side, library) = (prepare.side(), run.library.clone());
            let bodies = |split| Bodies { side, split, library: library.clone(), recorded, pairs };
            Origin::Drawn { seen: bodies(Split::Train), unseen: bodies(Split::Validation) }
        } else {
            let (seen, unseen) = split(read(from, prepare.side(), lens, rate)?, from)?;
            Origin::Recorded { seen, unseen }
        };
        Ok(Self { origin, prepare: prepare.clone(), seed, pairs })
    }

    /// Whether what is to be seen in them is known.
    pub(super) fn known(&self) -> bool {
        matches!(self.origin, Origin::Drawn { .. })
    }

    fn input(&self, frames: &[Frame]) -> candle_core::Result<Tensor> {
        self.prepare.batch(frames, &Device::Cpu).map_err(Error::wrap)
    }

    /// The pictures of a step.
    pub(super) fn batch(&self, step: usize, count: usize) -> candle_core::Result<Pictures> {
        let seed = self.seed.wrapping_mul(0x51_7CC1).wrapping_add(step as u64);
        match &self.origin {
            Origin::Drawn { seen, .. } => {
                let samples = seen.samples(seed, count);
                let truth = Some(Truth::new(Mistake::ALL.len(), &samples));
                let (input, before) = self.drawn(&samples)?;
                Ok(Pictures { input, before, truth })
            }
            Origin::Recorded { seen, .. } => {
                let places = places(seen, self.pairs);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let chosen: Vec<(usize, usize)> =
                    (0..count).filter_map(|_| places.get(rng.random_range(0..places.len().max(1))).copied()).collect();
                let (input, before) = self.recorded(seen, &chosen)?;
                Ok(Pictures { input, before, truth: None })
            }
        }
    }

    /// Pictures that training never sees, `batch` at a time and `most` in all.
    pub(super) fn held_out(&self, batch: usize, most: usize, threads: usize) -> Result<Vec<HeldOut>> {
        let floats = 3 * self.prepare.side().pow(2) * (1 + usize::from(self.pairs));
        let most = most.min(HELD_OUT / (4 * floats).max(1)).max(1);
        match &self.origin {
            Origin::Drawn { unseen, .. } => {
                let one = |i: usize| {
                    let samples = unseen.samples(u64::MAX - i as u64, batch);
                    let (input, before) = self.drawn(&samples)?;
                    Ok(HeldOut { input, before, samples })
                };
                in_parallel(threads, most.div_ceil(batch), one, |_| {})
            }
            Origin::Recorded { unseen, .. } => {
                let all = places(unseen, self.pairs);
                let every = all.len().div_ceil(most).max(1);
                let chosen: Vec<(usize, usize)> = all.into_iter().step_by(every).collect();
                let held = chosen.chunks(batch.max(1)).map(|chunk| {
                    let (input, before) = self.recorded(unseen, chunk)?;
                    Ok(HeldOut { input, before, samples: Vec::new() })
                });
                held.collect()
            }
        }
    }

    fn drawn(&self, samples: &[Sample]) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        let side = self.prepare.side();
        let frame = |rgb: &[u8]| {
            Frame::from_rgb(0, Duration::ZERO, side, side, rgb.to_vec())
                .ok_or_else(|| Error::Msg(format!("a drawn picture is not {side} x {side}")))
        };
        let now = samples.iter().map(|s| frame(&s.rgb)).collect::<candle_core::Result<Vec<_>>>()?;
        let before = samples.iter().filter_map(|s| s.before.as_deref().map(&frame));
        let before = before.collect::<candle_core::Result<Vec<_>>>()?;
        let before = if before.len() == now.len() { Some(self.input(&before)?) } else { None };
        Ok((self.input(&now)?, before))
    }

    fn recorded(&self, from: &[Vec<Frame>], at: &[(usize, usize)]) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        let frames = |back: usize| -> Vec<Frame> {
            let one = |(s, i): &(usize, usize)| from.get(*s).and_then(|f| f.get(i.saturating_sub(back))).cloned();
            at.iter().filter_map(one).collect()
        };
        let before = if self.pairs { Some(self.input(&frames(1))?) } else { None };
        Ok((self.input(&frames(0))?, before))
    }
}

/// Stretch and place of every frame; with `pairs` of every frame that has one before it.
fn places(stretches: &[Vec<Frame>], pairs: bool) -> Vec<(usize, usize)> {
    let of = |(s, frames): (usize, &Vec<Frame>)| (usize::from(pairs)..frames.len()).map(move |i| (s, i));
    stretches.iter().enumerate().flat_map(of).collect()
}

/// Recordings and folders of pictures that `path` names.
fn recordings(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let is = |file: &Path, kinds: &[&str]| {
        file.extension().and_then(|e| e.to_str()).is_some_and(|e| kinds.contains(&e.to_ascii_lowercase().as_str()))
    };
    let pictures = |folder: &Path| {
        std::fs::read_dir(folder)
            .is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| is(&e.path(), &["jpg", "jpeg", "png"]))))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| format!("--frames {}", path.display()))? {
        let entry = entry?.path();
        if is(&entry, &VIDEOS) || (entry.is_dir() && pictures(&entry)) {
            found.push(entry);
        }
    }
    if pictures(path) {
        found.push(path.to_owned());
    }
    if found.is_empty() {
        bail!(
            "--frames {}: neither videos ({}) nor pictures (jpg, png) nor folders of pictures in it",
            path.display(),
            VIDEOS.join(", ")
        );
    }
    found.sort();
    Ok(found)
}

/// Frames of all recordings, as the lens shows them; of long ones every second, fourth, ... so that all have room.
fn read(path: &Path, side: usize, kind: LensKind, rate: f64) -> Result<Vec<Vec<Frame>>> {
    let files = recordings(path)?;
    let mut lens = parts::lens_of(kind, side)?;
    // A lens that looks for people needs to see them; a tower sees no more than twice its side.
    let max_side = if kind == LensKind::None { side * 2 } else { parts::MAX_SIDE };
    let options = OpenOptions { max_side: Some(max_side), image_fps: rate };
    let bar = indicatif::ProgressBar::new(files.len() as u64);
    let mut stretches = Vec::new();
    for file in &files {
        let mut source = source::open(file, options)?;
        lens.reset();
        let stretch = thinned(source.as_mut(), lens.as_mut(), rate, POOL / files.len().max(1))?;
        tracing::info!("{}: {} frames", file.display(), stretch.len());
        stretches.push(stretch);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(stretches)
}

/// Frames of one recording at `rate` a second, fewer where they would take more than `bytes`.
fn thinned(source: &mut dyn source::FrameSource, lens: &mut dyn Lens, rate: f64, bytes: usize) -> Result<Vec<Frame>> {
    let (mut frames, mut step, mut due, mut held) = (Vec::new(), 1.0 / rate, 0.0, 0);
    while let Some(frame) = source.next_frame()? {
        let t = frame.t.as_secs_f64();
        if t + 1e-6 < due {
            continue;
        }
        due = if t > due + step { t + step } else { due + step };
        let sight = lens.look(&frame)?;
        // The model is never asked about nobody.
        if sight.view == View::NoPerson {
            continue;
        }
        held += sight.frame.rgb.len();
        frames.push(sight.frame);
        if held > bytes && frames.len() >= 64 {
            let mut keep = false;
            frames.retain(|_| {
                keep = !keep;
                keep
            });
            held = frames.iter().map(|f: &Frame| f.rgb.len()).sum();
            step *= 2.0;
        }
    }
    Ok(frames)
}

/// The frames of one recording.
type Film = Vec<Frame>;

/// Every fifth recording is held out; of a single one the last fifth.
fn split(mut all: Vec<Film>, path: &Path) -> Result<(Vec<Film>, Vec<Film>)> {
    all.retain(|frames| !frames.is_empty());
    let count: usize = all.iter().map(Vec::len).sum();
    if count < 10 {
        bail!("--frames {}: {count} frames with somebody to be seen; at least 10 are needed", path.display());
    }
    if let [only] = &mut all[..] {
        let held = only.split_off(only.len() - only.len() / 5);
        return Ok((all, vec![held]));
    }
    let every = all.len().min(5);
    let (mut seen, mut unseen) = (Vec::new(), Vec::new());
    for (i, frames) in all.into_iter().enumerate() {
        if i % every == every - 1 { unseen.push(frames) } else { seen.push(frames) }
    }
    Ok((seen, unseen))
}
