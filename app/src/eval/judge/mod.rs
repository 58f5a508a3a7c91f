//! LLM-Acc: a language model behind an OpenAI-compatible server rates each matched pair from 1 to 5.
//!
//! Sampling and parsing are those of the published evaluation (temperature 0.6, top-p 0.9, 64 tokens; the answer holds
//! one `{...}` on one line, read as a Python dict with a `score`). An answer that can't be read is dropped and counted.
//! The score has the published name only under the published prompt and judge.

mod answer;
mod prompt;

use crate::parallel::in_parallel;
use anyhow::{Context as _, Result, anyhow, bail};
pub(crate) use prompt::{PUBLISHED_JUDGE, Prompt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Tries of one question, the first included.
const TRIES: u32 = 5;

/// Where the judge is.
#[derive(Clone, Debug)]
pub(crate) struct JudgeOptions {
    /// Up to and with `/v1`.
    pub(crate) url: String,
    pub(crate) model: String,
    pub(crate) prompt: Prompt,
    /// Times that every pair is asked about, each with its own seed.
    pub(crate) seeds: u32,
    /// Questions under way at once, whoever asks.
    pub(crate) jobs: usize,
    /// Of one try.
    pub(crate) timeout: Duration,
    /// Sent as a bearer token.
    pub(crate) key: Option<String>,
    /// Before the second try; doubled before each later one.
    pub(crate) pause: Duration,
}

/// What a judge's score is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JudgeName {
    /// Model, prompt and seeds, in words.
    pub(crate) name: String,
    /// It is the published score.
    pub(crate) llm_acc: bool,
}

impl JudgeName {
    /// Heading of its column.
    pub(crate) fn heading(&self) -> &'static str {
        if self.llm_acc { "LLM-Acc" } else { "judge" }
    }
}

/// Lets a number of questions through at once.
struct Door {
    free: Mutex<usize>,
    opened: Condvar,
}

/// A place behind the door; leaves it when dropped.
struct Inside<'a>(&'a Door);

impl Door {
    fn enter(&self) -> Inside<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.opened.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.opened.notify_one();
    }
}

/// A judge that may be asked from several threads.
pub(crate) struct Judge {
    options: JudgeOptions,
    agent: ureq::Agent,
    door: Door,
}

/// How a try ended that brought no answer.
enum Failure {
    /// Another try may help.
    Passing(String),
    /// None will.
    Final(String),
}

impl Judge {
    pub(crate) fn new(options: JudgeOptions) -> Result<Self> {
        if !(options.url.starts_with("http://") || options.url.starts_with("https://")) {
            bail!("--judge {}: expected a URL such as http://127.0.0.1:8000/v1", options.url);
        }
        let config =
            ureq::Agent::config_builder().timeout_global(Some(options.timeout)).http_status_as_error(false).build();
        let door = Door { free: Mutex::new(options.jobs.max(1)), opened: Condvar::new() };
        Ok(Self { options, agent: config.into(), door })
    }

    /// What the table calls its score.
    pub(crate) fn name(&self) -> JudgeName {
        let (name, llm_acc) = self.options.prompt.named(&self.options.model);
        JudgeName { name: format!("{name} ({} seeds)", self.options.seeds), llm_acc }
    }

    /// For each pair of truth and prediction one score a seed; `None` where the answer could not be read.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub(crate) fn ask(&self, pairs: &[(String, String)]) -> Result<Vec<Vec<Option<f64>>>> {
        let seeds = self.options.seeds.max(1) as usize;
        let one = |i: usize| {
            let (truth, said) = pairs.get(i / seeds).context("a pair is missing")?;
            Ok(answer::score(&self.question(truth, said, i % seeds)?))
        };
        let all = in_parallel(self.options.jobs.max(1), pairs.len() * seeds, one, |_| {})?;
        Ok(all.chunks(seeds).map(<[_]>::to_vec).collect())
    }

    fn question(&self, truth: &str, said: &str, seed: usize) -> Result<String> {
        let prompt = &self.options.prompt;
        let body = json!({
            "model": self.options.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.question(truth, said)},
            ],
            "temperature": 0.6,
            "top_p": 0.9,
            "max_tokens": 64,
            "seed": seed,
        });
        let mut pause = self.options.pause;
        for attempt in 1..=TRIES {
            match self.attempt(&body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(problem)) => bail!("judge {}: {problem}", self.options.url),
                Err(Failure::Passing(problem)) if attempt == TRIES => {
                    bail!("judge {}: {problem} ({TRIES} tries)", self.options.url)
                }
                Err(Failure::Passing(problem)) => {
                    tracing::debug!("judge: {problem}; trying again");
                    std::thread::sleep(pause);
                    pause *= 2;
                }
            }
        }
        Err(anyhow!("judge {}: no answer", self.options.url))
    }

    fn attempt(&self, body: &Value) -> Result<String, Failure> {
        let _inside = self.door.enter();
        let url = format!("{}/chat/completions", self.options.url.trim_end_matches('/'));
        let mut request = self.agent.post(&url).header("content-type", "application/json");
        if let Some(key) = &self.options.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(|e| Failure::Passing(e.to_string()))?;
        let status = response.status().as_u16();
        // A judge writes 64 tokens: whatever is much longer is no answer.
        let text = response.body_mut().with_config().limit(1 << 20).read_to_string();
        let text = text.map_err(|e| Failure::Passing(e.to_string()))?;
        let brief: String = text.chars().take(200).collect();
        match status {
            200 => {}
            408 | 425 | 429 | 500.. => return Err(Failure::Passing(format!("status {status}: {brief}"))),
            _ => return Err(Failure::Final(format!("status {status}: {brief}"))),
        }
        let answer: Value = serde_json::from_str(&text)
            .map_err(|_| Failure::Passing(format!("expected a chat completion in JSON, found: {brief}")))?;
        let content = answer.pointer("/choices/0/message/content").and_then(Value::as_str);
        content.map(str::to_owned).ok_or_else(|| {
            Failure::Passing(format!("expected choices[0].message.content in the answer, found: {brief}"))
        })
    }
}

#[cfg(test)]
mod tests;
