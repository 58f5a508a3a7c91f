//! What can be wrong with a file.

use std::{fmt, path::PathBuf};

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of the entry (a session, an episode) in its file, from 0.
    pub entry: usize,
    /// Name of the entry, if it could be read.
    pub name: Option<String>,
    /// The field.
    pub field: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {}", self.entry)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        write!(f, ", {}: {}", self.field, self.what)
    }
}

/// A file that can't be read, understood or written.
#[derive(Debug, thiserror::Error)]
pub enum QevdError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can't be written.
    #[error("can't write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{path}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// Entries of the file are wrong; all that were found.
    #[error("{path} has {n} problem(s):{list}", n = .problems.len(), list = list(.problems))]
    Entries {
        /// The file.
        path: PathBuf,
        /// In order of the file.
        problems: Vec<Problem>,
    },
    /// Several files are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<QevdError>),
}

impl QevdError {
    /// Everything that is wrong, each by itself, with its file.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Self::Entries { path, problems } => {
                problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect()
            }
            Self::Several(errors) => errors.iter().flat_map(Self::problems).collect(),
            other => vec![other.to_string()],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
