//! What `spotter eval` does besides a plain run: controls, judges, checkpoints from a hub, data of other kinds, one round of
//! problems. Where no model is needed, a script speaks.

mod common;
#[path = "common/http.rs"]
mod http;

use common::command;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs the program in an environment; whether it went well, and what it said on both streams.
fn run_in(env: &[(&str, &str)], args: &[&str]) -> (bool, String, String) {
    let out = command(args).envs(env.iter().copied()).output().unwrap();
    (out.status.success(), common::stdout(&out), common::stderr(&out))
}

fn run(args: &[&str]) -> String {
    let (well, stdout, stderr) = run_in(&[], args);
    assert!(well, "{args:?}: {stderr}");
    stdout
}

fn fails(args: &[&str]) -> String {
    let (well, _, stderr) = run_in(&[], args);
    assert!(!well, "{args:?}");
    stderr
}

fn data(folder: &Path, sessions: usize) -> PathBuf {
    shorter(folder, sessions, "24")
}

fn shorter(folder: &Path, sessions: usize, seconds: &str) -> PathBuf {
    run(&["synth", "--out", text(folder), "--sessions", &sessions.to_string(), "--seconds", seconds, "--side", "112"]);
    folder.join("QEVD-FIT-COACH")
}

fn script(folder: &Path) -> PathBuf {
    let lines: Vec<String> = (1..20).map(|i| format!("{} Keep your back straight", i * 4)).collect();
    let file = folder.join("lines.txt");
    fs::write(&file, lines.join("\n")).unwrap();
    file
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Seconds and words of all that was said in a session, since its first frame.
fn said(run: &Path, session: usize) -> Vec<(f64, String)> {
    let session = read(&run.join(format!("sessions/{session:05}.json")));
    let of = |episode: &Value| -> Vec<(f64, String)> {
        let offset = episode["offset"].as_f64().unwrap();
        let said = episode["said"].as_array().unwrap();
        said.iter().map(|s| (s["t"].as_f64().unwrap() + offset, s["text"].as_str().unwrap().to_owned())).collect()
    };
    session["episodes"].as_array().unwrap().iter().flat_map(of).collect()
}

#[test]
fn without_latency_words_come_sooner_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 1), script(folder.path()));
    let at = |name: &str| folder.path().join(name);
    let eval = |out: &Path, more: &[&str]| {
        let mut args = vec!["eval", text(&data), "--script", text(&script), "--lens", "none", "--out", text(out)];
        args.extend_from_slice(more);
        run(&args)
    };
    let plain = eval(&at("plain"), &[]);
    let zero = eval(&at("zero"), &["--zero-latency"]);
    assert!(plain.contains("latency fixed:50,25") && zero.contains("latency none: for comparison only"), "{zero}");
    let (late, soon) = (said(&at("plain"), 0), said(&at("zero"), 0));
    assert!(!soon.is_empty() && late.len() == soon.len());
    for ((late, _), (soon, _)) in late.iter().zip(&soon) {
        // A look and one piece of text.
        assert!((late - soon - 0.075).abs() < 1e-6, "{late} {soon}");
    }
    let options = read(&at("zero").join("report.json"))["run"]["options"].clone();
    assert!(options.to_string().contains("for comparison only"), "{options}");
    assert!(fails(&["eval", text(&data), "--zero-latency", "--latency", "measured"]).contains("cannot be used with"));
}

