//! In the manner of LLM-Acc: a language model behind an OpenAI-compatible server rates each matched pair from 1 to 5.
//!
//! Sampling and parsing are those of the published evaluation (temperature 0.6, top-p 0.9, 64 tokens; the answer holds
//! one `{...}` on one line, read as a Python dict with a `score`). An answer that can't be read is dropped and counted.
//! The words of the question are Spotter's own, so the score is never called by the published name, whoever judges.

use crate::parallel::in_parallel;
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// What is asked of every judge.
const SYSTEM: &str = "You rate the feedback of an AI fitness coach. You are given what a human coach said at a moment of a \
    workout (the truth) and what the AI coach said at that moment (the prediction). Judge how well the prediction agrees with \
    the truth in fact, how relevant it is, and whether both ask for the same. Synonyms and paraphrases are valid. Counts of \
    repetitions may be written as digits or as words.";

/// Tries of one question, the first included.
const TRIES: u32 = 5;

/// Where the judge is.
#[derive(Clone, Debug)]
pub(crate) struct JudgeOptions {
    /// Up to and with `/v1`.
    pub(crate) url: String,
    pub(crate) model: String,
    /// Times that every pair is asked about, each with its own seed.
    pub(crate) seeds: u32,
    /// Questions under way at once.
    pub(crate) jobs: usize,
    /// Of one try.
    pub(crate) timeout: Duration,
    /// Sent as a bearer token.
    pub(crate) key: Option<String>,
    /// Before the second try; doubled before each later one.
    pub(crate) pause: Duration,
}

