//! A LLaVA checkpoint as it is downloaded, without a `spotter.toml`, is streamed by its own chat template.

use candle_core::Device;
use spotter_engine::{
    coach::{CacheChoice, CoachOptions, load::load, manifest::Speaking, session::CoachSession},
    sampler::Sampling,
};
use spotter_tests::{copy_of, goldens};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::time::Duration;

fn options(talkativeness: f32) -> CoachOptions {
    CoachOptions {
        talkativeness,
        cooldown: Duration::from_secs(2),
        max_tokens: 4,
        sampling: Sampling::GREEDY,
        seed: 1,
        language: "en".into(),
        exercise: None,
        cache: CacheChoice::default(),
        speculation: Default::default(),
    }
}

fn sight(i: u64, person: u32) -> Sight {
    let rgb = (0..48 * 32 * 3).map(|p| ((p as u64 * (i + 3)) % 251) as u8).collect();
    let frame = Frame::from_rgb(i, Duration::from_secs(i), 48, 32, rgb).expect("a frame");
    Sight { frame, view: View::Clear, people: 1, person, body: None }
}

#[test]
fn any_llava_can_be_streamed_as_it_is() {
    for (name, begin, language) in [
        ("clip-llama", "USER: ", "en"),
        ("siglip-qwen2", "<|im_start|>user\n", "en"),
        ("clip-mistral", "[INST]", "en"),
        ("next-vicuna", "USER: ", "en"),
        ("onevision", "<|im_start|>user ", "en"),
        ("seed-vision", "<|im_start|>tool_list\n", "en"),
        ("seed-vision", "<|im_start|>user (vector)\n", "ko"),
    ] {
        let model = load(&goldens(name), &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"));
        let manifest = model.manifest.clone();
        let prompt = &manifest.prompt.en_unnamed;
        assert!(prompt.contains(begin) && prompt.contains("fitness coach"), "{name}: {prompt:?}");
        let Speaking::Verbalisers { question, lead, .. } = &manifest.speaking else { panic!("{name}: verbalisers") };
        assert!(question.contains("Answer Yes or No") && lead.contains("one short sentence"), "{name}: {question:?}");
        assert!(manifest.prompt.ko_unnamed.contains("Korean"), "{name}");
        let options = CoachOptions { language: language.into(), ..options(1e9) };
        let mut coach = CoachSession::new(model, options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let steps: Vec<_> = (0..12).map(|i| coach.observe(&sight(i, 0), &mut |_| true).expect("a step")).collect();
        assert!(steps.iter().all(|s| (0.0..=1.0).contains(&s.p_speak)));
        assert!(steps.iter().any(|s| s.feedback.is_some()), "{name}: asked to speak, it says something");
    }
}

#[test]
fn another_person_begins_anew() {
    let run = |people: &dyn Fn(u64) -> u32, frames: std::ops::Range<u64>| -> Vec<f32> {
        let model = load(&goldens("clip-llama"), &Device::Cpu).expect("a model");
        let mut coach = CoachSession::new(model, options(-1e9)).expect("a session");
        frames.map(|i| coach.observe(&sight(i, people(i)), &mut |_| true).expect("a step").p_speak).collect()
    };
    let (one, two) = (run(&|_| 0, 0..10), run(&|i| u32::from(i >= 6), 0..10));
    assert_eq!(one[..6], two[..6]);
    assert_ne!(one[6..], two[6..]);
    assert_eq!(two[6..], run(&|_| 1, 6..10), "nothing of the first is left");
}

#[test]
fn what_does_not_fit_is_said_before_weights_are_loaded() {
    let folder = copy_of(&goldens("clip-llama"));
    let check = |manifest: &str, said: &str| {
        std::fs::write(folder.path().join("spotter.toml"), manifest).expect("a manifest");
        let error = load(folder.path(), &Device::Cpu).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(said) && error.contains("spotter.toml"), "{error}");
    };
    let manifest = |speaking: &str, en: &str| {
        format!(
            "frame_rate = 2.0\ncontext = 64\n[speaking]\n{speaking}\n[prompt]\nen = \"{en}\"\nen_unnamed = \"{en}\"\n\
             ko = \"a\"\nko_unnamed = \"a\"\n"
        )
    };
    let actions = "kind = \"actions\"\nnext = \"<next>\"\nfeedback = \"<feedback>\"\nend = \"</feedback>\"";
    check(&manifest(actions, "Coach."), "no token <next>");
    let same = "kind = \"verbalisers\"\nquestion = \"?\"\nspeak = [\"Yes\"]\nsilent = [\"Yes\"]\nlead = \"\"";
    check(&manifest(same, "Coach."), "choose answers that differ");
    let good = "kind = \"verbalisers\"\nquestion = \"?\"\nspeak = [\"Yes\"]\nsilent = [\"No\"]\nlead = \"Coach:\"";
    check(&manifest(&good.replace("Coach:", ""), "Coach."), "speaking.lead has no tokens");
    check(&manifest(&good.replace("\"?\"", "\"\""), "Coach."), "speaking.question has no tokens");
    check(&manifest(good, &"Coach the person. ".repeat(40)), "1 to half of the context of 64 expected");
    check(&manifest(good, ""), "prompt (en) is 0 tokens long");
}
