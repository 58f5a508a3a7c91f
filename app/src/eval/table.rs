//! A report as text: for the terminal, and as CSV.

use super::{
    anchors,
    report::{Blind, Report, Row},
    store::RunInfo,
};
use spotter_datasets::{metric::bootstrap::Estimate, qevd::Counts};
use std::fmt::Write as _;

/// Columns of a table of coaches: heading, and what a row has there.
type Column = (&'static str, fn(&Row) -> String);

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.3}"))
}

fn ranged(value: Option<Estimate>) -> String {
    value.map_or_else(|| "-".into(), |e| format!("{:.3} [{:.3}, {:.3}]", e.value, e.low, e.high))
}

const TIMES: [Column; 5] = [
    ("T-F [95 %]", |r| ranged(r.temporal_f)),
    ("P", |r| number(r.precision)),
    ("R", |r| number(r.recall)),
    ("corr. T-F [95 %]", |r| ranged(r.corrective_f)),
    ("/min", |r| r.predictions_per_minute.map_or_else(|| "-".into(), |v| format!("{v:.1}"))),
];

/// Place of the judge among the columns of texts.
const JUDGE: usize = 3;
const METEOR: usize = 0;

const TEXTS: [Column; 5] = [
    ("METEOR", |r| ranged(r.meteor)),
    ("ROUGE-L", |r| ranged(r.rouge_l)),
    ("BERT", |r| ranged(r.bert)),
    ("judge", |r| r.judge.as_ref().map_or_else(|| "-".into(), |j| format!("{:.3} ± {:.3}", j.mean, j.spread))),
    ("pairs", |r| r.pairs.to_string()),
];

/// Cells of tables of coaches, the heading first: when they speak, and what they say. Columns and rows that have nothing are
/// left out.
pub(crate) struct Tables {
    pub(crate) times: Vec<Vec<String>>,
    pub(crate) texts: Vec<Vec<String>>,
}

/// The tables of some rows, which are scored as `run` says.
pub(crate) fn tables(rows: &[Row], run: Option<&RunInfo>) -> Tables {
    let all: Vec<&Row> = rows.iter().collect();
    let spoken: Vec<&Row> = rows.iter().filter(|r| r.pairs > 0).collect();
    let meteor = run.map_or("METEOR", |r| r.meteor.as_str());
    let judge = run.and_then(|r| r.judge.as_ref()).map_or("judge", |j| j.heading());
    let heading = |i: usize, name: &str| match i {
        METEOR => meteor.to_owned(),
        JUDGE => judge.to_owned(),
        _ => name.to_owned(),
    };
    Tables { times: cells(&all, &TIMES, |_, name| name.to_owned()), texts: cells(&spoken, &TEXTS, heading) }
}

fn cells(rows: &[&Row], columns: &[Column], heading: impl Fn(usize, &str) -> String) -> Vec<Vec<String>> {
    let filled = |cell: fn(&Row) -> String| rows.iter().any(|r| cell(r) != "-");
    let used: Vec<(usize, &Column)> = columns.iter().enumerate().filter(|(_, (_, cell))| filled(*cell)).collect();
    if used.is_empty() {
        return Vec::new();
    }
    let names = used.iter().map(|(i, (name, _))| heading(*i, name));
    let mut table = vec![std::iter::once("coach".to_owned()).chain(names).collect()];
    table.extend(rows.iter().map(|r| {
        std::iter::once(r.coach.clone()).chain(used.iter().map(|(_, (_, cell))| cell(r))).collect::<Vec<_>>()
    }));
    table
}

/// Temporal F of the metronomes in a grid: whole seconds down, tenths across.
pub(crate) fn metronome_grid(metronomes: &[Blind]) -> Vec<Vec<String>> {
    if metronomes.is_empty() {
        return Vec::new();
    }
    let tenths = |m: &Blind| (m.metronome.period * 10.0).round() as usize;
    let mut table = vec![std::iter::once("every".to_owned()).chain((0..10).map(|t| format!(".{t} s"))).collect()];
    let (first, last) = (metronomes.first().map_or(0, tenths) / 10, metronomes.last().map_or(0, tenths) / 10);
    for whole in first..=last {
        let of = |t: usize| metronomes.iter().find(|m| tenths(m) == whole * 10 + t);
        let cell = |t| of(t).map_or_else(String::new, |m| format!("{:.3}", m.temporal_f).replacen("0.", ".", 1));
        table.push(std::iter::once(whole.to_string()).chain((0..10).map(cell)).collect());
    }
    table
}

