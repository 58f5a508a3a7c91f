//! The cache under a decoder: every policy, against no eviction and against full passes.

use super::{bounded, config, device, floats, options};
use crate::model::{
    cache::{CacheOptions, Columns, Commit, KvCache, Policy, Positions},
    config::DecoderConfig,
    decoder::Decoder,
    layers::Mode,
};
use candle_core::{DType, Tensor};
use candle_nn::{VarBuilder, VarMap};

/// A decoder with random weights large enough that attention is uneven.
fn decoder(cfg: &DecoderConfig) -> Decoder {
    let map = VarMap::new();
    let vb = || VarBuilder::from_varmap(&map, DType::F32, &device());
    Decoder::new(cfg, vb(), Mode::Infer).unwrap();
    let mut names: Vec<_> = map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut g = super::Generator(42);
    for (_, var) in names {
        let numbers: Vec<f32> = (0..var.elem_count()).map(|_| g.next() as f32 * 0.35).collect();
        var.set(&Tensor::from_vec(numbers, var.shape(), &device()).unwrap()).unwrap();
    }
    Decoder::new(cfg, vb(), Mode::Infer).unwrap()
}

fn embedded(model: &Decoder, ids: &[u32]) -> Tensor {
    model.embed(&Tensor::new(ids, &device()).unwrap().unsqueeze(0).unwrap()).unwrap()
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * 3 + 1) % 40).collect()
}

fn run(model: &Decoder, cache: &mut KvCache, ids: &[u32]) -> Vec<f32> {
    floats(&model.logits(&model.forward(&embedded(model, ids), Some(cache)).unwrap()).unwrap())
}

#[test]
fn a_budget_of_the_whole_length_is_bit_equal_to_no_eviction() {
    let cfg = config(2, 2, 8, 400);
    let model = decoder(&cfg);
    let drive = |options: &CacheOptions| {
        let mut cache = bounded(&cfg, options, 4);
        cache.pin(5).unwrap();
        let mut logits = run(&model, &mut cache, &ids(70));
        for id in ids(30) {
            logits.extend(run(&model, &mut cache, &[id]));
        }
        assert_eq!(cache.evictions(), 0);
        logits
    };
    let plain = drive(&options("none", 1, 32));
    for policy in Policy::all() {
        assert!(drive(&options(&policy.to_string(), 100, 32)) == plain, "{policy}");
    }
}

#[test]
fn every_policy_keeps_its_bounds_and_repeats_itself() {
    let mut windowed = config(2, 2, 8, 200);
    windowed.window = Some(12);
    for cfg in [config(2, 2, 8, 200), windowed] {
        let model = decoder(&cfg);
        for policy in Policy::all().into_iter().filter(|p| *p != Policy::None) {
            for (shared, positions) in [(false, Positions::Running), (true, Positions::Shrink)] {
                let options = CacheOptions {
                    shared,
                    positions,
                    every: 6,
                    window: 0.1,
                    observe: 4,
                    ..options(&policy.to_string(), 30, 8)
                };
                let drive = || {
                    let mut cache = bounded(&cfg, &options, 5);
                    cache.pin(3).unwrap();
                    let mut logits = run(&model, &mut cache, &ids(60));
                    for i in 0..40 {
                        cache.begin().unwrap();
                        run(&model, &mut cache, &[1, 2, 3]);
                        cache.rollback().unwrap();
                        logits.extend(run(&model, &mut cache, &ids(i % 3 + 1)));
                        assert!(cache.len() < 36 && cache.position() <= 200);
                    }
                    for layer in 0..2 {
                        for head in 0..2 {
                            let kept = cache.positions(layer, head);
                            assert_eq!(kept.len(), cache.len());
                            assert_eq!(kept[..3], [0, 1, 2], "{policy}");
                            assert!(kept.windows(2).all(|p| p[0] < p[1]));
                            assert!(!shared || kept == cache.positions(0, 0));
                        }
                    }
                    assert!(cache.evictions() > 5);
                    logits
                };
                let first = drive();
                assert!(first.iter().all(|l| l.is_finite()), "{policy}");
                assert!(first == drive(), "{policy}: the same stream must give the same");
            }
        }
    }
}

