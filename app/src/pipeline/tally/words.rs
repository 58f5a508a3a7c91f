//! What the workout says, and numbers put right.

use crate::pipeline::workout::{Bout, Goal};
use spotter_datasets::synthetic::phrases::Lang;
use std::time::Duration;

/// A text with another number in the place of `n`; `None` where `n` is not written in digits.
pub(super) fn with_number(text: &str, n: u32, other: u32) -> Option<String> {
    let digits = n.to_string();
    let is_digit = |at: Option<char>| at.is_some_and(|c| c.is_ascii_digit());
    let (at, _) = text.match_indices(&digits).find(|(i, found)| {
        let (before, after) = (text.get(..*i).unwrap_or_default(), text.get(i + found.len()..).unwrap_or_default());
        !is_digit(before.chars().next_back()) && !is_digit(after.chars().next())
    })?;
    Some(format!("{}{other}{}", text.get(..at)?, text.get(at + digits.len()..)?))
}

/// What is said when a set begins.
pub(super) fn set_words(bout: Bout, lang: Lang) -> String {
    let name = bout.exercise.name(lang.code());
    match (lang, bout.goal) {
        (Lang::En, Goal::Reps(n)) => format!("Set {} of {}: {n} {name}.", bout.set, bout.of),
        (Lang::En, Goal::Seconds(s)) => format!("Set {} of {}: {name}, {s} seconds.", bout.set, bout.of),
        (Lang::Ko, Goal::Reps(n)) => format!("{}세트 중 {}세트: {name} {n}회.", bout.of, bout.set),
        (Lang::Ko, Goal::Seconds(s)) => format!("{}세트 중 {}세트: {name} {s}초.", bout.of, bout.set),
    }
}

pub(super) fn rest_words(lasts: Duration, next: Bout, lang: Lang) -> String {
    let (seconds, name) = (lasts.as_secs(), next.exercise.name(lang.code()));
    match lang {
        Lang::En => format!("Rest {seconds} seconds. Next: {name}."),
        Lang::Ko => format!("{seconds}초 쉬세요. 다음은 {name}."),
    }
}

/// What is said at the end of the workout.
pub(super) fn done_words(lang: Lang) -> &'static str {
    match lang {
        Lang::En => "That's the workout. Well done!",
        Lang::Ko => "운동 끝! 수고하셨어요.",
    }
}
