//! What one frame of a stream leaves to the next: the updates that layers gave.

use super::{Block, Places};
use candle_core::{D, DType, Result, Tensor};
use std::collections::BTreeMap;

/// What a stream of frames carries along. One step beyond the paper, for video: between frames most patches stay what they
/// are, so a token that is skipped gets the update that the layer gave it when it last worked on it, instead of none, and
/// tokens that moved since then go first. What is skipped is old by a frame or two, not missing. It costs a copy and no
/// multiply-accumulate; a batch of unrelated pictures has no use for it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    held: BTreeMap<usize, Held>,
    /// Frames that were seen.
    frames: u64,
    /// For each selective layer and picture the tokens that were worked on in the last frame, rising.
    pub attended: BTreeMap<usize, Vec<Vec<u32>>>,
}

/// Of one layer, `[b * n, d]`.
#[derive(Clone, Debug)]
struct Held {
    /// Each token as it was when the layer last worked on it.
    input: Tensor,
    /// What the layer added to it then.
    update: Tensor,
}

impl Memory {
    /// A new stream begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next frame begins; its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.attended.clear();
        self.frames += 1;
        self.frames
    }

    fn of(&self, index: usize, x: &Tensor) -> Result<Option<&Held>> {
        let (b, n, d) = x.dims3()?;
        Ok(self.held.get(&index).filter(|h| h.input.dims() == [b * n, d]))
    }

    /// How far each token of `x: [b, n, d]` is from where it was when layer `index` last worked on it; `None` where the
    /// layer has seen no such frame yet.
    pub(crate) fn changed(&self, index: usize, x: &Tensor) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(held) = self.of(index, x)? else { return Ok(None) };
        let (b, n, _) = x.dims3()?;
        let away = (x.reshape(held.input.shape())?.detach() - &held.input)?.sqr()?.sum(D::Minus1)?.sqrt()?;
        Ok(Some(away.reshape((b, n))?.to_dtype(DType::F32)?.to_vec2()?))
    }

    /// The layer over all tokens, remembered.
    pub(super) fn first(&mut self, index: usize, layer: &dyn Block, x: &Tensor) -> Result<Tensor> {
        let (b, n, d) = x.dims3()?;
        let y = layer.forward(x)?;
        let flat = x.reshape((b * n, d))?;
        let update = (y.reshape((b * n, d))? - &flat)?;
        self.held.insert(index, Held { input: flat.detach(), update: update.detach() });
        self.attended.insert(index, vec![(0..n as u32).collect(); b]);
        Ok(y)
    }

    /// The layer over the chosen tokens; the others get the update they got last.
    pub(crate) fn selectively(
        &mut self,
        index: usize,
        layer: &dyn Block,
        x: &Tensor,
        chosen: Vec<Vec<u32>>,
    ) -> Result<Tensor> {
        let (b, n, d) = x.dims3()?;
        let Some(held) = self.of(index, x)? else { return self.first(index, layer, x) };
        let places = Places::new(b, n, &chosen)?;
        let flat = x.reshape((b * n, d))?;
        let taken = places.take(&flat)?;
        let update = places.put(&held.update, &(layer.forward(&taken)? - &taken)?)?;
        let y = (&flat + &update)?.reshape((b, n, d))?;
        let input = places.put(&held.input, &taken.detach())?;
        self.held.insert(index, Held { input, update: update.detach() });
        self.attended.insert(index, chosen);
        Ok(y)
    }
}
