//! Texts by a target, many at a time.
//!
//! Texts whose prompts are about as long grow together: what all prompts have is read in one pass, the rest token by
//! token, and whoever has a short one begins to speak earlier. So no position is ever padding. Texts that are over are
//! taken out.

use super::lines::Line;
use crate::{
    model::{BatchCache, Decoder},
    sampler::sample,
};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Bytes that a batch's keys, values and logits may take.
const MOST_BYTES: usize = 24 << 30;
/// Vectors as long as the vocabulary that drawing a token holds at a time.
const ROWS_OF_LOGITS: usize = 6;
/// Texts that are over are taken out when so many of all are left.
const LEFT: f64 = 0.75;

/// Draws tokens for many rows at once.
pub struct Dice {
    rng: ChaCha8Rng,
}

impl Dice {
    /// With a seed, which decides everything on the processor; a card has a generator of its own, seeded here too.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(seed: u64, device: &Device) -> Result<Self> {
        if !device.is_cpu() {
            device.set_seed(seed)?;
        }
        Ok(Self { rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// One token for each row of `logits [n, vocab]` at its temperature; 0 takes the likeliest.
    ///
    /// # Errors
    /// Those of the device.
    pub fn draw(&mut self, logits: &Tensor, temperatures: &[f32]) -> Result<Vec<u32>> {
        let logits = logits.to_dtype(DType::F32)?;
        // Rows of temperature 0 that come first need no noise.
        let greedy = temperatures.iter().take_while(|t| **t <= 0.0).count();
        let mut ids = Vec::with_capacity(temperatures.len());
        if greedy > 0 {
            ids.extend(logits.narrow(0, 0, greedy)?.argmax(D::Minus1)?.to_vec1::<u32>()?);
        }
        let Some(temperatures) = temperatures.get(greedy..).filter(|rest| !rest.is_empty()) else { return Ok(ids) };
        let logits = logits.narrow(0, greedy, temperatures.len())?;
        if logits.device().is_cpu() {
            let rows: Vec<Vec<f32>> = logits.to_vec2()?;
            ids.extend(rows.iter().zip(temperatures).map(|(row, t)| sample(row, *t, &mut self.rng)));
            return Ok(ids);
        }
        // The argmax of `logits + T gumbel` is a draw from the softmax of `logits / T`, for T = 0 as well. Numbers of 0
        // and 1, which a card's generator gives now and then, would be infinite.
        let uniform = Tensor::rand(1e-10f32, 1.0 - 6e-8f32, logits.shape(), logits.device())?;
        let temperatures = Tensor::new(temperatures, logits.device())?.unsqueeze(1)?;
        let noise = uniform.log()?.neg()?.log()?.broadcast_mul(&temperatures)?;
        ids.extend((logits - noise)?.argmax(D::Minus1)?.to_vec1::<u32>()?);
        Ok(ids)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.rng.random_range(0..n) }
    }
}

/// A text to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// What is given; must not be empty.
    pub prompt: Vec<u32>,
    /// How the rest is drawn.
    pub temperature: f32,
}

/// Which continuations are wanted.
#[derive(Clone, Debug)]
pub struct Continuation<'a> {
    /// Tokens said at most.
    pub most: usize,
    /// Tokens that end a text; the end is part of it.
    pub ends: &'a [u32],
    /// Texts that grow together at most; fewer where memory would not do.
    pub at_once: usize,
}

/// Continues texts. After each batch `more` hears how many are done; when it answers `false` the others are left out.
/// Those that were continued come in the order of their wishes.
///
/// # Errors
/// An empty prompt, a text longer than the decoder has positions for, or those of the device.
pub fn continue_texts(
    target: &Decoder,
    wishes: &[Wish],
    how: &Continuation<'_>,
    dice: &mut Dice,
    more: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<Line>> {
    let longest = wishes.iter().map(|w| w.prompt.len()).max().unwrap_or(0) + how.most;
    if wishes.iter().any(|w| w.prompt.is_empty()) {
        bail!("a text to be continued needs at least one token");
    }
    if longest > target.config().max_positions {
        bail!("texts of {longest} tokens do not fit the model's {} positions", target.config().max_positions);
    }
    let at_once = fitting(target, longest, how.at_once);
    // By length, so that few positions of a prompt are read token by token.
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|i| wishes.get(*i).map_or(0, |w| w.prompt.len()));
    let mut batches: Vec<&[usize]> = order.chunks(at_once).collect();
    // When time runs out it is not always the long ones that are missing.
    batches.shuffle(&mut dice.rng);
    let mut lines: Vec<(usize, Line)> = Vec::with_capacity(wishes.len());
    for batch in batches {
        let mut batch: Vec<(usize, &Wish)> = batch.iter().filter_map(|i| Some((*i, wishes.get(*i)?))).collect();
        batch.sort_by(|a, b| a.1.temperature.total_cmp(&b.1.temperature));
        let (places, wishes): (Vec<usize>, Vec<&Wish>) = batch.into_iter().unzip();
        lines.extend(places.into_iter().zip(together(target, &wishes, how, dice)?));
        if !more(lines.len()) {
            break;
        }
    }
    lines.sort_by_key(|(place, _)| *place);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// Type in which keys and values are held: on a card half the memory and half the traffic matter more than the last
/// digits of what is only a text to learn from.
fn held_as(target: &Decoder) -> DType {
    if target.device().is_cpu() { target.dtype() } else { DType::F16 }
}

/// How many texts of so many tokens may grow together.
fn fitting(target: &Decoder, longest: usize, wanted: usize) -> usize {
    let own = BatchCache::bytes_of_one(target.config(), longest, held_as(target));
    let logits = ROWS_OF_LOGITS * target.config().vocab * DType::F32.size_in_bytes();
    wanted.min(MOST_BYTES / (own + logits).max(1)).max(1)
}

/// Texts that grow together.
struct Herd<'a> {
    wishes: &'a [&'a Wish],
    lines: Vec<Line>,
    how: &'a Continuation<'a>,
    /// Those that are not over, by place, in the order of the cache.
    rows: Vec<usize>,
}

