//! What lies over the picture, to be read from three metres: cue, count, exercise, and help to get into the picture.

use super::{
    front::World,
    state::{State, Work},
    theme::{OVER_PICTURE, PLATE, count_size, cue_size},
};
use crate::{
    pipeline::{view::help_text, workout::Goal},
    sessions::duration_text,
};
use eframe::egui::{
    Align, Align2, Color32, FontId, Frame, Label, Layout, Margin, Rect, RichText, Role, Ui, UiBuilder, WidgetInfo, vec2,
};
use spotter_engine::coach::Kind;
use spotter_vision::{lens::View, reps::Phase};

/// Between a plate and the edge.
const EDGE: f32 = 14.0;

/// Draws over the picture in `area`.
pub(super) fn ui(ui: &mut Ui, area: Rect, state: &State, world: &World<'_>) {
    let cue = cue_size(area);
    corner_ui(ui, area, cue * 0.6, state, world);
    count_ui(ui, area, count_size(area), &state.work);
    if let Some((text, large)) = framing_text(state, world).filter(|_| state.lost.is_none()) {
        let size = if large { cue * 2.2 } else { cue };
        words(ui, area, Align2::CENTER_CENTER, &text, size, OVER_PICTURE.warning);
    }
    if let Some(problem) = state.lost.as_ref().filter(|_| !world.over) {
        let text = format!("No picture: {problem}. Trying again.");
        words(ui, area, Align2::CENTER_CENTER, &text, cue * 0.6, OVER_PICTURE.bad);
    }
    cue_ui(ui, area, cue, state, world);
}

/// Words on a plate as wide as they are, in lines where they are too long.
fn words(ui: &mut Ui, area: Rect, at: Align2, text: &str, size: f32, colour: Color32) {
    let (inner, margin) = (area.shrink(EDGE), vec2(16.0, 8.0));
    let font = FontId::proportional(size);
    let galley = ui.painter().layout(text.to_owned(), font, colour, inner.width() - 2.0 * margin.x);
    let plate = at.align_size_within_rect((galley.size() + 2.0 * margin).ceil(), inner);
    ui.painter().rect_filled(plate, 10.0, PLATE);
    // a little room for rounding, so that the label breaks its lines where the measure did
    let room = plate.shrink2(margin).expand2(vec2(2.0, 0.0));
    let label = Label::new(RichText::new(text).size(size).color(colour)).halign(Align::Center);
    ui.put(room, label);
}

/// A dark plate at an edge of the picture, as large as what is on it.
pub(super) fn plate(ui: &mut Ui, name: &str, area: Rect, at: Align2, add: impl FnOnce(&mut Ui)) {
    let inner = area.shrink(EDGE);
    let layout = match (at.x(), at.y()) {
        (Align::Min, _) => Layout::top_down(Align::Min),
        (Align::Max, _) => Layout::top_down(Align::Max),
        (Align::Center, _) => Layout::top_down(Align::Center),
    };
    // the size of the last frame says where the plate begins
    let id = ui.scope_id().with(("plate", name));
    let before: Option<eframe::egui::Vec2> = ui.data(|data| data.get_temp(id));
    let size = before.unwrap_or(inner.size()).min(inner.size());
    let at = at.align_size_within_rect(size, inner);
    let room = if before.is_some() { at.expand2([inner.width(), 0.0].into()).intersect(inner) } else { inner };
    let builder = UiBuilder::new().max_rect(room).layout(layout).id_salt(id);
    let shown = ui.scope_builder(builder, |ui| {
        Frame::new().fill(PLATE).corner_radius(10).inner_margin(Margin::symmetric(14, 8)).show(ui, add).response.rect
    });
    let size = shown.inner.size();
    if before != Some(size) {
        ui.data_mut(|data| data.insert_temp(id, size));
        ui.ctx().request_repaint();
    }
}

/// The exercise, and below it how the person is seen.
fn corner_ui(ui: &mut Ui, area: Rect, size: f32, state: &State, world: &World<'_>) {
    plate(ui, "corner", area, Align2::LEFT_TOP, |ui| {
        exercise_ui(ui, size, &state.work, world);
        signs_ui(ui, (size * 0.55).max(14.0), state, world);
    });
}

fn exercise_ui(ui: &mut Ui, size: f32, work: &Work, world: &World<'_>) {
    let Some(exercise) = work.exercise else { return };
    ui.label(RichText::new(exercise.name("en")).size(size).strong().color(OVER_PICTURE.text));
    let small = |text: String| RichText::new(text).size(size * 0.55).color(OVER_PICTURE.text);
    if work.finished {
        ui.label(small("workout done".to_owned()));
    } else if let Some((until, next)) = work.rest {
        let left = until.saturating_sub(world.now).as_secs_f64().ceil();
        ui.label(small(format!("rest {}, then {}", duration_text(left), next.exercise.name("en"))));
    } else if let Some(bout) = work.bout {
        ui.label(small(format!("set {} of {}", bout.set, bout.of)));
    } else if work.set > 1 {
        ui.label(small(format!("set {}", work.set)));
    }
    if let Some(phase) = phase_text(work) {
        ui.label(small(phase.to_owned()));
    }
}

