//! Packed weights on an NVIDIA card (`vision/src/kernels/map.cu`): pieces of sixteen rows by thirty-two columns, in each of which a
//! thread of a warp finds its codes beside one another. Products go through the tensor cores in a half type, which holds every
//! code; factors come behind them, in f32. Few rows are multiplied with what is packed, and each number is summed in one order
//! however many there are; for many, numbers are unpacked first.

use super::format::{BLOCK, Factors, Format, Unit};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Result, Shape, Storage, Tensor,
    backend::BackendStorage as _,
    bail,
    cuda_backend::{
        CudaDType, WrapErr as _,
        cudarc::driver::{CudaSlice, DevicePtr as _, DeviceRepr, PushKernelArg as _},
    },
};
use half::{bf16, f16};
use rayon::prelude::*;
use spotter_vision::nn::card::{FEW, Module, blocks, half_name, tall, tiles};
use std::{fmt, sync::Arc};

/// Rows of a piece.
const ROWS: usize = 16;

/// What a piece holds of a row, as in `kernels/map.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Codes of four bits, a factor and what is added.
    Four,
    /// The same with codes of eight bits.
    Eight,
    /// Codes of eight bits, a factor for each half.
    Sixteens,
}

impl Kind {
    fn of(format: Format) -> Self {
        match (format.factors(), format.bits()) {
            (Factors::Six, _) => Self::Sixteens,
            (_, 4) => Self::Four,
            _ => Self::Eight,
        }
    }

    /// One that holds both without loss, if there is one.
    fn both(self, other: Self) -> Option<Self> {
        match (self.min(other), self.max(other)) {
            (a, b) if a == b => Some(a),
            (Self::Four, Self::Eight) => Some(Self::Eight),
            _ => None,
        }
    }

    /// In the names of kernels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Four => "four",
            Self::Eight => "eight",
            Self::Sixteens => "sixteens",
        }
    }

    /// Bytes of a piece's codes.
    fn bytes(self) -> usize {
        ROWS * BLOCK / if self == Self::Four { 2 } else { 1 }
    }
}

/// Rows as a file has them.
pub(crate) struct Rows<'a> {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) bytes: &'a [u8],
}

/// Some outputs of a weight, all of one kind.
pub(crate) struct Part {
    pub(crate) kind: Kind,
    /// Rows of the weight; twice the outputs where it is gated.
    rows: usize,
    /// The first output.
    pub(crate) first: usize,
    codes: CudaSlice<u8>,
    factors: CudaSlice<u32>,
}

/// A weight `[rows, width]`, gates over ups or plain.
#[derive(Clone)]
pub(crate) struct CardWeight {
    parts: Arc<[Part]>,
    rows: usize,
    width: usize,
    gated: bool,
    dtype: DType,
    device: Device,
}

impl fmt::Debug for CardWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.parts.iter().map(|part| part.kind.name()).collect();
        write!(f, "{} [{}, {}]", kinds.join("+"), self.rows, self.width)
    }
}

/// Pieces in memory.
struct Pieces {
    codes: Vec<u8>,
    factors: Vec<u32>,
}

