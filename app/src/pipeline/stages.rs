//! The stages before the coach: reading a frame, and looking at it.

use super::{
    Config, Event, Failure,
    moves::Moves,
    sampler::Sampler,
    stats::{Monitor, Stage},
    view::{ViewGate, cue_text},
};
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::{
    Frame,
    lens::{Lens, Sight},
    source::FrameSource,
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// Where events go.
pub(crate) type Emit<'a> = &'a mut dyn FnMut(Event);

/// Runs a step of a stage. An error and a panic become a [`Failure`], so that one stage never takes down the rest.
pub(super) fn attempt<T>(
    stage: &'static str,
    t: Duration,
    step: impl FnOnce() -> anyhow::Result<T>,
) -> Result<T, Failure> {
    let problem = match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("panicked: {}", panic_message(&*panic)),
    };
    Err(Failure { stage, t, problem })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Reads the source; after a failure it is at its end.
pub(super) struct Reader {
    source: Box<dyn FrameSource>,
    monitor: Arc<Monitor>,
    last: Duration,
}

impl Reader {
    pub(super) fn new(source: Box<dyn FrameSource>, monitor: Arc<Monitor>) -> Self {
        Self { source, monitor, last: Duration::ZERO }
    }

    /// The next frame; `None` at the end, also when it comes by a failure.
    pub(super) fn next(&mut self, emit: Emit<'_>) -> Option<Frame> {
        let begun = Instant::now();
        match attempt("capture", self.last, || Ok(self.source.next_frame()?)) {
            Ok(frame) => {
                let frame = frame?;
                self.monitor.time(Stage::Capture, begun.elapsed());
                self.monitor.count(|c| c.frames += 1);
                self.monitor.reach(frame.t);
                self.last = frame.t;
                Some(frame)
            }
            Err(failure) => {
                emit(Event::Failed(failure));
                None
            }
        }
    }
}

/// A frame that was looked at, on its way to the coach.
#[derive(Clone)]
pub(super) struct Message {
    /// What the lens saw.
    pub(super) sight: Sight,
    /// Whether the person is in view, so that the coach is asked.
    pub(super) ask: bool,
    /// When the last word about the view was said.
    pub(super) cue_at: Option<Duration>,
    /// When the frame came.
    pub(super) arrived: Instant,
}

/// Picks the frames of the coach's rate, looks at them through the lens and follows the view.
pub(super) struct Watcher {
    lens: Option<Box<dyn Lens>>,
    sampler: Sampler,
    gate: ViewGate,
    moves: Moves,
    language: String,
    monitor: Arc<Monitor>,
}

impl Watcher {
    pub(super) fn new(lens: Box<dyn Lens>, frame_rate: f64, config: &Config, monitor: Arc<Monitor>) -> Self {
        let (sampler, gate) = (Sampler::new(frame_rate), ViewGate::default());
        let moves = Moves::new();
        Self { lens: Some(lens), sampler, gate, moves, language: config.language.clone(), monitor }
    }

    /// Looks at a frame, if it is on a tick and the lens works.
    pub(super) fn watch(&mut self, frame: &Frame, arrived: Instant, emit: Emit<'_>) -> Option<Message> {
        let lens = self.lens.as_mut()?;
        if !self.sampler.takes(frame.t) {
            return None;
        }
        let begun = Instant::now();
        let sight = match attempt("lens", frame.t, || Ok(lens.look(frame)?)) {
            Ok(sight) => sight,
            Err(failure) => {
                self.lens = None;
                emit(Event::Failed(failure));
                return None;
            }
        };
        self.monitor.time(Stage::Lens, begun.elapsed());
        self.monitor.count(|c| c.sampled += 1);
        self.follow(&sight, emit);
        Some(Message { sight, ask: self.gate.is_clear(), cue_at: self.gate.last_cue(), arrived })
    }

    fn follow(&mut self, sight: &Sight, emit: Emit<'_>) {
        let t = sight.frame.t;
        let change = self.gate.update(t, sight.view);
        if let Some(view) = change.settled {
            emit(Event::View { t, view, people: sight.people });
        }
        if let Some(view) = change.cue {
            self.monitor.count(|c| c.view_cues += 1);
            let text = cue_text(view, &self.language).to_owned();
            emit(Event::Feedback(Feedback { t_frame: t, t_ready: t, text, kind: Kind::View }));
        }
        // joints that are out of the picture are guesses
        self.moves.update(t, sight.body.as_ref().filter(|_| self.gate.is_clear()), emit);
        emit(Event::Tick { t });
    }

    /// Gives the lens back, unless it failed.
    pub(super) fn into_lens(self) -> Option<Box<dyn Lens>> {
        self.lens
    }
}
