//! QEVD-FIT-300K: short clips with labels, feedback and questions.

use super::{
    error::QevdError,
    schema::{Fields, read_array},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

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

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClipCounts {
    /// Clips.
    pub clips: usize,
    /// Of the split "train".
    pub train: usize,
    /// Of the split "test".
    pub test: usize,
    /// Labels of all clips.
    pub labels: usize,
    /// Different labels.
    pub classes: usize,
    /// Different exercises: what stands before " - " in a label.
    pub exercises: usize,
    /// Sentences of feedback.
    pub feedbacks: usize,
    /// Questions about the whole.
    pub high_level: usize,
    /// Questions about details.
    pub fine_grained: usize,
}

impl ClipCounts {
    /// Counts clips.
    pub fn of(clips: &[Clip]) -> Self {
        let of_split = |name: &str| clips.iter().filter(|clip| clip.split == name).count();
        let sum = |of: fn(&Clip) -> usize| clips.iter().map(of).sum();
        let labels = || clips.iter().flat_map(|clip| &clip.labels).map(String::as_str);
        let exercise = |label: &'_ str| label.split(" - ").next().unwrap_or_default().trim().to_lowercase();
        Self {
            clips: clips.len(),
            train: of_split("train"),
            test: of_split("test"),
            labels: sum(|clip| clip.labels.len()),
            classes: labels().collect::<BTreeSet<_>>().len(),
            exercises: labels().map(exercise).collect::<BTreeSet<_>>().len(),
            feedbacks: sum(|clip| clip.feedback.len()),
            high_level: sum(|clip| clip.high_level.query.len()),
            fine_grained: sum(|clip| clip.fine_grained.query.len()),
        }
    }
}

/// Loads the short clips of a folder: those files of [`CLIP_FILES`] that it has, joined by `video_path`.
///
/// # Errors
/// No such file at all; or everything that is wrong with the files and their entries, at once.
pub fn load_clips(folder: &Path) -> Result<Vec<Clip>, QevdError> {
    let mut clips: BTreeMap<String, Clip> = BTreeMap::new();
    let (mut found, mut errors) = (false, Vec::new());
    for name in CLIP_FILES {
        if folder.join(name).exists() {
            found = true;
            errors.extend(read(folder, name, &mut clips).err());
        }
    }
    if !found {
        let what = format!("holds none of {}", CLIP_FILES.join(", "));
        return Err(QevdError::Format { path: folder.into(), what });
    }
    match errors.len() {
        0 => Ok(clips.into_values().collect()),
        1 => Err(errors.remove(0)),
        _ => Err(QevdError::Several(errors)),
    }
}

/// Adds what one file says.
fn read(folder: &Path, name: &str, clips: &mut BTreeMap<String, Clip>) -> Result<(), QevdError> {
    let path = folder.join(name);
    let mut problems = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (i, value) in read_array(&path)?.iter().enumerate() {
        let mut fields = Fields::new(i, value, "video_path");
        let video: String = fields.take("video_path", "the path of a video");
        let split: String = fields.take("split", "\"train\" or \"test\"");
        if fields.problems.is_empty() && !["train", "test"].contains(&split.as_str()) {
            fields.wrong("split", format!("is {split:?}; expected \"train\" or \"test\""));
        }
        if let Some(first) = seen.insert(video.clone(), i)
            && !video.is_empty()
        {
            fields.wrong("video_path", format!("is that of entry {first} already; expected once"));
        }
        let clip = clips.entry(video.clone()).or_default();
        if fields.problems.is_empty() && !clip.split.is_empty() && clip.split != split {
            fields.wrong("split", format!("is {split:?}, but {:?} in another file; expected the same", clip.split));
        }
        (clip.video, clip.split) = (video, split);
        fill(clip, name, &mut fields);
        problems.append(&mut fields.problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(QevdError::Entries { path, problems }) }
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
