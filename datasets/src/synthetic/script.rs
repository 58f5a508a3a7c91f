//! What a good coach says about a timeline of exercises.
//!
//! The coach hears of things in the order in which they happen and answers each before it hears of the next, so an
//! utterance can only use what was visible before it. Rules, the first that applies at the end of a repetition wins:
//!
//! 1. The exercise is named at the first repetition that ends at least [`ScriptOptions::name_after`] into it, or
//!    [`ScriptOptions::name_by`] into it when the repetitions are longer than that.
//! 2. A mistake seen in each of the last few repetitions ([`patience`]) is corrected, and again after
//!    [`ScriptOptions::correct_again`] seconds at the earliest.
//! 3. A corrected mistake that has stayed away for as many repetitions is confirmed to be gone.
//! 4. Every so many repetitions ([`count_step`]) are counted; in a hold, every ten seconds.
//! 5. Clean repetitions after a long silence are praised.
//!
//! A set that is over is closed. Utterances begin at least [`ScriptOptions::min_gap`] seconds apart; what falls into
//! that gap is left out, or said at a later repetition if it is still true. Transitions are announcements of the
//! program, not of the coach: they follow the plan and count for no gap.

use super::{
    exercise::{Exercise, FPS, Mistake, Take},
    phrases::{Lang, MISTAKES, Meaning, SaidKind},
};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Seconds that one entry of [`Take::reps`] stands for in a hold.
const HOLD_SECONDS: u32 = 2;

/// Something that is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the session began.
    pub t: f64,
    /// The words.
    pub text: String,
    /// What they are for.
    pub kind: SaidKind,
    /// An announcement of the program (QEVD's transitions), which no model is scored on.
    pub is_transition: bool,
    /// The exercise it is about, whether or not the words name it.
    pub exercise: Option<Exercise>,
    /// The mistake it is about.
    pub mistake: Option<Mistake>,
    /// The number it says.
    pub count: Option<u32>,
}

/// One exercise in the timeline of a session.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// When the program announces it, in seconds since the session began.
    pub announced: f64,
    /// When the first posture of the take is seen.
    pub start: f64,
    /// What is done.
    pub take: &'a Take,
}

impl Placed<'_> {
    /// When the last posture has been seen.
    pub fn end(&self) -> f64 {
        self.start + self.take.postures.len() as f64 / f64::from(FPS)
    }
}

/// How the coach speaks; all in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptOptions {
    /// No two utterances begin closer than this.
    pub min_gap: f64,
    /// From a cause to the words about it: the earliest and the latest.
    pub delay: (f64, f64),
    /// An exercise is named no earlier than this after its begin.
    pub name_after: f64,
    /// And no later than this.
    pub name_by: f64,
    /// The same mistake is corrected no sooner than this after the last time.
    pub correct_again: f64,
    /// Silence after which clean repetitions are praised.
    pub praise_after: f64,
    /// A set is closed this long after the last posture of it.
    pub close_after: f64,
}

impl Default for ScriptOptions {
    fn default() -> Self {
        Self {
            min_gap: 2.5,
            delay: (0.2, 0.4),
            name_after: 1.3,
            name_by: 2.2,
            correct_again: 10.0,
            praise_after: 5.5,
            close_after: 0.6,
        }
    }
}

/// Every how many repetitions the coach counts; in a hold, of entries of two seconds.
pub fn count_step(exercise: Exercise) -> u32 {
    match exercise {
        Exercise::HighKnees | Exercise::Boxing | Exercise::MountainClimber => 10,
        Exercise::JumpingJack | Exercise::ArmCircles | Exercise::Plank => 5,
        _ => 2,
    }
}

/// In how many repetitions in a row a mistake must be seen to be corrected, and missed to be gone.
pub fn patience(exercise: Exercise) -> u32 {
    match exercise {
        Exercise::HighKnees | Exercise::Boxing | Exercise::MountainClimber => 4,
        Exercise::JumpingJack => 3,
        _ => 2,
    }
}

