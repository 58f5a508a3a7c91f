//! Logits of tiny LLaVA checkpoints against those that the Python package transformers computed for the same files
//! (`tests/parity/make_goldens.py`).
#![expect(clippy::print_stdout, reason = "what was found is shown when a test fails")]

use candle_core::{DType, Device, IndexOp, Tensor};
use spotter_engine::{
    device::Choice,
    model::{Llava, Plan, probe},
    prompt::Message,
    tokenizer::TextStream,
};
use spotter_tests::{difference, goldens};
use spotter_vision::{Frame, encoder::Encoder as _};
use std::{collections::HashMap, path::PathBuf, time::Duration};

const CASES: [&str; 3] = ["clip-llama", "siglip-qwen2", "clip-mistral"];
const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    prompt: String,
    images: usize,
}

struct Golden {
    folder: PathBuf,
    plan: Plan,
    model: Llava,
    tensors: HashMap<String, Tensor>,
    conversations: HashMap<String, Conversation>,
}

fn golden(case: &str) -> Golden {
    let folder = goldens(case);
    let plan = Plan::open(&folder).unwrap();
    let choice = Choice { device: Device::Cpu, dtype: DType::F32, reason: "goldens are f32".into() };
    let model = plan.build(&choice).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let conversations = serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    Golden { folder, plan, model, tensors, conversations }
}

impl Golden {
    fn ids(&self, name: &str) -> Vec<u32> {
        spotter_tests::ids(&self.tensors[name])
    }

    fn visual(&self, name: &str) -> Tensor {
        self.model.encoder.forward(&self.tensors[&format!("{name}.pixel_values")]).unwrap()
    }

    fn frames(&self, count: usize) -> Vec<Frame> {
        let read = |i: usize| {
            let picture = image::open(self.folder.join(format!("image{i}.png"))).unwrap().to_rgb8();
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            Frame::from_rgb(i as u64, Duration::ZERO, width, height, picture.into_raw()).unwrap()
        };
        (0..count).map(read).collect()
    }
}

fn report(case: &str, what: &str, off: f32) -> bool {
    println!("{case:<14} {what:<28} {off:.2e}");
    off <= TOLERANCE
}

#[test]
fn logits_agree_with_transformers() {
    println!("{:<14} {:<28} max abs diff", "case", "what");
    let mut fine = true;
    for case in CASES {
        let g = golden(case);
        for name in ["image", "turns"] {
            let ids = g.ids(&format!("{name}.input_ids"));
            let rows = g.tensors[&format!("{name}.rows")].to_dtype(DType::U32).unwrap();
            let visual = g.visual(name);
            let logits = g.model.logits(&ids, Some(&visual), None).unwrap();
            let stored = &g.tensors[&format!("{name}.logits")];
            assert!(
                stored.abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap() > 0.5,
                "goldens too small to show errors"
            );
            fine &=
                report(case, &format!("{name}, one pass"), difference(&logits.index_select(&rows, 0).unwrap(), stored));

            // The same prompt in pieces through the cache.
            let embeddings = g.model.embed(&ids, Some(&visual)).unwrap();
            let mut cache = g.model.new_cache(512).unwrap();
            let (mut pieces, mut start) = (Vec::new(), 0);
            for length in [5, 1, 17, 1, 1, ids.len()] {
                let length = length.min(ids.len() - start);
                pieces.push(
                    g.model.decoder.forward(&embeddings.narrow(1, start, length).unwrap(), Some(&mut cache)).unwrap(),
                );
                start += length;
            }
            let again = g.model.decoder.logits(&Tensor::cat(&pieces, 1).unwrap()).unwrap().squeeze(0).unwrap();
            fine &= report(case, &format!("{name}, pieces against one pass"), difference(&again, &logits));
        }

        let mut cache = g.model.new_cache(512).unwrap();
        let prefill = g.model.logits(&g.ids("image.input_ids"), Some(&g.visual("image")), Some(&mut cache)).unwrap();
        let mut logits = prefill.i(prefill.dim(0).unwrap() - 1).unwrap();
        let mut worst = 0f32;
        for (step, expected) in g.ids("steps.ids").into_iter().enumerate() {
            assert_eq!(logits.argmax(0).unwrap().to_scalar::<u32>().unwrap(), expected, "{case}: greedy token {step}");
            logits = g.model.logits(&[expected], None, Some(&mut cache)).unwrap().squeeze(0).unwrap();
            worst = worst.max(difference(&logits, &g.tensors["steps.logits"].i(step).unwrap()));
        }
        fine &= report(case, "greedy steps", worst);
    }
    assert!(fine, "a difference above {TOLERANCE:e}: see the table");
}

