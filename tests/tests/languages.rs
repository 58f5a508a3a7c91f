//! Logits of tiny language models against those that the Python package transformers computed for the same files
//! (`tests/parity/make_language_goldens.py`).
#![expect(clippy::print_stdout, reason = "what was found is shown when a test fails")]

use candle_core::{DType, Device, IndexOp, Tensor};
use spotter_engine::{
    model::{
        Decoder, DecoderConfig, HfDecoderConfig, KvCache, LanguageModel, Mode,
        config::{DecoderKind, Multipliers},
    },
    prompt::Message,
    weights::{Checkpoint, read_json},
};
use spotter_tests::{difference, goldens};
use std::{collections::HashMap, path::PathBuf};

const CASES: [&str; 2] = ["hyperclovax", "seed-text"];
const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Conversation {
    messages: Vec<Plain>,
    prompt: String,
}

#[derive(serde::Deserialize)]
struct Plain {
    role: spotter_engine::prompt::Role,
    content: String,
}

struct Golden {
    folder: PathBuf,
    model: LanguageModel,
    tensors: HashMap<String, Tensor>,
    conversations: HashMap<String, Conversation>,
}

fn golden(case: &str) -> Golden {
    let folder = goldens(case);
    let model = LanguageModel::open(&folder, DType::F32, &Device::Cpu).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let conversations = std::fs::read_to_string(folder.join("golden.json"));
    let conversations = conversations.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
    Golden { folder, model, tensors, conversations }
}

impl Golden {
    fn ids(&self, name: &str) -> Vec<u32> {
        spotter_tests::ids(&self.tensors[name])
    }
}

