//! What the coach says, and what a sentence says.
//!
//! Each meaning has several phrasings in English and Korean. [`classify`] goes the other way: it recovers the meaning
//! from the words alone, so that sentences a model made up can be scored. It reads the name of an exercise and a number
//! out of the text and takes the meaning of the phrasing that shares most of the remaining words, rare words counting
//! more. A sentence that shares too little with every phrasing is [`SaidKind::Other`].

mod en;
mod ko;

use super::exercise::{Exercise, Mistake};
use rand::{Rng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// Every mistake, the one to correct first in front.
pub const MISTAKES: [Mistake; 9] = [
    Mistake::KneesIn,
    Mistake::HipsSag,
    Mistake::HipsHigh,
    Mistake::TrunkLean,
    Mistake::HalfRange,
    Mistake::ArmsBent,
    Mistake::KneesBent,
    Mistake::Uneven,
    Mistake::TooFast,
];

/// A language of the coach.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lang {
    #[default]
    En,
    Ko,
}

impl Lang {
    /// "en" or "ko".
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ko => "ko",
        }
    }

    /// The language of a code; `None` for one the coach does not speak.
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::En, Self::Ko].into_iter().find(|lang| lang.code() == code)
    }
}

/// What a sentence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaidKind {
    /// An exercise begins.
    Start,
    /// Repetitions done, or seconds held.
    Count,
    /// A mistake is corrected.
    Correction,
    /// A corrected mistake is gone.
    Fixed,
    /// Praise, or encouragement to go on.
    Praise,
    /// A set or the session is over.
    Closing,
    /// None of these.
    Other,
}

/// The meaning of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Said {
    /// The exercise it names.
    pub exercise: Option<Exercise>,
    /// The number it counts to; only for [`SaidKind::Count`].
    pub count: Option<u32>,
    /// The mistake it corrects or confirms to be gone.
    pub mistake: Option<Mistake>,
    /// What it is for.
    pub kind: SaidKind,
}

/// In which way an exercise can be incomplete; decides the words that confirm a full range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Depth,
    Height,
    Reach,
    Size,
}

fn range(exercise: Exercise) -> Range {
    match exercise {
        Exercise::Squat | Exercise::Lunge | Exercise::SideLunge | Exercise::PushUp => Range::Depth,
        Exercise::HighKnees
        | Exercise::HurdleStep
        | Exercise::LegRaise
        | Exercise::LateralRaise
        | Exercise::SitUp
        | Exercise::SitToStand => Range::Height,
        Exercise::Boxing | Exercise::ToeTouch | Exercise::SideBend | Exercise::MountainClimber => Range::Reach,
        Exercise::JumpingJack | Exercise::ArmCircles | Exercise::ShoulderRotation | Exercise::Plank => Range::Size,
    }
}

/// Something the coach can mean, before words are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The program announces the first exercise; a QEVD transition.
    First(Exercise),
    /// The program announces the next exercise; a QEVD transition.
    Next(Exercise),
    /// The program is over; the last QEVD transition.
    End,
    /// The coach names what it sees begin.
    Start(Exercise),
    /// So many repetitions are done.
    Count(Exercise, u32),
    /// So many seconds are held.
    Held(Exercise, u32),
    /// This is wrong.
    Correction(Exercise, Mistake),
    /// This was wrong and is right now.
    Fixed(Exercise, Mistake),
    /// Praise at the end of a repetition.
    Praise(Exercise),
    /// Encouragement in a hold.
    HoldPraise(Exercise),
    /// The set is over.
    Closing,
}

impl Meaning {
    /// What a sentence with this meaning is for.
    pub fn kind(self) -> SaidKind {
        match self {
            Self::First(_) | Self::Next(_) | Self::Start(_) => SaidKind::Start,
            Self::Count(..) | Self::Held(..) => SaidKind::Count,
            Self::Correction(..) => SaidKind::Correction,
            Self::Fixed(..) => SaidKind::Fixed,
            Self::Praise(_) | Self::HoldPraise(_) => SaidKind::Praise,
            Self::Closing | Self::End => SaidKind::Closing,
        }
    }

    /// The mistake it is about.
    pub fn mistake(self) -> Option<Mistake> {
        match self {
            Self::Correction(_, mistake) | Self::Fixed(_, mistake) => Some(mistake),
            _ => None,
        }
    }

    /// The number it says.
    pub fn count(self) -> Option<u32> {
        match self {
            Self::Count(_, n) | Self::Held(_, n) => Some(n),
            _ => None,
        }
    }

    /// The exercise it is about, whether or not the words name it.
    pub fn exercise(self) -> Option<Exercise> {
        match self {
            Self::First(e) | Self::Next(e) | Self::Start(e) | Self::Praise(e) | Self::HoldPraise(e) => Some(e),
            Self::Count(e, _) | Self::Held(e, _) | Self::Correction(e, _) | Self::Fixed(e, _) => Some(e),
            Self::End | Self::Closing => None,
        }
    }

