//! A decoder of the Llama, Qwen2, Mistral or HyperCLOVA X kind, for inference and for training.
//!
//! They differ in little: Qwen2 has biases on q, k and v, Mistral sees a sliding window, HyperCLOVA X has factors
//! (`config::Multipliers`) and norms behind attention and MLP. Names of tensors are those of the published checkpoints
//! (`model.layers.0.self_attn.q_proj.weight`, ...).

use super::{
    attention::{Attention, Pass, causal_mask},
    batch::{BatchCache, LayerBatch},
    cache::{Columns, KvCache, LayerCache},
    config::DecoderConfig,
    layers::{INIT_STD, Linear, Mode, RmsNorm, Rope, Weight},
    mlp::Mlp,
};
use crate::quantised;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

pub(super) struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
    /// Behind attention and behind the MLP, where the model has them.
    post_norms: Option<(RmsNorm, RmsNorm)>,
    /// On what both add.
    residual: f64,
}

impl Layer {
    fn new(cfg: &DecoderConfig, vb: VarBuilder, mode: Mode) -> Result<Self> {
        let norm = |name: &str| RmsNorm::new(cfg.width, cfg.norm_eps, mode, vb.pp(name));
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::new(cfg, vb.pp("self_attn"), mode)?,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(cfg, vb.pp("mlp"), mode)?,
            post_norms: if cfg.post_norm { Some((norm("post_norm1")?, norm("post_norm2")?)) } else { None },
            residual: cfg.multipliers.residual,
        })
    }

    /// Its weights, where they are all it has.
    #[cfg(feature = "cuda")]
    pub(super) fn parts(&self) -> Option<Parts<'_>> {
        let [qkv, out] = self.attention.joined()?;
        let [up, down] = self.mlp.joined()?;
        if self.post_norms.is_some() {
            return None;
        }
        let (attention_gain, mlp_gain) = (self.attention_norm.weight(), self.mlp_norm.weight());
        Some(Parts { attention_gain, qkv, out, mlp_gain, up, down })
    }

    fn forward(&self, x: &Tensor, pass: &Pass, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let mixed = self.attention.forward(&self.attention_norm.forward(x)?, pass, cache)?;
        self.add(x, mixed)
    }

    fn forward_batch(&self, x: &Tensor, pass: &Pass, entries: &LayerBatch) -> Result<Tensor> {
        let mixed = self.attention.forward_batch(&self.attention_norm.forward(x)?, pass, entries)?;
        self.add(x, mixed)
    }

    /// What attention gave, then what the MLP makes of it, added to `x`.
    fn add(&self, x: &Tensor, mixed: Tensor) -> Result<Tensor> {
        let mixed = match &self.post_norms {
            Some((norm, _)) => norm.forward(&mixed)?,
            None => mixed,
        };
        let x = (x + scaled(mixed, self.residual)?)?;
        let inner = self.mlp.forward(&self.mlp_norm.forward(&x)?)?;
        let inner = match &self.post_norms {
            Some((_, norm)) => norm.forward(&inner)?,
            None => inner,
        };
        &x + scaled(inner, self.residual)?
    }
}

/// Weights of a layer: gains of the norms, and the maps with their biases.
#[cfg(feature = "cuda")]
pub(super) struct Parts<'a> {
    pub(super) attention_gain: &'a Tensor,
    pub(super) qkv: (&'a Weight, Option<&'a Tensor>),
    pub(super) out: (&'a Weight, Option<&'a Tensor>),
    pub(super) mlp_gain: &'a Tensor,
    /// Gates over ups.
    pub(super) up: (&'a Weight, Option<&'a Tensor>),
    pub(super) down: (&'a Weight, Option<&'a Tensor>),
}

/// How a pass may multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Products {
    /// Each number is summed in one order however many positions a pass of a few has.
    Alike,
    /// As is fastest.
    Fastest,
}

/// `x` times a factor; untouched where it is 1, as in most models.
fn scaled(x: Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { x * factor }
}

/// A causal language model over embeddings.
pub struct Decoder {
    embedding: Weight,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    /// The tokens that the head tells of, where not all.
    said: Option<Vec<u32>>,
    rope: Rope,
    mode: Mode,
    config: DecoderConfig,
    device: Device,
    /// The layers over a few tokens, on a card.
    #[cfg(feature = "cuda")]
    express: Option<super::card::Express>,
    graphs: bool,
}

impl Decoder {
    /// Tensors `model.*` and, unless tied, `lm_head.weight` under `vb`.
    pub fn new(cfg: &DecoderConfig, vb: VarBuilder, mode: Mode) -> Result<Self> {
        Self::from_parts(cfg, vb.pp("model"), vb.pp("lm_head"), mode)
    }

