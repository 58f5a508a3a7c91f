//! Plays a session to a coach, through the same stages as `spotter replay`.

use crate::{
    parts::{self, CoachChoice},
    pipeline::{
        Config, Event, Latency,
        sequential::{self, Observer},
        stats::Monitor,
    },
};
use anyhow::{Context as _, Result, anyhow, bail};
use spotter_datasets::{
    metric::Timed,
    qevd::{Episode, Session},
};
use spotter_engine::coach::Kind;
use spotter_vision::{
    Frame,
    source::{FrameSource, SourceError, SourceInfo},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// QEVD's videos up to this number lie on their side.
const LAST_ROTATED: u32 = 145;

/// How sessions are played.
#[derive(Clone)]
pub(crate) struct Player {
    pub(crate) choice: CoachChoice,
    pub(crate) latency: Latency,
    /// The coach is told the exercise and begins anew with each, as QEVD's models do; else it watches the session as
    /// a whole.
    pub(crate) told: bool,
}

/// A video that its episodes are read from one after the other. Episodes may overlap by a message.
struct Reel {
    source: Box<dyn FrameSource>,
    times: Vec<f64>,
    turned: bool,
    next: usize,
    kept: VecDeque<(usize, Frame)>,
    ended: bool,
}

impl Reel {
    fn open(session: &Session) -> Result<Self> {
        let source = parts::open_source(&session.video)?;
        let number: Option<u32> = session.id.parse().ok();
        let info = source.info();
        let turned = number.is_some_and(|n| n <= LAST_ROTATED) && info.width > info.height;
        Ok(Self { source, times: session.frame_times.clone(), turned, next: 0, kept: VecDeque::new(), ended: false })
    }

    /// The frame of a number, at its own time; frames from `keep` on stay for the next episode.
    fn frame(&mut self, number: usize, keep: usize) -> Result<Option<Frame>, SourceError> {
        while self.kept.front().is_some_and(|(i, _)| *i < number.min(keep)) {
            self.kept.pop_front();
        }
        if let Some((_, frame)) = self.kept.iter().find(|(i, _)| *i == number) {
            return Ok(Some(frame.clone()));
        }
        while !self.ended {
            let Some(frame) = self.source.next_frame()? else {
                self.ended = true;
                break;
            };
            let i = self.next;
            self.next += 1;
            if i < number {
                continue;
            }
            let frame = self.placed(frame, i);
            if i >= keep {
                self.kept.push_back((i, frame.clone()));
            }
            return Ok(Some(frame));
        }
        Ok(None)
    }

    fn placed(&self, frame: Frame, i: usize) -> Frame {
        let frame = if self.turned { turned(&frame) } else { frame };
        let begin = self.times.first().copied().unwrap_or_default();
        let t = self.times.get(i).map_or(0.0, |t| (t - begin).max(0.0));
        Frame { seq: i as u64, t: Duration::try_from_secs_f64(t).unwrap_or(frame.t), ..frame }
    }
}

/// A quarter turn clockwise, in the middle of a black square.
fn turned(frame: &Frame) -> Frame {
    let (w, h) = (frame.width, frame.height);
    let side = w.max(h);
    let mut rgb = vec![0; side * side * 3];
    let (left, top) = ((side - h) / 2, (side - w) / 2);
    for (i, pixel) in frame.rgb.chunks_exact(3).enumerate() {
        let (x, y) = (i % w, i / w);
        let at = ((top + x) * side + left + h - 1 - y) * 3;
        if let Some(place) = rgb.get_mut(at..at + 3) {
            place.copy_from_slice(pixel);
        }
    }
    Frame { seq: frame.seq, t: frame.t, width: side, height: side, rgb: rgb.into() }
}

/// Some frames of a reel, as a source of their own.
struct Window {
    reel: Arc<Mutex<Reel>>,
    info: SourceInfo,
    next: usize,
    end: usize,
    keep: usize,
}

fn locked(reel: &Mutex<Reel>) -> MutexGuard<'_, Reel> {
    reel.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl FrameSource for Window {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        if self.next >= self.end {
            return Ok(None);
        }
        self.next += 1;
        locked(&self.reel).frame(self.next - 1, self.keep)
    }
}

/// Collects what the coach says.
#[derive(Default)]
struct Heard {
    said: Vec<Timed>,
    failure: Option<String>,
}

