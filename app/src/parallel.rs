//! Independent pieces of work over several threads.

use anyhow::{Result, anyhow};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that train and evaluate.
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
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
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Vec<Result<Vec<(usize, T)>>> = std::thread::scope(|scope| {
        let run = || {
            let mut results = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return Ok(results);
                }
                results.push((index, work(index)?));
                done(finished.fetch_add(1, Ordering::Relaxed) + 1);
            }
        };
        let handles: Vec<_> = (0..threads.clamp(1, count.max(1))).map(|_| scope.spawn(run)).collect();
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
    }
}
