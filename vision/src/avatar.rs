//! Draws a body from joints.