#[test]
fn shuffled_videos_and_parts_that_are_told_and_lie_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let data = shorter(folder.path(), 2, "12");
    let at = |name: &str| folder.path().join(name);
    let eval = |data: &Path, out: &Path, more: &[&str]| {
        let mut args = vec!["eval", text(data), "--lens", "none", "--out", text(out)];
        args.extend_from_slice(more);
        run(&args)
    };
    eval(&data, &at("plain"), &[]);
    let table = eval(&data, &at("shuffled"), &["--shuffled"]);
    assert!(table.contains("spotter-mini, shown the next session's video") && table.contains("shuffled videos true"));
    for session in 0..2 {
        let (own, control) = (said(&at("plain"), 1 - session), said(&at("shuffled"), session));
        // What the other video brings about, as far as it falls into an episode here and there.
        let met =
            control.iter().filter(|(t, words)| own.iter().any(|(u, other)| (t - u).abs() < 1e-6 && words == other));
        assert!(!control.is_empty() && met.count() + 2 >= control.len(), "{own:?} {control:?}");
        assert_ne!(said(&at("plain"), session), control);
    }
    assert!(fails(&["eval", text(&data), "--shuffled", "--predictions", "x.json"]).contains("cannot be used with"));

    // A part on a machine where the data lie elsewhere is of the same run; coaches that were used before say the same.
    let elsewhere = at("mounted");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::rename(&data, elsewhere.join("QEVD-FIT-COACH")).unwrap();
    let moved = elsewhere.join("QEVD-FIT-COACH");
    eval(&moved, &at("whole"), &["--told", "--jobs", "1"]);
    eval(&moved, &at("first"), &["--told", "--shard", "1/2"]);
    fs::rename(&moved, &data).unwrap();
    eval(&data, &at("second"), &["--told", "--shard", "2/2"]);
    run(&["eval", "merge", "--out", text(&at("joined")), text(&at("first")), text(&at("second"))]);
    for file in ["report.json", "report.csv", "report.html", "predictions.json"] {
        assert!(
            fs::read(at("whole").join(file)).unwrap() == fs::read(at("joined").join(file)).unwrap(),
            "{file} differs"
        );
    }
}

#[test]
fn another_model_or_file_of_the_same_size_is_another_run() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 1), script(folder.path()));
    let out = folder.path().join("out");
    let args = ["eval", text(&data), "--script", text(&script), "--lens", "none", "--out", text(&out)];
    run(&args);
    run(&args);
    let (words, modified) = (fs::read_to_string(&script).unwrap(), fs::metadata(&script).unwrap().modified().unwrap());
    fs::write(&script, words.replace("straight", "straiGht")).unwrap();
    fs::File::options().write(true).open(&script).unwrap().set_modified(modified).unwrap();
    let error = fails(&args);
    assert!(error.contains("unlike in: source_hash"), "{error}");
    fs::write(&script, words).unwrap();
    let index = data.join("feedbacks_long_range.json");
    fs::write(&index, fs::read_to_string(&index).unwrap() + "\n").unwrap();
    assert!(fails(&args).contains("data_hash"));
}

#[test]
fn a_judge_that_is_gone_costs_nothing_that_was_played() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 2), script(folder.path()));
    let out = folder.path().join("out");
    let open = Arc::new(AtomicBool::new(false));
    let (state, prompt) = (open.clone(), folder.path().join("prompt.toml"));
    fs::write(&prompt, "system = 'Judge.'\nuser = 'T <1> P <2>'\n").unwrap();
    let url = http::serve(move |request| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let asked = body["messages"][1]["content"].as_str().unwrap();
        assert!(asked.starts_with("T ") && asked.contains(" P ") && !asked.contains('<'), "{asked}");
        let phrase = !asked.ends_with("P Keep your back straight");
        let answer =
            json!({"choices": [{"message": {"content": format!("{{'score': {}}}", if phrase { 1 } else { 4 })}}]});
        match state.load(Ordering::SeqCst) {
            true => (200, String::new(), answer.to_string().into_bytes()),
            false => (401, String::new(), b"not today".to_vec()),
        }
    }) + "/v1";
    let args = [
        "eval",
        text(&data),
        "--script",
        text(&script),
        "--lens",
        "none",
        "--out",
        text(&out),
        "--judge",
        &url,
        "--judge-model",
        "Meta-Llama-3-70B-Instruct",
        "--judge-prompt",
        text(&prompt),
        "--judge-seeds",
        "2",
    ];
    let error = fails(&args);
    assert!(error.contains("401") && error.contains("not today"), "{error}");
    let played = [0, 1].map(|i| out.join(format!("sessions/{i:05}.played.json")));
    let times = played.each_ref().map(|file| fs::metadata(file).unwrap().modified().unwrap());
    open.store(true, Ordering::SeqCst);
    let table = run(&args);
    assert_eq!(times, played.each_ref().map(|file| fs::metadata(file).unwrap().modified().unwrap()));
    let report = read(&out.join("report.json"));
    let row =
        |kind: &str| report["rows"].as_array().unwrap().iter().find(|r| r["kind"] == kind).unwrap()["judge"].clone();
    assert_eq!((&row("own")["mean"], &row("phrase")["mean"]), (&json!(4.0), &json!(1.0)));
    assert_eq!(row("phrase")["dropped"], json!(0));
    // The published judge with another prompt is not the published score.
    assert!(table.contains("not LLM-Acc") && report["run"]["judge"]["llm_acc"] == json!(false), "{table}");
}

