//! The voice as a whole, with a fake device that takes its time.

use super::{voice::Earcons, *};
use std::sync::{Arc, Mutex};

/// What a device did: when a sound began, how long it is, and when it was stopped.
#[derive(Clone, Copy, Debug)]
struct Played {
    begun: Instant,
    lasts: Duration,
    stopped: Option<Instant>,
    volume: f32,
}

impl Played {
    fn end(&self) -> Instant {
        self.stopped.unwrap_or(self.begun + self.lasts)
    }
}

#[derive(Clone, Default)]
struct FakeDevice(Arc<Mutex<Vec<Played>>>);

impl FakeDevice {
    fn played(&self) -> Vec<Played> {
        self.0.lock().unwrap().clone()
    }
}

impl Output for FakeDevice {
    fn play(&mut self, sound: Sound, volume: f32) {
        let lasts = Duration::from_secs_f64(sound.samples.len() as f64 / f64::from(sound.rate));
        self.0.lock().unwrap().push(Played { begun: Instant::now(), lasts, stopped: None, volume });
    }
    fn stop(&mut self) {
        if let Some(last) = self.0.lock().unwrap().last_mut()
            && last.end() > Instant::now()
        {
            last.stopped = Some(Instant::now());
        }
    }
    fn set_volume(&mut self, volume: f32) {
        if let Some(last) = self.0.lock().unwrap().last_mut() {
            last.volume = volume;
        }
    }
    fn is_playing(&self) -> bool {
        self.0.lock().unwrap().last().is_some_and(|last| last.end() > Instant::now())
    }
}

/// Speaks for half a second, whatever it is.
struct Slow;

impl Voice for Slow {
    fn speak(&mut self, cue: &Cue) -> anyhow::Result<Sound> {
        anyhow::ensure!(cue.text != "unspeakable", "no");
        Ok(Sound { rate: 1000, samples: vec![0.1; 500].into() })
    }
    fn about(&self) -> String {
        "slow".into()
    }
}

fn speech(voice: Box<dyn Voice>) -> (Speech, FakeDevice) {
    let device = FakeDevice::default();
    let own = device.clone();
    let speech = Speech::start(move || Ok(Box::new(own) as Box<dyn Output>), voice, 0.5).unwrap();
    (speech, device)
}

fn say(sink: &mut dyn Sink, text: &str, kind: Kind) {
    let t = Duration::ZERO;
    let feedback = Feedback { t_frame: t, t_ready: t, text: text.into(), kind };
    sink.event(&Event::Feedback(feedback)).unwrap();
}

fn wait(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}

#[test]
fn two_cues_never_overlap_and_the_newest_follows() {
    let (speech, device) = speech(Box::new(Slow));
    let mut sink = speech.sink();
    for text in ["1", "2", "3", "4"] {
        say(&mut *sink, text, Kind::Program);
        wait(60);
    }
    wait(1100);
    let played = device.played();
    assert_eq!(played.len(), 2, "the first and the newest: {played:?}");
    assert!(played[1].begun >= played[0].end());
    assert_eq!(played[0].volume, 0.5);
}

#[test]
fn a_correction_cuts_praise_short() {
    let (speech, device) = speech(Box::new(Slow));
    let mut sink = speech.sink();
    say(&mut *sink, "Great form.", Kind::Coaching);
    wait(100);
    say(&mut *sink, "I can't see you.", Kind::View);
    wait(200);
    let played = device.played();
    assert_eq!(played.len(), 2, "{played:?}");
    let stopped = played[0].stopped.unwrap();
    assert!(stopped - played[0].begun < Duration::from_millis(250) && played[1].begun >= stopped);
}

#[test]
fn mute_is_silence_at_once_and_volume_is_heard_at_once() {
    let (speech, device) = speech(Box::new(Slow));
    let mut sink = speech.sink();
    say(&mut *sink, "Great form.", Kind::Coaching);
    wait(80);
    speech.set_volume(0.2);
    wait(60);
    assert_eq!(device.played()[0].volume, 0.2);
    let asked = Instant::now();
    speech.mute(true);
    wait(100);
    let stopped = device.played()[0].stopped.unwrap();
    assert!(stopped - asked < Duration::from_millis(80), "{:?}", stopped - asked);
    say(&mut *sink, "Knees wider.", Kind::Coaching);
    wait(100);
    assert_eq!(device.played().len(), 1);
    speech.mute(false);
    say(&mut *sink, "Knees wider.", Kind::Coaching);
    wait(100);
    assert_eq!(device.played().len(), 2);
}

#[test]
fn what_can_not_be_spoken_is_a_sound() {
    let (speech, device) = speech(Box::new(Slow));
    say(&mut *speech.sink(), "unspeakable", Kind::Coaching);
    wait(100);
    assert_eq!(device.played().len(), 1);
    let (speech, device) = self::speech(Box::new(Earcons));
    say(&mut *speech.sink(), "Great form.", Kind::Coaching);
    wait(100);
    assert!(device.played().len() == 1 && speech.about().contains("without words"));
}

#[test]
fn without_a_device_there_is_a_sentence_and_nothing_waits() {
    let none = || Err(anyhow::anyhow!("there is no sound device that can be used"));
    let error = Speech::start(none, Box::new(Slow), 0.5).map(drop).unwrap_err();
    assert!(error.to_string().contains("no sound device"));
}

/// This machine may have a device or none; either way there is an answer in words.
#[test]
fn opening_the_voice_of_this_machine_never_fails_without_a_word() {
    match Speech::open(&Settings { volume: 0.0, ..Settings::default() }) {
        Ok(speech) => assert!(!speech.about().is_empty()),
        Err(error) => assert!(error.to_string().contains("sound"), "{error:#}"),
    }
}
