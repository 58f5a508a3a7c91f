//! Models in GGUF files: the tokenizer of Llama 2 against SentencePiece's own numbers (`tests/python/llama_spm.py`), and a LLaVA in two
//! files against the folder that it was made of.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{spotter, stderr, stdout};
use serde_json::{Value as Json, json};
use spotter_engine::{
    device::Choice,
    gguf::{self, Gguf, GgufError, Source, Target, Value, quantise},
    model::{
        DecoderConfig, HfDecoderConfig, LanguageModel, Llava, Plan, llava_config::Family, plan::decoder_tensors,
        rope::RopeScaling,
    },
    prompt::{Message, Role},
    tokenizer::{TextStream, Tokenizer},
};
use spotter_tests::{copy_of, difference, goldens, ids};
use spotter_vision::{Frame, encoder::Encoder as _};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What SentencePiece made of its own model.
#[derive(serde::Deserialize)]
struct Spm {
    tokens: Vec<String>,
    scores: Vec<f64>,
    kinds: Vec<i64>,
    texts: Vec<Text>,
}

#[derive(serde::Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn spm_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/llama_spm")
}

fn spm() -> Spm {
    serde_json::from_str(&fs::read_to_string(spm_folder().join("golden.json")).unwrap()).unwrap()
}

impl Spm {
    fn keys(&self) -> Vec<(String, Value)> {
        [
            ("tokenizer.ggml.model", Value::Text("llama".into())),
            ("tokenizer.ggml.tokens", Value::Texts(self.tokens.clone())),
            ("tokenizer.ggml.scores", Value::Floats(self.scores.clone())),
            ("tokenizer.ggml.token_type", Value::Integers(self.kinds.clone())),
            ("tokenizer.ggml.bos_token_id", Value::Integer(1)),
            ("tokenizer.ggml.eos_token_id", Value::Integer(2)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }

    fn ids_of(&self, text: &str) -> Vec<u32> {
        self.texts.iter().find(|t| t.text == text).unwrap().ids.clone()
    }
}

fn tokenizer_of(keys: &[(String, Value)]) -> Result<Tokenizer, GgufError> {
    let at = tempfile::tempdir().unwrap();
    let path = at.path().join("a.gguf");
    gguf::write::<GgufError>(&path, keys, &[], |_| Ok(Vec::new())).unwrap();
    gguf::tokenizer(&Gguf::open(&path).unwrap())
}

fn set(keys: &mut Vec<(String, Value)>, key: &str, value: Value) {
    keys.retain(|(known, _)| known != key);
    keys.push((key.to_owned(), value));
}

#[test]
fn pieces_are_joined_as_sentencepiece_joins_them() {
    let spm = spm();
    let tokenizer = tokenizer_of(&spm.keys()).unwrap();
    assert!(spm.texts.len() > 10 && spm.texts.iter().any(|t| t.ids.iter().any(|id| spm.kinds[*id as usize] == 6)));
    for Text { text, ids, decoded } in &spm.texts {
        assert_eq!(tokenizer.encode(text, false).unwrap(), *ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids).unwrap(), *decoded, "{text:?}");
        let (mut stream, mut said) = (TextStream::default(), String::new());
        for id in ids {
            said += &stream.push(&tokenizer, *id).unwrap();
        }
        assert_eq!(said + &stream.finish(&tokenizer).unwrap(), *decoded);
    }
    // Special tokens are found in a text, and what stands between them is a text of its own, with a space before it.
    let (keep, up) = (spm.ids_of("Keep"), spm.ids_of(" up"));
    let expected = [vec![1], keep.clone(), vec![2], up].concat();
    assert_eq!(tokenizer.encode("<s>Keep</s> up", false).unwrap(), expected);
    assert_eq!(tokenizer.encode("Keep", true).unwrap(), [vec![1], keep].concat(), "a text begins with its token");
    assert_eq!(tokenizer.decode(&expected).unwrap(), "Keep  up");
}

#[test]
fn what_a_file_says_about_spaces_and_beginnings_is_done() {
    let spm = spm();
    let mut keys = spm.keys();
    set(&mut keys, "tokenizer.ggml.add_space_prefix", Value::Bool(false));
    set(&mut keys, "tokenizer.ggml.add_bos_token", Value::Bool(false));
    let bare = tokenizer_of(&keys).unwrap();
    // Without the space that is put before it, a text that begins with one is what another is with it.
    assert_eq!(bare.encode(" Keep", true).unwrap(), spm.ids_of("Keep"));
    assert_eq!(bare.decode(&spm.ids_of("Keep")).unwrap(), " Keep");
    let refused = |key: &str, value: Value| {
        let mut keys = spm.keys();
        set(&mut keys, key, value);
        tokenizer_of(&keys).map(|_| ()).unwrap_err().to_string()
    };
    let few = refused("tokenizer.ggml.scores", Value::Floats(vec![0.0]));
    assert!(few.contains(&format!("tokenizer.ggml.scores: expected {} numbers", spm.tokens.len())), "{few}");
    assert!(refused("tokenizer.ggml.model", Value::Text("bert".into())).contains("found `bert`"));
    assert!(refused("tokenizer.ggml.add_space_prefix", Value::Integer(1)).contains("expected true or false"));
    assert!(refused("tokenizer.ggml.bos_token_id", Value::Integer(99_999)).contains("expected an id below"));
}

/// What transformers made of the model, with spaces as the published files of Llama 2 treat them.
fn published() -> Json {
    let mut json: Json =
        serde_json::from_str(&fs::read_to_string(spm_folder().join("tokenizer.json")).unwrap()).unwrap();
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    json["normalizer"] =
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, space]});
    json["pre_tokenizer"] = Json::Null;
    json
}

