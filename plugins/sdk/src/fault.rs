//! Faults, and which of the hub's refusals becomes which.

use crate::{Fault, cache, disk, events, http, sql};

impl Fault {
    /// What is needed isn't there just now: the hub asks again.
    pub fn retry(words: impl Into<String>) -> Self {
        Self::Retry(words.into())
    }

    /// The settings can't work: the hub waits until they have changed.
    pub fn config(words: impl Into<String>) -> Self {
        Self::Config(words.into())
    }

    /// This instance can't go on: the hub starts another.
    pub fn fatal(words: impl Into<String>) -> Self {
        Self::Fatal(words.into())
    }
}

/// What isn't granted takes other settings; all else may work the next time,
/// since a table may be made that isn't there yet.
impl From<sql::Error> for Fault {
    fn from(error: sql::Error) -> Self {
        match error {
            sql::Error::Denied(words) => Self::Config(words),
            sql::Error::Unavailable(words) | sql::Error::Statement(words) => Self::Retry(words),
            sql::Error::Timeout => Self::retry("the query took too long"),
        }
    }
}

/// A host that isn't granted, or an address that is none, takes other settings.
impl From<http::Error> for Fault {
    fn from(error: http::Error) -> Self {
        match error {
            http::Error::Denied(words) | http::Error::Invalid(words) => Self::Config(words),
            http::Error::Unavailable(words) => Self::Retry(words),
            http::Error::Timeout => Self::retry("the request took too long"),
        }
    }
}

/// What isn't granted takes other settings.
impl From<disk::Error> for Fault {
    fn from(error: disk::Error) -> Self {
        match error {
            disk::Error::Denied(words) => Self::Config(words),
            disk::Error::Unavailable(words) => Self::Retry(words),
        }
    }
}

/// What isn't granted takes other settings.
impl From<cache::Error> for Fault {
    fn from(error: cache::Error) -> Self {
        match error {
            cache::Error::Denied(words) => Self::Config(words),
            cache::Error::Unavailable(words) | cache::Error::TooLarge(words) => Self::Retry(words),
        }
    }
}

/// What isn't granted takes other settings; another event may be taken.
impl From<events::Error> for Fault {
    fn from(error: events::Error) -> Self {
        match error {
            events::Error::Denied(words) => Self::Config(words),
            events::Error::Invalid(words)
            | events::Error::TooLarge(words)
            | events::Error::Busy(words) => Self::Retry(words),
        }
    }
}
