//! {{name}}: a collector.

use serde::Deserialize;
use telltale_plugin::{Collector, Fault, Metrics, Tick, export_collector};

export_collector!(Dice);

/// A die.
#[derive(Default)]
struct Dice {
    config: Config,
}

/// The `[config]` table of `{{name}}.toml`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    sides: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { sides: 6 }
    }
}

impl Collector for Dice {
    type Config = Config;

    fn configure(&mut self, config: Config) -> Result<(), Fault> {
        if config.sides == 0 {
            return Err(Fault::config("[config] sides must be 1 or more"));
        }
        self.config = config;
        Ok(())
    }

    fn collect(&mut self, tick: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
        let roll = (tick.number.wrapping_mul(2_654_435_761) >> 16) % self.config.sides + 1;
        metrics.gauge("{{name}}.roll").description("The last roll of a die").set(roll as f64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::Collecting;

    #[test]
    fn a_roll_is_from_one_to_the_number_of_sides() {
        let mut dice = Collecting::<Dice>::default();
        dice.configure(r#"{"sides": 20}"#).unwrap();
        for number in 0..1000 {
            dice.collect(Tick { number, time_ns: 0 }).unwrap();
            let roll = dice.metrics.values()["{{name}}.roll"];
            assert!((1.0..=20.0).contains(&roll), "tick {number}: {roll}");
        }
    }
}
