//! Products of a few rows with a large weight, on the processor.
//!
//! A matrix product packs the weight first, which for a few rows costs more than the product itself: checking two tokens
//! would take twice as long as making one. Here each row of the weight is read once and used for all rows of `x`, so
//! that a pass over a few tokens takes about the time in which memory gives the weights. Every number is summed in the
//! same order however many rows there are: a draft is checked with the very numbers that plain decoding would have.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod soften;

#[cfg(target_arch = "x86_64")]
use avx512::{MOST, is_there, tile as wide_tile};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

pub(super) use soften::softened;

/// More rows than this are a matrix product.
const FEW: usize = 16;
/// Numbers that are summed side by side: a vector register of most processors.
const LANES: usize = 8;
/// Rows of `x` that are multiplied side by side.
const TILE: usize = 8;
/// Numbers of the weight for which a thread is worth its while.
const PIECE: usize = 1 << 15;

#[cfg(not(target_arch = "x86_64"))]
const MOST: usize = TILE;

#[cfg(not(target_arch = "x86_64"))]
fn is_there() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn wide_tile(_: &[f32], _: usize) -> Option<Box<dyn Rows>> {
    None
}

/// `x [rows, in]` times `weight [out, in]` transposed, `[rows, out]`; `None` where a matrix product serves better: many
/// rows, another type or device, tensors that learn.
pub(super) fn few_rows(x: &Tensor, weight: &Tensor) -> Result<Option<Tensor>> {
    let (rows, _) = x.dims2()?;
    let plain = |t: &Tensor| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous() && !t.track_op();
    if rows == 0 || x.dim(1)? == 0 || rows > FEW || !plain(x) || !plain(weight) {
        return Ok(None);
    }
    x.apply_op2_no_bwd(weight, &FewRows).map(Some)
}

struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "few-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, width), (out, same)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        if width != same {
            bail!("few-rows: {rows} x {width} times {out} x {same}");
        }
        let (x, w) = (floats(x, lx)?, floats(w, lw)?);
        // A thread writes a piece of its own: some outputs, row by row. The weight of a piece stays in the thread's cache
        // while one tile after another uses it.
        let outputs = ((PIECE / width.max(1)).max(1)).next_multiple_of(4);
        let tiles = tiles(x, width.max(1));
        let piece = |(y, weights): (&mut [f32], &[f32])| {
            tiles.iter().for_each(|(first, tile)| tile.products(weights, width, y, *first));
        };
        let mut pieces = vec![0f32; out * rows];
        if out * width > 2 * PIECE {
            pieces.par_chunks_mut(outputs * rows).zip(w.par_chunks(outputs * width)).for_each(piece);
        } else {
            pieces.chunks_mut(outputs * rows).zip(w.chunks(outputs * width)).for_each(piece);
        }
        if rows == 1 {
            return Ok((CpuStorage::F32(pieces), Shape::from((rows, out))));
        }
        let mut y = Vec::with_capacity(rows * out);
        for row in 0..rows {
            for piece in pieces.chunks(outputs * rows) {
                let n = piece.len() / rows;
                y.extend_from_slice(piece.get(row * n..(row + 1) * n).unwrap_or_default());
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }
}

/// A contiguous tensor's numbers.
pub(super) fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => {
            all.get(from..to).ok_or_else(|| candle_core::Error::Msg("a tensor beyond its storage".into()))
        }
        _ => bail!("contiguous f32 on the processor expected"),
    }
}

/// Some rows of `x`, group of lanes by group of lanes, so that a step along the weight reads them one after another.
struct Tile<const R: usize> {
    groups: Vec<[[f32; LANES]; R]>,
    /// What is left of each row behind the last whole group.
    rest: [Vec<f32>; R],
}

impl<const R: usize> Tile<R> {
    /// Of `x [R, width]`.
    fn new(x: &[f32], width: usize) -> Self {
        let mut groups = vec![[[0f32; LANES]; R]; width / LANES];
        let mut rest = std::array::from_fn(|_| Vec::new());
        for (r, (row, rest)) in x.chunks_exact(width).zip(&mut rest).enumerate() {
            let (whole, tail) = row.as_chunks::<LANES>();
            groups.iter_mut().zip(whole).for_each(|(group, lanes)| group[r] = *lanes);
            rest.extend_from_slice(tail);
        }
        Self { groups, rest }
    }
}

/// Rows that share a read of the weight.
trait Rows: Sync {
    /// Products with `weights [outputs, width]`, to rows `first ..` of `y [.., outputs]`.
    fn products(&self, weights: &[f32], width: usize, y: &mut [f32], first: usize);
}

impl<const R: usize> Rows for Tile<R> {
    fn products(&self, weights: &[f32], width: usize, y: &mut [f32], first: usize) {
        let outputs = weights.len() / width;
        for (output, weight) in weights.chunks_exact(width).enumerate() {
            let (weight, tail) = weight.as_chunks::<LANES>();
            let mut sums = [[0f32; LANES]; R];
            for (w, x) in weight.iter().zip(&self.groups) {
                // By index and by value: so the compiler keeps the sums in registers, which it does not over iterators.
                for r in 0..R {
                    sums[r] = add_products(&x[r], w, sums[r]);
                }
            }
            let places = y.iter_mut().skip(first * outputs + output).step_by(outputs);
            for ((y, sum), rest) in places.zip(&sums).zip(&self.rest) {
                *y = halves(*sum) + rest.iter().zip(tail).fold(0f32, |rest, (x, w)| add_product(*x, *w, rest));
            }
        }
    }
}

