//! What is kept of a run: its description, and a file for each finished session.

use super::judge::JudgeName;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use spotter_datasets::{
    metric::Timed,
    qevd::{Counts, Protocol},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What decides the outcome of a run: two parts of one run have it in common. It has no paths, so that parts from machines
/// where data lie elsewhere are still of one run; what the files hold is in the hashes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunInfo {
    /// Spotter's version.
    pub(crate) version: String,
    /// How the data were read.
    pub(crate) protocol: Protocol,
    /// Names of the folders.
    pub(crate) data: Vec<String>,
    /// Hash of what is read from them: index and frame times.
    pub(crate) data_hash: String,
    /// Number of sessions of all shards.
    pub(crate) sessions: usize,
    /// Under `fitcoach2024` and `var2026`; `None` where the files can't be read under that protocol.
    pub(crate) counts: [Option<Counts>; 2],
    /// The model or prediction file.
    pub(crate) source: String,
    /// Hash of its files; of a model also of its drafter and the sizes of the videos.
    pub(crate) source_hash: String,
    /// Options that change what is said.
    pub(crate) options: Vec<(String, String)>,
    /// Name of the METEOR that was computed.
    pub(crate) meteor: String,
    /// Encoder of BERTScore, its layer and its hash.
    pub(crate) bert: Option<String>,
    pub(crate) judge: Option<JudgeName>,
    /// The most frequent truth.
    pub(crate) phrase: String,
    /// Matched pairs alone were given: times can't be scored.
    pub(crate) pairs_only: bool,
    /// The data have no truths: nothing can be scored.
    pub(crate) truthless: bool,
    /// What was odd about the data.
    pub(crate) warnings: Vec<String>,
}

/// A matched truth and prediction with the scores of its texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) truth: String,
    pub(crate) said: String,
    pub(crate) meteor: f64,
    pub(crate) rouge_l: f64,
    pub(crate) bert: Option<f64>,
    /// One answer of the judge for each seed; `None` where it could not be understood.
    pub(crate) judge: Vec<Option<f64>>,
}

/// What was said in a session, before it is scored: kept by itself, so that a judge who is gone loses nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Played {
    /// For each episode, in the time of its truth.
    pub(crate) said: Vec<Vec<Timed>>,
    pub(crate) warnings: Vec<String>,
}

/// An episode; times are those of its truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub(crate) id: String,
    pub(crate) exercise: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
    /// Added to its times, they are seconds since the first frame of the session.
    pub(crate) offset: f64,
    pub(crate) truth: Vec<Timed>,
    pub(crate) said: Vec<Timed>,
    /// What was said met these truths.
    pub(crate) pairs: Vec<Pair>,
    /// The most frequent truth, said every three seconds, met these.
    pub(crate) phrase: Vec<Pair>,
}

/// A finished session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Its place among the sessions of all shards.
    pub(crate) index: usize,
    pub(crate) id: String,
    /// Seconds from the first to the last frame.
    pub(crate) duration: f64,
    pub(crate) episodes: Vec<Episode>,
    pub(crate) warnings: Vec<String>,
}

/// A folder of results.
#[derive(Clone, Debug)]
pub(crate) struct Store(PathBuf);

/// Writes beside the file first, so that it is whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    fs::write(&beside, bytes).with_context(|| format!("{}: can't be written", beside.display()))?;
    fs::rename(&beside, path).with_context(|| format!("{}: can't be written", path.display()))
}

/// Pretty JSON with a line feed.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("{}: can't be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}: is not what `spotter eval` writes", path.display()))
}

impl Store {
    /// Opens a folder for a run, which must be empty of other runs.
    pub(crate) fn create(folder: &Path, info: &RunInfo) -> Result<Self> {
        let store = Self(folder.to_owned());
        let sessions = folder.join("sessions");
        fs::create_dir_all(&sessions).with_context(|| format!("{}: can't be made", sessions.display()))?;
        let path = folder.join("run.json");
        if path.exists() {
            let there: RunInfo = read(&path)?;
            if there != *info {
                bail!(
                    "{}: holds another run ({}); give another --out, or delete the folder",
                    folder.display(),
                    differences(&there, info)
                );
            }
        } else {
            write_whole(&path, &json(info)?)?;
        }
        Ok(store)
    }

    /// A folder that a run has written.
    pub(crate) fn open(folder: &Path) -> Result<(Self, RunInfo)> {
        Ok((Self(folder.to_owned()), read(&folder.join("run.json"))?))
    }

    fn path(&self, index: usize) -> PathBuf {
        self.0.join("sessions").join(format!("{index:05}.json"))
    }

    /// Whether a session is finished.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.path(index).exists()
    }

    pub(crate) fn put(&self, session: &Session) -> Result<()> {
        write_whole(&self.path(session.index), &json(session)?)
    }

    pub(crate) fn get(&self, index: usize) -> Result<Session> {
        read(&self.path(index))
    }

    fn played_path(&self, index: usize) -> PathBuf {
        self.0.join("sessions").join(format!("{index:05}.played.json"))
    }

    /// Whether a session was played.
    pub(crate) fn has_played(&self, index: usize) -> bool {
        self.played_path(index).exists()
    }

    pub(crate) fn put_played(&self, index: usize, played: &Played) -> Result<()> {
        write_whole(&self.played_path(index), &json(played)?)
    }

    pub(crate) fn get_played(&self, index: usize) -> Result<Played> {
        read(&self.played_path(index))
    }

    /// A file of the report.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Names of the fields in which two runs differ.
pub(crate) fn differences(a: &RunInfo, b: &RunInfo) -> String {
    let (Ok(serde_json::Value::Object(a)), Ok(serde_json::Value::Object(b))) =
        (serde_json::to_value(a), serde_json::to_value(b))
    else {
        return "unlike".to_owned();
    };
    let differing: Vec<&str> =
        a.iter().filter(|(key, value)| b.get(*key) != Some(value)).map(|(k, _)| k.as_str()).collect();
    format!("unlike in: {}", differing.join(", "))
}
