//! What stands between a tower and a decoder, and how many tokens a frame has behind it.

use super::{
    llava_config::ConnectorConfig,
    projector::{Pooling, Projector, TokenGrid, VisionManifest, join_change},
    seed::CAbstractor,
    tiling::bilinear,
};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use spotter_vision::encoder::TensorSpec;

/// A projector of one of the published kinds.
pub enum Connector {
    /// LLaVA's.
    Mlp(Projector),
    /// SEED's.
    Abstractor(CAbstractor),
}

impl Connector {
    /// From a tower of width `hidden` to a decoder of width `to`, from the tensors under `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn new(
        cfg: &ConnectorConfig,
        vision: &VisionManifest,
        hidden: usize,
        to: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        Ok(match cfg {
            ConnectorConfig::Mlp { bias, names } => {
                Self::Mlp(Projector::new(vision.joined(hidden), to, *bias, *names, vb)?)
            }
            ConnectorConfig::Abstractor(cfg) => Self::Abstractor(CAbstractor::new(cfg, vb)?),
        })
    }

    /// What [`Self::new`] reads; `prefix` has no dot at its end.
    pub fn tensors(
        cfg: &ConnectorConfig,
        vision: &VisionManifest,
        hidden: usize,
        to: usize,
        prefix: &str,
    ) -> Vec<TensorSpec> {
        let prefix = format!("{prefix}.");
        match cfg {
            ConnectorConfig::Mlp { bias, names } => {
                Projector::tensors(vision.joined(hidden), to, *bias, *names, &prefix)
            }
            ConnectorConfig::Abstractor(cfg) => cfg.tensors(&prefix),
        }
    }

    /// Tokens of a frame.
    pub fn frame_tokens(cfg: &ConnectorConfig, vision: &VisionManifest, grid: TokenGrid) -> usize {
        match (cfg, vision.pooling) {
            (ConnectorConfig::Abstractor(cfg), Pooling::None) => cfg.to * cfg.to,
            (_, pooling) => pooling.tokens(grid),
        }
    }

    /// What of a tower's tokens `[b, tokens, hidden]` it reads of a frame, `[b, fewer, hidden]`.
    pub(crate) fn read(&self, tokens: &Tensor, pooling: Pooling, grid: TokenGrid) -> Result<Tensor> {
        match self {
            Self::Mlp(_) => pooling.forward(tokens, grid),
            Self::Abstractor(_) => Pooling::None.forward(tokens, grid),
        }
    }

    /// What [`read`](Self::read) gave for frames to their tokens, `[b, n, width]`; `before` is what it gave for the frame
    /// before them.
    pub(crate) fn frames(
        &self,
        read: &Tensor,
        before: Option<&Tensor>,
        vision: &VisionManifest,
        grid: TokenGrid,
    ) -> Result<Tensor> {
        let projector = match self {
            Self::Mlp(projector) => projector,
            Self::Abstractor(abstractor) => {
                let side = if let Pooling::Average(k) = vision.pooling { k } else { abstractor.side() };
                return abstractor.forward(read, side);
            }
        };
        let tokens = match vision.delta {
            true => projector.forward(&join_change(read, before)?)?,
            false => projector.forward(read)?,
        };
        let Pooling::Bilinear(side) = vision.pooling else { return Ok(tokens) };
        let (b, _, width) = tokens.dims3()?;
        let plane = |i: usize| tokens.get(i)?.reshape((grid.side, grid.side, width));
        let pooled = (0..b).map(|i| bilinear(&plane(i)?, side, side)?.flatten(0, 1));
        Tensor::stack(&pooled.collect::<Result<Vec<_>>>()?, 0)
    }

    /// The tower's tokens of whole pictures and tiles, `[b, tokens, hidden]`, to squares of tokens, `[b, side * side, width]`.
    pub(crate) fn views(&self, tokens: &Tensor, grid: TokenGrid) -> Result<Tensor> {
        let patches = Pooling::None.forward(tokens, grid)?;
        match self {
            Self::Mlp(projector) => projector.forward(&patches),
            Self::Abstractor(abstractor) => abstractor.forward(&patches, abstractor.side()),
        }
    }

    /// Tokens along a side of what [`views`](Self::views) gives.
    pub(crate) fn side(&self, grid: TokenGrid) -> usize {
        match self {
            Self::Mlp(_) => grid.side,
            Self::Abstractor(abstractor) => abstractor.side(),
        }
    }
}
