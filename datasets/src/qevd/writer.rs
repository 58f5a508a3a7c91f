//! Writes sessions in QEVD's own format.

use super::{ZONE_SHIFT, error::QevdError, npy::write_timestamps, schema::SessionRecord};
use crate::synthetic::script::Event;
use serde::Serialize;
use std::{fs, io::Write as _, path::Path};

/// Name of the file that lists the sessions.
pub const INDEX_FILE: &str = "feedbacks_long_range.json";

/// Folder of videos and frame times.
pub const VIDEO_FOLDER: &str = "long_range_videos";

/// Time of a written session's first frame: 2024-01-01, 08:00, on the clock of the frames.
const EPOCH_NS: i64 = 1_704_096_000_000_000_000;

/// Seconds that a message stays on screen, where the next one does not come before.
const SHOWN: f64 = 1.5;

/// Writes the frame times of a session beside its video and returns the entry for [`write_index`]. `frame_times` are
/// the media seconds of the video's frames, rising; events are those of a script, in order.
///
/// Messages are cut so that at least one silent frame lies between two of them and behind the last: runs of frames
/// are all that readers have to tell messages apart.
///
/// # Errors
/// Events that fall onto the same frames; a folder that can't be written.
pub fn write_session(
    folder: &Path,
    video_name: &str,
    frame_times: &[f64],
    events: &[Event],
) -> Result<SessionRecord, QevdError> {
    let videos = folder.join(VIDEO_FOLDER);
    fs::create_dir_all(&videos).map_err(|source| QevdError::Write { path: videos.clone(), source })?;
    let stem = Path::new(video_name).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let times_name = format!("{stem}_timestamps.npy");
    let feedbacks =
        show(frame_times, events).map_err(|what| QevdError::Format { path: videos.join(video_name), what })?;
    let nanoseconds: Vec<i64> = frame_times.iter().map(|t| EPOCH_NS + (t * 1e9).round() as i64).collect();
    write_timestamps(&videos.join(&times_name), &nanoseconds)?;
    let clock = |t: f64| EPOCH_NS as f64 / 1e9 + ZONE_SHIFT + t;
    Ok(SessionRecord {
        long_range_video_file: format!("./{VIDEO_FOLDER}/{video_name}"),
        video_timestamps: format!("./{VIDEO_FOLDER}/{times_name}"),
        feedbacks,
        feedback_timestamps: events.iter().map(|event| clock(event.t)).collect(),
        is_transition: events.iter().map(|event| event.is_transition).collect(),
        ..SessionRecord::default()
    })
}

/// What each frame shows.
fn show(frame_times: &[f64], events: &[Event]) -> Result<Vec<String>, String> {
    if frame_times.iter().any(|t| !t.is_finite()) || frame_times.windows(2).any(|w| w.first() >= w.last()) {
        return Err("frame times must be finite and rise".into());
    }
    let mut frames = vec![String::new(); frame_times.len()];
    let from = |t: f64| frame_times.partition_point(|frame| *frame < t);
    for (i, event) in events.iter().enumerate() {
        let first = from(event.t);
        // One silent frame before the next message, or before the end.
        let next = events.get(i + 1).map_or(frames.len(), |next| from(next.t));
        let end = from(event.t + SHOWN).min(next.saturating_sub(1));
        if event.text.is_empty() || first >= end {
            let (t, text) = (event.t, &event.text);
            return Err(format!(
                "no frame is free for the message {text:?} at {t:.3} s; messages need two frames each"
            ));
        }
        for frame in frames.iter_mut().take(end).skip(first) {
            frame.clone_from(&event.text);
        }
    }
    Ok(frames)
}

/// Writes the file that lists the sessions.
///
/// # Errors
/// A file that can't be written.
pub fn write_index(folder: &Path, sessions: &[SessionRecord]) -> Result<(), QevdError> {
    write_json(&folder.join(INDEX_FILE), &sessions)
}

/// Writes pretty JSON beside the file first, so that an interrupted run leaves no half of one.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), QevdError> {
    let failed = |source| QevdError::Write { path: path.into(), source };
    let text = serde_json::to_string_pretty(value).map_err(|error| failed(error.into()))?;
    let beside = path.with_extension("json.part");
    let mut file = fs::File::create(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    drop(file);
    fs::rename(&beside, path).map_err(failed)
}
