//! A TCP relay that keeps every byte that passes, in both directions.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The relay: it listens until the test ends.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
}

#[derive(Debug, Default)]
struct Connection {
    up: Mutex<Vec<u8>>,
    down: Mutex<Vec<u8>>,
}

impl Relay {
    /// Listens and passes everything on to `target`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<Arc<Connection>>>>::default();
        let kept = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let connection = Arc::new(Connection::default());
                kept.lock().unwrap().push(Arc::clone(&connection));
                let (client_reads, server_writes) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let up = Arc::clone(&connection);
                std::thread::spawn(move || pass(client_reads, server_writes, &up.up));
                std::thread::spawn(move || pass(server, client, &connection.down));
            }
        });
        Relay { address, connections }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that clients sent, one text a connection.
    ///
    /// # Panics
    /// When a thread of the relay panicked.
    #[must_use]
    pub fn sent_up(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().iter().map(|one| one.up.lock().unwrap().clone()).collect()
    }

    /// Everything that came back.
    ///
    /// # Panics
    /// When a thread of the relay panicked.
    #[must_use]
    pub fn sent_down(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().iter().map(|one| one.down.lock().unwrap().clone()).collect()
    }

    /// The request lines that passed, such as `POST /v1/charges`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.sent_up().iter().flat_map(|bytes| request_lines(bytes)).collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        // Kept before it is passed on: who sees a reply also sees what was kept of it.
        kept.lock().unwrap().extend_from_slice(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// Takes a stream of requests with Content-Length apart.
fn request_lines(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let line = head.lines().next().unwrap_or_default();
        lines
            .push(line.rsplit_once(" HTTP/1.1").unwrap_or_else(|| panic!("no request: {line}")).0.to_owned());
        bytes = &bytes[(end + 4 + length.unwrap_or(0)).min(bytes.len())..];
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_lengths() {
        let bytes =
            b"POST /v1/charges HTTP/1.1\r\nContent-Length: 3\r\n\r\na=1GET /v1/balance HTTP/1.1\r\n\r\n";
        assert_eq!(request_lines(bytes), ["POST /v1/charges", "GET /v1/balance"]);
    }
}
