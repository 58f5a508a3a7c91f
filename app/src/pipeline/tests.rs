//! The pipeline as a whole, with fakes for source, lens and coach.

use super::{
    Config, Event, Latency,
    fakes::{FakeCoach, FakeSource, parts},
    sequential::{self, Observer},
    stats::{Counts, Monitor},
    threads::{self, Input, Pace, Running},
};
use spotter_engine::coach::Kind;
use spotter_vision::{lens::View, source::FrameSource};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

mod praise;

#[derive(Default)]
struct Record(Vec<Event>);

impl Observer for Record {
    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        self.0.push(event);
        Ok(())
    }
}

fn clear(_: f64) -> View {
    View::Clear
}

fn at_once(seconds: f64, view: fn(f64) -> View, coach: FakeCoach, config: &Config) -> (Vec<Event>, Counts) {
    let (monitor, mut record) = (Arc::new(Monitor::default()), Record::default());
    let source = Box::new(FakeSource::new(30.0, seconds));
    let ran = sequential::run(source, parts(view, coach), config, &monitor, &mut record);
    assert!(ran.is_ok(), "{ran:?}");
    (record.0, monitor.counts())
}

fn start(seconds: f64, view: fn(f64) -> View, coach: FakeCoach, config: &Config) -> Running {
    let source = Box::new(FakeSource::new(30.0, seconds));
    let running = threads::start(Input::recording(source), parts(view, coach), config, 0.0, Box::new(|| {}));
    running.unwrap_or_else(|e| panic!("{e}"))
}

fn to_the_end(running: &Running) -> Vec<Event> {
    let mut events = Vec::new();
    while !running.is_over() {
        events.extend(running.event(Duration::from_millis(10)));
    }
    events
}

fn measured() -> Config {
    Config { latency: Latency::Measured, ..Config::default() }
}

fn spoken(events: &[Event], kind: Kind) -> Vec<(u128, String)> {
    let said = events.iter().filter_map(|e| match e {
        Event::Feedback(f) if f.kind == kind => Some((f.t_ready.as_millis(), f.text.clone())),
        _ => None,
    });
    said.collect()
}

fn short_cooldown() -> Config {
    Config { cooldown: Duration::from_millis(200), ..Config::default() }
}

fn partly_out_in_the_middle(t: f64) -> View {
    if (1.0..2.4).contains(&t) { View::PartlyOut } else { View::Clear }
}

#[test]
fn both_ways_give_the_same_events_and_counts() {
    let coach = || FakeCoach { cost: Duration::from_millis(3), ..FakeCoach::new(3, 9) };
    let (events, counts) = at_once(3.5, partly_out_in_the_middle, coach(), &short_cooldown());
    let running = start(3.5, partly_out_in_the_middle, coach(), &short_cooldown());
    assert_eq!(to_the_end(&running), events);
    assert_eq!(running.monitor().counts(), counts);
    assert!(counts.utterances > 1 && counts.view_cues == 1 && counts.skipped > 0, "{counts:?}");
}

#[test]
fn a_fixed_latency_says_when_words_are_ready() {
    let (events, counts) = at_once(1.0, clear, FakeCoach::new(4, 3), &Config::default());
    // the fourth tick is the frame at 400 ms: one decision and one token later the first word is there
    assert_eq!(spoken(&events, Kind::Coaching), [(475, "w0 w1 w2".to_owned())]);
    assert_eq!((counts.frames, counts.sampled, counts.dropped), (30, 8, 0));
}

#[test]
fn while_words_are_made_only_the_newest_frame_waits() {
    // 20 words take 550 ms: four ticks pass, the last of them is seen
    let (_, counts) = at_once(2.0, clear, FakeCoach::new(2, 20), &short_cooldown());
    assert!(counts.skipped >= 3, "{counts:?}");
    assert_eq!(counts.sampled, counts.observed + counts.skipped);
}

#[test]
fn a_slow_coach_drops_frames_and_stays_current() {
    let coach = FakeCoach { cost: Duration::from_millis(300), ..FakeCoach::new(1, 1) };
    let config = Config { cooldown: Duration::ZERO, ..measured() };
    let running = start(2.0, clear, coach, &config);
    let events = to_the_end(&running);
    let counts = running.monitor().counts();
    assert!(counts.skipped >= 5 && counts.observed <= 9, "{counts:?}");
    let late = events.iter().filter_map(|e| match e {
        Event::Feedback(f) => Some(f.t_ready - f.t_frame),
        _ => None,
    });
    // what waits is one tick old at most: two looks bound the age of any word
    assert!(late.max().is_some_and(|age| age < Duration::from_millis(800)));
}

