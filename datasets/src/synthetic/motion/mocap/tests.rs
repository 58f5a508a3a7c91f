use std::path::PathBuf;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::synthetic::exercise::Mistake;

/// The shared recordings; without them the test says so and passes.
fn library(test: &str) -> Option<MotionLibrary> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/motion");
    if !dir.is_dir() {
        eprintln!("skipped: {test}: no recordings at {}", dir.display());
        return None;
    }
    Some(MotionLibrary::load(&dir).unwrap())
}

fn percentiles(mut values: Vec<f32>) -> [f32; 3] {
    values.sort_by(f32::total_cmp);
    [0.1, 0.5, 0.9].map(|share| values[(share * (values.len() - 1) as f32).round() as usize])
}

#[test]
fn squats_are_as_deep_as_the_data_set_says() {
    let Some(library) = library("squats_are_as_deep_as_the_data_set_says") else {
        return;
    };
    let depth = |correct: bool| {
        let squats = library
            .clips
            .iter()
            .filter(|c| c.exercise == Exercise::Squat && c.source.set == "ui-prmd" && c.correct == correct);
        percentiles(squats.map(|c| measure::hip_depth(&c.postures, c.peak)).collect())
    };
    // Published for the pelvis; the hip centres lie about a tenth of its height lower.
    let hips = |pelvis: f32| (pelvis - 0.095) / 0.905;
    for (measured, published) in [(depth(true), [0.36, 0.48, 0.56]), (depth(false), [0.46, 0.61, 0.80])] {
        for (m, p) in measured.into_iter().zip(published) {
            assert!((m - hips(p)).abs() < 0.06, "{measured:?} instead of {:?}", published.map(hips));
        }
    }
}

#[test]
fn recordings_stand_upright_on_the_floor_and_face_the_camera() {
    let Some(library) = library("recordings_stand_upright_on_the_floor_and_face_the_camera") else {
        return;
    };
    for clip in &library.clips {
        for p in &clip.postures {
            let low = p.iter().map(|j| j[2]).fold(f32::INFINITY, f32::min);
            assert!(low > -0.08, "{:?} {:?}: {low}", clip.exercise, clip.source);
        }
        let p = &clip.postures[0];
        assert!(p[Joint::Nose as usize][2] > p[Joint::LeftKnee as usize][2], "{:?} stands on the head", clip.exercise);
        let facing = clip.postures.iter().map(facing_of).sum::<f32>() / clip.postures.len() as f32;
        assert!(facing.abs() < 0.5, "{:?} {:?} faces {facing}", clip.exercise, clip.source);
        let toe = sub(p[Joint::LeftToe as usize], p[Joint::LeftAnkle as usize]);
        assert!(toe[1] < 0.02, "{:?} {:?}: toes point backwards", clip.exercise, clip.source);
    }
}

#[test]
fn no_person_is_in_both_splits_and_every_mapped_exercise_has_both() {
    let Some(library) = library("no_person_is_in_both_splits_and_every_mapped_exercise_has_both") else {
        return;
    };
    for exercise in [
        Exercise::Squat,
        Exercise::HurdleStep,
        Exercise::Lunge,
        Exercise::SideLunge,
        Exercise::SitToStand,
        Exercise::LegRaise,
        Exercise::LateralRaise,
        Exercise::ShoulderRotation,
        Exercise::JumpingJack,
        Exercise::HighKnees,
        Exercise::ArmCircles,
        Exercise::ToeTouch,
    ] {
        for split in [Split::Train, Split::Validation] {
            assert!(library.repetitions(exercise, split) >= 2, "{exercise:?} {split:?}");
        }
    }
    assert_eq!(library.repetitions(Exercise::PushUp, Split::Train), 0);
    let validation = Source { set: "ui-prmd", person: 9 };
    assert_eq!(validation.split(), Split::Validation);
    assert_eq!(Source { person: 8, ..validation }.split(), Split::Train);
}

