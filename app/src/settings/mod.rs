//! What the user settled once: defaults, under a file, under the environment, under the flags of a command.
//!
//! `spotter live` and the look of every window follow them. What a replay says does not: it is a function of the
//! recording and its options, on every machine.

mod file;
mod keys;

pub(crate) use file::{path, write};
pub(crate) use keys::{KEYS, Key, Patches, Resolution, Theme};

use crate::cli::Language;
use anyhow::anyhow;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// Everything that can be settled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) lang: Language,
    pub(crate) model: Option<PathBuf>,
    /// What is done; at most one of the two.
    pub(crate) exercise: Option<String>,
    pub(crate) workout: Option<PathBuf>,
    pub(crate) talkativeness: Option<f32>,
    /// Seconds.
    pub(crate) cooldown: Option<f64>,
    pub(crate) camera: u32,
    /// Of the camera's picture.
    pub(crate) resolution: Resolution,
    /// Show the camera as a mirror does.
    pub(crate) mirror: bool,
    pub(crate) record: bool,
    pub(crate) data: Option<PathBuf>,
    pub(crate) theme: Theme,
    pub(crate) text_scale: f32,
    /// Which patches that the encoder works on are shown.
    pub(crate) patches: Patches,
    pub(crate) voice: bool,
    /// A voice of the Piper kind.
    pub(crate) speech: Option<PathBuf>,
    /// 0 to 1.
    pub(crate) volume: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lang: Language::En,
            model: None,
            exercise: None,
            workout: None,
            talkativeness: None,
            cooldown: None,
            camera: 0,
            resolution: Resolution { width: 640, height: 480 },
            mirror: true,
            record: true,
            data: None,
            theme: Theme::Dark,
            text_scale: 1.0,
            patches: Patches::Off,
            voice: true,
            speech: None,
            volume: 0.8,
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    Environment(&'static str),
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Settings, and where each of them comes from.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
    /// The file that was read or would be written.
    pub(crate) file: Option<PathBuf>,
}

impl Resolved {
    /// Where a setting comes from.
    pub(crate) fn origin(&self, key: &Key) -> &Origin {
        self.origins.get(key.name).unwrap_or(&Origin::Default)
    }

    /// Sets what a flag says.
    ///
    /// # Errors
    /// When the value is none for this key.
    pub(crate) fn flag(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        self.apply(name, value, Origin::Flag)
    }

    fn apply(&mut self, name: &str, value: &str, origin: Origin) -> anyhow::Result<()> {
        let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            anyhow!("{origin}: there is no setting `{name}`; there are {}", known.join(", "))
        })?;
        (key.set)(&mut self.settings, value)
            .map_err(|expected| anyhow!("{origin}: {name} = `{value}`: expected {expected}"))?;
        self.origins.insert(key.name, origin);
        Ok(())
    }
}

/// Changes one setting.
///
/// # Errors
/// When the value is none for this key.
#[cfg(feature = "desktop")]
pub(crate) fn set(settings: &mut Settings, name: &str, value: &str) -> anyhow::Result<()> {
    let mut resolved = Resolved { settings: settings.clone(), origins: BTreeMap::new(), file: None };
    resolved.flag(name, value)?;
    *settings = resolved.settings;
    Ok(())
}

/// The settings of this machine.
///
/// # Errors
/// When the file or the environment holds something that is no setting.
pub(crate) fn load() -> anyhow::Result<Resolved> {
    resolve(path().as_deref(), |name| std::env::var_os(name))
}

