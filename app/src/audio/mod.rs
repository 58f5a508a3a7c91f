//! The voice: cues spoken aloud, one at a time.
//!
//! A thread of its own owns the sound device and the [`voice::Voice`]; what it says and what gives way is decided by
//! [`rules`]. Nothing waits for it, and a machine without sound shows the cues all the same.

#[cfg(feature = "audio")]
mod device;
mod earcon;
mod piper;
mod rules;
#[cfg(test)]
mod tests;
mod voice;

use crate::{
    pipeline::Event,
    settings::Settings,
    timeline::{Session, Sink, first_words},
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use rules::Rules;
pub(crate) use rules::{Cue, Priority};
use spotter_datasets::synthetic::phrases::{self, Lang, SaidKind};
use spotter_engine::coach::{Feedback, Kind};
use std::{
    collections::HashMap,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
pub(crate) use voice::{Sound, Voice};

/// How long a command may wait before it is heard.
const TICK: Duration = Duration::from_millis(15);
/// Commands that wait for the thread; it takes them at each tick, so more only come when it hangs.
const ROOM: usize = 64;
/// Sounds kept, so that a fixed cue is made once.
const KEPT: usize = 64;

/// Where sound goes.
pub(crate) trait Output {
    /// Begins a sound, at a loudness of 0 to 1.
    fn play(&mut self, sound: Sound, volume: f32);
    /// Silence, at once.
    fn stop(&mut self);
    /// Changes the loudness of what is playing.
    fn set_volume(&mut self, volume: f32);
    /// Whether a sound is under way.
    fn is_playing(&self) -> bool;
}

/// The sound device of this machine.
fn device() -> anyhow::Result<Box<dyn Output>> {
    #[cfg(feature = "audio")]
    {
        Ok(Box::new(device::Device::open()?))
    }
    #[cfg(not(feature = "audio"))]
    anyhow::bail!("this Spotter was built without sound (the feature `audio`)")
}

enum Command {
    Say(Cue),
    Mute(bool),
    Volume(f32),
}

/// The voice of a session. Dropping it silences it.
pub(crate) struct Speech {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    about: String,
}

impl Speech {
    /// The voice of a file, or of this machine.
    ///
    /// # Errors
    /// A sentence on why there is no sound; everything else works without.
    pub(crate) fn open(settings: &Settings) -> anyhow::Result<Self> {
        Self::start(device, voice::best(settings.speech.as_deref()), settings.volume)
    }

    /// A voice over an output, which is made on the thread that owns it.
    ///
    /// # Errors
    /// When there is no output or no thread.
    fn start(
        output: impl FnOnce() -> anyhow::Result<Box<dyn Output>> + Send + 'static,
        voice: Box<dyn Voice>,
        volume: f32,
    ) -> anyhow::Result<Self> {
        let (commands, inbox) = bounded(ROOM);
        let (opened, opening) = bounded(1);
        let about = voice.about();
        let run = move || match output() {
            Ok(output) => {
                drop(opened.send(Ok(())));
                Mouth { output, voice, rules: Rules::default(), volume, kept: HashMap::new() }.run(&inbox);
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = thread::Builder::new().name("voice".to_owned()).spawn(run)?;
        opening
            .recv_timeout(Duration::from_secs(5))
            .map_err(|_| anyhow::anyhow!("the sound device does not answer"))??;
        Ok(Self { commands: Some(commands), thread: Some(thread), about })
    }

    /// The voice in a few words.
    pub(crate) fn about(&self) -> &str {
        &self.about
    }

    fn send(&self, command: Command) {
        if let Some(Err(TrySendError::Full(_))) = self.commands.as_ref().map(|c| c.try_send(command)) {
            tracing::debug!("the voice is stuck: a cue was only shown");
        }
    }

    /// Silence at once, or speech again from the next cue on.
    pub(crate) fn mute(&self, muted: bool) {
        self.send(Command::Mute(muted));
    }

    /// Another loudness, 0 to 1.
    pub(crate) fn set_volume(&self, volume: f32) {
        self.send(Command::Volume(volume));
    }

    /// A place for the timeline that speaks it.
    pub(crate) fn sink(&self) -> Box<dyn Sink + Send> {
        Box::new(Spoken { commands: self.commands.clone(), lang: Lang::En })
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        self.send(Command::Mute(true));
        self.commands = None;
        // sinks may still hold a sender: the thread ends with the last of them
        drop(self.thread.take());
    }
}

/// Speaks what happens.
struct Spoken {
    commands: Option<Sender<Command>>,
    lang: Lang,
}

impl Sink for Spoken {
    fn begin(&mut self, session: &Session) -> anyhow::Result<()> {
        self.lang = Lang::from_code(&session.language).unwrap_or_default();
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        let cue = match event {
            Event::Feedback(feedback) => cue_of(feedback, self.lang),
            Event::Rep { .. } => Cue { text: String::new(), priority: Priority::Tick, lang: self.lang },
            _ => return Ok(()),
        };
        if let Some(commands) = &self.commands {
            // a voice that is stuck must not hold up the session; the cue is on the screen
            drop(commands.try_send(Command::Say(cue)));
        }
        Ok(())
    }
}

/// What is said aloud of a feedback.
fn cue_of(feedback: &Feedback, lang: Lang) -> Cue {
    let priority = match feedback.kind {
        Kind::View => Priority::Correction,
        Kind::Program => Priority::Program,
        Kind::Coaching => match phrases::classify(&feedback.text, lang).kind {
            SaidKind::Correction => Priority::Correction,
            SaidKind::Start | SaidKind::Closing => Priority::Program,
            SaidKind::Count => Priority::Count,
            SaidKind::Fixed | SaidKind::Praise | SaidKind::Other => Priority::Praise,
        },
    };
    Cue { text: first_words(&feedback.text).to_owned(), priority, lang }
}

/// The thread's own.
struct Mouth {
    output: Box<dyn Output>,
    voice: Box<dyn Voice>,
    rules: Rules,
    volume: f32,
    kept: HashMap<Cue, Sound>,
}

impl Mouth {
    fn run(&mut self, inbox: &Receiver<Command>) {
        let begun = Instant::now();
        loop {
            let command = match inbox.recv_timeout(TICK) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match command {
                Some(Command::Say(cue)) => {
                    let cuts = self.rules.offer(begun.elapsed(), cue);
                    self.silence(cuts);
                }
                Some(Command::Mute(muted)) => {
                    self.rules.mute(muted);
                    self.silence(muted);
                }
                Some(Command::Volume(volume)) => {
                    self.volume = volume.clamp(0.0, 1.0);
                    self.output.set_volume(self.volume);
                }
                None => {}
            }
            // what has come meanwhile may silence or replace what would be said now
            if inbox.is_empty()
                && let Some(cue) = self.rules.next(begun.elapsed(), self.output.is_playing())
                && let Some(sound) = self.sound(cue)
            {
                self.output.play(sound, self.volume);
            }
        }
        self.output.stop();
    }

    fn silence(&mut self, now: bool) {
        if now {
            self.output.stop();
        }
    }

    fn sound(&mut self, cue: Cue) -> Option<Sound> {
        if let Some(sound) = self.kept.get(&cue) {
            return Some(sound.clone());
        }
        let made = match cue.priority {
            Priority::Tick => Ok(earcon::tick()),
            _ => self.voice.speak(&cue),
        };
        // without words the person still hears that there is something to read
        let sound = made.unwrap_or_else(|error| {
            tracing::warn!("a cue could not be spoken: {error:#}");
            earcon::of(cue.priority)
        });
        if self.kept.len() == KEPT {
            self.kept.clear();
        }
        self.kept.insert(cue, sound.clone());
        Some(sound)
    }
}
