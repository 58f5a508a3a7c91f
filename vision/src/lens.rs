//! What the encoder looks through: the raw picture, or the person drawn again as an avatar.

use crate::{Body, Frame};

/// How much of the person can be seen. The coach and the overlay both act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The whole body, or a lens that does not look for one.
    Clear,
    /// A person, but not all of them is inside the picture.
    PartlyOut,
    /// Nobody.
    NoPerson,
}

/// What a lens made of one frame.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The picture for the encoder; time and number are those of the frame that went in.
    pub frame: Frame,
    /// How much of the person is seen.
    pub view: View,
    /// Number of people found; the largest is coached. 1 for a lens that does not look.
    pub people: usize,
    /// Number of the person who is followed: another number is another person, of whom nothing is known yet.
    pub person: u32,
    /// Joints in pixels of the frame that went in, where there is a person.
    pub body: Option<Body>,
}

/// An error of a lens: a model that can't be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum LensError {
    /// A model file that is missing or broken.
    #[error("model {path}: {problem}")]
    Model {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The runtime failed while looking at a frame.
    #[error("pose estimation failed: {0}")]
    Run(String),
}

/// Looks at a frame on the vision thread, which owns it.
pub trait Lens: Send {
    /// What this frame shows. Frames must come in order of time.
    fn look(&mut self, frame: &Frame) -> Result<Sight, LensError>;
    /// Forgets the person: a new stream begins.
    fn reset(&mut self);
}

/// The raw picture.
#[derive(Debug, Default)]
pub struct NoLens;

impl Lens for NoLens {
    fn look(&mut self, frame: &Frame) -> Result<Sight, LensError> {
        Ok(Sight { frame: frame.clone(), view: View::Clear, people: 1, person: 0, body: None })
    }
    fn reset(&mut self) {}
}