impl Herd<'_> {
    fn line(&self, row: usize) -> Option<&Line> {
        self.lines.get(row)
    }

    /// The token at a position of each; of one that is over, its last, which nobody reads.
    fn column(&self, at: usize) -> Vec<u32> {
        let token = |row: &usize| self.line(*row).and_then(|l| l.ids.get(at).or(l.ids.last()).copied());
        self.rows.iter().map(|row| token(row).unwrap_or(0)).collect()
    }

    fn is_over(&self, row: usize) -> bool {
        let (Some(line), Some(wish)) = (self.line(row), self.wishes.get(row)) else { return true };
        let said = line.ids.len().saturating_sub(wish.prompt.len());
        said >= self.how.most || (said > 0 && line.ids.last().is_some_and(|id| self.how.ends.contains(id)))
    }

    /// Takes those out that are over, once they are enough; what stays, by place among the rows before.
    fn thin(&mut self) -> Option<Vec<u32>> {
        let stays: Vec<u32> = (0..self.rows.len() as u32)
            .filter(|i| self.rows.get(*i as usize).is_some_and(|row| !self.is_over(*row)))
            .collect();
        if stays.len() as f64 > LEFT * self.rows.len() as f64 {
            return None;
        }
        self.rows = stays.iter().filter_map(|i| self.rows.get(*i as usize).copied()).collect();
        Some(stays)
    }
}

