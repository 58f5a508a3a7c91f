//! Feeds loaders with broken files and watches what they take of memory.

use super::watch::{Justified, watch};
use std::{
    cell::Cell,
    fmt, fs,
    panic::{RefUnwindSafe, catch_unwind},
    path::Path,
    sync::Once,
    time::{Duration, Instant},
};
use tempfile::TempDir;

thread_local! {
    /// Panics, also those that a loader catches.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Without a wish, at most so many inputs, for at most so long.
const INPUTS: usize = 20_000;
const TIME: Duration = Duration::from_millis(1500);
/// How often a long run says how far it is.
const TELL: Duration = Duration::from_secs(20);

/// A loader and what its files justify.
pub(crate) struct Loader<'a> {
    pub(crate) name: &'a str,
    /// Of one piece.
    pub(crate) piece: Justified,
    /// Of all pieces at the same time.
    pub(crate) all: Justified,
    /// So many inputs of it count as one: for whole folders, which take long.
    pub(crate) weight: usize,
    /// Whether it took the input.
    pub(crate) load: &'a (dyn Fn(&[u8]) -> bool + RefUnwindSafe),
}

/// Bytes that were taken beside those that the file justified.
#[derive(Clone, Copy, Default)]
struct Worst {
    taken: usize,
    justified: usize,
    file: usize,
}

impl Worst {
    fn meet(&mut self, taken: usize, justified: usize, file: usize) {
        // Compared as shares: a small file justifies little.
        if taken as u128 * self.justified.max(1) as u128 >= self.taken as u128 * justified.max(1) as u128 {
            *self = Self { taken, justified, file };
        }
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: usize| bytes as f64 / 1024.0;
        write!(
            f,
            "{:.0} KiB of the {:.0} KiB that {:.1} KiB justify",
            kib(self.taken),
            kib(self.justified),
            kib(self.file)
        )
    }
}

/// Numbers by chance, the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// From 0 to below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// A folder for inputs: in memory where the system has such a place, since a million files wear a disk.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
    made.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Feeds a loader with what `change` makes of seeds that it takes.
///
/// # Panics
/// At a seed that is refused, a panic, or memory that the file does not justify; the input is kept.
pub(crate) fn feed(loader: &Loader, seeds: &[Vec<u8>], change: fn(&[u8], &mut Dice) -> Vec<u8>) {
    let Loader { name, piece, all, weight, load } = *loader;
    // A trace of each panic that a loader catches would take seconds. Tests run beside one another, so this stays.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|_| {
            let _ = PANICS.try_with(|panics| panics.set(panics.get() + 1));
        }));
    });
    let wished = std::env::var("SPOTTER_FUZZ").ok().map(|n| n.parse::<usize>().expect("SPOTTER_FUZZ: a number"));
    let wanted = wished.unwrap_or(INPUTS).div_ceil(weight);
    let seed =
        std::env::var("SPOTTER_FUZZ_SEED").ok().map_or(1, |n| n.parse::<u64>().expect("SPOTTER_FUZZ_SEED: a number"));
    let mut dice = Dice(0x9e37_79b9_u64.wrapping_mul(2 * seed + 1) + name.len() as u64);
    assert!(seeds.iter().all(|seed| load(seed)), "{name}: the seeds are good");
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (mut inputs, mut taken) = (0usize, 0usize);
    let (mut largest, mut most) = (Worst::default(), Worst::default());
    PANICS.with(|panics| panics.set(0));
    while inputs < wanted && (wished.is_some() || begun.elapsed() < TIME) {
        let input = change(&seeds[dice.below(seeds.len())], &mut dice);
        let (result, memory) = watch(|| catch_unwind(|| load(&input)));
        let keep = |why: &str| -> ! {
            let path = std::env::temp_dir().join(format!("spotter-fuzz-{name}"));
            fs::write(&path, &input).unwrap();
            println!("{name}: input {inputs}: {why}; it is in {}", path.display());
            panic!("{name}: {why}");
        };
        match result {
            Ok(fine) => taken += usize::from(fine),
            Err(what) => {
                let words = what.downcast_ref::<&str>().map(|words| (*words).to_owned());
                keep(&format!("a panic: {}", words.or(what.downcast_ref::<String>().cloned()).unwrap_or_default()));
            }
        }
        for (bytes, justified, what, worst) in
            [(memory.piece, piece, "in one piece", &mut largest), (memory.all, all, "at once", &mut most)]
        {
            if bytes > justified.by(input.len()) {
                keep(&format!("{bytes} bytes of memory {what} for {} of the file", input.len()));
            }
            worst.meet(bytes, justified.by(input.len()), input.len());
        }
        inputs += 1;
        if told.elapsed() > TELL {
            told = Instant::now();
            println!("{name}: {inputs} of {wanted}, {:.0} s", begun.elapsed().as_secs_f64());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{name:<22} {inputs:>8} inputs in {seconds:.1} s: {taken} accepted, {} refused ({} of them by catching a library's panic)\n\
         {:<22} at most in one piece {largest}, at once {most}",
        inputs - taken,
        PANICS.with(Cell::get),
        ""
    );
    assert!(inputs > 20, "{name}: too slow to find anything");
}
