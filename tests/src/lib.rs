//! What whole-program tests in `tests/tests` share: the golden checkpoints, and how numbers are held against them.

use candle_core::Tensor;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The folder of a tiny checkpoint with goldens.
pub fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/goldens").join(name)
}

/// A model's folder once more, for changes, with the folder of its drafter, if it has one.
///
/// # Panics
/// When it can't be copied.
pub fn copy_of(from: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(from, folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Ids as the scripts of the goldens store them.
///
/// # Panics
/// When the tensor is no row of 32-bit integers.
pub fn ids(stored: &Tensor) -> Vec<u32> {
    stored.to_vec1::<i32>().unwrap().into_iter().map(|id| id as u32).collect()
}

/// The largest absolute difference between two tensors.
///
/// # Panics
/// When their shapes differ.
pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}
