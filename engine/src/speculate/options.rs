//! How an utterance is drafted: what `[speculation]` of `spotter.toml` and the command line say.

use super::{
    adaedl::{Rule, StopOptions},
    language::Picture,
    tree::Shape,
};
use serde::{Deserialize, Serialize, de, ser};
use std::{fmt, str::FromStr};

/// The most drafts a round may have.
pub const MOST_DRAFTS: usize = 63;

/// Who drafts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DrafterKind {
    /// Nobody: plain decoding.
    #[default]
    None,
    /// What followed the same words before, the newest as if certain.
    Lookup,
    /// The same with probabilities.
    Ngram,
    /// A language model: a GGUF file or a folder, beside the model folder or by its own path.
    Model(String),
}

impl fmt::Display for DrafterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lookup => f.write_str("lookup"),
            Self::Ngram => f.write_str("ngram"),
            Self::Model(path) => f.write_str(path),
        }
    }
}

impl FromStr for DrafterKind {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.trim() {
            "none" | "" => Self::None,
            "lookup" => Self::Lookup,
            "ngram" => Self::Ngram,
            path => Self::Model(path.to_owned()),
        })
    }
}

/// Which drafts a round has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Width and depth.
    pub shape: Shape,
    /// When to stop before the full depth.
    pub rule: Rule,
}

impl Default for Method {
    fn default() -> Self {
        Self { shape: Shape::chain(8), rule: Rule::Entropy }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.shape, self.rule) {
            (Shape::Branches(factors), rule) if factors.iter().all(|b| *b == 1) => {
                let name = match rule {
                    Rule::Static => "static",
                    Rule::Entropy => "adaedl",
                    Rule::Confidence => "max-prob",
                    Rule::Tiers => "tiers",
                };
                return write!(f, "{name}({})", factors.len());
            }
            (Shape::Branches(factors), _) => {
                let factors: Vec<String> = factors.iter().map(usize::to_string).collect();
                write!(f, "rsd-c({})", factors.join(","))?;
            }
            (Shape::Beams { width, depth }, _) => write!(f, "rsd-s({width},{depth})")?,
        }
        match self.rule {
            Rule::Static => Ok(()),
            Rule::Entropy => f.write_str("+adaedl"),
            Rule::Confidence => f.write_str("+max-prob"),
            Rule::Tiers => f.write_str("+tiers"),
        }
    }
}

/// A name that no method has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no way of drafting: expected static(N), adaedl(N), max-prob(N) or tiers(N) with N from 1 to {MOST_DRAFTS}, \
     rsd-c(B,B,...) or rsd-s(WIDTH,DEPTH) with at most {MOST_DRAFTS} tokens in all; a tree may end in +adaedl"
)]
pub struct UnknownMethod(String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownMethod(text.chars().take(64).collect());
        let (tree, rule) = match text.trim().split_once('+') {
            None => (text.trim(), None),
            Some((tree, "adaedl")) => (tree, Some(Rule::Entropy)),
            Some((tree, "max-prob")) => (tree, Some(Rule::Confidence)),
            Some((tree, "tiers")) => (tree, Some(Rule::Tiers)),
            Some(_) => return Err(unknown()),
        };
        let (name, numbers) = match tree.split_once('(') {
            None => (tree, "8"),
            Some((name, rest)) => (name, rest.strip_suffix(')').ok_or_else(unknown)?),
        };
        let numbers: Vec<usize> =
            numbers.split(',').map(|n| n.trim().parse().map_err(|_| unknown())).collect::<Result<_, _>>()?;
        if numbers.iter().any(|n| !(1..=MOST_DRAFTS).contains(n)) {
            return Err(unknown());
        }
        let (shape, rule) = match (name, numbers.as_slice(), rule) {
            ("static", [n], None) => (Shape::chain(*n), Rule::Static),
            ("adaedl", [n], None) => (Shape::chain(*n), Rule::Entropy),
            ("max-prob", [n], None) => (Shape::chain(*n), Rule::Confidence),
            ("tiers", [n], None) => (Shape::chain(*n), Rule::Tiers),
            ("rsd-c", factors, rule) => (Shape::Branches(factors.to_vec()), rule.unwrap_or(Rule::Static)),
            ("rsd-s", [width, depth], rule) => {
                (Shape::Beams { width: *width, depth: *depth }, rule.unwrap_or(Rule::Static))
            }
            _ => return Err(unknown()),
        };
        if shape.nodes() > MOST_DRAFTS {
            return Err(unknown());
        }
        Ok(Self { shape, rule })
    }
}

