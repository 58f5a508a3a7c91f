//! C1: answers of 256 tokens, a quarter of them to prompts with pictures, are the same with drafting and without.

use super::decoder::{VOCAB, decoder, embedded, options, pass};
use crate::{
    model::{Decoder, KvCache},
    sampler::{Sampling, argmax},
    speculate::{Ask, ModelDrafter, Picture, Speculator},
};
use candle_core::{DType, Device, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const ANSWER: usize = 256;
/// Room for a prompt, its pictures and the answer.
const CONTEXT: usize = 400;

/// A prompt: its tokens, and the visual tokens of pictures behind the first of them.
struct Prompt {
    ids: Vec<u32>,
    pictures: Vec<Tensor>,
}

fn prompts(n: usize, width: usize) -> Vec<Prompt> {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    (0..n)
        .map(|i| {
            let ids = (0..rng.random_range(3..40)).map(|_| rng.random_range(3..VOCAB as u32)).collect();
            let pictures = (0..if i % 4 == 0 { 1 + i / 4 % 3 } else { 0 }).map(|_| {
                let tokens = rng.random_range(1..9);
                let numbers: Vec<f32> = (0..tokens * width).map(|_| rng.random_range(-1.0..1.0)).collect();
                Tensor::from_vec(numbers, (1, tokens, width), &Device::Cpu).unwrap()
            });
            Prompt { ids, pictures: pictures.collect() }
        })
        .collect()
}

/// The answer to a prompt, plain or in rounds.
fn answer(model: &Decoder, prompt: &Prompt, mut speculator: Option<&mut Speculator>) -> Vec<u32> {
    let mut cache = KvCache::new(model.config(), CONTEXT, DType::F32, &Device::Cpu).unwrap();
    let (first, rest) = prompt.ids.split_first().unwrap();
    if let Some(speculator) = &mut speculator {
        speculator.clear().unwrap();
        cache.add_tail(speculator.tail());
        speculator.read(&[*first]).unwrap();
    }
    pass(model, &mut cache, &embedded(model, &[*first]));
    for picture in &prompt.pictures {
        model.forward(picture, Some(&mut cache)).unwrap();
        if let Some(speculator) = &mut speculator {
            speculator.see(picture).unwrap();
        }
    }
    let mut logits = pass(model, &mut cache, &embedded(model, rest));
    let mut said = vec![argmax(&logits)];
    let Some(speculator) = speculator else {
        while said.len() < ANSWER {
            logits = pass(model, &mut cache, &embedded(model, &said[said.len() - 1..]));
            said.push(argmax(&logits));
        }
        return said;
    };
    speculator.read(rest).unwrap();
    speculator.read(&said).unwrap();
    speculator.open().unwrap();
    while said.len() < ANSWER {
        let ask = Ask { sampling: Sampling::GREEDY, never: &[], ends: &[], most: ANSWER - said.len() };
        let ids = speculator.round(model, &mut cache, *said.last().unwrap(), &ask).unwrap();
        said.extend(ids);
    }
    speculator.close(true).unwrap();
    said
}

/// 200 prompts where `SPOTTER_UTTERANCES` asks for as many, else a few.
#[test]
fn long_answers_do_not_differ() {
    let asked = std::env::var("SPOTTER_UTTERANCES").ok().map(|n| n.parse::<usize>().unwrap());
    let (model, prompts) = (decoder(42, CONTEXT), prompts(asked.map_or(8, |n| n.min(200)), 32));
    let plain: Vec<_> = prompts.iter().map(|prompt| answer(&model, prompt, None)).collect();
    for method in ["static(4)", "adaedl(8)", "rsd-c(2,1,1)", "rsd-s(3,3)"] {
        let drafter = ModelDrafter::new(decoder(43, CONTEXT), VOCAB, Picture::Drop).unwrap();
        let mut speculator = Speculator::new(Box::new(drafter), &options(method), 1).with_log();
        for (i, (prompt, expected)) in prompts.iter().zip(&plain).enumerate() {
            assert_eq!(&answer(&model, prompt, Some(&mut speculator)), expected, "{method}, prompt {i}");
        }
        assert!(speculator.log().len() > prompts.len() * ANSWER / 20, "{method}: {} rounds", speculator.log().len());
    }
    println!("{} answers of {ANSWER} tokens by 4 methods, none differs", prompts.len());
}
