use super::*;
use crate::synthetic::phrases::SaidKind;

fn session(seed: u64) -> Session {
    Session::generate(seed, &SessionOptions::default())
}

#[test]
fn a_seed_gives_one_session() {
    let (a, b, c) = (session(1), session(1), session(2));
    assert_eq!(a.events, b.events);
    assert_eq!(a.postures, b.postures);
    assert_eq!(a.segments, b.segments);
    assert_eq!(a.noisy_bodies(), b.noisy_bodies());
    assert_eq!(a.noisy_bodies(), a.noisy_bodies());
    assert_ne!(a.postures, c.postures);
    let options = SessionOptions { split: Split::Validation, ..SessionOptions::default() };
    let other = Session::generate(1, &options);
    assert_ne!(other.person, a.person);
    assert_ne!(other.id, a.id);
}

#[test]
fn sessions_are_long_and_in_order() {
    for seed in 0..4 {
        let session = session(seed);
        assert!(session.duration >= 180.0, "{}", session.duration);
        assert!(session.segments.len() >= 4);
        assert!(session.events.windows(2).all(|w| w[0].t <= w[1].t));
        assert!(session.events.iter().all(|e| e.t > 0.0 && e.t < session.duration));
        for pair in session.segments.windows(2) {
            assert!(pair[0].announced < pair[0].start && pair[0].start < pair[0].end && pair[0].end < pair[1].announced);
            assert_ne!(pair[0].exercise, pair[1].exercise);
        }
        for segment in &session.segments {
            let seconds = segment.end - segment.start;
            assert!((10.0..75.0).contains(&seconds), "{:?} for {seconds} s", segment.exercise);
            let named = session.events.iter().any(|e| {
                e.kind == SaidKind::Start
                    && !e.is_transition
                    && e.exercise == Some(segment.exercise)
                    && (segment.start..segment.start + 4.0).contains(&e.t)
            });
            assert!(named, "{:?} is not named", segment.exercise);
        }
    }
}

#[test]
fn bodies_have_the_rate_of_the_model() {
    let session = session(5);
    let bodies = session.noisy_bodies();
    assert_eq!(bodies.len(), (session.duration * 8.0) as usize);
    assert!(bodies.windows(2).all(|w| (w[1].0 - w[0].0 - 0.125).abs() < 1e-9));
    let finite = |body: &Body| body.joints.iter().flatten().all(|x| x.is_finite());
    assert!(bodies.iter().all(|(_, body)| finite(body)));
    assert!(finite(&session.clean_body(-1.0)) && finite(&session.clean_body(1e9)));
}

#[test]
fn the_coach_speaks_about_as_often_as_qevds() {
    let mut gaps = Vec::new();
    let (mut corrections, mut fixed, mut counts, mut sets) = (0, 0, 0, 0);
    for seed in 0..12 {
        let session = session(100 + seed);
        for segment in &session.segments {
            sets += 1;
            let inside: Vec<&Event> = session
                .events
                .iter()
                .filter(|e| !e.is_transition && e.t >= segment.start && e.t <= segment.end + 1.0)
                .collect();
            gaps.extend(inside.windows(2).map(|w| w[1].t - w[0].t));
            let of = |kind| inside.iter().filter(|e| e.kind == kind).count();
            corrections += of(SaidKind::Correction);
            fixed += of(SaidKind::Fixed);
            counts += of(SaidKind::Count);
        }
    }
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let spread = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
    let least = gaps.iter().copied().fold(f64::INFINITY, f64::min);
    println!("gaps {mean:.2} +- {spread:.2} s, least {least:.2}; {corrections} corrections, {fixed} fixed, {counts} counts in {sets} sets");
    assert!((4.2..6.5).contains(&mean), "mean gap {mean}");
    assert!(least >= 2.5 - 1e-9);
    assert!(corrections * 3 > sets && fixed * 8 > sets && counts > sets);
}
