use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;

use super::super::settings::Settings;
use super::super::status::PluginRole;
use super::*;

/// A plugin's instance, and what comes out of it.
struct Plugin {
    publishing: Publishing,
    queue: Receiver<Publication>,
    /// The hub's end of it.
    sender: Option<mpsc::Sender<Publication>>,
    belongings: Belongings,
}

fn plugin(settings: &str) -> Plugin {
    plugin_that(settings, |outlet| outlet)
}

fn plugin_that(settings: &str, outlet: impl FnOnce(Outlet) -> Outlet) -> Plugin {
    let settings = Settings::parse(Path::new("p.toml"), settings).unwrap();
    let limits = Limits::of(&settings, PluginRole::Collector, Duration::from_secs(1));
    let (sender, queue) = mpsc::channel(EVENTS_WAITING_MAX);
    let check: EventCheck = |draft, _| match (&draft.rooms, draft.kind.contains('.')) {
        (_, false) => Err(format!("{} has no dot", draft.kind)),
        (Some(rooms), true) => Ok(rooms.clone()),
        (None, true) => Ok(vec![Room::global()]),
    };
    let outlet = outlet(Outlet::new(&EventOutlet { queue: sender.clone(), check }));
    let belongings = Belongings { outlet, ..Belongings::new(&"p".into()) };
    let log = PluginLog::new(20, belongings.refused.clone(), belongings.journal.clone());
    let publisher = Publisher::new(settings.grant.events, &limits, log, &belongings);
    let publishing = Publishing::new(Arc::new(publisher));
    Plugin { publishing, queue, sender: Some(sender), belongings }
}

fn event(kind: &str) -> wire::Event {
    wire::Event {
        type_: kind.into(),
        source: None,
        data_json: r#"{"n": 1}"#.into(),
        rooms: Vec::new(),
        key: None,
    }
}

fn in_room(kind: &str, room: &str) -> wire::Event {
    wire::Event { rooms: vec![room.into()], ..event(kind) }
}

const GRANT: &str = "[grant]\nevents = [\"build.*\"]\n";

