//! A whole synthetic session: one person before one camera doing several exercises, and what the coach says.

use super::{
    camera::{Camera, PoseNoise},
    exercise::{Exercise, FPS, Mistake, Posture, Take},
    motion::{self, Fault, MotionLibrary, Person, Style},
    phrases::Lang,
    script::{Event, Placed, ScriptOptions, script},
};
use rand::{
    Rng, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use spotter_vision::Body;
use std::sync::Arc;

/// Which people: the same seed gives other sessions in each split.
pub use super::motion::Split;

/// Streams of one ChaCha key never meet, so no seed of one split repeats a session of another.
fn stream(split: Split) -> u64 {
    match split {
        Split::Train => 1,
        Split::Validation => 2,
    }
}

/// What a session is like.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// It lasts at least this long, in seconds.
    pub min_seconds: f64,
    /// Language of the coach.
    pub lang: Lang,
    /// Split it belongs to.
    pub split: Split,
    /// Bodies a second in [`Session::noisy_bodies`].
    pub fps: f64,
    /// Shortest and longest exercise, in seconds.
    pub exercise_seconds: (f64, f64),
    /// Exercises to choose from; each is done before one is repeated. Must not be empty.
    pub exercises: Vec<Exercise>,
    /// How the coach speaks.
    pub script: ScriptOptions,
    /// Recorded motion; without it all motion is keyed.
    pub library: Option<Arc<MotionLibrary>>,
    /// Share of exercises taken from the library where it has them.
    pub library_share: f64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            min_seconds: 180.0,
            lang: Lang::En,
            split: Split::Train,
            fps: 8.0,
            exercise_seconds: (20.0, 40.0),
            exercises: Exercise::ALL.to_vec(),
            script: ScriptOptions::default(),
            library: None,
            library_share: 0.5,
        }
    }
}

/// A repetition in the time of the session, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedRep {
    /// It begins.
    pub start: f64,
    /// Its turning point.
    pub peak: f64,
    /// It is complete.
    pub end: f64,
    /// What was wrong with it, measured.
    pub mistakes: Vec<Mistake>,
}

/// One exercise of a session; times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Which.
    pub exercise: Exercise,
    /// The program announces it.
    pub announced: f64,
    /// It begins.
    pub start: f64,
    /// It is over.
    pub end: f64,
    /// Repetitions in order; for a hold one entry for each two seconds.
    pub reps: Vec<TimedRep>,
}

/// A session.
#[derive(Clone)]
pub struct Session {
    /// Names split and seed.
    pub id: String,
    /// What it was made from.
    pub seed: u64,
    /// Who trains.
    pub person: Person,
    /// Where they are seen from.
    pub camera: Camera,
    /// Language of the coach.
    pub lang: Lang,
    /// Length in seconds.
    pub duration: f64,
    /// The motion, at [`FPS`].
    pub postures: Vec<Posture>,
    /// Exercises in order.
    pub segments: Vec<Segment>,
    /// What is said, in order.
    pub events: Vec<Event>,
    /// What a pose estimator adds.
    noise: PoseNoise,
    fps: f64,
}

impl Session {
    /// The session of a seed: the same for the same seed and options, on every machine.
    pub fn generate(seed: u64, options: &SessionOptions) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream(options.split));
        let person = Person::random(&mut rng);
        let camera = Camera::random(&mut rng);
        let noise = PoseNoise::random(&mut rng);
        let mut floor = Floor { person: &person, postures: Vec::new() };
        let placed = floor.train(options, &mut rng);
        let postures = floor.postures;
        let duration = postures.len() as f64 / f64::from(FPS);
        let timeline: Vec<Placed<'_>> = placed
            .iter()
            .map(|(announced, start, take)| Placed { announced: *announced, start: *start, take })
            .collect();
        let events = script(&timeline, duration - 0.5, options.lang, &mut rng, &options.script);
        let segments = timeline.iter().map(segment).collect();
        let split = match options.split {
            Split::Train => "train",
            Split::Validation => "val",
        };
        Self {
            id: format!("{split}_{seed:06}"),
            seed,
            person,
            camera,
            lang: options.lang,
            duration,
            postures,
            segments,
            events,
            noise,
            fps: options.fps,
        }
    }

    /// The person as an ideal pose estimator sees them at `t` seconds; before the begin and after the end the first
    /// and the last posture stay.
    pub fn clean_body(&self, t: f64) -> Body {
        let at = (t.max(0.0) * f64::from(FPS)) as usize;
        let last = self.postures.len().saturating_sub(1);
        let posture = self.postures.get(at.min(last)).copied().unwrap_or_default();
        self.camera.project(&posture)
    }

    /// The person as a real pose estimator sees them: time and body of each frame at the model's frame rate. The
    /// same at each call.
    pub fn noisy_bodies(&self) -> Vec<(f64, Body)> {
        let mut noise = self.noise.clone();
        let frames = (self.duration * self.fps).floor().max(0.0) as usize;
        (0..frames)
            .map(|i| {
                let t = i as f64 / self.fps;
                (t, noise.corrupt(t, &self.clean_body(t)))
            })
            .collect()
    }

    /// The segment that `t` lies in, from its announcement to the next one.
    pub fn segment_at(&self, t: f64) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.announced <= t)
    }
}

