//! CAOTE: the golden vector, brute force, and what must not matter.

use super::{Generator, bounded, config, device, feed_watched, floats, options, tensor};
use crate::model::cache::{
    Anchor, Policy,
    attentive::{H2o, SnapKv, Tova},
    caote::{Caote, changes, fast_changes, joint_change, stacked},
    keydiff::KeyDiff,
    scorer::{Entries, Scorer, Weights},
    select::{Keep, select},
};
use candle_core::{D, DType, Tensor};

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

fn output(weights: &[f64], values: &[Vec<f64>]) -> Vec<f64> {
    let mut o = vec![0.0; values[0].len()];
    for (a, v) in weights.iter().zip(values) {
        o.iter_mut().zip(v).for_each(|(o, v)| *o += a * v);
    }
    o
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// The output after dropping entries and computing softmax anew.
fn without(logits: &[f64], values: &[Vec<f64>], dropped: &[usize]) -> Vec<f64> {
    let left: Vec<usize> = (0..logits.len()).filter(|i| !dropped.contains(i)).collect();
    let logits: Vec<f64> = left.iter().map(|i| logits[*i]).collect();
    let values: Vec<Vec<f64>> = left.iter().map(|i| values[*i].clone()).collect();
    output(&softmax(&logits), &values)
}

/// `[1, rows, n]`.
fn weights(rows: &[Vec<f64>]) -> Tensor {
    tensor(rows)
}

fn exact(logits: &[f64], values: &[Vec<f64>]) -> Vec<f32> {
    floats(&changes(&weights(&[softmax(logits)]), &tensor(values)).unwrap())
}

fn fast(logits: &[f64], values: &[Vec<f64>]) -> Vec<f32> {
    floats(&fast_changes(&weights(&[softmax(logits)]), &tensor(values)).unwrap())
}

fn near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() < tolerance * e.abs().max(1.0), "{i}: {f} against {e}");
    }
}

fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    order
}

#[test]
fn golden_g5() {
    let logits: Vec<f64> = Generator(11).rows(1, 6)[0].iter().map(|v| 4.0 * v).collect();
    let values = Generator(12).rows(6, 4);
    let a = softmax(&logits);
    let expected = [0.005635, 0.007514, 0.013693, 0.001502, 0.251623, 0.720034];
    assert!(a.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-6));
    let o = output(&a, &values);
    assert!(distance(&o, &[0.478620, -0.304183, 0.141772, -0.663701]) < 2e-6);
    let mean = output(&[1.0 / 6.0; 6], &values);
    assert!(distance(&mean, &[-0.021868, -0.223604, -0.016520, -0.265710]) < 2e-6);
    let c = exact(&logits, &values);
    near(&c, &[0.008314, 0.009678, 0.024049, 0.001341, 0.322303, 0.874297], 1e-5);
    assert!((c[0] + c[2] - 0.032363).abs() < 1e-6, "two single scores against their joint error, below");
    assert_eq!(order(&c), [3, 0, 1, 2, 4, 5]);
    let c = fast(&logits, &values);
    near(&c, &[0.006558, 0.005370, 0.018365, 0.001211, 0.334121, 2.220641], 1e-5);
    assert_eq!(order(&c), [3, 1, 0, 2, 4, 5]);
    assert!((joint_change(&a, &values, &[0, 2]) - 0.027938).abs() < 1e-6);
}

#[test]
fn the_score_is_the_change_of_the_output() {
    let mut g = Generator(21);
    for _ in 0..50 {
        let logits: Vec<f64> = g.rows(1, 9)[0].iter().map(|v| 3.0 * v).collect();
        let values = g.rows(9, 5);
        let o = output(&softmax(&logits), &values);
        let expected: Vec<f64> = (0..9).map(|j| distance(&o, &without(&logits, &values, &[j]))).collect();
        near(&exact(&logits, &values), &expected, 1e-5);
        // Without the factor 1 / (1 - a), or with squares, it is not.
        let a = softmax(&logits);
        let wrong: Vec<f64> = (0..9).map(|j| a[j] * distance(&o, &values[j])).collect();
        assert!(wrong.iter().zip(&expected).any(|(w, e)| (w - e).abs() > 1e-4));
    }
}

