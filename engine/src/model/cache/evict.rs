//! Cutting the heads back to their budget.

use super::{
    KvCache, LayerCache, Positions,
    moves::MoveRows,
    queries::Queries,
    scorer::Entries,
    select::{Keep, select},
};
use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use std::time::Instant;

/// Scores from which on threads share them out: fewer take less time than waking the threads.
const SHARED_OUT: usize = 1 << 17;

impl KvCache {
    /// Cuts every head back to the budget now, where it holds more.
    ///
    /// # Errors
    /// Inside a step; a key, value or weight that is NaN.
    pub fn evict(&mut self) -> Result<()> {
        let Some(bound) = &self.bound else { return Ok(()) };
        if self.len <= bound.budget {
            return Ok(());
        }
        if !self.steps.is_empty() {
            bail!("nothing can be dropped while a step is open");
        }
        // The scores are waited for in any case: what was queued before is not to count as time of the eviction.
        self.wait()?;
        let begun = Instant::now();
        let kept = self.choose()?;
        let chosen = begun.elapsed();
        let len = kept.first().and_then(|layer| layer.first()).map_or(0, Vec::len);
        self.compact(&kept)?;
        for layer in &mut self.layers {
            // A stream that is bounded will be long: from here on nothing grows.
            layer.reserve(self.capacity, len, self.capacity)?;
        }
        self.len = len;
        self.evictions += 1;
        self.close_up()?;
        self.wait()?;
        let evicting = begun.elapsed();
        tracing::trace!(?chosen, ?evicting, entries = self.len, "evicted");
        self.evicting += evicting;
        Ok(())
    }

    /// Keeps the entries `kept` of each layer and head. A card is told of all layers at once.
    fn compact(&mut self, kept: &[Vec<Vec<u32>>]) -> Result<()> {
        let (len, Some(device)) = (self.len, self.layers.first().map(|layer| layer.device().clone())) else {
            return Ok(());
        };
        let first = kept.iter().filter_map(|kept| MoveRows::first_moved(kept)).min();
        let (false, Some(first)) = (device.is_cpu(), first) else {
            return self.layers.iter_mut().zip(kept).try_for_each(|(layer, kept)| layer.compact(kept, len));
        };
        let rows = self.layers.first().map_or(0, LayerCache::rows);
        let moves = |kept| MoveRows { kept, first, len };
        let index: Vec<u32> =
            kept.par_iter().flat_map_iter(|kept| moves(kept).index(rows).collect::<Vec<_>>()).collect();
        let index = Tensor::from_vec(index, (self.layers.len(), ()), &device)?;
        for (i, (layer, kept)) in self.layers.iter().zip(kept).enumerate() {
            layer.gather(&moves(kept), &index.get(i)?)?;
        }
        self.layers.par_iter_mut().zip(kept).for_each(|(layer, kept)| layer.place(kept));
        Ok(())
    }

    /// Closes up the positions, where the next eviction could come too late for that.
    fn close_up(&mut self) -> Result<()> {
        let Some(bound) = &self.bound else { return Ok(()) };
        let bound_to_pass = self.position + bound.options.slack() + bound.scratch > bound.limit;
        if bound.options.positions == Positions::Shrink || bound_to_pass {
            let (cos, sin) = bound.rope.tables();
            for layer in &mut self.layers {
                layer.close_up(self.len, cos, sin)?;
            }
            self.position = self.len;
            self.closings += 1;
        }
        Ok(())
    }

    /// Waits for a card.
    fn wait(&self) -> Result<()> {
        match self.layers.first().map(LayerCache::device) {
            Some(device) if !device.is_cpu() => device.synchronize(),
            _ => Ok(()),
        }
    }

    /// The entries that stay, for each layer and head.
    fn choose(&self) -> Result<Vec<Vec<Vec<u32>>>> {
        let mut scores = self.all_scores()?;
        let heads = self.shape.heads;
        if self.bound.as_ref().is_some_and(|b| b.options.shared) {
            let mut mean = vec![0f32; self.len];
            for head in scores.iter().flat_map(|layer| layer.chunks_exact(self.len)) {
                mean.iter_mut().zip(head).for_each(|(m, s)| *m += s);
            }
            scores = vec![mean.repeat(heads); self.layers.len()];
        }
        let keep = self.keep();
        let choose = |(i, (layer, scores)): (usize, (&LayerCache, &Vec<f32>))| {
            let heads = scores.chunks_exact(self.len).enumerate();
            heads
                .map(|(head, scores)| {
                    let said = layer.said(head);
                    let kept = select(scores, keep, |slot| said.get(slot).copied().unwrap_or(false));
                    kept.map_err(|e| candle_core::Error::Msg(format!("layer {i}, key head {head}: {e}")))
                })
                .collect()
        };
        if self.layers.len() * heads * self.len < SHARED_OUT {
            return self.layers.iter().zip(&scores).enumerate().map(choose).collect();
        }
        self.layers.par_iter().zip(&scores).enumerate().map(choose).collect()
    }

