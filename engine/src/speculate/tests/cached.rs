//! What target and drafter hold in their caches, and what reaches the drafter.

use super::decoder::{END, LEAD, VOCAB, bounded, decoder, embedded, floats, options, pass};
use crate::{
    model::{KvCache, Policy},
    sampler::Sampling,
    speculate::{
        Ask, Drafter, ModelDrafter, Picture, SpeculationOptions, Speculator,
        draft::{Branch, Logits},
    },
};
use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// C4 and S3.6: keys and values after rounds are those of a fresh prefill of the same text.
#[test]
fn the_cache_holds_what_a_prefill_holds() {
    let model = decoder(42, 400);
    for method in ["static(4)", "rsd-c(2,2,1)", "rsd-s(3,3)"] {
        let drafter = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
        let mut speculator = Speculator::new(Box::new(drafter), &options(method), 1).with_log();
        let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
        cache.add_tail(speculator.tail());
        let mut text = vec![7, 9, 11];
        speculator.read(&text).unwrap();
        pass(&model, &mut cache, &embedded(&model, &text[..2]));
        speculator.open().unwrap();
        for round in 0..40 {
            let ask = Ask { sampling: Sampling::at(2.5), never: &[], ends: &[], most: 99 };
            let ids = speculator.round(&model, &mut cache, *text.last().unwrap(), &ask).unwrap();
            text.extend(ids);
            assert_eq!((cache.len(), cache.position()), (text.len() - 1, text.len() - 1));
            if round % 5 != 4 {
                continue;
            }
            let mut fresh = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
            pass(&model, &mut fresh, &embedded(&model, &text[..text.len() - 1]));
            for layer in 0..2 {
                let ((k, v), (fk, fv)) = (cache.entries(layer).unwrap(), fresh.entries(layer).unwrap());
                for (a, b) in [(k, fk), (v, fv)] {
                    let off = floats(&a).iter().zip(floats(&b)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(off < 1e-4, "{method}, round {round}, layer {layer}: {off}");
                }
            }
        }
        let accepted = speculator.log().iter().filter(|round| round.accepted > 0).count();
        assert!(accepted > 5, "{method}: {accepted} rounds accepted something");
        // Of a tree, paths that leave the first column run: their entries were moved.
        let moved = speculator.log().iter().filter(|round| round.moved).count();
        assert_eq!(moved > 0, method != "static(4)", "{method}: {moved} paths were moved");
    }
}

/// S3.5: in a random tree every column's logits are those of the chain that leads to it, and siblings do not see each
/// other.
#[test]
fn columns_of_a_random_tree_see_their_ancestors_only() {
    let model = decoder(42, 400);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut cache = bounded(&model, Policy::KeyDiff, 24);
    cache.add_tail(24);
    let text: Vec<u32> = (0..90).map(|_| rng.random_range(0..VOCAB as u32)).collect();
    for id in &text {
        pass(&model, &mut cache, &embedded(&model, &[*id]));
    }
    assert!(cache.evictions() > 0 && cache.position() > cache.len());
    for _ in 0..10 {
        let tokens: Vec<u32> = (0..12).map(|_| rng.random_range(0..VOCAB as u32)).collect();
        let parents: Vec<Option<usize>> = (0..12).map(|i: usize| (i > 0).then(|| rng.random_range(0..i))).collect();
        let mut tree = |tokens: &[u32]| {
            cache.begin().unwrap();
            let hidden = model.forward_tree(&embedded(&model, tokens), &parents, &mut cache).unwrap();
            cache.rollback().unwrap();
            floats(&model.logits(&hidden).unwrap())
        };
        let logits = tree(&tokens);
        let mut changed = tokens.clone();
        changed[7] = (changed[7] + 1) % VOCAB as u32;
        let other = tree(&changed);
        for column in 0..12 {
            let mut path = vec![column];
            while let Some(parent) = parents[*path.last().unwrap()] {
                path.push(parent);
            }
            path.reverse();
            let rows = column * VOCAB..(column + 1) * VOCAB;
            assert_eq!(path.contains(&7), logits[rows.clone()] != other[rows.clone()], "column {column}");
            cache.begin().unwrap();
            let chain: Vec<u32> = path.iter().map(|c| tokens[*c]).collect();
            let alone = pass(&model, &mut cache, &embedded(&model, &chain));
            cache.rollback().unwrap();
            let off = alone.iter().zip(&logits[rows]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(off < 1e-4, "column {column}: {off}");
        }
    }
}

/// Hands on to another drafter and writes down what it is told and asked.
struct Recording {
    inner: ModelDrafter,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recording {
    fn note(&self, what: String) {
        self.seen.lock().unwrap().push(what);
    }
}

impl Drafter for Recording {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn passes(&self) -> u64 {
        self.inner.passes()
    }

    fn read(&mut self, ids: &[u32]) -> Result<()> {
        self.note(format!("read {ids:?}"));
        self.inner.read(ids)
    }

    fn see(&mut self, picture: &Tensor) -> Result<()> {
        self.inner.see(picture)
    }

    fn open(&mut self) -> Result<()> {
        self.inner.open()
    }

    fn close(&mut self, keep: bool) -> Result<()> {
        self.inner.close(keep)
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        let row = self.inner.root()?;
        self.note(format!("root {row:?}"));
        Ok(row)
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        let rows = self.inner.expand(branches)?;
        self.note(format!("expand {branches:?} {rows:?}"));
        Ok(rows)
    }

    fn settle(&mut self, path: &[usize], ids: &[u32]) -> Result<()> {
        self.inner.settle(path, ids)
    }

    fn clear(&mut self) -> Result<()> {
        self.inner.clear()
    }
}

/// S1.1 and S1.5: another picture changes what the target says and nothing of the drafter before the first token; a
/// picture costs no pass.
#[test]
fn pictures_do_not_reach_the_drafter() {
    let model = decoder(42, 400);
    let run = |shade: f32| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let inner = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
        let drafter = Recording { inner, seen: seen.clone() };
        let mut speculator = Speculator::new(Box::new(drafter), &options("static(3)"), 1);
        let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
        cache.add_tail(speculator.tail());
        speculator.read(&[7, 9, LEAD]).unwrap();
        pass(&model, &mut cache, &embedded(&model, &[7, 9]));
        for i in 0..5 {
            let numbers: Vec<f32> = (0..4 * 32).map(|j| shade * ((i * 7 + j * 3) as f32).sin()).collect();
            let picture = Tensor::from_vec(numbers, (1, 4, 32), &Device::Cpu).unwrap();
            pass(&model, &mut cache, &picture);
            speculator.see(&picture).unwrap();
            assert_eq!(speculator.drafter().passes(), 0, "a picture costs the drafter nothing");
        }
        speculator.open().unwrap();
        let ask = Ask { sampling: Sampling::GREEDY, never: &[], ends: &[], most: 6 };
        let said = speculator.round(&model, &mut cache, LEAD, &ask).unwrap();
        let seen = seen.lock().unwrap().clone();
        (said, seen)
    };
    let (a, b) = (run(1.0), run(-2.0));
    assert_ne!(a.0, b.0, "the pictures must matter to the target");
    assert_eq!(a.1, b.1, "and not to the drafter");
    assert!(a.1.len() >= 4);
}

/// S1.2: two counters, two pictures of 576 tokens.
#[test]
fn two_position_counters() {
    let model = decoder(42, 1400);
    for (picture, ahead) in [(Picture::Drop, 1152), (Picture::Placeholder(2), 1150)] {
        let mut drafter = ModelDrafter::new(decoder(44, 400), VOCAB, picture).unwrap();
        let mut cache = KvCache::new(model.config(), 1400, DType::F32, &Device::Cpu).unwrap();
        for _ in 0..2 {
            pass(&model, &mut cache, &embedded(&model, &[7, 9, 11]));
            drafter.read(&[7, 9, 11]).unwrap();
            let picture = Tensor::zeros((1, 576, 32), DType::F32, &Device::Cpu).unwrap();
            pass(&model, &mut cache, &picture);
            drafter.see(&picture).unwrap();
        }
        assert_eq!(cache.position(), drafter.position() + ahead, "{picture:?}");
        // The same after it has fed what it read, and after a round.
        pass(&model, &mut cache, &embedded(&model, &[LEAD]));
        drafter.read(&[LEAD]).unwrap();
        drafter.open().unwrap();
        drafter.root().unwrap();
        drafter.expand(&[Branch { token: 5, parent: None }, Branch { token: 6, parent: None }]).unwrap();
        drafter.expand(&[Branch { token: 8, parent: Some(1) }]).unwrap();
        drafter.settle(&[1], &[6, 9]).unwrap();
        pass(&model, &mut cache, &embedded(&model, &[6, 9]));
        assert_eq!(cache.position(), drafter.position() + ahead, "{picture:?}");
        drafter.close(true).unwrap();
        assert!(drafter.text().ends_with(&[LEAD, 6, 9]));
    }
}

/// The drafter's own cache follows the accepted path: a round behind one gives the law of a fresh reading.
#[test]
fn the_drafters_cache_keeps_the_accepted_path() {
    let close = |a: &Option<Logits>, b: &Option<Logits>| {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
    };
    let new = || ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
    let fresh = |text: &[u32]| {
        let mut drafter = new();
        drafter.read(text).unwrap();
        drafter.open().unwrap();
        drafter.root().unwrap()
    };
    let mut drafter = new();
    drafter.read(&[7, 9, 11]).unwrap();
    drafter.open().unwrap();
    assert!(close(&drafter.root().unwrap(), &fresh(&[7, 9, 11])));
    let branch = |token, parent| Branch { token, parent };
    let rows = drafter.expand(&[branch(5, None), branch(6, None)]).unwrap();
    assert!(close(&rows[0], &fresh(&[7, 9, 11, 5])) && close(&rows[1], &fresh(&[7, 9, 11, 6])));
    let rows = drafter.expand(&[branch(8, Some(1)), branch(4, Some(0)), branch(2, Some(1))]).unwrap();
    assert!(close(&rows[2], &fresh(&[7, 9, 11, 6, 2])) && close(&rows[1], &fresh(&[7, 9, 11, 5, 4])));
    // 6 and 2 were accepted, then a token that was never drafted.
    drafter.settle(&[1, 4], &[6, 2, 13]).unwrap();
    assert!(close(&drafter.root().unwrap(), &fresh(&[7, 9, 11, 6, 2, 13])));
    // A round in which nothing was accepted.
    drafter.expand(&[branch(5, None)]).unwrap();
    drafter.settle(&[], &[14]).unwrap();
    assert!(close(&drafter.root().unwrap(), &fresh(&[7, 9, 11, 6, 2, 13, 14])));
    // Taken back: as if nothing had been said.
    drafter.close(false).unwrap();
    drafter.read(&[20]).unwrap();
    drafter.open().unwrap();
    assert!(close(&drafter.root().unwrap(), &fresh(&[7, 9, 11, 20])));
}

/// C3 through rounds with decoder and cache: the first two tokens jointly, against the target's own law.
#[test]
fn rounds_draw_from_the_target() {
    let model = decoder(42, 400);
    let sampling = Sampling { temperature: 2.0, top_k: 5, top_p: 1.0 };
    let text = [7, 9, 11];
    let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
    cache.add_tail(16);
    pass(&model, &mut cache, &embedded(&model, &text[..2]));
    let law = |cache: &mut KvCache, ids: &[u32]| {
        cache.begin().unwrap();
        let p = sampling.probabilities(&pass(&model, cache, &embedded(&model, ids)));
        cache.rollback().unwrap();
        p
    };
    let first = law(&mut cache, &text[2..]);
    let mut expected = vec![0.0; VOCAB * VOCAB];
    for (a, p) in first.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        for (b, second) in law(&mut cache, &[text[2], a as u32]).iter().enumerate() {
            expected[a * VOCAB + b] = f64::from(*p) * f64::from(*second);
        }
    }
    let trials = 1500;
    let drawn = |method: &str, sampling: Sampling, cache: &mut KvCache| {
        let drafter = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
        let mut speculator = Speculator::new(Box::new(drafter), &options(method), 5);
        speculator.read(&text).unwrap();
        let mut counts = vec![0.0; VOCAB * VOCAB];
        for _ in 0..trials {
            speculator.open().unwrap();
            cache.begin().unwrap();
            let mut ids = vec![text[2]];
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
    let expected: Vec<f64> = expected.iter().map(|p| p * f64::from(trials)).collect();
    for method in ["adaedl(4)", "rsd-s(2,2)"] {
        let (found, limit) = super::chi_square(&drawn(method, sampling, &mut cache), &expected);
        assert!(found < limit, "{method}: {found:.1}, critical {limit:.1}");
    }
    // A planted bug: another temperature.
    let warmer = Sampling { temperature: 9.0, ..sampling };
    let (found, limit) = super::chi_square(&drawn("adaedl(4)", warmer, &mut cache), &expected);
    assert!(found > limit, "{found:.1}, critical {limit:.1}");
}

/// A drafter that is not asked costs no pass, however many utterances there are; one that comes back reads what it
/// missed, the newest at least.
#[test]
fn a_drafter_that_is_not_asked_costs_nothing() {
    let mut drafter = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
    drafter.read(&[7, 9, 11]).unwrap();
    for i in 0..200u32 {
        drafter.open().unwrap();
        drafter.read(&[LEAD, 5 + i % 30, END]).unwrap();
        drafter.close(i % 5 != 0).unwrap();
    }
    assert_eq!(drafter.passes(), 0);
    let kept = drafter.text();
    drafter.open().unwrap();
    drafter.read(&[LEAD]).unwrap();
    let row = drafter.root().unwrap().unwrap();
    let mut fresh = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
    fresh.read(&kept).unwrap();
    fresh.read(&[LEAD]).unwrap();
    fresh.open().unwrap();
    let again = fresh.root().unwrap().unwrap();
    assert!(row.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-4), "the same as one that reads all at once");
    drafter.close(true).unwrap();
    // Far behind, it begins anew with the newest.
    for i in 0..60u32 {
        drafter.read(&[LEAD, 5 + i % 30, END]).unwrap();
    }
    assert!(drafter.backlog() < 100);
    drafter.open().unwrap();
    drafter.read(&[LEAD]).unwrap();
    let row = drafter.root().unwrap().unwrap();
    assert!(drafter.text().len() < 100, "{}", drafter.text().len());
    let mut fresh = ModelDrafter::new(decoder(44, 400), VOCAB, Picture::Drop).unwrap();
    fresh.read(&drafter.text()).unwrap();
    fresh.open().unwrap();
    let again = fresh.root().unwrap().unwrap();
    assert!(row.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-4));
}

/// Sure of what is hardly ever said, and slow at that; or silent.
struct Slow {
    silent: bool,
}

impl Slow {
    fn law(&self) -> Option<Logits> {
        if self.silent {
            return None;
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(300) {
            std::hint::spin_loop();
        }
        let mut row = vec![f32::NEG_INFINITY; VOCAB];
        row[VOCAB - 1] = 0.0;
        Some(row)
    }
}

impl Drafter for Slow {
    fn describe(&self) -> String {
        "slow".into()
    }

    fn read(&mut self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self, _keep: bool) -> Result<()> {
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        Ok(self.law())
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        Ok(branches.iter().map(|_| self.law()).collect())
    }

    fn settle(&mut self, _path: &[usize], _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// C6 by the clock on the wall, on a machine that does nothing else: `SPOTTER_WALL_CLOCK=1`. Plain decoding and a drafter
/// that only loses take turns at the same texts; of seven runs the median.
#[test]
fn a_drafter_that_loses_costs_two_per_cent_by_the_clock() {
    if std::env::var_os("SPOTTER_WALL_CLOCK").is_none() {
        println!("skipped: set SPOTTER_WALL_CLOCK on a machine that does nothing else");
        return;
    }
    let model = decoder(42, 400);
    let run = |self_defence: bool| {
        let own = SpeculationOptions { self_defence, ..options("static(4)") };
        let mut speculator = Speculator::new(Box::new(Slow { silent: false }), &own, 1);
        let mut silent = Speculator::new(Box::new(Slow { silent: true }), &options("static(4)"), 1);
        let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
        cache.add_tail(speculator.tail());
        pass(&model, &mut cache, &embedded(&model, &[7, 9]));
        let ask = Ask { sampling: Sampling::GREEDY, never: &[], ends: &[], most: 99 };
        let (mut plain, mut drafted) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..200 {
            let mut text = |guess: &mut Speculator| {
                cache.begin().unwrap();
                let (begun, mut ids) = (Instant::now(), vec![11]);
                while ids.len() < 20 {
                    ids.extend(guess.round(&model, &mut cache, ids[ids.len() - 1], &ask).unwrap());
                }
                let time = begun.elapsed();
                cache.rollback().unwrap();
                time
            };
            plain += text(&mut silent);
            drafted += text(&mut speculator);
        }
        drafted.as_secs_f64() / plain.as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..7).map(|_| run(true)).collect();
    ratios.sort_by(f64::total_cmp);
    println!("ratios {ratios:?}");
    assert!(ratios[3] < 1.02, "{ratios:?}");
    assert!(run(false) > 1.5, "without self-defence it would be slow");
}