/// A model slowed ten times: the window goes on taking pictures at the source's rate and never waits for one.
#[test]
fn the_picture_does_not_wait_for_a_slow_model() {
    let coach = FakeCoach { cost: Duration::from_millis(500), ..FakeCoach::new(1, 40) };
    let running = start(3.0, clear, coach, &measured());
    let (mut pictures, mut longest) = (0, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        pictures += usize::from(running.picture().is_some());
        drop(running.sight());
        while running.event(Duration::ZERO).is_some() {}
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(4));
    }
    println!("{pictures} pictures in 2 s, the longest wait was {longest:?}");
    assert!(pictures >= 54, "{pictures}");
    assert!(longest < Duration::from_millis(50), "{longest:?}");
}

#[test]
fn a_stop_takes_less_than_a_second() {
    let coach = FakeCoach { cost: Duration::from_millis(100), ..FakeCoach::new(1, 1000) };
    let running = start(60.0, clear, coach, &Config::default());
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    assert!(running.stop().is_some(), "lens and coach come back");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn a_paused_run_stops_too() {
    let running = start(60.0, clear, FakeCoach::new(1, 1), &measured());
    running.clock().pause(true);
    std::thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    drop(running);
    assert!(asked.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_panic_in_the_coach_becomes_a_status() {
    let coach = || FakeCoach { panics_at: Some(3), ..FakeCoach::new(100, 1) };
    let running = start(1.0, clear, coach(), &Config::default());
    for events in [to_the_end(&running), at_once(1.0, clear, coach(), &Config::default()).0] {
        let failed: Vec<_> =
            events.iter().filter_map(|e| if let Event::Failed(f) = e { Some(f) } else { None }).collect();
        assert!(matches!(failed[..], [f] if f.stage == "coach" && f.problem.contains("the model broke")), "{failed:?}");
    }
    assert_eq!(running.monitor().counts().frames, 30, "the picture goes on");
}

/// What waits for an answer comes behind it: a coach that fails there has said its words.
#[test]
fn a_coach_that_cannot_rest_becomes_a_status() {
    let coach = || FakeCoach { restless_at: Some(2), ..FakeCoach::new(2, 1) };
    let running = start(1.0, clear, coach(), &Config::default());
    for events in [to_the_end(&running), at_once(1.0, clear, coach(), &Config::default()).0] {
        let at = |wanted: fn(&Event) -> bool| events.iter().position(wanted);
        let said = at(|e| matches!(e, Event::Feedback(_))).expect("words");
        let failed = at(|e| matches!(e, Event::Failed(f) if f.problem.contains("no rest"))).expect("a failure");
        assert!(said < failed && events.iter().filter(|e| matches!(e, Event::Feedback(_))).count() == 1);
    }
}

#[test]
fn a_panic_in_the_lens_becomes_a_status() {
    fn breaks(t: f64) -> View {
        assert!(t < 0.5, "the lens broke");
        View::Clear
    }
    let (events, counts) = at_once(1.0, breaks, FakeCoach::new(100, 1), &Config::default());
    assert!(events.iter().any(|e| matches!(e, Event::Failed(f) if f.stage == "lens")));
    assert_eq!(counts.frames, 30);
}

#[test]
fn a_source_that_breaks_off_is_told_after_its_frames() {
    let (monitor, mut record) = (Arc::new(Monitor::default()), Record::default());
    let source = Box::new(FakeSource::new(30.0, 1.0).breaking_off());
    let ran = sequential::run(source, parts(clear, FakeCoach::new(8, 1)), &Config::default(), &monitor, &mut record);
    assert!(ran.is_ok());
    assert_eq!(monitor.counts().frames, 30);
    assert!(
        record.0.iter().any(|e| matches!(e, Event::Failed(f) if f.stage == "capture" && f.problem.contains("cut")))
    );
}

#[test]
fn the_cooldown_holds_back_a_coach_that_never_stops() {
    let config = Config { cooldown: Duration::from_secs(2), ..Config::default() };
    let (events, counts) = at_once(10.0, clear, FakeCoach::new(1, 1), &config);
    let times: Vec<u128> = spoken(&events, Kind::Coaching).into_iter().map(|(t, _)| t).collect();
    assert_eq!(times.len(), 5);
    assert!(times.windows(2).all(|w| w[1] - w[0] >= 2000), "{times:?}");
    assert!(counts.held > 0);
}

#[test]
fn an_utterance_that_comes_too_late_is_cancelled() {
    let config = Config { stale_after: Duration::from_millis(500), ..Config::default() };
    let (events, counts) = at_once(2.0, clear, FakeCoach::new(5, 100), &config);
    assert_eq!(spoken(&events, Kind::Coaching), []);
    assert!(counts.stale > 0);
}

#[test]
fn out_of_view_there_is_one_word_and_no_coaching() {
    fn out(t: f64) -> View {
        if t < 2.0 { View::Clear } else { View::PartlyOut }
    }
    let (events, counts) = at_once(20.0, out, FakeCoach::new(1, 1), &short_cooldown());
    assert_eq!(spoken(&events, Kind::View), [(3000, "I can't see all of you.".to_owned())]);
    assert!(spoken(&events, Kind::Coaching).iter().all(|(t, _)| *t < 3100));
    assert!(counts.withheld > 100);
}

#[test]
fn the_view_speaks_korean() {
    fn nobody(_: f64) -> View {
        View::NoPerson
    }
    let config = Config { language: "ko".into(), ..Config::default() };
    let (events, _) = at_once(3.0, nobody, FakeCoach::new(1, 1), &config);
    assert!(matches!(&spoken(&events, Kind::View)[..], [(_, text)] if text.contains("들어와")));
}

/// A picture of a camera comes so long after the one before.
const PICTURE: Duration = Duration::from_millis(10);

/// A camera that does what a list says each time it is opened: seconds of pictures before it is lost, or why it does
/// not open.
fn camera(script: Vec<Result<f64, &'static str>>) -> Running {
    let mut script = script.into_iter();
    let mut open = move || -> anyhow::Result<Box<dyn FrameSource>> {
        match script.next() {
            Some(Ok(seconds)) => Ok(Box::new(FakeSource::new(30.0, seconds).taking(PICTURE).breaking_off())),
            Some(Err(why)) => Err(anyhow::anyhow!(why)),
            None => Ok(Box::new(FakeSource::new(30.0, 60.0).taking(PICTURE))),
        }
    };
    let source = open().unwrap_or_else(|error| Box::new(super::stages::Nothing::instead("camera", error)));
    let input = Input { source, pace: Pace::Source, again: Some(Box::new(open)) };
    let running = threads::start(input, parts(clear, FakeCoach::new(1000, 1)), &measured(), 0.0, Box::new(|| {}));
    running.unwrap_or_else(|e| panic!("{e}"))
}

/// What is told of the camera until it is back so often, with media times.
fn told_of(running: &Running, times: usize) -> Vec<Option<String>> {
    let (mut told, mut last, begun) = (Vec::new(), Duration::ZERO, Instant::now());
    while told.iter().filter(|p: &&Option<String>| p.is_none()).count() < times && begun.elapsed().as_secs() < 20 {
        if let Some(Event::Source { t, problem, .. }) = running.event(Duration::from_millis(20)) {
            assert!(t >= last, "{t:?} after {last:?}");
            last = t;
            told.push(problem);
        }
    }
    told
}

#[test]
fn an_unplugged_camera_comes_back_by_itself() {
    let running = camera(vec![Ok(0.5), Err("it is in use by another program"), Err("it is in use by another program")]);
    let told = told_of(&running, 1);
    assert_eq!(told.len(), 3, "each problem once: {told:?}");
    assert!(told[0].as_ref().is_some_and(|p| p.contains("the file is cut")), "{told:?}");
    assert_eq!(told[1..], [Some("it is in use by another program".to_owned()), None]);
    assert_eq!(running.monitor().counts().reopened, 1);
    let before = running.monitor().counts().frames;
    std::thread::sleep(Duration::from_millis(300));
    assert!(running.monitor().counts().frames > before && !running.is_over(), "the session goes on");
    assert!(running.stop().is_some());
}

#[test]
fn a_camera_that_is_not_there_yet_is_waited_for() {
    let running = camera(vec![Err("there is no camera 0"), Err("there is no camera 0")]);
    let told = told_of(&running, 1);
    assert!(told.contains(&Some("there is no camera 0".to_owned())) && told.last() == Some(&None), "{told:?}");
}

#[test]
fn a_session_without_a_camera_stops_in_time() {
    let running = camera(vec![Err("no"); 100]);
    std::thread::sleep(Duration::from_millis(300));
    let asked = Instant::now();
    drop(running);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

/// A source that sets the pace, with times of its own.
struct Webcam {
    info: spotter_vision::source::SourceInfo,
    begun: Instant,
    seq: u64,
}

impl FrameSource for Webcam {
    fn info(&self) -> &spotter_vision::source::SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<spotter_vision::Frame>, spotter_vision::source::SourceError> {
        std::thread::sleep(Duration::from_millis(20));
        self.seq += 1;
        Ok(spotter_vision::Frame::from_rgb(self.seq, self.begun.elapsed(), 2, 2, vec![0; 12]))
    }
}

/// A camera's own time runs on while the session is paused; that of the session does not.
#[test]
fn a_pause_takes_no_media_time_of_a_camera() {
    let source = Box::new(Webcam { info: Default::default(), begun: Instant::now(), seq: 0 });
    let input = Input { source, pace: Pace::Source, again: None };
    let running = threads::start(input, parts(clear, FakeCoach::new(1000, 1)), &measured(), 0.0, Box::new(|| {}));
    let running = running.unwrap_or_else(|e| panic!("{e}"));
    let wait = |ms| std::thread::sleep(Duration::from_millis(ms));
    wait(300);
    running.clock().pause(true);
    let stood = running.clock().now();
    wait(600);
    running.clock().pause(false);
    while running.picture().is_some() {}
    wait(200);
    let (frame, now) = (running.picture(), running.clock().now());
    let t = frame.map(|f| f.t).unwrap_or_else(|| panic!("a picture"));
    assert!(t >= stood && t <= now, "a frame of {t:?} between {stood:?} and {now:?}");
}