#[test]
fn an_encoder_is_fetched_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 1), script(folder.path()));
    let roberta = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/bert_score/roberta");
    let files: HashMap<String, Vec<u8>> = ["config.json", "tokenizer.json", "model.safetensors"]
        .map(|file| (format!("/tiny/roberta/resolve/main/{file}"), fs::read(roberta.join(file)).unwrap()))
        .into();
    let url = http::serve(move |request| {
        let Some(all) = files.get(&request.path) else { return (404, String::new(), Vec::new()) };
        let (from, to) = request.range.unwrap_or((0, None));
        let to = to.map_or(all.len(), |to| (to + 1).min(all.len()));
        let tag = request.path.replace('/', "-");
        let headers = format!(
            "etag: \"{tag}\"\r\nx-repo-commit: 0123\r\ncontent-range: bytes {from}-{}/{}\r\n",
            to - 1,
            all.len()
        );
        (206, headers, all[from..to].to_vec())
    });
    let home = folder.path().join("hf");
    let eval = |env: &[(&str, &str)], out: &str, bert: &str| {
        let out = folder.path().join(out);
        let args =
            ["eval", text(&data), "--script", text(&script), "--lens", "none", "--bert", bert, "--bert-layer", "2"];
        let mut all = vec![("HF_HOME", text(&home))];
        all.extend_from_slice(env);
        let (well, _, stderr) = run_in(&all, &[&args[..], &["--out", text(&out)]].concat());
        (well, stderr, out)
    };
    let (well, stderr, fetched) = eval(&[("HF_ENDPOINT", &url)], "fetched", "tiny/roberta");
    assert!(well, "{stderr}");
    let (well, stderr, again) = eval(&[("HF_HUB_OFFLINE", "1")], "again", "tiny/roberta");
    assert!(well, "{stderr}");
    let (well, _, local) = eval(&[], "local", text(&roberta));
    assert!(well);
    let score = |run: &Path| read(&run.join("report.json"))["rows"][0]["bert"]["value"].as_f64().unwrap();
    assert!(score(&fetched) > 0.0 && score(&fetched) == score(&again) && score(&fetched) == score(&local));
    let name = |run: &Path| read(&run.join("report.json"))["run"]["bert"].as_str().unwrap().to_owned();
    assert!(name(&fetched).starts_with("tiny/roberta, layer 2, ") && name(&fetched) == name(&again));
    let (well, stderr, _) = eval(&[("HF_HUB_OFFLINE", "1")], "none", "tiny/bert");
    assert!(!well && stderr.contains("tiny/bert: config.json is not in") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn the_competition_gives_predictions_and_no_scores() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 1), script(folder.path()));
    let secret = folder.path().join("QEVD-FIT-COACH-Competition");
    fs::rename(&data, &secret).unwrap();
    let index = secret.join("feedbacks_long_range.json");
    let first = read(&index)[0].clone();
    let entry = json!([{
        "long_range_video_file": first["long_range_video_file"], "video_timestamps": first["video_timestamps"],
        "exercises": ["squats", "lunges"], "exercise_start_timestamps": [1704096001.0, 1704096011.0],
        "exercise_end_timestamps": [1704096010.0, 1704096020.0],
    }]);
    fs::write(&index, entry.to_string()).unwrap();
    let out = folder.path().join("out");
    let args = ["eval", text(&secret), "--script", text(&script), "--lens", "none", "--out", text(&out)];
    let wrong = fails(&args);
    assert!(wrong.contains("this is the competition variant, which protocol var2026 alone reads"), "{wrong}");
    let table = run(&[&args[..], &["--protocol", "var2026"]].concat());
    assert!(
        table.contains("nothing is scored") && !table.contains("metronome") && table.contains("PKU-FitCoach"),
        "{table}"
    );
    let row = &read(&out.join("report.json"))["rows"][0];
    assert!(row["temporal_f"].is_null() && row["predictions_per_minute"].as_f64().unwrap() > 5.0, "{row}");
    let predictions = read(&out.join("predictions.json"));
    assert_eq!(predictions[1]["mini_episode_id"], json!("0001_1"));
    let times: Vec<f64> =
        predictions[1]["pred_feedback_timestamps"].as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
    assert!(!times.is_empty() && times.iter().all(|t| *t >= 1704096011.0), "{times:?}");
    assert!(!fs::read_to_string(out.join("report.html")).unwrap().contains("T-F 0.000"));
}

