//! Inputs times weights, on all threads.

use super::{
    Matrix,
    format::{BLOCK, Factors, ROWS, Strip},
    halves::{self, GROUPS, Halves, MOST, Numbers, Sums},
    inputs::{Inputs, Tile},
    matrix::{Codes, Group, Kind},
    scalar,
    tiles::TILES,
};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// Bytes of inputs that stay in the cache of a core while weights run past.
const PASS: usize = 256 << 10;
/// Bytes of weights for which a thread is worth its while.
const PIECE: usize = 16 << 10;

/// What a processor multiplies with: of its kind, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// None in particular.
    Scalar,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Instructions {
    /// All that this processor has, the best last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(super::avx2::here().then_some(Self::Avx2));
            all.extend(super::avx512::here().then_some(Self::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        {
            all.extend(super::neon::here().then_some(Self::Neon));
            all.extend(super::neon::has_dot().then_some(Self::NeonDot));
        }
        all
    }

    /// The best that this processor has.
    pub fn best() -> Self {
        static BEST: OnceLock<Instructions> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::Scalar))
    }

    /// Sums of a tile; `out` has its rows.
    #[inline]
    fn sums(self, group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
        match self {
            Self::Scalar => scalar::sums(group, x, out),
            // SAFETY: `multiply` asks for none that the processor does not have.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { super::avx2::sums(group, x, out) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { super::avx512::sums(group, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => unsafe { super::neon::sums(group, x, out) },
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => unsafe { super::neon::sums_dot(group, x, out) },
        }
    }

    /// Sums of a tile with groups of a weight of two bytes.
    #[inline]
    fn half_sums(self, brain: bool, strips: &[Strip], x: halves::Tile<'_>, out: &mut Sums) {
        match self {
            Self::Scalar => halves::sums(brain, strips, x, out),
            // SAFETY: `multiply` asks for none that the processor does not have.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { super::halves_x86::sums_avx2(brain, strips, x, out) },
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { super::halves_x86::sums_avx512(brain, strips, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDot => unsafe { super::halves_neon::sums(brain, strips, x, out) },
        }
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "no vector instructions",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512 (VNNI)",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "NEON (dotprod)",
        })
    }
}

/// One weight, or several of the same width whose outputs lie side by side.
#[derive(Clone, Debug)]
pub struct Packed {
    parts: Arc<[Matrix]>,
    rows: usize,
    width: usize,
}

/// Where the outputs of a product go, for threads that each write columns of their own.
#[derive(Clone, Copy)]
struct Outputs {
    data: *mut f32,
    rows: usize,
    columns: usize,
}

// SAFETY: threads write different places, see `put`.
unsafe impl Send for Outputs {}
// SAFETY: as above.
unsafe impl Sync for Outputs {}

impl Outputs {
    /// Writes some of sixteen sums behind one another.
    ///
    /// # Safety
    /// No two threads may write the same place.
    unsafe fn put(self, row: usize, column: usize, sums: &[f32]) {
        assert!(row < self.rows && column + sums.len() <= self.columns, "outputs beyond their buffer");
        // SAFETY: inside of the buffer, as was just checked, and nobody else writes here.
        unsafe {
            self.data.add(row * self.columns + column).copy_from_nonoverlapping(sums.as_ptr(), sums.len());
        }
    }
}

/// Groups of one part that a thread takes at once.
struct Piece<'a> {
    matrix: &'a Matrix,
    inputs: &'a Prepared,
    groups: std::ops::Range<usize>,
    /// Outputs before those of this part.
    column: usize,
}

/// Inputs as a kind of weight takes them.
enum Prepared {
    Codes((i32, bool), Inputs),
    Numbers(Numbers),
}

impl Prepared {
    fn fits(&self, matrix: &Matrix) -> bool {
        match (self, &matrix.0) {
            (Self::Codes(known, _), Kind::Codes(_)) => *known == kind(matrix),
            (Self::Numbers(_), Kind::Halves(_)) => true,
            _ => false,
        }
    }
}

