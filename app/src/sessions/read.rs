//! Reads a session back, whole or cut off.

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use spotter_datasets::synthetic::{
    Exercise,
    phrases::{self, Lang, Said},
};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use super::Stamp;
use spotter_vision::{lens::View, pose::Missing, source::Trouble};

/// Longer lines are no lines of ours.
const LONGEST_LINE: usize = 1 << 20;

/// A session of the past. Times are seconds of media time.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(crate) id: String,
    pub(crate) started: Stamp,
    pub(crate) source: String,
    pub(crate) model: String,
    pub(crate) lang: Lang,
    /// Up to the last thing that is known of it.
    pub(crate) duration: f64,
    /// Whether its end was written: a program that was killed wrote none.
    pub(crate) complete: bool,
    /// Lines that can't be read.
    pub(crate) damaged: usize,
    pub(crate) events: Vec<Told>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Told {
    Feedback {
        t: f64,
        text: String,
        kind: String,
    },
    View {
        t: f64,
        view: View,
        missing: Option<Missing>,
        #[serde(default)]
        people: usize,
    },
    Exercise {
        t: f64,
        exercise: Exercise,
    },
    Rep {
        t: f64,
        exercise: Exercise,
        set: u32,
        count: u32,
    },
    HalfRep {
        t: f64,
        exercise: Exercise,
    },
    Hold {
        t: f64,
        exercise: Exercise,
        set: u32,
        seconds: f64,
        over: bool,
    },
    Set {
        t: f64,
        exercise: Exercise,
        set: u32,
        of: u32,
        reps: Option<u32>,
        seconds: Option<u32>,
    },
    Rest {
        t: f64,
        seconds: f64,
        exercise: Exercise,
    },
    Clock {
        t: f64,
        runs: bool,
    },
    Finished {
        t: f64,
    },
    Source {
        t: f64,
        problem: Option<String>,
        trouble: Option<Trouble>,
    },
    Failed {
        t: f64,
        stage: String,
        problem: String,
    },
}

impl Told {
    /// When.
    pub(crate) fn t(&self) -> f64 {
        match self {
            Self::Feedback { t, .. }
            | Self::View { t, .. }
            | Self::Exercise { t, .. }
            | Self::Rep { t, .. }
            | Self::HalfRep { t, .. }
            | Self::Hold { t, .. }
            | Self::Set { t, .. }
            | Self::Rest { t, .. }
            | Self::Finished { t }
            | Self::Clock { t, .. }
            | Self::Source { t, .. }
            | Self::Failed { t, .. } => *t,
        }
    }

    /// What the words of the coach mean.
    pub(crate) fn said(&self, lang: Lang) -> Option<Said> {
        match self {
            Self::Feedback { text, kind, .. } if kind == "coaching" => Some(phrases::classify(text, lang)),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Head {
    Record {
        started: u64,
    },
    Session {
        source: String,
        model: String,
        language: String,
    },
    Summary {
        duration: f64,
    },
    #[serde(other)]
    Other,
}

/// Reads a file. A last line that was cut off is passed over, and so are lines of types that are not known.
pub(super) fn read(id: &str, path: &Path) -> anyhow::Result<Past> {
    let file = File::open(path).with_context(|| format!("{}: can't be read", path.display()))?;
    parse(id, BufReader::new(file)).with_context(|| format!("{}", path.display()))
}

/// Reads lines.
pub(super) fn parse(id: &str, lines: impl BufRead) -> anyhow::Result<Past> {
    let mut past = Past {
        id: id.to_owned(),
        started: Stamp(0),
        source: String::new(),
        model: String::new(),
        lang: Lang::En,
        duration: 0.0,
        complete: false,
        damaged: 0,
        events: Vec::new(),
    };
    let mut begun = false;
    for line in lines.split(b'\n') {
        let line = line.context("can't be read")?;
        if line.len() > LONGEST_LINE {
            past.damaged += 1;
        } else if !line.trim_ascii().is_empty() {
            begun |= past.take(&line);
        }
    }
    if !begun {
        bail!("this is no record of a session (its first line has the type `record`)");
    }
    past.events.retain(|told| told.t().is_finite());
    let last = past.events.iter().map(Told::t).fold(0.0, f64::max);
    past.duration = past.duration.max(last);
    Ok(past)
}

impl Past {
    /// Takes in a line; whether it is the one that begins a record.
    fn take(&mut self, line: &[u8]) -> bool {
        match serde_json::from_slice::<Head>(line) {
            Ok(Head::Record { started }) => {
                self.started = Stamp(started);
                return true;
            }
            Ok(Head::Session { source, model, language }) => {
                (self.source, self.model) = (source, model);
                self.lang = Lang::from_code(&language).unwrap_or_default();
            }
            Ok(Head::Summary { duration }) => (self.complete, self.duration) = (true, duration),
            // later versions may tell more than this one knows
            Ok(Head::Other) => self.events.extend(serde_json::from_slice::<Told>(line).ok()),
            Err(_) => self.damaged += 1,
        }
        false
    }
}
