//! What other systems are told of findings, whatever becomes of them or the hub.

mod receiver;

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cli::run;
use crate::harness::{Hub, Program, Setup, guest, mode, needs, tool};
use receiver::{Absent, Heard, Receiver, Reply, authority};

/// A secret, as receivers and hubs are given it.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A hub whose findings are the steady series of every plugin, and are told to
/// who is configured.
fn watching(toml: &str) -> Setup {
    let settings = "series = [\"guest.*\"]\n[config]\nlimit = -1.0\n[limits]\nfindings = 1000\n";
    Hub::new().configured(toml).plugin("watcher", "guest_detector", settings)
}

/// A receiver in the configuration, which is told at once.
fn told_at_once(name: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "[notify.{name}]\nurl = \"http://{address}/hook/{name}?key=7\"\ngroup_wait = \"0s\"\n\
         group_interval = \"0s\"\nper_minute = 600\nretry_first = \"100ms\"\n{more}\n"
    )
}

/// Begins a finding: a plugin comes whose series is odd.
fn begin(hub: &Hub, plugin: &str) {
    hub.drop_in(plugin, &guest("guest_collector"));
}

/// Hears deliveries until these findings have come, and answers them as
/// `plugin state`.
async fn hear_until(receiver: &mut Receiver, wanted: &[&str]) -> Vec<Heard> {
    let mut heard: Vec<Heard> = Vec::new();
    while !wanted.iter().all(|it| findings(&heard).iter().any(|found| found == it)) {
        heard.push(receiver.hear().await);
    }
    heard
}

fn findings(heard: &[Heard]) -> Vec<String> {
    heard.iter().flat_map(Heard::findings).collect()
}

/// What `/v1/notify` says of a receiver.
async fn listed(hub: &Hub, name: &str) -> Value {
    let answer = hub.ask("GET", "/v1/notify", Some(&hub.file.admin_token)).await.json();
    let receivers = answer["receivers"].as_array().unwrap();
    receivers.iter().find(|receiver| receiver["name"] == name).unwrap().clone()
}

/// Waits until a receiver has so many dead letters.
async fn dead(hub: &Hub, name: &str, count: u64) -> Value {
    let look = async || Some(listed(hub, name).await).filter(|it| it["dead"] == count);
    hub.until("a dead letter", look).await
}

/// Runs a command beside the hub.
async fn notify(hub: &Hub, arguments: &[&str]) -> crate::cli::Outcome {
    let data = hub.setup().data();
    let place = [("TELLTALE_DATA", data.to_str().unwrap())];
    run(hub.path(), ["notify"].iter().chain(arguments), &place).await
}

