//! The timeline for a person at a terminal.

use super::{Session, Sink, Summary, clock_text};
use crate::{memory::mebibytes, pipeline::Event};
use spotter_engine::coach::Kind;
use spotter_vision::lens::View;
use std::io::Write;

/// A line for each thing said, `mm:ss.s  words`.
pub(crate) struct Terminal<W: Write> {
    out: W,
    colour: bool,
}

impl<W: Write> Terminal<W> {
    /// `colour` is for terminals only.
    pub(crate) fn new(out: W, colour: bool) -> Self {
        Self { out, colour }
    }

    fn line(&mut self, style: &str, text: &str) -> anyhow::Result<()> {
        match (self.colour, style) {
            (false, _) | (_, "") => writeln!(self.out, "{text}")?,
            (true, style) => writeln!(self.out, "\x1b[{style}m{text}\x1b[0m")?,
        }
        Ok(self.out.flush()?)
    }
}

/// A view in words.
pub(crate) fn view_text(view: View) -> &'static str {
    match view {
        View::Clear => "in view",
        View::PartlyOut => "partly out of view",
        View::NoPerson => "nobody in view",
    }
}

/// A view and the number of people, where it is more than one, in words.
pub(crate) fn state_text(view: View, people: usize) -> String {
    let view = view_text(view);
    if people > 1 { format!("{view}; {people} people, the largest is coached") } else { view.to_owned() }
}

impl<W: Write> Sink for Terminal<W> {
    fn begin(&mut self, s: &Session) -> anyhow::Result<()> {
        let told = s.exercise.as_ref().map_or(String::new(), |e| format!(", exercise {e}"));
        self.line("2", &format!("{}: {}x{} at {:.4} fps, {}{told}", s.source, s.width, s.height, s.fps, s.model))
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        match event {
            Event::View { t, view, people, .. } => {
                self.line("2", &format!("{}  ({})", clock_text(*t), state_text(*view, *people)))
            }
            Event::Feedback(f) => {
                let style = match f.kind {
                    Kind::View => "33",
                    Kind::Program => "35",
                    Kind::Coaching => "1",
                };
                self.line(style, &format!("{}  {}", clock_text(f.t_ready), f.text))
            }
            Event::Failed(f) => self.line("31", &format!("{}  ({} stopped: {})", clock_text(f.t), f.stage, f.problem)),
            Event::Source { t, problem: Some(problem), .. } => {
                self.line("31", &format!("{}  (no picture: {problem}; trying again)", clock_text(*t)))
            }
            Event::Source { t, problem: None, .. } => {
                self.line("2", &format!("{}  (the picture is back)", clock_text(*t)))
            }
            Event::Exercise { t, exercise } => {
                self.line("2", &format!("{}  ({})", clock_text(*t), exercise.name("en")))
            }
            Event::Rep { t, exercise, set, count } => {
                let set = if *set > 1 { format!(", set {set}") } else { String::new() };
                self.line("36", &format!("{}  {count} {}{set}", clock_text(*t), exercise.name("en")))
            }
            Event::HalfRep { t, exercise } => {
                self.line("2", &format!("{}  (half a repetition: {})", clock_text(*t), exercise.name("en")))
            }
            Event::Hold { t, exercise, lasted, over: true, .. } => {
                let held = lasted.as_secs_f64();
                self.line("36", &format!("{}  {}: held {held:.1} s", clock_text(*t), exercise.name("en")))
            }
            Event::Clock { t, runs } => {
                let text = if *runs { "the workout goes on" } else { "the workout waits until you are back" };
                self.line("2", &format!("{}  ({text})", clock_text(*t)))
            }
            Event::Hold { .. }
            | Event::Set { .. }
            | Event::Rest { .. }
            | Event::Finished { .. }
            | Event::Begun { .. }
            | Event::Partial { .. }
            | Event::Withdrawn { .. }
            | Event::Phase { .. }
            | Event::Move { .. }
            | Event::Tick { .. } => Ok(()),
        }
    }

    fn end(&mut self, s: &Summary) -> anyhow::Result<()> {
        let c = s.counts;
        let mut text = format!("{}  end: {} spoken, {} frames", clock_text(s.duration), c.utterances, c.frames);
        text += &format!(", {} looked at, {} decided on", c.sampled, c.observed);
        for (count, name) in [(c.skipped, "skipped"), (c.dropped, "dropped"), (c.stale, "cancelled as stale")] {
            if count > 0 {
                text += &format!(", {count} {name}");
            }
        }
        self.line("2", &text)?;
        if let Some(timing) = &s.timing {
            for (name, q) in &timing.stages {
                self.line("2", &format!("  {name:<18} p50 {:7.1} ms   p95 {:7.1} ms   n {}", q.p50_ms, q.p95_ms, q.n))?;
            }
            let (rate, wall) = (timing.frames_per_second, timing.wall.as_secs_f64());
            let mut text = format!("  {:<18} {rate:.1} frames a second looked at, {wall:.1} s in all", "this machine");
            if let (Some(now), Some(peak)) = (timing.memory.resident_bytes, timing.memory.peak_bytes) {
                text += &format!(", memory {:.0} MiB, at most {:.0}", mebibytes(now as f64), mebibytes(peak as f64));
            }
            self.line("2", &text)?;
        }
        let Some(d) = &s.speculation else { return Ok(()) };
        let gain = d.gain.map_or_else(String::new, |gain| format!(", {gain:.2} times as fast"));
        self.line(
            "2",
            &format!(
                "  {:<18} {} of {} drafts accepted, {:.2} tokens a round{gain}",
                "drafting", d.accepted, d.proposed, d.block_efficiency
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_engine::coach::Feedback;
    use std::time::Duration;

    fn printed(colour: bool) -> String {
        let mut out = Vec::new();
        let t = Duration::from_millis(62_340);
        let said = Feedback { t_frame: t, t_ready: t, text: "Lower".into(), kind: Kind::Coaching };
        assert!(Terminal::new(&mut out, colour).event(&Event::Feedback(said)).is_ok());
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn colour_is_only_for_terminals() {
        assert_eq!(printed(false), "01:02.3  Lower\n");
        assert_eq!(printed(true), "\x1b[1m01:02.3  Lower\x1b[0m\n");
    }
}
