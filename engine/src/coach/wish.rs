//! How much a model wishes to speak after a frame: the frame is appended, and what tells of the wish is asked.

use super::{
    gate::{Gate, Wish},
    session::CoachSession,
};
use crate::model::Commit;
use candle_core::{D, DType, Result, Tensor, bail};

/// What a model says of a token.
pub(super) fn logit(logits: &[f32], id: u32) -> f32 {
    logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY)
}

impl CoachSession {
    /// Appends the visual tokens of a frame `[1, k, d]`; how much the model wishes to speak after it.
    pub(super) fn look(&mut self, picture: &Tensor) -> Result<Wish> {
        let asked = match &self.gate {
            Gate::Verbalisers { question, .. } => question.len(),
            _ => 0,
        };
        let k = self.before.len() + picture.dim(1)?;
        if asked > 0 && self.cache.takes_step(k + asked) {
            return self.look_asked(picture, k);
        }
        let hidden = self.append_picture(picture)?;
        self.wish(&hidden)
    }

    /// The same where a question follows: both in one pass, of which the `k` positions of the frame stay. An eviction comes after the
    /// answer then.
    fn look_asked(&mut self, picture: &Tensor, k: usize) -> Result<Wish> {
        let Gate::Verbalisers { question, speak, silent, .. } = &self.gate else { bail!("nothing is asked") };
        let (question, speak, silent) = (question.clone(), speak.clone(), silent.clone());
        let all = Tensor::cat(&[&self.entering(picture)?, &self.embed(&question)?], 1)?;
        self.cache.begin()?;
        let scored = self.append(&all).and_then(|hidden| self.likeliest(&hidden, [&speak, &silent]));
        match scored {
            Ok([speak, silent]) => {
                self.cache.commit(Commit::First(k))?;
                Ok(Wish::odds(speak - silent))
            }
            Err(error) => {
                self.cache.rollback()?;
                Err(error)
            }
        }
    }

    /// How much it wishes to speak after a frame.
    fn wish(&mut self, hidden: &Tensor) -> Result<Wish> {
        match &self.gate {
            Gate::Actions { next, feedback, .. } => {
                let (next, feedback) = (*next, *feedback);
                let logits = self.logits(hidden)?;
                Ok(Wish::odds(logit(&logits, feedback) - logit(&logits, next)))
            }
            Gate::Separator { silent, threshold, .. } => Ok(Wish::unless(&self.logits(hidden)?, *silent, *threshold)),
            Gate::Verbalisers { question, speak, silent, .. } => {
                let (question, speak, silent) = (question.clone(), speak.clone(), silent.clone());
                self.cache.begin()?;
                let asked = self.embed(&question).and_then(|x| self.append(&x));
                let scored = asked.and_then(|asked| self.likeliest(&asked, [&speak, &silent]));
                self.cache.rollback()?;
                let [speak, silent] = scored?;
                Ok(Wish::odds(speak - silent))
            }
        }
    }

    /// The log-probability of the likeliest answer of each list behind a question, of which the last hidden state is given.
    fn likeliest(&mut self, asked: &Tensor, lists: [&[Vec<u32>]; 2]) -> Result<[f32; 2]> {
        let first = self.log_probabilities(asked)?;
        let mut best = [f32::NEG_INFINITY; 2];
        for (best, answers) in best.iter_mut().zip(lists) {
            for answer in answers {
                *best = best.max(self.answered(&first, answer)?);
            }
        }
        Ok(best)
    }

    /// The log-probability of an answer, given that of its first token; the context is left as it was.
    fn answered(&mut self, first: &Tensor, answer: &[u32]) -> Result<f32> {
        let Some((last, before)) = answer.split_last() else { return Ok(f32::NEG_INFINITY) };
        let mut rows = vec![first.clone()];
        if !before.is_empty() {
            self.cache.begin()?;
            let x = self.embed(before)?;
            let hidden = self.model.decoder.read(&x, Some(&mut self.cache));
            self.cache.rollback()?;
            let hidden = hidden?;
            for i in 0..before.len() {
                rows.push(self.log_probabilities(&hidden.narrow(1, i, 1)?)?);
            }
        }
        let ids = before.iter().chain([last]);
        rows.iter().zip(ids).map(|(row, id)| row.get(*id as usize)?.to_scalar::<f32>()).sum()
    }

