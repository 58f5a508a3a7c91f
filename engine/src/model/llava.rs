//! LLaVA ("Visual Instruction Tuning", Liu et al. 2023): a vision tower, a projector, and a language model that reads
//! the projected tokens among those of the text.

use super::{
    cache::KvCache,
    connector::Connector,
    decoder::Decoder,
    layers::Mode,
    plan::Plan,
    projector::{Pooling, TokenGrid, VisionManifest},
    tiling::Tiling,
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
    nn::Repeated,
    preprocess::{Fit, Preprocess},
};

/// From frames to tokens of the language model's width: preprocessing, tower, pooling, change, projector.
pub struct LlavaEncoder {
    prepare: Prepare,
    tower: Box<dyn Trunk>,
    /// Of the tower, where no token is skipped.
    seeing: Repeated,
    grid: TokenGrid,
    /// Share of a picture's side that whole patches cover.
    whole: f32,
    vision: VisionManifest,
    connector: Connector,
    tiling: Option<(Tiling, Tensor)>,
    /// Tokens of a frame.
    tokens: usize,
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
        let pixels = pixels.to_dtype(self.dtype)?;
        let tokens = match self.tower.tosa() {
            Some(_) => self.tower.follow(&pixels, memory)?,
            None => self.seeing.run(&pixels, |pixels| self.tower.forward(pixels))?,
        };
        self.connector.read(&tokens, self.vision.pooling, self.grid)
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
        let (class, side) = (u32::from(self.tower.has_class_token()), self.grid.side);
        let patches = |tokens: &Vec<u32>| tokens.iter().filter_map(|t| t.checked_sub(class)).collect();
        let layers =
            memory.attended().ok()?.into_iter().filter_map(|(layer, all)| Some((layer, patches(all.first()?))));
        Some(Attended { side, window: [left, top, right, bottom], layers: layers.collect() })
    }

    /// What [`look`](Self::look) gave to `[b, tokens, width]`; `before` is what it gave for the frame before.
    pub fn project(&self, looked: &Tensor, before: Option<&Tensor>) -> Result<Tensor> {
        self.connector.frames(looked, before, &self.vision, self.grid)
    }

    /// How it cuts pictures up; nothing where their tokens are pooled, which is for streams.
    fn tiling(&self) -> Option<&(Tiling, Tensor)> {
        self.tiling.as_ref().filter(|_| self.vision.pooling == Pooling::None)
    }

    /// The pictures of a prompt, each in the views that the model was trained on: tokens `[n, width]`, as many as
    /// [`picture_tokens`](Self::picture_tokens) says.
    ///
    /// # Errors
    /// A picture without pixels, or those of the device.
    pub fn pictures(&self, frames: &[Frame]) -> Result<Vec<Tensor>> {
        let (Some((tiling, _)), Prepare::Pixels(pixels)) = (self.tiling(), &self.prepare) else {
            return frames.iter().map(|frame| self.encode(std::slice::from_ref(frame))?.squeeze(0)).collect();
        };
        let whole = tiling.several_whole && frames.len() > 1;
        let picture = |frame: &Frame| {
            let size = (frame.width, frame.height);
            let views = match whole {
                true => Preprocess { fit: Fit::Pad, ..pixels.clone() }.batch(std::slice::from_ref(frame), &self.device),
                false => pixels.tiles(frame, tiling.tiles(size), &self.device),
            };
            self.views(&views.map_err(Error::wrap)?, size)
        };
        frames.iter().map(picture).collect()
    }

    /// One picture of `size` (width, height), as a whole and in tiles, `[views, 3, side, side]` and normalised, to its tokens
    /// `[n, width]`. A whole without tiles ends like a row of them.
    ///
    /// # Errors
    /// Another number of tiles than its size asks for, a model that has none, or those of the device.
    pub fn views(&self, views: &Tensor, size: (usize, usize)) -> Result<Tensor> {
        let Some((tiling, newline)) = self.tiling() else { candle_core::bail!("the model sees no tiles") };
        let tokens = self.tower.forward(&views.to_dtype(self.dtype)?)?;
        let tokens = self.connector.views(&tokens, self.grid)?;
        if tokens.dim(0)? == 1 {
            return Tensor::cat(&[&tokens.get(0)?, &newline.unsqueeze(0)?], 0);
        }
        tiling.pack(&tokens, size, newline)
    }

    /// Tokens of each picture of a prompt, by their widths and heights.
    pub fn picture_tokens(&self, sizes: &[(usize, usize)]) -> Vec<usize> {
        let side = self.connector.side(self.grid);
        let tokens = |size: &(usize, usize)| match self.tiling() {
            None => self.tokens,
            Some((tiling, _)) if tiling.several_whole && sizes.len() > 1 => side * side + 1,
            Some((tiling, _)) => tiling.tokens(*size, side),
        };
        sizes.iter().map(tokens).collect()
    }

    /// The token at the end of a row of tiles, `[width]`, and behind the last frame of a video.
    pub fn newline(&self) -> Option<&Tensor> {
        self.tiling.as_ref().map(|(_, newline)| newline)
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
        (self.tokens, self.width)
    }
}

