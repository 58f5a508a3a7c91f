//! Sentences of a text by the Punkt model: which periods end a sentence, and which an abbreviation.
//!
//! T. Kiss and J. Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational Linguistics 32(4),
//! 2006. Only the decision is here; the parameters were learned elsewhere and are read from a folder in NLTK's
//! `punkt_tab` form: `abbrev_types.txt`, `collocations.tab`, `sent_starters.txt`, `ortho_context.tab`.

use super::resource::{ResourceError, read};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

// How a word has been seen, by position in the sentence and by case; the file holds sums of these.
const MIDDLE_UPPER: u32 = 1 << 2;
const UPPER: u32 = (1 << 1) | (1 << 2) | (1 << 3);
const BEGIN_LOWER: u32 = 1 << 4;
const LOWER: u32 = (1 << 4) | (1 << 5) | (1 << 6);

const ENDS: [char; 3] = ['.', '?', '!'];
const CLOSERS: &str = "\"')]}‘’“”«»";

/// Parameters of a language.
#[derive(Clone, Debug, Default)]
pub struct Punkt {
    abbreviations: HashSet<String>,
    collocations: HashSet<(String, String)>,
    starters: HashSet<String>,
    contexts: HashMap<String, u32>,
}

#[derive(Default)]
struct Token {
    text: String,
    kind: String,
    ends: bool,
    abbreviation: bool,
    ellipsis: bool,
}

fn letter(c: char) -> bool {
    (c.is_alphanumeric() && !c.is_numeric()) || c == '_'
}

/// -, then . or ,, then digits with , . - between them, then a period.
fn is_number(token: &str) -> bool {
    let rest = token.strip_prefix('-').unwrap_or(token);
    let rest = rest.strip_prefix(['.', ',']).unwrap_or(rest);
    rest.starts_with(|c: char| c.is_ascii_digit()) && rest.chars().all(|c| c.is_ascii_digit() || ",.-".contains(c))
}

impl Token {
    fn new(text: String) -> Self {
        let lower = text.to_lowercase();
        let kind = if is_number(&lower) { "##number##".to_owned() } else { lower };
        Self { text, kind, ..Self::default() }
    }

    fn bare(&self) -> &str {
        match self.kind.strip_suffix('.') {
            Some(bare) if !bare.is_empty() => bare,
            _ => &self.kind,
        }
    }

    fn kind_in_sentence(&self) -> &str {
        if self.ends { self.bare() } else { &self.kind }
    }

    fn upper(&self) -> bool {
        self.text.starts_with(char::is_uppercase)
    }

    fn lower(&self) -> bool {
        self.text.starts_with(char::is_lowercase)
    }

    fn is_initial(&self) -> bool {
        let mut letters = self.text.chars();
        letters.next().is_some_and(letter) && letters.as_str() == "."
    }
}

/// Characters that never belong to a word.
fn outside(c: char) -> bool {
    ")\";}]*:@'({[‘’“”«»?!".contains(c)
}

/// Length of the dashes or dots at `i`: two or more, the dots also with white space between three or more of them.
fn several(line: &[char], i: usize) -> usize {
    let run = |c: char| line.get(i..).unwrap_or_default().iter().take_while(|d| **d == c).count();
    let (dashes, dots) = (run('-'), run('.'));
    if dashes >= 2 {
        return dashes;
    }
    if dots >= 2 {
        return dots;
    }
    let mut pairs = 0;
    while line.get(i + 2 * pairs) == Some(&'.') && line.get(i + 2 * pairs + 1).is_some_and(|c| c.is_whitespace()) {
        pairs += 1;
    }
    // The last dot may be one whose white space was counted already.
    while pairs >= 2 {
        if line.get(i + 2 * pairs) == Some(&'.') {
            return 2 * pairs + 1;
        }
        pairs -= 1;
    }
    0
}

fn words(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for line in text.split('\n') {
        let line: Vec<char> = line.chars().collect();
        let mut i = 0;
        while let Some(&c) = line.get(i) {
            if c.is_whitespace() {
                i += 1;
                continue;
            }
            let length = match several(&line, i) {
                0 if "(\"`{[:;&#*@)}]-,".contains(c) => 1,
                0 => word_length(&line, i),
                n => n,
            };
            tokens.push(Token::new(line.get(i..i + length).unwrap_or_default().iter().collect()));
            i += length.max(1);
        }
    }
    tokens
}

