//! What is drawn, against what it should be; and bugs that these tests must notice.

use super::{P64, Q64, Toy, ToyDrafter, Way, chi_square, critical};
use crate::{
    sampler::{Sampling, draw},
    speculate::{
        adaedl::{Rule, StopOptions},
        draft::Drafter,
        governor::{Allowance, COLUMN_COST, Governor, PASS_COST},
        ngram::Ngram,
        rsd::{Beam, Node, Outcome, beam_step, without_replacement},
        tree::Shape,
    },
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const ROUNDS: usize = 100_000;

/// The text before the first round, long enough for look-up to find something.
const TEXT: [u32; 14] = [1, 4, 2, 7, 1, 4, 3, 0, 5, 1, 4, 2, 6, 1];

fn target() -> Toy {
    Toy::Markov { seed: 21, vocab: 8 }
}

fn toy() -> ToyDrafter {
    let mut drafter = ToyDrafter::new(Toy::Markov { seed: 22, vocab: 8 });
    drafter.text = TEXT.to_vec();
    drafter
}

/// Draws the first two tokens behind `TEXT` in as many rounds as they take, `ROUNDS` times, and gives the statistic of
/// their joint law and its critical value.
fn first_two(sampling: Sampling, mut round: impl FnMut(&[u32], &mut ChaCha8Rng) -> Vec<u32>) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    let mut counts = vec![0.0; 64];
    for _ in 0..ROUNDS {
        let mut text = TEXT.to_vec();
        while text.len() < TEXT.len() + 2 {
            let ids = round(&text, &mut rng);
            text.extend(ids);
        }
        counts[(text[TEXT.len()] * 8 + text[TEXT.len() + 1]) as usize] += 1.0;
    }
    let first = sampling.probabilities(&target().logits(&TEXT));
    let expected: Vec<f64> = (0..64)
        .map(|cell| {
            let (a, b) = (cell / 8, cell % 8);
            let second = sampling.probabilities(&target().logits(&[&TEXT[..], &[a as u32]].concat()));
            ROUNDS as f64 * f64::from(first[a]) * f64::from(second[b])
        })
        .collect();
    chi_square(&counts, &expected)
}

fn check(name: &str, way: Way, drafter: &dyn Fn(&[u32]) -> Box<dyn Drafter>) {
    let mut way = way;
    let (found, limit) = first_two(way.sampling, |text, rng| {
        let mut drafter = drafter(text);
        way.round(&mut *drafter, &target(), text, rng).ids
    });
    assert!(found < limit, "{name}, {:?}: {found:.1}, critical {limit:.1}", way.sampling);
}

fn toy_at(text: &[u32]) -> Box<dyn Drafter> {
    Box::new(ToyDrafter { text: text.to_vec(), ..toy() })
}

fn samplings() -> [Sampling; 4] {
    [Sampling::at(0.5), Sampling::at(1.0), Sampling::at(1.7), Sampling { temperature: 1.2, top_k: 6, top_p: 0.9 }]
}

#[test]
fn critical_values_are_those_of_the_tables() {
    for (freedom, expected) in [(15, 37.70), (55, 93.17), (63, 103.44)] {
        assert!((critical(freedom) - expected).abs() < 0.15, "{}", critical(freedom));
    }
}

/// C3 of chains: static lengths, and the control of AdaEDL.
#[test]
fn chains_draw_from_the_target() {
    for sampling in samplings() {
        check("static", Way::fixed(Shape::chain(3), sampling), &toy_at);
        let stop = StopOptions { confidence: 0.3, ..StopOptions::default() };
        check("max-prob", Way::new(Shape::chain(4), Rule::Confidence, stop, sampling), &toy_at);
    }
}

/// C3 of AdaEDL with adaptation, trigger kept and dropped (S2.4).
#[test]
fn adaedl_draws_from_the_target() {
    for sampling in samplings() {
        for keep_trigger in [true, false] {
            let stop = StopOptions { keep_trigger, min_draft: 0, lambda: 0.41, step: 0.02, ..StopOptions::default() };
            check("adaedl", Way::new(Shape::chain(5), Rule::Entropy, stop, sampling), &toy_at);
        }
    }
}