#[test]
fn shifts_scales_and_rotations_of_the_values() {
    let mut g = Generator(22);
    let logits = g.rows(1, 12).remove(0);
    let values = g.rows(12, 4);
    let map = |f: &dyn Fn(&[f64]) -> Vec<f64>| values.iter().map(|v| f(v)).collect::<Vec<_>>();
    let shifted = map(&|v| v.iter().zip([3.0, -7.0, 1.0, 20.0]).map(|(v, s)| v + s).collect());
    let scaled = map(&|v| v.iter().map(|v| v * -2.5).collect());
    let (sin, cos) = 1.1f64.sin_cos();
    let turned = map(&|v| vec![v[3], v[0] * cos - v[1] * sin, v[0] * sin + v[1] * cos, -v[2]]);
    for score in [exact, fast] {
        let c: Vec<f64> = score(&logits, &values).into_iter().map(f64::from).collect();
        near(&score(&logits, &shifted), &c, 2e-5);
        near(&score(&logits, &turned), &c, 1e-6);
        near(&score(&logits, &scaled), &c.iter().map(|c| c * 2.5).collect::<Vec<_>>(), 1e-6);
    }
}

#[test]
fn equal_values_score_exactly_nothing() {
    let mut g = Generator(23);
    let logits: Vec<f64> = g.rows(1, 12)[0].iter().map(|v| 5.0 * v).collect();
    let values = vec![g.rows(1, 7).remove(0); 12];
    for score in [exact, fast] {
        let scores = score(&logits, &values);
        assert!(scores.iter().all(|c| *c == 0.0));
        // All tie, so the newest stay, however uneven the attention is.
        let kept = select(&scores, Keep { budget: 5, window: 0, sinks: 0, said: 0 }, |_| false).unwrap();
        assert_eq!(kept, [7, 8, 9, 10, 11]);
    }
}

#[test]
fn even_attention_makes_both_forms_equal() {
    let values = Generator(24).rows(10, 6);
    let (a, b) = (exact(&[0.0; 10], &values), fast(&[0.0; 10], &values));
    near(&a, &b.into_iter().map(f64::from).collect::<Vec<_>>(), 1e-6);
}

#[test]
fn one_weight_that_takes_all_stays_finite() {
    let values = Generator(25).rows(6, 4);
    for gap in [1.0, 20.0, 60.0, 2000.0] {
        let mut logits = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
        for heavy in [0, 5] {
            logits[heavy] += gap;
            for c in [exact(&logits, &values), fast(&logits, &values)] {
                assert!(c.iter().all(|c| c.is_finite()), "{c:?}");
                // A little more weight may still lie near the output; nearly all of it can't.
                assert!(gap < 20.0 || order(&c).last() == Some(&heavy), "{gap}: {c:?}");
            }
            if gap < 61.0 {
                let o = output(&softmax(&logits), &values);
                let expected = distance(&o, &without(&logits, &values, &[heavy]));
                near(&[exact(&logits, &values)[heavy]], &[expected], 1e-5);
            }
            logits[heavy] -= gap;
        }
    }
}

#[test]
fn a_single_entry_scores_a_number_and_stays() {
    let values = Generator(29).rows(1, 4);
    for score in [exact, fast] {
        assert!(score(&[0.7], &values).iter().all(|c| c.is_finite()));
    }
    let cfg = config(1, 1, 4, 64);
    for policy in ["caote(keydiff)", "fastcaote(tova)", "caote(h2o)"] {
        let mut cache = bounded(&cfg, &options(policy, 1, 1), 0);
        feed_watched(&mut cache, &tensor(&values), &tensor(&values));
        cache.evict().unwrap();
        assert_eq!((cache.positions(0, 0), cache.evictions()), ([0].as_slice(), 0), "{policy}");
    }
}

