//! What was said and when, as it is written down: JSON lines, a terminal, subtitles, a video with the words drawn in.
//!
//! The JSON lines are one object a line, told apart by `type`. Times are seconds of media time, exact to the
//! millisecond. Lines come in the order of decision.
//!
//! | type | fields |
//! |---|---|
//! | `session` | first line: `version`, `source`, `width`, `height`, `fps`, `model`, `lens`, `language`, `exercise` (or null), `latency`, `seed`, `talkativeness`, `cooldown` |
//! | `feedback` | `t` (when it is shown, the same as `t_ready`), `t_frame` (the frame that led to it), `t_ready` (its first word is there), `text`, `kind` (`coaching`, `view` or `program`) |
//! | `view` | `t`, `view` (`clear`, `partly_out`, `no_person`), `missing` (`head`, `feet`, `side`, `much`, or null), `people` |
//! | `source` | `t`, `problem`, `trouble` (`missing`, `busy`, `forbidden`, `silent`, `unplugged`, `frozen`, `unreadable`, `other`, or null): the camera is lost, or back where `problem` is null |
//! | `exercise` | `t`, `exercise`: what counts from here on |
//! | `set` | `t`, `exercise`, `set`, `of`, `reps` or `seconds` (the other is null): a set of the workout begins |
//! | `rest` | `t`, `seconds`, `exercise` (the next one) |
//! | `clock` | `t`, `runs`: the clock of the workout stops while the person is away, and goes on |
//! | `finished` | `t`: the workout is done |
//! | `rep` | `t` (of its end), `exercise`, `set` (from 1), `count` (in this set) |
//! | `half_rep` | `t`, `exercise`: it turned before the full range |
//! | `hold` | `t`, `exercise`, `set`, `seconds`, `over`: once a second while something is held, and at its end |
//! | `failed` | `t`, `stage`, `problem`: a stage that stopped |
//! | `summary` | `duration` and the counts of the run |
//! | `timing` | where it is asked for, of this machine: for each of `stages` `n`, `p50_ms`, `p95_ms`; `wall_seconds`, `frames_per_second` (looked at, by the clock on the wall), `resident_bytes`, `peak_bytes` |
//! | `speculation` | behind `timing`, where the coach has a drafter: `rounds`, `plain_steps`, `proposed`, `accepted`, `by_depth` (rounds that drafted so deep, and those with an accepted token there), `block_efficiency`, `draft_ms`, `verify_ms`, `gain`, `switched_off` |

mod json;
pub(crate) mod render;
mod srt;
mod terminal;
pub(crate) mod text;

pub(crate) use json::JsonLines;
pub(crate) use srt::Subtitles;
pub(crate) use terminal::Terminal;

use crate::{
    memory::Memory,
    pipeline::{
        Event,
        stats::{Counts, Quantiles},
    },
};
use serde::Serialize;
use spotter_engine::speculate::Stats;
use std::time::Duration;

/// What is known before the first frame.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Session {
    pub(crate) version: &'static str,
    pub(crate) source: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) fps: f64,
    pub(crate) model: String,
    pub(crate) lens: String,
    pub(crate) language: String,
    pub(crate) exercise: Option<String>,
    pub(crate) latency: String,
    pub(crate) seed: u64,
    pub(crate) talkativeness: f32,
    pub(crate) cooldown: f64,
}

/// What is known after the last frame.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// Media time of the last frame.
    pub(crate) duration: Duration,
    pub(crate) counts: Counts,
    /// What this machine needed, where it is asked for.
    pub(crate) timing: Option<Timing>,
    /// What drafting did, where times are asked for and there is a drafter.
    pub(crate) speculation: Option<Drafting>,
}

/// What a run needed of this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timing {
    /// Times of the stages.
    pub(crate) stages: Vec<(&'static str, Quantiles)>,
    /// From the first frame to the last.
    pub(crate) wall: Duration,
    /// Frames looked at in a second of it.
    pub(crate) frames_per_second: f64,
    pub(crate) memory: Memory,
}

/// What drafting did and what it brought on this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drafting {
    /// Target passes over a draft.
    pub(crate) rounds: usize,
    /// Target passes over one token.
    pub(crate) plain_steps: usize,
    /// Drafted tokens.
    pub(crate) proposed: usize,
    /// Of these accepted.
    pub(crate) accepted: usize,
    /// For each depth: rounds that drafted so deep, and those in which a token there was accepted.
    pub(crate) by_depth: Vec<(usize, usize)>,
    /// Tokens committed in a round.
    pub(crate) block_efficiency: f64,
    /// Time spent drafting.
    pub(crate) draft_ms: f64,
    /// Time spent on target passes over drafts.
    pub(crate) verify_ms: f64,
    /// How many times faster than plain steps; null before one was timed.
    pub(crate) gain: Option<f64>,
    /// Times that drafting switched itself off.
    pub(crate) switched_off: usize,
}

