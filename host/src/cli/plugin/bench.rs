//! `telltale plugin bench`

use std::path::PathBuf;

use clap::Args;

use super::text::{bytes, nanos};
use super::{Failure, client, print, subject};
use crate::plugin::trial::{Costs, Subject, Trial};

#[derive(Debug, Args)]
#[command(after_help = "\
Times of calls are processor time, so that a busy machine tells nearly the same as an idle one. \
What is measured is the way into the plugin and back, with all that it hands over.")]
pub(in crate::cli) struct Bench {
    /// The component
    #[arg(value_name = "FILE")]
    component: PathBuf,
    /// Its settings [default: the file of the same name beside it (NAME.toml), if there is one]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How many series a detector is shown; a collector has its own
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    series: u32,
    /// How many calls are measured
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    ticks: u32,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        subject::show_log(tracing::Level::INFO);
        let subject = subject::of(&self.component, self.settings.as_deref());
        let trial = Trial::open(&Subject { anew: true, ..subject }).map_err(subject::failure)?;
        let costs = client::wait_for(async {
            trial.bench(self.series, self.ticks).await.map_err(Failure::new)
        })?;
        if self.json {
            print(&serde_json::to_string(&costs).map_err(Failure::new)?);
        } else {
            show(&costs);
        }
        Ok(())
    }
}

fn show(costs: &Costs) {
    let call = &costs.call;
    print(&format!("plugin       {}, a {}", costs.plugin, costs.world));
    print(&format!("component    {}", bytes(costs.component_bytes)));
    if let Some(compile) = costs.compile_ms {
        print(&format!("compile      {}", nanos(compile * 1e6)));
    }
    if let Some(load) = costs.load_ms {
        print(&format!("load         {} (from the cache)", nanos(load * 1e6)));
    }
    print(&format!("start        {}", nanos(costs.start_us * 1e3)));
    print(&format!("first call   {}", nanos(call.first_ns)));
    print(&format!(
        "call         {} (best {}, p99 {}; {} calls of {} values)",
        nanos(call.median_ns),
        nanos(call.best_ns),
        nanos(call.p99_ns),
        call.count,
        costs.values
    ));
    if let Some(value) = costs.ns_per_value {
        print(&format!("a value      {}", nanos(value)));
    }
    print(&format!("memory       {}", bytes(costs.memory_bytes as u64)));
    if let (Some(state), Some(save)) = (costs.state_bytes, costs.save_us) {
        print(&format!("state        {}, saved in {}", bytes(state as u64), nanos(save * 1e3)));
    }
}
