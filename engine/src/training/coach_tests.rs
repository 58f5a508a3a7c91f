//! Each stage of the coach's training on tiny shapes: every variable learns, and a run that was stopped is taken up again.

use super::{coach::*, dense::*};
use crate::model::{DecoderConfig, HfDecoderConfig};
use candle_core::{Device, Result, Tensor, Var};
use spotter_vision::{
    encoder::vit::{Vit, VitConfig},
    training::{AdamWSettings, Variables},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

const ACTIONS: Actions = Actions { next: 1, feedback: 2, end: 3 };
const KINDS: Kinds = Kinds { exercises: 3, mistakes: 2 };
const FRAMES: usize = 24;
const WIDTH: usize = 12;

fn config() -> DecoderConfig {
    let hf = serde_json::json!({
        "model_type": "llama", "vocab_size": 16, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": true, "hidden_act": "silu",
    });
    DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap()
}

fn vit_config() -> VitConfig {
    VitConfig {
        image_size: 16,
        patch_size: 8,
        hidden_size: WIDTH,
        intermediate_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        ..VitConfig::default()
    }
}

fn stream() -> Stream {
    let truth = |i: usize| FrameTruth {
        exercise: 1 + (i / 12) as u32,
        phase: Some(i as f32 / 8.0 % 1.0),
        count: Some(i as u32 / 8),
        mistakes: (i % 4) as u32,
    };
    Stream {
        truths: (0..FRAMES).map(truth).collect(),
        utterances: vec![(3, vec![5, 6]), (9, vec![7]), (15, vec![8, 9, 10]), (20, vec![11])],
        exercises: [(0, 12), (12, FRAMES)]
            .map(|(begin, end)| Stretch { announced: begin, begin, end, prompt: vec![4, 12] })
            .into(),
        unnamed: vec![4],
    }
}

/// Pictures of a stream that a tower sees while it learns.
struct Tower(Vit, VitConfig);

impl Eyes for Tower {
    type Frames = Vec<u8>;

    fn width(&self) -> usize {
        WIDTH
    }

    fn fetch(&self, stream: usize, from: usize, to: usize) -> Result<Vec<u8>> {
        let picture = |i: usize| (0..16 * 16 * 3).map(|p| ((p * (i + 3) + stream) % 251) as u8).collect::<Vec<_>>();
        let all: Vec<Vec<u8>> = (from..to).map(picture).collect();
        Vit::cut(&self.1, &all.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn see(&self, frames: Vec<u8>) -> Result<Tensor> {
        self.0.class_tokens(&Vit::patches(&self.1, frames, &Device::Cpu)?)
    }
}

fn run(folder: &std::path::Path, name: &str, steps: usize) -> CoachTraining {
    CoachTraining {
        batch: 4,
        workers: 1,
        makers: 1,
        frames: 16,
        kinds: KINDS,
        silence_weight: 0.1,
        optimiser: AdamWSettings { learning_rate: 3e-3, weight_decay: 0.0, warmup: 2, steps, clip: 1.0, until: None },
        seed: 5,
        weights: folder.join(format!("{name}.safetensors")),
        state: folder.join(format!("{name}-state.safetensors")),
        save_every: 4,
    }
}

fn values(vars: &[(String, Var)]) -> Vec<(String, Vec<f32>)> {
    let of = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    vars.iter().map(|(name, var)| (name.clone(), of(var))).collect()
}

/// Without decay AdamW moves what has a gradient, and nothing else.
fn all_moved(before: &[(String, Vec<f32>)], after: &[(String, Vec<f32>)]) -> Vec<String> {
    assert_eq!(before.len(), after.len());
    let still = before.iter().zip(after).filter(|((_, a), (_, b))| a == b);
    still.map(|((name, _), _)| name.clone()).collect()
}

fn encoded() -> Encoded {
    let numbers = (0..FRAMES * WIDTH).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect::<Vec<_>>();
    Encoded(vec![Tensor::from_vec(numbers, (FRAMES, WIDTH), &Device::Cpu).unwrap()])
}

#[test]
fn words_move_every_weight_of_the_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let vars = Variables::seeded(1, &Device::Cpu);
    let lines = vec![vec![4, 5, 6, 3], vec![4, 12, 7, 8, 9, 3], (0..16).collect()];
    let first = run(folder.path(), "words", 1);
    train_text(&config(), &vars, &first, &lines, &mut |_, _| {}).unwrap();
    let fresh = Variables::seeded(1, &Device::Cpu);
    crate::model::Decoder::new(&config(), fresh.builder().pp("language_model"), crate::model::Mode::Train).unwrap();
    assert_eq!(all_moved(&values(&fresh.all()), &values(&vars.all())), [""; 0]);
}

#[test]
fn sessions_move_projector_decoder_and_heads() {
    let folder = tempfile::tempdir().unwrap();
    let vars = Variables::seeded(1, &Device::Cpu);
    let (streams, eyes) = ([stream()], encoded());
    let corpus = Corpus { streams: &streams, eyes: &eyes };
    let settings = CoachTraining { batch: 16, ..run(folder.path(), "coach", 1) };
    let losses = train(&config(), ACTIONS, &vars, &settings, &corpus, &corpus, &mut |_| {}).unwrap();
    assert!(losses.action.is_finite() && losses.text.is_finite() && losses.dense.is_finite());
    let fresh = Variables::seeded(1, &Device::Cpu);
    CoachModel::new(&config(), WIDTH, ACTIONS, KINDS, &fresh).unwrap();
    // Of all counts, those that nobody did are pushed down alike; a key's bias does not exist here.
    assert_eq!(all_moved(&values(&fresh.all()), &values(&vars.all())), [""; 0]);
}

#[test]
fn the_joint_stage_moves_the_tower_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let vars = Variables::seeded(1, &Device::Cpu);
    let tower =
        |vars: &Variables| Tower(Vit::new(&vit_config(), vars.builder().pp("vision_tower")).unwrap(), vit_config());
    let (streams, eyes) = ([stream()], tower(&vars));
    let before = values(&vars.all());
    let corpus = Corpus { streams: &streams, eyes: &eyes };
    let settings = CoachTraining { batch: 16, ..run(folder.path(), "joint", 1) };
    train(&config(), ACTIONS, &vars, &settings, &corpus, &corpus, &mut |_| {}).unwrap();
    let after: Vec<_> = values(&vars.all()).into_iter().filter(|(name, _)| name.starts_with("vision_tower")).collect();
    assert!(!before.is_empty());
    // A bias of the keys moves all scores of a query alike, which softmax takes out; rounding may leave it where it was.
    let still: Vec<_> = all_moved(&before, &after).into_iter().filter(|name| !name.contains("qkv.bias")).collect();
    assert_eq!(still, [""; 0]);
}

/// Stopped between two checkpoints, as by a full disk; it ends where an unbroken run does, bit for bit.
#[test]
fn a_stopped_run_is_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let (streams, eyes) = ([stream()], encoded());
    let corpus = Corpus { streams: &streams, eyes: &eyes };
    let go = |vars: &Variables, settings: &CoachTraining, most: usize| {
        catch_unwind(AssertUnwindSafe(|| {
            train(&config(), ACTIONS, vars, settings, &corpus, &corpus, &mut |p| assert!(p.step < most, "stopped"))
        }))
    };
    let whole = Variables::seeded(1, &Device::Cpu);
    go(&whole, &run(folder.path(), "whole", 10), usize::MAX).unwrap().unwrap();
    let (halves, settings) = (Variables::seeded(1, &Device::Cpu), run(folder.path(), "halves", 10));
    assert!(go(&halves, &settings, 6).is_err() && settings.resumes());
    let again = Variables::load(&settings.weights, 1, &Device::Cpu).unwrap();
    go(&again, &settings, usize::MAX).unwrap().unwrap();
    assert_eq!(values(&again.all()), values(&whole.all()));
    // The planted bug: a run that forgets its optimiser ends elsewhere.
    std::fs::remove_file(&settings.state).unwrap();
    let lost = Variables::load(&settings.weights, 1, &Device::Cpu).unwrap();
    go(&lost, &settings, usize::MAX).unwrap().unwrap();
    assert_ne!(values(&lost.all()), values(&whole.all()));
}
