use super::*;

pub(crate) fn session(index: usize, truth: &[f64], said: &[f64]) -> Session {
    let timed = |times: &[f64]| times.iter().map(|t| Timed::new(*t, "Good.")).collect::<Vec<_>>();
    let pair = Pair {
        truth: "a".into(),
        said: "b".into(),
        meteor: 0.5,
        rouge_l: 0.25,
        bert: None,
        judge: vec![Some(3.0), None, Some(5.0)],
    };
    let episode = Episode {
        id: format!("{index}_0"),
        exercise: "squats".into(),
        start: 0.0,
        end: 30.0,
        offset: 2.0,
        truth: timed(truth),
        said: timed(said),
        pairs: vec![pair],
        phrase: Vec::new(),
    };
    Session { index, id: index.to_string(), duration: 32.0, episodes: vec![episode], warnings: Vec::new() }
}

pub(crate) fn run(pairs_only: bool) -> RunInfo {
    RunInfo {
        version: "0".into(),
        protocol: spotter_datasets::qevd::Protocol::Fitcoach2024,
        data: vec!["d".into()],
        data_hash: "d".into(),
        sessions: 2,
        counts: [None, None],
        source: "m".into(),
        source_hash: "s".into(),
        options: Vec::new(),
        meteor: "METEOR".into(),
        bert: None,
        judge: None,
        phrase: "Good.".into(),
        pairs_only,
        truthless: false,
        warnings: vec!["odd".into()],
    }
}

#[test]
fn rows_stand_beside_their_controls() {
    let sessions = [session(0, &[5.0, 10.0, 15.0], &[5.0, 10.0]), session(1, &[7.0, 12.0], &[7.0, 25.0])];
    let report = Report::of(&run(false), &sessions);
    let row = |name: &str| report.rows.iter().find(|r| r.coach.starts_with(name)).unwrap();
    let own = &report.rows[0];
    assert_eq!(own.timing, Some(Timing { matched_gt: 3, matched_pred: 3, n_gt: 5, n_pred: 4 }));
    assert_eq!((own.precision, own.recall), (Some(0.75 / (1.0 + 2.5e-13)), own.recall));
    assert!((own.predictions_per_minute.unwrap() - 4.0).abs() < 1e-9);
    assert!((own.meteor.unwrap().value - 0.5).abs() < 1e-12 && own.bert.is_none());
    let judge = own.judge.as_ref().unwrap();
    assert_eq!((judge.mean, judge.spread, judge.parsed, judge.dropped), (4.0, 1.0, 4, 2));
    let range = own.temporal_f.unwrap();
    assert!(range.low <= range.value && range.value <= range.high && range.low < range.high);
    assert_eq!(row("silent").timing.unwrap(), Timing { n_gt: 5, ..Timing::default() });
    assert_eq!(row("the same words").timing.unwrap().matched_gt, 0);
    let best = row("metronome, best").temporal_f.unwrap().value;
    assert!(best >= row("metronome at the model's rate").temporal_f.unwrap().value);
    assert!(report.metronomes.iter().all(|m| m.temporal_f <= best + 1e-12));
    assert_eq!(report.metronomes.len(), 51);
    assert_eq!((report.gaps.truth[5], report.gaps.said[5], report.gaps.said[18]), (3, 1, 1));
    assert_eq!(report.warnings, ["odd"]);
}

#[test]
fn pairs_alone_have_no_times() {
    let report = Report::of(&run(true), &[session(0, &[], &[])]);
    assert_eq!(report.rows.len(), 1);
    assert!(report.rows[0].temporal_f.is_none() && report.rows[0].meteor.is_some());
}

#[test]
fn data_without_truths_are_not_scored() {
    let mut sessions = [session(0, &[], &[5.0, 10.0]), session(1, &[], &[7.0])];
    sessions.iter_mut().for_each(|s| s.episodes[0].pairs.clear());
    let report = Report::of(&RunInfo { truthless: true, ..run(false) }, &sessions);
    let [own] = &report.rows[..] else { panic!("{:?}", report.rows) };
    assert!(own.timing.is_none() && own.temporal_f.is_none() && own.corrective_f.is_none() && own.meteor.is_none());
    assert!((own.predictions_per_minute.unwrap() - 3.0).abs() < 1e-9);
    assert!(report.metronomes.is_empty());
    assert!((report.mean_seconds - 32.0).abs() < 1e-9);
}

#[test]
fn corrections_stand_beside_a_metronome_of_their_own() {
    let due: Vec<f64> = (1..10).map(|i| 3.0 * f64::from(i)).collect();
    let mut sessions = [session(0, &due, &[12.2, 20.0]), session(1, &due, &[12.0, 24.0])];
    for episode in sessions.iter_mut().flat_map(|s| &mut s.episodes) {
        for said in episode.truth.iter_mut().chain(&mut episode.said).filter(|s| s.t.rem_euclid(12.0) < 0.5) {
            said.text = "Try to go lower".into();
        }
    }
    // Corrections are due at 12 and 24 s in both; one is made in the first, two in the second.
    let report = Report::of(&run(false), &sessions);
    let own = report.rows[0].corrective_f.unwrap();
    assert!((own.value - 2.0 * 0.75 / 1.75).abs() < 1e-6, "{own:?}");
    assert!(own.low < own.value && own.value < own.high);
    let blind = report.row(Kind::CorrectiveMetronome).unwrap();
    for other in [Kind::BestMetronome, Kind::PlainMetronome, Kind::OwnRate] {
        let other = report.row(other).unwrap().corrective_f.unwrap().value;
        assert!(blind.corrective_f.unwrap().value >= other - 1e-12);
    }
    // What is best on all speaks every three seconds, which is too often for corrections.
    assert_ne!(blind.timing, report.row(Kind::BestMetronome).unwrap().timing);
    assert_eq!(report.row(Kind::Silent).unwrap().corrective_f.unwrap().value, 0.0);
}

#[test]
fn the_control_has_a_name_of_its_own() {
    let shuffled = RunInfo { options: vec![(SHUFFLED.into(), "true".into())], ..run(false) };
    let sessions = [session(0, &[5.0], &[5.0]), session(1, &[7.0], &[7.0])];
    assert_eq!(Report::of(&shuffled, &sessions).rows[0].coach, "m, shown the next session's video");
    assert_eq!(Report::of(&run(false), &sessions).rows[0].coach, "m");
    assert!(Report::of(&run(false), &sessions).row(Kind::Phrase).unwrap().coach.contains("\"Good.\""));
}
