//! Pictures in tiles: prompts, pixels and logits of tiny LLaVA-NeXT, LLaVA-OneVision and HyperCLOVA X SEED Vision
//! checkpoints against references (`tests/parity/make_tiling_goldens.py`, `make_seed_goldens.py`).
#![expect(clippy::print_stdout, reason = "what was found is shown when a test fails")]

use candle_core::{DType, Device, Tensor};
use spotter_engine::{
    device::Choice,
    model::{Llava, Plan, Pooling, probe},
    prompt::{Message, Part, Role},
};
use spotter_tests::{copy_of, difference, goldens};
use spotter_vision::{
    Frame,
    encoder::{Encoder as _, Prepare},
    preprocess::{Fit, Preprocess},
};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

const CASES: [&str; 4] = ["next-vicuna", "next-mistral", "onevision", "seed-vision"];
const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Conversation {
    messages: Vec<Turn>,
    prompt: String,
    images: Vec<usize>,
}

/// A message as the references take it: its content is a list of parts, or one part with words about it.
#[derive(serde::Deserialize)]
struct Turn {
    role: Role,
    content: Content,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Content {
    Parts(Vec<Part>),
    Single(Part),
}

impl From<&Turn> for Message {
    fn from(turn: &Turn) -> Self {
        let content = match &turn.content {
            Content::Parts(parts) => parts.clone(),
            Content::Single(part) => vec![part.clone()],
        };
        Self { role: turn.role, content }
    }
}

struct Golden {
    folder: PathBuf,
    plan: Plan,
    model: Llava,
    tensors: HashMap<String, Tensor>,
    conversations: BTreeMap<String, Conversation>,
}

fn build(plan: &Plan) -> Llava {
    plan.build(&Choice { device: Device::Cpu, dtype: DType::F32, reason: "goldens are f32".into() }).unwrap()
}

fn golden(case: &str) -> Golden {
    let folder = goldens(case);
    let plan = Plan::open(&folder).unwrap();
    let model = build(&plan);
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let conversations = serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    Golden { folder, plan, model, tensors, conversations }
}

impl Golden {
    fn ids(&self, name: &str) -> Vec<u32> {
        spotter_tests::ids(&self.tensors[name])
    }

    fn frames(&self, shown: &[usize]) -> Vec<Frame> {
        shown.iter().map(|i| frame(&self.folder.join(format!("image{i}.png")))).collect()
    }

    fn pixels(&self) -> &Preprocess {
        match &self.plan.prepare {
            Prepare::Pixels(pixels) => pixels,
            Prepare::Patches(_) => panic!("pixels"),
        }
    }

