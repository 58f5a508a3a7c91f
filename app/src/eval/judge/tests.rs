use super::*;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A server on a port of its own that answers its n-th request with `answer(n, body)`: status, body, seconds to wait.
/// Status 0 closes the connection without a word.
fn server(answer: impl Fn(usize, &str) -> (u16, String, f64) + Send + Sync + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (asked.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (count, answer) = (count.clone(), answer.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let n = count.fetch_add(1, Ordering::SeqCst);
                let (status, text, wait) = answer(n, &String::from_utf8(body).unwrap());
                std::thread::sleep(Duration::from_secs_f64(wait));
                if status > 0 {
                    let head =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
                    let mut stream = stream;
                    let _ = stream.write_all((head + &text).as_bytes());
                }
            });
        }
    });
    (url, asked)
}

fn said(content: &str) -> String {
    json!({"choices": [{"message": {"content": content}}]}).to_string()
}

fn judge(url: &str) -> Judge {
    Judge::new(JudgeOptions {
        url: url.to_owned(),
        model: "test".into(),
        prompt: Prompt::own(),
        seeds: 2,
        jobs: 4,
        timeout: Duration::from_millis(400),
        key: Some("secret".into()),
        pause: Duration::from_millis(1),
    })
    .unwrap()
}

fn pairs(n: usize) -> Vec<(String, String)> {
    (0..n).map(|i| (format!("truth {i}"), format!("said {i}"))).collect()
}

#[test]
fn a_good_judge_scores_every_pair_under_every_seed() {
    let (url, asked) = server(|_, body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let user = body.pointer("/messages/1/content").unwrap().as_str().unwrap();
        let i: f64 = user.lines().next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        (200, said(&format!("{{'score': {}}}", i + body["seed"].as_f64().unwrap())), 0.0)
    });
    let scores = judge(&url).ask(&pairs(9)).unwrap();
    let expected: Vec<Vec<Option<f64>>> = (0..9).map(|i| vec![Some(f64::from(i)), Some(f64::from(i) + 1.0)]).collect();
    assert_eq!(scores, expected);
    assert_eq!(asked.load(Ordering::SeqCst), 18);
}

#[test]
fn passing_troubles_are_tried_again_and_bad_answers_dropped() {
    // One after the other: overloaded, gone, no JSON, too slow, then an answer that can't be read.
    let (url, asked) = server(|n, _| match n % 5 {
        0 => (503, "busy".into(), 0.0),
        1 => (0, String::new(), 0.0),
        2 => (200, "<html>".into(), 0.0),
        3 => (200, said("{'score': 1}"), 1.0),
        _ => (200, said("I'd say four."), 0.0),
    });
    let mut patient = judge(&url);
    (patient.options.jobs, patient.options.seeds) = (1, 1);
    assert_eq!(patient.ask(&pairs(2)).unwrap(), [[None], [None]]);
    assert_eq!(asked.load(Ordering::SeqCst), 10);
}

#[test]
fn a_judge_that_refuses_or_is_gone_is_an_error() {
    let (url, asked) = server(|_, _| (401, "no such key".into(), 0.0));
    let mut one = judge(&url);
    one.options.jobs = 1;
    let error = one.ask(&pairs(1)).unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("no such key"), "{error}");
    assert!(asked.load(Ordering::SeqCst) <= 1, "a refusal is final");
    let (url, _) = server(|_, _| (500, "always".into(), 0.0));
    assert!(judge(&url).ask(&pairs(1)).unwrap_err().to_string().contains("5 tries"));
    assert!(judge("http://127.0.0.1:9/v1").ask(&pairs(1)).is_err());
    let mut options = judge(&url).options;
    options.url = "localhost".into();
    assert!(Judge::new(options).is_err());
}

#[test]
fn whoever_asks_the_judge_has_no_more_than_its_questions_at_once() {
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, seen) = (under_way.clone(), most.clone());
    let (url, asked) = server(move |_, _| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(15));
        now.fetch_sub(1, Ordering::SeqCst);
        (200, said("{'score': 2}"), 0.0)
    });
    let mut shared = judge(&url);
    (shared.options.jobs, shared.door) = (3, Door { free: Mutex::new(3), opened: Condvar::new() });
    // Four sessions are scored at once, each with threads of its own.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(shared.ask(&pairs(5)).unwrap().len(), 5));
        }
    });
    assert_eq!(asked.load(Ordering::SeqCst), 40);
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}
