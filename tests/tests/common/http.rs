//! A small HTTP server on a port of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

/// What was asked.
pub(crate) struct Request {
    pub(crate) path: String,
    /// First and last byte that are wanted, the last where it is given.
    pub(crate) range: Option<(usize, Option<usize>)>,
    pub(crate) body: String,
}

/// Answers each request with status, headers and body; its address.
pub(crate) fn serve(answer: impl Fn(&Request) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut first = String::new();
            let _ = reader.read_line(&mut first);
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let mut request = Request { path, range: None, body: String::new() };
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                let lower = line.to_lowercase();
                if let Some(n) = lower.strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if let Some((from, to)) = lower.strip_prefix("range: bytes=").and_then(|r| r.trim().split_once('-')) {
                    request.range = Some((from.parse().unwrap(), to.parse().ok()));
                }
                line.clear();
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            request.body = String::from_utf8(body).unwrap();
            let (status, headers, body) = answer(&request);
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    url
}
