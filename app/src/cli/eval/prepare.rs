//! Before anything is played: data, predictions, videos, model and metrics are opened, and all that is wrong is told at once.

use super::{resources::Metrics, run::RunArgs};
use crate::{
    cli::{Listed, Usage},
    digest::Digest,
    eval::{
        anchors::is_benchmark,
        play::{Player, check_video},
        pool::Pool,
        report::SHUFFLED,
        score::{TextMetrics, most_frequent},
        store::{self, Played, RunInfo, Session},
        table::LOUD,
    },
    pipeline::Latency,
};
use anyhow::{Context as _, Result, bail};
use spotter_datasets::{
    metric::Timed,
    qevd::{self, Counts, Dataset, INDEX_FILE, Predictions, Protocol},
};
use spotter_engine::speculate::DrafterKind;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

/// What the benchmark split should give under `fitcoach2024`.
const BENCHMARK: Counts = Counts { sessions: 74, events: 2511, transitions: 498, regular: 2013, truths: 0 };

/// Where words come from.
enum Words {
    Model(Box<Player>),
    Given(HashMap<String, Vec<Timed>>),
    Pairs(Vec<(String, String)>),
}

/// Data with everything that decides the outcome.
pub(super) struct Prepared {
    sessions: Vec<qevd::Session>,
    words: Words,
    metrics: TextMetrics,
    pub(super) info: RunInfo,
}

/// A path's last part, which does not depend on where it lies.
fn base(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Opens everything.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn prepare(args: &RunArgs) -> Result<Prepared> {
    let mut problems = Listed::default();
    let data = load_all(&args.data, args.protocol, &mut problems);
    let mut warnings: Vec<String> = data.iter().flat_map(|d| d.warnings.iter().cloned()).collect();
    let words = words(args, &data, &mut warnings, &mut problems)?;
    let metrics = args.metrics.open(args.shard.part - 1, &mut problems);
    problems.into_result()?;
    let (Some((words, source)), Some(metrics)) = (words, metrics) else { bail!("the run could not be prepared") };
    let Metrics { texts, bert, judge } = metrics;
    let counts = counts(args, &data, &mut warnings);
    let data_hash = data_hash(&args.data, &data)?;
    let truthless = data.iter().all(|d| d.competition);
    let sessions: Vec<qevd::Session> = data.into_iter().flat_map(|d| d.sessions).collect();
    if args.shuffled && sessions.len() < 2 {
        return Err(Usage("--shuffled shows each session the video of the next: there is only one".into()).into());
    }
    let pairs_only = matches!(words, Words::Pairs(_));
    let phrase =
        most_frequent(sessions.iter().flat_map(|s| &s.episodes).flat_map(|e| &e.truth).map(|t| t.text.as_str()));
    let metrics = TextMetrics { phrase: phrase.clone(), ..texts };
    let info = RunInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: args.protocol,
        data: args.data.iter().map(|folder| base(folder)).collect(),
        data_hash,
        sessions: if pairs_only { 1 } else { sessions.len() },
        counts,
        source,
        source_hash: source_hash(args, &words, &sessions)?,
        options: options(args),
        meteor: metrics.meteor.name().to_owned(),
        bert,
        judge,
        phrase,
        pairs_only,
        truthless,
        warnings,
    };
    Ok(Prepared { sessions, words, metrics, info })
}

/// Loads what can be loaded; sessions that have a name in common are told of, as their predictions could not be told apart.
fn load_all(folders: &[PathBuf], protocol: Protocol, problems: &mut Listed) -> Vec<Dataset> {
    let mut loaded = Vec::new();
    let mut seen: BTreeMap<String, &Path> = BTreeMap::new();
    for folder in folders {
        match qevd::load(folder, protocol) {
            Ok(data) => {
                for session in &data.sessions {
                    if let Some(other) = seen.insert(session.id.clone(), folder) {
                        let (index, id) = (folder.join(INDEX_FILE), &session.id);
                        problems.push(format!(
                            "{}: session {id}, long_range_video_file: a session of {} is called so too",
                            index.display(),
                            other.display()
                        ));
                    }
                }
                loaded.push(data);
            }
            Err(error) => {
                error.problems().into_iter().for_each(|problem| problems.push(problem));
                problems.hint("a QEVD folder has feedbacks_long_range.json; `spotter synth --out DIR` writes one");
            }
        }
    }
    loaded
}

