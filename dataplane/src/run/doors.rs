//! The sockets on which agents connect.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::take_over::Predecessor;

/// Connections the kernel holds for a listener before it is accepted.
const BACKLOG: i32 = 4096;

/// How long an agent may leave sent bytes unread once keybrake has given them to the kernel, also after the connection
/// was closed here: they are memory too (rule G1). Inherited by each connection that is accepted (tcp(7)).
const UNREAD_MAX: Duration = Duration::from_secs(60);

/// What the kernel keeps of a reply that an agent does not read, in bytes; twice that with its own lists (socket(7)).
/// Left to itself it takes megabytes for each, and a few hundred such agents all that the machine has for TCP.
/// Inherited as above.
const UNREAD_BYTES: usize = 128 * 1024;

/// A process that was killed keeps its port until the kernel has taken its io_uring apart: 4 to 12 ms
/// measured. One that restarts at once waits for that.
const PORT_WAIT: Duration = Duration::from_secs(1);

/// Between two tries to bind.
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// The listening sockets of each worker. Those of the process before are kept, all of them: agents wait in them.
pub(super) fn open_doors(
    address: SocketAddr,
    workers: usize,
    predecessor: Option<&mut Predecessor>,
) -> io::Result<Vec<Vec<TcpListener>>> {
    let Some(predecessor) = predecessor else {
        return Ok(bind(address, workers)?.into_iter().map(|listener| vec![listener]).collect());
    };
    let mut doors: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    let mut address = address;
    for (index, listener) in predecessor.listeners.drain(..).enumerate() {
        address = listener.local_addr()?;
        let worker = index.checked_rem(workers).unwrap_or_default();
        if let Some(of_worker) = doors.get_mut(worker) {
            of_worker.push(listener);
        }
    }
    for of_worker in doors.iter_mut().filter(|of_worker| of_worker.is_empty()) {
        of_worker.push(listen(address)?);
    }
    Ok(doors)
}

/// One listening socket a worker, all on one address; the kernel spreads connections over them.
fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // Shared ports hide a second process on the same address, so one that is not shared comes first.
    let started = Instant::now();
    let probe = loop {
        match socket(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PORT_WAIT => {
                crossbeam_channel::after(PORT_PAUSE).recv().map_err(io::Error::other)?;
            }
            done => break done?,
        }
    };
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..workers).map(|_| listen(address)).collect()
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, true)?;
    socket.set_tcp_user_timeout(Some(UNREAD_MAX))?;
    socket.set_send_buffer_size(UNREAD_BYTES)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn g1_g4_what_an_agent_leaves_unread_in_the_kernel_has_a_deadline() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let _agent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNREAD_MAX));
        assert!(socket.send_buffer_size().unwrap() <= 2 * UNREAD_BYTES, "and a length");
    }
}