    /// The phrasings, with `{x}` for the name of the exercise and `{n}` for the number.
    fn templates(self, lang: Lang) -> &'static [&'static str] {
        macro_rules! table {
            ($($meaning:pat => $en:expr, $ko:expr;)*) => {
                match (self, lang) { $(($meaning, Lang::En) => $en, ($meaning, Lang::Ko) => $ko,)* }
            };
        }
        table! {
            Self::First(_) => &[en::FIRST], &[ko::FIRST];
            Self::Next(_) => &[en::NEXT], &[ko::NEXT];
            Self::End => &[en::END], &[ko::END];
            Self::Start(_) => en::START, ko::START;
            Self::Count(..) => en::COUNT, ko::COUNT;
            Self::Held(..) => en::HOLD_COUNT, ko::HOLD_COUNT;
            Self::Correction(e, m) => en::correction(e, m), ko::correction(e, m);
            Self::Fixed(e, m) => en::fixed(range(e), m), ko::fixed(range(e), m);
            Self::Praise(_) => en::PRAISE, ko::PRAISE;
            Self::HoldPraise(_) => en::HOLD_PRAISE, ko::HOLD_PRAISE;
            Self::Closing => en::CLOSING, ko::CLOSING;
        }
    }

    /// All sentences with this meaning.
    pub fn sentences(self, lang: Lang) -> Vec<String> {
        self.templates(lang).iter().map(|template| self.fill(template, lang)).collect()
    }

    /// One sentence with this meaning.
    pub fn say(self, lang: Lang, rng: &mut impl Rng) -> String {
        let templates = self.templates(lang);
        templates.choose(rng).map(|template| self.fill(template, lang)).unwrap_or_default()
    }

    fn fill(self, template: &str, lang: Lang) -> String {
        let name = self.exercise().map_or("", |exercise| name(exercise, lang));
        let number = self.count().map(|n| n.to_string()).unwrap_or_default();
        let text = template.replace("{x}", name).replace("{n}", &number);
        let mut letters = text.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }
}

/// The name of an exercise in the plural that follows "First up are", in lower case.
pub fn name(exercise: Exercise, lang: Lang) -> &'static str {
    exercise.name(lang.code())
}

fn aliases(exercise: Exercise, lang: Lang) -> &'static [&'static str] {
    match lang {
        Lang::En => en::aliases(exercise),
        Lang::Ko => ko::aliases(exercise),
    }
}

/// Every meaning there is, with numbers left at 0; the sentences of a language in the order of this list.
fn meanings() -> Vec<Meaning> {
    let mut all = vec![Meaning::End, Meaning::Closing];
    for exercise in Exercise::ALL {
        all.extend([
            Meaning::First(exercise),
            Meaning::Next(exercise),
            Meaning::Start(exercise),
            Meaning::Count(exercise, 0),
            Meaning::Held(exercise, 0),
            Meaning::Praise(exercise),
            Meaning::HoldPraise(exercise),
        ]);
        for mistake in MISTAKES {
            all.extend([Meaning::Correction(exercise, mistake), Meaning::Fixed(exercise, mistake)]);
        }
    }
    all
}

/// All sentences of a language, for training a tokenizer and a language model; numbers run from 1 to `max_count`.
pub fn corpus(lang: Lang, max_count: u32) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for meaning in meanings() {
        let filled: Vec<Meaning> = match meaning {
            Meaning::Count(e, _) => (1..=max_count).map(|n| Meaning::Count(e, n)).collect(),
            Meaning::Held(e, _) => (1..=max_count).map(|n| Meaning::Held(e, n)).collect(),
            other => vec![other],
        };
        for sentence in filled.into_iter().flat_map(|meaning| meaning.sentences(lang)) {
            if seen.insert(sentence.clone()) {
                all.push(sentence);
            }
        }
    }
    all
}

/// Below this share of common words a sentence is none of ours.
const MIN_OVERLAP: f32 = 0.5;

/// Word that stands for a name, and the one that stands for a number.
const NAME: &str = "<x>";
const NUMBER: &str = "<n>";

struct Phrasing {
    words: Vec<String>,
    weight: f32,
    kind: SaidKind,
    mistake: Option<Mistake>,
}

struct Index {
    phrasings: Vec<Phrasing>,
    /// Inverse document frequency of each word.
    weights: HashMap<String, f32>,
    /// Weight of a word that no phrasing has.
    unknown: f32,
    /// Normalised names, the longest first, so that "side lunges" is not read as "lunges".
    names: Vec<(String, Exercise)>,
}

static EN: LazyLock<Index> = LazyLock::new(|| Index::new(Lang::En));
static KO: LazyLock<Index> = LazyLock::new(|| Index::new(Lang::Ko));

fn index(lang: Lang) -> &'static Index {
    match lang {
        Lang::En => &EN,
        Lang::Ko => &KO,
    }
}

