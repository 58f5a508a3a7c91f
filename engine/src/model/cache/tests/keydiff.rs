//! KeyDiff: golden kept sets, the short reference, and what must not matter.

use super::{Generator, bounded, config, floats, options, stream, tensor};
use crate::model::cache::{
    Anchor, CacheOptions,
    keydiff::scores,
    select::{Keep, select},
};

/// The reference in ten lines, f64: ascending indices of what stays.
fn reference(keys: &[Vec<f64>], budget: usize, window: usize, sinks: usize) -> Vec<u32> {
    let n = keys.len();
    if n <= budget {
        return (0..n as u32).collect();
    }
    let score = reference_scores(keys);
    let w = window.min(budget);
    let p = sinks.min(budget - w);
    let fixed: Vec<usize> = (0..p).chain(n - w..n).collect();
    let mut rest: Vec<usize> = (0..n).filter(|i| !fixed.contains(i)).collect();
    rest.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(b.cmp(a)));
    let mut kept: Vec<u32> = fixed.iter().chain(rest.iter().take(budget - fixed.len())).map(|i| *i as u32).collect();
    kept.sort_unstable();
    kept
}

fn length(v: &[f64]) -> f64 {
    v.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn unit(v: &[f64]) -> Vec<f64> {
    let norm = length(v);
    v.iter().map(|v| if norm > 1e-12 { v / norm } else { 0.0 }).collect()
}

fn reference_scores(keys: &[Vec<f64>]) -> Vec<f64> {
    let units: Vec<Vec<f64>> = keys.iter().map(|k| unit(k)).collect();
    let mut mean = vec![0.0; keys.first().map_or(0, Vec::len)];
    for u in &units {
        mean.iter_mut().zip(u).for_each(|(m, u)| *m += u);
    }
    let mean = unit(&mean);
    units.iter().map(|u| -u.iter().zip(&mean).map(|(u, m)| u * m).sum::<f64>()).collect()
}

fn of(keys: &[Vec<f64>], anchor: Anchor) -> Vec<f32> {
    floats(&scores(&tensor(keys), anchor).unwrap())
}

fn top(scores: &[f32], budget: usize) -> Vec<u32> {
    select(scores, Keep { budget, window: 0, sinks: 0, said: 0 }, |_| false).unwrap()
}

/// Keys of the second and third golden: a common direction is added.
fn leaning(seed: u32) -> Vec<Vec<f64>> {
    let mut keys = Generator(seed).rows(40, 8);
    for key in &mut keys {
        key.iter_mut().enumerate().for_each(|(i, v)| *v += if i % 2 == 0 { 0.8 } else { -0.4 });
    }
    keys
}

/// Keys rotated by their position, halves paired.
fn rotated(keys: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let turn = |(position, key): (usize, &Vec<f64>)| {
        let half = key.len() / 2;
        let mut out = key.clone();
        for j in 0..half {
            let angle = position as f64 * 10000f64.powf(-2.0 * j as f64 / key.len() as f64);
            let (sin, cos) = angle.sin_cos();
            out[j] = key[j] * cos - key[j + half] * sin;
            out[j + half] = key[j + half] * cos + key[j] * sin;
        }
        out
    };
    keys.iter().enumerate().map(turn).collect()
}

fn near(found: &[f32], expected: &[f64], tolerance: f64) {
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() < tolerance, "{i}: {f} against {e}");
    }
}

#[test]
fn golden_g1() {
    let keys = Generator(1).rows(16, 8);
    first_row(&keys, &[-0.527089, -0.26145875, 0.00848401, 0.40976644]);
    let expected = [
        0.347605, 0.352865, 0.071858, -0.393795, -0.195956, -0.746439, -0.868309, 0.211932, -0.660594, -0.339780,
        -0.766109, 0.179363, -0.203886, 0.102056, -0.608159, 0.172220,
    ];
    near(&of(&keys, Anchor::Normalised), &expected, 2e-6);
    for anchor in [Anchor::Normalised, Anchor::Raw] {
        assert_eq!(top(&of(&keys, anchor), 6), [0, 1, 7, 11, 13, 15]);
    }
    assert_eq!(top(&pairwise(&keys), 6), [0, 1, 7, 11, 13, 15]);
}

/// The first row of a golden's keys, as far as it is given, to the digits that are given.
fn first_row(keys: &[Vec<f64>], expected: &[f64]) {
    for (i, (found, expected)) in keys[0].iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-8, "{i}: {found} against {expected}");
    }
}

/// The pairwise form: less the sum of the cosines with all keys.
fn pairwise(keys: &[Vec<f64>]) -> Vec<f32> {
    let units: Vec<_> = keys.iter().map(|k| unit(k)).collect();
    let cosine = |u: &[f64], v: &[f64]| -> f64 { u.iter().zip(v).map(|(a, b)| a * b).sum() };
    units.iter().map(|u| -units.iter().map(|v| cosine(u, v)).sum::<f64>() as f32).collect()
}

