//! Prediction files in any of the three published forms.
//!
//! - 2026: `mini_episode_id`, `pred_feedbacks`, `pred_feedback_timestamps`, one entry an episode.
//! - 2025: `video_file`, `feedbacks`, `feedback_timestamps`, one entry a video. Times are UNIX seconds on the clock of
//!   the feedback, or, where they are small, seconds since the video's first frame.
//! - 2024: `GT`, `Pred`, matched pairs alone. Texts can be scored with them, times can't.

use super::{
    error::QevdError,
    loader::{Dataset, Session, stem},
    predictions::{Prediction, read_predictions},
    protocol::Protocol,
    schema::{Fields, read_array},
};
use crate::metric::Timed;
use std::{collections::HashMap, path::Path};

/// Smaller times are no UNIX seconds of a recording, but media time.
const EARLIEST_CLOCK: f64 = 1e8;

/// What a prediction file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Predictions {
    /// What was said in each episode.
    Episodes {
        /// One for each episode the file covers.
        predictions: Vec<Prediction>,
        /// What was left out.
        warnings: Vec<String>,
    },
    /// Matched pairs of truth and prediction.
    Pairs(Vec<(String, String)>),
}

/// Reads a prediction file; its form is told from the fields of its first entry. Times that follow the other protocol are
/// brought to that of the data, with a warning.
///
/// # Errors
/// Everything that is wrong with the entries, at once; or the one thing that is wrong with the file.
pub fn read_any_predictions(path: &Path, data: &[&Dataset]) -> Result<Predictions, QevdError> {
    let entries = read_array(path)?;
    let has = |field: &str| entries.first().is_some_and(|entry| entry.get(field).is_some());
    if has("GT") || has("Pred") {
        return pairs(path, &entries).map(Predictions::Pairs);
    }
    if has("video_file") {
        return videos(path, &entries, data);
    }
    let mut predictions = read_predictions(path)?;
    let warnings = converted(&mut predictions, data).into_iter().collect();
    Ok(Predictions::Episodes { predictions, warnings })
}

/// Brings times on the clock to the begin of their episode under `fitcoach2024`, and times since that begin to the clock
/// under `var2026`; says how many there were.
fn converted(predictions: &mut [Prediction], data: &[&Dataset]) -> Option<String> {
    let on_clock = data.first()?.protocol == Protocol::Fitcoach2024;
    let starts: HashMap<&str, f64> = data.iter().flat_map(|d| d.episodes()).map(|e| (e.id.as_str(), e.start)).collect();
    let mut moved = 0;
    for prediction in predictions {
        // The competition's own times are small: there is no clock to take them for.
        let start = starts.get(prediction.episode.as_str()).copied().filter(|start| *start >= EARLIEST_CLOCK);
        let Some(start) = start else { continue };
        for said in prediction.said.iter_mut().filter(|said| (said.t >= EARLIEST_CLOCK) == on_clock) {
            said.t += if on_clock { -start } else { start };
            moved += 1;
        }
    }
    let (found, brought) = match on_clock {
        true => ("UNIX seconds, as var2026 has them", "seconds since the episode's first frame"),
        false => ("seconds since the episode's first frame, as fitcoach2024 has them", "UNIX seconds"),
    };
    (moved > 0).then(|| format!("{moved} times of predictions are {found}; they were brought to {brought}"))
}

fn pairs(path: &Path, entries: &[serde_json::Value]) -> Result<Vec<(String, String)>, QevdError> {
    let (mut pairs, mut problems) = (Vec::new(), Vec::new());
    for (i, value) in entries.iter().enumerate() {
        let mut fields = Fields::new(i, value, "");
        pairs.push((fields.take("GT", "a text"), fields.take("Pred", "a text")));
        problems.append(&mut fields.problems);
    }
    if problems.is_empty() { Ok(pairs) } else { Err(QevdError::Entries { path: path.into(), problems }) }
}

fn videos(path: &Path, entries: &[serde_json::Value], data: &[&Dataset]) -> Result<Predictions, QevdError> {
    let (mut predictions, mut warnings, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, value) in entries.iter().enumerate() {
        let mut fields = Fields::new(i, value, "video_file");
        let video: String = fields.take("video_file", "the path of a video");
        let name = stem(&video);
        if let Some(name) = &name
            && let Some(first) = seen.insert(name.clone(), i)
        {
            fields.wrong("video_file", format!("video {name} is in entry {first} already; expected once"));
        }
        let texts: Vec<String> = fields.take("feedbacks", "an array of strings");
        let times: Vec<f64> = fields.take("feedback_timestamps", "an array of seconds");
        if fields.problems.is_empty() {
            fields.same_length("feedback_timestamps", times.len(), "feedbacks", texts.len());
        }
        if fields.problems.is_empty() {
            let mut sessions = data.iter().flat_map(|d| &d.sessions);
            match sessions.find(|session| Some(&session.id) == name.as_ref()) {
                Some(session) => {
                    let within = cut(session, &times, &texts);
                    let scored: usize = within.iter().map(|p| p.said.len()).sum();
                    let outside = times.len().saturating_sub(scored);
                    if outside > 0 {
                        warnings.push(format!(
                            "prediction {video}: {outside} of {} feedbacks lie outside of all episodes and are not scored",
                            times.len()
                        ));
                    }
                    predictions.extend(within);
                }
                None => warnings.push(format!("prediction {video} belongs to no session and is left out")),
            }
        }
        problems.append(&mut fields.problems);
    }
    if !problems.is_empty() {
        return Err(QevdError::Entries { path: path.into(), problems });
    }
    Ok(Predictions::Episodes { predictions, warnings })
}

/// What was said in a video, by episode; what falls between two episodes is scored in neither.
fn cut(session: &Session, times: &[f64], texts: &[String]) -> Vec<Prediction> {
    let begin = session.frame_times.first().copied().unwrap_or_default();
    let clock = |t: f64| if t.abs() < EARLIEST_CLOCK && begin > EARLIEST_CLOCK { t + begin } else { t };
    let said = |from: f64, to: f64, origin: f64| {
        let all = times.iter().map(|t| clock(*t)).zip(texts);
        all.filter(|(t, _)| *t >= from && *t < to).map(|(t, text)| Timed::new(t - origin, text.clone())).collect()
    };
    let starts = session.episodes.iter().skip(1).map(|e| e.start).chain([f64::INFINITY]);
    let cut = session.episodes.iter().zip(starts);
    cut.map(|(e, next)| Prediction { episode: e.id.clone(), said: said(e.start, e.end.min(next), e.origin) }).collect()
}
