//! Drafting that loses time switches itself off and tries again later.
//!
//! Time lost against plain steps is kept in a ledger: every token earns a small share of a plain step, a round pays
//! what it took beyond the plain steps it stood for. A round is only begun when the ledger can pay for one that brings
//! a single token, so the loss in all stays below that share and a fixed first stake, whatever the drafter does.

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

/// What may be lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Share of the plain time.
    pub share: f64,
    /// Plain steps that the very first rounds may lose.
    pub stake: f64,
}

impl Default for Allowance {
    fn default() -> Self {
        // Below 2 % by a margin that the stake uses up within some hundred tokens.
        Self { share: 0.012, stake: 4.0 }
    }
}

/// Decides whether the next round is drafted. All times are seconds.
#[derive(Clone, Debug)]
pub struct Governor {
    /// `None`: always drafts.
    allowance: Option<Allowance>,
    /// Newest times of plain steps.
    steps: VecDeque<f64>,
    /// Tokens and times of the newest rounds.
    rounds: VecDeque<(usize, f64)>,
    balance: f64,
    staked: bool,
    /// Half of the dearest round before the last pause, as a guess at the next one.
    dearest: f64,
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
            staked: false,
            dearest: 0.0,
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

    /// Whether a round may be drafted now.
    pub fn allows(&self) -> bool {
        if self.allowance.is_none() {
            return true;
        }
        let timed = self.steps.len() >= MEASURED && self.since_timed < RETIME;
        timed && self.waiting == 0 && self.affords(self.plain_step())
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
        let plain = self.plain_step();
        if !self.staked && self.steps.len() >= MEASURED {
            self.staked = true;
            self.balance += allowance.stake * plain;
        }
        self.settle(allowance.share * plain - draft);
    }

    /// A round of so many tokens took so long.
    pub fn round(&mut self, tokens: usize, time: f64) {
        let Some(allowance) = self.allowance else { return };
        let plain = self.plain_step();
        self.since_timed += 1;
        self.rounds.push_back((tokens, time));
        if self.rounds.len() > WINDOW {
            self.rounds.pop_front();
        }
        self.settle(tokens as f64 * plain * (1.0 + allowance.share) - time);
        let (tokens, time) = self.rounds.iter().fold((0, 0.0), |(n, t), (tokens, time)| (n + tokens, t + time));
        let losing = self.rounds.len() == WINDOW && time > tokens as f64 * plain;
        if losing || !self.affords(plain) {
            self.switched_off += 1;
            self.waiting = self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.dearest = self.dearest_round() / 2.0;
            self.rounds.clear();
        } else if self.rounds.len() == WINDOW {
            self.pause = FIRST_PAUSE;
        }
    }

    /// The ledger can pay for a round that brings one token. A round not seen yet is guessed at twice a plain step.
    fn affords(&self, plain: f64) -> bool {
        let round = self.dearest_round().max(self.dearest).max(2.0 * plain);
        self.balance >= (round - plain).min(MOST_STEPS * plain)
    }

    fn dearest_round(&self) -> f64 {
        self.rounds.iter().map(|(_, time)| *time).fold(0.0, f64::max)
    }

    fn settle(&mut self, earned: f64) {
        self.balance = (self.balance + earned).min(MOST_STEPS * self.plain_step());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `tokens` with plain steps of 10 ms and rounds as `round` says for a token's place: their tokens and
    /// seconds. Total time, and the share of tokens that came in rounds.
    fn drive(tokens: usize, round: impl Fn(usize) -> (usize, f64)) -> (f64, f64, Governor) {
        let mut governor = Governor::new(Some(Allowance::default()));
        let (mut done, mut time, mut in_rounds) = (0, 0.0, 0);
        while done < tokens {
            if governor.allows() {
                let (n, seconds) = round(done);
                governor.round(n, seconds);
                (done, time, in_rounds) = (done + n, time + seconds, in_rounds + n);
            } else {
                governor.plain(0.0, 0.01);
                (done, time) = (done + 1, time + 0.01);
            }
        }
        (time / (done as f64 * 0.01), in_rounds as f64 / done as f64, governor)
    }

    /// C6.
    #[test]
    fn a_drafter_that_loses_costs_at_most_two_per_cent() {
        for (n, seconds) in [(1, 0.011), (1, 0.02), (1, 0.05), (1, 0.5), (2, 0.025), (4, 0.05)] {
            let (ratio, _, governor) = drive(5000, |_| (n, seconds));
            assert!(ratio < 1.02, "{n} tokens in {seconds} s: {ratio}");
            assert!(governor.switched_off() > 0);
        }
        // One that pretends well and then turns bad pays with its gains at most.
        let (ratio, _, _) = drive(5000, |at| if at % 400 < 100 { (3, 0.012) } else { (1, 0.06) });
        assert!(ratio < 1.02, "{ratio}");
    }

    #[test]
    fn without_an_allowance_it_would_lose() {
        let mut governor = Governor::new(None);
        for _ in 0..100 {
            assert!(governor.allows());
            governor.round(1, 0.5);
        }
        assert_eq!(governor.switched_off(), 0);
    }

    #[test]
    fn a_drafter_that_wins_stays_on() {
        let (ratio, share, governor) = drive(5000, |_| (3, 0.014));
        assert!(ratio < 0.5 && share > 0.95, "{ratio}, {share}");
        assert_eq!(governor.switched_off(), 0);
        // Uneven wins are wins.
        let (ratio, share, _) = drive(5000, |at| if at % 3 == 0 { (1, 0.014) } else { (4, 0.014) });
        assert!(ratio < 0.6 && share > 0.9, "{ratio}, {share}");
    }

    #[test]
    fn it_tries_again() {
        let (_, share, governor) = drive(20_000, |at| if at < 6000 { (1, 0.03) } else { (4, 0.015) });
        assert!(governor.switched_off() > 1);
        assert!(share > 0.5, "{share}");
    }
}
