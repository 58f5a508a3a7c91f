//! What speculation did and what it brought (specs: speculative, section 1.4).

use serde::Serialize;
use std::time::Duration;

/// One round, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Round {
    /// Columns beside the anchor.
    pub proposed: usize,
    /// Levels drafted.
    pub depth: usize,
    /// Drafts that were accepted.
    pub accepted: usize,
    /// Tokens committed: accepted and the one that the target adds, less what was cut at an end.
    pub committed: usize,
    /// Passes of the drafter.
    pub passes: u64,
    /// The accepted columns were not the first ones, so what the cache holds of them was moved.
    pub moved: bool,
}

/// Sums over rounds and plain steps. The token that comes of the prompt itself counts nowhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Target passes over a draft.
    pub rounds: usize,
    /// Target passes over one token.
    pub plain_steps: usize,
    /// Drafted tokens.
    pub proposed: usize,
    /// Those that were accepted.
    pub accepted: usize,
    /// Tokens committed in rounds.
    pub committed: usize,
    /// Passes of the drafter in rounds.
    pub draft_passes: u64,
    /// For each depth: rounds that drafted so deep, and those in which a token there was accepted.
    pub by_depth: Vec<(usize, usize)>,
    /// Times that drafting switched itself off.
    pub switched_off: usize,
    /// Time spent drafting.
    pub draft_time: Duration,
    /// Time spent on target passes over drafts, and on choosing from them.
    pub verify_time: Duration,
    /// Time spent on plain steps.
    pub plain_time: Duration,
    /// What a plain step takes, as estimated, in seconds.
    pub plain_step_seconds: f64,
}

impl Stats {
    /// Counts a round.
    pub(crate) fn round(&mut self, round: Round, draft: Duration, verify: Duration) {
        self.rounds += 1;
        self.proposed += round.proposed;
        self.accepted += round.accepted;
        self.committed += round.committed;
        self.draft_passes += round.passes;
        self.draft_time += draft;
        self.verify_time += verify;
        if self.by_depth.len() < round.depth {
            self.by_depth.resize(round.depth, (0, 0));
        }
        for (depth, (drafted, accepted)) in self.by_depth.iter_mut().take(round.depth).enumerate() {
            *drafted += 1;
            *accepted += usize::from(depth < round.accepted);
        }
    }

    /// Counts a plain step.
    pub(crate) fn plain(&mut self, draft: Duration, step: Duration) {
        self.plain_steps += 1;
        self.draft_time += draft;
        self.plain_time += step;
    }

    /// Tokens committed, in rounds and by plain steps.
    pub fn tokens(&self) -> usize {
        self.committed + self.plain_steps
    }

    /// Block efficiency tau: tokens committed in a round, 1 to depth + 1; 1 without rounds.
    pub fn block_efficiency(&self) -> f64 {
        if self.rounds == 0 { 1.0 } else { self.committed as f64 / self.rounds as f64 }
    }

    /// The same over all target passes, plain steps included.
    pub fn tokens_per_pass(&self) -> f64 {
        let passes = self.rounds + self.plain_steps;
        if passes == 0 { 1.0 } else { self.tokens() as f64 / passes as f64 }
    }

    /// Share of the drafts that were accepted; 0 of none.
    pub fn acceptance(&self) -> f64 {
        if self.proposed == 0 { 0.0 } else { self.accepted as f64 / self.proposed as f64 }
    }

    /// Speed-up of a machine bound by memory, with a drafter of `cost` times the target's parameters.
    pub fn memory_bound_speedup(&self, cost: f64) -> f64 {
        let passes = if self.rounds == 0 { 0.0 } else { self.draft_passes as f64 / self.rounds as f64 };
        memory_bound_speedup(self.block_efficiency(), cost, passes)
    }

    /// Time in all.
    pub fn time(&self) -> Duration {
        self.draft_time + self.verify_time + self.plain_time
    }

    /// How many times faster than plain steps alone, by the estimate of a plain step; `None` before there is one, and a round.
    pub fn gain(&self) -> Option<f64> {
        let time = self.time().as_secs_f64();
        let plain = self.plain_step_seconds * self.tokens() as f64;
        (self.rounds > 0 && time > 0.0 && plain > 0.0).then(|| plain / time)
    }

    /// Adds another's sums.
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.plain_steps += other.plain_steps;
        self.proposed += other.proposed;
        self.accepted += other.accepted;
        self.committed += other.committed;
        self.draft_passes += other.draft_passes;
        self.switched_off += other.switched_off;
        self.draft_time += other.draft_time;
        self.verify_time += other.verify_time;
        self.plain_time += other.plain_time;
        self.plain_step_seconds = other.plain_step_seconds;
        if self.by_depth.len() < other.by_depth.len() {
            self.by_depth.resize(other.by_depth.len(), (0, 0));
        }
        for (mine, theirs) in self.by_depth.iter_mut().zip(&other.by_depth) {
            *mine = (mine.0 + theirs.0, mine.1 + theirs.1);
        }
    }
}

/// `tau / (c * passes + 1)`: one drafter pass costs `cost` (c) of a target pass, and a round has `passes` of them.
pub fn memory_bound_speedup(tau: f64, cost: f64, passes: f64) -> f64 {
    tau / (cost * passes + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1.4.
    #[test]
    fn figures_follow_from_the_log() {
        let c = 115.0 / 7000.0;
        assert!((memory_bound_speedup(2.486_807, c, 3.0) - 2.37).abs() < 1e-6);
        assert!((memory_bound_speedup(1.0, c, 5.0).recip() - 1.082_143).abs() < 1e-6);
        let log = [
            Round { proposed: 3, depth: 3, accepted: 3, committed: 4, passes: 3, moved: false },
            Round { proposed: 3, depth: 3, accepted: 0, committed: 1, passes: 3, moved: false },
            Round { proposed: 2, depth: 2, accepted: 1, committed: 2, passes: 2, moved: true },
        ];
        let (mut stats, ms) = (Stats::default(), Duration::from_millis);
        for round in log {
            stats.round(round, ms(2), ms(10));
        }
        stats.plain(ms(0), ms(8));
        stats.plain_step_seconds = 0.008;
        let committed: usize = log.iter().map(|r| r.committed).sum();
        assert_eq!(stats.block_efficiency(), committed as f64 / log.len() as f64);
        let passes = log.iter().map(|r| r.passes).sum::<u64>() as f64 / 3.0;
        let expected = stats.block_efficiency() / (0.1 * passes + 1.0);
        assert!((stats.memory_bound_speedup(0.1) - expected).abs() < 1e-12);
        assert_eq!(stats.by_depth, [(3, 2), (3, 1), (2, 1)]);
        assert_eq!(stats.acceptance(), 0.5);
        assert_eq!(stats.tokens_per_pass(), 2.0);
        assert_eq!(stats.time(), ms(44));
        assert!((stats.gain().unwrap() - 64.0 / 44.0).abs() < 1e-9);
        let mut twice = stats.clone();
        twice.add(&stats);
        assert_eq!((twice.rounds, twice.by_depth[2], twice.block_efficiency()), (6, (4, 2), stats.block_efficiency()));
    }
}
