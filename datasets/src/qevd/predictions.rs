//! Prediction files in the form of the 2026 challenge, which Spotter uses for both protocols.

use super::{
    error::QevdError,
    loader::Episode,
    schema::{Fields, read_array},
};
use crate::metric::{Timed, timing::Timing};
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// What a model said in one episode. Times are those of [`Episode::truth`]: UNIX seconds on the shifted clock under
/// `var2026`, seconds since the episode's start under `fitcoach2024`.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// [`Episode::id`].
    pub episode: String,
    /// What was said, in the order of the file.
    pub said: Vec<Timed>,
}

#[derive(Serialize)]
struct Entry<'a> {
    mini_episode_id: &'a str,
    pred_feedbacks: Vec<&'a str>,
    pred_feedback_timestamps: Vec<f64>,
}

/// Reads a prediction file.
///
/// # Errors
/// Everything that is wrong with the entries, at once; or the one thing that is wrong with the file.
pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>, QevdError> {
    let (mut predictions, mut problems) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for (i, value) in read_array(path)?.iter().enumerate() {
        let mut fields = Fields::new(i, value, "mini_episode_id");
        let episode: String = fields.take("mini_episode_id", "the id of an episode");
        let texts: Vec<String> = fields.take("pred_feedbacks", "an array of strings");
        let times: Vec<f64> = fields.take("pred_feedback_timestamps", "an array of seconds");
        if fields.problems.is_empty() {
            fields.same_length("pred_feedback_timestamps", times.len(), "pred_feedbacks", texts.len());
            if !seen.insert(episode.clone()) {
                fields.wrong("mini_episode_id", "appears twice");
            }
        }
        problems.append(&mut fields.problems);
        predictions.push(Prediction {
            episode,
            said: times.into_iter().zip(texts).map(|(t, text)| Timed { t, text }).collect(),
        });
    }
    if !problems.is_empty() {
        return Err(QevdError::Entries { path: path.into(), problems });
    }
    Ok(predictions)
}

/// Writes a prediction file; the same predictions give the same bytes.
///
/// # Errors
/// A time that is not finite, which JSON can't hold; a file that can't be written.
pub fn write_predictions(path: &Path, predictions: &[Prediction]) -> Result<(), QevdError> {
    let broken = |prediction: &&Prediction| prediction.said.iter().any(|said| !said.t.is_finite());
    if let Some(prediction) = predictions.iter().find(broken) {
        let what = format!("a time of {} is not finite; expected seconds", prediction.episode);
        return Err(QevdError::Format { path: path.into(), what });
    }
    let entries: Vec<Entry<'_>> = predictions
        .iter()
        .map(|prediction| Entry {
            mini_episode_id: &prediction.episode,
            pred_feedbacks: prediction.said.iter().map(|said| said.text.as_str()).collect(),
            pred_feedback_timestamps: prediction.said.iter().map(|said| said.t).collect(),
        })
        .collect();
    super::writer::write_json(path, &entries)
}

/// Episodes with what was predicted for them.
#[derive(Clone, Debug)]
pub struct Aligned<'a> {
    /// Each episode with its predictions; none where the file has none.
    pub pairs: Vec<(&'a Episode, &'a [Timed])>,
    /// Episodes without predictions, and predictions without an episode; to be shown.
    pub warnings: Vec<String>,
}

impl Aligned<'_> {
    /// Temporal scores, pooled over all episodes.
    pub fn timing(&self) -> Timing {
        Timing::pooled(self.pairs.iter().map(|(episode, said)| (episode.truth.as_slice(), *said)))
    }
}

/// Brings predictions to their episodes, in any order. An episode without predictions stays: its truths are missed.
pub fn align<'a>(episodes: impl IntoIterator<Item = &'a Episode>, predictions: &'a [Prediction]) -> Aligned<'a> {
    let mut by_id: HashMap<&str, &[Timed]> =
        predictions.iter().map(|p| (p.episode.as_str(), p.said.as_slice())).collect();
    let mut aligned = Aligned { pairs: Vec::new(), warnings: Vec::new() };
    for episode in episodes {
        let said = by_id.remove(episode.id.as_str());
        if said.is_none() {
            let missed = episode.truth.len();
            aligned.warnings.push(format!("episode {} has no prediction: {missed} truths count as missed", episode.id));
        }
        aligned.pairs.push((episode, said.unwrap_or_default()));
    }
    let mut unknown: Vec<&str> = by_id.into_keys().collect();
    unknown.sort_unstable();
    aligned.warnings.extend(unknown.iter().map(|id| format!("prediction {id} belongs to no episode and is left out")));
    aligned
}
