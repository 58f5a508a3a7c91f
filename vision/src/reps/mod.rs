//! Repetitions counted and holds timed from the joints alone.
//!
//! A repetition is an excursion of one [`Signal`]: it leaves rest, passes the turning point and comes back. The two
//! thresholds lie apart, so that trembling joints count nothing; an excursion that turns before the upper one is half a
//! repetition and no more; and somebody who stands still never leaves rest.

pub mod signal;

pub use signal::Signal;

use crate::Body;
use std::time::Duration;

/// An excursion that lasts longer is a rest at the turning point, such as sitting down.
const LONGEST: Duration = Duration::from_secs(12);
/// Frames further apart than this don't belong to one excursion.
const GAP: Duration = Duration::from_millis(1200);
/// A hold begins to count once it has lasted this long, and ends once it is broken for as long.
const HOLD_AFTER: Duration = Duration::from_millis(800);

/// How the trunk must lie at the turning point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posture {
    /// Standing, kneeling or sitting.
    Upright,
    /// On the floor.
    Floor,
    /// However it lies.
    Any,
}

impl Posture {
    fn holds(self, body: &Body) -> bool {
        match (self, signal::trunk_rise(body)) {
            (Self::Any, _) => true,
            (Self::Upright, Some(rise)) => rise > 15.0,
            (Self::Floor, Some(rise)) => rise.abs() < 45.0,
            (_, None) => false,
        }
    }
}

/// How repetitions of an exercise are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// What moves.
    pub signal: Signal,
    /// At or below this the person is at rest.
    pub low: f32,
    /// At or above this the range is full.
    pub high: f32,
    /// How the trunk lies at the turning point.
    pub posture: Posture,
    /// Quicker excursions are slips of the pose estimate.
    pub shortest: Duration,
}

/// Where in a repetition somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not seen at rest yet.
    #[default]
    Unknown,
    /// Between repetitions.
    Rest,
    /// On the way to the turning point.
    Out,
    /// The range is full; the way back is left.
    Turned,
}

/// An excursion that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excursion {
    /// A repetition over the full range.
    Full,
    /// It turned before the full range.
    Half,
}

/// Follows one side.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    phase: Phase,
    begun: Duration,
    last: Duration,
    peak: f32,
}

impl Side {
    fn update(&mut self, rule: &Rule, t: Duration, value: f32, posture: bool) -> Option<Excursion> {
        let apart = t.saturating_sub(self.last) > GAP || t < self.last;
        self.last = t;
        if apart {
            self.phase = Phase::Unknown;
        }
        if value <= rule.low {
            return self.come_back(rule, t);
        }
        match self.phase {
            Phase::Unknown => return None,
            Phase::Rest => (self.phase, self.begun, self.peak) = (Phase::Out, t, value),
            Phase::Out | Phase::Turned => self.peak = self.peak.max(value),
        }
        if value >= rule.high && posture {
            self.phase = Phase::Turned;
        }
        if t.saturating_sub(self.begun) > LONGEST {
            self.phase = Phase::Unknown;
        }
        None
    }

    fn come_back(&mut self, rule: &Rule, t: Duration) -> Option<Excursion> {
        let before = std::mem::replace(&mut self.phase, Phase::Rest);
        if t.saturating_sub(self.begun) < rule.shortest {
            return None;
        }
        match before {
            Phase::Turned => Some(Excursion::Full),
            // whoever came close to the full range but not in the right posture did something else
            Phase::Out if self.peak >= (rule.low + rule.high) / 2.0 && self.peak < rule.high => Some(Excursion::Half),
            _ => None,
        }
    }
}

/// Counts the repetitions of one exercise.
#[derive(Clone, Debug)]
pub struct Counter {
    rule: Rule,
    sides: [Side; 2],
}

impl Counter {
    /// A counter that has seen nothing.
    pub fn new(rule: Rule) -> Self {
        Self { rule, sides: [Side::default(); 2] }
    }

    /// Takes in the body at media time `t`; the excursion that ended with it, if one did. Bodies come in order of time;
    /// after a gap of more than a second what was under way is forgotten.
    pub fn update(&mut self, t: Duration, body: &Body) -> Option<Excursion> {
        let posture = self.rule.posture.holds(body);
        let values = self.rule.signal.of(body);
        let mut ended = None;
        for (side, value) in self.sides.iter_mut().zip(values) {
            let Some(value) = value.filter(|v| v.is_finite()) else { continue };
            let one = side.update(&self.rule, t, value, posture);
            // both sides at once are one movement
            ended = if ended == Some(Excursion::Full) { ended } else { one.or(ended) };
        }
        ended
    }

    /// The phase of the side that is further out.
    pub fn phase(&self) -> Phase {
        let [left, right] = self.sides.map(|side| side.phase);
        let rank = |phase| match phase {
            Phase::Unknown => 0,
            Phase::Rest => 1,
            Phase::Out => 2,
            Phase::Turned => 3,
        };
        if rank(left) >= rank(right) { left } else { right }
    }
}

/// Times how long somebody keeps a plank.
#[derive(Clone, Debug, Default)]
pub struct HoldTimer {
    /// When the hold began, and when it was last seen.
    held: Option<(Duration, Duration)>,
}

/// What a [`HoldTimer`] says of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing is held.
    None,
    /// Held for so long.
    Held(Duration),
    /// It was held for so long and is over.
    Over(Duration),
}

