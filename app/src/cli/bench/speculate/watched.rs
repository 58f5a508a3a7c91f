//! A coach that is shown synthetic sessions.

use super::{
    Pair, SpeculateArgs, Way, path_text,
    table::{Row, Taken, rows},
    warn_without_drafter, ways,
};
use crate::parts;
use anyhow::{Context as _, Result};
use candle_core::Device;
use indicatif::ProgressBar;
use spotter_datasets::synthetic::session::{Session, SessionOptions, Split};
use spotter_engine::{
    coach::{
        CoachOptions, SpeculationChoice,
        load::{load_alone, load_drafter},
        manifest::Manifest,
        session::CoachSession,
    },
    sampler::Sampling,
    speculate::{DrafterKind, SpeculationOptions},
};
use spotter_vision::{
    Frame,
    avatar::AvatarView,
    lens::{Sight, View},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokenizers::Tokenizer;

/// A coach that decodes in one way.
struct Coach {
    way: Way,
    session: CoachSession,
    /// Size of its drafter over its own.
    cost: f64,
    taken: Taken,
    /// Tokens and seconds of this session's utterances, and their words.
    now: (usize, f64),
    words: Vec<String>,
}

/// Where the coach is, and the drafter, if there is one.
struct Scene<'a> {
    args: &'a SpeculateArgs,
    folder: PathBuf,
    drafter: Option<PathBuf>,
    device: &'a Device,
}

/// Runs all ways over all sessions at each temperature.
pub(super) fn run(args: &SpeculateArgs, pair: Pair<'_>, device: &Device) -> Result<Vec<Row>> {
    let folder = parts::model_folder(pair.model)?;
    let own = own(&folder)?;
    let scene = Scene { args, drafter: drafter(pair.draft, &own, &folder), folder, device };
    let name = scene.drafter.as_deref().map(path_text).transpose()?;
    warn_without_drafter(name.as_deref());
    let ways = ways(args, name.as_deref(), &own);
    let sessions = args.count.map_or(2, u64::from);
    let bar = ProgressBar::new(sessions * u64::from(args.seconds) * args.temperature.len() as u64);
    let target = scene.folder.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut all = Vec::new();
    for temperature in &args.temperature {
        let mut coaches = ways.iter().map(|way| scene.coach(way, *temperature)).collect::<Result<Vec<_>>>()?;
        for number in 0..sessions {
            scene.session(args.seed + number, &mut coaches, &bar)?;
        }
        let measured: Vec<(Way, Taken, f64)> = coaches
            .into_iter()
            .map(|mut coach| {
                coach.taken.stats = coach.session.speculation().unwrap_or_default();
                (coach.way, coach.taken, coach.cost)
            })
            .collect();
        all.extend(rows(&target, *temperature, &measured));
    }
    bar.finish_and_clear();
    Ok(all)
}

/// How the coach itself drafts; a checkpoint without a manifest says nothing about it.
fn own(folder: &Path) -> Result<SpeculationOptions> {
    if !folder.join("spotter.toml").exists() {
        return Ok(SpeculationOptions::default());
    }
    Ok(Manifest::read(folder).with_context(|| format!("model {}", folder.display()))?.speculation)
}

/// The drafter that is given, or that the coach names.
fn drafter(given: Option<&Path>, own: &SpeculationOptions, folder: &Path) -> Option<PathBuf> {
    match (given, &own.drafter) {
        (Some(path), _) => Some(path.to_owned()),
        (None, DrafterKind::Model(path)) => Some(folder.join(path)),
        (None, _) => None,
    }
}