fn word_length(line: &[char], i: usize) -> usize {
    let stops = |j: usize| match line.get(j) {
        None => true,
        Some(&c) => c.is_whitespace() || outside(c) || several(line, j) > 0,
    };
    let mut length = 1;
    while !(stops(i + length) || (line.get(i + length) == Some(&',') && stops(i + length + 1))) {
        length += 1;
    }
    length
}

/// A place where a sentence may end: position of the mark, begin of the next token if white space follows, and what
/// is read behind the mark.
struct Candidate {
    mark: usize,
    next: Option<usize>,
    behind: std::ops::Range<usize>,
}

fn candidates(text: &[char]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for (mark, _) in text.iter().enumerate().filter(|(_, c)| ENDS.contains(c)) {
        let rest = text.get(mark + 1..).unwrap_or_default();
        let Some(&first) = rest.first() else { continue };
        if outside(first) {
            found.push(Candidate { mark, next: None, behind: mark + 1..mark + 2 });
            continue;
        }
        let space = rest.iter().take_while(|c| c.is_whitespace()).count();
        let token = rest.iter().skip(space).take_while(|c| !c.is_whitespace()).count();
        if space > 0 && token > 0 {
            let next = mark + 1 + space;
            found.push(Candidate { mark, next: Some(next), behind: mark + 1..next + token });
        }
    }
    found
}

fn slice(text: &[char], range: std::ops::Range<usize>) -> String {
    text.get(range).unwrap_or_default().iter().collect()
}

