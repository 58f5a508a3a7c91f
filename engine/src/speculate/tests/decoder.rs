//! Rounds on a real decoder and its bounded cache say what it says by itself.

use crate::{
    model::{
        CacheOptions, Commit, Decoder, KvCache, Mode, Policy,
        config::{DecoderConfig, DecoderKind, HfDecoderConfig},
        plan::decoder_tensors,
    },
    quantised::{Format, testing::packed},
    sampler::{Sampling, argmax},
    speculate::{
        Ask, Drafter, ModelDrafter, Ngram, Picture, SpeculationOptions, Speculator,
        draft::{Branch, Logits},
    },
};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

pub(super) const VOCAB: usize = 40;
/// Begins an utterance.
pub(super) const LEAD: u32 = 1;
/// Ends one.
pub(super) const END: u32 = 3;
/// Longest utterance.
const LONGEST: usize = 14;

fn config(max_positions: usize, mlp_width: usize) -> DecoderConfig {
    let hf = HfDecoderConfig {
        model_type: Some(DecoderKind::Llama.model_type().into()),
        vocab_size: Some(VOCAB),
        hidden_size: Some(32),
        intermediate_size: Some(mlp_width),
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
fn weights(cfg: &DecoderConfig, seed: u64) -> BTreeMap<String, Tensor> {
    let (embedding, layers) = decoder_tensors(cfg, "model.", "lm_head.");
    let mut specs: Vec<_> = embedding.into_iter().chain(layers).collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let random = |spec: spotter_vision::encoder::TensorSpec| {
        let n: usize = spec.shape.iter().product();
        let numbers: Vec<f32> = (0..n).map(|_| rng.random_range(-0.9..0.9)).collect();
        (spec.name, Tensor::from_vec(numbers, spec.shape, &Device::Cpu).unwrap())
    };
    specs.into_iter().map(random).collect()
}

pub(super) fn decoder(seed: u64, max_positions: usize) -> Decoder {
    let cfg = config(max_positions, 48);
    let vb = VarBuilder::from_tensors(weights(&cfg, seed).into_iter().collect(), DType::F32, &Device::Cpu);
    Decoder::new(&cfg, vb, Mode::Infer).unwrap()
}

/// One whose weights are packed.
fn packed_decoder(seed: u64, max_positions: usize, format: Format) -> Decoder {
    let cfg = config(max_positions, 64);
    Decoder::new(&cfg, packed(weights(&cfg, seed).into_iter().collect(), format), Mode::Infer).unwrap()
}

pub(super) fn embedded(model: &Decoder, ids: &[u32]) -> Tensor {
    model.embed(&Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap()
}

pub(super) fn pass(model: &Decoder, cache: &mut KvCache, x: &Tensor) -> Vec<f32> {
    let hidden = model.forward(x, Some(cache)).unwrap();
    let n = hidden.dim(1).unwrap();
    floats(&model.logits(&hidden.narrow(1, n - 1, 1).unwrap()).unwrap())
}

pub(super) fn floats(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

pub(super) fn options(method: &str) -> SpeculationOptions {
    SpeculationOptions { method: method.parse().unwrap(), self_defence: false, ..SpeculationOptions::default() }
}

pub(super) fn bounded(model: &Decoder, policy: Policy, every: usize) -> KvCache {
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
                s.see(&picture).unwrap();
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

/// Utterances of `SPOTTER_UTTERANCES`, for each drafter and policy; left out, about 1,000 for each drafter.
fn utterances(policies: usize, methods: usize) -> usize {
    let asked = std::env::var("SPOTTER_UTTERANCES").ok().map(|n| n.parse::<usize>().unwrap().div_ceil(methods));
    // An utterance that is taken back is among them.
    asked.unwrap_or(1000usize.div_ceil(policies * methods)).max(8)
}

/// C1, C2 and S1.3: 1,000 utterances with 0 to 3 pictures before each, by every method over every cache policy, with
/// evictions all along. S3.8: no round proposes more than its method may.
pub(super) fn says_the_same(name: &str, methods: &[&str], drafter: impl Fn(&[Vec<u32>]) -> Box<dyn Drafter>) {
    says_the_same_of((name, &decoder(42, 400)), methods, drafter);
}

fn says_the_same_of(
    (name, model): (&str, &Decoder),
    methods: &[&str],
    drafter: impl Fn(&[Vec<u32>]) -> Box<dyn Drafter>,
) {
    let policies: Vec<Policy> = Policy::all().into_iter().filter(|p| *p != Policy::None).collect();
    let each = utterances(policies.len(), methods.len());
    let (mut rounds, mut full, mut said, mut tokens) = (0, 0, 0, 0);
    for (i, policy) in policies.into_iter().enumerate() {
        let every = [8, 24][i % 2];
        let plain = stream(model, bounded(model, policy, every), None, each);
        for method in methods {
            let mut speculator = Speculator::new(drafter(&plain), &options(method), 1).with_log();
            let found = stream(model, bounded(model, policy, every), Some(&mut speculator), each);
            let differs = found.iter().zip(&plain).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{policy}, {method}: the first utterance that differs");
            let budget = options(method).method.shape.nodes();
            assert!(speculator.log().iter().all(|round| round.proposed <= budget), "{policy}, {method}");
            full += speculator.log().iter().filter(|round| round.proposed == budget).count();
            rounds += speculator.log().len();
            said += found.len();
            tokens += found.iter().map(Vec::len).sum::<usize>();
        }
    }
    println!("{name}: {said} utterances of {tokens} tokens in {rounds} rounds, none differs");
    assert!(rounds > 200 && full > 20, "{rounds} rounds, {full} of them full");
}

pub(super) const METHODS: [&str; 9] = [
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
    says_the_same("lookup", &METHODS, |_| Box::new(Ngram::lookup(VOCAB)));
    says_the_same("ngram", &METHODS, |_| Box::new(Ngram::counts(VOCAB)));
}

/// Packed weights multiply one row and many alike, so drafts are checked with the numbers of plain decoding.
#[test]
fn packed_weights_change_no_word() {
    let (four, eight) = (packed_decoder(42, 400, Format::Q4_1), packed_decoder(42, 400, Format::Q8_0));
    says_the_same_of(("packed in 4 bits", &four), &METHODS, |_| Box::new(Ngram::lookup(VOCAB)));
    says_the_same_of(("packed in 8 bits", &eight), &["static(4)", "rsd-c(2,2,1)"], |_| {
        let drafter = packed_decoder(43, 400, Format::Q5_0);
        Box::new(ModelDrafter::new(drafter, VOCAB, Picture::Drop).unwrap())
    });
}

#[test]
fn a_language_model_changes_no_word() {
    let text_only = |_: &[Vec<u32>]| -> Box<dyn Drafter> {
        Box::new(ModelDrafter::new(decoder(43, 400), VOCAB, Picture::Drop).unwrap())
    };
    says_the_same("a language model", &METHODS, text_only);
    let marked = Picture::Placeholder(2);
    let itself =
        |_: &[Vec<u32>]| -> Box<dyn Drafter> { Box::new(ModelDrafter::new(decoder(42, 600), VOCAB, marked).unwrap()) };
    says_the_same("the target, with a token for a picture", &METHODS, itself);
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
    says_the_same("a language model with a trimmed head", &METHODS[1..4], fresh);
    assert!(decoder(43, 400).trim_head(&[]).is_err() && decoder(43, 400).trim_head(&[VOCAB as u32]).is_err());
}

#[test]
fn a_hostile_drafter_changes_no_word() {
    says_the_same("a hostile one", &METHODS, |_| Box::new(Hostile(ChaCha8Rng::seed_from_u64(6))));
    // Always wrong.
    says_the_same("one that is always wrong", &METHODS, |plain| Box::new(Scripted::new(plain, 1)));
}

#[test]
fn a_drafter_that_is_right_changes_no_word() {
    says_the_same("one that is right two times of three", &METHODS, |plain| Box::new(Scripted::new(plain, 3)));
    says_the_same("one that is always right", &METHODS, |plain| Box::new(Scripted::new(plain, usize::MAX)));
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