/// What stays of `keys` when they come in blocks, in the real cache.
fn in_blocks(keys: &[Vec<f64>], block: usize, window: usize) -> (Vec<u32>, usize) {
    let cfg = config(1, 1, 8, 4096);
    let options = CacheOptions { window: (window as f64 / 12.0 + 1e-9).min(1.0), ..options("keydiff", 12, block) };
    stream(&mut bounded(&cfg, &options, 0), &tensor(keys), block)
}

#[test]
fn golden_g2() {
    let keys = leaning(7);
    let row = [0.27756159, 0.42698643, 1.02498322, 0.4539629, -0.10131772, 0.31156704, 0.5219702, -1.29378738];
    first_row(&keys, &row);
    near(&of(&keys, Anchor::Normalised), &[-0.443250, -0.644195, -0.710390, -0.693664, -0.618064], 2e-6);
    assert_eq!(in_blocks(&keys, 1, 0), (vec![0, 1, 2, 6, 7, 14, 17, 23, 24, 27, 28, 34], 13));
    assert_eq!(in_blocks(&keys, 8, 0), (vec![0, 1, 3, 4, 7, 17, 23, 24, 25, 27, 28, 34], 20));
    assert_eq!(in_blocks(&keys, 16, 0), (vec![0, 1, 4, 7, 14, 17, 23, 24, 25, 27, 28, 34], 28));
    assert_eq!(in_blocks(&keys, 40, 0), (vec![0, 1, 4, 6, 7, 17, 23, 24, 25, 27, 28, 34], 40));
    assert_eq!(in_blocks(&keys, 8, 3).0, [0, 1, 7, 17, 23, 24, 27, 28, 34, 37, 38, 39]);
    assert_eq!(top(&of(&keys, Anchor::Raw), 12), in_blocks(&keys, 40, 0).0);
}

#[test]
fn golden_g3() {
    let keys = leaning(8);
    let row = [0.27833669, -1.391606, 0.39439981, 0.52799556, 1.23161476, -0.19301119, 1.38404434, 0.53851852];
    first_row(&keys, &row);
    assert_eq!(in_blocks(&keys, 1, 0).0, [4, 7, 8, 16, 24, 25, 29, 30, 31, 34, 35, 39]);
    assert_eq!(in_blocks(&keys, 8, 0).0, [4, 7, 8, 16, 25, 28, 29, 30, 31, 34, 35, 37]);
    assert_eq!(in_blocks(&keys, 16, 0).0, [4, 7, 8, 16, 25, 27, 29, 30, 31, 34, 35, 36]);
    assert_eq!(in_blocks(&keys, 40, 0).0, [4, 7, 8, 16, 25, 27, 28, 29, 30, 31, 34, 36]);
    assert_eq!(in_blocks(&keys, 8, 3).0, [4, 7, 8, 16, 25, 29, 30, 31, 34, 37, 38, 39]);
}

#[test]
fn golden_g4() {
    let keys = rotated(&leaning(7));
    let expected = [-0.62588802, 0.59541836, 1.73542222, -0.33765312, 0.32768419, -0.24610818, 1.02747723, 0.15449703];
    near(&keys[1].iter().map(|v| *v as f32).collect::<Vec<_>>(), &expected, 1e-6);
    let after = in_blocks(&keys, 40, 0).0;
    assert_eq!(after, [2, 3, 7, 10, 17, 23, 24, 28, 31, 33, 34, 39]);
    // Rotation matters: only half of the set is that of the unrotated keys.
    let before = in_blocks(&leaning(7), 40, 0).0;
    assert_eq!(after.iter().filter(|i| before.contains(i)).count(), 6);
}

/// Smallest distance between scores, which f32 must be able to tell apart.
fn gap(scores: &[f64]) -> f64 {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min)
}

/// 1,000 cases against the reference; how many differ.
fn cases_that_differ(keep: impl Fn(&[f32], Keep) -> Vec<u32>) -> usize {
    let mut g = Generator(99);
    let mut wrong = 0;
    let mut done = 0;
    while done < 1000 {
        let mut draw = |below: usize| ((g.next() + 1.0) / 2.0 * below as f64) as usize;
        let (n, dim, budget) = (1 + draw(40), 4 + 2 * draw(7), 1 + draw(20));
        let (window, sinks) = (draw(6), draw(6));
        let keys = g.rows(n, dim);
        if gap(&reference_scores(&keys)) < 1e-5 {
            continue;
        }
        done += 1;
        let kept = keep(&of(&keys, Anchor::Normalised), Keep { budget, window, sinks, said: 0 });
        wrong += usize::from(kept != reference(&keys, budget, window, sinks));
    }
    wrong
}

