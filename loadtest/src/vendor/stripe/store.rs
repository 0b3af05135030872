//! Keeps the newest objects of one kind; ids carry their sequence number, so that finding one is an index.

use std::collections::VecDeque;

use serde::Serialize;

use super::form::{Form, Metadata};
use super::refusal::Refusal;

/// What every stored object can say of itself.
pub(crate) trait Object: Serialize + Clone {
    /// Its `object` field.
    const KIND: &'static str;
    /// The letters before `_` in its ids.
    const PREFIX: &'static str;
    /// Its last path segment.
    const SEGMENT: &'static str;

    /// Its id.
    fn id(&self) -> &str;
    /// Its metadata.
    fn metadata(&mut self) -> &mut Metadata;
    /// Its description, where it has one.
    fn description(&mut self) -> Option<&mut Option<String>>;
    /// Whether a list with these parameters shows it.
    fn is_listed(&self, _form: &Form<'_>) -> bool {
        true
    }
}

/// A list as Stripe answers it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    has_more: bool,
    url: String,
}

impl<T> List<T> {
    /// A list that is whole.
    pub(crate) fn whole(data: Vec<T>, url: String) -> List<T> {
        List { object: "list", data, has_more: false, url }
    }
}

/// The newest objects of one kind.
pub(crate) struct Store<T> {
    /// Tells this process's ids from those of an earlier one.
    run: u32,
    /// The sequence number of the oldest object kept.
    first: u64,
    kept: VecDeque<T>,
    kept_max: usize,
}

impl<T: Object> Store<T> {
    /// An empty store that forgets its oldest object once it holds `kept_max`.
    pub(crate) fn new(run: u32, kept_max: usize) -> Store<T> {
        Store { run, first: 1, kept: VecDeque::new(), kept_max }
    }

    /// The id of the next object added.
    pub(crate) fn next_id(&self) -> String {
        let sequence = self.first.saturating_add(self.kept.len() as u64);
        format!("{}_3{:08x}{sequence:012}", T::PREFIX, self.run)
    }

    /// Keeps `object`, whose id came from [`Store::next_id`], and hands it back to be shown.
    pub(crate) fn add(&mut self, object: T) -> &mut T {
        debug_assert_eq!(object.id(), self.next_id(), "ids follow the order of the store");
        if self.kept.len() >= self.kept_max {
            self.kept.pop_front();
            self.first = self.first.saturating_add(1);
        }
        self.kept.push_back_mut(object)
    }

    /// Whether the object is still kept.
    pub(crate) fn find(&self, id: &str) -> Option<&T> {
        self.kept.get(self.index(id)?)
    }

    /// The object under `id`.
    ///
    /// # Errors
    /// Stripe's 404; `param` names where the id stood.
    pub(crate) fn get(&self, id: &str, param: &'static str) -> Result<&T, Refusal> {
        self.find(id).ok_or_else(|| Refusal::no_such(T::KIND, id, param))
    }

    /// As [`Store::get`], to change it.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub(crate) fn get_mut(&mut self, id: &str, param: &'static str) -> Result<&mut T, Refusal> {
        let found = self.index(id).and_then(|index| self.kept.get_mut(index));
        found.ok_or_else(|| Refusal::no_such(T::KIND, id, param))
    }

    /// Every object kept, newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().rev()
    }

    /// The page that `limit`, `starting_after` and `ending_before` ask for.
    pub(crate) fn page(&self, form: &Form<'_>) -> List<T> {
        let limit: usize =
            form.text("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10).clamp(1, 100);
        let cursor = |name| form.text(name).and_then(|id| self.index(id));
        let listed = |object: &&T| object.is_listed(form);
        let wanted = limit.saturating_add(1);
        let (mut page, backwards): (Vec<T>, bool) = if let Some(before) = cursor("ending_before") {
            let newer = self.kept.iter().skip(before.saturating_add(1));
            (newer.filter(listed).take(wanted).cloned().collect(), true)
        } else {
            let older = self.kept.iter().take(cursor("starting_after").unwrap_or(usize::MAX)).rev();
            (older.filter(listed).take(wanted).cloned().collect(), false)
        };
        let has_more = page.len() > limit;
        page.truncate(limit);
        if backwards {
            page.reverse();
        }
        List { object: "list", data: page, has_more, url: format!("/v1/{}", T::SEGMENT) }
    }

    fn index(&self, id: &str) -> Option<usize> {
        let rest = id.strip_prefix(T::PREFIX)?.strip_prefix("_3")?;
        let (run, sequence) = rest.split_at_checked(8)?;
        let sequence: u64 = sequence.parse().ok()?;
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        // The text is compared too: another spelling of the number is another id.
        let is_own = u32::from_str_radix(run, 16).is_ok_and(|run| run == self.run);
        (is_own && self.kept.get(index)?.id() == id).then_some(index)
    }
}
