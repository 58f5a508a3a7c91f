//! A packed weight in memory.

use super::{
    format::{BLOCK, Factors, Format, INNER, LINE, Line, ROWS, Strip, Unit, code, inner, interleave, strips},
    halves::Halves,
};
use candle_core::{Result, bail};
use rayon::prelude::*;
use std::fmt;

/// A weight `[rows, width]` in the format of its file, its rows interleaved.
#[derive(Clone, Debug)]
pub struct Matrix(pub(super) Kind);

/// Codes with factors, or numbers.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Codes(Codes),
    Halves(Halves),
}

impl Matrix {
    /// Packs rows as they lie in a file, one after another.
    ///
    /// # Errors
    /// A width that does not go into whole blocks, or another number of bytes.
    pub fn pack(format: Format, shape: (usize, usize), bytes: &[u8]) -> Result<Self> {
        Ok(Self(match format {
            Format::F16 | Format::Bf16 => Kind::Halves(Halves::pack(format == Format::Bf16, shape, bytes)?),
            _ => Kind::Codes(Codes::pack(format, shape, bytes)?),
        }))
    }

    /// How its numbers are packed.
    pub fn format(&self) -> Format {
        match &self.0 {
            Kind::Codes(codes) => codes.format,
            Kind::Halves(halves) if halves.is_brain() => Format::Bf16,
            Kind::Halves(_) => Format::F16,
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        match &self.0 {
            Kind::Codes(codes) => codes.rows,
            Kind::Halves(halves) => halves.rows(),
        }
    }

    /// Inputs.
    pub fn width(&self) -> usize {
        match &self.0 {
            Kind::Codes(codes) => codes.width,
            Kind::Halves(halves) => halves.width(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Codes(codes) => size_of_val(codes.lines.as_slice()) + size_of_val(codes.strips.as_slice()),
            Kind::Halves(halves) => halves.bytes(),
        }
    }

    pub(super) fn groups(&self) -> usize {
        self.rows().div_ceil(ROWS)
    }

    /// The numbers of a row, as a file's reader would unpack them, to `numbers`.
    ///
    /// # Errors
    /// A row that it does not have.
    pub fn read_row(&self, row: usize, numbers: &mut [f32]) -> Result<()> {
        if row >= self.rows() || numbers.len() != self.width() {
            bail!("row {row} of a weight [{}, {}] to {} numbers", self.rows(), self.width(), numbers.len());
        }
        match &self.0 {
            Kind::Codes(codes) => codes.read_row(row, numbers),
            Kind::Halves(halves) => halves.read_row(row, numbers),
        }
        Ok(())
    }

    /// A weight of some of its rows.
    ///
    /// # Errors
    /// A row that it does not have.
    pub fn pick(&self, rows: &[u32]) -> Result<Self> {
        if let Some(row) = rows.iter().find(|row| **row as usize >= self.rows()) {
            bail!("row {row} of a weight of {} rows", self.rows());
        }
        Ok(Self(match &self.0 {
            Kind::Codes(codes) => Kind::Codes(codes.pick(rows)),
            Kind::Halves(halves) => Kind::Halves(halves.pick(rows)),
        }))
    }
}

/// A weight of codes and factors.
#[derive(Clone)]
pub(super) struct Codes {
    format: Format,
    rows: usize,
    width: usize,
    lines: Vec<Line>,
    strips: Vec<Strip>,
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}, {}]", self.format.name(), self.rows, self.width)
    }
}

/// Sixteen rows of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    pub(super) format: Format,
    pub(super) lines: &'a [Line],
    pub(super) strips: &'a [Strip],
}

impl Codes {
    fn pack(format: Format, (rows, width): (usize, usize), bytes: &[u8]) -> Result<Self> {
        let (size, columns) = format.unit();
        let row_bytes = width / columns * size;
        if width == 0 || !width.is_multiple_of(columns) || rows.checked_mul(row_bytes) != Some(bytes.len()) {
            bail!(
                "{}: {rows} rows of {width} numbers, in blocks of {columns}, do not make {} bytes",
                format.name(),
                bytes.len()
            );
        }
        let blocks = width / BLOCK;
        let mut matrix = Self::zeros(format, rows, width);
        let (inner, many) = (inner(format.factors() as u8), strips(format.factors() as u8));
        let pack = |(g, (lines, strips)): (usize, (&mut [Line], &mut [Strip]))| {
            for row in 0..ROWS.min(rows - g * ROWS) {
                let from = (g * ROWS + row) * row_bytes;
                let bytes = bytes.get(from..from + row_bytes).unwrap_or_default();
                let places = lines.chunks_exact_mut(format.bits() * inner).zip(strips.chunks_exact_mut(many));
                for (bytes, (lines, strips)) in bytes.chunks_exact(size).zip(places) {
                    put(&Unit::read(format, bytes), format, row, lines, strips);
                }
            }
        };
        let groups = matrix.lines.par_chunks_mut(blocks * format.bits());
        groups.zip(matrix.strips.par_chunks_mut(format.strips(blocks))).enumerate().for_each(pack);
        Ok(matrix)
    }

