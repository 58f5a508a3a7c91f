//! What can be wrong with a checkpoint.

use crate::{gguf::GgufError, model::ConfigError};
use spotter_vision::preprocess::PreprocessError;
use std::path::{Path, PathBuf};

/// A checkpoint that can't be used; the message names the tensor, field or file, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file or folder is not there.
    #[error("{path} is missing: {purpose}")]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What it would have been.
        purpose: String,
    },
    /// A file that can't be read as what it should be.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A safetensors file is shorter or longer than its header says.
    #[error(
        "{path}: the header describes a file of {expected} bytes, found {found}: it was not copied to its end; fetch it again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes by its header.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A tensor that the model needs is in no file.
    #[error("tensor `{name}`: expected shape {shape:?}, found no such tensor in {folder}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// Its shape by the configuration.
        shape: Vec<usize>,
        /// The checkpoint.
        folder: PathBuf,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Its name.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor of a type that is not read here.
    #[error("tensor `{name}`: expected type F32, F16, BF16 or F64, found {found}")]
    Dtype {
        /// Its name.
        name: String,
        /// In the file.
        found: String,
    },
    /// A GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A field of `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A field of `preprocessor_config.json`.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The tokenizer does not fit the model.
    #[error("tokenizer: {what}: expected {expected}, found {found}")]
    Tokenizer {
        /// Which property.
        what: String,
        /// What the model needs.
        expected: String,
        /// What the tokenizer has.
        found: String,
    },
    /// Building the model failed although the files are right.
    #[error("the model can't be built: {0}")]
    Build(#[from] candle_core::Error),
}

impl WeightsError {
    /// A file that is not there.
    pub fn missing(path: &Path, purpose: impl ToString) -> Self {
        Self::Missing { path: path.to_path_buf(), purpose: purpose.to_string() }
    }

    /// A file that is wrong.
    pub fn file(path: &Path, problem: impl ToString) -> Self {
        Self::File { path: path.to_path_buf(), problem: problem.to_string() }
    }
}
