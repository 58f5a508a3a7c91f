//! Coaches that are lent to one session after another, so that a model is loaded once for each session at a time.

use crate::{
    parts::{self, CoachChoice, LoadedCoach},
    pipeline::{Coach, Parts},
};
use anyhow::Result;
use spotter_engine::{coach::Step, speculate::Stats};
use spotter_vision::lens::Sight;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Coaches of one choice that nobody has right now.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<LoadedCoach>>>);

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<LoadedCoach>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads a coach ahead of its first session.
    ///
    /// # Errors
    /// It can't be loaded.
    pub(crate) fn fill(&self, choice: &CoachChoice) -> Result<()> {
        let coach = parts::load_coach(choice)?;
        coach.settle()?;
        self.idle().push(coach);
        Ok(())
    }

    /// A coach at the begin of a stream, told `exercise`, with a lens of its own; and the cooldown of its model.
    ///
    /// # Errors
    /// Model or lens can't be used.
    pub(crate) fn parts(&self, choice: &CoachChoice, exercise: Option<&str>) -> Result<(Parts, Duration)> {
        let idle = self.idle().pop();
        let mut loaded = match idle {
            Some(loaded) => loaded,
            None => parts::load_coach(choice)?,
        };
        loaded.coach.set_exercise(exercise.map(str::to_owned).or_else(|| choice.exercise.clone()))?;
        loaded.coach.reset();
        let (lens, cooldown) = (parts::lens(choice, &loaded)?.0, loaded.cooldown);
        let coach = Box::new(Lent { loaded: Some(loaded), home: self.clone() });
        Ok((Parts { lens, coach }, cooldown))
    }
}

/// A coach that goes back when it is dropped.
struct Lent {
    /// `None` only while it is dropped.
    loaded: Option<LoadedCoach>,
    home: Pool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // One that panicked, or whose device failed, may be in any state.
        let sound = |loaded: &LoadedCoach| !std::thread::panicking() && loaded.settle().is_ok();
        if let Some(loaded) = self.loaded.take().filter(sound) {
            self.home.idle().push(loaded);
        }
    }
}

impl Coach for Lent {
    fn frame_rate(&self) -> f64 {
        self.loaded.as_ref().map_or(1.0, |l| l.coach.frame_rate())
    }

    fn observe(&mut self, sight: &Sight, emit: &mut dyn FnMut(&str) -> bool) -> Result<Step> {
        match &mut self.loaded {
            Some(loaded) => loaded.coach.observe(sight, emit),
            None => Err(anyhow::anyhow!("the coach was given back")),
        }
    }

    fn rest(&mut self) -> Result<()> {
        self.loaded.iter_mut().try_for_each(|l| l.coach.rest())
    }

    fn reset(&mut self) {
        self.loaded.iter_mut().for_each(|l| l.coach.reset());
    }

    fn describe(&self) -> String {
        self.loaded.as_ref().map_or_else(String::new, |l| l.coach.describe())
    }

    fn set_talkativeness(&mut self, bias: f32) {
        self.loaded.iter_mut().for_each(|l| l.coach.set_talkativeness(bias));
    }

    fn set_exercise(&mut self, exercise: Option<String>) -> Result<()> {
        self.loaded.iter_mut().try_for_each(|l| l.coach.set_exercise(exercise.clone()))
    }

    fn encode_time(&self) -> Option<Duration> {
        self.loaded.as_ref().and_then(|l| l.coach.encode_time())
    }

    fn speculation(&self) -> Option<Stats> {
        self.loaded.as_ref().and_then(|l| l.coach.speculation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_vision::{Frame, lens::View};

    #[test]
    fn a_coach_comes_back_and_begins_anew() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0 Go\n").unwrap();
        let choice = CoachChoice { script: Some(file.path().to_owned()), ..CoachChoice::default() };
        let pool = Pool::default();
        let frame = Frame::from_rgb(0, Duration::ZERO, 1, 1, vec![0; 3]).unwrap();
        let sight = Sight { frame, view: View::Clear, people: 1, person: 0, body: None };
        for _ in 0..3 {
            let (mut parts, _) = pool.parts(&choice, None).unwrap();
            assert!(pool.idle().is_empty());
            assert!(parts.coach.observe(&sight, &mut |_| true).unwrap().feedback.is_some(), "it says its line anew");
            drop(parts);
            assert_eq!(pool.idle().len(), 1, "no second one was loaded");
        }
    }
}
