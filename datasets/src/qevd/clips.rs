//! QEVD-FIT-300K: short clips with labels, feedback and questions.

use super::{
    error::QevdError,
    schema::{Fields, read_array},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// Names of the files that are read, those that are there.
pub const CLIP_FILES: [&str; 3] = ["fine_grained_labels.json", "feedbacks_short_clips.json", "questions.json"];

/// Questions with their answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Questions {
    /// What is asked.
    pub query: Vec<String>,
    /// What is answered.
    pub response: Vec<String>,
    /// What kind of question it is.
    pub query_type: Vec<String>,
}

/// A clip with all that the files say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Clip {
    /// Path of the video, as the files have it.
    pub video: String,
    /// "train" or "test".
    pub split: String,
    /// Such as "elbow plank - stopping early".
    pub labels: Vec<String>,
    /// The same in sentences.
    pub descriptions: Vec<String>,
    /// What a coach says.
    pub feedback: Vec<String>,
    /// About the whole.
    pub high_level: Questions,
    /// About details.
    pub fine_grained: Questions,
}

/// Loads the short clips of a folder: those files of [`CLIP_FILES`] that it has, joined by `video_path`.
///
/// # Errors
/// No such file at all; or everything that is wrong with the entries of one file, at once.
pub fn load_clips(folder: &Path) -> Result<Vec<Clip>, QevdError> {
    let mut clips: BTreeMap<String, Clip> = BTreeMap::new();
    let mut found = false;
    for name in CLIP_FILES {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        found = true;
        let mut problems = Vec::new();
        for (i, value) in read_array(&path)?.iter().enumerate() {
            let mut fields = Fields::new(i, value, "video_path");
            let video: String = fields.take("video_path", "the path of a video");
            let split: String = fields.take("split", "\"train\" or \"test\"");
            if value.get("split").is_some() && !["train", "test"].contains(&split.as_str()) {
                fields.wrong("split", format!("is {split:?}; expected \"train\" or \"test\""));
            }
            let clip = clips.entry(video.clone()).or_default();
            (clip.video, clip.split) = (video, split);
            fill(clip, name, &mut fields);
            problems.append(&mut fields.problems);
        }
        if !problems.is_empty() {
            return Err(QevdError::Entries { path, problems });
        }
    }
    if !found {
        let what = format!("holds none of {}", CLIP_FILES.join(", "));
        return Err(QevdError::Format { path: folder.into(), what });
    }
    Ok(clips.into_values().collect())
}

fn fill(clip: &mut Clip, file: &str, fields: &mut Fields<'_>) {
    match file {
        "fine_grained_labels.json" => {
            clip.labels = fields.take("labels", "an array of labels");
            clip.descriptions = fields.take("labels_descriptive", "an array of sentences");
        }
        "feedbacks_short_clips.json" => clip.feedback = fields.take("feedback", "an array of sentences"),
        _ => {
            clip.high_level = questions(fields, "high_level");
            clip.fine_grained = questions(fields, "fine_grain");
        }
    }
}

fn questions(fields: &mut Fields<'_>, field: &str) -> Questions {
    let all: Questions = fields.take(field, "an object with query, response and query_type");
    let n = all.query.len();
    fields.same_length(&format!("{field}.response"), all.response.len(), &format!("{field}.query"), n);
    fields.same_length(&format!("{field}.query_type"), all.query_type.len(), &format!("{field}.query"), n);
    all
}
