//! The file itself: header, metadata, tensor directory. Every length is checked against the bytes there are before
//! anything is allocated for it.

use super::GgufError;
use candle_core::quantized::GgmlDType;
use memmap2::Mmap;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any integer type.
    Integer(i64),
    /// Any float type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Integers of any type.
    Integers(Vec<i64>),
    /// Floats of any type.
    Floats(Vec<f64>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Integers(_) => "integers",
            Self::Floats(_) => "floats",
            Self::Bools(_) => "truth values",
            Self::Texts(_) => "texts",
        }
    }
}

/// A tensor in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorEntry {
    /// Rows first, as everywhere in Spotter (the file has it the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are packed.
    pub dtype: GgmlDType,
    /// First byte in the file.
    start: usize,
    /// Number of bytes.
    pub bytes: usize,
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// Types by their number in the file.
fn dtype(id: u32) -> Option<GgmlDType> {
    use GgmlDType::*;
    Some(match id {
        0 => F32,
        1 => F16,
        2 => Q4_0,
        3 => Q4_1,
        6 => Q5_0,
        7 => Q5_1,
        8 => Q8_0,
        10 => Q2K,
        11 => Q3K,
        12 => Q4K,
        13 => Q5K,
        14 => Q6K,
        30 => BF16,
        _ => return None,
    })
}

impl Gguf {
    /// Maps a file and reads all but its tensors.
    ///
    /// # Errors
    /// The place in the file, what was expected there and what was found.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |problem: String| GgufError { path: path.to_owned(), problem };
        let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
        let size = file.metadata().map_err(|e| failed(e.to_string()))?;
        if !size.is_file() || size.len() == 0 {
            return Err(failed("expected a GGUF file with something in it".into()));
        }
        // SAFETY: the map is read-only; a file that another program shortens meanwhile is the one risk, which every
        // memory-mapped loader shares.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| failed(e.to_string()))?;
        let (metadata, tensors) = parse(&map).map_err(failed)?;
        Ok(Self { path: path.to_owned(), map, metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorEntry> {
        &self.tensors
    }

    /// All metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// An error about this file.
    pub fn error(&self, problem: impl Into<String>) -> GgufError {
        GgufError { path: self.path.clone(), problem: problem.into() }
    }

    /// The packed bytes of a tensor.
    pub(crate) fn data(&self, entry: &TensorEntry) -> &[u8] {
        self.map.get(entry.start..entry.start + entry.bytes).unwrap_or_default()
    }

    /// Tells the system that a tensor's pages are not needed any more.
    pub(crate) fn give_back(&self, entry: &TensorEntry) {
        #[cfg(unix)]
        // SAFETY: the map is shared with its file and never written to, so pages that come again hold the same bytes. That it
        // fails, where a system does not know this, changes nothing.
        let _ =
            unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, entry.start, entry.bytes) };
        #[cfg(not(unix))]
        let _ = entry;
    }
}

type Directory = (BTreeMap<String, Value>, BTreeMap<String, TensorEntry>);

