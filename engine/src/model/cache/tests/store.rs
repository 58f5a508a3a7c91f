//! Memory, pairing of keys and values, positions, and steps that are undone.

use super::{Generator, bounded, config, device, feed, feed_watched, floats, options};
use crate::model::{
    cache::{CacheOptions, Columns, Commit, KvCache, Policy, Positions, moves::MoveRows},
    config::DecoderConfig,
    layers::{Mode, Rope},
};
use candle_core::{DType, Tensor};

/// Keys of any direction and values whose first number is the position, for 2 heads.
fn tagged(g: &mut Generator, from: usize, n: usize, dim: usize) -> (Tensor, Tensor) {
    let keys: Vec<f32> = (0..2 * n * dim).map(|_| g.next() as f32).collect();
    let values: Vec<f32> =
        (0..2 * n * dim).map(|i| if i % dim == 0 { (from + i / dim % n) as f32 } else { 0.5 }).collect();
    let shape = (2, n, dim);
    (Tensor::from_vec(keys, shape, &device()).unwrap(), Tensor::from_vec(values, shape, &device()).unwrap())
}

/// Every value still carries the position that the cache remembers for it.
fn pairs_hold(cache: &KvCache) -> bool {
    (0..2).all(|layer| {
        let values = cache.entries(layer).unwrap().1;
        (0..2).all(|head| {
            let tags = floats(&values.get(head).unwrap().narrow(1, 0, 1).unwrap());
            tags.iter().zip(cache.positions(layer, head)).all(|(tag, position)| *tag == *position as f32)
        })
    })
}

#[test]
fn memory_is_bounded_over_a_hundred_thousand_positions() {
    let cfg = config(2, 2, 4, 1 << 20);
    for (policy, every, block, take) in [("keydiff", 1, 16, 16), ("window", 50, 16, 7), ("random", 10, 64, 64)] {
        let options = CacheOptions { every, window: 0.1, ..options(policy, 100, block) };
        let mut cache = bounded(&cfg, &options, 5);
        let mut g = Generator(3);
        let (mut seen, mut evictions) = (0, 0);
        while seen < 100_000 {
            let (keys, values) = tagged(&mut g, seen, take, 4);
            feed(&mut cache, &keys, &values);
            seen += take;
            assert!(cache.len() <= 100 + every.max(block));
            assert_eq!(cache.position(), seen);
            if cache.evictions() > evictions {
                evictions = cache.evictions();
                assert!(cache.len() <= 100 || take > 1 && cache.len() < 100 + every.max(take));
            }
        }
        assert!(evictions > 1000, "{policy}: {evictions}");
        assert!(pairs_hold(&cache), "{policy}: keys, values and positions have parted");
        assert_eq!(cache.capacity(), 100 + every.max(block) + 5);
        assert_eq!(cache.bytes(), cache.bytes_at_capacity(DType::F32), "{policy}: bytes are not the formula's");
        let formula = 2 * 2 * cache.capacity() * (2 * 4 * 4 + 4);
        assert_eq!(cache.bytes(), formula);
    }
}

#[test]
fn the_length_after_an_eviction_is_the_smaller_of_seen_and_budget() {
    let cfg = config(2, 2, 4, 1 << 16);
    let mut cache = bounded(&cfg, &options("keydiff", 30, 8), 0);
    let mut g = Generator(4);
    for pass in 0..50 {
        let (keys, values) = tagged(&mut g, pass * 8, 8, 4);
        feed(&mut cache, &keys, &values);
        assert_eq!(cache.len(), (pass * 8 + 8).min(30));
    }
}

#[test]
fn pairs_hold_after_a_thousand_evictions_and_steps() {
    let cfg = config(2, 2, 4, 1 << 16);
    let mut cache = bounded(&cfg, &CacheOptions { window: 0.2, ..options("keydiff", 24, 8) }, 12);
    cache.pin(3).unwrap();
    let mut g = Generator(6);
    while cache.evictions() < 1000 {
        let (keys, values) = tagged(&mut g, cache.position(), 3, 4);
        feed(&mut cache, &keys, &values);
        // A step of which some are kept, and one that is undone.
        cache.begin().unwrap();
        let (keys, values) = tagged(&mut g, cache.position(), 5, 4);
        feed(&mut cache, &keys, &values);
        let (keys, values) = tagged(&mut g, cache.position(), 2, 4);
        feed(&mut cache, &keys, &values);
        cache.commit(Commit::First(cache.position() % 8)).unwrap();
        cache.begin().unwrap();
        let (keys, values) = tagged(&mut g, 7_777_777, 4, 4);
        feed(&mut cache, &keys, &values);
        cache.rollback().unwrap();
        for head in 0..2 {
            assert_eq!(cache.positions(1, head)[..3], [0, 1, 2], "the pinned entries stay");
        }
    }
    assert!(pairs_hold(&cache));
}

