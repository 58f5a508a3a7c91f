//! Three-dimensional vectors, in metres.

pub(crate) type V3 = [f32; 3];

pub(crate) fn add(a: V3, b: V3) -> V3 {
    std::array::from_fn(|i| a[i] + b[i])
}

pub(crate) fn sub(a: V3, b: V3) -> V3 {
    std::array::from_fn(|i| a[i] - b[i])
}

pub(crate) fn scale(a: V3, s: f32) -> V3 {
    a.map(|v| v * s)
}

/// `a + b * s`
pub(crate) fn along(a: V3, b: V3, s: f32) -> V3 {
    add(a, scale(b, s))
}

pub(crate) fn dot(a: V3, b: V3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn cross(a: V3, b: V3) -> V3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(crate) fn norm(a: V3) -> f32 {
    dot(a, a).sqrt()
}

/// Unit vector; straight up for a vector of no length.
pub(crate) fn unit(a: V3) -> V3 {
    let n = norm(a);
    if n > 1e-6 { scale(a, 1.0 / n) } else { [0.0, 0.0, 1.0] }
}

pub(crate) fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

pub(crate) fn mix(a: V3, b: V3, t: f32) -> V3 {
    std::array::from_fn(|i| lerp(a[i], b[i], t))
}

/// Part of `a` at right angles to the unit vector `axis`, of unit length; `fallback` where there is none.
pub(crate) fn across(a: V3, axis: V3, fallback: V3) -> V3 {
    let p = along(a, axis, -dot(a, axis));
    if norm(p) > 1e-4 { unit(p) } else { unit(along(fallback, axis, -dot(fallback, axis))) }
}

/// Turns about the vertical; positive is anticlockwise seen from above.
pub(crate) fn turn(a: V3, angle: f32) -> V3 {
    let (s, c) = angle.sin_cos();
    [a[0] * c - a[1] * s, a[0] * s + a[1] * c, a[2]]
}

/// Angle between two vectors in degrees.
pub(crate) fn degrees_between(a: V3, b: V3) -> f32 {
    dot(unit(a), unit(b)).clamp(-1.0, 1.0).acos().to_degrees()
}

/// Spherical interpolation of directions.
pub(crate) fn slerp(a: V3, b: V3, t: f32) -> V3 {
    let (a, b) = (unit(a), unit(b));
    let angle = dot(a, b).clamp(-1.0, 1.0).acos();
    if angle < 1e-3 {
        return unit(mix(a, b, t));
    }
    // Opposite directions have no shortest way: go round by the front.
    let side = across(b, a, [0.0, -1.0, 0.3]);
    let (s, c) = (angle * t).sin_cos();
    add(scale(a, c), scale(side, s))
}

/// Minimum-jerk easing of 0..1, as reaching movements of people follow it.
pub(crate) fn ease(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * t * (10.0 + t * (6.0 * t - 15.0))
}
