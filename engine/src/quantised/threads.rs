//! The threads that share products.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a thread without work stays awake during a pass: longer than the small steps between products take, because to wake
/// it takes longer still.
const AWAKE: Duration = Duration::from_micros(200);

/// Runs something on one of the threads that share products, unless it is on such a thread already.
///
/// From outside, each product would wake its threads and wait for the last of them; inside, who asks for it takes part in it. They
/// are threads of their own, so that nothing else is ever begun while a pass waits for its other half.
pub(crate) fn on_threads<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
    if rayon::current_thread_index().is_some() {
        return run();
    }
    let build = || {
        let threads = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("product-{i}")).build();
        threads.inspect_err(|e| tracing::warn!("products have no threads of their own: {e}")).ok()
    };
    match POOL.get_or_init(build) {
        Some(pool) => pool.install(|| awake(run)),
        None => run(),
    }
}

/// Runs something while the other threads of the pool wait for its products without falling asleep.
fn awake<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let (over, owner) = (AtomicBool::new(false), rayon::current_thread_index());
    rayon::scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| {
                // Whoever runs the pass comes here only where nobody else did.
                if rayon::current_thread_index() != owner {
                    lie_in_wait(&over);
                }
            });
        }
        let _ends = Ends(&over);
        run()
    })
}

/// Tells the others that a pass is over, also one that panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Takes part in whatever there is to do, until the pass is over or nothing came for a while.
fn lie_in_wait(over: &AtomicBool) {
    let mut idle = Instant::now();
    while !over.load(Ordering::Acquire) && idle.elapsed() < AWAKE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => idle = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_pass_may_pause_panic_and_ask_within_itself() {
        for pause in [0, 50, 1_000] {
            let sum: u64 = on_threads(|| {
                (0..20u64)
                    .map(|i| {
                        std::thread::sleep(Duration::from_micros(pause));
                        on_threads(|| (0..1_000u64).into_par_iter().map(|j| i * j).sum::<u64>())
                    })
                    .sum()
            });
            assert_eq!(sum, 190 * 499_500);
        }
        assert!(catch_unwind(AssertUnwindSafe(|| on_threads(|| panic!("a pass that fails")))).is_err());
        assert_eq!(on_threads(|| (0..100u64).into_par_iter().sum::<u64>()), 4_950);
    }
}