#[test]
fn a_path_of_a_tree_is_committed_inside_another_step() {
    let cfg = config(2, 2, 4, 1 << 10);
    let mut cache = bounded(&cfg, &options("window", 24, 8), 12);
    let mut g = Generator(7);
    let mut pass = |cache: &mut KvCache, tags: &[usize], columns: Columns| {
        let positions = cache.prepare(tags.len(), columns).unwrap();
        let len = cache.len();
        let (keys, _) = tagged(&mut g, 0, tags.len(), 4);
        let values: Vec<f32> = (0..2).flat_map(|_| tags.iter().flat_map(|t| [*t as f32, 0.0, 0.0, 0.0])).collect();
        let values = Tensor::from_vec(values, keys.shape(), &device()).unwrap();
        for layer in cache.layers_mut() {
            layer.append(&keys, &values, len).unwrap();
        }
        cache.advance(&positions).unwrap();
        positions
    };
    pass(&mut cache, &[0, 1, 2], Columns::Chain);
    cache.begin().unwrap();
    pass(&mut cache, &[3], Columns::Chain);
    cache.begin().unwrap();
    // Two roots; two behind the second; one behind the last.
    let tree = [None, None, Some(1), Some(1)];
    assert_eq!(pass(&mut cache, &[90, 4, 91, 5], Columns::Tree(&tree)), [4, 4, 5, 5]);
    assert_eq!(pass(&mut cache, &[6, 92], Columns::Tree(&[Some(3), Some(2)])), [6, 6]);
    assert!(cache.begin().is_err(), "a step behind a tree");
    assert!(cache.commit(Commit::All).is_err(), "a tree is no chain");
    cache.commit(Commit::Path(&[1, 3, 4])).unwrap();
    assert_eq!((cache.len(), cache.position()), (7, 7));
    assert!(pairs_hold(&cache));
    assert!(cache.evict().is_ok(), "nothing to evict");
    pass(&mut cache, &[7], Columns::Chain);
    cache.commit(Commit::First(3)).unwrap();
    assert_eq!((cache.len(), cache.position()), (6, 6));
    assert!(pairs_hold(&cache));
    assert!(cache.commit(Commit::All).is_err() && cache.rollback().is_err(), "nothing is open");
}

#[test]
fn nothing_leaves_while_a_step_is_open() {
    let cfg = config(2, 2, 4, 1 << 10);
    let mut cache = bounded(&cfg, &options("window", 10, 4), 6);
    let mut g = Generator(8);
    for i in 0..10 {
        let (k, v) = tagged(&mut g, i, 1, 4);
        feed(&mut cache, &k, &v);
    }
    assert_eq!(cache.room(), Some(1));
    cache.begin().unwrap();
    for i in 10..20 {
        let (k, v) = tagged(&mut g, i, 1, 4);
        feed(&mut cache, &k, &v);
    }
    assert_eq!((cache.len(), cache.evictions()), (20, 0));
    assert!(cache.evict().is_err());
    let error = cache.prepare(1, Columns::Chain).unwrap_err().to_string();
    assert!(error.contains("no room for 1 more"), "{error}");
    cache.commit(Commit::All).unwrap();
    assert_eq!((cache.len(), cache.evictions(), cache.position()), (10, 1, 20));
    assert!(pairs_hold(&cache));
}

/// Unit keys rotated to their positions by the decoder's own tables.
fn rotated(cfg: &DecoderConfig, keys: &Tensor, positions: &[u32]) -> Tensor {
    let rope = Rope::new(cfg, Mode::Infer, DType::F32, &device()).unwrap();
    let rows = rope.rows_at(positions, DType::F32).unwrap();
    let thd = keys.transpose(0, 1).unwrap().unsqueeze(0).unwrap().contiguous().unwrap();
    rows.apply(&thd).unwrap().squeeze(0).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
}