/// What a protocol reads, in words.
pub(crate) fn counted(counts: Option<Counts>) -> String {
    counts.map_or_else(
        || "unreadable".to_owned(),
        |c| {
            let Counts { events, transitions, regular, truths, .. } = c;
            format!("{events} events = {transitions} transitions + {regular} regular, {truths} scored")
        },
    )
}

/// Cells side by side, the first column to the left, the others to the right.
pub(crate) fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| table.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            line.push_str(&if c == 0 { format!("{cell}{pad}") } else { format!("  {pad}{cell}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

impl Report {
    /// The report for a terminal.
    pub(crate) fn text(&self) -> String {
        let run = &self.run;
        let mut text = String::new();
        for warning in self.warnings.iter().filter(|w| w.starts_with(LOUD)) {
            let _ = writeln!(text, "{warning}\n");
        }
        let (sessions, episodes, hours, mean) = (self.sessions.len(), self.episodes, self.hours, self.mean_seconds);
        let _ = writeln!(
            text,
            "{}: {sessions} sessions of {mean:.1} s at the mean, {episodes} episodes, {hours:.2} h; protocol {}",
            run.data.join(", "),
            run.protocol.name(),
        );
        let _ = writeln!(text, "fitcoach2024: {}\nvar2026: {}", counted(run.counts[0]), counted(run.counts[1]));
        for (name, value) in &run.options {
            let _ = write!(text, "{name} {value}  ");
        }
        let _ = writeln!(text, "\n");
        let tables = tables(&self.rows, Some(run));
        let shown: Vec<String> =
            [&tables.times, &tables.texts].into_iter().filter(|t| !t.is_empty()).map(|t| aligned(t)).collect();
        text.push_str(&shown.join("\n"));
        self.notes(&mut text);
        text
    }

    fn notes(&self, text: &mut String) {
        let run = &self.run;
        if run.truthless {
            let _ = writeln!(text, "\nThe data have no truths: nothing is scored. predictions.json has what was said.");
        } else {
            let _ = writeln!(
                text,
                "\nScores of texts are means over matched pairs; ranges are drawn over sessions. No T-F means anything \
                 below the best metronome, which never looks; for corrections (a rule of Spotter's own) all its ticks count."
            );
        }
        if !self.metronomes.is_empty() {
            let grid = aligned(&metronome_grid(&self.metronomes));
            let _ = write!(text, "\nT-F of blind metronomes of all periods, each at its best phase\n{grid}");
        }
        if let Some(table) = anchors::beside(run) {
            let _ = write!(text, "\n{}\n{}", table.title, aligned(&table.cells));
        }
        if let (Some(judge), Some(judged)) = (&run.judge, self.rows.first().and_then(|r| r.judge.as_ref())) {
            let (name, parsed, dropped) = (&judge.name, judged.parsed, judged.dropped);
            let _ = writeln!(text, "{}: {name}; {parsed} answers understood, {dropped} not", judge.heading());
        }
        for warning in self.warnings.iter().filter(|w| !w.starts_with(LOUD)) {
            let _ = writeln!(text, "warning: {warning}");
        }
    }

    /// The rows as CSV, numbers in full; behind them the metronomes of all periods.
    pub(crate) fn csv(&self) -> String {
        let mut text =
            "coach,precision,recall,temporal_f,temporal_f_low,temporal_f_high,corrective_f,corrective_f_low,\
                        corrective_f_high,meteor,meteor_low,meteor_high,rouge_l,rouge_l_low,rouge_l_high,bert,bert_low,\
                        bert_high,judge,judge_spread,pairs,predictions_per_minute,matched_gt,matched_pred,n_gt,n_pred\n"
                .to_owned();
        let range = |e: Option<Estimate>| [e.map(|e| e.value), e.map(|e| e.low), e.map(|e| e.high)];
        for row in &self.rows {
            let judge = row.judge.as_ref();
            let scores = [row.temporal_f, row.corrective_f, row.meteor, row.rouge_l, row.bert];
            let mut cells = vec![row.precision, row.recall];
            cells.extend(scores.into_iter().flat_map(range));
            cells.extend([judge.map(|j| j.mean), judge.map(|j| j.spread)]);
            cells.extend([Some(row.pairs as f64), row.predictions_per_minute]);
            let counts = row.timing.map(|t| [t.matched_gt, t.matched_pred, t.n_gt, t.n_pred].map(|n| n as f64));
            cells.extend((0..4).map(|i| counts.and_then(|c| c.get(i).copied())));
            line(&mut text, &row.coach, &cells);
        }
        for blind in &self.metronomes {
            let (m, t) = (blind.metronome, blind.metronome.timing);
            let mut cells = vec![Some(t.precision()), Some(t.recall()), Some(blind.temporal_f)];
            cells.resize(19, None);
            cells.extend([Some(0.0), Some(blind.predictions_per_minute)]);
            cells.extend([t.matched_gt, t.matched_pred, t.n_gt, t.n_pred].map(|n| Some(n as f64)));
            line(&mut text, &format!("metronome: every {:.1} s from {:.3} s", m.period, m.phase), &cells);
        }
        text
    }
}

/// How warnings begin that nobody may miss: they stand above everything.
pub(crate) const LOUD: &str = "WARNING: ";

fn line(text: &mut String, coach: &str, cells: &[Option<f64>]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.map_or_else(String::new, |v| v.to_string())).collect();
    let _ = writeln!(text, "\"{}\",{}", coach.replace('"', "\"\""), cells.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::tests::{run, session};

    #[test]
    fn columns_line_up() {
        let table = [["coach", "T-F"], ["m", "0.1 ± 1"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(aligned(&table), "coach      T-F\nm      0.1 ± 1\n");
    }

    #[test]
    fn every_line_of_the_csv_has_every_column() {
        let sessions = [session(0, &[5.0, 10.0], &[5.0]), session(1, &[7.0], &[7.0, 25.0])];
        let report = Report::of(&run(false), &sessions);
        let csv = report.csv();
        // Behind the name, which may have commas.
        let fields_of = |line: &str| {
            let numbers =
                line.rsplit_once("\",").map_or(line.split_once(',').unwrap().1.to_owned(), |(_, n)| n.to_owned());
            numbers.split(',').map(str::to_owned).collect::<Vec<_>>()
        };
        let fields: Vec<usize> = csv.lines().map(|line| fields_of(line).len()).collect();
        assert_eq!(fields.iter().min(), fields.iter().max(), "{csv}");
        assert_eq!(fields.len(), 1 + report.rows.len() + 51);
        let (head, last) = (fields_of(csv.lines().next().unwrap()), fields_of(csv.lines().last().unwrap()));
        let at = |name: &str| last[head.iter().position(|h| *h == name).unwrap()].as_str();
        assert_eq!((at("n_gt"), at("pairs"), at("judge_spread")), ("3", "0", ""));
        let own = fields_of(csv.lines().nth(1).unwrap());
        let low = head.iter().position(|h| *h == "meteor_low").unwrap();
        assert_eq!(&own[low - 1..=low + 1], ["0.5", "0.5", "0.5"]);
    }

    #[test]
    fn the_terminal_shows_all_periods_and_ranges_of_texts() {
        let sessions = [session(0, &[5.0, 10.0], &[5.0]), session(1, &[7.0], &[7.0, 25.0])];
        let mut info = run(false);
        info.warnings = vec![format!("{LOUD}not what it should be")];
        let text = Report::of(&info, &sessions).text();
        assert!(text.starts_with("WARNING: not what it should be\n"), "{text}");
        for part in ["0.500 [0.500, 0.500]", "metronome, every 3.0 s", "every  .0 s", "\n6 ", "unreadable"] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let grid = metronome_grid(&Report::of(&info, &sessions).metronomes);
        let cells = grid.iter().skip(1).flat_map(|row| row.iter().skip(1)).filter(|cell| !cell.is_empty());
        assert_eq!(cells.count(), 51);
    }
}
