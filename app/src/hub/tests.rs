use super::*;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How a hub behaves.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// The token without which it says 401.
    allowed: Option<&'static str>,
    /// So many answers break off in the middle of a large file.
    broken: usize,
    /// It says another checksum than that of what it sends.
    lying: bool,
}

/// What a hub was asked.
#[derive(Default)]
struct Asked {
    requests: AtomicUsize,
    broken: AtomicUsize,
    /// First bytes of the ranges of large files that were sent.
    starts: Mutex<Vec<usize>>,
}

/// A hub on a port of its own that has one model, `owner/name`, with the files of a folder; others are 404.
fn serve(folder: PathBuf, manner: Manner) -> (String, Arc<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Asked::default());
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (folder, count) = (folder.clone(), count.clone());
            std::thread::spawn(move || answer(stream, &folder, manner, &count));
        }
    });
    (url, asked)
}

/// Of every file of a folder.
fn commit_of(folder: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    crate::digest::sha256(&files.iter().flat_map(|f| std::fs::read(f).unwrap()).collect::<Vec<_>>())[..40].to_owned()
}

/// More bytes than this are a large file.
const LARGE: usize = 10_000;

fn answer(mut stream: TcpStream, folder: &Path, manner: Manner, asked: &Asked) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut range, mut bearer) = (String::new(), None, None);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(bytes) = lower.strip_prefix("range: bytes=") {
            let (from, to) = bytes.trim().split_once('-').unwrap();
            range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
        }
        bearer = line.trim().strip_prefix("authorization: Bearer ").map(str::to_owned).or(bearer);
    }
    asked.requests.fetch_add(1, Ordering::SeqCst);
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let commit = commit_of(folder);
    let file = ["main", commit.as_str()].iter().find_map(|revision| {
        path.strip_prefix(&format!("/owner/name/resolve/{revision}/")).map(|name| folder.join(name))
    });
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if manner.allowed.is_some() && bearer.as_deref() != manner.allowed {
        return send("401 Unauthorized", "", b"who are you?");
    }
    if ["main", commit.as_str()].iter().any(|r| path == format!("/api/models/owner/name/revision/{r}")) {
        let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let siblings: Vec<_> = files.map(|f| serde_json::json!({ "rfilename": f })).collect();
        return send("200 OK", "", serde_json::json!({ "siblings": siblings, "sha": commit }).to_string().as_bytes());
    }
    let Some(all) = file.as_ref().and_then(|file| std::fs::read(file).ok()) else {
        return send("404 Not Found", "", b"no such file");
    };
    let (from, to) = range.unwrap_or((0, None));
    let to = to.map_or(all.len(), |to| (to + 1).min(all.len()));
    let checksum = if manner.lying { "0".repeat(64) } else { crate::digest::sha256(&all) };
    let headers = format!(
        "etag: \"{checksum}\"\r\nx-repo-commit: {commit}\r\ncontent-range: bytes {from}-{}/{}\r\n",
        to.saturating_sub(1),
        all.len()
    );
    let body = &all[from.min(to)..to];
    if body.len() > LARGE {
        asked.starts.lock().unwrap().push(from);
        if asked.broken.fetch_add(1, Ordering::SeqCst) < manner.broken {
            let head = format!("HTTP/1.1 206 Partial Content\r\n{headers}content-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..body.len() / 2]));
            return;
        }
    }
    send("206 Partial Content", &headers, body);
}

fn roberta() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert_score/roberta")
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    Hub { endpoint: endpoint.to_owned(), cache: cache.join("hub"), token: None, offline: false }
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_network() {
    let (url, asked) = serve(roberta(), Manner::default());
    let home = tempfile::tempdir().unwrap();
    let online = hub(&url, home.path());
    let folder = online.model("owner/name").unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert_eq!(std::fs::read(folder.join(file)).unwrap(), std::fs::read(roberta().join(file)).unwrap(), "{file}");
    }
    let requests = asked.requests.load(Ordering::SeqCst);
    let offline = Hub { offline: true, ..hub("http://127.0.0.1:9", home.path()) };
    assert_eq!(offline.model("owner/name").unwrap(), folder);
    assert_eq!(online.model("owner/name").unwrap(), folder);
    assert_eq!(asked.requests.load(Ordering::SeqCst), requests, "nothing is asked for twice");
}

