//! UI-PRMD as a pack of marker positions: one safetensors file, one tensor a clip.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use spotter_vision::body::{JOINTS, Joint};

use super::{Clip, MotionError, Source, effort, normalise, resample};
use crate::synthetic::exercise::{Exercise, Posture};
use crate::synthetic::motion::person::reach;
use crate::synthetic::motion::transition;
use crate::synthetic::motion::vector::{V3, across, add, along, cross, dot, mix, norm, scale, sub, unit};

/// Markers of the Plug-in Gait model from which joints are found.
const MARKERS: [&str; 26] = [
    "LFHD", "RFHD", "LBHD", "RBHD", "C7", "CLAV", "LSHO", "RSHO", "LELB", "RELB", "LWRA", "LWRB", "RWRA", "RWRB",
    "LASI", "RASI", "LPSI", "RPSI", "LKNE", "RKNE", "LANK", "RANK", "LHEE", "RHEE", "LTOE", "RTOE",
];

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
    parse(&bytes).map_err(|what| MotionError::Malformed { path: path.into(), what })
}

/// Reads the pack from memory; the error says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Clip>, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| format!("no safetensors header: {e}"))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let markers = metadata.get("markers").ok_or("the header's metadata has no `markers`")?;
    let layout = Layout::parse(markers, metadata.get("rate_hz"))?;
    let pack = SafeTensors::deserialize(bytes).map_err(|e| format!("not a safetensors file: {e}"))?;
    let mut names: Vec<_> = pack.names().into_iter().map(str::to_owned).collect();
    // The order in the file is not part of the data.
    names.sort_unstable();
    let mut clips = Vec::new();
    for name in names {
        let (movement, person, correct) = title(&name)
            .ok_or_else(|| format!("tensor name {name:?} is not of the form mMM_sSS_eEE_correct|incorrect"))?;
        let Some(exercise) = exercise_of(movement) else {
            continue;
        };
        let tensor = pack.tensor(&name).map_err(|e| format!("tensor {name}: {e}"))?;
        let postures = layout.postures(&tensor).ok_or_else(|| {
            format!(
                "tensor {name}: expected I16 [8 or more, {}, 3], found {:?} {:?}",
                layout.index.len(),
                tensor.dtype(),
                tensor.shape()
            )
        })?;
        let postures = prepare(exercise, resample(&postures, layout.rate));
        let source = Source { set: "ui-prmd", person };
        clips.extend(Clip::single(exercise, source, correct, postures));
    }
    Ok(clips)
}

/// Movement, person and verdict in the name of a tensor.
fn title(name: &str) -> Option<(&str, u32, bool)> {
    let mut parts = name.split('_');
    let movement = parts.next()?;
    let person = parts.next()?.strip_prefix('s')?.parse().ok()?;
    let _episode = parts.next()?;
    let correct = match parts.next()? {
        "correct" => true,
        "incorrect" => false,
        _ => return None,
    };
    Some((movement, person, correct))
}

/// What the header says about every tensor.
struct Layout<'a> {
    index: HashMap<&'a str, usize>,
    rate: f32,
}

impl<'a> Layout<'a> {
    fn parse(markers: &'a str, rate: Option<&String>) -> Result<Self, String> {
        let rate = match rate {
            None => 25.0,
            Some(text) => text
                .parse::<f32>()
                .ok()
                .filter(|r| (1.0..=1000.0).contains(r))
                .ok_or_else(|| format!("metadata `rate_hz` is {text:?}, expected a number from 1 to 1000"))?,
        };
        let index: HashMap<&str, usize> = markers.split_whitespace().enumerate().map(|(i, m)| (m, i)).collect();
        match MARKERS.iter().find(|m| !index.contains_key(**m)) {
            Some(missing) => Err(format!("marker {missing} is not in the header's `markers`")),
            None => Ok(Self { index, rate }),
        }
    }

