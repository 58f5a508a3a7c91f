//! Where a model runs and in which type, and why.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError},
};

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

/// What opens a device, or says why it does not.
type Opening<'a> = &'a dyn Fn() -> Result<Device, String>;

/// Chooses a device, with the reason in words.
///
/// A card that is asked for by name and absent is an error; `Auto` never fails.
pub fn find(request: DeviceRequest) -> Result<(Device, String), DeviceError> {
    find_among(request, &|| card(0), &metal)
}

fn find_among(request: DeviceRequest, cuda: Opening<'_>, metal: Opening<'_>) -> Result<(Device, String), DeviceError> {
    let asked = |name: &str, open: Opening<'_>| match open() {
        Ok(device) => Ok((device, format!("{name}, asked for"))),
        Err(e) => Err(DeviceError(format!("device {name}: {e}"))),
    };
    match request {
        DeviceRequest::Cpu => Ok((Device::Cpu, "cpu, asked for".into())),
        DeviceRequest::Cuda => asked("cuda", cuda),
        DeviceRequest::Metal => asked("metal", metal),
        DeviceRequest::Auto => Ok(match cuda() {
            Ok(device) => (device, "cuda, the fastest found".into()),
            Err(cuda) => match metal() {
                Ok(device) => (device, "metal, the fastest found".into()),
                Err(metal) => (Device::Cpu, format!("cpu, no CUDA ({cuda}), no Metal ({metal})")),
            },
        }),
    }
}

/// Chooses a device and the type for a model by itself; `stored` is the type most of its weights have on disk.
///
/// # Errors
/// As [`find`].
pub fn choose(request: DeviceRequest, stored: Option<DType>) -> Result<Choice, DeviceError> {
    let (device, found) = find(request)?;
    let dtype = match stored {
        // Half types are slower than f32 on processors without instructions for them.
        _ if device.is_cpu() => DType::F32,
        Some(DType::F16) => DType::F16,
        Some(DType::BF16) if device.is_metal() => DType::F16,
        Some(DType::BF16) => DType::BF16,
        _ => DType::F32,
    };
    let why = match stored {
        _ if device.is_cpu() => ", which it computes fastest".to_owned(),
        stored => format!(" for weights stored as {}", stored.map_or("unknown", |d| d.as_str())),
    };
    Ok(Choice { reason: format!("{found}; {}{why}", dtype.as_str()), device, dtype })
}

/// An NVIDIA card; where there are several, the one of a number, counted round.
///
/// # Errors
/// Why there is none that can be used, in words.
#[cfg(feature = "cuda")]
pub fn card(number: usize) -> Result<Device, String> {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    let cards = guarded(|| CudaContext::device_count().map_err(|e| e.to_string()))?;
    let number = usize::try_from(cards).ok().and_then(|n| number.checked_rem(n)).ok_or("there is no card")?;
    let device = guarded(|| Device::new_cuda(number).map_err(|e| e.to_string()))?;
    let ability = guarded(|| {
        let cuda = device.as_cuda_device().map_err(|e| e.to_string())?;
        cuda.cuda_stream().context().compute_capability().map_err(|e| e.to_string())
    })?;
    able(ability).map(|()| device)
}

/// An NVIDIA card.
///
/// # Errors
/// Always, in this build.
#[cfg(not(feature = "cuda"))]
pub fn card(_: usize) -> Result<Device, String> {
    Err("built without the feature cuda".into())
}

/// The oldest compute capability that kernels are compiled for.
#[cfg(any(test, feature = "cuda"))]
const OLDEST: (i32, i32) = (8, 0);

/// Refuses a card that our kernels do not run on.
#[cfg(any(test, feature = "cuda"))]
fn able(found: (i32, i32)) -> Result<(), String> {
    if found >= OLDEST {
        return Ok(());
    }
    let (major, minor) = found;
    Err(format!("the card has compute capability {major}.{minor}, kernels are there for 8.0 and later"))
}

/// An Apple chip.
///
/// # Errors
/// Why there is none that can be used, in words.
pub fn metal() -> Result<Device, String> {
    if !cfg!(feature = "metal") {
        return Err("built without the feature metal".into());
    }
    guarded(|| Device::new_metal(0).map_err(|e| e.to_string()))
}

