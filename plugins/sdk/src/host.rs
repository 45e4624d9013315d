//! What the hub offers: in Wasm the hub itself, elsewhere what a test has told
//! `fake`.

#[cfg(not(target_arch = "wasm32"))]
use crate::fake;

/// Writes to the hub's log, under the plugin's name.
pub mod log {
    pub use crate::bindings::telltale::plugin::log::Level;

    /// For whoever debugs this plugin.
    pub fn debug(message: &str) {
        log(Level::Debug, message);
    }

    /// What happens in the ordinary course of things.
    pub fn info(message: &str) {
        log(Level::Info, message);
    }

    /// Odd, but dealt with.
    pub fn warn(message: &str) {
        log(Level::Warn, message);
    }

    /// Somebody must act.
    pub fn error(message: &str) {
        log(Level::Error, message);
    }

    /// One line, cut at 4 KiB; of more than 20 a second the rest is dropped.
    pub fn log(level: Level, message: &str) {
        #[cfg(target_arch = "wasm32")]
        crate::bindings::telltale::plugin::log::log(level, message);
        #[cfg(not(target_arch = "wasm32"))]
        eprintln!("{level:?}: {message}");
    }
}

/// Reads the databases that `[grant] sql` names, SQLite's and PostgreSQL's.
pub mod sql {
    pub use crate::bindings::telltale::plugin::sql::{Error, Rows, Value};

    /// Runs one SELECT, with `$1`, `$2`, … bound to `parameters`.
    ///
    /// # Errors
    ///
    /// It isn't granted, isn't there, is wrong, or took too long; as a
    /// [`Fault`](crate::Fault) each is what it should be.
    pub fn query(database: &str, statement: &str, parameters: &[Value]) -> Result<Rows, Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::sql::query(database, statement, parameters);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::answer_sql(database, statement, parameters)
    }

    impl Rows {
        /// The values of each row.
        pub fn rows(&self) -> impl Iterator<Item = &[Value]> {
            self.values.chunks_exact(self.columns.len().max(1))
        }
    }
}

/// Keys that outlive the instance, by `[grant] cache`.
pub mod cache {
    pub use crate::bindings::telltale::plugin::cache::Error;

    /// The value under a key, if its time has not run out; of a shared key that
    /// is not there, that of the plugin's own key of this name.
    ///
    /// # Errors
    ///
    /// It isn't granted or is too large, or the store is gone or slow: then go
    /// on as if the key were not there.
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::cache::get(key);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::cache_get(key)
    }

    /// Puts a value under a key for `ttl_ms` milliseconds; 0 removes it. A shared
    /// key is left alone, and the plugin's own of this name is set, unless the
    /// settings say `shared_write = true`.
    ///
    /// # Errors
    ///
    /// It isn't granted or is too large, or the store is gone or slow.
    pub fn set(key: &str, value: &[u8], ttl_ms: u64) -> Result<(), Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::cache::set(key, value, ttl_ms);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::cache_set(key, value, ttl_ms)
    }
}

/// Makes HTTP requests to the hosts that `[grant] http` names.
pub mod http {
    pub use crate::bindings::telltale::plugin::http::{Error, Header, Request, Response};

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// The host isn't granted or can't be reached, or the request is none.
    pub fn fetch(request: &Request) -> Result<Response, Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::http::fetch(request);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::answer_http(request)
    }

    /// Asks for an address.
    ///
    /// # Errors
    ///
    /// The host isn't granted or can't be reached, or the address is none.
    pub fn get(url: &str) -> Result<Response, Error> {
        fetch(&Request::get(url))
    }

    impl Request {
        /// A plain GET, with the hub's limits.
        pub fn get(url: &str) -> Self {
            let (headers, body, timeout_ms, body_limit) = (Vec::new(), None, 0, 0);
            Self {
                method: "GET".to_owned(),
                url: url.to_owned(),
                headers,
                body,
                timeout_ms,
                body_limit,
            }
        }
    }

    impl Response {
        /// A response for a test to give.
        pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
            Self { status, headers: Vec::new(), body: body.into(), truncated: false }
        }

        /// The body as text.
        pub fn text(&self) -> std::borrow::Cow<'_, str> {
            String::from_utf8_lossy(&self.body)
        }
    }
}

/// Publishes events, by `[grant] events`.
///
/// ```
/// use telltale_plugin::events::{self, Event};
/// use telltale_plugin::{Fault, fake};
///
/// /// Told once for each build, however often the hub is started in between.
/// fn tell(build: u64, project: &str) -> Result<(), Fault> {
///     let data = serde_json::json!({ "build": build, "project_id": project });
///     let event = Event::new("build.failed", data)
///         .room(format!("project:{project}"))
///         .key(format!("build-{build}"));
///     Ok(events::publish(&event)?)
/// }
///
/// tell(7, "42").unwrap();
/// let published = fake::published();
/// assert_eq!(published[0].data_json, r#"{"build":7,"project_id":"42"}"#);
/// ```
pub mod events {
    pub use crate::bindings::telltale::plugin::events::{Error, Event};

    /// Publishes an event. Nothing is waited for: the hub has taken it, and
    /// publishes it soon.
    ///
    /// # Errors
    ///
    /// It isn't granted, breaks a rule, or is one too many just now; as a
    /// [`Fault`](crate::Fault) each is what it should be.
    pub fn publish(event: &Event) -> Result<(), Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::events::publish(event);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::publish(event)
    }

    impl Event {
        /// An event of a dotted type, whose data is JSON: a text, or a value of
        /// `serde_json`. It says that it comes from the plugin, and goes where
        /// events of its type go.
        pub fn new(kind: impl Into<String>, data: impl ToString) -> Self {
            let (source, rooms, key) = (None, Vec::new(), None);
            Self { type_: kind.into(), source, data_json: data.to_string(), rooms, key }
        }

        /// Says who says so.
        #[must_use]
        pub fn source(self, source: impl Into<String>) -> Self {
            Self { source: Some(source.into()), ..self }
        }

        /// Adds a room that it goes to, such as `project:42`.
        #[must_use]
        pub fn room(mut self, room: impl Into<String>) -> Self {
            self.rooms.push(room.into());
            self
        }

        /// Makes it one event however often it is published within a day.
        #[must_use]
        pub fn key(self, key: impl Into<String>) -> Self {
            Self { key: Some(key.into()), ..self }
        }
    }
}

/// How full the file systems are that `[grant] disk` names.
pub mod disk {
    pub use crate::bindings::telltale::plugin::disk::{Error, FileSystem};

    /// The file system that an absolute path lies on.
    ///
    /// # Errors
    ///
    /// The path isn't granted, or isn't there.
    pub fn usage(path: &str) -> Result<FileSystem, Error> {
        #[cfg(target_arch = "wasm32")]
        return crate::bindings::telltale::plugin::disk::usage(path);
        #[cfg(not(target_arch = "wasm32"))]
        super::fake::answer_disk(path)
    }
}
