//! When the person can't be seen: no coaching, and one word about it.

use spotter_vision::{lens::View, pose::Missing};
use std::time::Duration;

/// A view has to last this long before it is believed: poses flicker.
const HIDDEN_AFTER: Duration = Duration::from_millis(1000);
/// Somebody may be on their way into the picture: nothing is said about nobody before this.
const NOBODY_AFTER: Duration = Duration::from_millis(2000);
/// Coming back is believed sooner.
const CLEAR_AFTER: Duration = Duration::from_millis(500);
/// Two words about the view are no closer than this.
const CUE_COOLDOWN: Duration = Duration::from_secs(10);

/// What changed with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The view that is believed from now on, if it is another one.
    pub(crate) settled: Option<View>,
    /// The view to tell the person about, once an episode.
    pub(crate) cue: Option<View>,
}

/// Follows the view of a stream by media time. Until a whole body was seen the person counts as hidden.
#[derive(Debug, Default)]
pub(crate) struct ViewGate {
    settled: Option<View>,
    /// When the settled view began.
    since: Duration,
    candidate: Option<(View, Duration)>,
    cued: bool,
    last_cue: Option<Duration>,
}

impl ViewGate {
    /// Takes in the view of the frame at `t`.
    pub(crate) fn update(&mut self, t: Duration, view: View) -> Change {
        let mut change = Change { settled: self.settle(t, view), cue: None };
        if change.settled == Some(View::Clear) {
            self.cued = false;
        }
        let rested = self.last_cue.is_none_or(|last| t.saturating_sub(last) >= CUE_COOLDOWN);
        if let Some(hidden) = self.settled.filter(|&v| v != View::Clear && v == view)
            && !self.cued
            && rested
            && (hidden != View::NoPerson || t.saturating_sub(self.since) >= NOBODY_AFTER)
        {
            self.cued = true;
            self.last_cue = Some(t);
            change.cue = Some(hidden);
        }
        change
    }

    fn settle(&mut self, t: Duration, view: View) -> Option<View> {
        if self.settled == Some(view) {
            self.candidate = None;
            return None;
        }
        // partly out and gone are one episode: changing between them doesn't start the wait again
        let since = match self.candidate {
            Some((before, since)) if (before == View::Clear) == (view == View::Clear) => since,
            _ => t,
        };
        let wait = match (view, self.settled) {
            (View::Clear, None) => Duration::ZERO,
            (View::Clear, _) => CLEAR_AFTER,
            _ => HIDDEN_AFTER,
        };
        if t.saturating_sub(since) < wait {
            self.candidate = Some((view, since));
            return None;
        }
        self.candidate = None;
        self.settled = Some(view);
        self.since = since;
        Some(view)
    }

    /// The view that is believed.
    pub(crate) fn settled(&self) -> Option<View> {
        self.settled
    }

    /// Whether the coach is asked about frames like this.
    pub(crate) fn is_clear(&self) -> bool {
        self.settled == Some(View::Clear)
    }

    /// When the last word about the view was said.
    pub(crate) fn last_cue(&self) -> Option<Duration> {
        self.last_cue
    }
}

/// What is said about a view, in a language ("ko", anything else is English): that it is not enough, and where it is known
/// what to do about it.
pub(crate) fn cue_text(view: View, missing: Option<Missing>, language: &str) -> String {
    let help = help_text(view, missing, language);
    if view == View::NoPerson || matches!(missing, None | Some(Missing::Much)) {
        return help.to_owned();
    }
    format!("{} {help}", help_text(view, None, language))
}

/// The shortest help to get into the picture.
pub(crate) fn help_text(view: View, missing: Option<Missing>, language: &str) -> &'static str {
    match (view, missing, language) {
        (View::NoPerson, _, "ko") => "보이지 않아요. 화면 안으로 들어와 주세요.",
        (View::NoPerson, ..) => "I can't see you. Step into the picture.",
        (_, Some(Missing::Feet), "ko") => "뒤로 물러나 주세요. 발이 보이지 않아요.",
        (_, Some(Missing::Feet), _) => "Step back, I can't see your feet.",
        (_, Some(Missing::Head), "ko") => "뒤로 물러나 주세요. 머리가 보이지 않아요.",
        (_, Some(Missing::Head), _) => "Step back, I can't see your head.",
        (_, Some(Missing::Side), "ko") => "화면 가운데로 와 주세요.",
        (_, Some(Missing::Side), _) => "Come to the middle of the picture.",
        (_, _, "ko") => "몸 전체가 보이지 않아요.",
        (..) => "I can't see all of you.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Cues of a sequence of `(view, seconds)` at 10 frames a second, with their times in ms.
    fn cues(script: &[(View, f64)]) -> Vec<(u64, View)> {
        let (mut gate, mut t, mut cues) = (ViewGate::default(), 0, Vec::new());
        for &(view, seconds) in script {
            for _ in 0..(seconds * 10.0) as usize {
                cues.extend(gate.update(ms(t), view).cue.map(|v| (t, v)));
                t += 100;
            }
        }
        cues
    }

    #[test]
    fn one_cue_an_episode_after_a_second() {
        let script = [(View::Clear, 2.0), (View::PartlyOut, 30.0), (View::Clear, 2.0)];
        assert_eq!(cues(&script), [(3000, View::PartlyOut)]);
    }

    #[test]
    fn what_is_said_begins_with_what_is_wrong() {
        let said = |missing, language| cue_text(View::PartlyOut, missing, language);
        assert_eq!(said(Some(Missing::Feet), "en"), "I can't see all of you. Step back, I can't see your feet.");
        assert_eq!(said(Some(Missing::Much), "en"), "I can't see all of you.");
        assert_eq!(said(Some(Missing::Side), "ko"), "몸 전체가 보이지 않아요. 화면 가운데로 와 주세요.");
        assert_eq!(cue_text(View::NoPerson, None, "en"), "I can't see you. Step into the picture.");
    }

    #[test]
    fn a_flicker_is_no_episode() {
        assert_eq!(cues(&[(View::Clear, 1.0), (View::NoPerson, 0.9), (View::Clear, 1.0), (View::PartlyOut, 0.9)]), []);
    }

    #[test]
    fn two_episodes_close_together_share_a_cooldown() {
        let script =
            [(View::Clear, 1.0), (View::NoPerson, 3.0), (View::Clear, 1.0), (View::NoPerson, 20.0), (View::Clear, 1.0)];
        assert_eq!(cues(&script), [(3000, View::NoPerson), (13_000, View::NoPerson)]);
    }

    #[test]
    fn somebody_who_walks_in_is_told_only_what_is_missing() {
        assert_eq!(cues(&[(View::NoPerson, 1.5), (View::PartlyOut, 3.0)]), [(2500, View::PartlyOut)]);
        assert_eq!(cues(&[(View::NoPerson, 1.5), (View::Clear, 3.0)]), []);
    }

    #[test]
    fn hidden_from_the_start_is_never_coached() {
        let mut gate = ViewGate::default();
        for t in 0..20 {
            gate.update(ms(t * 100), View::PartlyOut);
            assert!(!gate.is_clear());
        }
        gate.update(ms(2000), View::Clear);
        assert!(!gate.is_clear(), "half a second of doubt");
        gate.update(ms(2500), View::Clear);
        assert!(gate.is_clear());
    }

    #[test]
    fn partly_out_and_gone_are_one_episode() {
        let script = [(View::Clear, 1.0), (View::PartlyOut, 0.6), (View::NoPerson, 0.6), (View::PartlyOut, 5.0)];
        assert_eq!(cues(&script).len(), 1);
    }
}