/// Rows of `x` in tiles, each with the number of its first row.
fn tiles(x: &[f32], width: usize) -> Vec<(usize, Box<dyn Rows>)> {
    let (rows, most) = (x.len() / width, if is_there() { MOST } else { TILE });
    // As large as each other: a tile of one row reads as much of the weight as any.
    let each = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
    let tile = |(number, x): (usize, &[f32])| (number * each, wide_tile(x, width).unwrap_or_else(|| plain(x, width)));
    x.chunks(each * width).enumerate().map(tile).collect()
}

/// A tile of at most [`TILE`] rows that any processor can do.
fn plain(x: &[f32], width: usize) -> Box<dyn Rows> {
    match x.len() / width {
        1 => Box::new(Tile::<1>::new(x, width)),
        2 => Box::new(Tile::<2>::new(x, width)),
        3 => Box::new(Tile::<3>::new(x, width)),
        4 => Box::new(Tile::<4>::new(x, width)),
        5 => Box::new(Tile::<5>::new(x, width)),
        6 => Box::new(Tile::<6>::new(x, width)),
        7 => Box::new(Tile::<7>::new(x, width)),
        _ => Box::new(Tile::<TILE>::new(x, width)),
    }
}

#[inline(always)]
fn add_products(x: &[f32; LANES], w: &[f32; LANES], mut sums: [f32; LANES]) -> [f32; LANES] {
    for i in 0..LANES {
        sums[i] = add_product(x[i], w[i], sums[i]);
    }
    sums
}

/// Fused where the processor has it; a call for each number would be slower than the sum.
#[inline(always)]
fn add_product(a: f32, b: f32, sum: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, sum) } else { a * b + sum }
}

/// Sums pairs, then pairs of these.
#[inline(always)]
pub(super) fn halves<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut n = N / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn numbers(rows: usize, width: usize, seed: u32) -> Tensor {
        let mut state = seed;
        let numbers: Vec<f32> = (0..rows * width)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn products_are_those_of_matrices_and_do_not_depend_on_company() {
        for (width, out) in [(16, 8), (33, 70), (576, 1203), (48, 6), (5, 3), (1, 1)] {
            let w = numbers(out, width, 9);
            let all = numbers(FEW, width, 4);
            let alone: Vec<Vec<f32>> = (0..FEW)
                .map(|i| {
                    few_rows(&all.narrow(0, i, 1).unwrap(), &w)
                        .unwrap()
                        .unwrap()
                        .flatten_all()
                        .unwrap()
                        .to_vec1()
                        .unwrap()
                })
                .collect();
            for rows in 1..=FEW {
                let x = all.narrow(0, 0, rows).unwrap();
                let found = few_rows(&x, &w).unwrap().unwrap();
                let expected = x.matmul(&w.t().unwrap()).unwrap();
                let worst = (&found - &expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(worst < 1e-4, "{rows} x {width} x {out}: {worst}");
                let found: Vec<Vec<f32>> = found.to_vec2().unwrap();
                assert_eq!(found, alone[..rows], "{rows} rows of {width}");
            }
        }
    }

    /// What a processor without wide registers does, on one that has them.
    #[test]
    fn plain_tiles_are_products_too() {
        for (width, out) in [(33, 7), (64, 5), (5, 3)] {
            let (x, w) = (numbers(TILE, width, 3), numbers(out, width, 5));
            let expected: Vec<f32> = x.matmul(&w.t().unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let [x, w] = [x, w].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            let mut alone = vec![0f32; TILE * out];
            (0..TILE).for_each(|r| plain(&x[r * width..(r + 1) * width], width).products(&w, width, &mut alone, r));
            for rows in 1..=TILE {
                let mut y = vec![0f32; rows * out];
                plain(&x[..rows * width], width).products(&w, width, &mut y, 0);
                assert_eq!(y, alone[..rows * out]);
                assert!(y.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4));
            }
        }
    }

    #[test]
    fn many_rows_and_whatever_learns_are_left_alone() {
        let (x, w) = (numbers(FEW + 1, 8, 1), numbers(4, 8, 2));
        assert!(few_rows(&x, &w).unwrap().is_none());
        let x = x.narrow(0, 0, 2).unwrap();
        assert!(few_rows(&x, &w).unwrap().is_some());
        let learns = Var::from_tensor(&w).unwrap();
        assert!(few_rows(&x, learns.as_tensor()).unwrap().is_none());
        assert!(few_rows(&(learns.as_tensor().narrow(0, 0, 2).unwrap() * 2.0).unwrap(), &w).unwrap().is_none());
        assert!(few_rows(&x.to_dtype(DType::F64).unwrap(), &w).unwrap().is_none());
        assert!(few_rows(&x, &numbers(4, 7, 2)).is_err());
    }
}
