//! CMU motion capture: an ASF skeleton, AMC angles, and labels of what is done when.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use serde::Deserialize;
use spotter_vision::body::{JOINTS, Joint};

use super::{Clip, MotionError, Source, normalise, resample, segment};
use crate::synthetic::exercise::{Exercise, Posture};
use crate::synthetic::motion::vector::{V3, add, along, mix, scale};

/// ASF lengths are inches, scaled by 0.45.
const METRES: f32 = 0.0254 / 0.45;
const RATE: f32 = 120.0;
/// More than any clip has; a longer one is not what it claims to be.
const LONGEST: u64 = 64 << 20;

type M3 = [[f32; 3]; 3];

fn product(a: M3, b: M3) -> M3 {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

fn transposed(a: M3) -> M3 {
    std::array::from_fn(|i| std::array::from_fn(|j| a[j][i]))
}

fn rotated(a: M3, v: V3) -> V3 {
    std::array::from_fn(|i| (0..3).map(|k| a[i][k] * v[k]).sum())
}

/// Turn about x, then y, then z, in degrees.
fn euler([x, y, z]: V3) -> M3 {
    let ((sx, cx), (sy, cy), (sz, cz)) = (x.to_radians().sin_cos(), y.to_radians().sin_cos(), z.to_radians().sin_cos());
    let rx = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
    let ry = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
    let rz = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
    product(rz, product(ry, rx))
}

struct Bone {
    name: String,
    parent: Option<usize>,
    /// Way along the bone in the rest pose, in metres.
    way: V3,
    axis: M3,
    /// Which of rx, ry, rz each value of a frame is.
    dof: Vec<usize>,
}

/// Bones, parents first; the first is the root.
struct Skeleton {
    bones: Vec<Bone>,
}

fn numbers<const N: usize>(words: &[&str]) -> Option<[f32; N]> {
    let mut out = [0.0; N];
    for (slot, word) in out.iter_mut().zip(0..N) {
        *slot = words.get(word)?.parse().ok().filter(|v: &f32| v.is_finite())?;
    }
    Some(out)
}

impl Skeleton {
    fn parse(text: &str) -> Result<Self, String> {
        let root = Bone { name: "root".into(), parent: None, way: [0.0; 3], axis: euler([0.0; 3]), dof: Vec::new() };
        let mut loose: HashMap<String, Bone> = HashMap::new();
        let mut order = vec![root];
        let (mut section, mut current) = ("", None::<Bone>);
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((&key, rest)) = words.split_first() else {
                continue;
            };
            if let Some(name) = key.strip_prefix(':') {
                section = name;
                continue;
            }
            let bad = || format!("cannot read the line {line:?} of the skeleton");
            match (section, key) {
                ("bonedata", "begin") => {
                    current = Some(Bone {
                        name: String::new(),
                        parent: None,
                        way: [0.0; 3],
                        axis: euler([0.0; 3]),
                        dof: Vec::new(),
                    });
                }
                ("bonedata", "end") => {
                    let bone = current.take().ok_or_else(bad)?;
                    loose.insert(bone.name.clone(), bone);
                }
                ("bonedata", _) => bone_line(current.as_mut(), key, rest).ok_or_else(bad)?,
                ("hierarchy", "begin" | "end") => {}
                ("hierarchy", parent) => {
                    let at = order.iter().position(|b| b.name == parent).ok_or_else(bad)?;
                    for child in rest {
                        let mut bone = loose.remove(*child).ok_or_else(bad)?;
                        bone.parent = Some(at);
                        order.push(bone);
                    }
                }
                _ => {}
            }
        }
        let skeleton = Self { bones: order };
        for (name, _) in ENDS {
            skeleton.find(name).ok_or_else(|| format!("the skeleton has no bone {name:?}"))?;
        }
        Ok(skeleton)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.bones.iter().position(|b| b.name == name)
    }

    /// Posture of one frame: place and turn of the root, and the values of each bone.
    fn posture(&self, root: [f32; 6], values: &[Vec<f32>]) -> Posture {
        let mut frames: Vec<(M3, V3)> = Vec::with_capacity(self.bones.len());
        for (i, bone) in self.bones.iter().enumerate() {
            let Some(&(turn, at)) = bone.parent.and_then(|p| frames.get(p)) else {
                let [x, y, z, rx, ry, rz] = root;
                frames.push((euler([rx, ry, rz]), scale([x, y, z], METRES)));
                continue;
            };
            let mut angles = [0.0; 3];
            for (&axis, value) in bone.dof.iter().zip(values.get(i).into_iter().flatten()) {
                angles[axis] = *value;
            }
            let local = product(bone.axis, product(euler(angles), transposed(bone.axis)));
            let turn = product(turn, local);
            frames.push((turn, add(at, rotated(turn, bone.way))));
        }
        let mut out = [[0.0; 3]; JOINTS];
        for (name, joint) in ENDS {
            if let Some(&(_, end)) = self.find(name).and_then(|i| frames.get(i)) {
                out[joint as usize] = end;
            }
        }
        if let (Some(&(turn, top)), Some(&(_, neck))) =
            (self.find("head").and_then(|i| frames.get(i)), self.find("upperneck").and_then(|i| frames.get(i)))
        {
            out[Joint::Nose as usize] = along(mix(neck, top, 0.3), rotated(turn, [0.0, 0.0, 1.0]), 0.10);
        }
        // Theirs: x left, y up, z forwards.
        out.map(|[x, y, z]| [x, -z, y])
    }
}

