use super::*;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A hub on a port of its own that has one model, `owner/name`, with the files of a folder; others are 404. `allowed` is the
/// token without which it says 401.
fn serve(folder: PathBuf, allowed: Option<&'static str>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (folder, count) = (folder.clone(), count.clone());
            std::thread::spawn(move || answer(stream, &folder, allowed, &count));
        }
    });
    (url, asked)
}

fn answer(mut stream: TcpStream, folder: &Path, allowed: Option<&str>, count: &AtomicUsize) {
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
    count.fetch_add(1, Ordering::SeqCst);
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let file = path.strip_prefix("/owner/name/resolve/main/").map(|name| folder.join(name));
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if allowed.is_some() && bearer.as_deref() != allowed {
        return send("401 Unauthorized", "", b"who are you?");
    }
    let Some(all) = file.as_ref().and_then(|file| std::fs::read(file).ok()) else {
        return send("404 Not Found", "", b"no such file");
    };
    let (from, to) = range.unwrap_or((0, None));
    let to = to.map_or(all.len(), |to| (to + 1).min(all.len()));
    let headers = format!(
        "etag: \"{}\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes {from}-{}/{}\r\n",
        crate::digest::sha256(&all),
        to.saturating_sub(1),
        all.len()
    );
    send("206 Partial Content", &headers, &all[from.min(to)..to]);
}

fn roberta() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert_score/roberta")
}

fn hub(endpoint: &str, cache: &Path) -> Hub {
    Hub { endpoint: endpoint.to_owned(), cache: cache.join("hub"), token: None, offline: false }
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_network() {
    let (url, asked) = serve(roberta(), None);
    let home = tempfile::tempdir().unwrap();
    let online = hub(&url, home.path());
    let folder = online.model("owner/name").unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert_eq!(std::fs::read(folder.join(file)).unwrap(), std::fs::read(roberta().join(file)).unwrap(), "{file}");
    }
    let requests = asked.load(Ordering::SeqCst);
    let offline = Hub { offline: true, ..hub("http://127.0.0.1:9", home.path()) };
    assert_eq!(offline.model("owner/name").unwrap(), folder);
    assert_eq!(online.model("owner/name").unwrap(), folder);
    assert_eq!(asked.load(Ordering::SeqCst), requests, "nothing is asked for twice");
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
    let (url, _) = serve(there.path().to_owned(), None);
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
    let (url, _) = serve(roberta(), None);
    let missing = refused(&hub(&url, home.path()), "owner/other");
    assert!(missing.contains("owner/other: there is no config.json at http://127.0.0.1"), "{missing}");
    let offline = refused(&Hub { offline: true, ..hub(&url, home.path()) }, "owner/name");
    assert!(offline.contains("config.json is not in") && offline.contains("HF_HUB_OFFLINE"), "{offline}");
    let (url, _) = serve(roberta(), Some("secret"));
    let closed = refused(&hub(&url, home.path()), "owner/name");
    assert!(closed.contains("HF_TOKEN"), "{closed}");
    let known = Hub { token: Some("secret".into()), ..hub(&url, home.path()) };
    assert!(known.model("owner/name").is_ok());
    let gone = refused(&hub("http://127.0.0.1:9", &home.path().join("elsewhere")), "owner/name");
    assert!(gone.contains("can't be fetched from http://127.0.0.1:9") && gone.contains("name a folder"), "{gone}");
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
