//! Words to sound: the voice of the system, in a process of its own.
//!
//! espeak-ng is under the GPL; started as a program it stays apart from Spotter. A voice is what gives samples: one that
//! speaks by itself, such as speech-dispatcher's, could neither be silenced at once nor kept from overlapping.

use super::{Cue, earcon, piper::Piper};
use anyhow::{Context as _, anyhow, bail};
use spotter_datasets::synthetic::phrases::Lang;
use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

/// Longer sounds are no cues.
pub(super) const LONGEST_SECONDS: usize = 20;

/// One channel of sound.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sound {
    /// Samples a second.
    pub(crate) rate: u32,
    /// -1 to 1.
    pub(crate) samples: Arc<[f32]>,
}

/// Makes sound of cues.
pub(crate) trait Voice: Send {
    /// The sound of a cue.
    ///
    /// # Errors
    /// When it can't be made; an earcon then takes its place.
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound>;

    /// The voice in a few words.
    fn about(&self) -> String;
}

/// The best voice of this machine: the user's own file, else the system's, else earcons.
pub(super) fn best(file: Option<&Path>) -> Box<dyn Voice> {
    let espeak = ["espeak-ng", "espeak"].into_iter().find_map(|program| Espeak::find(program).ok());
    let program = espeak.as_ref().map(|espeak| espeak.program);
    let system: Box<dyn Voice> = match espeak {
        Some(espeak) => Box::new(espeak),
        None if cfg!(target_os = "macos") => Box::new(Say),
        None => Box::new(Earcons),
    };
    let Some(file) = file else { return system };
    let loaded = match program {
        Some(program) => Piper::load(file, program),
        None => Err(anyhow!("{}: the voice needs espeak-ng for its phonemes", file.display())),
    };
    match loaded {
        Ok(piper) => Box::new(Own { piper, system }),
        Err(error) => {
            tracing::warn!("{error:#}");
            system
        }
    }
}

/// The user's own voice, and the system's for what it can't say.
struct Own {
    piper: Piper,
    system: Box<dyn Voice>,
}

impl Voice for Own {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        if !self.piper.speaks(cue.lang) {
            return self.system.speak(cue);
        }
        self.piper.speak(cue).or_else(|error| {
            tracing::warn!("the voice failed: {error:#}");
            self.system.speak(cue)
        })
    }

    fn about(&self) -> String {
        self.piper.about()
    }
}

/// espeak-ng.
struct Espeak {
    program: &'static str,
}

impl Espeak {
    fn find(program: &'static str) -> anyhow::Result<Self> {
        let found = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
        if found.status.success() { Ok(Self { program }) } else { bail!("{program} does not run") }
    }
}

impl Voice for Espeak {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        let language = match cue.lang {
            Lang::En => "en-us",
            Lang::Ko => "ko",
        };
        let mut child = Command::new(self.program)
            .args(["-v", language, "-s", "165", "--stdout", "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{}: can't be started", self.program))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(cue.text.as_bytes())?;
        }
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("{}: it failed to speak {language}", self.program);
        }
        wav(&out.stdout).with_context(|| format!("{}: its sound can't be read", self.program))
    }

    fn about(&self) -> String {
        format!("voice of {}", self.program)
    }
}

/// The voice of macOS.
struct Say;

impl Voice for Say {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        let file = std::env::temp_dir().join(format!("spotter-cue-{}.wav", std::process::id()));
        let mut child = Command::new("say")
            .args(["-o".as_ref(), file.as_os_str()])
            .args(["--file-format=WAVE", "--data-format=LEI16@22050", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .context("say: can't be started")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(cue.text.as_bytes())?;
        }
        let spoken = child.wait()?;
        let bytes = std::fs::read(&file);
        drop(std::fs::remove_file(&file));
        if !spoken.success() {
            bail!("say: it failed");
        }
        wav(&bytes.context("say: it wrote no sound")?)
    }

    fn about(&self) -> String {
        "voice of the system".to_owned()
    }
}

/// No words, but a sound for each kind of cue.
pub(super) struct Earcons;

impl Voice for Earcons {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        Ok(earcon::of(cue.priority))
    }

    fn about(&self) -> String {
        "sounds without words: no voice was found (espeak-ng is one)".to_owned()
    }
}

/// Reads 16-bit sound of one channel in a RIFF file. A program that writes to a pipe does not know the length and leaves
/// too large a one; what is there counts.
fn wav(bytes: &[u8]) -> anyhow::Result<Sound> {
    let number = |at: usize, n: usize| -> Option<u32> {
        let bytes = bytes.get(at..at + n)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        bail!("expected a RIFF file of sound");
    }
    let (mut at, mut format) = (12, None);
    loop {
        let (Some(name), Some(length)) = (bytes.get(at..at + 4), number(at + 4, 4)) else {
            bail!("there is no sound in it");
        };
        let body = at + 8;
        match name {
            b"fmt " => format = Some((number(body + 2, 2), number(body + 4, 4), number(body + 14, 2))),
            b"data" => {
                let Some((Some(1), Some(rate @ 8_000..=96_000), Some(16))) = format else {
                    bail!("expected one channel of 16 bits");
                };
                let end = body.saturating_add(length as usize).min(bytes.len());
                let most = rate as usize * LONGEST_SECONDS;
                let data = bytes.get(body..end).unwrap_or_default();
                let sample = |pair: &[u8]| match *pair {
                    [low, high] => f32::from(i16::from_le_bytes([low, high])) / 32_768.0,
                    _ => 0.0,
                };
                let samples: Arc<[f32]> = data.chunks_exact(2).take(most).map(sample).collect();
                return Ok(Sound { rate, samples });
            }
            _ => {}
        }
        at = body.saturating_add(length as usize).saturating_add(length as usize & 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::Priority;

    fn riff(channels: u8, length: u32) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0".to_vec();
        bytes.extend([channels, 0, 0x22, 0x56, 0, 0, 0, 0, 0, 0, 2, 0, 16, 0]);
        bytes.extend(b"data");
        bytes.extend(length.to_le_bytes());
        bytes.extend([0, 0x40, 0, 0xc0]);
        bytes
    }

    #[test]
    fn sound_is_read_also_where_its_length_is_not_known() {
        for length in [4, u32::MAX] {
            let sound = wav(&riff(1, length)).unwrap();
            assert_eq!((sound.rate, &*sound.samples), (22_050, &[0.5, -0.5][..]));
        }
        assert!(wav(&riff(2, 4)).is_err() && wav(b"RIFF").is_err() && wav(b"").is_err());
        for cut in 0..riff(1, 4).len() {
            drop(wav(&riff(1, 4)[..cut]));
        }
    }

    #[test]
    fn the_voice_of_the_system_says_both_languages() {
        let Ok(mut voice) = Espeak::find("espeak-ng") else {
            println!("skipped: there is no espeak-ng");
            return;
        };
        for (text, lang) in [("Knees wider.", Lang::En), ("무릎을 더 벌리세요.", Lang::Ko)] {
            let cue = Cue { text: text.into(), priority: Priority::Correction, lang };
            let sound = voice.speak(&cue).unwrap();
            let seconds = sound.samples.len() as f32 / sound.rate as f32;
            let peak = sound.samples.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            println!("{text}: {seconds:.2} s, peak {peak:.2}");
            assert!((0.4..5.0).contains(&seconds) && peak > 0.1);
        }
    }
}
