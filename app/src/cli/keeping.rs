//! Options about what is kept of a session.

use crate::{
    sessions::{Recorder, Stamp, Store, data_folder},
    settings,
    timeline::Sinks,
};
use clap::Args;
use std::path::PathBuf;

/// Where sessions are kept.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataArgs {
    /// The folder with what Spotter keeps [default: as settled, else the user's data folder]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Record")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// The store.
    ///
    /// # Errors
    /// When no folder is named and there is no home.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        if let Some(data) = &self.data {
            return Ok(Store::new(data));
        }
        let settled = settings::load()?.settings.data;
        Ok(Store::new(&settled.map_or_else(data_folder, Ok)?))
    }

    /// The folder, where the flag names one.
    pub(crate) fn flag(&self) -> Option<String> {
        self.data.as_ref().map(|data| data.display().to_string())
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

impl Kept {
    /// The recorder as a place for the timeline, and where to find it again.
    pub(crate) fn split(kept: Option<Self>) -> (Sinks, Option<(Store, String)>) {
        let mut sinks = Sinks::default();
        let kept = kept.map(|kept| {
            if let Some(recorder) = kept.recorder {
                sinks.0.push(Box::new(recorder));
            }
            (kept.store, kept.id)
        });
        (sinks, kept)
    }
}

/// A session that is being kept.
pub(crate) struct Kept {
    pub(crate) store: Store,
    pub(crate) id: String,
    /// To be handed to the sinks of the run.
    pub(crate) recorder: Option<Recorder>,
}