/// A judge that answered once.
pub(crate) struct Judge {
    options: JudgeOptions,
    agent: ureq::Agent,
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
        Ok(Self { options, agent: config.into() })
    }

    /// What the table calls its score.
    pub(crate) fn name(&self) -> String {
        format!("{} with Spotter's own prompt, not LLM-Acc ({} seeds)", self.options.model, self.options.seeds)
    }

    /// For each pair of truth and prediction one score a seed; `None` where the answer could not be read.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub(crate) fn ask(&self, pairs: &[(String, String)]) -> Result<Vec<Vec<Option<f64>>>> {
        let seeds = self.options.seeds.max(1) as usize;
        let one = |i: usize| {
            let (truth, said) = pairs.get(i / seeds).context("a pair is missing")?;
            Ok(score(&self.question(truth, said, i % seeds)?))
        };
        let all = in_parallel(self.options.jobs.max(1), pairs.len() * seeds, one, |_| {})?;
        Ok(all.chunks(seeds).map(<[_]>::to_vec).collect())
    }

    fn question(&self, truth: &str, said: &str, seed: usize) -> Result<String> {
        let user = format!(
            "Truth: {truth}\nPrediction: {said}\n\nAnswer with a Python dict alone, with the single key 'score' and an integer \
             from 1 (wrong) to 5 (the same). Example: {{'score': 3}}"
        );
        let body = json!({
            "model": self.options.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
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

/// The score in an answer, if there is one: exactly one `{...}` on a line, a Python dict with a `score` that is a number or
/// the text of one.
pub(crate) fn score(answer: &str) -> Option<f64> {
    let mut groups = Vec::new();
    let mut rest = answer;
    while let Some(start) = rest.find('{') {
        let inside = &rest[start + 1..];
        match inside.find(['}', '\n']) {
            Some(end) if inside[end..].starts_with('}') => {
                groups.push(&inside[..end]);
                rest = &inside[end + 1..];
            }
            Some(_) => rest = inside,
            None => break,
        }
    }
    match groups[..] {
        [group] => dict(group)?.into_iter().rev().find(|(key, _)| key == "score").and_then(|(_, value)| value),
        _ => None,
    }
}

/// Entries of a Python dict of texts and numbers, without its braces; a value that is no number is `None`.
fn dict(text: &str) -> Option<Vec<(String, Option<f64>)>> {
    let mut entries = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        let value;
        if rest.starts_with(['\'', '"']) {
            let (text, after) = quoted(rest)?;
            value = text.trim().parse().ok();
            rest = after.trim_start();
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let literal = rest[..end].trim();
            value = match literal {
                "True" => Some(1.0),
                "False" => Some(0.0),
                "None" => None,
                _ if literal.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                    Some(literal.parse().ok()?)
                }
                _ => return None,
            };
            rest = &rest[end..];
        }
        entries.push((key.to_owned(), value.filter(|v: &f64| v.is_finite())));
        rest = match rest.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(entries)
}

/// A quoted text without escapes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inside = &text[1..];
    let end = inside.find(quote)?;
    Some((&inside[..end], &inside[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    #[test]
    fn answers_are_read_as_published() {
        for (answer, expected) in [
            ("{'score': 4}", Some(4.0)),
            ("{\"score\": 4.0}", Some(4.0)),
            ("Sure! {'score': '4'} is what I think.", Some(4.0)),
            ("{'score': 4,}", Some(4.0)),
            ("{'why': 'a, b', 'score': 2}", Some(2.0)),
            ("no braces", None),
            ("{'score': 4} or {'score': 5}", None),
            ("{'score':\n4}", None),
            ("{'rating': 4}", None),
            ("{score: 4}", None),
            ("{'score': four}", None),
            ("{'score': 'four'}", None),
            ("{'score': None}", None),
            ("{'score': 4", None),
            ("{}", None),
            ("", None),
            ("{{'score': 4}}", None),
            ("{'score': nan}", None),
        ] {
            assert_eq!(score(answer), expected, "{answer}");
        }
    }

    /// A server on a port of its own that answers its n-th request with `answer(n, body)`: status, body, seconds to wait.
    /// Status 0 closes the connection without a word.
    fn server(
        answer: impl Fn(usize, &str) -> (u16, String, f64) + Send + Sync + 'static,
    ) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, answer) = (count.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let (mut line, mut length) = (String::new(), 0);
                    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                            length = n.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let n = count.fetch_add(1, Ordering::SeqCst);
                    let (status, text, wait) = answer(n, &String::from_utf8(body).unwrap());
                    std::thread::sleep(Duration::from_secs_f64(wait));
                    if status > 0 {
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                            text.len()
                        );
                        let mut stream = stream;
                        let _ = stream.write_all((head + &text).as_bytes());
                    }
                });
            }
        });
        (url, asked)
    }

    fn said(content: &str) -> String {
        json!({"choices": [{"message": {"content": content}}]}).to_string()
    }

    fn judge(url: &str) -> Judge {
        Judge::new(JudgeOptions {
            url: url.to_owned(),
            model: "test".into(),
            seeds: 2,
            jobs: 4,
            timeout: Duration::from_millis(400),
            key: Some("secret".into()),
            pause: Duration::from_millis(1),
        })
        .unwrap()
    }

    fn pairs(n: usize) -> Vec<(String, String)> {
        (0..n).map(|i| (format!("truth {i}"), format!("said {i}"))).collect()
    }

    #[test]
    fn a_good_judge_scores_every_pair_under_every_seed() {
        let (url, asked) = server(|_, body| {
            let body: Value = serde_json::from_str(body).unwrap();
            let user = body.pointer("/messages/1/content").unwrap().as_str().unwrap();
            let i: f64 = user.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
            (200, said(&format!("{{'score': {}}}", i + body["seed"].as_f64().unwrap())), 0.0)
        });
        let scores = judge(&url).ask(&pairs(9)).unwrap();
        let expected: Vec<Vec<Option<f64>>> =
            (0..9).map(|i| vec![Some(f64::from(i)), Some(f64::from(i) + 1.0)]).collect();
        assert_eq!(scores, expected);
        assert_eq!(asked.load(Ordering::SeqCst), 18);
    }

    #[test]
    fn passing_troubles_are_tried_again_and_bad_answers_dropped() {
        // One after the other: overloaded, gone, no JSON, too slow, then an answer that can't be read.
        let (url, asked) = server(|n, _| match n % 5 {
            0 => (503, "busy".into(), 0.0),
            1 => (0, String::new(), 0.0),
            2 => (200, "<html>".into(), 0.0),
            3 => (200, said("{'score': 1}"), 1.0),
            _ => (200, said("I'd say four."), 0.0),
        });
        let mut patient = judge(&url);
        (patient.options.jobs, patient.options.seeds) = (1, 1);
        assert_eq!(patient.ask(&pairs(2)).unwrap(), [[None], [None]]);
        assert_eq!(asked.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn a_judge_that_refuses_or_is_gone_is_an_error() {
        let (url, asked) = server(|_, _| (401, "no such key".into(), 0.0));
        let mut one = judge(&url);
        one.options.jobs = 1;
        let error = one.ask(&pairs(1)).unwrap_err().to_string();
        assert!(error.contains("401") && error.contains("no such key"), "{error}");
        assert!(asked.load(Ordering::SeqCst) <= 1, "a refusal is final");
        let (url, _) = server(|_, _| (500, "always".into(), 0.0));
        assert!(judge(&url).ask(&pairs(1)).unwrap_err().to_string().contains("5 tries"));
        assert!(judge("http://127.0.0.1:9/v1").ask(&pairs(1)).is_err());
        let mut options = judge(&url).options;
        options.url = "localhost".into();
        assert!(Judge::new(options).is_err());
    }
}