#[test]
fn a_step_that_is_undone_leaves_no_trace_in_any_score() {
    let cfg = config(2, 2, 8, 200);
    let model = decoder(&cfg);
    for policy in ["h2o", "tova", "snapkv", "caote(h2o)", "keydiff"] {
        let options = CacheOptions { every: 4, observe: 4, ..options(policy, 20, 8) };
        let drive = |detours: bool| {
            let mut cache = bounded(&cfg, &options, 8);
            let mut logits = run(&model, &mut cache, &ids(30));
            for id in ids(40) {
                if detours {
                    cache.begin().unwrap();
                    run(&model, &mut cache, &[5, 6]);
                    cache.begin().unwrap();
                    run(&model, &mut cache, &[7]);
                    cache.rollback().unwrap();
                    cache.rollback().unwrap();
                }
                logits.extend(run(&model, &mut cache, &[id]));
            }
            logits
        };
        assert!(drive(true) == drive(false), "{policy}");
    }
}

#[test]
fn a_cache_goes_on_from_another_bit_for_bit() {
    let cfg = config(2, 2, 8, 400);
    let model = decoder(&cfg);
    let mut read = KvCache::new(&cfg, 100, DType::F32, &device()).unwrap();
    run(&model, &mut read, &ids(20));
    for policy in ["window", "keydiff", "none"] {
        let options = CacheOptions { every: 6, ..options(policy, 24, 8) };
        let mut other = bounded(&cfg, &options, 0);
        other.continue_from(&read).unwrap();
        assert!(other.continue_from(&read).is_err(), "it is in use");
        let mut own = bounded(&cfg, &options, 0);
        own.continue_from(&read).unwrap();
        for id in ids(30) {
            assert!(run(&model, &mut other, &[id]) == run(&model, &mut own, &[id]), "{policy}");
        }
        assert_eq!(other.position(), 50);
    }
    // It is what the other one held, and the other one is untouched.
    let mut copy = KvCache::new(&cfg, 100, DType::F32, &device()).unwrap();
    copy.continue_from(&read).unwrap();
    assert!(run(&model, &mut copy, &[3, 9]) == run(&model, &mut read, &[3, 9]));
    let mut small = bounded(&cfg, &options("window", 8, 4), 0);
    assert!(small.continue_from(&read).unwrap_err().to_string().contains("can't go on"));
}

/// Attention of block 2 sees the cache as block 1 left it after eviction.
#[test]
fn prefill_evicts_between_blocks() {
    let cfg = config(2, 2, 8, 200);
    let model = decoder(&cfg);
    let whole = floats(&model.logits(&model.forward(&embedded(&model, &ids(48)), None).unwrap()).unwrap());
    let off = |block: usize, from: usize, found: &[f32]| {
        let rows = |x: &[f32]| x[from * 40..(from + block) * 40].to_vec();
        rows(found).iter().zip(rows(&whole)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    let mut cache = bounded(&cfg, &options("keydiff", 10, 16), 0);
    let found = run(&model, &mut cache, &ids(48));
    assert!(off(16, 0, &found) < 1e-4, "the first block sees everything");
    assert!(off(16, 16, &found) > 1e-3, "the second does not");
    // By hand: pass, eviction, pass.
    let mut by_hand = bounded(&cfg, &options("keydiff", 10, 16), 0);
    let parts: Vec<f32> = ids(48).chunks(16).flat_map(|block| run(&model, &mut by_hand, block)).collect();
    // A card multiplies 48 rows of logits otherwise than 16.
    let most = if device().is_cpu() { 0.0 } else { 1e-5 };
    assert!(parts.iter().zip(&found).all(|(a, b)| (a - b).abs() <= most));
    assert_eq!(cache.positions(1, 1), by_hand.positions(1, 1));
    assert_eq!(floats(&cache.entries(1).unwrap().0), floats(&by_hand.entries(1).unwrap().0));
}

/// Rotation goes by the logical position: dropping nothing but padding of the past changes no key.
#[test]
fn keys_are_rotated_by_their_logical_position() {
    let cfg = config(1, 2, 8, 200);
    let model = decoder(&cfg);
    let mut cache = bounded(&cfg, &CacheOptions { every: 3, ..options("random", 12, 4) }, 0);
    // In the first layer a key depends on its token and its position only.
    let mut full = KvCache::new(&cfg, 200, DType::F32, &device()).unwrap();
    let all = ids(80);
    run(&model, &mut full, &all);
    for id in &all {
        run(&model, &mut cache, &[*id]);
    }
    assert_eq!(cache.position(), 80);
    let (kept, every) = (cache.entries(0).unwrap().0, full.entries(0).unwrap().0);
    for head in 0..2 {
        for (slot, position) in cache.positions(0, head).iter().enumerate() {
            let at = |t: &Tensor, i: usize| floats(&t.get(head).unwrap().get(i).unwrap());
            let (a, b) = (at(&kept, slot), at(&every, *position as usize));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "head {head}, position {position}");
        }
    }
}

/// After closing up, a step says what it would say with keys that were turned directly to their new positions.
#[test]
fn decoding_goes_on_after_closing_up() {
    let long = config(2, 2, 8, 400);
    // The same weights with fewer positions: the fourth eviction, at 52 entries of the stream, closes them up.
    let short = DecoderConfig { max_positions: 58, ..long.clone() };
    let model = decoder(&long);
    let options = CacheOptions { every: 8, ..options("keydiff", 20, 8) };
    let drive = |cfg: &DecoderConfig| {
        let mut cache = bounded(cfg, &options, 0);
        cache.pin(3).unwrap();
        ids(52).iter().for_each(|id| drop(run(&model, &mut cache, &[*id])));
        cache
    };
    let (open, mut closed) = (drive(&long), drive(&short));
    assert_eq!((open.position(), open.closings()), (52, 0));
    assert_eq!((closed.position(), closed.closings(), closed.evictions()), (20, 1, open.evictions()));
    let mut direct = KvCache::new(&long, 100, DType::F32, &device()).unwrap();
    let new: Vec<u32> = direct.prepare(20, Columns::Chain).unwrap();
    for (i, layer) in direct.layers_mut().iter_mut().enumerate() {
        let (keys, values) = open.entries(i).unwrap();
        let turned: Vec<f32> =
            (0..2).flat_map(|head| turned(&keys.get(head).unwrap(), open.positions(i, head))).collect();
        let turned = Tensor::from_vec(turned, (2, 20, 8), &device()).unwrap();
        layer.append(&turned, &values.contiguous().unwrap(), 0).unwrap();
    }
    direct.advance(&new).unwrap();
    for id in [7, 3] {
        let (found, expected) = (run(&model, &mut closed, &[id]), run(&model, &mut direct, &[id]));
        let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-4, "{off}");
    }
    // Keys left where they were would say something else.
    let mut wrong = drive(&long);
    let off = run(&model, &mut wrong, &[7])
        .into_iter()
        .zip(run(&model, &mut drive(&short), &[7]))
        .map(|(a, b)| (a - b).abs());
    assert!(off.fold(0f32, f32::max) > 1e-3);
}

