//! Words of a sentence, as the Penn Treebank separates them and NLTK's word tokenizer refines it.
//!
//! Punctuation becomes tokens of its own, `n't` and `'s` are cut off, quotes become `` `` `` and `''`. What METEOR
//! counts as a word follows from this, so each rule is applied in the order in which NLTK applies it.

use super::punkt::Punkt;

/// Words of a text: sentences first, where there is a model for them, since only a sentence's last period is cut off.
pub fn tokenize(text: &str, punkt: Option<&Punkt>) -> Vec<String> {
    match punkt {
        Some(punkt) => punkt.sentences(text).iter().flat_map(|sentence| sentence_words(sentence)).collect(),
        None => sentence_words(text),
    }
}

/// Zeros of the decimal digits outside ASCII that people type.
const ZEROS: [u32; 10] = [0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0E50, 0x1040, 0xFF10];

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || ZEROS.iter().any(|zero| (*zero..*zero + 10).contains(&u32::from(c)))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Puts spaces around each character that fits.
fn pad(text: &[char], fits: impl Fn(char) -> bool) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for &c in text {
        if fits(c) { out.extend([' ', c, ' ']) } else { out.push(c) }
    }
    out
}

fn starts(text: &[char], at: usize, what: &str) -> bool {
    let mut rest = text.get(at..).unwrap_or_default().iter().copied();
    what.chars().all(|c| rest.next() == Some(c))
}

fn starts_any_case(text: &[char], at: usize, what: &str) -> bool {
    let mut rest = text.get(at..).unwrap_or_default().iter().copied();
    what.chars().all(|c| rest.next().is_some_and(|d| d.to_lowercase().eq(c.to_lowercase())))
}

fn at(text: &[char], i: usize) -> Option<char> {
    text.get(i).copied()
}

/// No word goes on from one side of `i` to the other.
fn boundary(text: &[char], i: usize) -> bool {
    let before = i.checked_sub(1).and_then(|i| at(text, i)).is_some_and(is_word);
    before != at(text, i).is_some_and(is_word)
}

