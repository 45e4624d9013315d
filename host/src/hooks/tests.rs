//! Deliveries as GitHub sends them, but for what nobody here reads.

use std::fs;

use super::*;

const SECRET: &str = "It's a Secret to Everybody";
const OTHER: &str = "another one, which is older";

fn config(more: &str) -> GithubConfig {
    let text = format!("secret = [{SECRET:?}, {OTHER:?}]\n{more}");
    toml::from_str(&text).unwrap()
}

fn github(more: &str) -> Arc<Github> {
    Github::new(&config(more)).unwrap().unwrap()
}

fn signature(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The event of a delivery: its type, data and rooms.
fn read(github: &Github, event: &str, payload: &Value) -> (String, Value, Vec<String>) {
    let body = payload.to_string();
    let sent = Sent { event, is_form: false, body: body.as_bytes() };
    let Ok(Delivery::Event(draft)) = github.read(sent) else { panic!("{event} {payload}") };
    types::check(&draft.kind, &draft.data).unwrap();
    assert_eq!(draft.source, "github");
    let rooms = draft.rooms.unwrap().iter().map(ToString::to_string).collect();
    (draft.kind, serde_json::from_str(draft.data.get()).unwrap(), rooms)
}

fn repository() -> Value {
    json!({
        "id": 1_296_269, "name": "Hello-World", "full_name": "octocat/Hello-World",
        "private": false, "html_url": "https://github.com/octocat/Hello-World",
        "default_branch": "main", "archived": false,
        "owner": {"login": "octocat", "id": 1, "type": "User"},
    })
}

fn pull_request(action: &str) -> Value {
    json!({
        "action": action,
        "number": 2,
        "pull_request": {
            "id": 279_147_437, "number": 2, "state": "open", "locked": false,
            "url": "https://api.github.com/repos/octocat/Hello-World/pulls/2",
            "html_url": "https://github.com/octocat/Hello-World/pull/2",
            "title": "Update the README with new information.",
            "user": {"login": "octocat", "id": 1},
            "body": "This is a pretty simple change.",
            "created_at": "2026-05-15T15:20:33Z", "updated_at": "2026-05-15T15:20:33Z",
            "closed_at": null, "merged_at": null, "draft": false, "merged": false,
            "labels": [{"id": 208_045_946, "name": "bug", "color": "f29513"}],
            "head": {"label": "octocat:changes", "ref": "changes", "sha": "ec26c3e"},
            "base": {"label": "octocat:main", "ref": "main", "sha": "f95f852"},
        },
        "repository": repository(),
        "sender": {"login": "Hubot", "id": 2, "type": "User"},
    })
}

fn issue(action: &str) -> Value {
    json!({
        "action": action,
        "issue": {
            "id": 444_500_041, "number": 1, "state": "open",
            "html_url": "https://github.com/octocat/Hello-World/issues/1",
            "title": "Spelling error in the README file", "body": null,
            "user": {"login": "octocat", "id": 1},
            "labels": [], "assignee": {"login": "hubot", "id": 2},
            "created_at": "2026-05-15T15:20:18Z", "updated_at": "2026-05-15T15:20:18Z",
            "closed_at": null,
        },
        "repository": repository(),
        "sender": {"login": "octocat", "id": 1},
    })
}

#[test]
fn only_what_was_signed_with_a_secret_is_genuine() {
    let (github, body) = (github(""), "Hello, World!");
    // The example of GitHub's documentation.
    let documented = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(signature(SECRET, body), documented);
    assert!(github.is_genuine(documented, body.as_bytes()));
    assert!(github.is_genuine(&documented.to_uppercase().replace("SHA", "sha"), body.as_bytes()));
    assert!(github.is_genuine(&signature(OTHER, body), body.as_bytes()));
    for forged in [
        signature("a secret that is neither", body),
        signature(SECRET, "Hello, World"),
        documented.replace("sha256=", "sha1="),
        documented.replace("sha256=", ""),
        documented[..documented.len() - 1].to_owned(),
        format!("{documented}0"),
        format!("sha256={}", "+7".repeat(32)),
        format!("sha256={}", "é".repeat(32)),
        "sha256=".to_owned(),
        String::new(),
    ] {
        assert!(!github.is_genuine(&forged, body.as_bytes()), "{forged}");
    }
}

#[test]
fn pull_requests_are_created_updated_and_closed() {
    let github = github("[projects]\n\"Octocat/hello-world\" = \"42\"\n[users]\nhubot = \"ana\"\n");
    let (kind, data, rooms) = read(&github, "pull_request", &pull_request("opened"));
    assert_eq!(
        (&*kind, &rooms[..]),
        ("pr.created", &["project:42", "user:ana"].map(Into::into)[..])
    );
    for (field, value) in [
        ("pr_number", json!(2)),
        ("project_id", json!("42")),
        ("title", json!("Update the README with new information.")),
        ("description", json!("This is a pretty simple change.")),
        ("author", json!("octocat")),
        ("branch", json!("changes")),
        ("base_branch", json!("main")),
        ("github_url", json!("https://github.com/octocat/Hello-World/pull/2")),
        ("repository", json!("octocat/Hello-World")),
        ("status", json!("open")),
        ("labels", json!(["bug"])),
        ("user_id", json!("ana")),
    ] {
        assert_eq!(data[field], value, "{field}");
    }
    for action in ["edited", "synchronize", "reopened", "labeled", "ready_for_review"] {
        assert_eq!(read(&github, "pull_request", &pull_request(action)).0, "pr.updated");
    }
    let mut merged = pull_request("closed");
    merged["pull_request"]["merged"] = json!(true);
    merged["pull_request"]["state"] = json!("closed");
    let (kind, data, _) = read(&github, "pull_request", &merged);
    assert_eq!(
        (&*kind, &data["status"], &data["action"]),
        ("pr.closed", &json!("merged"), &json!("closed"))
    );
    let mut draft = pull_request("opened");
    draft["pull_request"]["draft"] = json!(true);
    assert_eq!(read(&github, "pull_request", &draft).1["status"], "draft");
}

#[test]
fn issues_are_created_updated_and_closed_and_told_to_whom_they_are_assigned() {
    let github = github("[users]\nhubot = \"bob\"\n");
    let (kind, data, rooms) = read(&github, "issues", &issue("opened"));
    assert_eq!(kind, "issue.created");
    assert_eq!(rooms, ["project:octocat/Hello-World", "user:bob"]);
    assert_eq!((&data["assigned_to"], &data["user_id"]), (&json!("bob"), &Value::Null));
    assert_eq!((&data["issue_number"], &data["description"]), (&json!(1), &Value::Null));
    assert_eq!(read(&github, "issues", &issue("assigned")).0, "issue.updated");
    assert_eq!(read(&github, "issues", &issue("closed")).0, "issue.closed");
    let (kind, data, _) = read(&github, "issues", &issue("deleted"));
    assert_eq!((&*kind, &data["status"]), ("issue.closed", &json!("deleted")));
}

#[test]
fn a_push_updates_its_project() {
    let commit = |n: usize| {
        json!({
            "id": format!("{n:040x}"), "message": format!("Change {n}\n\nAt length."),
            "timestamp": "2026-05-15T15:20:18Z", "url": "https://github.com/octocat",
            "author": {"name": "The Octocat", "email": "o@github.example", "username": "octocat"},
        })
    };
    let payload = json!({
        "ref": "refs/heads/main", "before": "6113728", "after": "0d1a26e",
        "created": false, "deleted": false, "forced": true, "base_ref": null,
        "compare": "https://github.com/octocat/Hello-World/compare/6113728...0d1a26e",
        "commits": (0..30).map(commit).collect::<Vec<_>>(),
        "repository": repository(),
        "pusher": {"name": "hubot"}, "sender": {"login": "hubot", "id": 2},
    });
    let (kind, data, rooms) = read(&github("[users]\nhubot = \"ana\"\n"), "push", &payload);
    assert_eq!(kind, "project.updated");
    assert_eq!(rooms, ["project:octocat/Hello-World", "user:ana"]);
    assert_eq!((&data["status"], &data["updated_by"]), (&json!("active"), &json!("ana")));
    let changes = &data["changes"];
    assert_eq!((&changes["branch"], &changes["forced"]), (&json!("main"), &json!(true)));
    assert_eq!(
        (&changes["commit_count"], &changes["commits"][19]["title"]),
        (&json!(30), &json!("Change 29"))
    );
    assert_eq!(changes["commits"].as_array().unwrap().len(), COMMITS_MAX);
    let tag = json!({
        "ref": "refs/tags/v1", "before": "0", "after": "1", "repository": repository(),
    });
    let (_, data, rooms) = read(&github(""), "push", &tag);
    assert_eq!((&data["changes"]["branch"], rooms.len()), (&Value::Null, 1));
}

#[test]
fn what_is_no_event_is_told() {
    let github = github("");
    let read =
        |event, is_form, body: &str| github.read(Sent { event, is_form, body: body.as_bytes() });
    assert!(matches!(
        read("ping", false, "{\"zen\":\"Keep it logically awesome.\"}"),
        Ok(Delivery::Ping)
    ));
    assert!(matches!(read("star", false, "{}"), Ok(Delivery::Ignored(what)) if what == "star"));
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", &issue("opened").to_string())
        .finish();
    assert!(matches!(read("issues", true, &form), Ok(Delivery::Event(_))));
    for (event, is_form, body, words) in [
        ("issues", true, "x=1", "no field `payload`"),
        ("issues", false, "{}", "missing field `action`"),
        ("push", false, "nonsense", "the payload"),
        ("pull_request", false, "{\"action\":\"opened\"}", "missing field `pull_request`"),
    ] {
        let told = read(event, is_form, body).unwrap_err();
        assert!(told.contains(words), "{told:?} does not say {words:?}");
    }
}

#[test]
fn secrets_may_be_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let open = |path: &Path| {
        let config = GithubConfig { secret_file: Some(path.to_owned()), ..GithubConfig::default() };
        Github::new(&config).map(Option::unwrap)
    };
    assert!(open(&path).unwrap_err().to_string().contains("hooks.github.secret_file"));
    for (text, words) in [("\n\n", "0 lines"), ("short\n", "at least 16 bytes")] {
        fs::write(&path, text).unwrap();
        let told = open(&path).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
    }
    fs::write(&path, format!("{SECRET}\n{OTHER}\r\n")).unwrap();
    let github = open(&path).unwrap();
    for secret in [SECRET, OTHER] {
        assert!(github.is_genuine(&signature(secret, "x"), b"x"));
    }
    assert!(Github::new(&GithubConfig::default()).unwrap().is_none());
}