#[test]
fn a_group_changes_as_its_outputs_side_by_side() {
    let mut g = Generator(27);
    let (logits, values) = (g.rows(3, 8), g.rows(8, 4));
    let rows: Vec<_> = logits.iter().map(|l| softmax(l)).collect();
    let c = floats(&stacked(&changes(&weights(&rows), &tensor(&values)).unwrap()).unwrap());
    let expected: Vec<f64> = (0..8)
        .map(|j| {
            let heads = logits.iter().zip(&rows);
            heads.map(|(l, a)| distance(&output(a, &values), &without(l, &values, &[j])).powi(2)).sum::<f64>().sqrt()
        })
        .collect();
    near(&c, &expected, 1e-5);
}

#[test]
fn many_at_once() {
    let mut g = Generator(28);
    let mut worst = 1f64;
    for _ in 0..20 {
        let logits: Vec<f64> = g.rows(1, 10)[0].iter().map(|v| 2.0 * v).collect();
        let values = g.rows(10, 4);
        let a = softmax(&logits);
        let o = output(&a, &values);
        let true_change = |s: &[usize]| distance(&o, &without(&logits, &values, s));
        let sets: Vec<Vec<usize>> = (0u32..1 << 10)
            .filter(|bits| (2..=8).contains(&bits.count_ones()))
            .map(|bits| (0..10).filter(|i| bits >> i & 1 == 1).collect())
            .collect();
        for set in sets.iter().step_by(7) {
            let joint = joint_change(&a, &values, set);
            assert!((joint - true_change(set)).abs() < 1e-9);
            let left: f64 = 1.0 - set.iter().map(|j| a[*j]).sum::<f64>();
            let bound: f64 = set.iter().map(|j| a[*j] * distance(&o, &values[*j])).sum::<f64>() / left;
            assert!(joint <= bound + 1e-12);
        }
        let greedy: Vec<usize> = order(&exact(&logits, &values))[..4].to_vec();
        let best = sets.iter().filter(|s| s.len() == 4).map(|s| true_change(s)).fold(f64::INFINITY, f64::min);
        assert!(true_change(&greedy) >= best - 1e-12);
        worst = worst.max(true_change(&greedy) / best);
    }
    println!("greedy sets of 4 of 10 change the output at most {worst:.2} times as much as the best set");
}

/// Entries of one layer: 2 key heads, a group of 2, 3 watched queries, 11 entries of size 4.
struct Layer {
    keys: Tensor,
    values: Tensor,
    queries: Tensor,
    hidden: Tensor,
    mass: Tensor,
}

impl Layer {
    fn new(scale: f64) -> Self {
        let d = &device();
        let mut g = Generator(30);
        let mut draw = |shape: &[usize], factor: f64, offset: f64| {
            let n = shape.iter().product();
            let numbers: Vec<f32> = (0..n).map(|_| (g.next() * factor + offset) as f32).collect();
            Tensor::from_vec(numbers, shape, d).unwrap()
        };
        let (keys, values) = (draw(&[2, 11, 4], 1.0, 0.2), draw(&[2, 11, 4], 1.0, 0.0));
        let queries = draw(&[2, 2, 3, 4], 2.0, 0.0);
        let mass = (draw(&[2, 2, 11], 1.0, 1.0) * scale).unwrap();
        let hidden = (0..3 * 11).map(|i| if i % 11 > 8 + i / 11 { f32::NEG_INFINITY } else { 0.0 });
        let hidden = Tensor::from_iter(hidden, d).unwrap().reshape((1, 3, 11)).unwrap();
        Self { keys, values, queries, hidden: hidden.broadcast_as((2, 3, 11)).unwrap().contiguous().unwrap(), mass }
    }

