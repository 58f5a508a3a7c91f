//! Turned squares of a frame, and their way to a model's input and back.

use crate::Frame;

/// A turned square of a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Centre, `[x, y]`; the frame's top left corner is `[0, 0]`, the centre of its first pixel `[0.5, 0.5]`.
    pub centre: [f32; 2],
    /// Length of a side.
    pub side: f32,
    /// Clockwise turn on the screen, in radians: 0 is upright, and a person lying with the head to the right has pi/2.
    pub angle: f32,
}

impl Roi {
    /// The upright square that holds a whole frame.
    pub fn whole(width: usize, height: usize) -> Self {
        Self { centre: [width as f32 / 2.0, height as f32 / 2.0], side: width.max(height) as f32, angle: 0.0 }
    }

    /// BlazePose's region of a person: around `centre`, upright where `top` is above it, its half a quarter larger than
    /// the distance to `top`.
    pub fn around(centre: [f32; 2], top: [f32; 2]) -> Self {
        let (dx, dy) = (top[0] - centre[0], top[1] - centre[1]);
        Self { centre, side: 2.0 * dx.hypot(dy) * 1.25, angle: dx.atan2(-dy) }
    }

    /// From the square (`[0, 0]` its top left corner, `[1, 1]` its bottom right one) to pixels of the frame.
    pub fn to_frame(&self, [u, v]: [f32; 2]) -> [f32; 2] {
        let (sin, cos) = self.angle.sin_cos();
        let (x, y) = ((u - 0.5) * self.side, (v - 0.5) * self.side);
        [self.centre[0] + cos * x - sin * y, self.centre[1] + sin * x + cos * y]
    }

    /// The inverse of [`Self::to_frame`].
    pub fn from_frame(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = (x - self.centre[0], y - self.centre[1]);
        [(cos * dx + sin * dy) / self.side + 0.5, (cos * dy - sin * dx) / self.side + 0.5]
    }

    /// Whether a person can be looked for here: finite, not a speck, and centred near the frame.
    pub fn is_sane(&self, frame: &Frame) -> bool {
        let (w, h) = (frame.width as f32, frame.height as f32);
        let [x, y] = self.centre;
        let finite = x.is_finite() && y.is_finite() && self.side.is_finite() && self.angle.is_finite();
        let near = x > -0.25 * w && x < 1.25 * w && y > -0.25 * h && y < 1.25 * h;
        finite && near && self.side > 0.05 * w.max(h) && self.side < 6.0 * w.max(h)
    }
}

/// What lies outside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Black, as the detector was trained.
    Black,
    /// The nearest pixel of the frame, as the landmark model was trained.
    Nearest,
}

/// Fills `out` with the square, `[size, size, 3]`, each byte `b` as `b / 255 * (high - low) + low`.
///
/// Bilinear; where the square is shrunk to less than half, each value is the mean of four samples.
pub fn crop(frame: &Frame, roi: &Roi, size: usize, border: Border, [low, high]: [f32; 2], out: &mut Vec<f32>) {
    let fine = if roi.side >= 2.0 * size as f32 { 2 } else { 1 };
    let samples = size * fine;
    let (gain, share) = ((high - low) / 255.0, 1.0 / (fine * fine) as f32);
    let [x0, y0] = roi.to_frame([0.0, 0.0]);
    let step = roi.side / samples as f32;
    let (sin, cos) = roi.angle.sin_cos();
    out.clear();
    out.reserve(size * size * 3);
    for row in 0..size {
        for column in 0..size {
            let mut sum = [0.0; 3];
            for k in 0..fine * fine {
                let i = (column * fine + k % fine) as f32 + 0.5;
                let j = (row * fine + k / fine) as f32 + 0.5;
                let pixel = sample(frame, x0 + (cos * i - sin * j) * step, y0 + (sin * i + cos * j) * step, border);
                for (total, value) in sum.iter_mut().zip(pixel) {
                    *total += value;
                }
            }
            out.extend(sum.map(|value| value * share * gain + low));
        }
    }
}

/// Bilinear sample at a point of the frame.
fn sample(frame: &Frame, x: f32, y: f32, border: Border) -> [f32; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (fx, fy) = (x - left, y - top);
    let (left, top) = (left as i64, top as i64);
    let [a, b] = [pixel(frame, left, top, border), pixel(frame, left + 1, top, border)];
    let [c, d] = [pixel(frame, left, top + 1, border), pixel(frame, left + 1, top + 1, border)];
    std::array::from_fn(|i| {
        let upper = a[i] + (b[i] - a[i]) * fx;
        let lower = c[i] + (d[i] - c[i]) * fx;
        upper + (lower - upper) * fy
    })
}

