//! What lies over the picture, to be read from three metres: cue, count, exercise, and help to get into the picture.

use super::{
    front::{Stage, World},
    state::{State, Work},
    theme::{OVER_PICTURE, PLATE, count_size, cue_size},
    words::{self, capital, pick},
};
use crate::{
    pipeline::{view::help_text, workout::Goal},
    sessions::duration_text,
    timeline::first_words,
};
use eframe::egui::{
    Align, Align2, Color32, FontId, Frame, Label, Layout, Margin, Rect, RichText, Role, Ui, UiBuilder, Vec2,
    WidgetInfo, pos2, vec2,
};
use spotter_datasets::synthetic::{Exercise, phrases::Lang};
use spotter_engine::coach::Kind;
use spotter_vision::{lens::View, reps::Phase};
use std::time::Duration;

/// Between a plate and the edge.
const EDGE: f32 = 14.0;

/// Draws over the picture in `area`.
pub(super) fn ui(ui: &mut Ui, area: Rect, state: &State, world: &World<'_>, lang: Lang) {
    let cue = cue_size(area);
    if world.stage == Stage::Opening {
        let text = opening_text(world, lang);
        words(ui, area, Align2::CENTER_CENTER, text, cue * 0.8, OVER_PICTURE.text);
        return;
    }
    corner_ui(ui, area, cue * 0.6, state, world, lang);
    match countdown(state, world) {
        Some(left) => countdown_ui(ui, area, cue, left, lang),
        None => count_ui(ui, area, count_size(area), &state.work, world.now, lang),
    }
    centre_ui(ui, area, cue, state, world, lang);
    cue_ui(ui, area, cue, state, world, lang);
}

fn opening_text(world: &World<'_>, lang: Lang) -> &'static str {
    if world.stands_in.is_some() {
        pick(lang, "Opening the recording ...", "영상을 열고 있어요 ...")
    } else {
        pick(lang, "Opening the camera ...", "카메라를 켜고 있어요 ...")
    }
}

/// What matters more than the picture, in its middle: that it is paused, that there is none, that nobody is in it.
fn centre_ui(ui: &mut Ui, area: Rect, cue: f32, state: &State, world: &World<'_>, lang: Lang) {
    let large = cue * 1.4;
    if world.stage == Stage::Ending {
        let text = pick(lang, "Putting the session away ...", "운동을 정리하고 있어요 ...");
        words(ui, area, Align2::CENTER_CENTER, text, cue * 0.8, OVER_PICTURE.text);
    } else if world.paused {
        let (title, help) = (pick(lang, "Paused", "멈춤"), pick(lang, "Space goes on", "스페이스 키로 이어서"));
        title_ui(ui, area, (title, large, OVER_PICTURE.warning), help, None);
    } else if let Some((problem, trouble)) = state.lost.as_ref().filter(|_| world.running()) {
        let (title, help) = words::trouble(lang, *trouble);
        title_ui(ui, area, (title, cue, OVER_PICTURE.bad), help, Some(problem));
    } else if state.work.halted.is_some() && world.running() {
        let title = pick(lang, "I wait for you", "기다리고 있어요");
        let help = pick(lang, "The clock stands still until you are back.", "돌아오실 때까지 시간이 멈춰 있어요.");
        title_ui(ui, area, (title, cue, OVER_PICTURE.warning), help, None);
    }
}

/// A title over a line of help and a line for those who want to know exactly, in the middle of the picture.
fn title_ui(ui: &mut Ui, area: Rect, title: Line<'_>, help: &str, exactly: Option<&String>) {
    let help = (help, title.1 * 0.6, OVER_PICTURE.text);
    let exactly = exactly.map(|exactly| (exactly.as_str(), 14.0, OVER_PICTURE.text));
    let lines: Vec<Line<'_>> = [title, help].into_iter().chain(exactly).collect();
    lines_ui(ui, area, Align2::CENTER_CENTER, &lines);
}

/// Words, their size and their colour.
type Line<'a> = (&'a str, f32, Color32);

/// Words on a plate.
fn words(ui: &mut Ui, area: Rect, at: Align2, text: &str, size: f32, colour: Color32) {
    lines_ui(ui, area, at, &[(text, size, colour)]);
}

