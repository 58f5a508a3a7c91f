//! From a frame to the normalised input tensor of a vision tower.
