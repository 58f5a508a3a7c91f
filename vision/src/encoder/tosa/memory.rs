//! What one frame of a stream leaves to the next: the updates that layers gave, and the keys and values they saw.

use super::{Block, Places};
use candle_core::{D, DType, Result, Tensor};
use std::collections::BTreeMap;

/// What a stream of frames carries along. One step beyond the paper, for video: between frames most patches stay what they
/// are, so a token that is skipped gets the update that the layer gave it when it last worked on it, instead of none; those
/// that are worked on also attend to its last key and value; and tokens that moved since then go first. What is skipped is
/// old by a frame or two, not missing. A batch of unrelated pictures has no use for it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    held: BTreeMap<usize, Held>,
    /// Frames that were seen.
    frames: u64,
    /// For each selective layer the tokens that were worked on in the last frame.
    pub(super) worked: BTreeMap<usize, Places>,
}

/// Of one layer, `[b * n, d]`.
#[derive(Clone, Debug)]
struct Held {
    /// Each token as it was when the layer last worked on it.
    input: Tensor,
    /// What the layer added to it then.
    update: Tensor,
    /// Its key and its value then, all heads.
    keys: Tensor,
    values: Tensor,
}

/// Keys or values `[b, heads, m, width]` as rows of tokens, `[b, m, d]`.
fn rows(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.contiguous()?.flatten_from(2)
}

impl Memory {
    /// A new stream begins.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// For each selective layer and picture the tokens that were worked on in the last frame, rising.
    ///
    /// # Errors
    /// Those of the device.
    pub fn attended(&self) -> Result<BTreeMap<usize, Vec<Vec<u32>>>> {
        self.worked.iter().map(|(layer, places)| Ok((*layer, places.lists()?))).collect()
    }

    /// The next frame begins; its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.worked.clear();
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
        let flat = |t: &Tensor| -> Result<Tensor> { Ok(t.reshape((b * n, d))?.detach()) };
        let mut seen = None;
        let y = layer.forward_joined(x, &mut |keys, values| {
            seen = Some((flat(&rows(&keys)?)?, flat(&rows(&values)?)?));
            Ok((keys, values))
        })?;
        if let Some((keys, values)) = seen {
            self.held.insert(index, Held { input: flat(x)?, update: flat(&(&y - x)?)?, keys, values });
        }
        self.worked.insert(index, Places::new(b, n, &vec![(0..n as u32).collect(); b])?);
        Ok(y)
    }

    /// The layer over the chosen tokens; the others get the update they got last.
    pub(crate) fn selectively(
        &mut self,
        index: usize,
        layer: &dyn Block,
        x: &Tensor,
        places: Places,
    ) -> Result<Tensor> {
        let (b, n, d) = x.dims3()?;
        let Some(held) = self.of(index, x)? else { return self.first(index, layer, x) };
        let flat = x.reshape((b * n, d))?;
        let taken = places.take(&flat)?;
        let mut seen = None;
        let worked = layer.forward_joined(&taken, &mut |keys, values| {
            let (heads, width) = (keys.dim(1)?, keys.dim(3)?);
            let split = |t: &Tensor| t.reshape((b, n, heads, width))?.transpose(1, 2)?.contiguous();
            let (keys, values) = (places.put(&held.keys, &rows(&keys)?)?, places.put(&held.values, &rows(&values)?)?);
            seen = Some((keys.detach(), values.detach()));
            Ok((split(&keys)?, split(&values)?))
        })?;
        let update = places.put(&held.update, &(worked - &taken)?)?;
        let y = (&flat + &update)?.reshape((b, n, d))?;
        let input = places.put(&held.input, &taken.detach())?;
        if let Some((keys, values)) = seen {
            self.held.insert(index, Held { input, update: update.detach(), keys, values });
        }
        self.worked.insert(index, places);
        Ok(y)
    }
}
