//! Rounds on a real decoder and its bounded cache.

use crate::{
    model::{
        CacheOptions, Commit, Decoder, KvCache, Mode, Policy,
        config::{DecoderConfig, DecoderKind, HfDecoderConfig},
    },
    sampler::{Sampling, argmax},
    speculate::{
        Ask, Drafter, ModelDrafter, Ngram, Picture, SpeculationOptions, Speculator,
        draft::{Branch, Logits},
    },
};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex};

const VOCAB: usize = 40;
/// Begins an utterance.
const LEAD: u32 = 1;
/// Ends one.
const END: u32 = 3;
/// Longest utterance.
const LONGEST: usize = 14;

fn config(max_positions: usize) -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some(DecoderKind::Llama.model_type().into()),
        vocab_size: Some(VOCAB),
        hidden_size: Some(32),
        intermediate_size: Some(48),
        num_hidden_layers: Some(2),
        num_attention_heads: Some(4),
        num_key_value_heads: Some(2),
        head_dim: Some(8),
        max_position_embeddings: Some(max_positions),
        ..HfDecoderConfig::default()
    };
    DecoderConfig::from_hf(&hf, "").unwrap()
}

/// Random weights large enough that logits lie apart and attention is uneven. Smaller ones say the same token over and
/// over, and of entries that are all but equal rounding decides which is dropped.
fn decoder(seed: u64, max_positions: usize) -> Decoder {
    let (cfg, map) = (config(max_positions), VarMap::new());
    let vb = || VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    Decoder::new(&cfg, vb(), Mode::Infer).unwrap();
    let mut names: Vec<_> = map.data().lock().unwrap().iter().map(|(n, v)| (n.clone(), v.clone())).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (_, var) in names {
        let numbers: Vec<f32> = (0..var.elem_count()).map(|_| rng.random_range(-0.9..0.9)).collect();
        var.set(&Tensor::from_vec(numbers, var.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    Decoder::new(&cfg, vb(), Mode::Infer).unwrap()
}

fn embedded(model: &Decoder, ids: &[u32]) -> Tensor {
    model.embed(&Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap()
}

fn pass(model: &Decoder, cache: &mut KvCache, x: &Tensor) -> Vec<f32> {
    let hidden = model.forward(x, Some(cache)).unwrap();
    let n = hidden.dim(1).unwrap();
    floats(&model.logits(&hidden.narrow(1, n - 1, 1).unwrap()).unwrap())
}

fn floats(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn options(method: &str) -> SpeculationOptions {
    SpeculationOptions { method: method.parse().unwrap(), self_defence: false, ..SpeculationOptions::default() }
}

fn bounded(model: &Decoder, policy: Policy, every: usize) -> KvCache {
    let options = CacheOptions { policy, budget: Some(40), every, block: 8, observe: 4, ..CacheOptions::default() };
    let cfg = model.config();
    let mut cache = KvCache::bounded(cfg, &options, cfg.max_positions, LONGEST + 2, DType::F32, &Device::Cpu).unwrap();
    cache.pin(3).unwrap();
    cache
}

/// Proposes what it is told, with every so manieth token wrong: right, wrong, or half right.
struct Scripted {
    answers: Vec<Vec<u32>>,
    utterance: usize,
    said: usize,
    wrong_every: usize,
    branches: Vec<Branch>,
}

impl Scripted {
    fn new(answers: &[Vec<u32>], wrong_every: usize) -> Self {
        Self { answers: answers.to_vec(), utterance: 0, said: 0, wrong_every, branches: Vec::new() }
    }

    fn law(&self, place: usize) -> Logits {
        let mut row = vec![f32::NEG_INFINITY; VOCAB];
        let right = self.answers[self.utterance - 1].get(place).copied().unwrap_or(0);
        let wrong = (place + 1).is_multiple_of(self.wrong_every);
        row[if wrong { (right as usize + 1) % VOCAB } else { right as usize }] = 0.0;
        row
    }
}

impl Drafter for Scripted {
    fn describe(&self) -> String {
        "scripted".into()
    }

    fn read(&mut self, _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        (self.utterance, self.said) = (self.utterance + 1, 1);
        Ok(())
    }

    fn close(&mut self, _keep: bool) -> Result<()> {
        Ok(())
    }

    fn root(&mut self) -> Result<Option<Logits>> {
        self.branches.clear();
        Ok(Some(self.law(self.said)))
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        let first = self.branches.len();
        self.branches.extend_from_slice(branches);
        let depth = |mut at: usize| {
            let mut depth = 1;
            while let Some(parent) = self.branches[at].parent {
                (at, depth) = (parent, depth + 1);
            }
            depth
        };
        Ok((first..self.branches.len()).map(|b| Some(self.law(self.said + depth(b)))).collect())
    }

    fn settle(&mut self, _path: &[usize], ids: &[u32]) -> Result<()> {
        self.said += ids.len();
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Proposes whatever comes, without sense.
struct Hostile(ChaCha8Rng);

impl Drafter for Hostile {
    fn describe(&self) -> String {
        "hostile".into()
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
        // Now and then nothing, nonsense, or a law over too few tokens.
        Ok(match self.0.random_range(0..8) {
            0 => None,
            1 => Some(vec![f32::NAN; VOCAB]),
            2 => Some(vec![f32::NEG_INFINITY; VOCAB]),
            3 => Some(vec![1.0; 7]),
            _ => Some((0..VOCAB).map(|_| self.0.random_range(-3.0..3.0)).collect()),
        })
    }

    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>> {
        branches.iter().map(|_| self.root()).collect()
    }

    fn settle(&mut self, _path: &[usize], _ids: &[u32]) -> Result<()> {
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a stream of utterances with pictures in between says. Half of the utterances are one open step of the cache, as
/// the coach's are; every seventh of those is taken back.
fn stream(
    model: &Decoder,
    mut cache: KvCache,
    mut speculator: Option<&mut Speculator>,
    utterances: usize,
) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let prompt = [7, 9, 11];
    model.forward(&embedded(model, &prompt), Some(&mut cache)).unwrap();
    if let Some(s) = &mut speculator {
        cache.add_tail(s.tail());
        s.read(&prompt).unwrap();
    }
    let mut said = Vec::new();
    for i in 0..utterances {
        for _ in 0..i % 4 {
            let n = rng.random_range(1..4);
            let numbers: Vec<f32> = (0..n * 32).map(|_| rng.random_range(-1.0..1.0)).collect();
            let picture = Tensor::from_vec(numbers, (1, n, 32), &Device::Cpu).unwrap();
            model.forward(&picture, Some(&mut cache)).unwrap();
            if let Some(s) = &mut speculator {
                s.see(n).unwrap();
            }
        }
        let (in_step, kept) = (i % 2 == 0, i % 14 != 4);
        if in_step {
            cache.begin().unwrap();
        }
        said.push(utter(model, &mut cache, speculator.as_deref_mut(), kept || !in_step));
        if in_step && kept {
            cache.commit(Commit::All).unwrap();
        } else if in_step {
            cache.rollback().unwrap();
        }
        assert!(cache.budget().is_none_or(|budget| cache.len() < budget + 64));
    }
    said
}

/// One utterance, plain or in rounds; afterwards the cache holds all of it and the end.
fn utter(model: &Decoder, cache: &mut KvCache, speculator: Option<&mut Speculator>, kept: bool) -> Vec<u32> {
    let mut said = Vec::new();
    let Some(speculator) = speculator else {
        let mut logits = pass(model, cache, &embedded(model, &[LEAD]));
        while said.len() < LONGEST {
            let id = argmax(&logits);
            said.push(id);
            if id == END {
                break;
            }
            logits = pass(model, cache, &embedded(model, &[id]));
        }
        pass(model, cache, &embedded(model, &[END]));
        return said;
    };
    speculator.read(&[LEAD]).unwrap();
    speculator.open().unwrap();
    let first = argmax(&pass(model, cache, &embedded(model, &[LEAD])));
    speculator.read(&[first]).unwrap();
    said.push(first);
    while said.len() < LONGEST && said.last() != Some(&END) {
        let anchor = *said.last().unwrap();
        let ask = Ask { sampling: Sampling::GREEDY, never: &[], ends: &[END], most: LONGEST - said.len() };
        let ids = speculator.round(model, cache, anchor, &ask).unwrap();
        assert!(!ids.is_empty() && ids.len() <= ask.most);
        said.extend(ids);
    }
    let last = *said.last().unwrap();
    if last != END {
        pass(model, cache, &embedded(model, &[last]));
        speculator.read(&[END]).unwrap();
    }
    pass(model, cache, &embedded(model, &[END]));
    speculator.close(kept).unwrap();
    said
}

/// C1 and C2: 1,000 utterances with pictures between them, by every method over every cache policy, with evictions all
/// along. S3.8: no round proposes more than its method may.
fn says_the_same(methods: &[&str], drafter: impl Fn(&[Vec<u32>]) -> Box<dyn Drafter>) {
    let model = decoder(42, 400);
    let policies: Vec<Policy> = Policy::all().into_iter().filter(|p| *p != Policy::None).collect();
    // An utterance that is taken back is among them.
    let each = 1000usize.div_ceil(policies.len() * methods.len()).max(8);
    let (mut rounds, mut full) = (0, 0);
    for (i, policy) in policies.into_iter().enumerate() {
        let every = [8, 24][i % 2];
        let plain = stream(&model, bounded(&model, policy, every), None, each);
        for method in methods {
            let mut speculator = Speculator::new(drafter(&plain), &options(method), 1).with_log();
            let found = stream(&model, bounded(&model, policy, every), Some(&mut speculator), each);
            let differs = found.iter().zip(&plain).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{policy}, {method}: the first utterance that differs");
            let budget = options(method).method.shape.nodes();
            assert!(speculator.log().iter().all(|round| round.proposed <= budget), "{policy}, {method}");
            full += speculator.log().iter().filter(|round| round.proposed == budget).count();
            rounds += speculator.log().len();
        }
    }
    assert!(rounds > 200 && full > 20, "{rounds} rounds, {full} of them full");
}

const METHODS: [&str; 9] = [
    "static(4)",
    "adaedl(8)",
    "rsd-c(2,2,1)",
    "max-prob(6)",
    "rsd-s(3,3)",
    "rsd-c(3,1,1)+adaedl",
    "static(2)",
    "tiers(6)",
    // 22 columns: more than the rows for which a product is summed in the order of a single one.
    "rsd-c(3,2,2)",
];

#[test]
fn look_up_changes_no_word() {
    says_the_same(&METHODS, |_| Box::new(Ngram::lookup(VOCAB)));
    says_the_same(&METHODS, |_| Box::new(Ngram::counts(VOCAB)));
}

#[test]
fn a_language_model_changes_no_word() {
    says_the_same(&METHODS, |_| Box::new(ModelDrafter::new(decoder(43, 400), VOCAB, Picture::Drop).unwrap()));
    let marked = Picture::Placeholder(2);
    says_the_same(&METHODS, |_| Box::new(ModelDrafter::new(decoder(42, 600), VOCAB, marked).unwrap()));
}

/// A head of some tokens gives the logits of these, and changes no word.
#[test]
fn a_trimmed_head_changes_no_word() {
    let (whole, mut trimmed) = (decoder(43, 400), decoder(43, 400));
    let ids: Vec<u32> = (0..VOCAB as u32).rev().filter(|id| id % 3 != 1).collect();
    trimmed.trim_head(&ids).unwrap();
    assert!(trimmed.parameters() < whole.parameters());
    let x = embedded(&whole, &[3, 1, 4]);
    let logits =
        |model: &Decoder| floats(&model.logits(&model.forward(&x, None).unwrap().narrow(1, 2, 1).unwrap()).unwrap());
    let (all, some) = (logits(&whole), logits(&trimmed));
    assert!(ids.iter().zip(&some).all(|(id, logit)| (all[*id as usize] - logit).abs() < 1e-5));
    let mut drafter = ModelDrafter::new(trimmed, VOCAB, Picture::Drop).unwrap();
    drafter.read(&[3, 1, 4]).unwrap();
    drafter.open().unwrap();
    let row = drafter.root().unwrap().unwrap();
    assert!(row.iter().enumerate().all(|(id, l)| (*l > f32::NEG_INFINITY) == ids.contains(&(id as u32))));
    let fresh = |_: &[Vec<u32>]| -> Box<dyn Drafter> {
        let mut model = decoder(43, 400);
        model.trim_head(&ids).unwrap();
        Box::new(ModelDrafter::new(model, VOCAB, Picture::Drop).unwrap())
    };
    says_the_same(&METHODS[1..4], fresh);
    assert!(decoder(43, 400).trim_head(&[]).is_err() && decoder(43, 400).trim_head(&[VOCAB as u32]).is_err());
}

#[test]
fn a_hostile_drafter_changes_no_word() {
    says_the_same(&METHODS, |_| Box::new(Hostile(ChaCha8Rng::seed_from_u64(6))));
    // Always wrong.
    says_the_same(&METHODS, |plain| Box::new(Scripted::new(plain, 1)));
}

#[test]
fn a_drafter_that_is_right_changes_no_word() {
    says_the_same(&METHODS, |plain| Box::new(Scripted::new(plain, 3)));
    says_the_same(&METHODS, |plain| Box::new(Scripted::new(plain, usize::MAX)));
}

/// C2: block efficiency of drafters that are always right is the length plus one.
#[test]
fn a_right_draft_is_accepted_whole() {
    let model = decoder(42, 4000);
    let cache = || KvCache::new(model.config(), 4000, DType::F32, &Device::Cpu).unwrap();
    let plain = stream(&model, cache(), None, 40);
    let mut right = Speculator::new(Box::new(Scripted::new(&plain, usize::MAX)), &options("static(3)"), 1).with_log();
    assert_eq!(stream(&model, cache(), Some(&mut right), 40), plain);
    let whole = right.log().iter().filter(|r| r.depth == 3 && r.committed == 4).count();
    let cut = right.log().iter().filter(|r| r.accepted + 1 == r.committed && r.accepted < r.depth).count();
    assert!(whole > 50, "{whole}");
    // A round may end early at the end of an utterance only.
    assert_eq!(
        whole + cut + right.log().iter().filter(|r| r.depth < 3 && r.accepted == r.depth).count(),
        right.log().len()
    );
    // S1.4: the figures follow from the log.
    let stats = right.stats();
    let committed: usize = right.log().iter().map(|r| r.committed).sum();
    assert_eq!(stats.block_efficiency(), committed as f64 / right.log().len() as f64);
}

/// The target drafts for itself where no picture comes between: everything is accepted, under sampling too.
#[test]
fn the_target_as_its_own_drafter() {
    let model = decoder(42, 400);
    for sampling in [Sampling::GREEDY, Sampling::at(1.0), Sampling { temperature: 1.3, top_k: 9, top_p: 0.9 }] {
        let drafter = ModelDrafter::new(decoder(42, 400), VOCAB, Picture::Drop).unwrap();
        let mut speculator = Speculator::new(Box::new(drafter), &options("static(3)"), 1);
        let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
        cache.add_tail(speculator.tail());
        speculator.read(&[7, 9, 11]).unwrap();
        pass(&model, &mut cache, &embedded(&model, &[7, 9]));
        speculator.open().unwrap();
        let mut anchor = 11;
        for _ in 0..20 {
            let ask = Ask { sampling, never: &[], ends: &[], most: 99 };
            let ids = speculator.round(&model, &mut cache, anchor, &ask).unwrap();
            assert_eq!(ids.len(), 4, "{sampling:?}");
            anchor = ids[3];
        }
        assert_eq!(speculator.stats().block_efficiency(), 4.0);
    }
}

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

    fn see(&mut self, tokens: usize) -> Result<()> {
        self.inner.see(tokens)
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
            pass(&model, &mut cache, &Tensor::from_vec(numbers, (1, 4, 32), &Device::Cpu).unwrap());
            speculator.see(4).unwrap();
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
            pass(&model, &mut cache, &Tensor::zeros((1, 576, 32), DType::F32, &Device::Cpu).unwrap());
            drafter.see(576).unwrap();
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

/// C5: nothing is committed behind an end, nor over the number of tokens, and the cache agrees.
#[test]
fn an_end_inside_a_draft_ends_there() {
    let model = decoder(42, 400);
    let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
    let mut said = vec![argmax(&pass(&model, &mut cache, &embedded(&model, &[7, 9])))];
    while said.len() < 8 {
        said.push(argmax(&pass(&model, &mut cache, &embedded(&model, &said[said.len() - 1..]))));
    }
    // The first token that is not among those before it ends the text.
    let at = (2..8).find(|i| !said[1..*i].contains(&said[*i])).expect("a new token");
    for (ends, most, expected) in [(vec![said[at]], 7, at), (vec![], 3, 3), (vec![], 1, 1)] {
        let mut right = Scripted::new(&[said.clone()], usize::MAX);
        right.open().unwrap();
        let mut speculator = Speculator::new(Box::new(right), &options("static(7)"), 1);
        let mut cache = KvCache::new(model.config(), 400, DType::F32, &Device::Cpu).unwrap();
        cache.add_tail(speculator.tail());
        pass(&model, &mut cache, &embedded(&model, &[7, 9]));
        let ask = Ask { sampling: Sampling::GREEDY, never: &[], ends: &ends, most };
        let ids = speculator.round(&model, &mut cache, said[0], &ask).unwrap();
        assert_eq!(ids, said[1..=expected]);
        assert_eq!(cache.len(), 2 + expected, "the last token is not in the cache yet");
    }
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
    let trials = 2500;
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
    let warmer = Sampling { temperature: 3.0, ..sampling };
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
    let kept = drafter.text().to_vec();
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
    fresh.read(drafter.text()).unwrap();
    fresh.open().unwrap();
    let again = fresh.root().unwrap().unwrap();
    assert!(row.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-4));
}
