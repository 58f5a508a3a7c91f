//! How a checkpoint is streamed that brings no `spotter.toml`: any LLaVA with a CLIP or SigLIP tower. Its own chat template
//! wraps the stream; whether it speaks is asked after each frame and read off the logits.

use super::manifest::{Defaults, LensKind, Manifest, Prompt, Speaking};
use crate::{
    model::{
        Plan,
        llava_config::{Family, VisionConfig},
        projector::{Pooling, VisionManifest},
    },
    prompt::Message,
    weights::WeightsError,
};

/// Cells along a side that a picture's tokens are averaged to: 16 tokens a frame, where LLaVA has hundreds.
const CELLS: usize = 4;
/// SEED was trained on the frames of videos with 9 tokens each.
const SEED_CELLS: usize = 3;
/// Frames a second: such models are large, and know nothing of motion.
const FRAME_RATE: f64 = 1.0;
/// Positions that are used of the model's own: prompt, about 100 frames, and what was said about them.
const CONTEXT: usize = 2048;

const TOLD: &str = "You are a fitness coach watching {exercise}, one picture a second.";
const TOLD_NOTHING: &str = "You are a fitness coach watching a person exercise, one picture a second.";
const IN_KOREAN: &str = "Speak Korean.";
const QUESTION: &str = "Is there something to correct or to praise right now? Answer Yes or No.";
const LEAD: &str = "Tell the person what to do better, in one short sentence.";

/// The manifest of a checkpoint that has none.
///
/// # Errors
/// A chat template that is missing or that refuses a turn with a picture.
pub(super) fn manifest(plan: &Plan) -> Result<Manifest, WeightsError> {
    let template = plan.template()?;
    let image = plan.image_token();
    let around = |text: &str| -> Result<(String, String), WeightsError> {
        let turn = template
            .render(&[Message::with_image(text)], true)
            .map_err(|e| WeightsError::file(plan.checkpoint.folder(), e))?;
        let (before, after) = turn.split_once(&image).unwrap_or((&turn, ""));
        let begin = if template.begins(before) { String::new() } else { beginning(plan) };
        Ok((begin + before, after.to_owned()))
    };
    let (begin, question) = around(QUESTION)?;
    let (_, lead) = around(LEAD)?;
    let cells = if plan.config.family == Family::Seed { SEED_CELLS } else { CELLS }.min(plan.grid().side);
    Ok(Manifest {
        lens: LensKind::None,
        frame_rate: FRAME_RATE,
        vision: VisionManifest { pooling: Pooling::Average(cells), delta: false },
        speaking: Speaking::Verbalisers { question, speak: vec!["Yes".into()], silent: vec!["No".into()], lead },
        prompt: Prompt {
            en: format!("{begin}{TOLD}\n"),
            en_unnamed: format!("{begin}{TOLD_NOTHING}\n"),
            ko: format!("{begin}{TOLD} {IN_KOREAN}\n"),
            ko_unnamed: format!("{begin}{TOLD_NOTHING} {IN_KOREAN}\n"),
        },
        context: CONTEXT.min(plan.config.text.max_positions),
        positions: None,
        cache: Default::default(),
        speculation: Default::default(),
        defaults: Defaults { cooldown_seconds: 4.0, ..Defaults::default() },
    })
}

/// Whether a checkpoint can do without a `spotter.toml`: Spotter's own towers see drawn bodies at a rate that only it names.
pub(super) fn serves(plan: &Plan) -> bool {
    !matches!(plan.config.vision, VisionConfig::Spotter(_))
}

/// What the tokenizer itself would put before a text.
fn beginning(plan: &Plan) -> String {
    let ids = plan.tokenizer.encode("", true).unwrap_or_default();
    ids.iter().filter_map(|id| plan.tokenizer.token(*id)).collect()
}
