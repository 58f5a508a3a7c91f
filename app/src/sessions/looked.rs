//! A session looked back on: what it came to, what it was before, and files of it for other programs.

use super::{Past, Review, Stamp, Store, csv, read, record, review, srt};
use crate::{
    pipeline::{
        Event, Failure,
        workout::{Bout, Goal},
    },
    sessions::Told,
};
use anyhow::Context as _;
use spotter_datasets::synthetic::Exercise;
use spotter_engine::coach::{Feedback, Kind};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

/// Earlier sessions that a trend goes back.
const TREND: usize = 8;

/// What a session is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The timeline as it was recorded, one JSON object a line.
    Json,
    /// One event a row.
    Csv,
    /// What was said, as subtitles.
    Srt,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Json => "jsonl",
            Self::Csv => "csv",
            Self::Srt => "srt",
        }
    }
}

/// A session, its review and those of the sessions before it.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    pub(crate) past: Past,
    pub(crate) review: Review,
    pub(crate) earlier: Vec<Review>,
    /// Its lines as they were written.
    pub(crate) raw: Vec<u8>,
    /// Whether it is kept, under the name in `past`.
    pub(crate) kept: bool,
}

impl Looked {
    /// A session from its lines.
    ///
    /// # Errors
    /// When they are no record of a session.
    pub(crate) fn new(id: &str, raw: Vec<u8>, earlier: Vec<Review>, kept: bool) -> anyhow::Result<Self> {
        let past = read::parse(id, raw.as_slice())?;
        let review = review(&past);
        Ok(Self { past, review, earlier, raw, kept })
    }

    /// Writes it as a format.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn write(&self, format: Format, out: &mut impl Write) -> anyhow::Result<()> {
        match format {
            Format::Json => out.write_all(&self.raw)?,
            Format::Csv => csv(&self.past, out)?,
            Format::Srt => srt(&self.past, out)?,
        }
        Ok(out.flush()?)
    }

    /// Writes it to a file in a folder; where.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn export(&self, format: Format, folder: &Path) -> anyhow::Result<PathBuf> {
        record::private_folder(folder).with_context(|| format!("{}: can't be made", folder.display()))?;
        let name = if self.past.id.is_empty() { self.past.started.file_name() } else { self.past.id.clone() };
        let path = folder.join(format!("{name}.{}", format.extension()));
        let mut bytes = Vec::new();
        self.write(format, &mut bytes)?;
        fs::write(&path, bytes).with_context(|| format!("{}: can't be written", path.display()))?;
        Ok(path)
    }
}

/// A session in a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) started: Stamp,
    pub(crate) source: String,
    pub(crate) duration: f64,
    pub(crate) complete: bool,
    pub(crate) exercises: Vec<Exercise>,
    pub(crate) reps: u32,
    /// Seconds.
    pub(crate) held: f64,
    pub(crate) corrections: usize,
}

impl Line {
    fn new(past: &Past) -> Self {
        let review = review(past);
        Self {
            id: past.id.clone(),
            started: past.started,
            source: past.source.clone(),
            duration: past.duration,
            complete: past.complete,
            exercises: review.exercises(),
            reps: review.sets.iter().map(|s| s.reps).sum(),
            held: review.sets.iter().fold(0.0, |sum, s| sum + s.held),
            corrections: review.faults.iter().map(|f| f.at.len()).sum(),
        }
    }
}

impl Store {
    /// Reads a session; one that can't be read is told and passed over.
    fn readable(&self, id: &str) -> Option<Past> {
        self.read(id).map_err(|error| tracing::warn!("{error:#}")).ok()
    }

    /// A line for each session, the oldest first.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(crate) fn lines(&self) -> anyhow::Result<Vec<Line>> {
        Ok(self.ids()?.iter().filter_map(|id| Some(Line::new(&self.readable(id)?))).collect())
    }

    /// The sessions before one, the newest last.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(crate) fn earlier(&self, id: &str) -> anyhow::Result<Vec<Review>> {
        let ids = self.ids()?;
        let before: Vec<&String> = ids.iter().filter(|other| other.as_str() < id).collect();
        let skip = before.len().saturating_sub(TREND);
        Ok(before.into_iter().skip(skip).filter_map(|id| Some(review(&self.readable(id)?))).collect())
    }

    /// Looks back on a session.
    ///
    /// # Errors
    /// When it can't be read or is no session.
    pub(crate) fn look_at(&self, id: &str) -> anyhow::Result<Looked> {
        let path = self.path(id);
        Looked::new(id, self.raw(id)?, self.earlier(id)?, true).with_context(|| format!("{}", path.display()))
    }
}

