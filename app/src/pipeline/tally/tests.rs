use super::{words::with_number, *};
use crate::pipeline::workout::{Goal, Workout};
use spotter_vision::reps::Phase;

fn tally(language: &str, exercise: Option<Exercise>) -> Tally {
    let config = Config { language: language.into(), exercise, own_count: true, ..Config::default() };
    Tally::new(&config, Arc::default(), Arc::default())
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rep(t: u64, exercise: Exercise) -> Event {
    Event::Move { t: s(t), exercise, what: Move::Excursion(Excursion::Full) }
}

fn said(t: u64, text: &str) -> Event {
    Event::Feedback(Feedback { t_frame: s(t), t_ready: s(t), text: text.into(), kind: Kind::Coaching })
}

/// `(second, set, count)` of the repetitions, and the exercises.
fn told(tally: &Tally, events: Vec<Event>) -> (Vec<(u64, u32, u32)>, Vec<Exercise>) {
    let (mut reps, mut exercises) = (Vec::new(), Vec::new());
    for event in events {
        tally.pass(event, &mut |e| match e {
            Event::Rep { t, set, count, .. } => reps.push((t.as_secs(), set, count)),
            Event::Exercise { exercise, .. } => exercises.push(exercise),
            _ => {}
        });
    }
    (reps, exercises)
}

#[test]
fn only_the_chosen_exercise_counts() {
    let tally = tally("en", Some(Exercise::Squat));
    let events = vec![
        rep(1, Exercise::Squat),
        rep(2, Exercise::Lunge),
        said(3, "Nice lunges!"),
        rep(4, Exercise::Squat),
        rep(30, Exercise::Squat),
    ];
    assert_eq!(told(&tally, events), (vec![(1, 1, 1), (4, 1, 2), (30, 2, 1)], vec![Exercise::Squat]));
}

#[test]
fn what_was_done_before_the_coach_named_it_counts_too() {
    let tally = tally("en", None);
    let events = vec![
        rep(1, Exercise::Squat),
        rep(2, Exercise::Lunge),
        rep(3, Exercise::Squat),
        said(4, "First up are squats!"),
        rep(5, Exercise::Squat),
        said(6, "Keep it up"),
        rep(7, Exercise::Lunge),
    ];
    assert_eq!(told(&tally, events), (vec![(1, 1, 1), (3, 1, 2), (5, 1, 3)], vec![Exercise::Squat]));
    let events = vec![said(8, "Next up: lunges!"), rep(9, Exercise::Lunge)];
    assert_eq!(told(&tally, events), (vec![(7, 1, 1), (9, 1, 2)], vec![Exercise::Lunge]));
}

#[test]
fn another_choice_begins_anew() {
    let tally = tally("ko", Some(Exercise::Squat));
    told(&tally, vec![rep(1, Exercise::Squat)]);
    tally.choose(Some(Exercise::PushUp));
    let events = vec![Event::Tick { t: s(3) }, rep(3, Exercise::Squat), rep(4, Exercise::PushUp)];
    assert_eq!(told(&tally, events), (vec![(4, 1, 1)], vec![Exercise::PushUp]));
}

#[test]
fn what_waits_for_a_name_is_bounded() {
    let tally = tally("en", None);
    told(&tally, (0..2000).map(|t| rep(t, Exercise::Squat)).collect());
    assert_eq!(tally.inner.lock().unwrap().pending.len(), PENDING);
}

#[test]
fn a_workout_says_what_counts() {
    let squat = Bout { exercise: Exercise::Squat, set: 1, of: 2, goal: Goal::Reps(2), rest: s(10) };
    let bouts = vec![squat, Bout { set: 2, ..squat }, Bout { exercise: Exercise::PushUp, of: 1, ..squat }];
    let config = Config { workout: Some(Workout { name: "x".into(), bouts }), ..Config::default() };
    let tally = Tally::new(&config, Arc::default(), Arc::default());
    let mut said = Vec::new();
    let mut feed = |event| {
        tally.pass(event, &mut |e| match e {
            Event::Rep { t, exercise, set, count } => said.push(format!("{} {exercise:?} {set}.{count}", t.as_secs())),
            Event::Feedback(f) if f.kind == Kind::Program => said.push(f.text),
            Event::Finished { .. } => said.push("finished".into()),
            _ => {}
        });
    };
    feed(Event::Begun { t: s(0) });
    for (t, exercise) in [(1, Exercise::Squat), (2, Exercise::PushUp), (3, Exercise::Squat), (5, Exercise::Squat)] {
        feed(rep(t, exercise));
    }
    feed(Event::Tick { t: s(13) });
    feed(rep(14, Exercise::Squat));
    feed(rep(15, Exercise::Squat));
    feed(Event::Tick { t: s(25) });
    feed(rep(26, Exercise::PushUp));
    feed(rep(27, Exercise::PushUp));
    assert_eq!(
        said,
        [
            "Set 1 of 2: 2 squats.",
            "1 Squat 1.1",
            "3 Squat 1.2",
            "Rest 10 seconds. Next: squats.",
            "Set 2 of 2: 2 squats.",
            "14 Squat 2.1",
            "15 Squat 2.2",
            "Rest 10 seconds. Next: push-ups.",
            "Set 1 of 1: 2 push-ups.",
            "26 PushUp 1.1",
            "27 PushUp 1.2",
            "finished",
            "That's the workout. Well done!",
        ]
    );
}

#[test]
fn the_coach_does_not_count_against_the_poses() {
    let tally = tally("en", Some(Exercise::Squat));
    let mut said_words = Vec::new();
    let mut feed = |event| {
        tally.pass(event, &mut |e| {
            if let Event::Feedback(f) = e {
                said_words.push(f.text);
            }
        });
    };
    feed(said(1, "That's 6."));
    feed(rep(2, Exercise::Squat));
    feed(rep(3, Exercise::Squat));
    for text in ["That's 6.", "2, nice.", "That's 3.", "Knees wider, in line with your feet."] {
        feed(said(4, text));
    }
    let expected = ["That's 6.", "That's 2.", "2, nice.", "That's 3.", "Knees wider, in line with your feet."];
    assert_eq!(said_words, expected);
    assert_eq!(tally.inner.lock().unwrap().monitor.counts().miscounted, 1);
}

/// While nobody has named the exercise, the joints have counted all of them.
#[test]
fn counts_before_an_exercise_is_named_are_those_of_the_joints() {
    let tally = tally("en", None);
    let mut said_words = Vec::new();
    let mut feed = |event| {
        tally.pass(event, &mut |e| {
            if let Event::Feedback(f) = e {
                said_words.push(f.text);
            }
        });
    };
    feed(said(1, "That's 3."));
    feed(Event::Move { t: s(1), exercise: Exercise::PushUp, what: Move::Phase(Phase::Out) });
    feed(said(2, "That's 3."));
    for t in 2..6 {
        feed(rep(t, Exercise::PushUp));
    }
    feed(rep(5, Exercise::Boxing));
    for text in ["6 done.", "5, nice.", "12 reps."] {
        feed(said(6, text));
    }
    // Nobody is followed at first; then somebody is, who has done nothing yet.
    assert_eq!(said_words, ["That's 3.", "4 done.", "5, nice.", "4 reps."]);
    assert_eq!(tally.inner.lock().unwrap().monitor.counts().miscounted, 3);
}

#[test]
fn a_number_is_replaced_as_a_whole() {
    assert_eq!(with_number("That's 6.", 6, 4).as_deref(), Some("That's 4."));
    assert_eq!(with_number("16 of 6", 6, 4).as_deref(), Some("16 of 4"));
    assert_eq!(with_number("좋아요, 6회", 6, 4).as_deref(), Some("좋아요, 4회"));
    assert_eq!(with_number("six", 6, 4), None);
}

/// What a workout of one timed set and one of repetitions tells, with `(second, view)` changes on the way.
fn clocked(views: &[(u64, View)], until: u64) -> Vec<String> {
    let jacks = Bout { exercise: Exercise::JumpingJack, set: 1, of: 1, goal: Goal::Seconds(10), rest: s(20) };
    let squats = Bout { exercise: Exercise::Squat, goal: Goal::Reps(1), ..jacks };
    let workout = Some(Workout { name: "x".into(), bouts: vec![jacks, squats] });
    let tally = Tally::new(&Config { workout, ..Config::default() }, Arc::default(), Arc::default());
    let mut told = Vec::new();
    let mut feed = |event| {
        tally.pass(event, &mut |e| match e {
            Event::Set { t, bout } => told.push(format!("{} set of {:?}", t.as_secs(), bout.exercise)),
            Event::Rest { t, .. } => told.push(format!("{} rest", t.as_secs())),
            Event::Clock { t, runs } => told.push(format!("{} {}", t.as_secs(), if runs { "runs" } else { "stands" })),
            _ => {}
        });
    };
    feed(Event::Begun { t: s(0) });
    for t in 1..=until {
        for (_, view) in views.iter().filter(|(at, _)| *at == t) {
            feed(Event::View { t: s(t), view: *view, missing: None, people: 1 });
        }
        if t == 2 {
            feed(rep(t, Exercise::JumpingJack));
        }
        feed(Event::Tick { t: s(t) });
    }
    told
}

#[test]
fn the_clock_of_a_workout_stands_still_while_nobody_is_there() {
    let straight = ["0 set of JumpingJack", "12 rest", "32 set of Squat"];
    assert_eq!(clocked(&[], 40), straight);
    // away for 50 seconds of the set, then for 30 of the rest
    let views = [(5, View::NoPerson), (55, View::Clear), (70, View::NoPerson), (100, View::Clear)];
    let expected =
        ["0 set of JumpingJack", "5 stands", "55 runs", "62 rest", "70 stands", "100 runs", "112 set of Squat"];
    assert_eq!(clocked(&views, 130), expected);
}

#[test]
fn in_a_rest_it_is_enough_to_be_there() {
    let views = [(5, View::PartlyOut), (8, View::Clear), (16, View::PartlyOut)];
    let expected = ["0 set of JumpingJack", "5 stands", "8 runs", "15 rest", "35 set of Squat", "36 stands"];
    assert_eq!(clocked(&views, 40), expected);
}

/// Words that the tally passes on or says, with a rep each two seconds and a coach that names what it sees.
fn spaced(sees: impl Fn(u64) -> Option<&'static str>) -> (Vec<(u64, String)>, u64) {
    let config = Config {
        exercise: Some(Exercise::Squat),
        spaced: true,
        cooldown: Duration::from_millis(1500),
        ..Config::default()
    };
    let tally = Tally::new(&config, Arc::default(), Arc::default());
    let mut words = Vec::new();
    let mut feed = |event| {
        tally.pass(event, &mut |e| {
            if let Event::Feedback(f) = e {
                words.push((f.t_ready.as_secs(), f.text));
            }
        });
    };
    for t in 0..40 {
        if t % 2 == 0 {
            feed(rep(t, Exercise::Squat));
        } else if let Some(text) = sees(t) {
            feed(said(t, text));
        }
        feed(Event::Tick { t: s(t) });
    }
    let repeated = tally.inner.lock().unwrap().monitor.counts().repeated;
    (words, repeated)
}

#[test]
fn corrections_are_spaced_and_a_mistake_that_is_gone_is_praised() {
    const KNEES: &str = "Knees wider, in line with your feet.";
    let (words, repeated) = spaced(|_| Some(KNEES));
    let times: Vec<u64> = words.iter().map(|(t, _)| *t).collect();
    assert_eq!(times, [1, 9, 17], "each fourth repetition, at most three times: {words:?}");
    assert_eq!(repeated, 17);
    let (words, _) = spaced(|t| (t < 4).then_some(KNEES));
    assert_eq!(words.len(), 2, "{words:?}");
    let said = phrases::classify(&words[1].1, Lang::En);
    assert_eq!((words[1].0, said.kind, said.mistake), (18, SaidKind::Fixed, Some(Mistake::KneesIn)), "{words:?}");
}

#[test]
fn praise_keeps_its_distance_from_other_words() {
    let (words, _) = spaced(|t| match t {
        1 => Some("Knees wider, in line with your feet."),
        17 => Some("Looking good, keep it up."),
        _ => None,
    });
    let times: Vec<u64> = words.iter().map(|(t, _)| *t).collect();
    // the mistake is gone at sixteen seconds; said at once, or after the cooldown
    assert_eq!(times, [1, 16, 17], "{words:?}");
}
