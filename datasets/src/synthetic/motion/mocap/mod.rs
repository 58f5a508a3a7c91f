//! Motion of real people, where recordings of it are at hand.

mod markers;
mod retarget;
mod skeleton;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rand::Rng;
use spotter_vision::body::Joint;

use self::retarget::Build;
use super::transition::{facing_of, transition};
use super::vector::{V3, degrees_between, lerp, mix, norm, scale, sub, turn, unit};
use crate::synthetic::exercise::{Exercise, FPS, Posture, Rep, Take};
use crate::synthetic::measure;

/// Why recorded motion could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MotionError {
    /// A file is missing or not readable.
    #[error("cannot read the motion file {path}: {source}; see the README of the shared data for what belongs there")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged or of another format: {what}; fetch it again")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Who is learnt from, and who is kept for validation. No person is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// UI-PRMD persons 1 to 8, CMU subject 13.
    Train,
    /// UI-PRMD person 9, CMU subject 14.
    Validation,
}

/// Where a clip is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    set: &'static str,
    person: u32,
}

impl Source {
    fn split(self) -> Split {
        let kept = matches!((self.set, self.person), ("ui-prmd", 9..) | ("cmu", 14..));
        if kept { Split::Validation } else { Split::Train }
    }
}

/// One repetition by one person at [`FPS`], which begins facing the camera of yaw 0 with the hips over the origin.
#[derive(Clone, Debug)]
struct Clip {
    exercise: Exercise,
    source: Source,
    /// The data set's own verdict on it.
    correct: bool,
    postures: Vec<Posture>,
    peak: usize,
}

impl Clip {
    /// A clip that is one repetition as it is.
    fn single(exercise: Exercise, source: Source, correct: bool, postures: Vec<Posture>) -> Option<Self> {
        let effort: Vec<f32> = postures.iter().map(|p| effort(exercise, p)).collect();
        let peak = argmax(&effort);
        let whole = postures.len() >= 12 && peak > 1 && peak + 2 < postures.len();
        whole.then_some(Self { exercise, source, correct, postures, peak })
    }
}

/// Recorded repetitions of real people.
#[derive(Clone, Debug)]
pub struct MotionLibrary {
    clips: Vec<Clip>,
}

impl MotionLibrary {
    /// Reads `ui_prmd_25hz.safetensors` and `cmu/` in `dir`.
    ///
    /// # Errors
    /// A file is missing, unreadable or mangled; the error names it.
    pub fn load(dir: &Path) -> Result<Self, MotionError> {
        let mut clips = markers::load(&dir.join("ui_prmd_25hz.safetensors"))?;
        clips.extend(skeleton::load(&dir.join("cmu"))?);
        Ok(Self { clips })
    }

    /// Number of repetitions of an exercise in a split.
    pub fn repetitions(&self, exercise: Exercise, split: Split) -> usize {
        self.clips.iter().filter(|c| c.exercise == exercise && c.source.split() == split).count()
    }

