//! UI-PRMD as a pack of marker positions: one safetensors file, one tensor a clip.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use spotter_vision::body::{JOINTS, Joint};

use super::{Clip, MotionError, Source, normalise, resample};
use crate::synthetic::exercise::{Exercise, Posture};
use crate::synthetic::motion::vector::{V3, across, add, along, cross, mix, scale, sub, unit};

/// Markers of the Plug-in Gait model from which joints are found.
const MARKERS: [&str; 20] = [
    "LFHD", "RFHD", "LBHD", "RBHD", "C7", "CLAV", "LSHO", "RSHO", "LELB", "RELB", "LWRA", "LWRB", "RWRA", "RWRB",
    "LASI", "RASI", "LPSI", "RPSI", "LKNE", "RKNE",
];
const FEET: [&str; 6] = ["LANK", "RANK", "LHEE", "RHEE", "LTOE", "RTOE"];

/// Distances from a marker on the skin to the joint beneath it, in metres.
const SHOULDER_BELOW: f32 = 0.045;
const KNEE_INSIDE: f32 = 0.045;
const ANKLE_INSIDE: f32 = 0.035;

/// Movements of the pack that are exercises.
fn exercise_of(movement: &str) -> Option<Exercise> {
    Some(match movement {
        "m01" => Exercise::Squat,
        "m02" => Exercise::HurdleStep,
        "m03" => Exercise::Lunge,
        "m04" => Exercise::SideLunge,
        "m05" => Exercise::SitToStand,
        "m06" => Exercise::LegRaise,
        "m07" => Exercise::LateralRaise,
        "m09" => Exercise::ShoulderRotation,
        _ => return None,
    })
}

/// Reads the pack.
pub(super) fn load(path: &Path) -> Result<Vec<Clip>, MotionError> {
    let bytes = std::fs::read(path).map_err(|source| MotionError::Read { path: path.into(), source })?;
    let bad = |what: String| MotionError::Malformed { path: path.into(), what };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("no safetensors header: {e}")))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let order = metadata.get("markers").ok_or_else(|| bad("the header's metadata has no `markers`".into()))?;
    let rate = match metadata.get("rate_hz") {
        None => 25.0,
        Some(text) => text
            .parse::<f32>()
            .ok()
            .filter(|r| r.is_finite() && *r >= 1.0)
            .ok_or_else(|| bad(format!("metadata `rate_hz` is {text:?}, expected a number of at least 1")))?,
    };
    let index: HashMap<&str, usize> = order.split_whitespace().enumerate().map(|(i, m)| (m, i)).collect();
    if let Some(missing) = MARKERS.iter().chain(&FEET).find(|m| !index.contains_key(**m)) {
        return Err(bad(format!("marker {missing} is not in the header's `markers`")));
    }
    let pack = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not a safetensors file: {e}")))?;
    let mut names: Vec<_> = pack.names().into_iter().map(str::to_owned).collect();
    // The order in the file is not part of the data.
    names.sort_unstable();
    let mut clips = Vec::new();
    for name in names {
        let mut parts = name.split('_');
        let (Some(movement), Some(person), _, Some(verdict)) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad(format!("tensor name {name:?} is not of the form mMM_sSS_eEE_correct|incorrect")));
        };
        let Some(exercise) = exercise_of(movement) else { continue };
        let person = person
            .strip_prefix('s')
            .and_then(|n| n.parse::<u32>().ok())
            .ok_or_else(|| bad(format!("tensor name {name:?} has no person sNN")))?;
        let tensor = pack.tensor(&name).map_err(|e| bad(format!("tensor {name}: {e}")))?;
        let [frames, markers, 3] = *tensor.shape() else {
            return Err(bad(format!("tensor {name} has shape {:?}, expected [frames, markers, 3]", tensor.shape())));
        };
        if tensor.dtype() != Dtype::I16 || markers != index.len() || frames < 8 {
            let what = format!("tensor {name}: expected I16 [8 or more, {}, 3], found {:?} {:?}", index.len(), tensor.dtype(), tensor.shape());
            return Err(bad(what));
        }
        let postures: Vec<Posture> = tensor
            .data()
            .chunks_exact(markers * 6)
            .map(|frame| joints(|marker| position(frame, index.get(marker).copied().unwrap_or(0))))
            .collect();
        let postures = normalise(resample(&postures, rate));
        let source = Source { set: "ui-prmd", person };
        clips.extend(Clip::single(exercise, source, verdict == "correct", postures));
    }
    Ok(clips)
}

