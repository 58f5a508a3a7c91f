//! The sound device, through rodio.

use super::{Output, Sound};
use anyhow::anyhow;
use rodio::{DeviceSinkBuilder, MixerDeviceSink, Player, buffer::SamplesBuffer};
use std::num::{NonZeroU16, NonZeroU32};

/// The device of the system's choice.
pub(super) struct Device {
    sink: MixerDeviceSink,
    player: Option<Player>,
}

impl Device {
    /// # Errors
    /// When there is none, or it is in use.
    pub(super) fn open() -> anyhow::Result<Self> {
        let opened = DeviceSinkBuilder::open_default_sink();
        let mut sink = opened.map_err(|error| {
            tracing::debug!("the sound device does not open: {error}");
            anyhow!("there is no sound device that can be used")
        })?;
        sink.log_on_drop(false);
        Ok(Self { sink, player: None })
    }
}

impl Output for Device {
    fn play(&mut self, sound: Sound, volume: f32) {
        let Some(rate) = NonZeroU32::new(sound.rate) else { return };
        let player = Player::connect_new(self.sink.mixer());
        player.set_volume(volume);
        player.append(SamplesBuffer::new(NonZeroU16::MIN, rate, sound.samples.to_vec()));
        self.player = Some(player);
    }

    fn stop(&mut self) {
        if let Some(player) = self.player.take() {
            player.stop();
        }
    }

    fn set_volume(&mut self, volume: f32) {
        if let Some(player) = &self.player {
            player.set_volume(volume);
        }
    }

    fn is_playing(&self) -> bool {
        self.player.as_ref().is_some_and(|player| !player.empty())
    }
}
