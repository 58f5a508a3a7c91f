//! Training of drafters end to end, S4.6 of the spec direct-alignment among it.

use super::{
    align::{Loss, Moments},
    drafter::*,
    judge::{Beside, Judged, judge},
    lines::{Kept, Line, Lines},
    parts::{Batch, Part},
    rollout::{Continuation, Dice, Wish, continue_texts},
};
use crate::model::{Decoder, DecoderConfig, HfDecoderConfig, Mode};
use candle_core::Device;
use spotter_vision::training::{AdamWSettings, Variables};

const VOCAB: usize = 24;

fn config(width: usize, layers: usize) -> DecoderConfig {
    let hf = serde_json::json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "tie_word_embeddings": false, "hidden_act": "silu",
    });
    DecoderConfig::from_hf(&serde_json::from_value::<HfDecoderConfig>(hf).unwrap(), "").unwrap()
}

/// A target whose next token depends on the last two more than on chance, and what it says.
struct Scene {
    target: Decoder,
    lines: Lines,
    held_out: Lines,
    folder: tempfile::TempDir,
}

fn scene() -> Scene {
    let vars = Variables::seeded(2, &Device::Cpu);
    let target = Decoder::new(&config(32, 2), vars.builder(), Mode::Train).unwrap();
    for (name, var) in vars.all() {
        let by = if name.contains("lm_head") { 2.5 } else { 1.0 };
        var.set(&(var.as_tensor() * by).unwrap()).unwrap();
    }
    let target = Decoder::new(target.config(), vars.builder(), Mode::Infer).unwrap();
    let mut dice = Dice::new(4, &Device::Cpu).unwrap();
    let mut say = |n: usize| {
        let temperature = |i: usize| if i.is_multiple_of(2) { 0.0 } else { 1.0 };
        let wishes: Vec<Wish> = (0..n)
            .map(|i| Wish { prompt: (0..3).map(|_| dice.below(VOCAB) as u32).collect(), temperature: temperature(i) })
            .collect();
        let how = Continuation { most: 20, ends: &[], at_once: 1000 };
        Lines::new(continue_texts(&target, &wishes, &how, &mut dice, &mut |_| true).unwrap(), None)
    };
    let (lines, held_out) = (say(400), say(80));
    Scene { target, lines, held_out, folder: tempfile::tempdir().unwrap() }
}

impl Scene {
    fn run(&self, name: &str, steps: usize, seed: u64) -> DrafterTraining {
        DrafterTraining {
            batch: 16,
            workers: 1,
            length: 24,
            plain: 0.1,
            optimiser: AdamWSettings {
                learning_rate: 3e-3,
                weight_decay: 0.0,
                warmup: 10,
                steps,
                clip: 1.0,
                until: None,
            },
            seed,
            head: None,
            adapter: None,
            weights: self.folder.path().join(format!("{name}.safetensors")),
            state: self.folder.path().join(format!("{name}-state.safetensors")),
            save_every: 50,
        }
    }

    fn lesson(&self, loss: Loss) -> Lesson<'_> {
        let teacher = Teacher::Model(&self.target);
        Lesson { loss, lines: &self.lines, teacher, plain: &self.lines.lines, never: &[] }
    }

    fn judge(&self, vars: &Variables) -> Judged {
        judge(&config(16, 1), vars, &self.held_out, Teacher::Model(&self.target), Beside::default()).unwrap()
    }
}