/// Reads everything before the tensors' bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<Directory, String> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4)? != b"GGUF" {
        return Err("expected a GGUF file: it begins with other bytes than `GGUF`".into());
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("GGUF version {version}; 2 and 3 are read"));
    }
    let (tensors, keys) = (reader.count(24, "tensors")?, reader.count(13, "metadata keys")?);
    let mut metadata = BTreeMap::new();
    for _ in 0..keys {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind).map_err(|e| format!("{key}: {e}"))?;
        metadata.insert(key, value);
    }
    let entries = (0..tensors).map(|_| reader.tensor()).collect::<Result<Vec<_>, _>>()?;
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        // Eight, as the format has it: numbers and blocks are read where they lie.
        Some(Value::Integer(a)) if (8..=1 << 20).contains(a) && a.count_ones() == 1 => *a as usize,
        Some(other) => return Err(format!("general.alignment: expected a power of two from 8 on, found {other:?}")),
    };
    let data = reader.at.next_multiple_of(alignment);
    let mut placed = BTreeMap::new();
    for (name, mut entry) in entries {
        if !entry.start.is_multiple_of(alignment) {
            return Err(format!("tensor {name}: expected an offset that {alignment} divides, found {}", entry.start));
        }
        entry.start = entry.start.checked_add(data).ok_or_else(|| format!("tensor {name}: its offset is absurd"))?;
        let end = entry.start.checked_add(entry.bytes).filter(|end| *end <= bytes.len());
        if end.is_none() {
            return Err(format!(
                "tensor {name}: its {} bytes lie beyond the end of the file ({} bytes): it was not copied to its end",
                entry.bytes,
                bytes.len()
            ));
        }
        if placed.insert(name.clone(), entry).is_some() {
            return Err(format!("tensor {name} is there twice"));
        }
    }
    Ok((metadata, placed))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n);
        let found = end.and_then(|end| self.bytes.get(self.at..end));
        let found = found.ok_or_else(|| format!("the file ends at byte {} inside its header", self.bytes.len()))?;
        self.at += n;
        Ok(found)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "the file ends inside its header".to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, String> {
        let n = u64::from_le_bytes(self.array()?);
        let fits = (self.bytes.len() - self.at) / least.max(1);
        usize::try_from(n)
            .ok()
            .filter(|n| *n <= fits)
            .ok_or_else(|| format!("{n} {what} at byte {}, but the file has room for {fits}", self.at))
    }

    fn text(&mut self) -> Result<String, String> {
        let n = self.count(1, "bytes of text")?;
        let at = self.at;
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    fn bool(&mut self) -> Result<bool, String> {
        Ok(self.take(1)? != [0])
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        Ok(match kind {
            0 => i64::from(u8::from_le_bytes(self.array()?)),
            1 => i64::from(i8::from_le_bytes(self.array()?)),
            2 => i64::from(u16::from_le_bytes(self.array()?)),
            3 => i64::from(i16::from_le_bytes(self.array()?)),
            4 => i64::from(u32::from_le_bytes(self.array()?)),
            5 => i64::from(i32::from_le_bytes(self.array()?)),
            10 => i64::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a number above 2^63".to_owned())?,
            _ => i64::from_le_bytes(self.array()?),
        })
    }

    fn float(&mut self, kind: u32) -> Result<f64, String> {
        Ok(if kind == 6 { f64::from(f32::from_le_bytes(self.array()?)) } else { f64::from_le_bytes(self.array()?) })
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Integer(self.integer(kind)?),
            6 | 12 => Value::Float(self.float(kind)?),
            7 => Value::Bool(self.bool()?),
            8 => Value::Text(self.text()?),
            9 => self.values()?,
            _ => return Err(format!("unknown type {kind} at byte {}", self.at)),
        })
    }

    fn values(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(format!("a list of type {kind} at byte {}", self.at)),
        };
        let n = self.count(least, "values")?;
        let all = |r: &mut Self| -> Result<Value, String> {
            Ok(match kind {
                6 | 12 => Value::Floats((0..n).map(|_| r.float(kind)).collect::<Result<_, _>>()?),
                7 => Value::Bools((0..n).map(|_| r.bool()).collect::<Result<_, _>>()?),
                8 => Value::Texts((0..n).map(|_| r.text()).collect::<Result<_, _>>()?),
                _ => Value::Integers((0..n).map(|_| r.integer(kind)).collect::<Result<_, _>>()?),
            })
        };
        all(self)
    }

    fn tensor(&mut self) -> Result<(String, TensorEntry), String> {
        let name = self.text()?;
        let wrong = |problem: String| format!("tensor {name}: {problem}");
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(wrong(format!("{rank} dimensions; 1 to 4 expected")));
        }
        let dims = (0..rank).map(|_| Ok(u64::from_le_bytes(self.array()?))).collect::<Result<Vec<u64>, String>>()?;
        let id = self.u32()?;
        let dtype = dtype(id).ok_or_else(|| wrong(format!("type {id} is not read here")))?;
        let start = u64::from_le_bytes(self.array()?);
        let mut shape = dims.iter().map(|d| usize::try_from(*d).unwrap_or(usize::MAX)).collect::<Vec<_>>();
        let row = shape.first().copied().unwrap_or(0);
        if row == 0 || row % dtype.block_size() != 0 {
            return Err(wrong(format!("rows of {row}; a multiple of {} expected for {dtype:?}", dtype.block_size())));
        }
        let numbers = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n > 0);
        let bytes = numbers.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
        let bytes = bytes.ok_or_else(|| wrong(format!("a shape of {dims:?}")))?;
        shape.reverse();
        let start = usize::try_from(start).map_err(|_| wrong("its offset is absurd".into()))?;
        Ok((name, TensorEntry { shape, dtype, start, bytes }))
    }
}
