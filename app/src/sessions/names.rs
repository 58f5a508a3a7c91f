//! Words for people.

use spotter_datasets::synthetic::{Mistake, phrases::Lang};

/// A mistake in a few words.
pub(crate) fn fault_name(mistake: Mistake, lang: Lang) -> &'static str {
    let (en, ko) = match mistake {
        Mistake::HalfRange => ("not the full range", "동작 범위 부족"),
        Mistake::KneesIn => ("knees caving in", "무릎이 안으로 모임"),
        Mistake::TrunkLean => ("leaning with the trunk", "상체 기울어짐"),
        Mistake::Uneven => ("left and right differ", "좌우 불균형"),
        Mistake::TooFast => ("too fast", "너무 빠름"),
        Mistake::ArmsBent => ("arms bent", "팔이 굽음"),
        Mistake::HipsSag => ("hips sagging", "엉덩이 처짐"),
        Mistake::HipsHigh => ("hips too high", "엉덩이 높음"),
        Mistake::KneesBent => ("knees bent", "무릎이 굽음"),
    };
    if lang == Lang::Ko { ko } else { en }
}

/// `m:ss`, and hours where there are some.
pub(crate) fn duration_text(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (minutes, seconds) = (whole / 60, whole % 60);
    match minutes / 60 {
        0 => format!("{minutes}:{seconds:02}"),
        hours => format!("{hours}:{:02}:{seconds:02}", minutes % 60),
    }
}
