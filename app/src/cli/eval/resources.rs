//! What the metrics of texts need: a dictionary, a sentence model, an encoder, a judge.

use crate::{
    cli::{Hinted, Listed},
    digest::Digest,
    eval::{
        judge::{Judge, JudgeName, JudgeOptions, PUBLISHED_JUDGE, Prompt},
        score::{Judging, Likeness, TextMetrics},
    },
    hub::{Hub, is_name},
    parts,
};
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use spotter_datasets::metric::{meteor::Meteor, punkt::Punkt, wordnet::WordNet};
use spotter_engine::bert::BertScore;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where Debian's package `wordnet-base` puts its files.
const WORDNET: &str = "/usr/share/wordnet";

/// What the metrics of texts need.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metrics")]
pub(super) struct MetricArgs {
    /// WordNet 3.0's dictionary files, for METEOR; left out, those that set-up has fetched or Debian's
    #[arg(long, value_name = "DIR")]
    wordnet: Option<PathBuf>,
    /// NLTK's folder punkt_tab/english, for METEOR of texts with several sentences; left out, the one that `scripts/setup.sh
    /// punkt` has fetched
    #[arg(long, value_name = "DIR")]
    punkt: Option<PathBuf>,
    /// A BERT or RoBERTa checkpoint for BERTScore: a folder, or a name on the Hugging Face hub (published: roberta-large)
    #[arg(long, value_name = "MODEL")]
    bert: Option<String>,
    /// Layer of it that is compared; left out, the published one of the model
    #[arg(long, value_name = "N", requires = "bert")]
    bert_layer: Option<usize>,
    /// OpenAI-compatible server of a judge, up to and with /v1
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge: Option<String>,
    /// Model the judge is; the published one is meta-llama/Meta-Llama-3-70B-Instruct
    #[arg(long, value_name = "NAME")]
    judge_model: Option<String>,
    /// What the judge is asked: a TOML file with the texts system and user, in which <1> and <2> stand for truth and
    /// prediction. Left out, Spotter's own words
    #[arg(long, value_name = "FILE", requires = "judge")]
    judge_prompt: Option<PathBuf>,
    /// Times each pair is asked about
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    judge_seeds: u32,
    /// Questions under way at once, of all sessions together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    judge_jobs: u16,
    /// Seconds a judge has for an answer
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = crate::cli::coaching::seconds)]
    judge_timeout: Duration,
    /// Environment variable that holds the judge's key
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    judge_key: String,
}

/// The metrics, and what a report calls them.
pub(super) struct Metrics {
    pub(super) texts: TextMetrics,
    pub(super) bert: Option<String>,
    pub(super) judge: Option<JudgeName>,
}

/// A folder that set-up fetches into.
fn fetched(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps").join(name)
}

impl MetricArgs {
    /// Opens all of it; what can't be used is noted. `card` is the number of the card that the encoder runs on.
    pub(super) fn open(&self, card: usize, problems: &mut Listed) -> Option<Metrics> {
        let wordnet = problems.keep(self.wordnet());
        let punkt = problems.keep(self.punkt());
        let bert = problems.keep(self.bert(card));
        let judge = problems.keep(self.judge());
        let (bert, judge) = (bert?, judge?);
        let judge_name = judge.as_ref().map(Judge::name);
        let (likeness, bert) = bert.unzip();
        let judging = |judge: Judge| Box::new(move |pairs: &[(String, String)]| judge.ask(pairs)) as Box<Judging>;
        let meteor = Meteor { punkt: punkt?, wordnet: wordnet? };
        let texts = TextMetrics { meteor, bert: likeness, judge: judge.map(judging), phrase: String::new() };
        Some(Metrics { texts, bert, judge: judge_name })
    }

    fn wordnet(&self) -> Result<Option<WordNet>> {
        let usual = [fetched("wordnet"), PathBuf::from(WORDNET)];
        let found = self.wordnet.clone().or_else(|| usual.into_iter().find(|f| f.join("data.noun").exists()));
        if found.is_none() {
            tracing::warn!(
                "METEOR goes without synonyms: no WordNet here (scripts/setup.sh fetches it, or --wordnet DIR)"
            );
        }
        found
            .map(|folder| WordNet::open(&folder).with_context(|| format!("--wordnet {}", folder.display())))
            .transpose()
    }

    fn punkt(&self) -> Result<Option<Punkt>> {
        let usual = Some(fetched("punkt")).filter(|f| f.join("abbrev_types.txt").exists());
        let found = self.punkt.clone().or(usual);
        if found.is_none() {
            tracing::warn!(
                "METEOR takes each text for one sentence: no Punkt here (scripts/setup.sh punkt fetches it, or --punkt DIR)"
            );
        }
        found.map(|folder| Punkt::open(&folder).with_context(|| format!("--punkt {}", folder.display()))).transpose()
    }

    /// BERTScore with its name: encoder, layer and hash.
    fn bert(&self, card: usize) -> Result<Option<(Box<Likeness>, String)>> {
        let Some(asked) = &self.bert else { return Ok(None) };
        let path = Path::new(asked);
        let (folder, name) = if path.exists() {
            // A name, and not the path: parts of a run may have it elsewhere.
            let name = path.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
            (path.to_owned(), name.unwrap_or_else(|| asked.clone()))
        } else if is_name(asked) {
            (Hub::from_env().model(asked).with_context(|| format!("--bert {asked}"))?, asked.clone())
        } else {
            let hint = "name a folder, or a model of the Hugging Face hub, such as roberta-large";
            return Err(Hinted::new(anyhow!("--bert {asked}: no such folder"), hint).into());
        };
        let device = parts::card(card);
        let scorer = BertScore::open(&folder, self.bert_layer, &device).with_context(|| format!("--bert {asked}"))?;
        // It is asked from other threads, and a card's streams belong to threads.
        device.synchronize()?;
        let mut digest = Digest::default();
        digest.model(&folder)?;
        let name = format!("{name}, layer {}, {}", scorer.layer(), digest.brief());
        let score = move |truth: &str, said: &str| scorer.f1(truth, said).map_err(anyhow::Error::from);
        Ok(Some((Box::new(score), name)))
    }

    fn judge(&self) -> Result<Option<Judge>> {
        let (Some(url), Some(model)) = (&self.judge, &self.judge_model) else { return Ok(None) };
        let prompt = self.judge_prompt.as_deref().map(Prompt::read).transpose().context("--judge-prompt")?;
        let judge = Judge::new(JudgeOptions {
            url: url.clone(),
            model: model.clone(),
            prompt: prompt.unwrap_or_else(Prompt::own),
            seeds: self.judge_seeds,
            jobs: usize::from(self.judge_jobs),
            timeout: self.judge_timeout,
            key: std::env::var(&self.judge_key).ok(),
            pause: Duration::from_millis(500),
        })?;
        if !judge.name().llm_acc {
            tracing::info!(
                "the judge's score is not LLM-Acc: that is {PUBLISHED_JUDGE} with the published prompt (--judge-prompt)"
            );
        }
        Ok(Some(judge))
    }
}
