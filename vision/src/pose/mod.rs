//! Pose from pictures: BlazePose through ONNX Runtime, or through tract where there is no native library.
//!
//! A [`detector`] finds people in the whole frame, the [`landmarks`] model finds the joints of one of them in a turned
//! [`crop`], the [`tracker`] carries the region from frame to frame, and [`one_euro`] steadies the joints. [`lens`] puts
//! the result in front of the encoder. See BlazePose (Bazarevsky et al., 2020).

pub mod crop;
pub mod detector;
pub mod landmarks;
pub mod lens;
pub mod one_euro;
pub mod runtime;
pub mod tracker;
pub mod view;

pub use lens::AvatarLens;
pub use runtime::Runtime;
pub use tracker::{Pose, PoseTracker, TrackerOptions};
pub use view::{Missing, missing};