#[tokio::test]
async fn what_begins_and_ends_is_told_in_order_and_can_be_verified() {
    let mut receiver = Receiver::new();
    let more = format!(
        "secret = \"{SECRET}\"\nheaders = {{ authorization = \"Bearer seven\" }}\n\
         link = \"http://hub.test/\""
    );
    let hub = watching(&told_at_once("pager", receiver.address, &more)).start().await;
    begin(&hub, "first");
    let opened = hear_until(&mut receiver, &["first open"]).await;
    hub.remove("first");
    let closed = hear_until(&mut receiver, &["first close"]).await;
    let [opened, closed] = [&opened, &closed].map(|heard| heard.last().unwrap());
    assert_eq!(opened.path, "/hook/pager?key=7");
    assert_eq!(opened.headers["content-type"], "application/json");
    assert_eq!(opened.headers["authorization"], "Bearer seven");
    let (open, close) = (opened.json(), closed.json());
    assert_eq!(open["type"], "telltale.findings");
    let data = &open["data"];
    assert_eq!((&data["receiver"], &data["state"]), (&json!("pager"), &json!("open")));
    assert_eq!((&data["opened"], &data["left_out"]), (&json!(1), &json!(0)));
    assert_eq!((&data["link"], &data["group"]), (&json!("http://hub.test/"), &json!({})));
    assert_eq!(close["data"]["state"], "close");
    let (open, close) = (&data["findings"][0], &close["data"]["findings"][0]);
    assert_eq!((&open["id"], &open["detector"]), (&close["id"], &json!("watcher")));
    assert!(open["ended"].is_null() && close["ended"].is_string());
    verified_by_the_docs(opened, SECRET, true).await;
    verified_by_the_docs(closed, SECRET, true).await;
    let changed = Heard { text: opened.text.replace("watcher", "attacker"), ..opened.clone() };
    verified_by_the_docs(&changed, SECRET, false).await;
    verified_by_the_docs(opened, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", false).await;
}

/// The code in Python that the document shows takes a delivery, or refuses it.
async fn verified_by_the_docs(heard: &Heard, secret: &str, good: bool) {
    let Some(python) = needs("Python", tool("python3")) else { return };
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/detectors.md");
    let document = std::fs::read_to_string(document).unwrap();
    let mut blocks = document.split("```python\n").skip(1);
    let block = blocks.find(|block| block.contains("webhook-signature")).unwrap();
    let code = block.split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let input = json!({"headers": heard.headers, "body": heard.text, "secret": secret});
    std::fs::write(folder.path().join("input.json"), input.to_string()).unwrap();
    let script = format!(
        "{code}\nimport json, sys\nsent = json.load(open('input.json'))\n\
         body = sent['body'].encode()\n\
         sys.exit(0 if is_genuine(sent['secret'], sent['headers'], body) else 3)\n"
    );
    let mut command = std::process::Command::new(python);
    let mut program = Program::run(command.args(["-c", &script]).current_dir(folder.path()));
    let code = program.exit().await.code();
    assert_eq!(code, Some(if good { 0 } else { 3 }), "{}", program.stderr());
}

#[tokio::test]
async fn a_delivery_is_tried_again_until_it_is_taken() {
    let mut receiver = Receiver::new();
    receiver.next_replies(&[
        Reply::Status(500),
        Reply::Head("429 Too Many Requests\r\nretry-after: 0"),
        Reply::Close,
        Reply::Status(503),
        Reply::Hang,
    ]);
    let more = "timeout = \"300ms\"";
    let hub = watching(&told_at_once("pager", receiver.address, more)).start().await;
    begin(&hub, "first");
    let first = receiver.hear().await;
    for _ in 0..5 {
        let again = receiver.hear().await;
        assert_eq!((again.id(), &again.text), (first.id(), &first.text));
    }
    let taken = async || Some(listed(&hub, "pager").await).filter(|it| it["sent"] == 1);
    let listed = hub.until("the delivery to be taken", taken).await;
    assert_eq!((&listed["dead"], &listed["error"]), (&json!(0), &Value::Null));
    let failed = hub.series("telltale.notify.failed").await;
    assert_eq!(failed.len(), 1);
    begin(&hub, "second");
    let next = receiver.hear().await;
    assert_eq!(next.findings(), ["second open"]);
    assert_ne!(next.id(), first.id());
}

#[tokio::test]
async fn a_receiver_that_comes_late_is_told_all() {
    let absent = Absent::new();
    let hub = watching(&told_at_once("pager", absent.address(), "")).start().await;
    begin(&hub, "first");
    let refused = async || {
        let listed = listed(&hub, "pager").await;
        let error = listed["error"].as_str().unwrap_or_default().to_owned();
        (listed["state"] == "retrying").then_some(error)
    };
    let error = hub.until("a refusal", refused).await;
    assert!(error.contains("can't be reached"), "{error}");
    let mut receiver = absent.comes();
    assert_eq!(receiver.hear().await.findings(), ["first open"]);
}

#[tokio::test]
async fn what_is_refused_is_a_dead_letter_that_outlives_the_hub_and_can_be_sent_again() {
    let mut receiver = Receiver::new();
    receiver.always(Reply::Status(400));
    let hub = watching(&told_at_once("pager", receiver.address, "")).start().await;
    begin(&hub, "first");
    let refused = receiver.hear().await;
    dead(&hub, "pager", 1).await;
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let hub = setup.start().await;
    let shown = notify(&hub, &["dead", "pager", "--json"]).await;
    let letters: Value = serde_json::from_str(&shown.stdout).unwrap();
    let letter = letters["dead"].as_array().unwrap().last().unwrap().clone();
    let id = || refused.id().to_owned();
    assert_eq!((&letter["id"], &letter["attempts"]), (&json!(id()), &json!(1)));
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains("400") && reason.ends_with("no room"), "{reason}");
    let number = letter["number"].to_string();
    let whole = notify(&hub, &["dead", "pager", &number]).await;
    assert!(whole.stdout.contains("\"telltale.findings\""), "{whole:?}");

    while receiver.heard_more().is_some() {}
    receiver.always(Reply::Status(200));
    let retried = notify(&hub, &["retry", "pager", &number]).await;
    assert!(retried.stdout.contains("1 dead letter is sent again"), "{retried:?}");
    let mut again = receiver.hear().await;
    while again.id() != refused.id() {
        again = receiver.hear().await;
    }
    assert_eq!(again.text, refused.text);

    let unknown = notify(&hub, &["drop", "pager", "999"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("has no dead letter 999"), "{unknown:?}");
    let nobody = notify(&hub, &["retry", "nobody"]).await;
    assert!(nobody.stderr.contains("there is no receiver `nobody`"), "{nobody:?}");
    assert!(notify(&hub, &["drop", "pager"]).await.status.success());
    assert!(notify(&hub, &["dead", "pager"]).await.stdout.contains("no dead letters"));
}

#[tokio::test]
async fn a_delivery_that_is_never_taken_is_given_up_after_its_retries() {
    let mut receiver = Receiver::new();
    receiver.next_replies(&[Reply::Status(500), Reply::Status(500), Reply::Status(500)]);
    let hub = watching(&told_at_once("pager", receiver.address, "retries = 2")).start().await;
    begin(&hub, "first");
    dead(&hub, "pager", 1).await;
    begin(&hub, "second");
    let heard = hear_until(&mut receiver, &["second open"]).await;
    assert_eq!(heard.len(), 4, "three attempts, and the next one");
}

#[tokio::test]
async fn a_hub_that_is_killed_between_sending_and_the_answer_loses_nothing() {
    let mut receiver = Receiver::new();
    let toml = told_at_once("pager", receiver.address, "closed = false");
    let hub = watching(&toml).start().await;
    begin(&hub, "first");
    hear_until(&mut receiver, &["first open"]).await;
    let taken = async || Some(listed(&hub, "pager").await).filter(|it| it["sent"] == 1);
    hub.until("the first to be taken", taken).await;
    receiver.always(Reply::Hang);
    begin(&hub, "second");
    let cut = receiver.hear().await;
    assert_eq!(cut.findings(), ["second open"]);
    // Found while the other is under way, and told by nobody yet.
    begin(&hub, "third");
    let mut native = hub.native().await;
    let ok = native.subscribe("findings", Value::Null).await;
    let third = |entry: &Value| entry["plugin"] == "third";
    let there = ok["open"].as_array().is_some_and(|all| all.iter().any(third));
    if !there {
        native.push_until("the third", |push| third(&push["entry"])).await;
    }
    let setup = hub.kill();
    receiver.always(Reply::Status(200));
    let hub = setup.start().await;
    let again = receiver.hear().await;
    assert_eq!((again.id(), &again.text), (cut.id(), &cut.text));
    let heard = hear_until(&mut receiver, &["third open"]).await;
    let begun: Vec<Value> = heard
        .iter()
        .flat_map(|heard| heard.json()["data"]["findings"].as_array().unwrap().clone())
        .map(|finding| finding["id"].clone())
        .collect();
    let of_cut = cut.json()["data"]["findings"][0]["id"].clone();
    assert!(!begun.contains(&of_cut), "it was told by another delivery too");
    drop(hub);
}

#[tokio::test]
async fn what_was_told_is_not_told_again_after_a_restart() {
    let mut receiver = Receiver::new();
    let toml = told_at_once("pager", receiver.address, "detectors = \"watch*\"");
    let hub = watching(&toml).start().await;
    begin(&hub, "first");
    let before = receiver.hear().await;
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let _hub = setup.start().await;
    let heard = hear_until(&mut receiver, &["first close", "first open"]).await;
    assert!(heard.iter().all(|heard| heard.id() != before.id()), "{heard:?}");
    let first = before.json()["data"]["findings"][0]["id"].clone();
    let opened = heard.iter().flat_map(|it| it.json()["data"]["findings"].as_array().cloned());
    let opened = opened.flatten().filter(|finding| finding["state"] == "open");
    assert!(opened.into_iter().all(|finding| finding["id"] != first));
}

#[tokio::test]
async fn a_storm_is_one_delivery_of_the_strongest_and_a_count_of_the_others() {
    let mut receiver = Receiver::new();
    let toml = told_at_once("pager", receiver.address, "findings = 50")
        .replace("group_wait = \"0s\"", "group_wait = \"1s\"");
    let settings = "[config]\nmode = \"steady\"\nseries = 1000\n";
    let hub = watching(&toml).start().await;
    hub.settings("many", settings);
    begin(&hub, "many");
    let mut told = 0;
    while told < 1000 {
        let heard = receiver.hear().await;
        let data = heard.json()["data"].clone();
        let (opened, left_out) = (data["opened"].as_u64().unwrap(), data["left_out"].as_u64());
        let listed = data["findings"].as_array().unwrap().len() as u64;
        assert!(listed <= 50 && listed + left_out.unwrap() == opened, "{data}");
        told += opened;
    }
    assert_eq!(told, 1000);
    let taken = async || Some(listed(&hub, "pager").await).filter(|it| it["findings"] == 1000);
    assert_eq!(hub.until("it to be taken", taken).await["waiting"], 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_up_nobody() {
    let (mut good, mut hanging) = (Receiver::new(), Receiver::new());
    hanging.always(Reply::Hang);
    let toml = told_at_once("good", good.address, "")
        + &told_at_once("hanging", hanging.address, "timeout = \"60s\"");
    let hub = watching(&toml).start().await;
    begin(&hub, "first");
    hear_until(&mut good, &["first open"]).await;
    hanging.hear().await;
    for plugin in ["second", "third"] {
        begin(&hub, plugin);
        hear_until(&mut good, &[&format!("{plugin} open")]).await;
    }
    assert_eq!(listed(&hub, "hanging").await["state"], "sending");
    assert!(hanging.heard_more().is_none());
    // Nor does it hold up the stop; what it has not taken it gets after it.
    let (status, setup) = hub.stop_with(Signal::TERM).await;
    assert!(status.success());
    hanging.always(Reply::Status(200));
    let _hub = setup.start().await;
    hear_until(&mut hanging, &["first open", "second open", "third open"]).await;
}

#[tokio::test]
async fn tls_is_by_the_authority_that_is_named() {
    let mut receiver = Receiver::secure();
    let own = format!("ca_file = {:?}", authority());
    let toml = told_at_once("own", receiver.address, &own)
        + &told_at_once("machine", receiver.address, "");
    let hub = watching(&toml.replace("http://", "https://")).start().await;
    let tried = notify(&hub, &["test", "own"]).await;
    assert!(tried.stdout.starts_with("own took it: 200, after "), "{tried:?}");
    let heard = receiver.hear().await;
    assert_eq!(
        (heard.path.as_str(), &heard.json()["type"]),
        ("/hook/own?key=7", &json!("telltale.test"))
    );
    let tried = notify(&hub, &["test", "machine"]).await;
    assert_eq!(tried.status.code(), Some(1), "{tried:?}");
    assert!(tried.stderr.contains("machine did not take it: no TLS with https://"), "{tried:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_path_of_a_url_is_not_shown() {
    let (other, mut receiver) = (Receiver::new(), Receiver::new());
    let head = format!("307 Temporary Redirect\r\nlocation: http://{}/", other.address);
    receiver.always(Reply::Head(Box::leak(head.into_boxed_str())));
    let hub = watching(&told_at_once("pager", receiver.address, "")).start().await;
    begin(&hub, "first");
    dead(&hub, "pager", 1).await;
    receiver.hear().await;
    let shown = notify(&hub, &["list"]).await.stdout;
    assert!(shown.contains("redirects are not followed"), "{shown}");
    let origin = format!("http://{}", receiver.address);
    assert!(shown.contains(&origin) && !shown.contains("key=7"), "{shown}");
    assert!(!hub.program.stderr().contains("key=7"));
    let mut other = other;
    assert!(other.heard_more().is_none());
}

#[tokio::test]
async fn only_admins_may_see_who_is_told() {
    let hub = Hub::new().start().await;
    for (method, path) in [
        ("GET", "/v1/notify"),
        ("GET", "/v1/notify/a/dead"),
        ("POST", "/v1/notify/a/retry"),
        ("POST", "/v1/notify/a/test"),
        ("DELETE", "/v1/notify/a/dead"),
    ] {
        assert_eq!(hub.ask(method, path, None).await.status, 401, "{method} {path}");
    }
    let admin = Some(hub.file.admin_token.as_str());
    assert_eq!(hub.ask("GET", "/v1/notify", admin).await.json(), json!({"receivers": []}));
    assert_eq!(hub.ask("POST", "/v1/notify", admin).await.status, 405);
    assert_eq!(hub.ask("GET", "/v1/notify/a", admin).await.status, 404);
    assert_eq!(hub.ask("GET", "/v1/notify/a/dead", admin).await.status, 404);
    assert_eq!(hub.ask("GET", "/v1/notify/a/dead?n=1", admin).await.status, 400);
    let list = notify(&hub, &["list"]).await;
    assert!(list.stdout.starts_with("nobody is told of findings"), "{list:?}");
}

#[tokio::test]
async fn a_receiver_that_cannot_be_used_is_named_and_its_secrets_are_not() {
    for (toml, words) in [
        ("[notify.a]\n", "notify.a.url is missing"),
        ("[notify.A]\nurl = \"http://a.test/\"\n", "is no name"),
        ("[notify.a]\nurl = \"ftp://a.test/hidden\"\n", "notify.a.url: it does not begin with"),
        ("[notify.a]\nurl = \"http://u:hidden@a.test/\"\n", "it has a name and a password"),
        (
            "[notify.a]\nurl = \"http://a.test/\"\nsecret = \"hidden hidden\"\n",
            "notify.a.secret: is no base64",
        ),
        (
            "[notify.a]\nurl = \"http://a.test/hidden\"\nsecret_file = \"nowhere\"\n",
            "notify.a.secret_file: \"nowhere\": No such file",
        ),
        (
            "[notify.a]\nurl = \"http://a.test/\"\nheaders = { host = \"hidden\" }\n",
            "\"host\" is the hub's to set",
        ),
        ("[notify.a]\nurl = \"http://a.test/\"\nseries = [\"a[\"]\n", "notify.a.series: "),
        ("[notify.a]\nurl = \"http://a.test/\"\ngroup_by = \"moon\"\n", "is none of detector"),
        ("[notify.a]\nurl = \"http://a.test/\"\nretries = 101\n", "notify.a.retries = 101"),
        (
            "[notify.a]\nurl = \"http://a.test/\"\nheaders = { x = \"hidden\", y = 5 }\n",
            "line 3: invalid type",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("telltale.toml"), toml).unwrap();
        let outcome = run(folder.path(), ["config", "check"], &[]).await;
        assert_eq!(outcome.status.code(), Some(64), "{toml}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{toml}: {outcome:?}");
        assert!(!outcome.stderr.contains("hidden"), "{toml}: {outcome:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("TELLTALE_NOTIFY_A_URL", "http://a.test/"),
        ("TELLTALE_NOTIFY_A_GROUP_BY", "plugin,label.core"),
        ("TELLTALE_NOTIFY_A_SECRET", SECRET),
    ];
    let outcome = run(folder.path(), ["config", "check"], &variables).await;
    assert!(outcome.status.success(), "{outcome:?}");
}

#[tokio::test]
async fn a_receiver_that_is_told_for_the_first_time_begins_with_what_comes() {
    let mut receiver = Receiver::new();
    let hub = watching("").plugin("old", "guest_collector", &mode("steady")).start().await;
    let open = async || {
        let ok = hub.native().await.subscribe("findings", Value::Null).await;
        ok["open"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    };
    hub.until("a finding", open).await;
    let (_, setup) = hub.stop_with(Signal::TERM).await;
    let setup = setup.configured(&told_at_once("pager", receiver.address, "closed = false"));
    let hub = setup.start().await;
    hear_until(&mut receiver, &["old open"]).await;
    let taken = async || Some(listed(&hub, "pager").await).filter(|it| it["sent"] == 1);
    assert_eq!(hub.until("it to be taken", taken).await["findings"], 1);
}
