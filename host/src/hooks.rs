//! Webhooks: what other systems tell the hub, as events. No I/O but for the file
//! of the secret.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::hmac;
use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::access::{Globs, Identity, Layouts, Publish};
use crate::config::GithubConfig;
use crate::events::types;
use crate::model::{Draft, Room};

/// Commits of a push that are told; the newest are.
const COMMITS_MAX: usize = 20;
/// The longest text of a commit's first line, in characters.
const TITLE_CHARS_MAX: usize = 200;
/// What the events' source is, and who publishes them.
const GITHUB: &str = "github";

/// What a secret can't be used for.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Its file can't be read.
    #[error("hooks.github.secret_file = {path:?}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the file holds is none.
    #[error("hooks.github.secret_file = {path:?}: {words}")]
    Secret {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        words: String,
    },
}

/// What is believed of GitHub's deliveries.
#[derive(Debug)]
pub struct Github {
    keys: Vec<hmac::Key>,
    /// Project ids by repository, in small letters as GitHub takes them to be.
    projects: HashMap<String, String>,
    /// User ids by login, likewise.
    users: HashMap<String, String>,
    identity: Arc<Identity>,
}

/// A delivery whose signature is good.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The event's name, of `X-GitHub-Event`.
    pub event: &'a str,
    /// The body is a form with a field `payload`, not JSON.
    pub is_form: bool,
    /// What was signed.
    pub body: &'a [u8],
}

/// What a delivery means.
#[derive(Debug)]
pub enum Delivery {
    /// It asks whether somebody is there.
    Ping,
    /// Nothing here: its event.
    Ignored(String),
    /// An event. The delivery's id is its idempotency key.
    Event(Box<Draft>),
}

impl Github {
    /// What a configuration believes; `None` where it has no secret.
    ///
    /// # Errors
    ///
    /// The file of the secret can't be used.
    pub fn new(config: &GithubConfig) -> Result<Option<Arc<Self>>, HookError> {
        let mut secrets: Vec<String> =
            config.secret.iter().map(|secret| secret.expose().to_owned()).collect();
        if let Some(path) = &config.secret_file {
            secrets.extend(read_secrets(path)?);
        }
        if secrets.is_empty() {
            return Ok(None);
        }
        let key = |secret: &String| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let small = |(name, id): (&String, &String)| (name.to_ascii_lowercase(), id.clone());
        Ok(Some(Arc::new(Self {
            keys: secrets.iter().map(key).collect(),
            projects: config.projects.iter().map(small).collect(),
            users: config.users.iter().map(small).collect(),
            identity: identity(),
        })))
    }

    /// Who publishes the events.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Whether a body was signed with one of the secrets; `signature` is
    /// `sha256=` and the HMAC in hexadecimal. The comparison takes the same time
    /// whatever is wrong.
    #[must_use]
    pub fn is_genuine(&self, signature: &str, body: &[u8]) -> bool {
        let tag = signature.strip_prefix("sha256=").and_then(unhex);
        tag.is_some_and(|tag| self.keys.iter().any(|key| hmac::verify(key, body, &tag).is_ok()))
    }

    /// What a delivery means.
    ///
    /// # Errors
    ///
    /// It is not what GitHub sends: what is missing.
    pub fn read(&self, sent: Sent<'_>) -> Result<Delivery, String> {
        let of_form;
        let payload = match sent.is_form {
            false => sent.body,
            true => {
                let mut fields = form_urlencoded::parse(sent.body);
                let payload = fields.find(|(name, _)| name == "payload");
                of_form = payload.ok_or("the form has no field `payload`")?.1;
                of_form.as_bytes()
            }
        };
        let (kind, data, also) = match sent.event {
            "ping" => return Ok(Delivery::Ping),
            "push" => self.push(&parse(payload)?),
            "pull_request" => self.pull_request(&parse(payload)?),
            "issues" => self.issue(&parse(payload)?),
            other => return Ok(Delivery::Ignored(other.chars().take(64).collect())),
        };
        let data = to_raw_value(&data).map_err(|error| error.to_string())?;
        let mut rooms = types::rooms_of(kind, &data);
        rooms.extend(also.and_then(|user| Room::of_user(&user).ok()));
        Ok(Delivery::Event(Box::new(Draft {
            kind: kind.to_owned(),
            source: GITHUB.to_owned(),
            data,
            rooms: Some(rooms),
            user: None,
            exclude: None,
        })))
    }

