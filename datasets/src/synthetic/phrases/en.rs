//! English sentences.

use super::{Exercise, Mistake, Range};

pub(super) const FIRST: &str = "First up are {x}!";
pub(super) const NEXT: &str = "Moving on to {x}!";
pub(super) const END: &str = "That's the end of the workout!";

pub(super) const START: &[&str] = &[
    "{x}, let's go.",
    "Okay, {x}, here we go.",
    "{x} it is, nice and steady.",
    "Let's go with {x}.",
    "Good, I see {x}.",
    "Time for {x}.",
    "{x} now, find your rhythm.",
];

pub(super) const COUNT: &[&str] = &[
    "{n}.",
    "That's {n}.",
    "{n}, keep going.",
    "{n} done.",
    "{n} reps.",
    "{n}, nice.",
    "That's {n} {x}.",
    "{n} and counting.",
];

pub(super) const HOLD_COUNT: &[&str] = &[
    "{n} seconds.",
    "{n} seconds in.",
    "{n} seconds, keep holding.",
    "That's {n} seconds.",
    "{n} seconds, stay strong.",
];

pub(super) const PRAISE: &[&str] = &[
    "Looking good, keep it up.",
    "Nice rhythm.",
    "Great form.",
    "Strong work.",
    "Beautiful, just like that.",
    "Well done, stay with it.",
    "You're doing great.",
    "Great {x}.",
    "Lovely {x}, keep it up.",
];

pub(super) const HOLD_PRAISE: &[&str] = &[
    "Hold it, keep breathing.",
    "Keep holding, nice and tight.",
    "Breathe and hold.",
    "Hold that position.",
    "Stay right there, breathe.",
    "Great {x}, hold it.",
];

pub(super) const CLOSING: &[&str] = &[
    "Great work, that's the set.",
    "Set done, shake it out.",
    "And rest, well earned.",
    "That's it, take a breath.",
    "Nice set, relax now.",
    "Good job, take a short rest.",
];

/// Other ways to name an exercise, beside its plain name; all lower case.
pub(super) fn aliases(exercise: Exercise) -> &'static [&'static str] {
    match exercise {
        Exercise::Squat => &["squats", "squat", "squatting"],
        Exercise::JumpingJack => &["jumping jacks", "jumping jack"],
        Exercise::HighKnees => &["high knees", "high knee"],
        Exercise::Lunge => &["lunges", "lunge", "lunging"],
        Exercise::SideLunge => &["side lunges", "side lunge", "lateral lunges", "lateral lunge"],
        Exercise::Boxing => &["boxing", "boxing punches"],
        Exercise::ToeTouch => &["toe touches", "toe touch"],
        Exercise::ArmCircles => &["arm circles", "arm circle"],
        Exercise::SideBend => &["side bends", "side bend"],
        Exercise::HurdleStep => &["hurdle steps", "hurdle step"],
        Exercise::SitToStand => &["sit to stands", "sit to stand"],
        Exercise::LegRaise => &["leg raises", "leg raise"],
        Exercise::LateralRaise => &["lateral raises", "lateral raise"],
        Exercise::ShoulderRotation => &["shoulder rotations", "shoulder rotation"],
        Exercise::PushUp => &["push ups", "push up", "pushups", "pushup"],
        Exercise::Plank => &["planks", "plank"],
        Exercise::MountainClimber => &["mountain climbers", "mountain climber"],
        Exercise::SitUp => &["sit ups", "sit up", "situps", "situp"],
    }
}