/// What a driver is asked. Loading a driver's library that is absent panics inside the binding, so that is caught; its report
/// of the panic would only frighten, so there is none.
fn guarded<T>(ask: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let report = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let answer = panic::catch_unwind(AssertUnwindSafe(ask));
    panic::set_hook(report);
    match answer {
        Ok(answer) => answer.map_err(|e| reason(&e)),
        Err(payload) => {
            let words = payload.downcast_ref::<String>().map(String::as_str);
            Err(absent(words.or(payload.downcast_ref::<&str>().copied()).unwrap_or_default()))
        }
    }
}

/// Which library is not there, by what the binding says of it: `... load the "cuda" shared library ...`.
fn absent(words: &str) -> String {
    let quoted = words.split('"').nth(1).filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    match quoted {
        None | Some("cuda" | "nvcuda") => "its driver is not installed".into(),
        Some(library) => format!("the library {library} of the CUDA toolkit is not installed"),
    }
}

/// What the driver's error means, in words; its own first line where that is not known.
fn reason(error: &str) -> String {
    let known = [
        ("CUDA_ERROR_NO_DEVICE", "there is no card"),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER", "the driver is older than this build needs: install a newer one"),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the driver is older than this build needs: install a newer one"),
        (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the driver and its libraries are of different versions: start the machine anew",
        ),
        ("CUDA_ERROR_STUB_LIBRARY", "only a stand-in for the driver is installed"),
        ("CUDA_ERROR_OUT_OF_MEMORY", "other programs have all of its memory"),
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", "another program has it for itself"),
    ];
    let told = known.iter().find(|(name, _)| error.contains(name)).map(|(_, words)| (*words).to_owned());
    told.unwrap_or_else(|| error.lines().next().unwrap_or("it can't be opened").to_owned())
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
        assert!(metal().is_err() || cfg!(feature = "metal"));
        assert!("tpu".parse::<DeviceRequest>().unwrap_err().to_string().contains("expected auto, cpu, cuda or metal"));
    }

    /// What a machine's driver does when it is asked.
    fn broken(driver: fn() -> Result<Device, String>) -> impl Fn() -> Result<Device, String> {
        move || guarded(driver)
    }

    #[test]
    fn a_broken_driver_is_told_and_the_processor_computes() {
        let none = || Err("built without the feature metal".to_owned());
        for (driver, said) in [
            (
                (|| panic!("Unable to dynamically load the \"cuda\" shared library - searched for: [\"libcuda.so\"]"))
                    as fn() -> Result<Device, String>,
                "its driver is not installed",
            ),
            (
                || panic!("Unable to dynamically load the \"cublas\" shared library"),
                "the library cublas of the CUDA toolkit is not installed",
            ),
            (|| panic!("index out of bounds"), "its driver is not installed"),
            (
                || Err("DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")".into()),
                "there is no card",
            ),
            (|| Err("DriverError(CUDA_ERROR_INSUFFICIENT_DRIVER, \"...\")".into()), "install a newer one"),
            (|| Err("DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"...\")".into()), "install a newer one"),
            (|| Err("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into()), "have all of its memory"),
            (|| Err("something else\nwith a trace".into()), "no CUDA (something else), no Metal"),
            (|| able((7, 5)).map(|()| Device::Cpu), "compute capability 7.5, kernels are there for 8.0"),
        ] {
            let (device, reason) = find_among(DeviceRequest::Auto, &broken(driver), &none).unwrap();
            assert!(device.is_cpu() && reason.starts_with("cpu, no CUDA (") && reason.contains(said), "{reason}");
            let error = find_among(DeviceRequest::Cuda, &broken(driver), &none).unwrap_err().to_string();
            assert!(error.starts_with("device cuda: "), "{error}");
        }
        assert!(able((8, 0)).is_ok() && able((9, 0)).is_ok());
        // Panics are reported as before once the driver was asked.
        assert_eq!(guarded(|| Ok(3)), Ok(3));
    }
}
