//! A language model that answers prompts.

use super::{
    Pair, SpeculateArgs, Way, path_text,
    table::{Row, Taken, rows},
    warn_without_drafter, ways,
};
use crate::cli::Hinted;
use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use spotter_engine::{
    model::{KvCache, LanguageModel},
    sampler::Sampling,
    speculate::{Ask, Drafter, DrafterKind, ModelDrafter, Ngram, SpeculationOptions, Speculator, same_vocabulary},
};
use std::{path::Path, time::Instant};

/// What is asked where no prompts are given.
const PROMPTS: &str = include_str!("prompts.txt");
/// Drafts that a cache has room for beside an answer.
const TAIL: usize = 64;

/// A target with its prompts, and the drafter that is opened anew for each way.
struct Scene<'a> {
    args: &'a SpeculateArgs,
    model: LanguageModel,
    drafter: Option<&'a Path>,
    device: &'a Device,
}

/// A prompt that was read: its ids, the first token of the answer, the cache.
struct Begun {
    ids: Vec<u32>,
    first: u32,
    cache: KvCache,
}

/// Runs all ways over all prompts at each temperature.
pub(super) fn run(args: &SpeculateArgs, pair: Pair<'_>, device: &Device) -> Result<Vec<Row>> {
    let path = pair.model.context("no model")?;
    let open = |path: &Path| {
        LanguageModel::open(path, DType::F32, device)
            .map_err(|e| Hinted::new(e.into(), "SmolLM2 comes with `scripts/setup.sh smollm2`"))
    };
    let scene = Scene { args, model: open(path)?, drafter: pair.draft, device };
    let name = pair.draft.map(path_text).transpose()?;
    warn_without_drafter(name.as_deref());
    let ways = ways(args, name.as_deref(), &SpeculationOptions::default());
    let text = match &args.prompts {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("{}: can't be read", file.display()))?,
        None => PROMPTS.to_owned(),
    };
    let prompts: Vec<&str> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).take(args.count.map_or(8, usize::from)).collect();
    anyhow::ensure!(!prompts.is_empty(), "there are no prompts");
    let bar = ProgressBar::new((prompts.len() * args.temperature.len()) as u64);
    let target = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut all = Vec::new();
    for temperature in &args.temperature {
        let mut speculators = ways.iter().map(|way| scene.speculator(way)).collect::<Result<Vec<_>>>()?;
        let mut taken = vec![Taken::default(); ways.len()];
        for (number, prompt) in prompts.iter().enumerate() {
            scene.answer(number, prompt, *temperature, &mut speculators, &mut taken)?;
            bar.inc(1);
        }
        let size = scene.model.decoder.parameters().max(1) as f64;
        let measured: Vec<(Way, Taken, f64)> = ways
            .iter()
            .zip(taken)
            .zip(&speculators)
            .map(|((way, mut taken), speculator)| {
                let cost = speculator.as_ref().map_or(0.0, |s| s.drafter().parameters() as f64 / size);
                taken.stats = speculator.as_ref().map(Speculator::stats).unwrap_or_default();
                (way.clone(), taken, cost)
            })
            .collect();
        all.extend(rows(&target, *temperature, &measured));
    }
    bar.finish_and_clear();
    Ok(all)
}

