//! A session of the past, moment by moment: what was shown and said, without the picture, which nobody keeps.

use super::{
    front::{Front, Screen, Stage, World},
    hud,
    state::State,
    theme::{OVER_PICTURE, palette},
    words::pick,
};
use crate::{
    sessions::{Looked, Told},
    timeline::clock_text,
};
use eframe::egui::{
    self, Align2, Color32, Context, FontId, Key, Modifiers, Painter, Pos2, Rect, RichText, Sense, Shape, Slider,
    Stroke, Ui, pos2, vec2,
};
use spotter_datasets::synthetic::phrases::{Lang, SaidKind};
use std::time::Duration;

/// Between two pictures while it plays.
const FRAME: Duration = Duration::from_millis(50);
/// A key goes to the cue before only when it is this far behind: so two presses go two cues back.
const SLACK: f64 = 0.05;

/// Where the session of the past is being looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rewind {
    /// Seconds of media time.
    pub(super) at: f64,
    /// The window's time and the media time at which it began to play.
    playing: Option<(f64, f64)>,
}

impl Rewind {
    /// From the beginning, standing.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Stands at a moment; goes on playing from there if it was.
    fn seek(&mut self, t: f64, window: f64) {
        self.at = t;
        self.playing = self.playing.map(|_| (window, t));
    }

    fn toggle(&mut self, window: f64, end: f64) {
        self.playing = match self.playing {
            Some(_) => None,
            None => {
                self.at = if self.at >= end { 0.0 } else { self.at };
                Some((window, self.at))
            }
        };
    }

    /// Time goes by.
    fn follow(&mut self, window: f64, end: f64) {
        let Some((since, from)) = self.playing else { return };
        self.at = (from + window - since).min(end);
        if self.at >= end {
            self.playing = None;
        }
    }

    /// The keys of this screen.
    pub(super) fn keys(&mut self, context: &Context, looked: Option<&Looked>, focused: bool) {
        let Some(looked) = looked.filter(|_| !focused) else { return };
        let plain = |key| context.input_mut(|input| input.consume_key(Modifiers::NONE, key));
        let window = context.input(|input| input.time);
        if plain(Key::Space) {
            self.toggle(window, looked.past.duration);
        }
        if plain(Key::ArrowLeft) {
            self.seek(cue_before(looked, self.at).unwrap_or(0.0), window);
        }
        if plain(Key::ArrowRight)
            && let Some(t) = cue_after(looked, self.at)
        {
            self.seek(t, window);
        }
    }
}

/// When something was said, in order.
fn cues(looked: &Looked) -> impl DoubleEndedIterator<Item = (f64, &str)> {
    looked.past.events.iter().filter_map(|told| match told {
        Told::Feedback { t, text, .. } => Some((*t, text.as_str())),
        _ => None,
    })
}

fn cue_before(looked: &Looked, at: f64) -> Option<f64> {
    cues(looked).map(|(t, _)| t).rfind(|t| *t < at - SLACK)
}

fn cue_after(looked: &Looked, at: f64) -> Option<f64> {
    cues(looked).map(|(t, _)| t).find(|t| *t > at + 1e-6)
}

/// What the window showed at a moment.
fn state_at(looked: &Looked, at: f64) -> State {
    // the countdown before a session is not on record
    let mut state = State { begun: true, ..State::default() };
    looked.past.events.iter().take_while(|told| told.t() <= at + 1e-6).for_each(|told| state.apply(told.event()));
    state
}

/// Draws the screen.
pub(super) fn ui(ui: &mut Ui, front: &mut Front, world: &World<'_>) {
    let lang = front.lang();
    let Some(looked) = &front.past else {
        front.screen = Screen::Summary;
        return;
    };
    let window = ui.input(|input| input.time);
    let mut rewind = front.rewind;
    rewind.follow(window, looked.past.duration);
    egui::Panel::right("cues").default_size(340.0).show(ui, |ui| cues_ui(ui, looked, &mut rewind, window, lang));
    egui::Panel::bottom("strip").show(ui, |ui| strip_ui(ui, looked, &mut rewind, window, lang));
    egui::CentralPanel::no_frame().show(ui, |ui| {
        let area = ui.available_rect_before_wrap();
        ui.painter().rect_filled(area, 0.0, Color32::from_rgb(24, 26, 32));
        let text = pick(
            lang,
            "No picture was kept: this is what I showed and said.",
            "영상은 저장하지 않아요. 보여 드린 것과 드린 말씀이에요.",
        );
        let font = FontId::proportional(18.0);
        ui.painter().text(area.center(), Align2::CENTER_CENTER, text, font, Color32::from_gray(150));
        let state = state_at(looked, rewind.at);
        let now = Duration::try_from_secs_f64(rewind.at).unwrap_or_default();
        let then = World { now, stage: Stage::Running, paused: false, muted: false, silent: false, ..*world };
        hud::ui(ui, area, &state, &then, lang);
    });
    if rewind.playing.is_some() {
        ui.ctx().request_repaint_after(FRAME);
    }
    front.rewind = rewind;
}

