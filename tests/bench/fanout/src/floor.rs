//! The floor: a bare loop of `send` over accepted sockets, no protocol at all.
//!
//! What is to go out to a client in a tick goes out in one `send`.

use std::io::{self, Write};
use std::mem;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::frame;
use crate::load::Plan;

/// Serves until it is killed: waits for a line on standard input, then sends
/// the plan's updates at each tick to all who have connected by then.
pub(crate) fn run(port: u16, plan: &Path, threads: usize) -> io::Result<()> {
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(plan)?)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let more = accepted.clone();
    // It ends with the process.
    thread::spawn(move || accept(&listener, &more));
    io::stdin().read_line(&mut String::new())?;
    let clients = mem::take(&mut *accepted.lock().unwrap_or_else(PoisonError::into_inner));
    let start = (Instant::now(), Timestamp::now());
    thread::scope(|scope| {
        for clients in clients.chunks(clients.len().div_ceil(threads)) {
            scope.spawn(|| send(clients, &plan, start));
        }
    });
    Ok(())
}

fn accept(listener: &TcpListener, accepted: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept()?;
        client.set_nodelay(true)?;
        accepted.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

/// The ticks of one thread. All threads have the same, so that a tick has one
/// time in all of them.
fn send(clients: &[TcpStream], plan: &Plan, (start, time): (Instant, Timestamp)) {
    let interval = Duration::from_millis(plan.interval_ms);
    for tick in 1.. {
        let after = interval * tick;
        thread::sleep(after.saturating_sub(start.elapsed()));
        let stamp = (time + after).as_microsecond().to_string();
        let texts = plan.updates.iter().map(|update| update.replace('@', &stamp));
        let bytes: Vec<u8> = texts.flat_map(|text| frame::from_server(&text)).collect();
        for mut client in clients {
            // One that has gone costs a failed call from now on.
            let _ = client.write_all(&bytes);
        }
    }
}
