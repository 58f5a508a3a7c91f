//! The stages before the coach: reading a frame, and looking at it.

use super::{
    Config, Event, Failure,
    clock::MediaClock,
    moves::Moves,
    sampler::Sampler,
    stats::{Monitor, Stage},
    view::{ViewGate, cue_text},
};
use spotter_engine::coach::{Feedback, Kind};
use spotter_vision::{
    Frame,
    lens::{Lens, Sight, View},
    pose::{Missing, missing},
    source::{FrameSource, SourceError, SourceInfo, Trouble},
};
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// What is missing of a body is told no more often than this: joints at the edge tremble.
const STEADY: Duration = Duration::from_secs(1);

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

/// A source without frames, in the place of one that was lost or is not there yet.
pub(crate) struct Nothing {
    info: SourceInfo,
    /// Why there are none, told once.
    why: Option<SourceError>,
}

impl Nothing {
    /// In the place of a source that was let go.
    fn after(info: SourceInfo) -> Self {
        Self { info, why: None }
    }

    /// In the place of a camera that did not open.
    pub(crate) fn instead(name: &str, error: anyhow::Error) -> Self {
        let why = error.downcast::<SourceError>().unwrap_or_else(|error| {
            let problem = format!("{error:#}");
            SourceError::Camera { camera: name.to_owned(), trouble: Trouble::Other, problem }
        });
        Self { info: SourceInfo { name: name.to_owned(), ..SourceInfo::default() }, why: Some(why) }
    }
}

impl FrameSource for Nothing {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        self.why.take().map_or(Ok(None), Err)
    }
}

/// Reads the source; after a failure it is at its end.
pub(super) struct Reader {
    source: Box<dyn FrameSource>,
    monitor: Arc<Monitor>,
    last: Duration,
    offset: Duration,
    /// The clock of a source that sets the pace: its own time runs on while the session is paused.
    clock: Option<Arc<MediaClock>>,
    /// How long the clock had stood still when the source was opened.
    paused_before: Duration,
    /// Frames that the source had dropped when it was last asked.
    dropped: u64,
    /// What kind of trouble ended the source.
    trouble: Option<Trouble>,
}

impl Reader {
    pub(super) fn new(source: Box<dyn FrameSource>, monitor: Arc<Monitor>) -> Self {
        let (last, offset, paused_before) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Self { source, monitor, last, offset, clock: None, paused_before, dropped: 0, trouble: None }
    }

    /// Takes pauses of the clock out of the source's own time.
    pub(super) fn paused_by(mut self, clock: Arc<MediaClock>) -> Self {
        self.clock = Some(clock);
        self
    }