/// Something that becomes visible.
#[derive(Clone, Copy, Debug)]
enum Cue<'a> {
    /// The program moves on.
    Announced(Exercise),
    /// A take begins.
    Begun(Exercise),
    /// It has gone on for [`ScriptOptions::name_by`].
    Underway,
    /// A repetition is complete.
    Rep(&'a [Mistake]),
    /// The take is over.
    Stopped,
    /// The session is over.
    End,
}

/// What is said about `timeline`, which must be in order of time, until `end` seconds.
pub fn script(
    timeline: &[Placed<'_>],
    end: f64,
    lang: Lang,
    rng: &mut impl Rng,
    options: &ScriptOptions,
) -> Vec<Event> {
    let mut coach = Coach { lang, rng, options, last: f64::NEG_INFINITY, set: None, announced: 0, events: Vec::new() };
    for (t, cue) in cues(timeline, end, options) {
        coach.hear(t, cue);
    }
    let mut events = coach.events;
    events.retain(|event| event.t <= end);
    events.sort_by(|a, b| a.t.total_cmp(&b.t));
    events
}

/// What becomes visible when, in order of time.
fn cues<'a>(timeline: &[Placed<'a>], end: f64, options: &ScriptOptions) -> Vec<(f64, Cue<'a>)> {
    let mut cues = Vec::new();
    for placed in timeline {
        let Placed { announced, start, take } = *placed;
        cues.push((announced, Cue::Announced(take.exercise)));
        cues.push((start, Cue::Begun(take.exercise)));
        cues.extend(take.reps.iter().map(|rep| (start + rep.end as f64 / f64::from(FPS), Cue::Rep(&rep.mistakes))));
        if placed.end() > start + options.name_by {
            cues.push((start + options.name_by, Cue::Underway));
        }
        cues.push((placed.end() + options.close_after, Cue::Stopped));
    }
    cues.retain(|(t, _)| *t < end);
    cues.push((end, Cue::End));
    // Stable: what was pushed first stays first among equals.
    cues.sort_by(|a, b| a.0.total_cmp(&b.0));
    cues
}

/// What the coach remembers of the exercise that is being done.
struct Set {
    exercise: Exercise,
    begun: f64,
    named: bool,
    reps: u32,
    /// For each of [`MISTAKES`]: in how many repetitions in a row it was seen, and not seen.
    seen: [u32; MISTAKES.len()],
    missed: [u32; MISTAKES.len()],
    corrected: [Option<f64>; MISTAKES.len()],
    /// Corrected, and not yet confirmed to be gone.
    open: [bool; MISTAKES.len()],
}

struct Coach<'a, R> {
    lang: Lang,
    rng: &'a mut R,
    options: &'a ScriptOptions,
    /// When the coach last spoke.
    last: f64,
    set: Option<Set>,
    announced: u32,
    events: Vec<Event>,
}