/// Bones whose far ends are joints.
const ENDS: [(&str, Joint); 15] = [
    ("head", Joint::Nose),
    ("lclavicle", Joint::LeftShoulder),
    ("rclavicle", Joint::RightShoulder),
    ("lhumerus", Joint::LeftElbow),
    ("rhumerus", Joint::RightElbow),
    ("lwrist", Joint::LeftWrist),
    ("rwrist", Joint::RightWrist),
    ("lhipjoint", Joint::LeftHip),
    ("rhipjoint", Joint::RightHip),
    ("lfemur", Joint::LeftKnee),
    ("rfemur", Joint::RightKnee),
    ("ltibia", Joint::LeftAnkle),
    ("rtibia", Joint::RightAnkle),
    ("ltoes", Joint::LeftToe),
    ("rtoes", Joint::RightToe),
];

fn bone_line(bone: Option<&mut Bone>, key: &str, rest: &[&str]) -> Option<()> {
    let bone = bone?;
    match key {
        "name" => bone.name = (*rest.first()?).to_owned(),
        // Direction comes before length in every file.
        "direction" => bone.way = scale(numbers::<3>(rest)?, METRES),
        "length" => bone.way = scale(bone.way, numbers::<1>(rest)?[0]),
        "axis" => bone.axis = euler(numbers::<3>(rest)?),
        "dof" => {
            let axis = |word: &&str| ["rx", "ry", "rz"].iter().position(|a| a == word);
            bone.dof = rest.iter().map(axis).collect::<Option<_>>()?;
        }
        _ => {}
    }
    Some(())
}

/// Reads the postures of an AMC file.
fn parse_motion(skeleton: &Skeleton, text: &str) -> Result<Vec<Posture>, String> {
    let mut out = Vec::new();
    let mut root = None;
    let mut values = vec![Vec::new(); skeleton.bones.len()];
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((&key, rest)) = words.split_first() else {
            continue;
        };
        let bad = || format!("cannot read the line {line:?} of the motion");
        if key.starts_with([':', '#']) {
            continue;
        }
        if rest.is_empty() && key.parse::<usize>().is_ok() {
            out.extend(root.take().map(|root| skeleton.posture(root, &values)));
        } else if key == "root" {
            root = Some(numbers::<6>(rest).ok_or_else(bad)?);
        } else if let Some(bone) = skeleton.find(key) {
            let frame: Option<Vec<f32>> = rest.iter().map(|w| w.parse().ok().filter(|v: &f32| v.is_finite())).collect();
            values[bone] = frame.filter(|v| v.len() == skeleton.bones[bone].dof.len()).ok_or_else(bad)?;
        }
    }
    out.extend(root.map(|root| skeleton.posture(root, &values)));
    if out.is_empty() { Err("there is no frame in the motion".into()) } else { Ok(out) }
}

#[derive(Deserialize)]
struct Labels {
    clips: HashMap<String, Vec<(f32, f32, String)>>,
}

fn exercise_of(action: &str) -> Option<Exercise> {
    Some(match action {
        "JumpJack" => Exercise::JumpingJack,
        "Squat" => Exercise::Squat,
        "KneeRaise" => Exercise::HighKnees,
        "ArmCircle" => Exercise::ArmCircles,
        "Box" => Exercise::Boxing,
        "ToeTouchOneHand" | "ToeTouchTwoHands" => Exercise::ToeTouch,
        "SideBend" => Exercise::SideBend,
        _ => return None,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, MotionError> {
    std::fs::read(path).map_err(|source| MotionError::Read { path: path.into(), source })
}

/// Reads the labelled clips of a folder (`labels.json`, `01.asf`, `<clip>.amc.gz`).
pub(super) fn load(dir: &Path) -> Result<Vec<Clip>, MotionError> {
    let asf = dir.join("01.asf");
    let bad = |path: &Path, what: String| MotionError::Malformed { path: path.into(), what };
    let text = String::from_utf8_lossy(&read(&asf)?).into_owned();
    let skeleton = Skeleton::parse(&text).map_err(|what| bad(&asf, what))?;
    let path = dir.join("labels.json");
    let labels: Labels = serde_json::from_slice(&read(&path)?).map_err(|e| bad(&path, e.to_string()))?;
    let mut names: Vec<_> = labels.clips.into_iter().collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let mut clips = Vec::new();
    for (name, segments) in names {
        let path = dir.join(format!("{name}.amc.gz"));
        let mut text = String::new();
        GzDecoder::new(read(&path)?.as_slice())
            .take(LONGEST)
            .read_to_string(&mut text)
            .map_err(|e| bad(&path, format!("not a gzipped text: {e}")))?;
        let postures = parse_motion(&skeleton, &text).map_err(|what| bad(&path, what))?;
        let person = name.split('_').next().and_then(|p| p.parse().ok()).unwrap_or(0);
        for (from, to, action) in segments {
            let Some(exercise) = exercise_of(&action) else {
                continue;
            };
            let at = |t: f32| ((t * RATE) as usize).min(postures.len());
            let (from, to) = (at(from), at(to));
            if from + 24 > to {
                continue;
            }
            let postures = normalise(resample(&postures[from..to], RATE));
            clips.extend(segment(exercise, Source { set: "cmu", person }, postures));
        }
    }
    Ok(clips)
}
