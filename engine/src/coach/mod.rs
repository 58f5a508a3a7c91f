//! The streaming coach: after each frame it stays silent or speaks.

mod context;
pub mod eye;
mod gate;
pub mod load;
pub mod manifest;
pub mod need;
mod run;
pub mod session;
mod standard;
mod wish;

use crate::{
    model::{
        CacheOptions, Policy,
        cache::{Setting, setting::BadSetting},
    },
    sampler::Sampling,
    speculate::{DrafterKind, Method},
};
use serde::Serialize;
use spotter_vision::lens::View;
use std::time::Duration;

/// What an utterance is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From the model.
    Coaching,
    /// From the view: nobody, or not all of a body, is seen. No model is asked.
    View,
    /// From the workout: what comes next. No model is asked.
    Program,
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Feedback {
    /// Media time of the frame that made the coach speak.
    pub t_frame: Duration,
    /// Media time at which its first word could be spoken.
    pub t_ready: Duration,
    /// The words.
    pub text: String,
    /// What it is about.
    pub kind: Kind,
}

/// What the user may turn. Times are media time.
#[derive(Clone, Debug, PartialEq)]
pub struct CoachOptions {
    /// Added to the logit of `<feedback>` against `<next>`: 0 as trained, more speaks more.
    pub talkativeness: f32,
    /// No two utterances begin closer than this.
    pub cooldown: Duration,
    /// Longest utterance in tokens.
    pub max_tokens: usize,
    /// How words are drawn.
    pub sampling: Sampling,
    /// Seed of the sampler.
    pub seed: u64,
    /// "en" or "ko".
    pub language: String,
    /// Exercise told to the model, in words; `None` lets it recognise.
    pub exercise: Option<String>,
    /// How the context is bounded, where that is not left to the model.
    pub cache: CacheChoice,
    /// How an utterance is drafted, where that is not left to the model.
    pub speculation: SpeculationChoice,
}

/// What the user says about the cache; the model's own manifest says the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheChoice {
    /// Which entries stay.
    pub policy: Option<Policy>,
    /// How many stay.
    pub budget: Option<usize>,
    /// Any other field.
    pub settings: Vec<Setting>,
}

impl CacheChoice {
    /// What holds where this is chosen over a model's own.
    ///
    /// # Errors
    /// A setting that does not go with the others.
    pub fn over(&self, own: &CacheOptions) -> Result<CacheOptions, BadSetting> {
        let mut options = own.clone();
        options.policy = self.policy.unwrap_or(options.policy);
        options.budget = self.budget.or(options.budget);
        self.settings.iter().try_fold(options, |options, setting| setting.apply(&options))
    }
}

/// What the user says about speculative decoding; the model's own manifest says the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeculationChoice {
    /// Who drafts.
    pub drafter: Option<DrafterKind>,
    /// Which drafts.
    pub method: Option<Method>,
}

/// Which patches of a frame the layers of a tower worked on that skip tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Attended {
    /// Patches along a side.
    pub side: usize,
    /// Where the patches lie in the frame, in shares of it: left, top, right, bottom. Below 0 or above 1 where bars were added.
    pub window: [f32; 4],
    /// Each such layer with its patches, rows from the top, rising; class tokens are no patches. Empty where every layer works
    /// on all.
    pub layers: Vec<(usize, Vec<u32>)>,
}

/// One step of the coach: a frame was seen.
#[derive(Clone, Debug)]
pub struct Step {
    /// Probability of speaking at this frame, before bias and cooldown.
    pub p_speak: f32,
    /// The utterance begun and finished at this frame, if any.
    pub feedback: Option<Feedback>,
    /// How the person is seen.
    pub view: View,
}
