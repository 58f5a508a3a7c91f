//! From a frame to embeddings of the decoder, with the frame before in mind.

use super::Attended;
use crate::model::LlavaEncoder;
use candle_core::{Result, Tensor};
use spotter_vision::{
    Frame,
    encoder::{Encoder as _, tosa::Memory},
};

/// Sees the frames of one stream.
pub struct Eye {
    encoder: LlavaEncoder,
    /// Pooled tokens of the last frame.
    before: Option<Tensor>,
    memory: Memory,
    /// Width and height of the last frame.
    size: (usize, usize),
}

impl Eye {
    /// Of a stream that has not begun.
    pub fn new(encoder: LlavaEncoder) -> Self {
        Self { encoder, before: None, memory: Memory::default(), size: (1, 1) }
    }

    /// Embeddings of a frame, `[1, k, width]`.
    pub fn see(&mut self, frame: &Frame) -> Result<Tensor> {
        let now = self.encoder.follow(frame, &mut self.memory)?;
        let seen = self.encoder.project(&now, self.before.as_ref())?;
        self.before = Some(now);
        self.size = (frame.width, frame.height);
        Ok(seen)
    }

    /// Embeddings of the frames of a stream from its beginning, `[frames, k, width]`, `at_once` of them at a time.
    ///
    /// # Errors
    /// Those of the tower.
    pub fn film(&self, frames: &[Frame], at_once: usize) -> Result<Tensor> {
        let looked = frames.chunks(at_once.max(1)).map(|chunk| self.encoder.look(chunk));
        self.encoder.project(&Tensor::cat(&looked.collect::<Result<Vec<_>>>()?, 0)?, None)
    }

    /// The last frame once more, as a model told of change sees it when nothing moved; `None` for other models, which
    /// gain nothing by it, and before the first frame.
    pub fn again(&self) -> Result<Option<Tensor>> {
        match &self.before {
            Some(before) if self.encoder.sees_change() => Ok(Some(self.encoder.project(before, Some(before))?)),
            _ => Ok(None),
        }
    }

    /// Tokens of a frame.
    pub fn tokens(&self) -> usize {
        self.encoder.shape().0
    }

    /// A new stream begins.
    pub fn reset(&mut self) {
        self.before = None;
        self.memory.clear();
    }

    /// What it looks through.
    pub fn encoder_mut(&mut self) -> &mut LlavaEncoder {
        &mut self.encoder
    }

    /// The patches of the last frame that layers worked on which skip tokens; `None` where the tower skips none.
    pub fn attended(&self) -> Option<Attended> {
        self.encoder.attended(&self.memory, self.size)
    }
}
