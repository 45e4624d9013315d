//! The access matrix: every op, with every kind of token, in every dialect.
//!
//! A dialect that is added gets a column, and a function that tries its ops.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{OTHER_SECRET, guarded, now, skills_with, token, token_by};
use crate::events::post;
use crate::harness::{Answer, Door, Heard, Hub, Native, Socket};

/// What is allowed: `+`; what a known client is refused: `-`; what a stranger
/// is refused: `!`; what the dialect has no word for: `.`. The nine marks stand
/// for the tokens of [`tokens`], in their order.
const MATRIX: &str = "
op                                            native     skills     socketio   http       sync
come in                                       !!!++++++  !!!++++++  !!!++++++  .........  !!!++++++
ask whether it is there                       +++++++++  .........  !!!++++++  +++++++++  !!!++++++
show the token again                          !!!++++++  .........  .........  .........  .........
read telltale.tick.lateness                   !!!++++++  .........  .........  !!!++++++  .........
read telltale.store.queue                     !!!-+++++  .........  .........  !!!-+++++  .........
read the history of telltale.tick.lateness    !!!++++++  .........  .........  !!!++++++  .........
read the history of telltale.store.queue      !!!-+++++  .........  .........  !!!-+++++  .........
read the document top_skills                  !!!-+++++  !!!-+++++  .........  .........  .........
hear of findings                              !!!++++++  .........  .........  .........  .........
hear of plugins                               !!!-+++++  .........  .........  .........  .........
list the plugins                              .........  .........  .........  !!!-+++++  .........
look at a plugin                              .........  .........  .........  !!!-+++++  .........
read a plugin's log                           .........  .........  .........  !!!----++  .........
start a plugin again                          .........  .........  .........  !!!----++  .........
remove a plugin                               .........  .........  .........  !!!----++  .........
end a user's connections                      .........  .........  .........  !!!----++  .........
scrape all numbers                            .........  .........  .........  !!!-+++++  .........
read the statistics                           .........  .........  .........  !!!-+++++  .........
enter global                                  !!!++++++  .........  !!!++++++  .........  .........
enter user:ana                                !!!+++++-  .........  !!!+++++-  .........  .........
enter user:bob                                !!!------  .........  !!!------  .........  .........
enter project:1                               !!!-+++-+  .........  !!!-+++-+  .........  .........
enter project:2                               !!!-++--+  .........  !!!-++--+  .........  .........
see who is in project:1                       !!!-+++-+  .........  !!!-+++-+  .........  .........
see who is in user:bob                        !!!------  .........  !!!------  .........  .........
hear who is in project:2                      !!!-++--+  .........  .........  .........  .........
read what was in project:1                    .........  .........  .........  !!!-+++-+  .........
read what was in user:bob                     .........  .........  .........  !!!------  .........
publish pr.tested to project:1                !!!--++-+  .........  !!!--++-+  !!!--++-+  .........
publish pr.tested to project:2                !!!--+--+  .........  !!!--+--+  !!!--+--+  .........
publish ci.tested to project:1                !!!--+--+  .........  !!!--+--+  !!!--+--+  .........
publish ci.tested to user:ana                 !!!--+--+  .........  !!!--+--+  !!!--+--+  .........
publish ci.tested to user:bob                 !!!-----+  .........  !!!-----+  !!!-----+  .........
publish pr.tested to board:ana                !!!------  .........  !!!------  !!!------  .........
enter board:ana                               !!!++++++  .........  !!!++++++  .........  .........
enter board:bob                               !!!-----+  .........  !!!-----+  .........  .........
read what was in board:bob                    .........  .........  .........  !!!-----+  .........
see the board ana                             !!!++++++  .........  .........  .........  !!!++++++
see the board bob                             !!!-----+  .........  .........  .........  !!!-----+
see what was on the board bob                 !!!-----+  .........  .........  .........  .........
change the board ana                          !!!++++++  .........  .........  .........  !!!++++++
change the board bob                          !!!-----+  .........  .........  .........  !!!-----+
ask for what is not there                     !!!++++++  .........  !!!++++++  !!!++++++  !!!++++++
";

