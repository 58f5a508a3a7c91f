//! A recording as fast as it goes: the stages take turns on one thread.

use super::{
    Config, Event, Parts,
    clock::Cancel,
    speaker::{Speaker, Talkativeness, Task},
    stages::{Reader, Watcher},
    stats::Monitor,
    tally::Tally,
};
use spotter_vision::{Frame, lens::Sight, source::FrameSource};
use std::{sync::Arc, time::Instant};

/// Sees a sequential run go by.
pub(crate) trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event) -> anyhow::Result<()>;

    /// A frame of the source is through: all that could be decided by its time has been told. `sight` is what the
    /// lens made of it, if it was looked at.
    fn frame(&mut self, _frame: &Frame, _sight: Option<&Sight>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Runs a source to its end.
///
/// # Errors
/// Only those of the observer, which end the run. A stage that fails becomes an [`Event::Failed`].
pub(crate) fn run(
    source: Box<dyn FrameSource>,
    parts: Parts,
    config: &Config,
    monitor: &Arc<Monitor>,
    observer: &mut dyn Observer,
) -> anyhow::Result<()> {
    let frame_rate = parts.coach.frame_rate();
    let mut reader = Reader::new(source, monitor.clone());
    let mut watcher = Watcher::new(parts.lens, frame_rate, config, monitor.clone());
    let dial = Arc::new(Talkativeness::default());
    let (cancel, task) = (Arc::new(Cancel::default()), Arc::new(Task::default()));
    let tally = Tally::new(config, task.clone(), monitor.clone());
    let mut speaker = Speaker::new(parts.coach, config, cancel, dial, task, monitor.clone());
    let mut told = Ok(());
    let mut emit = |observer: &mut dyn Observer, event| {
        tally.pass(event, &mut |event| {
            if told.is_ok() {
                told = observer.event(event);
            }
        });
    };
    while let Some(frame) = reader.next(&mut |e| emit(observer, e)) {
        let message = watcher.watch(&frame, Instant::now(), &mut |e| emit(observer, e));
        let sight = message.as_ref().map(|m| m.sight.clone());
        if let Some(message) = message {
            speaker.offer(message, &mut |e| emit(observer, e));
        }
        observer.frame(&frame, sight.as_ref())?;
    }
    speaker.finish(&mut |e| emit(observer, e));
    told
}
