//! The window with its threads: fakes stand in for camera and coach, and no display is needed.

use crate::{
    pipeline::{
        Config, Latency, Parts,
        fakes::{FakeCoach, FakeSource, parts},
        threads::Input,
    },
    sessions::{Recorder, Stamp, Store},
    settings::Settings,
    timeline::{Session, Sinks},
    ui::{First, Opened, Order, Play, app::App, app::Shared, set_up},
};
use eframe::egui::Key;
use egui_kittest::{Harness, kittest::Queryable as _};
use spotter_vision::lens::View;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

const SECONDS: f64 = 60.0;

fn clear(_: f64) -> View {
    View::Clear
}

fn session() -> Session {
    Session {
        version: "0",
        source: "fake".into(),
        width: 4,
        height: 4,
        fps: 30.0,
        model: "fake".into(),
        lens: "none".into(),
        language: "en".into(),
        exercise: None,
        latency: "measured".into(),
        seed: 0,
        talkativeness: 0.0,
        cooldown: 0.0,
    }
}

/// A session of a source that gives 60 pictures a second.
fn opened(order: Order, coach: FakeCoach, store: Option<&Store>) -> Opened {
    let recorder = store.map(|store| Recorder::create(store, Stamp(0)).unwrap());
    let kept = store.zip(recorder.as_ref()).map(|(store, recorder)| (store.clone(), recorder.id()));
    let mut sinks = Sinks::default();
    if let Some(recorder) = recorder {
        sinks.0.push(Box::new(recorder));
    }
    let parts: Parts = order.parts.unwrap_or_else(|| parts(clear, coach));
    let config = Config { latency: Latency::Measured, cooldown: Duration::from_millis(100), ..Config::default() };
    let input = Input::recording(Box::new(FakeSource::new(60.0, SECONDS)));
    Opened { session: session(), config, talkativeness: 0.0, parts, input, sinks, kept }
}

fn play(opener: impl FnMut(Order) -> anyhow::Result<Opened> + Send + 'static, data: Option<&Path>) -> Play {
    Play {
        title: "fake".into(),
        opener: Box::new(opener),
        first: First::AtOnce,
        // without a voice: what this machine has of one is not what is tested
        live: false,
        stands_in: None,
        settings: Settings::default(),
        settings_file: None,
        store: data.map(Store::new),
        with_timing: false,
        screenshot: None,
    }
}

fn window(play: Play) -> Harness<'static, Option<App>> {
    let mut play = Some(play);
    let draw = move |ui: &mut eframe::egui::Ui, app: &mut Option<App>| {
        if let Some(play) = play.take() {
            set_up(ui.ctx());
            *app = Some(App::new(play, ui.ctx(), Shared::default()));
            return;
        }
        app.as_mut().unwrap().draw(ui);
    };
    Harness::builder().with_size([1180.0, 760.0]).build_ui_state(draw, None)
}

/// Draws as a screen does, 60 times a second, until something is so; the longest time that a picture took.
fn until(harness: &mut Harness<'_, Option<App>>, what: impl Fn(&Harness<'_, Option<App>>) -> bool) -> Duration {
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while !what(harness) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never came to that");
        let before = Instant::now();
        harness.step();
        longest = longest.max(before.elapsed());
        thread::sleep(Duration::from_millis(16).saturating_sub(before.elapsed()));
    }
    longest
}

fn shows(label: &'static str) -> impl Fn(&Harness<'_, Option<App>>) -> bool {
    move |harness| harness.query_all_by_label(label).next().is_some()
}

/// A model of 50 ms slowed ten times: pictures come to the screen all the same.
#[test]
fn thirty_pictures_a_second_are_drawn_while_the_model_is_slow() {
    let coach = || FakeCoach { cost: Duration::from_millis(500), ..FakeCoach::new(1, 40) };
    let mut harness = window(play(move |order| Ok(opened(order, coach(), None)), None));
    until(&mut harness, |harness| harness.state().as_ref().is_some_and(|app| app.drawn() > 0));
    let (begun, before) = (Instant::now(), harness.state().as_ref().unwrap().drawn());
    let longest = until(&mut harness, |_| begun.elapsed() >= Duration::from_secs(2));
    let drawn = harness.state().as_ref().unwrap().drawn() - before;
    let rate = drawn as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.1} pictures a second, the longest took {longest:?}");
    assert!(rate >= 30.0, "{rate}");
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

/// Opening, restarting and ending take their time elsewhere; meanwhile the window says so and goes on drawing.
#[test]
fn the_window_waits_for_nothing() {
    let slow = move |order| {
        thread::sleep(Duration::from_millis(700));
        let coach = FakeCoach { cost: Duration::from_millis(400), ..FakeCoach::new(1000, 1) };
        Ok(opened(order, coach, None))
    };
    let mut harness = window(play(slow, None));
    let mut longest = until(&mut harness, shows("Opening the camera ..."));
    longest = longest.max(until(&mut harness, shows("in view")));
    harness.key_press(Key::R);
    longest = longest.max(until(&mut harness, shows("opening ...")));
    longest = longest.max(until(&mut harness, shows("in view")));
    let asked = Instant::now();
    harness.state_mut().as_mut().unwrap().leave();
    assert!(asked.elapsed() < Duration::from_millis(50), "{:?}", asked.elapsed());
    println!("the longest picture took {longest:?}");
    assert!(longest < Duration::from_millis(200), "{longest:?}");
}

#[test]
fn what_can_not_be_opened_is_a_sentence_and_a_panic_is_one_too() {
    for panics in [false, true] {
        let fails = move |_: Order| {
            assert!(!panics, "the driver broke");
            Err(anyhow::anyhow!("the file is gone"))
        };
        let mut harness = window(play(fails, None));
        let said = if panics { "I can't begin: opening it failed inside" } else { "I can't begin: the file is gone" };
        until(&mut harness, |harness| harness.query_by_label_contains(said).is_some());
    }
}

/// From the first picture to the record on the disk, and back out of it.
#[test]
fn a_session_is_looked_back_on_exported_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let own = store.clone();
    let opener = move |order| Ok(opened(order, FakeCoach::new(8, 2), Some(&own)));
    let mut harness = window(play(opener, Some(folder.path())));
    until(&mut harness, shows("w0 w1"));
    harness.key_press(Key::E);
    until(&mut harness, shows("Session summary"));
    for (button, extension) in [("CSV", "csv"), ("SRT", "srt"), ("JSON", "jsonl")] {
        harness.get_by_label(button).click();
        until(&mut harness, |harness| harness.query_by_label_contains(&format!(".{extension}")).is_some());
        let path = folder.path().join("exports").join(format!("1970-01-01T00-00-00Z.{extension}"));
        assert!(std::fs::read_to_string(path).unwrap().contains("w0 w1"), "{extension}");
    }
    assert_eq!(store.ids().unwrap().len(), 1);
    harness.key_press(Key::V);
    until(&mut harness, shows("Delete everything ..."));
    harness.get_by_label("Delete everything ...").click();
    until(&mut harness, shows("Delete everything: the one session?"));
    harness.get_by_label("Delete").click();
    until(&mut harness, |harness| harness.query_by_label_contains("None is kept yet").is_some());
    assert!(store.ids().unwrap().is_empty());
}
