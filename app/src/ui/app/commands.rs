//! What the user asked for is done.

use super::{App, words};
use crate::{
    sessions::Store,
    settings,
    ui::{
        front::{Command, Screen, Stage},
        jobs::{self, Done},
        set_look,
    },
};
use eframe::egui::{Context, ViewportCommand};

impl App {
    pub(super) fn act(&mut self, command: Command, context: &Context) {
        match command {
            Command::Start if self.stage == Stage::Idle && self.live => self.open(),
            Command::Start => {}
            Command::Pause => {
                if let Some(run) = &self.run {
                    run.running.clock().pause(!run.running.clock().is_paused());
                }
            }
            Command::Talkativeness(bias) => {
                self.talkativeness = bias;
                if let Some(run) = &self.run {
                    run.running.talkativeness().set(bias);
                }
                if self.live {
                    self.set(&[("talkativeness", format!("{bias:.1}"))], context);
                }
            }
            Command::Choose(exercise) => {
                if let Some(run) = &self.run {
                    run.running.choose(exercise);
                }
            }
            Command::End => self.end(),
            Command::Restart => match self.stage {
                Stage::Idle => self.open(),
                Stage::Running => {
                    self.again = true;
                    self.end();
                }
                Stage::Opening | Stage::Ending => {}
            },
            Command::Set(changed) => self.set(&changed, context),
            Command::Mute(muted) => {
                self.muted = muted;
                self.hush();
            }
            Command::ListCameras => drop(self.jobs.start("cameras", jobs::cameras)),
            Command::Quit => context.send_viewport_cmd(ViewportCommand::Close),
            about_records => self.act_on_records(about_records),
        }
    }

    /// What is done with records: on a thread, since they lie on a disk.
    fn act_on_records(&mut self, command: Command) {
        let Some(store) = self.store.clone() else { return };
        let lang = words::language(&self.front.settings);
        match command {
            Command::LookAt(id) => drop(self.jobs.start("reading", move || Done::Looked(store.look_at(&id)))),
            Command::Export(format) => {
                let Some(looked) = self.front.past.clone() else { return };
                let folder = store.folder().with_file_name("exports");
                self.jobs.start("export", move || match looked.export(format, &folder) {
                    Ok(path) => {
                        Done::Told(format!("{}: {}", words::pick(lang, "written to", "저장한 곳"), path.display()))
                    }
                    Err(error) => Done::Told(format!("{error:#}")),
                });
            }
            Command::Delete(id) => {
                self.front.past = None;
                self.front.screen = Screen::History;
                self.change_records(store, move |store| {
                    store.delete(&id)?;
                    Ok(words::pick(lang, "the session is deleted", "기록을 지웠어요").to_owned())
                });
            }
            Command::DeleteAll => {
                self.front.past = None;
                self.change_records(store, move |store| {
                    let n = store.delete_all()?;
                    Ok(format!("{n} {}", words::pick(lang, "sessions deleted", "개의 기록을 지웠어요")))
                });
            }
            _ => drop(self.jobs.start("sessions", move || Done::Sessions(store.lines()))),
        }
    }

    /// Changes what is kept, tells what came of it, and reads it again.
    fn change_records(&self, store: Store, change: impl FnOnce(&Store) -> anyhow::Result<String> + Send + 'static) {
        self.jobs.start_with("records", move |tell| {
            tell(Done::Told(change(&store).unwrap_or_else(|error| format!("{error:#}"))));
            tell(Done::Sessions(store.lines()));
        });
    }

    /// Settings take effect at once, and are written into the settings file.
    fn set(&mut self, changed: &[(&'static str, String)], context: &Context) {
        for (key, value) in changed {
            if let Err(error) = settings::set(&mut self.front.settings, key, value) {
                self.front.notice = Some(format!("{error:#}"));
                return;
            }
        }
        set_look(context, &self.front.settings);
        if let Some(Ok(voice)) = &self.voice {
            voice.set_volume(self.front.settings.volume);
        }
        self.hush();
        let is_changed = |name: &str| changed.iter().any(|(key, _)| *key == name);
        if is_changed("lang") {
            self.list_workouts();
        }
        if is_changed("speech") && self.stage == Stage::Idle {
            self.open_voice();
        } else {
            self.another_voice |= is_changed("speech");
        }
        let written = self.settings_file.as_ref().map(|path| settings::write(path, changed));
        self.front.notice = match written {
            Some(Err(error)) => Some(format!("the setting holds until the window closes: {error:#}")),
            _ => None,
        };
    }
}
