//! The first screen, the settings, and every screen in each language, theme and size.

use super::*;
use crate::{cli::Language, settings::Theme, ui::front::Listed};
use spotter_vision::source::camera::CameraEntry;

fn at_home() -> Desk {
    let mut desk = desk(Vec::new(), 0);
    (desk.stage, desk.front.screen) = (Stage::Idle, Screen::Home);
    desk.front.cameras = Some(Ok(vec![CameraEntry { index: Some(0), name: "Webcam".into() }]));
    let about = Ok("squats: 3 sets, about 4 min".to_owned());
    desk.front.workouts = vec![Listed { path: "/w/legs.toml".into(), name: "legs".into(), about }];
    desk
}

#[test]
fn the_first_screen_asks_what_to_do() {
    let mut harness = harness(at_home());
    harness.get_by_label("What shall we do?");
    harness.get_by_label("squats: 3 sets, about 4 min");
    for (label, exercise, workout) in
        [("Squats", "squats", ""), ("Legs", "", "/w/legs.toml"), ("Anything: I recognise what you do", "", "")]
    {
        harness.get_by_label(label).click();
        harness.run();
        let expected = Command::Set(vec![("exercise", exercise.to_owned()), ("workout", workout.to_owned())]);
        assert_eq!(harness.state_mut().asked.drain(..).collect::<Vec<_>>(), [expected]);
    }
    harness.get_by_label("Start").click();
    harness.run();
    harness.key_press(Key::Escape);
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    assert_eq!(harness.state().asked, [Command::Start, Command::Start]);
}

#[test]
fn the_first_screen_says_what_is_missing() {
    let mut desk = at_home();
    (desk.front.cameras, desk.silent) = (Some(Ok(Vec::new())), true);
    desk.front.settings.workout = Some("/mine/odd.toml".into());
    let harness = harness(desk);
    harness.get_by_label_contains("No camera was found");
    harness.get_by_label("no sound here: read what I say");
    harness.get_by_label("/mine/odd.toml");
    assert!(harness.query_by_label("camera on").is_none(), "it does not run yet");
}

#[test]
fn settings_of_the_camera_and_the_coach_are_set() {
    let mut desk = at_home();
    desk.front.screen = Screen::Settings;
    let mut harness = harness(desk);
    harness.get_by_label("size of the picture").click();
    harness.run();
    harness.get_by_label("1280x720").click();
    harness.run();
    harness.get_by_label("한국어").click();
    harness.run();
    harness.get_by_label("show it as a mirror does").click();
    harness.run();
    harness.get_by_label("speak aloud").click();
    harness.run();
    let expected = [set("resolution", "1280x720"), set("lang", "ko"), set("mirror", false), set("voice", false)];
    assert_eq!(harness.state().asked, expected);
    for label in ["talkativeness", "seconds between two cues", "volume", "text size", "camera"] {
        assert!(harness.query_all_by_label(label).count() > 0, "{label}");
    }
}

/// Each screen in each language, theme and size: it comes to rest, and every letter of it can be drawn.
#[test]
fn every_screen_draws_in_both_languages_themes_and_sizes() {
    let screens =
        [Screen::Home, Screen::Coach, Screen::Summary, Screen::Rewind, Screen::History, Screen::Settings, Screen::Help];
    let events = [
        Event::Exercise { t: s(0), exercise: Exercise::Squat },
        Event::Rep { t: s(4), exercise: Exercise::Squat, set: 1, count: 1 },
        said(10, "Knees wider, in line with your feet."),
    ];
    for (lang, theme, scale) in
        [(Language::En, Theme::Light, 1.0), (Language::Ko, Theme::Dark, 1.0), (Language::Ko, Theme::Light, 2.0)]
    {
        for screen in screens {
            let mut desk = desk([begun(), events.to_vec()].concat(), 11);
            let home = at_home().front;
            desk.front.past = summarised(&events).past;
            (desk.front.cameras, desk.front.workouts) = (home.cameras, home.workouts);
            (desk.front.sessions, desk.front.screen) = (Some(vec![line()]), screen);
            desk.front.settings = Settings { lang, theme, text_scale: scale, ..Settings::default() };
            let harness = harness(desk);
            // a letter that no font has ends a test here
            assert!(harness.query_all_by(|node| node.label().is_some()).count() > 5, "{screen:?} is empty");
            // what lies below can be scrolled to; nothing may lie beside the window
            let window = harness.ctx.content_rect();
            for node in harness.query_all_by(|node| node.label().is_some()) {
                let (at, label) = (node.rect(), node.accesskit_node().label());
                let inside = at.left() >= -1.0 && at.right() <= window.right() + 1.0;
                assert!(inside, "{label:?} of {screen:?} in {lang:?} at {scale}: {at:?}, {window:?}");
            }
        }
    }
}
