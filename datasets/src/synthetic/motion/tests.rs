use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use spotter_vision::body::{Joint, distance};

use super::*;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

const BONES: [(Joint, Joint); 12] = [
    (Joint::LeftShoulder, Joint::RightShoulder),
    (Joint::LeftHip, Joint::RightHip),
    (Joint::LeftShoulder, Joint::LeftElbow),
    (Joint::RightShoulder, Joint::RightElbow),
    (Joint::LeftElbow, Joint::LeftWrist),
    (Joint::RightElbow, Joint::RightWrist),
    (Joint::LeftHip, Joint::LeftKnee),
    (Joint::RightHip, Joint::RightKnee),
    (Joint::LeftKnee, Joint::LeftAnkle),
    (Joint::RightKnee, Joint::RightAnkle),
    (Joint::LeftAnkle, Joint::LeftToe),
    (Joint::RightAnkle, Joint::RightToe),
];

fn lengths(p: &Posture) -> Vec<f32> {
    BONES.iter().map(|&(a, b)| distance(p[a as usize], p[b as usize])).collect()
}

fn assert_sound(name: &str, postures: &[Posture], first: &[f32]) {
    for (i, posture) in postures.iter().enumerate() {
        for (length, want) in lengths(posture).iter().zip(first) {
            assert!((length - want).abs() < 0.004, "{name}, posture {i}: a bone is {length} m instead of {want} m");
        }
        for (j, joint) in posture.iter().enumerate() {
            assert!(joint.iter().all(|v| v.is_finite()), "{name}, posture {i}, joint {j}: {joint:?}");
            assert!(joint[2] > -0.03, "{name}, posture {i}, joint {j} is {} m below the floor", -joint[2]);
        }
    }
}

/// Largest way of a joint between two postures, in metres.
fn largest_jump(postures: &[Posture]) -> (f32, usize) {
    let jump =
        |(i, w): (usize, &[Posture])| (w[0].iter().zip(&w[1]).map(|(&a, &b)| distance(a, b)).fold(0.0, f32::max), i);
    postures.windows(2).enumerate().map(jump).fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a })
}

#[test]
fn bones_keep_their_lengths_and_nothing_sinks_into_the_floor() {
    for (i, exercise) in Exercise::ALL.into_iter().enumerate() {
        for seed in 0..12 {
            let rng = &mut rng(100 * i as u64 + seed);
            let person = Person::random(rng);
            let take = take(exercise, &person, &Style::clean().varied(exercise, rng), 3, rng);
            assert_sound(&format!("{exercise:?} {seed}"), &take.postures, &lengths(&take.postures[0]));
        }
    }
}

#[test]
fn motion_is_smooth() {
    for (i, exercise) in Exercise::ALL.into_iter().enumerate() {
        for seed in 0..12 {
            let rng = &mut rng(100 * i as u64 + seed);
            let person = Person::random(rng);
            let take = take(exercise, &person, &Style::clean().varied(exercise, rng), 4, rng);
            let (jump, at) = largest_jump(&take.postures);
            // A fast punch is about 7 m/s.
            assert!(jump < 0.33, "{exercise:?} {seed}: a joint jumps {jump} m at {at} of {}", take.postures.len());
        }
    }
}

#[test]
fn repetitions_are_as_many_as_asked_and_in_order() {
    for exercise in Exercise::ALL {
        let rng = &mut rng(7);
        let take = take(exercise, &Person::random(rng), &Style::clean(), 5, rng);
        assert_eq!(take.reps.len(), 5);
        let mut last = 0;
        for rep in &take.reps {
            assert!(last <= rep.start && rep.start < rep.peak && rep.peak < rep.end, "{exercise:?}: {rep:?}");
            last = rep.end;
        }
        assert!(last <= take.postures.len());
    }
}

/// Share of repetitions that `judge` accepts.
fn share(exercise: Exercise, style: impl Fn(&mut ChaCha8Rng) -> Style, judge: impl Fn(&[Mistake]) -> bool) -> f32 {
    let (mut good, mut all) = (0, 0);
    for seed in 0..60 {
        let rng = &mut rng(seed);
        let person = Person::random(rng);
        let style = style(rng);
        for rep in take(exercise, &person, &style, 4, rng).reps {
            good += usize::from(judge(&rep.mistakes));
            all += 1;
        }
    }
    good as f32 / all as f32
}

#[test]
fn no_mistake_is_measured_where_none_is_made() {
    let mut failed = Vec::new();
    for exercise in Exercise::ALL {
        for &mistake in exercise.mistakes() {
            let ok = share(exercise, |rng| Style::clean().varied(exercise, rng), |m| !m.contains(&mistake));
            if ok < 0.95 {
                failed.push(format!("{exercise:?} {mistake:?}: {ok}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn each_mistake_is_measured_where_it_is_made() {
    let mut failed = Vec::new();
    for exercise in Exercise::ALL {
        for &mistake in exercise.mistakes() {
            let style = |rng: &mut ChaCha8Rng| Style::with(mistake, 1.0).varied(exercise, rng);
            let found = share(exercise, style, |m| m.contains(&mistake));
            let only = share(exercise, style, |m| m.iter().all(|&other| other == mistake));
            if found < 0.95 || only < 0.9 {
                failed.push(format!("{exercise:?} {mistake:?}: found {found}, alone {only}"));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn mistakes_keep_to_their_repetitions() {
    let fault = Fault { mistake: Mistake::HalfRange, severity: 1.0, from: 2, to: 4 };
    let style = Style { faults: vec![fault], ..Style::clean() };
    for seed in 0..20 {
        let rng = &mut rng(seed);
        let take = take(Exercise::Squat, &Person::random(rng), &style, 6, rng);
        let shallow: Vec<_> = take.reps.iter().map(|r| r.mistakes.contains(&Mistake::HalfRange)).collect();
        assert_eq!(shallow, [false, false, true, true, false, false]);
    }
}

#[test]
fn the_same_seed_gives_the_same_take() {
    let make = |seed| {
        let rng = &mut rng(seed);
        let person = Person::random(rng);
        take(Exercise::Lunge, &person, &Style::clean(), 3, rng).postures
    };
    assert_eq!(make(3), make(3));
    assert_ne!(make(3), make(4));
}

#[test]
fn transitions_join_every_exercise_without_jumps() {
    let rng = &mut rng(11);
    let person = Person::random(rng);
    let standing = rest(&person, 4.0, rng);
    assert_sound("rest", &standing, &lengths(&standing[0]));
    for exercise in Exercise::ALL {
        let take = take(exercise, &person, &Style::clean().varied(exercise, rng), 1, rng);
        for (from, to) in [(standing[0], take.postures[0]), (take.postures[0], standing[0])] {
            let mut way = vec![from];
            way.extend(transition(&from, &to, 2.5));
            way.push(to);
            assert_sound(&format!("transition of {exercise:?}"), &way, &lengths(&from));
            let (jump, at) = largest_jump(&way);
            assert!(jump < 0.25, "{exercise:?}: {jump} m at {at} of {}", way.len());
        }
    }
}
