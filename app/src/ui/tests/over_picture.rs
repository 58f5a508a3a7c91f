//! What is said over the picture: how to get into it, why there is none, and what is waited for.

use super::*;
use crate::pipeline::view::cue_text;

/// Said once, and shown for as long as it is true: large, not twice, and not over the person.
#[test]
fn before_the_start_the_window_helps_into_the_picture_and_counts_down() {
    let help = "Step back, I can't see your feet.";
    let out = view(0, View::PartlyOut, Some(Missing::Feet));
    let told = Event::Feedback(Feedback {
        t_frame: s(1),
        t_ready: s(1),
        text: cue_text(View::PartlyOut, Some(Missing::Feet), "en"),
        kind: Kind::View,
    });
    for now in [1, 60] {
        let harness = harness(desk(vec![out.clone(), told.clone()], now));
        let (at, window) = (harness.get_by_label(help).rect(), harness.ctx.content_rect());
        assert!(at.height() > 60.0 && at.center().y > window.height() * 0.7, "{at:?} of {window:?}");
        assert!(harness.query_by_label_contains("I can't see all of you").is_none());
    }
    let counting = harness(desk(vec![out, told, view(4, View::Clear, None)], 5));
    let (at, window) = (counting.get_by_label("2").rect(), counting.ctx.content_rect());
    assert!(at.height() > 120.0 && at.left() > window.width() * 0.7, "{at:?} of {window:?}");
    counting.get_by_label("Get ready");
    for gone in ["Step back", "I can't see"] {
        assert!(counting.query_by_label_contains(gone).is_none(), "{gone}: the feet are there");
    }
}

#[test]
fn in_mid_session_help_gives_way_to_what_is_said() {
    let gone = view(20, View::NoPerson, None);
    let help = "I can't see you. Step into the picture.";
    let mut events = [begun(), vec![gone]].concat();
    harness(desk(events.clone(), 40)).get_by_label(help);
    let words = Feedback { t_frame: s(40), t_ready: s(40), text: "Set 2 of 3: 10 squats.".into(), kind: Kind::Program };
    events.push(Event::Feedback(words));
    let said = harness(desk(events.clone(), 41));
    said.get_by_label("Set 2 of 3: 10 squats.");
    assert!(said.query_by_label(help).is_none());
    let mut paused = desk(events, 90);
    paused.paused = true;
    assert!(harness(paused).query_by_label(help).is_none(), "nobody looks meanwhile");
}

#[test]
fn a_lost_camera_is_a_sentence_until_it_is_back() {
    for (trouble, title, help) in [
        (Trouble::Busy, "Another program is using the camera.", "Close that program, and I take over."),
        (Trouble::Missing, "I can't find the camera.", "Plug one in, or choose another in the settings."),
        (Trouble::Unplugged, "The camera is gone.", "Plug it in again, and we go on."),
        (Trouble::Frozen, "The camera stopped sending pictures.", "Check its cable."),
    ] {
        let problem = Some("camera 0: what the system says".to_owned());
        let lost = Event::Source { t: s(4), problem, trouble: Some(trouble) };
        let mut events = [begun(), vec![lost]].concat();
        let without = harness(desk(events.clone(), 5));
        for label in [title, help, "camera 0: what the system says"] {
            without.get_by_label(label);
        }
        assert!(without.query_by_label("camera on").is_none());
        events.push(Event::Source { t: s(6), problem: None, trouble: None });
        let back = harness(desk(events, 7));
        back.get_by_label("camera on");
        assert!(back.query_by_label(title).is_none());
    }
}

#[test]
fn silence_is_told_over_the_picture() {
    let mut without = desk(begun(), 5);
    without.silent = true;
    harness(without).get_by_label("no sound here: read what I say");
    let mut muted = desk(begun(), 5);
    (muted.muted, muted.silent) = (true, true);
    harness(muted).get_by_label("muted: M speaks again");
}

#[test]
fn a_pause_is_told_large() {
    let mut desk = desk(begun(), 5);
    desk.paused = true;
    let harness = harness(desk);
    harness.get_by_label("Go on");
    harness.get_by_label("Space goes on");
    assert!(harness.get_by_label("Paused").rect().height() > 80.0);
}

#[test]
fn opening_and_ending_are_told() {
    for (stage, label) in [(Stage::Opening, "Opening the camera ..."), (Stage::Ending, "Putting the session away ...")]
    {
        let mut desk = desk(Vec::new(), 0);
        desk.stage = stage;
        harness(desk).get_by_label(label);
    }
}