/// A folder of a language model with random weights and the published form of the tokenizer.
fn llama_folder(at: &Path) -> PathBuf {
    let vocab = spm().tokens.len() + 3;
    let config = json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(at.join("config.json"), config.to_string()).unwrap();
    fs::write(at.join("tokenizer.json"), published().to_string()).unwrap();
    let config = DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(config).unwrap(), "").unwrap();
    let (embedding, layers) = decoder_tensors(&config, "model.", "lm_head.");
    let random = |shape: Vec<usize>| Tensor::randn(0f32, 0.1, shape, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> =
        embedding.into_iter().chain(layers).map(|spec| (spec.name, random(spec.shape))).collect();
    candle_core::safetensors::save(&tensors, at.join("model.safetensors")).unwrap();
    at.to_owned()
}

#[test]
fn a_published_tokenizer_is_written_with_scores_that_mean_the_same() {
    let (at, spm) = (tempfile::tempdir().unwrap(), spm());
    let folder = llama_folder(at.path());
    let out = at.path().join("out.gguf");
    quantise(&Source::Model(&folder), &out, Target::F16, &mut |_, _| ()).unwrap();
    let model = LanguageModel::open(&out, DType::F32, &Device::Cpu).unwrap();
    let published = Tokenizer::from_file(&folder.join("tokenizer.json")).unwrap();
    for Text { text, ids, .. } in &spm.texts {
        assert_eq!(published.encode(text, false).unwrap(), *ids, "transformers, {text:?}");
        assert_eq!(model.tokenizer.encode(text, false).unwrap(), *ids, "{text:?}");
        assert_eq!(model.tokenizer.encode(text, true).unwrap(), published.encode(text, true).unwrap(), "{text:?}");
    }
    let file = Gguf::open(&out).unwrap();
    let kinds = &file.metadata()["tokenizer.ggml.token_type"];
    assert_eq!(
        *kinds,
        Value::Integers([spm.kinds.clone(), vec![5; 3]].concat()),
        "and three rows that stand for nothing"
    );
    // As newer transformers writes it.
    fs::copy(spm_folder().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let again = at.path().join("again.gguf");
    quantise(&Source::Model(&folder), &again, Target::F16, &mut |_, _| ()).unwrap();
    assert_eq!(Gguf::open(&again).unwrap().metadata(), Gguf::open(&out).unwrap().metadata());
    // Scores fall with the ids of what is joined, as trained ones do.
    let Value::Floats(scores) = &file.metadata()["tokenizer.ggml.scores"] else { panic!("no scores") };
    let order = |scores: &[f64]| {
        let mut ids: Vec<usize> = (0..spm.tokens.len()).filter(|id| spm.kinds[*id] == 1).collect();
        ids.retain(|id| spm.tokens[*id].chars().count() > 1);
        ids.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        ids
    };
    assert_eq!(order(scores), order(&spm.scores));
}

#[test]
fn a_tokenizer_that_scores_do_not_tell_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let folder = llama_folder(at.path());
    let refused = |change: &dyn Fn(&mut Json)| {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).unwrap();
        let mut json: Json = serde_json::from_str(&text).unwrap();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        let out = at.path().join("out.gguf");
        let made = quantise(&Source::Model(&folder), &out, Target::F16, &mut |_, _| ());
        fs::write(&path, text).unwrap();
        made.map(|_| ()).unwrap_err().to_string()
    };
    let less = refused(&|json| drop(json["model"]["merges"].as_array_mut().unwrap().remove(40)));
    assert!(less.contains("model.merges: expected all ways"), "{less}");
    // Ways of cutting one token that do not follow one another, as no score puts them.
    let apart = refused(&|json| {
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        let joined = |merge: &Json| format!("{}{}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        let twice = merges.windows(2).position(|pair| joined(&pair[0]) == joined(&pair[1])).unwrap();
        let second = merges.remove(twice + 1);
        merges.push(second);
    });
    assert!(apart.contains("model.merges: expected all ways"), "{apart}");
    let first = refused(&|json| {
        json["normalizer"] = Json::Null;
        json["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    });
    assert!(first.contains("normalizer: expected Llama 2's"), "{first}");
}

const CPU: Device = Device::Cpu;

fn build(plan: &Plan) -> Llava {
    plan.build(&Choice { device: CPU, dtype: DType::F32, reason: String::new() }).unwrap()
}

fn logits(plan: &Plan, case: &str) -> Tensor {
    let golden = candle_core::safetensors::load(goldens(case).join("golden.safetensors"), &CPU).unwrap();
    let model = build(plan);
    let visual = model.encoder.forward(&golden["image.pixel_values"]).unwrap();
    model.logits(&ids(&golden["image.input_ids"]), Some(&visual), None).unwrap()
}

/// How far `a` is from `b`, as a part of its size.
fn apart(a: &Tensor, b: &Tensor) -> f32 {
    let size = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    size(&(a - b).unwrap()) / size(b)
}

#[test]
fn two_files_see_and_say_what_their_folder_does() {
    for case in ["clip-llama", "siglip-qwen2"] {
        let folder = goldens(case);
        let plain = Plan::open(&folder).unwrap();
        let expected = logits(&plain, case);
        // Half precision keeps eleven bits, and eight-bit weights meet eight-bit inputs.
        for (target, most) in [(Target::F32, 0.0), (Target::F16, 2e-3), (Target::Q8_0, 0.05)] {
            let at = tempfile::tempdir().unwrap();
            let out = at.path().join("tiny.gguf");
            let made = quantise(&Source::Model(&folder), &out, target, &mut |_, _| ()).unwrap();
            let mmproj = made.mmproj.unwrap();
            assert_eq!(mmproj.file, at.path().join("mmproj-tiny.gguf"));
            assert!(!mmproj.types.contains_key("Q8_0"), "what sees stays f16: {:?}", mmproj.types);
            // By its decoder, and by its folder.
            for path in [out.as_path(), at.path()] {
                let plan = Plan::open(path).unwrap();
                let off = apart(&logits(&plan, case), &expected);
                println!("{case:<14} {:<5} {off:.1e}", target.name());
                assert!(off <= most, "{case} {target:?}: {off}");
                assert_eq!((&plan.prepare, plan.image_token()), (&plain.prepare, plain.image_token()));
                let asked = [Message::with_image("How is it?")];
                let [a, b] = [&plan, &plain].map(|p| {
                    let template = p.template().unwrap();
                    let prompt = template.render(&asked, true).unwrap();
                    p.tokenizer.encode(&prompt, !template.begins(&prompt)).unwrap()
                });
                assert_eq!(a, b);
            }
            let again = quantise(&Source::Model(&folder), &out, target, &mut |_, _| ()).unwrap_err();
            assert!(again.to_string().contains("mmproj-tiny.gguf: is there already"), "{again}");
        }
    }
}

/// A file's frequencies are those of its folder, and leaving them out would be seen.
#[test]
fn positions_of_llama_3_are_written_and_kept() {
    let (folder, at) = (copy_of(&goldens("clip-llama")), tempfile::tempdir().unwrap());
    let path = folder.path().join("config.json");
    let mut config: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // So that one of the four pairs is kept, one lies between, and two are stretched by all of 8.
    config["text_config"]["rope_parameters"]["original_max_position_embeddings"] = 160.into();
    fs::write(&path, config.to_string()).unwrap();
    let out = at.path().join("tiny.gguf");
    quantise(&Source::Model(folder.path()), &out, Target::F32, &mut |_, _| ()).unwrap();
    let factors = |path: &Path| match gguf::decoder_config(&Gguf::open(path).unwrap()).unwrap().rope_scaling {
        RopeScaling::Factors(factors) => factors,
        other => panic!("{other:?}"),
    };
    let found = factors(&out);
    assert!(matches!(found[..], [1.0, between, 8.0, 8.0] if between > 1.0 && between < 8.0), "{found:?}");
    // A file made of the file has them too.
    let again = at.path().join("again.gguf");
    quantise(&Source::Model(&out), &again, Target::Q8_0, &mut |_, _| ()).unwrap();
    assert_eq!(factors(&again), found);
    let expected = logits(&Plan::open(folder.path()).unwrap(), "clip-llama");
    let mut plan = Plan::open(&out).unwrap();
    assert_eq!(difference(&logits(&plan, "clip-llama"), &expected), 0.0);
    plan.config.text.rope_scaling = RopeScaling::None;
    assert!(apart(&logits(&plan, "clip-llama"), &expected) > 1e-3);
}

/// A golden folder with Llama 2's tokenizer, as files of LLaVA 1.5 and 1.6 have it: no token for pictures, no chat template.
fn with_sentencepiece(case: &str) -> tempfile::TempDir {
    let folder = copy_of(&goldens(case));
    let path = |name: &str| folder.path().join(name);
    let vocab = spm().tokens.len();
    let mut tensors = candle_core::safetensors::load(path("model.safetensors"), &CPU).unwrap();
    for (name, tensor) in &mut tensors {
        if name.contains("embed_tokens") || name.contains("lm_head") {
            *tensor = Tensor::randn(0f32, 0.5, (vocab, 32), &CPU).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, path("model.safetensors")).unwrap();
    let mut config: Json = serde_json::from_str(&fs::read_to_string(path("config.json")).unwrap()).unwrap();
    (config["text_config"]["vocab_size"], config["image_token_index"]) = (vocab.into(), 0.into());
    fs::write(path("config.json"), config.to_string()).unwrap();
    fs::copy(spm_folder().join("tokenizer.json"), path("tokenizer.json")).unwrap();
    fs::remove_file(path("chat_template.jinja")).unwrap();
    folder
}

#[test]
fn a_decoder_without_a_token_for_pictures_is_asked_as_vicuna() {
    let (folder, at) = (with_sentencepiece("clip-llama"), tempfile::tempdir().unwrap());
    let (out, vocab) = (at.path().join("vicuna.gguf"), spm().tokens.len());
    quantise(&Source::Model(folder.path()), &out, Target::F32, &mut |_, _| ()).unwrap();

    let [plain, plan] = [folder.path(), &out].map(|path| Plan::open(path).unwrap());
    let place = vocab as u32;
    assert_eq!((plan.image_token().as_str(), plan.config.image_token), ("<image>", Some(place)));
    let template = plan.template().unwrap();
    let prompt = template.render(&[Message::with_image("Keep")], true).unwrap();
    assert_eq!(prompt, "USER: <image>\nKeep ASSISTANT:");
    let ids = plan.tokenizer.encode(&prompt, !template.begins(&prompt)).unwrap();
    assert_eq!((ids[0], ids.iter().filter(|id| **id == place).count()), (1, 1), "{ids:?}");
    let pixels = Tensor::randn(0f32, 1.0, (1, 3, 32, 32), &CPU).unwrap();
    let of = |plan: &Plan, ids: &[u32]| {
        let model = build(plan);
        let visual = model.encoder.forward(&pixels).unwrap();
        let ids = model.expand(ids, &[visual.dim(1).unwrap()]);
        (model.logits(&ids, Some(&visual), None).unwrap(), model)
    };
    let (seen, model) = of(&plan, &ids);
    let renamed: Vec<u32> = ids.iter().map(|id| if *id == place { 0 } else { *id }).collect();
    assert!(difference(&seen, &of(&plain, &renamed).0) < 1e-5);
    let error = model.logits(&[place], None, None).unwrap_err().to_string();
    assert!(error.contains(&format!("token {place} is outside")), "it is no token that a text may have: {error}");
}

/// LLaVA-NeXT with Mistral is told from the one with Vicuna by its heads.
#[test]
fn tiles_without_a_template_are_asked_as_vicuna_or_mistral() {
    for (case, expected) in [
        ("next-vicuna", "Stand. USER: <image>\nKeep ASSISTANT:"),
        ("next-mistral", "[INST] <<SYS>>\nStand.\n<</SYS>>\n\n<image>\nKeep [/INST]"),
    ] {
        let (folder, at) = (with_sentencepiece(case), tempfile::tempdir().unwrap());
        let out = at.path().join("a.gguf");
        quantise(&Source::Model(folder.path()), &out, Target::F32, &mut |_, _| ()).unwrap();
        let plan = Plan::open(&out).unwrap();
        let asked = [Message::text(Role::System, "Stand."), Message::with_image("Keep")];
        assert_eq!(plan.template().unwrap().render(&asked, true).unwrap(), expected);
        assert_eq!((plan.config.family, plan.image_token().as_str()), (Family::Next, "<image>"));
    }
}

#[derive(serde::Deserialize)]
struct Conversation {
    prompt: String,
    images: Vec<usize>,
}

/// Pictures of a prompt in tiles, and frames of a stream whole.
#[test]
fn two_files_see_the_tiles_that_their_folder_does() {
    for (case, family) in
        [("next-vicuna", Family::Next), ("next-mistral", Family::Next), ("onevision", Family::OneVision)]
    {
        let (folder, at) = (goldens(case), tempfile::tempdir().unwrap());
        let out = at.path().join("tiny.gguf");
        quantise(&Source::Model(&folder), &out, Target::F32, &mut |_, _| ()).unwrap();
        let [plain, plan] = [&folder, &out].map(|path| Plan::open(path).unwrap());
        assert_eq!(plan.config.family, family);
        assert_eq!((&plan.config.tiling, plan.config.video_token), (&plain.config.tiling, plain.config.video_token));
        assert_eq!((&plan.prepare, plan.image_token()), (&plain.prepare, plain.image_token()));
        let models = [build(&plain), build(&plan)];
        assert_eq!(models[0].encoder.shape(), models[1].encoder.shape(), "a frame");
        let conversations = fs::read_to_string(folder.join("golden.json")).unwrap();
        let conversations: BTreeMap<String, Conversation> = serde_json::from_str(&conversations).unwrap();
        for (name, Conversation { prompt, images }) in conversations {
            let frames: Vec<Frame> = images.iter().map(|i| frame(&folder.join(format!("image{i}.png")))).collect();
            let [expected, found] = models.each_ref().map(|model| {
                let visual = Tensor::cat(&model.encoder.pictures(&frames).unwrap(), 0).unwrap();
                let sizes: Vec<_> = frames.iter().map(|f| (f.width, f.height)).collect();
                let ids = plan.tokenizer.encode(&prompt, false).unwrap();
                let ids = model.expand(&ids, &model.encoder.picture_tokens(&sizes));
                model.logits(&ids, Some(&visual), None).unwrap()
            });
            assert_eq!(difference(&expected, &found), 0.0, "{case} {name}");
        }
        let [expected, found] =
            models.each_ref().map(|model| model.encoder.encode(&[frame(&folder.join("image1.png"))]).unwrap());
        assert_eq!(difference(&expected, &found), 0.0, "{case}: a frame of a stream");
    }
}

fn frame(path: &Path) -> Frame {
    let picture = image::open(path).unwrap().to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Frame::from_rgb(0, Duration::ZERO, width, height, picture.into_raw()).unwrap()
}

#[test]
fn files_that_could_be_meant_are_named() {
    let at = tempfile::tempdir().unwrap();
    let path = |name: &str| at.path().join(name);
    let touch = |name: &str| fs::write(path(name), "x").unwrap();
    let found = |of: &Path| gguf::pair(of).map_err(|e| e.to_string());
    ["a.gguf", "b.gguf", "mmproj-a.gguf", "notes.txt"].into_iter().for_each(touch);
    assert!(gguf::is_gguf(at.path()) && !gguf::is_gguf(&goldens("clip-llama")) && !gguf::is_gguf(&path("notes.txt")));
    let several = found(at.path()).unwrap_err();
    assert!(several.contains("expected one decoder, found a.gguf, b.gguf: name the file"), "{several}");
    // The only one, or that of its name.
    assert_eq!(found(&path("b.gguf")).unwrap().mmproj, path("mmproj-a.gguf"));
    touch("x-mmproj.gguf");
    assert_eq!(found(&path("a.gguf")).unwrap().mmproj, path("mmproj-a.gguf"));
    let several = found(&path("b.gguf")).unwrap_err();
    assert!(several.contains("found mmproj-a.gguf, x-mmproj.gguf; of several, mmproj-b.gguf is taken"), "{several}");
    let turned = found(&path("mmproj-a.gguf")).unwrap_err();
    assert!(turned.contains("this is a projector") && turned.contains("a.gguf, b.gguf"), "{turned}");
    for name in ["b.gguf", "mmproj-a.gguf", "x-mmproj.gguf"] {
        fs::remove_file(path(name)).unwrap();
    }
    assert!(Plan::open(at.path()).map(|_| ()).unwrap_err().to_string().contains("beside a.gguf"), "no projector");
}

#[test]
fn the_program_inspects_probes_and_streams_them() {
    let (folder, at) = (goldens("clip-llama"), tempfile::tempdir().unwrap());
    let out = at.path().join("tiny.gguf").to_string_lossy().into_owned();
    let source = folder.to_string_lossy().into_owned();
    let run = |args: &[&str]| {
        let found = spotter(args);
        assert!(found.status.success(), "{args:?}: {}", stderr(&found));
        stdout(&found)
    };
    let json = |args: &[&str]| serde_json::from_str::<Json>(&run(args)).unwrap();
    let made = json(&["models", "quantize", &source, &out, "--type", "q8_0", "--json"]);
    assert!(made["mmproj"]["file"].as_str().unwrap().ends_with("mmproj-tiny.gguf"), "{made}");
    assert!(made["types"]["Q8_0"].as_u64().unwrap() > 10 && made["mmproj"]["types"]["F16"].as_u64().unwrap() > 10);
    let of = |model: &str| {
        let picture = goldens("clip-llama").join("image0.png").to_string_lossy().into_owned();
        let probe = ["models", "probe", model, "--image", &picture, "--prompt", "How?", "--device", "cpu", "--json"];
        (json(&["models", "inspect", model, "--device", "cpu", "--json"]), json(&probe))
    };
    let ((plain, asked), (packed, asked_packed)) = (of(&source), of(&out));
    for field in ["architecture", "vision", "language", "image_size", "tokens_per_frame", "context", "vocab"] {
        assert_eq!(plain[field], packed[field], "{field}");
    }
    assert_eq!(plain["parameters"]["total"], packed["parameters"]["total"]);
    let bytes = |report: &Json| report["streaming"]["weights"].as_u64().unwrap();
    assert!(packed["dtype"] == "q8_0" && bytes(&packed) < bytes(&plain), "{packed}");
    assert_eq!(asked["prompt_ids"], asked_packed["prompt_ids"]);
    let replay = ["replay", "pattern:64x64@5:2s", "--headless", "--json", "--model", &out, "--lens", "none"];
    let lines = run(&replay);
    assert!(lines.contains("\"session\"") && lines.contains("\"summary\""), "{lines}");
}