fn logits(decoder: &Decoder, ids: &[u32], cache: Option<&mut KvCache>) -> Tensor {
    let x = decoder.embed(&Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
    decoder.logits(&decoder.forward(&x, cache).unwrap()).unwrap().squeeze(0).unwrap()
}

fn report(case: &str, what: &str, off: f32) -> bool {
    println!("{case:<14} {what:<28} {off:.2e}");
    off <= TOLERANCE
}

#[test]
fn logits_agree_with_transformers() {
    let mut fine = true;
    for case in CASES {
        let g = golden(case);
        let decoder = &g.model.decoder;
        for name in ["plain", "turns"] {
            let rows = g.tensors[&format!("{name}.rows")].to_dtype(DType::U32).unwrap();
            let found = logits(decoder, &g.ids(&format!("{name}.input_ids")), None).index_select(&rows, 0).unwrap();
            fine &= report(case, name, difference(&found, &g.tensors[&format!("{name}.logits")]));
        }
        let mut cache = KvCache::new(decoder.config(), 512, DType::F32, &Device::Cpu).unwrap();
        let ids = g.ids("plain.input_ids");
        let mut last = logits(decoder, &ids, Some(&mut cache)).i(ids.len() - 1).unwrap();
        let mut worst = 0f32;
        for (step, expected) in g.ids("steps.ids").into_iter().enumerate() {
            assert_eq!(last.argmax(0).unwrap().to_scalar::<u32>().unwrap(), expected, "{case}: greedy token {step}");
            last = logits(decoder, &[expected], Some(&mut cache)).squeeze(0).unwrap();
            worst = worst.max(difference(&last, &g.tensors["steps.logits"].i(step).unwrap()));
        }
        fine &= report(case, "greedy steps", worst);
    }
    assert!(fine, "a difference above {TOLERANCE:e}: see the table");
}

/// Specs: hyperclovax, check 4.
#[test]
fn every_setting_of_hyperclovax_agrees_with_transformers() {
    let g = golden("hyperclovax");
    let (full, ids) = (g.model.decoder.config().clone(), g.ids("plain.input_ids"));
    let weights = Checkpoint::open(&g.folder).unwrap().var_builder(DType::F32, &Device::Cpu).unwrap();
    let (mut fine, mut distinct) = (true, Vec::<Tensor>::new());
    for bits in 0..32usize {
        let (mut config, all) = (full.clone(), &full.multipliers);
        let on = |bit: usize| bits & bit != 0;
        config.multipliers = Multipliers {
            embedding: if on(1) { all.embedding } else { 1.0 },
            attention: all.attention.filter(|_| on(2)),
            residual: if on(4) { all.residual } else { 1.0 },
            logits: if on(8) { all.logits } else { 1.0 },
        };
        config.post_norm = on(16);
        let decoder = Decoder::new(&config, weights.clone(), Mode::Infer).unwrap();
        let found = logits(&decoder, &ids, None).i(ids.len() - 1).unwrap();
        fine &= report(
            "hyperclovax",
            &format!("setting {bits:05b}"),
            difference(&found, &g.tensors["settings"].i(bits).unwrap()),
        );
        assert!(distinct.iter().all(|other| difference(other, &found) > 1e-2), "setting {bits:05b} changes nothing");
        distinct.push(found);
    }
    assert!(fine, "a difference above {TOLERANCE:e}: see the table");
}

/// Without factors and norms behind, it is a Llama, bit for bit.
#[test]
fn a_plain_hyperclovax_is_a_llama() {
    let g = golden("seed-text");
    let hf: HfDecoderConfig = read_json(&g.folder.join("config.json")).unwrap();
    let named = HfDecoderConfig { model_type: Some("hyperclovax".into()), use_post_norm: Some(false), ..hf.clone() };
    let config = DecoderConfig::from_hf(&named, "").unwrap();
    assert_eq!((config.kind, config.head_dim, config.tied), (DecoderKind::HyperClovaX, 8, true));
    let weights = Checkpoint::open(&g.folder).unwrap().var_builder(DType::F32, &Device::Cpu).unwrap();
    // The root, as files write it.
    let rounded = HfDecoderConfig { attention_multiplier: Some(0.353_553_39), ..named };
    let ids = g.ids("turns.input_ids");
    let expected = logits(&g.model.decoder, &ids, None);
    for config in [config, DecoderConfig::from_hf(&rounded, "").unwrap()] {
        let decoder = Decoder::new(&config, weights.clone(), Mode::Infer).unwrap();
        assert_eq!(difference(&logits(&decoder, &ids, None), &expected), 0.0);
    }
}

#[test]
fn prompts_and_ends_are_those_of_seed() {
    for (case, ends) in [("hyperclovax", vec![3, 4, 0]), ("seed-text", vec![3, 4, 0])] {
        let mut g = golden(case);
        // `<|im_end|>` is 2, which the configuration of the first names as an end; it ends a block only.
        assert_eq!(g.model.ends(), ends, "{case}");
        let own = g.model.template.take().unwrap();
        let known = spotter_engine::prompt::ChatTemplate::by_tokens(&g.model.tokenizer, "<image>").unwrap();
        for (name, conversation) in &g.conversations {
            let messages: Vec<_> = conversation.messages.iter().map(|m| Message::text(m.role, &m.content)).collect();
            for template in [&own, &known] {
                assert_eq!(template.render(&messages, true).unwrap(), conversation.prompt, "{case} {name}");
            }
            let ids = g.model.tokenizer.encode(&conversation.prompt, false).unwrap();
            assert_eq!(ids, g.ids(&format!("{name}.input_ids")), "{case} {name}");
        }
        // What the model writes around an answer is never said.
        let spoken = g.model.tokenizer.encode("좋아요!<|im_end|><|endofturn|>", false).unwrap();
        assert_eq!(g.model.tokenizer.decode(&spoken).unwrap(), "좋아요!");
    }
}

/// Nothing about HyperCLOVA X is published elsewhere, so nothing is guessed.
#[test]
fn files_that_say_too_little_are_refused() {
    let source = golden("hyperclovax").folder;
    let try_with = |edit: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(&path, serde_json::to_string(&config).unwrap()).unwrap();
        LanguageModel::open(folder.path(), DType::F32, &Device::Cpu)
    };
    for field in ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads"] {
        let error = try_with(&|config| drop(config.remove(field))).err().unwrap().to_string();
        assert!(error.contains(&format!("`{field}`: expected a number, found nothing")), "{error}");
    }
    let error = try_with(&|c| drop(c.insert("logits_scaling".into(), 0.into()))).err().unwrap().to_string();
    assert!(error.contains("`logits_scaling`: expected a positive number, found 0"), "{error}");
    let error = try_with(&|c| drop(c.insert("use_post_norm".into(), false.into()))).err().unwrap().to_string();
    assert!(error.contains("`use_post_norm`: expected true, found false, but model.layers.0.post_norm1"), "{error}");
    let open = try_with(&|config| drop(config.remove("use_post_norm"))).unwrap();
    assert!(open.decoder.config().post_norm, "the tensors tell");
}

