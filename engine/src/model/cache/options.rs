//! How a cache is bounded: what `[cache]` of `spotter.toml` and the command line say.

use serde::{Deserialize, Serialize, de, ser};
use std::{fmt, str::FromStr};

/// A rule that says which entries stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Nothing is dropped; a full cache is an error.
    None,
    /// The pinned prompt and the newest entries.
    Window,
    /// By chance: the baseline that a scorer must beat.
    Random,
    /// Keys that point away from the mean key of their head.
    #[default]
    KeyDiff,
    /// Most attention received, summed over all queries.
    H2o,
    /// Most attention from the newest query.
    Tova,
    /// Most attention from the newest few queries.
    SnapKv,
    /// Largest change of the attention output, with weights from a base score.
    Caote(Base),
    /// The same against the mean value instead of the output.
    FastCaote(Base),
}

/// A score that CAOTE corrects with the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// See [`Policy::KeyDiff`]; this pairing is Spotter's own.
    KeyDiff,
    /// See [`Policy::H2o`].
    H2o,
    /// See [`Policy::Tova`].
    Tova,
    /// See [`Policy::SnapKv`].
    SnapKv,
}

const BASES: [(&str, Base); 4] =
    [("keydiff", Base::KeyDiff), ("h2o", Base::H2o), ("tova", Base::Tova), ("snapkv", Base::SnapKv)];

const PLAIN: [(&str, Policy); 7] = [
    ("none", Policy::None),
    ("window", Policy::Window),
    ("random", Policy::Random),
    ("keydiff", Policy::KeyDiff),
    ("h2o", Policy::H2o),
    ("tova", Policy::Tova),
    ("snapkv", Policy::SnapKv),
];

impl Policy {
    /// Every policy, baselines first.
    pub fn all() -> Vec<Self> {
        let wrapped = |make: fn(Base) -> Self| BASES.iter().map(move |(_, base)| make(*base));
        PLAIN.iter().map(|(_, p)| *p).chain(wrapped(Self::Caote)).chain(wrapped(Self::FastCaote)).collect()
    }

    /// It looks at queries or attention weights, which costs every step a little.
    pub fn watches(self) -> bool {
        match self {
            Self::None | Self::Window | Self::Random | Self::KeyDiff => false,
            Self::H2o | Self::Tova | Self::SnapKv => true,
            Self::Caote(base) | Self::FastCaote(base) => base != Base::KeyDiff,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = |base: &Base| BASES.iter().find(|(_, b)| b == base).map_or("", |(name, _)| *name);
        match self {
            Self::Caote(b) => write!(f, "caote({})", base(b)),
            Self::FastCaote(b) => write!(f, "fastcaote({})", base(b)),
            plain => f.write_str(PLAIN.iter().find(|(_, p)| p == plain).map_or("", |(name, _)| *name)),
        }
    }
}

/// A name that no policy has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no cache policy: expected none, window, random, keydiff, h2o, tova, snapkv, or caote(...) or \
     fastcaote(...) around one of the last four"
)]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let unknown = || UnknownPolicy(text.chars().take(64).collect());
        if let Some((_, policy)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(*policy);
        }
        let (wrapper, rest) = text.split_once('(').ok_or_else(unknown)?;
        let inner = rest.strip_suffix(')').ok_or_else(unknown)?.trim();
        let (_, base) = BASES.iter().find(|(name, _)| *name == inner).ok_or_else(unknown)?;
        match wrapper.trim() {
            "caote" => Ok(Self::Caote(*base)),
            "fastcaote" => Ok(Self::FastCaote(*base)),
            _ => Err(unknown()),
        }
    }
}

impl Serialize for Policy {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What the mean of KeyDiff is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// Keys of length 1.
    #[default]
    Normalised,
    /// Keys as they are: long keys weigh more.
    Raw,
}

/// What becomes of positions when entries leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// They stay, and run on up to the limit; there all are closed up once.
    #[default]
    Running,
    /// They are closed up after every eviction.
    Shrink,
}

/// How a cache is bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheOptions {
    /// Which entries stay.
    pub policy: Policy,
    /// Entries that stay in each head (N of the spec); left out, what the context has room for.
    pub budget: Option<usize>,
    /// Entries beyond the budget that may gather before the next eviction (E).
    pub every: usize,
    /// Longest run of positions in one pass; a longer one is cut up, with an eviction in between (B).
    pub block: usize,
    /// Share of the budget that the newest entries have for themselves.
    pub window: f64,
    /// The first so many entries stay; where more are pinned, those. At most half of the budget.
    pub sinks: usize,
    /// Share of the budget that what was said has for itself; left out, it competes with what was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<f64>,
    /// Mean of KeyDiff.
    pub anchor: Anchor,
    /// One keep-set for all layers and heads, by mean score.
    pub shared: bool,
    /// Positions after an eviction.
    pub positions: Positions,
    /// Newest queries that SnapKV looks at.
    pub observe: usize,
    /// Seed of the random policy.
    pub seed: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            budget: None,
            every: 64,
            block: 128,
            window: 0.1,
            sinks: 4,
            said: None,
            anchor: Anchor::default(),
            shared: false,
            positions: Positions::default(),
            observe: 16,
            seed: 0,
        }
    }
}