/// Lower case, words of letters and digits apart by one space; digits and letters are parted. Apostrophes vanish.
fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut last = ' ';
    for c in text.chars().flat_map(char::to_lowercase).filter(|c| !matches!(c, '\'' | '’')) {
        let c = if c.is_alphanumeric() { c } else { ' ' };
        let parted = c != ' ' && last != ' ' && c.is_ascii_digit() != last.is_ascii_digit();
        if parted {
            out.push(' ');
        }
        if c != ' ' || last != ' ' {
            out.push(c);
        }
        last = c;
    }
    out.trim_end().to_owned()
}

fn words(template: &str) -> Vec<String> {
    let marked = template.replace("{x}", " xname ").replace("{n}", " xnumber ");
    let swap = |word: &str| match word {
        "xname" => NAME.to_owned(),
        "xnumber" => NUMBER.to_owned(),
        other => other.to_owned(),
    };
    normalise(&marked).split(' ').filter(|w| !w.is_empty()).map(swap).collect()
}

impl Index {
    fn new(lang: Lang) -> Self {
        let mut seen = HashSet::new();
        let mut phrasings = Vec::new();
        for meaning in meanings() {
            for template in meaning.templates(lang) {
                let words = words(template);
                if seen.insert((words.clone(), meaning.kind(), meaning.mistake())) {
                    phrasings.push(Phrasing { words, weight: 0.0, kind: meaning.kind(), mistake: meaning.mistake() });
                }
            }
        }
        let mut counts: HashMap<String, f32> = HashMap::new();
        for word in phrasings.iter().flat_map(|p| p.words.iter().collect::<HashSet<_>>()) {
            *counts.entry(word.clone()).or_default() += 1.0;
        }
        let total = phrasings.len() as f32;
        let weights: HashMap<String, f32> =
            counts.into_iter().map(|(word, n)| (word, (1.0 + total / n).ln())).collect();
        for phrasing in &mut phrasings {
            phrasing.weight = phrasing.words.iter().filter_map(|word| weights.get(word)).sum();
        }
        let mut names: Vec<(String, Exercise)> = Exercise::ALL
            .into_iter()
            .flat_map(|e| {
                let all = aliases(e, lang).iter().copied().chain([name(e, lang)]);
                all.map(move |alias| (normalise(alias), e))
            })
            .collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.chars().count()));
        Self { phrasings, weights, unknown: (1.0 + total).ln(), names }
    }

    /// Takes names of exercises out of normalised text and returns them in order of length.
    fn take_names(&self, text: &str) -> (String, Vec<Exercise>) {
        let mut text = format!(" {text} ");
        let mut found = Vec::new();
        for (name, exercise) in &self.names {
            // Korean glues particles to the end of a name, so only its beginning is bounded there.
            let needle = if name.is_ascii() { format!(" {name} ") } else { format!(" {name}") };
            while let Some(at) = text.find(&needle) {
                text.replace_range(at..at + needle.len(), &format!(" {NAME} "));
                if !found.contains(exercise) {
                    found.push(*exercise);
                }
            }
        }
        (text, found)
    }

    /// The phrasing nearest to the words and how much they share, 0 to 1.
    fn nearest(&self, words: &[String]) -> Option<(&Phrasing, f32)> {
        let weight = |word: &String| self.weights.get(word).copied().unwrap_or(self.unknown);
        let total: f32 = words.iter().map(weight).sum();
        let overlap = |phrasing: &Phrasing| {
            let mut rest: Vec<&String> = words.iter().collect();
            let mut common = 0.0;
            for word in &phrasing.words {
                if let Some(at) = rest.iter().position(|other| *other == word) {
                    common += weight(rest.swap_remove(at));
                }
            }
            2.0 * common / (total + phrasing.weight).max(f32::MIN_POSITIVE)
        };
        let mut best: Option<(&Phrasing, f32)> = None;
        for phrasing in &self.phrasings {
            let share = overlap(phrasing);
            if best.is_none_or(|(_, most)| share > most) {
                best = Some((phrasing, share));
            }
        }
        best.filter(|(_, share)| *share >= MIN_OVERLAP)
    }
}

/// The exercises that a text names, each once.
pub fn named(text: &str, lang: Lang) -> Vec<Exercise> {
    index(lang).take_names(&normalise(text)).1
}

/// What a sentence says, from its words alone. Case, punctuation and spacing do not matter.
///
/// When it names several exercises, none is taken: [`named`] lists them.
pub fn classify(text: &str, lang: Lang) -> Said {
    let index = index(lang);
    let (rest, names) = index.take_names(&normalise(text));
    let mut number = None;
    let words: Vec<String> = rest
        .split_whitespace()
        .map(|word| match word.parse::<u32>() {
            Ok(n) => {
                number.get_or_insert(n);
                NUMBER.to_owned()
            }
            Err(_) => word.to_owned(),
        })
        .collect();
    let exercise = if let [only] = names.as_slice() { Some(*only) } else { None };
    let nearest = index.nearest(&words);
    let kind = nearest.map_or(SaidKind::Other, |(phrasing, _)| phrasing.kind);
    Said {
        exercise,
        count: number.filter(|_| kind == SaidKind::Count),
        mistake: nearest.and_then(|(phrasing, _)| phrasing.mistake),
        kind,
    }
}

#[cfg(test)]
mod tests;
