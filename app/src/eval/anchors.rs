//! Published scores, shown beside a report on the same split and never among its rows.
//!
//! Tables A and B of the notes on QEVD: the benchmark split, and the private one of the competitions, which is not comparable
//! with it. "published" is what the paper, official code or the challenge's pages state, "reported" what others say.

use super::store::RunInfo;
use spotter_datasets::qevd::Protocol::{self, Fitcoach2024, Var2026};

/// What somebody states of a coach.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    coach: &'static str,
    /// METEOR, ROUGE-L, BERT, LLM-Acc, T-F.
    scores: [Option<f64>; 5],
    evidence: &'static str,
    /// `None` where it is not known.
    protocol: Option<Protocol>,
}

const fn all(coach: &'static str, scores: [f64; 5], evidence: &'static str, protocol: Protocol) -> Anchor {
    let [meteor, rouge, bert, judge, timing] = scores;
    let scores = [Some(meteor), Some(rouge), Some(bert), Some(judge), Some(timing)];
    Anchor { coach, scores, evidence, protocol: Some(protocol) }
}

const BENCHMARK: [Anchor; 13] = [
    all("Stream-VLM (official read-me)", [0.127, 0.112, 0.862, 2.45, 0.56], "published", Fitcoach2024),
    all("Stream-VLM (paper)", [0.127, 0.112, 0.863, 2.45, 0.56], "reported", Fitcoach2024),
    all("Stream-VLM without 3D CNN", [0.090, 0.083, 0.857, 2.11, 0.51], "reported", Fitcoach2024),
    all("Stream-VLM without pre-training", [0.095, 0.087, 0.858, 2.08, 0.52], "reported", Fitcoach2024),
    all("Stream-VLM without action tokens", [0.125, 0.110, 0.861, 2.41, 0.50], "reported", Fitcoach2024),
    all("Video-ChatGPT, tuned, every 5 s", [0.108, 0.093, 0.863, 2.33, 0.50], "reported", Fitcoach2024),
    all("LLaMA-VID, tuned, every 5 s", [0.106, 0.090, 0.860, 2.30, 0.50], "reported", Fitcoach2024),
    all("Socratic LLaMA-2-7B", [0.094, 0.071, 0.860, 2.17, 0.50], "reported", Fitcoach2024),
    Anchor {
        coach: "LLaVA-NeXT, untuned, every 5 s",
        scores: [Some(0.104), None, None, Some(2.27), None],
        evidence: "reported",
        protocol: Some(Fitcoach2024),
    },
    Anchor {
        coach: "BioCoach",
        scores: [Some(0.129), Some(0.122), Some(0.864), None, Some(0.544)],
        evidence: "reported",
        protocol: Some(Fitcoach2024),
    },
    all("Qwen3-VL-2B-Instruct, untuned, every 5 s", [0.156, 0.091, 0.859, 2.772, 0.487], "published", Var2026),
    all("Qwen3-VL-8B-Instruct, untuned, every 5 s", [0.127, 0.070, 0.840, 2.720, 0.487], "published", Var2026),
    Anchor {
        coach: "ISCT_FitCoach, \"local benchmark\", protocol unknown",
        scores: [None, None, None, Some(3.093), Some(0.586)],
        evidence: "published",
        protocol: None,
    },
];

const COMPETITION: [Anchor; 8] = [
    all("PKU-FitCoach 2026", [0.296, 0.194, 0.891, 3.556, 0.652], "published", Var2026),
    all("ISCT_FitCoach 2026", [0.182, 0.131, 0.887, 2.797, 0.727], "published", Var2026),
    all("Anonymous 2026", [0.143, 0.069, 0.867, 2.975, 0.537], "published", Var2026),
    all("Lucas Ventura, best of 2025", [0.156, 0.101, 0.861, 2.087, 0.535], "published", Var2026),
    all("Qwen-2.5-VL-Instruct", [0.174, 0.068, 0.855, 3.153, 0.555], "published", Var2026),
    all("Qwen-2-VL-Instruct", [0.185, 0.089, 0.861, 2.851, 0.555], "published", Var2026),
    all("VideoLLaMA3-7B", [0.150, 0.076, 0.859, 2.554, 0.555], "published", Var2026),
    all("VideoChat2", [0.104, 0.048, 0.846, 2.145, 0.555], "published", Var2026),
];

/// A table of what others state.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    /// The heading first.
    pub(crate) cells: Vec<Vec<String>>,
}

/// Whether a folder's name is that of the benchmark split.
pub(crate) fn is_benchmark(name: &str) -> bool {
    name.to_lowercase().contains("qevd-fit-coach-benchmark")
}

/// What is stated about the data of a run under its protocol; `None` for other data.
pub(crate) fn beside(run: &RunInfo) -> Option<Table> {
    if run.truthless {
        let title = "Published on the private split of the competitions; not measured here";
        return Some(Table { title, cells: cells(&COMPETITION.iter().collect::<Vec<_>>()) });
    }
    if run.data.is_empty() || !run.data.iter().all(|name| is_benchmark(name)) {
        return None;
    }
    let fitting = |a: &&Anchor| a.protocol.is_none_or(|protocol| protocol == run.protocol);
    let title = match run.protocol {
        Fitcoach2024 => "Stated by others for this split under fitcoach2024; not measured here",
        Var2026 => "Stated by others for this split under var2026; not measured here",
    };
    Some(Table { title, cells: cells(&BENCHMARK.iter().filter(fitting).collect::<Vec<_>>()) })
}

fn cells(anchors: &[&Anchor]) -> Vec<Vec<String>> {
    let mut table =
        vec![["coach", "METEOR", "ROUGE-L", "BERT", "LLM-Acc", "T-F", "evidence"].map(str::to_owned).to_vec()];
    table.extend(anchors.iter().map(|anchor| {
        let scores = anchor.scores.iter().map(|score| score.map_or_else(|| "-".to_owned(), |s| format!("{s:.3}")));
        let coach = std::iter::once(anchor.coach.to_owned());
        coach.chain(scores).chain([anchor.evidence.to_owned()]).collect()
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::tests::run;

    #[test]
    fn each_protocol_has_its_own_and_other_data_have_none() {
        let on = |name: &str, protocol| {
            let info = RunInfo { data: vec![name.into()], protocol, ..run(false) };
            beside(&info).map(|table| table.cells.iter().map(|row| row[0].clone()).collect::<Vec<_>>().join("\n"))
        };
        let old = on("QEVD-FIT-COACH-Benchmark", Fitcoach2024).unwrap();
        assert!(old.contains("Stream-VLM (official") && !old.contains("Qwen3"), "{old}");
        let new = on("QEVD-FIT-COACH-Benchmark", Var2026).unwrap();
        assert!(new.contains("Qwen3-VL-2B") && !new.contains("Stream-VLM"), "{new}");
        assert!(old.contains("ISCT") && new.contains("ISCT") && !new.contains("PKU"));
        assert_eq!(on("QEVD-FIT-COACH", Fitcoach2024), None);
        let secret = beside(&RunInfo { truthless: true, ..run(false) }).unwrap();
        assert!(secret.cells.iter().any(|row| row[0].contains("PKU")) && secret.title.contains("private"));
        assert!(secret.cells.iter().all(|row| row.len() == 7));
    }
}
