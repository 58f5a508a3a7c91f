//! What proposes tokens.

use candle_core::{Result, Tensor};

/// A drafted token whose children are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The token.
    pub token: u32,
    /// Place of its parent among the branches of this round, in the order in which they were given; `None` stands
    /// directly behind the text.
    pub parent: Option<usize>,
}

/// Log-weights of the next token, `[vocab of the target]`, f32: minus infinity where it is impossible. Any constant may
/// be added.
pub type Logits = Vec<f32>;

/// Proposes tokens for a text (specs: speculative, section 2).
///
/// A session tells it the text ([`Self::read`]); an utterance is opened, may have rounds, and is closed; a round asks
/// for the root's law, then for that of branches level by level, and ends with [`Self::settle`].
///
/// Errors of all functions are those of the device.
pub trait Drafter: Send {
    /// Its name.
    fn describe(&self) -> String;

    /// Its size against the target's; 0 for look-up.
    fn parameters(&self) -> usize {
        0
    }

    /// Passes through its layers so far.
    fn passes(&self) -> u64 {
        0
    }

    /// Tokens that it has to read before it can propose anything.
    fn backlog(&self) -> usize {
        0
    }

    /// Text that is there from now on. Costs nothing before the next round.
    fn read(&mut self, ids: &[u32]) -> Result<()>;

    /// A picture has come, the target's visual tokens `[1, k, width]`. Costs nothing before the next round.
    fn see(&mut self, _picture: &Tensor) -> Result<()> {
        Ok(())
    }

    /// An utterance begins; whatever is read until it is closed may be undone. Costs nothing before the next round.
    fn open(&mut self) -> Result<()>;

    /// It ends; when it is not kept the text is what it was before.
    fn close(&mut self, keep: bool) -> Result<()>;

    /// The law of the next token after the text; `None` where there is nothing to propose.
    fn root(&mut self) -> Result<Option<Logits>>;

    /// The law behind each of these branches.
    fn expand(&mut self, branches: &[Branch]) -> Result<Vec<Option<Logits>>>;

    /// Ends a round: `path` are the accepted ones of the branches that were expanded, root first; `ids` all that was
    /// committed, which begins with the tokens of the path.
    fn settle(&mut self, path: &[usize], ids: &[u32]) -> Result<()>;

    /// Forgets everything.
    fn clear(&mut self) -> Result<()>;
}

/// A text with a place to which it may go back: tokens, or whatever else is read in order.
#[derive(Clone, Debug)]
pub(crate) struct Text<T = u32> {
    items: Vec<T>,
    mark: Option<usize>,
}

impl<T> Default for Text<T> {
    fn default() -> Self {
        Self { items: Vec::new(), mark: None }
    }
}

impl<T> Text<T> {
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    pub(crate) fn push(&mut self, items: impl IntoIterator<Item = T>) {
        self.items.extend(items);
    }

    pub(crate) fn open(&mut self) {
        self.mark = Some(self.items.len());
    }

    /// Length when it was opened; the whole length where it is not.
    pub(crate) fn mark(&self) -> usize {
        self.mark.unwrap_or(self.items.len())
    }

    /// Drops the oldest `n`.
    pub(crate) fn forget(&mut self, n: usize) {
        self.items.drain(..n.min(self.items.len()));
        self.mark = self.mark.map(|mark| mark.saturating_sub(n));
    }

    /// Length before, when what was read since is forgotten.
    pub(crate) fn close(&mut self, keep: bool) {
        if let (Some(mark), false) = (self.mark.take(), keep) {
            self.items.truncate(mark);
        }
    }

    /// Drops the oldest where there are more than `most`, half of them at a time.
    pub(crate) fn bound(&mut self, most: usize) -> usize {
        let dropped = if self.items.len() > most { self.items.len() - most / 2 } else { 0 };
        self.items.drain(..dropped);
        dropped
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.mark = None;
    }
}