macro_rules! as_text {
    ($kind:ty) => {
        impl Serialize for $kind {
            fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(DrafterKind);
as_text!(Method);

/// How an utterance is drafted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpeculationOptions {
    /// Who drafts.
    pub drafter: DrafterKind,
    /// Which drafts.
    pub method: Method,
    /// Of the stopping rule.
    pub stop: StopOptions,
    /// What a language model reads where the target sees pictures; left out, what it was trained for: an adapter's tokens
    /// where its folder has one, else nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<Picture>,
    /// Drafting that loses time switches itself off.
    pub self_defence: bool,
}

impl Default for SpeculationOptions {
    fn default() -> Self {
        Self {
            drafter: DrafterKind::None,
            method: Method::default(),
            stop: StopOptions::default(),
            picture: None,
            self_defence: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive() {
        let check = |text: &str, nodes: usize, depth: usize, rule: Rule| {
            let method: Method = text.parse().unwrap();
            assert_eq!((method.shape.nodes(), method.shape.depth(), method.rule), (nodes, depth, rule), "{text}");
            assert_eq!(method.to_string(), text);
        };
        check("static(4)", 4, 4, Rule::Static);
        check("adaedl(8)", 8, 8, Rule::Entropy);
        check("max-prob(8)", 8, 8, Rule::Confidence);
        check("tiers(8)", 8, 8, Rule::Tiers);
        check("rsd-c(2,2,1)", 10, 3, Rule::Static);
        check("rsd-c(3,2,2)", 21, 3, Rule::Static);
        check("rsd-c(2,2,2,2)", 30, 4, Rule::Static);
        check("rsd-s(3,3)", 9, 3, Rule::Static);
        check("rsd-c(2,1,1)+adaedl", 6, 3, Rule::Entropy);
        assert_eq!("adaedl".parse::<Method>().unwrap(), Method::default());
        for bad in ["", "static(0)", "static(64)", "adaedl(2,2)", "rsd-s(3)", "rsd-c(9,9)", "static(2", "rsd-c(2)+x"] {
            assert!(bad.parse::<Method>().unwrap_err().to_string().contains("is no way of drafting"), "{bad}");
        }
    }

    #[test]
    fn read_from_toml() {
        let text = "drafter = \"ngram\"\nmethod = \"rsd-s(3,2)\"\nself_defence = false\n[stop]\nlambda = 0.4";
        let options: SpeculationOptions = toml::from_str(text).unwrap();
        assert_eq!(options.drafter, DrafterKind::Ngram);
        assert_eq!(options.method.shape, Shape::Beams { width: 3, depth: 2 });
        assert_eq!((options.self_defence, options.stop.lambda, options.picture), (false, 0.4, None));
        let written = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<SpeculationOptions>(&written).unwrap(), options);
        for (text, picture) in [
            ("\"drop\"", Picture::Drop),
            ("\"adapter\"", Picture::Adapter),
            ("{ placeholder = 7 }", Picture::Placeholder(7)),
        ] {
            let options: SpeculationOptions = toml::from_str(&format!("picture = {text}")).unwrap();
            assert_eq!(options.picture, Some(picture));
            let written = toml::to_string(&options).unwrap();
            assert_eq!(toml::from_str::<SpeculationOptions>(&written).unwrap(), options);
        }
        assert!(toml::from_str::<SpeculationOptions>("drafer = \"ngram\"").is_err());
    }
}
