//! Writes a session down while it happens.

use super::{EXTENSION, Stamp, Store};
use crate::{
    pipeline::Event,
    timeline::{JsonLines, Session, Sink, Summary},
};
use anyhow::Context as _;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Sessions that begin in the same second.
const SAME_SECOND: u32 = 100;

/// Writes each event of a session as it happens, straight to the file. A disk that is full ends the record, not the
/// session.
pub(crate) struct Recorder {
    lines: Option<JsonLines<File>>,
    path: PathBuf,
    begun: bool,
}

/// What never began leaves no record.
impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.begun
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("{}: can't be removed: {error}", self.path.display());
        }
    }
}

impl Recorder {
    /// Makes the file of a new session.
    ///
    /// # Errors
    /// When the folder or the file can't be made.
    pub(crate) fn create(store: &Store, started: Stamp) -> anyhow::Result<Self> {
        let folder = store.folder();
        private_folder(folder).with_context(|| format!("{}: can't be made", folder.display()))?;
        let (mut file, path) = new_file(folder, &started.file_name())?;
        file.write_all(head(started).as_bytes()).with_context(|| format!("{}: can't be written", path.display()))?;
        Ok(Self { lines: Some(JsonLines::new(file)), path, begun: false })
    }

    /// The name of the session.
    pub(crate) fn id(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn write(&mut self, write: impl FnOnce(&mut JsonLines<File>) -> anyhow::Result<()>) {
        let Some(lines) = &mut self.lines else { return };
        if let Err(error) = write(lines) {
            tracing::error!("the session is not recorded any further: {}: {error:#}", self.path.display());
            self.lines = None;
        }
    }
}

impl Sink for Recorder {
    fn begin(&mut self, session: &Session) -> anyhow::Result<()> {
        self.begun = true;
        self.write(|lines| lines.begin(session));
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        self.write(|lines| lines.event(event));
        Ok(())
    }

    fn end(&mut self, summary: &Summary) -> anyhow::Result<()> {
        self.write(|lines| lines.end(summary));
        Ok(())
    }
}

/// Keeps the lines of a session in memory, to look back on one that is not recorded. At a line for each repetition and
/// word an hour takes about a megabyte.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

impl io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    /// A session that begins now, and the place where its timeline goes.
    pub(crate) fn begin(started: Stamp) -> (Self, JsonLines<Self>) {
        let memory = Self(Arc::new(Mutex::new(head(started).into_bytes())));
        (memory.clone(), JsonLines::new(memory))
    }

    /// Its lines so far.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The first line of a record.
fn head(started: Stamp) -> String {
    format!("{{\"type\":\"record\",\"format\":1,\"started\":{}}}\n", started.0)
}

/// Nobody else on this machine has to know who trains what.
pub(super) fn private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

fn new_file(folder: &Path, name: &str) -> anyhow::Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    for n in 0..SAME_SECOND {
        let more = if n == 0 { String::new() } else { format!("-{n}") };
        let path = folder.join(format!("{name}{more}.{EXTENSION}"));
        match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("{}: can't be made", path.display())),
        }
    }
    anyhow::bail!("{}: too many sessions begin at {name}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spotter_datasets::synthetic::Exercise;
    use std::time::Duration;

    #[test]
    fn sessions_of_the_same_second_keep_apart_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let recorders = [0, 0].map(|_| Recorder::create(&store, Stamp(0)).unwrap());
        let ids = [0, 1].map(|i: usize| recorders[i].id());
        assert_eq!(ids, ["1970-01-01T00-00-00Z", "1970-01-01T00-00-00Z-1"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(store.path(&ids[0])).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{mode:o}");
        }
        drop(recorders);
        assert!(store.ids().unwrap().is_empty(), "no session began");
    }

    #[test]
    fn each_event_is_in_the_file_when_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let mut recorder = Recorder::create(&store, Stamp(0)).unwrap();
        let rep = Event::Rep { t: Duration::from_secs(1), exercise: Exercise::Squat, set: 1, count: 1 };
        recorder.event(&rep).unwrap();
        let text = fs::read_to_string(store.path(&recorder.id())).unwrap();
        assert!(
            text.ends_with("{\"type\":\"rep\",\"t\":1.0,\"exercise\":\"squat\",\"set\":1,\"count\":1}\n"),
            "{text}"
        );
    }
}
