//! METEOR and ROUGE-L against NLTK and rouge_score, on pairs with punctuation, digits, one word, nothing, non-ASCII.

use serde::Deserialize;
use spotter_datasets::metric::{meteor::Meteor, porter::stem, punkt::Punkt, rouge::rouge_l, wordnet::WordNet, words};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Golden {
    stems: Vec<(String, String)>,
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    reference: String,
    prediction: String,
    tokens: [Vec<String>; 2],
    meteor: f64,
    rouge_l: f64,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/text_metrics")
}

fn golden() -> Golden {
    serde_json::from_str(&std::fs::read_to_string(folder().join("golden.json")).unwrap()).unwrap()
}

fn meteor() -> Meteor {
    let punkt = Punkt::open(&folder().join("punkt")).unwrap();
    let wordnet = WordNet::open(&folder().join("wordnet")).unwrap();
    Meteor { punkt: Some(punkt), wordnet: Some(wordnet) }
}

/// Pairs whose score is off.
fn wrong(pairs: &[Pair], score: impl Fn(&Pair) -> f64, expected: impl Fn(&Pair) -> f64) -> Vec<String> {
    let off = pairs.iter().filter(|pair| (score(pair) - expected(pair)).abs() > 1e-6);
    off.map(|p| format!("{:?} / {:?}: {} for {}", p.reference, p.prediction, score(p), expected(p))).collect()
}

#[test]
fn words_and_stems_are_those_of_nltk() {
    let golden = golden();
    let punkt = Punkt::open(&folder().join("punkt")).unwrap();
    for pair in &golden.pairs {
        for (text, tokens) in [&pair.reference, &pair.prediction].into_iter().zip(&pair.tokens) {
            assert_eq!(words::tokenize(text, Some(&punkt)), *tokens, "{text:?}");
        }
    }
    for (word, expected) in &golden.stems {
        assert_eq!(stem(word), *expected, "{word:?}");
    }
}

#[test]
fn meteor_is_that_of_nltk() {
    let golden = golden();
    assert!(golden.pairs.len() >= 200);
    let meteor = meteor();
    assert_eq!(meteor.name(), "METEOR");
    let wrong_pairs = wrong(&golden.pairs, |p| meteor.score(&p.reference, &p.prediction), |p| p.meteor);
    assert!(wrong_pairs.is_empty(), "{wrong_pairs:#?}");
    let ten = golden.pairs.iter().find(|p| p.reference == "10" && p.prediction == "10").unwrap();
    assert_eq!(ten.meteor, 0.5);
    // The goldens see each stage: without one of the files some pairs come out otherwise.
    for (meteor, name) in [
        (Meteor { wordnet: None, ..self::meteor() }, "METEOR (no WordNet)"),
        (Meteor { punkt: None, ..self::meteor() }, "METEOR (no Punkt)"),
    ] {
        assert_eq!(meteor.name(), name);
        let off = wrong(&golden.pairs, |p| meteor.score(&p.reference, &p.prediction), |p| p.meteor);
        assert!(off.len() >= 3, "{name}: {off:?}");
    }
}

#[test]
fn the_whole_of_wordnet_gives_the_same() {
    let places = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/wordnet"), "/usr/share/wordnet".into()];
    let Some(whole) = places.iter().find(|place| place.join("data.noun").exists()) else {
        println!("skipped: WordNet is not installed; scripts/setup.sh fetches it");
        return;
    };
    let meteor = Meteor { wordnet: Some(WordNet::open(whole).unwrap()), ..meteor() };
    let off = wrong(&golden().pairs, |p| meteor.score(&p.reference, &p.prediction), |p| p.meteor);
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn rouge_l_is_that_of_rouge_score() {
    let off = wrong(&golden().pairs, |p| rouge_l(&p.reference, &p.prediction), |p| p.rouge_l);
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn a_missing_or_broken_dictionary_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = WordNet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("index.noun"), "{error}");
    std::fs::write(folder.path().join("index.noun"), "squat n 9 0\n").unwrap();
    let error = WordNet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("squat n 9 0"), "{error}");
    let error = Punkt::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("ortho_context.tab"), "{error}");
}