/// Everything that was said; a click goes there.
fn cues_ui(ui: &mut Ui, looked: &Looked, rewind: &mut Rewind, window: f64, lang: Lang) {
    ui.add_space(8.0);
    ui.label(RichText::new(pick(lang, "What was said", "코치의 말")).size(20.0).strong());
    let current = cues(looked).map(|(t, _)| t).rfind(|t| *t <= rewind.at + 1e-6);
    egui::ScrollArea::vertical().auto_shrink([false, false]).show(ui, |ui| {
        if cues(looked).next().is_none() {
            ui.label(pick(lang, "Nothing.", "없어요."));
        }
        for (t, text) in cues(looked) {
            let time = clock_text(Duration::try_from_secs_f64(t).unwrap_or_default());
            let label = ui.selectable_label(current == Some(t), format!("{time}  {text}"));
            if label.clicked() {
                rewind.seek(t, window);
            }
        }
    });
}

/// The strip of time with its marks, and the buttons under it.
fn strip_ui(ui: &mut Ui, looked: &Looked, rewind: &mut Rewind, window: f64, lang: Lang) {
    let end = looked.past.duration.max(1e-3);
    ui.add_space(8.0);
    let (area, response) = ui.allocate_exact_size(vec2(ui.available_width(), 44.0), Sense::click_and_drag());
    marks(ui, area, looked, end);
    if let Some(at) = response.interact_pointer_pos() {
        let share = ((at.x - area.left()) / area.width()).clamp(0.0, 1.0);
        rewind.seek(f64::from(share) * end, window);
    }
    let here = place(area, rewind.at / end);
    ui.painter().vline(here, area.y_range(), Stroke::new(3.0, palette(ui).warning));
    legend_ui(ui, lang);
    ui.horizontal_wrapped(|ui| {
        if ui.button(pick(lang, "Cue before", "이전 말")).clicked() {
            rewind.seek(cue_before(looked, rewind.at).unwrap_or(0.0), window);
        }
        let play = if rewind.playing.is_some() { pick(lang, "Stop", "멈춤") } else { pick(lang, "Play", "재생") };
        if ui.button(play).clicked() {
            rewind.toggle(window, looked.past.duration);
        }
        let next = cue_after(looked, rewind.at);
        if ui.add_enabled(next.is_some(), egui::Button::new(pick(lang, "Next cue", "다음 말"))).clicked()
            && let Some(t) = next
        {
            rewind.seek(t, window);
        }
        let mut t = rewind.at;
        let words = |t: f64, _| clock_text(Duration::try_from_secs_f64(t).unwrap_or_default());
        let slider = Slider::new(&mut t, 0.0..=end).text(pick(lang, "moment", "시각")).custom_formatter(words);
        if ui.add(slider).changed() {
            rewind.seek(t, window);
        }
    });
    ui.add_space(8.0);
}

fn place(area: Rect, share: f64) -> f32 {
    area.left() + area.width() * share as f32
}

/// Repetitions as strokes at the bottom, cues above them, each kind with a shape of its own.
fn marks(ui: &Ui, area: Rect, looked: &Looked, end: f64) {
    let (colours, painter) = (palette(ui), ui.painter());
    painter.rect_filled(area, 6.0, ui.visuals().extreme_bg_color);
    for told in &looked.past.events {
        let x = place(area, told.t() / end);
        let at = pos2(x, area.top() + 14.0);
        match told {
            Told::Rep { .. } => {
                painter.vline(x, area.bottom() - 14.0..=area.bottom() - 3.0, Stroke::new(2.0, colours.text));
            }
            Told::HalfRep { .. } => {
                painter.vline(x, area.bottom() - 8.0..=area.bottom() - 3.0, Stroke::new(2.0, colours.text));
            }
            Told::Exercise { .. } | Told::Set { .. } | Told::Rest { .. } => {
                painter.vline(x, area.y_range(), Stroke::new(1.0, ui.visuals().weak_text_color()));
            }
            Told::Feedback { kind, .. } if kind == "view" => mark(painter, at, 4, colours.warning),
            Told::Feedback { kind, .. } if kind == "program" => mark(painter, at, 0, OVER_PICTURE.accent),
            Told::Feedback { .. } => match told.said(looked.past.lang).map(|said| said.kind) {
                Some(SaidKind::Correction) => mark(painter, at, 3, colours.bad),
                _ => mark(painter, at, 0, colours.good),
            },
            _ => {}
        }
    }
}

