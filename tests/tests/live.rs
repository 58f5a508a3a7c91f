//! A tiny checkpoint in VideoLLM-online's layout, streamed as a plain loop over transformers and peft streams it
//! (`tests/parity/make_live_goldens.py`).

mod common;

use candle_core::{DType, Device, Tensor};
use common::{command, stderr, stdout};
use spotter_engine::{
    coach::{
        CacheChoice, CoachOptions,
        load::load,
        manifest::{Speaking, THRESHOLD},
        session::{CoachSession, StreamModel},
    },
    device::{DeviceRequest, choose},
    model::{Plan, Policy, Pooling, probe::inspect},
    sampler::Sampling,
};
use spotter_tests::{copy_of, difference, goldens};
use spotter_vision::{
    Frame,
    lens::{Sight, View},
};
use std::{collections::HashMap, fs, path::Path, time::Duration};

const TOLERANCE: f32 = 1e-4;
/// Of the goldens' loop.
const MOST: usize = 8;
/// Id of `<|eot_id|>`.
const END: u32 = 2;

#[derive(serde::Deserialize)]
struct Golden {
    prompt: String,
    frames: Vec<Heard>,
    #[serde(skip)]
    tensors: HashMap<String, Tensor>,
}

/// What stood before a frame, and what came of it.
#[derive(serde::Deserialize)]
struct Heard {
    before: Vec<u32>,
    silent: bool,
    said: Vec<u32>,
    text: String,
}

fn golden() -> Golden {
    let folder = goldens("live-stream");
    let mut golden: Golden = serde_json::from_slice(&fs::read(folder.join("golden.json")).unwrap()).unwrap();
    golden.tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    golden
}

impl Golden {
    fn frame(&self, i: usize) -> Frame {
        let rgb = self.tensors["frames"].get(i).unwrap();
        let (height, width, _) = rgb.dims3().unwrap();
        let rgb = rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        Frame::from_rgb(i as u64, Duration::from_millis(500 * i as u64), width, height, rgb).unwrap()
    }

    /// Probabilities of staying silent.
    fn silent(&self) -> Vec<f32> {
        self.tensors["p_silent"].to_vec1().unwrap()
    }
}

fn model(golden: &Golden, folder: &Path) -> StreamModel {
    let mut model = load(folder, &Device::Cpu).unwrap();
    model.manifest.prompt.en_unnamed.clone_from(&golden.prompt);
    model
}

/// Probabilities of speaking and what was said over all frames.
fn streamed(golden: &Golden, model: StreamModel, talkativeness: f32) -> (Vec<f32>, Vec<Option<String>>) {
    let options = CoachOptions {
        talkativeness,
        cooldown: Duration::ZERO,
        max_tokens: MOST,
        sampling: Sampling::GREEDY,
        seed: 1,
        language: "en".into(),
        exercise: None,
        // The loop forgets nothing.
        cache: CacheChoice { policy: Some(Policy::None), ..CacheChoice::default() },
        speculation: Default::default(),
    };
    let mut coach = CoachSession::new(model, options).unwrap();
    let steps = (0..golden.frames.len()).map(|i| {
        let sight = Sight { frame: golden.frame(i), view: View::Clear, people: 1, person: 0, body: None };
        let step = coach.observe(&sight, &mut |_| true).unwrap();
        (step.p_speak, step.feedback.map(|f| f.text))
    });
    steps.unzip()
}

/// The largest difference of probabilities.
fn apart(p: &[f32], silent: &[f32]) -> f32 {
    p.iter().zip(silent).map(|(p, silent)| (1.0 - p - silent).abs()).fold(0.0, f32::max)
}

#[test]
fn it_decides_and_speaks_as_the_loop_does() {
    let golden = golden();
    let (p, said) = streamed(&golden, model(&golden, &goldens("live-stream")), 0.0);
    let off = apart(&p, &golden.silent());
    println!("live-stream    probabilities after {} frames  {off:.2e}", p.len());
    assert!(off <= TOLERANCE, "{off}");
    let expected = golden.frames.iter().map(|f| (!f.silent).then(|| f.text.trim().to_owned()));
    assert_eq!(said, expected.collect::<Vec<_>>());
    assert!(said.iter().any(Option::is_some) && said.iter().any(Option::is_none), "both happen");
    // What stands between frames is seen in the numbers: without it they are others.
    let mut bare = model(&golden, &goldens("live-stream"));
    if let Speaking::Separator { again, .. } = &mut bare.manifest.speaking {
        again.clear();
    }
    let (p, _) = streamed(&golden, bare, 0.0);
    assert!(apart(&p, &golden.silent()) > 100.0 * TOLERANCE, "the opening bracket");
    let (p, said) = streamed(&golden, model(&golden, &goldens("live-stream")), -1e9);
    assert!(said.iter().all(Option::is_none) && p.len() == golden.frames.len(), "one may ask it to be silent");
}

