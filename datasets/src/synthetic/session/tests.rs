use super::*;
use crate::{
    baseline::{Stretch, best_metronome},
    metric::{Timed, content::Content, timing::Timing},
    synthetic::phrases::SaidKind,
};

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
            assert!(
                pair[0].announced < pair[0].start && pair[0].start < pair[0].end && pair[0].end < pair[1].announced
            );
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
    println!(
        "gaps {mean:.2} +- {spread:.2} s, least {least:.2}; {corrections} corrections, {fixed} fixed, {counts} counts in {sets} sets"
    );
    assert!((4.2..6.5).contains(&mean), "mean gap {mean}");
    assert!(least >= 2.5 - 1e-9);
    assert!(corrections * 3 > sets && fixed * 8 > sets && counts > sets);
}

#[test]
fn recorded_people_take_part() {
    let dir = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/motion");
    if !dir.is_dir() {
        eprintln!("skipped: recorded_people_take_part: no recordings at {}", dir.display());
        return;
    }
    let library = Some(Arc::new(MotionLibrary::load(&dir).expect("good recordings")));
    let options = SessionOptions { library, library_share: 1.0, ..SessionOptions::default() };
    let (mut faulty, mut reps) = (0, 0);
    for seed in 0..6 {
        let session = Session::generate(seed, &options);
        assert_ne!(session.postures, self::session(seed).postures);
        assert!(session.segments.iter().all(|s| s.reps.len() >= 3 && s.end - s.start < 75.0));
        assert!(session.postures.iter().flatten().flatten().all(|x| x.is_finite()));
        for rep in session.segments.iter().flat_map(|s| &s.reps) {
            reps += 1;
            faulty += usize::from(!rep.mistakes.is_empty());
        }
    }
    println!("{faulty} of {reps} repetitions have a mistake");
    assert!(faulty > 0 && faulty < reps);
}

/// What the coach said in each segment, with the time it was said in.
fn stretches(session: &Session) -> Vec<(f64, f64, Vec<Timed>)> {
    let ends = session.segments.iter().skip(1).map(|s| s.announced).chain([session.duration]);
    let spoken = |from: f64, to: f64| {
        let events = session.events.iter().filter(|e| !e.is_transition && e.t >= from && e.t < to);
        events.map(|e| Timed::new(e.t, e.text.clone())).collect()
    };
    session.segments.iter().zip(ends).map(|(s, end)| (s.announced, end, spoken(s.announced, end))).collect()
}

#[test]
fn the_script_is_its_own_best_coach_and_no_metronome() {
    let sessions: Vec<Session> = (0..10).map(|seed| session(300 + seed)).collect();
    let mut content = Content::default();
    let mut all = Vec::new();
    for session in &sessions {
        let said: Vec<Timed> =
            session.events.iter().filter(|e| !e.is_transition).map(|e| Timed::new(e.t, e.text.clone())).collect();
        content += Content::of(&session.segments, &session.events, &said, session.lang);
        all.extend(stretches(session));
    }
    assert_eq!(content.exercise_accuracy(), Some(1.0));
    assert_eq!(content.mistake_precision(), Some(1.0));
    assert_eq!(content.mistake_recall(), Some(1.0));
    assert_eq!(content.count_accuracy(), Some(1.0));
    assert_eq!(content.unknown, 0);
    let stretches: Vec<Stretch<'_>> =
        all.iter().map(|(start, end, truth)| Stretch { start: *start, end: *end, truth }).collect();
    let perfect = Timing::pooled(stretches.iter().map(|s| (s.truth, s.truth)));
    assert!((perfect.f_score() - 1.0).abs() < 1e-9);
    let best = best_metronome(&stretches).expect("there are metronomes");
    println!("best metronome: period {:.1} s, phase {:.1} s, F {:.3}", best.period, best.phase, best.timing.f_score());
    // A blind coach does no better here than on feedback spaced at random.
    assert!((0.4..0.75).contains(&best.timing.f_score()), "{best:?}");
}

#[test]
fn korean_sessions_are_coached_alike() {
    let options = SessionOptions { lang: Lang::Ko, ..SessionOptions::default() };
    let session = Session::generate(4, &options);
    let said: Vec<Timed> =
        session.events.iter().filter(|e| !e.is_transition).map(|e| Timed::new(e.t, e.text.clone())).collect();
    let content = Content::of(&session.segments, &session.events, &said, Lang::Ko);
    assert_eq!(content.exercise_accuracy(), Some(1.0));
    assert_eq!(content.unknown, 0);
}
