//! What this process takes of the machine's memory, and whether a model fits what is left.

use crate::{cli::Hinted, store::KNOWN};
use anyhow::{Result, anyhow};
use candle_core::Device;
use serde::Serialize;
use spotter_engine::model::memory::{Need, Place};

/// What a card's context takes, about.
const CONTEXT: u64 = 600 << 20;

/// Bytes that are resident, where the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident_bytes: Option<u64>,
    /// At most so far.
    pub(crate) peak_bytes: Option<u64>,
}

impl Memory {
    /// That of this process.
    pub(crate) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
        };
        Self { resident_bytes: field("VmRSS:"), peak_bytes: field("VmHWM:") }
    }
}

/// Bytes that a process may still take, where the system tells: of the machine, or of the group that it runs in.
pub(crate) fn free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024;
    Some(group().map_or(machine, |group| group.min(machine)))
}

/// Bytes that are free where a device computes, where it tells. The context of a card that is open counts as free, since a
/// [`Need`] has it.
pub(crate) fn free_on(device: &Device, need: &Need) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(card) = device {
        let (free, _) = card.cuda_stream().context().mem_get_info().ok()?;
        return Some((free + need.program) as u64);
    }
    let _ = (device, need);
    free()
}

/// Models that are known and would fit so many bytes: a card holds half types, a processor computes in f32.
pub(crate) fn fitting(free: u64, place: Place) -> Vec<&'static str> {
    let each = if place == Place::Processor { 4 } else { 2 };
    let own = if place == Place::Cuda { CONTEXT } else { 0 };
    KNOWN.iter().filter(|known| known.bytes(each) * 11 / 10 + own < free).map(|known| known.name).collect()
}

/// What is left of a container's limit.
fn group() -> Option<u64> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let number = |file: &str| std::fs::read_to_string(root.join(file)).ok()?.trim().parse::<u64>().ok();
    let taken = number("memory.current")?;
    // Pages of files are given back when they are needed.
    let stat = std::fs::read_to_string(root.join("memory.stat")).unwrap_or_default();
    let files = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok()).unwrap_or(0);
    Some(number("memory.max")?.saturating_sub(taken.saturating_sub(files)))
}

/// Refuses a model that takes more than is free.
///
/// # Errors
/// Then, with what would fit.
pub(crate) fn enough(model: &str, need: &Need, free: Option<u64>, place: Place) -> Result<()> {
    let Some(free) = free.filter(|free| *free < need.total as u64) else { return Ok(()) };
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let error = anyhow!(
        "model {model}: it takes {} ({} weights, {} cache), but only {} of {} are free",
        gb(need.total as u64),
        gb(need.weights as u64),
        gb(need.cache as u64),
        gb(free),
        if place == Place::Cuda { "the card's memory" } else { "memory" }
    );
    let mut hints = Vec::new();
    if (need.fixed() as u64) < free {
        let share = (free - need.fixed() as u64) as f64 / need.cache.max(1) as f64;
        hints.push(format!("a --cache-budget of at most {:.0} % of this one would fit", share * 95.0));
    }
    let fits = fitting(free, place);
    hints.push(match fits.is_empty() {
        true => {
            "none of the models that spotter models list names would fit; spotter-mini, which ships, does".to_owned()
        }
        false => format!("of the models that spotter models list names these would fit: {}", fits.join(", ")),
    });
    Err(Hinted::new(error, hints.join("; ")).into())
}

/// In MiB.
pub(crate) fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_what_would() {
        let need = Need { weights: 6_000_000_000, cache: 2_000_000_000, total: 8_100_000_000, ..Need::default() };
        let enough = |free| enough("m", &need, free, Place::Processor);
        assert!(enough(None).is_ok() && enough(Some(8_100_000_000)).is_ok());
        let told = |free: u64| {
            let error = enough(Some(free)).unwrap_err();
            (error.to_string(), error.downcast_ref::<Hinted>().unwrap().hint().to_owned())
        };
        let (error, hint) = told(7_000_000_000);
        assert_eq!(
            error,
            "model m: it takes 8.1 GB (6.0 GB weights, 2.0 GB cache), but only 7.0 GB of memory are free"
        );
        assert!(hint.contains("at most 43 % of this one") && hint.contains("llava-onevision-0.5b"), "{hint}");
        assert!(!hint.contains("llava-1.5-7b"), "{hint}");
        let (_, hint) = told(5_000_000_000);
        assert!(!hint.contains("--cache-budget"), "{hint}");
        assert!(told(1000).1.contains("none of the models"));
        // 7B in half types is 14 GB and in f32 28.
        assert!(fitting(17_000_000_000, Place::Cuda).contains(&"llava-1.5-7b"));
        assert!(!fitting(17_000_000_000, Place::Processor).contains(&"llava-1.5-7b"));
        if cfg!(target_os = "linux") {
            assert!(free().is_some_and(|bytes| bytes > 1 << 20));
        }
    }

    #[test]
    fn this_process_takes_memory() {
        if cfg!(target_os = "linux") {
            let memory = Memory::now();
            assert!(memory.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
            assert!(memory.peak_bytes >= memory.resident_bytes);
        }
    }
}
