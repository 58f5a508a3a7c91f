//! The rules in exact arithmetic, and the functions of the engine against them.

use super::{P64, Q64, Toy, ToyDrafter, Way};
use crate::{
    sampler::Sampling,
    speculate::{chain::accept, rsd::Node, tree::Shape},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Two primes below 2^31: a fraction that is equal to another modulo both, and nearly equal as a number, is equal.
const PRIMES: [u64; 2] = [2_147_483_647, 2_147_483_629];

/// A fraction by its value and its residues.
#[derive(Clone, Copy, Debug)]
struct Exact {
    value: f64,
    residues: [u64; 2],
}

impl Exact {
    fn new(n: u128) -> Self {
        Self { value: n as f64, residues: PRIMES.map(|m| (n % u128::from(m)) as u64) }
    }

    fn fraction(n: u128, d: u128) -> Self {
        Self::new(n).over(Self::new(d))
    }

    fn zip(self, other: Self, value: f64, op: impl Fn(u64, u64, u64) -> u64) -> Self {
        let at = |i: usize| op(self.residues[i], other.residues[i], PRIMES[i]);
        Self { value, residues: [at(0), at(1)] }
    }

    fn plus(self, o: Self) -> Self {
        self.zip(o, self.value + o.value, |a, b, m| (a + b) % m)
    }

    fn minus(self, o: Self) -> Self {
        self.zip(o, self.value - o.value, |a, b, m| (a + m - b) % m)
    }

    fn times(self, o: Self) -> Self {
        self.zip(o, self.value * o.value, |a, b, m| a * b % m)
    }

    fn over(self, o: Self) -> Self {
        // Fermat: b^(m - 2) is the inverse of b.
        let inverse = |b: u64, m: u64| {
            let (mut result, mut base, mut power) = (1, b, m - 2);
            while power > 0 {
                if power % 2 == 1 {
                    result = result * base % m;
                }
                base = base * base % m;
                power /= 2;
            }
            result
        };
        self.zip(o, self.value / o.value, |a, b, m| a * inverse(b, m) % m)
    }

    fn is(self, o: Self) -> bool {
        self.residues == o.residues && (self.value - o.value).abs() < 1e-12
    }
}

fn sum(row: &[Exact]) -> Exact {
    row.iter().fold(Exact::new(0), |a, b| a.plus(*b))
}

/// Adds up, over all ways to draw `k` tokens one after the other, what is emitted, and the chance of acceptance.
fn enumerate(k: usize, r: &[Exact], q: &[Exact], weight: Exact, law: &mut [Exact], accepted: &mut Exact) {
    if k == 0 {
        for (slot, r) in law.iter_mut().zip(r) {
            *slot = slot.plus(weight.times(*r));
        }
        return;
    }
    for x in (0..q.len()).filter(|x| q[*x].value > 0.0) {
        let drawn = weight.times(q[x]);
        let chance = if r[x].value < q[x].value { r[x].over(q[x]) } else { Exact::new(1) };
        law[x] = law[x].plus(drawn.times(chance));
        *accepted = accepted.plus(drawn.times(chance));
        let rejected = drawn.times(Exact::new(1).minus(chance));
        if chance.is(Exact::new(1)) {
            continue;
        }
        let zero = Exact::new(0);
        let residual: Vec<Exact> =
            r.iter().zip(q).map(|(r, q)| if r.value > q.value { r.minus(*q) } else { zero }).collect();
        let total = sum(&residual);
        let residual: Vec<Exact> = residual.into_iter().map(|v| v.over(total)).collect();
        let mut rest = q.to_vec();
        rest[x] = zero;
        let total = sum(&rest);
        let rest: Vec<Exact> = rest.into_iter().map(|v| v.over(total)).collect();
        enumerate(k - 1, &residual, &rest, rejected, law, accepted);
    }
}

const ACCEPTANCE: [(u128, u128); 4] = [
    (19, 32),
    (29_301, 37_120),
    (4_469_742_941, 5_188_899_443),
    (179_052_035_897_969_267_119, 192_518_909_878_171_676_800),
];

/// S3.1 with exact fractions: the output law is p, the acceptance that of the spec.
#[test]
fn recursive_rejection_is_exact() {
    let of = |row: [f32; 8]| row.map(|w| Exact::fraction(w as u128, 64));
    for (k, (n, d)) in ACCEPTANCE.into_iter().enumerate() {
        let (mut law, mut accepted) = (vec![Exact::new(0); 8], Exact::new(0));
        enumerate(k + 1, &of(P64), &of(Q64), Exact::new(1), &mut law, &mut accepted);
        assert!(law.iter().zip(of(P64)).all(|(l, p)| l.is(p)), "{} siblings", k + 1);
        assert!(accepted.is(Exact::fraction(n, d)), "{} siblings: {}", k + 1, accepted.value);
        assert!(!accepted.is(Exact::fraction(n + 1, d)));
    }
}

/// The same enumeration through the engine's rule, in f32; `forget` plants the classic bug.
fn through_the_engine(k: usize, node: &Node, q: &[f64], weight: f64, forget: bool, out: &mut (Vec<f64>, f64)) {
    if k == 0 {
        for (slot, r) in out.0.iter_mut().zip(node.residual()) {
            *slot += weight * f64::from(*r);
        }
        return;
    }
    for x in (0..8).filter(|x| q[*x] > 0.0) {
        let drawn = weight * q[x];
        let chance = f64::from(node.chance(x as u32));
        out.0[x] += drawn * chance;
        out.1 += drawn * chance;
        let mut next = node.clone();
        next.reject(x as u32);
        if forget {
            next = Node::new(next.residual().to_vec(), Q64.map(|w| w / 64.0).to_vec());
        }
        let mut rest = q.to_vec();
        rest[x] = 0.0;
        let total: f64 = rest.iter().sum();
        rest.iter_mut().for_each(|v| *v /= total);
        through_the_engine(k - 1, &next, &rest, drawn * (1.0 - chance), forget, out);
    }
}

/// S3.1 of the function that decodes, and the bug that it must not have.
#[test]
fn the_engines_rule_gives_the_targets_law() {
    let node = Node::new(P64.map(|w| w / 64.0).to_vec(), Q64.map(|w| w / 64.0).to_vec());
    let q = Q64.map(|w| f64::from(w) / 64.0);
    let off = |law: &[f64]| law.iter().zip(P64).map(|(l, p)| (l - f64::from(p) / 64.0).abs()).fold(0.0, f64::max);
    for (k, (n, d)) in ACCEPTANCE.into_iter().enumerate() {
        let mut out = (vec![0.0; 8], 0.0);
        through_the_engine(k + 1, &node, &q, 1.0, false, &mut out);
        assert!(off(&out.0) < 1e-6, "{} siblings: {:?}", k + 1, out.0);
        assert!((out.1 - n as f64 / d as f64).abs() < 1e-6, "{} siblings: {}", k + 1, out.1);
        let mut buggy = (vec![0.0; 8], 0.0);
        through_the_engine(k + 1, &node, &q, 1.0, true, &mut buggy);
        assert!(k == 0 || off(&buggy.0) > 1e-3, "the planted bug must show");
    }
}

/// Tokens of a round where every node has the same laws: the tables of the specs, and the engine's mean.
#[test]
fn tokens_per_round_are_those_of_the_tables() {
    let a = ACCEPTANCE.map(|(n, d)| n as f64 / d as f64);
    let table: [(&[usize], usize, f64); 8] = [
        (&[1], 1, 1.593_750),
        (&[1, 1, 1], 3, 2.155_609),
        (&[1, 1, 1, 1, 1], 5, 2.353_686),
        (&[2, 1, 1], 6, 2.536_320),
        (&[3, 1, 1], 9, 2.676_543),
        (&[2, 2, 1], 10, 2.782_404),
        (&[2, 2, 2], 14, 2.904_286),
        (&[3, 2, 1], 15, 2.945_087),
    ];
    for (factors, columns, expected) in table {
        let (mut sum, mut product) = (1.0, 1.0);
        for b in factors {
            product *= a[b - 1];
            sum += product;
        }
        assert!((sum - expected).abs() < 1e-6, "{factors:?}: {sum}");
        assert_eq!(Shape::Branches(factors.to_vec()).nodes(), columns);
        let mut way = Way::fixed(Shape::Branches(factors.to_vec()), Sampling::at(1.0));
        let (mut rng, rounds) = (ChaCha8Rng::seed_from_u64(11), 20_000);
        let lengths: Vec<f64> = (0..rounds)
            .map(|_| {
                let mut drafter = ToyDrafter::new(Toy::fixed(&Q64));
                way.round(&mut drafter, &Toy::fixed(&P64), &[], &mut rng).ids.len() as f64
            })
            .collect();
        let mean = lengths.iter().sum::<f64>() / f64::from(rounds);
        let spread = lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / f64::from(rounds);
        assert!((mean - expected).abs() < 4.0 * (spread / f64::from(rounds)).sqrt(), "{factors:?}: {mean}");
    }
}

/// S3.7: where no node has two children the walk is the chain's rule, bit for bit.
#[test]
fn a_tree_of_ones_is_the_chain() {
    let (draft, target) = (Toy::Markov { seed: 3, vocab: 8 }, Toy::Markov { seed: 4, vocab: 8 });
    let samplings = [Sampling::GREEDY, Sampling::at(1.0), Sampling { temperature: 1.4, top_k: 5, top_p: 0.9 }];
    for sampling in samplings {
        let mut way = Way::fixed(Shape::Branches(vec![1, 1, 1]), sampling);
        let mut lengths = [0; 5];
        for seed in 0..2000 {
            let text = [(seed % 8) as u32, (seed / 8 % 8) as u32];
            let mut drafter = ToyDrafter::new(draft.clone());
            drafter.text = text.to_vec();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let found = way.round(&mut drafter.clone(), &target, &text, &mut rng);
            // The same random numbers once more, through the rule for chains.
            let mut again = ChaCha8Rng::seed_from_u64(seed);
            let (tree, _) = way.grow(&mut drafter, &mut again);
            let drafts: Vec<u32> = tree.tokens()[1..].to_vec();
            let q: Vec<Vec<f32>> = (0..3).map(|c| tree.node(c).unwrap().law.clone().unwrap_or_default()).collect();
            let rows = super::rows(&tree, &target, &text);
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            assert_eq!(found.ids, accept(&drafts, &q, &rows, sampling, &mut again));
            lengths[found.ids.len()] += 1;
        }
        // Greedy laws agree or not, and over so few contexts seldom twice in a row.
        let must = if sampling == Sampling::GREEDY { 1..3 } else { 1..5 };
        assert!(lengths[must].iter().all(|n| *n > 0), "every length must come: {lengths:?}");
    }
}

/// The walk ends at an end, and never goes over the number of tokens that is left (C5).
#[test]
fn ends_cut_a_walk() {
    use crate::speculate::chain::Walk;
    let check = |ends: &[u32], most: usize, ids: &[u32], path: &[usize]| {
        let mut walk = Walk { path: vec![1, 3, 4], ids: vec![7, 5, 9, 2] };
        walk.cut(ends, most);
        assert_eq!((walk.ids.as_slice(), walk.path.as_slice()), (ids, path));
    };
    check(&[], 9, &[7, 5, 9, 2], &[1, 3, 4]);
    check(&[5], 9, &[7, 5], &[1]);
    check(&[2], 9, &[7, 5, 9, 2], &[1, 3, 4]);
    check(&[7, 5], 9, &[7], &[]);
    check(&[], 2, &[7, 5], &[1]);
    check(&[9], 2, &[7, 5], &[1]);
}
