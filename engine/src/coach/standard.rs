//! How a checkpoint is streamed that brings no `spotter.toml`: any LLaVA with a CLIP or SigLIP tower. Its own chat template
//! wraps the stream; whether it speaks is asked after each frame and read off the logits. VideoLLM-online, which was trained on
//! streams, is streamed as it was trained.

use super::manifest::{Defaults, LensKind, Manifest, Prompt, Speaking, THRESHOLD};
use crate::{
    model::{
        Plan,
        live::Live,
        llava_config::{Family, VisionConfig},
        plan::template_folder,
        projector::{Pooling, VisionManifest},
    },
    prompt::{Message, text_marks},
    stops::stops,
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

/// VideoLLM-online looks twice a second and was trained on ten minutes; this is six of them, where the Llama has the positions.
const LIVE_RATE: f64 = 2.0;
const LIVE_CONTEXT: usize = 8192;
/// It knows who takes part in the conversation from its first sentences.
const LIVE_SCENE: &str = "An AI assistant sees frames of a video as they come, and helps the person in it. Their conversation, with the frames in it, follows.";
const LIVE_ASKED: &str = "I do {exercise}. Tell me what to do better as I go, and when I do well.";
const LIVE_ASKED_NOTHING: &str = "I exercise. Tell me what to do better as I go, and when I do well.";

/// The manifest of a checkpoint that has none.
///
/// # Errors
/// A chat template that is missing or that refuses a turn with a picture.
pub(super) fn manifest(plan: &Plan) -> Result<Manifest, WeightsError> {
    if let Some(live) = &plan.config.live {
        return streamed(plan, live);
    }
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

/// As it was trained: a system text, the wish of the person, frames in brackets with the separator between them; when it has
/// something to say, the bracket is closed and it is the assistant's turn.
fn streamed(plan: &Plan, live: &Live) -> Result<Manifest, WeightsError> {
    let (begin, end) = text_marks(&template_folder(plan.checkpoint.folder()))?;
    let begin = begin.unwrap_or_else(|| beginning(plan));
    let first = || {
        let ends = stops(plan.tokenizer.inner(), &plan.config.text.eos);
        ends.first().and_then(|id| plan.tokenizer.token(*id))
    };
    let end = end.or_else(first).ok_or_else(|| WeightsError::Tokenizer {
        what: "end of a turn".into(),
        expected: "an eos_token in tokenizer_config.json".into(),
        found: "none".into(),
    })?;
    let told = |asked: &str, more: &str| format!("{begin}{LIVE_SCENE}\n\nUser: {asked}{more}\n[");
    let korean = format!(" {IN_KOREAN}");
    let speaking = Speaking::Separator {
        separator: live.separator.clone(),
        threshold: THRESHOLD,
        lead: "]\nAssistant:".into(),
        end,
        again: "\n[".into(),
    };
    Ok(Manifest {
        lens: LensKind::None,
        frame_rate: LIVE_RATE,
        vision: VisionManifest { pooling: live.pooling, delta: false },
        speaking,
        prompt: Prompt {
            en: told(LIVE_ASKED, ""),
            en_unnamed: told(LIVE_ASKED_NOTHING, ""),
            ko: told(LIVE_ASKED, &korean),
            ko_unnamed: told(LIVE_ASKED_NOTHING, &korean),
        },
        context: LIVE_CONTEXT.min(plan.config.text.max_positions),
        positions: None,
        cache: Default::default(),
        speculation: Default::default(),
        defaults: Defaults { max_tokens: 100, ..Defaults::default() },
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