/// S3.4.
#[test]
fn trees_of_constant_branching_draw_from_the_target() {
    for sampling in samplings() {
        check("rsd-c(2,2,1)", Way::fixed(Shape::Branches(vec![2, 2, 1]), sampling), &toy_at);
        check("rsd-c(3,1,1)", Way::fixed(Shape::Branches(vec![3, 1, 1]), sampling), &toy_at);
    }
}

/// S3.4.
#[test]
fn beams_draw_from_the_target() {
    for sampling in samplings() {
        check("rsd-s(3,3)", Way::fixed(Shape::Beams { width: 3, depth: 3 }, sampling), &toy_at);
        let stop = StopOptions { lambda: 0.42, ..StopOptions::default() };
        let stopped = Way::new(Shape::Beams { width: 3, depth: 3 }, Rule::Entropy, stop, sampling);
        check("rsd-s(3,3)+adaedl", stopped, &toy_at);
    }
}

/// C3 of drafters without weights, and of those that mean ill (C2).
#[test]
fn any_drafter_draws_from_the_target() {
    for sampling in [Sampling::at(1.0), Sampling { temperature: 1.2, top_k: 6, top_p: 0.9 }] {
        let reads = |drafter: Ngram, text: &[u32]| -> Box<dyn Drafter> {
            let mut drafter = drafter;
            drafter.read(text).unwrap();
            Box::new(drafter)
        };
        check("lookup", Way::fixed(Shape::chain(3), sampling), &|text| reads(Ngram::lookup(8), text));
        check("ngram", Way::fixed(Shape::Branches(vec![2, 2]), sampling), &|text| reads(Ngram::counts(8), text));
        let fixed = |weights: [f32; 8]| {
            move |text: &[u32]| -> Box<dyn Drafter> {
                Box::new(ToyDrafter { text: text.to_vec(), ..ToyDrafter::new(Toy::fixed(&weights)) })
            }
        };
        check("uniform", Way::fixed(Shape::Branches(vec![3, 2]), sampling), &fixed([1.0; 8]));
        let mut one_hot = [0.0; 8];
        one_hot[5] = 1.0;
        check("one-hot", Way::fixed(Shape::Branches(vec![2, 1]), sampling), &fixed(one_hot));
        check("two only", Way::fixed(Shape::Branches(vec![4]), sampling), &fixed([0., 1., 0., 0., 1., 0., 0., 0.]));
    }
}

/// The classic bug: the sibling's law is not updated after a rejection.
#[test]
fn a_forgotten_removal_is_noticed() {
    let way = Way::fixed(Shape::Branches(vec![3, 2]), Sampling::at(1.0));
    let (found, limit) = first_two(way.sampling, |text, rng| {
        let forgetful = |p: Vec<f32>, q: Vec<f32>, children: &[u32], rng: &mut ChaCha8Rng| {
            let mut node = Node::new(p, q.clone());
            for (place, token) in children.iter().enumerate() {
                if rng.random::<f32>() < node.chance(*token) {
                    return Outcome::Accepted(place);
                }
                node.reject(*token);
                node = Node::new(node.residual().to_vec(), q.clone());
            }
            Outcome::Emitted(draw(node.residual(), rng))
        };
        way.round_with(&mut *toy_at(text), &target(), text, rng, forgetful).ids
    });
    assert!(found > 2.0 * limit, "{found:.1}, critical {limit:.1}");
}

/// Siblings verified by probability instead of in the order of drawing.
#[test]
fn resorted_siblings_are_noticed() {
    let way = Way::fixed(Shape::Branches(vec![3, 2]), Sampling::at(1.0));
    let (found, limit) = first_two(way.sampling, |text, rng| {
        let sorted = |p: Vec<f32>, q: Vec<f32>, children: &[u32], rng: &mut ChaCha8Rng| {
            let mut order: Vec<usize> = (0..children.len()).collect();
            order.sort_by(|a, b| q[children[*a] as usize].total_cmp(&q[children[*b] as usize]));
            let mut node = Node::new(p, q);
            for place in order {
                if rng.random::<f32>() < node.chance(children[place]) {
                    return Outcome::Accepted(place);
                }
                node.reject(children[place]);
            }
            Outcome::Emitted(draw(node.residual(), rng))
        };
        way.round_with(&mut *toy_at(text), &target(), text, rng, sorted).ids
    });
    assert!(found > limit, "{found:.1}, critical {limit:.1}");
}

