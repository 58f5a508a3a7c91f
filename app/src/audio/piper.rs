//! A voice of the Piper kind: an ONNX model that the user has, run by the ONNX Runtime that finds the poses too, on the
//! phonemes that espeak-ng makes.
//!
//! Beside `voice.onnx` lies `voice.onnx.json`, which has the numbers of the phonemes, the language and the rate. Spotter
//! ships no such voice; each has a licence of its own. espeak-ng is under the GPL and stays a program apart.

use super::{Cue, Sound, Voice};
use crate::parts;
use anyhow::{Context as _, anyhow, bail};
use ort::{session::Session, value::TensorRef};
use serde::Deserialize;
use spotter_datasets::synthetic::phrases::Lang;
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

/// Longer cues are none, and would make the model slow.
const MOST_PHONEMES: usize = 600;
/// A cue has to be there before it is stale; the coach needs the other cores.
const THREADS: usize = 2;

/// What lies beside the model.
#[derive(Debug, Deserialize)]
struct Config {
    audio: Audio,
    espeak: Espeak,
    #[serde(default)]
    inference: Inference,
    #[serde(default)]
    num_speakers: u32,
    phoneme_id_map: HashMap<String, Vec<i64>>,
}

#[derive(Debug, Deserialize)]
struct Audio {
    sample_rate: u32,
}

#[derive(Debug, Deserialize)]
struct Espeak {
    voice: String,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Inference {
    noise_scale: f32,
    length_scale: f32,
    noise_w: f32,
}

impl Default for Inference {
    fn default() -> Self {
        Self { noise_scale: 0.667, length_scale: 1.0, noise_w: 0.8 }
    }
}

impl Config {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| {
            format!("{}: can't be read; a Piper voice has this file beside its model", path.display())
        })?;
        let config: Self = serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{}: this is no description of a Piper voice", path.display()))?;
        if !(8_000..=96_000).contains(&config.audio.sample_rate) {
            bail!("{}: a rate of {} was not expected", path.display(), config.audio.sample_rate);
        }
        Ok(config)
    }

    /// The language of the voice; `None` for one that the coach does not speak.
    fn lang(&self) -> Option<Lang> {
        let code = self.espeak.voice.split(['-', '_']).next().unwrap_or_default();
        Lang::from_code(code)
    }

    /// The numbers of phonemes: begin, and after it and after each phoneme a gap, and end. Signs that the voice does not
    /// know are left out.
    fn ids(&self, phonemes: &str) -> anyhow::Result<Vec<i64>> {
        let of = |sign: &str| self.phoneme_id_map.get(sign);
        let [begin, gap, end] = ["^", "_", "$"].map(of);
        let (Some(begin), Some(gap), Some(end)) = (begin, gap, end) else {
            bail!("the voice has no numbers for ^, _ and $");
        };
        let mut ids = [begin.as_slice(), gap].concat();
        for sign in phonemes.chars().take(MOST_PHONEMES) {
            if let Some(id) = of(sign.encode_utf8(&mut [0; 4])) {
                ids.extend(id);
                ids.extend(gap);
            }
        }
        ids.extend(end);
        Ok(ids)
    }
}

/// The voice.
pub(super) struct Piper {
    session: Session,
    config: Config,
    espeak: &'static str,
    name: String,
}

