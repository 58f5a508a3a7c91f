//! The screens by the names that a screen reader says, without a display.

use super::{
    front::{Command, Front, Screen, Stage, World, set},
    state::State,
};
use crate::{
    pipeline::{
        Event,
        stats::{self, Monitor},
        workout::{Bout, Goal},
    },
    sessions::{Format, Line, Looked, Memory, Stamp},
    settings::{Patches, Settings},
    timeline::Sink as _,
};
use eframe::egui::{Key, Rect, Ui};
use egui_kittest::{
    Harness,
    kittest::{NodeT as _, Queryable as _},
};
use spotter_datasets::synthetic::Exercise;
use spotter_engine::coach::{Attended, Feedback, Kind};
use spotter_vision::{lens::View, pose::Missing, reps::Phase, source::Trouble};
use std::time::Duration;

mod over_picture;
mod screens;
mod whole;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn said(t: u64, text: &str) -> Event {
    Event::Feedback(Feedback { t_frame: s(t), t_ready: s(t), text: text.into(), kind: Kind::Coaching })
}

fn view(t: u64, view: View, missing: Option<Missing>) -> Event {
    Event::View { t: s(t), view, missing, people: 1 }
}

/// A window that remembers what was asked for.
struct Desk {
    front: Front,
    now: Duration,
    stage: Stage,
    paused: bool,
    muted: bool,
    silent: bool,
    monitor: Monitor,
    asked: Vec<Command>,
}

fn desk(events: Vec<Event>, now: u64) -> Desk {
    let mut front = Front::new(Settings::default(), false);
    events.into_iter().for_each(|event| front.state.apply(event));
    let (stage, monitor) = (Stage::Running, Monitor::default());
    Desk { front, now: s(now), stage, paused: false, muted: false, silent: false, monitor, asked: Vec::new() }
}

fn harness(desk: Desk) -> Harness<'static, Desk> {
    let mut ready = false;
    let draw = move |ui: &mut Ui, desk: &mut Desk| {
        if !std::mem::replace(&mut ready, true) {
            super::set_up(ui.ctx());
            super::set_look(ui.ctx(), &desk.front.settings);
            return;
        }
        let world = World {
            now: desk.now,
            stage: desk.stage,
            paused: desk.paused,
            live: true,
            camera: true,
            stands_in: None,
            lead_in: s(3),
            model: "spotter-mini",
            talkativeness: 0.0,
            monitor: Some(&desk.monitor),
            drawn: 0,
            voice: "no sound here",
            muted: desk.muted,
            silent: desk.silent,
            picture: &|_: &Ui, _: Rect| {},
        };
        let asked = desk.front.ui(ui, &world);
        desk.asked.extend(asked);
    };
    let mut harness = Harness::builder().with_size([1180.0, 760.0]).build_ui_state(draw, desk);
    // ends only when nothing asks for another frame
    harness.run();
    harness
}

fn begun() -> Vec<Event> {
    vec![view(0, View::Clear, None), Event::Begun { t: s(3) }]
}

#[test]
fn the_coach_screen_says_exercise_count_phase_and_cue() {
    let mut events = begun();
    let exercise = Exercise::Squat;
    events.push(Event::Exercise { t: s(4), exercise });
    events.push(Event::Rep { t: s(6), exercise, set: 2, count: 7 });
    events.push(Event::Phase { t: s(7), exercise, phase: Phase::Turned });
    events.push(said(8, "Knees wider"));
    let harness = harness(desk(events, 8));
    for label in ["Squats", "set 2", "7 repetitions", "full range, and back", "Knees wider", "in view", "camera on"] {
        harness.get_by_label(label);
    }
    // three metres: a twelfth of the picture's height
    let cue = harness.get_by_label("Knees wider").rect();
    assert!(cue.height() > 60.0, "{cue:?}");
    let count = harness.get_by_label("7 repetitions").rect();
    assert!(count.height() > 140.0, "{count:?}");
}

#[test]
fn a_cue_goes_when_it_was_read() {
    let mut desk = desk([begun(), vec![said(8, "Knees wider")]].concat(), 8);
    desk.now = s(60);
    assert!(harness(desk).query_by_label("Knees wider").is_none());
}