impl Observer for Heard {
    fn event(&mut self, event: Event) -> Result<()> {
        match event {
            // Words about the view are the program's, not the model's.
            Event::Feedback(feedback) if feedback.kind == Kind::Coaching => {
                self.said.push(Timed::new(feedback.t_ready.as_secs_f64(), feedback.text));
            }
            Event::Failed(failure) => {
                self.failure.get_or_insert(format!("{}: {}", failure.stage, failure.problem));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Player {
    /// What is said in each episode, in the time of its truth, and what was odd.
    ///
    /// # Errors
    /// A video or model that can't be used; a stage that failed.
    pub(crate) fn play(&self, session: &Session) -> Result<(Vec<Vec<Timed>>, Vec<String>)> {
        let context = || format!("session {} ({})", session.id, session.video.display());
        let reel = Arc::new(Mutex::new(Reel::open(session).with_context(context)?));
        let begin = session.frame_times.first().copied().unwrap_or_default();
        let mut all = Vec::new();
        if self.told {
            for (k, episode) in session.episodes.iter().enumerate() {
                let keep = session.episodes.get(k + 1).map_or(usize::MAX, |next| next.frames.start);
                let said = self.stretch(&reel, episode.frames.clone(), keep, Some(&episode.exercise));
                all.push(said.with_context(context)?);
            }
        } else {
            let said = self.stretch(&reel, 0..session.frame_times.len(), usize::MAX, None).with_context(context)?;
            all = by_episode(&session.episodes, &said, begin);
        }
        for (episode, said) in session.episodes.iter().zip(&mut all) {
            said.iter_mut().for_each(|said| said.t += begin - episode.origin);
        }
        let mut warnings = Vec::new();
        let reel = locked(&reel);
        if reel.ended && reel.next < session.frame_times.len() {
            let (has, told) = (reel.next, session.frame_times.len());
            warnings.push(format!("session {}: the video has {has} frames, its time stamps say {told}", session.id));
        }
        Ok((all, warnings))
    }

    /// What is said during some frames, in seconds since the first frame of the video.
    fn stretch(
        &self,
        reel: &Arc<Mutex<Reel>>,
        frames: std::ops::Range<usize>,
        keep: usize,
        exercise: Option<&str>,
    ) -> Result<Vec<Timed>> {
        let choice = CoachChoice { exercise: exercise.map(str::to_owned), ..self.choice.clone() };
        let prepared = parts::prepare(&choice)?;
        let config = Config {
            latency: self.latency,
            cooldown: prepared.cooldown,
            language: choice.language.clone(),
            ..Config::default()
        };
        let info = locked(reel).source.info().clone();
        let window = Window { reel: reel.clone(), info, next: frames.start, end: frames.end, keep };
        let mut heard = Heard::default();
        sequential::run(Box::new(window), prepared.parts, &config, &Arc::new(Monitor::default()), &mut heard)?;
        match heard.failure {
            None => Ok(heard.said),
            Some(failure) => Err(anyhow!(failure)),
        }
    }
}

/// Cuts what was said in a whole session at the begins of its episodes.
fn by_episode(episodes: &[Episode], said: &[Timed], begin: f64) -> Vec<Vec<Timed>> {
    let nexts = episodes.iter().skip(1).map(|e| e.start).chain([f64::INFINITY]);
    let within =
        |from: f64, to: f64| said.iter().filter(|s| s.t + begin >= from && s.t + begin < to).cloned().collect();
    episodes.iter().zip(nexts).map(|(e, next)| within(e.start, e.end.min(next))).collect()
}

/// Whether a session's video is there.
pub(crate) fn check_video(session: &Session) -> Result<()> {
    if !session.video.is_file() {
        bail!("{}: no such video", session.video.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_clockwise_in_a_square() {
        // Two pixels wide, one high: red, green.
        let frame = Frame::from_rgb(0, Duration::ZERO, 2, 1, vec![255, 0, 0, 0, 255, 0]).unwrap();
        let turned = turned(&frame);
        assert_eq!((turned.width, turned.height), (2, 2));
        // Red came to the top, green below it.
        assert_eq!(&turned.rgb[..3], [255, 0, 0]);
        assert_eq!(&turned.rgb[6..9], [0, 255, 0]);
    }
}
