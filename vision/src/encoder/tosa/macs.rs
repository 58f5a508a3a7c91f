//! Multiply-accumulates of a tower (specs: tosa, section 3).

use super::{TosaOptions, keep};

/// The shape of a tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens, class and registers included.
    pub tokens: u64,
    /// Patches that are embedded.
    pub patches: u64,
    /// Numbers of a patch.
    pub patch_numbers: u64,
    /// Width of a token.
    pub width: u64,
    /// Width inside the MLP.
    pub mlp: u64,
    /// Attention heads.
    pub heads: u64,
    /// Layers.
    pub depth: usize,
}

/// What a tower costs a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// One standard layer.
    pub layer: u64,
    /// One selector.
    pub selector: u64,
    /// All of the tower without skipping.
    pub dense: u64,
    /// All of the tower with skipping.
    pub selective: u64,
}

impl Shape {
    /// A layer over `tokens`: projections, MLP, and both products of attention.
    fn layer(&self, tokens: u64) -> u64 {
        let (d, m) = (self.width, self.mlp);
        4 * tokens * d * d + 2 * tokens * d * m + 2 * tokens * tokens * d
    }

    /// Tokens that a selective layer works on.
    pub fn kept(&self, tosa: &TosaOptions) -> u64 {
        let protected = tosa.protected.unwrap_or(self.tokens.saturating_sub(self.patches) as usize);
        keep(tosa.ratio, self.tokens as usize, protected) as u64
    }

    /// Selective layers that do skip.
    fn choices(&self, tosa: &TosaOptions) -> u64 {
        if self.kept(tosa) < self.tokens { tosa.selective(self.depth).len() as u64 } else { 0 }
    }

    /// What the selectors of a tower cost; 0 where no token is skipped.
    pub fn selectors(&self, tosa: &TosaOptions) -> u64 {
        self.cost(tosa).selector * self.choices(tosa)
    }

    /// What an oracle costs instead of selectors: queries, keys and their products of each selective layer, over all tokens.
    pub fn oracle(&self, tosa: &TosaOptions) -> u64 {
        let (n, d) = (self.tokens, self.width);
        (2 * n * d * d + n * n * d) * self.choices(tosa)
    }

    /// Cost with and without skipping.
    pub fn cost(&self, tosa: &TosaOptions) -> Cost {
        let layer = self.layer(self.tokens);
        let selector = 2 * tosa.kernel as u64 * self.tokens * self.tokens * self.heads * self.heads;
        let embedding = self.patches * self.patch_numbers * self.width;
        let selective = tosa.selective(self.depth).len() as u64;
        let k = self.kept(tosa);
        let standard = self.depth as u64 - selective;
        // With `reuse` the chosen tokens also attend to those that are skipped.
        let wider = if tosa.reuse { 2 * k * (self.tokens - k) * self.width } else { 0 };
        let skipping = if k < self.tokens { self.layer(k) + selector + wider } else { layer };
        Cost {
            layer,
            selector,
            dense: embedding + self.depth as u64 * layer,
            selective: embedding + standard * layer + selective * skipping,
        }
    }
}
