//! Finds people in a whole frame: BlazePose's detector.

use super::{
    crop::{Border, Roi, crop},
    runtime::{Model, Runtime},
};
use crate::{Frame, lens::LensError};
use std::path::Path;

/// Side of the input in pixels.
const SIZE: usize = 224;
/// Cells in a row, and anchors a cell, of each grid; the three layers of stride 32 share one.
const GRIDS: [(usize, usize); 3] = [(28, 2), (14, 2), (7, 6)];
/// Anchors in all.
const ANCHORS: usize = 2254;
/// Values a box: centre, size, and four key points.
const VALUES: usize = 12;
/// A weaker detection is nobody.
const MIN_SCORE: f32 = 0.5;
/// Boxes that overlap more than this (intersection over union) are one person.
const MAX_OVERLAP: f32 = 0.3;
/// Two regions whose centres are closer than this share of the larger side are one person, too: the box is the face's,
/// and two boxes of one face may touch less than [`MAX_OVERLAP`].
const SAME_PERSON: f32 = 0.15;

/// A person found in a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Probability, 0 to 1.
    pub score: f32,
    /// The region of the whole person, in pixels of the frame.
    pub roi: Roi,
}

/// The detector with its model.
pub struct Detector {
    model: Model,
    anchors: Vec<[f32; 2]>,
    input: Vec<f32>,
}

impl Detector {
    /// Loads `pose_detection.onnx`.
    ///
    /// # Errors
    /// [`LensError::Model`] when the file is missing, broken or another model.
    pub fn load(runtime: &Runtime, path: &Path, threads: usize) -> Result<Self, LensError> {
        let outputs = [("Identity", ANCHORS * VALUES), ("Identity_1", ANCHORS)];
        let model = runtime.model(path, &[1, SIZE, SIZE, 3], &outputs, threads)?;
        Ok(Self { model, anchors: anchors(), input: Vec::new() })
    }

    /// The people in a frame, the largest first.
    ///
    /// # Errors
    /// [`LensError::Run`] when the runtime fails.
    pub fn detect(&mut self, frame: &Frame) -> Result<Vec<Detection>, LensError> {
        let whole = Roi::whole(frame.width, frame.height);
        crop(frame, &whole, SIZE, Border::Black, [-1.0, 1.0], &mut self.input);
        let outputs = self.model.run(&self.input)?;
        let [boxes, scores] = outputs.as_slice() else { return Ok(Vec::new()) };
        let candidates = self
            .anchors
            .iter()
            .zip(boxes.chunks_exact(VALUES))
            .zip(scores)
            .filter_map(|((anchor, values), logit)| Candidate::decode(*anchor, values, *logit))
            .collect();
        let mut people: Vec<Detection> = merge(candidates)
            .iter()
            .map(|c| Detection {
                score: c.score,
                roi: Roi::around(whole.to_frame(c.point(0)), whole.to_frame(c.point(1))),
            })
            .filter(|d| d.roi.is_sane(frame))
            .collect();
        people.sort_by(|a, b| b.roi.side.total_cmp(&a.roi.side));
        Ok(distinct(people))
    }
}

/// Drops detections of a person already in the list.
fn distinct(people: Vec<Detection>) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::new();
    for person in people {
        if !kept.iter().any(|k| near(&k.roi, &person.roi, SAME_PERSON)) {
            kept.push(person);
        }
    }
    kept
}

/// Whether the centres of two regions are closer than `share` of the larger side.
pub(super) fn near(a: &Roi, b: &Roi, share: f32) -> bool {
    let distance = (a.centre[0] - b.centre[0]).hypot(a.centre[1] - b.centre[1]);
    distance < share * a.side.max(b.side)
}

/// Centres of the anchors in units of the input; all have size 1.
fn anchors() -> Vec<[f32; 2]> {
    let mut all = Vec::with_capacity(ANCHORS);
    for (cells, each) in GRIDS {
        for cell in 0..cells * cells {
            let centre = [(cell % cells) as f32 + 0.5, (cell / cells) as f32 + 0.5].map(|c| c / cells as f32);
            all.extend(std::iter::repeat_n(centre, each));
        }
    }
    all
}

/// A decoded box in units of the input: centre, size, four key points.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    score: f32,
    values: [f32; VALUES],
}

