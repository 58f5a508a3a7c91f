//! A drafter that sees, trained end to end beside one that reads text only.

use super::{
    align::{Loss, Moments},
    drafter::*,
    judge::{Beside, judge},
    lines::{Kept, Line, Lines, PICTURE, Seen},
    parts::{Batch, Part},
};
use crate::model::{Adapter, AdapterConfig, Decoder, DecoderConfig, HfDecoderConfig, Mode};
use candle_core::Device;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use spotter_vision::training::{AdamWSettings, Variables};

const VOCAB: usize = 20;
const WIDTH: usize = 32;
const FEEDBACK: u32 = 2;
const END: u32 = 3;
const NEVER: [u32; 2] = [1, FEEDBACK];

fn config(width: usize, layers: usize) -> DecoderConfig {
    let hf = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": false, "hidden_act": "silu",
    });
    DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap()
}

/// What is said of four pictures: a word for each that nothing but the picture tells, then the end.
fn said(lines: usize, seed: u64) -> Lines {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut kept = Kept::new(VOCAB);
    let mut seen = Seen { tokens: 1, frames: 1, width: WIDTH, values: Vec::new() };
    let mut line = |_| {
        let mut line = Line::plain(vec![7]);
        for _ in 0..6 {
            let kind = rng.random_range(0..4);
            seen.values
                .extend((0..WIDTH).map(|i| ((i * (kind + 3)) as f32 * 0.61).sin() + rng.random_range(-0.2..0.2)));
            let word = 10 + if rng.random_bool(0.9) { kind } else { rng.random_range(0..4) };
            line.ids.extend([PICTURE, FEEDBACK, word as u32, END]);
            line.spoken.extend([false, false, true, true]);
            let mut row = [0.0; VOCAB];
            row[10..14].fill(0.025);
            row[10 + kind] += 0.9;
            kept.push(&row);
            row = [0.0; VOCAB];
            row[END as usize] = 1.0;
            kept.push(&row);
        }
        line
    };
    let lines = (0..lines).map(&mut line).collect();
    Lines::new(lines, Some(kept)).with_seen(Some(seen))
}

const ADAPTER: AdapterConfig = AdapterConfig { tokens: 1, frames: 1, from: WIDTH, width: 16 };

fn run(folder: &std::path::Path, name: &str, adapter: Option<AdapterConfig>) -> DrafterTraining {
    DrafterTraining {
        batch: 16,
        workers: 1,
        length: 32,
        plain: 0.0,
        optimiser: AdamWSettings {
            learning_rate: 5e-3,
            weight_decay: 0.0,
            warmup: 10,
            steps: 150,
            clip: 1.0,
            until: None,
        },
        seed: 3,
        head: None,
        adapter,
        weights: folder.join(format!("{name}.safetensors")),
        state: folder.join(format!("{name}-state.safetensors")),
        save_every: 500,
    }
}

/// S1.7 in small: where words depend on pictures a drafter that sees is accepted more often. A planted bug: it is shown
/// those of other moments, and gains nothing.
#[test]
fn seeing_pays_where_words_depend_on_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (lines, held_out) = (said(150, 1), said(40, 2));
    let shape = config(16, 1);
    let train = |name: &str, lines: &Lines, held_out: &Lines, adapter: Option<AdapterConfig>| {
        let vars = Variables::seeded(1, &Device::Cpu);
        let teacher = Teacher::Kept(lines.kept.as_ref().unwrap());
        let lesson = Lesson { loss: Loss::TvdPlus(Moments::Batch), lines, teacher, plain: &[], never: &NEVER };
        tune(&shape, &vars, &run(folder.path(), name, adapter), &lesson, &mut |_| {}).unwrap();
        let teacher = Teacher::Kept(held_out.kept.as_ref().unwrap());
        judge(&shape, &vars, held_out, teacher, Beside { never: &NEVER, adapter, ..Beside::default() }).unwrap()
    };
    let blind = train("blind", &lines.unseen(), &held_out.unseen(), None);
    let sees = train("sees", &lines, &held_out, Some(ADAPTER));
    assert_eq!(blind.tokens, sees.tokens, "the same words are judged");
    // Half of the tokens are words, of which a quarter is guessed without a picture.
    assert!(sees.acceptance.low > blind.acceptance.high + 0.15, "{sees:?} against {blind:?}");
    let shuffled = |lines: &Lines| {
        let mut lines = lines.clone();
        let seen = lines.seen.as_mut().unwrap();
        let by = seen.values.len() / 2 / seen.width * seen.width + seen.width;
        seen.values.rotate_left(by);
        lines
    };
    let wrong = train("wrong", &shuffled(&lines), &shuffled(&held_out), Some(ADAPTER));
    assert!(wrong.acceptance.mean < blind.acceptance.mean + 0.05, "{wrong:?}");
}