fn replace(text: &[char], what: &str, with: &str) -> Vec<char> {
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
    while let Some(c) = at(text, i) {
        if starts(text, i, what) {
            out.extend(with.chars());
            i += what.chars().count();
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

/// Runs of one character, at least `least` long, get spaces around them.
fn pad_runs(text: &[char], of: char, least: usize) -> Vec<char> {
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
    while let Some(c) = at(text, i) {
        let run = text.get(i..).unwrap_or_default().iter().take_while(|c| **c == of).count();
        if run >= least {
            out.push(' ');
            out.extend(std::iter::repeat_n(of, run));
            out.push(' ');
            i += run;
        } else {
            out.push(c);
            i += 1;
        }
    }
    out
}

fn opening_quotes(text: Vec<char>) -> Vec<char> {
    let text = pad_runs(&pad(&text, |c| matches!(c, '«' | '“' | '‘' | '„')), '`', 1);
    let mut text = text;
    if text.first() == Some(&'"') {
        text.splice(0..1, ['`', '`']);
    }
    let text = replace(&text, "``", " `` ");
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
    while let Some(c) = at(&text, i) {
        out.push(c);
        i += 1;
        if matches!(c, ' ' | '(' | '[' | '{' | '<') {
            let quote = if at(&text, i) == Some('"') {
                1
            } else if starts(&text, i, "''") {
                2
            } else {
                0
            };
            if quote > 0 {
                out.extend(" `` ".chars());
                i += quote;
            }
        }
    }
    leading_apostrophes(&out)
}

/// An apostrophe before a word, other than that of a contraction, stands alone.
fn leading_apostrophes(text: &[char]) -> Vec<char> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for (i, &c) in text.iter().enumerate() {
        out.push(c);
        let outside = !i.checked_sub(1).and_then(|i| at(text, i)).is_some_and(is_word);
        if c == '\'' && outside && at(text, i + 1).is_some_and(is_word) {
            let ends = ["re", "ve", "ll", "m", "t", "s", "d", "n"];
            let clitic = |end: &str| starts_any_case(text, i + 1, end) && boundary(text, i + 1 + end.len());
            if !ends.iter().any(|end| clitic(end)) {
                out.push(' ');
            }
        }
    }
    out
}

/// Cuts off the period that ends the text; `closers` may follow it. `spaced`: with a space before those as well.
fn final_period(text: Vec<char>, closers: &str, spaced: bool) -> Vec<char> {
    let trimmed = text.iter().rposition(|c| !c.is_whitespace()).map_or(0, |i| i + 1);
    // Closers may hold a space, which then is not for trimming.
    let body = if closers.contains(' ') { text.len() } else { trimmed };
    let kept = text.get(..body).unwrap_or_default();
    let is_closer = |c: &char| closers.contains(*c);
    let mut tail = kept.len();
    while tail > 0 && kept.get(tail - 1).is_some_and(&is_closer) {
        tail -= 1;
    }
    if closers.contains(' ') && tail == kept.len() {
        // Other white space may end the text behind the closers.
        while tail > 0 && kept.get(tail - 1).is_some_and(|c| c.is_whitespace()) {
            tail -= 1;
        }
        while tail > 0 && kept.get(tail - 1).is_some_and(&is_closer) {
            tail -= 1;
        }
    }
    let Some(period) = tail.checked_sub(1).filter(|i| at(kept, *i) == Some('.')) else { return text };
    if period.checked_sub(1).and_then(|i| at(kept, i)).is_none_or(|c| c == '.') {
        return text;
    }
    let mut end: Vec<char> = kept.get(tail..).unwrap_or_default().to_vec();
    while end.last().is_some_and(|c| c.is_whitespace() && !closers.contains(*c)) {
        end.pop();
    }
    let mut out = kept.get(..period).unwrap_or_default().to_vec();
    out.extend([' ', '.']);
    if spaced {
        out.push(' ');
    }
    out.extend(end);
    out.push(' ');
    out
}

fn colons_and_commas(text: &[char]) -> Vec<char> {
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
    while let Some(c) = at(text, i) {
        i += 1;
        match (c, at(text, i)) {
            // The next character goes by with it, so of two commas the second stays where it is.
            (':' | ',', Some(next)) if !is_digit(next) => {
                out.extend([' ', c, ' ', next]);
                i += 1;
            }
            _ => out.push(c),
        }
    }
    if let Some(&c @ (':' | ',')) = out.last() {
        out.pop();
        out.extend([' ', c, ' ']);
    }
    out
}

fn punctuation(text: Vec<char>) -> Vec<char> {
    let text = final_period(text, "])}>\"'»”’ ", true);
    let text = colons_and_commas(&text);
    let text = pad_runs(&text, '.', 2);
    let text = pad(&text, |c| matches!(c, ';' | '@' | '#' | '$' | '%' | '&'));
    let text = pad(&text, |c| ('\u{2012}'..='\u{2015}').contains(&c));
    let text = final_period(text, "])}>\"'", false);
    let text = pad(&text, |c| matches!(c, '?' | '!'));
    let mut out = Vec::with_capacity(text.len() + 8);
    let mut i = 0;
    while let Some(c) = at(&text, i) {
        out.push(c);
        i += 1;
        if c != '\'' && starts(&text, i, "' ") {
            out.extend([' ', '\'', ' ']);
            i += 2;
        }
    }
    let text = pad(&out, |c| c == '*');
    let text = pad(&text, |c| matches!(c, ']' | '[' | '(' | ')' | '{' | '}' | '<' | '>'));
    replace(&text, "--", " -- ")
}

/// Cuts endings that stand before a space off the word before them.
fn cut_endings(text: &[char], endings: &[&str]) -> Vec<char> {
    let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
    while let Some(c) = at(text, i) {
        out.push(c);
        i += 1;
        if matches!(c, '\'' | ' ') {
            continue;
        }
        let found = endings.iter().find(|end| starts(text, i, end) && at(text, i + end.chars().count()) == Some(' '));
        if let Some(end) = found {
            out.push(' ');
            out.extend(end.chars());
            out.push(' ');
            i += end.chars().count() + 1;
        }
    }
    out
}

fn closing_quotes(text: &[char]) -> Vec<char> {
    let text = pad(text, |c| matches!(c, '»' | '”' | '’'));
    let text = replace(&replace(&text, "''", " '' "), "\"", " '' ");
    let mut single: Vec<char> = Vec::with_capacity(text.len());
    for c in text {
        let c = if c.is_whitespace() { ' ' } else { c };
        if !(c == ' ' && single.last() == Some(&' ')) {
            single.push(c);
        }
    }
    let text = cut_endings(&single, &["'s", "'S", "'m", "'M", "'d", "'D", "'"]);
    cut_endings(&text, &["'ll", "'LL", "'re", "'RE", "'ve", "'VE", "n't", "N'T"])
}

/// Words that are two, each cut where it says.
const JOINED: [(&str, &str); 8] = [
    ("can", "not"),
    ("d", "'ye"),
    ("gim", "me"),
    ("gon", "na"),
    ("got", "ta"),
    ("lem", "me"),
    ("more", "'n"),
    ("wan", "na"),
];

fn joined_words(mut text: Vec<char>) -> Vec<char> {
    for (first, second) in JOINED {
        let whole = format!("{first}{second}");
        let before_space = first == "wan";
        let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
        while let Some(c) = at(&text, i) {
            let end = i + whole.chars().count();
            let stops =
                if before_space { at(&text, end).is_some_and(char::is_whitespace) } else { boundary(&text, end) };
            if boundary(&text, i) && is_word(c) && stops && starts_any_case(&text, i, &whole) {
                let middle = i + first.chars().count();
                out.push(' ');
                out.extend(text.get(i..middle).unwrap_or_default());
                out.push(' ');
                out.extend(text.get(middle..end).unwrap_or_default());
                out.push(' ');
                i = end;
            } else {
                out.push(c);
                i += 1;
            }
        }
        text = out;
    }
    for verb in ["is", "was"] {
        let (mut out, mut i) = (Vec::with_capacity(text.len() + 8), 0);
        while let Some(c) = at(&text, i) {
            let end = i + 3 + verb.len();
            if starts_any_case(&text, i, " 't") && starts_any_case(&text, i + 3, verb) && boundary(&text, end) {
                out.push(' ');
                out.extend(text.get(i + 1..i + 3).unwrap_or_default());
                out.push(' ');
                out.extend(text.get(i + 3..end).unwrap_or_default());
                out.push(' ');
                i = end;
            } else {
                out.push(c);
                i += 1;
            }
        }
        text = out;
    }
    text
}

fn sentence_words(sentence: &str) -> Vec<String> {
    let text = punctuation(opening_quotes(sentence.chars().collect()));
    let mut padded = vec![' '];
    padded.extend(text);
    padded.push(' ');
    let text: String = joined_words(closing_quotes(&padded)).into_iter().collect();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::tokenize;

    #[test]
    fn words_and_punctuation() {
        for (text, expected) in [
            ("Good muffins cost $3.88.", vec!["Good", "muffins", "cost", "$", "3.88", "."]),
            ("Don't stop, you're it!", vec!["Do", "n't", "stop", ",", "you", "'re", "it", "!"]),
            ("\"Lower\" (now)...", vec!["``", "Lower", "''", "(", "now", ")", "..."]),
            ("You cannot.", vec!["You", "can", "not", "."]),
            ("10", vec!["10"]),
            ("1,000:2", vec!["1,000:2"]),
            ("", vec![]),
            ("좋아요!", vec!["좋아요", "!"]),
        ] {
            assert_eq!(tokenize(text, None), expected, "{text}");
        }
    }
}