/// The settings of a file and an environment.
fn resolve(file: Option<&Path>, environment: impl Fn(&str) -> Option<std::ffi::OsString>) -> anyhow::Result<Resolved> {
    let mut resolved =
        Resolved { settings: Settings::default(), origins: BTreeMap::new(), file: file.map(Path::to_owned) };
    if let Some(path) = file {
        for (name, value) in file::read(path)? {
            resolved.apply(&name, &value, Origin::File(path.to_owned()))?;
        }
    }
    for key in &KEYS {
        let Some(value) = environment(key.variable).filter(|v| !v.is_empty()) else { continue };
        let value = value.into_string().map_err(|_| anyhow!("{}: expected text in UTF-8", key.variable))?;
        resolved.apply(key.name, &value, Origin::Environment(key.variable))?;
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{ffi::OsString, fs};

    fn settings_of(text: &str, environment: &[(&str, &str)]) -> anyhow::Result<Resolved> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        fs::write(&path, text).unwrap();
        resolve(Some(&path), |name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    fn key(name: &str) -> &'static Key {
        KEYS.iter().find(|key| key.name == name).unwrap()
    }

    #[test]
    fn each_layer_goes_over_the_one_below() {
        let file = "lang = \"ko\"\ntext_scale = 1.5\nvolume = 0.5\ncamera = 2\n";
        let mut resolved = settings_of(file, &[("SPOTTER_VOLUME", "0.25"), ("SPOTTER_CAMERA", "1")]).unwrap();
        resolved.flag("camera", "3").unwrap();
        let s = &resolved.settings;
        assert_eq!((s.lang, s.text_scale, s.volume, s.camera, s.record), (Language::Ko, 1.5, 0.25, 3, true));
        let origins = ["record", "lang", "volume", "camera"].map(|name| resolved.origin(key(name)).clone());
        assert_eq!(origins[0], Origin::Default);
        assert!(matches!(&origins[1], Origin::File(path) if path.ends_with("settings.toml")));
        assert_eq!(origins[2..], [Origin::Environment("SPOTTER_VOLUME"), Origin::Flag]);
    }

    #[test]
    fn what_is_no_setting_is_told_by_name() {
        for (file, environment, said) in [
            ("lang = \"xx\"", None, "lang = `xx`: expected en or ko"),
            ("langauge = \"en\"", None, "there is no setting `langauge`; there are lang, "),
            ("text_scale = 9", None, "text_scale = `9`: expected"),
            ("volume = [1]", None, "volume"),
            ("lang = ", None, "settings.toml"),
            ("resolution = \"640\"", None, "expected width and height, such as 640x480"),
            ("", Some(("SPOTTER_THEME", "pink")), "SPOTTER_THEME: theme = `pink`: expected dark, light or system"),
        ] {
            let error = format!("{:#}", settings_of(file, &environment.map_or(vec![], |e| vec![e])).unwrap_err());
            assert!(error.contains(said), "`{said}` expected in: {error}");
        }
    }

    #[test]
    fn every_default_is_accepted_by_its_own_key() {
        let defaults = Settings::default();
        for key in &KEYS {
            let mut settings = Settings::default();
            let value = (key.get)(&defaults);
            if !value.is_empty() {
                assert_eq!((key.set)(&mut settings, &value), Ok(()), "{} = {value}", key.name);
            }
            assert_eq!(settings, defaults, "{}", key.name);
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("settings.toml");
        let changed = [("theme", "light".to_owned()), ("text_scale", "1.3".to_owned())];
        write(&path, &changed).unwrap();
        write(&path, &[("theme", "dark".to_owned()), ("mirror", "false".to_owned())]).unwrap();
        let read = resolve(Some(&path), |_| None).unwrap().settings;
        assert_eq!((read.theme, read.text_scale, read.mirror), (Theme::Dark, 1.3, false));
        write(&path, &[("workout", "legs.toml".to_owned()), ("resolution", "1280x720".to_owned())]).unwrap();
        write(&path, &[("workout", String::new()), ("exercise", "squats".to_owned())]).unwrap();
        let read = resolve(Some(&path), |_| None).unwrap().settings;
        assert_eq!((read.exercise.as_deref(), read.workout), (Some("squats"), None), "what is taken back is gone");
        assert_eq!(read.resolution, Resolution { width: 1280, height: 720 });
    }

    #[test]
    fn no_file_is_no_error() {
        let read = resolve(Some(Path::new("/nonexistent/settings.toml")), |_| None).unwrap();
        assert_eq!(read.settings, Settings::default());
    }
}
