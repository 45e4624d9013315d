//! What `check` and `bench` try out, and with what.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use crate::plugin::trial::{Subject, TrialError};

/// A component with the settings that were named, or those beside it.
pub(in crate::cli) fn of(component: &Path, settings: Option<&Path>) -> Subject {
    let beside = component.with_extension("toml");
    let settings = settings.map(Path::to_owned).or_else(|| beside.is_file().then_some(beside));
    Subject {
        component: component.to_owned(),
        settings,
        cache: cache(),
        anew: false,
        check_event: crate::app::check_event,
    }
}

/// Where compiled code is kept between two trials: not in a hub's data folder,
/// which is the hub's own.
pub(in crate::cli) fn cache() -> PathBuf {
    let variable =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("telltale")
}

/// Shows on standard error what the plugin logs, from this level on.
pub(in crate::cli) fn show_log(level: tracing::Level) {
    let ours = Targets::new().with_target("telltale", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false);
    tracing_subscriber::registry().with(ours).with(lines).init();
}

/// Why there is nothing to try.
pub(in crate::cli) fn failure(error: TrialError) -> Failure {
    match error {
        TrialError::Settings(_) => Failure::usage(error),
        _ => Failure::new(error),
    }
}
