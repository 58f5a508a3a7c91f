//! Broken checkpoints: each is refused with the name of what is wrong, what was expected and what was found.
#![expect(clippy::print_stdout, reason = "what was found is shown when a test fails")]

use serde_json::{Value, json};
use spotter_engine::model::{Plan, probe};
use spotter_tests::{copy_of, goldens};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn source() -> PathBuf {
    goldens("clip-llama")
}

/// Breaks a copy of a good checkpoint and compares the words of the refusal.
fn check(break_it: impl FnOnce(&Path), expected: &[&str]) {
    check_from(&source(), break_it, expected);
}

fn check_from(from: &Path, break_it: impl FnOnce(&Path), expected: &[&str]) {
    let folder = copy_of(from);
    Plan::open(folder.path()).expect("the copy is good before it is broken");
    break_it(folder.path());
    let message = Plan::open(folder.path()).expect_err("refused").to_string();
    println!("{}", message.replace(&folder.path().display().to_string(), "MODEL"));
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn edit_json(folder: &Path, name: &str, edit: impl FnOnce(&mut Value)) {
    let path = folder.join(name);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Rewrites the header of the weights; the data stays.
fn edit_header(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + length..]);
    fs::write(path, out).unwrap();
}

const Q: &str = "language_model.model.layers.1.self_attn.q_proj.weight";

#[test]
fn a_missing_tensor_is_named() {
    let rename = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(Q).unwrap();
        header["elsewhere"] = tensor;
    };
    check(|f| edit_header(f, rename), &[Q, "expected shape [32, 32]", "found no such tensor"]);
}

#[test]
fn a_wrong_shape_is_named_with_both() {
    check(|f| edit_header(f, |h| h[Q]["shape"] = json!([16, 64])), &[Q, "expected shape [32, 32], found [16, 64]"]);
    check(
        |f| edit_json(f, "config.json", |c| c["vision_config"]["intermediate_size"] = json!(64)),
        &["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "expected shape [64, 32], found [48, 32]"],
    );
}

#[test]
fn a_type_that_is_no_weight_is_named() {
    check(|f| edit_header(f, |h| h[Q]["dtype"] = json!("I32")), &[Q, "expected type F32, F16, BF16 or F64, found I32"]);
}

#[test]
fn files_that_end_early_or_hold_garbage_are_named() {
    let cut = |length: u64| {
        move |f: &Path| {
            fs::File::options().write(true).open(f.join("model.safetensors")).unwrap().set_len(length).unwrap()
        }
    };
    check(cut(200_000), &["model.safetensors", "describes a file of 277528 bytes, found 200000"]);
    check(cut(100), &["model.safetensors", "bytes, found 100"]);
    check(cut(3), &["expected a safetensors file, found 3 bytes"]);
    check(
        |f| fs::write(f.join("model.safetensors"), [0xff; 4000]).unwrap(),
        &["model.safetensors", "found a header length of"],
    );
    let mut garbage = 64u64.to_le_bytes().to_vec();
    garbage.extend([b'x'; 100]);
    check(
        |f| fs::write(f.join("model.safetensors"), &garbage).unwrap(),
        &["model.safetensors", "expected a safetensors header, found garbage"],
    );
    let overlap = |h: &mut Value| h[Q]["data_offsets"] = json!([0, 4096]);
    check(|f| edit_header(f, overlap), &["model.safetensors", "garbage"]);
}

#[test]
fn shards_are_checked_against_their_index() {
    let sharded = source().with_file_name("clip-mistral");
    let second = "model-00002-of-00003.safetensors";
    check_from(&sharded, |f| fs::remove_file(f.join(second)).unwrap(), &[second, "is missing"]);
    let index = "model.safetensors.index.json";
    let outside = |i: &mut Value| i["weight_map"]["x"] = json!("../x.safetensors");
    check_from(
        &sharded,
        |f| edit_json(f, index, outside),
        &[index, "`../x.safetensors`, which is not a file of this folder"],
    );
    let astray = |i: &mut Value| i["weight_map"]["x"] = json!(second);
    check_from(&sharded, |f| edit_json(f, index, astray), &[index, "tensor `x` is in", "but it is not there"]);
}

#[test]
fn architectures_that_are_not_known_are_named() {
    check(
        |f| edit_json(f, "config.json", |c| c["architectures"] = json!(["MambaForCausalLM"])),
        &["`architectures`: expected LlavaForConditionalGeneration, found `MambaForCausalLM`"],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["text_config"]["model_type"] = json!("mamba")),
        &["`text_config.model_type`: expected a decoder of type llama, qwen2, mistral or hyperclovax, found `mamba`"],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["vision_config"]["model_type"] = json!("resnet")),
        &[
            "`vision_config.model_type`: expected clip_vision_model, siglip_vision_model or spotter_vit",
            "found `resnet`",
        ],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["text_config"]["rope_parameters"]["rope_type"] = json!("yarn")),
        &["`text_config.rope_parameters.rope_type`: expected default, linear, llama3 or factors, found `yarn`"],
    );
}