/// What is said, and what the report calls its source; `None` where something is wrong, which is noted.
fn words(
    args: &RunArgs,
    data: &[Dataset],
    warnings: &mut Vec<String>,
    problems: &mut Listed,
) -> Result<Option<(Words, String)>> {
    if let Some(path) = &args.predictions {
        let refs: Vec<&Dataset> = data.iter().collect();
        let words = match qevd::read_any_predictions(path, &refs) {
            Ok(Predictions::Pairs(pairs)) => Words::Pairs(pairs),
            Ok(Predictions::Episodes { predictions, warnings: more }) => {
                warnings.extend(more);
                warnings.extend(qevd::align(data.iter().flat_map(Dataset::episodes), &predictions).warnings);
                Words::Given(predictions.into_iter().map(|p| (p.episode, p.said)).collect())
            }
            Err(error) => {
                error.problems().into_iter().for_each(|problem| problems.push(problem));
                return Ok(None);
            }
        };
        return Ok(Some((words, base(path))));
    }
    for session in data.iter().flat_map(|d| &d.sessions) {
        if problems.keep(check_video(session)).is_none() {
            problems.hint("without videos, score --predictions FILE");
        }
    }
    let mut choice = args.coach.choice();
    choice.card = args.shard.part - 1;
    if args.told && choice.exercise.is_some() {
        return Err(Usage("--told names each exercise itself: leave --exercise out".into()).into());
    }
    let name = match &choice.script {
        Some(script) => base(script),
        None => {
            let Some(folder) = problems.keep(crate::parts::model_folder(choice.model.as_deref())) else {
                return Ok(None);
            };
            base(&folder.canonicalize().unwrap_or(folder))
        }
    };
    let (pool, medians) = (Pool::default(), Default::default());
    if problems.keep(pool.fill(&choice)).is_none() {
        return Ok(None);
    }
    let zero = Latency::Fixed { decide: Duration::ZERO, token: Duration::ZERO };
    let latency = if args.zero_latency { zero } else { args.latency };
    let player = Player { choice, latency, told: args.told, shuffled: args.shuffled, pool, medians };
    Ok(Some((Words::Model(Box::new(player)), name)))
}

/// What both protocols read; a benchmark folder that does not give what is known of it is told of, loudly.
fn counts(args: &RunArgs, data: &[Dataset], warnings: &mut Vec<String>) -> [Option<Counts>; 2] {
    let sum = |data: &[Dataset]| {
        data.iter().fold(Counts::default(), |mut sum, d| {
            sum += d.counts;
            sum
        })
    };
    let truthless = data.iter().all(|d| d.competition);
    let of = |protocol: Protocol| {
        if protocol == args.protocol {
            return Some(sum(data));
        }
        let loaded = args.data.iter().map(|folder| qevd::load(folder, protocol)).collect::<Result<Vec<_>, _>>();
        loaded.ok().filter(|_| !truthless).map(|data| sum(&data))
    };
    let counts = [of(Protocol::Fitcoach2024), of(Protocol::Var2026)];
    if args.data.iter().all(|folder| is_benchmark(&base(folder))) && !args.data.is_empty() {
        warnings.extend(unlike_benchmark(counts[0]).map(|what| format!("{LOUD}{what}")));
    }
    counts
}

fn unlike_benchmark(found: Option<Counts>) -> Option<String> {
    let told = |c: Counts| {
        format!("{} sessions, {} events = {} transitions + {} others", c.sessions, c.events, c.transitions, c.regular)
    };
    let same = |c: Counts| Counts { truths: 0, ..c } == BENCHMARK;
    match found {
        Some(found) if same(found) => None,
        found => Some(format!(
            "this is called the benchmark split, which has {}; found under fitcoach2024: {}. Scores can't be compared with \
             those of others.",
            told(BENCHMARK),
            found.map_or_else(|| "nothing that can be read".to_owned(), told)
        )),
    }
}

