//! Synthetic coaching sessions: a moving body, a camera, mistakes measured from the joints, a coach's script.

pub mod camera;
pub mod exercise;
pub mod measure;
pub mod motion;
pub mod phrases;
pub mod repetition;
pub mod script;
pub mod session;

pub use exercise::{Exercise, Mistake, Rep, Take};