/// S2.4: dropping a drawn token because its own probability is low biases by the total variation of the spec.
#[test]
fn dropping_a_token_for_its_probability_is_biased() {
    let (p, q) = (P64.map(|w| w / 64.0), Q64.map(|w| w / 64.0));
    let (mut rng, rounds) = (ChaCha8Rng::seed_from_u64(9), 200_000);
    let mut counts = [0f64; 8];
    for _ in 0..rounds {
        let x = draw(&q, &mut rng);
        let emitted = if q[x as usize] < 6.0 / 64.0 {
            draw(&p, &mut rng)
        } else {
            match crate::speculate::rsd::verify(p.to_vec(), q.to_vec(), &[x], &mut rng) {
                Outcome::Accepted(_) => x,
                Outcome::Emitted(token) => token,
            }
        };
        counts[emitted as usize] += 1.0;
    }
    let law = [
        225.0 / 2048.0,
        375.0 / 1024.0,
        75.0 / 1024.0,
        225.0 / 4096.0,
        55.0 / 256.0,
        51.0 / 512.0,
        247.0 / 4096.0,
        43.0 / 2048.0,
    ];
    let distance: f64 = law.iter().zip(p).map(|(l, p)| (l - f64::from(p)).abs()).sum::<f64>() / 2.0;
    assert!((distance - 0.088_623_046_875).abs() < 1e-9);
    let as_biased = chi_square(&counts, &law.map(|l| l * f64::from(rounds)));
    assert!(as_biased.0 < as_biased.1, "{as_biased:?}");
    let as_target = chi_square(&counts, &p.map(|p| f64::from(p) * f64::from(rounds)));
    assert!(as_target.0 > 10.0 * as_target.1, "{as_target:?}");
}

/// C2: with the target itself as drafter everything is accepted, also under sampling.
#[test]
fn the_target_accepts_itself() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for sampling in samplings() {
        for shape in [Shape::chain(4), Shape::Branches(vec![2, 2, 1]), Shape::Beams { width: 3, depth: 3 }] {
            let depth = shape.depth();
            let mut way = Way::fixed(shape, sampling);
            for _ in 0..500 {
                let mut drafter = ToyDrafter { toy: target(), ..toy() };
                let walk = way.round(&mut drafter, &target(), &TEXT, &mut rng);
                if way.shape == Shape::chain(4) {
                    assert_eq!(walk.ids.len(), depth + 1);
                } else {
                    // Of a tree the first of the siblings is accepted; a beam may have been cut behind it.
                    assert!(!walk.path.is_empty());
                }
            }
        }
    }
}

/// S3.2.
#[test]
fn siblings_are_distinct_and_follow_their_law() {
    let (mut rng, trees) = (ChaCha8Rng::seed_from_u64(31), 1_000_000);
    let q = Q64.map(|w| w / 64.0);
    let (mut pairs, mut deep) = (vec![0.0; 64], 0);
    for _ in 0..trees {
        let drawn = without_replacement(&q, 4, &mut rng);
        assert_eq!(drawn.len(), 4);
        for (i, a) in drawn.iter().enumerate() {
            assert!(!drawn[..i].contains(a), "{drawn:?}");
        }
        pairs[(drawn[0] * 8 + drawn[1]) as usize] += 1.0;
        deep += usize::from(drawn[3] == 0);
    }
    let cells: Vec<(f64, f64)> = (0..64)
        .filter(|cell| cell / 8 != cell % 8)
        .map(|cell| {
            let (x, y) = (f64::from(q[cell / 8]), f64::from(q[cell % 8]));
            (pairs[cell], f64::from(trees) * x * y / (1.0 - x))
        })
        .collect();
    let (counts, expected): (Vec<f64>, Vec<f64>) = cells.into_iter().unzip();
    let (found, limit) = chi_square(&counts, &expected);
    assert_eq!(expected.len(), 56);
    assert!(found < limit && (limit - 93.17).abs() < 0.2, "{found:.1}, critical {limit:.1}");
    assert!(deep > 0);
}