impl Piper {
    /// Loads a voice.
    ///
    /// # Errors
    /// When the model or what lies beside it can't be read or used, or the coach does not speak its language.
    pub(super) fn load(path: &Path, espeak: &'static str) -> anyhow::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".json");
        let config = Config::read(&PathBuf::from(beside))?;
        if config.lang().is_none() {
            bail!("{}: it speaks {}, the coach English and Korean", path.display(), config.espeak.voice);
        }
        let session = parts::onnx_session(path, THREADS)?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self { session, config, espeak, name })
    }

    /// Whether it speaks a language.
    pub(super) fn speaks(&self, lang: Lang) -> bool {
        self.config.lang() == Some(lang)
    }

    fn phonemes(&self, text: &str) -> anyhow::Result<String> {
        let mut child = Command::new(self.espeak)
            .args(["-q", "--ipa", "-v", &self.config.espeak.voice, "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}: can't be started", self.espeak))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("{}: it made no phonemes", self.espeak);
        }
        // a clause a line
        Ok(String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

impl Voice for Piper {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        let ids = self.config.ids(&self.phonemes(&cue.text)?)?;
        let lengths = [i64::try_from(ids.len())?];
        let Inference { noise_scale, length_scale, noise_w } = self.config.inference;
        let (scales, speaker) = ([noise_scale, length_scale, noise_w], [0_i64]);
        let mut inputs = ort::inputs![
            "input" => TensorRef::from_array_view(([1, ids.len()], ids.as_slice()))?,
            "input_lengths" => TensorRef::from_array_view(([1], lengths.as_slice()))?,
            "scales" => TensorRef::from_array_view(([3], scales.as_slice()))?,
        ];
        if self.config.num_speakers > 1 {
            inputs.push(("sid".into(), TensorRef::from_array_view(([1], speaker.as_slice()))?.into()));
        }
        let outputs = self.session.run(inputs)?;
        let (_, sound) = outputs
            .values()
            .next()
            .ok_or_else(|| anyhow!("no sound came"))?
            .try_extract_tensor::<f32>()
            .map(|(shape, data)| (shape.len(), data.to_vec()))?;
        let most = self.config.audio.sample_rate as usize * super::voice::LONGEST_SECONDS;
        let samples: Arc<[f32]> = sound.into_iter().take(most).map(|v| v.clamp(-1.0, 1.0)).collect();
        Ok(Sound { rate: self.config.audio.sample_rate, samples })
    }

    fn about(&self) -> String {
        format!("voice {} (Piper)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"audio": {"sample_rate": 22050}, "espeak": {"voice": "en-us"}, "num_speakers": 1,
        "phoneme_id_map": {"^": [1], "_": [0], "$": [2], "a": [14], "ː": [122], " ": [3]}}"#;

    #[test]
    fn phonemes_have_gaps_between_them_and_what_is_unknown_is_left_out() {
        let config: Config = serde_json::from_str(CONFIG).unwrap();
        assert_eq!(config.ids("aː xa").unwrap(), [1, 0, 14, 0, 122, 0, 3, 0, 14, 0, 2]);
        assert_eq!(config.ids(&"a".repeat(10_000)).unwrap().len(), 3 + 2 * MOST_PHONEMES);
        assert_eq!(config.lang(), Some(Lang::En));
        assert!((config.inference.noise_scale - 0.667).abs() < 1e-6, "the usual where it says none");
    }

    #[test]
    fn what_is_no_voice_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("voice.onnx");
        let told = |model: &Path| format!("{:#}", Piper::load(model, "espeak-ng").map(drop).unwrap_err());
        assert!(told(&model).contains("voice.onnx.json: can't be read"), "{}", told(&model));
        let beside = folder.path().join("voice.onnx.json");
        std::fs::write(&beside, "{}").unwrap();
        assert!(told(&model).contains("no description of a Piper voice"), "{}", told(&model));
        std::fs::write(&beside, CONFIG.replace("en-us", "fr-fr")).unwrap();
        assert!(told(&model).contains("it speaks fr-fr"), "{}", told(&model));
        std::fs::write(&beside, CONFIG).unwrap();
        std::fs::write(&model, "no model").unwrap();
        assert!(told(&model).contains("voice.onnx"), "{}", told(&model));
    }

    /// With a voice at hand: `SPOTTER_SPEECH=/path/voice.onnx`.
    #[test]
    fn a_voice_that_is_there_speaks() {
        let (Some(path), Ok(_)) =
            (std::env::var_os("SPOTTER_SPEECH"), Command::new("espeak-ng").arg("--version").output())
        else {
            println!("skipped: SPOTTER_SPEECH names no voice, or there is no espeak-ng");
            return;
        };
        let mut voice = Piper::load(Path::new(&path), "espeak-ng").unwrap();
        let cue = Cue {
            text: "Knees wider, in line with your feet.".into(),
            priority: super::super::Priority::Correction,
            lang: Lang::En,
        };
        let begun = std::time::Instant::now();
        let sound = voice.speak(&cue).unwrap();
        let seconds = sound.samples.len() as f32 / sound.rate as f32;
        let peak = sound.samples.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        println!("{}: {seconds:.2} s of sound in {:?}, peak {peak:.2}", voice.about(), begun.elapsed());
        assert!((0.8..6.0).contains(&seconds) && peak > 0.1);
    }
}