    /// `reps` repetitions by one recorded person whose limbs are resized to somebody else's, mirrored half of the time,
    /// facing `facing` (see [`Style::facing`](super::Style::facing)); `None` where nobody in the split was recorded
    /// doing it. Repetitions are drawn from the person's right and wrong ones and repeat when there are too few.
    pub fn take(&self, exercise: Exercise, reps: usize, facing: f32, split: Split, rng: &mut impl Rng) -> Option<Take> {
        let fits = |c: &&Clip| c.exercise == exercise && c.source.split() == split;
        let all: Vec<&Clip> = self.clips.iter().filter(fits).collect();
        let mut people: Vec<Source> = Vec::new();
        for clip in &all {
            if !people.contains(&clip.source) {
                people.push(clip.source);
            }
        }
        if people.is_empty() {
            return None;
        }
        let person = people[rng.random_range(0..people.len())];
        let own: Vec<&Clip> = all.into_iter().filter(|c| c.source == person).collect();
        let build = Build::random(rng);
        let mirror = rng.random_bool(0.5);
        // Some do it well nearly always, others seldom.
        let skill: f64 = rng.random_range(0.35..0.95);
        let mut take = Take { exercise, postures: Vec::new(), reps: Vec::with_capacity(reps) };
        for _ in 0..reps {
            let correct = rng.random_bool(skill);
            let fitting: Vec<&&Clip> = own.iter().filter(|c| c.correct == correct).collect();
            let clip = if fitting.is_empty() {
                own[rng.random_range(0..own.len())]
            } else {
                fitting[rng.random_range(0..fitting.len())]
            };
            let postures: Vec<Posture> = clip
                .postures
                .iter()
                .map(|p| if mirror { mirrored(p) } else { *p })
                .map(|p| build.resize(&p).map(|j| turn(j, facing)))
                .collect();
            append(&mut take, postures, clip.peak, rng);
        }
        Some(take)
    }
}

fn append(take: &mut Take, postures: Vec<Posture>, peak: usize, rng: &mut impl Rng) {
    if let (Some(last), Some(first)) = (take.postures.last(), postures.first()) {
        // As long as the way between the two postures asks for.
        let apart = last.iter().zip(first).map(|(&a, &b)| norm(sub(a, b))).fold(0.0, f32::max);
        let seconds = (apart / 0.8).clamp(0.1, 0.8) + rng.random_range(0.0..0.15);
        let between = transition(last, first, seconds);
        take.postures.extend(between);
    }
    let start = take.postures.len();
    let mistakes = measure::mistakes(take.exercise, &postures, peak);
    take.postures.extend(postures);
    take.reps.push(Rep { start, peak: start + peak, end: take.postures.len(), mistakes });
}

/// The same posture with left and right exchanged.
fn mirrored(p: &Posture) -> Posture {
    let mut out = p.map(|[x, y, z]| [-x, y, z]);
    for left in (Joint::LeftShoulder as usize..=Joint::LeftToe as usize).step_by(2) {
        out.swap(left, left + 1);
    }
    out
}

/// Linear interpolation from `rate` to [`FPS`].
fn resample(postures: &[Posture], rate: f32) -> Vec<Posture> {
    let seconds = postures.len().saturating_sub(1) as f32 / rate;
    let frames = (seconds * FPS) as usize + 1;
    (0..frames)
        .filter_map(|i| {
            let at = i as f32 / FPS * rate;
            let (low, t) = (at as usize, at.fract());
            let (a, b) = (postures.get(low)?, postures.get(low + 1).or(postures.get(low))?);
            Some(std::array::from_fn(|j| mix(a[j], b[j], t)))
        })
        .collect()
}

/// Turns and moves a clip so that it begins facing the camera with the hips over the origin, feet on the floor.
fn normalise(postures: Vec<Posture>) -> Vec<Posture> {
    let Some(first) = postures.first() else {
        return postures;
    };
    // The way most of it faces: a first frame may be turned.
    let (s, c) = postures.iter().map(|p| facing_of(p).sin_cos()).fold((0.0, 0.0), |(s, c), (a, b)| (s + a, c + b));
    let facing = s.atan2(c);
    let hips = scale(super::vector::add(first[Joint::LeftHip as usize], first[Joint::RightHip as usize]), 0.5);
    let mut lows: Vec<f32> = postures.iter().map(|p| p.iter().map(|j| j[2]).fold(f32::INFINITY, f32::min)).collect();
    lows.sort_by(f32::total_cmp);
    let floor = lows[lows.len() / 10] - 0.015;
    let place = |j: V3| turn(sub(j, [hips[0], hips[1], floor]), -facing);
    postures.into_iter().map(|p| p.map(place)).collect()
}