    /// The same with the layers (`embed_tokens`, `layers`, `norm`) and the head under prefixes of their own.
    pub fn from_parts(cfg: &DecoderConfig, body: VarBuilder, head: VarBuilder, mode: Mode) -> Result<Self> {
        cfg.check("").map_err(candle_core::Error::wrap)?;
        let embedding = Weight::new(cfg.width, cfg.vocab, INIT_STD, &body.pp("embed_tokens"))?;
        let layers =
            (0..cfg.layers).map(|i| Layer::new(cfg, body.pp("layers").pp(i), mode)).collect::<Result<Vec<_>>>()?;
        let head = if cfg.tied {
            Linear::from_weight(embedding.clone(), cfg.vocab)
        } else {
            Linear::new(cfg.width, cfg.vocab, false, INIT_STD, head)?
        };
        let rope = Rope::new(cfg, mode, embedding.dtype(), embedding.device())?;
        Ok(Self {
            #[cfg(feature = "cuda")]
            express: match (mode, embedding.device()) {
                (Mode::Infer, Device::Cuda(card)) => {
                    super::card::Express::new(cfg, &layers, &rope, embedding.dtype(), card)?
                }
                _ => None,
            },
            layers,
            norm: RmsNorm::new(cfg.width, cfg.norm_eps, mode, body.pp("norm"))?,
            head,
            said: None,
            graphs: true,
            mode,
            rope,
            config: cfg.clone(),
            device: embedding.device().clone(),
            embedding,
        })
    }

