//! Plots of a report as SVG, drawn for a page that may be a phone's: they scale with its width.

use super::{report::Blind, store::Session};
use spotter_datasets::metric::timing::{TOLERANCE, matches};
use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 12.0;
/// Room for the name of the axis, also in a phone's larger letters.
const TOP: f64 = 32.0;
const BOTTOM: f64 = 40.0;
/// Width of a letter below a timeline.
const LETTER: f64 = 7.5;

/// Text that may stand in HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// Axes from 0 to `x_most` and `y_most`.
struct Axes {
    x_most: f64,
    y_most: f64,
    svg: String,
}

impl Axes {
    fn new(label: &str, x_name: &str, y_name: &str, x_most: f64, y_most: f64) -> Self {
        let mut axes = Self { x_most: round_end(x_most), y_most: round_end(y_most), svg: String::new() };
        let _ =
            write!(axes.svg, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(label));
        for i in 0..=4 {
            let part = f64::from(i) / 4.0;
            let (x, y) = (axes.x(axes.x_most * part), axes.y(axes.y_most * part));
            let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
            let _ = write!(
                axes.svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                LEFT - 5.0,
                y + 4.0,
                tick(axes.y_most * part),
                bottom + 15.0,
                tick(axes.x_most * part),
            );
        }
        let _ = write!(
            axes.svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"name\" x=\"{LEFT}\" y=\"18\">{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 6.0,
            escaped(x_name),
            escaped(y_name)
        );
        axes
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value / self.x_most).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (value / self.y_most).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn end(mut self) -> String {
        self.svg.push_str("</svg>");
        self.svg
    }
}

/// The end of an axis of four parts: the next number whose quarter has at most two digits.
fn round_end(most: f64) -> f64 {
    let quarter = most.max(1e-9) / 4.0;
    let ten = 10f64.powf(quarter.log10().floor());
    // What is above by rounding alone is not above.
    let parts = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    4.0 * ten * parts.into_iter().find(|part| quarter <= ten * part * (1.0 + 1e-9)).unwrap_or(10.0)
}

/// A name that ends before `room` does, also in a phone's larger letters.
fn fitted(name: &str, room: f64) -> String {
    let most = (room / LETTER) as usize;
    if name.chars().count() <= most {
        return name.to_owned();
    }
    let cut: String = name.chars().take(most.saturating_sub(1)).collect();
    if cut.is_empty() { cut } else { format!("{}…", cut.trim_end()) }
}

