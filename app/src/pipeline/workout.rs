//! A workout: which exercises, how many sets, how long the rests.
//!
//! ```toml
//! name = "Legs"
//! name_ko = "다리"
//!
//! [[exercise]]
//! name = "squats"
//! sets = 3
//! reps = 10
//! rest = 45          # seconds after each set
//!
//! [[exercise]]
//! name = "planks"
//! seconds = 30
//! ```

use anyhow::{Context as _, bail};
use serde::Deserialize;
use spotter_datasets::synthetic::{Exercise, phrases::Lang};
use std::{path::Path, time::Duration};

/// Seconds of rest where the file says none.
const REST: u32 = 30;
/// More sets than anybody does are a slip of the finger.
const MOST: usize = 1000;

/// What a set asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// So many repetitions.
    Reps(u32),
    /// So long: held, or from the first repetition on.
    Seconds(u32),
}

/// A set of a workout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bout {
    pub(crate) exercise: Exercise,
    /// From 1.
    pub(crate) set: u32,
    /// Sets of this exercise.
    pub(crate) of: u32,
    pub(crate) goal: Goal,
    /// After it, if another set follows.
    pub(crate) rest: Duration,
}

/// Sets in their order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workout {
    pub(crate) name: String,
    pub(crate) bouts: Vec<Bout>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    /// In Korean, where it has another.
    name_ko: Option<String>,
    #[serde(default)]
    exercise: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sets: Option<u32>,
    reps: Option<u32>,
    seconds: Option<u32>,
    rest: Option<u32>,
}

impl Workout {
    /// Reads a file.
    ///
    /// # Errors
    /// When it can't be read, or asks for something that can't be done or counted.
    pub(crate) fn read(path: &Path, lang: Lang) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: can't be read", path.display()))?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::parse(&text, &name, lang).with_context(|| format!("workout {}", path.display()))
    }

    fn parse(text: &str, name: &str, lang: Lang) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        let mut bouts = Vec::new();
        for (i, entry) in file.exercise.iter().enumerate() {
            let goal = entry.goal(lang).with_context(|| format!("exercise {} (`{}`)", i + 1, entry.name))?;
            let of = entry.sets.unwrap_or(1);
            let rest = Duration::from_secs(u64::from(entry.rest.unwrap_or(REST)));
            bouts.extend((1..=of).map(|set| Bout { exercise: goal.0, set, of, goal: goal.1, rest }));
            if bouts.len() > MOST {
                bail!("{} sets are more than the {MOST} that a workout may have", bouts.len());
            }
        }
        if bouts.is_empty() {
            bail!("there is nothing to do: expected at least one [[exercise]] with a name and reps or seconds");
        }
        let own = file.name_ko.filter(|_| lang == Lang::Ko).or(file.name);
        Ok(Self { name: own.unwrap_or_else(|| name.to_owned()), bouts })
    }
}

impl Entry {
    fn goal(&self, lang: Lang) -> anyhow::Result<(Exercise, Goal)> {
        let Some(exercise) = crate::cli::exercise(&self.name, lang) else {
            bail!("it can't be counted; counted are {}", crate::cli::exercise_names());
        };
        if self.sets.is_some_and(|n| !(1..=100).contains(&n)) {
            bail!("sets: expected 1 to 100");
        }
        if self.rest.is_some_and(|s| s > 3600) {
            bail!("rest: expected at most 3600 seconds");
        }
        match (self.reps, self.seconds) {
            (Some(_), None) if exercise.is_hold() => bail!("it is held: say seconds, not reps"),
            (Some(n), None) if (1..=1000).contains(&n) => Ok((exercise, Goal::Reps(n))),
            (None, Some(s)) if (1..=3600).contains(&s) => Ok((exercise, Goal::Seconds(s))),
            _ => bail!("expected either reps (1 to 1000) or seconds (1 to 3600)"),
        }
    }
}

/// Where somebody is in a workout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// Doing a set; when its clock began.
    Work(Option<Duration>),
    /// Until then.
    Rest(Duration),
    Done,
}

/// A workout under way.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    workout: Workout,
    index: usize,
    pub(super) stand: Stand,
    /// Seconds of holds of this set that are over.
    held: Duration,
}

/// What comes of something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing new.
    Same,
    /// This set begins.
    Set(Bout),
    /// A rest of so long, before this set.
    Rest(Duration, Bout),
    /// That was the last one.
    Done,
}

impl Plan {
    pub(super) fn new(workout: Workout) -> Self {
        Self { workout, index: 0, stand: Stand::Work(None), held: Duration::ZERO }
    }

    /// The set that is being done or comes next.
    pub(super) fn bout(&self) -> Option<Bout> {
        self.workout.bouts.get(self.index).copied()
    }

    /// Time goes by.
    pub(super) fn tick(&mut self, t: Duration) -> Next {
        match (self.stand, self.bout()) {
            (Stand::Rest(until), Some(bout)) if t >= until => self.begin(bout),
            (Stand::Work(Some(since)), Some(Bout { goal: Goal::Seconds(s), exercise, .. }))
                if !exercise.is_hold() && t.saturating_sub(since) >= Duration::from_secs(u64::from(s)) =>
            {
                self.finish(t)
            }
            _ => Next::Same,
        }
    }