/// The largest budget, block and interval that are taken seriously.
const MOST: usize = 1 << 24;

impl CacheOptions {
    /// What is wrong with them, if anything is, in words that name the field.
    pub fn problem(&self) -> Option<String> {
        let numbers = [
            ("budget", self.budget.unwrap_or(1)),
            ("every", self.every),
            ("block", self.block),
            ("observe", self.observe),
        ];
        for (name, n) in numbers {
            if !(1..=MOST).contains(&n) {
                return Some(format!("cache.{name} {n} must be from 1 to {MOST}"));
            }
        }
        if self.sinks > MOST {
            return Some(format!("cache.sinks {} must be from 0 to {MOST}", self.sinks));
        }
        let shares = [("window", self.window), ("said", self.said.unwrap_or(0.0))];
        let wrong = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share));
        wrong.map(|(name, share)| format!("cache.{name} {share} must be from 0 to 1"))
    }

    /// The same with a budget where there is none: what `context` entries leave beside slack and `scratch`, and so that
    /// a quarter of the model's `positions` is free for running on, since closing up at every eviction costs time and
    /// accuracy. Passes of `whole` positions, such as the tokens of a frame, are not cut up.
    #[must_use]
    pub fn fitted(&self, context: usize, positions: usize, scratch: usize, whole: usize) -> Self {
        let mut options = Self { block: self.block.max(whole), ..self.clone() };
        if options.budget.is_none() {
            let room = context.min(positions - positions / 4);
            // A small context is not to be all slack.
            options.block = self.block.min(room / 4).max(whole).max(1);
            options.every = self.every.min(room / 4).max(1);
            options.budget = Some(room.saturating_sub(options.slack() + scratch));
        }
        options
    }

    /// Entries of slack above the budget: what may gather between two evictions, max(B, E).
    pub fn slack(&self) -> usize {
        self.block.max(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive() {
        for policy in Policy::all() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert_eq!("caote( tova )".parse(), Ok(Policy::Caote(Base::Tova)));
        for bad in ["", "keydif", "caote", "caote(window)", "caote(keydiff", "slowcaote(tova)"] {
            assert!(bad.parse::<Policy>().unwrap_err().to_string().contains("is no cache policy"), "{bad}");
        }
    }

    #[test]
    fn read_from_toml_and_checked() {
        let o: CacheOptions = toml::from_str("policy = \"fastcaote(h2o)\"\nbudget = 96\nwindow = 0.2").unwrap();
        assert_eq!((o.policy, o.budget, o.window), (Policy::FastCaote(Base::H2o), Some(96), 0.2));
        assert_eq!(o.problem(), None);
        assert!(toml::from_str::<CacheOptions>("bugdet = 1").is_err());
        let with = |edit: fn(&mut CacheOptions)| {
            let mut options = CacheOptions::default();
            edit(&mut options);
            options.problem().unwrap_or_default()
        };
        assert!(with(|o| o.budget = Some(0)).contains("cache.budget 0"));
        assert!(with(|o| o.every = 0).contains("cache.every 0"));
        assert!(with(|o| o.block = usize::MAX).contains("cache.block"));
        assert!(with(|o| o.window = f64::NAN).contains("cache.window NaN"));
        assert!(with(|o| o.said = Some(1.5)).contains("cache.said 1.5"));
    }

    #[test]
    fn a_budget_leaves_positions_to_run_on_and_frames_whole() {
        let options = CacheOptions::default();
        let fitted = options.fitted(640, 1024, 42, 1);
        assert_eq!((fitted.budget, fitted.block, fitted.every), (Some(640 - 128 - 42), 128, 64));
        // The context is all that the model has: a quarter of it stays free.
        assert_eq!(options.fitted(1024, 1024, 42, 1).budget, Some(768 - 128 - 42));
        // A frame of 300 tokens in passes of 300, also where the context is small.
        assert_eq!(options.fitted(4096, 4096, 0, 300).block, 300);
        let small = options.fitted(640, 640, 10, 300);
        assert_eq!((small.block, small.budget), (300, Some(480 - 300 - 10)));
        // What is asked for is kept.
        let asked = CacheOptions { budget: Some(900), ..options };
        assert_eq!(asked.fitted(640, 1024, 42, 1), asked);
        assert_eq!(asked.fitted(640, 1024, 42, 200).block, 200);
    }
}
