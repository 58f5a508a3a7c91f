//! LLaVA ("Visual Instruction Tuning", Liu et al. 2023): a vision tower, a projector, and a language model that reads
//! the projected tokens among those of the text.

use super::{
    cache::KvCache,
    decoder::Decoder,
    layers::Mode,
    plan::Plan,
    projector::{Projector, TokenGrid, VisionManifest, join_change},
};
use crate::coach::Attended;
use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::VarBuilder;
use spotter_vision::{
    Frame,
    encoder::{
        Encoder, Prepare, Trunk,
        tosa::{Memory, Tosa},
    },
};

/// From frames to tokens of the language model's width: preprocessing, tower, pooling, change, projector.
pub struct LlavaEncoder {
    prepare: Prepare,
    tower: Box<dyn Trunk>,
    grid: TokenGrid,
    /// Share of a picture's side that whole patches cover.
    whole: f32,
    vision: VisionManifest,
    projector: Projector,
    width: usize,
    dtype: DType,
    device: Device,
}

impl LlavaEncoder {
    /// Normalised pictures `[b, 3, h, w]` of any float type (patches for Spotter's own tower) to `[b, tokens, width]`.
    /// Pictures are the frames of a stream that begins with them, where the model sees change.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.project(&self.pool(pixels, None)?, None)
    }

    /// The tower's tokens after pooling, `[b, tokens, hidden]`.
    fn pool(&self, pixels: &Tensor, memory: Option<&mut Memory>) -> Result<Tensor> {
        let tokens = self.tower.follow(&pixels.to_dtype(self.dtype)?, memory)?;
        self.vision.pooling.forward(&tokens, self.grid)
    }

    /// Frames to the tower's tokens after pooling, `[b, tokens, hidden]`.
    pub fn look(&self, frames: &[Frame]) -> Result<Tensor> {
        self.pool(&self.prepare(frames)?, None)
    }

    /// The next frame of a stream to the tower's tokens after pooling, `[1, tokens, hidden]`; `memory` is the stream's.
    pub fn follow(&self, frame: &Frame, memory: &mut Memory) -> Result<Tensor> {
        self.pool(&self.prepare(std::slice::from_ref(frame))?, Some(memory))
    }

    fn prepare(&self, frames: &[Frame]) -> Result<Tensor> {
        self.prepare.batch(frames, &self.device).map_err(Error::wrap)
    }

    /// The vision tower.
    pub fn tower(&self) -> &dyn Trunk {
        self.tower.as_ref()
    }

    /// Lets the tower's layers skip tokens, in another way or no longer.
    pub fn set_tosa(&mut self, tosa: Option<Tosa>) {
        self.tower.set_tosa(tosa);
    }

    /// How the tower skips tokens, if it does.
    pub fn tosa(&self) -> Option<&Tosa> {
        self.tower.tosa()
    }

    /// The patches that a frame of `width` x `height` pixels left in a stream's memory; `None` where the tower skips none.
    pub fn attended(&self, memory: &Memory, (width, height): (usize, usize)) -> Option<Attended> {
        self.tosa()?;
        let [left, top, right, bottom] = self.prepare.window(width, height);
        // Pixels that make no whole patch are not looked at.
        let (right, bottom) = (left + (right - left) * self.whole, top + (bottom - top) * self.whole);
        let (class, side) = (u32::from(self.grid.class), self.grid.side);
        let patches = |tokens: &Vec<u32>| tokens.iter().filter_map(|t| t.checked_sub(class)).collect();
        let layers = memory.attended.iter().filter_map(|(layer, all)| Some((*layer, patches(all.first()?))));
        Some(Attended { side, window: [left, top, right, bottom], layers: layers.collect() })
    }

    /// What [`look`](Self::look) gave to `[b, tokens, width]`; `before` is what it gave for the frame before.
    pub fn project(&self, looked: &Tensor, before: Option<&Tensor>) -> Result<Tensor> {
        if self.vision.delta {
            return self.projector.forward(&join_change(looked, before)?);
        }
        self.projector.forward(looked)
    }

    /// Whether a frame looks different after another one.
    pub fn sees_change(&self) -> bool {
        self.vision.delta
    }
}