/// Who asks.
fn tokens(hub: &Hub) -> [Option<String>; 9] {
    let rooms = json!(["project:*"]);
    let typed = json!([{"types": ["pr.*"], "rooms": ["project:1"]}]);
    [
        // Nobody.
        None,
        // Somebody whose token has expired, …
        Some(token(json!({"exp": now() - 1, "rooms": rooms, "admin": true}))),
        // … and whose token another hub would take.
        Some(token_by(OTHER_SECRET, json!({"rooms": rooms, "admin": true}))),
        // A reader of some series.
        Some(token(json!({"read": ["telltale.tick.*"]}))),
        // A member of rooms.
        Some(token(json!({"rooms": rooms}))),
        // A publisher, to the rooms that it may enter.
        Some(token(json!({"rooms": rooms, "publish": ["*"]}))),
        // A publisher of certain types to a certain room.
        Some(token(json!({"rooms": ["project:1"], "publish": typed}))),
        // Who looks after the hub, …
        Some(token(json!({"admin": true}))),
        // … and who has started it.
        Some(hub.file.admin_token.clone()),
    ]
}

/// What the attempts need to know of the hub.
struct Place<'a> {
    hub: &'a Hub,
    /// The numbers of series.
    series: Vec<(String, Value)>,
}

impl Place<'_> {
    fn series(&self, name: &str) -> &Value {
        let found = self.series.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no series {name}")).1
    }
}

#[tokio::test]
async fn everybody_may_do_what_the_matrix_says_and_nothing_else() {
    let setup = guarded("").with_skills();
    setup.skills_database().skill("pytest-run", 7, 90.0, Some(1.5));
    let hub = setup.start().await;
    // Until the skills are there.
    let mut skills = skills_with(&hub, &hub.file.admin_token).await;
    skills.next().await;
    skills.skills_are(&["pytest-run"]).await;
    let list = hub.ask("GET", "/v1/series", Some(&hub.file.admin_token)).await.json();
    let named =
        |series: &Value| (series["name"].as_str().unwrap().to_owned(), series["id"].clone());
    let series = list["series"].as_array().unwrap().iter().map(named).collect();
    let place = Place { hub: &hub, series };

    let tokens = tokens(&hub);
    let (mut wanted, mut found) = (String::new(), String::new());
    for row in MATRIX.trim().lines().skip(1) {
        let (op, marks) = row.split_at(46);
        let op = op.trim();
        writeln!(wanted, "{op:46}{marks}").unwrap();
        write!(found, "{op:46}").unwrap();
        for (at, marks) in marks.split_whitespace().enumerate() {
            let mut column = String::new();
            for (mark, token) in marks.chars().zip(&tokens) {
                let token = token.as_deref();
                column.push(match (mark, at) {
                    ('.', _) => '.',
                    (_, 0) => native(&place, op, token).await,
                    (_, 1) => skills_dialect(&place, op, token).await,
                    (_, 2) => socketio(&place, op, token).await,
                    (_, 3) => http(&place, op, token).await,
                    _ => sync_dialect(&place, op, token).await,
                });
            }
            write!(found, "{}{column}", if at == 0 { "" } else { "  " }).unwrap();
        }
        found.push('\n');
    }
    assert!(wanted == found, "wanted\n{wanted}\nfound\n{found}");
}

/// What has come of an attempt whose success is to be seen.
fn seen(is_seen: bool) -> char {
    if is_seen { '+' } else { '-' }
}

fn of_reply(reply: &Value) -> char {
    match reply["error"]["code"].as_str() {
        None => '+',
        Some("unauthorized") => '!',
        // What may not be read is not there.
        Some("denied" | "not_found") => '-',
        Some(other) => panic!("{other}: {reply}"),
    }
}

async fn connect(hub: &Door, token: Option<&str>) -> Native {
    match token {
        None => hub.native().await,
        Some(token) => hub.native_with(token).await,
    }
}