impl Scene<'_> {
    fn coach(&self, way: &Way, temperature: f32) -> Result<Coach> {
        let mut model =
            load_alone(&self.folder, self.device).with_context(|| format!("model {}", self.folder.display()))?;
        model.manifest.speculation = way.options();
        let mut cost = 0.0;
        if let (DrafterKind::Model(_), Some(path)) = (&way.drafter, &self.drafter) {
            let drafter =
                load_drafter(path, &model, self.device).with_context(|| format!("drafter {}", path.display()))?;
            cost = drafter.decoder.parameters() as f64 / model.decoder.parameters().max(1) as f64;
            model.drafter = Some(drafter);
        }
        let defaults = model.manifest.defaults.clone();
        let options = CoachOptions {
            talkativeness: defaults.talkativeness,
            cooldown: Duration::from_secs_f64(defaults.cooldown_seconds),
            max_tokens: defaults.max_tokens,
            sampling: Sampling { temperature, top_k: self.args.top_k, top_p: self.args.top_p },
            seed: self.args.seed,
            language: "en".to_owned(),
            exercise: None,
            cache: Default::default(),
            speculation: SpeculationChoice::default(),
        };
        let session = CoachSession::new(model, options).with_context(|| format!("model {}", self.folder.display()))?;
        Ok(Coach { way: way.clone(), session, cost, taken: Taken::default(), now: (0, 0.0), words: Vec::new() })
    }

    /// All ways see each frame before any sees the next; who comes first changes from frame to frame.
    fn session(&self, seed: u64, coaches: &mut [Coach], bar: &ProgressBar) -> Result<()> {
        let Some(first) = coaches.first() else { return Ok(()) };
        let (fps, n) = (first.session.manifest().frame_rate, coaches.len());
        let tokenizer = Tokenizer::from_file(self.folder.join("tokenizer.json"))
            .map_err(|e| anyhow::anyhow!("{}: {e}", self.folder.display()))?;
        let side = load_alone(&self.folder, self.device)?.picture_side;
        let seconds = f64::from(self.args.seconds);
        let options =
            SessionOptions { split: Split::Validation, fps, min_seconds: seconds, ..SessionOptions::default() };
        let mut view = AvatarView::new(side);
        let bodies = Session::generate(seed, &options).noisy_bodies();
        let frames = (seconds * fps) as usize;
        for coach in coaches.iter_mut() {
            coach.session.reset()?;
            (coach.now, coach.words) = ((0, 0.0), Vec::new());
        }
        for (seq, (t, body)) in bodies.into_iter().take(frames).enumerate() {
            let t = Duration::from_secs_f64(t);
            let frame = Frame::from_rgb(seq as u64, t, side, side, view.draw(t, &body))
                .context("a drawn frame has the wrong size")?;
            let sight = Sight { frame, view: View::Clear, people: 1, person: 0, body: Some(body) };
            for turn in 0..n {
                if let Some(coach) = coaches.get_mut((turn + seq) % n) {
                    coach.observe(&sight, &tokenizer)?;
                }
            }
            bar.set_position(bar.position() + u64::from((seq + 1).is_multiple_of(fps.max(1.0) as usize)));
        }
        let plain = coaches.first().map(|c| c.words.clone()).unwrap_or_default();
        for coach in coaches {
            coach.taken.times.push(coach.now);
            let stats = coach.session.speculation().unwrap_or_default();
            let before = coach.taken.rounds.iter().fold((0, 0), |sum, (n, rounds)| (sum.0 + n, sum.1 + rounds));
            coach.taken.rounds.push((stats.committed - before.0, stats.rounds - before.1));
            let (own, n) = (&coach.words, coach.words.len().max(plain.len()));
            coach.taken.differing += (0..n).filter(|i| own.get(*i) != plain.get(*i)).count();
        }
        Ok(())
    }
}

impl Coach {
    /// Sees a frame; an utterance is timed from its first words to its end, which are the steps that can be drafted.
    fn observe(&mut self, sight: &Sight, tokenizer: &Tokenizer) -> Result<()> {
        let mut first = None;
        let step = self.session.observe(sight, &mut |_| {
            first.get_or_insert_with(Instant::now);
            true
        })?;
        if let (Some(first), Some(feedback)) = (first, step.feedback) {
            let seconds = first.elapsed().as_secs_f64();
            let ids = tokenizer.encode(feedback.text.as_str(), false).map_err(|e| anyhow::anyhow!("tokenizer: {e}"))?;
            // The first token is there before the clock starts, and the end is one.
            self.now = (self.now.0 + ids.len().max(1), self.now.1 + seconds);
            self.words.push(feedback.text);
        }
        Ok(())
    }
}
