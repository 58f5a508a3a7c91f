//! A session for other programs.

use super::{Past, Told};
use crate::{
    pipeline::Event,
    timeline::{Sink as _, Subtitles, Summary},
};
use spotter_engine::coach::{Feedback, Kind};
use std::{io::Write, time::Duration};

/// One event a row: `t,type,exercise,set,count,seconds,text`.
///
/// # Errors
/// Those of the writer.
pub(crate) fn csv(past: &Past, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "t,type,exercise,set,count,seconds,text")?;
    for told in &past.events {
        let value = serde_json::to_value(told)?;
        let field = |name: &str| match value.get(name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => quoted(text),
            Some(other) => other.to_string(),
        };
        let text = ["text", "view", "problem"].map(field).concat();
        let row = ["t", "type", "exercise", "set", "count", "seconds"].map(field).join(",");
        writeln!(out, "{row},{text}")?;
    }
    Ok(())
}

/// A field as RFC 4180 has it. A text that a spreadsheet would take for a formula gets a quote in front.
fn quoted(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// What was said, as subtitles.
///
/// # Errors
/// Those of the writer.
pub(crate) fn srt(past: &Past, out: &mut impl Write) -> anyhow::Result<()> {
    let mut subtitles = Subtitles::new(out);
    for told in &past.events {
        if let Told::Feedback { t, text, .. } = told {
            let t = Duration::try_from_secs_f64(*t).unwrap_or_default();
            let feedback = Feedback { t_frame: t, t_ready: t, text: text.clone(), kind: Kind::Coaching };
            subtitles.event(&Event::Feedback(feedback))?;
        }
    }
    let duration = Duration::try_from_secs_f64(past.duration).unwrap_or_default();
    subtitles.end(&Summary { duration, counts: Default::default(), timing: None, speculation: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_datasets::synthetic::Exercise;

    #[test]
    fn fields_of_csv_are_quoted() {
        assert_eq!(quoted("Chest up"), "Chest up");
        assert_eq!(quoted("a \"b\", c"), "\"a \"\"b\"\", c\"");
        assert_eq!(quoted("=1+1"), "'=1+1");
        let rep = Told::Rep { t: 1.5, exercise: Exercise::Squat, set: 1, count: 2 };
        let said = Told::Feedback { t: 2.0, text: "Good, go on".into(), kind: "coaching".into() };
        let mut out = Vec::new();
        csv(&past(vec![rep, said]), &mut out).unwrap();
        let expected =
            "t,type,exercise,set,count,seconds,text\n1.5,rep,squat,1,2,,\n2.0,feedback,,,,,\"Good, go on\"\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    fn past(events: Vec<Told>) -> Past {
        Past {
            id: "x".into(),
            started: super::super::Stamp(0),
            source: String::new(),
            model: String::new(),
            lang: Default::default(),
            duration: 3.0,
            complete: true,
            damaged: 0,
            events,
        }
    }
}
