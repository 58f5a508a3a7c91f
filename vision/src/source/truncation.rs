//! Finds out from a file's own structure whether its end is missing.
//!
//! Demuxers report a file that was cut as a plain end, or not at all, so the source asks here when it reaches the end.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const GIF_TRAILER: u8 = 0x3B;
/// Top-level boxes looked at before giving up: fragmented recordings have many, nonsense would have no end.
const MAX_BOXES: usize = 1_000_000;

/// What is missing at the end of the file; `None` when it is whole, or of a kind that does not tell its length.
pub(super) fn missing_end(path: &Path) -> Option<String> {
    // A file that can't be read any more is reported by the demuxer, not here.
    inspect(path).unwrap_or(None)
}

fn inspect(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = [0; 8];
    file.read_exact(&mut head)?;
    file.rewind()?;
    if head.starts_with(b"GIF8") {
        return gif(&mut file);
    }
    if head.starts_with(&EBML.to_be_bytes()) {
        return matroska(&mut file, length);
    }
    if [b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"].iter().any(|kind| head.ends_with(*kind)) {
        return boxes(&mut file, length);
    }
    Ok(None)
}

fn lacking(name: &str, end: u64, length: u64) -> Option<String> {
    (end > length).then(|| format!("the file is cut short: {name} should go on to byte {end}, the file has {length}"))
}

fn boxes(file: &mut File, length: u64) -> io::Result<Option<String>> {
    let mut start = 0_u64;
    for _ in 0..MAX_BOXES {
        if start + 8 > length {
            break;
        }
        file.seek(SeekFrom::Start(start))?;
        let (short, kind) = (u64::from(u32::from_be_bytes(read(file)?)), read::<4>(file)?);
        let size = match short {
            // The last box of a file may leave its size open.
            0 => break,
            1 => u64::from_be_bytes(read(file)?),
            size => size,
        };
        let end = start.saturating_add(size);
        let problem = lacking(&format!("its `{}` part", kind.escape_ascii()), end, length);
        if problem.is_some() || size < 8 {
            return Ok(problem);
        }
        start = end;
    }
    Ok(None)
}

fn matroska(file: &mut File, length: u64) -> io::Result<Option<String>> {
    let _ebml: [u8; 4] = read(file)?;
    let header = variable_size(file)?.unwrap_or(0);
    let after = file.stream_position()?.saturating_add(header);
    if after >= length {
        return Ok(lacking("its header", after, length));
    }
    file.seek(SeekFrom::Start(after))?;
    if u32::from_be_bytes(read(file)?) != SEGMENT {
        return Ok(None);
    }
    Ok(match variable_size(file)? {
        Some(size) => lacking("its segment", file.stream_position()?.saturating_add(size), length),
        // Live recordings leave the size open.
        None => None,
    })
}

/// A size as EBML writes it, 1 to 8 bytes with the width in the leading zeros; `None` when it is left open.
fn variable_size(file: &mut File) -> io::Result<Option<u64>> {
    let [first] = read::<1>(file)?;
    let extra = first.leading_zeros();
    if extra > 7 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut value = u64::from(first) & (0x7F >> extra);
    for _ in 0..extra {
        value = value << 8 | u64::from(read::<1>(file)?[0]);
    }
    let open = (1_u64 << (7 * (extra + 1))) - 1;
    Ok((value != open).then_some(value))
}

fn gif(file: &mut File) -> io::Result<Option<String>> {
    // Some writers pad the end with zeros.
    let tail = file.metadata()?.len().min(64);
    file.seek(SeekFrom::End(-(tail as i64)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let last = end.iter().rev().find(|byte| **byte != 0);
    Ok((last != Some(&GIF_TRAILER))
        .then(|| "the file is cut short: a GIF ends with a trailer byte, this one does not".into()))
}

fn read<const N: usize>(file: &mut File) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
