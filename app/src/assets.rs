//! Where the files that ship with Spotter lie: models, the demo clip.

use std::path::{Path, PathBuf};

/// Names another assets folder.
pub(crate) const VARIABLE: &str = "SPOTTER_ASSETS";

/// Folders that are looked through, in order: the one named by the environment, beside the program (an installed
/// Spotter), the working folder, and the source tree the program was built from.
pub(crate) fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os(VARIABLE).map(PathBuf::from).into_iter().collect();
    if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(beside.join("assets"));
        folders.push(beside.join("../share/spotter"));
    }
    folders.push(PathBuf::from("assets"));
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets"));
    folders
}

/// The first place where a file or folder exists.
pub(crate) fn find(relative: &str) -> Option<PathBuf> {
    folders().into_iter().map(|folder| folder.join(relative)).find(|path| path.exists())
}