impl Punkt {
    /// Reads the parameters of a language.
    ///
    /// # Errors
    /// A file that is missing or can't be understood.
    pub fn open(folder: &Path) -> Result<Self, ResourceError> {
        let lines = |name: &str| -> Result<Vec<String>, ResourceError> {
            Ok(read(&folder.join(name))?.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
        };
        let pairs = |name: &str| -> Result<Vec<(String, String)>, ResourceError> {
            let split = |line: &String| line.split_once('\t').map(|(a, b)| (a.to_owned(), b.to_owned()));
            let wrong = |line: &String| ResourceError::format(&folder.join(name), format!("{line:?} has no tab"));
            lines(name)?.iter().map(|line| split(line).ok_or_else(|| wrong(line))).collect()
        };
        let mut contexts = HashMap::new();
        for (word, sum) in pairs("ortho_context.tab")? {
            let wrong = || ResourceError::format(&folder.join("ortho_context.tab"), format!("{sum:?} is no number"));
            contexts.insert(word, sum.parse().map_err(|_| wrong())?);
        }
        Ok(Self {
            abbreviations: lines("abbrev_types.txt")?.into_iter().collect(),
            collocations: pairs("collocations.tab")?.into_iter().collect(),
            starters: lines("sent_starters.txt")?.into_iter().collect(),
            contexts,
        })
    }

    /// The sentences of a text.
    pub fn sentences(&self, text: &str) -> Vec<String> {
        let chars: Vec<char> = text.chars().collect();
        let spans = realigned(&chars, self.spans(&chars));
        spans.into_iter().map(|(from, to)| slice(&chars, from..to)).filter(|s| !s.is_empty()).collect()
    }

    fn spans(&self, text: &[char]) -> Vec<(usize, usize)> {
        let (mut spans, mut begin) = (Vec::new(), 0);
        for (word, candidate) in contexts(text, candidates(text)) {
            let context = slice(text, word..candidate.mark + 1) + &slice(text, candidate.behind.clone());
            if self.breaks(&context) {
                spans.push((begin, candidate.mark + 1));
                begin = candidate.next.unwrap_or(candidate.mark + 1);
            }
        }
        let end = text.iter().rposition(|c| !c.is_whitespace()).map_or(0, |i| i + 1);
        spans.push((begin, end));
        spans
    }

    /// Whether a sentence ends before the last token of a context.
    fn breaks(&self, context: &str) -> bool {
        let mut tokens = words(context);
        for token in &mut tokens {
            self.first_look(token);
        }
        for i in 1..tokens.len() {
            if let Some([token, next]) = tokens.get_mut(i - 1..=i) {
                self.second_look(token, next);
            }
        }
        tokens.iter().rev().skip(1).any(|token| token.ends)
    }

    fn first_look(&self, token: &mut Token) {
        let dots = token.text.chars().all(|c| c == '.') && token.text.len() >= 2;
        if ENDS.iter().any(|end| token.text.chars().eq([*end])) {
            token.ends = true;
        } else if dots {
            token.ellipsis = true;
        } else if let Some(bare) = token.text.strip_suffix('.').filter(|bare| !bare.ends_with('.')) {
            let bare = bare.to_lowercase();
            let last = bare.rsplit('-').next().unwrap_or(&bare);
            if self.abbreviations.contains(&bare) || self.abbreviations.contains(last) {
                token.abbreviation = true;
            } else {
                token.ends = true;
            }
        }
    }

    fn second_look(&self, token: &mut Token, next: &Token) {
        if !token.text.ends_with('.') {
            return;
        }
        let (kind, initial) = (token.bare().to_owned(), token.is_initial());
        let following = next.kind_in_sentence().to_owned();
        if self.collocations.contains(&(kind.clone(), following.clone())) {
            (token.ends, token.abbreviation) = (false, true);
            return;
        }
        let begins = self.begins_sentence(next);
        if (token.abbreviation || token.ellipsis)
            && !initial
            && (begins == Some(true) || (next.upper() && self.starters.contains(&following)))
        {
            token.ends = true;
            return;
        }
        if initial || kind == "##number##" {
            let never_lower = self.contexts.get(&following).copied().unwrap_or(0) & LOWER == 0;
            if begins == Some(false) || (begins.is_none() && initial && next.upper() && never_lower) {
                (token.ends, token.abbreviation) = (false, true);
            }
        }
    }

    /// What case and history of a word say; `None` where they say nothing.
    fn begins_sentence(&self, token: &Token) -> Option<bool> {
        if [";", ":", ",", ".", "!", "?"].contains(&token.text.as_str()) {
            return Some(false);
        }
        let seen = self.contexts.get(token.kind_in_sentence()).copied().unwrap_or(0);
        if token.upper() && seen & LOWER != 0 && seen & MIDDLE_UPPER == 0 {
            return Some(true);
        }
        if token.lower() && (seen & UPPER != 0 || seen & BEGIN_LOWER == 0) {
            return Some(false);
        }
        None
    }
}

/// Candidates with the begin of the word before them; of marks that follow upon one word, the last.
fn contexts(text: &[char], candidates: Vec<Candidate>) -> Vec<(usize, Candidate)> {
    let mut kept: Vec<(usize, Candidate)> = Vec::new();
    let mut open: Option<(usize, Candidate)> = None;
    for candidate in candidates {
        let (before, stop) = open.as_ref().map_or((0, 0), |(word, c)| (*word, c.mark));
        let between = text.get(stop..candidate.mark).unwrap_or_default();
        let space = between.iter().rposition(|c| " \t\n\r\u{b}\u{c}".contains(*c)).filter(|i| *i > 0);
        let word = space.map_or(before, |i| stop + i + 1);
        if let Some(last) = open.take()
            && last.1.mark <= word
        {
            kept.push(last);
        }
        open = Some((word, candidate));
    }
    kept.extend(open);
    kept
}

/// Closing quotes and brackets go with the sentence before them.
fn realigned(text: &[char], spans: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let (mut out, mut moved) = (Vec::new(), 0);
    for (i, (from, to)) in spans.iter().enumerate() {
        let from = from + moved;
        moved = 0;
        let Some((next, end)) = spans.get(i + 1) else {
            out.push((from, *to));
            continue;
        };
        match closing(text.get(*next..*end).unwrap_or_default()) {
            Some((closers, all)) => {
                out.push((from, next + closers));
                moved = all;
            }
            None => out.push((from, *to)),
        }
    }
    out.retain(|(from, to)| from < to);
    out
}

/// Number of closers that begin a sentence, and of those with the white space behind them.
fn closing(sentence: &[char]) -> Option<(usize, usize)> {
    let closers = sentence.iter().take_while(|c| CLOSERS.contains(**c)).count();
    let space = sentence.iter().skip(closers).take_while(|c| c.is_whitespace()).count();
    let dashes = sentence.get(closers..closers + 2) == Some(&['-', '-']);
    (closers > 0 && (space > 0 || dashes || closers == sentence.len())).then_some((closers, closers + space))
}
