use super::*;
use crate::synthetic::{Rep, phrases::classify};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use spotter_vision::body::JOINTS;

/// A take of repetitions of the given lengths in seconds and mistakes.
fn take(exercise: Exercise, reps: &[(f32, &[Mistake])]) -> Take {
    let mut at = 0;
    let reps: Vec<Rep> = reps
        .iter()
        .map(|(seconds, mistakes)| {
            let frames = (seconds * FPS) as usize;
            let start = at;
            at += frames;
            Rep { start, peak: start + frames / 2, end: at, mistakes: mistakes.to_vec() }
        })
        .collect();
    Take { exercise, postures: vec![[[0.0; 3]; JOINTS]; at], reps }
}

fn say(takes: &[Take]) -> Vec<Event> {
    let mut at = 1.0;
    let mut timeline = Vec::new();
    for take in takes {
        timeline.push(Placed { announced: at, start: at + 1.0, take });
        at = timeline[timeline.len() - 1].end() + 4.0;
    }
    script(&timeline, at, Lang::En, &mut ChaCha8Rng::seed_from_u64(3), &ScriptOptions::default())
}

fn coach(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| !e.is_transition).collect()
}

const CAVE: &[Mistake] = &[Mistake::KneesIn];

fn varied() -> Vec<Take> {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut make = |exercise, seconds: f32, n: usize| {
        let reps: Vec<(f32, &[Mistake])> = (0..n)
            .map(|i| (seconds * (0.8 + 0.4 * rng.random::<f32>()), if (i / 4) % 2 == 1 { CAVE } else { &[][..] }))
            .collect();
        take(exercise, &reps)
    };
    vec![
        make(Exercise::Squat, 2.6, 11),
        make(Exercise::Boxing, 0.6, 50),
        make(Exercise::Plank, 2.0, 15),
        make(Exercise::JumpingJack, 1.1, 25),
        make(Exercise::PushUp, 3.4, 9),
    ]
}

#[test]
fn a_set_is_named_counted_and_closed() {
    let clean: Vec<(f32, &[Mistake])> = vec![(2.5, &[]); 8];
    let events = say(&[take(Exercise::Squat, &clean)]);
    let kinds: Vec<(SaidKind, Option<u32>, bool)> = events.iter().map(|e| (e.kind, e.count, e.is_transition)).collect();
    assert_eq!(
        kinds,
        [
            (SaidKind::Start, None, true),
            (SaidKind::Start, None, false),
            (SaidKind::Count, Some(2), false),
            (SaidKind::Count, Some(4), false),
            (SaidKind::Count, Some(6), false),
            (SaidKind::Count, Some(8), false),
            (SaidKind::Closing, None, false),
            (SaidKind::Closing, None, true),
        ]
    );
    assert!((events[1].t - 2.0 - 2.2 - 0.3).abs() <= 0.1, "{}", events[1].t);
    assert_eq!(events[0].text, "First up are squats!");
}

#[test]
fn a_mistake_that_persists_is_corrected_then_confirmed() {
    let reps: Vec<(f32, &[Mistake])> =
        vec![(2.5, &[]), (2.5, CAVE), (2.5, &[]), (2.5, CAVE), (2.5, CAVE), (2.5, &[]), (2.5, &[]), (2.5, &[])];
    let events = say(&[take(Exercise::Squat, &reps)]);
    let about: Vec<&Event> = events.iter().filter(|e| e.mistake.is_some()).collect();
    assert_eq!(about.len(), 2, "{events:#?}");
    assert_eq!(about[0].kind, SaidKind::Correction);
    // At the end of the fifth repetition, the second faulty one in a row.
    assert!((0.2..=0.4).contains(&(about[0].t - (2.0 + 5.0 * 2.5))), "{}", about[0].t);
    assert_eq!(about[1].kind, SaidKind::Fixed);
    assert!((0.2..=0.4).contains(&(about[1].t - (2.0 + 7.0 * 2.5))), "{}", about[1].t);
}

#[test]
fn a_mistake_that_stays_is_not_nagged_about() {
    let reps: Vec<(f32, &[Mistake])> = vec![(2.0, CAVE); 16];
    let times: Vec<f64> =
        say(&[take(Exercise::Squat, &reps)]).iter().filter(|e| e.kind == SaidKind::Correction).map(|e| e.t).collect();
    assert!(times.len() >= 2, "{times:?}");
    assert!(times.windows(2).all(|w| w[1] - w[0] >= 9.5), "{times:?}");
}

#[test]
fn utterances_keep_their_distance_and_answer_a_cause() {
    let takes = varied();
    let events = say(&takes);
    let spoken = coach(&events);
    assert!(spoken.windows(2).all(|w| w[1].t - w[0].t >= 2.5 - 1e-9));
    assert!(events.windows(2).all(|w| w[0].t <= w[1].t));
    for event in &spoken {
        let said = classify(&event.text, Lang::En);
        assert_eq!((said.kind, said.mistake, said.count), (event.kind, event.mistake, event.count), "{event:?}");
    }
    for kind in [SaidKind::Start, SaidKind::Count, SaidKind::Correction, SaidKind::Fixed, SaidKind::Closing] {
        assert!(spoken.iter().any(|e| e.kind == kind), "no {kind:?}");
    }
}

#[test]
fn what_comes_later_changes_nothing_said_before() {
    let takes = varied();
    let whole = say(&takes);
    let end = whole.last().map_or(0.0, |e| e.t);
    let mut timeline = Vec::new();
    let mut at = 1.0;
    for take in &takes {
        timeline.push((at, at + 1.0));
        at += 1.0 + take.postures.len() as f64 / f64::from(FPS) + 4.0;
    }
    for step in 1..120 {
        let cut = end * f64::from(step) / 120.0;
        let shortened: Vec<(f64, f64, Take)> = timeline
            .iter()
            .zip(&takes)
            .filter(|((announced, _), _)| *announced < cut)
            .map(|((announced, start), take)| {
                let mut take = take.clone();
                let frames = ((cut - start).max(0.0) * f64::from(FPS)) as usize;
                take.postures.truncate(frames);
                take.reps.retain(|rep| rep.end <= frames);
                (*announced, *start, take)
            })
            .collect();
        let placed: Vec<Placed<'_>> = shortened
            .iter()
            .map(|(announced, start, take)| Placed { announced: *announced, start: *start, take })
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let events = script(&placed, end, Lang::En, &mut rng, &ScriptOptions::default());
        let before = |events: &[Event]| events.iter().filter(|e| e.t < cut).cloned().collect::<Vec<_>>();
        assert_eq!(before(&events), before(&whole), "cut at {cut}");
    }
}

#[test]
fn a_hold_is_counted_in_seconds() {
    let reps: Vec<(f32, &[Mistake])> = vec![(2.0, &[]); 16];
    let counts: Vec<Option<u32>> =
        say(&[take(Exercise::Plank, &reps)]).iter().filter(|e| e.kind == SaidKind::Count).map(|e| e.count).collect();
    assert_eq!(counts, [Some(10), Some(20), Some(30)]);
}
