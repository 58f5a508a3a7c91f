//! Who may speak, and who gives way: a pure function of what came and when.

use spotter_datasets::synthetic::phrases::Lang;
use std::time::Duration;

/// What is said later than this after it came is no help any more.
const STALE: Duration = Duration::from_secs(3);

/// How much a cue matters, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Priority {
    /// A repetition counted: a sound without words.
    Tick,
    Praise,
    Count,
    /// What comes next.
    Program,
    /// A correction, or help to get back into the picture.
    Correction,
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cue {
    pub(crate) text: String,
    pub(crate) priority: Priority,
    pub(crate) lang: Lang,
}

/// One cue is spoken and at most one waits.
#[derive(Debug, Default)]
pub(super) struct Rules {
    muted: bool,
    speaking: Option<Priority>,
    waiting: Option<(Duration, Cue)>,
}

impl Rules {
    /// A cue comes; true when what is being said has to stop for it. A newer cue takes the place of one that waits,
    /// unless that matters more.
    pub(super) fn offer(&mut self, now: Duration, cue: Cue) -> bool {
        if self.muted {
            return false;
        }
        let busy = self.speaking.is_some() || self.waiting.is_some();
        if cue.priority == Priority::Tick && busy {
            return false;
        }
        let cuts = cue.priority == Priority::Correction && self.speaking.is_some_and(|p| p < Priority::Correction);
        let kept =
            self.waiting.as_ref().is_some_and(|(_, w)| w.priority == Priority::Correction && cue.priority < w.priority);
        if !kept {
            self.waiting = Some((now, cue));
        }
        cuts
    }

    /// Silence; what waits is dropped.
    pub(super) fn mute(&mut self, muted: bool) {
        self.muted = muted;
        if muted {
            self.waiting = None;
        }
    }

    /// The cue to begin now, where nothing is playing.
    pub(super) fn next(&mut self, now: Duration, playing: bool) -> Option<Cue> {
        if playing {
            return None;
        }
        self.speaking = None;
        let (came, cue) = self.waiting.take()?;
        if now.saturating_sub(came) > STALE {
            return None;
        }
        self.speaking = Some(cue.priority);
        Some(cue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cue(text: &str, priority: Priority) -> Cue {
        Cue { text: text.into(), priority, lang: Lang::En }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn text(cue: Option<Cue>) -> Option<String> {
        cue.map(|cue| cue.text)
    }

    #[test]
    fn a_correction_stops_praise_and_nothing_stops_a_correction() {
        let mut rules = Rules::default();
        assert!(!rules.offer(s(0), cue("nice", Priority::Praise)));
        assert_eq!(text(rules.next(s(0), false)), Some("nice".into()));
        assert!(!rules.offer(s(0), cue("3", Priority::Count)), "a count waits");
        assert!(rules.offer(s(1), cue("knees", Priority::Correction)));
        assert_eq!(text(rules.next(s(1), false)), Some("knees".into()), "the count has made way");
        assert!(!rules.offer(s(1), cue("back", Priority::Correction)));
        assert_eq!(rules.next(s(1), true), None, "never two at once");
        assert!(!rules.offer(s(1), cue("nice", Priority::Praise)));
        assert_eq!(text(rules.next(s(2), false)), Some("back".into()), "praise does not replace a correction");
    }

    #[test]
    fn the_newest_waits_and_the_stale_is_dropped() {
        let mut rules = Rules::default();
        rules.offer(s(0), cue("one", Priority::Count));
        rules.next(s(0), false);
        rules.offer(s(1), cue("two", Priority::Count));
        rules.offer(s(2), cue("three", Priority::Count));
        assert_eq!(text(rules.next(s(3), false)), Some("three".into()));
        rules.offer(s(3), cue("four", Priority::Count));
        assert_eq!(rules.next(s(7), false), None);
    }

    #[test]
    fn muted_is_silent_and_forgets() {
        let mut rules = Rules::default();
        rules.offer(s(0), cue("one", Priority::Count));
        rules.mute(true);
        rules.offer(s(0), cue("two", Priority::Correction));
        assert_eq!(rules.next(s(0), false), None);
        rules.mute(false);
        assert_eq!(rules.next(s(0), false), None);
        rules.offer(s(0), cue("three", Priority::Praise));
        assert_eq!(text(rules.next(s(0), false)), Some("three".into()));
    }

    #[test]
    fn a_tick_never_disturbs() {
        let mut rules = Rules::default();
        rules.offer(s(0), cue("nice", Priority::Praise));
        rules.offer(s(0), cue("", Priority::Tick));
        assert_eq!(text(rules.next(s(0), false)), Some("nice".into()));
        rules.offer(s(0), cue("", Priority::Tick));
        assert_eq!(rules.next(s(1), false), None);
        rules.offer(s(1), cue("", Priority::Tick));
        assert!(rules.next(s(1), false).is_some_and(|c| c.priority == Priority::Tick));
    }
}
