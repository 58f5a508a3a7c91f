//! Options about what is kept of a session.

use crate::sessions::{Recorder, Stamp, Store, data_folder};
use clap::Args;
use std::path::PathBuf;

/// Where sessions are kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataArgs {
    /// The folder with what Spotter keeps [default: the user's data folder; SPOTTER_DATA sets another]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Record")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// The store.
    ///
    /// # Errors
    /// When no folder is named and there is no home.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        Ok(Store::new(&self.data.clone().map_or_else(data_folder, Ok)?))
    }

    /// A record that begins now, if one is wanted.
    ///
    /// # Errors
    /// When the file can't be made.
    pub(crate) fn recorder(&self, wanted: bool) -> anyhow::Result<Option<Kept>> {
        if !wanted {
            return Ok(None);
        }
        let store = self.store()?;
        let recorder = Recorder::create(&store, Stamp::now())?;
        let id = recorder.id();
        Ok(Some(Kept { store, id, recorder: Some(recorder) }))
    }
}

/// A session that is being kept.
pub(crate) struct Kept {
    pub(crate) store: Store,
    pub(crate) id: String,
    /// To be handed to the sinks of the run.
    pub(crate) recorder: Option<Recorder>,
}
