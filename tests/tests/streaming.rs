//! Any LLaVA checkpoint can be streamed: the tiny parity checkpoints, which know no action tokens, with verbalisers.

use candle_core::Device;
use spotter_engine::{
    coach::{CacheChoice, CoachOptions, load::load, session::CoachSession},
    model::{Policy, cache::Setting},
    sampler::Sampling,
};
use spotter_tests::{copy_of, goldens};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::{path::Path, time::Duration};

/// Positions of the checkpoints.
const POSITIONS: usize = 512;

const MANIFEST: &str = r#"
frame_rate = 2.0
context = 256
[vision]
pooling = { average = 2 }
[speaking]
kind = "verbalisers"
question = " Speak? "
speak = ["Yes"]
silent = ["No"]
lead = " Coach: "
[prompt]
en = "Coach {exercise}."
en_unnamed = "Coach."
ko = "K {exercise}."
ko_unnamed = "K."
[defaults]
max_tokens = 6
"#;

/// A checkpoint folder of the goldens with a manifest beside it.
fn folder(name: &str, manifest: &str) -> tempfile::TempDir {
    let to = copy_of(&goldens(name));
    std::fs::write(to.path().join("spotter.toml"), manifest).expect("a manifest");
    to
}

fn options(talkativeness: f32) -> CoachOptions {
    CoachOptions {
        talkativeness,
        cooldown: Duration::from_secs(2),
        max_tokens: 6,
        sampling: Sampling::GREEDY,
        seed: 1,
        language: "en".into(),
        exercise: Some("squats".into()),
        cache: CacheChoice::default(),
        speculation: Default::default(),
    }
}

fn sight(i: u64) -> Sight {
    let rgb = (0..48 * 32 * 3).map(|p| ((p as u64 * (i + 3)) % 251) as u8).collect();
    let frame = Frame::from_rgb(i, Duration::from_millis(500 * i), 48, 32, rgb).expect("a frame");
    Sight { frame, view: View::Clear, people: 1, person: 0, body: None }
}

/// Number of utterances, probabilities of speaking, and the longest context over `frames` frames.
fn stream(name: &str, talkativeness: f32, frames: u64) -> (Vec<String>, Vec<f32>, usize) {
    let folder = folder(name, MANIFEST);
    let model = load(folder.path(), &Device::Cpu).expect("a model");
    let mut coach = CoachSession::new(model, options(talkativeness)).expect("a session");
    let (mut said, mut p, mut longest) = (Vec::new(), Vec::new(), 0);
    for i in 0..frames {
        let step = coach.observe(&sight(i), &mut |_| true).expect("a step");
        said.extend(step.feedback.map(|f| f.text));
        p.push(step.p_speak);
        longest = longest.max(coach.context_len());
    }
    (said, p, longest)
}

#[test]
fn checkpoints_without_action_tokens_are_streamed() {
    for name in ["clip-llama", "siglip-qwen2", "clip-mistral"] {
        let (silent, p, longest) = stream(name, -1e9, 120);
        assert!(silent.is_empty());
        assert!(p.iter().all(|p| p.is_finite() && (0.0..=1.0).contains(p)));
        assert!(longest <= 256, "{name}: {longest}");
        assert!(longest > 150, "{name}: the cache was never full ({longest})");
        let (said, _, _) = stream(name, 1e9, 12);
        // A cooldown of 2 s at 2 frames a second lets at most every fourth frame speak.
        assert!((1..=3).contains(&said.len()), "{name}: {said:?}");
        assert_eq!(said, stream(name, 1e9, 12).0, "{name}: the same stream says the same");
    }
}

/// A session over `frames` frames that are seen ahead, under another cache: probabilities and words.
fn seen_ahead(coach: &mut CoachSession, frames: u64, cache: CacheChoice) -> (Vec<f32>, Vec<String>) {
    coach.reset().expect("a stream");
    let seen: Vec<_> = (0..frames).map(|i| coach.see(&sight(i).frame).expect("visual tokens")).collect();
    coach.set_cache(cache).expect("a cache");
    let (mut p, mut said) = (Vec::new(), Vec::new());
    for (i, seen) in seen.iter().enumerate() {
        let t = sight(i as u64).frame.t;
        let step = coach.observe_seen(seen, t, View::Clear, &mut |_| true).expect("a step");
        p.push(step.p_speak);
        said.extend(step.feedback.map(|f| f.text));
    }
    (p, said)
}

fn setting(text: &str) -> Setting {
    text.parse().expect("a setting")
}

