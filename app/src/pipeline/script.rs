//! A coach that reads from a script: what it says and when is written in a file. It needs no model, so it shows and
//! tests everything around one.

use super::coach::Coach;
use anyhow::{Context as _, bail};
use spotter_engine::coach::{Feedback, Kind, Step};
use spotter_vision::lens::Sight;
use std::{path::Path, time::Duration};

/// Says each line at the first frame at or after its time.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedCoach {
    lines: Vec<(Duration, String)>,
    next: usize,
    frame_rate: f64,
}

impl ScriptedCoach {
    /// A coach of `frame_rate` frames a second that says `lines`, which are in order of time.
    pub(crate) fn new(frame_rate: f64, lines: Vec<(Duration, String)>) -> Self {
        Self { lines, next: 0, frame_rate }
    }

    /// Reads a script: a line is seconds, a space, and the words; `#` begins a comment.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{}: can't read the script", path.display()))?;
        let mut lines: Vec<(Duration, String)> = Vec::new();
        for (number, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parsed = line.split_once(char::is_whitespace).and_then(|(seconds, words)| {
                let t = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
                Some((t, words.trim().to_owned()))
            });
            let Some(cue) = parsed else {
                bail!("{}:{number}: expected seconds and words, such as `2.5 Keep your back straight`", path.display())
            };
            lines.push(cue);
        }
        lines.sort_by_key(|(t, _)| *t);
        Ok(Self::new(8.0, lines))
    }
}

impl Coach for ScriptedCoach {
    fn frame_rate(&self) -> f64 {
        self.frame_rate
    }

    fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> anyhow::Result<Step> {
        let mut step = Step { p_speak: 0.0, feedback: None, view: sight.view };
        let Some((_, text)) = self.lines.get(self.next).filter(|(t, _)| *t <= sight.frame.t) else {
            return Ok(step);
        };
        self.next += 1;
        step.p_speak = 1.0;
        if text.split_inclusive(' ').all(emit) {
            let t = sight.frame.t;
            step.feedback = Some(Feedback { t_frame: t, t_ready: t, text: text.clone(), kind: Kind::Coaching });
        }
        Ok(step)
    }

    fn reset(&mut self) {
        self.next = 0;
    }

    fn describe(&self) -> String {
        format!("script of {} lines", self.lines.len())
    }
}