    /// The reference's pixels of picture `i` of a conversation, normalised.
    fn stored(&self, name: &str, i: usize) -> Tensor {
        let bytes = self.tensors[&format!("{name}.pixels{i}")].to_dtype(DType::F32).unwrap();
        let colours = |c: [f32; 3]| Tensor::new(&c, &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        let (mean, std) = (colours(self.pixels().mean), colours(self.pixels().std));
        (bytes / 255.0).unwrap().broadcast_sub(&mean).unwrap().broadcast_div(&std).unwrap()
    }
}

fn frame(path: &Path) -> Frame {
    let picture = image::open(path).unwrap().to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Frame::from_rgb(0, Duration::ZERO, width, height, picture.into_raw()).unwrap()
}

fn sizes(frames: &[Frame]) -> Vec<(usize, usize)> {
    frames.iter().map(|f| (f.width, f.height)).collect()
}

fn report(case: &str, what: &str, off: f32, allowed: f32) -> bool {
    println!("{case:<14} {what:<28} {off:.2e}");
    off <= allowed
}

#[test]
fn prompts_hold_as_many_places_as_pictures_have_tokens() {
    for case in CASES {
        let g = golden(case);
        let template = g.plan.template().unwrap();
        for (name, conversation) in &g.conversations {
            let messages: Vec<Message> = conversation.messages.iter().map(Message::from).collect();
            let prompt = template.render(&messages, true).unwrap();
            assert_eq!(prompt, conversation.prompt, "{case} {name}");
            let ids = g.plan.tokenizer.encode(&prompt, !template.begins(&prompt)).unwrap();
            let tokens = g.model.encoder.picture_tokens(&sizes(&g.frames(&conversation.images)));
            assert_eq!(g.model.expand(&ids, &tokens), g.ids(&format!("{name}.input_ids")), "{case} {name}: {tokens:?}");
        }
    }
}

#[test]
fn tiles_are_cut_as_the_references_do() {
    let mut fine = true;
    for case in CASES {
        let g = golden(case);
        for (name, conversation) in &g.conversations {
            let whole = case == "onevision" && conversation.images.len() > 1;
            for (i, frame) in g.frames(&conversation.images).iter().enumerate() {
                let found = if whole {
                    Preprocess { fit: Fit::Pad, ..g.pixels().clone() }.batch(std::slice::from_ref(frame), &Device::Cpu)
                } else {
                    let tiles = g.plan.config.tiling.as_ref().unwrap().tiles((frame.width, frame.height));
                    g.pixels().tiles(frame, tiles, &Device::Cpu)
                };
                let off = difference(&found.unwrap(), &g.stored(name, i));
                // One step of a byte: both round the resampled value, not always the same way.
                fine &= report(case, &format!("pixels of {name} {i}"), off, 1.01 / 255.0 / 0.26);
            }
        }
    }
    assert!(fine, "a difference of more than one step: see the list");
}

#[test]
fn logits_agree_with_the_references() {
    let mut fine = true;
    for case in CASES {
        let g = golden(case);
        for (name, conversation) in &g.conversations {
            let frames = g.frames(&conversation.images);
            let size = |i: usize| (frames[i].width, frames[i].height);
            let seen = (0..frames.len()).map(|i| g.model.encoder.views(&g.stored(name, i), size(i)).unwrap());
            let visual = Tensor::cat(&seen.collect::<Vec<_>>(), 0).unwrap();
            let logits = g.model.logits(&g.ids(&format!("{name}.input_ids")), Some(&visual), None).unwrap();
            let rows = g.tensors[&format!("{name}.rows")].to_dtype(DType::U32).unwrap();
            let stored = &g.tensors[&format!("{name}.logits")];
            fine &= report(case, name, difference(&logits.index_select(&rows, 0).unwrap(), stored), TOLERANCE);
            // The way from a file goes through the same steps; its pixels may be a step of a byte off.
            let own = Tensor::cat(&g.model.encoder.pictures(&frames).unwrap(), 0).unwrap();
            let spread = visual.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            fine &= report(case, &format!("{name}, tokens from files"), difference(&own, &visual) / spread, 0.2);
        }
    }
    assert!(fine, "a difference above {TOLERANCE:e}: see the table");
}

/// Frames of a video as LLaVA-OneVision pools them: the streaming path with `pooling = { bilinear = 2 }`.
#[test]
fn frames_of_a_video_agree_with_transformers() {
    let g = golden("onevision");
    let mut plan = Plan::open(&g.folder).unwrap();
    plan.vision.pooling = Pooling::Bilinear(2);
    let model = build(&plan);
    let frames = model.encoder.forward(&g.tensors["video.pixel_values"]).unwrap();
    assert_eq!((frames.dims3().unwrap(), model.encoder.shape().0), ((3, 4, 32), 4));
    let newline = model.encoder.newline().unwrap().unsqueeze(0).unwrap();
    let visual = Tensor::cat(&[&frames.flatten_to(1).unwrap(), &newline], 0).unwrap();
    let logits = model.logits(&g.ids("video.input_ids"), Some(&visual), None).unwrap();
    let rows = g.tensors["video.rows"].to_dtype(DType::U32).unwrap();
    let off = difference(&logits.index_select(&rows, 0).unwrap(), &g.tensors["video.logits"]);
    assert!(report("onevision", "video", off, TOLERANCE));
    // Pooling before the projector is something else.
    plan.vision.pooling = Pooling::Average(2);
    let other = build(&plan).encoder.forward(&g.tensors["video.pixel_values"]).unwrap();
    assert!(difference(&other, &frames) > 1e-2);
}

/// SEED's fast frames of a video: the same abstractor with a smaller grid. Specs: hyperclovax, section 7.5.
#[test]
fn fast_frames_agree_with_the_reference() {
    let g = golden("seed-vision");
    let mut plan = Plan::open(&g.folder).unwrap();
    plan.vision.pooling = Pooling::Average(2);
    let model = build(&plan);
    assert_eq!(model.encoder.shape(), (4, 32));
    for i in 0..4 {
        let whole = g.stored(&format!("picture{i}"), 0).narrow(0, 0, 1).unwrap();
        let off = difference(&model.encoder.forward(&whole).unwrap(), &g.tensors[&format!("fast{i}")]);
        assert!(report("seed-vision", &format!("fast frame {i}"), off, TOLERANCE));
    }
    // Nothing is cut up where frames are pooled.
    assert_eq!(model.encoder.picture_tokens(&[(72, 36)]), [4]);
    plan.vision.pooling = Pooling::None;
    assert_eq!(build(&plan).encoder.shape(), (9, 32));
}

#[test]
fn a_probe_sees_pictures_of_different_sizes() {
    for case in CASES {
        let g = golden(case);
        let conversation = &g.conversations["turns"];
        let messages: Vec<Message> = conversation.messages.iter().map(Message::from).collect();
        let frames = g.frames(&conversation.images);
        let found = probe::probe(&g.plan, &g.model, &g.plan.template().unwrap(), &messages, &frames, 3).unwrap();
        assert_eq!(found.prompt_ids, g.ids("turns.input_ids"), "{case}");
        assert_eq!(found.tokens_per_image, g.model.encoder.picture_tokens(&sizes(&frames)), "{case}");
        let ids = g.ids("turns.input_ids");
        let visual = Tensor::cat(&g.model.encoder.pictures(&frames[1..]).unwrap(), 0).unwrap();
        let error = g.model.embed(&ids, Some(&visual)).unwrap_err().to_string();
        assert!(error.contains("visual tokens, but the pictures have"), "{error}");
    }
}

/// Files that put another prefix before every name, as some published ones do.
#[test]
fn names_behind_a_prefix_are_found() {
    for case in ["seed-vision", "next-vicuna"] {
        let g = golden(case);
        let copy = copy_of(&g.folder);
        let tensors = candle_core::safetensors::load(g.folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let renamed: HashMap<String, Tensor> = tensors.into_iter().map(|(n, t)| (format!("model.{n}"), t)).collect();
        candle_core::safetensors::save(&renamed, copy.path().join("model.safetensors")).unwrap();
        let model = build(&Plan::open(copy.path()).unwrap());
        let frames = g.frames(&[1]);
        let tokens = |model: &Llava| model.encoder.pictures(&frames).unwrap().remove(0);
        assert_eq!(difference(&tokens(&model), &tokens(&g.model)), 0.0, "{case}");
    }
}

#[test]
fn configurations_that_do_not_fit_are_named() {
    let refused = |case: &str, file: &str, edit: &dyn Fn(&mut serde_json::Value)| {
        let copy = copy_of(&goldens(case));
        let path = copy.path().join(file);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
        Plan::open(copy.path()).unwrap_err().to_string()
    };
    let check = |case: &str, file: &str, field: &str, value: serde_json::Value, expected: &str| {
        let error = refused(case, file, &|v| v[field] = value.clone());
        assert!(error.contains(expected), "{case} {field}: {error}");
    };
    let config = "config.json";
    check(
        "next-vicuna",
        config,
        "image_grid_pinpoints",
        serde_json::json!([[24, 30]]),
        "`image_grid_pinpoints`: expected",
    );
    check(
        "next-vicuna",
        config,
        "vision_feature_select_strategy",
        "full".into(),
        "expected default: tiles are squares",
    );
    check("onevision", config, "vision_aspect_ratio", "pad".into(), "expected anyres_max_ and a number, found `pad`");
    check("onevision", config, "video_token_index", 9999.into(), "`video_token_index`: expected an id below");
    check("seed-vision", config, "mm_projector_type", "mlp".into(), "expected cabstractor, found `mlp`");
    check(
        "seed-vision",
        config,
        "num_queries_vis_abstractor_image",
        8.into(),
        "expected a square number up to 36, found 8",
    );
    check("seed-vision", config, "max_num_grids", 0.into(), "`possible_resolutions`: expected heights and widths");
    check("seed-vision", config, "max_num_grids", 5.into(), "possible_resolutions`: expected those of config.json");
    let nameless = |v: &mut serde_json::Value| {
        let tokens = v["added_tokens"].as_array_mut().unwrap();
        tokens.iter_mut().filter(|t| t["content"] == "<|dummy3|>").for_each(|t| t["content"] = "<|other|>".into());
        let vocab = v["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("<|dummy3|>").unwrap();
        vocab.insert("<|other|>".into(), id);
    };
    let error = refused("seed-vision", "tokenizer.json", &nameless);
    assert!(error.contains("image token: expected a token <|dummy3|>, found none"), "{error}");
}