#[test]
fn closed_up_keys_are_those_of_the_new_positions() {
    let cfg = config(2, 2, 16, 400);
    for positions in [Positions::Running, Positions::Shrink] {
        let options = CacheOptions { positions, every: 8, window: 0.1, ..options("random", 60, 8) };
        let mut cache = bounded(&cfg, &options, 4);
        cache.pin(4).unwrap();
        let mut g = Generator(9);
        let (mut plain, mut closed) = (Vec::new(), 0);
        let mut pinned = None;
        for _ in 0..400 {
            let (keys, _) = tagged(&mut g, 0, 4, 16);
            let before = cache.position();
            let at: Vec<u32> = (before..before + 4).map(|p| p as u32).collect();
            // Values hold the keys as they were before rotation.
            feed(&mut cache, &rotated(&cfg, &keys, &at), &keys);
            assert!(cache.position() <= 400);
            closed += usize::from(cache.position() < before + 4);
            let first = cache.entries(0).unwrap().0.narrow(1, 0, 4).unwrap();
            let first = floats(&first);
            assert_eq!(*pinned.get_or_insert_with(|| first.clone()), first, "pinned keys change no bit");
            plain = cache.positions(0, 1).to_vec();
        }
        assert!(closed > if positions == Positions::Shrink { 100 } else { 3 }, "{closed}");
        assert!(plain.windows(2).all(|p| p[0] < p[1]));
        for layer in 0..2 {
            let (keys, values) = cache.entries(layer).unwrap();
            for head in 0..2 {
                let direct = rotated(&cfg, &values.contiguous().unwrap(), cache.positions(layer, head));
                let off = (keys.get(head).unwrap() - direct.get(head).unwrap()).unwrap();
                let off = floats(&off.abs().unwrap()).into_iter().fold(0f32, f32::max);
                assert!(off < 2e-5, "{positions:?}: {off}");
                // What attention sees: a query at the next position against both.
                let (query, _) = tagged(&mut g, 0, 1, 16);
                let query = rotated(&cfg, &query, &[cache.position() as u32]).get(head).unwrap();
                let product = |keys: &Tensor| floats(&query.matmul(&keys.get(head).unwrap().t().unwrap()).unwrap());
                for (found, expected) in product(&keys.contiguous().unwrap()).iter().zip(product(&direct)) {
                    assert!((found - expected).abs() < 1e-4, "{positions:?}: {found} against {expected}");
                }
            }
        }
    }
}

#[test]
fn rows_move_the_same_in_every_type_and_by_a_gather() {
    let kept = [vec![0, 1, 4, 5, 9], vec![0, 2, 3, 8, 11]];
    let numbers: Vec<f32> = (0..2 * 13 * 3).map(|i| i as f32).collect();
    let expected: Vec<f32> = (0..2)
        .flat_map(|h| kept[h].iter().flat_map(move |r| (0..3).map(move |c| ((h * 13 + *r as usize) * 3 + c) as f32)))
        .collect();
    for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
        let buffer = Tensor::from_vec(numbers.clone(), (2, 13, 3), &device()).unwrap().to_dtype(dtype).unwrap();
        let op = MoveRows { kept: &kept, first: MoveRows::first_moved(&kept).unwrap(), len: 12 };
        assert_eq!(op.first, 1);
        let gathered = buffer.copy().unwrap();
        op.apply_all(&[&buffer]).unwrap();
        op.gather(&gathered, &Tensor::from_iter(op.index(13), &device()).unwrap()).unwrap();
        for moved in [buffer, gathered] {
            let front = floats(&moved.narrow(1, 0, 5).unwrap());
            let same = front.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= b / 128.0);
            assert!(same && (dtype != DType::F32 || front == expected), "{dtype:?}: {front:?}");
        }
        assert!(
            MoveRows { kept: &kept, first: 1, len: 11 }.apply_all(&[&numbers_of(dtype)]).is_err(),
            "a row beyond the end"
        );
    }
}

fn numbers_of(dtype: DType) -> Tensor {
    Tensor::zeros((2, 13, 3), dtype, &device()).unwrap()
}

/// What undone steps and evictions leave behind in the buffers is never kept and counts nowhere.
#[test]
fn slots_that_hold_nothing_are_never_kept() {
    let cfg = config(2, 2, 4, 1 << 12);
    for policy in Policy::all().into_iter().filter(|p| *p != Policy::None) {
        let options = CacheOptions { every: 8, observe: 4, ..options(&policy.to_string(), 20, 8) };
        let drive = |garbage: Option<f32>| {
            let mut cache = bounded(&cfg, &options, 40);
            let mut g = Generator(12);
            for pass in 0..40 {
                if let Some(garbage) = garbage {
                    let full = Tensor::full(garbage, (2, 30, 4), &device()).unwrap();
                    cache.begin().unwrap();
                    feed_watched(&mut cache, &full, &full);
                    cache.rollback().unwrap();
                }
                let (keys, values) = tagged(&mut g, pass * 3, 3, 4);
                feed_watched(&mut cache, &keys, &values);
            }
            assert!(cache.evictions() > 5, "{policy}");
            assert!(pairs_hold(&cache), "{policy}");
            (0..4).map(|i| cache.positions(i / 2, i % 2).to_vec()).collect::<Vec<_>>()
        };
        let clean = drive(None);
        for garbage in [0.0, 1e6, f32::NAN] {
            assert_eq!(drive(Some(garbage)), clean, "{policy}: {garbage}");
        }
    }
}

