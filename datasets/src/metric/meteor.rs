//! METEOR with the parameters and matching of NLTK, which the scores published for QEVD come from.
//!
//! A. Lavie and A. Agarwal, 2007. Words are matched in three stages, each scanning from the end of both sides: equal,
//! of equal stem, synonymous. The stem stage hands its stems on, so synonyms are looked up for stems. Alpha 0.9,
//! beta 3, gamma 0.5. A single matched word is one chunk of one match and scores half: "10" for "10" is 0.5.

use super::{porter::stem, punkt::Punkt, wordnet::WordNet, words::tokenize};
use std::collections::BTreeMap;

const ALPHA: f64 = 0.9;
const BETA: i32 = 3;
const GAMMA: f64 = 0.5;

/// The metric with the files it is defined by; either may be missing, which changes its name.
#[derive(Debug, Default)]
pub struct Meteor {
    /// Sentences; without it a text is taken for one.
    pub punkt: Option<Punkt>,
    /// Synonyms; without it that stage is left out.
    pub wordnet: Option<WordNet>,
}

/// A word that has no partner yet, with its number.
type Word = (usize, String);

impl Meteor {
    /// What a table calls it: a score without all its files is not the published one, and must not look like it.
    pub fn name(&self) -> &'static str {
        match (&self.wordnet, &self.punkt) {
            (Some(_), Some(_)) => "METEOR",
            (None, Some(_)) => "METEOR (no WordNet)",
            (Some(_), None) => "METEOR (no Punkt)",
            (None, None) => "METEOR (no WordNet, no Punkt)",
        }
    }

    /// Score of a prediction; 0 where nothing matches.
    pub fn score(&self, reference: &str, prediction: &str) -> f64 {
        let words = |text: &str| -> Vec<Word> {
            let tokens = tokenize(text, self.punkt.as_ref());
            tokens.into_iter().map(|word| word.to_lowercase()).enumerate().collect()
        };
        let (mut said, mut truth) = (words(prediction), words(reference));
        let (n_said, n_truth) = (said.len() as f64, truth.len() as f64);
        let mut matches = take_equal(&mut said, &mut truth);
        for side in [&mut said, &mut truth] {
            side.iter_mut().for_each(|(_, word)| *word = stem(word));
        }
        matches.extend(take_equal(&mut said, &mut truth));
        if let Some(wordnet) = &self.wordnet {
            matches.extend(take_synonyms(&mut said, &mut truth, wordnet));
        }
        matches.sort_unstable();
        let found = matches.len() as f64;
        if found == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (found / n_said, found / n_truth);
        let mean = precision * recall / (ALPHA * precision + (1.0 - ALPHA) * recall);
        let penalty = GAMMA * (chunks(&matches) as f64 / found).powi(BETA);
        (1.0 - penalty) * mean
    }
}

/// Positions of each word, rising.
fn positions(side: &[Word]) -> BTreeMap<String, Vec<usize>> {
    let mut map: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, (_, word)) in side.iter().enumerate() {
        map.entry(word.clone()).or_default().push(i);
    }
    map
}

fn remove(side: &mut Vec<Word>, taken: &[usize]) {
    let mut i = 0;
    side.retain(|_| {
        i += 1;
        !taken.contains(&(i - 1))
    });
}

/// Pairs words by a choice of partner, from the last word on, and takes the pairs out of both sides.
fn take(
    said: &mut Vec<Word>,
    truth: &mut Vec<Word>,
    mut choose: impl FnMut(&str, &mut BTreeMap<String, Vec<usize>>) -> Option<usize>,
) -> Vec<(usize, usize)> {
    let mut free = positions(truth);
    let (mut pairs, mut used_said, mut used_truth) = (Vec::new(), Vec::new(), Vec::new());
    for (i, (number, word)) in said.iter().enumerate().rev() {
        if let Some(j) = choose(word, &mut free)
            && let Some((other, _)) = truth.get(j)
        {
            pairs.push((*number, *other));
            used_said.push(i);
            used_truth.push(j);
        }
    }
    remove(said, &used_said);
    remove(truth, &used_truth);
    pairs
}

fn take_equal(said: &mut Vec<Word>, truth: &mut Vec<Word>) -> Vec<(usize, usize)> {
    take(said, truth, |word, free| free.get_mut(word)?.pop())
}

/// The latest word that is a synonym.
fn take_synonyms(said: &mut Vec<Word>, truth: &mut Vec<Word>, wordnet: &WordNet) -> Vec<(usize, usize)> {
    take(said, truth, |word, free| {
        let mut synonyms = wordnet.synonyms(word);
        synonyms.insert(word.to_owned());
        let latest = |synonym: &String| Some((*free.get(synonym)?.last()?, synonym.clone()));
        let (_, best) = synonyms.iter().filter_map(latest).max()?;
        free.get_mut(&best)?.pop()
    })
}

/// Runs of matches that are neighbours on both sides.
fn chunks(matches: &[(usize, usize)]) -> usize {
    let breaks = matches.windows(2).filter(|pair| match pair {
        [(a, b), (c, d)] => !(*c == a + 1 && *d == b + 1),
        _ => false,
    });
    1 + breaks.count()
}

#[cfg(test)]
mod tests {
    use super::Meteor;

    #[test]
    fn perfect_matches_are_penalised_by_length() {
        let meteor = Meteor::default();
        for (text, expected) in [("10", 0.5), ("keep going", 0.9375), ("keep it up", 1.0 - 0.5 / 27.0), ("", 0.0)] {
            assert!((meteor.score(text, text) - expected).abs() < 1e-9, "{text}");
        }
        assert_eq!(meteor.score("10", ""), 0.0);
        assert!(meteor.score("lunges", "lunge") > 0.4, "of one stem");
        assert_eq!(meteor.name(), "METEOR (no WordNet, no Punkt)");
    }
}
