//! Many runs that differ in a few options, as one table.

use super::{
    compare::side_by_side,
    run::{RunArgs, play},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser as _};
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

/// Run all combinations of some options and print one table
#[derive(Debug, Args)]
#[command(
    after_help = "Example of a FILE; each list of [grid] is an option of `spotter eval`, all combinations are run:\n\n  \
                        data = [\"data/QEVD-FIT-COACH\"]\n  \
                        out = \"sweep\"\n  \
                        options = [\"--lens\", \"none\"]       # of every run\n\n  \
                        [grid]\n  \
                        talkativeness = [-1, 0, 1]\n  \
                        cooldown = [2, 3]\n  \
                        cache-policy = [\"window\", \"keydiff\"]\n  \
                        cache-budget = [160, 320]\n  \
                        cache = [\"anchor=raw\", \"anchor=normalised\"]\n  \
                        draft = [\"none\", \"ngram\"]\n  \
                        draft-method = [\"adaedl(8)\"]\n  \
                        tosa-ratio = [0.5, 0.7, 1]        # of a model with selectors\n\n\
                        Runs that are finished are not run again."
)]
pub(super) struct SweepArgs {
    /// What to run, in TOML
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also write a page with a plot
    #[arg(long, value_name = "HTML")]
    html: Option<PathBuf>,
    /// A JSON array of rows instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    data: Vec<String>,
    out: PathBuf,
    #[serde(default)]
    options: Vec<String>,
    grid: BTreeMap<String, Vec<toml::Value>>,
}

/// `spotter eval` by itself, for reading options.
#[derive(clap::Parser)]
struct One {
    #[command(flatten)]
    args: RunArgs,
}

/// Options that may be listed in a grid.
const SWEPT: [&str; 15] = [
    "talkativeness",
    "cooldown",
    "cache-policy",
    "cache-budget",
    "cache-said",
    "cache",
    "draft",
    "draft-method",
    "tosa-ratio",
    "max-tokens",
    "latency",
    "seed",
    "lang",
    "model",
    "protocol",
];

fn written(value: &toml::Value) -> Result<String> {
    Ok(match value {
        toml::Value::String(s) => s.clone(),
        toml::Value::Integer(i) => i.to_string(),
        toml::Value::Float(f) => f.to_string(),
        other => bail!("grid: expected texts and numbers, found {other}"),
    })
}

/// All combinations, the last option varying fastest.
fn combinations(grid: &BTreeMap<String, Vec<toml::Value>>) -> Result<Vec<Vec<(String, String)>>> {
    let mut all = vec![Vec::new()];
    for (name, values) in grid {
        if !SWEPT.contains(&name.as_str()) {
            bail!("grid.{name}: expected one of {}", SWEPT.join(", "));
        }
        if values.is_empty() {
            bail!("grid.{name}: an empty list");
        }
        let values = values.iter().map(written).collect::<Result<Vec<_>>>()?;
        all = all
            .into_iter()
            .flat_map(|chosen: Vec<(String, String)>| {
                values.iter().map(move |v| chosen.iter().cloned().chain([(name.clone(), v.clone())]).collect())
            })
            .collect();
    }
    Ok(all)
}

pub(super) fn run(args: &SweepArgs) -> Result<()> {
    let text =
        std::fs::read_to_string(&args.file).with_context(|| format!("{}: can't be read", args.file.display()))?;
    let sweep: Sweep = toml::from_str(&text).with_context(|| format!("{}: is no sweep", args.file.display()))?;
    let combinations = combinations(&sweep.grid).with_context(|| args.file.display().to_string())?;
    let mut reports = Vec::new();
    for (i, chosen) in combinations.iter().enumerate() {
        let name = chosen.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ");
        let folder: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect();
        tracing::info!("run {} of {}: {name}", i + 1, combinations.len());
        let mut line = vec!["eval".to_owned()];
        line.extend(sweep.data.iter().cloned());
        line.extend(["--out".to_owned(), sweep.out.join(folder).display().to_string()]);
        line.extend(sweep.options.iter().cloned());
        line.extend(chosen.iter().map(|(k, v)| format!("--{k}={v}")));
        let one = One::try_parse_from(&line).with_context(|| format!("{}: {name}", args.file.display()))?;
        if let Some(report) = play(&one.args)? {
            reports.push((name, report));
        }
    }
    side_by_side(&reports, args.html.as_deref(), args.json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_combinations_in_order() {
        let sweep: Sweep =
            toml::from_str("data = []\nout = 'x'\n[grid]\nseed = [1, 2]\ncooldown = [0.5]\nlang = ['en', 'ko']")
                .unwrap();
        let all = combinations(&sweep.grid).unwrap();
        let names: Vec<String> =
            all.iter().map(|c| c.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(names, ["0.5 en 1", "0.5 en 2", "0.5 ko 1", "0.5 ko 2"]);
        let drafters: Sweep = toml::from_str(
            "data = []\nout = 'x'\n[grid]\ndraft = ['none', 'ngram']\ndraft-method = ['adaedl(8)', 'rsd-s(3,2)']\n\
             tosa-ratio = [0.5, 1]\ncache-said = [0, 0.25]\ncache = ['positions=shrink', 'anchor=raw']",
        )
        .unwrap();
        for chosen in combinations(&drafters.grid).unwrap() {
            let options = chosen.iter().map(|(k, v)| format!("--{k}={v}"));
            let line: Vec<String> =
                ["eval", "data", "--out", "x"].map(str::to_owned).into_iter().chain(options).collect();
            assert!(One::try_parse_from(&line).is_ok(), "{line:?}");
        }
        let broken: Sweep = toml::from_str("data = []\nout = 'x'\n[grid]\nspeed = [1]").unwrap();
        assert!(combinations(&broken.grid).unwrap_err().to_string().contains("grid.speed"));
    }
}
