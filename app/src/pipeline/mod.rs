//! The way of a frame: source, lens, coach, feedback.
//!
//! [`sequential`] runs the stages one after the other, as fast as they go. [`threads`] gives each its own thread and
//! follows the clock. Both run the same [`stages`]. With [`Latency::Fixed`] what is looked at and said is a function
//! of media time alone, so both give the same events in the same order; with [`Latency::Measured`] the newest frame
//! wins wherever a stage is late, and what was dropped is counted.

pub(crate) mod clock;
pub(crate) mod coach;
#[cfg(test)]
pub(crate) mod fakes;
pub(crate) mod latency;
pub(crate) mod moves;
mod sampler;
pub(crate) mod script;
pub(crate) mod sequential;
mod speaker;
pub(crate) mod stages;
pub(crate) mod stats;
pub(crate) mod streamed;
pub(crate) mod tally;
#[cfg(test)]
mod tests;
pub(crate) mod threads;
pub(crate) mod view;
pub(crate) mod workout;

pub(crate) use coach::Coach;
pub(crate) use latency::Latency;
use moves::Move;
use spotter_datasets::synthetic::Exercise;
use spotter_engine::coach::Feedback;
use spotter_vision::{
    lens::{Lens, View},
    pose::Missing,
    reps::Phase,
    source::Trouble,
};
use std::time::Duration;
use workout::{Bout, Workout};

/// How a run behaves. Times are media time.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What the model costs.
    pub(crate) latency: Latency,
    /// No two utterances begin closer than this, words about the view included.
    pub(crate) cooldown: Duration,
    /// An utterance whose words would come later than this after its frame is cancelled.
    pub(crate) stale_after: Duration,
    /// "en" or "ko", for the words about the view.
    pub(crate) language: String,
    /// The exercise whose repetitions count; left out, the one that the coach names.
    pub(crate) exercise: Option<Exercise>,
    /// Words of the coach that count otherwise than the poses do are withheld.
    pub(crate) own_count: bool,
    /// The same correction comes again only some repetitions later, and a mistake that is gone is praised.
    pub(crate) spaced: bool,
    /// The person has to be in view for so long before anything is coached or counted.
    pub(crate) lead_in: Duration,
    /// What is to be done; it says which exercise counts.
    pub(crate) workout: Option<Workout>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            latency: Latency::REPLAY,
            cooldown: Duration::from_secs(2),
            stale_after: Duration::from_secs(2),
            language: "en".to_owned(),
            exercise: None,
            own_count: false,
            spaced: false,
            lead_in: Duration::ZERO,
            workout: None,
        }
    }
}

/// What the stages own: a lens and a coach. They outlive a run and serve the next.
pub(crate) struct Parts {
    /// What the coach looks through.
    pub(crate) lens: Box<dyn Lens>,
    /// The model.
    pub(crate) coach: Box<dyn Coach>,
}

/// Something happened, in order of decision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Another view of the person is believed, or something else is missing of them.
    View {
        /// Media time.
        t: Duration,
        /// The view.
        view: View,
        /// What is missing where they are partly out.
        missing: Option<Missing>,
        /// People found.
        people: usize,
    },
    /// The camera is lost, or is back; the session goes on.
    Source {
        /// Media time.
        t: Duration,
        /// What is wrong and what to do; `None` once it is back.
        problem: Option<String>,
        /// What kind of trouble it is, where that is known.
        trouble: Option<Trouble>,
    },
    /// The person has been in view for the lead-in: the session begins.
    Begun {
        /// Media time.
        t: Duration,
    },
    /// The beginning of an utterance that is still being made.
    Partial {
        /// Media time of its frame.
        t_frame: Duration,
        /// The words so far.
        text: String,
    },
    /// The words that were being made are not said.
    Withdrawn {
        /// Media time of their frame.
        t_frame: Duration,
    },
    /// Something to say.
    Feedback(Feedback),
    /// From here on this exercise is counted.
    Exercise {
        /// Media time.
        t: Duration,
        /// Which.
        exercise: Exercise,
    },
    /// A set of the workout begins.
    Set {
        /// Media time.
        t: Duration,
        /// Which set.
        bout: Bout,
    },
    /// A rest of the workout begins.
    Rest {
        /// Media time.
        t: Duration,
        /// For so long.
        lasts: Duration,
        /// What comes after it.
        next: Bout,
    },
    /// The clock of the workout stops, because the person went away, or goes on.
    Clock {
        /// Media time.
        t: Duration,
        /// Whether it runs from here on.
        runs: bool,
    },
    /// The workout is done.
    Finished {
        /// Media time.
        t: Duration,
    },
    /// A repetition over the full range is done.
    Rep {
        /// Media time of its end.
        t: Duration,
        /// Of which exercise.
        exercise: Exercise,
        /// Which set of this exercise, from 1.
        set: u32,
        /// Repetitions of the set so far, this one included.
        count: u32,
    },
    /// A repetition turned before the full range and doesn't count.
    HalfRep {
        /// Media time of its end.
        t: Duration,
        /// Of which exercise.
        exercise: Exercise,
    },
    /// Something is held; once a second, and at its end.
    Hold {
        /// Media time.
        t: Duration,
        /// Which exercise.
        exercise: Exercise,
        /// Which set of it, from 1.
        set: u32,
        /// For so long.
        lasted: Duration,
        /// It is over.
        over: bool,
    },
    /// The phase of the repetition under way changed; for the window only.
    Phase {
        /// Media time.
        t: Duration,
        /// Of which exercise.
        exercise: Exercise,
        /// The phase.
        phase: Phase,
    },
    /// What a body did, seen as any of the exercises; for the [`tally::Tally`], which makes the events above of it.
    Move {
        /// Media time.
        t: Duration,
        /// As which exercise.
        exercise: Exercise,
        /// What.
        what: Move,
    },
    /// A frame was looked at; for the [`tally::Tally`] alone.
    Tick {
        /// Media time.
        t: Duration,
    },
    /// A stage failed; the others go on.
    Failed(Failure),
}

/// A stage that failed: by an error or a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// "capture", "lens" or "coach".
    pub(crate) stage: &'static str,
    /// Media time.
    pub(crate) t: Duration,
    /// What went wrong.
    pub(crate) problem: String,
}
