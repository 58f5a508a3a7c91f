//! Pictures in tiles (LLaVA-NeXT's "anyres"): a picture is seen as a whole and in tiles of the tower's size, and the tiles'
//! tokens are laid out on one plane, cut back to what the picture covers, with a learned token at the end of each row.
//!
//! LLaVA-NeXT, LLaVA-OneVision and HyperCLOVA X SEED Vision do the same and differ in details, which are fields here.

use super::config::ConfigError;
use candle_core::{DType, Device, Result, Tensor, bail};
use spotter_vision::preprocess::Tiles;

/// Tiles along one side, and in all: more than any model was trained on.
const MOST_TILES: (usize, usize) = (64, 256);
/// A plane is made smaller when it is larger than allowed by this share of its side.
const SLACK: f64 = 1.1;

/// How a model looks at pictures that are no square of the tower's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiling {
    /// Side of a tile in pixels.
    pub tile: usize,
    /// Heights and widths of planes to choose from, in pixels.
    pub planes: Vec<(usize, usize)>,
    /// A plane of more than so many tiles' tokens is made smaller (`anyres_max_9`).
    pub most: Option<usize>,
    /// Tokens of bars are cut off and rows end in a token of their own.
    pub unpad: bool,
    /// Sizes are rounded to seven digits before they are cut to whole tokens.
    pub rounded: bool,
    /// Bars of tiles are of the mean colour, else black.
    pub mean_bars: bool,
    /// Several pictures in one prompt are only seen as wholes.
    pub several_whole: bool,
}

/// What is kept of a plane of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// First row and column, and their numbers.
    top: usize,
    left: usize,
    rows: usize,
    columns: usize,
    /// Rows and columns that these become.
    smaller: Option<(usize, usize)>,
}

/// The number in `anyres_max_9`.
pub(crate) fn most_tiles(ratio: &str) -> Option<usize> {
    ratio.strip_prefix("anyres_max_")?.parse().ok().filter(|n| (1..=MOST_TILES.1).contains(n))
}

impl Tiling {
    /// LLaVA-NeXT's over planes of heights and widths; with `most`, LLaVA-OneVision's.
    pub fn llava(tile: usize, planes: Vec<(usize, usize)>, most: Option<usize>) -> Self {
        let several_whole = most.is_some();
        Self { tile, planes, most, unpad: true, rounded: true, mean_bars: false, several_whole }
    }

    /// Refuses planes that are none; `field` is where they stand.
    ///
    /// # Errors
    /// The first plane that is not made of whole tiles, or none at all.
    pub fn check(&self, field: &str) -> std::result::Result<(), ConfigError> {
        let expected = || format!("heights and widths that are 1 to {} times {} pixels", MOST_TILES.0, self.tile);
        let fits = |side: usize| side.is_multiple_of(self.tile) && (1..=MOST_TILES.0).contains(&(side / self.tile));
        let wrong = self
            .planes
            .iter()
            .find(|(h, w)| self.tile == 0 || !fits(*h) || !fits(*w) || h / self.tile * (w / self.tile) > MOST_TILES.1);
        match wrong {
            Some(plane) => Err(ConfigError::new(field, expected(), format!("{plane:?}"))),
            None if self.planes.is_empty() => Err(ConfigError::new(field, expected(), "none")),
            None => Ok(()),
        }
    }

    /// The plane, in pixels, that shows most of a picture of `(width, height)` pixels, and of those the one with the least
    /// waste.
    pub fn plane(&self, (width, height): (usize, usize)) -> (usize, usize) {
        let (w, h) = (width.max(1) as f64, height.max(1) as f64);
        let mut best = ((self.tile, self.tile), 0i64, i64::MAX);
        for &(rows, columns) in &self.planes {
            let scale = (columns as f64 / w).min(rows as f64 / h);
            let shown = ((w * scale) as i64 * (h * scale) as i64).min(width as i64 * height as i64);
            let wasted = (rows * columns) as i64 - shown;
            if shown > best.1 || (shown == best.1 && wasted < best.2) {
                best = ((rows, columns), shown, wasted);
            }
        }
        best.0
    }

    /// How a picture of `(width, height)` pixels is cut up.
    pub fn tiles(&self, size: (usize, usize)) -> Tiles {
        Tiles { plane: self.plane(size), mean_bars: self.mean_bars }
    }