#[test]
fn a_hold_has_a_timer_and_a_workout_its_goals() {
    let bout = Bout { exercise: Exercise::Plank, set: 1, of: 2, goal: Goal::Seconds(30), rest: s(20) };
    let hold = Event::Hold { t: s(20), exercise: Exercise::Plank, set: 1, lasted: s(12), over: false };
    let mut events = [begun(), vec![Event::Set { t: s(5), bout }, hold]].concat();
    let held = harness(desk(events.clone(), 20));
    for label in ["Planks", "set 1 of 2", "holding 12 seconds of 30"] {
        held.get_by_label(label);
    }
    let squat = Bout { exercise: Exercise::Squat, goal: Goal::Reps(10), ..bout };
    events.push(Event::Rest { t: s(30), lasts: s(20), next: squat });
    let resting = harness(desk(events.clone(), 35));
    resting.get_by_label("rest, then squats");
    assert!(resting.get_by_label("15 seconds left").rect().height() > 140.0);
    events.push(Event::Set { t: s(50), bout: squat });
    events.push(Event::Rep { t: s(55), exercise: Exercise::Squat, set: 1, count: 4 });
    harness(desk(events, 55)).get_by_label("4 of 10 repetitions");
}

#[test]
fn keys_do_what_the_help_says() {
    let mut harness = harness(desk(begun(), 5));
    for (key, command) in [
        (Key::Space, Command::Pause),
        (Key::E, Command::End),
        (Key::R, Command::Restart),
        (Key::M, Command::Mute(true)),
        (Key::Minus, set("text_scale", 0.9)),
        (Key::Plus, set("text_scale", 1.1)),
    ] {
        harness.key_press(key);
        harness.run();
        assert_eq!(harness.state_mut().asked.drain(..).collect::<Vec<_>>(), [command]);
    }
    for (key, screen, label) in [
        (Key::S, Screen::Settings, "talkativeness"),
        (Key::V, Screen::History, "reading ..."),
        (Key::H, Screen::Help, "pause, or go on"),
        (Key::Escape, Screen::Coach, "in view"),
    ] {
        harness.key_press(key);
        harness.run();
        assert_eq!(harness.state().front.screen, screen);
        harness.state_mut().asked.clear();
        assert!(harness.query_all_by_label(label).count() > 0, "{label}");
    }
    assert!(harness.query_by_label("stage").is_none());
    harness.key_press(Key::L);
    harness.run();
    harness.get_by_label("stage");
    assert!(harness.state().asked.is_empty());
}

#[test]
fn every_control_is_reached_by_the_keyboard() {
    let mut harness = harness(desk(begun(), 5));
    let mut reached = Vec::new();
    for _ in 0..14 {
        harness.key_press(Key::Tab);
        harness.run();
        let focused =
            harness.query_all_by(|node| node.is_focused()).next().and_then(|node| node.accesskit_node().label());
        reached.extend(focused);
    }
    for control in ["Pause", "End session", "Restart", "Mute", "Summary", "Sessions", "Settings", "Keys", "Times"] {
        assert!(reached.iter().any(|name| name == control), "{control} is not among {reached:?}");
    }
}

#[test]
fn buttons_do_what_they_say() {
    let mut harness = harness(desk(begun(), 5));
    for (label, command) in [("Pause", Command::Pause), ("End session", Command::End), ("Mute", Command::Mute(true))] {
        harness.get_by_label(label).click();
        harness.run();
        assert_eq!(harness.state_mut().asked.drain(..).collect::<Vec<_>>(), [command]);
    }
    harness.get_by_label("Settings").click();
    harness.run();
    harness.state_mut().asked.clear();
    harness.get_by_label("light").click();
    harness.run();
    assert_eq!(harness.state().asked, [set("theme", "light")]);
}

#[test]
fn everything_is_deleted_only_after_a_question() {
    let mut harness = harness(desk(begun(), 5));
    harness.state_mut().front.sessions = Some(vec![line(), line()]);
    harness.key_press(Key::S);
    harness.run();
    harness.get_by_label("2 sessions are kept on this machine");
    harness.get_by_label("no sound here");
    for (answer, asked) in [("Keep", vec![]), ("Delete", vec![Command::DeleteAll])] {
        harness.get_by_label("Delete everything ...").click();
        harness.run();
        harness.state_mut().asked.clear();
        harness.get_by_label("Delete everything: all 2 sessions?");
        // keys do nothing else meanwhile
        harness.key_press(Key::E);
        harness.run();
        harness.get_by_label(answer).click();
        harness.run();
        assert_eq!(harness.state().asked, asked);
        assert!(harness.query_by_label("Keep").is_none());
    }
}

