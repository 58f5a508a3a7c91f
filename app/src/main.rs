//! Spotter: watches a person exercise and speaks up at the right moment.
#![allow(dead_code, unused_imports)]
mod assets;
mod pipeline;
mod timeline;
fn main() {}
