//! A run that follows the clock: capture, vision and model each on a thread of their own.
//!
//! With a measured latency the links keep the newest item and count the rest. With a fixed one they wait, so that
//! every frame takes its turn; only a recording is run so, and it can wait.

use super::{
    Config, Event, Latency, Parts,
    clock::{Cancel, MediaClock},
    speaker::{Speaker, Talkativeness, Task},
    stages::{Message, Reader, Watcher},
    stats::Monitor,
    tally::Tally,
};
use anyhow::Context as _;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use spotter_datasets::synthetic::Exercise;
use spotter_vision::{
    Frame,
    lens::{Lens, Sight},
    link::{Link, Policy},
    source::{FrameSource, SourceError, Trouble},
};
use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Room between two stages that may wait for each other.
const ROOM: usize = 4;
/// Events that wait for a slow listener before the stages do.
const EVENTS: usize = 1024;

/// Who sets the pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The clock: a frame of a recording comes at its media time.
    Clock,
    /// The source: a camera's frames come when they come.
    Source,
}

/// Opens a source again that was lost.
pub(crate) type Again = Box<dyn FnMut() -> anyhow::Result<Box<dyn FrameSource>> + Send>;

/// Where frames come from.
pub(crate) struct Input {
    pub(crate) source: Box<dyn FrameSource>,
    pub(crate) pace: Pace,
    /// For a camera, which may be unplugged and come back. A recording that breaks off stays so.
    pub(crate) again: Option<Again>,
}

impl Input {
    /// A recording.
    pub(crate) fn recording(source: Box<dyn FrameSource>) -> Self {
        Self { source, pace: Pace::Clock, again: None }
    }
}

/// Between two attempts to open a lost camera.
const RETRY: Duration = Duration::from_secs(1);
/// How long an attempt that waits may take to see a cancellation.
const SLICE: Duration = Duration::from_millis(20);

/// What travels on a link: where links wait, events stay in line with the frames, so that their order is that of
/// media time and not that of the threads.
enum Item<T> {
    Value(T),
    Event(Event),
}

/// What a run shares with its stages.
struct Shared {
    cancel: Arc<Cancel>,
    clock: Arc<MediaClock>,
    monitor: Arc<Monitor>,
    frames: Link<Item<(Frame, Instant)>>,
    messages: Link<Item<Message>>,
    shown: Link<Frame>,
    sights: Link<Sight>,
    events: Sender<Event>,
    tally: Tally,
    wake: Box<dyn Fn() + Send + Sync>,
    policy: Policy,
}

impl Shared {
    /// Tells an event at once, or in line with the items of a link that waits.
    fn pass<T>(&self, link: &Link<Item<T>>, event: Event) {
        match self.policy {
            Policy::Wait => drop(link.send(Item::Event(event))),
            Policy::Newest => self.tell(event),
        }
    }

    /// Tells an event and what follows from it.
    fn tell(&self, event: Event) {
        self.tally.pass(event, &mut |event| self.send(event));
    }

    /// Waits for a listener that is slow, not for one that is gone.
    fn send(&self, event: Event) {
        let mut event = event;
        while !self.cancel.is_cancelled() {
            match self.events.send_timeout(event, Duration::from_millis(20)) {
                Err(SendTimeoutError::Timeout(back)) => event = back,
                Ok(()) => return (self.wake)(),
                Err(SendTimeoutError::Disconnected(_)) => return,
            }
        }
    }
}

/// A run under way. Dropping it stops it.
pub(crate) struct Running {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    dial: Arc<Talkativeness>,
    capture: Option<JoinHandle<()>>,
    vision: Option<JoinHandle<Option<Box<dyn Lens>>>>,
    model: Option<JoinHandle<Option<Box<dyn super::Coach>>>>,
}

