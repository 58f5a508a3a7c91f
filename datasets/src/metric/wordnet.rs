//! Synonyms out of WordNet's own database files (`index.*`, `data.*`, `*.exc`; the format is wndb(5WN)).
//!
//! A word is looked up in each part of speech, as it is and with its endings taken off, exceptions first.

use super::resource::{ResourceError, read};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

/// Endings that are taken off, in order, with what replaces them.
const NOUN: &[(&str, &str)] = &[
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
];
const VERB: &[(&str, &str)] =
    &[("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")];
const ADJECTIVE: &[(&str, &str)] = &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")];
const PARTS: [(&str, &[(&str, &str)]); 4] = [("noun", NOUN), ("verb", VERB), ("adj", ADJECTIVE), ("adv", &[])];

/// One part of speech.
struct Part {
    endings: &'static [(&'static str, &'static str)],
    /// Places in `data` of the synsets of a word.
    index: HashMap<String, Vec<usize>>,
    exceptions: HashMap<String, Vec<String>>,
    data: String,
}

/// The dictionary, in memory.
pub struct WordNet {
    parts: Vec<Part>,
}

impl std::fmt::Debug for WordNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: usize = self.parts.iter().map(|part| part.index.len()).sum();
        f.debug_struct("WordNet").field("words", &words).finish()
    }
}

impl WordNet {
    /// Reads the dictionary of a folder.
    ///
    /// # Errors
    /// A file that is missing or is no WordNet file.
    pub fn open(folder: &Path) -> Result<Self, ResourceError> {
        let parts = PARTS.iter().map(|(name, endings)| Part::open(folder, name, endings));
        Ok(Self { parts: parts.collect::<Result<_, _>>()? })
    }

    /// All one-word lemmas of all synsets of a word; empty for a word that is not in the dictionary.
    pub fn synonyms(&self, word: &str) -> BTreeSet<String> {
        let word = word.to_lowercase();
        self.parts.iter().flat_map(|part| part.synonyms(&word)).collect()
    }
}

impl Part {
    fn open(
        folder: &Path,
        name: &str,
        endings: &'static [(&'static str, &'static str)],
    ) -> Result<Self, ResourceError> {
        let path = folder.join(format!("index.{name}"));
        let mut index = HashMap::new();
        // Lines of the licence begin with a space.
        for line in read(&path)?.lines().filter(|line| !line.starts_with(' ') && !line.is_empty()) {
            let (word, places) = index_line(line)
                .ok_or_else(|| ResourceError::format(&path, format!("no line of a WordNet index: {line:?}")))?;
            index.insert(word, places);
        }
        let mut exceptions = HashMap::new();
        for line in read(&folder.join(format!("{name}.exc")))?.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            if let Some(form) = words.next() {
                exceptions.insert(form, words.collect());
            }
        }
        let data = read(&folder.join(format!("data.{name}")))?;
        Ok(Self { endings, index, exceptions, data })
    }

    fn synonyms(&self, word: &str) -> Vec<String> {
        let mut forms = vec![word.to_owned()];
        match self.exceptions.get(word) {
            Some(bases) => forms.extend(bases.iter().cloned()),
            None => {
                let cut = |(ending, with): &(&str, &str)| word.strip_suffix(ending).map(|stem| format!("{stem}{with}"));
                forms.extend(self.endings.iter().filter_map(cut));
            }
        }
        let places = forms.iter().filter_map(|form| self.index.get(form)).flatten();
        places.flat_map(|place| self.lemmas(*place)).filter(|lemma| !lemma.contains('_')).collect()
    }

    /// Words of the synset at a place: its line is `offset file type count(hex) word id word id ...`.
    fn lemmas(&self, place: usize) -> Vec<String> {
        let line = self.data.get(place..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let mut fields = line.split(' ').skip(3);
        let count = fields.next().and_then(|count| usize::from_str_radix(count, 16).ok()).unwrap_or(0);
        let bare = |word: &str| match word.split_once('(') {
            Some((bare, marker)) if marker.ends_with(')') => bare.to_owned(),
            _ => word.to_owned(),
        };
        fields.step_by(2).take(count).map(bare).collect()
    }
}

/// `word pos synsets pointers [pointer...] senses tagged offset...`
fn index_line(line: &str) -> Option<(String, Vec<usize>)> {
    let mut fields = line.split_whitespace();
    let word = fields.next()?.to_owned();
    let synsets: usize = fields.nth(1)?.parse().ok()?;
    let pointers: usize = fields.next()?.parse().ok()?;
    let places: Vec<usize> =
        fields.skip(pointers.checked_add(2)?).map(|place| place.parse().ok()).collect::<Option<_>>()?;
    (places.len() == synsets).then_some((word, places))
}
