//! Upright frames: the display matrix of a container, applied to packed RGB.

/// One of the eight ways a picture may lie: where the stored x and y axes point on the upright picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Stored x runs along upright y.
    transposed: bool,
    /// Upright x runs against the stored axis that feeds it.
    flip_x: bool,
    /// The same of y.
    flip_y: bool,
}

impl Orientation {
    pub(super) const UPRIGHT: Self = Self { transposed: false, flip_x: false, flip_y: false };

    /// From a display matrix: nine 32-bit integers in native byte order, of which the first two rows' first two
    /// hold the linear part `[a b; c d]` that takes stored (x, y) to (a x + c y, b x + d y).
    /// `None` when the data is short or the turn is no multiple of 90 degrees.
    pub(super) fn from_matrix(data: &[u8]) -> Option<Self> {
        let entry = |index: usize| -> Option<f64> {
            let bytes = data.get(index * 4..index * 4 + 4)?;
            Some(f64::from(i32::from_ne_bytes(bytes.try_into().ok()?)))
        };
        let (a, b, c, d) = (entry(0)?, entry(1)?, entry(3)?, entry(4)?);
        // Real files hold rounded sines and cosines: what is small next to the largest entry counts as 0.
        let largest = [a, b, c, d].into_iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        let zero = |v: f64| v.abs() < 0.01 * largest;
        if largest == 0.0 {
            None
        } else if zero(b) && zero(c) && !zero(a) && !zero(d) {
            Some(Self { transposed: false, flip_x: a < 0.0, flip_y: d < 0.0 })
        } else if zero(a) && zero(d) && !zero(b) && !zero(c) {
            Some(Self { transposed: true, flip_x: c < 0.0, flip_y: b < 0.0 })
        } else {
            None
        }
    }

    /// The upright size of a stored size, and back.
    pub(super) fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        if self.transposed { (height, width) } else { (width, height) }
    }

    /// Turns packed RGB of the stored size upright.
    pub(super) fn apply(self, rgb: Vec<u8>, (width, height): (usize, usize)) -> Vec<u8> {
        if self == Self::UPRIGHT || rgb.len() != width * height * 3 {
            return rgb;
        }
        let (out_width, out_height) = self.size((width, height));
        let mut out = Vec::with_capacity(rgb.len());
        for y in 0..out_height {
            let y = if self.flip_y { out_height - 1 - y } else { y };
            for x in 0..out_width {
                let x = if self.flip_x { out_width - 1 - x } else { x };
                let at = 3 * if self.transposed { x * width + y } else { y * width + x };
                out.extend_from_slice(&rgb[at..at + 3]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(a: i32, b: i32, c: i32, d: i32) -> Vec<u8> {
        [a, b, 0, c, d, 0, 0, 0, 1 << 30].into_iter().flat_map(i32::to_ne_bytes).collect()
    }

    /// A 2x3 picture whose pixels are numbered row by row.
    fn turned(a: i32, b: i32, c: i32, d: i32) -> ((usize, usize), Vec<u8>) {
        let stored = (0..6).flat_map(|n| [n; 3]).collect();
        let orientation = Orientation::from_matrix(&matrix(a << 16, b << 16, c << 16, d << 16)).expect("a right angle");
        (orientation.size((2, 3)), orientation.apply(stored, (2, 3)).chunks(3).map(|p| p[0]).collect())
    }

    #[test]
    fn right_angles_and_mirrors() {
        assert_eq!(turned(1, 0, 0, 1), ((2, 3), vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turned(0, 1, -1, 0), ((3, 2), vec![4, 2, 0, 5, 3, 1]), "90 degrees clockwise");
        assert_eq!(turned(-1, 0, 0, -1), ((2, 3), vec![5, 4, 3, 2, 1, 0]), "180 degrees");
        assert_eq!(turned(0, -1, 1, 0), ((3, 2), vec![1, 3, 5, 0, 2, 4]), "270 degrees clockwise");
        assert_eq!(turned(-1, 0, 0, 1), ((2, 3), vec![1, 0, 3, 2, 5, 4]), "mirrored");
    }

    #[test]
    fn other_angles_and_short_data_are_refused() {
        assert_eq!(Orientation::from_matrix(&matrix(46341, 46341, -46341, 46341)), None);
        assert_eq!(Orientation::from_matrix(&matrix(0, 0, 0, 0)), None);
        assert_eq!(Orientation::from_matrix(&[0; 10]), None);
        assert_eq!(Orientation::from_matrix(&matrix(65536, 3, -2, 65536)), Some(Orientation::UPRIGHT));
    }
}
