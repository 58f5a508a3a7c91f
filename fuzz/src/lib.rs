//! What the targets share.

/// A folder for one input, in memory where the system has such a place.
///
/// # Panics
/// When it can't be made.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// Takes back the hook of libfuzzer that ends the process at a panic, whether it is caught or not. One that is not caught still
/// ends it.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|_| {}));
}
