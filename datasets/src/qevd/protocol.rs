//! How each protocol turns frames into events and events into episodes.

use super::loader::Episode;
use crate::metric::Timed;
use serde::{Deserialize, Serialize};

/// One of the two official ways to read the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The benchmark's first evaluation (2024): events at `feedback_timestamps`, times relative to the episode.
    Fitcoach2024,
    /// The challenge of 2026: events at their first frame, times absolute, repeated messages read once.
    Var2026,
}

impl Protocol {
    /// "fitcoach2024" or "var2026".
    pub fn name(self) -> &'static str {
        match self {
            Self::Fitcoach2024 => "fitcoach2024",
            Self::Var2026 => "var2026",
        }
    }

    /// The protocol of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fitcoach2024, Self::Var2026].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// A message over the frames that show it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) text: String,
    pub(super) first: usize,
    pub(super) last: usize,
}

/// `fitcoach2024`: runs of equal text; one that is still open at the last frame is dropped.
pub(super) fn spans(feedbacks: &[String]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut open: Option<Span> = None;
    for (i, text) in feedbacks.iter().enumerate() {
        match &mut open {
            Some(span) if span.text == *text => span.last = i,
            _ => {
                spans.extend(open.take());
                open = (!text.is_empty()).then(|| Span { text: text.clone(), first: i, last: i });
            }
        }
    }
    spans
}

/// `var2026`: a message counts once until another text comes, silent gaps notwithstanding; an open one is kept.
pub(super) fn deduplicated(feedbacks: &[String]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (i, text) in feedbacks.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        match spans.last_mut() {
            Some(span) if span.text == *text => span.last = i,
            _ => spans.push(Span { text: text.clone(), first: i, last: i }),
        }
    }
    spans
}

/// What a transition names: the sentence without the words around the exercise.
pub(super) fn exercise_name(transition: &str) -> String {
    let mut name = transition.to_owned();
    for words in ["First up are ", "Moving on to ", "첫 번째 운동, ", "다음 운동, ", "!"] {
        name = name.replace(words, "");
    }
    name.trim().to_owned()
}

/// A session that has been read and checked: what the rules below work on.
pub(super) struct Timeline<'a> {
    pub(super) id: &'a str,
    /// Seconds of each frame, shifted.
    pub(super) frames: &'a [f64],
    pub(super) spans: &'a [Span],
    pub(super) is_transition: &'a [bool],
    /// Seconds of each event.
    pub(super) times: &'a [f64],
}

impl Timeline<'_> {
    fn frame(&self, i: usize) -> f64 {
        self.frames.get(i).copied().unwrap_or_default()
    }

    /// Pairs of neighbouring transitions, as indices of events.
    fn between(&self) -> Vec<(usize, usize)> {
        let events = self.spans.len();
        let at: Vec<usize> = (0..events).filter(|&i| self.is_transition.get(i).copied().unwrap_or_default()).collect();
        at.iter().copied().zip(at.iter().copied().skip(1)).collect()
    }

    fn truth(&self, from: usize, to: usize, origin: f64) -> Vec<Timed> {
        let events = self.spans.iter().zip(self.times).take(to).skip(from + 1);
        events.map(|(span, t)| Timed::new(t - origin, span.text.clone())).collect()
    }

    /// The episodes under a protocol; those without an event are dropped, but keep their number.
    pub(super) fn episodes(&self, protocol: Protocol) -> Vec<Episode> {
        let mut episodes = Vec::new();
        for (k, (from, to)) in self.between().into_iter().enumerate() {
            let (Some(begin), Some(next)) = (self.spans.get(from), self.spans.get(to)) else { continue };
            let start = self.frame(begin.first);
            let (end, origin) = match protocol {
                Protocol::Fitcoach2024 => (self.frame(next.first + (next.last - next.first) / 2), start),
                Protocol::Var2026 => (self.frame(next.first), 0.0),
            };
            let truth = self.truth(from, to, origin);
            if truth.is_empty() {
                continue;
            }
            episodes.push(Episode {
                id: format!("{}_{k}", self.id),
                exercise: exercise_name(&begin.text),
                start,
                end,
                origin,
                frames: frames_within(self.frames, start, end, protocol),
                truth,
            });
        }
        episodes
    }
}

/// Numbers of the frames of an episode: its first instant belongs to it in `var2026` alone.
pub(super) fn frames_within(frames: &[f64], start: f64, end: f64, protocol: Protocol) -> std::ops::Range<usize> {
    let first = frames.partition_point(|t| match protocol {
        Protocol::Fitcoach2024 => *t <= start,
        Protocol::Var2026 => *t < start,
    });
    first..frames.partition_point(|t| *t <= end).max(first)
}
