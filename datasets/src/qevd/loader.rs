//! Loads a folder of sessions under one of the protocols.

use super::{
    ZONE_SHIFT,
    error::{Problem, QevdError},
    npy::read_timestamps,
    protocol::{Protocol, Timeline, deduplicated, frames_within, spans},
    schema::{Fields, SessionRecord, read_array, record},
    writer::INDEX_FILE,
};
use crate::metric::Timed;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    ops::{AddAssign, Range},
    path::{Path, PathBuf},
};

/// One exercise of a session: what models are scored on.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// `{video}_{number}`; numbers of dropped episodes are left out.
    pub id: String,
    /// Name of the exercise, as the transition says it.
    pub exercise: String,
    /// Seconds at which it begins, on the shifted clock.
    pub start: f64,
    /// Seconds at which it ends.
    pub end: f64,
    /// Subtracted from clock times to get times of `truth` and of predictions.
    pub origin: f64,
    /// Numbers of its frames in the video.
    pub frames: Range<usize>,
    /// What the coach said, relative to `origin`. Empty in the competition variant.
    pub truth: Vec<Timed>,
}

/// A loaded session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Name of the video without its ending.
    pub id: String,
    /// The video.
    pub video: PathBuf,
    /// Seconds of each frame, on the clock of the feedback.
    pub frame_times: Vec<f64>,
    /// What is scored.
    pub episodes: Vec<Episode>,
}

/// What a protocol reads out of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Messages of the coach.
    pub events: usize,
    /// Those that announce an exercise, or the end.
    pub transitions: usize,
    /// All the others.
    pub regular: usize,
    /// Those that are scored: all within an episode.
    pub truths: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.events += other.events;
        self.transitions += other.transitions;
        self.regular += other.regular;
        self.truths += other.truths;
    }
}

/// A loaded folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The protocol it was loaded under.
    pub protocol: Protocol,
    /// It is the competition variant, which has no truths.
    pub competition: bool,
    /// What was read.
    pub counts: Counts,
    /// In order of the file.
    pub sessions: Vec<Session>,
    /// What looks wrong but follows the protocol; to be shown.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// All episodes.
    pub fn episodes(&self) -> impl Iterator<Item = &Episode> {
        self.sessions.iter().flat_map(|session| &session.episodes)
    }

    /// Number of truths; it differs between the protocols.
    pub fn truths(&self) -> usize {
        self.episodes().map(|episode| episode.truth.len()).sum()
    }
}

/// Loads `feedbacks_long_range.json` of `folder` with the frame times it names. A path that contains "competition"
/// holds the competition variant under [`Protocol::Var2026`].
///
/// # Errors
/// Everything that is wrong with the entries, at once; or the one thing that is wrong with the file.
pub fn load(folder: &Path, protocol: Protocol) -> Result<Dataset, QevdError> {
    let path = folder.join(INDEX_FILE);
    let competition = protocol == Protocol::Var2026 && folder.to_string_lossy().to_lowercase().contains("competition");
    let (counts, sessions, warnings) = (Counts::default(), Vec::new(), Vec::new());
    let mut dataset = Dataset { protocol, competition, counts, sessions, warnings };
    let mut problems: Vec<Problem> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, value) in read_array(&path)?.iter().enumerate() {
        let mut fields = Fields::new(i, value, "long_range_video_file");
        let record = record(&mut fields, competition);
        if let Some(id) = stem(&record.long_range_video_file)
            && let Some(first) = seen.insert(id.clone(), i)
        {
            fields.wrong("long_range_video_file", format!("session {id} is in entry {first} already; expected once"));
        }
        let loader = Loader { folder, protocol, competition, record, number: i };
        let session = loader.session(&mut fields, &mut dataset);
        dataset.sessions.extend(session);
        problems.append(&mut fields.problems);
    }
    if !problems.is_empty() {
        return Err(QevdError::Entries { path, problems });
    }
    dataset.counts.sessions = dataset.sessions.len();
    dataset.counts.truths = dataset.truths();
    let outside = dataset.counts.regular.saturating_sub(dataset.counts.truths);
    if outside > 0 {
        let (folder, protocol) = (folder.file_name().unwrap_or_default().to_string_lossy(), protocol.name());
        dataset.warnings.push(format!(
            "{folder}: {outside} messages lie outside of all episodes and are not scored, as {protocol} has it"
        ));
    }
    Ok(dataset)
}

/// Name of a file without folder and ending.
pub(super) fn stem(path: &str) -> Option<String> {
    Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

struct Loader<'a> {
    folder: &'a Path,
    protocol: Protocol,
    competition: bool,
    record: SessionRecord,
    number: usize,
}

