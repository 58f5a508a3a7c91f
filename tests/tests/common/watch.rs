//! Watches what a loader takes of memory, for `tests/tests/fuzz.rs` and for the targets of cargo-fuzz in `fuzz/`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Bytes in one piece and in all that a loader may take whatever is in its file: about twice what a million inputs showed.
pub(crate) const PLAIN: (usize, usize) = (128 << 10, 256 << 10);
/// A tokenizer has tables of a fixed size.
pub(crate) const TOKENIZER: (usize, usize) = (1 << 20, 3 << 19);

/// What a file justifies: bytes whatever is in it, such as tables of a fixed size, and so many times its own.
#[derive(Clone, Copy)]
pub(crate) struct Justified {
    pub(crate) fixed: usize,
    pub(crate) times: usize,
}

impl Justified {
    /// By a file of so many bytes.
    pub(crate) fn by(self, file: usize) -> usize {
        self.fixed + self.times * file
    }
}

/// What a piece of a loader's memory and all of it may be: 16 and 64 times the file beside `fixed` bytes each.
pub(crate) fn justified(fixed: (usize, usize)) -> (Justified, Justified) {
    (Justified { fixed: fixed.0, times: 16 }, Justified { fixed: fixed.1, times: 64 })
}

/// Bytes that some work took.
pub(crate) struct Memory {
    /// In the largest piece.
    pub(crate) piece: usize,
    /// At once.
    pub(crate) all: usize,
}

/// Does some work on this thread and tells what it took.
pub(crate) fn watch<T>(work: impl FnOnce() -> T) -> (T, Memory) {
    let before = HELD.with(Cell::get);
    LARGEST.with(|largest| largest.set(0));
    MOST.with(|most| most.set(before));
    let done = work();
    let all = (MOST.with(Cell::get) - before).max(0) as usize;
    (done, Memory { piece: LARGEST.with(Cell::get), all })
}

/// Remembers what a thread asks for.
pub(crate) struct Watched;

thread_local! {
    /// The largest piece.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// All pieces that it has, and the most it had. What another thread frees makes these too large, never too small.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn note(size: usize, freed: usize) {
    // A thread that ends frees more after its counters are gone.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
    let held = HELD.try_with(|held| {
        held.set(held.get().saturating_add_unsigned(size).saturating_sub_unsigned(freed));
        held.get()
    });
    let _ = held.map(|held| MOST.try_with(|most| most.set(most.get().max(held))));
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
