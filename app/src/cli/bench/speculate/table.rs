//! What was measured of each way, as rows.

use super::Way;
use crate::cli::print_json;
use anyhow::{Context as _, Result};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use spotter_engine::speculate::Stats;
use std::{io::Write as _, time::Duration};

/// Resamples behind an interval.
const RESAMPLES: usize = 1000;

/// One row of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    target: String,
    drafter: String,
    method: String,
    temperature: f32,
    /// Target columns beside the anchor at most.
    budget: usize,
    /// Tokens timed.
    tokens: usize,
    rounds: usize,
    plain_steps: usize,
    /// Drafted tokens, those of them that were accepted, and the rest.
    proposed: usize,
    accepted: usize,
    wasted: usize,
    /// For each depth: rounds that drafted so deep, and those in which a token there was accepted.
    by_depth: Vec<(usize, usize)>,
    /// Tokens a round.
    tau: f64,
    /// 95 % interval over texts (bootstrap).
    tau_low: f64,
    tau_high: f64,
    /// Tokens a pass of the target, plain steps counted.
    tokens_per_pass: f64,
    /// Share of the drafts that were accepted.
    acceptance: f64,
    /// Drafter's size over the target's.
    cost: f64,
    /// Speed-up of a machine bound by memory.
    mbsu: f64,
    /// Drafting, in a round.
    draft_ms: f64,
    /// The target's pass over the drafts and the choice from them, in a round.
    verify_ms: f64,
    ms_per_token: f64,
    plain_ms_per_token: f64,
    /// Plain time over this way's.
    ratio: f64,
    /// 95 % interval over texts (bootstrap).
    ratio_low: f64,
    ratio_high: f64,
    /// Times that drafting switched itself off.
    switched_off: usize,
    /// Texts that are not those of plain decoding; only at temperature 0.
    differing: Option<usize>,
}

/// What a way did: a text each time.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// Tokens timed and seconds, of each text.
    pub(super) times: Vec<(usize, f64)>,
    /// Tokens committed in rounds and rounds, of each text.
    pub(super) rounds: Vec<(usize, usize)>,
    /// Texts that are not the plain ones.
    pub(super) differing: usize,
    /// What drafting did.
    pub(super) stats: Stats,
}

fn per_token(times: impl Iterator<Item = (usize, f64)>) -> f64 {
    let (tokens, seconds) = times.fold((0, 0.0), |(n, t), (tokens, seconds)| (n + tokens, t + seconds));
    if tokens == 0 { f64::NAN } else { seconds / tokens as f64 }
}