    fn push(&self, push: &Push) -> Event {
        let branch = push.reference.strip_prefix("refs/heads/");
        let commits = push.commits.iter().rev().take(COMMITS_MAX).rev().map(Commit::told);
        let Repository { name, html_url, archived, .. } = &push.repository;
        let data = json!({
            "project_id": self.project(&push.repository),
            "project_name": name,
            "repository_url": html_url,
            "status": if *archived { "archived" } else { "active" },
            "updated_by": self.user(push.sender.as_ref()),
            "changes": {
                "ref": push.reference,
                "branch": branch,
                "before": push.before,
                "after": push.after,
                "created": push.created,
                "deleted": push.deleted,
                "forced": push.forced,
                "compare_url": push.compare,
                "pushed_by": push.sender.as_ref().map(|sender| &sender.login),
                "commit_count": push.commits.len(),
                "commits": commits.collect::<Vec<_>>(),
            },
        });
        ("project.updated", data, None)
    }

    fn pull_request(&self, sent: &PullRequestSent) -> Event {
        let (pr, repository) = (&sent.pull_request, &sent.repository);
        let kind = match &*sent.action {
            "opened" => "pr.created",
            "closed" => "pr.closed",
            _ => "pr.updated",
        };
        let status = match (&*pr.state, pr.merged, pr.draft) {
            (_, true, _) => "merged",
            ("open", _, true) => "draft",
            (state, ..) => state,
        };
        let data = json!({
            "pr_id": pr.id,
            "pr_number": pr.number,
            "project_id": self.project(repository),
            "title": pr.title,
            "description": pr.body,
            "author": pr.user.as_ref().map(|user| &user.login),
            "branch": pr.head.name,
            "base_branch": pr.base.name,
            "github_url": pr.html_url,
            "repository": repository.full_name,
            "status": status,
            "action": sent.action,
            "draft": pr.draft,
            "merged": pr.merged,
            "labels": names(&pr.labels),
            "user_id": self.user(sent.sender.as_ref()),
            "created_at": pr.created_at,
            "updated_at": pr.updated_at,
            "closed_at": pr.closed_at,
        });
        (kind, data, None)
    }

    fn issue(&self, sent: &IssueSent) -> Event {
        let (issue, repository) = (&sent.issue, &sent.repository);
        let kind = match &*sent.action {
            "opened" => "issue.created",
            "closed" | "deleted" | "transferred" => "issue.closed",
            _ => "issue.updated",
        };
        let status = match &*sent.action {
            gone @ ("deleted" | "transferred") => gone,
            _ => &*issue.state,
        };
        let assigned_to = self.user(issue.assignee.as_ref());
        let data = json!({
            "issue_id": issue.id,
            "issue_number": issue.number,
            "project_id": self.project(repository),
            "title": issue.title,
            "description": issue.body,
            "author": issue.user.as_ref().map(|user| &user.login),
            "github_url": issue.html_url,
            "repository": repository.full_name,
            "status": status,
            "action": sent.action,
            "assigned_to": assigned_to,
            "labels": names(&issue.labels),
            "user_id": self.user(sent.sender.as_ref()),
            "created_at": issue.created_at,
            "updated_at": issue.updated_at,
            "closed_at": issue.closed_at,
        });
        (kind, data, assigned_to.map(str::to_owned))
    }

    fn project<'a>(&'a self, repository: &'a Repository) -> &'a str {
        let name = &repository.full_name;
        self.projects.get(&name.to_ascii_lowercase()).unwrap_or(name)
    }

    fn user(&self, user: Option<&User>) -> Option<&str> {
        self.users.get(&user?.login.to_ascii_lowercase()).map(String::as_str)
    }
}