    fn paused(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.paused_for())
    }

    /// The next frame; `None` at the end, also when it comes by a failure.
    pub(super) fn next(&mut self, emit: Emit<'_>) -> Option<Frame> {
        self.read().unwrap_or_else(|failure| {
            emit(Event::Failed(failure));
            None
        })
    }

    /// The next frame; `None` at the end.
    pub(super) fn read(&mut self) -> Result<Option<Frame>, Failure> {
        let begun = Instant::now();
        let (source, trouble) = (&mut self.source, &mut self.trouble);
        *trouble = None;
        let frame = attempt("capture", self.last, || {
            Ok(source.next_frame().inspect_err(|error| *trouble = error.trouble())?)
        })?;
        let dropped = self.source.dropped();
        let more = dropped.saturating_sub(std::mem::replace(&mut self.dropped, dropped));
        let Some(mut frame) = frame else { return Ok(None) };
        let paused = self.paused().saturating_sub(self.paused_before);
        // in order, also where a pause was measured a little too long
        frame.t = (frame.t + self.offset).saturating_sub(paused).max(self.last);
        self.monitor.time(Stage::Capture, begun.elapsed());
        self.monitor.count(|c| (c.frames, c.dropped) = (c.frames + 1, c.dropped + more));
        self.monitor.reach(frame.t);
        self.last = frame.t;
        Ok(Some(frame))
    }

    /// What kind of trouble the last reading ended in.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Lets the source go; what is read until there is another is its end.
    pub(super) fn let_go(&mut self) {
        (self.source, self.dropped) = (Box::new(Nothing::after(self.source.info().clone())), 0);
    }

    /// Goes on with another source, whose own time begins at media time `now`.
    pub(super) fn replace(&mut self, source: Box<dyn FrameSource>, now: Duration) {
        (self.source, self.dropped) = (source, 0);
        // frames come in order of time, whatever the clock says
        self.offset = now.max(self.last + Duration::from_millis(1));
        self.paused_before = self.paused();
        self.monitor.count(|c| c.reopened += 1);
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

/// How many people were told, and since when there are more or fewer.
#[derive(Default)]
struct Crowd {
    told: usize,
    rival: Option<(usize, Duration)>,
}

impl Crowd {
    /// Whether another number of people has lasted: somebody who walks through is not worth a word.
    fn changes(&mut self, t: Duration, people: usize) -> bool {
        if people == self.told {
            self.rival = None;
            return false;
        }
        match self.rival {
            Some((rival, since)) if rival == people => t.saturating_sub(since) >= STEADY,
            _ => {
                self.rival = Some((people, t));
                false
            }
        }
    }
}

/// Picks the frames of the coach's rate, looks at them through the lens and follows the view.
pub(super) struct Watcher {
    lens: Option<Box<dyn Lens>>,
    sampler: Sampler,
    gate: ViewGate,
    moves: Moves,
    language: String,
    missing: Option<Missing>,
    crowd: Crowd,
    person: u32,
    /// When the view was last told.
    told: Duration,
    lead: Duration,
    clear_since: Option<Duration>,
    begun: bool,
    monitor: Arc<Monitor>,
}

impl Watcher {
    pub(super) fn new(lens: Box<dyn Lens>, frame_rate: f64, config: &Config, monitor: Arc<Monitor>) -> Self {
        let (sampler, gate) = (Sampler::new(frame_rate), ViewGate::default());
        let moves = Moves::new();
        Self {
            lens: Some(lens),
            sampler,
            gate,
            moves,
            language: config.language.clone(),
            missing: None,
            crowd: Crowd::default(),
            person: 0,
            told: Duration::ZERO,
            lead: config.lead_in,
            clear_since: None,
            begun: false,
            monitor,
        }
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
        self.follow(frame, &sight, emit);
        Some(Message { sight, ask: self.is_on(), cue_at: self.gate.last_cue(), arrived })
    }

    /// Whether somebody is in view and the session has begun.
    fn is_on(&self) -> bool {
        self.begun && self.gate.is_clear()
    }

    fn follow(&mut self, frame: &Frame, sight: &Sight, emit: Emit<'_>) {
        let t = sight.frame.t;
        let change = self.gate.update(t, sight.view);
        let partly = sight.view == View::PartlyOut && self.gate.settled() == Some(View::PartlyOut);
        let missing = sight.body.as_ref().filter(|_| partly).and_then(|body| missing(body, frame));
        let another = missing.is_some() && missing != self.missing && t.saturating_sub(self.told) >= STEADY;
        let crowd = self.crowd.changes(t, sight.people);
        if let Some(view) = self.gate.settled().filter(|_| change.settled.is_some() || another || crowd) {
            (self.missing, self.told, self.crowd.told) = (missing, t, sight.people);
            emit(Event::View { t, view, missing, people: sight.people });
        }
        self.lead_in(t, emit);
        if let Some(view) = change.cue {
            self.monitor.count(|c| c.view_cues += 1);
            let text = cue_text(view, missing, &self.language);
            emit(Event::Feedback(Feedback { t_frame: t, t_ready: t, text, kind: Kind::View }));
        }
        if std::mem::replace(&mut self.person, sight.person) != sight.person {
            // half a repetition of somebody else is none
            self.moves = Moves::new();
        }
        // joints that are out of the picture are guesses
        self.moves.update(t, sight.body.as_ref().filter(|_| self.is_on()), emit);
        emit(Event::Tick { t });
    }

    /// The session begins once the person has been in view for the lead-in.
    fn lead_in(&mut self, t: Duration, emit: Emit<'_>) {
        if self.begun {
            return;
        }
        if !self.gate.is_clear() {
            self.clear_since = None;
            return;
        }
        let since = *self.clear_since.get_or_insert(t);
        if t.saturating_sub(since) >= self.lead {
            self.begun = true;
            emit(Event::Begun { t });
        }
    }

    /// Gives the lens back, unless it failed.
    pub(super) fn into_lens(self) -> Option<Box<dyn Lens>> {
        self.lens
    }
}