/// S3.3.
#[test]
fn beams_are_sequences_without_replacement() {
    let toy = Toy::Markov { seed: 8, vocab: 4 };
    let sampling = Sampling::at(1.0);
    let law = |context: &[u32]| sampling.probabilities(&toy.logits(context));
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let two_levels = |width: usize, rng: &mut ChaCha8Rng| {
        let root = law(&[]);
        let first = beam_step(&[Beam::ROOT], &[Some(&root)], width, rng);
        assert_eq!(first[0].next.perturbed.to_bits(), Beam::ROOT.perturbed.to_bits(), "the top child has its parent's");
        let beams: Vec<Beam> = first.iter().map(|c| c.next).collect();
        let rows: Vec<Vec<f32>> = first.iter().map(|c| law(&[c.token])).collect();
        let rows: Vec<Option<&[f32]>> = rows.iter().map(|r| Some(r.as_slice())).collect();
        let second = beam_step(&beams, &rows, width, rng);
        for (beam, parent) in beams.iter().enumerate() {
            let best = second.iter().filter(|c| c.beam == beam).map(|c| c.next.perturbed).fold(f64::MIN, f64::max);
            assert!(best == f64::MIN || best.to_bits() == parent.perturbed.to_bits());
        }
        second.iter().map(|c| first[c.beam].token * 4 + c.token).collect::<Vec<_>>()
    };
    for _ in 0..200 {
        let mut all = two_levels(16, &mut rng);
        all.sort_unstable();
        assert_eq!(all, (0..16).collect::<Vec<_>>(), "every sequence once");
    }
    let probability = |s: u32| f64::from(law(&[])[(s / 4) as usize]) * f64::from(law(&[s / 4])[(s % 4) as usize]);
    let n = 100_000;
    let mut counts = vec![0.0; 16];
    for _ in 0..n {
        counts[two_levels(1, &mut rng)[0] as usize] += 1.0;
    }
    let expected: Vec<f64> = (0..16).map(|s| f64::from(n) * probability(s)).collect();
    let (found, limit) = chi_square(&counts, &expected);
    assert!(found < limit, "one beam: {found:.1}, critical {limit:.1}");
    // The best of two beams is still a draw, and the other a draw without it.
    let mut pairs = vec![0.0; 256];
    for _ in 0..n {
        let drawn = two_levels(2, &mut rng);
        pairs[(drawn[0] * 16 + drawn[1]) as usize] += 1.0;
    }
    let expected: Vec<f64> = (0..256)
        .map(|cell| {
            let (a, b) = (cell / 16, cell % 16);
            let (p, other) = (probability(a), probability(b));
            if a == b { 0.0 } else { f64::from(n) * p * other / (1.0 - p) }
        })
        .collect();
    let (found, limit) = chi_square(&pairs, &expected);
    assert!(found < limit, "two beams: {found:.1}, critical {limit:.1}");
}

/// A text of templates: behind even tokens the next is all but certain, and the drafter knows it; behind odd ones the
/// drafter knows nothing.
fn templated(seed: u32, knows: bool) -> Toy {
    Toy::Templated { seed, vocab: 32, knows }
}

/// What drafting came to over some tokens, a plain step being 1.
#[derive(Default)]
struct Cost {
    tokens: usize,
    rounds: usize,
    wasted: usize,
    time: f64,
}

impl Cost {
    fn rate(&self) -> f64 {
        self.tokens as f64 / self.time
    }

    /// Tokens a round times the rate.
    fn product(&self) -> f64 {
        self.tokens as f64 / self.rounds as f64 * self.rate()
    }
}