/// What to say about half the range: each exercise has its own way to be incomplete.
fn half_range(exercise: Exercise) -> &'static [&'static str] {
    match exercise {
        Exercise::Squat => &[
            "Sit deeper, hips below your knees.",
            "Go lower on the way down.",
            "Deeper, drop your hips more.",
            "Sink lower before you stand.",
            "You can go deeper than that.",
        ],
        Exercise::JumpingJack => &[
            "Bring your arms all the way overhead.",
            "Jump your feet wider.",
            "Wider feet, hands up high.",
            "Reach your hands above your head.",
            "Bigger jumps, arms fully up.",
        ],
        Exercise::HighKnees => &[
            "Knees higher, up to your hips.",
            "Lift those knees higher.",
            "Drive your knees up to hip height.",
            "Higher, knees level with your hips.",
            "Bring each knee up more.",
        ],
        Exercise::Lunge => &[
            "Drop your back knee lower.",
            "Go deeper into each step.",
            "Lower your back knee to the floor.",
            "Bend both legs deeper.",
            "Sink lower with every step.",
        ],
        Exercise::SideLunge => &[
            "Sit deeper to the side.",
            "Step wider and sink lower.",
            "Bend the side leg deeper.",
            "Lower your hips to the side.",
            "Go wider and deeper to the side.",
        ],
        Exercise::Boxing => &[
            "Reach all the way with each punch.",
            "Extend your punches fully.",
            "Longer punches, reach out.",
            "Punch further out in front.",
            "Throw each punch all the way.",
        ],
        Exercise::ToeTouch => &[
            "Reach further down to your toes.",
            "Fold further, reach your toes.",
            "Hands closer to the floor.",
            "Try to reach your feet.",
            "Further down, fingers to your toes.",
        ],
        Exercise::ArmCircles => &[
            "Make the circles bigger.",
            "Bigger circles with your arms.",
            "Draw wider circles.",
            "Open the circles all the way.",
            "Larger circles, reach up high.",
        ],
        Exercise::SideBend => &[
            "Reach further to each side.",
            "Bend further to the side.",
            "Slide your hand further down.",
            "Stretch further over to the side.",
            "Reach further over your head.",
        ],
        Exercise::HurdleStep => &[
            "Lift your foot over a higher hurdle.",
            "Step higher, over the hurdle.",
            "Raise the stepping knee higher.",
            "Bigger step, lift the foot higher.",
            "Higher steps, clear the hurdle.",
        ],
        Exercise::SitToStand => &[
            "Stand all the way up.",
            "Stand up fully each time.",
            "Sit all the way down first.",
            "Finish tall, all the way up.",
            "Use the full way, down and up.",
        ],
        Exercise::LegRaise => &[
            "Lift your leg higher.",
            "Raise the leg up more.",
            "Higher leg, keep it lifted.",
            "Swing your leg up higher.",
            "Bring that leg further up.",
        ],
        Exercise::LateralRaise => &[
            "Arms up to shoulder height.",
            "Raise your arms to your shoulders.",
            "Lift both arms higher.",
            "Higher arms, up to the shoulders.",
            "Bring your hands up to shoulder height.",
        ],
        Exercise::ShoulderRotation => &[
            "Rotate your shoulders further.",
            "Turn your arms out more.",
            "Bigger shoulder turns.",
            "Open your shoulders fully.",
            "Rotate all the way around.",
        ],
        Exercise::PushUp => &[
            "Lower your chest closer to the floor.",
            "Go lower, bend your elbows more.",
            "Chest down to the floor.",
            "Get your chest lower each time.",
            "Bring your chest further down.",
        ],
        Exercise::Plank => &[
            "Take the full position.",
            "Get all the way into position.",
            "Feet further back, full length.",
            "Walk your feet further out.",
            "Full length, head to heels.",
        ],
        Exercise::MountainClimber => &[
            "Bring your knees closer to your chest.",
            "Knees further in, to your chest.",
            "Pull each knee closer in.",
            "Drive your knees to your chest.",
            "Knee all the way to your chest.",
        ],
        Exercise::SitUp => &[
            "Come all the way up.",
            "Lift your chest to your knees.",
            "Curl up higher each time.",
            "Bring your chest up further.",
            "Rise higher off the floor.",
        ],
    }
}

