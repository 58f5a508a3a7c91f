//! Spotter: watches a person exercise and speaks up at the right moment.
#![allow(dead_code, unused_imports)]
mod pipeline;
fn main() {}
