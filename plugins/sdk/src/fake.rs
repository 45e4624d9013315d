//! What the hub would answer, as a test wants it.
//!
//! Each test thread has a hub of its own. What it was not told answers that it
//! is not available; the cache works without being told, and events are taken
//! and kept for the test to look at.
//!
//! ```
//! use telltale_plugin::{fake, http};
//!
//! fake::http(|request| Ok(http::Response::new(200, request.url.as_str())));
//! assert_eq!(http::get("http://x/").unwrap().text(), "http://x/");
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::{cache, disk, events, http, sql};

type Sql = dyn FnMut(&str, &str, &[sql::Value]) -> Result<sql::Rows, sql::Error>;
type Cache = dyn FnMut(&str) -> Result<(), cache::Error>;
type Http = dyn FnMut(&http::Request) -> Result<http::Response, http::Error>;
type Events = dyn FnMut(&events::Event) -> Result<(), events::Error>;
type Disk = dyn FnMut(&str) -> Result<disk::FileSystem, disk::Error>;

#[derive(Default)]
struct Hub {
    sql: Option<Box<Sql>>,
    http: Option<Box<Http>>,
    disk: Option<Box<Disk>>,
    events: Option<Box<Events>>,
    published: Vec<events::Event>,
    cached: BTreeMap<String, Vec<u8>>,
    cache: Option<Box<Cache>>,
}

thread_local! {
    static HUB: RefCell<Hub> = RefCell::default();
}

/// Answers queries: database, statement and parameters.
pub fn sql(
    answer: impl FnMut(&str, &str, &[sql::Value]) -> Result<sql::Rows, sql::Error> + 'static,
) {
    HUB.with_borrow_mut(|hub| hub.sql = Some(Box::new(answer)));
}

/// Answers requests.
pub fn http(answer: impl FnMut(&http::Request) -> Result<http::Response, http::Error> + 'static) {
    HUB.with_borrow_mut(|hub| hub.http = Some(Box::new(answer)));
}

/// Answers how full the file system is that a path lies on.
pub fn disk(answer: impl FnMut(&str) -> Result<disk::FileSystem, disk::Error> + 'static) {
    HUB.with_borrow_mut(|hub| hub.disk = Some(Box::new(answer)));
}

/// Says which keys the cache answers for, whether they are read or written.
pub fn cache(answer: impl FnMut(&str) -> Result<(), cache::Error> + 'static) {
    HUB.with_borrow_mut(|hub| hub.cache = Some(Box::new(answer)));
}

/// Says which events are taken.
pub fn events(answer: impl FnMut(&events::Event) -> Result<(), events::Error> + 'static) {
    HUB.with_borrow_mut(|hub| hub.events = Some(Box::new(answer)));
}

/// The events that were taken since this was last asked.
#[must_use]
pub fn published() -> Vec<events::Event> {
    HUB.with_borrow_mut(|hub| std::mem::take(&mut hub.published))
}

fn untold(what: &str) -> String {
    format!("there is no hub here: tell `telltale_plugin::fake::{what}` what it is to answer")
}

pub(crate) fn answer_sql(
    database: &str,
    statement: &str,
    parameters: &[sql::Value],
) -> Result<sql::Rows, sql::Error> {
    HUB.with_borrow_mut(|hub| match &mut hub.sql {
        Some(answer) => answer(database, statement, parameters),
        None => Err(sql::Error::Unavailable(untold("sql"))),
    })
}

pub(crate) fn answer_http(request: &http::Request) -> Result<http::Response, http::Error> {
    HUB.with_borrow_mut(|hub| match &mut hub.http {
        Some(answer) => answer(request),
        None => Err(http::Error::Unavailable(untold("http"))),
    })
}

pub(crate) fn answer_disk(path: &str) -> Result<disk::FileSystem, disk::Error> {
    HUB.with_borrow_mut(|hub| match &mut hub.disk {
        Some(answer) => answer(path),
        None => Err(disk::Error::Unavailable(untold("disk"))),
    })
}

pub(crate) fn publish(event: &events::Event) -> Result<(), events::Error> {
    HUB.with_borrow_mut(|hub| {
        if let Some(answer) = &mut hub.events {
            answer(event)?;
        }
        hub.published.push(event.clone());
        Ok(())
    })
}

pub(crate) fn cache_get(key: &str) -> Result<Option<Vec<u8>>, cache::Error> {
    HUB.with_borrow_mut(|hub| {
        if let Some(answer) = &mut hub.cache {
            answer(key)?;
        }
        Ok(hub.cached.get(key).cloned())
    })
}

/// Nothing runs out here: a test is over before.
pub(crate) fn cache_set(key: &str, value: &[u8], ttl_ms: u64) -> Result<(), cache::Error> {
    HUB.with_borrow_mut(|hub| {
        if let Some(answer) = &mut hub.cache {
            answer(key)?;
        }
        match ttl_ms {
            0 => drop(hub.cached.remove(key)),
            _ => drop(hub.cached.insert(key.to_owned(), value.to_vec())),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, cache};

    #[test]
    fn what_was_not_told_says_so_and_the_cache_works() {
        let fault = Fault::from(http::get("http://x/").unwrap_err());
        assert!(matches!(fault, Fault::Retry(words) if words.contains("fake::http")));
        cache::set("k", b"v", 1000).unwrap();
        assert_eq!(cache::get("k").unwrap().as_deref(), Some(&b"v"[..]));
        cache::set("k", b"", 0).unwrap();
        assert_eq!(cache::get("k"), Ok(None));
        super::cache(|_| Err(cache::Error::Unavailable("away".to_owned())));
        assert!(cache::get("k").is_err() && cache::set("k", b"v", 1000).is_err());
    }

    #[test]
    fn events_are_kept_unless_they_are_refused() {
        let event = events::Event::new("build.done", "{}").source("ci");
        events::publish(&event).unwrap();
        super::events(|event| match &*event.type_ {
            "build.done" => Ok(()),
            _ => Err(events::Error::Denied("the line to add".to_owned())),
        });
        let fault =
            Fault::from(events::publish(&events::Event::new("pr.created", "{}")).unwrap_err());
        assert_eq!(fault, Fault::config("the line to add"));
        assert_eq!((published(), published()), (vec![event], vec![]));
    }
}
