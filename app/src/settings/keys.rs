//! Each setting: its name, its variable, how it is read and shown.

use super::Settings;
use crate::cli::Language;
use clap::ValueEnum;
use std::path::PathBuf;

/// How the window looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Theme {
    #[default]
    Dark,
    Light,
    /// As the system has it.
    System,
}

/// Which patches that the encoder works on the window shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Patches {
    #[default]
    Off,
    /// Of all layers that skip some.
    Summed,
    /// Of one layer.
    Layer(usize),
}

impl std::fmt::Display for Patches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Summed => f.write_str("summed"),
            Self::Layer(n) => write!(f, "{n}"),
        }
    }
}

/// The size of a camera's picture that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl std::fmt::Display for Resolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::str::FromStr for Resolution {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |text: &str| text.parse().ok().filter(|side| (16..=8192).contains(side));
        let sides = text.trim().split_once('x').and_then(|(width, height)| Some((side(width)?, side(height)?)));
        let (width, height) = sides.ok_or("width and height, such as 640x480")?;
        Ok(Self { width, height })
    }
}

/// A setting.
pub(crate) struct Key {
    /// In the file.
    pub(crate) name: &'static str,
    /// In the environment.
    pub(crate) variable: &'static str,
    /// What it is for.
    pub(crate) about: &'static str,
    /// Reads a value; the error is what was expected.
    pub(super) set: fn(&mut Settings, &str) -> Result<(), &'static str>,
    /// The value as it would be written; empty where the model decides.
    pub(crate) get: fn(&Settings) -> String,
}

macro_rules! key {
    ($name:ident, $variable:literal, $about:literal, $read:expr, $show:expr) => {
        Key {
            name: stringify!($name),
            variable: $variable,
            about: $about,
            set: |settings, text| {
                settings.$name = $read(text)?;
                Ok(())
            },
            get: |settings| $show(&settings.$name),
        }
    };
}

/// Every setting, in the order in which they are shown.
pub(crate) static KEYS: [Key; 17] = [
    key!(lang, "SPOTTER_LANG", "language of the coach: en or ko", language, |v: &Language| v.code().to_owned()),
    key!(model, "SPOTTER_MODEL", "model folder, or the name of one that ships", some_path, show_path),
    key!(exercise, "SPOTTER_EXERCISE", "exercise that is done; left out, it is recognised", some_text, show_option),
    key!(workout, "SPOTTER_WORKOUT", "workout file that is done instead", some_path, show_path),
    key!(talkativeness, "SPOTTER_TALKATIVENESS", "more speaks more, -20 to 20; 0 is as trained", bias, show_option),
    key!(cooldown, "SPOTTER_COOLDOWN", "seconds between two utterances", seconds, show_option),
    key!(camera, "SPOTTER_CAMERA", "which camera, from 0", number, u32::to_string),
    key!(
        resolution,
        "SPOTTER_RESOLUTION",
        "size of the camera's picture; the nearest it has is taken",
        str::parse::<Resolution>,
        Resolution::to_string
    ),
    key!(mirror, "SPOTTER_MIRROR", "show the camera as a mirror does", flag, bool::to_string),
    key!(record, "SPOTTER_RECORD", "keep a record of live sessions", flag, bool::to_string),
    key!(data, "SPOTTER_DATA", "folder with what Spotter keeps", some_path, show_path),
    key!(theme, "SPOTTER_THEME", "dark, light or system", theme, show_theme),
    key!(text_scale, "SPOTTER_TEXT_SCALE", "size of all text, 0.5 to 3", scale, f32::to_string),
    key!(
        patches,
        "SPOTTER_PATCHES",
        "show patches the encoder works on: off, summed or a layer",
        patches,
        Patches::to_string
    ),
    key!(voice, "SPOTTER_VOICE", "speak aloud", flag, bool::to_string),
    key!(speech, "SPOTTER_SPEECH", "file of a Piper voice (.onnx); left out, the system's voice", some_path, show_path),
    key!(volume, "SPOTTER_VOLUME", "loudness of the voice, 0 to 1", share, f32::to_string),
];

fn language(text: &str) -> Result<Language, &'static str> {
    Language::from_str(text, false).map_err(|_| "en or ko")
}

fn patches(text: &str) -> Result<Patches, &'static str> {
    match text.trim() {
        "off" => Ok(Patches::Off),
        "summed" => Ok(Patches::Summed),
        number => number.parse().map(Patches::Layer).map_err(|_| "off, summed or the number of a layer"),
    }
}

fn theme(text: &str) -> Result<Theme, &'static str> {
    Theme::from_str(text, false).map_err(|_| "dark, light or system")
}

fn show_theme(theme: &Theme) -> String {
    theme.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

// An empty text takes back what was settled.
fn some_path(text: &str) -> Result<Option<PathBuf>, &'static str> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn some_text(text: &str) -> Result<Option<String>, &'static str> {
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn show_path(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |p| p.display().to_string())
}

fn show_option<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(String::new, T::to_string)
}

fn within(text: &str, low: f64, high: f64) -> Option<f64> {
    text.trim().parse().ok().filter(|v: &f64| (low..=high).contains(v))
}

fn bias(text: &str) -> Result<Option<f32>, &'static str> {
    within(text, -20.0, 20.0).map(|v| Some(v as f32)).ok_or("a number from -20 to 20")
}

fn seconds(text: &str) -> Result<Option<f64>, &'static str> {
    within(text, 0.0, 3600.0).map(Some).ok_or("seconds from 0 to 3600")
}

fn number(text: &str) -> Result<u32, &'static str> {
    text.trim().parse().map_err(|_| "a whole number from 0")
}

fn flag(text: &str) -> Result<bool, &'static str> {
    match text.trim() {
        "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" => Ok(false),
        _ => Err("true or false"),
    }
}

fn scale(text: &str) -> Result<f32, &'static str> {
    within(text, 0.5, 3.0).map(|v| v as f32).ok_or("a number from 0.5 to 3")
}

fn share(text: &str) -> Result<f32, &'static str> {
    within(text, 0.0, 1.0).map(|v| v as f32).ok_or("a number from 0 to 1")
}