#[test]
fn an_event_comes_out_as_it_was_published() {
    let mut plugin = plugin(GRANT);
    let full = wire::Event {
        source: Some("ci".into()),
        key: Some("build-7".into()),
        ..in_room("build.done", "project:42")
    };
    plugin.publishing.publish(full).unwrap();
    plugin.publishing.publish(event("build.begun")).unwrap();
    let first = plugin.queue.try_recv().unwrap();
    assert_eq!((&*first.draft.kind, &*first.draft.source), ("build.done", "ci"));
    assert_eq!(first.draft.rooms, Some(vec![Room::new("project:42").unwrap()]));
    assert_eq!((first.draft.data.get(), first.key.as_deref()), (r#"{"n": 1}"#, Some("build-7")));
    let second = plugin.queue.try_recv().unwrap();
    assert_eq!((&*second.draft.source, &second.draft.rooms, &second.key), ("p", &None, &None));
    first.ticket.published();
    second.ticket.failed("the disk is full");
    assert_eq!(plugin.belongings.events.figures(), EventFigures { published: 1, failed: 1 });
    let lines = plugin.belongings.journal.after(0);
    assert_eq!(lines[0].text, "event build.begun was not published: the disk is full");
    assert_eq!(plugin.belongings.events.room.available_permits(), PLUGIN_BYTES_MAX);
}

#[test]
fn what_is_not_granted_is_denied_with_the_line_that_grants_it() {
    for (settings, event, line) in [
        ("", event("build.done"), "`events = [\"build.done\"]`"),
        (GRANT, event("pr.created"), "`events = [\"build.*\", \"pr.created\"]`"),
        (
            "[grant]\nevents = { types = [\"build.*\"], rooms = [\"project:*\"] }",
            in_room("build.done", "user:ana"),
            "`events = { types = [\"build.*\"], rooms = [\"project:*\", \"user:ana\"] }`",
        ),
        (
            "[grant]\nevents = { types = [\"build.*\"], rooms = [\"project:*\"] }",
            event("build.done"),
            "`events = { types = [\"build.*\"], rooms = [\"project:*\", \"global\"] }`",
        ),
    ] {
        let mut plugin = plugin(settings);
        match plugin.publishing.publish(event) {
            Err(wire::Error::Denied(words)) => {
                assert_eq!(words, format!("write {line} under [grant] in its settings"));
            }
            other => panic!("{line}: {other:?}"),
        }
        assert!(plugin.queue.try_recv().is_err());
        assert_eq!(plugin.belongings.refused.counts().events, 0);
    }
}

#[test]
fn what_breaks_a_rule_is_invalid_and_says_which() {
    let long = "x".repeat(EVENT_WORD_BYTES_MAX + 1);
    let good = || event("build.done");
    for (event, words) in [
        (event(&long), "1 to 128 bytes"),
        (event(""), "1 to 128 bytes"),
        (event("builddone"), "builddone has no dot"),
        (wire::Event { data_json: "{".into(), ..good() }, "no JSON"),
        (in_room("build.done", "two words"), "is no room"),
        (wire::Event { rooms: vec!["global".into(); 65], ..good() }, "65 rooms"),
    ] {
        match plugin("[grant]\nevents = [\"build*\"]").publishing.publish(event) {
            Err(wire::Error::Invalid(said)) => assert!(said.contains(words), "{said}: {words}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    let data_json = format!("\"{}\"", "x".repeat(EVENT_DATA_BYTES_MAX));
    let large = wire::Event { data_json, ..good() };
    assert!(matches!(plugin(GRANT).publishing.publish(large), Err(wire::Error::TooLarge(_))));
}

/// How many of `count` events are taken, and what is said of the first that is
/// not.
fn taken(plugin: &mut Plugin, count: usize) -> (usize, String) {
    let mut said = String::new();
    let mut taken = 0;
    for _ in 0..count {
        match plugin.publishing.publish(event("build.done")) {
            Ok(()) => taken += 1,
            Err(wire::Error::Busy(words)) if said.is_empty() => said = words,
            Err(wire::Error::Busy(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    (taken, said)
}

#[test]
fn a_call_a_second_and_what_waits_have_their_limits_and_all_over_them_is_counted() {
    let limits = |events: u32, per_second: u32| {
        format!("{GRANT}[limits]\nevents = {events}\nevents_per_second = {per_second}\n")
    };
    let mut by_call = plugin(&limits(3, 10_000));
    let (count, words) = taken(&mut by_call, 10);
    assert_eq!((count, words.contains("`events`")), (3, true), "{words}");
    by_call.publishing.begin_call();
    assert_eq!(taken(&mut by_call, 10).0, 3, "another call");
    assert_eq!(by_call.belongings.refused.counts().events, 14);

    // A second's worth is a call's worth at least, and comes again in an hour.
    let mut by_second = plugin(&limits(5, 1));
    assert_eq!(taken(&mut by_second, 5).0, 5);
    by_second.publishing.begin_call();
    let (count, words) = taken(&mut by_second, 5);
    assert!(count < 5 && words.contains("`events_per_second`"), "{count}: {words}");

    let mut unread = plugin_that(&limits(256, 1), Outlet::unpaced);
    assert_eq!(taken(&mut unread, 256).0, 256);
    unread.publishing.begin_call();
    let (count, words) = taken(&mut unread, 1);
    assert_eq!((count, words.contains("4 MiB of this plugin's")), (0, true), "{words}");
    drop(unread.queue.try_recv().unwrap());
    assert_eq!(taken(&mut unread, 10).0, 1, "one was written");
}

#[test]
fn the_queue_ends_with_the_plugins_and_not_with_what_is_known_of_them() {
    let mut plugin = plugin(GRANT);
    plugin.sender = None;
    assert!(matches!(plugin.queue.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    assert_eq!(taken(&mut plugin, 1).0, 0);
    assert_eq!(plugin.belongings.events.room.available_permits(), PLUGIN_BYTES_MAX);
}