fn tick(value: f64) -> String {
    let text = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Temporal F against ticks a minute: the curve of blind metronomes, and coaches as points.
pub(crate) fn talkativeness(metronomes: &[Blind], coaches: &[(String, f64, f64)]) -> String {
    let most =
        metronomes.iter().map(|m| m.predictions_per_minute).chain(coaches.iter().map(|c| c.1)).fold(1.0, f64::max);
    let mut axes = Axes::new("temporal F against talkativeness", "utterances a minute", "T-F", most, 1.0);
    let point = |m: &Blind| format!("{:.1},{:.1}", axes.x(m.predictions_per_minute), axes.y(m.temporal_f));
    let points: Vec<String> = metronomes.iter().map(point).collect();
    let _ = write!(axes.svg, "<polyline class=\"blind\" points=\"{}\"/>", points.join(" "));
    for (i, (name, rate, f)) in coaches.iter().enumerate() {
        let (x, y) = (axes.x(*rate), axes.y(*f));
        let side = if x > WIDTH * 0.6 { ("end", x - 8.0) } else { ("start", x + 8.0) };
        let _ = write!(
            axes.svg,
            "<circle class=\"coach c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
             <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\">{}</text>",
            i % 6,
            side.1,
            y - 7.0,
            side.0,
            escaped(name)
        );
    }
    axes.end()
}

/// Two histograms side by side, in shares of their sums.
pub(crate) fn histogram(truth: &[usize], said: &[usize], step: f64) -> String {
    let share = |bars: &[usize]| -> Vec<f64> {
        let all = bars.iter().sum::<usize>().max(1) as f64;
        bars.iter().map(|n| *n as f64 / all).collect()
    };
    let (truth, said) = (share(truth), share(said));
    let most = truth.iter().chain(&said).fold(0.05, |a: f64, b| a.max(*b));
    let bars = truth.len().max(said.len());
    let mut axes =
        Axes::new("gaps between utterances", "seconds between utterances", "share", bars as f64 * step, most);
    let half = (axes.x(step) - axes.x(0.0)) / 2.0 - 1.0;
    for (shift, class, values) in [(0.0, "truth", &truth), (half, "said", &said)] {
        for (i, value) in values.iter().enumerate() {
            let (x, y) = (axes.x(i as f64 * step) + 1.0 + shift, axes.y(*value));
            let tall = axes.y(0.0) - y;
            let _ = write!(
                axes.svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{half:.1}\" height=\"{tall:.1}\"/>"
            );
        }
    }
    axes.end()
}

/// What was due and what was said in a session, over its time; matched marks are full, missed ones hollow.
pub(crate) fn timeline(session: &Session) -> String {
    let (height, middle) = (78.0, 39.0);
    let x = |t: f64| 4.0 + (t / session.duration.max(1e-9)).clamp(0.0, 1.0) * (WIDTH - 8.0);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"timeline of session {}\">",
        escaped(&session.id)
    );
    for episode in &session.episodes {
        let (from, to) = (x(episode.start + episode.offset), x(episode.end + episode.offset));
        let _ = write!(
            svg,
            "<rect class=\"episode\" x=\"{from:.1}\" y=\"4\" width=\"{:.1}\" height=\"56\"/>\
             <text class=\"tick below\" x=\"{from:.1}\" y=\"74\">{}</text>",
            (to - from).max(0.0),
            escaped(&fitted(&episode.exercise, to - from))
        );
        let due = matches(&episode.truth, &episode.said, TOLERANCE);
        let made = matches(&episode.said, &episode.truth, TOLERANCE);
        let lanes = [(&episode.truth, due, "truth", middle - 22.0), (&episode.said, made, "said", middle + 4.0)];
        for (all, met, class, y) in lanes {
            for (i, one) in all.iter().enumerate() {
                let hit = if met.iter().any(|(own, _)| *own == i) { "" } else { " missed" };
                let _ = write!(
                    svg,
                    "<rect class=\"{class}{hit}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"3\" height=\"16\"><title>{:.1} s: {}</title></rect>",
                    x(one.t + episode.offset) - 1.5,
                    one.t + episode.offset,
                    escaped(&one.text)
                );
            }
        }
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_datasets::{baseline::Metronome, metric::timing::Timing};

    #[test]
    fn axes_end_at_round_numbers_and_names_where_their_room_does() {
        for (most, end) in [(1.0, 1.0), (59.1, 60.0), (0.219, 0.24), (20.0, 20.0), (1e-12, 1e-9), (37.0, 40.0)] {
            assert!((round_end(most) / end - 1.0).abs() < 1e-9, "{most}: {}", round_end(most));
        }
        assert_eq!(fitted("sit-ups", 60.0), "sit-ups");
        assert_eq!(fitted("mountain climbers", 80.0), "mountain…");
        assert_eq!(fitted("push-ups", 3.0), "");
    }

    #[test]
    fn nothing_and_odd_numbers_still_make_a_picture() {
        let metronome = Metronome { period: 1.0, phase: 1.0, timing: Timing::default() };
        let blind = Blind { metronome, predictions_per_minute: f64::NAN, temporal_f: 0.5 };
        for svg in [
            talkativeness(&[], &[]),
            talkativeness(&[blind], &[("<m>".into(), 3.0, 2.0)]),
            histogram(&[], &[], 1.0),
            histogram(&[0, 0], &[1, 5], 1.0),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>") && !svg.contains("<m>"), "{svg}");
        }
    }
}
