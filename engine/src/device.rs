//! Where a model runs and in which type, and why.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceRequest {
    /// The fastest there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA card.
    Cuda,
    /// An Apple chip.
    Metal,
}

impl std::str::FromStr for DeviceRequest {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "metal" => Ok(Self::Metal),
            other => Err(DeviceError(format!("device `{other}`: expected auto, cpu, cuda or metal"))),
        }
    }
}

/// A device that was asked for and is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(String);

/// A device, a type, and the reason for both.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Where.
    pub device: Device,
    /// In which type.
    pub dtype: DType,
    /// In words, for the log and the window.
    pub reason: String,
}

/// Chooses; `stored` is the type most of the weights have on disk.
///
/// A card that is asked for by name and absent is an error; `Auto` never fails.
pub fn choose(request: DeviceRequest, stored: Option<DType>) -> Result<Choice, DeviceError> {
    match request {
        DeviceRequest::Cpu => Ok(on_cpu("asked for")),
        DeviceRequest::Cuda => {
            cuda().map(|d| on_gpu(d, stored, "asked for")).map_err(|e| DeviceError(format!("device cuda: {e}")))
        }
        DeviceRequest::Metal => {
            metal().map(|d| on_gpu(d, stored, "asked for")).map_err(|e| DeviceError(format!("device metal: {e}")))
        }
        DeviceRequest::Auto => Ok(match (cuda(), metal()) {
            (Ok(device), _) | (_, Ok(device)) => on_gpu(device, stored, "the fastest found"),
            (Err(cuda), Err(metal)) => on_cpu(&format!("no CUDA ({cuda}), no Metal ({metal})")),
        }),
    }
}

/// Half types are slower than f32 on processors without instructions for them.
fn on_cpu(why: &str) -> Choice {
    Choice { device: Device::Cpu, dtype: DType::F32, reason: format!("cpu, {why}; f32, which it computes fastest") }
}

fn on_gpu(device: Device, stored: Option<DType>, why: &str) -> Choice {
    let name = if device.is_metal() { "metal" } else { "cuda" };
    let dtype = match stored {
        Some(DType::F16) => DType::F16,
        Some(DType::BF16) if device.is_metal() => DType::F16,
        Some(DType::BF16) => DType::BF16,
        _ => DType::F32,
    };
    let reason =
        format!("{name}, {why}; {} for weights stored as {}", dtype.as_str(), stored.map_or("unknown", |d| d.as_str()));
    Choice { device, dtype, reason }
}

fn cuda() -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("built without the feature cuda".into());
    }
    probe(Device::new_cuda)
}

fn metal() -> Result<Device, String> {
    if !cfg!(feature = "metal") {
        return Err("built without the feature metal".into());
    }
    probe(Device::new_metal)
}

/// Opens the first device. Loading a driver library that is absent panics inside the binding, so that is caught.
fn probe(open: fn(usize) -> candle_core::Result<Device>) -> Result<Device, String> {
    match std::panic::catch_unwind(|| open(0)) {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(e)) => Err(e.to_string().lines().next().unwrap_or("no device").to_string()),
        Err(_) => Err("its driver library is not installed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_card_still_has_a_device_and_a_reason() {
        let choice = choose(DeviceRequest::Auto, Some(DType::BF16)).unwrap();
        if choice.device.is_cpu() {
            assert_eq!(choice.dtype, DType::F32);
            assert!(choice.reason.contains("no CUDA"), "{}", choice.reason);
        }
        if !cfg!(feature = "cuda") {
            let error = choose(DeviceRequest::Cuda, None).unwrap_err().to_string();
            assert_eq!(error, "device cuda: built without the feature cuda");
        }
        assert!("tpu".parse::<DeviceRequest>().unwrap_err().to_string().contains("expected auto, cpu, cuda or metal"));
    }
}