#[test]
fn tower_and_logits_agree_with_transformers_and_peft() {
    let golden = golden();
    let plan = Plan::open(&goldens("live-stream")).unwrap();
    let llava = plan.build(&choose(DeviceRequest::Cpu, None).unwrap()).unwrap();
    let decoder = &llava.decoder;
    let mut cache = llava.new_cache(512).unwrap();
    let (mut tower, mut worst) = (0f32, 0f32);
    for (i, heard) in golden.frames.iter().enumerate() {
        let looked = llava.encoder.look(&[golden.frame(i)]).unwrap();
        tower = tower.max(difference(&looked.get(0).unwrap(), &golden.tensors["pooled"].get(i).unwrap()));
        let seen = llava.encoder.project(&looked, None).unwrap();
        let before = Tensor::new(heard.before.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let x = Tensor::cat(&[&decoder.embed(&before).unwrap(), &seen], 1).unwrap();
        let hidden = decoder.forward(&x, Some(&mut cache)).unwrap();
        let last = hidden.narrow(1, hidden.dim(1).unwrap() - 1, 1).unwrap();
        let logits = decoder.logits(&last).unwrap().flatten_all().unwrap().to_dtype(DType::F32).unwrap();
        worst = worst.max(difference(&logits, &golden.tensors["logits"].get(i).unwrap()));
        if !heard.silent {
            // What it said is read anew; the last word of an utterance that was cut off stands before the next frame.
            let mut ids = plan.tokenizer.encode("]\nAssistant:", false).unwrap();
            let cut = golden.frames.get(i + 1).is_some_and(|next| next.before.first() != Some(&END));
            ids.extend(&heard.said[..heard.said.len() - usize::from(cut)]);
            let ids = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            decoder.forward(&decoder.embed(&ids).unwrap(), Some(&mut cache)).unwrap();
        }
    }
    println!("live-stream    pooled tokens {tower:.2e}, logits {worst:.2e}");
    assert!(tower <= TOLERANCE && worst <= TOLERANCE, "tower {tower}, logits {worst}");
}

#[test]
fn a_folder_tells_how_it_is_streamed() {
    let folder = goldens("live-stream");
    let model = load(&folder, &Device::Cpu).unwrap();
    let manifest = &model.manifest;
    assert_eq!((manifest.frame_rate, manifest.vision.pooling), (2.0, Pooling::ClassAverage(3)));
    assert_eq!(
        manifest.speaking,
        Speaking::Separator {
            separator: Some(",".into()),
            threshold: THRESHOLD,
            lead: "]\nAssistant:".into(),
            end: "<|eot_id|>".into(),
            again: "\n[".into(),
        }
    );
    let prompt = manifest.prompt.render("en", Some("squats"));
    assert!(prompt.starts_with("<|begin_of_text|>") && prompt.ends_with("\n["), "{prompt:?}");
    assert!(prompt.contains("\n\nUser: I do squats."), "{prompt:?}");
    let told = inspect(&folder).unwrap();
    assert_eq!((told.architecture.as_str(), told.tokens_per_frame), ("LiveLlamaForCausalLM", 10));
    // The text half of SigLIP is left where it is.
    assert_eq!(told.parameters.unused, 0, "{:?}", told.parameters);

    let missing = copy_of(&folder);
    fs::remove_dir_all(missing.path().join("vision")).unwrap();
    let error = Plan::open(missing.path()).unwrap_err().to_string();
    assert!(error.contains("siglip-large-patch16-384") && error.contains("vision"), "{error}");
    let other = copy_of(&folder);
    fs::write(other.path().join("vision/config.json"), "{\"model_type\": \"clip_vision_model\"}").unwrap();
    let error = Plan::open(other.path()).unwrap_err().to_string();
    assert!(error.contains("expected siglip_vision_model, dense, found `clip_vision_model`"), "{error}");
}

/// A cache as Python fills it with the three models; pulling links them where they are looked for.
#[test]
fn it_is_pulled_with_its_llama_and_its_tower() {
    let home = tempfile::tempdir().unwrap();
    let folder = goldens("live-stream");
    for (repository, from) in [
        ("chenjoya--videollm-online-8b-v1plus", folder.clone()),
        ("meta-llama--Meta-Llama-3-8B-Instruct", folder.join("base")),
        ("google--siglip-large-patch16-384", folder.join("vision")),
    ] {
        let model = home.path().join(format!("hub/models--{repository}"));
        let snapshot = model.join("snapshots/0123abcd");
        fs::create_dir_all(model.join("refs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(model.join("refs/main"), "0123abcd").unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
    }
    let spotter = |args: &[&str]| {
        let out =
            command(args).env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE").output();
        let out = out.unwrap();
        assert!(out.status.success(), "{args:?}: {}", stderr(&out));
        stdout(&out)
    };
    spotter(&["models", "pull", "videollm-online-8b"]);
    let told: serde_json::Value =
        serde_json::from_str(&spotter(&["models", "inspect", "videollm-online-8b", "--device", "cpu", "--json"]))
            .unwrap();
    assert_eq!((&told["architecture"], &told["tokens_per_frame"]), (&"LiveLlamaForCausalLM".into(), &10.into()));
}
