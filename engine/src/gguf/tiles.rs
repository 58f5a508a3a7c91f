//! Keys about pictures in tiles, as LLaVA-NeXT (1.6) and LLaVA-OneVision see them.

use super::{Gguf, GgufError, Value, vision::ASPECT};
use crate::model::{
    llava_config::Family,
    tiling::{Tiling, most_tiles},
};

/// How the tokens of several views come together.
const MERGE: &str = "clip.vision.mm_patch_merge_type";
/// There is one view.
const FLAT: &str = "flat";
/// Tiles lie on one plane, bars are cut off and rows end in a token of their own.
const UNPAD: &str = "spatial_unpad";
/// Widths and heights of planes, in pixels.
const PLANES: &str = "clip.vision.image_grid_pinpoints";
/// What LLaVA-NeXT has for a picture's sides; OneVision adds how many tiles' tokens are kept.
const ANYRES: &str = "anyres";

/// The family of a file whose pictures are cut into tiles of `side` pixels, and how; nothing where there is one view.
///
/// # Errors
/// Another way of putting views together, or planes that are none.
pub(super) fn read(file: &Gguf, side: usize) -> Result<Option<(Family, Tiling)>, GgufError> {
    match file.text_or(MERGE, FLAT)? {
        FLAT => return Ok(None),
        UNPAD => {}
        other => return Err(file.error(format!("{MERGE}: expected {FLAT} or {UNPAD}, found `{other}`"))),
    }
    let (family, most) = match file.text_or(ASPECT, ANYRES)? {
        ANYRES => (Family::Next, None),
        other => match most_tiles(other) {
            Some(most) => (Family::OneVision, Some(most)),
            None => {
                return Err(file.error(format!(
                    "{ASPECT}: expected {ANYRES} or anyres_max_ and a number where {MERGE} is {UNPAD}, found `{other}`"
                )));
            }
        },
    };
    let pair = |pair: &[i64]| match pair {
        [width, height] => Some((usize::try_from(*height).ok()?, usize::try_from(*width).ok()?)),
        _ => None,
    };
    let planes = match file.metadata().get(PLANES) {
        Some(Value::Integers(sides)) => sides.chunks(2).map(pair).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let planes =
        planes.ok_or_else(|| file.error(format!("{PLANES}: expected widths and heights in pixels, in pairs")))?;
    let tiling = Tiling::llava(side, planes, most);
    tiling.check(PLANES).map_err(|e| file.error(e.to_string()))?;
    Ok(Some((family, tiling)))
}

/// The keys that [`read`] understands.
pub(super) fn keys(tiling: &Tiling) -> Vec<(String, Value)> {
    let aspect = tiling.most.map_or(ANYRES.to_owned(), |most| format!("{ANYRES}_max_{most}"));
    let side = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let sides = tiling.planes.iter().flat_map(|(height, width)| [side(*width), side(*height)]).collect();
    vec![
        (ASPECT.into(), Value::Text(aspect)),
        (MERGE.into(), Value::Text(UNPAD.into())),
        (PLANES.into(), Value::Integers(sides)),
    ]
}