#[test]
fn weights_in_parts_follow_their_index() {
    let there = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(roberta().join(file), there.path().join(file)).unwrap();
    }
    let index = there.path().join("model.safetensors.index.json");
    std::fs::write(
        &index,
        r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#,
    )
    .unwrap();
    for part in ["m-1.safetensors", "m-2.safetensors"] {
        std::fs::write(there.path().join(part), part).unwrap();
    }
    let (url, _) = serve(there.path().to_owned(), Manner::default());
    let home = tempfile::tempdir().unwrap();
    let folder = hub(&url, home.path()).model("owner/name").unwrap();
    assert_eq!(std::fs::read(folder.join("m-2.safetensors")).unwrap(), b"m-2.safetensors");
    for bad in [r#"{"weight_map": {"a": "../x.safetensors"}}"#, r#"{"weight_map": 3}"#, "x"] {
        std::fs::write(&index, bad).unwrap();
        assert!(shards(&index).unwrap_err().to_string().contains("model.safetensors.index.json"), "{bad}");
    }
}

#[test]
fn what_can_not_be_fetched_says_why_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let refused = |hub: &Hub, name: &str| {
        let error = hub.model(name).unwrap_err();
        let hint = error.downcast_ref::<Hinted>().unwrap().hint().to_owned();
        format!("{error:#}; {hint}")
    };
    let (url, _) = serve(roberta(), Manner::default());
    let missing = refused(&hub(&url, home.path()), "owner/other");
    assert!(missing.contains("owner/other: there is no config.json at http://127.0.0.1"), "{missing}");
    let offline = refused(&Hub { offline: true, ..hub(&url, home.path()) }, "owner/name");
    assert!(offline.contains("config.json is not in") && offline.contains("HF_HUB_OFFLINE"), "{offline}");
    let (url, _) = serve(roberta(), Manner { allowed: Some("secret"), ..Manner::default() });
    let closed = refused(&hub(&url, home.path()), "owner/name");
    assert!(closed.contains("HF_TOKEN"), "{closed}");
    let known = Hub { token: Some("secret".into()), ..hub(&url, home.path()) };
    assert!(known.model("owner/name").is_ok());
    let gone = refused(&hub("http://127.0.0.1:9", &home.path().join("elsewhere")), "owner/name");
    assert!(gone.contains("can't be fetched from http://127.0.0.1:9") && gone.contains("name a folder"), "{gone}");
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A model with a template and a large file.
fn model() -> tempfile::TempDir {
    let there = tempfile::tempdir().unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/goldens/seed-text");
    for file in ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "golden.json"] {
        std::fs::copy(goldens.join(file), there.path().join(file)).unwrap();
    }
    there
}

#[test]
fn a_pull_fetches_what_loading_needs_and_pins_the_commit() {
    let (there, home) = (model(), tempfile::tempdir().unwrap());
    let (url, asked) = serve(there.path().to_owned(), Manner::default());
    let hub = hub(&url, home.path());
    assert_eq!(hub.cached(&name("owner/name"), &Wanted::Folder), None);
    let first = hub.pull(&name("owner/name"), &Wanted::Folder, false).unwrap();
    assert_eq!((first.commit.as_str(), first.files.len()), (commit_of(there.path()).as_str(), 4));
    for file in ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"] {
        assert_eq!(std::fs::read(first.folder.join(file)).unwrap(), std::fs::read(there.path().join(file)).unwrap());
    }
    assert!(!first.folder.join("golden.json").exists(), "nothing else is fetched");
    // The branch moves on; what was pulled stays until it is asked for.
    std::fs::write(there.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let requests = asked.requests.load(Ordering::SeqCst);
    let again = hub.pull(&name("owner/name"), &Wanted::Folder, false).unwrap();
    assert_eq!((again.folder, asked.requests.load(Ordering::SeqCst)), (first.folder.clone(), requests));
    let newer = hub.pull(&name("owner/name"), &Wanted::Folder, true).unwrap();
    assert_eq!(newer.commit, commit_of(there.path()));
    assert_ne!(newer.folder, first.folder);
    let offline = Hub { offline: true, ..hub.clone() };
    let pinned = name(&format!("owner/name@{}", first.commit));
    assert_eq!(offline.pull(&pinned, &Wanted::Folder, true).unwrap().folder, first.folder);
    assert_eq!(offline.pull(&name("owner/name"), &Wanted::Folder, false).unwrap().commit, newer.commit);
    // Weights were fetched once: both commits have the same.
    assert_eq!(asked.starts.lock().unwrap().iter().filter(|s| **s == 0).count(), 2);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (there, home) = (model(), tempfile::tempdir().unwrap());
    let (url, asked) = serve(there.path().to_owned(), Manner { broken: 2, ..Manner::default() });
    let pulled = hub(&url, home.path()).pull(&name("owner/name"), &Wanted::Folder, false).unwrap();
    let weights = std::fs::read(there.path().join("model.safetensors")).unwrap();
    assert_eq!(std::fs::read(pulled.folder.join("model.safetensors")).unwrap(), weights);
    let starts = asked.starts.lock().unwrap().clone();
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]) && starts.len() == 3, "{starts:?}");
}