impl Scene<'_> {
    fn speculator(&self, way: &Way) -> Result<Option<Speculator>> {
        let vocab = self.model.decoder.config().vocab;
        let options: SpeculationOptions = way.options();
        let drafter: Box<dyn Drafter> = match (&way.drafter, self.drafter) {
            (DrafterKind::None, _) => return Ok(None),
            (DrafterKind::Lookup, _) => Box::new(Ngram::lookup(vocab)),
            (DrafterKind::Model(_), Some(path)) => {
                let drafter = LanguageModel::open(path, DType::F32, self.device)?;
                same_vocabulary(&self.model.tokenizer.vocabulary(), &drafter.tokenizer.vocabulary())
                    .with_context(|| path.display().to_string())?;
                Box::new(ModelDrafter::new(drafter.into_drafter()?, vocab, options.picture)?)
            }
            (DrafterKind::Ngram | DrafterKind::Model(_), _) => Box::new(Ngram::counts(vocab)),
        };
        Ok(Some(Speculator::new(drafter, &options, self.args.seed)))
    }

    /// One prompt by all ways, of which each begins once in a while.
    fn answer(
        &self,
        number: usize,
        prompt: &str,
        temperature: f32,
        speculators: &mut [Option<Speculator>],
        taken: &mut [Taken],
    ) -> Result<()> {
        let sampling = Sampling { temperature, top_k: self.args.top_k, top_p: self.args.top_p };
        let mut begun = self.begin(prompt, sampling, number)?;
        let ends = self.model.ends();
        let n = speculators.len();
        let mut texts = vec![Vec::new(); n];
        for turn in 0..n {
            let way = (turn + number) % n;
            let (Some(speculator), Some(text), Some(taken)) =
                (speculators.get_mut(way), texts.get_mut(way), taken.get_mut(way))
            else {
                continue;
            };
            let ask = Ask { sampling, never: &[], ends: &ends, most: self.args.tokens as usize - 1 };
            let before = speculator.as_ref().map(Speculator::stats).unwrap_or_default();
            let seconds;
            (*text, seconds) = match speculator {
                None => self.plain(&mut begun, &ask, number)?,
                Some(speculator) => self.drafted(&mut begun, &ask, speculator)?,
            };
            taken.times.push((text.len(), seconds));
            let after = speculator.as_ref().map(Speculator::stats).unwrap_or_default();
            taken.rounds.push((after.committed - before.committed, after.rounds - before.rounds));
        }
        if let Some(plain) = texts.first() {
            for (taken, text) in taken.iter_mut().zip(&texts) {
                taken.differing += usize::from(text != plain);
            }
        }
        Ok(())
    }

    fn begin(&self, prompt: &str, sampling: Sampling, number: usize) -> Result<Begun> {
        let decoder = &self.model.decoder;
        let ids = self.model.prompt(prompt)?;
        let capacity = (ids.len() + self.args.tokens as usize + TAIL).min(decoder.config().max_positions);
        let mut cache = KvCache::new(decoder.config(), capacity, decoder.dtype(), decoder.device())?;
        let x = decoder.embed(&Tensor::new(ids.as_slice(), decoder.device())?.unsqueeze(0)?)?;
        let hidden = decoder.forward(&x, Some(&mut cache))?;
        let logits = self.logits(&hidden.narrow(1, ids.len().saturating_sub(1), 1)?)?;
        let first = sampling.draw(&logits, &mut self.rng(number));
        Ok(Begun { ids, first, cache })
    }

    fn rng(&self, number: usize) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.args.seed ^ (number as u64) << 20)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        Ok(self.model.decoder.logits(hidden)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// Tokens behind the first, and seconds.
    fn plain(&self, begun: &mut Begun, ask: &Ask<'_>, number: usize) -> Result<(Vec<u32>, f64)> {
        let decoder = &self.model.decoder;
        let (mut text, mut rng) = (Vec::new(), self.rng(number + 1));
        begun.cache.begin()?;
        let clock = Instant::now();
        let mut id = begun.first;
        while text.len() < ask.most && !ask.ends.contains(&id) {
            let x = decoder.embed(&Tensor::new(&[[id]], decoder.device())?)?;
            let hidden = decoder.forward(&x, Some(&mut begun.cache))?;
            id = ask.sampling.draw(&self.logits(&hidden)?, &mut rng);
            text.push(id);
        }
        let seconds = clock.elapsed().as_secs_f64();
        begun.cache.rollback()?;
        Ok((text, seconds))
    }

    fn drafted(&self, begun: &mut Begun, ask: &Ask<'_>, speculator: &mut Speculator) -> Result<(Vec<u32>, f64)> {
        speculator.clear()?;
        speculator.read(&begun.ids)?;
        speculator.read(&[begun.first])?;
        speculator.open()?;
        begun.cache.begin()?;
        // What the drafter has to read, the prompt included, it reads while the clock runs.
        let clock = Instant::now();
        let (mut text, mut id) = (Vec::new(), begun.first);
        while text.len() < ask.most && !ask.ends.contains(&id) {
            let ask = Ask { most: ask.most - text.len(), ..*ask };
            text.extend(speculator.round(&self.model.decoder, &mut begun.cache, id, &ask)?);
            id = text.last().copied().context("a round without a token")?;
        }
        let seconds = clock.elapsed().as_secs_f64();
        begun.cache.rollback()?;
        speculator.close(true)?;
        Ok((text, seconds))
    }
}
