//! Puts a run together from what the user asked for: source, lens, coach.

use crate::{
    assets,
    cli::{Hinted, Usage},
    memory,
    pipeline::{Coach, Parts, script::ScriptedCoach, streamed::StreamedCoach},
    settings::Resolution,
    store,
};
use anyhow::Context as _;
use candle_core::Device;
use clap::ValueEnum;
use spotter_engine::coach::{
    CacheChoice, CoachOptions, SpeculationChoice,
    load::{load, load_drafter},
    manifest::{Defaults, LensKind},
    need::need,
    session::{CoachSession, StreamModel},
};
use spotter_engine::{
    device::{self, DeviceRequest},
    model::memory::Place,
    sampler::Sampling,
    speculate::DrafterKind,
};
use spotter_vision::{
    lens::{Lens, NoLens},
    pose::{
        AvatarLens, Runtime, TrackerOptions,
        runtime::{Backend, candidates},
    },
    source::{self, FrameSource, OpenOptions, writer::VideoWriter},
};
use std::{
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

/// The model that ships.
pub(crate) const MODEL: &str = "spotter-mini";

/// Larger recordings are scaled down while they are decoded: pose, coach and window need no more.
pub(crate) const MAX_SIDE: usize = 1280;

/// What the encoder looks through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LensChoice {
    /// What the model was trained on
    #[default]
    Auto,
    /// The person, drawn again from their pose
    Avatar,
    /// The picture as it is
    None,
}

/// What the user said about the coach; what is left out is the model's own default.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoachChoice {
    pub(crate) model: Option<PathBuf>,
    pub(crate) script: Option<PathBuf>,
    pub(crate) exercise: Option<String>,
    pub(crate) language: String,
    pub(crate) seed: u64,
    pub(crate) talkativeness: Option<f32>,
    pub(crate) cooldown: Option<Duration>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) lens: LensChoice,
    pub(crate) cache: CacheChoice,
    pub(crate) speculation: SpeculationChoice,
    /// Share of the tokens that selective layers work on, instead of the model's own.
    pub(crate) tosa_ratio: Option<f64>,
    /// Of several cards the one to use, counted round.
    pub(crate) card: usize,
}

/// A coach by itself, with what its model wants.
pub(crate) struct LoadedCoach {
    pub(crate) coach: Box<dyn Coach>,
    wanted: LensKind,
    side: usize,
    talkativeness: f32,
    pub(crate) cooldown: Duration,
    device: Device,
}

impl LoadedCoach {
    /// Waits for what its device still does: streams of a card belong to threads, and the next thread must not be ahead.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        Ok(self.device.synchronize()?)
    }
}

/// A coach and its lens, and what was settled for them.
pub(crate) struct Prepared {
    pub(crate) parts: Parts,
    pub(crate) lens: &'static str,
    pub(crate) talkativeness: f32,
    pub(crate) cooldown: Duration,
}

/// Loads coach and lens.
///
/// # Errors
/// A model folder, script or pose model that can't be used.
pub(crate) fn prepare(choice: &CoachChoice) -> anyhow::Result<Prepared> {
    let loaded = load_coach(choice)?;
    let (lens, name) = lens(choice, &loaded)?;
    let LoadedCoach { coach, talkativeness, cooldown, .. } = loaded;
    Ok(Prepared { parts: Parts { lens, coach }, lens: name, talkativeness, cooldown })
}