async fn native(place: &Place<'_>, op: &str, token: Option<&str>) -> char {
    let mut client = connect(place.hub, token).await;
    let subscribe = |channel: &str| json!({"op": "subscribe", "channel": channel});
    let command = match op {
        "come in" => json!({"op": "connect", "token": token}),
        "ask whether it is there" => json!({"op": "ping"}),
        "show the token again" => json!({"op": "refresh", "token": token.unwrap_or_default()}),
        "hear of findings" => subscribe("findings"),
        "hear of plugins" => subscribe("hub"),
        "read the document top_skills" => subscribe("documents"),
        "ask for what is not there" => {
            let reply = client.command(json!({"op": "dance"})).await;
            let code = reply["error"]["code"].as_str().unwrap();
            return if code == "unknown_op" { '+' } else { of_reply(&reply) };
        }
        _ if op.starts_with("publish ") => {
            let mut publish = event(op);
            publish["op"] = json!("publish");
            publish
        }
        _ => match op.rsplit_once(' ').unwrap() {
            ("read", _) => subscribe("metrics"),
            ("read the history of", name) => {
                json!({"op": "history", "series": place.series(name)})
            }
            ("enter", room) => json!({"op": "subscribe", "room": room}),
            ("see who is in", room) => json!({"op": "presence", "room": room}),
            ("see the board", board) => {
                json!({"op": "subscribe", "channel": "layouts", "board": board})
            }
            ("see what was on the board", board) => {
                json!({"op": "versions", "board": board, "widget": "w"})
            }
            ("change the board", board) => {
                json!({"op": "put", "board": board, "widget": "w", "data": {}})
            }
            ("hear who is in", room) => subscribe(&format!("presence:{room}")),
            _ => panic!("{op}?"),
        },
    };
    let reply = client.command(command).await;
    let Some(ok) = reply.get("ok") else { return of_reply(&reply) };
    let (list, name) = match op.rsplit_once(' ') {
        Some(("read the document", name)) => ("documents", name),
        Some(("read", name)) => ("series", name),
        _ => return '+',
    };
    let all = ok["snapshot"][list].as_array().unwrap();
    seen(all.iter().any(|one| one["name"] == name))
}

/// The event of an op `publish <type> to <room>`.
fn event(op: &str) -> Value {
    let words: Vec<&str> = op.split(' ').collect();
    json!({"type": words[1], "source": "matrix", "data": {}, "rooms": [words[3]]})
}

/// As the clients from npm do it, over WebSocket.
async fn socketio(place: &Place<'_>, op: &str, token: Option<&str>) -> char {
    let mut socket = Socket::connect(place.hub.0, "/socket.io/?EIO=4&transport=websocket").await;
    let auth = token.map_or_else(String::new, |token| json!({"token": token}).to_string());
    socket.send(format!("40{auth}")).await;
    let welcome = hear(&mut socket, &["40", "44"]).await;
    if let Some(refused) = welcome.strip_prefix("44") {
        let refused: Value = serde_json::from_str(refused).unwrap();
        assert_eq!(refused["data"]["content"]["code"], "AUTH_FAILED", "{refused}");
        return '!';
    }
    let command = match op {
        "come in" => return '+',
        "ask whether it is there" => json!(["ping"]),
        "ask for what is not there" => json!(["dance"]),
        _ if op.starts_with("publish ") => json!(["publish", event(op)]),
        _ => match op.rsplit_once(' ').unwrap() {
            ("enter", room) => json!(["subscribe", {"room": room}]),
            ("see who is in", room) => json!(["presence", {"room": room}]),
            _ => panic!("{op}?"),
        },
    };
    socket.send(format!("427{command}")).await;
    let answer = hear(&mut socket, &["437"]).await;
    let answer: Value = serde_json::from_str(&answer[3..]).unwrap();
    match answer[0]["code"].as_str() {
        None | Some("UNKNOWN_COMMAND") => '+',
        Some("DENIED") => '-',
        Some(_) => panic!("{answer}"),
    }
}

