//! A TCP port that no other test uses, also while nothing listens on it.
//!
//! Binding port 0 is not enough for a process that must find its port again after a restart, or whose
//! port stands in another process's configuration. Ports below the kernel's ephemeral range, each
//! behind a locked file, are safe across the processes that nextest runs.

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};

const FIRST: u16 = 10_500;
/// The ephemeral range begins at 32768 (`net.ipv4.ip_local_port_range`).
const LAST: u16 = 32_000;

/// A port on 127.0.0.1, reserved until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// # Panics
    /// When all are taken, or the temporary directory cannot be written.
    #[must_use]
    pub fn reserve() -> Port {
        let dir = std::env::temp_dir().join("keybrake-test-ports");
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let span = u32::from(LAST - FIRST);
        // Processes start at different places, so that they do not queue for the same few.
        let start = std::process::id().wrapping_mul(7919) % span;
        for step in 0..span {
            let number = FIRST + u16::try_from((start + step) % span).unwrap();
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(dir.join(number.to_string()));
            let Ok(lock) = lock else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("no free port between {FIRST} and {LAST}");
    }

    /// The port with its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}
