//! `feedbacks_long_range.json`, entry by entry.

use super::error::{Problem, QevdError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fs, path::Path};

/// One session as the file has it. The competition variant has `exercises` and their times instead of feedbacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Path of the video, relative to the file.
    pub long_range_video_file: String,
    /// Path of the frame times (`.npy`), relative to the file.
    pub video_timestamps: String,
    /// What is shown at each frame; "" is silence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feedbacks: Vec<String>,
    /// UNIX seconds of each event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feedback_timestamps: Vec<f64>,
    /// For each event: it announces an exercise, or the end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub is_transition: Vec<bool>,
    /// Competition: names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exercises: Vec<String>,
    /// Competition: seconds at which each exercise begins, already on the clock of the video.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exercise_start_timestamps: Vec<f64>,
    /// Competition: and ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exercise_end_timestamps: Vec<f64>,
}

/// Reads a JSON array of objects.
pub(super) fn read_array(path: &Path) -> Result<Vec<Value>, QevdError> {
    let text = fs::read_to_string(path).map_err(|source| QevdError::Read { path: path.into(), source })?;
    let format = |what: String| QevdError::Format { path: path.into(), what };
    match serde_json::from_str(&text) {
        Ok(Value::Array(entries)) => Ok(entries),
        Ok(_) => Err(format("expected a JSON array with one object for each entry".into())),
        Err(error) => Err(format(format!("this is no JSON: {error}"))),
    }
}

/// Takes fields out of an entry and notes what is wrong with them.
pub(super) struct Fields<'a> {
    pub(super) entry: usize,
    pub(super) value: &'a Value,
    pub(super) name: Option<String>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(entry: usize, value: &'a Value, name_field: &str) -> Self {
        let name = value.get(name_field).and_then(Value::as_str).map(str::to_owned);
        let mut fields = Self { entry, value, name, problems: Vec::new() };
        if !value.is_object() {
            fields.wrong("entry", "expected an object");
        }
        fields
    }

    pub(super) fn wrong(&mut self, field: &str, what: impl Into<String>) {
        let (entry, name) = (self.entry, self.name.clone());
        self.problems.push(Problem { entry, name, field: field.to_owned(), what: what.into() });
    }

    /// A field that must be there and of the right type; the default stands in for one that is not.
    pub(super) fn take<T: DeserializeOwned + Default>(&mut self, field: &str, expected: &str) -> T {
        let Some(value) = self.value.get(field) else {
            if self.value.is_object() {
                self.wrong(field, format!("is missing; expected {expected}"));
            }
            return T::default();
        };
        T::deserialize(value).unwrap_or_else(|error| {
            self.wrong(field, format!("expected {expected}: {error}"));
            T::default()
        })
    }

    pub(super) fn same_length(&mut self, field: &str, n: usize, other: &str, m: usize) {
        if n != m {
            self.wrong(field, format!("has {n} entries, but {other} has {m}; expected as many"));
        }
    }
}

/// The record of an entry, checked for its types; `competition` decides which fields there must be.
pub(super) fn record(fields: &mut Fields<'_>, competition: bool) -> SessionRecord {
    let mut record = SessionRecord {
        long_range_video_file: fields.take("long_range_video_file", "a path"),
        video_timestamps: fields.take("video_timestamps", "the path of an .npy file"),
        ..SessionRecord::default()
    };
    let has = |field: &str| fields.value.get(field).is_some();
    let (shows_feedback, shows_exercises) = (has("feedbacks"), has("exercises"));
    if !competition && shows_exercises && !shows_feedback {
        let what = "is missing, but there are exercises: this is the competition variant, which protocol var2026 alone \
                    reads, in a folder whose path contains \"competition\"";
        fields.wrong("feedbacks", what);
    } else if competition && shows_feedback && !shows_exercises {
        let what = "is missing, but there are feedbacks: this is no competition variant; its path may not contain \
                    \"competition\"";
        fields.wrong("exercises", what);
    } else if competition {
        record.exercises = fields.take("exercises", "an array of names");
        record.exercise_start_timestamps = fields.take("exercise_start_timestamps", "an array of seconds");
        record.exercise_end_timestamps = fields.take("exercise_end_timestamps", "an array of seconds");
        let n = record.exercises.len();
        fields.same_length("exercise_start_timestamps", record.exercise_start_timestamps.len(), "exercises", n);
        fields.same_length("exercise_end_timestamps", record.exercise_end_timestamps.len(), "exercises", n);
    } else {
        record.feedbacks = fields.take("feedbacks", "an array of strings, one for each frame");
        record.feedback_timestamps = fields.take("feedback_timestamps", "an array of UNIX seconds, one for each event");
        record.is_transition = fields.take("is_transition", "an array of booleans, one for each event");
        let n = record.feedback_timestamps.len();
        fields.same_length("is_transition", record.is_transition.len(), "feedback_timestamps", n);
    }
    record
}
