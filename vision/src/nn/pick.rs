//! Rows of a matrix in another order, with a backward pass that picks as well.

use super::{f32s, fused};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor, bail};

/// Rows `index` of `x: [n, d]`, `[index.len(), d]`. A row may be picked several times as long as only the first of them
/// has a gradient (padding, say): what comes back for the others is dropped. Adding them up, as `index_select` does,
/// goes through the rows one by one on a card.
///
/// # Errors
/// An index is past the last row.
pub fn pick_rows(x: &Tensor, index: &[u32]) -> Result<Tensor> {
    let (n, _) = x.dims2()?;
    if let Some(from) = index.iter().find(|from| **from as usize >= n) {
        bail!("row {from} of {n}");
    }
    let rows = Tensor::new(index, x.device())?;
    if !x.track_op() {
        return x.contiguous()?.index_select(&rows, 0);
    }
    // Where each row went; `index.len()` is a row of zeros.
    let mut back = vec![index.len() as u32; n];
    for (to, from) in index.iter().enumerate().rev() {
        if let Some(place) = back.get_mut(*from as usize) {
            *place = to as u32;
        }
    }
    let back = Tensor::new(back, x.device())?;
    x.contiguous()?.apply_op2(&rows, PickRows { back })
}

/// `x: [n, d]` with its rows `index` replaced by `rows: [index.len(), d]`, in their order; each row is named once.
///
/// # Errors
/// An index is past the last row, or shapes that do not fit.
pub fn put_rows(x: &Tensor, rows: &Tensor, index: &[u32]) -> Result<Tensor> {
    let (n, d) = x.dims2()?;
    if let Some(row) = index.iter().find(|row| **row as usize >= n) {
        bail!("row {row} of {n}");
    }
    if rows.dims2()? != (index.len(), d) {
        bail!("{:?} in the place of {} rows of {d}", rows.shape(), index.len());
    }
    if fused(x) && !x.track_op() && !rows.track_op() {
        return x.contiguous()?.apply_op2_no_bwd(&rows.contiguous()?, &PutRows { index });
    }
    // Where a gradient has to pass, and on a card: picked from both.
    let mut back: Vec<u32> = (0..n as u32).collect();
    for (from, row) in index.iter().enumerate() {
        if let Some(place) = back.get_mut(*row as usize) {
            *place = (n + from) as u32;
        }
    }
    pick_rows(&Tensor::cat(&[x, rows], 0)?, &back)
}

struct PutRows<'a> {
    index: &'a [u32],
}

impl CustomOp2 for PutRows<'_> {
    fn name(&self) -> &'static str {
        "put-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, r: &CpuStorage, lr: &Layout) -> Result<(CpuStorage, Shape)> {
        let (mut y, rows) = (f32s(x, lx, self.name())?.to_vec(), f32s(r, lr, self.name())?);
        let d = lx.dims().last().copied().unwrap_or(1).max(1);
        for (row, from) in self.index.iter().zip(rows.chunks_exact(d)) {
            let at = *row as usize * d;
            if let Some(to) = y.get_mut(at..at + d) {
                to.copy_from_slice(from);
            }
        }
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }
}

struct PickRows {
    back: Tensor,
}

impl CustomOp2 for PickRows {
    fn name(&self) -> &'static str {
        "pick-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, i: &CpuStorage, li: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((x.index_select(i, lx, li, 0)?, shape(lx, li)))
    }

    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, i: &CudaStorage, li: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((x.index_select(i, lx, li, 0)?, shape(lx, li)))
    }

    fn metal_fwd(&self, x: &MetalStorage, lx: &Layout, i: &MetalStorage, li: &Layout) -> Result<(MetalStorage, Shape)> {
        Ok((x.index_select(i, lx, li, 0)?, shape(lx, li)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let zeros = Tensor::zeros((1, grad.dim(1)?), grad.dtype(), grad.device())?;
        Ok((Some(Tensor::cat(&[grad, &zeros], 0)?.index_select(&self.back, 0)?), None))
    }
}

fn shape(x: &Layout, index: &Layout) -> Shape {
    Shape::from((index.shape().elem_count(), x.dims().last().copied().unwrap_or(0)))
}