    /// What stays whatever its score. The prompt comes before everything; sinks that are not pinned come behind the
    /// window.
    fn keep(&self) -> Keep {
        let Some(bound) = &self.bound else { return Keep { budget: self.len, window: 0, sinks: 0, said: 0 } };
        let (options, budget) = (&bound.options, bound.budget);
        let share = |share: f64| (share * budget as f64) as usize;
        let window = share(options.window).max(self.watched_window());
        let soft = options.sinks.min(budget / 2).min(budget.saturating_sub(window));
        let sinks = self.pinned.max(soft).min(budget);
        Keep { budget, window: window.min(budget - sinks), sinks, said: share(options.said.unwrap_or(0.0)) }
    }

    /// SnapKV's observed entries are not scored by themselves: they stay.
    fn watched_window(&self) -> usize {
        match self.layers.first().map(|l| l.watch().queries) {
            Some(n) if n > 1 => n,
            _ => 0,
        }
    }

    /// Scores of the entries of each layer, head by head. From a card they are fetched all at once.
    fn all_scores(&self) -> Result<Vec<Vec<f32>>> {
        let scores = self.layers.iter().enumerate().map(|(i, l)| self.scores(i, l)).collect::<Result<Vec<_>>>()?;
        if scores.iter().all(|scores| scores.device().is_cpu()) {
            return scores.iter().map(Tensor::to_vec1).collect();
        }
        let together = Tensor::cat(&scores, 0)?.to_vec1::<f32>()?;
        Ok(together.chunks_exact(self.shape.heads * self.len).map(<[f32]>::to_vec).collect())
    }

    /// Scores `[heads * len]` of one layer.
    fn scores(&self, index: usize, layer: &LayerCache) -> Result<Tensor> {
        let Some(bound) = &self.bound else { bail!("a cache without bounds has no scores") };
        let (keys, values) = layer.entries(self.len)?;
        let (mass, queries) = (layer.mass(self.len)?, layer.queries()?);
        let hidden = queries.as_ref().map(|q| self.hidden(layer, q)).transpose()?.flatten();
        let entries = Entries {
            layer: index,
            seen: self.seen,
            keys: &keys,
            values: &values,
            queries: queries.as_ref().map(|q| &q.rows),
            hidden: hidden.as_ref(),
            mass: mass.as_ref(),
        };
        let scores = bound.scorer.scores(&entries)?.flatten_all()?;
        if scores.elem_count() != self.shape.heads * self.len {
            let expected = self.shape.heads * self.len;
            bail!("{:?} gave {} scores for {expected} entries", bound.scorer, scores.elem_count());
        }
        Ok(scores)
    }

    /// What watched queries may see of the entries; `None` where the one query sees all.
    fn hidden(&self, layer: &LayerCache, queries: &Queries) -> Result<Option<Tensor>> {
        if queries.positions.len() == 1 && self.model_window.is_none() {
            return Ok(None);
        }
        let view = Visible { window: self.model_window, blind_see_all: true };
        view.mask(layer, &queries.positions, self.len, queries.rows.device()).map(Some)
    }
}

/// Which entries a query may see: those at or before its own position and, under a model's window, not further back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible {
    /// The model's window.
    pub(crate) window: Option<usize>,
    /// A query that would see nothing, because it outlived all it could see, sees everything: softmax of nothing is
    /// no number.
    pub(crate) blind_see_all: bool,
}

impl Visible {
    /// For queries at `queries` (positions) and the first `len` entries of every head: `[heads, queries, len]`, 0 or
    /// minus infinity.
    pub(crate) fn mask(self, layer: &LayerCache, queries: &[u32], len: usize, device: &Device) -> Result<Tensor> {
        let heads = layer.heads();
        let mut mask = vec![0f32; heads * queries.len() * len];
        let mut rows = mask.chunks_exact_mut(len.max(1));
        for head in 0..heads {
            let positions = layer.positions(head).get(..len).unwrap_or(&[]);
            // Only the columns of an open tree are out of order.
            let in_order = positions.is_sorted();
            for (query, row) in queries.iter().zip(rows.by_ref()) {
                let first = self.window.map_or(0, |w| (*query as usize + 1).saturating_sub(w)) as u32;
                if in_order {
                    let (from, to) =
                        (positions.partition_point(|p| *p < first), positions.partition_point(|p| *p <= *query));
                    if from < to || !self.blind_see_all {
                        row.get_mut(..from.min(to)).unwrap_or_default().fill(f32::NEG_INFINITY);
                        row.get_mut(to..).unwrap_or_default().fill(f32::NEG_INFINITY);
                    }
                    continue;
                }
                let seen = |p: &u32| *p <= *query && *p >= first;
                let all = self.blind_see_all && !positions.iter().any(seen);
                for (hidden, p) in row.iter_mut().zip(positions) {
                    *hidden = if all || seen(p) { 0.0 } else { f32::NEG_INFINITY };
                }
            }
        }
        Tensor::from_vec(mask, (heads, queries.len(), len), device)
    }
}
