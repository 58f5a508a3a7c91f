//! A report as text: for the terminal, and as CSV.

use super::report::{Report, Row};
use spotter_datasets::metric::bootstrap::Estimate;
use std::fmt::Write as _;

/// Columns of a table of coaches: heading, and what a row has there.
type Column = (&'static str, fn(&Row) -> String);

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.3}"))
}

fn ranged(value: Option<Estimate>) -> String {
    value.map_or_else(|| "-".into(), |e| format!("{:.3} [{:.3}, {:.3}]", e.value, e.low, e.high))
}

fn brief(value: Option<Estimate>) -> String {
    number(value.map(|e| e.value))
}

const COLUMNS: [Column; 10] = [
    ("P", |r| number(r.precision)),
    ("R", |r| number(r.recall)),
    ("T-F [95 %]", |r| ranged(r.temporal_f)),
    ("corr. T-F", |r| number(r.corrective_f)),
    ("METEOR", |r| brief(r.meteor)),
    ("ROUGE-L", |r| brief(r.rouge_l)),
    ("BERT", |r| brief(r.bert)),
    ("judge", |r| r.judge.as_ref().map_or_else(|| "-".into(), |j| format!("{:.3} ± {:.3}", j.mean, j.spread))),
    ("pairs", |r| r.pairs.to_string()),
    ("/min", |r| r.predictions_per_minute.map_or_else(|| "-".into(), |v| format!("{v:.1}"))),
];

/// Cells of a table of coaches, the heading first; columns that nobody fills are left out.
pub(crate) fn cells<'a>(rows: impl Iterator<Item = &'a Row> + Clone, meteor: &str) -> Vec<Vec<String>> {
    let used: Vec<&Column> = COLUMNS.iter().filter(|(_, cell)| rows.clone().any(|r| cell(r) != "-")).collect();
    let name = |heading: &str| if heading == "METEOR" { meteor.to_owned() } else { heading.to_owned() };
    let mut table = vec![std::iter::once("coach".to_owned()).chain(used.iter().map(|(h, _)| name(h))).collect()];
    table.extend(rows.map(|r| std::iter::once(r.coach.clone()).chain(used.iter().map(|(_, cell)| cell(r))).collect()));
    table
}

/// Cells side by side, the first column to the left, the others to the right.
pub(crate) fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| table.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in table {
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let gap = if c == 0 { "" } else { "  " };
            text.push_str(&if c == 0 { format!("{cell}{pad}") } else { format!("{gap}{pad}{cell}") });
        }
        text.push('\n');
    }
    text
}

impl Report {
    /// The report for a terminal.
    pub(crate) fn text(&self) -> String {
        let run = &self.run;
        let mut text = String::new();
        let truths = |n: Option<usize>| n.map_or_else(|| "unreadable".to_owned(), |n| n.to_string());
        let _ = writeln!(
            text,
            "{} sessions, {} episodes, {:.2} h, protocol {} (truths: fitcoach2024 {}, var2026 {})",
            self.sessions.len(),
            self.episodes,
            self.hours,
            run.protocol.name(),
            truths(run.truths[0]),
            truths(run.truths[1]),
        );
        let _ = writeln!(text, "{}", run.data.join(", "));
        for (name, value) in &run.options {
            let _ = write!(text, "{name} {value}  ");
        }
        let _ = writeln!(text, "\n");
        text.push_str(&aligned(&cells(self.rows.iter(), &run.meteor)));
        let _ = writeln!(
            text,
            "\nScores of texts are means over matched pairs; ranges are drawn over sessions. No T-F means anything \
             below the best metronome, which never looks."
        );
        if let (Some(judge), Some(judged)) = (&run.judge, self.rows.first().and_then(|r| r.judge.as_ref())) {
            let (parsed, dropped) = (judged.parsed, judged.dropped);
            let _ = writeln!(text, "judge: {judge}; {parsed} answers understood, {dropped} not");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    /// The rows as CSV, numbers in full.
    pub(crate) fn csv(&self) -> String {
        let mut text = "coach,precision,recall,temporal_f,temporal_f_low,temporal_f_high,corrective_f,meteor,rouge_l,\
                        bert,judge,judge_spread,pairs,predictions_per_minute,matched_gt,matched_pred,n_gt,n_pred\n"
            .to_owned();
        let cell = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
        for row in &self.rows {
            let counts = row.timing.map(|t| [t.matched_gt, t.matched_pred, t.n_gt, t.n_pred].map(|n| n as f64));
            let mut cells = vec![
                row.precision,
                row.recall,
                row.temporal_f.map(|e| e.value),
                row.temporal_f.map(|e| e.low),
                row.temporal_f.map(|e| e.high),
                row.corrective_f,
                row.meteor.map(|e| e.value),
                row.rouge_l.map(|e| e.value),
                row.bert.map(|e| e.value),
                row.judge.as_ref().map(|j| j.mean),
                row.judge.as_ref().map(|j| j.spread),
                Some(row.pairs as f64),
                row.predictions_per_minute,
            ];
            cells.extend((0..4).map(|i| counts.and_then(|c| c.get(i).copied())));
            let cells: Vec<String> = cells.into_iter().map(cell).collect();
            let _ = writeln!(text, "\"{}\",{}", row.coach.replace('"', "\"\""), cells.join(","));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_line_up() {
        let table = [["coach", "T-F"], ["m", "0.1 ± 1"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(aligned(&table), "coach      T-F\nm      0.1 ± 1\n");
    }
}
