//! Drafting that loses time switches itself off and tries again later.
//!
//! Time lost against plain steps is kept in a ledger: every token earns a small share of a plain step, a round pays
//! what it took beyond the plain steps it stood for. Nothing is lent. A round is only as deep as the ledger can pay for,
//! should it bring a single token, so the stake is always in proportion to what was decoded: at any time the loss in all
//! stays below that share of the plain time, whatever the drafter does, as far as rounds cost what is expected of them.

use std::collections::VecDeque;

/// Rounds over which gain is judged.
const WINDOW: usize = 8;
/// Plain steps timed before the first round, and between rounds from then on.
const MEASURED: usize = 2;
/// Rounds between two timings of a plain step.
const RETIME: usize = 64;
/// Tokens of the first pause; each further one in a row is twice as long.
const FIRST_PAUSE: usize = 32;
/// Tokens of the longest pause.
const LONGEST_PAUSE: usize = 2048;
/// The ledger holds at most so many plain steps, so that old gains do not pay for long losses.
const MOST_STEPS: f64 = 24.0;

/// What a further column is expected to cost of a target's pass.
pub const COLUMN_COST: f64 = 0.12;
/// What a drafter's pass is expected to cost of a target's, beside its share of the parameters.
pub const PASS_COST: f64 = 0.05;

/// What may be lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Share of the plain time.
    pub share: f64,
}

impl Default for Allowance {
    fn default() -> Self {
        // Below 2 % by a margin for rounds that cost more than is expected of them.
        Self { share: 0.015 }
    }
}

/// A round of the window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    tokens: usize,
    time: f64,
    /// Time over what was expected.
    scale: f64,
}

/// Decides how deep the next round is drafted. All times are seconds; what is expected of a round is told in plain
/// steps.
#[derive(Clone, Debug)]
pub struct Governor {
    /// `None`: always drafts.
    allowance: Option<Allowance>,
    /// Newest times of plain steps.
    steps: VecDeque<f64>,
    /// Newest rounds.
    rounds: VecDeque<Seen>,
    balance: f64,
    /// Half of the worst scale before the last pause, as a guess at the next one.
    before: f64,
    since_timed: usize,
    pause: usize,
    /// Tokens left to wait.
    waiting: usize,
    switched_off: usize,
}

impl Governor {
    /// With what may be lost; `None` never switches off.
    pub fn new(allowance: Option<Allowance>) -> Self {
        Self {
            allowance,
            steps: VecDeque::new(),
            rounds: VecDeque::new(),
            balance: 0.0,
            before: 1.0,
            since_timed: 0,
            pause: FIRST_PAUSE,
            waiting: 0,
            switched_off: 0,
        }
    }

    /// What a plain step takes: the median of the newest; 0 before there is one.
    pub fn plain_step(&self) -> f64 {
        let mut steps: Vec<f64> = self.steps.iter().copied().collect();
        steps.sort_unstable_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied().unwrap_or(0.0)
    }

    /// Times that it switched off.
    pub fn switched_off(&self) -> usize {
        self.switched_off
    }

    /// How deep a round may be drafted now, at most `most`; 0 is a plain step. `expected` tells the cost of a round of a
    /// depth in plain steps, as far as one can know beforehand.
    pub fn depth(&self, most: usize, expected: impl Fn(usize) -> f64) -> usize {
        if self.allowance.is_none() {
            return most;
        }
        let timed = self.steps.len() >= MEASURED && self.since_timed < RETIME;
        if !timed || self.waiting > 0 {
            return 0;
        }
        let (plain, scale) = (self.plain_step(), self.scale());
        let affords = |depth: &usize| {
            let loss = (expected(*depth) * scale - 1.0).clamp(0.0, MOST_STEPS);
            self.balance >= loss * plain
        };
        (1..=most).rev().find(affords).unwrap_or(0)
    }

    /// A plain step took so long, `draft` before it included where drafting came to nothing.
    pub fn plain(&mut self, draft: f64, step: f64) {
        let Some(allowance) = self.allowance else { return };
        self.steps.push_back(step);
        if self.steps.len() > 9 {
            self.steps.pop_front();
        }
        self.since_timed = 0;
        self.waiting = self.waiting.saturating_sub(1);
        self.settle(allowance.share * self.plain_step() - draft);
    }

    /// A round of so many tokens took so long; `expected` plain steps of time were expected of it.
    pub fn round(&mut self, tokens: usize, time: f64, expected: f64) {
        let Some(allowance) = self.allowance else { return };
        let plain = self.plain_step();
        self.since_timed += 1;
        let scale = if plain > 0.0 && expected > 0.0 { time / (plain * expected) } else { 1.0 };
        self.rounds.push_back(Seen { tokens, time, scale });
        if self.rounds.len() > WINDOW {
            self.rounds.pop_front();
        }
        self.settle(tokens as f64 * plain * (1.0 + allowance.share) - time);
        let (tokens, time) = self.rounds.iter().fold((0, 0.0), |(n, t), seen| (n + seen.tokens, t + seen.time));
        let losing = self.rounds.len() == WINDOW && time > tokens as f64 * plain;
        if losing || self.balance < 0.0 {
            self.switched_off += 1;
            self.waiting = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.before = (self.scale() / 2.0).max(1.0);
            self.rounds.clear();
        } else if self.rounds.len() == WINDOW {
            self.pause = FIRST_PAUSE;
        }
    }

