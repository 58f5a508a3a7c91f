use std::f32::consts::PI;

use super::noise::trunk_length;
use super::*;
use crate::synthetic::exercise::Exercise;
use crate::synthetic::motion::{Person, Style, take};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use spotter_vision::body::JOINTS;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn frontal() -> Camera {
    Camera::looking_at([0.0, -4.0, 1.0], [0.0, 0.0, 1.0], 0.0, (640.0, 480.0), 500.0)
}

#[test]
fn a_person_who_faces_the_camera_has_the_left_on_the_pictures_right() {
    let rng = &mut rng(1);
    let take = take(Exercise::Squat, &Person::average(1.7), &Style::clean(), 1, rng);
    let body = frontal().project(&take.postures[0]);
    assert!(body.joint(Joint::LeftShoulder)[0] > body.joint(Joint::RightShoulder)[0] + 20.0);
    assert!(body.joint(Joint::Nose)[1] < body.joint(Joint::LeftHip)[1]);
    assert!(body.joint(Joint::LeftHip)[1] < body.joint(Joint::LeftAnkle)[1]);
    // Toes point at the camera.
    assert!(body.joint(Joint::LeftToe)[2] < body.joint(Joint::LeftAnkle)[2]);
    let middle = body.middle(Joint::LeftHip, Joint::RightHip);
    assert!(middle[2].abs() < 1.0, "z has its origin at the hips, not {}", middle[2]);
    // A metre at four metres' distance is 125 pixels.
    let tall = body.joint(Joint::LeftAnkle)[1] - body.joint(Joint::Nose)[1];
    assert!((tall / 125.0 - 1.5).abs() < 0.15, "{tall} pixels from nose to ankle");
}

#[test]
fn turning_left_shows_the_right_side() {
    let rng = &mut rng(1);
    let style = Style { facing: PI / 2.0, ..Style::clean() };
    let take = take(Exercise::Squat, &Person::average(1.7), &style, 1, rng);
    let body = frontal().project(&take.postures[0]);
    assert!(body.joint(Joint::LeftToe)[0] > body.joint(Joint::LeftAnkle)[0] + 10.0, "faces the picture's right");
    assert!(body.joint(Joint::RightHip)[2] < body.joint(Joint::LeftHip)[2], "the right side is nearer");
    assert!(body.visibility[Joint::LeftHip as usize] < body.visibility[Joint::RightHip as usize]);
}

#[test]
fn random_cameras_see_the_whole_body() {
    let rng = &mut rng(2);
    let (mut inside, mut all) = (0, 0);
    for exercise in Exercise::ALL {
        for _ in 0..12 {
            let person = Person::random(rng);
            let take = take(exercise, &person, &Style::clean().varied(exercise, rng), 1, rng);
            let camera = Camera::random(rng);
            for posture in &take.postures {
                let body = camera.project(posture);
                inside += body.visibility.iter().filter(|&&v| v > 0.1).count();
                all += JOINTS;
            }
        }
    }
    let share = inside as f32 / all as f32;
    assert!(share > 0.985, "{share} of the joints are in the picture");
}

#[test]
fn noise_is_largest_at_the_ends_of_the_limbs_and_in_depth() {
    let rng = &mut rng(3);
    let person = Person::average(1.7);
    let still = take(Exercise::Squat, &person, &Style::clean(), 1, rng).postures[0];
    let truth = frontal().project(&still);
    let (mut shoulder, mut wrist, mut depth) = (0.0, 0.0, 0.0);
    for _ in 0..40 {
        let mut noise = PoseNoise::level(0.02, rng);
        let mut before: Option<Body> = None;
        for frame in 0..48 {
            let seen = noise.corrupt(f64::from(frame) / 24.0, &truth);
            if let Some(before) = before {
                let change = |j: Joint, axis: usize| (seen.joint(j)[axis] - before.joint(j)[axis]).abs();
                shoulder += change(Joint::LeftShoulder, 0);
                wrist += change(Joint::LeftWrist, 0);
                depth += change(Joint::LeftShoulder, 2);
            }
            before = Some(seen);
        }
    }
    assert!(shoulder > 0.0 && wrist > 1.5 * shoulder && depth > 1.8 * shoulder, "{shoulder} {wrist} {depth}");
}

#[test]
fn noise_follows_the_body_and_repeats_by_seed() {
    let run = |seed| {
        let rng = &mut rng(seed);
        let take = take(Exercise::JumpingJack, &Person::random(rng), &Style::clean(), 3, rng);
        let camera = Camera::random(rng);
        let mut noise = PoseNoise::random(rng);
        let mut off = 0.0_f32;
        let mut out = Vec::new();
        for (i, posture) in take.postures.iter().enumerate() {
            let truth = camera.project(posture);
            let seen = noise.corrupt(i as f64 / 24.0, &truth);
            let (a, b) = (truth.joint(Joint::LeftShoulder), seen.joint(Joint::LeftShoulder));
            off = off.max(((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt() / trunk_length(&truth));
            out.push(seen);
        }
        (off, out)
    };
    for seed in 0..20 {
        let (off, _) = run(seed);
        assert!(off < 0.6, "seed {seed}: the shoulder strays {off} trunk lengths");
    }
    assert_eq!(run(4).1, run(4).1);
}

#[test]
fn no_noise_is_the_truth_but_for_lag() {
    let rng = &mut rng(5);
    let still = take(Exercise::Plank, &Person::average(1.7), &Style::clean(), 1, rng).postures[0];
    let truth = frontal().project(&still);
    let mut noise = PoseNoise::level(0.0, rng);
    for frame in 0..10 {
        let seen = noise.corrupt(f64::from(frame) / 24.0, &truth);
        for (a, b) in seen.joints.iter().zip(&truth.joints) {
            assert!(norm(sub(*a, *b)) < 1e-3, "{a:?} {b:?}");
        }
    }
}
