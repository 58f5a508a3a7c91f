//! QEVD's file formats: sessions, frame times and predictions, in both evaluation protocols.
//!
//! Frame times in `.npy` files are eight hours behind `feedback_timestamps`; [`ZONE_SHIFT`] brings them together. The
//! two protocols read different truths out of the same file; see [`Protocol`].

mod clips;
mod error;
mod foreign;
mod loader;
mod npy;
mod predictions;
mod protocol;
mod schema;
mod writer;

pub use clips::{CLIP_FILES, Clip, ClipCounts, Questions, load_clips};
pub use error::{Problem, QevdError};
pub use foreign::{Predictions, read_any_predictions};
pub use loader::{Counts, Dataset, Episode, Session, load};
pub use npy::{read_timestamps, write_timestamps};
pub use predictions::{Aligned, Prediction, align, read_predictions, write_predictions};
pub use protocol::Protocol;
pub use schema::SessionRecord;
pub use writer::{INDEX_FILE, VIDEO_FOLDER, write_index, write_session};

/// Seconds between the clock of the frame times and that of the feedback.
pub const ZONE_SHIFT: f64 = 28_800.0;

#[cfg(test)]
mod tests;
