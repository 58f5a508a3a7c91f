//! Metrics over timed strings.