    /// Tokens of a picture, for tiles of `side` x `side` tokens.
    pub fn tokens(&self, size: (usize, usize), side: usize) -> usize {
        let kept = self.kept(size, side);
        let (rows, columns) = kept.smaller.unwrap_or((kept.rows, kept.columns));
        side * side + rows * (columns + usize::from(self.unpad))
    }

    fn kept(&self, size: (usize, usize), side: usize) -> Kept {
        let (height, width) = self.plane(size);
        let (rows, columns) = (height / self.tile.max(1) * side, width / self.tile.max(1) * side);
        if !self.unpad {
            return Kept { top: 0, left: 0, rows, columns, smaller: None };
        }
        let (w, h) = (size.0.max(1) as f64, size.1.max(1) as f64);
        let whole = |x: f64| if self.rounded { ((x * 1e7).round() / 1e7) as usize } else { x as usize };
        let (mut top, mut left) = (0, 0);
        if w / h > columns as f64 / rows as f64 {
            top = rows.saturating_sub(whole(h * (columns as f64 / w))) / 2;
        } else {
            left = columns.saturating_sub(whole(w * (rows as f64 / h))) / 2;
        }
        let (rows, columns) = (rows - 2 * top, columns - 2 * left);
        let ratio = self.most.map(|most| ((rows * columns) as f64 / (most * side * side) as f64).sqrt());
        let smaller = |ratio: f64| ((rows as f64 / ratio) as usize, (columns as f64 / ratio) as usize);
        Kept { top, left, rows, columns, smaller: ratio.filter(|r| *r > SLACK).map(smaller) }
    }

    /// Tokens `[n, width]` of a picture of `size` (width, height) out of those of its whole and its tiles,
    /// `[1 + tiles, side * side, width]`.
    ///
    /// # Errors
    /// Another number of tiles or tokens than the size asks for, or those of the device.
    pub fn pack(&self, tokens: &Tensor, size: (usize, usize), newline: &Tensor) -> Result<Tensor> {
        let (n, per_tile, width) = tokens.dims3()?;
        let side = per_tile.isqrt();
        let (height, length) = self.plane(size);
        let (down, across) = (height / self.tile, length / self.tile);
        if side * side != per_tile || n != 1 + down * across {
            bail!("{n} views of {per_tile} tokens; 1 + {down} x {across} squares of tokens expected");
        }
        let kept = self.kept(size, side);
        let plane = tokens.narrow(0, 1, n - 1)?.reshape(vec![down, across, side, side, width])?;
        let plane = plane.permute(vec![0, 2, 1, 3, 4])?.contiguous()?.reshape((down * side, across * side, width))?;
        let mut plane = plane.narrow(0, kept.top, kept.rows)?.narrow(1, kept.left, kept.columns)?.contiguous()?;
        if let Some((rows, columns)) = kept.smaller {
            plane = bilinear(&plane, rows, columns)?;
        }
        if self.unpad {
            let (rows, _, _) = plane.dims3()?;
            let ends = newline.to_dtype(plane.dtype())?.reshape((1, 1, width))?.expand((rows, 1, width))?;
            plane = Tensor::cat(&[&plane, &ends], 1)?;
        }
        Tensor::cat(&[&tokens.get(0)?, &plane.flatten(0, 1)?], 0)
    }
}

/// Tokens `[rows, columns, width]` resampled to other numbers of rows and columns, each between its two neighbours.
///
/// # Errors
/// Those of the device.
pub fn bilinear(plane: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let (from_rows, from_columns, width) = plane.dims3()?;
    let down = between(from_rows, rows, plane.dtype(), plane.device())?;
    let plane = down.matmul(&plane.contiguous()?.reshape((from_rows, from_columns * width))?)?;
    let across = between(from_columns, columns, plane.dtype(), plane.device())?;
    across.broadcast_matmul(&plane.reshape((rows, from_columns, width))?)
}