/// The phase in a word, beside a sign that does not need colour.
fn phase_text(work: &Work) -> Option<&'static str> {
    let counts = !work.exercise.is_some_and(|e| e.is_hold()) && work.rest.is_none() && !work.finished;
    match work.phase {
        _ if !counts => None,
        Phase::Unknown => None,
        Phase::Rest => Some("ready"),
        Phase::Out => Some("going"),
        Phase::Turned => Some("full range, and back"),
    }
}

fn count_ui(ui: &mut Ui, area: Rect, size: f32, work: &Work) {
    let Some((text, spoken)) = count_text(work) else { return };
    plate(ui, "count", area, Align2::RIGHT_TOP, |ui| {
        let label = ui.label(RichText::new(text).size(size).strong().color(OVER_PICTURE.text));
        label.widget_info(|| WidgetInfo::labeled(Role::Label, true, &spoken));
    });
}

/// The count or the time as it is shown, and as a screen reader says it.
fn count_text(work: &Work) -> Option<(String, String)> {
    let exercise = work.exercise?;
    if exercise.is_hold() {
        let (held, over) = work.held.unwrap_or_default();
        let text = duration_text(held.as_secs_f64().floor());
        let goal = match work.bout.map(|bout| bout.goal) {
            Some(Goal::Seconds(s)) => format!(" of {s}"),
            _ => String::new(),
        };
        let what = if over { "held" } else { "holding" };
        return Some((text, format!("{what} {} seconds{goal}", held.as_secs())));
    }
    let n = work.count;
    match work.bout.map(|bout| bout.goal) {
        Some(Goal::Reps(goal)) => Some((format!("{n}/{goal}"), format!("{n} of {goal} repetitions"))),
        _ => Some((n.to_string(), format!("{n} repetitions"))),
    }
}

/// Help to get into the picture, and the countdown once somebody is; true is for large.
fn framing_text(state: &State, world: &World<'_>) -> Option<(String, bool)> {
    if world.over || state.begun {
        return None;
    }
    if let Some(left) = state.countdown(world.now, world.lead_in) {
        return (left > 0).then(|| (left.to_string(), true));
    }
    let seen = state.seen?;
    (seen.view != View::Clear).then(|| (help_text(seen.view, seen.missing, "en").to_owned(), false))
}

fn cue_ui(ui: &mut Ui, area: Rect, size: f32, state: &State, world: &World<'_>) {
    let shown = state.partial.as_deref().map(|text| (text, OVER_PICTURE.text));
    let shown = shown.or_else(|| {
        let feedback = state.current(world.now)?;
        let colour = if feedback.kind == Kind::View { OVER_PICTURE.warning } else { OVER_PICTURE.text };
        Some((feedback.text.as_str(), colour))
    });
    if let Some((text, colour)) = shown {
        words(ui, area, Align2::CENTER_BOTTOM, text, size, colour);
    }
}

/// How the person is seen, whether anything is heard, and what stopped.
fn signs_ui(ui: &mut Ui, size: f32, state: &State, world: &World<'_>) {
    let line = |ui: &mut Ui, text: String, colour: Color32| {
        ui.label(RichText::new(text).size(size).color(colour));
    };
    if world.paused {
        line(ui, "paused: space goes on".to_owned(), OVER_PICTURE.warning);
    }
    let (text, colour) = match state.seen.map(|seen| seen.view) {
        None => ("looking", OVER_PICTURE.text),
        Some(View::Clear) => ("in view", OVER_PICTURE.good),
        Some(View::PartlyOut) => ("partly out of view", OVER_PICTURE.warning),
        Some(View::NoPerson) => ("nobody in view", OVER_PICTURE.warning),
    };
    line(ui, text.to_owned(), colour);
    if let Some(people) = state.seen.map(|seen| seen.people).filter(|people| *people > 1) {
        line(ui, format!("{people} people, the largest is coached"), OVER_PICTURE.text);
    }
    if world.muted && !world.over {
        line(ui, "muted: M speaks again".to_owned(), OVER_PICTURE.text);
    } else if let Some(why) = world.silent.filter(|_| !world.over) {
        line(ui, why.to_owned(), OVER_PICTURE.text);
    }
    for failure in state.failures.iter().rev().take(3) {
        line(ui, failure.clone(), OVER_PICTURE.bad);
    }
}
