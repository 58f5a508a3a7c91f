//! Repetitions and holds on the vision thread, where no frame is skipped because the coach is busy.

use super::Event;
use spotter_datasets::synthetic::{Exercise, repetition};
use spotter_vision::{
    Body,
    reps::{Counter, Excursion, Hold, HoldTimer, Phase},
};
use std::time::Duration;

/// Something that a body did, before it is known which exercise is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Move {
    /// The phase of a repetition changed.
    Phase(Phase),
    /// A repetition, whole or half, ended.
    Excursion(Excursion),
    /// Something is held; told once a second and at the end.
    Hold {
        /// For so long.
        lasted: Duration,
        /// It has ended.
        over: bool,
    },
}

/// Follows what each exercise would count. Which of them is meant may turn out later.
pub(super) struct Moves {
    counters: Vec<(Exercise, Counter, Phase)>,
    hold: HoldTimer,
    told: u64,
}

impl Moves {
    pub(super) fn new() -> Self {
        let counter = |e: Exercise| Some((e, Counter::new(repetition::rule(e)?), Phase::Unknown));
        let counters = Exercise::ALL.into_iter().filter_map(counter).collect();
        Self { counters, hold: HoldTimer::default(), told: 0 }
    }

    /// Takes in the body at media time `t`; `None` where it is not in view.
    pub(super) fn update(&mut self, t: Duration, body: Option<&Body>, emit: &mut dyn FnMut(Event)) {
        let mut tell = |exercise, what| emit(Event::Move { t, exercise, what });
        match self.hold.update(t, body) {
            Hold::Held(lasted) if lasted.as_secs() > self.told => {
                self.told = lasted.as_secs();
                tell(Exercise::Plank, Move::Hold { lasted, over: false });
            }
            Hold::Over(lasted) => {
                self.told = 0;
                tell(Exercise::Plank, Move::Hold { lasted, over: true });
            }
            Hold::Held(_) | Hold::None => {}
        }
        let Some(body) = body else { return };
        for (exercise, counter, phase) in &mut self.counters {
            let ended = counter.update(t, body);
            if counter.phase() != *phase {
                *phase = counter.phase();
                tell(*exercise, Move::Phase(*phase));
            }
            if let Some(excursion) = ended {
                tell(*exercise, Move::Excursion(excursion));
            }
        }
    }
}