    fn entries(&self) -> Entries<'_> {
        Entries {
            layer: 0,
            seen: 11,
            keys: &self.keys,
            values: &self.values,
            queries: Some(&self.queries),
            hidden: Some(&self.hidden),
            mass: Some(&self.mass),
        }
    }
}

#[test]
fn wrapped_scores() {
    let layer = Layer::new(1.0);
    let entries = layer.entries();
    let bases: [Box<dyn Weights>; 4] = [
        Box::new(Tova),
        Box::new(SnapKv { observe: 3 }),
        Box::new(H2o),
        Box::new(KeyDiff { anchor: Anchor::Normalised }),
    ];
    for base in bases {
        let rows = base.weights(&entries).unwrap();
        let sums = floats(&rows.sum(D::Minus1).unwrap());
        assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-5), "{base:?}: {sums:?}");
        assert!(floats(&rows).iter().all(|w| *w >= 0.0));
        let direct = stacked(&changes(&rows, &layer.values).unwrap()).unwrap();
        let wrapped = Caote { base, fast: false }.scores(&entries).unwrap();
        assert_eq!(floats(&direct), floats(&wrapped));
    }
    // TOVA by hand: softmax of the newest query.
    let tova = floats(&Weights::weights(&Tova, &entries).unwrap());
    let (q, k) = (floats(&layer.queries), floats(&layer.keys));
    for head in 0..2 {
        for member in 0..2 {
            let q = &q[((head * 2 + member) * 3 + 2) * 4..][..4];
            let logits: Vec<f64> = (0..11)
                .map(|j| q.iter().zip(&k[(head * 11 + j) * 4..][..4]).map(|(q, k)| f64::from(q * k) / 2.0).sum())
                .collect();
            near(&tova[(head * 2 + member) * 11..][..11], &softmax(&logits), 1e-5);
        }
    }
    // What H2O counted may have any unit.
    let scores = |scale| Caote { base: Box::new(H2o), fast: true }.scores(&Layer::new(scale).entries()).unwrap();
    near(&floats(&scores(40.0)), &floats(&scores(1.0)).into_iter().map(f64::from).collect::<Vec<_>>(), 1e-5);
    // The newest but one of the queries does not see the newest entry.
    let rows = floats(&crate::model::cache::attentive::attention(&entries).unwrap());
    assert_eq!(rows[11 + 10], 0.0);
    assert!(rows[2 * 11 + 10] > 0.0);
}

#[test]
fn what_was_not_watched_is_an_error() {
    let layer = Layer::new(1.0);
    let entries = Entries { queries: None, mass: None, ..layer.entries() };
    for policy in ["h2o", "tova", "snapkv", "caote(h2o)", "fastcaote(tova)"] {
        let policy: Policy = policy.parse().unwrap();
        let scorer =
            crate::model::cache::scorer::scorer(&crate::model::cache::CacheOptions { policy, ..Default::default() });
        let error = scorer.unwrap().scores(&entries).unwrap_err().to_string();
        assert!(error.contains("watched"), "{policy}: {error}");
    }
}

/// All eight wrappers, with queries and weights that a pass would show.
#[test]
fn memory_is_bounded_over_a_hundred_thousand_positions() {
    let cfg = config(1, 2, 4, 1 << 20);
    let keys = tensor(&Generator(31).rows(2 * 125, 4)).reshape((2, 125, 4)).unwrap();
    let wrappers = Policy::all().into_iter().filter(|p| matches!(p, Policy::Caote(_) | Policy::FastCaote(_)));
    for policy in wrappers {
        let mut cache = bounded(&cfg, &options(&policy.to_string(), 100, 125), 0);
        while cache.position() < 100_000 {
            let seen = cache.position();
            feed_watched(&mut cache, &keys, &keys);
            assert_eq!((cache.len(), cache.position()), ((seen + 125).min(100), seen + 125), "{policy}");
        }
        assert_eq!(cache.evictions(), 800, "{policy}");
        assert_eq!(cache.bytes(), cache.bytes_at_capacity(DType::F32), "{policy}");
    }
}