    fn zeros(format: Format, rows: usize, width: usize) -> Self {
        let (groups, blocks) = (rows.div_ceil(ROWS), width / BLOCK);
        Self {
            format,
            rows,
            width,
            lines: vec![Line([0; LINE]); groups * blocks * format.bits()],
            strips: vec![Strip::ZERO; groups * format.strips(blocks)],
        }
    }

    /// Sixteen rows; none beyond the last.
    pub(super) fn group(&self, g: usize) -> Group<'_> {
        let blocks = self.width / BLOCK;
        let (lines, strips) = (blocks * self.format.bits(), self.format.strips(blocks));
        Group {
            format: self.format,
            lines: self.lines.get(g * lines..(g + 1) * lines).unwrap_or_default(),
            strips: self.strips.get(g * strips..(g + 1) * strips).unwrap_or_default(),
        }
    }

    fn read_row(&self, row: usize, numbers: &mut [f32]) {
        let (group, row, factors) = (self.group(row / ROWS), row % ROWS, self.format.factors());
        let (inner, many, offset) = (inner(factors as u8), strips(factors as u8), self.format.offset());
        let pieces = group.lines.chunks_exact(self.format.bits()).zip(numbers.as_chunks_mut::<BLOCK>().0);
        for (b, (lines, numbers)) in pieces.enumerate() {
            let strips = &group.strips[b / inner * many..][..many];
            let small = |i: usize| strips[many - inner + b % inner].0[ROWS * i + row];
            let d = strips[0].half(row);
            for (c, number) in numbers.iter_mut().enumerate() {
                let code = (i32::from(code(lines, row, c)) - offset) as f32;
                *number = match factors {
                    Factors::Plain => d * code,
                    Factors::Min => d * code + strips[1].half(row),
                    Factors::Super => d * f32::from(small(0)) * code - strips[1].half(row) * f32::from(small(1)),
                    Factors::Six => d * f32::from(small(2 * c / BLOCK) as i8) * code,
                };
            }
        }
    }

    fn pick(&self, rows: &[u32]) -> Self {
        let mut picked = Self::zeros(self.format, rows.len(), self.width);
        let blocks = self.width / BLOCK;
        let factors = self.format.factors();
        let (many, inner) = (strips(factors as u8), inner(factors as u8));
        let groups = picked.lines.chunks_exact_mut(blocks * self.format.bits());
        let groups = groups.zip(picked.strips.chunks_exact_mut(self.format.strips(blocks)));
        for (rows, (lines, strips)) in rows.chunks(ROWS).zip(groups) {
            for (to, row) in rows.iter().enumerate() {
                let (group, from) = (self.group(*row as usize / ROWS), *row as usize % ROWS);
                for (to_line, line) in lines.iter_mut().zip(group.lines) {
                    to_line.0[4 * to..4 * to + 4].copy_from_slice(&line.0[4 * from..4 * from + 4]);
                }
                for (i, (to_strip, strip)) in strips.iter_mut().zip(group.strips).enumerate() {
                    if inner > 1 && i % many >= many - inner {
                        (to_strip.0[to], to_strip.0[ROWS + to]) = (strip.0[from], strip.0[ROWS + from]);
                    } else {
                        to_strip.set_half(to, [strip.0[2 * from], strip.0[2 * from + 1]]);
                    }
                }
            }
        }
        picked
    }
}

/// Writes a row of a unit to its place.
fn put(unit: &Unit, format: Format, row: usize, lines: &mut [Line], strips: &mut [Strip]) {
    let halves = if matches!(format.factors(), Factors::Min | Factors::Super) { 2 } else { 1 };
    for (codes, lines) in unit.codes.iter().zip(lines.chunks_exact_mut(format.bits())) {
        interleave(codes, row, lines);
    }
    for (half, strip) in unit.halves.iter().take(halves).zip(&mut *strips) {
        strip.set_half(row, *half);
    }
    if strips.len() > INNER {
        for (small, strip) in unit.small.iter().zip(&mut strips[halves..]) {
            (strip.0[row], strip.0[ROWS + row]) = (small[0], small[1]);
        }
    }
}
