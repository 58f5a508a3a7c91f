//! One run: data and a model, or predictions, to a report.

use super::print_text;
use crate::{
    cli::{Hinted, Usage, coaching::CoachArgs, print_json},
    eval::{
        html,
        judge::{Judge, JudgeOptions},
        play::{Player, check_video},
        report::Report,
        score::{TextMetrics, most_frequent},
        store::{RunInfo, Session, Store, json, write_whole},
    },
    parallel::{in_parallel, workers},
    pipeline::Latency,
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use spotter_datasets::{
    metric::{Timed, meteor::Meteor, punkt::Punkt, wordnet::WordNet},
    qevd::{self, Dataset, Prediction, Predictions, Protocol},
};
use spotter_engine::bert::BertScore;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// Where Debian's package `wordnet-base` puts its files.
const WORDNET: &str = "/usr/share/wordnet";

/// Options of a run.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// Folders with feedbacks_long_range.json and its videos
    #[arg(value_name = "DATA", required = true)]
    pub(super) data: Vec<PathBuf>,
    /// How truths are read: fitcoach2024 or var2026
    #[arg(long, default_value = "fitcoach2024", value_parser = protocol)]
    pub(super) protocol: Protocol,
    /// Score a file of predictions, in any of the three published forms, instead of a model
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Folder for sessions and report
    #[arg(long, value_name = "DIR", default_value = "eval-out")]
    pub(super) out: PathBuf,
    /// Play every N-th session only, beginning with the I-th; `spotter eval merge` joins the parts
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    shard: Shard,
    /// Tell the model each exercise, and begin anew with it, as QEVD's own models are run
    #[arg(long)]
    pub(super) told: bool,
    /// Time a look and a word take: measured, fixed:MS or fixed:MS,MS
    #[arg(long, default_value_t = Latency::REPLAY)]
    pub(super) latency: Latency,
    /// Pretend that looking and speaking take no time; for comparison only
    #[arg(long, conflicts_with = "latency")]
    zero_latency: bool,
    /// Sessions played at once; left out, one a processor core
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// The report as one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) coach: CoachArgs,
    #[command(flatten)]
    pub(super) metrics: MetricArgs,
}

/// What the metrics of texts need.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metrics")]
pub(super) struct MetricArgs {
    /// WordNet 3.0's dictionary files, for METEOR
    #[arg(long, value_name = "DIR", default_value = WORDNET)]
    wordnet: PathBuf,
    /// NLTK's folder punkt_tab/english, for METEOR of texts with several sentences
    #[arg(long, value_name = "DIR")]
    punkt: Option<PathBuf>,
    /// Folder of a BERT or RoBERTa checkpoint (published: roberta-large), for BERTScore
    #[arg(long, value_name = "DIR")]
    bert: Option<PathBuf>,
    /// Layer of it that is compared; left out, the published one of the model
    #[arg(long, value_name = "N", requires = "bert")]
    bert_layer: Option<usize>,
    /// OpenAI-compatible server of a judge, up to and with /v1
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge: Option<String>,
    /// Model the judge is; the published one is meta-llama/Meta-Llama-3-70B-Instruct
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// Times each pair is asked about
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    judge_seeds: u32,
    /// Questions under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    judge_jobs: u16,
    /// Seconds a judge has for an answer
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = crate::cli::coaching::seconds)]
    judge_timeout: Duration,
    /// Environment variable that holds the judge's key
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    judge_key: String,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_name(text).ok_or_else(|| format!("`{text}` is no protocol: fitcoach2024 or var2026 expected"))
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shard {
    /// From 1.
    part: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((part, of)) if part >= 1 && part <= of => Ok(Self { part, of }),
            _ => Err(format!("`{text}` is no shard: expected I/N with I from 1 to N")),
        }
    }
}

/// Where words come from.
enum Words {
    Model(Box<Player>),
    Given(HashMap<String, Vec<Timed>>),
    Pairs(Vec<(String, String)>),
}

/// Data with everything that decides the outcome.
struct Prepared {
    sessions: Vec<qevd::Session>,
    words: Words,
    metrics: TextMetrics,
    info: RunInfo,
}

/// Runs it and prints the report.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    match play(args)? {
        Some(report) if args.json => print_json(&report),
        Some(report) => {
            print_text(&report.text())?;
            let page = args.out.join("report.html");
            print_text(&format!("\n{}\n", page.display()))
        }
        None => print_text(&format!(
            "shard {}/{} is in {}; join all with `spotter eval merge`\n",
            args.shard.part,
            args.shard.of,
            args.out.display()
        )),
    }
}

