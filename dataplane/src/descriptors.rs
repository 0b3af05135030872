//! Descriptors that travel over a Unix socket beside bytes (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The most at once: the kernel's `SCM_MAX_FD`.
const AT_ONCE_MAX: usize = 253;

/// Writes all of `bytes`; `descriptors` go with the first of them.
pub(crate) fn send(mut peer: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > AT_ONCE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more descriptors than the kernel takes"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no room for the descriptors"));
    }
    let sent = retry_on_intr(|| sendmsg(peer, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
    peer.write_all(bytes.get(sent..).unwrap_or_default())
}

/// Reads once, at most as much as `buffer` holds: how much, and the descriptors that came with it.
pub(crate) fn receive(peer: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // io_uring interrupts too, when it cleans up.
    let received = retry_on_intr(|| {
        recvmsg(peer, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_sent_is_the_same_open_socket_elsewhere() {
        let (here, there) = UnixStream::pair().unwrap();
        let (given, mut other_end) = UnixStream::pair().unwrap();
        send(&here, b"bytes", &[given.as_fd()]).unwrap();
        drop(given);
        let mut buffer = [0; 2];
        let (read, descriptors) = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..read], descriptors.len()), (&b"by"[..], 1));
        let (read, none) = receive(&there, &mut [0; 9]).unwrap();
        assert_eq!((read, none.len()), (3, 0));
        for descriptor in descriptors {
            UnixStream::from(descriptor).write_all(b"hello").unwrap();
        }
        let mut heard = String::new();
        other_end.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "hello");
    }
}