impl Drafting {
    /// The figures of a run.
    pub(crate) fn new(stats: &Stats) -> Self {
        Self {
            rounds: stats.rounds,
            plain_steps: stats.plain_steps,
            proposed: stats.proposed,
            accepted: stats.accepted,
            by_depth: stats.by_depth.clone(),
            block_efficiency: stats.block_efficiency(),
            draft_ms: stats.draft_time.as_secs_f64() * 1e3,
            verify_ms: stats.verify_time.as_secs_f64() * 1e3,
            gain: stats.gain(),
            switched_off: stats.switched_off,
        }
    }
}

/// A place where the timeline goes.
pub(crate) trait Sink {
    /// The stream begins.
    fn begin(&mut self, _session: &Session) -> anyhow::Result<()> {
        Ok(())
    }
    /// Something happened.
    fn event(&mut self, event: &Event) -> anyhow::Result<()>;
    /// The stream ended.
    fn end(&mut self, _summary: &Summary) -> anyhow::Result<()> {
        Ok(())
    }
}

/// All the places of a run.
#[derive(Default)]
pub(crate) struct Sinks(pub(crate) Vec<Box<dyn Sink + Send>>);

impl Sink for Sinks {
    fn begin(&mut self, session: &Session) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.begin(session))
    }
    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.event(event))
    }
    fn end(&mut self, summary: &Summary) -> anyhow::Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.end(summary))
    }
}

/// Words of a cue that come first.
const WORDS: usize = 8;

/// Seconds, exact to the millisecond.
fn seconds(t: Duration) -> f64 {
    t.as_millis() as f64 / 1000.0
}

/// How long a text is shown: as long as it takes to read, within reason.
pub(crate) fn reading_time(text: &str) -> Duration {
    // 15 Latin letters a second; a Hangul syllable reads like two of them
    let letters: u32 = text.chars().map(|c| if c > '\u{1100}' { 2 } else { 1 }).sum();
    (Duration::from_millis(500) + Duration::from_secs(1) * letters / 15)
        .clamp(Duration::from_millis(1200), Duration::from_secs(7))
}

/// The part of a cue that is spoken, and shown first: whole clauses of up to eight words, the first of them in any case.
pub(crate) fn first_words(text: &str) -> &str {
    let text = text.trim();
    let words = |t: &str| t.split_whitespace().count();
    if words(text) <= WORDS {
        return text;
    }
    let ends = text.char_indices().filter(|(_, c)| matches!(c, '.' | ',' | '!' | '?' | ';' | ':'));
    let ends: Vec<usize> = ends.map(|(at, c)| at + c.len_utf8()).collect();
    let clause = |end: &usize| text.get(..*end).unwrap_or(text);
    let longest = ends.iter().map(clause).rfind(|t| words(t) <= WORDS);
    longest.or_else(|| ends.first().map(clause)).unwrap_or(text).trim_end_matches([',', ';', ':'])
}

/// `mm:ss.s`, and hours where there are some.
pub(crate) fn clock_text(t: Duration) -> String {
    let tenths = t.as_millis() / 100;
    let (minutes, rest) = (tenths / 600, tenths % 600);
    let seconds = format!("{:02}.{}", rest / 10, rest % 10);
    match minutes / 60 {
        0 => format!("{minutes:02}:{seconds}"),
        hours => format!("{hours}:{:02}:{seconds}", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_texts() {
        for (ms, text) in [(0, "00:00.0"), (2475, "00:02.4"), (61_900, "01:01.9"), (3_600_000, "1:00:00.0")] {
            assert_eq!(clock_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn long_cues_are_cut_at_their_clauses() {
        assert_eq!(first_words("Knees wider."), "Knees wider.");
        assert_eq!(first_words("Good depth, now push your knees out in line with your feet."), "Good depth");
        assert_eq!(
            first_words("Sit back. Chest up. Then drive through your heels and breathe out."),
            "Sit back. Chest up."
        );
        let unbroken = "push your knees out in line with both of your feet";
        assert_eq!(first_words(unbroken), unbroken);
        assert_eq!(first_words("무릎을 발끝 방향으로 벌려 주세요"), "무릎을 발끝 방향으로 벌려 주세요");
    }

    #[test]
    fn longer_texts_are_shown_longer() {
        assert_eq!(reading_time("Good."), Duration::from_millis(1200));
        assert!(
            reading_time("Keep your knees over your toes") < reading_time("무릎이 발끝과 같은 방향을 향하게 하세요")
        );
        assert_eq!(reading_time(&"x".repeat(1000)), Duration::from_secs(7));
    }
}
