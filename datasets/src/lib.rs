//! QEVD files, synthetic sessions, metrics. Knows no model.

pub mod baseline;
pub mod metric;
pub mod qevd;
pub mod synthetic;