impl Encoder for LlavaEncoder {
    fn encode(&self, frames: &[Frame]) -> Result<Tensor> {
        self.project(&self.look(frames)?, None)
    }

    fn shape(&self) -> (usize, usize) {
        (self.vision.pooling.tokens(self.grid), self.width)
    }
}

/// A LLaVA model. The encoder may be taken out to live on a thread of its own.
pub struct Llava {
    /// Pictures to tokens.
    pub encoder: LlavaEncoder,
    /// Tokens to logits.
    pub decoder: Decoder,
    image_token: Option<u32>,
}

impl Llava {
    /// Reads the tensors of a plan out of `vb`.
    pub fn new(plan: &Plan, vb: VarBuilder) -> Result<Self> {
        let (cfg, layout) = (&plan.config, &plan.layout);
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let from = plan.vision.joined(cfg.vision.hidden_size());
        let encoder = LlavaEncoder {
            prepare: plan.prepare.clone(),
            tower: cfg.vision.build(cfg.vision_depth, vb.pp(&layout.vision))?,
            grid: plan.grid(),
            whole: cfg.vision.whole(),
            vision: plan.vision.clone(),
            projector: Projector::new(from, cfg.text.width, cfg.projector_bias, vb.pp(&layout.projector))?,
            width: cfg.text.width,
            dtype,
            device,
        };
        let decoder = Decoder::from_parts(&cfg.text, vb.pp(&layout.body), vb.pp(&layout.head), Mode::Infer)?;
        Ok(Self { encoder, decoder, image_token: cfg.image_token })
    }

    /// Repeats each image token of a prompt as often as a picture has tokens.
    pub fn expand(&self, ids: &[u32]) -> Vec<u32> {
        let tokens = self.encoder.shape().0;
        ids.iter()
            .flat_map(|&id| std::iter::repeat_n(id, if Some(id) == self.image_token { tokens } else { 1 }))
            .collect()
    }

    /// Embeddings `[1, n, width]` of an expanded prompt; visual tokens `[b, tokens, width]` take the places of the
    /// image tokens, in order. Without visual tokens every id is text, also an image token that the model itself
    /// chose.
    ///
    /// # Errors
    /// Another number of image tokens than of visual ones, or an id outside the vocabulary.
    pub fn embed(&self, ids: &[u32], visual: Option<&Tensor>) -> Result<Tensor> {
        let vocab = self.decoder.config().vocab;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            candle_core::bail!("token {id} is outside the model's vocabulary of {vocab}");
        }
        let text = self.decoder.embed(&Tensor::new(ids, self.decoder.device())?.unsqueeze(0)?)?;
        let Some(visual) = visual else { return Ok(text) };
        let places = ids.iter().filter(|id| Some(**id) == self.image_token).count();
        let given = visual.dims3().map(|(b, n, _)| b * n)?;
        if places != given {
            candle_core::bail!("the prompt has places for {places} visual tokens, but the pictures have {given}");
        }
        let visual = visual.flatten_to(1)?.unsqueeze(0)?;
        let (mut parts, mut start, mut seen) = (Vec::new(), 0, 0);
        for run in ids.chunk_by(|a, b| (Some(*a) == self.image_token) == (Some(*b) == self.image_token)) {
            if run.first().copied() == self.image_token {
                parts.push(visual.narrow(1, seen, run.len())?);
                seen += run.len();
            } else {
                parts.push(text.narrow(1, start, run.len())?);
            }
            start += run.len();
        }
        Tensor::cat(&parts, 1)
    }

    /// Logits `[n, vocab]` in f32 for an expanded prompt, appended to a cache where one is given.
    pub fn logits(&self, ids: &[u32], visual: Option<&Tensor>, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let hidden = self.decoder.forward(&self.embed(ids, visual)?, cache)?;
        self.decoder.logits(&hidden)?.squeeze(0)?.to_dtype(DType::F32)
    }

    /// An empty context of at most `capacity` tokens.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::new(self.decoder.config(), capacity, self.decoder.dtype(), self.decoder.device())
    }
}