impl HoldTimer {
    /// Takes in the body at media time `t`; `None` where it is not seen. Bodies come in order of time.
    pub fn update(&mut self, t: Duration, body: Option<&Body>) -> Hold {
        if body.is_some_and(is_plank) {
            let (since, last) = self.held.unwrap_or((t, t));
            let since = if t < last { t } else { since };
            self.held = Some((since, t));
            let lasted = t.saturating_sub(since);
            return if lasted >= HOLD_AFTER { Hold::Held(lasted) } else { Hold::None };
        }
        let Some((since, last)) = self.held else { return Hold::None };
        let lasted = last.saturating_sub(since);
        if t.saturating_sub(last) < HOLD_AFTER && t >= last {
            return if lasted >= HOLD_AFTER { Hold::Held(lasted) } else { Hold::None };
        }
        self.held = None;
        if lasted >= HOLD_AFTER { Hold::Over(lasted) } else { Hold::None }
    }
}

/// Whether a body is in the position of a plank, well or badly done: trunk level, legs stretched, resting on the arms.
fn is_plank(body: &Body) -> bool {
    let below = |value: Option<f32>, limit: f32| value.is_some_and(|v| v.abs() < limit);
    below(signal::trunk_rise(body), 38.0)
        && below(signal::hip_bend(body), 55.0)
        && below(signal::knee_bend(body), 60.0)
        && below(signal::support(body), 55.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Joint, body::JOINTS};

    const RULE: Rule = Rule {
        signal: Signal::Knees,
        low: 40.0,
        high: 88.0,
        posture: Posture::Upright,
        shortest: Duration::from_millis(300),
    };

    /// Somebody seen from the side whose knees are bent by so many degrees.
    fn bent(degrees: f32) -> Body {
        let mut joints = [[0.0; 3]; JOINTS];
        let (s, c) = degrees.to_radians().sin_cos();
        for side in 0..2 {
            let z = side as f32 * 20.0;
            joints[Joint::LeftKnee as usize + side] = [s * 40.0, -40.0, z];
            joints[Joint::LeftAnkle as usize + side] = [s * 40.0, 0.0, z];
            joints[Joint::LeftHip as usize + side] = [0.0, -40.0 - c * 40.0, z];
            joints[Joint::LeftShoulder as usize + side] = [0.0, -95.0 - c * 40.0, z];
        }
        Body { joints, visibility: [0.9; JOINTS] }
    }

    /// What counts in bends at eight frames a second.
    fn counted(bends: &[f32]) -> Vec<Excursion> {
        let mut counter = Counter::new(RULE);
        let at = |i: usize| Duration::from_millis(125 * i as u64);
        bends.iter().enumerate().filter_map(|(i, b)| counter.update(at(i), &bent(*b))).collect()
    }

    #[test]
    fn the_signal_is_the_angle() {
        for degrees in [5.0, 45.0, 90.0] {
            let [Some(bend), None] = Signal::Knees.of(&bent(degrees)) else { panic!("one value") };
            assert!((bend - degrees).abs() < 0.5, "{bend} for {degrees}");
        }
    }

    #[test]
    fn a_whole_excursion_counts_once_and_half_of_one_does_not() {
        assert_eq!(counted(&[5.0, 5.0, 50.0, 95.0, 60.0, 5.0, 5.0]), [Excursion::Full]);
        assert_eq!(counted(&[5.0, 5.0, 50.0, 75.0, 60.0, 5.0, 5.0]), [Excursion::Half]);
        assert_eq!(counted(&[5.0, 30.0, 45.0, 50.0, 5.0]), []);
    }

    #[test]
    fn trembling_at_a_threshold_counts_nothing() {
        let around: Vec<f32> = (0..40).map(|i| if i % 2 == 0 { 86.0 } else { 91.0 }).collect();
        assert_eq!(counted(&around), []);
        let with_rest = [&[5.0][..], &around[..], &[5.0, 43.0, 38.0, 43.0, 38.0]].concat();
        assert_eq!(counted(&with_rest), [Excursion::Full]);
    }

    #[test]
    fn whoever_is_seen_first_at_the_bottom_has_done_nothing_yet() {
        assert_eq!(counted(&[95.0, 95.0, 50.0, 5.0]), []);
    }

    #[test]
    fn a_slip_of_one_frame_and_a_gap_count_nothing() {
        assert_eq!(counted(&[5.0, 5.0, 95.0, 5.0, 5.0]), []);
        let mut counter = Counter::new(RULE);
        for (s, bend) in [(0, 5.0), (1, 95.0), (4, 5.0)] {
            assert_eq!(counter.update(Duration::from_secs(s), &bent(bend)), None);
        }
    }

    #[test]
    fn joints_that_are_not_seen_change_nothing() {
        let mut counter = Counter::new(RULE);
        let mut hidden = bent(95.0);
        hidden.visibility = [0.1; JOINTS];
        counter.update(Duration::ZERO, &bent(5.0));
        assert_eq!(counter.update(Duration::from_millis(125), &hidden), None);
        assert_eq!(counter.phase(), Phase::Rest);
        hidden.joints[Joint::LeftKnee as usize] = [f32::NAN; 3];
        hidden.visibility = [0.9; JOINTS];
        assert_eq!(counter.update(Duration::from_millis(250), &hidden), None);
    }
}