/// A LLaVA model. The encoder may be taken out to live on a thread of its own.
pub struct Llava {
    /// Pictures to tokens.
    pub encoder: LlavaEncoder,
    /// Tokens to logits.
    pub decoder: Decoder,
    image_token: Option<u32>,
    video_token: Option<u32>,
}

impl Llava {
    /// Reads the tensors of a plan out of `vb`.
    pub fn new(plan: &Plan, vb: VarBuilder) -> Result<Self> {
        let (cfg, layout) = (&plan.config, &plan.layout);
        let (dtype, device) = (vb.dtype(), vb.device().clone());
        let hidden = cfg.vision.hidden_size();
        let tiling = match &cfg.tiling {
            Some(tiling) => Some((tiling.clone(), vb.get(cfg.text.width, &layout.newline)?)),
            None => None,
        };
        let encoder = LlavaEncoder {
            prepare: plan.prepare.clone(),
            tower: cfg.vision.build(cfg.vision_depth, vb.pp(&layout.vision))?,
            seeing: Repeated::default(),
            grid: plan.grid(),
            whole: cfg.vision.whole(),
            vision: plan.vision.clone(),
            connector: Connector::new(&cfg.connector, &plan.vision, hidden, cfg.text.width, vb.pp(&layout.projector))?,
            tiling,
            tokens: plan.tokens_per_image(),
            width: cfg.text.width,
            dtype,
            device,
        };
        let decoder = Decoder::from_parts(&cfg.text, vb.pp(&layout.body), vb.pp(&layout.head), Mode::Infer)?;
        Ok(Self { encoder, decoder, image_token: cfg.image_token, video_token: cfg.video_token })
    }

    /// An id that visual tokens stand for.
    fn is_place(&self, id: u32) -> bool {
        Some(id) == self.image_token || Some(id) == self.video_token
    }

    /// Repeats each image and video token of a prompt as often as `tokens` says, one after another; those beyond it stay
    /// single.
    pub fn expand(&self, ids: &[u32], tokens: &[usize]) -> Vec<u32> {
        let mut tokens = tokens.iter();
        let times = |id: u32| if self.is_place(id) { tokens.next().copied().unwrap_or(1) } else { 1 };
        let times: Vec<_> = ids.iter().copied().map(times).collect();
        ids.iter().zip(times).flat_map(|(id, times)| std::iter::repeat_n(*id, times)).collect()
    }

    /// Embeddings `[1, n, width]` of an expanded prompt; visual tokens `[.., width]` take the places of the image and video
    /// tokens, in order. Without visual tokens every id is text, also an image token that the model itself chose.
    ///
    /// # Errors
    /// Another number of image and video tokens than of visual ones, or an id outside the vocabulary.
    pub fn embed(&self, ids: &[u32], visual: Option<&Tensor>) -> Result<Tensor> {
        let vocab = self.decoder.config().vocab;
        // A place may have an id that the embedding has no row for.
        let is_taken = |id: u32| visual.is_some() && self.is_place(id);
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab && !is_taken(**id)) {
            candle_core::bail!("token {id} is outside the model's vocabulary of {vocab}");
        }
        let rows: Vec<u32> = ids.iter().map(|id| if is_taken(*id) { 0 } else { *id }).collect();
        let text = self.decoder.embed(&Tensor::new(rows, self.decoder.device())?.unsqueeze(0)?)?;
        let Some(visual) = visual else { return Ok(text) };
        let places = ids.iter().filter(|id| self.is_place(**id)).count();
        let given = visual.elem_count() / self.decoder.config().width.max(1);
        if places != given {
            candle_core::bail!("the prompt has places for {places} visual tokens, but the pictures have {given}");
        }
        let visual = visual.reshape((1, given, self.decoder.config().width))?;
        let (mut parts, mut start, mut seen) = (Vec::new(), 0, 0);
        for run in ids.chunk_by(|a, b| self.is_place(*a) == self.is_place(*b)) {
            if run.first().is_some_and(|id| self.is_place(*id)) {
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
