//! The one kind of `.npy` file that QEVD has: a row of 64-bit integers, nanoseconds since 1970.

use super::error::QevdError;
use std::{fs, path::Path};

const MAGIC: &[u8] = b"\x93NUMPY";
/// A month of video at 60 frames a second; more is no session.
const MAX_FRAMES: usize = 160_000_000;

/// Reads nanoseconds, one for each frame. Little-endian `i8` and `u8` arrays of one dimension are understood.
///
/// # Errors
/// A file that can't be read, is no `.npy` file, is cut short, or holds something else.
pub fn read_timestamps(path: &Path) -> Result<Vec<i64>, QevdError> {
    let bytes = fs::read(path).map_err(|source| QevdError::Read { path: path.into(), source })?;
    parse(&bytes).map_err(|what| QevdError::Format { path: path.into(), what })
}

fn parse(bytes: &[u8]) -> Result<Vec<i64>, String> {
    let (header, data) = split(bytes)?;
    let kind = field(header, "descr").ok_or("the .npy header has no 'descr'")?.trim_matches(['\'', '"']);
    let unsigned = match kind {
        "<i8" => false,
        "<u8" => true,
        other => return Err(format!("values are of type {other}; expected 64-bit integers, '<i8' or '<u8'")),
    };
    let shape = field(header, "shape").ok_or("the .npy header has no 'shape'")?;
    let sizes: Vec<&str> = shape.trim_matches(['(', ')']).split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    let [size] = sizes.as_slice() else {
        return Err(format!("the shape is {shape}; expected one dimension, a time for each frame"));
    };
    let n: usize = size.parse().map_err(|_| format!("the shape is {shape}; expected a whole number"))?;
    if n > MAX_FRAMES || n * 8 != data.len() {
        return Err(format!("{n} values need {} bytes, but {} follow the header", n.saturating_mul(8), data.len()));
    }
    let values = data.chunks_exact(8).map(|chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        let bits = u64::from_le_bytes(word);
        let signed = i64::from_le_bytes(word);
        if unsigned && signed < 0 { Err(format!("{bits} ns is beyond the range of time")) } else { Ok(signed) }
    });
    values.collect()
}

/// Header text and data.
fn split(bytes: &[u8]) -> Result<(&str, &[u8]), String> {
    let short = || "the file ends within its header".to_owned();
    let rest = bytes.strip_prefix(MAGIC).ok_or("this is no .npy file (it does not begin with \\x93NUMPY)")?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(short)?;
    let (length, rest) = match version.first() {
        Some(1) => {
            let (size, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            (usize::from(u16::from_le_bytes(*size)), rest)
        }
        Some(2 | 3) => {
            let (size, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            (u32::from_le_bytes(*size) as usize, rest)
        }
        _ => return Err(format!("version {version:?} of .npy is unknown; expected 1, 2 or 3")),
    };
    let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
    let header = std::str::from_utf8(header).map_err(|_| "the .npy header is no text".to_owned())?;
    Ok((header, data))
}

/// The value of a key in the header, a Python dict literal without nesting but for the shape's parentheses.
fn field<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let at =
        [format!("'{key}'"), format!("\"{key}\"")].iter().find_map(|k| Some(header.find(k.as_str())? + k.len()))?;
    let value = header.get(at..)?.trim_start().strip_prefix(':')?.trim_start();
    let end = if value.starts_with('(') { value.find(')')? + 1 } else { value.find([',', '}'])? };
    value.get(..end).map(str::trim)
}

/// Writes nanoseconds as numpy would.
///
/// # Errors
/// A file that can't be written.
pub fn write_timestamps(path: &Path, nanoseconds: &[i64]) -> Result<(), QevdError> {
    let dict = format!("{{'descr': '<i8', 'fortran_order': False, 'shape': ({},), }}", nanoseconds.len());
    // Magic, version, length, header and its line feed together fill blocks of 64 bytes.
    let padding = 63 - (MAGIC.len() + 4 + dict.len()) % 64;
    let header = format!("{dict}{}\n", " ".repeat(padding));
    let mut bytes = Vec::with_capacity(128 + 8 * nanoseconds.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(nanoseconds.iter().flat_map(|ns| ns.to_le_bytes()));
    fs::write(path, bytes).map_err(|source| QevdError::Write { path: path.into(), source })
}