#[test]
fn prompts_and_their_tokens_agree_with_transformers() {
    for case in CASES {
        let g = golden(case);
        let template = g.plan.template().unwrap();
        for (name, conversation) in &g.conversations {
            let prompt = template.render(&conversation.messages, true).unwrap();
            assert_eq!(prompt, conversation.prompt, "{case} {name}");
            let ids = g.plan.tokenizer.encode(&prompt, !template.begins(&prompt)).unwrap();
            let tokens = vec![g.model.encoder.shape().0; conversation.images];
            assert_eq!(g.model.expand(&ids, &tokens), g.ids(&format!("{name}.input_ids")), "{case} {name}");
        }
    }
}

#[test]
fn pictures_are_prepared_as_transformers_does() {
    let mut fine = true;
    for case in CASES {
        let g = golden(case);
        for (name, conversation) in &g.conversations {
            let pixels = g.plan.prepare.batch(&g.frames(conversation.images), &Device::Cpu).unwrap();
            let off = difference(&pixels, &g.tensors[&format!("{name}.pixel_values")]);
            println!("{case:<14} pixels of {name:<8} {off:.2e}");
            // One step of a byte is 1 / 255 / 0.26: both round the resampled value to bytes, not always the same way.
            fine &= off <= 1.01 / 255.0 / 0.26;
        }
    }
    assert!(fine, "a difference of more than one step: see the list");
}

#[test]
fn a_probe_ranks_what_comes_next() {
    let g = golden("clip-llama");
    let (messages, template) = (&g.conversations["image"].messages, g.plan.template().unwrap());
    let probe = |frames: &[Frame]| probe::probe(&g.plan, &g.model, &template, messages, frames, 5);
    let found = probe(&g.frames(1)).unwrap();
    assert_eq!((found.prompt_ids, found.tokens_per_image, found.next.len()), (g.ids("image.input_ids"), vec![16], 5));
    assert_eq!(found.next[0].id, g.ids("steps.ids")[0]);
    assert!(found.next.windows(2).all(|w| w[0].log_prob >= w[1].log_prob) && found.next[0].log_prob < 0.0);
    let error = probe(&[]).unwrap_err().to_string();
    assert_eq!(error, "the conversation shows 1 pictures, found 0");
}

#[test]
fn text_streams_out_whole_characters() {
    for case in CASES {
        let tokenizer = golden(case).plan.tokenizer;
        let text = "Good! 무릎을 굽히세요 — 좋아요 🏋️ now stand  tall.";
        let (mut stream, mut pieces) = (TextStream::default(), Vec::new());
        for id in tokenizer.encode(text, false).unwrap() {
            pieces.push(stream.push(&tokenizer, id).unwrap());
        }
        pieces.push(stream.finish(&tokenizer).unwrap());
        assert!(pieces.iter().all(|p| !p.contains('\u{fffd}')), "{pieces:?}");
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().filter(|p| !p.is_empty()).count() > 10, "nothing streamed: {pieces:?}");
    }
}

/// An adapter that names its base by a path, merged into decoder, tower, projector and embedding.
#[test]
fn an_adapter_is_merged_as_peft_does() {
    let base = golden("clip-llama");
    let folder = base.folder.with_file_name("clip-llama-lora");
    let choice = Choice { device: Device::Cpu, dtype: DType::F32, reason: "goldens are f32".into() };
    let model = Plan::open(&folder).unwrap().build(&choice).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let ids = base.ids("image.input_ids");
    let rows = Tensor::from_iter((0..ids.len() as u32).step_by(5), &Device::Cpu).unwrap();
    let logits = |model: &Llava| {
        let visual = model.encoder.forward(&base.tensors["image.pixel_values"]).unwrap();
        model.logits(&ids, Some(&visual), None).unwrap().index_select(&rows, 0).unwrap()
    };
    assert!(report("clip-llama", "adapter merged", difference(&logits(&model), &tensors["logits"])));
    assert!(difference(&logits(&base.model), &tensors["logits"]) > 0.1, "the adapter changes something");
}
