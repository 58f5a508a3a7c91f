//! What takes time is done on a thread of its own: opening a camera, loading a coach, reading what is kept. The window is
//! woken when it is done and never waits.

use super::{Opened, Opener, Order, front::Listed};
use crate::{
    assets,
    audio::Speech,
    pipeline::{
        Parts,
        workout::{Goal, Workout},
    },
    sessions::{Line, Looked},
};
use anyhow::anyhow;
use crossbeam_channel::{Receiver, Sender, bounded};
use eframe::egui::Context;
use spotter_datasets::synthetic::phrases::Lang;
use spotter_vision::source::camera::{self, CameraEntry};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

/// Seconds that a repetition takes, about, to say how long a workout is.
const REP_SECONDS: u32 = 3;

/// What is done and not taken yet: the window takes all of it with each picture, and a thread can wait for that.
const ROOM: usize = 16;

/// Something that was to be done, and what came of it.
pub(super) enum Done {
    Opened(anyhow::Result<Box<Opened>>),
    Voice(Result<Speech, String>),
    Cameras(Result<Vec<CameraEntry>, String>),
    Workouts(Vec<Listed>),
    Sessions(anyhow::Result<Vec<Line>>),
    Looked(anyhow::Result<Looked>),
    /// The stages of a session that ended, unless one failed.
    Stopped(Option<Parts>),
    /// Something to tell.
    Told(String),
}

/// The threads under way and what they brought.
pub(super) struct Jobs {
    done: (Sender<Done>, Receiver<Done>),
    context: Context,
}

impl Jobs {
    pub(super) fn new(context: &Context) -> Self {
        Self { done: bounded(ROOM), context: context.clone() }
    }

    /// What is done by now.
    pub(super) fn take(&self) -> Option<Done> {
        self.done.1.try_recv().ok()
    }

    /// Does something on a thread of its own.
    pub(super) fn start(&self, name: &str, work: impl FnOnce() -> Done + Send + 'static) -> Option<JoinHandle<()>> {
        self.start_with(name, move |tell| tell(work()))
    }

    /// The same for what tells several things.
    pub(super) fn start_with(
        &self,
        name: &str,
        work: impl FnOnce(&dyn Fn(Done)) + Send + 'static,
    ) -> Option<JoinHandle<()>> {
        let (sender, context) = (self.done.0.clone(), self.context.clone());
        let tell = move |done| {
            // where there is no room the window has to make some first
            context.request_repaint();
            // a window that is gone needs no answer
            drop(sender.send(done));
            context.request_repaint();
        };
        let failed = self.done.0.clone();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || work(&tell));
        let told = spawned.map_err(|error| drop(failed.try_send(Done::Told(format!("no thread: {error}")))));
        told.ok()
    }
}

/// Opens a session; a panic on the way is an error like any other.
pub(super) fn open(opener: &Arc<Mutex<Opener>>, order: Order) -> anyhow::Result<Box<Opened>> {
    let mut opener = opener.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = catch_unwind(AssertUnwindSafe(|| opener(order)));
    opened.unwrap_or_else(|_| Err(anyhow!("opening it failed inside; the log says where"))).map(Box::new)
}

/// The cameras of this machine.
pub(super) fn cameras() -> Done {
    Done::Cameras(camera::list().map_err(|error| error.to_string()))
}

/// The workouts that ship and those in the user's own folder.
pub(super) fn workouts(own: Option<PathBuf>, lang: Lang) -> Done {
    let folders = assets::find("workouts").into_iter().chain(own);
    Done::Workouts(folders.flat_map(|folder| listed(&folder, lang)).collect())
}

fn listed(folder: &Path, lang: Lang) -> Vec<Listed> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    paths.sort();
    paths.into_iter().map(|path| entry(path, lang)).collect()
}

fn entry(path: PathBuf, lang: Lang) -> Listed {
    // what is chosen is settled, and has to be found from any folder
    let path = path.canonicalize().unwrap_or(path);
    let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    match Workout::read(&path, lang) {
        Ok(workout) => Listed { name: workout.name.clone(), about: Ok(about(&workout, lang)), path },
        Err(error) => Listed { name: stem, about: Err(format!("{error:#}")), path },
    }
}

/// What is in a workout, and about how long it takes.
fn about(workout: &Workout, lang: Lang) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut seconds = 0;
    for (i, bout) in workout.bouts.iter().enumerate() {
        let name = bout.exercise.name(lang.code());
        if !names.contains(&name) {
            names.push(name);
        }
        seconds += match bout.goal {
            Goal::Reps(n) => n.saturating_mul(REP_SECONDS),
            Goal::Seconds(s) => s,
        };
        if i + 1 < workout.bouts.len() {
            seconds += u32::try_from(bout.rest.as_secs()).unwrap_or(0);
        }
    }
    let (names, minutes) = (names.join(", "), seconds.div_ceil(60));
    match lang {
        Lang::En => format!("{names}: {} sets, about {minutes} min", workout.bouts.len()),
        Lang::Ko => format!("{names}: {}세트, 약 {minutes}분", workout.bouts.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_can_be_done_and_what_is_broken_is_told() {
        let shipped = assets::find("workouts").unwrap();
        for lang in [Lang::En, Lang::Ko] {
            let found = listed(&shipped, lang);
            assert!(found.len() >= 3 && found.iter().all(|l| l.about.is_ok()), "{found:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("legs.toml"),
            "[[exercise]]\nname = \"squats\"\nsets = 2\nreps = 10\nrest = 40\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("odd.toml"), "[[exercise]]\nname = \"burpees\"\nreps = 10\n").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        let found = listed(folder.path(), Lang::En);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].about.as_deref(), Ok("squats: 2 sets, about 2 min"));
        assert!(found[1].about.as_ref().is_err_and(|why| why.contains("burpees")), "{found:?}");
        assert!(listed(Path::new("/nonexistent"), Lang::En).is_empty());
    }
}
