//! The threads that share products.

use std::sync::OnceLock;

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
        Some(pool) => pool.install(run),
        None => run(),
    }
}
