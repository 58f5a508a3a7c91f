//! Our own ViT.
