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
        let k = self.before.len() + picture.dim(1)?;
        if let Gate::Verbalisers { question, .. } = &self.gate
            && self.cache.takes_step(k + question.len(), self.gate.answering())
        {
            // Both in one pass, of which the frame stays. An eviction comes after the answer then.
            let picture = self.entering(picture)?;
            return self.ask(Some(&picture));
        }
        let hidden = self.append_picture(picture)?;
        self.wish(&hidden)
    }

    /// The wish by the answers to the question, which leaves no trace; `before` it comes what stays in the context.
    fn ask(&mut self, before: Option<&Tensor>) -> Result<Wish> {
        let Gate::Verbalisers { question, speak, silent, .. } = &self.gate else { bail!("nothing is asked") };
        let (question, speak, silent) = (self.embed(question)?, speak.clone(), silent.clone());
        let x = match before {
            Some(before) => Tensor::cat(&[before, &question], 1)?,
            None => question,
        };
        self.cache.begin()?;
        let scored = self.append(&x).and_then(|hidden| self.likeliest(&hidden, [&speak, &silent]));
        match (&scored, before) {
            (Ok(_), Some(before)) => self.cache.commit(Commit::First(before.dim(1)?))?,
            _ => self.cache.rollback()?,
        }
        let [speak, silent] = scored?;
        Ok(Wish::odds(speak - silent))
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
            Gate::Verbalisers { .. } => self.ask(None),
        }
    }

    /// The log-probability of the likeliest answer of each list behind a question, of which the last hidden state is given. Answers of
    /// several tokens are the branches of a tree, which one pass goes through; the context is left as it was.
    fn likeliest(&mut self, asked: &Tensor, lists: [&[Vec<u32>]; 2]) -> Result<[f32; 2]> {
        let first = self.log_probabilities(asked)?;
        let (mut tokens, mut parents) = (Vec::new(), Vec::new());
        for before in lists.iter().flat_map(|list| list.iter()).filter_map(|answer| Some(answer.split_last()?.1)) {
            parents.extend((0..before.len()).map(|i| i.checked_sub(1).map(|i| tokens.len() + i)));
            tokens.extend_from_slice(before);
        }
        let then = if tokens.is_empty() { None } else { Some(self.branches(&tokens, &parents)?) };
        let (mut best, mut column) = ([f32::NEG_INFINITY; 2], 0);
        for (best, answers) in best.iter_mut().zip(lists) {
            for answer in answers {
                let Some((start, rest)) = answer.split_first() else { continue };
                let mut sum: f32 = first.get(*start as usize)?.to_scalar()?;
                for id in rest {
                    if let Some(then) = &then {
                        sum += then.get(column)?.get(*id as usize)?.to_scalar::<f32>()?;
                    }
                    column += 1;
                }
                *best = best.max(sum);
            }
        }
        Ok(best)
    }

    /// Log-probabilities `[n, vocabulary]` of what follows each of `n` tokens that form a tree behind the context.
    fn branches(&mut self, tokens: &[u32], parents: &[Option<usize>]) -> Result<Tensor> {
        let x = self.embed(tokens)?;
        self.cache.begin()?;
        let hidden = self.model.decoder.forward_tree(&x, parents, &mut self.cache);
        self.cache.rollback()?;
        let logits = self.model.decoder.logits(&hidden?)?.squeeze(0)?.to_dtype(DType::F32)?;
        candle_nn::ops::log_softmax(&logits, D::Minus1)
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
    use spotter_vision::{Frame, lens::View};
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
lead = " Coach: "
[prompt]
en = "Coach {exercise}."
en_unnamed = "Coach."
ko = "K {exercise}."
ko_unnamed = "K."
"#;

    fn folder() -> tempfile::TempDir {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/goldens/clip-llama");
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(golden).unwrap().map(|file| file.unwrap().path()) {
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
        std::fs::write(folder.path().join("spotter.toml"), MANIFEST).unwrap();
        folder
    }

    fn frame(i: u64) -> Frame {
        let rgb = (0..48 * 32 * 3).map(|p| ((p as u64 * (i + 3)) % 251) as u8).collect();
        Frame::from_rgb(i, Duration::from_millis(500 * i), 48, 32, rgb).unwrap()
    }

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

    /// Log-odds of speaking after a first frame by passes over everything, without a cache.
    fn plainly(session: &CoachSession, seen: &Tensor) -> f32 {
        let Gate::Verbalisers { question, speak, silent, .. } = &session.gate else { panic!("verbalisers") };
        let before = Tensor::cat(&[session.prompt(), seen, &session.embed(question).unwrap()], 1).unwrap();
        let score = |answer: &Vec<u32>| -> f32 {
            let all = Tensor::cat(&[&before, &session.embed(answer).unwrap()], 1).unwrap();
            let hidden = session.model.decoder.forward(&all, None).unwrap();
            let first = before.dim(1).unwrap() - 1;
            let row = |i: usize| session.log_probabilities(&hidden.narrow(1, first + i, 1).unwrap()).unwrap();
            let of = |(i, id): (usize, &u32)| row(i).get(*id as usize).unwrap().to_scalar::<f32>().unwrap();
            answer.iter().enumerate().map(of).sum()
        };
        let best = |answers: &[Vec<u32>]| answers.iter().map(score).fold(f32::NEG_INFINITY, f32::max);
        best(speak) - best(silent)
    }

    /// An eviction comes behind the answer, at once or before the next frame, which sees the same either way.
    #[test]
    fn an_eviction_waits_for_the_answer() {
        let folder = folder();
        let cache = CacheChoice {
            policy: Some(Policy::KeyDiff),
            budget: Some(80),
            settings: vec!["every=16".parse().unwrap()],
        };
        let (mut rests, mut hurries) = (session(folder.path(), cache.clone()), session(folder.path(), cache));
        let mut waited = 0;
        for i in 0..40 {
            let seen = rests.see(&frame(i)).unwrap();
            let t = Duration::from_millis(500 * i);
            let look = |coach: &mut CoachSession| {
                coach.options_mut().talkativeness = if i % 10 == 9 { 1e9 } else { -1e9 };
                coach.observe_seen(&seen, t, View::Clear, &mut |_| true).unwrap()
            };
            let (a, b) = (look(&mut rests), look(&mut hurries));
            assert_eq!((a.p_speak, a.feedback.map(|f| f.text)), (b.p_speak, b.feedback.map(|f| f.text)), "frame {i}");
            let before = rests.cache.evictions();
            rests.rest().unwrap();
            waited += rests.cache.evictions() - before;
        }
        assert!(waited > 3, "{waited}");
        assert!(rests.cache.len() < 80 + 16 && rests.cache.evictions() - hurries.cache.evictions() <= 1);
    }

    /// A frame and its question in one pass leave the context, and give the wish, of two passes.
    #[test]
    fn a_question_in_the_pass_of_its_frame_changes_nothing() {
        let folder = folder();
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
                let seen = one.see(&frame(i)).unwrap();
                together += usize::from(one.cache.takes_step(seen.dim(1).unwrap() + asked, one.gate.answering()));
                let expected = (i == 0).then(|| plainly(&one, &seen));
                let before = two.cache.evictions();
                let (Ok(wish), Ok(hidden)) = (one.look(&seen), two.append_picture(&seen)) else { break };
                let apart = two.wish(&hidden).unwrap();
                if let Some(expected) = expected {
                    assert!((wish.margin - expected).abs() < 1e-3, "{cache:?}: {wish:?} {expected}");
                }
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
