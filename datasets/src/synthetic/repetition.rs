//! How the repetitions of each exercise are told from the joints that a camera sees.
//!
//! The upper thresholds lie between what full and half repetitions of synthetic people reach, seen through synthetic
//! cameras and pose errors; the tests here hold them to it.

use super::exercise::Exercise;
use spotter_vision::reps::{Posture, Rule, Signal};
use std::time::Duration;

/// The rule of an exercise; `None` for one that is held.
pub fn rule(exercise: Exercise) -> Option<Rule> {
    use Posture::{Any, Floor, Upright};
    let (signal, low, high, posture, shortest_ms) = match exercise {
        Exercise::Squat => (Signal::Knees, 42.0, 88.0, Upright, 500),
        Exercise::Lunge => (Signal::Knees, 40.0, 83.0, Upright, 500),
        Exercise::SideLunge => (Signal::OneKnee, 42.0, 68.0, Upright, 500),
        Exercise::SitToStand => (Signal::KneesStraight, 112.0, 148.0, Upright, 500),
        Exercise::JumpingJack => (Signal::Arms, 45.0, 108.0, Upright, 300),
        Exercise::LateralRaise => (Signal::Arms, 35.0, 70.0, Upright, 400),
        Exercise::ArmCircles => (Signal::Arms, 80.0, 102.0, Upright, 250),
        Exercise::HighKnees => (Signal::Hip, 42.0, 56.0, Upright, 120),
        Exercise::HurdleStep => (Signal::Hip, 32.0, 57.0, Upright, 600),
        Exercise::LegRaise => (Signal::Hip, 28.0, 48.0, Upright, 700),
        Exercise::MountainClimber => (Signal::Hip, 55.0, 100.0, Floor, 200),
        Exercise::Boxing => (Signal::Punch, 64.0, 88.0, Upright, 120),
        Exercise::ToeTouch => (Signal::Reach, 30.0, 70.0, Any, 500),
        Exercise::SideBend => (Signal::SideBend, 11.0, 22.0, Upright, 500),
        Exercise::ShoulderRotation => (Signal::Forearms, 22.0, 68.0, Upright, 400),
        Exercise::PushUp => (Signal::Elbows, 55.0, 100.0, Floor, 400),
        Exercise::SitUp => (Signal::TrunkRise, 30.0, 61.0, Any, 500),
        Exercise::Plank => return None,
    };
    Some(Rule { signal, low, high, posture, shortest: Duration::from_millis(shortest_ms) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{
        Mistake,
        camera::{Camera, PoseNoise},
        exercise::{FPS, Posture as Joints},
        motion::{Person, Style, rest, take},
    };
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use spotter_vision::{
        Body,
        reps::{Counter, Excursion, Hold, HoldTimer},
    };

    /// Repetitions of a set.
    const REPS: usize = 8;
    const SETS: u64 = 40;

    /// What a pose estimator says of a motion, at the eight frames a second that the coach looks at.
    fn seen(postures: &[Joints], rng: &mut ChaCha8Rng) -> Vec<(Duration, Body)> {
        let (camera, mut noise) = (Camera::random(rng), PoseNoise::random(rng));
        let at = |(i, p): (usize, &Joints)| {
            let t = i as f64 / f64::from(FPS);
            (Duration::from_secs_f64(t), noise.corrupt(t, &camera.project(p)))
        };
        postures.iter().enumerate().map(at).step_by(3).collect()
    }

    fn excursions(exercise: Exercise, bodies: &[(Duration, Body)]) -> [usize; 2] {
        let mut counter = Counter::new(rule(exercise).unwrap());
        let mut counts = [0; 2];
        for (t, body) in bodies {
            match counter.update(*t, body) {
                Some(Excursion::Full) => counts[0] += 1,
                Some(Excursion::Half) => counts[1] += 1,
                None => {}
            }
        }
        counts
    }

    /// Full and half repetitions counted in each set, one more at rest after it so that the last one ends.
    fn sets(exercise: Exercise, style: impl Fn() -> Style) -> Vec<[usize; 2]> {
        let one = |seed| {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let person = Person::random(rng);
            let style = style().varied(exercise, rng);
            let mut postures = take(exercise, &person, &style, REPS, rng).postures;
            postures.extend(std::iter::repeat_n(postures[0], 24));
            excursions(exercise, &seen(&postures, rng))
        };
        (0..SETS).map(one).collect()
    }

    fn counted() -> impl Iterator<Item = Exercise> {
        Exercise::ALL.into_iter().filter(|e| !e.is_hold())
    }

    #[test]
    fn full_repetitions_are_counted() {
        let mut failed = Vec::new();
        for exercise in counted() {
            let sets = sets(exercise, Style::clean);
            let off = |n: usize| n.abs_diff(REPS);
            let error = sets.iter().map(|s| off(s[0])).sum::<usize>() as f32 / sets.len() as f32;
            let close = sets.iter().filter(|s| off(s[0]) <= 1).count() as f32 / sets.len() as f32;
            println!("{exercise:?}: mean error {error:.2} of {REPS}, off by at most one {close:.2}");
            if close < 0.9 || error > 0.6 {
                failed.push(exercise);
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn half_repetitions_are_not_counted() {
        let mut failed = Vec::new();
        for exercise in counted().filter(|e| e.mistakes().contains(&Mistake::HalfRange)) {
            let sets = sets(exercise, || Style::with(Mistake::HalfRange, 1.0));
            let all = (sets.len() * REPS) as f32;
            let counted = sets.iter().map(|s| s[0]).sum::<usize>() as f32 / all;
            let noticed = sets.iter().map(|s| s[1]).sum::<usize>() as f32 / all;
            println!("{exercise:?}: {counted:.3} of half repetitions counted, {noticed:.3} noticed as such");
            if counted > 0.15 {
                failed.push(exercise);
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    }

    /// Standing still, and standing about as people do between sets: shifting weight, drinking, a few steps. Steps lift
    /// the legs, which only the surroundings could tell from lifting them for the exercise.
    #[test]
    fn who_rests_does_no_repetitions() {
        let by_steps = [Exercise::HighKnees, Exercise::HurdleStep, Exercise::LegRaise, Exercise::SideLunge];
        let (mut still, mut about, mut stepping) = (0, 0, 0);
        for seed in 0..20 {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let person = Person::random(rng);
            let moving = rest(&person, 60.0, rng);
            let frozen = vec![moving[0]; moving.len()];
            let (frozen, moving) = (seen(&frozen, rng), seen(&moving, rng));
            for exercise in counted() {
                still += excursions(exercise, &frozen)[0];
                let n = excursions(exercise, &moving)[0];
                *if by_steps.contains(&exercise) { &mut stepping } else { &mut about } += n;
            }
        }
        println!("20 minutes: {still} still, {about} standing about, {stepping} more by steps, over all exercises");
        assert_eq!(still, 0);
        assert!(about <= 80, "{about}");
    }

    #[test]
    fn planks_are_timed_and_nothing_else_is() {
        let mut worst = 0.0_f32;
        for seed in 0..40 {
            let rng = &mut ChaCha8Rng::seed_from_u64(seed);
            let person = Person::random(rng);
            for exercise in [Exercise::Plank, Exercise::SitUp, Exercise::Squat] {
                let style = Style::clean().varied(exercise, rng);
                let postures = take(exercise, &person, &style, 10, rng).postures;
                let seconds = postures.len() as f32 / FPS;
                let mut timer = HoldTimer::default();
                let mut longest = Duration::ZERO;
                for (t, body) in seen(&postures, rng) {
                    if let Hold::Held(d) | Hold::Over(d) = timer.update(t, Some(&body)) {
                        longest = longest.max(d);
                    }
                }
                let held = longest.as_secs_f32();
                match exercise {
                    Exercise::Plank => worst = worst.max(seconds - held),
                    _ => assert!(held < 2.0, "{exercise:?} {seed}: {held} s"),
                }
            }
        }
        println!("planks: at worst {worst:.2} s of 20 s not counted");
        assert!(worst < 2.0, "{worst}");
    }
}
