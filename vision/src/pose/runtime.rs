//! The runtime under the pose models: ONNX Runtime where its library is found, tract (pure Rust) where it is not.
//!
//! `ort` speaks through one table of C functions, chosen once in a process. It is taken from a library that is opened at
//! run time, or from `ort-tract`; both are in the same binary, and the first [`Runtime`] of the process decides. The library
//! is opened here and not by `ort`, whose loader can't be asked again after a library that did not load.

use crate::lens::LensError;
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};
use std::{
    ffi::CStr,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// What runs the models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The native library.
    OnnxRuntime {
        /// The library's version, "1.24.4".
        version: String,
        /// The file it came from; a bare name was found on the system's library path.
        path: PathBuf,
    },
    /// Pure Rust: the same landmarks, about three times slower.
    Tract {
        /// Why ONNX Runtime is not used.
        reason: String,
    },
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnnxRuntime { version, path } => write!(f, "ONNX Runtime {version} ({})", path.display()),
            Self::Tract { reason } => write!(f, "tract (pure Rust; {reason})"),
        }
    }
}

/// The process's runtime; clones share it.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    backend: Backend,
    refused: Arc<[String]>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("backend", &self.backend)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// Kept for the life of the process: `ort` allows one environment.
static STARTED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Starts the runtime with the first of `candidates` that is a usable ONNX Runtime library (see [`candidates`]), else
    /// with tract. Later calls in the same process return what the first one started.
    ///
    /// # Errors
    /// Only when a library that loads can't make an environment; a library that does not load is passed over, and
    /// [`Self::describe`] and [`Self::refused`] say why.
    pub fn load(candidates: &[PathBuf]) -> Result<Self, LensError> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*started {
            return Ok(runtime.clone());
        }
        let mut refused = Vec::new();
        for path in candidates {
            match open(path) {
                Ok((api, version)) => {
                    let backend = Backend::OnnxRuntime { version, path: path.clone() };
                    return Self::start_native(&mut started, api, backend, refused);
                }
                Err(refusal) => refused.push(refusal),
            }
        }
        let reason = match refused.iter().find(|r| !r.ends_with(NOT_FOUND)) {
            Some(refusal) => refusal.clone(),
            None => {
                "no ONNX Runtime library found; scripts/setup.sh installs one, which is about three times faster".into()
            }
        };
        Self::start_tract(&mut started, reason, refused)
    }

    /// Starts the runtime with tract, whatever libraries there are.
    ///
    /// # Errors
    /// When ONNX Runtime was started in this process before.
    pub fn tract() -> Result<Self, LensError> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            Some(runtime) if matches!(runtime.backend, Backend::Tract { .. }) => Ok(runtime.clone()),
            Some(runtime) => Err(LensError::Run(format!(
                "this process already runs {}; tract can only be chosen before the first model is loaded",
                runtime.describe()
            ))),
            None => Self::start_tract(&mut started, "as asked".into(), Vec::new()),
        }
    }

    fn start_native(
        started: &mut Option<Self>,
        api: ort::sys::OrtApi,
        backend: Backend,
        refused: Vec<String>,
    ) -> Result<Self, LensError> {
        if !ort::set_api(api) {
            return Err(LensError::Run(
                "ONNX Runtime can't be started: another runtime is already in use in this process".into(),
            ));
        }
        let environment = ort::init()
            .with_name("spotter")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|e| LensError::Run(format!("{backend} does not start: {e}")))?;
        environment.set_log_level(LogLevel::Error);
        Ok(Self::keep(started, environment, backend, refused))
    }

    fn start_tract(started: &mut Option<Self>, reason: String, refused: Vec<String>) -> Result<Self, LensError> {
        if !ort::set_api(ort_tract::api()) {
            return Err(LensError::Run(
                "tract can't be started: another runtime is already in use in this process".into(),
            ));
        }
        let environment = ort::init()
            .with_name("spotter")
            .with_telemetry(false)
            .build()
            .map_err(|e| LensError::Run(format!("tract does not start: {e}")))?;
        Ok(Self::keep(started, environment, Backend::Tract { reason }, refused))
    }

    fn keep(started: &mut Option<Self>, environment: Environment, backend: Backend, refused: Vec<String>) -> Self {
        let runtime = Self { environment, backend, refused: refused.into() };
        tracing::debug!(runtime = %runtime.backend, "pose runtime");
        *started = Some(runtime.clone());
        runtime
    }

    /// What runs, in words: "ONNX Runtime 1.24.4 (/path)" or "tract (pure Rust; why)".
    pub fn describe(&self) -> String {
        self.backend.to_string()
    }

    /// What runs.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Libraries that were tried and not taken, each with the reason.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Loads a model that takes one `f32` tensor, and runs it once on zeros.
    ///
    /// `input` is the tensor's shape, `outputs` the name and length of each output that is asked for.
    pub(crate) fn model(
        &self,
        path: &Path,
        input: &[usize],
        outputs: &[(&'static str, usize)],
        threads: usize,
    ) -> Result<Model, LensError> {
        let error = |problem: String| LensError::Model { path: path.to_path_buf(), problem };
        let bytes = std::fs::read(path)
            .map_err(|e| error(format!("can't be read ({e}); restore it from the repository's assets/pose")))?;
        let session = self.session(&bytes, threads).map_err(|e| {
            error(format!("is not a usable ONNX model ({e}); restore it from the repository's assets/pose"))
        })?;
        let mut model = Model { session, input: input.to_vec(), outputs: outputs.to_vec() };
        let zeros = vec![0.0; input.iter().product()];
        model
            .run(&zeros)
            .map_err(|e| error(format!("is another model than expected ({e}); restore it from assets/pose")))?;
        Ok(model)
    }

    /// Loads a model of any inputs and outputs.
    ///
    /// # Errors
    /// [`LensError::Model`] when it can't be read or is no ONNX model that the runtime takes.
    pub fn open(&self, path: &Path, threads: usize) -> Result<Session, LensError> {
        let error = |problem: String| LensError::Model { path: path.to_path_buf(), problem };
        let bytes = std::fs::read(path).map_err(|e| error(format!("can't be read ({e})")))?;
        self.session(&bytes, threads).map_err(|e| error(format!("is not a usable ONNX model ({e})")))
    }

    fn session(&self, bytes: &[u8], threads: usize) -> ort::Result<Session> {
        // tract knows neither threads nor spinning: an option that is refused hands the builder back.
        Session::builder(&self.environment)?
            .with_intra_threads(threads)
            .unwrap_or_else(ort::Error::recover)
            .with_intra_op_spinning(false)
            .unwrap_or_else(ort::Error::recover)
            .with_optimization_level(GraphOptimizationLevel::All)
            .unwrap_or_else(ort::Error::recover)
            .commit_from_memory(bytes)
    }
}

/// A loaded model with one input.
pub(crate) struct Model {
    session: Session,
    input: Vec<usize>,
    outputs: Vec<(&'static str, usize)>,
}

impl Model {
    /// Runs the model; the outputs come in the order in which they were asked for.
    pub(crate) fn run(&mut self, input: &[f32]) -> Result<Vec<Vec<f32>>, LensError> {
        let failed = |e: ort::Error| LensError::Run(e.to_string());
        let tensor = TensorRef::from_array_view((self.input.clone(), input)).map_err(failed)?;
        let results = self.session.run(ort::inputs![tensor]).map_err(failed)?;
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for &(name, expected) in &self.outputs {
            let value =
                results.get(name).ok_or_else(|| LensError::Run(format!("the model has no output named {name}")))?;
            let (_, data) = value.try_extract_tensor::<f32>().map_err(failed)?;
            if data.len() != expected {
                return Err(LensError::Run(format!("output {name} has {} values, expected {expected}", data.len())));
            }
            outputs.push(data.to_vec());
        }
        Ok(outputs)
    }
}

/// Where to look for the library, in order: `explicit` (the user's own word), beside the executable,
/// `.deps/onnxruntime` of the working folder (set-up puts it there), each of `folders` (the user's data folder), the
/// system's library path.
pub fn candidates(explicit: Option<&Path>, folders: &[PathBuf]) -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let deps = std::env::current_dir().ok().map(|folder| folder.join(".deps/onnxruntime"));
    let mut found: Vec<PathBuf> = explicit.map(Path::to_path_buf).into_iter().collect();
    for folder in beside.iter().chain(&deps).chain(folders) {
        found.extend(libraries(folder));
    }
    found.extend(SYSTEM_NAMES.iter().map(PathBuf::from));
    found
}

#[cfg(target_os = "windows")]
const SYSTEM_NAMES: &[&str] = &["onnxruntime.dll"];
#[cfg(target_os = "macos")]
const SYSTEM_NAMES: &[&str] = &["libonnxruntime.dylib"];
#[cfg(not(any(target_os = "windows", target_os = "macos")))]
const SYSTEM_NAMES: &[&str] = &["libonnxruntime.so", "libonnxruntime.so.1"];

/// ONNX Runtime libraries in a folder, the highest version first.
fn libraries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| Some((library_version(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The numbers in `libonnxruntime.so.1.24.4` or `libonnxruntime.1.24.4.dylib`; `None` for any other file.
fn library_version(name: &str) -> Option<Vec<u32>> {
    let middle = name.strip_prefix("libonnxruntime.").or_else(|| name.strip_prefix("onnxruntime."))?;
    let is_ending = |part: &str| matches!(part, "so" | "dylib" | "dll");
    if !middle.split('.').any(is_ending) {
        return None;
    }
    // No numbers at all, a link to some version, sorts last.
    middle.split('.').filter(|part| !is_ending(part)).map(|part| part.parse().ok()).collect()
}

/// End of the refusal of a candidate that is not there: no news, unlike one that is broken.
const NOT_FOUND: &str = "not found";

/// Opens a library and takes its table of functions; also its version. An error says what is wrong with the file.
fn open(path: &Path) -> Result<(ort::sys::OrtApi, String), String> {
    let name = path.display();
    // SAFETY: opening a library runs its initialisers. The file is one that the user named or that set-up installed, and
    // ONNX Runtime's initialisers may run on any thread.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| {
        if path.exists() { format!("{name} can't be opened as a library: {e}") } else { format!("{name}: {NOT_FOUND}") }
    })?;
    // SAFETY: a library that exports this name has it from ONNX Runtime's C header, with this signature.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") }
        .map_err(|_| format!("{name} is not an ONNX Runtime library"))?;
    // SAFETY: the call takes nothing and gives null or a pointer to a table that lives as long as the library.
    let base = unsafe { base().as_ref() }.ok_or_else(|| format!("{name} is not a working ONNX Runtime library"))?;
    // SAFETY: the version is a string with a closing zero that lives as long as the library.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
    // SAFETY: for a version that it does not know the function gives null, else a table at least as long as ours.
    let api = unsafe { (base.GetApi)(ort::sys::ORT_API_VERSION) };
    if api.is_null() {
        return Err(format!("{name} is ONNX Runtime {version}, too old: 1.{} or newer is needed", ort::MINOR_VERSION));
    }
    // SAFETY: not null, and a plain table of function pointers, which stay valid: the library is never closed.
    let api = unsafe { std::ptr::read(api) };
    std::mem::forget(library);
    Ok((api, version))
}

/// ONNX Runtime's own messages go where ours go.
fn log(level: LogLevel, _category: &str, _id: &str, _location: &str, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "onnxruntime", "{message}"),
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", "{message}"),
        _ => tracing::trace!(target: "onnxruntime", "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_recognised_and_the_newest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.1",
            "libonnxruntime.so.1.24.4",
            "libonnxruntime.so",
            "LICENSE",
            "libonnxruntime_providers.so",
        ] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let names: Vec<_> = libraries(folder.path()).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["libonnxruntime.so.1.24.4", "libonnxruntime.so.1.9.1", "libonnxruntime.so"]);
        assert_eq!(library_version("libonnxruntime.1.24.4.dylib"), Some(vec![1, 24, 4]));
        assert_eq!(library_version("onnxruntime.dll"), Some(vec![]));
        assert_eq!(library_version("libonnxruntime.so.txt"), None);
    }

    #[test]
    fn the_explicit_path_comes_first_and_the_system_last() {
        let found = candidates(Some(Path::new("/nowhere/lib.so")), &[]);
        assert_eq!(found.first().unwrap(), Path::new("/nowhere/lib.so"));
        assert_eq!(found.last().unwrap(), Path::new(SYSTEM_NAMES.last().unwrap()));
    }
}
