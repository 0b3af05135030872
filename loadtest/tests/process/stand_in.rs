//! A stand-in as a process, and the bytes that a caller exchanges with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_keybrake-loadtest");
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A running stand-in; killed with the test.
pub(crate) struct StandIn {
    process: Child,
    pub(crate) address: String,
    /// The second line it printed, if there is one.
    pub(crate) said: String,
}

impl StandIn {
    pub(crate) fn start(args: &[&str]) -> StandIn {
        let mut process = Command::new(BINARY)
            .args(["vendor", "stripe", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let (mut line, mut said) = (String::new(), String::new());
        stdout.read_line(&mut line).unwrap();
        // Both lines are one write: what is there with the first is all there is.
        if !stdout.buffer().is_empty() {
            stdout.read_line(&mut said).unwrap();
        }
        let address = line.trim_end().strip_prefix("stand-in stripe on http://").unwrap().to_owned();
        StandIn { process, address, said }
    }

    pub(crate) fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream)
    }

    pub(crate) fn ledger(&self) -> Value {
        self.page("/__ledger")
    }

    pub(crate) fn page(&self, path: &str) -> Value {
        let mut stream = self.connect();
        send(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        reply(&mut stream).unwrap().json()
    }

    /// Sends a signal and waits for the exit code.
    pub(crate) fn stop(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) fn send(stream: &mut BufReader<TcpStream>, bytes: &str) {
    stream.get_mut().write_all(bytes.as_bytes()).unwrap();
}

pub(crate) fn post(path: &str, body: &str, fields: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk_test_secret\r\n{fields}Content-Length: \
         {length}\r\n\r\n{body}"
    )
}

/// Reads one reply; `None` if the connection ended inside it.
pub(crate) fn reply(stream: &mut BufReader<TcpStream>) -> Option<Reply> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap() == 0 {
            return None;
        }
    }
    let status = head.get(9..12).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok().map(|()| Reply { status, head, body })
}

pub(crate) fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}
