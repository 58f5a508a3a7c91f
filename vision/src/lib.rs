//! Frames in, visual tokens out.
//!
//! The ground floor of Spotter: this crate knows nothing of text. A frame comes from a [`source::FrameSource`],
//! passes a [`lens::Lens`] and becomes visual tokens in an [`encoder::Encoder`].

pub mod avatar;
pub mod body;
pub mod encoder;
pub mod frame;
pub mod lens;
pub mod link;
pub mod nn;
#[cfg(feature = "pose")]
pub mod pose;
pub mod preprocess;
pub mod reps;
pub mod source;
#[cfg(feature = "training")]
pub mod training;

pub use body::{Body, Joint};
pub use frame::Frame;
