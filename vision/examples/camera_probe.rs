//! Opens a camera as Spotter does and tells what happens: which cameras there are, the format that was chosen, pictures, and
//! whatever goes wrong. A camera that is lost is opened again each second. For `scripts/camera-test.sh` and for people with
//! a camera that makes trouble.
//!
//! `camera_probe [INDEX] [SECONDS]`

#![allow(clippy::print_stdout, reason = "it is there to print")]

use spotter_vision::source::{
    FrameSource as _,
    camera::{CameraOptions, CameraSource, list},
};
use std::time::{Duration, Instant};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let index = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10);
    let (begun, end) = (Instant::now(), Duration::from_secs(seconds));
    let tell = |text: String| println!("probe {:6.2} s  {text}", begun.elapsed().as_secs_f64());
    match list() {
        Ok(found) => tell(format!("{} cameras: {found:?}", found.len())),
        Err(error) => tell(format!("no list: {error}")),
    }
    while begun.elapsed() < end {
        let mut camera = match CameraSource::open(index, CameraOptions::default()) {
            Ok(camera) => camera,
            Err(error) => {
                tell(format!("does not open ({:?}): {error}", error.trouble()));
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
        };
        let info = camera.info();
        tell(format!("open: {}, {} x {} at {} frames a second", info.name, info.width, info.height, info.fps));
        let told = stream(&mut camera, || begun.elapsed() < end);
        tell(told);
    }
}

/// Takes pictures while it may; what became of it.
fn stream(camera: &mut CameraSource, go_on: impl Fn() -> bool) -> String {
    let (begun, mut pictures, mut changed) = (Instant::now(), 0_u32, 0_u32);
    let mut last: std::sync::Arc<[u8]> = std::sync::Arc::new([]);
    let ended = loop {
        if !go_on() {
            break "time is up".to_owned();
        }
        match camera.next_frame() {
            Ok(Some(frame)) => {
                pictures += 1;
                changed += u32::from(!last.is_empty() && frame.rgb != last);
                last = frame.rgb;
            }
            Ok(None) => break "it ended".to_owned(),
            Err(error) => break format!("lost ({:?}): {error}", error.trouble()),
        }
    };
    let (seconds, mean) = (begun.elapsed().as_secs_f64(), mean(&last));
    format!(
        "{pictures} pictures in {seconds:.1} s, {changed} unlike the one before, {} dropped, mean colour {mean:?}; {ended}",
        camera.dropped()
    )
}

/// Mean red, green and blue of a picture.
fn mean(rgb: &[u8]) -> [u64; 3] {
    let pixels = (rgb.len() / 3).max(1) as u64;
    [0, 1, 2].map(|channel| rgb.iter().skip(channel).step_by(3).map(|v| u64::from(*v)).sum::<u64>() / pixels)
}
