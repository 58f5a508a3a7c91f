//! Which patches of the picture the encoder worked on, over the picture.

use super::{hud::plate, theme::OVER_PICTURE};
use crate::settings::Patches;
use eframe::egui::{Align2, Color32, Painter, Rect, RichText, Ui, pos2};
use spotter_engine::coach::Attended;

/// Colour of a patch that every shown layer worked on, and its strength.
const HEAT: Color32 = Color32::from_rgb(255, 196, 0);
const STRENGTH: f32 = 0.5;

/// The layers that are shown.
fn shown(attended: &Attended, show: Patches) -> Vec<&(usize, Vec<u32>)> {
    match show {
        Patches::Off => Vec::new(),
        Patches::Summed => attended.layers.iter().collect(),
        Patches::Layer(n) => attended.layers.iter().filter(|(layer, _)| *layer == n).collect(),
    }
}

/// Where patches lie on a frame that is shown at `at`, and the share of the shown layers that worked on each.
fn cells(attended: &Attended, show: Patches, at: Rect, mirror: bool) -> Vec<(Rect, f32)> {
    let (layers, side) = (shown(attended, show), attended.side.max(1));
    let mut heat = vec![0u32; side * side];
    for patch in layers.iter().flat_map(|(_, patches)| patches) {
        if let Some(heat) = heat.get_mut(*patch as usize) {
            *heat += 1;
        }
    }
    let [left, top, right, bottom] = attended.window;
    let place = |x: f32, y: f32| {
        let across = left + (right - left) * x / side as f32;
        let across = if mirror { 1.0 - across } else { across };
        pos2(at.left() + across * at.width(), at.top() + (top + (bottom - top) * y / side as f32) * at.height())
    };
    let hot = heat.into_iter().enumerate().filter(|(_, heat)| *heat > 0);
    hot.map(|(patch, heat)| {
        let (x, y) = ((patch % side) as f32, (patch / side) as f32);
        (Rect::from_two_pos(place(x, y), place(x + 1.0, y + 1.0)), heat as f32 / layers.len() as f32)
    })
    .collect()
}

/// Draws the patches over a frame that is shown at `at`.
pub(super) fn draw(painter: &Painter, attended: &Attended, show: Patches, at: Rect, mirror: bool) {
    let painter = painter.with_clip_rect(at.intersect(painter.clip_rect()));
    for (cell, share) in cells(attended, show, at, mirror) {
        painter.rect_filled(cell, 0.0, HEAT.gamma_multiply(STRENGTH * share));
    }
}

/// What is shown, in words; `None` where nothing is asked for. `looked` is whether the encoder has seen a frame.
fn key_text(attended: Option<&Attended>, show: Patches, looked: bool) -> Option<String> {
    if show == Patches::Off || !looked {
        return None;
    }
    let Some(attended) = attended else {
        return Some("patches: this model's encoder works on all of them (it skips no tokens)".to_owned());
    };
    let layers = shown(attended, show);
    let all = attended.side * attended.side;
    Some(match (show, &layers[..]) {
        _ if attended.layers.is_empty() => format!("patches: all {all} are worked on, at this ratio"),
        (Patches::Layer(n), [(_, patches)]) => format!("patches: layer {n} works on {} of {all}", patches.len()),
        (Patches::Layer(n), _) => {
            let there: Vec<String> = attended.layers.iter().map(|(layer, _)| layer.to_string()).collect();
            format!("patches: layer {n} works on all; those that skip are {}", there.join(", "))
        }
        (_, layers) => {
            let mean = layers.iter().map(|(_, p)| p.len()).sum::<usize>() as f32 / layers.len().max(1) as f32;
            format!("patches: {} layers work on {mean:.0} of {all}; brighter is more of them", layers.len())
        }
    })
}