#[inline]
fn pixel(frame: &Frame, x: i64, y: i64, border: Border) -> [f32; 3] {
    let (width, height) = (frame.width as i64, frame.height as i64);
    if border == Border::Black && !(x >= 0 && x < width && y >= 0 && y < height) {
        return [0.0; 3];
    }
    let at = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)) as usize * 3;
    match frame.rgb.get(at..at + 3) {
        Some(&[r, g, b]) => [f32::from(r), f32::from(g), f32::from(b)],
        _ => [0.0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn gradient(width: usize, height: usize) -> Frame {
        let rgb = (0..width * height).flat_map(|i| [(i % width) as u8, (i / width) as u8, 7]).collect();
        Frame::from_rgb(0, Duration::ZERO, width, height, rgb).unwrap()
    }

    #[test]
    fn a_point_goes_to_the_square_and_back() {
        let roi = Roi { centre: [31.0, 77.0], side: 120.0, angle: 2.1 };
        for point in [[0.0, 0.0], [640.0, 480.0], [31.0, 77.0], [-50.0, 3.5]] {
            let back = roi.to_frame(roi.from_frame(point));
            assert!((back[0] - point[0]).abs() < 1e-3 && (back[1] - point[1]).abs() < 1e-3, "{point:?} -> {back:?}");
        }
    }

    #[test]
    fn the_top_of_the_region_is_where_the_person_points() {
        // Upright, lying with the head to the right, and upside down.
        for top in [[50.0, 10.0], [90.0, 50.0], [50.0, 90.0], [20.0, 30.0]] {
            let roi = Roi::around([50.0, 50.0], top);
            let [u, v] = roi.from_frame(top);
            assert!((u - 0.5).abs() < 1e-5 && (v - 0.1).abs() < 1e-5, "{top:?} is at {u}, {v}");
        }
        assert!((Roi::around([50.0, 50.0], [90.0, 50.0]).angle - std::f32::consts::FRAC_PI_2).abs() < 1e-6);
    }

    #[test]
    fn a_turned_crop_reads_the_pixels_its_points_name() {
        let frame = gradient(200, 160);
        let roi = Roi { centre: [100.0, 80.0], side: 90.0, angle: 0.7 };
        let mut out = Vec::new();
        crop(&frame, &roi, 64, Border::Nearest, [0.0, 255.0], &mut out);
        for (row, column) in [(0, 0), (10, 50), (63, 63), (32, 1)] {
            let [x, y] = roi.to_frame([(column as f32 + 0.5) / 64.0, (row as f32 + 0.5) / 64.0]);
            let at = (row * 64 + column) * 3;
            // The gradient is linear, so bilinear sampling is exact: pixel value = coordinate - 0.5.
            assert!((out[at] - (x - 0.5)).abs() < 0.01, "x at {row},{column}: {} against {x}", out[at]);
            assert!((out[at + 1] - (y - 0.5)).abs() < 0.01, "y at {row},{column}: {} against {y}", out[at + 1]);
        }
    }

    #[test]
    fn outside_is_black_or_the_nearest_pixel() {
        let frame = gradient(100, 20);
        let mut out = Vec::new();
        crop(&frame, &Roi::whole(100, 20), 50, Border::Black, [-1.0, 1.0], &mut out);
        assert_eq!(out[2], -1.0, "above the frame");
        assert!((out[(25 * 50 + 25) * 3 + 2] - (7.0 / 255.0 * 2.0 - 1.0)).abs() < 1e-5, "inside the frame");
        crop(&frame, &Roi::whole(100, 20), 50, Border::Nearest, [0.0, 255.0], &mut out);
        assert_eq!(out[2], 7.0);
    }

    #[test]
    fn an_impossible_region_is_refused() {
        let frame = gradient(100, 100);
        assert!(Roi::whole(100, 100).is_sane(&frame));
        assert!(!Roi { side: f32::NAN, ..Roi::whole(100, 100) }.is_sane(&frame));
        assert!(!Roi { side: 1.0, ..Roi::whole(100, 100) }.is_sane(&frame));
        assert!(!Roi { centre: [400.0, 50.0], ..Roi::whole(100, 100) }.is_sane(&frame));
    }
}
