//! Training of the coach, beside the model it trains.

pub mod coach;
pub mod dense;