impl CardWeight {
    /// Rows side by side; `gated`, two parts of which the first gates the second. `None` where their kinds do not go together.
    ///
    /// # Errors
    /// Sizes that do not fit, or those of the device.
    pub(crate) fn new(
        parts: &[Rows<'_>],
        width: usize,
        gated: bool,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Device::Cuda(dev) = device else { bail!("packed weights of a card on {device:?}") };
        if half_name(dtype).is_none() || width == 0 {
            bail!("packed weights of a card are multiplied in f16 or bf16, not {dtype:?}");
        }
        for part in parts {
            let (size, columns) = part.format.unit();
            if !Format::CODES.contains(&part.format) {
                bail!("{}: a card computes with numbers of two bytes as they are, not packed", part.format.name());
            }
            if !width.is_multiple_of(columns) || part.rows * (width / columns * size) != part.bytes.len() {
                bail!(
                    "{}: {} rows of {width} numbers do not make {} bytes",
                    part.format.name(),
                    part.rows,
                    part.bytes.len()
                );
            }
        }
        let rows = parts.iter().map(|part| part.rows).sum();
        let made = if gated {
            let [gates, ups] = parts else { bail!("{} parts of a gated weight", parts.len()) };
            if gates.rows != ups.rows {
                bail!("{} gates and {} ups", gates.rows, ups.rows);
            }
            let Some(kind) = Kind::of(gates.format).both(Kind::of(ups.format)) else { return Ok(None) };
            vec![Part::upload(kind, (rows, 0), &pieces(kind, &[gates, ups], width, true), dev)?]
        } else {
            let (mut made, mut first) = (Vec::new(), 0);
            for run in parts.chunk_by(|a, b| Kind::of(a.format) == Kind::of(b.format)) {
                let (Some(kind), rows) = (run.first().map(|p| Kind::of(p.format)), run.iter().map(|p| p.rows).sum())
                else {
                    continue;
                };
                let run: Vec<_> = run.iter().collect();
                made.push(Part::upload(kind, (rows, first), &pieces(kind, &run, width, false), dev)?);
                first += rows;
            }
            made
        };
        Ok(Some(Self { parts: made.into(), rows, width, gated, dtype, device: device.clone() }))
    }

    /// Type of what comes out.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where it lies.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Its parts, in the order of their outputs.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether its rows are gates and ups.
    pub(crate) fn is_gated(&self) -> bool {
        self.gated
    }

    /// Rows `ids` as numbers, `[n, width]`.
    ///
    /// # Errors
    /// A row that it does not have, or those of the device.
    pub(crate) fn lookup(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(row) = ids.iter().find(|row| **row as usize >= self.rows) {
            bail!("row {row} of a weight of {} rows", self.rows);
        }
        match (&*self.parts, half_name(self.dtype)) {
            ([part], Some(name)) => self.unpack(part, name, Some(ids)),
            _ => self.numbers()?.index_select(&Tensor::new(ids, &self.device)?, 0),
        }
    }

    /// All of it as numbers, `[rows, width]`.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn numbers(&self) -> Result<Tensor> {
        let Some(name) = half_name(self.dtype) else { bail!("packed weights of a card in {:?}", self.dtype) };
        let parts: Vec<_> = self.parts.iter().map(|part| self.unpack(part, name, None)).collect::<Result<_>>()?;
        match &parts[..] {
            [whole] => Ok(whole.clone()),
            parts => Tensor::cat(parts, 0),
        }
    }

    fn unpack(&self, part: &Part, name: &str, ids: Option<&[u32]>) -> Result<Tensor> {
        match self.dtype {
            DType::F16 => self.unpack_as::<f16>(part, name, ids),
            _ => self.unpack_as::<bf16>(part, name, ids),
        }
    }

    fn unpack_as<T: CudaDType + DeviceRepr>(&self, part: &Part, name: &str, ids: Option<&[u32]>) -> Result<Tensor> {
        let Device::Cuda(dev) = &self.device else { bail!("packed weights of a card on {:?}", self.device) };
        let rows = ids.map_or(part.rows, <[u32]>::len);
        // SAFETY: every number is written by the kernel below.
        let y = unsafe { dev.alloc::<T>(rows * self.width) }?;
        if rows > 0 {
            let kernel = Module::Map.kernel(&format!("unpack_{}_{name}", part.kind.name()), dev)?;
            let ids = ids.map(|ids| dev.clone_htod(ids)).transpose()?;
            let out = part.rows / if self.gated { 2 } else { 1 };
            let (none, inputs, out, gated) = (0u64, self.width as i32, out as i32, i32::from(self.gated));
            let mut call = kernel.call();
            call.arg(&part.codes).arg(&part.factors);
            match &ids {
                Some(ids) => call.arg(ids),
                None => call.arg(&none),
            };
            call.arg(&y).arg(&inputs).arg(&out).arg(&gated);
            // SAFETY: the kernel's own arguments; `y` has `rows` rows, and `ids` were checked.
            unsafe { call.launch(blocks([rows, self.width.div_ceil(4 * 128)], [128, 1], 0)) }.w()?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(y, dev.clone()));
        Ok(Tensor::from_storage(storage, (rows, self.width), candle_core::op::BackpropOp::none(), false))
    }