impl Loader<'_> {
    /// The session, or problems noted in `fields`; `dataset` gets counts and warnings.
    fn session(&self, fields: &mut Fields<'_>, dataset: &mut Dataset) -> Option<Session> {
        let sound = fields.problems.is_empty();
        let id = stem(&self.record.long_range_video_file);
        if id.is_none() && sound {
            fields.wrong("long_range_video_file", "expected the path of a video");
        }
        // Looked at even where something else is wrong, so that all is told at once.
        let frame_times =
            if self.record.video_timestamps.is_empty() && !sound { None } else { self.frame_times(fields) };
        let (id, frame_times) = (id?, frame_times.filter(|_| sound)?);
        let video = self.folder.join(&self.record.long_range_video_file);
        let episodes = if self.competition {
            self.competition_episodes(&id, &frame_times, fields)
        } else {
            self.episodes(&id, &frame_times, fields, dataset)
        };
        fields.problems.is_empty().then_some(Session { id, video, frame_times, episodes })
    }

    fn frame_times(&self, fields: &mut Fields<'_>) -> Option<Vec<f64>> {
        let path = self.folder.join(&self.record.video_timestamps);
        let nanoseconds = match read_timestamps(&path) {
            Ok(nanoseconds) => nanoseconds,
            Err(error) => {
                fields.wrong("video_timestamps", error.to_string());
                return None;
            }
        };
        if let Some(at) = nanoseconds.windows(2).position(|w| w.first() > w.last()) {
            fields.wrong("video_timestamps", format!("{}: frame {} is before frame {at}", path.display(), at + 1));
            return None;
        }
        let shift = if self.competition { 0.0 } else { ZONE_SHIFT };
        Some(nanoseconds.into_iter().map(|ns| ns as f64 / 1e9 + shift).collect())
    }

    fn episodes(&self, id: &str, frames: &[f64], fields: &mut Fields<'_>, dataset: &mut Dataset) -> Vec<Episode> {
        let SessionRecord { feedbacks, feedback_timestamps, is_transition, .. } = &self.record;
        fields.same_length("feedbacks", feedbacks.len(), "video_timestamps", frames.len());
        if feedback_timestamps.iter().any(|t| !t.is_finite()) {
            fields.wrong("feedback_timestamps", "expected finite numbers");
        }
        let (spans, times) = match self.protocol {
            Protocol::Fitcoach2024 => {
                let renamed: Vec<String> =
                    feedbacks.iter().map(|text| text.replace("armcrosschest", "deltoid stretch")).collect();
                let spans = spans(&renamed);
                if spans.len() != feedback_timestamps.len() {
                    let (n, m) = (feedback_timestamps.len(), spans.len());
                    let what = format!("has {n} entries, but feedbacks shows {m} messages; expected as many");
                    fields.wrong("feedback_timestamps", what);
                }
                (spans, feedback_timestamps.clone())
            }
            Protocol::Var2026 => {
                let spans = deduplicated(feedbacks);
                if spans.len() != is_transition.len() {
                    dataset.warnings.push(format!(
                        "session {} ({id}): {} messages after removal of repeats, but {} entries of is_transition; \
                         transitions behind the first repeat are read one too late, as the protocol has it",
                        self.number,
                        spans.len(),
                        is_transition.len()
                    ));
                }
                let times = spans.iter().map(|s| frames.get(s.first).copied().unwrap_or_default()).collect();
                (spans, times)
            }
        };
        if !fields.problems.is_empty() {
            return Vec::new();
        }
        let transitions = is_transition.iter().take(spans.len()).filter(|t| **t).count();
        dataset.counts.events += spans.len();
        dataset.counts.transitions += transitions;
        dataset.counts.regular += spans.len() - transitions;
        Timeline { id, frames, spans: &spans, is_transition, times: &times }.episodes(self.protocol)
    }

    /// Episodes without truth; the last one reaches to the end of the video.
    fn competition_episodes(&self, id: &str, frames: &[f64], fields: &mut Fields<'_>) -> Vec<Episode> {
        let record = &self.record;
        let times = record.exercise_start_timestamps.iter().zip(&record.exercise_end_timestamps);
        if times.clone().any(|(start, end)| !(start.is_finite() && end.is_finite() && start <= end)) {
            fields.wrong("exercise_end_timestamps", "expected finite seconds, none before its start");
        }
        let count = record.exercises.len();
        let named = record.exercises.iter().zip(times).enumerate();
        named
            .map(|(k, (exercise, (&start, &end)))| {
                let end = if k + 1 == count { frames.last().copied().unwrap_or(end).max(end) } else { end };
                Episode {
                    id: format!("{id}_{k}"),
                    exercise: exercise.clone(),
                    start,
                    end,
                    origin: 0.0,
                    frames: frames_within(frames, start, end, self.protocol),
                    truth: Vec::new(),
                }
            })
            .collect()
    }
}
