//! Questions before something is lost.

use super::{
    front::{Command, Front},
    theme::palette,
    words::pick,
};
use eframe::egui::{Context, Frame, Id, Modal, RichText};
use spotter_datasets::synthetic::phrases::Lang;

/// What waits for a yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A record of this name and this day.
    Delete(String, String),
    /// All of so many records.
    DeleteAll(usize),
}

impl Ask {
    fn question(&self, lang: Lang) -> String {
        match (self, lang) {
            (Self::Delete(_, day), Lang::En) => format!("Delete the session of {day}?"),
            (Self::Delete(_, day), Lang::Ko) => format!("{day} 기록을 지울까요?"),
            (Self::DeleteAll(1), Lang::En) => "Delete everything: the one session?".to_owned(),
            (Self::DeleteAll(n), Lang::En) => format!("Delete everything: all {n} sessions?"),
            (Self::DeleteAll(n), Lang::Ko) => format!("모두 지울까요? 기록 {n}개"),
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Delete(id, _) => Command::Delete(id),
            Self::DeleteAll(_) => Command::DeleteAll,
        }
    }
}

/// Asks; the first control is the one that loses nothing.
pub(super) fn ui(context: &Context, front: &mut Front, commands: &mut Vec<Command>) {
    let Some(ask) = front.ask.clone() else { return };
    let lang = front.lang();
    let modal = Modal::new(Id::unique("ask")).show(context, |ui| {
        Frame::new()
            .inner_margin(16)
            .show(ui, |ui| {
                ui.set_max_width(460.0);
                ui.label(RichText::new(ask.question(lang)).size(24.0).strong());
                ui.add_space(8.0);
                ui.label(pick(lang, "This can't be undone.", "되돌릴 수 없어요."));
                ui.add_space(16.0);
                ui.horizontal(|ui| {
                    let keep = ui.button(pick(lang, "Keep", "그대로 두기")).clicked();
                    let text = RichText::new(pick(lang, "Delete", "지우기")).color(palette(ui).bad);
                    (keep, ui.button(text).clicked())
                })
                .inner
            })
            .inner
    });
    let (keep, delete) = modal.inner;
    if delete {
        commands.push(ask.command());
    }
    if keep || delete || modal.should_close() {
        front.ask = None;
    }
}
