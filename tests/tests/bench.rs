//! `spotter bench` from outside.

mod common;

use common::{spotter, stderr, stdout};
use serde_json::Value;

fn rows(args: &[&str]) -> Vec<Value> {
    let out = spotter(&[&["bench"], args, &["--device", "cpu", "--json"]].concat());
    assert!(out.status.success(), "{}", stderr(&out));
    stdout(&out).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A minute and a half of media time past many evictions: nothing grows, and memory is what the formula says.
#[test]
fn an_endless_session_stays_within_its_formula() {
    let flags = ["--cache-policy", "keydiff", "--cache-budget", "80", "--cache-said", "0.25"];
    let more = ["--cache", "every=16", "--cache", "block=16"];
    let rows = rows(&[["session", "--hours", "0.025"].as_slice(), &flags, &more].concat());
    let [hour, end] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(hour["frames"], 720);
    assert!(hour["evictions"].as_u64().unwrap() > 40, "{hour}");
    assert!(hour["cache_len"].as_u64().unwrap() < 96, "{hour}");
    assert_eq!(hour["cache_bytes"], hour["formula_bytes"]);
    assert!(hour["to_control"].as_f64().unwrap() > 0.2 && hour["closings"].is_u64(), "{hour}");
    assert_eq!(end["bytes_as_computed"], true);
    assert_eq!(end["last_to_first_corrected"], 1.0);
}

#[test]
fn each_policy_and_pass_has_its_share_of_a_step() {
    let flags = ["--policy", "keydiff,snapkv", "--budget", "96", "--every", "16", "--block", "8,32"];
    let rows = rows(&[["cache"].as_slice(), &flags, &["--steps", "20", "--passes", "3"]].concat());
    let blocks: Vec<_> = rows.iter().map(|r| (r["policy"].as_str().unwrap(), r["block"].as_u64().unwrap())).collect();
    assert_eq!(blocks, [("keydiff", 8), ("keydiff", 32), ("snapkv", 8), ("snapkv", 32)]);
    for row in &rows {
        for field in ["step_ms", "plain_step_ms", "evict_ms", "pass_ms", "plain_pass_ms", "pass_evict_ms", "share"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field}: {row}");
        }
    }
}

/// A published folder, and weights by chance with its tokenizer, as GGUF files that read and write at some speed.
#[test]
fn a_packed_language_model_reads_and_writes() {
    let at = tempfile::tempdir().unwrap();
    let path = |name: &str| at.path().join(name).to_string_lossy().into_owned();
    let folder = spotter_tests::goldens("seed-text").to_string_lossy().into_owned();
    let quantize = |more: &[&str]| {
        let out = spotter(&[&["models", "quantize", folder.as_str()], more].concat());
        (out.status.success(), stdout(&out), stderr(&out))
    };
    let (ok, _, error) = quantize(&[&path("plain.gguf"), "--type", "q8_0", "--json"]);
    assert!(ok, "{error}");
    let (ok, text, error) = quantize(&[&path("random.gguf"), "--type", "q4_k", "--random", "tiny", "--json"]);
    assert!(ok, "{error}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["bits_per_number"].as_f64().unwrap() < 5.5, "{report}");
    assert_eq!(report["types"]["Q4K"], 14, "{report}");
    let (ok, _, error) = quantize(&[&path("plain.gguf"), "--type", "q8_0"]);
    assert!(!ok && error.contains("is there already"), "{error}");
    for (name, prompt) in [("plain.gguf", "12"), ("random.gguf", "40")] {
        let flags = ["language", "--model", &path(name), "--prompt", prompt, "--tokens", "6", "--rounds", "2"];
        let rows = rows(&flags);
        let row = &rows[0];
        assert_eq!((rows.len(), row["ids"].as_array().unwrap().len()), (1, 6), "{row}");
        assert_eq!(row["prompt_ids"].as_array().unwrap().len().to_string(), prompt);
        for what in ["prefill", "decode"] {
            let rates = row[what].as_array().unwrap();
            assert!(rates.len() == 2 && rates.iter().all(|rate| rate.as_f64().unwrap() > 0.0), "{row}");
        }
    }
}