#[test]
fn takes_have_the_repetitions_asked_for_without_jumps() {
    let Some(library) = library("takes_have_the_repetitions_asked_for_without_jumps") else {
        return;
    };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for exercise in Exercise::ALL {
        let Some(take) = library.take(exercise, 5, 0.4, Split::Train, &mut rng) else {
            continue;
        };
        assert_eq!(take.reps.len(), 5);
        for pair in take.postures.windows(2) {
            let jump = pair[0].iter().zip(&pair[1]).map(|(&a, &b)| norm(sub(a, b))).fold(0.0, f32::max);
            assert!(jump < 0.5, "{exercise:?}: a joint jumps {jump} m");
        }
        for rep in &take.reps {
            assert!(rep.start < rep.peak && rep.peak < rep.end && rep.end <= take.postures.len());
        }
    }
}

#[test]
fn right_squats_are_judged_better_than_wrong_ones() {
    let Some(library) = library("right_squats_are_judged_better_than_wrong_ones") else {
        return;
    };
    let share = |correct: bool| {
        let squats: Vec<_> = library
            .clips
            .iter()
            .filter(|c| c.exercise == Exercise::Squat && c.source.set == "ui-prmd" && c.correct == correct)
            .collect();
        let faulty =
            |c: &&&Clip| measure::mistakes(Exercise::Squat, &c.postures, c.peak).iter().any(|m| *m != Mistake::TooFast);
        squats.iter().filter(faulty).count() as f32 / squats.len() as f32
    };
    let (right, wrong) = (share(true), share(false));
    assert!(right < 0.2 && wrong > 0.5, "{right} of the right and {wrong} of the wrong squats are faulted");
}

#[test]
fn missing_and_mangled_files_are_named() {
    let dir = std::env::temp_dir().join(format!("spotter-mocap-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let pack = dir.join("ui_prmd_25hz.safetensors");
    let error = MotionLibrary::load(&dir).unwrap_err();
    assert!(matches!(&error, MotionError::Read { path, .. } if *path == pack), "{error}");
    std::fs::write(&pack, [255; 64]).unwrap();
    let error = MotionLibrary::load(&dir).unwrap_err();
    assert!(matches!(&error, MotionError::Malformed { path, .. } if *path == pack), "{error}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn mirroring_twice_changes_nothing() {
    let posture: Posture = std::array::from_fn(|j| [j as f32, 1.0, 2.0]);
    assert_ne!(mirrored(&posture), posture);
    assert_eq!(mirrored(&mirrored(&posture)), posture);
}

/// A pack with one tensor.
fn pack(name: &str, shape: [usize; 3], dtype: safetensors::Dtype, markers: &str) -> Vec<u8> {
    let width = if dtype == safetensors::Dtype::I16 { 2 } else { 4 };
    let data = vec![0_u8; shape.iter().product::<usize>() * width];
    let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &data).unwrap();
    let metadata = [("markers".to_owned(), markers.to_owned())].into();
    safetensors::serialize([(name, view)], Some(metadata)).unwrap()
}

const ORDER: &str = "LFHD RFHD LBHD RBHD C7 CLAV LSHO RSHO LELB RELB LWRA LWRB RWRA RWRB LASI RASI LPSI RPSI LKNE RKNE \
                     LANK RANK LHEE RHEE LTOE RTOE";

#[test]
fn packs_of_another_shape_are_refused_by_name() {
    use safetensors::Dtype;
    let name = "m01_s01_e01_correct";
    let error = |bytes: &[u8]| markers::parse(bytes).unwrap_err();
    let floats = error(&pack(name, [20, 26, 3], Dtype::F32, ORDER));
    assert!(floats.contains(name) && floats.contains("F32"), "{floats}");
    let few = error(&pack(name, [20, 25, 3], Dtype::I16, ORDER));
    assert!(few.contains("[20, 25, 3]"), "{few}");
    let lacking = error(&pack(name, [20, 26, 3], Dtype::I16, &ORDER.replace("LKNE", "KNEE")));
    assert!(lacking.contains("LKNE"), "{lacking}");
    let titled = error(&pack("squat", [20, 26, 3], Dtype::I16, ORDER));
    assert!(titled.contains("squat"), "{titled}");
    // Markers that are all in one place are no person, but no reason to fall over.
    assert!(markers::parse(&pack(name, [20, 26, 3], Dtype::I16, ORDER)).is_ok());
}