/// Plays what is missing; the report when all sessions are there, `None` for a shard.
pub(super) fn play(args: &RunArgs) -> Result<Option<Report>> {
    let prepared = prepare(args)?;
    let store = Store::create(&args.out, &prepared.info)?;
    let count = prepared.info.sessions;
    let own = |i: &usize| i % args.shard.of == args.shard.part - 1;
    let missing: Vec<usize> = (0..count).filter(own).filter(|i| !store.has(*i)).collect();
    let bar = ProgressBar::new((0..count).filter(own).count() as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} sessions (left: {eta})") {
        bar.set_style(style);
    }
    bar.set_position(((0..count).filter(own).count() - missing.len()) as u64);
    let one = |i: usize| {
        let index = missing.get(i).copied().context("a session is missing")?;
        store.put(&prepared.session(index)?)
    };
    in_parallel(args.jobs.unwrap_or_else(workers), missing.len(), one, |_| bar.inc(1))?;
    bar.finish_and_clear();
    if args.shard.of > 1 { Ok(None) } else { finish(&store, &prepared.info).map(Some) }
}

/// Reads all sessions of a store and writes its report.
pub(super) fn finish(store: &Store, info: &RunInfo) -> Result<Report> {
    let sessions = (0..info.sessions).map(|i| store.get(i)).collect::<Result<Vec<_>>>()?;
    let report = Report::of(info, &sessions);
    write_whole(&store.file("report.json"), &json(&report)?)?;
    write_whole(&store.file("report.csv"), report.csv().as_bytes())?;
    write_whole(&store.file("report.html"), html::report(&report, &sessions).as_bytes())?;
    let predictions: Vec<Prediction> = sessions
        .iter()
        .flat_map(|s| &s.episodes)
        .map(|e| Prediction { episode: e.id.clone(), said: e.said.clone() })
        .collect();
    if !info.pairs_only {
        qevd::write_predictions(&store.file("predictions.json"), &predictions)?;
    }
    Ok(report)
}

fn prepare(args: &RunArgs) -> Result<Prepared> {
    let data = load_all(&args.data, args.protocol)?;
    let mut warnings: Vec<String> = data.iter().flat_map(|d| d.warnings.iter().cloned()).collect();
    let (words, source) = words(args, &data, &mut warnings)?;
    let other = match args.protocol {
        Protocol::Fitcoach2024 => Protocol::Var2026,
        Protocol::Var2026 => Protocol::Fitcoach2024,
    };
    let count = |data: &[Dataset]| data.iter().map(Dataset::truths).sum::<usize>();
    let (here, there) = (Some(count(&data)), load_all(&args.data, other).ok().map(|d| count(&d)));
    let truths = if args.protocol == Protocol::Fitcoach2024 { [here, there] } else { [there, here] };
    let sessions: Vec<qevd::Session> = data.into_iter().flat_map(|d| d.sessions).collect();
    let pairs_only = matches!(words, Words::Pairs(_));
    let phrase =
        most_frequent(sessions.iter().flat_map(|s| &s.episodes).flat_map(|e| &e.truth).map(|t| t.text.as_str()));
    let metrics = args.metrics.build(phrase.clone())?;
    let judge = args.metrics.judge()?;
    let info = RunInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: args.protocol,
        data: args.data.iter().map(|d| d.file_name().unwrap_or(d.as_os_str()).to_string_lossy().into_owned()).collect(),
        sessions: if pairs_only { 1 } else { sessions.len() },
        truths,
        source,
        options: options(args),
        meteor: metrics.meteor.name().to_owned(),
        bert: args.metrics.bert.as_ref().map(|d| d.display().to_string()),
        judge: judge.map(|j| j.name()),
        phrase,
        pairs_only,
        warnings,
    };
    Ok(Prepared { sessions, words, metrics, info })
}

fn load_all(folders: &[PathBuf], protocol: Protocol) -> Result<Vec<Dataset>> {
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for folder in folders {
        match qevd::load(folder, protocol) {
            Ok(data) => loaded.push(data),
            Err(e) => problems.push(e.to_string()),
        }
    }
    if problems.is_empty() {
        return Ok(loaded);
    }
    let hint = "a QEVD folder has feedbacks_long_range.json; `spotter synth --out DIR` writes one";
    Err(Hinted::new(anyhow!(problems.join("; ")), hint).into())
}