/// Decodes some tokens of a target by a drafter; with `governor` drafting may switch itself off.
fn decode(
    rule: Rule,
    length: usize,
    sampling: Sampling,
    (seed, target, draft): (u32, Toy, Toy),
    governor: Option<Governor>,
) -> Cost {
    let (mut rng, mut governor) = (ChaCha8Rng::seed_from_u64(u64::from(seed)), governor);
    let mut way = Way::new(Shape::chain(length), rule, StopOptions::default(), sampling);
    let (mut text, mut cost) = (vec![1, 2], Cost::default());
    let expected = |depth: usize| 1.0 + (COLUMN_COST + PASS_COST) * depth as f64;
    while cost.tokens < 1200 {
        let depth = governor.as_ref().map_or(length, |g| g.depth(length, expected));
        if depth == 0 {
            let p = sampling.probabilities(&target.logits(&text));
            text.push(draw(&p, &mut rng));
            (cost.tokens, cost.time) = (cost.tokens + 1, cost.time + 1.0);
            governor.iter_mut().for_each(|g| g.plain(0.0, 1.0));
            continue;
        }
        way.shape = Shape::chain(depth);
        let mut drafter = ToyDrafter { text: text.clone(), ..ToyDrafter::new(draft.clone()) };
        let (tree, _) = way.grow(&mut drafter, &mut rng.clone());
        let walk = way.round(&mut drafter, &target, &text, &mut rng);
        let time = expected(tree.drafts());
        governor.iter_mut().for_each(|g| g.round(walk.ids.len(), time, time));
        cost.tokens += walk.ids.len();
        cost.rounds += 1;
        cost.wasted += tree.drafts() - walk.path.len();
        cost.time += time;
        text.extend(walk.ids);
        text.drain(..text.len().saturating_sub(4));
    }
    cost
}

/// S2.6: against the longest static draft at most half as many tokens are drafted in vain, and tokens a round times rate
/// are better than with the best static length, chosen on another text, where the drafter is unsure of what it can't know.
#[test]
fn adaedl_wastes_less_and_loses_nothing() {
    for sampling in [Sampling::GREEDY, Sampling::at(0.6), Sampling::at(1.0)] {
        let text = |seed: u32, knows: bool| Toy::Grounded { seed, vocab: 32, knows };
        let of = |rule: Rule, length: usize, seed: u32| {
            decode(rule, length, sampling, (seed, text(seed, true), text(seed, false)), None)
        };
        let best = |seed: u32| {
            (1..=8).max_by(|a, b| {
                let product = |length: usize| of(Rule::Static, length, seed).product();
                product(*a).total_cmp(&product(*b))
            })
        };
        let chosen = best(4).unwrap();
        let (adaedl, fixed, longest) = (of(Rule::Entropy, 8, 9), of(Rule::Static, chosen, 9), of(Rule::Static, 8, 9));
        assert!(adaedl.wasted * 2 < longest.wasted, "{} against {}", adaedl.wasted, longest.wasted);
        for (name, other) in [("the best length", &fixed), ("the longest", &longest)] {
            let (mine, theirs) = (adaedl.product(), other.product());
            assert!(mine > 1.1 * theirs, "{sampling:?}: {mine:.3} against {theirs:.3} of {name}, {chosen}");
        }
    }
}

/// S2.7: at any temperature AdaEDL with self-defence is at most 3 % slower than plain decoding, also with a drafter that
/// is sure of what is never said, with which it would be much slower.
#[test]
fn no_temperature_makes_it_slow() {
    let mut sure = [0.0; 32];
    sure[31] = 1.0;
    for temperature in [0.0, 0.5, 1.0, 1.4, 1.7] {
        let sampling = Sampling::at(temperature);
        for (draft, loses) in [(templated(3, false), false), (Toy::fixed(&sure), true)] {
            let run = |governor| decode(Rule::Entropy, 8, sampling, (3, templated(3, true), draft.clone()), governor);
            let guarded = run(Some(Governor::new(Some(Allowance::default()))));
            assert!(guarded.rate() > 0.97, "temperature {temperature}: {}", guarded.rate());
            assert!(!loses || run(None).rate() < 0.8);
        }
    }
}