/// What is seen depends on the frames alone: seeing first and coaching then, under one cache after the other, gives the
/// bits of fresh sessions.
#[test]
fn frames_may_be_seen_once_for_several_caches() {
    let folder = folder("clip-llama", MANIFEST);
    let session = |cache: &CacheChoice| {
        let model = load(folder.path(), &Device::Cpu).expect("a model");
        CoachSession::new(model, CoachOptions { cache: cache.clone(), ..options(1e9) }).expect("a session")
    };
    let mut shared = session(&CacheChoice::default());
    for policy in [Policy::Window, Policy::KeyDiff] {
        let cache = CacheChoice { policy: Some(policy), budget: Some(60), settings: vec![setting("every=8")] };
        let mut coach = session(&cache);
        let (mut p, mut said) = (Vec::new(), Vec::new());
        for i in 0..60 {
            let step = coach.observe(&sight(i), &mut |_| true).expect("a step");
            p.push(step.p_speak);
            said.extend(step.feedback.map(|f| f.text));
        }
        assert!(coach.cache().evictions() > 0 && !said.is_empty());
        assert_eq!(seen_ahead(&mut shared, 60, cache), (p, said), "{policy}");
    }
    let error = shared.set_cache(CacheChoice { budget: Some(3), ..CacheChoice::default() }).unwrap_err();
    assert!(error.to_string().contains("raise the budget"), "{error}");
}

/// Frames that are taken up several at a time: the same is said at the same times, under every kind of score.
#[test]
fn runs_of_frames_say_what_single_frames_say() {
    let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let model = load(&mini, &Device::Cpu).expect("the model that ships");
    let mut coach = CoachSession::new(model, CoachOptions { exercise: None, ..options(0.0) }).expect("a session");
    let frame = |i: u64| (Duration::from_millis(125 * i), sight(i).frame);
    let mut seen = Vec::new();
    for (t, frame) in (0..150).map(frame) {
        seen.push((t, coach.see(&frame).expect("visual tokens")));
    }
    for (policy, talkativeness) in [("window", 1e9), ("keydiff", -1e9), ("caote(h2o)", 1e9), ("snapkv", 1e9)] {
        coach.options_mut().talkativeness = talkativeness;
        let settings = vec![setting("every=16"), setting("block=16"), setting("observe=4")];
        let cache = CacheChoice { policy: Some(policy.parse().expect("a policy")), budget: Some(60), settings };
        let mut drive = |at_once: usize| {
            coach.set_cache(cache.clone()).expect("a cache");
            let (mut steps, mut runs) = (Vec::new(), 0);
            while steps.len() < seen.len() {
                let run = &seen[steps.len()..(steps.len() + at_once).min(seen.len())];
                steps.extend(coach.observe_run(run, View::Clear, &mut |_| true).expect("steps"));
                runs += 1;
            }
            (steps, runs, coach.cache().evictions(), coach.cache().positions(3, 5).to_vec())
        };
        let ((single, all, evictions, kept), (several, runs, same, still)) = (drive(1), drive(8));
        assert!(all == 150 && runs < 60 && evictions > 3, "{policy}: {runs} runs, {evictions} evictions");
        assert_eq!((evictions, kept), (same, still), "{policy}");
        for (i, (a, b)) in single.iter().zip(&several).enumerate() {
            assert!((a.p_speak - b.p_speak).abs() < 1e-3, "{policy}, frame {i}: {} against {}", a.p_speak, b.p_speak);
            assert_eq!(a.feedback, b.feedback, "{policy}, frame {i}");
        }
        assert_eq!(single.iter().any(|step| step.feedback.is_some()), talkativeness > 0.0, "{policy}");
    }
}

/// However short the passes are that a manifest asks for, a frame is one: nothing is dropped between its tokens.
#[test]
fn no_frame_is_cut_by_an_eviction() {
    let folder = folder("clip-llama", MANIFEST);
    let model = load(folder.path(), &Device::Cpu).expect("a model");
    let tokens = model.eye.tokens();
    assert!(tokens > 1);
    let settings = vec![setting("block=1"), setting("every=1")];
    let cache = CacheChoice { policy: Some(Policy::KeyDiff), budget: Some(60), settings };
    let mut coach = CoachSession::new(model, CoachOptions { cache, ..options(-1e9) }).expect("a session");
    for i in 0..60 {
        let before = coach.cache().evictions();
        coach.observe(&sight(i), &mut |_| true).expect("a step");
        assert!(coach.cache().evictions() <= before + 1, "frame {i} of {tokens} tokens");
    }
    assert!(coach.cache().evictions() > 20);
}

