//! A report as one page that needs nothing else: style and plots are inside, there is no script.

use super::{
    anchors,
    plots::{escaped, histogram, talkativeness, timeline},
    report::{GAP_STEP, Report, Row},
    store::{RunInfo, Session},
    table::{LOUD, Tables, counted, metronome_grid, tables},
};
use std::fmt::Write as _;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --soft: #667; --line: #d5d9e0; --truth: #2f6fb5; --said: #d9622b; --band: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --paper: #14171c; --soft: #9aa3b0; --line: #333a45; --truth: #6fb0f2; --said: #f2935f; --band: #1e232b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.4rem; margin: .2rem 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p, dl { margin: .4rem 0; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; } th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 11rem; }
tr:nth-child(2) td { font-weight: 600; }
svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--line); } .tick { font-size: 11px; fill: var(--soft); } .name { font-size: 12px; fill: var(--ink); }
.blind { fill: none; stroke: var(--soft); stroke-width: 2; stroke-dasharray: 5 4; } .coach { stroke: var(--paper); fill: var(--said); }
.c1 { fill: #3b8; } .c2 { fill: #85c; } .c3 { fill: #c5a000; } .c4 { fill: #289; } .c5 { fill: #c36; }
.truth { fill: var(--truth); stroke: var(--truth); } .said { fill: var(--said); stroke: var(--said); } .missed { fill: none; } .episode { fill: var(--band); }
.key::before { content: ''; display: inline-block; width: .7em; height: .7em; margin-right: .3em; } .key.t::before { background: var(--truth); } .key.s::before { background: var(--said); }
@media (max-width: 30rem) { .tick { font-size: 18px; } .tick.below { font-size: 14px; } .name { font-size: 20px; } th, td { padding: .25rem .4rem; } th:first-child, td:first-child { min-width: 8rem; } }
details { margin: .3rem 0; } summary { cursor: pointer; } ol { padding-left: 1.2rem; margin: .3rem 0; list-style: none; } li { font-size: .9rem; } li.t { color: var(--truth); } li.s { color: var(--said); }
.warning { border-left: 3px solid var(--said); padding-left: .6rem; } .loud { border: 2px solid var(--said); padding: .6rem; font-weight: 600; }
";

fn table(cells: &[Vec<String>]) -> String {
    if cells.is_empty() {
        return String::new();
    }
    let mut html = "<div class=\"scroll\"><table>".to_owned();
    for (i, row) in cells.iter().enumerate() {
        let tag = if i == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<{tag}>{}</{tag}>", escaped(cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>");
    html
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        title = escaped(title)
    )
}

/// What a run is, as pairs of name and value.
fn facts(report: &Report) -> Vec<(&str, String)> {
    let run = &report.run;
    let (sessions, mean) = (report.sessions.len(), report.mean_seconds);
    let mut facts = vec![
        ("data", run.data.join(", ")),
        ("protocol", run.protocol.name().to_owned()),
        ("fitcoach2024", counted(run.counts[0])),
        ("var2026", counted(run.counts[1])),
        ("size", format!("{sessions} sessions of {mean:.1} s, {} episodes, {:.2} h", report.episodes, report.hours)),
        ("program", format!("Spotter {}", run.version)),
    ];
    facts.extend(run.options.iter().map(|(name, value)| (name.as_str(), value.clone())));
    facts.extend(run.judge.iter().map(|judge| (judge.heading(), judge.name.clone())));
    facts.extend(run.bert.iter().map(|bert| ("BERTScore", bert.clone())));
    facts
}

fn warnings(all: &[String]) -> String {
    let class = |warning: &str| if warning.starts_with(LOUD) { "loud" } else { "warning" };
    all.iter().map(|w| format!("<p class=\"{}\">{}</p>\n", class(w), escaped(w))).collect()
}

fn scores(rows: &[Row], run: Option<&RunInfo>) -> String {
    let Tables { times, texts } = tables(rows, run);
    let texts = if texts.is_empty() { String::new() } else { format!("<h2>What was said</h2>\n{}", table(&texts)) };
    let times = if times.is_empty() { String::new() } else { format!("<h2>When it was said</h2>\n{}", table(&times)) };
    format!("{times}\n{texts}\n")
}