/// Words on a plate as wide as they are, one below the other, each in lines where it is too long.
fn lines_ui(ui: &mut Ui, area: Rect, at: Align2, lines: &[Line<'_>]) {
    let (inner, margin) = (area.shrink(EDGE), vec2(16.0, 8.0));
    let size_of = |&(text, size, colour): &Line<'_>| {
        let font = FontId::proportional(size);
        ui.painter().layout(text.to_owned(), font, colour, inner.width() - 2.0 * margin.x).size().ceil()
    };
    let sizes: Vec<Vec2> = lines.iter().map(size_of).collect();
    let all = sizes.iter().fold(Vec2::ZERO, |all, size| vec2(all.x.max(size.x), all.y + size.y));
    let plate = at.align_size_within_rect(all + 2.0 * margin, inner);
    ui.painter().rect_filled(plate, 10.0, PLATE);
    let mut top = plate.top() + margin.y;
    for ((text, size, colour), measured) in lines.iter().zip(sizes) {
        // a little room for rounding, so that the label breaks its lines where the measure did
        let middle = pos2(plate.center().x, top + measured.y * 0.5);
        let room = Rect::from_center_size(middle, measured + vec2(4.0, 0.0));
        ui.put(room, Label::new(RichText::new(*text).size(*size).color(*colour)).halign(Align::Center));
        top += measured.y;
    }
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
fn corner_ui(ui: &mut Ui, area: Rect, size: f32, state: &State, world: &World<'_>, lang: Lang) {
    // a long line must not run under the count
    let left = Rect::from_min_size(area.min, vec2(area.width() * 0.62, area.height()));
    plate(ui, "corner", left, Align2::LEFT_TOP, |ui| {
        exercise_ui(ui, size, &state.work, lang);
        signs_ui(ui, (size * 0.55).max(16.0), state, world, lang);
    });
}

fn exercise_ui(ui: &mut Ui, size: f32, work: &Work, lang: Lang) {
    let Some(exercise) = work.exercise else { return };
    let name = |e: Exercise| e.name(lang.code());
    ui.label(RichText::new(capital(name(exercise))).size(size).strong().color(OVER_PICTURE.text));
    let small = |text: String| RichText::new(text).size(size * 0.75).color(OVER_PICTURE.text);
    if work.finished {
        ui.label(small(pick(lang, "workout done", "운동 끝").to_owned()));
    } else if let Some((_, next)) = work.rest {
        ui.label(small(match lang {
            Lang::En => format!("rest, then {}", name(next.exercise)),
            Lang::Ko => format!("휴식, 다음은 {}", name(next.exercise)),
        }));
    } else if let Some(bout) = work.bout {
        ui.label(small(match lang {
            Lang::En => format!("set {} of {}", bout.set, bout.of),
            Lang::Ko => format!("{}세트 중 {}세트", bout.of, bout.set),
        }));
    } else if work.set > 1 {
        ui.label(small(match lang {
            Lang::En => format!("set {}", work.set),
            Lang::Ko => format!("{}세트", work.set),
        }));
    }
    if let Some(phase) = phase_text(work, lang) {
        ui.label(small(phase.to_owned()));
    }
}

/// The phase in a word, beside a sign that does not need colour.
fn phase_text(work: &Work, lang: Lang) -> Option<&'static str> {
    let counts = !work.exercise.is_some_and(|e| e.is_hold()) && work.rest.is_none() && !work.finished;
    match work.phase {
        _ if !counts => None,
        Phase::Unknown => None,
        Phase::Rest => Some(pick(lang, "ready", "준비")),
        Phase::Out => Some(pick(lang, "going", "진행 중")),
        Phase::Turned => Some(pick(lang, "full range, and back", "끝까지 갔어요, 돌아오세요")),
    }
}

/// What counts right now, as large as it goes: what is left of a rest or of a set for a time, else the count.
fn count_ui(ui: &mut Ui, area: Rect, size: f32, work: &Work, now: Duration, lang: Lang) {
    let counted = count_text(work, lang);
    let left = work.rest_left(now).map(|(left, _)| left).or_else(|| work.time_left(now));
    let (large, small) = match left {
        Some(left) => {
            let clock = duration_text(left.as_secs_f64().ceil());
            let s = left.as_secs_f64().ceil();
            let spoken = match lang {
                Lang::En => format!("{s:.0} seconds left"),
                Lang::Ko => format!("{s:.0}초 남음"),
            };
            ((clock, spoken), counted.filter(|_| work.rest.is_none()))
        }
        None => match counted {
            Some(counted) => (counted, None),
            None => return,
        },
    };
    plate(ui, "count", area, Align2::RIGHT_TOP, |ui| {
        for ((text, spoken), size) in [(large, size)].into_iter().chain(small.map(|small| (small, size * 0.4))) {
            let label = ui.label(RichText::new(text).size(size).strong().color(OVER_PICTURE.text));
            label.widget_info(|| WidgetInfo::labeled(Role::Label, true, &spoken));
        }
    });
}