    /// `x [n, width]` to `[n, rows]`.
    ///
    /// # Errors
    /// Another type or width, or those of the device.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        if width != self.width || x.dtype() != self.dtype {
            bail!("{width} inputs in {:?} of a weight of {} in {:?}", x.dtype(), self.width, self.dtype);
        }
        if self.gated || n > FEW { x.matmul(&self.numbers()?.t()?) } else { x.contiguous()?.apply_op1_no_bwd(self) }
    }

    /// For gates and ups, `silu(gate) * up` of few rows, `[n, rows / 2]`; nothing for others.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn gate(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let (n, width) = x.dims2()?;
        let fits = self.gated && n <= FEW && width == self.width && x.dtype() == self.dtype;
        if fits { x.contiguous()?.apply_op1_no_bwd(self).map(Some) } else { Ok(None) }
    }

    fn outputs(&self) -> usize {
        self.rows / if self.gated { 2 } else { 1 }
    }

    fn multiply<T: CudaDType + DeviceRepr>(&self, name: &str, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
        let (n, _) = layout.shape().dims2()?;
        let (dev, across) = (&x.device, self.outputs());
        let x = x.as_cuda_slice::<T>()?.slice(layout.start_offset()..);
        // SAFETY: every number is written by the kernels below.
        let y = unsafe { dev.alloc::<T>(n * across) }?;
        let stream = dev.cuda_stream();
        let base = y.device_ptr(&stream).0;
        for part in self.parts.iter() {
            let map = if self.gated { "gated" } else { "linear" };
            let kernel = Module::Map.kernel(&format!("{map}_{}_{name}_{}", part.kind.name(), tiles(n)), dev)?;
            let outputs = part.outputs(self.gated);
            let to = base + (part.first * size_of::<T>()) as u64;
            let (none, eps, scale) = (0u64, 0f32, 1f32);
            let [inputs, out, stride, rows] = [self.width, outputs, across, n].map(|n| n as i32);
            let mut call = kernel.call();
            call.arg(&x).arg(&none).arg(&part.codes).arg(&part.factors).arg(&none).arg(&none).arg(&to);
            call.arg(&inputs).arg(&out).arg(&stride).arg(&rows).arg(&eps).arg(&scale);
            let share = ROWS / if self.gated { 2 } else { 1 } * tall(n);
            // SAFETY: the kernel's own arguments; `x [n, width]`, `y [n, across]`, codes and factors of `outputs` rows.
            unsafe { call.launch(blocks([outputs.div_ceil(share), 1], [256, 1], 0)) }.w()?;
        }
        Ok(CudaStorage::wrap_cuda_slice(y, dev.clone()))
    }
}

impl Part {
    fn upload(kind: Kind, (rows, first): (usize, usize), pieces: &Pieces, dev: &CudaDevice) -> Result<Self> {
        let (codes, factors) = (dev.clone_htod(&pieces.codes)?, dev.clone_htod(&pieces.factors)?);
        Ok(Self { kind, rows, first, codes, factors })
    }

    /// Outputs of it.
    pub(crate) fn outputs(&self, gated: bool) -> usize {
        self.rows / if gated { 2 } else { 1 }
    }

    /// Addresses of codes and factors.
    pub(crate) fn addresses(&self, dev: &CudaDevice) -> [u64; 2] {
        let stream = dev.cuda_stream();
        [self.codes.device_ptr(&stream).0, self.factors.device_ptr(&stream).0]
    }
}

