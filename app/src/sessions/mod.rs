//! What is kept of a session: one file of JSON lines for each, in a folder that belongs to the user alone.
//!
//! Files rather than a database, because each line of the timeline is on its way to the disk the moment it happens: a
//! program that is killed loses nothing it had told, a reader needs no library, and deleting a session is deleting a
//! file. The lines are those of the [timeline](crate::timeline) behind a first one of the type `record`.

mod export;
mod looked;
mod names;
mod read;
mod record;
mod stamp;
mod summary;

pub(crate) use export::{csv, srt};
pub(crate) use looked::{Format, Line, Looked};
pub(crate) use names::{duration_text, fault_name};
pub(crate) use read::{Past, Told};
pub(crate) use record::{Memory, Recorder};
pub(crate) use stamp::Stamp;
pub(crate) use summary::{Review, review, trend};

use crate::cli::Hinted;
use anyhow::{Context as _, anyhow, bail};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const EXTENSION: &str = "jsonl";

/// The sessions of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in a data folder; nothing is made before the first session.
    pub(crate) fn new(data: &Path) -> Self {
        Self { folder: data.join("sessions") }
    }

    /// Where the files lie.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of a session.
    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.{EXTENSION}"))
    }

    /// Every session, the oldest first.
    ///
    /// # Errors
    /// When the folder can't be read; one that is not there holds nothing.
    pub(crate) fn ids(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("{}: can't be read", self.folder.display())),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let path = entry.with_context(|| format!("{}: can't be read", self.folder.display()))?.path();
            let named = path.extension().is_some_and(|e| e == EXTENSION);
            if let Some(id) = path.file_stem().and_then(|s| s.to_str()).filter(|_| named) {
                ids.push(id.to_owned());
            }
        }
        // the name begins with the time
        ids.sort();
        Ok(ids)
    }

    /// The session that the user means: a whole name, the beginning of one, or `last`.
    ///
    /// # Errors
    /// When none or several fit.
    pub(crate) fn find(&self, asked: &str) -> anyhow::Result<String> {
        let mut ids = self.ids()?;
        let unknown = |what: String| {
            let hint = "see `spotter sessions list`; `last` is the newest one";
            Err(Hinted::new(anyhow!(what), hint).into())
        };
        if asked == "last" {
            return match ids.pop() {
                Some(last) => Ok(last),
                None => unknown(format!("{}: no session is kept yet", self.folder.display())),
            };
        }
        if ids.iter().any(|id| id == asked) {
            return Ok(asked.to_owned());
        }
        let fitting: Vec<&String> = ids.iter().filter(|id| !asked.is_empty() && id.starts_with(asked)).collect();
        match fitting[..] {
            [one] => Ok(one.clone()),
            [] => unknown(format!("session `{asked}`: there is none in {}", self.folder.display())),
            _ => unknown(format!("session `{asked}`: {} begin so", fitting.len())),
        }
    }

    /// Reads a session.
    ///
    /// # Errors
    /// When the file can't be read or is no session.
    pub(crate) fn read(&self, id: &str) -> anyhow::Result<Past> {
        read::read(id, &self.path(id))
    }

    /// The file of a session as it is.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) fn raw(&self, id: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.path(id);
        fs::read(&path).with_context(|| format!("{}: can't be read", path.display()))
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub(crate) fn delete(&self, id: &str) -> anyhow::Result<()> {
        let path = self.path(id);
        fs::remove_file(&path).with_context(|| format!("{}: can't be deleted", path.display()))
    }

    /// Deletes every session; how many there were.
    ///
    /// # Errors
    /// When one can't be removed; the others are tried all the same.
    pub(crate) fn delete_all(&self) -> anyhow::Result<usize> {
        let ids = self.ids()?;
        let failed: Vec<String> =
            ids.iter().filter_map(|id| self.delete(id).err()).map(|error| format!("{error:#}")).collect();
        if !failed.is_empty() {
            bail!("{} of {} sessions are still there: {}", failed.len(), ids.len(), failed.join("; "));
        }
        Ok(ids.len())
    }
}

/// The folder where programs keep a user's data, by the conventions of the system.
///
/// # Errors
/// When the environment names no home.
pub(crate) fn data_folder() -> anyhow::Result<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let own = if cfg!(windows) {
        named("LOCALAPPDATA").map(|p| p.join("Spotter"))
    } else if cfg!(target_os = "macos") {
        named("HOME").map(|p| p.join("Library/Application Support/Spotter"))
    } else {
        // a relative path there is to be ignored, says the XDG specification
        let xdg = named("XDG_DATA_HOME").filter(|p| p.is_absolute());
        xdg.or_else(|| named("HOME").map(|p| p.join(".local/share"))).map(|p| p.join("spotter"))
    };
    own.ok_or_else(|| {
        let error = anyhow!("there is no folder to keep sessions in: neither SPOTTER_DATA nor a home folder is set");
        Hinted::new(error, "set SPOTTER_DATA to a folder, or coach without a record (`--no-record`)").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_by_the_beginning_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert!(store.ids().unwrap().is_empty());
        assert!(store.find("last").unwrap_err().to_string().contains("no session is kept"));
        fs::create_dir_all(store.folder()).unwrap();
        for id in ["2026-01-02T10-00-00Z", "2026-01-03T10-00-00Z", "2026-02-01T10-00-00Z"] {
            fs::write(store.path(id), "").unwrap();
        }
        fs::write(store.folder().join("notes.txt"), "").unwrap();
        assert_eq!(store.ids().unwrap().len(), 3);
        assert_eq!(store.find("2026-02").unwrap(), "2026-02-01T10-00-00Z");
        assert_eq!(store.find("last").unwrap(), "2026-02-01T10-00-00Z");
        assert!(store.find("2026-01").unwrap_err().to_string().contains("2 begin so"));
        assert!(store.find("../x").is_err() && store.find("").is_err());
        assert_eq!(store.delete_all().unwrap(), 3);
        assert!(store.ids().unwrap().is_empty() && store.folder().join("notes.txt").exists());
    }
}