#[test]
fn equals_the_reference_on_a_thousand_cases() {
    assert_eq!(cases_that_differ(|s, keep| select(s, keep, |_| false).unwrap()), 0);
    // Planted mistakes are found: sinks before the window, and the largest cosines instead of the smallest.
    let sinks_first = |s: &[f32], keep: Keep| {
        let sinks = keep.sinks.min(keep.budget);
        let keep = Keep { sinks, window: keep.window.min(keep.budget - sinks), ..keep };
        select(s, keep, |_| false).unwrap()
    };
    assert!(cases_that_differ(sinks_first) > 10);
    let similar = |s: &[f32], keep| select(&s.iter().map(|s| -s).collect::<Vec<_>>(), keep, |_| false).unwrap();
    assert!(cases_that_differ(similar) > 100);
}

#[test]
fn pairwise_similarity_ranks_the_same() {
    let mut g = Generator(5);
    for _ in 0..100 {
        let keys = g.rows(30, 8);
        let pairwise = pairwise(&keys);
        if gap(&pairwise.iter().map(|s| f64::from(*s)).collect::<Vec<_>>()) > 1e-4 {
            assert_eq!(top(&of(&keys, Anchor::Normalised), 9), top(&pairwise, 9));
        }
    }
}

#[test]
fn lengths_and_common_rotations_do_not_matter() {
    let keys = leaning(7);
    let scaled: Vec<Vec<f64>> =
        keys.iter().enumerate().map(|(i, k)| k.iter().map(|v| v * (0.25 + (i % 7) as f64)).collect()).collect();
    // A rotation of neighbouring columns, and a permutation of columns.
    let turned: Vec<Vec<f64>> = keys
        .iter()
        .map(|k| {
            let (sin, cos) = 0.7f64.sin_cos();
            let mut k: Vec<f64> =
                k.chunks(2).flat_map(|p| [p[0] * cos - p[1] * sin, p[0] * sin + p[1] * cos]).collect();
            k.rotate_left(3);
            k
        })
        .collect();
    let change = |other: &[Vec<f64>], anchor| {
        let off = of(&keys, anchor).into_iter().zip(of(other, anchor)).map(|(a, b)| (a - b).abs());
        off.fold(0f32, f32::max)
    };
    for other in [&scaled, &turned] {
        assert!(change(other, Anchor::Normalised) < 1e-6);
        assert_eq!(top(&of(other, Anchor::Normalised), 12), top(&of(&keys, Anchor::Normalised), 12));
    }
    assert!(change(&turned, Anchor::Raw) < 1e-6);
    assert!(change(&scaled, Anchor::Raw) > 0.01, "the raw mean must feel the lengths");
}

#[test]
fn a_permutation_permutes_the_answer() {
    let keys = leaning(8);
    let order: Vec<usize> = (0..40).map(|i| i * 17 % 40).collect();
    let mixed: Vec<_> = order.iter().map(|i| keys[*i].clone()).collect();
    let mut kept: Vec<u32> =
        top(&of(&mixed, Anchor::Normalised), 12).iter().map(|i| order[*i as usize] as u32).collect();
    kept.sort_unstable();
    assert_eq!(kept, top(&of(&keys, Anchor::Normalised), 12));
}

#[test]
fn edges() {
    let keys = leaning(7);
    // No more than the budget: nothing happens. Blocks larger than the budget, and that do not divide it.
    assert_eq!(in_blocks(&keys[..12], 5, 0), ((0..12).collect(), 12));
    assert_eq!(in_blocks(&keys, 25, 0).1, 27);
    assert_eq!(in_blocks(&keys, 7, 0).0.len(), 12);
    // A window as large as the budget is a sliding window, and so are equal keys.
    let newest: Vec<u32> = (28..40).collect();
    assert_eq!(in_blocks(&keys, 8, 12).0, newest);
    let same = vec![keys[0].clone(); 40];
    for block in [1, 3, 8, 40] {
        assert_eq!(in_blocks(&same, block, 0).0, newest, "{block}");
    }
    let zeros = vec![vec![0.0; 8]; 40];
    assert_eq!(in_blocks(&zeros, 8, 0).0, newest);
    assert!(of(&zeros, Anchor::Raw).iter().all(|s| *s == 0.0));
}

#[test]
fn a_key_that_is_no_number_is_an_error() {
    let cfg = config(1, 1, 8, 4096);
    let mut keys = leaning(7);
    keys[3][5] = f64::NAN;
    let mut cache = bounded(&cfg, &options("keydiff", 12, 8), 0);
    let keys = tensor(&keys);
    let (mut start, mut error) = (0, None);
    while start < 40 && error.is_none() {
        let block = keys.narrow(1, start, 8).unwrap().contiguous().unwrap();
        let positions = cache.prepare(8, super::Columns::Chain).unwrap();
        let len = cache.len();
        cache.layers_mut()[0].append(&block, &block, len).unwrap();
        error = cache.advance(&positions).err();
        start += 8;
    }
    let error = error.expect("an error").to_string();
    assert!(error.contains("layer 0, key head 0") && error.contains("NaN"), "{error}");
}
