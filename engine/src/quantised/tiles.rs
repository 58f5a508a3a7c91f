//! Rows of inputs, cut into tiles of a few sizes that products are made for.

/// Rows that are multiplied side by side, largest first. Whatever is left takes smaller ones.
pub(super) const TILES: [usize; 4] = [8, 4, 2, 1];

/// Rows of a tile and what it holds of them, column by column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<'a, T> {
    /// The first of its rows.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) data: &'a [T],
}

/// How many rows each tile has, one after another: as many as go of the largest size first.
fn sizes(rows: usize) -> impl Iterator<Item = usize> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let size = TILES.into_iter().find(|size| *size <= left)?;
        left -= size;
        Some(size)
    })
}

/// The tiles of `rows` rows whose data has `each` items a row.
pub(super) fn tiles<T>(rows: usize, each: usize, data: &[T]) -> impl Iterator<Item = Tile<'_, T>> {
    let (mut first, mut rest) = (0, data);
    sizes(rows).map(move |rows| {
        let (data, more) = rest.split_at(rows * each);
        rest = more;
        first += rows;
        Tile { first: first - rows, rows, data }
    })
}

/// The rows `x [rows, width]` of each tile, and its place in `data`, which has `each` items a row.
pub(super) fn places<'a, T>(
    (mut x, width): (&'a [f32], usize),
    (mut data, each): (&'a mut [T], usize),
) -> Vec<(&'a [f32], &'a mut [T])> {
    let sizes = sizes(x.len() / width);
    let place = |size: usize| {
        let (numbers, more) = x.split_at(size * width);
        let (tile, behind) = std::mem::take(&mut data).split_at_mut(size * each);
        (x, data) = (more, behind);
        (numbers, tile)
    };
    sizes.map(place).collect()
}
