//! What the configuration says to those who serve requests, as of one reading of it.
//!
//! A reload makes other [`Settings`] and posts them to every shard, whose next request is served by them. A request
//! asks its shard once ([`Shard::current`](crate::shard::Shard::current)) and keeps the answer, which is a count of
//! one thread: nothing on its way is shared with other workers, locked or atomic because of reloads.

use std::rc::Rc;
use std::sync::Arc;

use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::{Config, Proxy};

use crate::pool::{Pool, Vendor};

/// One reading of the configuration; all threads share it.
pub(crate) struct Settings {
    /// What is in force, in which fields that cannot change live are as they were at the start.
    pub(crate) config: Config,
    /// Each vendor at each of its hosts. They keep their places; those that were added come last.
    pub(crate) vendors: Vec<Arc<Vendor>>,
    /// What currencies and units are worth.
    pub(crate) book: Arc<PriceBook>,
}

impl Settings {
    /// Made from `config`.
    pub(crate) fn new(config: Config, vendors: Vec<Arc<Vendor>>, book: Arc<PriceBook>) -> Arc<Settings> {
        Arc::new(Settings { config, vendors, book })
    }
}

/// One shard's settings, with its connections to the vendors.
pub(crate) struct Current {
    pub(crate) settings: Arc<Settings>,
    /// Of [`Settings::vendors`], in the same places.
    pub(crate) pools: Vec<Rc<Pool>>,
}

impl Current {
    /// With no connection yet.
    pub(crate) fn new(settings: Arc<Settings>) -> Current {
        let pools = settings.vendors.iter().map(|vendor| Rc::new(Pool::new(Arc::clone(vendor)))).collect();
        Current { settings, pools }
    }

    /// By other settings, with the connections that are kept.
    pub(crate) fn renewed(&self, settings: Arc<Settings>) -> Current {
        let renewed = |(at, vendor): (usize, &Arc<Vendor>)| {
            let vendor = Arc::clone(vendor);
            Rc::new(
                self.pools
                    .get(at)
                    .map_or_else(|| Pool::new(Arc::clone(&vendor)), |pool| pool.renewed(Arc::clone(&vendor))),
            )
        };
        let pools = settings.vendors.iter().enumerate().map(renewed).collect();
        Current { settings, pools }
    }

    /// The limits towards agents.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.settings.config.proxy
    }
}
