//! Lists of globs, as tokens have them.

use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// The most globs of one list: what a token of 8 KiB has room for.
pub(super) const GLOBS_MAX: usize = 64;
/// The longest glob in bytes: a room's name may have as many.
const GLOB_BYTES_MAX: usize = 256;

/// Globs of which one has to match: `*` is any text, also with dots, colons and
/// slashes in it. Cheap to clone, and small: every client has some.
#[derive(Clone, Debug)]
pub struct Globs {
    list: Arc<[Pattern]>,
    /// Those that are more than a text, or the beginning of one.
    set: Option<Arc<GlobSet>>,
}

#[derive(Debug)]
struct Pattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Nothing but itself.
    Literal,
    /// A text and `*` at its end.
    Prefix,
    /// Anything else.
    Glob,
}

impl Globs {
    /// The globs of these texts.
    ///
    /// # Errors
    ///
    /// One of them is none, or there are too many: what is wrong.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Result<Self, String> {
        if texts.len() > GLOBS_MAX {
            return Err(format!("{} globs, and {GLOBS_MAX} is the limit", texts.len()));
        }
        let mut set = GlobSetBuilder::new();
        let mut has_globs = false;
        let mut list = Vec::with_capacity(texts.len());
        for text in texts {
            let text = text.as_ref();
            if text.len() > GLOB_BYTES_MAX {
                let limit = format!("a glob of {} bytes, and {GLOB_BYTES_MAX}", text.len());
                return Err(format!("{limit} is the limit"));
            }
            let kind = kind_of(text);
            if matches!(kind, Kind::Glob) {
                let glob = GlobBuilder::new(text).literal_separator(false).build();
                set.add(glob.map_err(|error| error.to_string())?);
                has_globs = true;
            }
            list.push(Pattern { text: text.into(), kind });
        }
        let set = has_globs.then(|| set.build()).transpose().map_err(|error| error.to_string())?;
        Ok(Self { list: list.into(), set: set.map(Arc::new) })
    }

    /// What matches everything.
    #[must_use]
    pub fn all() -> Self {
        let all = Pattern { text: "*".into(), kind: Kind::Prefix };
        Self { list: Arc::new([all]), set: None }
    }

    /// What matches nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { list: Arc::default(), set: None }
    }

    /// Whether one of them matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let plain = self.list.iter().any(|pattern| match pattern.kind {
            Kind::Literal => *pattern.text == *text,
            Kind::Prefix => text.starts_with(&pattern.text[..pattern.text.len() - 1]),
            Kind::Glob => false,
        });
        plain || self.set.as_ref().is_some_and(|set| set.is_match(text))
    }

    /// The same for the same globs, in whichever order, and for no others.
    #[must_use]
    pub fn key(&self) -> String {
        let mut texts: Vec<&str> = self.texts().collect();
        texts.sort_unstable();
        texts.dedup();
        serde_json::json!(texts).to_string()
    }

    /// As they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|pattern| &*pattern.text)
    }
}

/// Most globs end with their only `*`, and need no automaton.
fn kind_of(text: &str) -> Kind {
    let is_plain = |text: &str| !text.contains(['*', '?', '[', ']', '{', '}', '\\']);
    match text.strip_suffix('*') {
        _ if is_plain(text) => Kind::Literal,
        Some(beginning) if is_plain(beginning) => Kind::Prefix,
        _ => Kind::Glob,
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Globs {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_the_rest_means_what_globs_mean() {
        for (glob, matching, other) in [
            ("project:42", "project:42", "project:421"),
            ("project:*", "project:a/b.c", "projects:1"),
            ("*", "", ""),
            ("*.created", "pr.created", "pr.created.twice"),
            ("pr.{created,closed}", "pr.closed", "pr.updated"),
            ("team-[ab]:?", "team-b:7", "team-c:7"),
            ("a\\*", "a*", "ab"),
        ] {
            let globs = Globs::new(&["nothing", glob]).unwrap();
            assert!(globs.matches(matching), "{glob} {matching}");
            assert!(glob == "*" || !globs.matches(other), "{glob} {other}");
        }
        assert!(Globs::all().matches("anything at all") && Globs::all().matches(""));
        assert!(!Globs::none().matches("") && !Globs::none().matches("a"));
    }

    #[test]
    fn a_list_has_bounds() {
        assert!(Globs::new(&["a*"; GLOBS_MAX]).is_ok());
        assert!(Globs::new(&["a*"; GLOBS_MAX + 1]).unwrap_err().contains("65 globs"));
        let longest = "x".repeat(GLOB_BYTES_MAX);
        assert!(Globs::new(&[&longest]).is_ok());
        assert!(Globs::new(&[format!("{longest}x")]).unwrap_err().contains("257 bytes"));
        assert!(Globs::new(&["a["]).is_err());
    }
}
