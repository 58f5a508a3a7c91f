//! Independent pieces of work over several threads.

use anyhow::{Result, anyhow};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that train and evaluate.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(16)
}

/// Runs `work` for each index below `count` on `threads` threads; results in order. `done` hears how many are finished.
///
/// # Errors
/// The first error of a worker, once all have stopped.
pub(crate) fn in_parallel<T: Send>(
    threads: usize,
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>> {
    in_parallel_with(threads, count, || Ok(()), |(), index| work(index), done)
}

/// The same with something that each thread makes once and hands to all of its work, such as a model. The cores are
/// shared out among the threads: work that would spread over all of them by itself stays on those of its own thread. A
/// single thread is the caller's.
///
/// # Errors
/// The first error of a worker, once all have stopped.
pub(crate) fn in_parallel_with<S, T: Send>(
    threads: usize,
    count: usize,
    make: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<T>> {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = threads.clamp(1, count.max(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<Vec<(usize, T)>>> = std::thread::scope(|scope| {
        let run = || {
            let (mut state, mut results) = (make()?, Vec::new());
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(results);
                }
                results.push((index, work(&mut state, index)?));
                done(finished.fetch_add(1, Ordering::Relaxed) + 1);
            }
        };
        if threads == 1 {
            return vec![run()];
        }
        let in_pool =
            move || rayon::ThreadPoolBuilder::new().num_threads((cores / threads).max(1)).build()?.install(run);
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(in_pool)).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))).collect()
    });
    let mut results: Vec<(usize, T)> = results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_errors_come_back() {
        let last = AtomicUsize::new(0);
        let squares = in_parallel(
            3,
            50,
            |i| Ok(i * i),
            |n| {
                last.fetch_max(n, Ordering::Relaxed);
            },
        )
        .unwrap();
        assert_eq!(squares, (0..50).map(|i| i * i).collect::<Vec<_>>());
        assert_eq!(last.into_inner(), 50);
        let failed = in_parallel(3, 50, |i| if i == 7 { Err(anyhow!("seven")) } else { Ok(i) }, |_| {});
        assert_eq!(failed.unwrap_err().to_string(), "seven");
        let made = AtomicUsize::new(0);
        let make = || Ok(made.fetch_add(1, Ordering::Relaxed));
        let count = |used: &mut usize, i: usize| {
            *used += 1;
            Ok(i + 1)
        };
        assert_eq!(in_parallel_with(2, 30, make, count, |_| {}).unwrap(), (1..31).collect::<Vec<_>>());
        assert_eq!(made.into_inner(), 2, "once a thread");
    }
}