impl Packed {
    /// Of weights of one width.
    ///
    /// # Errors
    /// None, or different widths.
    pub fn new(parts: Vec<Matrix>) -> Result<Self> {
        let width = parts.first().map_or(0, Matrix::width);
        if width == 0 || parts.iter().any(|part| part.width() != width) {
            bail!(
                "weights side by side: widths {:?} expected to be the same",
                parts.iter().map(Matrix::width).collect::<Vec<_>>()
            );
        }
        Ok(Self { rows: parts.iter().map(Matrix::rows).sum(), width, parts: parts.into() })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Matrix::bytes).sum()
    }

    /// A weight of some of its rows, where it is one.
    ///
    /// # Errors
    /// A row that it does not have.
    pub fn pick(&self, rows: &[u32]) -> Result<Self> {
        match &*self.parts {
            [one] => Self::new(vec![one.pick(rows)?]),
            parts => bail!("rows of {} weights side by side", parts.len()),
        }
    }

    /// Its rows `ids`, unpacked: `[ids, width]`.
    ///
    /// # Errors
    /// A row that it does not have.
    pub fn lookup(&self, ids: &[u32]) -> Result<Tensor> {
        let [one] = &*self.parts else { bail!("rows of {} weights side by side", self.parts.len()) };
        let mut numbers = vec![0f32; ids.len() * self.width];
        for (id, numbers) in ids.iter().zip(numbers.chunks_exact_mut(self.width)) {
            one.read_row(*id as usize, numbers)?;
        }
        Tensor::from_vec(numbers, (ids.len(), self.width), &candle_core::Device::Cpu)
    }

    /// `x [rows, width]` (contiguous f32 on the processor) to `[rows, outputs]`.
    ///
    /// # Errors
    /// Other inputs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.dtype() != DType::F32 || !x.device().is_cpu() {
            bail!("packed weights take f32 on the processor, found {:?} on {:?}", x.dtype(), x.device());
        }
        x.apply_op1_no_bwd(self)
    }

    /// Products of `x [rows, width]` to `y [rows, outputs]`, with some instructions or less where the processor has less.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn multiply(&self, x: &[f32], y: &mut [f32], with: Instructions) -> Result<()> {
        let (rows, with) = (x.len() / self.width, with.min(Instructions::best()));
        if x.len() != rows * self.width || y.len() != rows * self.rows {
            bail!("{} inputs and {} outputs of a weight [{}, {}]", x.len(), y.len(), self.rows, self.width);
        }
        let prepared = self.prepare(x);
        let outputs = Outputs { data: y.as_mut_ptr(), rows, columns: self.rows };
        let threads = rayon::current_num_threads();
        let share = (self.bytes() / (2 * threads)).max(PIECE);
        let (mut pieces, mut column) = (Vec::new(), 0);
        for matrix in self.parts.iter() {
            let Some(inputs) = prepared.iter().find(|inputs| inputs.fits(matrix)) else { continue };
            let groups = matrix.groups();
            let step = (groups * share).div_ceil(matrix.bytes().max(1)).max(1);
            let piece = |first| Piece { matrix, inputs, groups: first..(first + step).min(groups), column };
            pieces.extend((0..groups).step_by(step).map(piece));
            column += matrix.rows();
        }
        match pieces.as_slice() {
            [one] => one.run(outputs, with),
            all => all.par_iter().with_max_len(1).for_each(|piece| piece.run(outputs, with)),
        }
        Ok(())
    }
}

impl Packed {
    /// Inputs for each kind of weight among its parts, once.
    fn prepare(&self, x: &[f32]) -> Vec<Prepared> {
        let mut plain: Option<Inputs> = None;
        let mut all: Vec<Prepared> = Vec::with_capacity(1);
        for matrix in self.parts.iter() {
            if all.iter().any(|known| known.fits(matrix)) {
                continue;
            }
            all.push(match &matrix.0 {
                Kind::Halves(_) => Prepared::Numbers(Numbers::new(x, self.width)),
                Kind::Codes(_) => {
                    let kind = kind(matrix);
                    let mut shifted = plain.get_or_insert_with(|| Inputs::new(x, self.width)).clone();
                    shifted.begin(kind.0, kind.1);
                    Prepared::Codes(kind, shifted)
                }
            });
        }
        all
    }
}

