//! BERTScore against the Python package bert_score on tiny random checkpoints (tests/python/bert_score_golden.py).

use candle_core::Device;
use serde_json::Value;
use spotter_engine::bert::BertScore;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/bert_score")
}

/// Largest difference to the golden over all pairs, with the sides swapped where asked.
fn off(kind: &str, swapped: bool) -> f64 {
    let golden: Value = serde_json::from_slice(&std::fs::read(folder().join("golden.json")).unwrap()).unwrap();
    let layer = golden[kind]["layer"].as_u64().unwrap() as usize;
    let scorer = BertScore::open(&folder().join(kind), Some(layer), &Device::Cpu).unwrap();
    let (pairs, scores) = (golden["pairs"].as_array().unwrap(), golden[kind]["f1"].as_array().unwrap());
    assert!(pairs.len() >= 200 && pairs.len() == scores.len());
    pairs
        .iter()
        .zip(scores)
        .map(|(pair, score)| {
            let (truth, said) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
            let (truth, said) = if swapped { (said, truth) } else { (truth, said) };
            (scorer.f1(truth, said).unwrap() - score.as_f64().unwrap()).abs()
        })
        .fold(0.0, f64::max)
}

#[test]
fn equals_the_reference_on_three_hundred_pairs() {
    for kind in ["roberta", "bert"] {
        let off = off(kind, false);
        assert!(off < 1e-3, "{kind}: {off}");
        println!("{kind}: largest difference {off:.2e}");
    }
    // F1 is the same both ways, up to rounding: a check that is not one would pass with anything.
    assert!(off("roberta", true) < 1e-3);
}

#[test]
fn another_layer_scores_otherwise() {
    let f1 = |layer| {
        BertScore::open(&folder().join("roberta"), Some(layer), &Device::Cpu)
            .unwrap()
            .f1("Go on!", "Keep going")
            .unwrap()
    };
    assert!((f1(1) - f1(2)).abs() > 1e-3);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |f: &Path, layer| BertScore::open(f, layer, &Device::Cpu).map(|_| ()).unwrap_err().to_string();
    let roberta = folder().join("roberta");
    assert!(refused(&roberta, Some(9)).contains("layer 9: the model has 1 to 3"));
    assert!(refused(Path::new("/nowhere"), None).contains("/nowhere/config.json is missing"));
    let broken = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(roberta.join(file), broken.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(roberta.join("config.json")).unwrap();
    std::fs::write(broken.path().join("config.json"), config.replace("\"roberta\"", "\"gpt2\"")).unwrap();
    assert!(refused(broken.path(), None).contains("expected bert or roberta, found `gpt2`"));
    std::fs::write(
        broken.path().join("config.json"),
        config.replace("\"intermediate_size\": 48", "\"intermediate_size\": 50"),
    )
    .unwrap();
    assert!(refused(broken.path(), None).contains("shape"), "{}", refused(broken.path(), None));
}