    /// Log-probabilities `[vocabulary]` of what follows a hidden state, in f32.
    fn log_probabilities(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = self.model.decoder.logits(hidden)?.flatten_all()?.to_dtype(DType::F32)?;
        candle_nn::ops::log_softmax(&logits, D::Minus1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coach::{CacheChoice, CoachOptions, load::load};
    use crate::{model::Policy, sampler::Sampling};
    use candle_core::Device;
    use spotter_vision::Frame;
    use std::{path::Path, time::Duration};

    const MANIFEST: &str = r#"
frame_rate = 2.0
context = 256
[vision]
pooling = { average = 2 }
[speaking]
kind = "verbalisers"
question = " Speak? "
speak = ["Yes", "Sure"]
silent = ["No"]
lead = ""
[prompt]
en = "Coach {exercise}."
en_unnamed = "Coach."
ko = "K {exercise}."
ko_unnamed = "K."
"#;

    fn session(folder: &Path, cache: CacheChoice) -> CoachSession {
        let options = CoachOptions {
            talkativeness: 0.0,
            cooldown: Duration::from_secs(2),
            max_tokens: 6,
            sampling: Sampling::GREEDY,
            seed: 1,
            language: "en".into(),
            exercise: None,
            cache,
            speculation: Default::default(),
        };
        CoachSession::new(load(folder, &Device::Cpu).unwrap(), options).unwrap()
    }

    /// A frame and its question in one pass leave the context, and give the wish, of two passes.
    #[test]
    fn a_question_in_the_pass_of_its_frame_changes_nothing() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/goldens/clip-llama");
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(golden).unwrap().map(|file| file.unwrap().path()) {
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        std::fs::write(folder.path().join("spotter.toml"), MANIFEST).unwrap();
        let caches = [
            CacheChoice { policy: Some(Policy::None), ..CacheChoice::default() },
            CacheChoice {
                policy: Some(Policy::KeyDiff),
                budget: Some(80),
                settings: vec!["every=16".parse().unwrap()],
            },
            CacheChoice { policy: Some(Policy::H2o), budget: Some(80), settings: vec!["every=16".parse().unwrap()] },
        ];
        for cache in caches {
            let (mut one, mut two) = (session(folder.path(), cache.clone()), session(folder.path(), cache.clone()));
            let Gate::Verbalisers { question, .. } = &one.gate else { panic!("verbalisers") };
            let (asked, mut together) = (question.len(), 0);
            for i in 0..40u64 {
                let rgb = (0..48 * 32 * 3).map(|p| ((p as u64 * (i + 3)) % 251) as u8).collect();
                let seen = one.see(&Frame::from_rgb(i, Duration::from_millis(500 * i), 48, 32, rgb).unwrap()).unwrap();
                together += usize::from(one.cache.takes_step(seen.dim(1).unwrap() + asked));
                let before = two.cache.evictions();
                let (Ok(wish), Ok(hidden)) = (one.look(&seen), two.append_picture(&seen)) else { break };
                let apart = two.wish(&hidden).unwrap();
                // Where the frame made an eviction, one pass had seen what was dropped.
                if two.cache.evictions() == before {
                    assert!((wish.margin - apart.margin).abs() < 1e-3, "{cache:?}, frame {i}: {wish:?} {apart:?}");
                }
                assert_eq!((one.cache.len(), one.cache.evictions()), (two.cache.len(), two.cache.evictions()));
                for layer in 0..2 {
                    assert_eq!(one.cache.positions(layer, 0), two.cache.positions(layer, 0), "{cache:?}, frame {i}");
                    let ((a, _), (b, _)) = (one.cache.entries(layer).unwrap(), two.cache.entries(layer).unwrap());
                    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(D::Minus1).unwrap();
                    assert!(off.to_scalar::<f32>().unwrap() < 1e-4, "{cache:?}, frame {i}, layer {layer}");
                }
            }
            assert!(together > 20, "{cache:?}: {together}");
            assert!(cache.policy == Some(Policy::None) || one.cache.evictions() > 3);
        }
    }
}
