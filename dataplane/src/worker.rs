//! A worker: one pinned thread, one runtime, one shard.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::Sender;

use crate::deadline::TICK;
use crate::heir::Inherited;
use crate::journal::Journal;
use crate::listener;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::registry::KeyEntry;
use crate::rt::{self, Kernel, Listener, WakeLine};
use crate::shard::{Common, Message, Shard};

/// What a worker is started with.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) kernel: Kernel,
    pub(crate) common: Arc<Common>,
    pub(crate) keys: Arc<[Arc<KeyEntry>]>,
    /// One, unless another process had more workers.
    pub(crate) listeners: Vec<TcpListener>,
    /// Exchanges that the process before still runs.
    pub(crate) inherited: Vec<Inherited>,
    pub(crate) journal: Journal,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) mailbox: Mailbox<Message>,
    pub(crate) wake: UnixStream,
    /// Random: makes request ids of this worker unlike all others.
    pub(crate) run: u64,
    /// Told when the worker has ended.
    pub(crate) ended: Sender<io::Result<()>>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(self) -> io::Result<()> {
        let name = format!("worker-{}", self.index);
        thread::Builder::new().name(name).spawn(move || {
            let ended = self.ended.clone();
            rt::pin_to_core(self.index);
            let run = AssertUnwindSafe(|| self.kernel.block_on(self.run()).flatten());
            let result = catch_unwind(run).unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            // Nobody listens when the process is going down.
            drop(ended.send(result));
        })?;
        Ok(())
    }

    /// Serves until draining is done.
    async fn run(self) -> io::Result<()> {
        let wake = WakeLine::from_std(self.wake, self.kernel)?;
        let known = (&*self.keys, self.inherited.as_slice());
        let shard = Shard::new(&self.common, known, self.metrics, self.mailbox, self.journal, self.run);
        rt::keep_in_memory(&shard.digester);
        drop((self.keys, self.common, self.inherited));
        // A panic in these would leave the shard deaf, so the process ends and is restarted.
        for listener in self.listeners {
            let listener = Rc::new(Listener::from_std(listener, self.kernel)?);
            shard.open_door(&listener);
            let accept = listener::run(Rc::clone(&shard), listener);
            rt::spawn(accept, || std::process::abort());
        }
        rt::spawn(read_mailbox(Rc::clone(&shard), wake), || std::process::abort());
        loop {
            rt::sleep(TICK).await;
            shard.tick();
            if shard.is_done() {
                return Ok(());
            }
        }
    }
}

/// Obeys messages as they come.
async fn read_mailbox(shard: Rc<Shard>, mut wake: WakeLine) {
    let mut buf = vec![0; 64];
    loop {
        shard.obey();
        if shard.may_sleep() {
            let (is_open, used) = wake.wait(buf).await;
            if !is_open {
                // A shard that hears nothing would never acknowledge a revoke.
                std::process::abort();
            }
            buf = used;
        }
    }
}
