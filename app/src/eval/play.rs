//! Plays a session to a coach, through the same stages as `spotter replay`.

use super::{pool::Pool, store::Played};
use crate::{
    parts::{self, CoachChoice},
    pipeline::{
        Config, Event, Latency,
        sequential::{self, Observer},
        stats::{Monitor, Stage},
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
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    /// The control: the coach is shown the video of the next session, while truths and what it is told stay.
    pub(crate) shuffled: bool,
    /// Coaches between two sessions.
    pub(crate) pool: Pool,
    /// Milliseconds from frame to decision, the median of each stretch that was played.
    pub(crate) medians: Arc<Mutex<Vec<f64>>>,
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

fn locked<T>(reel: &Mutex<T>) -> MutexGuard<'_, T> {
    reel.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// What is said in each episode, in the time of its truth, and what was odd. `shown` is the session whose video is
    /// played: the same one, but for the control.
    ///
    /// # Errors
    /// A video or model that can't be used; a stage that failed.
    pub(crate) fn play(&self, session: &Session, shown: &Session) -> Result<Played> {
        let context = || format!("session {} ({})", session.id, shown.video.display());
        let reel = Arc::new(Mutex::new(Reel::open(shown).with_context(context)?));
        let begin = first_time(session);
        let (mut said, mut warnings) = (Vec::new(), Vec::new());
        if self.told {
            let at = |episode: &Episode| frames_of(episode, session, shown);
            for (k, episode) in session.episodes.iter().enumerate() {
                let keep = session.episodes.get(k + 1).map_or(usize::MAX, |next| at(next).start);
                let heard = self.stretch(&reel, at(episode), keep, Some(&episode.exercise));
                said.push(heard.with_context(context)?);
            }
        } else {
            let heard = self.stretch(&reel, 0..shown.frame_times.len(), usize::MAX, None).with_context(context)?;
            said = by_episode(&session.episodes, &heard, begin);
            let outside = heard.len().saturating_sub(said.iter().map(Vec::len).sum());
            if outside > 0 {
                let (id, all) = (&session.id, heard.len());
                warnings.push(format!(
                    "session {id}: {outside} of {all} utterances lie outside of all episodes and are not scored"
                ));
            }
        }
        for (episode, said) in session.episodes.iter().zip(&mut said) {
            said.iter_mut().for_each(|said| said.t += begin - episode.origin);
        }
        let reel = locked(&reel);
        if reel.ended && reel.next < shown.frame_times.len() {
            let (has, told) = (reel.next, shown.frame_times.len());
            warnings.push(format!("session {}: the video has {has} frames, its time stamps say {told}", shown.id));
        }
        Ok(Played { said, warnings })
    }

    /// What is said during some frames, in seconds since the first frame of the video.
    fn stretch(
        &self,
        reel: &Arc<Mutex<Reel>>,
        frames: Range<usize>,
        keep: usize,
        exercise: Option<&str>,
    ) -> Result<Vec<Timed>> {
        let (parts, cooldown) = self.pool.parts(&self.choice, exercise)?;
        let config =
            Config { latency: self.latency, cooldown, language: self.choice.language.clone(), ..Config::default() };
        let info = locked(reel).source.info().clone();
        let window = Window { reel: reel.clone(), info, next: frames.start, end: frames.end, keep };
        let (mut heard, monitor) = (Heard::default(), Arc::new(Monitor::default()));
        sequential::run(Box::new(window), parts, &config, &monitor, &mut heard)?;
        locked(&self.medians).extend(monitor.quantiles(Stage::FrameToDecision).map(|q| q.p50_ms));
        match heard.failure {
            None => Ok(heard.said),
            Some(failure) => Err(anyhow!(failure)),
        }
    }

    /// A warning where this machine looks slower than the fixed latency says. It depends on the machine, so it is for the log
    /// and never for the report.
    pub(crate) fn too_slow(&self) -> Option<String> {
        let mut medians = locked(&self.medians).clone();
        medians.sort_by(f64::total_cmp);
        slower_than(self.latency, medians.get(medians.len() / 2).copied()?)
    }
}

fn slower_than(latency: Latency, median_ms: f64) -> Option<String> {
    let Latency::Fixed { decide, .. } = latency else { return None };
    let counted = decide.as_secs_f64() * 1e3;
    (median_ms > counted).then(|| {
        format!(
            "from frame to decision this machine takes {median_ms:.0} ms at the median, but {counted:.0} ms are counted: the \
             times in the report are not this machine's (--latency measured has those; fewer --jobs may be faster)"
        )
    })
}

fn first_time(session: &Session) -> f64 {
    session.frame_times.first().copied().unwrap_or_default()
}

/// Frames of `shown` at the time that an episode has in its own session.
fn frames_of(episode: &Episode, session: &Session, shown: &Session) -> Range<usize> {
    if std::ptr::eq(session, shown) {
        return episode.frames.clone();
    }
    let time = |frame: usize| session.frame_times.get(frame).map_or(f64::INFINITY, |t| t - first_time(session));
    let begin = first_time(shown);
    let frame = |t: f64| shown.frame_times.partition_point(|other| other - begin < t);
    let start = frame(time(episode.frames.start));
    start..frame(time(episode.frames.end)).max(start)
}

/// Cuts what was said in a whole session at the begins of its episodes.
fn by_episode(episodes: &[Episode], said: &[Timed], begin: f64) -> Vec<Vec<Timed>> {
    let nexts = episodes.iter().skip(1).map(|e| e.start).chain([f64::INFINITY]);
    let within =
        |from: f64, to: f64| said.iter().filter(|s| s.t + begin >= from && s.t + begin < to).cloned().collect();
    episodes.iter().zip(nexts).map(|(e, next)| within(e.start, e.end.min(next))).collect()
}

/// Whether a session's video is there and its first frame can be read; its size in bytes.
///
/// # Errors
/// Otherwise.
pub(crate) fn check_video(session: &Session) -> Result<u64> {
    let (id, video) = (&session.id, session.video.display());
    if !session.video.is_file() {
        bail!("session {id}, long_range_video_file: {video}: no such video");
    }
    let context = || format!("session {id}, long_range_video_file: {video}");
    if parts::open_source(&session.video).with_context(context)?.next_frame().with_context(context)?.is_none() {
        bail!("{}: the video has no frame", context());
    }
    Ok(std::fs::metadata(&session.video).with_context(context)?.len())
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

    fn session(id: &str, frame_times: Vec<f64>, frames: Range<usize>) -> Session {
        let episode = Episode {
            id: format!("{id}_0"),
            exercise: "squats".into(),
            start: 0.0,
            end: 1.0,
            origin: 0.0,
            frames,
            truth: Vec::new(),
        };
        Session { id: id.into(), video: "none.mp4".into(), frame_times, episodes: vec![episode] }
    }

    #[test]
    fn the_control_shows_another_video_at_the_same_time() {
        let own = session("a", (0..100).map(|i| 1000.0 + f64::from(i) * 0.1).collect(), 20..50);
        // Twice as many frames a second, and it ends early.
        let other = session("b", (0..80).map(|i| 7000.0 + f64::from(i) * 0.05).collect(), 0..80);
        assert_eq!(frames_of(&own.episodes[0], &own, &own), 20..50);
        let seen = frames_of(&own.episodes[0], &own, &other);
        let seconds = |i: usize| other.frame_times[i] - 7000.0;
        assert!((seconds(seen.start) - 2.0).abs() < 0.051 && seen.end == 80, "{seen:?}");
        let late = session("a", own.frame_times.clone(), 90..100);
        assert!(frames_of(&late.episodes[0], &late, &other).is_empty());
    }

    #[test]
    fn a_slow_machine_is_told_of() {
        let fixed = Latency::REPLAY;
        assert!(slower_than(fixed, 49.0).is_none() && slower_than(Latency::Measured, 900.0).is_none());
        let warning = slower_than(fixed, 84.4).unwrap();
        assert!(warning.contains("84 ms") && warning.contains("50 ms are counted"), "{warning}");
    }
}
