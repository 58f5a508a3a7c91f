//! Which frames the coach is shown: those on a grid of media time.

use std::time::Duration;

/// Time stamps are often rounded to milliseconds, so a frame this little before its tick still counts as on it.
const TOLERANCE_S: f64 = 0.0006;

/// Takes the first frame at or after each tick of a fixed rate, counted from the first frame. A gap in the frames
/// swallows the ticks inside it; nothing is made up afterwards.
#[derive(Debug)]
pub(crate) struct Sampler {
    period_s: f64,
    first_s: Option<f64>,
    due_s: f64,
}

impl Sampler {
    /// `rate` in frames a second; a rate that is no positive number takes every frame.
    pub(crate) fn new(rate: f64) -> Self {
        let period_s = if rate.is_finite() && rate > 0.0 { 1.0 / rate } else { 0.0 };
        Self { period_s, first_s: None, due_s: 0.0 }
    }

    /// Whether the frame of media time `t` is on a tick.
    pub(crate) fn takes(&mut self, t: Duration) -> bool {
        if self.period_s == 0.0 {
            return true;
        }
        let first_s = *self.first_s.get_or_insert(t.as_secs_f64());
        let since_s = t.as_secs_f64() - first_s + TOLERANCE_S;
        if since_s < self.due_s {
            return false;
        }
        self.due_s = ((since_s / self.period_s).floor() + 1.0) * self.period_s;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: f64, times_ms: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut sampler = Sampler::new(rate);
        times_ms.into_iter().filter(|&ms| sampler.takes(Duration::from_millis(ms))).collect()
    }

    #[test]
    fn a_steady_stream_gives_the_rate() {
        let times = (0..300).map(|i| i * 1000 / 30);
        assert_eq!(taken(8.0, times).len(), 80);
    }

    #[test]
    fn a_slow_stream_is_taken_whole() {
        assert_eq!(taken(8.0, [0, 200, 400, 600]), [0, 200, 400, 600]);
    }

    #[test]
    fn a_gap_is_not_caught_up() {
        assert_eq!(taken(10.0, [0, 50, 100, 1000, 1010, 1020, 1100]), [0, 100, 1000, 1100]);
    }

    #[test]
    fn rounded_stamps_stay_on_the_grid() {
        // 24 frames a second, stamps cut to milliseconds: every third frame, without slipping
        let times = (0..240).map(|i| i * 1000 / 24);
        let got = taken(8.0, times);
        assert_eq!(got.len(), 80);
        assert!(got.windows(2).all(|w| (124..=126).contains(&(w[1] - w[0]))));
    }
}