/// S4.6.
#[test]
fn training_raises_acceptance_from_stage_to_stage() {
    let (scene, shape) = (scene(), config(16, 1));
    let vars = Variables::seeded(1, &Device::Cpu);
    pretrain(&shape, &vars, &scene.run("read", 150, 1), &scene.lines.lines, &mut |_| {}).unwrap();
    let read = scene.judge(&vars);
    tune(&shape, &vars, &scene.run("kl", 150, 2), &scene.lesson(Loss::Kl), &mut |_| {}).unwrap();
    let kl = scene.judge(&vars);
    let plus = Loss::TvdPlus(Moments::Batch);
    tune(&shape, &vars, &scene.run("tvd", 150, 3), &scene.lesson(plus), &mut |_| {}).unwrap();
    let tvd = scene.judge(&vars);
    let means = [&read, &kl, &tvd].map(|j| j.acceptance.mean);
    assert!(means[0] < means[1] && means[1] < means[2], "{means:?}");
    assert!(read.acceptance.high < tvd.acceptance.low, "{tvd:?} after {read:?}");
    assert!(tvd.block_efficiency.iter().all(|e| e.low > 1.5 && e.low < e.mean && e.mean < e.high), "{tvd:?}");
    // A planted bug: drawn towards the target's distribution of another token.
    let mut wrong = scene.lines.clone();
    let mut kept = Kept::new(VOCAB);
    (0..wrong.spoken()).for_each(|i| kept.push(&[0.0; VOCAB].map(|_: f32| 1.0 / (1 + i % 3) as f32 / VOCAB as f32)));
    wrong.kept = Some(kept);
    let kept = wrong.kept.clone().unwrap();
    let lesson = Lesson { lines: &wrong, teacher: Teacher::Kept(&kept), ..scene.lesson(plus) };
    tune(&shape, &vars, &scene.run("wrong", 60, 3), &lesson, &mut |_| {}).unwrap();
    assert!(scene.judge(&vars).acceptance.mean < means[2] - 0.05);
}

/// What the target thought when it spoke, kept whole, teaches the same as the target itself.
#[test]
fn kept_rows_are_those_of_the_target() {
    let scene = scene();
    let mut kept = Kept::new(VOCAB);
    let drafter = Decoder::new(&config(16, 1), Variables::seeded(1, &Device::Cpu).builder(), Mode::Infer).unwrap();
    let columns = Columns::new(VOCAB, &[5], None, &Device::Cpu).unwrap();
    for line in &scene.lines.lines {
        let alone = std::slice::from_ref(line);
        let rows = compared((&drafter, None), (alone, None), Teacher::Model(&scene.target), &columns).unwrap().target;
        rows.to_vec2().unwrap().iter().for_each(|row: &Vec<f32>| kept.push(row));
    }
    let batch: Vec<Line> = [7usize, 0, 250].iter().map(|i| scene.lines.lines[*i].clone()).collect();
    let rows = |teacher| compared((&drafter, None), (&batch, None), teacher, &columns).unwrap().target;
    let (own, kept) = (rows(Teacher::Model(&scene.target)), rows(Teacher::Kept(&kept)));
    let worst = (own - kept).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < 1e-5, "{worst}");
    // Parts of lines find their own rows.
    let line = &scene.lines.lines[250];
    let part = Part { line, from: 9, to: 15, compared: true };
    let batch = Batch::new(&[Part::whole(&scene.lines.lines[0], true), part], (None, None), &Device::Cpu).unwrap();
    let first = line.row + 10 - 3;
    assert_eq!(batch.rows[20..], (first..first + 5).collect::<Vec<_>>());
    assert_eq!(batch.lines[19..22], [0, 1, 1]);
}

