//! Weights as they lie in their files: mapped, and turned into tensors one by one.
//!
//! A tensor is written where it is needed in the type that is computed with, and its pages of the file are given back: while
//! a model is loaded, memory holds what is loaded and never the files as well.

use super::{TensorInfo, WeightsError};
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use std::{collections::BTreeMap, fs::File, path::PathBuf};

/// Numbers that a thread converts at once.
const PIECE: usize = 1 << 16;

/// Files and what lies where in them.
pub(super) struct Mapped {
    maps: Vec<Mmap>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Mapped {
    /// Maps files; `tensors` name theirs by index.
    ///
    /// # Errors
    /// A file that can't be opened or mapped.
    pub(super) fn open(
        files: &[PathBuf],
        tensors: BTreeMap<String, TensorInfo>,
    ) -> std::result::Result<Self, WeightsError> {
        let map = |path: &PathBuf| {
            let file = File::open(path).map_err(|e| WeightsError::file(path, e))?;
            // SAFETY: a mapped file must not change while it is used. Model files are written once, under another name,
            // and moved into place; who overwrites one in use gets wrong numbers, as with any mapping program.
            unsafe { Mmap::map(&file) }.map_err(|e| WeightsError::file(path, e))
        };
        Ok(Self { maps: files.iter().map(map).collect::<std::result::Result<_, _>>()?, tensors })
    }

    /// Whether there is a tensor.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor in a type.
    ///
    /// # Errors
    /// There is none, it is of a type that is not read, or its file has become shorter.
    pub(super) fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        if let (DType::F32, Device::Cpu, Some(info)) = (dtype, device, self.tensors.get(name))
            && widens(info)
        {
            let mut numbers = vec![0f32; info.elements()];
            self.fill(name, &mut numbers)?;
            return Tensor::from_vec(numbers, info.shape.as_slice(), device);
        }
        let (info, map, bytes) = self.bytes(name)?;
        let stored = match info.stored.as_str() {
            "U8" => DType::U8,
            "U32" => DType::U32,
            "I64" => DType::I64,
            other => match info.dtype() {
                Some(stored) => stored,
                None => candle_core::bail!("tensor `{name}`: type {other} is not read here"),
            },
        };
        let tensor = Tensor::from_raw_buffer(bytes, stored, &info.shape, device)?.to_dtype(dtype)?;
        give_back(map, info);
        Ok(tensor)
    }

    /// Tensors below one another, each of the same width: `[sum of rows, width]`. Where it can, they are written into one
    /// buffer as they are read.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(super) fn load_joined(&self, names: &[String], dtype: DType, device: &Device) -> Result<Tensor> {
        let infos: Option<Vec<&TensorInfo>> = names.iter().map(|name| self.tensors.get(name)).collect();
        let at_once = dtype == DType::F32 && device.is_cpu();
        let Some(infos) = infos.filter(|infos| at_once && infos.iter().all(|info| widens(info))) else {
            let parts = names.iter().map(|name| self.load(name, dtype, device)).collect::<Result<Vec<_>>>()?;
            return Tensor::cat(&parts, 0);
        };
        let rest = infos.first().and_then(|info| info.shape.get(1..)).unwrap_or_default();
        if infos.iter().any(|info| info.shape.get(1..) != Some(rest)) {
            candle_core::bail!("tensors `{}` are not of one width", names.join("`, `"));
        }
        let rows: usize = infos.iter().filter_map(|info| info.shape.first()).sum();
        let mut numbers = vec![0f32; infos.iter().map(|info| info.elements()).sum()];
        let mut left = numbers.as_mut_slice();
        for (name, info) in names.iter().zip(&infos) {
            let (part, more) = left.split_at_mut(info.elements().min(left.len()));
            self.fill(name, part)?;
            left = more;
        }
        let shape: Vec<usize> = std::iter::once(rows).chain(rest.iter().copied()).collect();
        Tensor::from_vec(numbers, shape, device)
    }

    /// Where a tensor lies: its header, its file, its bytes.
    fn bytes(&self, name: &str) -> Result<(&TensorInfo, &Mmap, &[u8])> {
        let Some(info) = self.tensors.get(name) else { candle_core::bail!("there is no tensor `{name}`") };
        let map = self.maps.get(info.file);
        let found = map.and_then(|map| Some((map, map.get(info.start..info.start.checked_add(info.bytes)?)?)));
        let Some((map, bytes)) = found else { candle_core::bail!("tensor `{name}` is no longer in its file") };
        Ok((info, map, bytes))
    }

    /// Writes a tensor of a type that [widens](widens) to `numbers`.
    fn fill(&self, name: &str, numbers: &mut [f32]) -> Result<()> {
        let (info, map, bytes) = self.bytes(name)?;
        match info.stored.as_str() {
            "BF16" => widen::<2>(bytes, numbers, |b| bf16::from_le_bytes(b).to_f32()),
            "F16" => widen::<2>(bytes, numbers, |b| f16::from_le_bytes(b).to_f32()),
            _ => widen::<4>(bytes, numbers, f32::from_le_bytes),
        }
        give_back(map, info);
        Ok(())
    }
}

/// Whether a tensor is written as f32 while it is read. Half types would otherwise be copied as they are first, and the copy be
/// widened into a second one.
fn widens(info: &TensorInfo) -> bool {
    matches!(info.stored.as_str(), "BF16" | "F16" | "F32")
}

fn widen<const N: usize>(bytes: &[u8], numbers: &mut [f32], wide: impl Fn([u8; N]) -> f32 + Sync) {
    numbers.par_chunks_mut(PIECE).zip(bytes.par_chunks(N * PIECE)).for_each(|(numbers, bytes)| {
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<N>().0) {
            *number = wide(*bytes);
        }
    });
}

/// Tells the system that pages of a file are not needed any more.
fn give_back(map: &Mmap, info: &TensorInfo) {
    #[cfg(unix)]
    // SAFETY: the map is shared with its file and never written to, so pages that come again hold the same bytes. That it
    // fails, where a system does not know this, changes nothing.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, info.start, info.bytes) };
    #[cfg(not(unix))]
    let _ = (map, info);
}
