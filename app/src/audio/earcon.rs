//! Sounds without words.

use super::{Priority, Sound};
use std::f32::consts::TAU;

const RATE: u32 = 22_050;

/// The sound in the place of a cue that can't be spoken: what matters more lies lower.
pub(super) fn of(priority: Priority) -> Sound {
    match priority {
        Priority::Tick => tick(),
        Priority::Praise => notes(&[(660.0, 0.12), (880.0, 0.16)]),
        Priority::Count => notes(&[(880.0, 0.1)]),
        Priority::Program => notes(&[(523.0, 0.12), (523.0, 0.12), (784.0, 0.2)]),
        Priority::Correction => notes(&[(440.0, 0.16), (330.0, 0.24)]),
    }
}

/// A repetition was counted.
pub(super) fn tick() -> Sound {
    notes(&[(1320.0, 0.05)])
}

/// Notes of so many hertz and seconds, each faded in and out so that none clicks.
fn notes(notes: &[(f32, f32)]) -> Sound {
    let mut samples = Vec::new();
    for &(pitch, seconds) in notes {
        let n = (seconds * RATE as f32) as usize;
        let fade = (n / 6).max(1) as f32;
        samples.extend((0..n).map(|i| {
            let edge = (i.min(n - 1 - i) as f32 / fade).min(1.0);
            (TAU * pitch * i as f32 / RATE as f32).sin() * 0.35 * edge
        }));
    }
    Sound { rate: RATE, samples: samples.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_differ_and_do_not_click() {
        let all = [Priority::Tick, Priority::Praise, Priority::Count, Priority::Program, Priority::Correction].map(of);
        for (i, a) in all.iter().enumerate() {
            assert!(a.samples.iter().any(|v| v.abs() > 0.2) && a.samples.iter().all(|v| v.abs() <= 0.35));
            assert_eq!((a.samples.first(), a.samples.last().map(|v| v.abs() < 0.01)), (Some(&0.0), Some(true)));
            assert!(all[..i].iter().all(|b| b.samples != a.samples));
        }
    }
}
