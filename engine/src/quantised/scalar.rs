//! Sums of a tile without any special instruction: what the others must give bit for bit.

use super::{
    format::{BLOCK, Factors, ROWS, code, inner, strips},
    inputs::Tile,
    matrix::Group,
};

/// Sixteen sums for each row of a tile.
pub(super) fn sums(group: Group<'_>, x: Tile<'_>, out: &mut [[f32; ROWS]]) {
    for (m, out) in out.iter_mut().enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = sum(group, row, x, m);
        }
    }
}

/// Products of a row of the weight with a row of the input.
///
/// Sums of codes are exact. They are multiplied by their factors and added one piece after another, each product and sum rounded
/// once, and so are the smallest numbers: this order, and nothing else, decides the last bits.
fn sum(group: Group<'_>, row: usize, x: Tile<'_>, m: usize) -> f32 {
    let (format, factors) = (group.format, group.format.factors());
    let (inner, many) = (inner(factors as u8), strips(factors as u8));
    let (mut sum, mut least) = (0f32, 0f32);
    let pieces = group.lines.chunks_exact(format.bits()).zip(x.data.chunks_exact(x.rows));
    for (b, (lines, blocks)) in pieces.enumerate() {
        let strips = &group.strips[b / inner * many..][..many];
        let small = |i: usize| strips[many - inner + b % inner].0[ROWS * i + row];
        let (d, x) = (strips[0].half(row), &blocks[m]);
        let products = |columns: std::ops::Range<usize>| -> i32 {
            columns.map(|c| i32::from(code(lines, row, c)) * i32::from(x.codes[c])).sum()
        };
        let (left, right) = (x.starts[0] + products(0..BLOCK / 2), x.starts[1] + products(BLOCK / 2..BLOCK));
        match factors {
            Factors::Plain => sum = ((left + right) as f32).mul_add(d * x.scale, sum),
            Factors::Min => {
                sum = ((left + right) as f32).mul_add(d * x.scale, sum);
                least = strips[1].half(row).mul_add(x.sum, least);
            }
            Factors::Super => {
                sum = ((left + right) as f32).mul_add(d * f32::from(small(0)) * x.scale, sum);
                least = (strips[1].half(row) * f32::from(small(1))).mul_add(-x.sum, least);
            }
            Factors::Six => {
                let factor = |i: usize| d * f32::from(small(i) as i8) * x.scale;
                sum = (left as f32).mul_add(factor(0), sum);
                sum = (right as f32).mul_add(factor(1), sum);
            }
        }
    }
    sum + least
}