/// VideoLLM-online's layout: an adapter with the head in it and a connector beside it, its base in a folder of its own.
#[test]
fn an_adapter_is_merged_as_peft_does() {
    let g = golden("live-lora");
    let ids = g.ids("input_ids");
    let rows = Tensor::from_iter((0..ids.len() as u32).step_by(5), &Device::Cpu).unwrap();
    let found = logits(&g.model.decoder, &ids, None).index_select(&rows, 0).unwrap();
    assert!(report("live-lora", "adapter merged", difference(&found, &g.tensors["logits"])));
    let bare = LanguageModel::open(&g.folder.join("base"), DType::F32, &Device::Cpu).unwrap();
    let bare = logits(&bare.decoder, &ids, None).index_select(&rows, 0).unwrap();
    assert!(difference(&bare, &found) > 0.1, "the adapter changes something");
    let checkpoint = Checkpoint::open(&g.folder).unwrap();
    let weights = checkpoint.var_builder(DType::F32, &Device::Cpu).unwrap();
    let connector = weights.get((32, 16), "connector.0.weight").unwrap();
    assert_eq!(difference(&connector, &g.tensors["connector"]), 0.0);
    assert_eq!(checkpoint.tensors()["connector.2.bias"].shape, [32]);
}

#[test]
fn adapters_that_do_not_fit_are_named() {
    let source = golden("live-lora").folder;
    let refused = |edit: &dyn Fn(&std::path::Path, &mut serde_json::Value)| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("base")).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors", "base/config.json", "base/model.safetensors"] {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("adapter_config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(folder.path(), &mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        Checkpoint::open(folder.path()).unwrap_err().to_string()
    };
    let check = |field: &str, value: serde_json::Value, expected: &str| {
        let error = refused(&|_, config| config[field] = value.clone());
        assert!(error.contains(expected), "{field}: {error}");
    };
    check("use_dora", true.into(), "`adapter_config.json: use_dora`: expected false, found true");
    check("peft_type", "IA3".into(), "expected LORA, found `IA3`");
    check("lora_alpha", serde_json::Value::Null, "lora_alpha`: expected a number");
    let tensors = |folder: &std::path::Path, edit: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let path = folder.join("adapter_model.safetensors");
        let mut all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        edit(&mut all);
        candle_core::safetensors::save(&all, path).unwrap();
    };
    let up = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
    let error = refused(&|folder, _| tensors(folder, &|all| drop(all.remove(up))));
    assert!(error.contains(&format!("`{up}` is missing")), "{error}");
    let error = refused(&|folder, _| {
        tensors(folder, &|all| drop(all.insert(up.into(), all["base_model.model.connector.2.weight"].clone())))
    });
    assert!(error.contains("do not fit [32, 32]"), "{error}");
    let stray = "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight";
    let error = refused(&|folder, _| tensors(folder, &|all| drop(all.insert(stray.into(), all[up].clone()))));
    assert!(error.contains("the base has no `model.layers.9.self_attn.q_proj.weight`"), "{error}");
    let error = refused(&|folder, config| {
        std::fs::remove_dir_all(folder.join("base")).unwrap();
        config["base_model_name_or_path"] = "meta-llama/Meta-Llama-3-8B-Instruct".into();
    });
    assert!(
        error.contains(
            "the adapter's base `meta-llama/Meta-Llama-3-8B-Instruct` is no folder here: put that model into"
        ),
        "{error}"
    );
}