/// As the dashboard's clients do it.
async fn sync_dialect(place: &Place<'_>, op: &str, token: Option<&str>) -> char {
    let board = match op.rsplit_once(' ') {
        Some(("see the board" | "change the board", board)) => format!("?board={board}"),
        _ => String::new(),
    };
    let path = format!("/api/realtime{board}");
    let mut socket = match token {
        Some(token) => Socket::connect_with(place.hub.0, &path, token).await,
        None => Socket::connect(place.hub.0, &path).await,
    };
    match socket.hear("CONNECT").await {
        Heard::Text(_) => {}
        Heard::Close(1008, why) => return if why == "Unauthorized" { '!' } else { '-' },
        other => panic!("{other:?}"),
    }
    let (kind, payload) = match op {
        "come in" => return '+',
        "ask whether it is there" => ("PING", json!({})),
        "ask for what is not there" => ("DANCE", json!({})),
        _ if op.starts_with("see ") => ("SYNC_REQUEST", json!({})),
        _ => ("WIDGET_UPDATE", json!({"widgetId": "w", "data": {}})),
    };
    socket.send(json!({"type": kind, "payload": payload}).to_string()).await;
    let text = socket.text("an answer of the sync dialect").await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    match answer["payload"]["error"].as_str() {
        None | Some("this `type` is unknown") => '+',
        Some("this token does not allow it") => '-',
        Some(_) => panic!("{answer}"),
    }
}

/// The first message that begins with one of these.
async fn hear(socket: &mut Socket, beginnings: &[&str]) -> String {
    loop {
        let text = socket.text("a packet of Socket.IO").await;
        if beginnings.iter().any(|beginning| text.starts_with(beginning)) {
            return text;
        }
    }
}

async fn skills_dialect(place: &Place<'_>, op: &str, token: Option<&str>) -> char {
    let mut client = place.hub.skills().await;
    let shown = token.map_or_else(|| json!({"type": "subscribe"}), |token| json!({"token": token}));
    client.send(&shown.to_string()).await;
    let welcome = match client.socket.hear("a welcome").await {
        Heard::Text(welcome) => welcome,
        Heard::Close(4001, _) => return '!',
        other => panic!("{other:?}"),
    };
    assert!(welcome.contains(r#""authenticated":true"#), "{welcome}");
    match op {
        "come in" => '+',
        "read the document top_skills" => {
            seen(client.update().await["top_skills"][0]["skill_name"] == "pytest-run")
        }
        _ => panic!("{op}?"),
    }
}

fn of_answer(answer: &Answer) -> char {
    match answer.status {
        200 | 409 => '+',
        401 => '!',
        403 => '-',
        // What may not be read is not there.
        404 if answer.body.contains("not_found") => '-',
        _ => panic!("{answer:?}"),
    }
}

async fn http(place: &Place<'_>, op: &str, token: Option<&str>) -> char {
    let ask = |method: &'static str, path: String| async move {
        place.hub.ask(method, &path, token).await
    };
    let get = |path: &str| ask("GET", path.to_owned());
    let answer = match op {
        "ask whether it is there" => get("/healthz").await,
        "list the plugins" => get("/v1/plugins").await,
        "look at a plugin" => get("/v1/plugins/skills").await,
        "read a plugin's log" => get("/v1/plugins/skills/logs").await,
        "start a plugin again" => ask("POST", "/v1/plugins/skills/resume".to_owned()).await,
        "scrape all numbers" => get("/metrics").await,
        "read the statistics" => get("/v1/stats").await,
        "end a user's connections" => ask("POST", "/v1/users/bob/disconnect".to_owned()).await,
        "remove a plugin" => {
            let answer = ask("DELETE", "/v1/plugins/none".to_owned()).await;
            return if answer.status == 404 { '+' } else { of_answer(&answer) };
        }
        "ask for what is not there" => {
            let answer = get("/nowhere").await;
            return if answer.status == 404 { '+' } else { of_answer(&answer) };
        }
        _ if op.starts_with("publish ") => {
            let header = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
            let body = event(op).to_string();
            post(place.hub, "/v1/events", &header.unwrap_or_default(), body).await
        }
        _ => match op.rsplit_once(' ').unwrap() {
            ("read the history of", name) => {
                get(&format!("/v1/history?series={}", place.series(name))).await
            }
            ("read what was in", room) => get(&format!("/v1/rooms/{room}/events")).await,
            ("read", name) => {
                let answer = get("/v1/series").await;
                if answer.status != 200 {
                    return of_answer(&answer);
                }
                let list = answer.json();
                let mut all = list["series"].as_array().unwrap().iter();
                return seen(all.any(|series| series["name"] == name));
            }
            _ => panic!("{op}?"),
        },
    };
    of_answer(&answer)
}