    /// The numbers it was built from.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Numbers in its weights, biases and norms left out. Where the head tells of some tokens only, numbers that a pass
    /// reads: an embedding is a single row.
    pub fn parameters(&self) -> usize {
        let c = &self.config;
        let attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads);
        let rows = match &self.said {
            Some(said) => said.len(),
            None if c.tied => c.vocab,
            None => 2 * c.vocab,
        };
        rows * c.width + c.layers * (attention + 3 * c.width * c.mlp_width)
    }

    /// Cuts the head down to some tokens (specs: speculative, section 2.5): logits are theirs, in their order. One that
    /// learns keeps all rows, of which those of other tokens get no gradient by the head.
    ///
    /// # Errors
    /// An id that it does not have or that is given twice, or none at all.
    pub fn trim_head(&mut self, ids: &[u32]) -> Result<()> {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        if sorted.last().is_none_or(|id| *id as usize >= self.config.vocab) {
            candle_core::bail!("a head of {} tokens does not fit a vocabulary of {}", ids.len(), self.config.vocab);
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            candle_core::bail!("a head names token {} twice", pair.first().copied().unwrap_or(0));
        }
        if self.mode == Mode::Infer {
            self.head = self.head.rows(ids)?;
        }
        self.said = Some(ids.to_vec());
        Ok(())
    }

    /// The tokens that logits are of, where not all.
    pub fn said(&self) -> Option<&[u32]> {
        self.said.as_deref()
    }

    /// The layers over a few tokens, on a card.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn express(&self) -> Option<&super::card::Express> {
        self.express.as_ref()
    }

    /// Whether passes over a few tokens are one graph, where the device has graphs; for measurements.
    pub fn use_graphs(&mut self, graphs: bool) {
        self.graphs = graphs;
    }

    /// Type that it computes in: that of its weights, f32 where they are packed.
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// Rows of the embedding: `ids [b, n]` (u32) to `[b, n, width]`.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (b, n) = ids.dims2()?;
        self.embedding.lookup(&ids.flatten_all()?)?.reshape((b, n, self.config.width))
    }

    /// Hidden states after the last norm, `[b, n, width]`, for embeddings `x` of the same shape.
    ///
    /// Without a cache this is one causal pass from position 0 over a batch. With one, `x` (a batch of one) is appended to
    /// what the cache holds, in passes no longer than its block, between which a bounded cache evicts. A pass that
    /// fails leaves the cache as it was before it. A position's numbers are the same in a pass over a few (see
    /// `speculate`) as in one over it alone.
    pub fn forward(&self, x: &Tensor, cache: Option<&mut KvCache>) -> Result<Tensor> {
        self.passes(x, cache, Products::Alike)
    }

    /// The same for what is read and was never drafted (frames, prompts, questions): by whatever is fastest, so that its numbers
    /// may differ in their last bits from those of a pass over each position by itself.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn read(&self, x: &Tensor, cache: Option<&mut KvCache>) -> Result<Tensor> {
        self.passes(x, cache, Products::Fastest)
    }

    fn passes(&self, x: &Tensor, cache: Option<&mut KvCache>, products: Products) -> Result<Tensor> {
        let (_, n, _) = x.dims3()?;
        if n == 0 {
            candle_core::bail!("a pass needs at least one position");
        }
        let Some(cache) = cache else { return self.on_threads(|| self.at_once(x)) };
        cache.check(n, Columns::Chain)?;
        let passes = cache.passes(n, self.longest_pass(products));
        if passes.len() == 1 {
            return self.pass(x, Columns::Chain, cache, products);
        }
        let (mut start, mut hidden) = (0, Vec::with_capacity(passes.len()));
        for n in passes {
            hidden.push(self.pass(&x.narrow(1, start, n)?, Columns::Chain, cache, products)?);
            start += n;
        }
        Tensor::cat(&hidden, 1)
    }

    /// Positions of the longest pass.
    fn longest_pass(&self, products: Products) -> usize {
        #[cfg(feature = "cuda")]
        if self.express.is_some() && products == Products::Fastest {
            return super::memory::WIDE;
        }
        let _ = products;
        usize::MAX
    }

    /// The same for positions that form a tree in the open step of `cache`: each sees what was there before the step
    /// and the columns it stands behind.
    ///
    /// # Errors
    /// No step is open, or the tree does not hold together.
    pub fn forward_tree(&self, x: &Tensor, parents: &[Option<usize>], cache: &mut KvCache) -> Result<Tensor> {
        self.pass(x, Columns::Tree(parents), cache, Products::Alike)
    }

    /// The same for sequences that grow together: `x [b, n, width]` is appended to each of those that `cache` holds.
    ///
    /// # Errors
    /// Another number of sequences, no room, or those of the device.
    pub fn forward_batch(&self, x: &Tensor, cache: &mut BatchCache) -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        cache.check(b, n, self.layers.len())?;
        let rope = self.rope.rows(cache.len(), n, x.dtype())?;
        let mask = causal_mask(n, cache.len(), self.config.window, x.device())?;
        let pass = Pass { rope, mask, len: cache.len(), positions: Vec::new(), contiguous: true };
        let layers = self.layers.iter().zip(cache.layers());
        let hidden = self.on_threads(|| {
            let mut x = self.enter(x)?;
            for (layer, entries) in layers {
                x = layer.forward_batch(&x, &pass, entries)?;
            }
            self.norm.forward(&x)
        })?;
        cache.advance(n);
        Ok(hidden)
    }

    /// Embeddings to what the first layer reads. Visual tokens are scaled like those of text.
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        scaled(x.contiguous()?, self.config.multipliers.embedding)
    }

    /// One causal pass from position 0.
    fn at_once(&self, x: &Tensor) -> Result<Tensor> {
        let (_, n, _) = x.dims3()?;
        let rope = self.rope.rows(0, n, x.dtype())?;
        let mask = causal_mask(n, 0, self.config.window, x.device())?;
        let mut x = self.enter(x)?;
        let pass = Pass { rope, mask, len: 0, positions: Vec::new(), contiguous: true };
        for layer in &self.layers {
            x = layer.forward(&x, &pass, None)?;
        }
        self.norm.forward(&x)
    }

    /// One pass over a cache.
    fn pass(&self, x: &Tensor, columns: Columns, cache: &mut KvCache, products: Products) -> Result<Tensor> {
        let (b, n, _) = x.dims3()?;
        if b != 1 {
            candle_core::bail!("a cache holds one sequence, but the batch is {b}");
        }
        if cache.layers_mut().len() != self.layers.len() {
            candle_core::bail!(
                "the cache was made for another model: it has {} layers, the model {}",
                cache.layers_mut().len(),
                self.layers.len()
            );
        }
        let positions = cache.prepare(n, columns)?;
        match self.on_threads(|| self.through_layers(x, &positions, cache, products)) {
            Ok(hidden) => {
                cache.advance(&positions)?;
                Ok(hidden)
            }
            Err(error) => {
                cache.abandon(n);
                Err(error)
            }
        }
    }

    fn through_layers(&self, x: &Tensor, positions: &[u32], cache: &mut KvCache, products: Products) -> Result<Tensor> {
        // The processor multiplies in one way.
        let _ = products;
        let n = positions.len();
        #[cfg(feature = "cuda")]
        if let Some(express) = self.express.as_ref().filter(|_| self.graphs)
            && let Some(hidden) = express.pass(&self.enter(x)?, positions, cache, products)?
        {
            return self.norm.forward(&hidden);
        }
        let rope = self.rope.rows_at(positions, x.dtype())?;
        let (len, contiguous) = (cache.len(), cache.is_contiguous());
        // Where slots are not positions, a model's own window differs between heads: each layer masks for itself.
        let window = self.config.window.filter(|_| contiguous);
        let mask = match cache.tree_mask(n, x.device())? {
            Some(mask) => Some(mask),
            None => causal_mask(n, len, window, x.device())?,
        };
        let pass = Pass { rope, mask, len, positions: positions.to_vec(), contiguous };
        let mut x = self.enter(x)?;
        for (layer, entries) in self.layers.iter().zip(cache.layers_mut()) {
            x = layer.forward(&x, &pass, Some(entries))?;
        }
        self.norm.forward(&x)
    }

    /// Runs a pass on one of the threads that share its products, where the weights are packed: so that these wait for one
    /// another only inside of products, and not for a thread outside at the end of each.
    fn on_threads<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        if self.embedding.is_packed() { quantised::on_threads(run) } else { run() }
    }

    /// Logits `[b, n, vocab]` of hidden states `[b, n, width]`; of a trimmed head those of its tokens.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = match (&self.said, self.mode) {
            // The weight changes from step to step, so its rows are picked anew.
            (Some(ids), Mode::Train) => self.head.picked(ids)?.forward(&hidden.contiguous()?),
            _ => self.on_threads(|| self.head.forward(&hidden.contiguous()?)),
        };
        scaled(logits?, self.config.multipliers.logits)
    }
}