/// The page of a report.
pub(crate) fn report(report: &Report, sessions: &[Session]) -> String {
    let run = &report.run;
    let mut body = format!("<h1>{}</h1>\n", escaped(&run.source));
    let (loud, quiet): (Vec<String>, Vec<String>) = report.warnings.iter().cloned().partition(|w| w.starts_with(LOUD));
    body.push_str(&warnings(&loud));
    body.push_str("<dl>");
    for (name, value) in facts(report) {
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(&value));
    }
    body.push_str("</dl>\n");
    body.push_str(&warnings(&quiet));
    body.push_str(&scores(&report.rows, Some(run)));
    if run.truthless {
        body.push_str("<p>The data have no truths: nothing is scored. predictions.json has what was said.</p>\n");
    } else {
        body.push_str(
            "<p>Scores of texts are means over matched pairs; ranges hold 95 % of drawings over sessions. A T-F below the \
             best metronome, which never looks, shows no skill in timing. What is a correction is a rule of Spotter's own; of \
             a metronome every tick counts.</p>\n",
        );
    }
    if let Some(stated) = anchors::beside(run) {
        let _ = writeln!(body, "<h2>{}</h2>\n{}", escaped(stated.title), table(&stated.cells));
    }
    if !run.pairs_only {
        plots(&mut body, report, sessions);
    }
    page(&format!("{} on {}", run.source, run.data.join(", ")), &body)
}

fn plots(body: &mut String, report: &Report, sessions: &[Session]) {
    let coaches: Vec<(String, f64, f64)> = report
        .rows
        .iter()
        .take(2)
        .filter_map(|r| Some((r.coach.clone(), r.predictions_per_minute?, r.temporal_f?.value)))
        .collect();
    if !report.metronomes.is_empty() {
        let _ = write!(
            body,
            "<h2>Score against talkativeness</h2>\n<p>Dashed: blind metronomes of all periods, each at its best phase.</p>\n{}\n\
             <details><summary>T-F of all metronomes</summary>{}</details>\n",
            talkativeness(&report.metronomes, &coaches),
            table(&metronome_grid(&report.metronomes))
        );
    }
    let _ = write!(
        body,
        "<h2>Silence between utterances</h2>\n<p><span class=\"key t\">truth</span> <span class=\"key s\">said</span>; the last \
         bar has all longer ones</p>\n{}\n<h2>Sessions</h2>\n<p><span class=\"key t\">truth</span> above, <span class=\"key \
         s\">said</span> below; hollow marks met nothing within 1.5 s.</p>\n",
        histogram(&report.gaps.truth, &report.gaps.said, GAP_STEP)
    );
    for (row, session) in report.sessions.iter().zip(sessions) {
        let score = if report.run.truthless { String::new() } else { format!(" &middot; T-F {:.3}", row.temporal_f) };
        let _ = write!(
            body,
            "<details><summary>{} &middot; {:.0} s{score}</summary>{}</details>\n{}\n",
            escaped(&row.id),
            row.duration,
            lines(session),
            timeline(session)
        );
    }
}

/// What was due and said, in order.
fn lines(session: &Session) -> String {
    let mut all: Vec<(f64, &str, &str)> = Vec::new();
    for episode in &session.episodes {
        all.extend(episode.truth.iter().map(|s| (s.t + episode.offset, "t", s.text.as_str())));
        all.extend(episode.said.iter().map(|s| (s.t + episode.offset, "s", s.text.as_str())));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let items: Vec<String> = all
        .iter()
        .map(|(t, class, text)| format!("<li class=\"{class}\">{t:.1} s &nbsp;{}</li>", escaped(text)))
        .collect();
    format!("<ol>{}</ol>", items.concat())
}

/// A page that sets several runs side by side.
pub(crate) fn comparison(reports: &[(String, Report)], rows: &[Row], warned: &[String]) -> String {
    let mut body = format!("<h1>Runs side by side</h1>\n{}", warnings(warned));
    body.push_str(&scores(rows, reports.first().map(|(_, r)| &r.run)));
    let coaches: Vec<(String, f64, f64)> = reports
        .iter()
        .filter_map(|(name, r)| {
            let row = r.rows.first()?;
            Some((name.clone(), row.predictions_per_minute?, row.temporal_f?.value))
        })
        .collect();
    if let Some((_, first)) = reports.first() {
        let _ = write!(
            body,
            "<h2>Score against talkativeness</h2>\n<p>Dashed: blind metronomes on the data of the first run.</p>\n{}",
            talkativeness(&first.metronomes, &coaches)
        );
    }
    page("Runs side by side", &body)
}