fn segment(placed: &Placed<'_>) -> Segment {
    let at = |frame: usize| placed.start + frame as f64 / f64::from(FPS);
    let reps = placed.take.reps.iter();
    Segment {
        exercise: placed.take.exercise,
        announced: placed.announced,
        start: placed.start,
        end: placed.end(),
        reps: reps
            .map(|rep| TimedRep {
                start: at(rep.start),
                peak: at(rep.peak),
                end: at(rep.end),
                mistakes: rep.mistakes.clone(),
            })
            .collect(),
    }
}

/// The place where a session happens: the postures so far.
struct Floor<'a> {
    person: &'a Person,
    postures: Vec<Posture>,
}

impl Floor<'_> {
    fn now(&self) -> f64 {
        self.postures.len() as f64 / f64::from(FPS)
    }

    /// Exercise after exercise until the session is long enough; announcement, begin and take of each.
    fn train(&mut self, options: &SessionOptions, rng: &mut ChaCha8Rng) -> Vec<(f64, f64, Take)> {
        let mut placed = Vec::new();
        let mut plan: Vec<Exercise> = Vec::new();
        let before = motion::rest(self.person, rng.random_range(2.0..4.0), rng);
        self.go_on(&before, 1.0);
        while self.now() < options.min_seconds {
            if plan.is_empty() {
                plan.clone_from(&options.exercises);
                plan.shuffle(rng);
            }
            let Some(exercise) = plan.pop() else { break };
            let (least, most) = options.exercise_seconds;
            let seconds = least + (most - least).max(0.0) * rng.random::<f64>();
            let take = perform(exercise, seconds, self.person, options, rng);
            let pace = rng.random_range(0.9..1.4) * if exercise.on_floor() { 2.0 } else { 1.0 };
            let announced = self.now();
            let start = self.go_on(&take.postures, pace);
            placed.push((announced, start, take));
            // Long enough for the closing words.
            let after = motion::rest(self.person, rng.random_range(4.0..7.0), rng);
            self.go_on(&after, pace);
        }
        placed
    }

    /// Moves over to `postures` within `seconds` and through them; when the first of them is seen.
    fn go_on(&mut self, postures: &[Posture], seconds: f32) -> f64 {
        if let (Some(from), Some(to)) = (self.postures.last(), postures.first()) {
            self.postures.extend(motion::transition(from, to, seconds));
        }
        let start = self.now();
        self.postures.extend_from_slice(postures);
        start
    }
}

/// All that a session asks of the motion for one exercise: about `seconds` of it, keyed or recorded.
fn perform(exercise: Exercise, seconds: f64, person: &Person, options: &SessionOptions, rng: &mut ChaCha8Rng) -> Take {
    let reps = (seconds / f64::from(motion::seconds_per_rep(exercise))).round().clamp(4.0, 400.0) as usize;
    let style = Style { faults: faults(exercise, reps, rng), ..Style::clean() }.varied(exercise, rng);
    let library = options.library.as_ref().filter(|_| rng.random_bool(options.library_share.clamp(0.0, 1.0)));
    let recorded = library.and_then(|library| library.take(exercise, reps, style.facing, options.split, rng));
    recorded.map_or_else(
        || motion::take(exercise, person, &style, reps, rng),
        // Recorded people have a speed of their own.
        |take| shortened(take, 1.25 * seconds),
    )
}

/// At least three repetitions, and no more than fit into `seconds`.
fn shortened(mut take: Take, seconds: f64) -> Take {
    let frames = (seconds * f64::from(FPS)) as usize;
    let fitting = take.reps.iter().filter(|rep| rep.end <= frames).count().max(3);
    if fitting < take.reps.len() {
        take.reps.truncate(fitting);
        let end = take.reps.last().map_or(0, |rep| rep.end);
        take.postures.truncate(end);
    }
    take
}

/// Mistakes for a set: none in every fourth, else one or two, each for a part of the set that is long enough to be
/// corrected and often ends before the set does. Some are too slight to be mistakes; that is for the measure to say.
fn faults(exercise: Exercise, reps: usize, rng: &mut ChaCha8Rng) -> Vec<Fault> {
    if rng.random_bool(0.25) {
        return Vec::new();
    }
    let several = if rng.random_bool(0.3) { 2 } else { 1 };
    let chosen: Vec<_> = exercise.mistakes().choose_multiple(rng, several).copied().collect();
    let mut faults = Vec::new();
    for mistake in chosen {
        let severity = if rng.random_bool(0.15) { rng.random_range(0.1..0.4) } else { rng.random_range(0.8..1.0) };
        let from = (reps as f32 * rng.random_range(0.0..0.45)) as usize;
        let long = (reps as f32 * rng.random_range(0.3..0.6)) as usize;
        faults.push(Fault { mistake, severity, from, to: from + long.max(3) });
    }
    faults
}

#[cfg(test)]
mod tests;