/// What the marks mean.
fn legend_ui(ui: &mut Ui, lang: Lang) {
    let colours = palette(ui);
    ui.horizontal_wrapped(|ui| {
        for (corners, colour, word) in [
            (3, colours.bad, pick(lang, "correction", "교정")),
            (0, colours.good, pick(lang, "praise or count", "칭찬, 횟수")),
            (0, OVER_PICTURE.accent, pick(lang, "workout", "프로그램")),
            (4, colours.warning, pick(lang, "out of view", "화면 밖")),
            (2, colours.text, pick(lang, "repetition", "동작")),
        ] {
            let (area, _) = ui.allocate_exact_size(vec2(16.0, 16.0), Sense::hover());
            mark(ui.painter(), area.center(), corners, colour);
            ui.label(RichText::new(word).size(14.0));
        }
    });
}

/// A mark of so many corners; none is round, two are a stroke.
fn mark(painter: &Painter, at: Pos2, corners: u32, colour: Color32) {
    if corners == 0 {
        painter.circle_filled(at, 5.0, colour);
        return;
    }
    if corners == 2 {
        painter.vline(at.x, at.y - 6.0..=at.y + 6.0, Stroke::new(2.0, colour));
        return;
    }
    let point = |i: u32| {
        let angle = std::f32::consts::TAU * (i as f32 / corners as f32 + 0.25);
        at + 7.0 * vec2(angle.cos(), angle.sin())
    };
    painter.add(Shape::convex_polygon((0..corners).map(point).collect(), colour, Stroke::NONE));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::Event,
        sessions::{Memory, Stamp},
        timeline::Sink as _,
    };
    use spotter_datasets::synthetic::Exercise;
    use spotter_engine::coach::{Feedback, Kind};

    fn looked() -> Looked {
        let (memory, mut lines) = Memory::begin(Stamp(0));
        let ms = Duration::from_millis;
        for (i, t) in [2000, 5125, 9500].into_iter().enumerate() {
            let rep = Event::Rep { t: ms(t - 500), exercise: Exercise::Squat, set: 1, count: i as u32 + 1 };
            let said = Feedback { t_frame: ms(t), t_ready: ms(t), text: format!("cue {i}"), kind: Kind::Coaching };
            [Event::Exercise { t: ms(0), exercise: Exercise::Squat }, rep, Event::Feedback(said)]
                .iter()
                .skip(usize::from(i > 0))
                .for_each(|event| lines.event(event).unwrap());
        }
        Looked::new("x", memory.raw(), Vec::new(), false).unwrap()
    }

    #[test]
    fn each_cue_is_reached_exactly_and_shown_there() {
        let looked = looked();
        let mut rewind = Rewind::default();
        for (i, t) in [2.0, 5.125, 9.5].into_iter().enumerate() {
            let next = cue_after(&looked, rewind.at).unwrap();
            rewind.seek(next, 0.0);
            assert!((rewind.at - t).abs() < 1e-9);
            let state = state_at(&looked, rewind.at);
            let now = Duration::from_secs_f64(rewind.at);
            assert_eq!(state.current(now).map(|f| f.text.clone()), Some(format!("cue {i}")));
            assert_eq!(state.work.count, i as u32 + 1);
        }
        assert_eq!(cue_after(&looked, rewind.at), None);
        assert_eq!(cue_before(&looked, rewind.at), Some(5.125));
        assert_eq!(cue_before(&looked, 2.0), None);
    }

    #[test]
    fn it_plays_to_its_end_and_begins_again() {
        let mut rewind = Rewind { at: 8.0, playing: None };
        rewind.toggle(100.0, 9.5);
        rewind.follow(101.0, 9.5);
        assert!((rewind.at - 9.0).abs() < 1e-9 && rewind.playing.is_some());
        rewind.seek(3.0, 101.0);
        rewind.follow(102.5, 9.5);
        assert!((rewind.at - 4.5).abs() < 1e-9);
        rewind.follow(200.0, 9.5);
        assert!(rewind.playing.is_none() && (rewind.at - 9.5).abs() < 1e-9);
        rewind.toggle(201.0, 9.5);
        assert!(rewind.at < 1e-9, "from the beginning");
    }
}
