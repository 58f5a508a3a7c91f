//! Training of the coach and of drafters, beside the models they train.

pub mod align;
#[cfg(test)]
mod align_tests;
pub mod coach;
#[cfg(test)]
mod coach_tests;
pub mod dense;
pub mod drafter;
#[cfg(test)]
mod drafter_tests;
pub mod judge;
pub mod lines;
mod parts;
pub mod rollout;
#[cfg(test)]
mod seeing_tests;
pub mod watch;