/// Every variable of decoder and adapter learns, also in a batch without pictures.
#[test]
fn every_variable_learns() {
    let lines = said(3, 1);
    let vars = Variables::seeded(1, &Device::Cpu);
    let decoder = Decoder::new(&config(16, 1), vars.builder(), Mode::Train).unwrap();
    let adapter = Adapter::new(ADAPTER, vars.builder()).unwrap();
    let line = &lines.lines[1];
    let first = line.ids.iter().position(|id| *id == PICTURE).unwrap();
    for (from, to, sees) in [(0, line.ids.len(), true), (first + 1, first + 4, false)] {
        let part = Part { line, from, to, compared: true };
        let batch = Batch::new(&[part], (None, lines.seen.as_ref()), &Device::Cpu).unwrap();
        let hidden = batch.hidden(&decoder, Some(&adapter)).unwrap();
        let grads = decoder.logits(&hidden).unwrap().sin().unwrap().sum_all().unwrap().backward().unwrap();
        for (name, var) in vars.all() {
            let grad: Vec<f32> = grads.get(var.as_tensor()).expect(&name).flatten_all().unwrap().to_vec1().unwrap();
            let learns = grad.iter().any(|g| *g != 0.0);
            assert_eq!(learns, sees || !name.starts_with("adapter."), "{name}");
        }
    }
    // Without what was seen, or without an adapter, such lines can't be read.
    let part = Part::whole(line, true);
    assert!(Batch::new(&[part], (None, None), &Device::Cpu).is_err());
    let batch = Batch::new(&[part], (None, lines.seen.as_ref()), &Device::Cpu).unwrap();
    assert!(batch.hidden(&decoder, None).unwrap_err().to_string().contains("without an adapter"));
}

/// Lines side by side, of which cuts begin and end between the rows of a moment, read what each reads alone.
#[test]
fn cuts_through_a_moment_keep_its_rows() {
    let mut lines = said(3, 1);
    // Two rows for each moment instead of one.
    for line in &mut lines.lines {
        let double = |i: usize| std::iter::repeat_n(i, if line.ids[i] == PICTURE { 2 } else { 1 });
        let at: Vec<usize> = (0..line.ids.len()).flat_map(double).collect();
        (line.ids, line.spoken) = at.iter().map(|i| (line.ids[*i], line.spoken[*i])).unzip();
    }
    let mut seen = lines.seen.clone().unwrap();
    seen.values =
        seen.values.chunks(WIDTH).flat_map(|row| [row.to_vec(), row.iter().map(|v| -v).collect()].concat()).collect();
    seen.tokens = 2;
    let lines = Lines::new(lines.lines, lines.kept);
    let vars = Variables::seeded(1, &Device::Cpu);
    let decoder = Decoder::new(&config(16, 1), vars.builder(), Mode::Train).unwrap();
    let adapter = Adapter::new(AdapterConfig { tokens: 2, ..ADAPTER }, vars.builder()).unwrap();
    let hidden = |parts: &[Part<'_>]| {
        let batch = Batch::new(parts, (None, Some(&seen)), &Device::Cpu).unwrap();
        batch.hidden(&decoder, Some(&adapter)).unwrap().to_vec2::<f32>().unwrap()
    };
    let first = |line: usize| lines.lines[line].ids.iter().position(|id| *id == PICTURE).unwrap();
    let part = |line: usize, from: usize| Part { line: &lines.lines[line], from, to: from + 7, compared: true };
    // One begins with the second row of a moment, one ends behind the first row, and one has both.
    let parts = [part(0, first(0) + 1), part(1, first(1).saturating_sub(5)), part(2, first(2)), part(0, first(0) + 1)];
    let together = hidden(&parts);
    for (i, part) in parts.iter().enumerate() {
        let alone = hidden(std::slice::from_ref(part));
        for (a, b) in alone.iter().zip(&together[i * 6..(i + 1) * 6]) {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "part {i}");
        }
    }
}