#[test]
fn what_is_not_what_the_hub_says_is_thrown_away() {
    let (there, home) = (model(), tempfile::tempdir().unwrap());
    let (url, _) = serve(there.path().to_owned(), Manner { lying: true, ..Manner::default() });
    let error = hub(&url, home.path()).pull(&name("owner/name"), &Wanted::Folder, false).unwrap_err();
    let hint = error.downcast_ref::<Hinted>().unwrap().hint().to_owned();
    assert!(error.to_string().contains("has the checksum") && hint.contains("fetch it again"), "{error} {hint}");
    let (url, _) = serve(there.path().to_owned(), Manner::default());
    let pulled = hub(&url, home.path()).pull(&name("owner/name"), &Wanted::Folder, false).unwrap();
    assert_eq!(pulled.files.len(), 4, "nothing broken was left");
}

#[test]
fn single_files_are_fetched_by_their_names() {
    let (there, home) = (model(), tempfile::tempdir().unwrap());
    for file in ["m-Q4_K.gguf", "mmproj-f16.gguf"] {
        std::fs::write(there.path().join(file), file).unwrap();
    }
    let (url, _) = serve(there.path().to_owned(), Manner::default());
    let hub = hub(&url, home.path());
    let wanted = |files: &[&str]| Wanted::Files(files.iter().map(|f| (*f).to_owned()).collect());
    let both = hub.pull(&name("owner/name"), &wanted(&["m-Q4_K.gguf", "mmproj-f16.gguf"]), false).unwrap();
    assert_eq!(both.files.len(), 2);
    assert_eq!(std::fs::read(&both.files[1]).unwrap(), b"mmproj-f16.gguf");
    assert_eq!(hub.cached(&name("owner/name"), &Wanted::Folder), None, "that is not a folder to load");
    let error = hub.pull(&name("owner/name"), &wanted(&["m-Q8_0.gguf"]), false).unwrap_err();
    let hint = error.downcast_ref::<Hinted>().unwrap().hint().to_owned();
    assert!(error.to_string().contains("it has no m-Q8_0.gguf") && hint.contains("m-Q4_K.gguf"), "{error} {hint}");
    std::fs::remove_file(there.path().join("model.safetensors")).unwrap();
    let error = hub.pull(&name("owner/name"), &Wanted::Folder, false).unwrap_err().to_string();
    assert!(error.contains("it has no weights as safetensors"), "{error}");
    let error = hub.pull(&name("owner/name@other"), &Wanted::Folder, false).unwrap_err().to_string();
    assert!(error.contains("there is no such model at other at http://127.0.0.1"), "{error}");
}

#[test]
fn names_are_told_from_paths() {
    for name in ["roberta-large", "FacebookAI/roberta-large", "a/b.c-d_e"] {
        assert!(is_name(name), "{name}");
    }
    for path in ["", "/a/b", "./a", "../a", "a/b/c", "a//b", "a b", "a/..", "~/x", "C:\\x"] {
        assert!(!is_name(path), "{path}");
    }
}