/// Weights `[to, from]`: the centres of cells, not their corners, lie on each other.
fn between(from: usize, to: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut weights = vec![0f32; from * to];
    let step = from as f32 / to.max(1) as f32;
    for (i, row) in weights.chunks_exact_mut(from.max(1)).enumerate() {
        let at = ((i as f32 + 0.5) * step - 0.5).max(0.0);
        let first = (at as usize).min(from.saturating_sub(1));
        let share = at - first as f32;
        if let Some(weight) = row.get_mut(first) {
            *weight += 1.0 - share;
        }
        if let Some(weight) = row.get_mut((first + 1).min(from.saturating_sub(1))) {
            *weight += share;
        }
    }
    Tensor::from_vec(weights, (to, from), device)?.to_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HyperCLOVA X SEED Vision: up to nine tiles of 378 pixels, 9 x 9 tokens each.
    fn seed() -> Tiling {
        let grids = (1..=9).flat_map(|r| (1..=9).map(move |c| (r, c)));
        let planes = grids.filter(|(r, c)| r * c <= 9 && r * c > 1).map(|(r, c)| (r * 378, c * 378)).collect();
        Tiling { tile: 378, planes, most: None, unpad: true, rounded: false, mean_bars: true, several_whole: false }
    }

    /// Specs: hyperclovax, check 7 and section 7.4.
    #[test]
    fn tokens_are_counted_by_the_formula() {
        let tiling = seed();
        // Two tiles side by side, one above the other, three by three: no bars.
        assert_eq!(tiling.tokens((756, 378), 9), 81 + 9 * (18 + 1));
        assert_eq!(tiling.tokens((378, 756), 9), 81 + 18 * (9 + 1));
        assert_eq!(tiling.tokens((1134, 1134), 9), 837);
        // A square without a plane of one tile: two tiles, half of them bars.
        assert_eq!(tiling.tokens((378, 378), 9), 81 + 9 * (9 + 1 + 1), "an odd rest keeps one column of bars");
        // One row of pixels: the fewest tiles side by side that hold it; one row of tokens is left.
        assert_eq!(tiling.plane((2000, 1)), (378, 6 * 378));
        assert_eq!(tiling.tokens((2000, 1), 9), 81 + (54 + 1));
        let plain = Tiling { unpad: false, ..tiling };
        assert_eq!(plain.tokens((378, 378), 9), 81 + 9 * 18);
    }

    #[test]
    fn packing_lays_tiles_on_one_plane() {
        let tiling = Tiling { tile: 4, planes: vec![(4, 8)], ..seed() };
        // Two tiles of 2 x 2 tokens, numbered, behind the whole picture's.
        let tokens = Tensor::from_iter((0..12).map(|v| v as f32), &Device::Cpu).unwrap().reshape((3, 4, 1)).unwrap();
        let newline = Tensor::new(&[-1f32], &Device::Cpu).unwrap();
        let pack = |tiling: &Tiling, size| {
            let packed = tiling.pack(&tokens, size, &newline).unwrap();
            assert_eq!(packed.dim(0).unwrap(), tiling.tokens(size, 2));
            packed.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let whole = [0.0, 1.0, 2.0, 3.0];
        let rows = [4.0, 5.0, 8.0, 9.0, -1.0, 6.0, 7.0, 10.0, 11.0, -1.0];
        assert_eq!(pack(&tiling, (8, 4)), [&whole[..], &rows].concat());
        // A narrow picture covers the two columns in the middle.
        assert_eq!(pack(&tiling, (2, 4)), [&whole[..], &[5.0, 8.0, -1.0, 7.0, 10.0, -1.0]].concat());
        let plain = Tiling { unpad: false, ..tiling.clone() };
        assert_eq!(pack(&plain, (8, 4)), [&whole[..], &[4.0, 5.0, 8.0, 9.0, 6.0, 7.0, 10.0, 11.0]].concat());
        let error = tiling.pack(&tokens.narrow(0, 0, 2).unwrap(), (8, 4), &newline).unwrap_err().to_string();
        assert!(error.contains("2 views of 4 tokens; 1 + 1 x 2 squares of tokens expected"), "{error}");
    }

    #[test]
    fn resampling_keeps_to_the_centres_of_cells() {
        let plane = Tensor::new(&[[[0f32], [1.0], [2.0], [3.0]]], &Device::Cpu).unwrap();
        let half = bilinear(&plane, 1, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(half, [0.5, 2.5]);
        let more = bilinear(&plane, 1, 8).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(more, [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    }

    #[test]
    fn planes_that_are_none_are_named() {
        let with = |planes: Vec<(usize, usize)>| Tiling { planes, ..seed() }.check("image_grid_pinpoints");
        assert!(with(vec![(378, 756)]).is_ok());
        for planes in [vec![], vec![(378, 400)], vec![(0, 378)], vec![(378 * 65, 378)], vec![(378 * 20, 378 * 20)]] {
            let error = with(planes).unwrap_err().to_string();
            assert!(error.contains("`image_grid_pinpoints`: expected heights and widths that are 1 to 64 times 378"));
        }
    }
}