/// A head of some tokens is trained as it ships: rows of other tokens learn by being read only, and what the target says
/// beside the head is missed.
#[test]
fn a_trimmed_head_is_trained_as_it_ships() {
    let (scene, shape) = (scene(), config(16, 1));
    let mut counts = [0; VOCAB];
    scene.lines.lines.iter().flat_map(|l| &l.ids).for_each(|id| counts[*id as usize] += 1);
    let mut ids: Vec<u32> = (0..VOCAB as u32).collect();
    ids.sort_by_key(|id| std::cmp::Reverse(counts[*id as usize]));
    ids.truncate(VOCAB / 2);
    let head = std::sync::Arc::new(Head::new(ids.clone(), VOCAB).unwrap());
    let train = |head: Option<std::sync::Arc<Head>>| {
        let vars = Variables::seeded(1, &Device::Cpu);
        let run = |name: &str, steps| DrafterTraining { head: head.clone(), ..scene.run(name, steps, 1) };
        let name = if head.is_some() { "head" } else { "all" };
        pretrain(&shape, &vars, &run(&format!("{name}-read"), 40), &scene.lines.lines, &mut |_| {}).unwrap();
        let lesson = scene.lesson(Loss::TvdPlus(Moments::Batch));
        tune(&shape, &vars, &run(name, 120), &lesson, &mut |_| {}).unwrap();
        vars
    };
    let judged = |vars: &Variables, head: Option<&Head>| {
        judge(&shape, vars, &scene.held_out, Teacher::Model(&scene.target), Beside { head, ..Beside::default() })
            .unwrap()
    };
    let before = Variables::seeded(1, &Device::Cpu);
    Decoder::new(&shape, before.builder(), Mode::Train).unwrap();
    let (own, all) = (train(Some(head.clone())), train(None));
    // Trained for its head it does not lose against one that was trained on all columns and cut afterwards.
    let (trimmed, cut) = (judged(&own, Some(&head)), judged(&all, Some(&head)));
    assert!(trimmed.acceptance.mean > cut.acceptance.mean - 0.02, "{trimmed:?} against {cut:?}");
    assert!(judged(&all, None).acceptance.mean > trimmed.acceptance.mean, "half of the tokens are missed");
    // Rows of the head's weight that nothing is said with have learnt nothing, but for the decay.
    let rows = |vars: &Variables| -> Vec<Vec<f32>> {
        let (_, weight) = vars.all().into_iter().find(|(name, _)| name == "lm_head.weight").unwrap();
        weight.to_vec2().unwrap()
    };
    for (id, (old, new)) in rows(&before).iter().zip(rows(&own)).enumerate() {
        assert_eq!(ids.contains(&(id as u32)), *old != new, "token {id}");
    }
    assert!(Head::new(vec![1, 1], 3).is_err() && Head::new(vec![3], 3).is_err() && Head::new(Vec::new(), 3).is_err());
}

/// A run that was stopped ends where one that was not does, bit for bit.
#[test]
fn a_run_is_taken_up_again() {
    let (scene, shape) = (scene(), config(16, 1));
    let weights = |vars: &Variables| -> Vec<f32> {
        vars.all().iter().flat_map(|(_, v)| v.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    let whole = Variables::seeded(1, &Device::Cpu);
    let lesson = scene.lesson(Loss::Kl);
    tune(&shape, &whole, &scene.run("whole", 12, 5), &lesson, &mut |_| {}).unwrap();
    let halves = Variables::seeded(1, &Device::Cpu);
    let mut run = scene.run("halves", 12, 5);
    run.save_every = 6;
    let mut steps = 0;
    // Stopped in the middle: the error of a full disk, say.
    let stop = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tune(&shape, &halves, &run, &lesson, &mut |p| {
            steps = p.step;
            assert!(p.step < 8, "stopped");
        })
    }));
    assert!(stop.is_err() && steps == 8 && run.resumes());
    let again = Variables::load(&run.weights, 1, &Device::Cpu).unwrap();
    assert_eq!(tune(&shape, &again, &run, &lesson, &mut |_| {}).unwrap(), 12);
    assert_eq!(weights(&again), weights(&whole));
}

#[test]
fn nothing_to_learn_is_said() {
    let (scene, shape) = (scene(), config(16, 1));
    let vars = Variables::seeded(1, &Device::Cpu);
    let run = scene.run("none", 1, 1);
    assert!(pretrain(&shape, &vars, &run, &[Line::plain(vec![3])], &mut |_| {}).is_err());
    let silent = Lines::new(vec![Line::plain(vec![3, 4])], None);
    let lesson = Lesson { lines: &silent, ..scene.lesson(Loss::Kl) };
    assert!(tune(&shape, &vars, &run, &lesson, &mut |_| {}).unwrap_err().to_string().contains("said nothing"));
}