/// Starts the threads. `wake` is called after each new picture and event, from any of them.
///
/// # Errors
/// When the system gives no more threads.
pub(crate) fn start(
    input: Input,
    parts: Parts,
    config: &Config,
    talkativeness: f32,
    wake: Box<dyn Fn() + Send + Sync>,
) -> anyhow::Result<Running> {
    let (policy, room) = match config.latency {
        Latency::Fixed { .. } => (Policy::Wait, ROOM),
        Latency::Measured => (Policy::Newest, 1),
    };
    let (sender, events) = bounded(EVENTS);
    let (task, monitor) = (Arc::new(Task::default()), Arc::new(Monitor::default()));
    let shared = Arc::new(Shared {
        cancel: Arc::new(Cancel::default()),
        clock: Arc::new(MediaClock::default()),
        monitor: monitor.clone(),
        frames: Link::new(policy, room),
        messages: Link::new(policy, room),
        shown: Link::new(Policy::Newest, 1),
        sights: Link::new(Policy::Newest, 1),
        events: sender,
        tally: Tally::new(config, task.clone(), monitor.clone()),
        wake,
        policy,
    });
    let dial = Arc::new(Talkativeness::new(talkativeness));
    let Input { source, pace, again } = input;
    let mut reader = Reader::new(source, shared.monitor.clone());
    if pace == Pace::Source {
        reader = reader.paused_by(shared.clock.clone());
    }
    let watcher = Watcher::new(parts.lens, parts.coach.frame_rate(), config, shared.monitor.clone());
    let (cancel, monitor) = (shared.cancel.clone(), shared.monitor.clone());
    let speaker = Speaker::new(parts.coach, config, cancel, dial.clone(), task, monitor);
    // from here on `Drop` stops what was started
    let mut running = Running { shared: shared.clone(), events, dial, capture: None, vision: None, model: None };
    let own = shared.clone();
    running.model = Some(spawn("model", move || speak(&own, speaker))?);
    let own = shared.clone();
    running.vision = Some(spawn("vision", move || watch(&own, watcher))?);
    running.capture = Some(spawn("capture", move || capture(&shared, reader, pace, again))?);
    Ok(running)
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).with_context(|| format!("can't start the {name} thread"))
}

fn capture(shared: &Shared, mut reader: Reader, pace: Pace, mut again: Option<Again>) {
    while !shared.cancel.is_cancelled() {
        let frame = match &mut again {
            Some(again) => steady(shared, &mut reader, again),
            None => reader.next(&mut |e| shared.pass(&shared.frames, e)),
        };
        let Some(frame) = frame else { break };
        shared.clock.start(frame.t);
        if pace == Pace::Clock && !shared.clock.wait_until(frame.t, &shared.cancel) {
            break;
        }
        if pace == Pace::Source && shared.clock.is_paused() {
            continue;
        }
        shared.shown.send(frame.clone());
        // a vision stage that is gone doesn't stop the picture
        shared.frames.send(Item::Value((frame, Instant::now())));
        (shared.wake)();
    }
    shared.frames.close();
    shared.shown.close();
    (shared.wake)();
}

/// Why there is no picture: in words, and what kind of trouble it is.
type Lost = (String, Option<Trouble>);

/// A frame, or why there is none.
fn read(reader: &mut Reader) -> Result<Frame, Lost> {
    match reader.read() {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(("the camera stopped".to_owned(), Some(Trouble::Unplugged))),
        Err(failure) => Err((failure.problem, reader.trouble())),
    }
}

/// The next frame of a camera; while there is none it is opened again and again. `None` when cancelled.
fn steady(shared: &Shared, reader: &mut Reader, again: &mut Again) -> Option<Frame> {
    let mut lost = match read(reader) {
        Ok(frame) => return Some(frame),
        Err(lost) => lost,
    };
    let mut told: Option<Lost> = None;
    while !shared.cancel.is_cancelled() {
        let t = shared.clock.now();
        if told.as_ref() != Some(&lost) {
            told = Some(lost.clone());
            let (problem, trouble) = lost;
            shared.pass(&shared.frames, Event::Source { t, problem: Some(problem), trouble });
        }
        // the old device has to be let go before it can be opened again
        reader.let_go();
        if !rest(shared, RETRY) {
            break;
        }
        lost = match again() {
            Err(error) => {
                let trouble = error.downcast_ref::<SourceError>().and_then(SourceError::trouble);
                (format!("{error:#}"), trouble)
            }
            Ok(source) => {
                reader.replace(source, shared.clock.now());
                match read(reader) {
                    Ok(frame) => {
                        shared.pass(&shared.frames, Event::Source { t: frame.t, problem: None, trouble: None });
                        return Some(frame);
                    }
                    Err(lost) => lost,
                }
            }
        };
    }
    None
}

