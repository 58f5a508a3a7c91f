//! The header of a safetensors file.

use super::WeightsError;
use candle_core::DType;
use safetensors::tensor::Metadata;
use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// The longest header the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Type as the file names it.
    pub stored: String,
    /// Bytes on disk.
    pub bytes: usize,
    /// Where it begins in its file, in bytes.
    pub start: usize,
    /// Index of its file within the checkpoint.
    pub file: usize,
}

impl TensorInfo {
    /// The type, where weights of it can be read.
    pub fn dtype(&self) -> Option<DType> {
        match self.stored.as_str() {
            "F32" => Some(DType::F32),
            "F16" => Some(DType::F16),
            "BF16" => Some(DType::BF16),
            "F64" => Some(DType::F64),
            _ => None,
        }
    }

    /// Numbers in it.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Reads and checks the header of one file; its data is not touched.
pub fn read_header(path: &Path) -> Result<BTreeMap<String, TensorInfo>, WeightsError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(WeightsError::missing(path, "a file of the model's weights"));
        }
        Err(e) => return Err(WeightsError::file(path, e)),
    };
    let found = file.metadata().map_err(|e| WeightsError::file(path, e))?.len();
    if found < 8 {
        return Err(WeightsError::file(path, format!("expected a safetensors file, found {found} bytes")));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|e| WeightsError::file(path, e))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(WeightsError::file(
            path,
            format!("expected a safetensors file, found a header length of {length} bytes"),
        ));
    }
    if length + 8 > found {
        return Err(WeightsError::Truncated { path: path.to_path_buf(), expected: length + 8, found });
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).map_err(|e| WeightsError::file(path, e))?;
    let garbage =
        |e: serde_json::Error| WeightsError::file(path, format!("expected a safetensors header, found garbage: {e}"));
    let metadata: Metadata = serde_json::from_slice(&text).map_err(garbage)?;
    let expected = 8 + length + metadata.data_len() as u64;
    if expected != found {
        return Err(WeightsError::Truncated { path: path.to_path_buf(), expected, found });
    }
    let describe = |info: &safetensors::tensor::TensorInfo| TensorInfo {
        shape: info.shape.clone(),
        stored: format!("{:?}", info.dtype),
        bytes: info.data_offsets.1 - info.data_offsets.0,
        start: 8 + length as usize + info.data_offsets.0,
        file: 0,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, describe(info))).collect())
}
