//! Writing a file, version 3: header and directory first, then one tensor after another, so that memory holds one at a time.

use super::{GgufError, Value};
use candle_core::quantized::GgmlDType;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// What tensors begin at multiples of, in bytes.
const ALIGNMENT: usize = 32;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its name in the file.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// How its numbers are packed.
    pub dtype: GgmlDType,
}

impl Planned {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.dtype.block_size() * self.dtype.type_size()
    }
}

/// Types by their number in the file.
fn number(dtype: GgmlDType) -> u32 {
    use GgmlDType::*;
    match dtype {
        F32 => 0,
        F16 => 1,
        Q4_0 => 2,
        Q4_1 => 3,
        Q5_0 => 6,
        Q5_1 => 7,
        Q8_0 => 8,
        Q8_1 => 9,
        Q2K => 10,
        Q3K => 11,
        Q4K => 12,
        Q5K => 13,
        Q6K => 14,
        Q8K => 15,
        BF16 => 30,
    }
}

/// Writes a file beside `path` and moves it there when it is whole. `data` gives the bytes of each tensor, in order.
///
/// # Errors
/// A file that can't be written, what `data` says, or another number of bytes than planned.
pub fn write<E: From<GgufError>>(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Planned],
    mut data: impl FnMut(&Planned) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let failed = |problem: String| GgufError { path: path.to_owned(), problem };
    let broken = |e: io::Error| failed(format!("can't be written: {e}"));
    let part = path.with_extension("gguf.part");
    let mut out = BufWriter::new(File::create(&part).map_err(broken)?);
    let head = header(metadata, tensors);
    out.write_all(&head).map_err(broken)?;
    for tensor in tensors {
        let bytes = data(tensor)?;
        if bytes.len() != tensor.bytes() {
            let (name, found) = (&tensor.name, bytes.len());
            return Err(failed(format!("tensor {name}: expected {} bytes, made {found}", tensor.bytes())).into());
        }
        out.write_all(&bytes).map_err(broken)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        out.write_all(&[0; ALIGNMENT][..padding]).map_err(broken)?;
    }
    out.into_inner().map_err(|e| broken(e.into_error()))?.sync_all().map_err(broken)?;
    std::fs::rename(&part, path).map_err(broken)?;
    Ok(())
}

/// All that stands before the tensors.
fn header(metadata: &[(String, Value)], tensors: &[Planned]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
        out.extend(number(tensor.dtype).to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value with its type. Integers are of 32 bits, unsigned by themselves and signed in lists, as llama.cpp asks for those that it
/// knows; larger ones are of 64.
fn put(out: &mut Vec<u8>, value: &Value) {
    let small = |n: i64| u32::try_from(n).ok();
    let list = |out: &mut Vec<u8>, kind: u32, n: usize| {
        out.extend([9u32.to_le_bytes(), kind.to_le_bytes()].concat());
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Value::Integer(n) => match small(*n) {
            Some(n) => out.extend([4u32, n].map(u32::to_le_bytes).concat()),
            None => {
                out.extend(11u32.to_le_bytes());
                out.extend(n.to_le_bytes());
            }
        },
        Value::Float(f) => {
            out.extend(6u32.to_le_bytes());
            out.extend((*f as f32).to_le_bytes());
        }
        Value::Bool(b) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*b));
        }
        Value::Text(t) => {
            out.extend(8u32.to_le_bytes());
            text(out, t);
        }
        Value::Integers(all) => {
            let short: Option<Vec<i32>> = all.iter().map(|n| i32::try_from(*n).ok()).collect();
            match short {
                Some(short) => {
                    list(out, 5, short.len());
                    short.iter().for_each(|n| out.extend(n.to_le_bytes()));
                }
                None => {
                    list(out, 11, all.len());
                    all.iter().for_each(|n| out.extend(n.to_le_bytes()));
                }
            }
        }
        Value::Floats(all) => {
            list(out, 6, all.len());
            all.iter().for_each(|f| out.extend((*f as f32).to_le_bytes()));
        }
        Value::Bools(all) => {
            list(out, 7, all.len());
            out.extend(all.iter().map(|b| u8::from(*b)));
        }
        Value::Texts(all) => {
            list(out, 8, all.len());
            all.iter().for_each(|t| text(out, t));
        }
    }
}