/// What is said, and what the report calls its source.
fn words(args: &RunArgs, data: &[Dataset], warnings: &mut Vec<String>) -> Result<(Words, String)> {
    if let Some(path) = &args.predictions {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let refs: Vec<&Dataset> = data.iter().collect();
        let words = match qevd::read_any_predictions(path, &refs)? {
            Predictions::Pairs(pairs) => Words::Pairs(pairs),
            Predictions::Episodes { predictions, warnings: more } => {
                warnings.extend(more);
                warnings.extend(qevd::align(data.iter().flat_map(Dataset::episodes), &predictions).warnings);
                Words::Given(predictions.into_iter().map(|p| (p.episode, p.said)).collect())
            }
        };
        return Ok((words, name));
    }
    let missing: Vec<String> =
        data.iter().flat_map(|d| &d.sessions).filter_map(|s| check_video(s).err()).map(|e| e.to_string()).collect();
    if !missing.is_empty() {
        return Err(Hinted::new(anyhow!(missing.join("; ")), "without videos, score --predictions FILE").into());
    }
    let zero = Latency::Fixed { decide: Duration::ZERO, token: Duration::ZERO };
    let latency = if args.zero_latency { zero } else { args.latency };
    let choice = args.coach.choice();
    if args.told && choice.exercise.is_some() {
        return Err(Usage("--told names each exercise itself: leave --exercise out".into()).into());
    }
    let folder = crate::parts::model_folder(choice.model.as_deref())?;
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    Ok((Words::Model(Box::new(Player { choice, latency, told: args.told })), name))
}

/// Options that change what is said, in words.
fn options(args: &RunArgs) -> Vec<(String, String)> {
    if args.predictions.is_some() {
        return Vec::new();
    }
    let latency = if args.zero_latency { "none: for comparison only".to_owned() } else { args.latency.to_string() };
    let mut options = vec![("latency".to_owned(), latency), ("exercise told".to_owned(), args.told.to_string())];
    options.extend(args.coach.described());
    options
}

impl MetricArgs {
    fn build(&self, phrase: String) -> Result<TextMetrics> {
        let given = self.wordnet != Path::new(WORDNET);
        let wordnet = if self.wordnet.exists() || given { Some(WordNet::open(&self.wordnet)?) } else { None };
        if wordnet.is_none() {
            tracing::warn!(
                "METEOR goes without synonyms: no WordNet in {WORDNET} (apt install wordnet-base, or --wordnet DIR)"
            );
        }
        let punkt = self.punkt.as_deref().map(Punkt::open).transpose()?;
        let bert = match &self.bert {
            None => None,
            Some(folder) => {
                let scorer = BertScore::open(folder, self.bert_layer, &crate::parts::device())?;
                let score = move |truth: &str, said: &str| scorer.f1(truth, said).map_err(anyhow::Error::from);
                Some(Box::new(score) as Box<crate::eval::score::Likeness>)
            }
        };
        let judge = self.judge()?.map(|judge| {
            Box::new(move |pairs: &[(String, String)]| judge.ask(pairs)) as Box<crate::eval::score::Judging>
        });
        Ok(TextMetrics { meteor: Meteor { punkt, wordnet }, bert, judge, phrase })
    }

    fn judge(&self) -> Result<Option<Judge>> {
        let (Some(url), Some(model)) = (&self.judge, &self.judge_model) else { return Ok(None) };
        Judge::new(JudgeOptions {
            url: url.clone(),
            model: model.clone(),
            seeds: self.judge_seeds,
            jobs: usize::from(self.judge_jobs),
            timeout: self.judge_timeout,
            key: std::env::var(&self.judge_key).ok(),
            pause: Duration::from_millis(500),
        })
        .map(Some)
    }
}

impl Prepared {
    /// A scored session.
    fn session(&self, index: usize) -> Result<Session> {
        if let Words::Pairs(pairs) = &self.words {
            return self.of_pairs(pairs);
        }
        let session = self.sessions.get(index).context("a session is missing")?;
        let begin = session.frame_times.first().copied().unwrap_or_default();
        let end = session.frame_times.last().copied().unwrap_or_default();
        let (said, warnings) = match &self.words {
            Words::Model(player) => player.play(session)?,
            Words::Given(all) => {
                let said = |e: &qevd::Episode| all.get(&e.id).cloned().unwrap_or_default();
                (session.episodes.iter().map(said).collect(), Vec::new())
            }
            Words::Pairs(_) => bail!("pairs have no sessions"),
        };
        let episodes = session.episodes.iter().zip(said).map(|(e, said)| self.metrics.episode(e, begin, said));
        Ok(Session {
            index,
            id: session.id.clone(),
            duration: end - begin,
            episodes: episodes.collect::<Result<_>>()?,
            warnings,
        })
    }

    fn of_pairs(&self, pairs: &[(String, String)]) -> Result<Session> {
        let episode = crate::eval::store::Episode {
            id: String::new(),
            exercise: String::new(),
            start: 0.0,
            end: 0.0,
            offset: 0.0,
            truth: Vec::new(),
            said: Vec::new(),
            pairs: self.metrics.pairs(pairs)?,
            phrase: Vec::new(),
        };
        Ok(Session { index: 0, id: "pairs".into(), duration: 0.0, episodes: vec![episode], warnings: Vec::new() })
    }
}
