//! The 1 euro filter (Casiez, Roussel and Vogel, CHI 2012): steady when still, quick when moving.

use crate::{Body, body::JOINTS};
use std::time::Duration;

/// Parameters. Speeds are in body sizes a second, so that they hold for a person near or far and for any picture size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneEuro {
    /// Cut-off at rest, in hertz: lower is steadier.
    pub min_cutoff: f32,
    /// Hertz more of cut-off for each body size a second: higher lags less.
    pub beta: f32,
    /// Cut-off of the speed estimate, in hertz.
    pub speed_cutoff: f32,
}

impl Default for OneEuro {
    /// At rest a tenth of a second of lag at 25 frames a second; a squat at its fastest (about one body height in a
    /// second) passes nearly unchanged.
    fn default() -> Self {
        Self { min_cutoff: 1.0, beta: 30.0, speed_cutoff: 2.0 }
    }
}

/// Share of the new value in an exponential filter with this cut-off.
pub fn smoothing(cutoff: f32, seconds: f32) -> f32 {
    let r = std::f32::consts::TAU * cutoff * seconds;
    r / (r + 1.0)
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    value: f32,
    speed: f32,
}

impl Channel {
    fn next(&mut self, input: f32, seconds: f32, size: f32, p: &OneEuro) -> f32 {
        let speed = (input - self.value) / (seconds * size);
        self.speed += smoothing(p.speed_cutoff, seconds) * (speed - self.speed);
        let cutoff = p.min_cutoff + p.beta * self.speed.abs();
        self.value += smoothing(cutoff, seconds) * (input - self.value);
        self.value
    }
}

/// Filters the joints of one person.
#[derive(Clone, Debug)]
pub struct BodyFilter {
    parameters: OneEuro,
    last: Option<(Duration, [[Channel; 3]; JOINTS])>,
}

/// A longer gap starts the filter afresh: the person may have moved anywhere.
const LONGEST_GAP: Duration = Duration::from_secs(1);

impl BodyFilter {
    /// A filter that has seen nothing.
    pub fn new(parameters: OneEuro) -> Self {
        Self { parameters, last: None }
    }

    /// Forgets the person.
    pub fn reset(&mut self) {
        self.last = None;
    }

    /// The filtered body at media time `t`. `size` is the size of the body in pixels. Visibility passes as it is.
    ///
    /// Time that stands still or runs backwards starts afresh, as a gap of more than a second does.
    pub fn next(&mut self, t: Duration, body: &Body, size: f32) -> Body {
        let mut filtered = body.clone();
        let gap = self.last.as_ref().and_then(|(last, _)| t.checked_sub(*last));
        match (&mut self.last, gap) {
            (Some((last, channels)), Some(gap)) if !gap.is_zero() && gap <= LONGEST_GAP && size > 0.0 => {
                *last = t;
                for (joint, channels) in filtered.joints.iter_mut().zip(channels) {
                    for (value, channel) in joint.iter_mut().zip(channels) {
                        *value = channel.next(*value, gap.as_secs_f32(), size, &self.parameters);
                    }
                }
            }
            (last, _) => *last = Some((t, body.joints.map(|joint| joint.map(|value| Channel { value, speed: 0.0 })))),
        }
        filtered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(x: f32) -> Body {
        Body { joints: [[x, -x, 0.0]; JOINTS], visibility: [1.0; JOINTS] }
    }

    fn run(parameters: OneEuro, inputs: impl IntoIterator<Item = f32>) -> Vec<f32> {
        let mut filter = BodyFilter::new(parameters);
        let frame = Duration::from_millis(40);
        inputs
            .into_iter()
            .enumerate()
            .map(|(i, x)| filter.next(frame * i as u32, &body(x), 100.0).joints[3][0])
            .collect()
    }

    #[test]
    fn with_beta_zero_a_step_follows_the_exponential_filter() {
        let parameters = OneEuro { min_cutoff: 2.0, beta: 0.0, speed_cutoff: 1.0 };
        let out = run(parameters, [0.0].into_iter().chain([1.0; 10]));
        let keep = 1.0 - smoothing(2.0, 0.04);
        for (n, value) in out.iter().enumerate() {
            let expected = 1.0 - keep.powi(n as i32);
            assert!((value - expected).abs() < 1e-5, "after {n}: {value}, expected {expected}");
        }
    }

    #[test]
    fn smoothing_is_the_closed_form() {
        // Cut-off at one radian a sample: r = 1, half of the new value.
        assert!((smoothing(1.0 / std::f32::consts::TAU, 1.0) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn jitter_at_rest_shrinks_and_fast_motion_passes() {
        let jitter = run(OneEuro::default(), (0..200).map(|i| if i % 2 == 0 { 0.3 } else { -0.3 }));
        let worst = jitter[50..].iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(worst < 0.15, "0.3 px of jitter left {worst}");
        // One body size (100 px) a second.
        let moved = run(OneEuro::default(), (0..50).map(|i| i as f32 * 4.0));
        let lag = 49.0 * 4.0 - moved[49];
        assert!((0.0..2.0).contains(&lag), "lags {lag} px");
    }

    #[test]
    fn a_gap_a_reset_and_a_clock_that_stands_start_afresh() {
        let mut filter = BodyFilter::new(OneEuro::default());
        filter.next(Duration::ZERO, &body(0.0), 100.0);
        assert_eq!(filter.next(Duration::from_secs(3), &body(50.0), 100.0).joints[0][0], 50.0);
        assert_eq!(filter.next(Duration::from_secs(3), &body(70.0), 100.0).joints[0][0], 70.0);
        assert_eq!(filter.next(Duration::from_secs(1), &body(90.0), 100.0).joints[0][0], 90.0);
        filter.reset();
        assert_eq!(filter.next(Duration::from_millis(1040), &body(10.0), 100.0).joints[0][0], 10.0);
    }
}
