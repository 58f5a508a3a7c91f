//! When a correction is said, and when the mistake is gone.
//!
//! Being corrected at every repetition discourages, and the same words soon go unheard. So a mistake is named once and then
//! left alone for some repetitions, and after a few times for the rest of the set. What the coach goes on seeing meanwhile
//! is heard all the same: a mistake that it saw no more for some repetitions is gone, and that is worth a word. A coach
//! repeats itself only after a while, too, so that until then its silence says nothing.

use spotter_datasets::synthetic::Mistake;
use std::time::Duration;

/// Repetitions between two corrections of the same mistake.
const REPS_BETWEEN: u32 = 4;
/// Or so long, where repetitions are slow or are not counted.
const TIME_BETWEEN: Duration = Duration::from_secs(20);
/// Corrections of the same mistake in a set.
const MOST: u32 = 3;
/// Repetitions without the mistake after which it is gone.
const CLEAN: u32 = 3;
/// And so long: models learn to name a mistake that goes on ten seconds later ([`ScriptOptions::correct_again`]), at the end
/// of a repetition and clear of other words.
///
/// [`ScriptOptions::correct_again`]: spotter_datasets::synthetic::script::ScriptOptions::correct_again
const QUIET: Duration = Duration::from_secs(15);

/// A mistake that was corrected.
#[derive(Clone, Copy, Debug)]
struct Known {
    mistake: Mistake,
    said: Duration,
    /// When the coach last saw it.
    heard: Duration,
    /// Repetitions since it was said.
    since_said: u32,
    /// Whole repetitions since the coach last saw it.
    clean: u32,
    /// Corrections in this set.
    times: u32,
    /// It was corrected and is not gone yet.
    open: bool,
}

/// The mistakes of an exercise.
#[derive(Clone, Debug, Default)]
pub(super) struct Corrections(Vec<Known>);

impl Corrections {
    /// The coach sees a mistake; whether it may say so.
    pub(super) fn hear(&mut self, t: Duration, mistake: Mistake) -> bool {
        let fresh = Known { mistake, said: t, heard: t, since_said: 0, clean: 0, times: 0, open: true };
        let (known, first) = match self.0.iter().position(|k| k.mistake == mistake) {
            Some(i) => (i, false),
            None => (self.0.len(), true),
        };
        if first {
            self.0.push(fresh);
        }
        let Some(known) = self.0.get_mut(known) else { return true };
        (known.heard, known.clean) = (t, 0);
        let rested = known.since_said >= REPS_BETWEEN || t.saturating_sub(known.said) >= TIME_BETWEEN;
        if known.times >= MOST || !(known.times == 0 || rested) {
            return false;
        }
        (known.said, known.since_said, known.open) = (t, 0, true);
        known.times += 1;
        true
    }

    /// The coach says itself that a mistake is gone.
    pub(super) fn fixed(&mut self, mistake: Mistake) {
        self.0.iter_mut().filter(|k| k.mistake == mistake).for_each(|k| k.open = false);
    }

    /// A whole repetition is done; the mistake that is gone with it. Of several the first one that was corrected: one word
    /// of praise at a time.
    pub(super) fn rep(&mut self, t: Duration) -> Option<Mistake> {
        for known in &mut self.0 {
            known.since_said = known.since_said.saturating_add(1);
            known.clean = known.clean.saturating_add(1);
        }
        let silent = |k: &Known| k.clean >= CLEAN && t.saturating_sub(k.heard) >= QUIET;
        let gone = self.0.iter_mut().find(|k| k.open && silent(k))?;
        gone.open = false;
        Some(gone.mistake)
    }

    /// Half a repetition is done: no sign that the range is whole again.
    pub(super) fn half(&mut self, t: Duration) {
        for known in &mut self.0 {
            known.since_said = known.since_said.saturating_add(1);
            if known.mistake == Mistake::HalfRange {
                (known.heard, known.clean) = (t, 0);
            }
        }
    }

    /// Another set of the same exercise begins.
    pub(super) fn next_set(&mut self) {
        self.0.iter_mut().for_each(|k| k.times = 0);
    }

    /// Whether there is a mistake that the coach may see and not say.
    pub(super) fn is_watching(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_mistake_is_named_again_only_some_repetitions_later() {
        let mut corrections = Corrections::default();
        let mut said = Vec::new();
        // the coach sees it in each repetition of two seconds
        for rep in 0..30 {
            if corrections.hear(s(2 * rep), Mistake::KneesIn) {
                said.push(rep);
            }
            assert_eq!(corrections.rep(s(2 * rep + 1)), None, "it is not gone");
        }
        assert_eq!(said, [0, 4, 8], "spaced, and at most three times a set");
        corrections.next_set();
        assert!(corrections.hear(s(70), Mistake::KneesIn));
        assert!(corrections.hear(s(71), Mistake::TrunkLean), "another mistake is named at once");
    }

    #[test]
    fn without_repetitions_time_spaces_corrections() {
        let mut corrections = Corrections::default();
        let said: Vec<u64> = (0..50).filter(|t| corrections.hear(s(*t), Mistake::HipsSag)).collect();
        assert_eq!(said, [0, 20, 40]);
    }

    /// What is gone with repetitions that end at these seconds.
    fn reps<const N: usize>(corrections: &mut Corrections, at: [u64; N]) -> [Option<Mistake>; N] {
        at.map(|t| corrections.rep(s(t)))
    }

    #[test]
    fn a_mistake_that_is_seen_no_more_is_gone_once() {
        let mut corrections = Corrections::default();
        assert_eq!(reps(&mut corrections, [0]), [None]);
        corrections.hear(s(1), Mistake::KneesIn);
        assert_eq!(reps(&mut corrections, [3, 4]), [None; 2]);
        // seen again, though not said: it is still there
        assert!(!corrections.hear(s(5), Mistake::KneesIn));
        assert_eq!(
            reps(&mut corrections, [16, 18, 20, 22]),
            [None, None, Some(Mistake::KneesIn), None],
            "praised once"
        );
        corrections.hear(s(60), Mistake::HalfRange);
        (61..66).for_each(|t| corrections.half(s(t)));
        assert_eq!(reps(&mut corrections, [90, 91]), [None; 2], "half repetitions are no sign of a whole range");
        corrections.fixed(Mistake::HalfRange);
        assert_eq!(reps(&mut corrections, [92, 93]), [None; 2], "the coach said so itself");
    }

    #[test]
    fn silence_says_nothing_before_the_coach_would_repeat_itself() {
        let mut corrections = Corrections::default();
        corrections.hear(s(0), Mistake::TrunkLean);
        // ten quick repetitions, in which nobody would have said it again
        assert!((1..11).all(|t| corrections.rep(s(t)).is_none()));
        assert_eq!(reps(&mut corrections, [14, 15]), [None, Some(Mistake::TrunkLean)]);
    }
}