/// How far into the movement a posture is, in some unit of the exercise.
fn effort(exercise: Exercise, p: &Posture) -> f32 {
    let at = |j: Joint| p[j as usize];
    let hips = (at(Joint::LeftHip)[2] + at(Joint::RightHip)[2]) / 2.0;
    let wrists = (at(Joint::LeftWrist)[2], at(Joint::RightWrist)[2]);
    let shoulders = (at(Joint::LeftShoulder)[2] + at(Joint::RightShoulder)[2]) / 2.0;
    let side = |hip: Joint, knee: Joint| degrees_between(sub(at(knee), at(hip)), [0.0, 0.0, -1.0]) / 90.0;
    match exercise {
        Exercise::SitToStand => hips,
        Exercise::HighKnees | Exercise::HurdleStep | Exercise::LegRaise => {
            side(Joint::LeftHip, Joint::LeftKnee).max(side(Joint::RightHip, Joint::RightKnee))
        }
        Exercise::JumpingJack | Exercise::ArmCircles | Exercise::LateralRaise => wrists.0.max(wrists.1) - shoulders,
        Exercise::ShoulderRotation => (wrists.0 - at(Joint::LeftElbow)[2]).max(wrists.1 - at(Joint::RightElbow)[2]),
        Exercise::ToeTouch => -wrists.0.min(wrists.1),
        Exercise::Boxing => {
            let arm = |s: Joint, w: Joint| norm(sub(at(w), at(s)));
            arm(Joint::LeftShoulder, Joint::LeftWrist).max(arm(Joint::RightShoulder, Joint::RightWrist))
        }
        Exercise::SideBend => {
            let up = unit(sub(
                mix(at(Joint::LeftShoulder), at(Joint::RightShoulder), 0.5),
                mix(at(Joint::LeftHip), at(Joint::RightHip), 0.5),
            ));
            up[0].abs()
        }
        _ => -hips,
    }
}

fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}

/// Cuts a recording of several repetitions into single ones.
fn segment(exercise: Exercise, source: Source, postures: Vec<Posture>) -> Vec<Clip> {
    let raw: Vec<f32> = postures.iter().map(|p| effort(exercise, p)).collect();
    let smooth: Vec<f32> = (0..raw.len())
        .map(|i| {
            let around = &raw[i.saturating_sub(2)..(i + 3).min(raw.len())];
            around.iter().sum::<f32>() / around.len() as f32
        })
        .collect();
    let mut sorted = smooth.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f32| sorted.get((share * sorted.len() as f32) as usize).copied().unwrap_or(0.0);
    let (low, high) = (at(0.05), at(0.95));
    let (into, out) = (lerp(low, high, 0.55), lerp(low, high, 0.4));
    // Excursions above the middle, with hysteresis.
    let mut excursions: Vec<(usize, usize)> = Vec::new();
    let mut since = None;
    for (i, &v) in smooth.iter().enumerate() {
        match since {
            None if v > into => since = Some(i),
            Some(from) if v < out => {
                excursions.push((from, i));
                since = None;
            }
            _ => {}
        }
    }
    let edge = lerp(low, high, 0.12);
    let mut clips = Vec::new();
    for (n, &(from, to)) in excursions.iter().enumerate() {
        let before = if n == 0 { 0 } else { excursions[n - 1].1 };
        let after = excursions.get(n + 1).map_or(smooth.len(), |e| e.0);
        // The latest rest before it and the earliest after it; where there is none, the lowest point between.
        let valley = |range: std::ops::Range<usize>| range.min_by(|&a, &b| smooth[a].total_cmp(&smooth[b]));
        let start = (before..from).rev().find(|&i| smooth[i] < edge).or_else(|| valley(before..from)).unwrap_or(from);
        let end = (to..after).find(|&i| smooth[i] < edge).or_else(|| valley(to..after)).unwrap_or(to);
        let clip = normalise(postures[start..=end.min(postures.len() - 1)].to_vec());
        clips.extend(Clip::single(exercise, source, true, clip));
    }
    clips
}
