//! The timeline as JSON lines, see [`super`] for the fields.

use super::{Drafting, Session, Sink, Summary, seconds};
use crate::{
    memory::Memory,
    pipeline::{
        Event,
        stats::{Counts, Quantiles},
        workout::Goal,
    },
};
use serde::Serialize;
use spotter_datasets::synthetic::Exercise;
use spotter_engine::coach::Kind;
use spotter_vision::{lens::View, pose::Missing, source::Trouble};
use std::{collections::BTreeMap, io::Write};

/// Writes each line as it comes and flushes it, so that a reader is never behind.
pub(crate) struct JsonLines<W: Write>(W);

impl<W: Write> JsonLines<W> {
    pub(crate) fn new(out: W) -> Self {
        Self(out)
    }

    fn line(&mut self, line: &Line<'_>) -> anyhow::Result<()> {
        writeln!(self.0, "{}", serde_json::to_string(line)?)?;
        Ok(self.0.flush()?)
    }
}

/// A line; the order of its fields is that in which they are written.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Session(&'a Session),
    View {
        t: f64,
        view: View,
        missing: Option<Missing>,
        people: usize,
    },
    Feedback {
        t: f64,
        t_frame: f64,
        t_ready: f64,
        text: &'a str,
        kind: Kind,
    },
    Source {
        t: f64,
        problem: Option<&'a str>,
        trouble: Option<Trouble>,
    },
    Exercise {
        t: f64,
        exercise: Exercise,
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
    Failed {
        t: f64,
        stage: &'a str,
        problem: &'a str,
    },
    Summary {
        duration: f64,
        #[serde(flatten)]
        counts: Counts,
    },
    Timing {
        stages: BTreeMap<&'a str, Quantiles>,
        wall_seconds: f64,
        frames_per_second: f64,
        #[serde(flatten)]
        memory: Memory,
    },
    Speculation(&'a Drafting),
}

impl<W: Write> Sink for JsonLines<W> {
    fn begin(&mut self, session: &Session) -> anyhow::Result<()> {
        self.line(&Line::Session(session))
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.line(&match event {
            Event::View { t, view, missing, people } => {
                Line::View { t: seconds(*t), view: *view, missing: *missing, people: *people }
            }
            Event::Feedback(f) => {
                let (t_frame, t_ready) = (seconds(f.t_frame), seconds(f.t_ready));
                Line::Feedback { t: t_ready, t_frame, t_ready, text: &f.text, kind: f.kind }
            }
            Event::Failed(f) => Line::Failed { t: seconds(f.t), stage: f.stage, problem: &f.problem },
            Event::Source { t, problem, trouble } => {
                Line::Source { t: seconds(*t), problem: problem.as_deref(), trouble: *trouble }
            }
            Event::Exercise { t, exercise } => Line::Exercise { t: seconds(*t), exercise: *exercise },
            Event::Set { t, bout } => {
                let (reps, lasts) = match bout.goal {
                    Goal::Reps(n) => (Some(n), None),
                    Goal::Seconds(s) => (None, Some(s)),
                };
                Line::Set { t: seconds(*t), exercise: bout.exercise, set: bout.set, of: bout.of, reps, seconds: lasts }
            }
            Event::Rest { t, lasts, next } => {
                Line::Rest { t: seconds(*t), seconds: seconds(*lasts), exercise: next.exercise }
            }
            Event::Clock { t, runs } => Line::Clock { t: seconds(*t), runs: *runs },
            Event::Finished { t } => Line::Finished { t: seconds(*t) },
            Event::Rep { t, exercise, set, count } => {
                Line::Rep { t: seconds(*t), exercise: *exercise, set: *set, count: *count }
            }
            Event::HalfRep { t, exercise } => Line::HalfRep { t: seconds(*t), exercise: *exercise },
            Event::Hold { t, exercise, set, lasted, over } => {
                Line::Hold { t: seconds(*t), exercise: *exercise, set: *set, seconds: seconds(*lasted), over: *over }
            }
            Event::Begun { .. }
            | Event::Partial { .. }
            | Event::Withdrawn { .. }
            | Event::Phase { .. }
            | Event::Move { .. }
            | Event::Tick { .. } => return Ok(()),
        })
    }

    fn end(&mut self, summary: &Summary) -> anyhow::Result<()> {
        self.line(&Line::Summary { duration: seconds(summary.duration), counts: summary.counts })?;
        let Some(timing) = &summary.timing else { return Ok(()) };
        self.line(&Line::Timing {
            stages: timing.stages.iter().copied().collect(),
            wall_seconds: timing.wall.as_secs_f64(),
            frames_per_second: timing.frames_per_second,
            memory: timing.memory,
        })?;
        match &summary.speculation {
            Some(speculation) => self.line(&Line::Speculation(speculation)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_engine::coach::Feedback;
    use std::time::Duration;

    #[test]
    fn lines_have_the_documented_fields() {
        let mut out = Vec::new();
        let mut sink = JsonLines::new(&mut out);
        let ms = Duration::from_millis;
        let said =
            Feedback { t_frame: ms(1400), t_ready: ms(1475), text: "Nice \"depth\"".into(), kind: Kind::Coaching };
        let events = [
            Event::View { t: ms(125), view: View::PartlyOut, missing: Some(Missing::Feet), people: 2 },
            Event::Partial { t_frame: ms(1400), text: "Nice".into() },
            Event::Feedback(said),
        ];
        for event in &events {
            assert!(sink.event(event).is_ok());
        }
        let summary = Summary { duration: ms(2000), counts: Counts::default(), timing: None, speculation: None };
        assert!(sink.end(&summary).is_ok());
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], r#"{"type":"view","t":0.125,"view":"partly_out","missing":"feet","people":2}"#);
        assert_eq!(
            lines[1],
            r#"{"type":"feedback","t":1.475,"t_frame":1.4,"t_ready":1.475,"text":"Nice \"depth\"","kind":"coaching"}"#
        );
        assert!(lines[2].starts_with(r#"{"type":"summary","duration":2.0,"frames":0,"#));
    }
}
