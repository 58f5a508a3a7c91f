//! What a coach says to many streams at once, and what it thought of each word: the texts that its drafter learns from.
//!
//! Every stream takes one position a step, a token of its prompt, of a picture or of an utterance, as it comes; none
//! waits for another.

use super::{
    coach::Actions,
    lines::{Kept, Line, Lines, PICTURE, Seen},
};
use crate::{
    model::{BatchCache, Decoder, adapter::pool},
    sampler::{Sampling, sample},
};
use candle_core::{DType, Device, Result, Tensor, bail};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;

/// A stream.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What the coach is told first; must not be empty.
    pub prompt: Vec<u32>,
    /// Embeddings of its frames, `[frames, k, width]`.
    pub frames: Tensor,
    /// How words are drawn.
    pub temperature: f32,
}

/// How streams are coached.
#[derive(Clone, Copy, Debug)]
pub struct Watching {
    /// Tokens of silence, speech and end.
    pub actions: Actions,
    /// Added to the log-odds of speaking.
    pub talkativeness: f32,
    /// No two utterances begin closer than so many frames.
    pub cooldown: usize,
    /// Tokens of an utterance at most.
    pub longest: usize,
    /// Tokens kept of each distribution.
    pub top: usize,
    /// What is kept of the pictures before each utterance, for a drafter that sees.
    pub pictures: Option<Pictures>,
}

/// The newest frames, pooled to some tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Tokens.
    pub tokens: usize,
    /// Frames.
    pub frames: usize,
}

/// Where a stream is.
struct Course {
    line: Line,
    kept: Kept,
    temperature: f32,
    /// Tokens that come before anything else.
    coming: VecDeque<u32>,
    /// The next frame and token of it.
    frame: (usize, usize),
    frames: usize,
    /// Row of its first frame among all.
    first: usize,
    last_start: Option<usize>,
    /// Frames seen when each utterance began.
    begun: Vec<usize>,
    /// Tokens said of the utterance that is open.
    open: Option<usize>,
}

/// What a stream takes next: a token, or a row of all frames.
#[derive(Clone, Copy, PartialEq)]
enum Taken {
    Token(u32),
    Row(usize),
    Nothing,
}

impl Course {
    fn take(&mut self, width: usize) -> Taken {
        if let Some(id) = self.coming.pop_front() {
            return Taken::Token(id);
        }
        let (frame, token) = self.frame;
        if self.open.is_some() || frame >= self.frames {
            return Taken::Nothing;
        }
        self.frame = if token + 1 < width { (frame, token + 1) } else { (frame + 1, 0) };
        Taken::Row(self.first + frame * width + token)
    }