/// Words are told apart from frames, and keep their share.
#[test]
fn what_was_said_may_have_its_own_share_of_the_cache() {
    let folder = folder("clip-llama", MANIFEST);
    let held = |settings: Vec<Setting>| {
        let model = load(folder.path(), &Device::Cpu).expect("a model");
        let cache = CacheChoice { policy: Some(Policy::Window), budget: Some(60), settings };
        let mut coach = CoachSession::new(model, CoachOptions { cache, ..options(1e9) }).expect("a session");
        for i in 0..80 {
            coach.observe(&sight(i), &mut |_| true).expect("a step");
            coach.rest().expect("an eviction");
        }
        assert!(coach.cache().evictions() > 0);
        assert_eq!(coach.cache().bytes(), coach.cache().bytes_at_capacity(coach.dtype()));
        coach.cache().said(0, 0).iter().filter(|said| **said).count()
    };
    assert_eq!(held(Vec::new()), 0, "not told apart");
    let (some, most) = (held(vec![setting("said=0")]), held(vec![setting("said=0.8")]));
    // The prompt's 10 tokens and the newest 6, frames among them, stay whatever they are.
    assert!(some > 0 && most >= 60 - 10 - 6 && most > some, "{some} and {most} of 60");
}

/// Every policy streams a model past its context, says the same twice, and stays within its budget.
#[test]
fn every_cache_policy_goes_on_without_end() {
    let folder = folder("clip-llama", MANIFEST);
    for policy in Policy::all() {
        let run = || {
            let model = load(folder.path(), &Device::Cpu).expect("a model");
            let cache = CacheChoice { policy: Some(policy), budget: Some(60), ..CacheChoice::default() };
            let mut coach = CoachSession::new(model, CoachOptions { cache, ..options(0.3) }).expect("a session");
            let (mut p, mut longest) = (Vec::new(), 0);
            for i in 0..120 {
                match coach.observe(&sight(i), &mut |_| true) {
                    Ok(step) => p.push((step.p_speak, step.feedback)),
                    Err(e) => return Err(e.to_string()),
                }
                coach.rest().expect("an eviction");
                longest = longest.max(coach.context_len());
                // Entries are bounded by the context, positions by the checkpoint.
                assert!(coach.cache().position() <= POSITIONS, "{policy}");
            }
            Ok((p, longest))
        };
        match run() {
            Err(e) => {
                assert!(policy == Policy::None && e.contains("the context of 256 tokens is full"), "{policy}: {e}")
            }
            Ok((p, longest)) => {
                assert_ne!(policy, Policy::None);
                assert!(longest < 60 + 64, "{policy}: {longest}");
                assert!(p.iter().all(|(p, _)| p.is_finite()));
                assert_eq!(Ok((p, longest)), run(), "{policy}");
            }
        }
    }
}

#[test]
fn later_frames_change_nothing_before_them() {
    let (_, short, _) = stream("clip-llama", -1e9, 10);
    let (_, long, _) = stream("clip-llama", -1e9, 20);
    assert_eq!(short, long[..10]);
}

#[test]
fn a_cancelled_utterance_leaves_no_trace() {
    let folder = folder("clip-llama", MANIFEST);
    let run = |cancel: bool| {
        let model = load(folder.path(), &Device::Cpu).expect("a model");
        let mut coach = CoachSession::new(model, options(if cancel { 1e9 } else { -1e9 })).expect("a session");
        (0..6).map(|i| coach.observe(&sight(i), &mut |_| false).expect("a step").p_speak).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn manifests_that_do_not_fit_are_named() {
    let check = |from: &str, to: &str, expected: &str| {
        let folder = folder("clip-llama", &MANIFEST.replace(from, to));
        let error = match load(folder.path(), &Device::Cpu) {
            Err(e) => e.to_string(),
            Ok(model) => CoachSession::new(model, options(0.0)).err().expect("an error").to_string(),
        };
        assert!(error.contains(expected), "{error}");
    };
    check("average = 2", "average = 99", "vision.pooling");
    check("context = 256", "context = 8", "context 8");
    check("[vision]", "[cache]\nbudget = 250\n[vision]", "a cache budget of 250 entries");
    check("[vision]", "[cache]\nbudget = 3\n[vision]", "raise the budget");
    check("[vision]", "[vision]\ndelta = true", "delta");
    check("kind = \"verbalisers\"", "kind = \"actions\"", "spotter.toml");
}