impl CustomOp1 for CardWeight {
    fn name(&self) -> &'static str {
        "packed-map"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("{} is a kernel of cards", self.name())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let y = match x.dtype() {
            DType::F16 => self.multiply::<f16>("f16", x, layout)?,
            DType::BF16 => self.multiply::<bf16>("bf16", x, layout)?,
            other => bail!("{}: f16 or bf16 expected, not {other:?}", self.name()),
        };
        Ok((y, Shape::from((layout.shape().dims2()?.0, self.outputs()))))
    }
}

/// The pieces of rows that lie in `parts`; gated, eight gates and their ups to a piece.
fn pieces(kind: Kind, parts: &[&Rows<'_>], width: usize, gated: bool) -> Pieces {
    let rows: usize = parts.iter().map(|part| part.rows).sum();
    let (out, steps) = (rows / if gated { 2 } else { 1 }, width / BLOCK);
    let groups = out.div_ceil(ROWS / if gated { 2 } else { 1 });
    let mut codes = vec![0u8; groups * steps * kind.bytes()];
    let mut factors = vec![0u32; groups * steps * ROWS];
    // The part and the row in it of row `r` of a group.
    let row_of = |group: usize, r: usize| -> Option<(&Rows<'_>, usize)> {
        let mut row = if gated { group * 8 + r % 8 } else { group * ROWS + r };
        if gated {
            return parts.get(r / 8).filter(|part| row < part.rows).map(|part| (*part, row));
        }
        parts.iter().find_map(|part| {
            let found = (row < part.rows).then_some((*part, row));
            row = row.wrapping_sub(part.rows);
            found
        })
    };
    let groups = codes.par_chunks_mut((steps * kind.bytes()).max(1)).zip(factors.par_chunks_mut((steps * ROWS).max(1)));
    groups.enumerate().for_each(|(group, (codes, factors))| {
        for r in 0..ROWS {
            let Some((part, row)) = row_of(group, r) else { continue };
            let (size, columns) = part.format.unit();
            let row_bytes = width / columns * size;
            let bytes = part.bytes.get(row * row_bytes..(row + 1) * row_bytes).unwrap_or_default();
            for (u, bytes) in bytes.chunks_exact(size).enumerate() {
                let unit = Unit::read(part.format, bytes);
                for j in 0..columns / BLOCK {
                    let step = u * (columns / BLOCK) + j;
                    let word = put(kind, part.format, &unit, j, r, &mut codes[step * kind.bytes()..]);
                    factors[step * ROWS + r % 8 * 2 + r / 8] = word;
                }
            }
        }
    });
    Pieces { codes, factors }
}

/// Writes a row's codes of a piece to their places, and gives its factors.
fn put(kind: Kind, format: Format, unit: &Unit, j: usize, row: usize, codes: &mut [u8]) -> u32 {
    let above = 128 - format.offset();
    for (column, code) in unit.codes[j].iter().enumerate() {
        let (half, t, i) = (column / 16, column % 16 / 4, column % 4);
        let lane = row % 8 * 4 + t;
        if kind == Kind::Four {
            codes[lane * 8 + row / 8 * 4 + i] |= code << (4 * half);
        } else {
            codes[lane * 16 + row / 8 * 8 + half * 4 + i] = (i32::from(*code) + above) as u8;
        }
    }
    let [d, e] = unit.halves.map(|half| f16::from_le_bytes(half).to_f32());
    let small = unit.small[j].map(f32::from);
    let [a, b] = match (format.factors(), kind) {
        (Factors::Plain, Kind::Sixteens) => [d, d],
        // Codes of four bits are told as they are, those of eight as what they stand for.
        (Factors::Plain, Kind::Four) => [d, -d * format.offset() as f32],
        (Factors::Plain, Kind::Eight) => [d, 0.0],
        (Factors::Min, _) => [d, e],
        (Factors::Super, _) => [d * small[0], -e * small[1]],
        (Factors::Six, _) => unit.small[j].map(|s| d * f32::from(s as i8)),
    };
    u32::from(f16::from_f32(a).to_bits()) | u32::from(f16::from_f32(b).to_bits()) << 16
}

#[cfg(test)]
mod tests;
