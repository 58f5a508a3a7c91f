//! Several frames of a stream in one pass, for measurements.

use super::{
    Step,
    gate::{Gate, Wish},
    session::CoachSession,
    wish::logit,
};
use crate::model::Commit;
use candle_core::{DType, Result, Tensor};
use spotter_vision::lens::View;
use std::time::Duration;

/// Positions of a run of frames: products of more rows read the weights in another way.
const RUN: usize = 16;

impl CoachSession {
    /// [`Self::observe_seen`] of the next frames of a stream, several in one pass that reads the weights once: as long as
    /// nothing is said, and no further than the next eviction, which so comes where it would. A step comes back for each
    /// frame that was taken up, at least one where there is any. Numbers differ from those of single steps in their last
    /// digits, as the columns of a product do; a model without action tokens takes up one frame at a time.
    ///
    /// # Errors
    /// Those of the decoder.
    pub fn observe_run(
        &mut self,
        seen: &[(Duration, Tensor)],
        view: View,
        emit: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<Step>> {
        let Some((t, first)) = seen.first() else { return Ok(Vec::new()) };
        let tokens = first.dim(1)?;
        let room = self.cache.depth().min(RUN) / tokens.max(1);
        let run = seen.get(..room.min(seen.len())).unwrap_or_default();
        let (Gate::Actions { next, feedback, .. }, 2..) = (&self.gate, run.len()) else {
            return Ok(vec![self.observe_seen(first, *t, view, emit)?]);
        };
        let (next, feedback) = (*next, *feedback);
        self.cache.begin()?;
        let wishes = match self.wishes(run, next, feedback) {
            Ok(wishes) => wishes,
            Err(error) => {
                self.cache.rollback()?;
                return Err(error);
            }
        };
        let speaks = |(t, wish): (&Duration, &Wish)| self.wants(*wish, *t);
        let silent = run.iter().map(|(t, _)| t).zip(&wishes).take_while(|frame| !speaks(*frame)).count();
        let taken = (silent + 1).min(run.len());
        self.cache.commit(Commit::First(taken * tokens))?;
        if let Some(speculator) = &mut self.speculator {
            run.iter().take(taken).try_for_each(|(_, seen)| speculator.see(seen))?;
        }
        let frames = run.iter().zip(wishes).take(taken);
        frames.map(|((t, _), wish)| self.decide(wish, *t, view, emit)).collect()
    }

    /// How much it wishes to speak after each of some frames, which are appended.
    fn wishes(&mut self, run: &[(Duration, Tensor)], next: u32, feedback: u32) -> Result<Vec<Wish>> {
        let frames: Vec<&Tensor> = run.iter().map(|(_, seen)| seen).collect();
        let x = Tensor::cat(&frames, 1)?;
        let (_, n, width) = x.dims3()?;
        let hidden = self.model.decoder.read(&x, Some(&mut self.cache))?;
        let last = hidden.reshape((run.len(), n / run.len(), width))?.narrow(1, n / run.len() - 1, 1)?;
        let logits = self.model.decoder.logits(&last.transpose(0, 1)?.contiguous()?)?.squeeze(0)?;
        let rows: Vec<Vec<f32>> = logits.to_dtype(DType::F32)?.to_vec2()?;
        Ok(rows.iter().map(|row| Wish::odds(logit(row, feedback) - logit(row, next))).collect())
    }
}
