//! A vendor that keeps every byte of every connection as it arrived, and answers what the test wrote down.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::vendor::{arrived_bytes, wait_for_connection};
use crate::wait::eventually;

/// What a recorder does with one request.
#[derive(Debug, Clone)]
pub struct Script {
    /// Written one after the other, each by itself.
    pub pieces: Vec<Vec<u8>>,
    /// Whether the connection ends behind them.
    pub closes: bool,
}

/// Answers a request, given with all its bytes.
type Answer = dyn Fn(&[u8]) -> Script + Send + Sync;

/// A vendor; it listens until the test ends.
pub struct Recorder {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    listener: TcpListener,
    conversations: Mutex<Vec<Arc<Conversation>>>,
    answer: Box<Answer>,
}

/// One connection.
struct Conversation {
    socket: TcpStream,
    received: Mutex<Received>,
}

#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// How many of them are requests that were answered.
    answered: usize,
    /// Nothing more is read.
    has_ended: bool,
}

impl Recorder {
    /// Starts to listen.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn start(answer: impl Fn(&[u8]) -> Script + Send + Sync + 'static) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared { listener, conversations: Mutex::default(), answer: Box::new(answer) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            loop {
                wait_for_connection(&accepting.listener);
                accepting.accept_all(&mut accepting.conversations.lock().unwrap());
            }
        });
        Recorder { address, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.conversations.lock().unwrap().len()
    }

    /// Writes on its newest connection without being asked.
    ///
    /// # Panics
    /// When there is none, or it is gone.
    pub fn say(&self, bytes: &[u8]) {
        let newest = self.shared.conversations.lock().unwrap().last().map(Arc::clone);
        (&newest.unwrap().socket).write_all(bytes).unwrap();
    }

    /// All that has arrived so far, by connection: what is in the kernel, accepted or not, is waited for, so that
    /// nothing is missed.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        let conversations = {
            let mut conversations = self.shared.conversations.lock().unwrap();
            self.shared.accept_all(&mut conversations);
            conversations.clone()
        };
        let of = |conversation: &Arc<Conversation>| {
            eventually("bytes to be read", || {
                // First what was read: a byte that comes in between is waited for.
                let received = conversation.received.lock().unwrap();
                // The kernel counts the end of a connection as a byte.
                let is_all =
                    received.has_ended || received.bytes.len() as u64 >= arrived_bytes(&conversation.socket);
                is_all.then(|| received.bytes.clone())
            })
        };
        conversations.iter().map(of).collect()
    }
}

impl Shared {
    /// Accepts every connection that waits, and serves each on a thread.
    fn accept_all(self: &Arc<Shared>, conversations: &mut Vec<Arc<Conversation>>) {
        while let Ok((socket, _)) = self.listener.accept() {
            socket.set_nonblocking(false).unwrap();
            conversations.push(self.begin(socket));
        }
    }

    fn begin(self: &Arc<Shared>, socket: TcpStream) -> Arc<Conversation> {
        socket.set_nodelay(true).unwrap();
        let conversation = Arc::new(Conversation { socket, received: Mutex::default() });
        let (shared, served) = (Arc::clone(self), Arc::clone(&conversation));
        std::thread::spawn(move || {
            drop(shared.talk(&served));
            served.received.lock().unwrap().has_ended = true;
            drop(served.socket.shutdown(Shutdown::Both));
        });
        conversation
    }

    fn talk(&self, conversation: &Conversation) -> std::io::Result<()> {
        let mut socket = &conversation.socket;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = socket.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            conversation.received.lock().unwrap().bytes.extend_from_slice(&buffer[..read]);
            while let Some(request) = conversation.next_request() {
                let script = (self.answer)(&request);
                for piece in &script.pieces {
                    socket.write_all(piece)?;
                }
                if script.closes {
                    socket.shutdown(Shutdown::Both)?;
                }
            }
        }
    }
}

impl Conversation {
    /// The next whole request, as a strict reader cuts it; `None` while there is none.
    fn next_request(&self) -> Option<Vec<u8>> {
        let mut received = self.received.lock().unwrap();
        let rest = &received.bytes[received.answered..];
        let length = length_of(rest)?;
        let request = rest[..length].to_vec();
        received.answered += length;
        Some(request)
    }
}

/// How long the request is that `bytes` begins with; `None` if it is not all there.
#[must_use]
pub fn length_of(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let lines = bytes[..head].split(|byte| *byte == b'\n');
    let length = lines.filter_map(|line| line.strip_prefix(b"Content-Length: ")?.strip_suffix(b"\r")).next();
    let length = length.map_or(0, |digits| std::str::from_utf8(digits).unwrap().parse::<usize>().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}