/// Flags of what was said move with their entries, and their share of the budget is theirs.
#[test]
fn what_was_said_keeps_its_share_and_its_flags() {
    let cfg = config(2, 2, 4, 1 << 12);
    for policy in ["window", "keydiff", "random"] {
        let drive = |said: Option<f64>| {
            let options = CacheOptions { every: 8, window: 0.2, said, ..options(policy, 20, 8) };
            let mut cache = bounded(&cfg, &options, 8);
            cache.pin(2).unwrap();
            let mut g = Generator(13);
            let mut spoken = Vec::new();
            for turn in 0..30 {
                let (keys, values) = tagged(&mut g, cache.position(), 6, 4);
                feed(&mut cache, &keys, &values);
                // An utterance that is taken back, and one that stays.
                for keep in [false, turn % 4 == 0] {
                    cache.begin().unwrap();
                    cache.set_saying(true);
                    let (keys, values) = tagged(&mut g, cache.position(), 3, 4);
                    feed(&mut cache, &keys, &values);
                    cache.set_saying(false);
                    if keep {
                        spoken.extend(cache.position() as u32 - 3..cache.position() as u32);
                        cache.commit(Commit::All).unwrap();
                    } else {
                        cache.rollback().unwrap();
                    }
                }
            }
            assert!(cache.evictions() > 10);
            assert_eq!(cache.bytes(), cache.bytes_at_capacity(DType::F32));
            let kept = |head: usize| cache.positions(1, head).iter().filter(|p| spoken.contains(p)).count();
            for head in 0..2 {
                let flags: Vec<bool> = cache.positions(1, head).iter().map(|p| spoken.contains(p)).collect();
                assert_eq!(cache.said(1, head), if said.is_some() { flags.as_slice() } else { &[] }, "{policy}");
            }
            (kept(0).min(kept(1)), cache.bytes())
        };
        let (plain, bytes) = drive(None);
        let (half, more) = drive(Some(0.5));
        assert!(half >= 10, "{policy}: {half} of 20 entries were said");
        assert!(plain < half, "{policy}: {plain} against {half}");
        // A byte for each slot of 2 layers with 2 heads.
        assert_eq!(more - bytes, 4 * (20 + 8 + 8));
    }
}

#[test]
fn the_first_entries_stay_also_where_nothing_is_pinned() {
    let cfg = config(2, 2, 4, 1 << 12);
    let kept = |sinks, pinned, budget| {
        let mut cache = bounded(&cfg, &CacheOptions { sinks, window: 0.2, ..options("window", budget, 8) }, 0);
        cache.pin(pinned).unwrap();
        let mut g = Generator(14);
        for pass in 0..20 {
            let (keys, values) = tagged(&mut g, pass * 8, 8, 4);
            feed(&mut cache, &keys, &values);
        }
        cache.positions(0, 1).iter().take_while(|p| **p < 80).count()
    };
    assert_eq!(kept(4, 0, 20), 4);
    assert_eq!(kept(4, 7, 20), 7, "the prompt is longer");
    assert_eq!(kept(4, 2, 20), 4, "the prompt is shorter");
    assert_eq!(kept(0, 0, 20), 0);
    assert_eq!(kept(4, 0, 5), 2, "never more than half of a budget");
}

#[test]
fn bounds_that_do_not_fit_are_named() {
    let cfg = config(1, 1, 4, 100);
    let make = |o: CacheOptions, context, scratch| {
        KvCache::bounded(&cfg, &o, context, scratch, DType::F32, &device()).map_err(|e| e.to_string())
    };
    let with = |budget| CacheOptions { budget, every: 10, block: 10, ..CacheOptions::default() };
    let error = make(with(Some(80)), 200, 20).unwrap_err();
    assert!(error.contains("a cache budget of 80 entries") && error.contains("do not fit 100 positions"), "{error}");
    assert!(make(with(Some(0)), 100, 0).unwrap_err().contains("cache.budget 0"));
    assert_eq!(make(with(None), 60, 20).unwrap().budget(), Some(30));
    assert!(make(with(None), 20, 30).unwrap_err().contains("a cache budget of 0"));
    let mut cache = make(with(Some(20)), 100, 0).unwrap();
    assert!(cache.pin(20).unwrap_err().to_string().contains("20 pinned entries leave no room"));
    assert!(cache.pin(19).is_ok());
    let none = make(CacheOptions { policy: Policy::None, ..with(None) }, 60, 20).unwrap();
    assert_eq!((none.budget(), none.capacity()), (None, 60));
}