/// Loads a coach without its lens.
///
/// # Errors
/// A model folder or script that can't be used.
pub(crate) fn load_coach(choice: &CoachChoice) -> anyhow::Result<LoadedCoach> {
    if let Some(script) = &choice.script {
        let cooldown = choice.cooldown.unwrap_or(Duration::from_secs(1));
        let talkativeness = choice.talkativeness.unwrap_or(0.0);
        let coach = Box::new(ScriptedCoach::read(script)?);
        let (wanted, device) = (LensKind::None, Device::Cpu);
        return Ok(LoadedCoach { coach, wanted, side: 160, talkativeness, cooldown, device });
    }
    let folder = model_folder(choice.model.as_deref())?;
    let device = card(choice.card);
    let context = || format!("model {}", folder.display());
    let place = Place::of(&device);
    let need = need(&folder, &choice.cache, choice.max_tokens, place).with_context(context)?.need;
    memory::enough(&folder.display().to_string(), &need, memory::free_on(&device, &need), place)?;
    let mut model = load(&folder, &device).with_context(context)?;
    let (defaults, lens) = (model.manifest.defaults.clone(), model.manifest.lens);
    let options = CoachOptions {
        talkativeness: choice.talkativeness.unwrap_or(defaults.talkativeness),
        cooldown: choice.cooldown.unwrap_or(Duration::from_secs_f64(defaults.cooldown_seconds)),
        max_tokens: choice.max_tokens.unwrap_or(defaults.max_tokens),
        sampling: sampling(choice, &defaults)?,
        seed: choice.seed,
        language: choice.language.clone(),
        exercise: choice.exercise.clone(),
        cache: choice.cache.clone(),
        speculation: choice.speculation.clone(),
    };
    if let Some(ratio) = choice.tosa_ratio {
        set_tosa_ratio(&mut model, ratio, &folder)?;
    }
    if let Some(DrafterKind::Model(path)) = &choice.speculation.drafter {
        let drafter = load_drafter(Path::new(path), &model, &device);
        model.drafter = Some(drafter.with_context(|| format!("drafter {path}"))?);
    }
    let side = model.picture_side;
    let (talkativeness, cooldown) = (options.talkativeness, options.cooldown);
    let session = CoachSession::new(model, options).with_context(|| format!("model {}", folder.display()))?;
    let name = folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
    let coach = Box::new(StreamedCoach::new(session, name));
    Ok(LoadedCoach { coach, wanted: lens, side, talkativeness, cooldown, device })
}

/// How words are drawn: what the model's manifest says, and what was chosen instead.
fn sampling(choice: &CoachChoice, defaults: &Defaults) -> anyhow::Result<Sampling> {
    let own = defaults.sampling();
    let sampling = Sampling {
        temperature: choice.temperature.unwrap_or(own.temperature),
        top_k: choice.top_k.unwrap_or(own.top_k),
        top_p: choice.top_p.unwrap_or(own.top_p),
    };
    if sampling.is_greedy() && (choice.top_k.is_some() || choice.top_p.is_some()) {
        let problem =
            "--top-k and --top-p say what is drawn from, but at temperature 0 nothing is drawn: give --temperature too";
        return Err(Usage(problem.into()).into());
    }
    Ok(sampling)
}

/// A lens for a coach, and its name.
///
/// # Errors
/// Pose models that can't be used.
pub(crate) fn lens(choice: &CoachChoice, coach: &LoadedCoach) -> anyhow::Result<(Box<dyn Lens>, &'static str)> {
    let kind = match choice.lens {
        LensChoice::Auto => coach.wanted,
        LensChoice::Avatar => LensKind::Avatar,
        LensChoice::None => LensKind::None,
    };
    let name = match kind {
        LensKind::None => "none",
        LensKind::Avatar => "avatar",
    };
    Ok((lens_of(kind, coach.side)?, name))
}

/// Lets the selective layers of a tower work on another share of the tokens.
fn set_tosa_ratio(model: &mut StreamModel, ratio: f64, folder: &Path) -> anyhow::Result<()> {
    let encoder = model.eye.encoder_mut();
    let Some(tosa) = encoder.tosa().map(|t| t.varied(ratio, t.options().reuse, t.ranking())) else {
        let error = anyhow::anyhow!("--tosa-ratio {ratio}: the model {} has no selectors", folder.display());
        let hint = "its config.json has no vision_config.tosa; `spotter train selectors` trains some";
        return Err(Hinted::new(error, hint).into());
    };
    encoder.set_tosa(Some(tosa));
    Ok(())
}

/// What a model with pictures of `side` pixels looks through.
///
/// # Errors
/// Pose models that can't be used.
pub(crate) fn lens_of(kind: LensKind, side: usize) -> anyhow::Result<Box<dyn Lens>> {
    match kind {
        LensKind::None => Ok(Box::new(NoLens)),
        LensKind::Avatar => avatar_lens(side),
    }
}

/// The folder of a model: a path, or the name of one that ships.
///
/// # Errors
/// When there is none.
pub(crate) fn model_folder(asked: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = match asked {
        Some(path) if path.exists() => return Ok(path.to_owned()),
        Some(path) => path.to_owned(),
        None => PathBuf::from(MODEL),
    };
    let shipped = path.to_str().filter(|name| !name.contains(['/', '\\'])).and_then(assets::find);
    // What was pulled is used without asking the network.
    let pulled = || store::find(path.to_str()?);
    shipped.or_else(pulled).ok_or_else(|| {
        let hint = format!(
            "a model is a folder with config.json, tokenizer.json and weights, and a spotter.toml; the one that ships is \
             assets/{MODEL} (set {} if assets lie elsewhere); spotter models list names others, spotter models pull fetches them",
            assets::VARIABLE
        );
        Hinted::new(anyhow::anyhow!("model {}: no such folder", path.display()), hint).into()
    })
}

