//! The screens by the names that a screen reader says, without a display.

use super::{
    front::{Command, Front, Screen, World},
    state::State,
};
use crate::{
    pipeline::{
        Event,
        stats::{Monitor, Stage},
        workout::{Bout, Goal},
    },
    sessions::{Memory, Stamp, review},
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
use spotter_vision::{lens::View, pose::Missing, reps::Phase};
use std::time::Duration;

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
    over: bool,
    muted: bool,
    silent: Option<&'static str>,
    monitor: Monitor,
    asked: Vec<Command>,
}

fn desk(events: Vec<Event>, now: u64) -> Desk {
    let mut front = Front::new(Settings::default(), false);
    events.into_iter().for_each(|event| front.state.apply(event));
    Desk { front, now: s(now), over: false, muted: false, silent: None, monitor: Monitor::default(), asked: Vec::new() }
}

fn harness(desk: Desk) -> Harness<'static, Desk> {
    let draw = |ui: &mut Ui, desk: &mut Desk| {
        let world = World {
            now: desk.now,
            paused: false,
            over: desk.over,
            camera: true,
            lead_in: s(3),
            model: "spotter-mini",
            talkativeness: 0.0,
            monitor: Some(&desk.monitor),
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
    for label in ["squats", "set 2", "7 repetitions", "full range, and back", "Knees wider", "in view", "camera on"] {
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
    for label in ["planks", "set 1 of 2", "holding 12 seconds of 30"] {
        held.get_by_label(label);
    }
    let squat = Bout { exercise: Exercise::Squat, goal: Goal::Reps(10), ..bout };
    events.push(Event::Rest { t: s(30), lasts: s(20), next: squat });
    harness(desk(events.clone(), 35)).get_by_label("rest 0:15, then squats");
    events.push(Event::Set { t: s(50), bout: squat });
    events.push(Event::Rep { t: s(55), exercise: Exercise::Squat, set: 1, count: 4 });
    harness(desk(events, 55)).get_by_label("4 of 10 repetitions");
}

#[test]
fn before_the_start_the_window_helps_into_the_picture_and_counts_down() {
    let out = view(0, View::PartlyOut, Some(Missing::Feet));
    harness(desk(vec![out.clone()], 1)).get_by_label("Step back, I can't see your feet.");
    let counting = harness(desk(vec![out, view(4, View::Clear, None)], 5));
    counting.get_by_label("2");
    assert!(counting.query_by_label_contains("Step back").is_none());
}

#[test]
fn keys_do_what_the_help_says() {
    let mut harness = harness(desk(begun(), 5));
    for (key, command) in [
        (Key::Space, Command::Pause),
        (Key::E, Command::End),
        (Key::R, Command::Restart),
        (Key::M, Command::Mute(true)),
        (Key::Minus, Command::Setting("text_scale", "0.9".into())),
        (Key::Plus, Command::Setting("text_scale", "1.1".into())),
    ] {
        harness.key_press(key);
        harness.run();
        assert_eq!(harness.state_mut().asked.drain(..).collect::<Vec<_>>(), [command]);
    }
    for (key, screen, label) in [
        (Key::S, Screen::Settings, "talkativeness"),
        (Key::H, Screen::Help, "pause, or go on"),
        (Key::Escape, Screen::Coach, "in view"),
    ] {
        harness.key_press(key);
        harness.run();
        assert_eq!(harness.state().front.screen, screen);
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
    for _ in 0..12 {
        harness.key_press(Key::Tab);
        harness.run();
        let focused =
            harness.query_all_by(|node| node.is_focused()).next().and_then(|node| node.accesskit_node().label());
        reached.extend(focused);
    }
    for control in ["Pause", "End session", "Restart", "Mute", "Summary", "Settings", "Keys", "Times"] {
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
    harness.get_by_label("light").click();
    harness.run();
    assert_eq!(harness.state().asked, [Command::Setting("theme", "light".into())]);
}

#[test]
fn everything_is_deleted_only_at_the_second_press() {
    let mut harness = harness(desk(begun(), 5));
    harness.state_mut().front.kept = Some(4);
    harness.key_press(Key::S);
    harness.run();
    harness.get_by_label("4 sessions are kept on this machine");
    harness.get_by_label("no sound here");
    harness.get_by_label("Delete everything").click();
    harness.run();
    assert!(harness.state().asked.is_empty());
    harness.get_by_label_contains("press again").click();
    harness.run();
    assert_eq!(harness.state().asked, [Command::DeleteAll]);
}

/// A session as it is remembered, from its events.
fn summarised(events: &[Event]) -> Front {
    let (memory, mut lines) = Memory::begin(Stamp(0));
    for event in events {
        lines.event(event).unwrap();
    }
    let past = memory.past().unwrap();
    let now = review(&past);
    let before = vec![now.clone()];
    let mut front = Front::new(Settings::default(), false);
    (front.past, front.screen) = (Some((past, now, before)), Screen::Summary);
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
    (desk.front, desk.over) = (summarised(&events), true);
    let harness = harness(desk);
    for label in ["Session summary", "set 1", "2 reps", "1 half", "set 2", "1 reps", "squats: 3, 3"] {
        harness.get_by_label(label);
    }
    harness.get_by_label("knees caving in: 1 times, at 00:10.0");
}

#[test]
fn times_are_shown_beside_the_picture() {
    let desk = desk(begun(), 5);
    desk.monitor.time(Stage::Lens, Duration::from_millis(12));
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
        assert_eq!(asked, [Command::Setting("patches", expected.into())]);
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
fn a_lost_camera_is_a_sentence_until_it_is_back() {
    let lost = Event::Source { t: s(4), problem: Some("camera 0: it is in use by another program".into()) };
    let mut events = [begun(), vec![lost]].concat();
    let without = harness(desk(events.clone(), 5));
    without.get_by_label("No picture: camera 0: it is in use by another program. Trying again.");
    assert!(without.query_by_label("camera on").is_none());
    events.push(Event::Source { t: s(6), problem: None });
    harness(desk(events, 7)).get_by_label("camera on");
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
fn silence_has_its_reason_over_the_picture() {
    let why = "cues are shown and not spoken: there is no sound device that can be used";
    let mut without = desk(begun(), 5);
    without.silent = Some(why);
    harness(without).get_by_label(why);
    let mut muted = desk(begun(), 5);
    (muted.muted, muted.silent) = (true, Some(why));
    harness(muted).get_by_label("muted: M speaks again");
}

#[test]
fn an_empty_state_draws_too() {
    let mut desk = desk(Vec::new(), 0);
    desk.front.state = State::default();
    harness(desk).get_by_label("looking");
}