/// What is taken off each code, and whether halves of a block have factors of their own.
fn kind(matrix: &Matrix) -> (i32, bool) {
    (matrix.format().offset(), matrix.format().factors() == Factors::Six)
}

impl Piece<'_> {
    fn run(&self, outputs: Outputs, with: Instructions) {
        match (&self.matrix.0, self.inputs) {
            (Kind::Codes(codes), Prepared::Codes(_, inputs)) => self.run_codes(codes, inputs, outputs, with),
            (Kind::Halves(halves), Prepared::Numbers(numbers)) => self.run_halves(halves, numbers, outputs, with),
            // Inputs are looked for by what fits.
            _ => (),
        }
    }

    fn run_codes(&self, codes: &Codes, inputs: &Inputs, outputs: Outputs, with: Instructions) {
        let mut sums = [[0f32; ROWS]; TILES[0]];
        let tiles: Vec<Tile<'_>> = inputs.tiles().collect();
        let tile_bytes = TILES[0] * inputs.blocks * (BLOCK + 16);
        for tiles in tiles.chunks((PASS / tile_bytes.max(1)).max(1)) {
            for g in self.groups.clone() {
                let (group, first) = (codes.group(g), g * ROWS);
                let many = ROWS.min(self.matrix.rows() - first);
                for tile in tiles {
                    with.sums(group, *tile, &mut sums[..tile.rows]);
                    for (m, sums) in sums.iter().take(tile.rows).enumerate() {
                        // SAFETY: pieces are of different groups or parts, so columns differ.
                        unsafe { outputs.put(tile.first + m, self.column + first, &sums[..many]) };
                    }
                }
            }
        }
    }

    fn run_halves(&self, halves: &Halves, numbers: &Numbers, outputs: Outputs, with: Instructions) {
        let mut sums: Sums = [[[0f32; ROWS]; MOST]; GROUPS];
        let (tiles, brain) = (numbers.tiles(), halves.is_brain());
        let tile_bytes = MOST * self.matrix.width() * size_of::<f32>();
        for tiles in tiles.chunks((PASS / tile_bytes.max(1)).max(1)) {
            for g in self.groups.clone().step_by(GROUPS) {
                let together = GROUPS.min(self.groups.end - g);
                let strips = halves.groups(g, together);
                for tile in tiles {
                    with.half_sums(brain, strips, *tile, &mut sums);
                    for (i, sums) in sums.iter().take(together).enumerate() {
                        let first = (g + i) * ROWS;
                        let many = ROWS.min(self.matrix.rows() - first);
                        for (m, sums) in sums.iter().take(tile.rows).enumerate() {
                            // SAFETY: pieces are of different groups or parts, so columns differ.
                            unsafe { outputs.put(tile.first + m, self.column + first, &sums[..many]) };
                        }
                    }
                }
            }
        }
    }
}

impl CustomOp1 for Packed {
    fn name(&self) -> &'static str {
        "packed-product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        if width != self.width {
            bail!("packed product: {rows} x {width} times a weight [{}, {}]", self.rows, self.width);
        }
        let (CpuStorage::F32(x), Some((from, to))) = (x, layout.contiguous_offsets()) else {
            bail!("packed product: contiguous f32 expected");
        };
        let Some(x) = x.get(from..to) else { bail!("packed product: a tensor beyond its storage") };
        let mut y = vec![0f32; rows * self.rows];
        self.multiply(x, &mut y, Instructions::best())?;
        Ok((CpuStorage::F32(y), Shape::from((rows, self.rows))))
    }
}
