//! What a tick costs: with a thousand collectors as a whole, and by its parts.
//!
//! `cargo bench --bench tick` takes a minute and a half and ends with a table;
//! a filter after `--` takes what has it in its name (`tick/`, `collect/`,
//! `observe/`, `freeze/`, `encode/`, `judge/`). All figures are processor time, since
//! wall time on a shared machine tells of the neighbours.

// Paths, since a file that stands beside this one would be a benchmark itself.
#[path = "tick/calls.rs"]
mod calls;
#[path = "tick/figures.rs"]
mod figures;
#[path = "tick/load.rs"]
mod load;
#[path = "tick/rooms.rs"]
mod rooms;
#[path = "tick/sample.rs"]
mod sample;
#[path = "tick/table.rs"]
mod table;

use figures::Figures;
use load::{Company, Load};

/// How the goal is put: a thousand collectors with ten samples each.
const LOAD: Load = Load { collectors: 1000, series_each: 10, ticks: 50 };
/// The same when this is run as a test (`cargo test --benches`): does it work?
const LOAD_TEST: Load = Load { collectors: 10, series_each: 10, ticks: 2 };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let load = if measuring { LOAD } else { LOAD_TEST };

    let mut figures = Figures::new();
    calls::collect(&mut figures);
    calls::observe(&mut figures);
    rooms::freeze(&mut figures);
    rooms::encode(&mut figures);
    rooms::judge(&mut figures);
    let mut costs = Vec::new();
    for company in Company::ALL {
        if filter.is_none_or(|filter| company.name().contains(filter.as_str())) {
            costs.push((company, load::run(load, company)));
        }
    }
    if measuring {
        table::print(&figures, load, &costs);
    }
}
