//! A round: draft, one pass of the target over all drafts, the accepted path kept in the cache.

use super::{
    adaedl::Stopper,
    chain::{Walk, walk},
    draft::Drafter,
    governor::{Allowance, COLUMN_COST, Governor, PASS_COST},
    options::SpeculationOptions,
    stats::{Round, Stats},
    tree::{Ended, Growth, Limits, Shape, Tree},
};
use crate::{
    model::{Commit, Decoder, KvCache},
    sampler::Sampling,
};
use candle_core::{DType, Result, Tensor};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// What is asked of a round.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens that can't be said.
    pub never: &'a [u32],
    /// Tokens that end the text: none is committed behind one.
    pub ends: &'a [u32],
    /// Commit at most so many tokens.
    pub most: usize,
}

/// How time is told to self-defence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Clock {
    /// As it passes.
    #[default]
    Wall,
    /// By count, so that the same text gives the same rounds on every machine: a plain step is 1, a column beside the
    /// anchor and a pass of the drafter cost so much of it.
    Counted {
        /// Of a column.
        column: f64,
        /// Of a pass.
        pass: f64,
    },
}

/// Drafts for one target, and keeps what it learns from utterance to utterance.
pub struct Speculator {
    drafter: Box<dyn Drafter>,
    shape: Shape,
    stopper: Stopper,
    governor: Governor,
    clock: Clock,
    rng: ChaCha8Rng,
    stats: Stats,
    log: Option<Vec<Round>>,
}