    /// Joints of each frame; `None` where the tensor is of another type or shape.
    fn postures(&self, tensor: &TensorView) -> Option<Vec<Posture>> {
        let [frames, markers, 3] = *tensor.shape() else {
            return None;
        };
        if tensor.dtype() != Dtype::I16 || markers != self.index.len() || frames < 8 {
            return None;
        }
        let place = |frame: &[u8], marker: &str| position(frame, self.index.get(marker).copied().unwrap_or(0));
        let frames = tensor.data().chunks_exact(markers * 6);
        Some(frames.map(|frame| joints(|m| place(frame, m))).collect())
    }
}

/// Makes an exercise of a recording.
fn prepare(exercise: Exercise, mut postures: Vec<Posture>) -> Vec<Posture> {
    use Exercise::{LateralRaise, LegRaise, ShoulderRotation, SitToStand};
    // A raised straight leg has no skin to move, and shorter bones would bend it.
    if exercise != LegRaise {
        postures = stiffen(postures);
    }
    if matches!(exercise, LateralRaise | ShoulderRotation) {
        both_arms(&mut postures);
    }
    // Recorded from the turning point on: standing, sitting down, standing up; forearms up, down, up.
    if matches!(exercise, SitToStand | ShoulderRotation) {
        postures = from_the_lowest(postures, |p| effort(exercise, p));
    }
    normalise(postures)
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
    let width = norm(span);
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

/// Gives the legs bones of constant length: skin moves over a bent knee by as much as seven centimetres.
fn stiffen(mut postures: Vec<Posture>) -> Vec<Posture> {
    for side in 0..2 {
        let [hip, knee, ankle] = [Joint::LeftHip, Joint::LeftKnee, Joint::LeftAnkle].map(|j| j as usize + side);
        let length = |a: usize, b: usize| {
            let mut all: Vec<f32> = postures.iter().map(|p| norm(sub(p[a], p[b]))).collect();
            all.sort_by(f32::total_cmp);
            all.get(all.len() * 9 / 10).copied().unwrap_or(0.4)
        };
        let (thigh, shank) = (length(hip, knee), length(knee, ankle));
        for p in &mut postures {
            let pole = sub(p[knee], mix(p[hip], p[ankle], 0.5));
            (_, p[knee]) = reach(p[hip], p[ankle], thigh, shank, pole);
        }
    }
    postures
}

/// The recorded people moved one arm; in a workout both do the same.
fn both_arms(postures: &mut [Posture]) {
    let way = |side: usize| -> f32 {
        let wrist = Joint::LeftWrist as usize + side;
        postures.windows(2).map(|w| norm(sub(w[1][wrist], w[0][wrist]))).sum()
    };
    let working = usize::from(way(1) > way(0));
    for p in postures {
        let [shoulder, elbow, wrist] = [Joint::LeftShoulder, Joint::LeftElbow, Joint::LeftWrist].map(|j| j as usize);
        let hips = mix(p[Joint::LeftHip as usize], p[Joint::RightHip as usize], 0.5);
        let trunk = unit(sub(mix(p[shoulder], p[shoulder + 1], 0.5), hips));
        let left = across(sub(p[shoulder], p[shoulder + 1]), trunk, [1.0, 0.0, 0.0]);
        for joint in [elbow, wrist] {
            let arm = sub(p[joint + working], p[shoulder + working]);
            let other = along(arm, left, -2.0 * dot(arm, left));
            p[joint + 1 - working] = add(p[shoulder + 1 - working], other);
        }
    }
}

/// Tells a clip from its least effort on: the way back first, then its beginning.
fn from_the_lowest(postures: Vec<Posture>, effort: impl Fn(&Posture) -> f32) -> Vec<Posture> {
    let efforts: Vec<f32> = postures.iter().map(effort).collect();
    let lowest = (0..postures.len()).min_by(|&a, &b| efforts[a].total_cmp(&efforts[b])).unwrap_or(0);
    let (out, back) = postures.split_at(lowest);
    let mut told = back.to_vec();
    if let (Some(last), Some(first)) = (back.last(), out.first()) {
        told.extend(transition(last, first, 0.25));
    }
    told.extend_from_slice(out);
    told
}
