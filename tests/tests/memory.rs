//! What a model takes of memory, told before it is loaded, against what the program takes.

mod common;

use common::{command, stderr, stdout};
use serde_json::{Value, json};
use spotter_engine::model::{
    connector::Connector, llava_config::LlavaConfig, plan::decoder_tensors, projector::VisionManifest,
};
use spotter_tests::goldens;
use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

/// A checkpoint of another size in the layout of the golden one, in bf16; the numbers are noise, or holes in the file.
fn checkpoint(edit: impl Fn(&mut Value), noise: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"] {
        fs::copy(goldens("clip-llama").join(file), folder.path().join(file)).unwrap();
    }
    let mut config: Value =
        serde_json::from_slice(&fs::read(goldens("clip-llama").join("config.json")).unwrap()).unwrap();
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let config = LlavaConfig::from_hf(&serde_json::from_value(config).unwrap()).unwrap();
    let (embedding, layers) = decoder_tensors(&config.text, "language_model.model.", "language_model.lm_head.");
    let mut specs = config.vision.tensors(config.vision_depth, "vision_tower.vision_model.");
    let (hidden, width) = (config.vision.hidden_size(), config.text.width);
    let plain = VisionManifest::default();
    specs.extend(Connector::tensors(&config.connector, &plain, hidden, width, "multi_modal_projector"));
    specs.extend(embedding.into_iter().chain(layers));
    let (mut header, mut end) = (serde_json::Map::new(), 0usize);
    for spec in &specs {
        let bytes = 2 * spec.shape.iter().product::<usize>();
        header.insert(
            spec.name.clone(),
            json!({ "dtype": "BF16", "shape": spec.shape, "data_offsets": [end, end + bytes] }),
        );
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    let file = File::create(folder.path().join("model.safetensors")).unwrap();
    let mut out = BufWriter::new(&file);
    out.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    out.write_all(header.as_bytes()).unwrap();
    if noise {
        // Small numbers of both signs: bf16 from 2^-7 to 2^-6.
        let block: Vec<u8> = (0..1u32 << 19)
            .flat_map(|i| {
                let bits = i.wrapping_mul(2_654_435_761) >> 16;
                (0x3c00 | (bits & 0x807f) as u16).to_le_bytes()
            })
            .collect();
        let mut left = end;
        while left > 0 {
            let n = left.min(block.len());
            out.write_all(&block[..n]).unwrap();
            left -= n;
        }
    }
    out.flush().unwrap();
    drop(out);
    file.set_len((8 + header.len() + end) as u64).unwrap();
    folder
}

fn inspect(folder: &Path, more: &[&str]) -> Value {
    let out = command(&[&["models", "inspect", folder.to_str().unwrap(), "--json"], more].concat()).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    serde_json::from_str(&stdout(&out)).unwrap()
}

#[test]
fn the_prediction_holds_within_5_percent() {
    let folder = checkpoint(
        |config| {
            let text = &mut config["text_config"];
            (text["hidden_size"], text["intermediate_size"]) = (2048.into(), 5632.into());
            (text["num_hidden_layers"], text["num_attention_heads"]) = (3.into(), 32.into());
            (text["num_key_value_heads"], text["head_dim"]) = (2.into(), 64.into());
        },
        true,
    );
    let told = inspect(folder.path(), &["--device", "cpu"]);
    let need = |name: &str| told["streaming"][name].as_u64().unwrap();
    assert_eq!(need("weights"), told["memory"]["weights_f32"].as_u64().unwrap());
    let model = folder.path().to_str().unwrap();
    let out = command(&[
        "replay",
        "pattern:64x64@2:3s",
        "--headless",
        "--json",
        "--stats",
        "--lens",
        "none",
        "--model",
        model,
    ])
    .output()
    .unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    let timing =
        stdout(&out).lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|l| l["type"] == "timing");
    let Some(peak) = timing.unwrap()["peak_bytes"].as_u64() else {
        println!("skipped: this system does not tell");
        return;
    };
    let share = need("total") as f64 / peak as f64;
    println!("predicted {} MB, taken {} MB at most: {share:.3}", need("total") / 1_000_000, peak / 1_000_000);
    assert!((0.95..=1.05).contains(&share), "{told} against {peak}");
    // A second copy, or the file beside it, would be half as much again.
    assert!(peak < need("weights") * 13 / 10);
}