    /// What rounds take over what is expected of them: the worst of the newest, and no less than after the last pause
    /// until the window is full.
    fn scale(&self) -> f64 {
        let worst = self.rounds.iter().map(|seen| seen.scale).fold(0.0, f64::max);
        if self.rounds.len() == WINDOW { worst } else { worst.max(self.before) }
    }

    fn settle(&mut self, earned: f64) {
        self.balance = (self.balance + earned).min(MOST_STEPS * self.plain_step());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain steps expected of a round of some depth.
    fn expected(depth: usize) -> f64 {
        1.0 + 0.25 * depth as f64
    }

    /// What became of some tokens.
    struct Run {
        /// Time over that of plain steps alone, at the end and at its worst behind the first 50 tokens.
        ratio: f64,
        worst: f64,
        /// Share of the tokens that came in rounds.
        drafted: f64,
        governor: Governor,
    }

    /// Decodes `tokens` with plain steps of 10 ms and rounds as `round` says for a token's place and a depth: their
    /// tokens and seconds.
    fn drive(tokens: usize, round: impl Fn(usize, usize) -> (usize, f64)) -> Run {
        let mut governor = Governor::new(Some(Allowance::default()));
        let (mut done, mut time, mut in_rounds, mut worst) = (0, 0.0, 0, 0.0f64);
        while done < tokens {
            let depth = governor.depth(4, expected);
            if depth > 0 {
                let (n, seconds) = round(done, depth);
                governor.round(n, seconds, expected(depth));
                (done, time, in_rounds) = (done + n, time + seconds, in_rounds + n);
            } else {
                governor.plain(0.0, 0.01);
                (done, time) = (done + 1, time + 0.01);
            }
            if done > 50 {
                worst = worst.max(time / (done as f64 * 0.01));
            }
        }
        Run { ratio: time / (done as f64 * 0.01), worst, drafted: in_rounds as f64 / done as f64, governor }
    }

    /// C6.
    #[test]
    fn a_drafter_that_loses_costs_at_most_two_per_cent() {
        for (n, seconds) in [(1, 0.011), (1, 0.02), (1, 0.05), (1, 0.5), (2, 0.025), (4, 0.05)] {
            let Run { ratio, governor, .. } = drive(5000, |_, _| (n, seconds));
            assert!(ratio < 1.02, "{n} tokens in {seconds} s: {ratio}");
            assert!(governor.switched_off() > 0);
        }
        // Where rounds cost what is expected of them that holds at any time.
        let Run { worst, governor, .. } = drive(5000, |_, depth| (1, 0.01 * expected(depth)));
        assert!(worst < 1.02 && governor.switched_off() > 0, "{worst}");
        // One that pretends well and then turns bad pays with its gains at most.
        let Run { ratio, .. } = drive(5000, |at, _| if at % 400 < 100 { (3, 0.012) } else { (1, 0.06) });
        assert!(ratio < 1.02, "{ratio}");
    }

    #[test]
    fn without_an_allowance_it_would_lose() {
        let mut governor = Governor::new(None);
        for _ in 0..100 {
            assert_eq!(governor.depth(7, expected), 7);
            governor.round(1, 0.5, 1.0);
        }
        assert_eq!(governor.switched_off(), 0);
    }

    /// The first rounds are short: the ledger holds little yet.
    #[test]
    fn the_stake_is_in_proportion() {
        let mut governor = Governor::new(Some(Allowance::default()));
        let mut depths = Vec::new();
        for _ in 0..80 {
            governor.plain(0.0, 0.01);
            depths.push(governor.depth(4, expected));
        }
        // A quarter of a plain step is saved up after 17 tokens, half after 34, a whole one after 67.
        assert_eq!([15, 16, 33, 50, 66].map(|i| depths[i]), [0, 1, 2, 3, 4], "{depths:?}");
    }

    #[test]
    fn a_drafter_that_wins_stays_on() {
        let Run { ratio, drafted, governor, .. } = drive(5000, |_, _| (3, 0.014));
        assert!(ratio < 0.5 && drafted > 0.95, "{ratio}, {drafted}");
        assert_eq!(governor.switched_off(), 0);
        // Uneven wins are wins.
        let Run { ratio, drafted, .. } = drive(5000, |at, _| if at % 3 == 0 { (1, 0.014) } else { (4, 0.014) });
        assert!(ratio < 0.6 && drafted > 0.9, "{ratio}, {drafted}");
    }

    #[test]
    fn it_tries_again() {
        let Run { drafted, governor, .. } = drive(20_000, |at, _| if at < 6000 { (1, 0.03) } else { (4, 0.015) });
        assert!(governor.switched_off() > 1);
        assert!(drafted > 0.5, "{drafted}");
    }
}