    /// Reads what the coach thinks behind the position that was taken.
    fn follow(&mut self, taken: Taken, logits: &[f32], how: &Watching, rng: &mut ChaCha8Rng) {
        let Actions { next, feedback, end } = how.actions;
        let at = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        match taken {
            Taken::Row(_) if self.frame.1 == 0 => {
                let now = self.frame.0;
                let cooling = self.last_start.is_some_and(|last| now < last + how.cooldown);
                if !cooling && at(feedback) - at(next) + how.talkativeness > 0.0 {
                    self.last_start = Some(now);
                    self.open = Some(0);
                    // What a drafter sees is no text: the coach has read the frames themselves.
                    let places = how.pictures.map_or(0, |pictures| pictures.tokens);
                    self.line.ids.extend(std::iter::repeat_n(PICTURE, places));
                    self.line.spoken.extend(std::iter::repeat_n(false, places));
                    self.begun.push(now);
                    self.add(feedback, false);
                }
            }
            Taken::Token(_) if self.coming.is_empty() => {
                let Some(said) = self.open else { return };
                let mut words = logits.to_vec();
                for id in [next, feedback] {
                    words.get_mut(id as usize).into_iter().for_each(|l| *l = f32::NEG_INFINITY);
                }
                let id = sample(&words, self.temperature, rng);
                self.kept.push(&Sampling::at(1.0).probabilities(&words));
                self.add(id, true);
                self.open = Some(said + 1).filter(|_| id != end);
                if self.open.is_some_and(|said| said >= how.longest) {
                    self.open = None;
                    self.add(end, false);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, id: u32, spoken: bool) {
        self.line.ids.push(id);
        self.line.spoken.push(spoken);
        self.coming.push_back(id);
    }
}

/// Coaches all streams; lines in their order. `seed` is of what is drawn. A stream ends where the decoder has no more
/// positions, in the middle of an utterance if need be.
///
/// # Errors
/// A stream without prompt, or those of the device.
pub fn watch(coach: &Decoder, streams: &[Watched], how: &Watching, seed: u64) -> Result<Lines> {
    if streams.is_empty() || streams.iter().any(|s| s.prompt.is_empty()) {
        bail!("a coach needs streams, and a prompt of at least one token for each");
    }
    let (mut courses, mut first) = (Vec::with_capacity(streams.len()), 0);
    let width = streams.first().map_or(Ok(1), |s| s.frames.dim(1))?;
    for stream in streams {
        let frames = stream.frames.dim(0)?;
        courses.push(Course {
            line: Line { temperature: stream.temperature, ..Line::plain(stream.prompt.clone()) },
            kept: Kept::new(how.top),
            temperature: stream.temperature,
            coming: stream.prompt.iter().copied().collect(),
            frame: (0, 0),
            frames,
            first,
            last_start: None,
            begun: Vec::new(),
            open: None,
        });
        first += frames * width;
    }
    let rows = streams.iter().map(|s| s.frames.flatten(0, 1)).collect::<Result<Vec<_>>>()?;
    let rows = Tensor::cat(&rows, 0)?.to_dtype(coach.dtype())?;
    let capacity = coach.config().max_positions;
    let mut cache = BatchCache::new(coach.config(), streams.len(), capacity, coach.dtype(), coach.device())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    loop {
        let taken: Vec<Taken> = courses.iter_mut().map(|c| c.take(width)).collect();
        if taken.iter().all(|t| *t == Taken::Nothing) || cache.len() == capacity {
            break;
        }
        let logits = step(coach, &rows, &taken, &mut cache)?;
        for ((course, taken), logits) in courses.iter_mut().zip(taken).zip(&logits) {
            course.follow(taken, logits, how, &mut rng);
        }
    }
    let seen = how.pictures.map(|pictures| seen(&courses, streams, pictures)).transpose()?;
    let mut kept = Kept::new(how.top);
    let lines = courses.into_iter().map(|course| {
        kept.ids.extend(course.kept.ids);
        kept.p.extend(course.kept.p);
        course.line
    });
    let lines = lines.collect();
    Ok(Lines::new(lines, Some(kept)).with_seen(seen))
}

/// The newest frames before each utterance, pooled.
fn seen(courses: &[Course], streams: &[Watched], pictures: Pictures) -> Result<Seen> {
    let width = streams.first().map_or(Ok(0), |s| s.frames.dim(2))?;
    let mut seen = Seen { tokens: pictures.tokens, frames: pictures.frames, width, values: Vec::new() };
    for (course, stream) in courses.iter().zip(streams) {
        let frames = stream.frames.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        for now in &course.begun {
            let from = now.saturating_sub(pictures.frames);
            let rows = frames.narrow(0, from, now - from)?.flatten(0, 1)?;
            seen.values.extend(pool(&rows, pictures.tokens)?.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Ok(seen)
}

/// One position for each stream; the logits behind it.
fn step(coach: &Decoder, rows: &Tensor, taken: &[Taken], cache: &mut BatchCache) -> Result<Vec<Vec<f32>>> {
    let (n, device) = (taken.len(), coach.device());
    let column = |pick: &dyn Fn(&Taken) -> u32| Tensor::from_iter(taken.iter().map(pick), device);
    let tokens = column(&|t| if let Taken::Token(id) = t { *id } else { 0 })?;
    let places = column(&|t| if let Taken::Row(row) = t { *row as u32 } else { 0 })?;
    let seen = column(&|t| u32::from(matches!(t, Taken::Row(_))))?;
    let words = coach.embed(&tokens.reshape((n, 1))?)?;
    let pictures = rows.index_select(&places, 0)?.reshape(words.shape())?;
    let seen = seen.reshape((n, 1, 1))?.broadcast_as(words.shape())?.contiguous()?;
    let x = seen.where_cond(&pictures, &words)?;
    let hidden = coach.forward_batch(&x, cache)?;
    coach.logits(&hidden)?.squeeze(1)?.to_dtype(DType::F32)?.to_vec2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{DecoderConfig, HfDecoderConfig, Mode},
        sampler::argmax,
    };
    use candle_core::Device;
    use spotter_vision::training::Variables;

    const ACTIONS: Actions = Actions { next: 1, feedback: 2, end: 3 };

    fn decoder() -> Decoder {
        let hf = serde_json::json!({
            "model_type": "llama", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "tie_word_embeddings": false, "hidden_act": "silu",
        });
        let config = DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap();
        Decoder::new(&config, Variables::seeded(3, &Device::Cpu).builder(), Mode::Infer).unwrap()
    }

    fn frames(n: usize, k: usize, seed: u32) -> Tensor {
        let numbers = (0..n * k * 16).map(|i| ((i as u32 * 7919 + seed * 104_729) % 1000) as f32 / 250.0 - 2.0);
        Tensor::from_iter(numbers, &Device::Cpu).unwrap().reshape((n, k, 16)).unwrap()
    }

    /// The same with one stream at a time and everything said before read again at each step.
    fn alone(coach: &Decoder, stream: &Watched, how: &Watching) -> (Vec<u32>, Vec<bool>) {
        let embed = |id: u32| coach.embed(&Tensor::new(&[[id]], &Device::Cpu).unwrap()).unwrap();
        let mut context: Vec<Tensor> = stream.prompt.iter().map(|id| embed(*id)).collect();
        let (mut ids, mut spoken) = (stream.prompt.clone(), vec![false; stream.prompt.len()]);
        let think = |context: &[Tensor]| -> Vec<f32> {
            let hidden = coach.forward(&Tensor::cat(context, 1).unwrap(), None).unwrap();
            coach
                .logits(&hidden.narrow(1, context.len() - 1, 1).unwrap())
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let mut last: Option<usize> = None;
        let (n, k, _) = stream.frames.dims3().unwrap();
        for frame in 0..n {
            for token in 0..k {
                context.push(stream.frames.get(frame).unwrap().narrow(0, token, 1).unwrap().unsqueeze(0).unwrap());
            }
            let logits = think(&context);
            let wish = logits[2] - logits[1] + how.talkativeness > 0.0;
            if !wish || last.is_some_and(|last| frame < last + how.cooldown) {
                continue;
            }
            last = Some(frame);
            ids.push(2);
            spoken.push(false);
            context.push(embed(2));
            for said in 1.. {
                let mut logits = think(&context);
                (logits[1], logits[2]) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
                let id = argmax(&logits);
                ids.push(id);
                spoken.push(true);
                context.push(embed(id));
                if id == 3 {
                    break;
                }
                if said == how.longest {
                    ids.push(3);
                    spoken.push(false);
                    context.push(embed(3));
                    break;
                }
            }
        }
        (ids, spoken)
    }

    #[test]
    fn many_streams_at_once_are_those_of_each_alone() {
        let coach = decoder();
        for (k, talkativeness) in [(1, 0.0), (2, 0.5), (1, 9.0), (1, -9.0)] {
            let how = Watching { actions: ACTIONS, talkativeness, cooldown: 3, longest: 5, top: 4, pictures: None };
            let streams: Vec<Watched> = (0..5)
                .map(|i| Watched {
                    prompt: vec![7; 1 + i % 3],
                    frames: frames(9 + 2 * i, k, i as u32),
                    temperature: 0.0,
                })
                .collect();
            let lines = watch(&coach, &streams, &how, 1).unwrap();
            for (line, stream) in lines.lines.iter().zip(&streams) {
                let (ids, spoken) = alone(&coach, stream, &how);
                assert_eq!((&line.ids, &line.spoken), (&ids, &spoken));
            }
            let kept = lines.kept.as_ref().unwrap();
            assert_eq!(kept.rows(), lines.spoken());
            assert_eq!(lines.spoken() == 0, talkativeness < -1.0);
            // The likeliest token of each row is the one that was said.
            let said =
                lines.lines.iter().flat_map(|l| l.ids.iter().zip(&l.spoken).filter(|(_, s)| **s).map(|(id, _)| *id));
            let likeliest = kept
                .ids
                .chunks(4)
                .zip(kept.p.chunks(4))
                .map(|(ids, p)| ids[p.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0]);
            assert!(said.eq(likeliest));
        }
    }

    /// What a drafter will have seen: the newest frames before each utterance, and nothing else of the texts changes.
    #[test]
    fn what_is_seen_is_kept_beside_the_words() {
        let coach = decoder();
        let plain = Watching { actions: ACTIONS, talkativeness: 0.5, cooldown: 3, longest: 5, top: 4, pictures: None };
        let streams: Vec<Watched> = (0..3)
            .map(|i| Watched { prompt: vec![7; 1 + i], frames: frames(11, 2, i as u32), temperature: 1.0 })
            .collect();
        let how = Watching { pictures: Some(Pictures { tokens: 2, frames: 3 }), ..plain };
        let (bare, lines) = (watch(&coach, &streams, &plain, 1).unwrap(), watch(&coach, &streams, &how, 1).unwrap());
        assert_eq!(lines.unseen(), bare);
        let seen = lines.seen.as_ref().unwrap();
        let starts = lines.lines.iter().flat_map(|l| l.ids.iter().enumerate().map(move |(i, id)| (l, i, *id)));
        let starts: Vec<(&Line, usize)> = starts.filter(|(_, _, id)| *id == 2).map(|(l, i, _)| (l, i)).collect();
        assert!(starts.len() > 3 && seen.rows() == 2 * starts.len());
        assert!(starts.iter().all(|(line, i)| line.ids[i - 2..*i] == [PICTURE, PICTURE]));
        // The first utterance of the last stream, behind the frames that it had seen.
        let (line, stream) = (&lines.lines[2], &streams[2]);
        let one = |from: usize, to: usize| {
            let rows = stream.frames.narrow(0, from, to - from).unwrap().flatten(0, 1).unwrap();
            pool(&rows, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let found = [seen.row(line.sight).unwrap().0, seen.row(line.sight + 1).unwrap().0].concat();
        let at: Vec<usize> = (1..=11usize).filter(|now| one(now.saturating_sub(3), *now) == found).collect();
        assert_eq!(at.len(), 1, "{at:?}");
    }

    #[test]
    fn a_stream_that_is_full_ends() {
        let coach = decoder();
        let how = Watching { actions: ACTIONS, talkativeness: 9.0, cooldown: 0, longest: 5, top: 4, pictures: None };
        let stream = |prompt: &[u32], n| Watched { prompt: prompt.to_vec(), frames: frames(n, 1, 1), temperature: 1.0 };
        assert!(watch(&coach, &[stream(&[], 3)], &how, 1).is_err());
        // Of 300 frames, and an utterance of five after most of them, the decoder has positions for some.
        let lines = watch(&coach, &[stream(&[7], 300), stream(&[7, 8], 2)], &how, 1).unwrap();
        assert!((50..256).contains(&lines.lines[0].ids.len()), "{}", lines.lines[0].ids.len());
        assert!(lines.lines[1].ids.len() < 20);
        assert_eq!(lines.kept.as_ref().unwrap().rows(), lines.spoken());
    }
}