/// Metres of marker `index` in one frame of little-endian millimetres.
fn position(frame: &[u8], index: usize) -> V3 {
    std::array::from_fn(|axis| {
        let at = (index * 3 + axis) * 2;
        let low = frame.get(at).copied().unwrap_or(0);
        let high = frame.get(at + 1).copied().unwrap_or(0);
        f32::from(i16::from_le_bytes([low, high])) / 1000.0
    })
}

/// Joint centres from markers on the skin.
fn joints<'a>(marker: impl Fn(&'a str) -> V3) -> Posture {
    let middle = |a, b| mix(marker(a), marker(b), 0.5);
    let (asis, psis) = (middle("LASI", "RASI"), middle("LPSI", "RPSI"));
    let span = sub(marker("LASI"), marker("RASI"));
    let left = unit(span);
    let back = across(sub(psis, asis), left, [0.0, 1.0, 0.0]);
    // Left cross back points up: x cross y.
    let up = cross(left, back);
    let width = crate::synthetic::motion::vector::norm(span);
    // Bell's regression of the hip centre from the front of the pelvis.
    let hip = |side: f32| {
        let at = along(asis, left, side * 0.36 * width);
        along(along(at, back, 0.19 * width), up, -0.30 * width)
    };
    let chest = mix(marker("C7"), marker("CLAV"), 0.5);
    let spine = unit(sub(chest, mix(asis, psis, 0.5)));
    let mut out = [[0.0; 3]; JOINTS];
    out[Joint::Nose as usize] = nose(&marker);
    let sides = [
        (1.0, ["LSHO", "LELB", "LWRA", "LWRB", "LKNE", "LANK", "LHEE", "LTOE"]),
        (-1.0, ["RSHO", "RELB", "RWRA", "RWRB", "RKNE", "RANK", "RHEE", "RTOE"]),
    ];
    for (i, (side, names)) in sides.into_iter().enumerate() {
        let [sho, elb, wra, wrb, kne, ank, hee, toe] = names.map(&marker);
        let foot = unit(sub(toe, hee));
        let foot_left = across(cross([0.0, 0.0, 1.0], foot), foot, left);
        let hip = hip(side);
        let knee_left = across(add(left, foot_left), unit(sub(ank, hip)), left);
        out[Joint::LeftShoulder as usize + i] = along(sho, spine, -SHOULDER_BELOW);
        out[Joint::LeftElbow as usize + i] = elb;
        out[Joint::LeftWrist as usize + i] = mix(wra, wrb, 0.5);
        out[Joint::LeftHip as usize + i] = hip;
        out[Joint::LeftKnee as usize + i] = along(kne, knee_left, -side * KNEE_INSIDE);
        out[Joint::LeftAnkle as usize + i] = along(ank, foot_left, -side * ANKLE_INSIDE);
        // The marker sits on the forefoot, a pose estimator's toe is its tip.
        out[Joint::LeftToe as usize + i] = along(toe, foot, 0.05);
    }
    out
}

fn nose<'a>(marker: &impl Fn(&'a str) -> V3) -> V3 {
    let front = mix(marker("LFHD"), marker("RFHD"), 0.5);
    let back = mix(marker("LBHD"), marker("RBHD"), 0.5);
    let ahead = unit(sub(front, back));
    let left = across(sub(marker("LFHD"), marker("RFHD")), ahead, [1.0, 0.0, 0.0]);
    let up = scale(cross(left, ahead), -1.0);
    along(along(front, ahead, 0.02), up, -0.09)
}