fn line() -> Line {
    Line {
        id: "2026-01-02T10-00-00Z".into(),
        started: Stamp(1_767_348_000),
        source: "camera".into(),
        duration: 754.0,
        complete: true,
        exercises: vec![Exercise::Squat],
        reps: 31,
        held: 0.0,
        corrections: 2,
    }
}

#[test]
fn earlier_sessions_are_listed_and_looked_at() {
    let mut desk = desk(Vec::new(), 0);
    (desk.stage, desk.front.screen) = (Stage::Idle, Screen::History);
    desk.front.sessions = Some(vec![line()]);
    let mut harness = harness(desk);
    harness.get_by_label("Squats, 31 reps, 2 corrections");
    harness.get_by_label("2026-01-02 10:00   12:34").click();
    harness.run();
    assert_eq!(harness.state().asked, [Command::LookAt("2026-01-02T10-00-00Z".into())]);
    harness.state_mut().front.sessions = Some(Vec::new());
    harness.run();
    harness.get_by_label_contains("None is kept yet");
}

/// A session as it is remembered, from its events.
fn summarised(events: &[Event]) -> Front {
    let (memory, mut lines) = Memory::begin(Stamp(0));
    for event in events {
        lines.event(event).unwrap();
    }
    let now = Looked::new("x", memory.raw(), Vec::new(), true).unwrap();
    let before = vec![now.review.clone()];
    let mut front = Front::new(Settings::default(), false);
    (front.past, front.screen) = (Some(Looked { earlier: before, ..now }), Screen::Summary);
    front
}

#[test]
fn the_summary_is_that_of_the_events() {
    let exercise = Exercise::Squat;
    let rep = |t, set, count| Event::Rep { t: s(t), exercise, set, count };
    let events = [
        Event::Exercise { t: s(0), exercise },
        rep(4, 1, 1),
        rep(7, 1, 2),
        Event::HalfRep { t: s(9), exercise },
        said(10, "Knees wider, in line with your feet."),
        rep(40, 2, 1),
    ];
    let mut desk = desk(Vec::new(), 60);
    (desk.front, desk.stage) = (summarised(&events), Stage::Idle);
    let mut harness = harness(desk);
    for label in ["Session summary", "set 1", "2 reps", "1 half", "set 2", "1 rep", "squats: 3, 3"] {
        harness.get_by_label(label);
    }
    harness.get_by_label("Knees caving in: once, at 00:10.0");
    for (label, asked) in [
        ("JSON", vec![Command::Export(Format::Json)]),
        ("CSV", vec![Command::Export(Format::Csv)]),
        ("SRT", vec![Command::Export(Format::Srt)]),
        ("Train again", vec![Command::Start]),
        ("Delete this session ...", vec![]),
        ("Delete", vec![Command::Delete("x".into())]),
    ] {
        harness.get_by_label(label).click();
        harness.run();
        assert_eq!(harness.state_mut().asked.drain(..).collect::<Vec<_>>(), asked, "{label}");
    }
}

#[test]
fn a_session_is_replayed_and_each_cue_is_a_click_away() {
    let exercise = Exercise::Squat;
    let rep = |t, count| Event::Rep { t: s(t), exercise, set: 1, count };
    let events =
        [Event::Exercise { t: s(0), exercise }, rep(4, 1), said(5, "Chest up"), rep(7, 2), said(8, "Knees wider")];
    let mut desk = desk(Vec::new(), 60);
    (desk.front, desk.stage) = (summarised(&events), Stage::Idle);
    let mut harness = harness(desk);
    harness.get_by_label("Replay it").click();
    harness.run();
    assert!(harness.query_by_label_contains("repetitions").is_none(), "nothing is counted yet");
    harness.get_by_label("00:08.0  Knees wider").click();
    harness.run();
    harness.get_by_label("2 repetitions");
    harness.get_by_label("Knees wider");
    assert!((harness.state().front.rewind.at - 8.0).abs() < 0.1);
    harness.key_press(Key::ArrowLeft);
    harness.run();
    harness.get_by_label("1 repetitions");
    harness.get_by_label("Chest up");
    harness.get_by_label("Next cue").click();
    harness.run();
    assert!((harness.state().front.rewind.at - 8.0).abs() < 0.1);
}

