//! The settings file: flat TOML.

use anyhow::{Context as _, bail};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// Names another settings file.
const VARIABLE: &str = "SPOTTER_CONFIG";

/// Where the settings lie: the file that SPOTTER_CONFIG names, else the place that the system has for them.
pub(crate) fn path() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = || {
        if cfg!(windows) {
            return named("APPDATA").map(|p| p.join("Spotter"));
        }
        if cfg!(target_os = "macos") {
            return named("HOME").map(|p| p.join("Library/Application Support/Spotter"));
        }
        let xdg = named("XDG_CONFIG_HOME").filter(|p| p.is_absolute());
        xdg.or_else(|| named("HOME").map(|p| p.join(".config"))).map(|p| p.join("spotter"))
    };
    named(VARIABLE).or_else(|| Some(folder()?.join("settings.toml")))
}

fn table(path: &Path) -> anyhow::Result<Table> {
    match fs::read_to_string(path) {
        Ok(text) => text.parse().with_context(|| format!("{}: this is no TOML", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(error).with_context(|| format!("{}: can't be read", path.display())),
    }
}

/// The values of a file as text; none where there is no file.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut values = Vec::new();
    for (name, value) in table(path)? {
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            other => bail!("{}: {name}: expected one value, not {}", path.display(), other.type_str()),
        };
        values.push((name, text));
    }
    Ok(values)
}

/// Changes some settings of a file and leaves the others; makes the file where there is none. The file is whole at
/// every moment.
///
/// # Errors
/// When it can't be read or written.
pub(crate) fn write(path: &Path, changed: &[(&str, String)]) -> anyhow::Result<()> {
    let mut table = table(path)?;
    for (name, text) in changed {
        let number = text.parse::<i64>().map(Value::Integer).or_else(|_| text.parse::<f64>().map(Value::Float));
        let value = text.parse::<bool>().map(Value::Boolean).ok().or_else(|| number.ok());
        table.insert((*name).to_owned(), value.unwrap_or_else(|| Value::String(text.clone())));
    }
    let named = || format!("{}: can't be written", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(named)?;
    }
    let fresh = path.with_extension("toml.new");
    fs::write(&fresh, table.to_string()).with_context(named)?;
    fs::rename(&fresh, path).with_context(named)
}