/// Says what the colours mean.
pub(super) fn key_ui(ui: &mut Ui, area: Rect, attended: Option<&Attended>, show: Patches, looked: bool) {
    let Some(text) = key_text(attended, show, looked) else { return };
    plate(ui, "patches", area, Align2::LEFT_BOTTOM, |ui| {
        ui.label(RichText::new(text).size(14.0).color(OVER_PICTURE.text));
    });
}

/// What the key shows next: off, all layers, each layer that skips, off again.
pub(super) fn next(attended: Option<&Attended>, show: Patches) -> Patches {
    let layers = attended.map(|a| a.layers.as_slice()).unwrap_or_default();
    let after = |n: Option<usize>| layers.iter().map(|(l, _)| *l).find(|l| n.is_none_or(|n| *l > n));
    match show {
        Patches::Off => Patches::Summed,
        Patches::Summed => after(None).map_or(Patches::Off, Patches::Layer),
        Patches::Layer(n) => after(Some(n)).map_or(Patches::Off, Patches::Layer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attended(window: [f32; 4]) -> Attended {
        Attended { side: 2, window, layers: vec![(1, vec![0, 3]), (3, vec![3])] }
    }

    fn area() -> Rect {
        Rect::from_min_max(pos2(100.0, 0.0), pos2(300.0, 100.0))
    }

    #[test]
    fn patches_lie_where_they_were_cut() {
        let whole = attended([0.0, 0.0, 1.0, 1.0]);
        let both = cells(&whole, Patches::Summed, area(), false);
        let first = Rect::from_min_max(pos2(100.0, 0.0), pos2(200.0, 50.0));
        let last = Rect::from_min_max(pos2(200.0, 50.0), pos2(300.0, 100.0));
        assert_eq!(both, [(first, 0.5), (last, 1.0)]);
        assert_eq!(cells(&whole, Patches::Layer(3), area(), false), [(last, 1.0)]);
        assert!(cells(&whole, Patches::Off, area(), false).is_empty());
        // In a mirror the first patch is at the right.
        let mirrored = Rect::from_min_max(pos2(200.0, 0.0), pos2(300.0, 50.0));
        assert_eq!(cells(&whole, Patches::Layer(1), area(), true).first(), Some(&(mirrored, 1.0)));
        // The middle half of the frame was cut out.
        let cut = attended([0.25, 0.0, 0.75, 1.0]);
        let middle = Rect::from_min_max(pos2(150.0, 0.0), pos2(200.0, 50.0));
        assert_eq!(cells(&cut, Patches::Layer(1), area(), false).first(), Some(&(middle, 1.0)));
    }

    #[test]
    fn the_key_goes_through_what_there_is() {
        let a = attended([0.0, 0.0, 1.0, 1.0]);
        let mut show = Patches::Off;
        let mut seen = Vec::new();
        for _ in 0..5 {
            show = next(Some(&a), show);
            seen.push(show);
        }
        let expected = [Patches::Summed, Patches::Layer(1), Patches::Layer(3), Patches::Off, Patches::Summed];
        assert_eq!(seen, expected);
        assert_eq!(next(None, Patches::Summed), Patches::Off);
    }

    #[test]
    fn the_words_say_what_is_shown() {
        let a = attended([0.0, 0.0, 1.0, 1.0]);
        let text = |a: Option<&Attended>, show| key_text(a, show, true).unwrap();
        assert!(text(None, Patches::Summed).contains("skips no tokens"));
        assert_eq!(text(Some(&a), Patches::Layer(1)), "patches: layer 1 works on 2 of 4");
        assert!(text(Some(&a), Patches::Layer(2)).contains("those that skip are 1, 3"));
        assert!(text(Some(&a), Patches::Summed).starts_with("patches: 2 layers work on 2 of 4"));
        let dense = Attended { layers: Vec::new(), ..a };
        assert!(text(Some(&dense), Patches::Summed).contains("all 4"));
        assert_eq!(key_text(None, Patches::Off, true), None);
        assert_eq!(key_text(None, Patches::Summed, false), None);
    }
}
