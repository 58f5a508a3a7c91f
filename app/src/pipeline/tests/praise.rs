//! Praise for a mistake that is gone, from the joints of synthetic people to the words. Known joints stand in for poses that
//! would have to be found; the coach is the script that models learn from, which hears what is measured on those joints.

use super::{Config, Event, FakeSource, Record, sequential};
use crate::pipeline::{Parts, script::ScriptedCoach, stats::Monitor};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use spotter_datasets::synthetic::{
    Exercise, Mistake, Take,
    camera::Camera,
    exercise::FPS,
    motion::{Fault, Person, Style, seconds_per_rep, take},
    phrases::{self, Lang, Meaning, SaidKind},
    script::{Placed, ScriptOptions, script},
};
use spotter_vision::{
    Body, Frame,
    lens::{Lens, LensError, Sight, View},
};
use std::{sync::Arc, time::Duration};

/// Seconds of a mistake that ends, long enough to be corrected; and of a set, long enough to see that it has gone.
const FAULTY: f32 = 12.0;
const SET: f32 = 60.0;

/// Sees the joints that are there.
struct KnownJoints(Vec<Body>);

impl Lens for KnownJoints {
    fn look(&mut self, frame: &Frame) -> Result<Sight, LensError> {
        let body = self.0.get(frame.seq as usize).cloned();
        Ok(Sight { frame: frame.clone(), view: View::Clear, people: 1, person: 0, body })
    }
    fn reset(&mut self) {}
}

/// How a coach deals with what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coach {
    /// As models learn it: corrections ten seconds apart, and praise.
    Script,
    /// The same without a word of praise.
    NeverPraises,
    /// A correction at each faulty repetition.
    Nags,
    /// The planted error: it overlooks a mistake that goes on.
    GoesBlind,
}

/// A set of one exercise in which a mistake is made for a while.
struct Set {
    exercise: Exercise,
    mistake: Mistake,
    take: Take,
    /// Repetitions with the mistake.
    to: usize,
}

impl Set {
    fn new(exercise: Exercise, mistake: Mistake, ends: bool, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let reps_in = |seconds: f32| (seconds / seconds_per_rep(exercise)).ceil() as usize;
        // hurried repetitions take half the time
        let faulty = if mistake == Mistake::TooFast { 2.0 * FAULTY } else { FAULTY };
        let to = if ends { reps_in(faulty) } else { usize::MAX };
        // someone on the floor is seen from the side
        let facing = if exercise.on_floor() { 1.4 } else { 0.0 };
        let style = Style { faults: vec![Fault { mistake, severity: 1.0, from: 0, to }], facing, ..Style::clean() };
        let take = take(exercise, &Person::random(&mut rng), &style, reps_in(SET), &mut rng);
        Self { exercise, mistake, take, to }
    }

    /// Whether the measure sees what was made: the mistake for as long as it was to be made, and no longer.
    fn is_plain(&self) -> bool {
        self.take.reps.iter().enumerate().all(|(i, rep)| {
            // the first one after it still comes out of it
            i == 0 || i == self.to || rep.mistakes.contains(&self.mistake) == (i < self.to)
        })
    }

    fn lines(&self, coach: Coach) -> Vec<(Duration, String)> {
        let seconds = |frame: usize| frame as f64 / f64::from(FPS);
        let end = seconds(self.take.postures.len());
        let at = |t: f64, text: String| (Duration::from_secs_f64(t), text);
        if coach == Coach::Nags {
            let faulty = self.take.reps.iter().filter(|rep| rep.mistakes.contains(&self.mistake));
            let words = Meaning::Correction(self.exercise, self.mistake).sentences(Lang::En).swap_remove(0);
            return faulty.map(|rep| at(seconds(rep.end), words.clone())).collect();
        }
        let placed = Placed { announced: 0.0, start: 0.0, take: &self.take };
        let options = ScriptOptions::default();
        let mut events = script(&[placed], end, Lang::En, &mut ChaCha8Rng::seed_from_u64(1), &options);
        events.retain(|event| match coach {
            _ if event.is_transition => false,
            Coach::Script | Coach::Nags => true,
            Coach::NeverPraises => event.kind != SaidKind::Fixed,
            Coach::GoesBlind => event.kind != SaidKind::Correction || event.t < 8.0,
        });
        events.into_iter().map(|event| at(event.t, event.text)).collect()
    }

    /// The words of a session: how often the mistake was corrected, and what was praised to be gone.
    fn coached(&self, coach: Coach) -> (usize, Vec<Option<Mistake>>) {
        let camera = Camera::looking_at([0.0, -4.5, 1.1], [0.0, 0.0, 0.9], 0.0, (640.0, 480.0), 520.0);
        let bodies: Vec<Body> = self.take.postures.iter().map(|posture| camera.project(posture)).collect();
        let source = Box::new(FakeSource::new(f64::from(FPS), bodies.len() as f64 / f64::from(FPS)));
        let config = Config { exercise: Some(self.exercise), spaced: true, own_count: true, ..Config::default() };
        let coach = Box::new(ScriptedCoach::new(8.0, self.lines(coach)));
        let (parts, mut record) = (Parts { lens: Box::new(KnownJoints(bodies)), coach }, Record::default());
        let ran = sequential::run(source, parts, &config, &Arc::new(Monitor::default()), &mut record);
        assert!(ran.is_ok(), "{ran:?}");
        let said: Vec<_> = record
            .0
            .iter()
            .filter_map(|event| if let Event::Feedback(f) = event { Some(f.text.as_str()) } else { None })
            .map(|text| phrases::classify(text, Lang::En))
            .collect();
        let corrected = said.iter().filter(|s| (s.kind, s.mistake) == (SaidKind::Correction, Some(self.mistake)));
        let praised = said.iter().filter(|s| s.kind == SaidKind::Fixed).map(|s| s.mistake);
        (corrected.count(), praised.collect())
    }
}

/// Every mistake of every exercise that the measure sees plainly.
fn sets(ends: bool) -> Vec<Set> {
    let pairs = Exercise::ALL.into_iter().flat_map(|e| e.mistakes().iter().map(move |m| (e, *m)));
    let sets: Vec<Set> = pairs.map(|(e, m)| Set::new(e, m, ends, 7)).collect();
    let all = sets.len();
    let plain: Vec<Set> = sets.into_iter().filter(Set::is_plain).collect();
    println!("{} of {all} mistakes are plain on the joints", plain.len());
    assert!(plain.len() * 4 >= all * 3, "{} of {all}", plain.len());
    plain
}

#[test]
fn a_mistake_that_ends_is_praised_once_whoever_sees_it() {
    for set in sets(true) {
        for coach in [Coach::Script, Coach::NeverPraises, Coach::Nags] {
            let (corrected, praised) = set.coached(coach);
            let of = (set.exercise, set.mistake, coach);
            assert!(corrected > 0, "{of:?} was never corrected");
            assert_eq!(praised, [Some(set.mistake)], "{of:?}");
        }
    }
}

#[test]
fn a_mistake_that_goes_on_is_never_praised() {
    let mut fooled = 0;
    for set in sets(false) {
        for coach in [Coach::Script, Coach::NeverPraises, Coach::Nags] {
            let (corrected, praised) = set.coached(coach);
            let of = (set.exercise, set.mistake, coach);
            assert!(corrected > 0, "{of:?} was never corrected");
            assert_eq!(praised, [], "{of:?}");
        }
        fooled += usize::from(!set.coached(Coach::GoesBlind).1.is_empty());
    }
    assert!(fooled > 20, "a coach that overlooks the mistake would be found out: {fooled}");
}