/// Waits; false when cancelled meanwhile.
fn rest(shared: &Shared, pause: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < pause {
        if shared.cancel.is_cancelled() {
            return false;
        }
        thread::sleep(SLICE);
    }
    true
}

fn watch(shared: &Shared, mut watcher: Watcher) -> Option<Box<dyn Lens>> {
    let mut dropped = 0;
    while let Some(item) = shared.frames.receive() {
        let (frame, arrived) = match item {
            Item::Value(value) => value,
            Item::Event(event) => {
                shared.pass(&shared.messages, event);
                continue;
            }
        };
        // beside what the camera dropped itself
        let more = shared.frames.dropped() - std::mem::replace(&mut dropped, shared.frames.dropped());
        shared.monitor.count(|c| c.dropped += more);
        if let Some(message) = watcher.watch(&frame, arrived, &mut |e| shared.pass(&shared.messages, e)) {
            shared.sights.send(message.sight.clone());
            shared.messages.send(Item::Value(message));
            (shared.wake)();
        }
    }
    shared.messages.close();
    watcher.into_lens()
}

fn speak(shared: &Shared, mut speaker: Speaker) -> Option<Box<dyn super::Coach>> {
    while let Some(item) = shared.messages.receive() {
        let message = match item {
            Item::Value(message) => message,
            Item::Event(event) => {
                shared.tell(event);
                continue;
            }
        };
        if shared.policy == Policy::Wait {
            speaker.offer(message, &mut |e| shared.tell(e));
        } else {
            shared.monitor.count(|c| c.skipped = shared.messages.dropped());
            speaker.offer_now(message, shared.clock.now(), &mut |e| shared.tell(e));
        }
    }
    if !shared.cancel.is_cancelled() {
        speaker.finish(&mut |e| shared.tell(e));
    }
    speaker.into_coach()
}

impl Running {
    /// The next event; waits up to `timeout`.
    pub(crate) fn event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The newest picture since the last call.
    pub(crate) fn picture(&self) -> Option<Frame> {
        self.shared.shown.try_receive()
    }

    /// The newest sight since the last call.
    pub(crate) fn sight(&self) -> Option<Sight> {
        self.shared.sights.try_receive()
    }

    /// Counts and times.
    pub(crate) fn monitor(&self) -> &Arc<Monitor> {
        &self.shared.monitor
    }

    /// Media time and pause.
    pub(crate) fn clock(&self) -> &MediaClock {
        &self.shared.clock
    }

    /// How readily the coach speaks.
    pub(crate) fn talkativeness(&self) -> &Talkativeness {
        &self.dial
    }

    /// Changes the exercise that counts and that the coach is told; `None` lets the coach name it.
    pub(crate) fn choose(&self, exercise: Option<Exercise>) {
        self.shared.tally.choose(exercise);
    }

    /// Whether every stage has ended and every event was taken.
    pub(crate) fn is_over(&self) -> bool {
        let ended = |handle: Option<bool>| handle.unwrap_or(true);
        ended(self.capture.as_ref().map(JoinHandle::is_finished))
            && ended(self.vision.as_ref().map(JoinHandle::is_finished))
            && ended(self.model.as_ref().map(JoinHandle::is_finished))
            && self.events.is_empty()
    }

    /// Stops the stages and joins them, last first. Gives lens and coach back, unless one failed.
    pub(crate) fn stop(mut self) -> Option<Parts> {
        self.halt()
    }

    fn halt(&mut self) -> Option<Parts> {
        self.shared.cancel.cancel();
        self.shared.messages.abort();
        self.shared.frames.abort();
        let coach = self.model.take().and_then(|h| h.join().ok().flatten());
        let lens = self.vision.take().and_then(|h| h.join().ok().flatten());
        // a thread that panicked outside its stage has nothing to give back
        drop(self.capture.take().map(JoinHandle::join));
        Some(Parts { lens: lens?, coach: coach? })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.halt());
    }
}