impl Candidate {
    fn decode(anchor: [f32; 2], raw: &[f32], logit: f32) -> Option<Self> {
        let score = 1.0 / (1.0 + (-logit.clamp(-100.0, 100.0)).exp());
        if !(score >= MIN_SCORE && raw.iter().all(|v| v.is_finite())) {
            return None;
        }
        let raw: [f32; VALUES] = raw.try_into().ok()?;
        let values = std::array::from_fn(|i| {
            let offset = if i == 2 || i == 3 { 0.0 } else { anchor[i % 2] };
            raw[i] / SIZE as f32 + offset
        });
        Some(Self { score, values })
    }

    fn point(&self, k: usize) -> [f32; 2] {
        [self.values[4 + 2 * k], self.values[5 + 2 * k]]
    }

    fn overlap(&self, other: &Self) -> f32 {
        let shared = |i: usize| {
            let end = (self.values[i] + self.values[i + 2] / 2.0).min(other.values[i] + other.values[i + 2] / 2.0);
            let begin = (self.values[i] - self.values[i + 2] / 2.0).max(other.values[i] - other.values[i + 2] / 2.0);
            (end - begin).max(0.0)
        };
        let both = shared(0) * shared(1);
        let area = |c: &Self| c.values[2] * c.values[3];
        both / (area(self) + area(other) - both).max(f32::EPSILON)
    }
}

/// Weighted non-maximum suppression: overlapping boxes become their mean, weighted by score.
fn merge(mut left: Vec<Candidate>) -> Vec<Candidate> {
    left.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merged = Vec::new();
    while let Some(best) = left.first().copied() {
        let (same, others): (Vec<Candidate>, Vec<Candidate>) =
            left.iter().skip(1).copied().partition(|c| best.overlap(c) > MAX_OVERLAP);
        let mut total = best.score;
        let mut values = best.values.map(|v| v * best.score);
        for candidate in same {
            total += candidate.score;
            values.iter_mut().zip(candidate.values).for_each(|(sum, v)| *sum += v * candidate.score);
        }
        merged.push(Candidate { score: best.score, values: values.map(|v| v / total) });
        left = others;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(x: f32, score: f32) -> Candidate {
        Candidate { score, values: [x, 0.5, 0.2, 0.2, x, 0.6, x, 0.3, x, 0.4, x, 0.2] }
    }

    #[test]
    fn there_is_an_anchor_for_each_box() {
        let anchors = anchors();
        assert_eq!(anchors.len(), ANCHORS);
        assert_eq!(anchors[0], [0.5 / 28.0, 0.5 / 28.0]);
        assert_eq!(anchors[2], [1.5 / 28.0, 0.5 / 28.0], "two anchors a cell, columns first");
        assert_eq!(anchors[28 * 28 * 2], [0.5 / 14.0, 0.5 / 14.0]);
        assert_eq!(anchors[ANCHORS - 1], [6.5 / 7.0, 6.5 / 7.0]);
    }

    #[test]
    fn overlapping_boxes_become_their_weighted_mean() {
        let merged = merge(vec![candidate(0.22, 0.6), candidate(0.2, 0.9), candidate(0.7, 0.8)]);
        assert_eq!(merged.len(), 2);
        assert!((merged[0].values[0] - (0.2 * 0.9 + 0.22 * 0.6) / 1.5).abs() < 1e-6);
        assert!((merged[0].score - 0.9).abs() < 1e-6);
        assert!((merged[1].values[0] - 0.7).abs() < 1e-6);
    }

    #[test]
    fn a_box_is_decoded_from_its_anchor() {
        let raw = [22.4, 0.0, 44.8, 67.2, 0.0, 11.2, 0.0, -22.4, 0.0, 0.0, 0.0, 0.0];
        let c = Candidate::decode([0.5, 0.25], &raw, 2.0).unwrap();
        assert!(
            (c.values[0] - 0.6).abs() < 1e-6 && (c.values[2] - 0.2).abs() < 1e-6 && (c.values[3] - 0.3).abs() < 1e-6
        );
        assert!((c.point(0)[1] - 0.3).abs() < 1e-6 && (c.point(1)[1] - 0.15).abs() < 1e-6);
        assert!((c.score - 0.880_797).abs() < 1e-5);
        assert!(Candidate::decode([0.5, 0.5], &raw, -1.0).is_none(), "too weak");
        assert!(Candidate::decode([0.5, 0.5], &[f32::NAN; 12], 5.0).is_none(), "not a number");
    }
}