impl<R: Rng> Coach<'_, R> {
    fn hear(&mut self, t: f64, cue: Cue<'_>) {
        match cue {
            Cue::Announced(exercise) => {
                let first = self.announced == 0;
                self.announced += 1;
                self.say(t, if first { Meaning::First(exercise) } else { Meaning::Next(exercise) }, true);
            }
            Cue::Begun(exercise) => self.set = Some(Set::new(exercise, t)),
            Cue::Underway => {
                self.name(t);
            }
            Cue::Rep(mistakes) => self.rep(t, mistakes),
            Cue::Stopped => {
                if self.set.take().is_some() {
                    // Often the last repetition has just been counted: the closing words wait for their turn.
                    self.speak(t.max(self.last + self.options.min_gap - self.options.delay.0), Meaning::Closing);
                }
            }
            Cue::End => self.say(t, Meaning::End, true),
        }
    }

    /// Names the exercise, if that is still to be done.
    fn name(&mut self, t: f64) -> bool {
        let may = self.may_speak(t);
        let Some(set) = self.set.as_mut().filter(|set| !set.named && may) else { return false };
        set.named = true;
        let meaning = Meaning::Start(set.exercise);
        self.speak(t, meaning);
        true
    }

    fn rep(&mut self, t: f64, mistakes: &[Mistake]) {
        let Some(set) = self.set.as_mut() else { return };
        set.observe(mistakes);
        if !set.named && t - set.begun < self.options.name_after {
            return;
        }
        if self.name(t) || !self.may_speak(t) {
            return;
        }
        let silence = t - self.last;
        let Some(set) = self.set.as_mut() else { return };
        if let Some(meaning) = set.answer(t, silence, self.options) {
            self.speak(t, meaning);
        }
    }

    fn may_speak(&self, t: f64) -> bool {
        t + self.options.delay.0 >= self.last + self.options.min_gap
    }

    /// Says something as the coach, a moment after its cause at `t`.
    fn speak(&mut self, t: f64, meaning: Meaning) {
        let (least, most) = self.options.delay;
        let t = t + least + (most - least).max(0.0) * self.rng.random::<f64>();
        self.last = t;
        self.say(t, meaning, false);
    }

    fn say(&mut self, t: f64, meaning: Meaning, is_transition: bool) {
        // The same words twice in a row would read as one long message.
        let mut text = meaning.say(self.lang, self.rng);
        for _ in 0..8 {
            if self.events.last().is_none_or(|last| last.text != text) {
                break;
            }
            text = meaning.say(self.lang, self.rng);
        }
        let event = Event {
            t,
            text,
            kind: meaning.kind(),
            is_transition,
            exercise: meaning.exercise(),
            mistake: meaning.mistake(),
            count: meaning.count(),
        };
        self.events.push(event);
    }
}

impl Set {
    fn new(exercise: Exercise, begun: f64) -> Self {
        const N: usize = MISTAKES.len();
        Self {
            exercise,
            begun,
            named: false,
            reps: 0,
            seen: [0; N],
            missed: [0; N],
            corrected: [None; N],
            open: [false; N],
        }
    }

    fn observe(&mut self, mistakes: &[Mistake]) {
        self.reps += 1;
        for (i, mistake) in MISTAKES.iter().enumerate() {
            let here = mistakes.contains(mistake);
            self.seen[i] = if here { self.seen[i] + 1 } else { 0 };
            self.missed[i] = if here { 0 } else { self.missed[i] + 1 };
        }
    }

    /// What to say at the end of a repetition, after `silence` seconds of it.
    fn answer(&mut self, t: f64, silence: f64, options: &ScriptOptions) -> Option<Meaning> {
        let (exercise, patience) = (self.exercise, patience(self.exercise));
        let due = |last: Option<f64>| last.is_none_or(|last| t - last >= options.correct_again);
        if let Some(i) = (0..MISTAKES.len()).find(|&i| self.seen[i] >= patience && due(self.corrected[i])) {
            self.corrected[i] = Some(t);
            self.open[i] = true;
            return Some(Meaning::Correction(exercise, MISTAKES[i]));
        }
        if let Some(i) = (0..MISTAKES.len()).find(|&i| self.open[i] && self.missed[i] >= patience) {
            self.open[i] = false;
            return Some(Meaning::Fixed(exercise, MISTAKES[i]));
        }
        // One faulty repetition is not corrected yet, but nothing else is said that could be in the way of it.
        if (0..MISTAKES.len()).any(|i| self.seen[i] > 0 && due(self.corrected[i])) {
            return None;
        }
        let hold = exercise.is_hold();
        let step = count_step(exercise);
        if self.reps.is_multiple_of(step) {
            return Some(if hold {
                Meaning::Held(exercise, self.reps * HOLD_SECONDS)
            } else {
                Meaning::Count(exercise, self.reps)
            });
        }
        let clean = self.missed.iter().all(|&missed| missed >= patience.min(self.reps));
        // Praise must not be in the way of the next count either.
        let per_rep = (t - self.begun) / f64::from(self.reps);
        let clear = f64::from(step - self.reps % step) * per_rep > options.min_gap + options.delay.1;
        (clean && clear && silence >= options.praise_after).then_some(if hold {
            Meaning::HoldPraise(exercise)
        } else {
            Meaning::Praise(exercise)
        })
    }
}

#[cfg(test)]
mod tests;