/// Continues texts of which none is over before it begins.
fn together(target: &Decoder, wishes: &[&Wish], how: &Continuation<'_>, dice: &mut Dice) -> Result<Vec<Line>> {
    let device = target.device();
    let line = |w: &&Wish| Line { temperature: w.temperature, ..Line::plain(w.prompt.clone()) };
    let mut herd = Herd { wishes, lines: wishes.iter().map(line).collect(), how, rows: (0..wishes.len()).collect() };
    let lengths = || wishes.iter().map(|w| w.prompt.len());
    let (shortest, longest) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0) + how.most);
    if shortest == 0 || how.most == 0 {
        return Ok(herd.lines);
    }
    let mut cache = BatchCache::new(target.config(), wishes.len(), longest, held_as(target), device)?;
    let given: Vec<u32> = wishes.iter().flat_map(|w| w.prompt.iter().take(shortest).copied()).collect();
    let x = target.embed(&Tensor::from_vec(given, (wishes.len(), shortest), device)?)?;
    let mut hidden = target.forward_batch(&x, &mut cache)?.narrow(1, shortest - 1, 1)?.squeeze(1)?.contiguous()?;
    for at in shortest - 1.. {
        // Rows at the end of what they have; the others read on.
        let speaks = |(i, row): (usize, &usize)| {
            let ready = herd.line(*row).is_some_and(|l| l.ids.len() == at + 1) && !herd.is_over(*row);
            ready.then_some((i as u32, *row))
        };
        let (places, rows): (Vec<u32>, Vec<usize>) = herd.rows.iter().enumerate().filter_map(speaks).unzip();
        if !rows.is_empty() {
            let own = if places.len() == herd.rows.len() {
                hidden
            } else {
                hidden.index_select(&Tensor::new(places, device)?, 0)?
            };
            let temperatures: Vec<f32> = rows.iter().filter_map(|row| Some(wishes.get(*row)?.temperature)).collect();
            for (row, id) in rows.into_iter().zip(dice.draw(&target.logits(&own)?, &temperatures)?) {
                if let Some(line) = herd.lines.get_mut(row) {
                    line.ids.push(id);
                    line.spoken.push(true);
                }
            }
        }
        match herd.thin() {
            Some(stays) if stays.is_empty() => break,
            Some(stays) => cache.keep(&stays)?,
            None => {}
        }
        let column = herd.column(at + 1);
        let x = target.embed(&Tensor::from_vec(column, (herd.rows.len(), 1), device)?)?;
        hidden = target.forward_batch(&x, &mut cache)?.squeeze(1)?;
    }
    Ok(herd.lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{DecoderConfig, HfDecoderConfig, Mode},
        sampler::argmax,
    };
    use spotter_vision::training::Variables;

    fn decoder() -> Decoder {
        let hf = serde_json::json!({
            "model_type": "llama", "vocab_size": 19, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0, "tie_word_embeddings": false, "hidden_act": "silu",
        });
        let config = DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap();
        Decoder::new(&config, Variables::seeded(3, &Device::Cpu).builder(), Mode::Infer).unwrap()
    }

    /// Greedy continuations one by one, without a cache.
    fn alone(decoder: &Decoder, prompt: &[u32], most: usize, ends: &[u32]) -> Vec<u32> {
        let mut ids = prompt.to_vec();
        while ids.len() < prompt.len() + most {
            let x = decoder.embed(&Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
            let logits = decoder.logits(&decoder.forward(&x, None).unwrap()).unwrap();
            let last: Vec<f32> = logits.squeeze(0).unwrap().get(ids.len() - 1).unwrap().to_vec1().unwrap();
            ids.push(argmax(&last));
            if ends.contains(&ids[ids.len() - 1]) {
                break;
            }
        }
        ids
    }

    fn few(most: usize) -> Continuation<'static> {
        Continuation { most, ends: &[], at_once: 4000 }
    }

    #[test]
    fn many_texts_at_once_are_those_of_each_alone() {
        let decoder = decoder();
        let prompts = [vec![3, 1, 4], vec![1], vec![5, 9, 2, 6, 5, 3], vec![5, 8]];
        let free: Vec<Vec<u32>> = prompts.iter().map(|p| alone(&decoder, p, 12, &[])).collect();
        // A token that one of them says in the middle, as end.
        let end = free[0][prompts[0].len() + 5];
        let wishes: Vec<Wish> = prompts.iter().map(|p| Wish { prompt: p.clone(), temperature: 0.0 }).collect();
        for (ends, at_once) in [(&[][..], 9), (&[end], 9), (&[end], 2)] {
            let mut dice = Dice::new(1, &Device::Cpu).unwrap();
            let how = Continuation { most: 12, ends, at_once };
            let mut heard = Vec::new();
            let mut more = |done: usize| {
                heard.push(done);
                true
            };
            let lines = continue_texts(&decoder, &wishes, &how, &mut dice, &mut more).unwrap();
            assert_eq!(heard, if at_once == 2 { vec![2, 4] } else { vec![4] });
            for (line, prompt) in lines.iter().zip(&prompts) {
                assert_eq!(line.ids, alone(&decoder, prompt, 12, ends));
                let said = line.spoken.iter().position(|s| *s).unwrap();
                assert_eq!((said, line.utterances()), (prompt.len(), vec![(prompt.len(), line.ids.len())]));
            }
        }
        let mut dice = Dice::new(1, &Device::Cpu).unwrap();
        let one = Continuation { at_once: 1, ..few(5) };
        let some = continue_texts(&decoder, &wishes, &one, &mut dice, &mut |done| done < 2).unwrap();
        assert_eq!(some.len(), 2, "no more was wanted");
        let empty = [Wish { prompt: Vec::new(), temperature: 0.0 }];
        let mut dice = Dice::new(1, &Device::Cpu).unwrap();
        assert!(continue_texts(&decoder, &empty, &few(1), &mut dice, &mut |_| true).is_err());
        assert!(continue_texts(&decoder, &wishes, &few(99), &mut dice, &mut |_| true).is_err());
    }

    /// First tokens follow the softmax at each row's own temperature.
    #[test]
    fn tokens_are_drawn_by_their_weight() {
        let decoder = decoder();
        let wish = |temperature| Wish { prompt: vec![7], temperature };
        let wishes: Vec<Wish> = (0..6000).map(|i| wish(if i % 3 == 0 { 0.0 } else { 1.0 })).collect();
        let mut dice = Dice::new(5, &Device::Cpu).unwrap();
        let lines = continue_texts(&decoder, &wishes, &few(1), &mut dice, &mut |_| true).unwrap();
        let x = decoder.embed(&Tensor::new(&[[7u32]], &Device::Cpu).unwrap()).unwrap();
        let logits = decoder.logits(&decoder.forward(&x, None).unwrap()).unwrap();
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let mut p = vec![0.0; logits.len()];
        crate::sampler::softmax_into(&logits, 1.0, &mut p);
        let best = argmax(&logits);
        let mut counts = vec![0.0f64; p.len()];
        for (i, line) in lines.iter().enumerate() {
            if i % 3 == 0 {
                assert_eq!(line.ids[1], best);
            } else {
                counts[line.ids[1] as usize] += 1.0;
            }
        }
        let chi: f64 =
            counts.iter().zip(&p).map(|(n, p)| (n - 4000.0 * f64::from(*p)).powi(2) / (4000.0 * f64::from(*p))).sum();
        // 99.9 % quantile at 18 degrees of freedom.
        assert!(chi < 42.3, "{chi}");
    }
}