impl Speculator {
    /// With a drafter for the target; `seed` is of what it draws.
    pub fn new(drafter: Box<dyn Drafter>, options: &SpeculationOptions, seed: u64) -> Self {
        Self {
            drafter,
            shape: options.method.shape.clone(),
            stopper: Stopper::new(options.method.rule, options.stop),
            governor: Governor::new(options.self_defence.then(Allowance::default)),
            clock: Clock::Wall,
            // Its own stream: plain decoding with the same seed draws from another.
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x5bec_0de5),
            stats: Stats::default(),
            log: None,
        }
    }

    /// Tells time to self-defence in another way.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps a log of the rounds.
    pub fn with_log(mut self) -> Self {
        self.log = Some(Vec::new());
        self
    }

    /// Slots that a round needs in the target's cache beside those that it commits (see `KvCache::add_tail`).
    pub fn tail(&self) -> usize {
        self.shape.nodes()
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.switched_off = self.governor.switched_off();
        if self.clock == Clock::Wall {
            stats.plain_step_seconds = self.governor.plain_step();
        }
        stats
    }

    /// The rounds so far, where they are logged.
    pub fn log(&self) -> &[Round] {
        self.log.as_deref().unwrap_or_default()
    }

    /// Who drafts.
    pub fn drafter(&self) -> &dyn Drafter {
        &*self.drafter
    }

    /// Threshold of the stopping rule now.
    pub fn threshold(&self) -> f64 {
        self.stopper.threshold()
    }

    /// Text that is there from now on.
    ///
    /// # Errors
    /// Those of the drafter, as with all that follow.
    pub fn read(&mut self, ids: &[u32]) -> Result<()> {
        self.drafter.read(ids)
    }

    /// A picture has come, the target's visual tokens `[1, k, width]`.
    pub fn see(&mut self, picture: &Tensor) -> Result<()> {
        self.drafter.see(picture)
    }

    /// An utterance begins. The drafter reads what it missed when a round is drafted, in the time of that round.
    pub fn open(&mut self) -> Result<()> {
        self.drafter.open()
    }

    /// It ends, kept or as if it had never been.
    pub fn close(&mut self, keep: bool) -> Result<()> {
        self.drafter.close(keep)
    }

    /// Forgets the text. What was learnt about drafting stays.
    pub fn clear(&mut self) -> Result<()> {
        self.drafter.clear()
    }

    /// One round, or a plain step where drafting does not pay. `anchor` is the last token of the text: the drafter has
    /// read it, the target's cache does not hold it yet. Gives the tokens that were committed, 1 to `ask.most`; the
    /// last of them is the next anchor.
    ///
    /// # Errors
    /// Those of models and cache. The cache is then as it was before.
    pub fn round(&mut self, target: &Decoder, cache: &mut KvCache, anchor: u32, ask: &Ask) -> Result<Vec<u32>> {
        let begun = Instant::now();
        let passes = self.drafter.passes();
        let cost = self.drafter.parameters() as f64 / target.parameters().max(1) as f64 + PASS_COST;
        let backlog = self.drafter.backlog();
        let draft = self.draft(cache, anchor, ask, cost)?;
        let drafting = begun.elapsed();
        let passes = self.drafter.passes() - passes;
        let Some((tree, ended)) = draft.filter(|(tree, _)| tree.drafts() > 0) else {
            return self.plain_step(target, cache, anchor, ask, drafting, passes);
        };
        let begun = Instant::now();
        let (walk, depth) = (self.verify(target, cache, &tree, ask)?, tree.depth());
        self.drafter.settle(&tree.branches(&walk.path), &walk.ids)?;
        let verifying = begun.elapsed();
        let round = Round {
            proposed: tree.drafts(),
            depth,
            accepted: walk.path.len(),
            committed: walk.ids.len(),
            passes,
            moved: walk.path.iter().enumerate().any(|(i, column)| *column != i + 1),
        };
        self.stats.round(round, drafting, verifying);
        if let Some(log) = &mut self.log {
            log.push(round);
        }
        let time = match self.clock {
            Clock::Wall => (drafting + verifying).as_secs_f64(),
            Clock::Counted { column, pass } => 1.0 + column * tree.drafts() as f64 + pass * passes as f64,
        };
        self.governor.round(walk.ids.len(), time, expected(tree.drafts(), depth, backlog, cost));
        let cut = walk.ids.last().is_some_and(|id| ask.ends.contains(id)) || walk.ids.len() == ask.most;
        if ended != Ended::Limits && !cut {
            self.stopper.learn(walk.path.len(), depth, ended == Ended::Full);
        }
        Ok(walk.ids)
    }

    /// A tree, unless drafting is off or has no room.
    fn draft(&mut self, cache: &KvCache, anchor: u32, ask: &Ask, cost: f64) -> Result<Option<(Tree, Ended)>> {
        // The anchor and the drafts below it are what is committed at most, beside the target's own token.
        let depth = cache.depth().saturating_sub(1).min(ask.most.saturating_sub(1));
        let (shape, backlog) = (&self.shape, self.drafter.backlog());
        let expected = |levels: usize| expected(shape.nodes_to(levels), levels, backlog, cost);
        let depth = self.governor.depth(depth.min(shape.depth()), expected);
        let limits = Limits { depth, nodes: cache.width().saturating_sub(1) };
        if depth == 0 || limits.nodes == 0 {
            return Ok(None);
        }
        let growth =
            Growth { shape: &self.shape, stopper: &self.stopper, sampling: ask.sampling, never: ask.never, limits };
        growth.grow(anchor, &mut *self.drafter, &mut self.rng).map(Some)
    }

    fn plain_step(
        &mut self,
        target: &Decoder,
        cache: &mut KvCache,
        anchor: u32,
        ask: &Ask,
        drafting: Duration,
        passes: u64,
    ) -> Result<Vec<u32>> {
        let begun = Instant::now();
        let x = embed(target, &[anchor])?;
        let hidden = target.forward(&x, Some(cache))?;
        let logits = logits(target, &hidden, ask.never)?;
        let id = ask.sampling.draw_by_weight(&logits, &mut self.rng);
        self.drafter.settle(&[], &[id])?;
        let step = begun.elapsed();
        self.stats.plain(drafting, step);
        match self.clock {
            Clock::Wall => self.governor.plain(drafting.as_secs_f64(), step.as_secs_f64()),
            Clock::Counted { pass, .. } => self.governor.plain(pass * passes as f64, 1.0),
        }
        Ok(vec![id])
    }

    /// One pass of the target over all columns, in a step of the cache of which the accepted path stays.
    fn verify(&mut self, target: &Decoder, cache: &mut KvCache, tree: &Tree, ask: &Ask) -> Result<Walk> {
        cache.begin()?;
        match self.walk(target, cache, tree, ask) {
            Ok(walk) => {
                let columns: Vec<usize> = std::iter::once(0).chain(walk.path.iter().copied()).collect();
                cache.commit(Commit::Path(&columns))?;
                Ok(walk)
            }
            Err(error) => {
                cache.rollback()?;
                Err(error)
            }
        }
    }

    fn walk(&mut self, target: &Decoder, cache: &mut KvCache, tree: &Tree, ask: &Ask) -> Result<Walk> {
        let x = embed(target, &tree.tokens())?;
        let hidden = target.forward_tree(&x, &tree.parents(), cache)?;
        let logits = logits(target, &hidden, ask.never)?;
        let vocab = target.config().vocab;
        let row = |column: usize| logits.get(column * vocab..(column + 1) * vocab).unwrap_or_default();
        let mut walk = walk(tree, row, ask.sampling, &mut self.rng);
        walk.cut(ask.ends, ask.most);
        Ok(walk)
    }
}

/// Tokens that a drafter reads in about the time of one.
const READ_AT_ONCE: usize = 8;

/// What is expected of a round in plain steps: `drafts` columns and `levels` passes of a drafter that cost `pass` each,
/// and what it has to catch up with before.
fn expected(drafts: usize, levels: usize, backlog: usize, pass: f64) -> f64 {
    1.0 + COLUMN_COST * drafts as f64 + pass * (levels + backlog / READ_AT_ONCE) as f64
}

/// Embeddings `[1, n, width]`.
fn embed(target: &Decoder, ids: &[u32]) -> Result<Tensor> {
    target.embed(&Tensor::new(ids, target.device())?.unsqueeze(0)?)
}

/// Logits of hidden states `[1, n, width]`, row by row, minus infinity for tokens that can't be said.
fn logits(target: &Decoder, hidden: &Tensor, never: &[u32]) -> Result<Vec<f32>> {
    let mut logits: Vec<f32> = target.logits(hidden)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    for row in logits.chunks_exact_mut(target.config().vocab) {
        for id in never {
            if let Some(l) = row.get_mut(*id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
    }
    Ok(logits)
}
