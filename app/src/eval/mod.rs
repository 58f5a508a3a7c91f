//! Scoring on QEVD: sessions are played or read, scored one by one, kept on disk, and joined into a report.
//!
//! A session's file holds all that a report needs of it, so a run that was stopped goes on where it was, and the parts of
//! a run that was split among machines join to the very report of a single one.

pub(crate) mod anchors;
pub(crate) mod html;
pub(crate) mod judge;
pub(crate) mod play;
pub(crate) mod plots;
pub(crate) mod pool;
pub(crate) mod report;
pub(crate) mod score;
pub(crate) mod store;
pub(crate) mod table;