/// Options that change what is said, in words.
fn options(args: &RunArgs) -> Vec<(String, String)> {
    if args.predictions.is_some() {
        return Vec::new();
    }
    let latency = if args.zero_latency { "none: for comparison only".to_owned() } else { args.latency.to_string() };
    let mut options = vec![("latency".to_owned(), latency), ("exercise told".to_owned(), args.told.to_string())];
    if args.shuffled {
        options.push((SHUFFLED.to_owned(), true.to_string()));
    }
    options.extend(args.coach.described());
    options
}

/// Of the index files and of all frame times.
fn data_hash(folders: &[PathBuf], data: &[Dataset]) -> Result<String> {
    let mut digest = Digest::default();
    for (folder, data) in folders.iter().zip(data) {
        digest.file("index", &folder.join(INDEX_FILE))?;
        for session in &data.sessions {
            let times: Vec<u8> = session.frame_times.iter().flat_map(|t| t.to_le_bytes()).collect();
            digest.bytes(&session.id, &times);
        }
    }
    Ok(digest.brief())
}

/// Of the predictions; or of the model and its drafter, with the sizes of the videos it is shown.
fn source_hash(args: &RunArgs, words: &Words, sessions: &[qevd::Session]) -> Result<String> {
    let mut digest = Digest::default();
    if let Some(path) = &args.predictions {
        digest.file("predictions", path)?;
    }
    if let Words::Model(player) = words {
        match &player.choice.script {
            Some(script) => digest.file("script", script)?,
            None => digest.model(&crate::parts::model_folder(player.choice.model.as_deref())?)?,
        }
        if let Some(DrafterKind::Model(path)) = &player.choice.speculation.drafter {
            digest.bytes("drafter", b"");
            digest.model(Path::new(path))?;
        }
        for session in sessions {
            let size = std::fs::metadata(&session.video).with_context(|| session.video.display().to_string())?.len();
            digest.bytes(&session.id, &size.to_le_bytes());
        }
    }
    Ok(digest.brief())
}

impl Prepared {
    /// Whether sessions have to be played before they are scored.
    pub(super) fn plays(&self) -> bool {
        matches!(self.words, Words::Model(_))
    }

    /// Plays a session.
    pub(super) fn played(&self, index: usize) -> Result<Played> {
        let session = self.sessions.get(index).context("a session is missing")?;
        match &self.words {
            Words::Model(player) if player.shuffled => {
                let next = self.sessions.get((index + 1) % self.sessions.len().max(1)).unwrap_or(session);
                player.play(session, next)
            }
            Words::Model(player) => player.play(session, session),
            Words::Given(all) => {
                let said = |e: &qevd::Episode| all.get(&e.id).cloned().unwrap_or_default();
                Ok(Played { said: session.episodes.iter().map(said).collect(), warnings: Vec::new() })
            }
            Words::Pairs(_) => bail!("pairs have no sessions"),
        }
    }

    /// A word about this machine, once all is played.
    pub(super) fn too_slow(&self) -> Option<String> {
        match &self.words {
            Words::Model(player) => player.too_slow(),
            _ => None,
        }
    }

    /// A scored session; `played` is asked for what was said in it.
    pub(super) fn scored(&self, index: usize, played: impl FnOnce() -> Result<Played>) -> Result<Session> {
        if let Words::Pairs(pairs) = &self.words {
            return self.of_pairs(pairs);
        }
        let session = self.sessions.get(index).context("a session is missing")?;
        let begin = session.frame_times.first().copied().unwrap_or_default();
        let end = session.frame_times.last().copied().unwrap_or_default();
        let Played { said, warnings } = played()?;
        if said.len() != session.episodes.len() {
            bail!("session {}: {} episodes were played, expected {}", session.id, said.len(), session.episodes.len());
        }
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
        let episode = store::Episode {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_that_is_not_the_known_one_is_told_of() {
        assert_eq!(unlike_benchmark(Some(Counts { truths: 2013, ..BENCHMARK })), None);
        for found in [
            None,
            Some(Counts { events: 2510, ..BENCHMARK }),
            Some(Counts { sessions: 73, ..BENCHMARK }),
            Some(Counts { transitions: 499, regular: 2012, ..BENCHMARK }),
        ] {
            let warning = unlike_benchmark(found).unwrap();
            assert!(warning.contains("74 sessions, 2511 events = 498 transitions + 2013 others"), "{warning}");
        }
    }
}