/// Keys `[n, dim]` at `positions`, turned to 0, 1, 2, ... in f64.
fn turned(keys: &Tensor, positions: &[u32]) -> Vec<f32> {
    let rows = keys.contiguous().unwrap().to_vec2::<f32>().unwrap();
    let turn = |(new, (row, old)): (usize, (&Vec<f32>, &u32))| {
        let half = row.len() / 2;
        let mut out = row.clone();
        for j in 0..half {
            let delta = new as f64 - f64::from(*old);
            let (sin, cos) = (delta * 10000f64.powf(-(j as f64) / half as f64)).sin_cos();
            let (a, b) = (f64::from(row[j]), f64::from(row[j + half]));
            (out[j], out[j + half]) = ((a * cos - b * sin) as f32, (b * cos + a * sin) as f32);
        }
        out
    };
    rows.iter().zip(positions).enumerate().flat_map(turn).collect()
}

/// A model's own window hides by position, also where slots are no positions.
#[test]
fn a_models_own_window_goes_by_position() {
    let mut cfg = config(1, 2, 8, 200);
    cfg.window = Some(9);
    let model = decoder(&cfg);
    let plain = {
        let mut cache = KvCache::new(&cfg, 200, DType::F32, &device()).unwrap();
        ids(60).iter().flat_map(|id| run(&model, &mut cache, &[*id])).collect::<Vec<_>>()
    };
    // A cache that keeps at least the model's window loses nothing, whatever it drops beyond; blocks and single steps.
    for (policy, step) in [("window", 1), ("window", 4), ("none", 4)] {
        let mut cache = bounded(&cfg, &options(policy, 14, 4), 0);
        let found: Vec<f32> = ids(60).chunks(step).flat_map(|ids| run(&model, &mut cache, ids)).collect();
        let off = found.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-4, "{policy}: {off}");
    }
    // The pinned first entries are beyond the window, and so must stay unseen.
    let mut cache = bounded(&cfg, &options("window", 14, 4), 0);
    cache.pin(4).unwrap();
    let found: Vec<f32> = ids(60).iter().flat_map(|id| run(&model, &mut cache, &[*id])).collect();
    assert_eq!(cache.positions(0, 0)[..4], [0, 1, 2, 3]);
    let off = found.iter().zip(&plain).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(off < 1e-4, "{off}");
}