#[test]
fn times_are_shown_beside_the_picture() {
    let desk = desk(begun(), 5);
    desk.monitor.time(stats::Stage::Lens, Duration::from_millis(12));
    let mut harness = harness(desk);
    harness.key_press(Key::L);
    harness.run();
    harness.get_by_label("frame to decision");
    harness.get_by_label("0 dropped, 0 skipped, 0 stale");
    assert_eq!(harness.query_all_by_label("12.0").count(), 2);
}

#[test]
fn patches_that_are_worked_on_are_told_and_chosen_with_a_key() {
    let mut desk = desk(begun(), 5);
    desk.front.settings.patches = Patches::Summed;
    desk.monitor.count(|c| c.observed = 1);
    // A model that skips nothing says so.
    let mut harness = harness(desk);
    harness.get_by_label_contains("it skips no tokens");
    let layers = vec![(1, vec![0, 1, 2]), (3, vec![2, 5, 6])];
    harness.state().monitor.set_attended(Some(Attended { side: 3, window: [0.0, 0.0, 1.0, 1.0], layers }));
    harness.run();
    harness.get_by_label_contains("2 layers work on 3 of 9");
    let mut press = |shown: Patches, expected: &str| {
        harness.state_mut().front.settings.patches = shown;
        harness.key_press(Key::P);
        harness.run();
        let asked: Vec<Command> = harness.state_mut().asked.drain(..).collect();
        assert_eq!(asked, [set("patches", expected)]);
    };
    press(Patches::Summed, "1");
    press(Patches::Layer(1), "3");
    press(Patches::Layer(3), "off");
    press(Patches::Off, "summed");
    harness.state_mut().front.settings.patches = Patches::Layer(3);
    harness.run();
    harness.get_by_label("patches: layer 3 works on 3 of 9");
    harness.state_mut().front.settings.patches = Patches::Off;
    harness.run();
    assert!(harness.query_by_label_contains("patches").is_none());
}

#[test]
fn a_stage_that_stopped_is_a_sentence_in_the_window() {
    let failure = crate::pipeline::Failure { stage: "capture", t: s(1), problem: "the camera is gone".into() };
    harness(desk(vec![Event::Failed(failure)], 2)).get_by_label("capture stopped: the camera is gone");
}

#[test]
fn a_running_camera_is_told_on_every_screen() {
    for screen in [Screen::Coach, Screen::Summary, Screen::Settings, Screen::Help] {
        let mut desk = desk(begun(), 5);
        desk.front.screen = screen;
        harness(desk).get_by_label("camera on");
    }
}

#[test]
fn walking_away_stops_the_clock_of_the_workout() {
    let bout = Bout { exercise: Exercise::JumpingJack, set: 1, of: 1, goal: Goal::Seconds(40), rest: s(20) };
    let next = Bout { exercise: Exercise::Squat, ..bout };
    let rep = Event::Rep { t: s(10), exercise: Exercise::JumpingJack, set: 1, count: 1 };
    let mut events = [begun(), vec![Event::Set { t: s(5), bout }, rep]].concat();
    harness(desk(events.clone(), 20)).get_by_label("30 seconds left");
    events.push(Event::Clock { t: s(22), runs: false });
    let away = harness(desk(events.clone(), 60));
    away.get_by_label("I wait for you");
    away.get_by_label("28 seconds left");
    events.push(Event::Clock { t: s(62), runs: true });
    let back = harness(desk(events.clone(), 72));
    back.get_by_label("18 seconds left");
    assert!(back.query_by_label("I wait for you").is_none());
    events.push(Event::Rest { t: s(90), lasts: s(20), next });
    events.push(Event::Clock { t: s(95), runs: false });
    harness(desk(events, 300)).get_by_label("15 seconds left");
}

/// The first words large, the rest below them.
#[test]
fn a_long_cue_begins_with_its_first_words() {
    let harness =
        harness(desk([begun(), vec![said(8, "Knees wider, and push them out in line with your feet.")]].concat(), 8));
    let first = harness.get_by_label("Knees wider").rect();
    let rest = harness.get_by_label("and push them out in line with your feet.").rect();
    assert!(first.bottom() <= rest.top() + 1.0, "{first:?}, {rest:?}");
    assert!(first.height() > 60.0, "{first:?}");
}

#[test]
fn an_empty_state_draws_too() {
    let mut desk = desk(Vec::new(), 0);
    desk.front.state = State::default();
    harness(desk).get_by_label("looking");
}