/// The count or the time as it is shown, and as a screen reader says it.
fn count_text(work: &Work, lang: Lang) -> Option<(String, String)> {
    let exercise = work.exercise?;
    let goal = work.bout.map(|bout| bout.goal);
    if exercise.is_hold() {
        let (held, over) = work.held.unwrap_or_default();
        let (text, s) = (duration_text(held.as_secs_f64().floor()), held.as_secs());
        let spoken = match (lang, over, goal) {
            (Lang::En, false, Some(Goal::Seconds(of))) => format!("holding {s} seconds of {of}"),
            (Lang::En, true, Some(Goal::Seconds(of))) => format!("held {s} seconds of {of}"),
            (Lang::En, false, _) => format!("holding {s} seconds"),
            (Lang::En, true, _) => format!("held {s} seconds"),
            (Lang::Ko, ..) => format!("{s}초 버팀"),
        };
        return Some((text, spoken));
    }
    let n = work.count;
    // where no joints are followed nothing is counted, and a 0 would deny what the coach counts
    if n == 0 && goal.is_none() && work.phase == Phase::Unknown {
        return None;
    }
    match (goal, lang) {
        // of a rest that is read back the goal is not known
        (Some(Goal::Reps(goal)), Lang::En) => Some((format!("{n}/{goal}"), format!("{n} of {goal} repetitions"))),
        (Some(Goal::Reps(goal)), Lang::Ko) => Some((format!("{n}/{goal}"), format!("{goal}회 중 {n}회"))),
        (_, Lang::En) => Some((n.to_string(), format!("{n} repetitions"))),
        (_, Lang::Ko) => Some((n.to_string(), format!("{n}회"))),
    }
}

/// Whether the picture shows what happens now.
fn watches(state: &State, world: &World<'_>) -> bool {
    world.running() && !world.paused && state.lost.is_none()
}

/// Seconds until the session begins, once somebody is in the picture.
fn countdown(state: &State, world: &World<'_>) -> Option<u64> {
    let left = state.countdown(world.now, world.lead_in).filter(|_| watches(state, world))?;
    (left > 0).then_some(left)
}

/// Where the count will be: in the middle it would cover the person, at the top their face.
fn countdown_ui(ui: &mut Ui, area: Rect, cue: f32, left: u64, lang: Lang) {
    let (left, ready) = (left.to_string(), pick(lang, "Get ready", "준비하세요"));
    let lines = [(ready, cue * 0.7, OVER_PICTURE.text), (left.as_str(), cue * 2.4, OVER_PICTURE.warning)];
    lines_ui(ui, area, Align2::RIGHT_TOP, &lines);
}

/// How to get into the picture, for as long as that is needed and no longer.
fn help(state: &State, world: &World<'_>, lang: Lang) -> Option<&'static str> {
    let seen = state.seen.filter(|seen| seen.view != View::Clear && watches(state, world))?;
    Some(help_text(seen.view, seen.missing, lang.code()))
}

/// The first words of a cue large, and what follows them below; where nothing else is said, how to get into the picture.
fn cue_ui(ui: &mut Ui, area: Rect, size: f32, state: &State, world: &World<'_>, lang: Lang) {
    // a word about the view was said once; what is shown of it is what is still true
    let said = || state.current(world.now).filter(|feedback| feedback.kind != Kind::View);
    let Some(text) = state.partial.as_deref().or_else(|| said().map(|feedback| feedback.text.as_str())) else {
        if let Some(help) = help(state, world, lang) {
            words(ui, area, Align2::CENTER_BOTTOM, help, size, OVER_PICTURE.warning);
        }
        return;
    };
    let (colour, first) = (OVER_PICTURE.text, first_words(text));
    let rest = text.trim().get(first.len()..).unwrap_or_default().trim_start_matches([',', ';', ':', ' ']);
    let lines: &[Line<'_>] = &[(first, size, colour), (rest, size * 0.6, colour)];
    lines_ui(ui, area, Align2::CENTER_BOTTOM, if rest.is_empty() { lines.split_at(1).0 } else { lines });
}

/// How the person is seen, whether anything is heard, and what stopped.
fn signs_ui(ui: &mut Ui, size: f32, state: &State, world: &World<'_>, lang: Lang) {
    let line = |ui: &mut Ui, text: String, colour: Color32| {
        ui.label(RichText::new(text).size(size).color(colour));
    };
    let seen = match state.seen.map(|seen| seen.view) {
        _ if state.lost.is_some() => (pick(lang, "no picture", "화면 없음"), OVER_PICTURE.warning),
        None => (pick(lang, "looking", "보고 있어요"), OVER_PICTURE.text),
        Some(View::Clear) => (pick(lang, "in view", "잘 보여요"), OVER_PICTURE.good),
        Some(View::PartlyOut) => (pick(lang, "partly out of view", "일부만 보여요"), OVER_PICTURE.warning),
        Some(View::NoPerson) => (pick(lang, "nobody in view", "아무도 안 보여요"), OVER_PICTURE.warning),
    };
    line(ui, seen.0.to_owned(), seen.1);
    if let Some(people) = state.seen.map(|seen| seen.people).filter(|people| *people > 1) {
        let text = match lang {
            Lang::En => format!("{people} people, the largest is coached"),
            Lang::Ko => format!("{people}명 중 가장 크게 보이는 사람을 코치해요"),
        };
        line(ui, text, OVER_PICTURE.text);
    }
    if world.muted && world.running() {
        line(ui, pick(lang, "muted: M speaks again", "소리 끔: M 으로 켜기").to_owned(), OVER_PICTURE.warning);
    } else if world.silent && world.running() {
        line(ui, words::silent(lang).to_owned(), OVER_PICTURE.text);
    }
    for failure in state.failures.iter().rev().take(3) {
        line(ui, failure.clone(), OVER_PICTURE.bad);
    }
}
