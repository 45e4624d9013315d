//! A browser without a window, spoken to by its DevTools protocol.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Program, Socket, needs, tool, within};

/// How often it is looked whether something has come to be.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// A browser with one page, until it is dropped.
pub(super) struct Browser {
    /// Ends before its folder is removed.
    _program: Program,
    _folder: TempDir,
    devtools: Socket,
    /// What tells the page's messages from the browser's.
    session: Value,
    next_id: u64,
}

impl Browser {
    /// Starts one; none where it is not installed, which is told.
    pub(super) async fn start() -> Option<Self> {
        let chromium = needs("chromium", tool("chromium"))?;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(chromium);
        // Its pages are our own, and a sandbox is not to be had everywhere.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--remote-debugging-port=0", "--no-first-run", "--lang=en-US"]);
        command.arg(format!("--user-data-dir={}", folder.path().display())).arg("about:blank");
        let program = Program::run(&mut command);
        let line = "DevTools listening on ws://";
        let listens = || {
            let said = program.stderr();
            let (url, _) = said.split_once(line)?.1.split_once('\n')?;
            let (address, path) = url.trim().split_once('/')?;
            Some((address.parse().unwrap(), format!("/{path}")))
        };
        let (address, path) = within("the browser", async {
            loop {
                match listens() {
                    Some(found) => return found,
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        })
        .await;
        let devtools = Socket::connect(address, &path).await;
        let (session, next_id) = (Value::Null, 1);
        let mut browser = Self { _program: program, _folder: folder, devtools, session, next_id };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let page = json!({"targetId": page["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", page).await["sessionId"].take();
        Some(browser)
    }

    /// Goes to a page.
    pub(super) async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
    }

    /// Waits until an expression in the page is true, and returns what it is.
    pub(super) async fn until(&mut self, what: &str, expression: &str) -> Value {
        let found = async {
            loop {
                let value = self.eval(expression).await;
                if ![Value::Null, json!(false), json!(""), json!(0)].contains(&value) {
                    return value;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        within(what, found).await
    }

    /// What an expression in the page is, or comes to be.
    pub(super) async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", asked).await;
        // While one page makes room for another there is none.
        match answer.get("exceptionDetails") {
            Some(_) => Value::Null,
            None => answer["result"]["value"].take(),
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let mut command = json!({"id": id, "method": method, "params": params});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.devtools.send(command.to_string()).await;
        loop {
            let text = self.devtools.text(method).await;
            let mut message: Value = serde_json::from_str(&text).unwrap();
            if message["id"] == id {
                return message["result"].take();
            }
        }
    }
}
