//! The timeline as subtitles (SubRip): one at a time, shown for as long as it takes to read.

use super::{Sink, Summary, reading_time};
use crate::pipeline::Event;
use std::{io::Write, time::Duration};

/// Shortest time that a subtitle stays when the next comes close behind.
const SHORTEST: Duration = Duration::from_millis(500);

/// Writes a subtitle as soon as it is known when it must make way for the next.
pub(crate) struct Subtitles<W: Write> {
    out: W,
    number: u32,
    pending: Option<(Duration, String)>,
}

impl<W: Write> Subtitles<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, number: 0, pending: None }
    }

    fn write_pending(&mut self, next: Option<Duration>) -> anyhow::Result<()> {
        let Some((start, text)) = self.pending.take() else { return Ok(()) };
        self.number += 1;
        let end = (start + reading_time(&text)).min(next.unwrap_or(Duration::MAX));
        writeln!(self.out, "{}\n{} --> {}\n{}\n", self.number, stamp(start), stamp(end), text)?;
        Ok(self.out.flush()?)
    }
}

/// `hh:mm:ss,mmm`.
fn stamp(t: Duration) -> String {
    let ms = t.as_millis();
    format!("{:02}:{:02}:{:02},{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

impl<W: Write> Sink for Subtitles<W> {
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let Event::Feedback(feedback) = event else { return Ok(()) };
        // words that are ready together, or out of order, are shown one after the other
        let earliest = self.pending.as_ref().map_or(Duration::ZERO, |(start, _)| *start + SHORTEST);
        let start = feedback.t_ready.max(earliest);
        self.write_pending(Some(start))?;
        // an empty line would end the subtitle
        let text: Vec<&str> = feedback.text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        self.pending = Some((start, text.join("\n")));
        Ok(())
    }

    fn end(&mut self, _summary: &Summary) -> anyhow::Result<()> {
        self.write_pending(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::stats::Counts;
    use spotter_engine::coach::{Feedback, Kind};

    fn written(said: &[(u64, &str)]) -> String {
        let mut out = Vec::new();
        let mut sink = Subtitles::new(&mut out);
        for (ms, text) in said {
            let t = Duration::from_millis(*ms);
            let feedback = Feedback { t_frame: t, t_ready: t, text: (*text).into(), kind: Kind::Coaching };
            assert!(sink.event(&Event::Feedback(feedback)).is_ok());
        }
        let summary = Summary { duration: Duration::ZERO, counts: Counts::default(), timing: None, speculation: None };
        assert!(sink.end(&summary).is_ok());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_subtitle_makes_way_for_the_next() {
        let expected = "1\n00:00:01,000 --> 00:00:01,800\nOne\n\n2\n00:00:01,800 --> 00:00:03,000\nTwo\n\n";
        assert_eq!(written(&[(1000, "One"), (1800, "Two")]), expected);
    }

    #[test]
    fn words_ready_together_follow_each_other() {
        let text = written(&[(3_661_000, "One"), (3_661_000, "Two\n\nlines")]);
        assert!(text.contains("01:01:01,000 --> 01:01:01,500\nOne"), "{text}");
        assert!(text.contains("01:01:01,500 --> 01:01:02,7"), "{text}");
        assert!(text.contains("Two\nlines\n"));
    }

    #[test]
    fn silence_is_an_empty_file() {
        assert_eq!(written(&[]), "");
    }
}
