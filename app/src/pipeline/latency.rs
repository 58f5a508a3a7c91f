//! How long the model takes, in media time.

use std::{str::FromStr, time::Duration};

/// The source of the time that a decision and its words cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Latency {
    /// Fixed costs: what is observed, skipped and stale follows from media time alone, so two runs of a recording
    /// give the same timeline on any machine and at any speed.
    Fixed {
        /// A look and the choice to speak or not.
        decide: Duration,
        /// Each piece of text.
        token: Duration,
    },
    /// What it took on this machine.
    Measured,
}

impl Latency {
    /// The default of a replay: a machine that decides in 50 ms and writes 40 tokens a second.
    pub(crate) const REPLAY: Self = Self::Fixed { decide: Duration::from_millis(50), token: Duration::from_millis(25) };

    /// Cost of a look that led to `pieces` pieces of text, when it really took `elapsed`.
    pub(crate) fn cost(self, pieces: u32, elapsed: Duration) -> Duration {
        match self {
            Self::Fixed { decide, token } => decide + token * pieces,
            Self::Measured => elapsed,
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed { decide, token } => write!(f, "fixed:{},{}", decide.as_millis(), token.as_millis()),
            Self::Measured => f.write_str("measured"),
        }
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("`{s}` is no latency: expected measured, fixed:MS or fixed:MS,MS (up to 60000 ms)");
        if s == "measured" {
            return Ok(Self::Measured);
        }
        let ms = |text: &str| {
            let ms: u64 = text.trim().parse().map_err(|_| wrong())?;
            if ms <= 60_000 { Ok(Duration::from_millis(ms)) } else { Err(wrong()) }
        };
        let costs = s.strip_prefix("fixed:").ok_or_else(wrong)?;
        let (decide, token) = match costs.split_once(',') {
            Some((decide, token)) => (ms(decide)?, ms(token)?),
            // a token costs about half of a decision
            None => (ms(costs)?, ms(costs)? / 2),
        };
        Ok(Self::Fixed { decide, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["measured", "fixed:50,25", "fixed:0,0"] {
            assert_eq!(text.parse::<Latency>().map(|l| l.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("fixed:80".parse::<Latency>().map(|l| l.to_string()), Ok("fixed:80,40".to_owned()));
        assert_eq!("fixed:50".parse(), Ok(Latency::REPLAY));
    }

    #[test]
    fn refuses_nonsense() {
        for text in ["", "fixed", "fixed:", "fixed:-1", "fixed:1,x", "fixed:99999999", "fast"] {
            assert!(text.parse::<Latency>().is_err(), "{text}");
        }
    }
}
