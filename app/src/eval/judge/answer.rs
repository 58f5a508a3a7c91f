//! Reading a judge's answer, as the published evaluation does.

/// The score in an answer, if there is one: exactly one `{...}` on a line, a Python dict with a `score` that is a number or
/// the text of one.
pub(super) fn score(answer: &str) -> Option<f64> {
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
}
