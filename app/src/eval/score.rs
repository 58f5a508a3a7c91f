//! Scores of one session's texts.

use super::store::{Episode, Pair};
use anyhow::{Result, anyhow};
use spotter_datasets::{
    baseline::metronome,
    metric::{
        Timed,
        meteor::Meteor,
        rouge::rouge_l,
        timing::{TOLERANCE, matches},
    },
    qevd,
};

/// Seconds between what the most frequent phrase is said.
pub(crate) const PHRASE_PERIOD: f64 = 3.0;

/// How alike two texts are by their embeddings: truth, then prediction.
pub(crate) type Likeness = dyn Fn(&str, &str) -> Result<f64> + Send + Sync;

/// Answers of a judge to pairs of truth and prediction, one for each seed.
pub(crate) type Judging = dyn Fn(&[(String, String)]) -> Result<Vec<Vec<Option<f64>>>> + Send + Sync;

/// The metrics of texts.
pub(crate) struct TextMetrics {
    pub(crate) meteor: Meteor,
    pub(crate) bert: Option<Box<Likeness>>,
    pub(crate) judge: Option<Box<Judging>>,
    pub(crate) phrase: String,
}

impl TextMetrics {
    fn pair(&self, truth: &str, said: &str) -> Result<Pair> {
        let bert = self.bert.as_ref().map(|bert| bert(truth, said)).transpose()?;
        Ok(Pair {
            truth: truth.to_owned(),
            said: said.to_owned(),
            meteor: self.meteor.score(truth, said),
            rouge_l: rouge_l(truth, said),
            bert,
            judge: Vec::new(),
        })
    }

    /// Scores pairs, the judge's answers included.
    pub(crate) fn pairs(&self, texts: &[(String, String)]) -> Result<Vec<Pair>> {
        let mut pairs: Vec<Pair> = texts.iter().map(|(truth, said)| self.pair(truth, said)).collect::<Result<_>>()?;
        if let Some(judge) = &self.judge {
            let answers = judge(texts)?;
            if answers.len() != pairs.len() {
                return Err(anyhow!("the judge answered {} of {} pairs", answers.len(), pairs.len()));
            }
            pairs.iter_mut().zip(answers).for_each(|(pair, answers)| pair.judge = answers);
        }
        Ok(pairs)
    }

    /// An episode of a session whose first frame is at `begin`, with what was said in it.
    pub(crate) fn episode(&self, episode: &qevd::Episode, begin: f64, said: Vec<Timed>) -> Result<Episode> {
        let (start, end) = (episode.start - episode.origin, episode.end - episode.origin);
        let ticks = metronome(start, end, PHRASE_PERIOD, PHRASE_PERIOD);
        let blind = matches(&episode.truth, &ticks, TOLERANCE);
        let truths = blind.iter().filter_map(|(i, _)| episode.truth.get(*i));
        Ok(Episode {
            id: episode.id.clone(),
            exercise: episode.exercise.clone(),
            start,
            end,
            offset: episode.origin - begin,
            pairs: self.pairs(&matched(&episode.truth, &said))?,
            phrase: self.pairs(&truths.map(|truth| (truth.text.clone(), self.phrase.clone())).collect::<Vec<_>>())?,
            truth: episode.truth.clone(),
            said,
        })
    }
}

/// Texts of truths with those of the predictions that met them.
fn matched(truth: &[Timed], said: &[Timed]) -> Vec<(String, String)> {
    let pairs = matches(truth, said, TOLERANCE);
    let texts = pairs.iter().filter_map(|(i, j)| Some((truth.get(*i)?.text.clone(), said.get(*j)?.text.clone())));
    texts.collect()
}

/// The text that is said most often; of equals, the first in the alphabet.
pub(crate) fn most_frequent<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    texts.for_each(|text| *counts.entry(text).or_default() += 1);
    let most = counts.values().max().copied();
    counts.into_iter().find(|(_, n)| Some(*n) == most).map(|(text, _)| text.to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_phrase() {
        assert_eq!(most_frequent(["b", "a", "c", "b", "a"].into_iter()), "a");
        assert_eq!(most_frequent(std::iter::empty()), "");
    }
}