/// Sentences that correct `mistake` in `exercise`.
pub(super) fn correction(exercise: Exercise, mistake: Mistake) -> &'static [&'static str] {
    match mistake {
        Mistake::HalfRange => half_range(exercise),
        Mistake::KneesIn => &[
            "Push your knees out.",
            "Knees out, over your toes.",
            "Don't let your knees cave in.",
            "Your knees fall in, press them out.",
            "Keep your knees apart.",
            "Knees wider, in line with your feet.",
        ],
        Mistake::TrunkLean => &[
            "Chest up, back straight.",
            "Stay upright, don't lean.",
            "Keep your back tall.",
            "Straighten your upper body.",
            "You're leaning, lift your chest.",
            "Stay tall, chest proud.",
        ],
        Mistake::Uneven => &[
            "Keep both sides even.",
            "Match your left and right side.",
            "One side is doing less.",
            "Same on the left and the right.",
            "Even it out, both sides equal.",
        ],
        Mistake::TooFast => &[
            "Slow down a little.",
            "Slower, stay in control.",
            "Too fast, control each rep.",
            "Take your time with each one.",
            "Ease the speed, smooth and slow.",
        ],
        Mistake::ArmsBent => &[
            "Straighten your arms.",
            "Keep your elbows straight.",
            "Arms long, no bent elbows.",
            "Stretch your elbows out.",
            "Lock your arms out long.",
        ],
        Mistake::HipsSag => &[
            "Lift your hips, don't let them sag.",
            "Your hips are dropping, lift them.",
            "Hips up, tighten your stomach.",
            "Don't let your back sag.",
            "Bring your hips up in line.",
        ],
        Mistake::HipsHigh => &[
            "Lower your hips a little.",
            "Hips down, make a straight line.",
            "Your hips are too high.",
            "Drop your hips in line.",
            "Bring your hips down, body straight.",
        ],
        Mistake::KneesBent => &[
            "Straighten your legs.",
            "Keep your knees straight.",
            "Legs long, no bent knees.",
            "Your knees are bending, straighten them.",
            "Lock your legs out straight.",
        ],
    }
}

/// Sentences that confirm that `mistake` is gone; `range` is the kind of range the exercise has.
pub(super) fn fixed(range: Range, mistake: Mistake) -> &'static [&'static str] {
    match (mistake, range) {
        (Mistake::HalfRange, Range::Depth) => &[
            "Better, that's deep enough.",
            "There you go, much deeper now.",
            "Yes, that depth is right.",
            "Better depth now.",
            "Good fix, nice and deep now.",
        ],
        (Mistake::HalfRange, Range::Height) => &[
            "Better, that's high enough.",
            "There you go, much higher now.",
            "Yes, that height is right.",
            "Better height now.",
            "Good fix, nice and high now.",
        ],
        (Mistake::HalfRange, Range::Reach) => &[
            "Better, that's far enough.",
            "There you go, much further now.",
            "Yes, that reach is right.",
            "Better reach now.",
            "Good fix, full reach now.",
        ],
        (Mistake::HalfRange, Range::Size) => &[
            "Better, that's big enough.",
            "There you go, much bigger now.",
            "Yes, that size is right.",
            "Better range now.",
            "Good fix, full range now.",
        ],
        (Mistake::KneesIn, _) => &[
            "Better, your knees are out now.",
            "There you go, knees over toes.",
            "Yes, your knees track well now.",
            "Good fix, knees stay apart now.",
            "Better, no more caving in.",
        ],
        (Mistake::TrunkLean, _) => &[
            "Better, your chest is up now.",
            "There you go, upright now.",
            "Yes, that back is straight.",
            "Good fix, you stay tall now.",
            "Better posture now.",
        ],
        (Mistake::Uneven, _) => &[
            "Better, both sides match now.",
            "There you go, even now.",
            "Yes, left and right are equal.",
            "Good fix, well balanced now.",
            "Better balance now.",
        ],
        (Mistake::TooFast, _) => &[
            "Better, that speed is right.",
            "There you go, under control now.",
            "Yes, that slower pace is good.",
            "Good fix, nice and slow now.",
            "Better pace now.",
        ],
        (Mistake::ArmsBent, _) => &[
            "Better, your arms are straight now.",
            "There you go, long arms now.",
            "Yes, those elbows are straight.",
            "Good fix, arms fully out now.",
            "Better arms now.",
        ],
        (Mistake::HipsSag, _) => &[
            "Better, your hips are up now.",
            "There you go, no more sagging.",
            "Yes, hips lifted now.",
            "Good fix, strong stomach now.",
            "Better, the sag is gone.",
        ],
        (Mistake::HipsHigh, _) => &[
            "Better, your hips are low enough.",
            "There you go, hips down now.",
            "Yes, that line is straight now.",
            "Good fix, hips in line now.",
            "Better, hips no longer high.",
        ],
        (Mistake::KneesBent, _) => &[
            "Better, your legs are straight now.",
            "There you go, long legs now.",
            "Yes, those knees are straight.",
            "Good fix, legs fully out now.",
            "Better legs now.",
        ],
    }
}