/// Columns of a tree see their ancestors only: each equals the chain that leads to it.
#[test]
fn a_tree_equals_its_chains() {
    let mut windowed = config(2, 2, 8, 200);
    windowed.window = Some(6);
    for cfg in [config(2, 2, 8, 200), windowed] {
        let model = decoder(&cfg);
        let mut cache = bounded(&cfg, &options("keydiff", 20, 8), 10);
        run(&model, &mut cache, &ids(33));
        let tokens = [3, 9, 4, 5, 6];
        let parents = [None, None, Some(0), Some(0), Some(3)];
        cache.begin().unwrap();
        let x = embedded(&model, &tokens);
        let tree = floats(&model.logits(&model.forward_tree(&x, &parents, &mut cache).unwrap()).unwrap());
        cache.rollback().unwrap();
        for (chain, last) in [(vec![3], 0), (vec![9], 1), (vec![3, 4], 2), (vec![3, 5, 6], 4)] {
            cache.begin().unwrap();
            let found = run(&model, &mut cache, &chain);
            cache.rollback().unwrap();
            let found = &found[(chain.len() - 1) * 40..];
            let off = found.iter().zip(&tree[last * 40..]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(off < 1e-4, "column {last}: {off}");
        }
        // Going on behind a committed path equals going on behind the chain.
        cache.begin().unwrap();
        model.forward_tree(&x, &parents, &mut cache).unwrap();
        cache.commit(Commit::Path(&[0, 3, 4])).unwrap();
        let after_path = run(&model, &mut cache, &[8]);
        let mut other = bounded(&cfg, &options("keydiff", 20, 8), 10);
        run(&model, &mut other, &ids(33));
        other.begin().unwrap();
        run(&model, &mut other, &[3, 5, 6]);
        other.commit(Commit::All).unwrap();
        let after_chain = run(&model, &mut other, &[8]);
        assert_eq!(cache.positions(1, 0), other.positions(1, 0));
        let off = after_path.iter().zip(&after_chain).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 1e-4, "{off}");
    }
}

fn best(logits: &[f32]) -> u32 {
    let last = &logits[logits.len() - 40..];
    (0..40).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap_or(0) as u32
}

/// Greedy tokens, one at a time.
fn plainly(model: &Decoder, cache: &mut KvCache, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut said = vec![best(&run(model, cache, prompt))];
    while said.len() < n {
        said.push(best(&run(model, cache, &said[said.len() - 1..])));
    }
    said
}

/// The same with drafts verified in rounds. Drafts are partly right: the known answer with every fifth token changed. A
/// round that is capped goes no further than the next eviction.
fn speculatively(
    model: &Decoder,
    cache: &mut KvCache,
    prompt: &[u32],
    answer: &[u32],
    every: usize,
    capped: bool,
) -> Vec<u32> {
    let mut said = vec![best(&run(model, cache, prompt))];
    while said.len() < answer.len() {
        let depth = if capped { cache.room().map_or(4, |room| room - 1).min(4) } else { 4 };
        let draft: Vec<u32> = (said.len()..(said.len() + depth).min(answer.len()))
            .map(|i| if i % 5 == 4 { (answer[i] + 1) % 40 } else { answer[i] })
            .collect();
        let mut columns = vec![said[said.len() - 1]];
        columns.extend(&draft);
        cache.begin().unwrap();
        let logits = run(model, cache, &columns);
        let mut accepted = 0;
        loop {
            let token = best(&logits[..(accepted + 1) * 40]);
            said.push(token);
            if draft.get(accepted) != Some(&token) {
                break;
            }
            accepted += 1;
        }
        let (held, room) = (cache.len() - columns.len(), cache.budget().unwrap() + every);
        assert!(!capped || held + accepted < room, "a round commits past N + E");
        cache.commit(Commit::First(accepted + 1)).unwrap();
        assert!(!capped || cache.len() < room);
    }
    said.truncate(answer.len());
    said
}

#[test]
fn rounds_and_eviction_say_the_same_as_one_at_a_time() {
    let cfg = config(2, 2, 8, 300);
    let model = decoder(&cfg);
    let mut differ = 0;
    for policy in ["keydiff", "tova", "caote(h2o)"] {
        for every in [8, 32] {
            let options = CacheOptions { every, window: 0.1, ..options(policy, 24, 8) };
            let make = || {
                let mut cache = bounded(&cfg, &options, 8);
                cache.pin(3).unwrap();
                cache
            };
            let answer = plainly(&model, &mut make(), &ids(20), 150);
            let rounds = |capped| speculatively(&model, &mut make(), &ids(20), &answer, every, capped);
            assert_eq!(rounds(true), answer, "{policy}, every {every}");
            // Rounds that run past the eviction points drop other entries.
            differ += usize::from(rounds(false) != answer);
        }
    }
    assert!(differ > 0, "the test must notice rounds that are not cut at the eviction points");
}