    /// A repetition is done, the `count`th of the set.
    pub(super) fn rep(&mut self, t: Duration, count: u32) -> Next {
        let Stand::Work(since) = self.stand else { return Next::Same };
        self.stand = Stand::Work(since.or(Some(t)));
        match self.bout().map(|bout| bout.goal) {
            Some(Goal::Reps(n)) if count >= n => self.finish(t),
            _ => Next::Same,
        }
    }

    /// Something was held; several holds of a set add up.
    pub(super) fn hold(&mut self, t: Duration, lasted: Duration, over: bool) -> Next {
        let Some(Bout { goal: Goal::Seconds(s), .. }) = self.bout() else { return Next::Same };
        let all = self.held + lasted;
        if over {
            self.held = all;
        }
        if all >= Duration::from_secs(u64::from(s)) { self.finish(t) } else { Next::Same }
    }

    fn finish(&mut self, t: Duration) -> Next {
        let rest = self.bout().map_or(Duration::ZERO, |bout| bout.rest);
        self.index += 1;
        let Some(next) = self.bout() else {
            self.stand = Stand::Done;
            return Next::Done;
        };
        if rest.is_zero() {
            return self.begin(next);
        }
        self.stand = Stand::Rest(t + rest);
        Next::Rest(rest, next)
    }

    fn begin(&mut self, bout: Bout) -> Next {
        (self.stand, self.held) = (Stand::Work(None), Duration::ZERO);
        Next::Set(bout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGS: &str = "[[exercise]]\nname = \"squats\"\nsets = 2\nreps = 3\nrest = 10\n\
                        [[exercise]]\nname = \"Planks\"\nseconds = 20\nrest = 0\n\
                        [[exercise]]\nname = \"jumping_jack\"\nseconds = 30\n";

    fn legs() -> Workout {
        Workout::parse(LEGS, "legs", Lang::En).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_is_a_list_of_sets() {
        let workout = legs();
        let short: Vec<_> = workout.bouts.iter().map(|b| (b.exercise, b.set, b.of, b.goal)).collect();
        assert_eq!(workout.name, "legs");
        assert_eq!(
            short,
            [
                (Exercise::Squat, 1, 2, Goal::Reps(3)),
                (Exercise::Squat, 2, 2, Goal::Reps(3)),
                (Exercise::Plank, 1, 1, Goal::Seconds(20)),
                (Exercise::JumpingJack, 1, 1, Goal::Seconds(30)),
            ]
        );
        let named = "name = \"Legs\"\nname_ko = \"다리\"\n[[exercise]]\nname = \"squats\"\nreps = 5\n";
        let names = [Lang::En, Lang::Ko].map(|lang| Workout::parse(named, "x", lang).unwrap().name);
        assert_eq!(names, ["Legs", "다리"]);
        let korean = Workout::parse("[[exercise]]\nname = \"스쿼트\"\nreps = 5\n", "x", Lang::Ko).unwrap();
        assert_eq!(korean.bouts[0].exercise, Exercise::Squat);
    }

    #[test]
    fn what_makes_no_workout_is_told() {
        for (text, said) in [
            ("", "nothing to do"),
            ("[[exercise]]\nname = \"burpees\"\nreps = 3", "exercise 1 (`burpees`)"),
            ("[[exercise]]\nname = \"squats\"", "either reps"),
            ("[[exercise]]\nname = \"squats\"\nreps = 3\nseconds = 3", "either reps"),
            ("[[exercise]]\nname = \"planks\"\nreps = 3", "say seconds"),
            ("[[exercise]]\nname = \"squats\"\nreps = 3\nsets = 0", "sets: expected 1 to 100"),
            ("[[exercise]]\nname = \"squats\"\nreps = -3", "reps"),
            ("[[exercise]]\nname = \"squats\"\nrepz = 3", "repz"),
        ] {
            let error = format!("{:#}", Workout::parse(text, "x", Lang::En).unwrap_err());
            assert!(error.contains(said), "`{said}` expected in: {error}");
        }
    }

    #[test]
    fn sets_follow_each_other_with_their_rests() {
        let workout = legs();
        let mut plan = Plan::new(workout.clone());
        assert_eq!((plan.rep(s(1), 1), plan.rep(s(2), 2)), (Next::Same, Next::Same));
        assert_eq!(plan.rep(s(3), 3), Next::Rest(s(10), workout.bouts[1]));
        assert_eq!(plan.rep(s(5), 4), Next::Same, "nothing counts in a rest");
        assert_eq!(plan.tick(s(12)), Next::Same);
        assert_eq!(plan.tick(s(13)), Next::Set(workout.bouts[1]));
        assert_eq!(plan.rep(s(15), 3), Next::Rest(s(10), workout.bouts[2]));
        assert_eq!(plan.tick(s(25)), Next::Set(workout.bouts[2]));
        assert_eq!(plan.hold(s(40), s(15), true), Next::Same);
        assert_eq!(plan.hold(s(45), s(4), false), Next::Same);
        assert_eq!(plan.hold(s(46), s(5), false), Next::Set(workout.bouts[3]), "no rest was asked for");
        assert_eq!(plan.tick(s(200)), Next::Same, "the clock waits for the first repetition");
        assert_eq!(plan.rep(s(210), 1), Next::Same);
        assert_eq!(plan.tick(s(239)), Next::Same);
        assert_eq!((plan.tick(s(240)), plan.stand), (Next::Done, Stand::Done));
        assert_eq!(plan.tick(s(300)), Next::Same);
    }
}