impl Told {
    /// What happened, as the window that saw it was told.
    pub(crate) fn event(&self) -> Event {
        let seconds = |t: f64| Duration::try_from_secs_f64(t).unwrap_or_default();
        let t = seconds(self.t());
        match self {
            Self::Feedback { text, kind, .. } => {
                let kind = match kind.as_str() {
                    "view" => Kind::View,
                    "program" => Kind::Program,
                    _ => Kind::Coaching,
                };
                Event::Feedback(Feedback { t_frame: t, t_ready: t, text: text.clone(), kind })
            }
            Self::View { view, missing, people, .. } => {
                Event::View { t, view: *view, missing: *missing, people: *people }
            }
            Self::Exercise { exercise, .. } => Event::Exercise { t, exercise: *exercise },
            Self::Rep { exercise, set, count, .. } => Event::Rep { t, exercise: *exercise, set: *set, count: *count },
            Self::HalfRep { exercise, .. } => Event::HalfRep { t, exercise: *exercise },
            Self::Hold { exercise, set, seconds: lasted, over, .. } => {
                Event::Hold { t, exercise: *exercise, set: *set, lasted: seconds(*lasted), over: *over }
            }
            Self::Set { exercise, set, of, reps, seconds, .. } => {
                let goal = reps.map_or_else(|| Goal::Seconds(seconds.unwrap_or_default()), Goal::Reps);
                let bout = Bout { exercise: *exercise, set: *set, of: *of, goal, rest: Duration::ZERO };
                Event::Set { t, bout }
            }
            Self::Rest { seconds: lasts, exercise, .. } => {
                // of the next set the record has the exercise alone
                let next = Bout { exercise: *exercise, set: 1, of: 1, goal: Goal::Reps(0), rest: Duration::ZERO };
                Event::Rest { t, lasts: seconds(*lasts), next }
            }
            Self::Clock { runs, .. } => Event::Clock { t, runs: *runs },
            Self::Finished { .. } => Event::Finished { t },
            Self::Source { problem, trouble, .. } => Event::Source { t, problem: problem.clone(), trouble: *trouble },
            Self::Failed { stage, problem, .. } => {
                let stage = ["capture", "lens"].into_iter().find(|known| known == stage).unwrap_or("coach");
                Event::Failed(Failure { stage, t, problem: problem.clone() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sessions::Memory, timeline::Sink as _};
    use spotter_vision::{lens::View, pose::Missing, source::Trouble};

    /// What was told, written and read again, is what was told.
    #[test]
    fn a_record_gives_the_events_back() {
        let s = Duration::from_secs;
        let exercise = Exercise::Squat;
        let bout = Bout { exercise, set: 2, of: 3, goal: Goal::Seconds(30), rest: Duration::ZERO };
        let said = Feedback { t_frame: s(4), t_ready: s(4), text: "Chest up".into(), kind: Kind::Program };
        let next = Bout { exercise, set: 1, of: 1, goal: Goal::Reps(0), rest: Duration::ZERO };
        let busy = Some("busy".to_owned());
        let events = vec![
            Event::View { t: s(1), view: View::PartlyOut, missing: Some(Missing::Feet), people: 2 },
            Event::Exercise { t: s(2), exercise },
            Event::Set { t: s(3), bout },
            Event::Feedback(said),
            Event::Rep { t: s(5), exercise, set: 2, count: 1 },
            Event::HalfRep { t: s(6), exercise },
            Event::Hold { t: s(7), exercise: Exercise::Plank, set: 1, lasted: s(2), over: true },
            Event::Clock { t: s(8), runs: false },
            Event::Rest { t: s(9), lasts: s(20), next },
            Event::Source { t: s(10), problem: busy, trouble: Some(Trouble::Busy) },
            Event::Failed(Failure { stage: "lens", t: s(11), problem: "broke".into() }),
            Event::Finished { t: s(12) },
        ];
        let (memory, mut lines) = Memory::begin(Stamp(0));
        events.iter().for_each(|event| lines.event(event).unwrap());
        let looked = Looked::new("x", memory.raw(), Vec::new(), false).unwrap();
        assert_eq!(looked.past.events.iter().map(Told::event).collect::<Vec<_>>(), events);
    }

    #[test]
    fn each_format_is_a_file() {
        let (memory, mut lines) = Memory::begin(Stamp(0));
        let said =
            Feedback { t_frame: Duration::ZERO, t_ready: Duration::ZERO, text: "Up".into(), kind: Kind::Coaching };
        lines.event(&Event::Feedback(said)).unwrap();
        let looked = Looked::new("", memory.raw(), Vec::new(), false).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (format, name, has) in [
            (Format::Json, "1970-01-01T00-00-00Z.jsonl", "\"type\":\"record\""),
            (Format::Csv, "1970-01-01T00-00-00Z.csv", "t,type,exercise"),
            (Format::Srt, "1970-01-01T00-00-00Z.srt", "00:00:00,000 -->"),
        ] {
            let path = looked.export(format, &folder.path().join("exports")).unwrap();
            assert!(path.ends_with(name), "{}", path.display());
            assert!(fs::read_to_string(path).unwrap().contains(has));
        }
    }
}