/// A figure of texts and its 95 % interval: the same of texts drawn again and again.
fn interval(texts: usize, of: impl Fn(&[usize]) -> f64) -> (f64, f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut drawn = |_| of(&(0..texts).map(|_| rng.random_range(0..texts.max(1))).collect::<Vec<_>>());
    let mut figures: Vec<f64> = (0..RESAMPLES).map(&mut drawn).filter(|r| r.is_finite()).collect();
    figures.sort_by(f64::total_cmp);
    let at = |share: f64| figures.get((figures.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    (of(&(0..texts).collect::<Vec<_>>()), at(0.025), at(0.975))
}

/// Plain time for a token over another's: both by the same texts.
fn ratio(plain: &[(usize, f64)], way: &[(usize, f64)]) -> (f64, f64, f64) {
    interval(plain.len().min(way.len()), |texts| {
        let pick = |times: &[(usize, f64)]| per_token(texts.iter().filter_map(|i| times.get(*i).copied()));
        pick(plain) / pick(way)
    })
}

/// Tokens a round; 1 where there was none.
fn tau(rounds: &[(usize, usize)]) -> (f64, f64, f64) {
    interval(rounds.len(), |texts| {
        let picked = texts.iter().filter_map(|i| rounds.get(*i));
        let (tokens, rounds) = picked.fold((0, 0), |sum, (n, rounds)| (sum.0 + n, sum.1 + rounds));
        if rounds == 0 { 1.0 } else { tokens as f64 / rounds as f64 }
    })
}

/// Rows of one temperature; the first way is plain decoding.
pub(super) fn rows(target: &str, temperature: f32, ways: &[(Way, Taken, f64)]) -> Vec<Row> {
    let Some((_, plain, _)) = ways.first() else { return Vec::new() };
    let row = |(way, taken, cost): &(Way, Taken, f64)| {
        let (ratio, ratio_low, ratio_high) = ratio(&plain.times, &taken.times);
        let (tau, tau_low, tau_high) = tau(&taken.rounds);
        let each_round = |time: Duration| time.as_secs_f64() * 1e3 / taken.stats.rounds.max(1) as f64;
        Row {
            target: target.to_owned(),
            drafter: way.drafter.to_string(),
            method: way.method_name(),
            temperature,
            budget: if way.is_plain() { 0 } else { way.method.shape.nodes() },
            tokens: taken.times.iter().map(|t| t.0).sum(),
            rounds: taken.stats.rounds,
            plain_steps: taken.stats.plain_steps,
            proposed: taken.stats.proposed,
            accepted: taken.stats.accepted,
            wasted: taken.stats.proposed.saturating_sub(taken.stats.accepted),
            by_depth: taken.stats.by_depth.clone(),
            tau,
            tau_low,
            tau_high,
            tokens_per_pass: taken.stats.tokens_per_pass(),
            acceptance: taken.stats.acceptance(),
            cost: *cost,
            mbsu: taken.stats.memory_bound_speedup(*cost),
            draft_ms: each_round(taken.stats.draft_time),
            verify_ms: each_round(taken.stats.verify_time),
            ms_per_token: per_token(taken.times.iter().copied()) * 1e3,
            plain_ms_per_token: per_token(plain.times.iter().copied()) * 1e3,
            ratio,
            ratio_low,
            ratio_high,
            switched_off: taken.stats.switched_off,
            differing: (temperature <= 0.0).then_some(taken.differing),
        }
    };
    ways.iter().map(row).collect()
}

/// Prints a table, or a JSON object for each row.
pub(super) fn print(rows: &[Row], json: bool) -> Result<()> {
    if json {
        return rows.iter().try_for_each(print_json);
    }
    let mut out = std::io::stdout().lock();
    let mut line = |text: String| writeln!(out, "{text}").context("writing to standard output");
    let mut before = None;
    for row in rows {
        if before != Some((&row.target, row.temperature)) {
            before = Some((&row.target, row.temperature));
            line(format!(
                "{}, temperature {}, {:.2} ms a token plain",
                row.target, row.temperature, row.plain_ms_per_token
            ))?;
            line(format!(
                "{:<28} {:<23} {:>6} {:>7} {:>6} {:>6} {:>8} {:>6} {:>8} {:>9} {:>9}  {:<15} {}",
                "drafter",
                "method",
                "budget",
                "tokens",
                "tau",
                "/pass",
                "accepted",
                "MBSU",
                "draft ms",
                "verify ms",
                "ms/token",
                "ratio (95 %)",
                "differing"
            ))?;
        }
        let differing = row.differing.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let name: String = row.drafter.chars().rev().take(28).collect::<Vec<_>>().into_iter().rev().collect();
        line(format!(
            "{name:<28} {:<23} {:>6} {:>7} {:>6.2} {:>6.2} {:>6.1} % {:>6.2} {:>8.2} {:>9.2} {:>9.3}  {:.2} ({:.2}-{:.2})  {differing}",
            row.method,
            row.budget,
            row.tokens,
            row.tau,
            row.tokens_per_pass,
            row.acceptance * 100.0,
            row.mbsu,
            row.draft_ms,
            row.verify_ms,
            row.ms_per_token,
            row.ratio,
            row.ratio_low,
            row.ratio_high,
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_time_for_a_token() {
        let plain = [(10, 1.0), (20, 2.0), (10, 1.0)];
        let twice = [(30, 1.5), (5, 0.25), (10, 0.5)];
        let (mean, low, high) = ratio(&plain, &twice);
        assert!([mean, low, high].iter().all(|r| (r - 2.0).abs() < 1e-12));
        let uneven = [(10, 0.25), (20, 2.0), (10, 1.0)];
        let (mean, low, high) = ratio(&plain, &uneven);
        assert!(low < mean && mean < high && low >= 1.0 && high <= 4.0, "{low} {mean} {high}");
        assert!(ratio(&[], &[]).0.is_nan());
    }

    #[test]
    fn the_first_way_is_what_others_are_measured_by() {
        let stats =
            Stats { rounds: 10, proposed: 40, accepted: 20, committed: 30, draft_passes: 40, ..Stats::default() };
        let taken = Taken { times: vec![(30, 0.5)], rounds: vec![(30, 10)], differing: 1, stats };
        let plain = Taken { times: vec![(30, 1.0)], ..Taken::default() };
        let drafted = Way::of(&spotter_engine::speculate::DrafterKind::Ngram, &"static(4)".parse().unwrap());
        let ways = [(Way::plain(), plain, 0.0), (drafted, taken, 0.1)];
        let found = rows("m", 0.0, &ways);
        let [plain, drafted] = &found[..] else { panic!("two rows expected") };
        assert_eq!((plain.method.as_str(), plain.ratio, plain.tau), ("plain", 1.0, 1.0));
        assert_eq!((drafted.ratio, drafted.tau, drafted.budget, drafted.differing), (2.0, 3.0, 4, Some(1)));
        assert!((drafted.mbsu - 3.0 / 1.4).abs() < 1e-12);
        assert_eq!((drafted.proposed, drafted.accepted, drafted.wasted), (40, 20, 20));
        assert_eq!((drafted.tau_low, drafted.tau_high), (3.0, 3.0), "of a single text");
        let (mean, low, high) = tau(&[(30, 10), (10, 10), (20, 10)]);
        assert!(mean == 2.0 && (1.0..2.0).contains(&low) && high > 2.0 && high <= 3.0);
        assert_eq!(rows("m", 1.0, &ways)[1].differing, None);
    }
}