/// The fastest device this build can use.
pub(crate) fn device() -> Device {
    card(0)
}

/// The fastest device this build can use; where there are several cards, the one of a number, counted round.
pub(crate) fn card(number: usize) -> Device {
    let told = |text: String| {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| tracing::info!("{text}"));
    };
    let found = if cfg!(feature = "metal") { device::metal() } else { device::card(number) };
    match found {
        Ok(device) => {
            told(format!("computing on {:?}", device.location()));
            device
        }
        Err(reason) => {
            if cfg!(any(feature = "cuda", feature = "metal")) {
                told(format!("computing on the processor: {reason}"));
            }
            Device::Cpu
        }
    }
}

/// The device that is asked for; of itself, the fastest this build can use.
///
/// # Errors
/// When it is not there.
pub(crate) fn chosen_device(request: DeviceRequest) -> anyhow::Result<Device> {
    if request == DeviceRequest::Auto {
        return Ok(device());
    }
    Ok(device::find(request)?.0)
}

/// The runtime of the pose models: the library named by ORT_DYLIB_PATH, else the one that set-up fetched, else the
/// system's, else the built-in fallback.
fn runtime() -> anyhow::Result<Runtime> {
    let explicit = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()).map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/onnxruntime");
    Ok(Runtime::load(&candidates(explicit.as_deref(), &[fetched]))?)
}

fn avatar_lens(side: usize) -> anyhow::Result<Box<dyn Lens>> {
    let folder = assets::find("pose").ok_or_else(|| {
        let hint = format!("they ship in assets/pose; set {} if assets lie elsewhere", assets::VARIABLE);
        anyhow::Error::from(Hinted::new(anyhow::anyhow!("the pose models are not found"), hint))
    })?;
    let runtime = runtime()?;
    if let Backend::Tract { reason } = runtime.backend() {
        tracing::warn!("poses are found by the built-in tract, about three times slower: {reason}");
    }
    Ok(Box::new(AvatarLens::load(&runtime, &folder, side, TrackerOptions::default())?))
}

/// Opens a recording, a folder of pictures, or `pattern`.
///
/// # Errors
/// When it can't be opened.
pub(crate) fn open_source(spec: &Path) -> anyhow::Result<Box<dyn FrameSource>> {
    let options = OpenOptions { max_side: Some(MAX_SIDE), ..OpenOptions::default() };
    Ok(source::open(spec, options)?)
}

/// Opens a camera, 0 being the first, with pictures of about a size.
///
/// # Errors
/// When it can't be opened, and in a build without cameras.
pub(crate) fn open_camera(index: u32, size: Resolution) -> anyhow::Result<Box<dyn FrameSource>> {
    #[cfg(feature = "camera")]
    {
        use spotter_vision::source::camera::{CameraOptions, CameraSource};
        let (width, height) = (size.width as usize, size.height as usize);
        Ok(Box::new(CameraSource::open(index, CameraOptions { width, height, ..CameraOptions::default() })?))
    }
    #[cfg(not(feature = "camera"))]
    {
        let _ = size;
        let error = anyhow::anyhow!("camera {index}: this Spotter was built without cameras");
        let hint = "build it with `cargo build --release --features camera` (on Linux that needs libclang1, which \
                    `make live` installs where it may),\n      or coach a recording: `spotter replay VIDEO`";
        Err(Hinted::new(error, hint).into())
    }
}

/// Begins a video of a size.
///
/// # Errors
/// When the file can't be made.
pub(crate) fn video_out(path: &Path, width: usize, height: usize, fps: f64) -> anyhow::Result<VideoWriter> {
    Ok(VideoWriter::create(path, width, height, fps)?)
}

/// Loads any ONNX model, for the voice.
///
/// # Errors
/// When nothing runs such models, or it can't be read or used.
pub(crate) fn onnx_session(path: &Path, threads: usize) -> anyhow::Result<ort::session::Session> {
    Ok(runtime()?.open(path, threads)?)
}

/// What runs the pose models, in words.
///
/// # Errors
/// When nothing does.
pub(crate) fn pose_runtime() -> anyhow::Result<String> {
    Ok(runtime()?.describe())
}