#[test]
fn all_kinds_of_problems_are_told_in_one_round() {
    let folder = tempfile::tempdir().unwrap();
    let data = data(folder.path(), 2);
    fs::remove_file(data.join("long_range_videos/0001.mp4")).unwrap();
    fs::write(data.join("long_range_videos/0002.mp4"), b"no video").unwrap();
    let broken = folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join("feedbacks_long_range.json"), "[{\"long_range_video_file\": 3}]").unwrap();
    let prompt = folder.path().join("prompt.toml");
    fs::write(&prompt, "system = 'x'").unwrap();
    let out = folder.path().join("out");
    let error = fails(&[
        "eval",
        text(&data),
        text(&broken),
        "--model",
        "/nowhere/model",
        "--wordnet",
        "/nowhere/wordnet",
        "--punkt",
        "/nowhere/punkt",
        "--bert",
        "/nowhere/bert",
        "--judge",
        "localhost",
        "--judge-model",
        "m",
        "--judge-prompt",
        text(&prompt),
        "--out",
        text(&out),
    ]);
    for part in [
        "session 0001, long_range_video_file: ",
        "session 0002, long_range_video_file: ",
        "entry 0, long_range_video_file: expected a path",
        "entry 0, feedbacks: is missing",
        "model /nowhere/model",
        "--wordnet /nowhere/wordnet",
        "--punkt /nowhere/punkt",
        "--bert /nowhere/bert",
        "--judge-prompt",
        "hint: ",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(error.lines().filter(|line| line.starts_with("  ")).count() >= 9 && !out.exists(), "{error}");
    let predictions = folder.path().join("p.json");
    fs::write(&predictions, r#"[{"mini_episode_id": 3}]"#).unwrap();
    let error = fails(&["eval", text(&data), text(&data), "--predictions", text(&predictions), "--out", text(&out)]);
    for part in ["session 0001, long_range_video_file: a session of", "entry 0, mini_episode_id", "p.json"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn a_benchmark_folder_that_is_none_is_told_of_loudly_beside_the_anchors() {
    let folder = tempfile::tempdir().unwrap();
    let (data, script) = (data(folder.path(), 1), script(folder.path()));
    let benchmark = folder.path().join("QEVD-FIT-COACH-Benchmark");
    fs::rename(&data, &benchmark).unwrap();
    let out = folder.path().join("out");
    let table = run(&["eval", text(&benchmark), "--script", text(&script), "--lens", "none", "--out", text(&out)]);
    assert!(
        table.starts_with("WARNING: this is called the benchmark split, which has 74 sessions, 2511 events"),
        "{table}"
    );
    assert!(table.contains("Stream-VLM (official read-me)") && table.contains("not measured here"), "{table}");
    let (own, stated) = table.split_once("Stated by others").unwrap();
    assert!(!own.contains("Stream-VLM") && !stated.contains("lines.txt"), "ours and theirs share no table");
    let csv = fs::read_to_string(out.join("report.csv")).unwrap();
    assert!(!csv.contains("Stream-VLM") && csv.contains("metronome: every 3.0 s"), "{csv}");
}

#[test]
fn clips_are_counted_or_told_of() {
    let folder = tempfile::tempdir().unwrap();
    assert!(fails(&["eval", "clips", text(folder.path())]).contains("hint: a folder of QEVD-FIT-300K has"));
    let label =
        json!({"video_path": "a.mp4", "split": "train", "labels": ["squat - slow"], "labels_descriptive": ["x"]});
    let put = |value: &Value| fs::write(folder.path().join("fine_grained_labels.json"), value.to_string()).unwrap();
    put(&json!([label]));
    fs::write(folder.path().join("a.mp4"), b"").unwrap();
    let table = run(&["eval", "clips", text(folder.path())]);
    assert!(table.lines().any(|l| l.starts_with("videos that are there") && l.ends_with(" 1")), "{table}");
    let counted: Value = serde_json::from_str(&run(&["eval", "clips", text(folder.path()), "--json"])).unwrap();
    assert_eq!((&counted["clips"], &counted["exercises"], &counted["videos"]), (&json!(1), &json!(1), &json!(1)));
    put(&json!([label, label, 3]));
    let error = fails(&["eval", "clips", text(folder.path())]);
    assert!(error.contains("2 problems") && error.contains("entry 1 (a.mp4)") && error.contains("entry 2"), "{error}");
}

/// The model that ships with selectors of chance in its tower.
fn with_selectors(folder: &Path) -> PathBuf {
    use candle_core::{DType, Device, Tensor, safetensors};
    use spotter_vision::encoder::tosa::{Outline, Tosa, TosaOptions};
    let (shipped, model) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spotter-mini"), folder.join("selective"));
    fs::create_dir_all(model.join("drafter")).unwrap();
    let drafter = ["drafter/config.json", "drafter/tokenizer.json", "drafter/model.safetensors"];
    for file in ["tokenizer.json", "spotter.toml"].into_iter().chain(drafter) {
        fs::copy(shipped.join(file), model.join(file)).unwrap();
    }
    let mut config = read(&shipped.join("config.json"));
    let number = |name: &str| config["vision_config"][name].as_u64().unwrap() as usize;
    let (depth, heads) = (number("num_hidden_layers"), number("num_attention_heads"));
    let outline = Outline { depth, heads, class_tokens: 1 };
    let mut tensors = safetensors::load(shipped.join("model.safetensors"), &Device::Cpu).unwrap();
    for spec in Tosa::tensors(&TosaOptions::default(), outline, "vision_tower.layers.") {
        let tensor = Tensor::randn(0f32, 0.4, spec.shape.clone(), &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap();
        tensors.insert(spec.name.clone(), tensor);
    }
    safetensors::save(&tensors, model.join("model.safetensors")).unwrap();
    config["vision_config"]["tosa"] = json!({"ratio": 1.0});
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}

#[test]
fn the_share_of_tokens_is_swept_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (data, model) = (data(folder.path(), 1), with_selectors(folder.path()));
    let (file, out) = (folder.path().join("sweep.toml"), folder.path().join("sweep"));
    let sweep = format!(
        "data = [{:?}]\nout = {:?}\noptions = [\"--lens\", \"none\", \"--model\", {:?}]\n[grid]\ntosa-ratio = [1, 0.2]\n",
        text(&data),
        text(&out),
        text(&model)
    );
    fs::write(&file, sweep).unwrap();
    let table = run(&["eval", "sweep", text(&file)]);
    assert!(table.contains("\ntosa-ratio 0.2 ") && table.contains("\ntosa-ratio 1 "), "{table}");
    // At 1 all tokens are worked on, as without selectors; at less the coach sees otherwise.
    let plain = folder.path().join("plain");
    run(&["eval", text(&data), "--lens", "none", "--out", text(&plain)]);
    assert_eq!(said(&out.join("tosa-ratio_1"), 0), said(&plain, 0));
    assert_ne!(said(&out.join("tosa-ratio_0.2"), 0), said(&plain, 0));
    let error =
        fails(&["eval", text(&data), "--lens", "none", "--tosa-ratio", "0.5", "--out", text(&folder.path().join("x"))]);
    assert!(error.contains("spotter-mini has no selectors") && error.contains("hint: "), "{error}");
    assert!(fails(&["eval", text(&data), "--tosa-ratio", "1.5"]).contains("above 0, at most 1"));
}
