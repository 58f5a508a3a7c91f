//! What this process takes of the machine's memory.

use serde::Serialize;

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

/// In MiB.
pub(crate) fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory() {
        if cfg!(target_os = "linux") {
            let memory = Memory::now();
            assert!(memory.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
            assert!(memory.peak_bytes >= memory.resident_bytes);
        }
    }
}
