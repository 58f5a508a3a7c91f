//! A drafter that sees a few tokens of the newest pictures (specs: speculative, section 2.4).

use super::decoder::{LEAD, METHODS, VOCAB, decoder, embedded, floats, options, pass, says_the_same};
use crate::{
    model::{Adapter, AdapterConfig, DraftModel, KvCache, adapter::pool},
    sampler::Sampling,
    speculate::{
        Ask, Drafter, ModelDrafter, Picture, Speculator,
        draft::{Branch, Logits},
    },
};
use candle_core::{DType, Device, Tensor};
use spotter_vision::training::Variables;

/// Width of target and drafter.
const WIDTH: usize = 32;

fn adapter(tokens: usize, frames: usize) -> Adapter {
    let config = AdapterConfig { tokens, frames, from: WIDTH, width: WIDTH };
    Adapter::new(config, Variables::seeded(9, &Device::Cpu).builder()).unwrap()
}

fn drafter(seed: u64, tokens: usize, frames: usize) -> ModelDrafter {
    let model = DraftModel { decoder: decoder(seed, 400), adapter: Some(adapter(tokens, frames)) };
    ModelDrafter::new(model, VOCAB, None).unwrap()
}

fn picture(k: usize, shade: f32) -> Tensor {
    let numbers = (0..k * WIDTH).map(|i| shade * (i as f32 * 0.37 + shade).sin());
    Tensor::from_iter(numbers, &Device::Cpu).unwrap().reshape((1, k, WIDTH)).unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// C1 with pictures in mid-stream, evictions all along, and utterances that are taken back.
#[test]
fn a_drafter_that_sees_changes_no_word() {
    says_the_same("one that sees", &METHODS, |_| Box::new(drafter(43, 2, 3)));
    says_the_same("the target with an adapter", &METHODS[..3], |_| Box::new(drafter(42, 4, 1)));
}

/// Its law is that of the text with what the adapter makes of the newest pictures before the utterance, wherever parts of
/// it were read; what came before the newest pictures does not matter, and an utterance taken back takes its tokens along.
#[test]
fn it_reads_the_newest_pictures_before_an_utterance() {
    let (model, adapter) = (decoder(43, 400), adapter(3, 2));
    let seen = |frames: &[&Tensor]| {
        let rows = Tensor::cat(frames, 1).unwrap().squeeze(0).unwrap();
        adapter.forward(&pool(&rows, 3).unwrap().unsqueeze(0).unwrap()).unwrap()
    };
    let law = |parts: &[Tensor]| -> Logits {
        let x = Tensor::cat(parts, 1).unwrap();
        let hidden = model.forward(&x, None).unwrap();
        floats(&model.logits(&hidden.narrow(1, x.dim(1).unwrap() - 1, 1).unwrap()).unwrap())
    };
    let [a, b, c] = [0.5, -1.0, 1.5].map(|shade| picture(2, shade));
    let mut drafter = drafter(43, 3, 2);
    drafter.read(&[7, 9]).unwrap();
    for frame in [&a, &b, &c] {
        drafter.see(frame).unwrap();
    }
    assert_eq!((drafter.passes(), drafter.position()), (0, 2), "pictures cost nothing");
    drafter.open().unwrap();
    drafter.read(&[LEAD]).unwrap();
    let words = |ids: &[u32]| embedded(&model, ids);
    let first = drafter.root().unwrap().unwrap();
    assert!(close(&first, &law(&[words(&[7, 9]), seen(&[&b, &c]), words(&[LEAD])])));
    assert!(!close(&first, &law(&[words(&[7, 9]), seen(&[&c, &b]), words(&[LEAD])])), "their order matters");
    assert!(!close(&first, &law(&[words(&[7, 9, LEAD])])), "pictures matter");
    // A round, then the utterance is taken back.
    drafter.expand(&[Branch { token: 5, parent: None }]).unwrap();
    drafter.settle(&[0], &[5, 6]).unwrap();
    let second = drafter.root().unwrap().unwrap();
    assert!(close(&second, &law(&[words(&[7, 9]), seen(&[&b, &c]), words(&[LEAD, 5, 6])])));
    drafter.close(false).unwrap();
    assert_eq!((drafter.text(), drafter.position()), (vec![7, 9], 2));
    // The next is kept, and the one behind it reads both.
    drafter.open().unwrap();
    drafter.read(&[LEAD, 8]).unwrap();
    drafter.root().unwrap();
    drafter.close(true).unwrap();
    drafter.see(&a).unwrap();
    drafter.open().unwrap();
    drafter.read(&[LEAD]).unwrap();
    let third = drafter.root().unwrap().unwrap();
    let parts = [words(&[7, 9]), seen(&[&b, &c]), words(&[LEAD, 8]), seen(&[&c, &a]), words(&[LEAD])];
    assert!(close(&third, &law(&parts)));
    assert_eq!(drafter.position(), 2 + 3 + 2 + 3 + 1);
    // A stream that begins anew has no pictures.
    drafter.clear().unwrap();
    drafter.read(&[7]).unwrap();
    drafter.open().unwrap();
    assert!(close(&drafter.root().unwrap().unwrap(), &law(&[words(&[7])])));
}

/// S1.2 for an adapter of two tokens: the target runs ahead by the visual tokens, the drafter by its own.
#[test]
fn its_tokens_are_counted_in_its_own_positions() {
    let model = decoder(42, 1400);
    let mut drafter = drafter(44, 2, 1);
    let mut cache = KvCache::new(model.config(), 1400, DType::F32, &Device::Cpu).unwrap();
    for i in 0..2 {
        pass(&model, &mut cache, &embedded(&model, &[7, 9, 11]));
        drafter.read(&[7, 9, 11]).unwrap();
        let frame = picture(576, i as f32);
        pass(&model, &mut cache, &frame);
        drafter.see(&frame).unwrap();
    }
    assert_eq!(cache.position(), drafter.position() + 1152);
    drafter.open().unwrap();
    assert_eq!(cache.position(), drafter.position() + 1150);
    drafter.root().unwrap();
    drafter.expand(&[Branch { token: 5, parent: None }, Branch { token: 6, parent: None }]).unwrap();
    drafter.settle(&[1], &[6, 9]).unwrap();
    pass(&model, &mut cache, &embedded(&model, &[6, 9]));
    assert_eq!(cache.position(), drafter.position() + 1150);
}

/// However long a session is, its memory is bounded.
#[test]
fn what_it_remembers_is_bounded() {
    let mut drafter = drafter(43, 4, 3);
    drafter.read(&[7, 9]).unwrap();
    for i in 0..300u32 {
        drafter.see(&picture(1, i as f32)).unwrap();
        drafter.open().unwrap();
        drafter.read(&[LEAD, 5 + i % 30]).unwrap();
        if i % 3 == 0 {
            assert!(drafter.root().unwrap().is_some_and(|row| row.iter().all(|l| l.is_finite())));
        }
        drafter.close(i % 5 != 0).unwrap();
        assert!(drafter.position() < 2 * 400 + 10, "{i}: {}", drafter.position());
    }
    assert!(drafter.text().len() < 800);
}

/// C3 with pictures: the first two tokens jointly, against the target's own law.
#[test]
fn rounds_of_a_drafter_that_sees_draw_from_the_target() {
    let model = decoder(42, 400);
    let sampling = Sampling { temperature: 2.0, top_k: 5, top_p: 1.0 };
    let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
    cache.add_tail(16);
    let frame = picture(2, 0.8);
    pass(&model, &mut cache, &embedded(&model, &[7]));
    pass(&model, &mut cache, &frame);
    let law = |cache: &mut KvCache, ids: &[u32]| {
        cache.begin().unwrap();
        let p = sampling.probabilities(&pass(&model, cache, &embedded(&model, ids)));
        cache.rollback().unwrap();
        p
    };
    let trials = 1200;
    let mut expected = vec![0.0; VOCAB * VOCAB];
    for (a, p) in law(&mut cache, &[LEAD]).iter().enumerate().filter(|(_, p)| **p > 0.0) {
        for (b, second) in law(&mut cache, &[LEAD, a as u32]).iter().enumerate() {
            expected[a * VOCAB + b] = f64::from(*p) * f64::from(*second) * f64::from(trials);
        }
    }
    let drawn = |method: &str, sampling: Sampling, cache: &mut KvCache| {
        let mut speculator = Speculator::new(Box::new(drafter(44, 2, 1)), &options(method), 5);
        speculator.read(&[7]).unwrap();
        speculator.see(&frame).unwrap();
        let mut counts = vec![0.0; VOCAB * VOCAB];
        for _ in 0..trials {
            speculator.open().unwrap();
            speculator.read(&[LEAD]).unwrap();
            cache.begin().unwrap();
            let mut ids = vec![LEAD];
            while ids.len() < 3 {
                let ask = Ask { sampling, never: &[], ends: &[], most: 9 };
                ids.extend(speculator.round(&model, cache, ids[ids.len() - 1], &ask).unwrap());
            }
            cache.rollback().unwrap();
            speculator.close(false).unwrap();
            counts[ids[1] as usize * VOCAB + ids[2] as usize] += 1.0;
        }
        counts
    };
    for method in ["adaedl(4)", "rsd-s(2,2)"] {
        let (found, limit) = super::chi_square(&drawn(method, sampling, &mut cache), &expected);
        assert!(found < limit, "{method}: {found:.1}, critical {limit:.1}");
    }
    // A planted bug: another temperature.
    let warmer = Sampling { temperature: 9.0, ..sampling };
    let (found, limit) = super::chi_square(&drawn("adaedl(4)", warmer, &mut cache), &expected);
    assert!(found > limit, "{found:.1}, critical {limit:.1}");
}

#[test]
fn an_adapter_that_is_not_there_or_does_not_fit_is_said() {
    let problem = ModelDrafter::new(decoder(43, 400), VOCAB, Picture::Adapter).err().unwrap().to_string();
    assert!(problem.contains("no tensors adapter.*"), "{problem}");
    let narrow = Tensor::zeros((1, 2, 16), DType::F32, &Device::Cpu).unwrap();
    let problem = drafter(43, 2, 1).see(&narrow).unwrap_err().to_string();
    assert!(problem.contains("reads 32 numbers"), "{problem}");
    // One that is told to drop pictures reads text, adapter or not.
    let model = DraftModel { decoder: decoder(43, 400), adapter: Some(adapter(2, 1)) };
    let mut dropped = ModelDrafter::new(model, VOCAB, Picture::Drop).unwrap();
    let mut plain = ModelDrafter::new(decoder(43, 400), VOCAB, None).unwrap();
    for drafter in [&mut dropped, &mut plain] {
        drafter.read(&[7, 9]).unwrap();
        drafter.see(&picture(2, 1.0)).unwrap();
        drafter.open().unwrap();
    }
    assert_eq!(dropped.root().unwrap(), plain.root().unwrap());
}
