//! Texts by a target, many at a time.
//!
//! All sequences grow by one token a step from the first on, so that no position is ever padding: a prompt is fed token
//! by token, and whoever has a short one begins to speak earlier.

use super::lines::Line;
use crate::{
    model::{Decoder, KvCache},
    sampler::sample,
};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

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
        if temperatures.iter().all(|t| *t <= 0.0) {
            return logits.argmax(D::Minus1)?.to_vec1();
        }
        if logits.device().is_cpu() {
            let rows: Vec<Vec<f32>> = logits.to_vec2()?;
            return Ok(rows.iter().zip(temperatures).map(|(row, t)| sample(row, *t, &mut self.rng)).collect());
        }
        // The argmax of `logits + T gumbel` is a draw from the softmax of `logits / T`, for T = 0 as well. Numbers of 0
        // and 1, which a card's generator gives now and then, would be infinite.
        let uniform = Tensor::rand(0f32, 1f32, logits.shape(), logits.device())?.clamp(1e-10f32, 1.0 - 6e-8f32)?;
        let gumbel = uniform.log()?.neg()?.log()?.neg()?;
        let temperatures = Tensor::new(temperatures, logits.device())?.unsqueeze(1)?;
        (logits + gumbel.broadcast_mul(&temperatures)?)?.argmax(D::Minus1)?.to_vec1()
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
}

/// Continues all texts at once, in the type of the decoder's weights.
///
/// # Errors
/// An empty prompt, a text longer than the decoder has positions for, or those of the device.
pub fn continue_texts(target: &Decoder, wishes: &[Wish], how: &Continuation<'_>, dice: &mut Dice) -> Result<Vec<Line>> {
    let longest = wishes.iter().map(|w| w.prompt.len()).max().unwrap_or(0) + how.most;
    if wishes.iter().any(|w| w.prompt.is_empty()) {
        bail!("a text to be continued needs at least one token");
    }
    if longest > target.config().max_positions {
        bail!("texts of {longest} tokens do not fit the model's {} positions", target.config().max_positions);
    }
    let mut lines: Vec<Line> =
        wishes.iter().map(|w| Line { temperature: w.temperature, ..Line::plain(w.prompt.clone()) }).collect();
    let mut cache = KvCache::batched(target.config(), wishes.len().max(1), longest, target.dtype(), target.device())?;
    let over = |wish: &Wish, line: &Line| {
        let said = line.ids.len() - wish.prompt.len();
        said >= how.most || (said > 0 && line.ids.last().is_some_and(|id| how.ends.contains(id)))
    };
    let temperatures: Vec<f32> = wishes.iter().map(|w| w.temperature).collect();
    for at in 0..longest {
        let active = |i: usize| lines.get(i).zip(wishes.get(i)).is_some_and(|(line, wish)| !over(wish, line));
        if !(0..lines.len()).any(active) {
            break;
        }
        let column: Vec<u32> =
            lines.iter().map(|line| line.ids.get(at).or(line.ids.last()).copied().unwrap_or(0)).collect();
        let x = target.embed(&Tensor::from_vec(column, (lines.len(), 1), target.device())?)?;
        let hidden = target.forward(&x, Some(&mut cache))?;
        if lines.iter().all(|line| at + 1 < line.ids.len()) {
            continue;
        }
        let drawn = dice.draw(&target.logits(&hidden)?.squeeze(1)?, &temperatures)?;
        for ((line, wish), id) in lines.iter_mut().zip(wishes).zip(drawn) {
            if at + 1 == line.ids.len() && !over(wish, line) {
                line.ids.push(id);
                line.spoken.push(true);
            }
        }
    }
    Ok(lines)
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

    #[test]
    fn many_texts_at_once_are_those_of_each_alone() {
        let decoder = decoder();
        let prompts = [vec![3, 1, 4], vec![1], vec![5, 9, 2, 6, 5, 3], vec![5, 8]];
        let free: Vec<Vec<u32>> = prompts.iter().map(|p| alone(&decoder, p, 12, &[])).collect();
        // A token that one of them says in the middle, as end.
        let end = free[0][prompts[0].len() + 5];
        let wishes: Vec<Wish> = prompts.iter().map(|p| Wish { prompt: p.clone(), temperature: 0.0 }).collect();
        for ends in [&[][..], &[end]] {
            let mut dice = Dice::new(1, &Device::Cpu).unwrap();
            let lines = continue_texts(&decoder, &wishes, &Continuation { most: 12, ends }, &mut dice).unwrap();
            for (line, prompt) in lines.iter().zip(&prompts) {
                assert_eq!(line.ids, alone(&decoder, prompt, 12, ends));
                let said = line.spoken.iter().position(|s| *s).unwrap();
                assert_eq!((said, line.utterances()), (prompt.len(), vec![(prompt.len(), line.ids.len())]));
            }
        }
        let empty = [Wish { prompt: Vec::new(), temperature: 0.0 }];
        let mut dice = Dice::new(1, &Device::Cpu).unwrap();
        assert!(continue_texts(&decoder, &empty, &Continuation { most: 1, ends: &[] }, &mut dice).is_err());
        assert!(continue_texts(&decoder, &wishes, &Continuation { most: 99, ends: &[] }, &mut dice).is_err());
    }

    /// First tokens follow the softmax at each row's own temperature.
    #[test]
    fn tokens_are_drawn_by_their_weight() {
        let decoder = decoder();
        let wish = |temperature| Wish { prompt: vec![7], temperature };
        let wishes: Vec<Wish> = (0..6000).map(|i| wish(if i % 3 == 0 { 0.0 } else { 1.0 })).collect();
        let mut dice = Dice::new(5, &Device::Cpu).unwrap();
        let lines = continue_texts(&decoder, &wishes, &Continuation { most: 1, ends: &[] }, &mut dice).unwrap();
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
