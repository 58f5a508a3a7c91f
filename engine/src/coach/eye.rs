//! From a frame to embeddings of the decoder: tower, pooling, change since the last frame, projector.

use super::manifest::VisionManifest;
use crate::model::projector::{Projector, TokenGrid};
use candle_core::{D, Result, Tensor};
use spotter_vision::{Frame, encoder::Encoder};

/// Joins tokens `[n, k, d]` of successive frames by their change: `[n, k, 2 d]`. `before` is the frame before the first.
pub fn join_change(tokens: &Tensor, before: Option<&Tensor>) -> Result<Tensor> {
    let n = tokens.dim(0)?;
    let first = match before {
        Some(before) => before.clone(),
        None => tokens.narrow(0, 0, 1)?,
    };
    let shifted = if n == 1 { first } else { Tensor::cat(&[&first, &tokens.narrow(0, 0, n - 1)?], 0)? };
    Tensor::cat(&[tokens, &(tokens - shifted)?], D::Minus1)
}

/// Sees the frames of one stream.
pub struct Eye {
    tower: Box<dyn Encoder>,
    /// What stands between tower and decoder; `None` where the encoder projects by itself.
    bridge: Option<Bridge>,
    before: Option<Tensor>,
}

/// Pooling, change and projector behind a bare tower.
struct Bridge {
    projector: Projector,
    grid: TokenGrid,
    manifest: VisionManifest,
}

impl Eye {
    /// Behind a bare tower whose tokens lie as `grid` says.
    pub fn new(tower: Box<dyn Encoder>, projector: Projector, grid: TokenGrid, manifest: VisionManifest) -> Self {
        Self { tower, bridge: Some(Bridge { projector, grid, manifest }), before: None }
    }

    /// Of an encoder that gives embeddings of the decoder's width.
    pub fn of_encoder(encoder: Box<dyn Encoder>) -> Self {
        Self { tower: encoder, bridge: None, before: None }
    }

    /// Embeddings of a frame, `[1, k, width]`.
    pub fn see(&mut self, frame: &Frame) -> Result<Tensor> {
        let tokens = self.tower.encode(std::slice::from_ref(frame))?;
        let Some(bridge) = &self.bridge else { return Ok(tokens) };
        let pooled = bridge.manifest.pooling.forward(&tokens, bridge.grid)?;
        let seen = if bridge.manifest.delta { join_change(&pooled, self.before.as_ref())? } else { pooled.clone() };
        self.before = Some(pooled);
        bridge.projector.forward(&seen)
    }

    /// The last frame once more, as a model told of change sees it when nothing moved; `None` for other models, which
    /// gain nothing by it, and before the first frame.
    pub fn again(&self) -> Result<Option<Tensor>> {
        match (&self.before, &self.bridge) {
            (Some(before), Some(bridge)) if bridge.manifest.delta => {
                Ok(Some(bridge.projector.forward(&join_change(before, Some(before))?)?))
            }
            _ => Ok(None),
        }
    }

    /// A new stream begins.
    pub fn reset(&mut self) {
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn change_is_joined() {
        let frames = Tensor::new(&[[[1f32]], [[3.0]], [[6.0]]], &Device::Cpu).unwrap();
        let joined = join_change(&frames, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(joined, [1.0, 0.0, 3.0, 2.0, 6.0, 3.0]);
        let last = frames.narrow(0, 2, 1).unwrap();
        let first = frames.narrow(0, 0, 1).unwrap();
        let joined = join_change(&last, Some(&first)).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(joined, [6.0, 5.0]);
    }
}