/// What a card holds of a model of 2.4 billion parameters, as its driver counts, while it is streamed.
#[test]
#[ignore = "needs an NVIDIA card, a build with the feature cuda, and nvidia-smi"]
fn the_prediction_for_a_card_holds_within_5_percent() {
    assert_eq!(std::env::var("SPOTTER_TEST_DEVICE").as_deref(), Ok("cuda"), "SPOTTER_TEST_DEVICE");
    let used = || {
        let out = std::process::Command::new("nvidia-smi")
            .args(["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"])
            .output()
            .unwrap();
        stdout(&out).trim().parse::<u64>().unwrap() << 20
    };
    let folder = checkpoint(
        |config| {
            let text = &mut config["text_config"];
            (text["hidden_size"], text["intermediate_size"]) = (4096.into(), 11_008.into());
            (text["num_hidden_layers"], text["num_attention_heads"]) = (12.into(), 32.into());
            (text["num_key_value_heads"], text["head_dim"]) = (32.into(), 128.into());
        },
        true,
    );
    let told = inspect(folder.path(), &["--device", "cuda"]);
    let need = |name: &str| told["streaming"][name].as_u64().unwrap();
    assert_eq!(
        need("weights"),
        told["memory"]["weights"].as_u64().unwrap(),
        "in the half type that they are stored in"
    );
    let before = used();
    let model = folder.path().to_str().unwrap();
    let mut child = command(&["replay", "pattern:64x64@2:60s", "--headless", "--lens", "none", "--model", model])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(used());
    }
    assert!(child.wait().unwrap().success());
    let taken = most.saturating_sub(before);
    let share = need("total") as f64 / taken as f64;
    println!(
        "predicted {} MB, the driver counts {} MB: {share:.3}; {}",
        need("total") / 1_000_000,
        taken / 1_000_000,
        told["streaming"]
    );
    assert!((0.95..=1.05).contains(&share), "{told} against {taken}");
}

/// What a card would have to hold is told without one.
#[test]
fn a_card_is_predicted_where_there_is_none() {
    let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let (here, there) = (inspect(&mini, &["--device", "cpu"]), inspect(&mini, &["--device", "cuda"]));
    let need = |told: &Value, name: &str| told["streaming"][name].as_u64().unwrap();
    // A small model computes in f32 on both; the card has a context instead of a program, and graphs are for half types.
    for same in ["weights", "cache", "tables"] {
        assert_eq!(need(&here, same), need(&there, same), "{same}");
    }
    assert_eq!((need(&there, "graphs"), need(&there, "tokenizer")), (0, 0));
    assert!(need(&there, "program") > need(&here, "program"));
    let large = checkpoint(
        |config| {
            let text = &mut config["text_config"];
            (text["hidden_size"], text["intermediate_size"]) = (2048.into(), 5632.into());
            (text["num_hidden_layers"], text["num_attention_heads"], text["num_key_value_heads"]) =
                (12.into(), 32.into(), 32.into());
        },
        false,
    );
    let (here, there) = (inspect(large.path(), &["--device", "cpu"]), inspect(large.path(), &["--device", "cuda"]));
    assert_eq!(need(&here, "weights"), 2 * need(&there, "weights"), "half types");
    assert!(
        need(&there, "graphs") > 1 << 20
            && there["device"].as_str().unwrap().ends_with("; bf16, which its weights are stored in")
    );
    let parts = ["weights", "cache", "tables", "work", "graphs", "tokenizer", "program", "lost"];
    assert_eq!(parts.iter().map(|part| need(&there, part)).sum::<u64>(), need(&there, "total"));
}

#[test]
fn a_cache_budget_is_counted() {
    let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini");
    let cache = |more: &[&str]| inspect(&mini, more)["streaming"]["cache"].as_u64().unwrap();
    let (own, small) = (cache(&[]), cache(&["--cache-policy", "keydiff", "--cache-budget", "64"]));
    assert!(small * 2 < own, "{small} {own}");
}

/// Terabytes of holes: nothing but the header may be read.
#[test]
fn a_model_that_is_too_large_is_refused_before_it_is_loaded() {
    if !Path::new("/proc/meminfo").exists() {
        println!("skipped: this system does not tell");
        return;
    }
    let folder = checkpoint(
        |config| {
            let text = &mut config["text_config"];
            (text["hidden_size"], text["intermediate_size"]) = (16_384.into(), 65_536.into());
            (text["num_hidden_layers"], text["num_attention_heads"], text["num_key_value_heads"]) =
                (200.into(), 128.into(), 8.into());
        },
        false,
    );
    let begun = std::time::Instant::now();
    let model = folder.path().to_str().unwrap();
    let out =
        command(&["replay", "pattern:64x64@2:1s", "--headless", "--lens", "none", "--model", model]).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = stderr(&out);
    assert!(said.contains("GB weights") && said.contains("of memory are free") && said.contains("would fit"), "{said}");
    assert!(begun.elapsed().as_secs() < 20);
}