#[test]
fn fields_that_are_missing_or_wrong_are_named() {
    check(|f| fs::write(f.join("config.json"), "not json").unwrap(), &["config.json: expected JSON", "line 1"]);
    for (field, expected) in [
        ("text_config", "an object"),
        ("vision_config", "an object"),
        ("image_token_index", "the id of the image token"),
        ("model_type", "one of llava, llava_next, llava_onevision, hyperclovax_vlm"),
    ] {
        let remove = |c: &mut Value| drop(c.as_object_mut().unwrap().remove(field));
        check(|f| edit_json(f, "config.json", remove), &[&format!("`{field}`: expected {expected}"), "found nothing"]);
    }
    check(
        |f| edit_json(f, "config.json", |c| c["vision_feature_layer"] = json!(-9)),
        &["`vision_feature_layer`: expected one number from -4 to 3, found -9"],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["vision_config"]["num_attention_heads"] = json!(5)),
        &["`vision_config.num_attention_heads`: expected a divisor of hidden_size (32), found 5"],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["text_config"]["hidden_size"] = json!("wide")),
        &["config.json", "invalid type: string \"wide\""],
    );
    check(
        |f| edit_json(f, "processor_config.json", |c| c["image_processor"]["crop_size"] = json!(24)),
        &["`size`: expected 32 x 32 as the vision tower looks at, found 24 x 24"],
    );
    check(
        |f| fs::write(f.join("spotter.toml"), "[vision]\npooling = { average = 9 }").unwrap(),
        &["pooling.average", "expected a number from 1 to 4", "found 9"],
    );
}

#[test]
fn a_tokenizer_that_does_not_fit_is_named() {
    check(|f| fs::remove_file(f.join("tokenizer.json")).unwrap(), &["tokenizer.json is missing"]);
    check(|f| fs::write(f.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json: expected a tokenizer"]);
    check(
        |f| edit_json(f, "config.json", |c| c["text_config"]["vocab_size"] = json!(200)),
        &["tokenizer: vocabulary: expected ids below the model's vocab_size of 200, found id 287"],
    );
    check(
        |f| edit_json(f, "config.json", |c| c["image_token_index"] = json!(100)),
        &["tokenizer: image token: expected a special token with id 100 (image_token_index), found the ordinary token"],
    );
}

#[test]
fn a_folder_that_is_none_is_named() {
    let error = Plan::open(Path::new("/nowhere/at/all")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all is missing: a model is a folder with config.json"), "{error}");
}

#[test]
fn inspection_counts_what_is_there() {
    let report = probe::inspect(&source()).unwrap();
    let p = &report.parameters;
    assert_eq!(
        (report.vision.as_str(), report.language.as_str(), report.tokens_per_frame),
        ("clip_vision_model", "llama", 16)
    );
    assert_eq!(p.total, p.vision + p.projector + p.embedding + p.layers);
    assert_eq!((p.embedding, p.projector), (2 * 288 * 32, 2 * (32 * 32 + 32)));
    // The last of the tower's layers and its last norm are stored, but the one before is what LLaVA reads.
    assert_eq!(p.unused, 4 * (32 * 32 + 32) + 2 * 48 * 32 + 48 + 32 + 4 * 32 + 2 * 32);
    assert_eq!((report.dtype.as_str(), report.memory.weights), ("f32", p.total * 4));
    assert_eq!(report.bytes_on_disk, (p.total + p.unused) * 4);
}

/// spotter-mini is a checkpoint like any other.
#[test]
fn breaks_of_spotters_own_tower_are_named() {
    let mini = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let check = |break_it: &dyn Fn(&Path), expected: &[&str]| check_from(&mini, break_it, expected);
    let class = "vision_tower.embeddings.class";
    let lose = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(class).unwrap();
        header["elsewhere"] = tensor;
    };
    check(&|f| edit_header(f, lose), &[class, "found no such tensor"]);
    let vision = |name: &'static str, value: Value| {
        move |f: &Path| edit_json(f, "config.json", |c| c["vision_config"][name] = value.clone())
    };
    check(&vision("intermediate_size", json!(100)), &["vision_tower.layers.0.mlp.fc1.weight", "expected shape [100, "]);
    check(&vision("patch_size", json!(15)), &["vision_config", "must be a multiple of patch_size 15"]);
    check(&vision("num_hidden_layers", json!("six")), &["vision_config", "invalid type"]);
    check(
        &|f| edit_json(f, "config.json", |c| c["text_config"]["vocab_size"] = json!(1000)),
        &["vocabulary", "below the model's vocab_size of 1000"],
    );
    let still = |f: &Path| {
        let text = fs::read_to_string(f.join("spotter.toml")).unwrap();
        fs::write(f.join("spotter.toml"), text.replace("delta = true", "delta = false")).unwrap();
    };
    check(&still, &["spotter.toml: vision.delta", "expected true, as the model was trained, found false"]);
}