/// A type, its data, and a user whose room it goes to beside those of its type.
type Event = (&'static str, Value, Option<String>);

/// GitHub may publish what it can tell of, wherever the mappings say.
fn identity() -> Arc<Identity> {
    let globs = |texts: &[&str]| Globs::new(texts).unwrap_or_else(|_| Globs::none());
    let types = globs(&["project.*", "pr.*", "issue.*"]);
    let rooms = Some(globs(&["project:*", "user:*", "global"]));
    Arc::new(Identity {
        user: GITHUB.into(),
        is_authenticated: true,
        rooms: Globs::none(),
        publish: Arc::new([Publish { types, rooms }]),
        read: Some(Globs::none()),
        layouts: Some(Layouts { read: Globs::none(), write: Globs::none() }),
        admin: false,
        expires_ms: None,
    })
}

/// The secrets in a file, one in each line.
fn read_secrets(path: &Path) -> Result<Vec<String>, HookError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| HookError::Unreadable { path: path.to_owned(), source })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<String> = lines.map(str::to_owned).collect();
    let refuse = |words| Err(HookError::Secret { path: path.to_owned(), words });
    if !(1..=GithubConfig::SECRETS_MAX).contains(&secrets.len()) {
        return refuse(format!(
            "it has {} lines with a secret: one is enough, and while it is replaced there may be {}",
            secrets.len(),
            GithubConfig::SECRETS_MAX
        ));
    }
    if secrets.iter().any(|secret| secret.len() < GithubConfig::SECRET_BYTES_MIN) {
        return refuse(format!(
            "a secret has at least {} bytes: make one with `openssl rand -hex 32`",
            GithubConfig::SECRET_BYTES_MIN
        ));
    }
    Ok(secrets)
}

fn parse<'de, T: Deserialize<'de>>(payload: &'de [u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| format!("the payload: {error}"))
}

/// The 32 bytes of an HMAC.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

fn names(labels: &[Label]) -> Vec<&str> {
    labels.iter().map(|label| &*label.name).collect()
}

#[derive(Deserialize)]
struct User {
    login: String,
}

#[derive(Deserialize)]
struct Label {
    name: String,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
    full_name: String,
    html_url: String,
    #[serde(default)]
    archived: bool,
}

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: String,
    before: String,
    after: String,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    forced: bool,
    compare: Option<String>,
    #[serde(default)]
    commits: Vec<Commit>,
    repository: Repository,
    sender: Option<User>,
}

#[derive(Deserialize)]
struct Commit {
    id: String,
    message: String,
    timestamp: Option<String>,
    url: Option<String>,
    author: Option<Author>,
}

#[derive(Deserialize)]
struct Author {
    name: Option<String>,
    username: Option<String>,
}

impl Commit {
    fn told(&self) -> Value {
        let first = self.message.lines().next().unwrap_or_default();
        let title: String = first.chars().take(TITLE_CHARS_MAX).collect();
        let author = self.author.as_ref();
        let author = author.and_then(|author| author.username.as_ref().or(author.name.as_ref()));
        let (id, timestamp, url) = (&self.id, &self.timestamp, &self.url);
        json!({"id": id, "title": title, "author": author, "timestamp": timestamp, "url": url})
    }
}

#[derive(Deserialize)]
struct PullRequestSent {
    action: String,
    pull_request: PullRequest,
    repository: Repository,
    sender: Option<User>,
}

#[derive(Deserialize)]
struct PullRequest {
    id: u64,
    number: u64,
    title: String,
    body: Option<String>,
    state: String,
    #[serde(default)]
    draft: bool,
    #[serde(default)]
    merged: bool,
    html_url: String,
    user: Option<User>,
    head: Branch,
    base: Branch,
    #[serde(default)]
    labels: Vec<Label>,
    created_at: Option<String>,
    updated_at: Option<String>,
    closed_at: Option<String>,
}

#[derive(Deserialize)]
struct Branch {
    #[serde(rename = "ref")]
    name: String,
}

#[derive(Deserialize)]
struct IssueSent {
    action: String,
    issue: Issue,
    repository: Repository,
    sender: Option<User>,
}

#[derive(Deserialize)]
struct Issue {
    id: u64,
    number: u64,
    title: String,
    body: Option<String>,
    state: String,
    html_url: String,
    user: Option<User>,
    assignee: Option<User>,
    #[serde(default)]
    labels: Vec<Label>,
    created_at: Option<String>,
    updated_at: Option<String>,
    closed_at: Option<String>,
}

#[cfg(test)]
mod tests;
