//! The collector `probe`: are these addresses up, and how long do they take to
//! answer?

use std::time::Instant;

use serde::Deserialize;
use telltale_plugin::http::{self, Request};
use telltale_plugin::{Collector, Fault, Metrics, Tick, export_collector, log};

export_collector!(Probe);

/// They are asked one after the other: together they must keep `io_ms`.
const URLS_MAX: usize = 20;

/// The `[config]` table of `probe.toml`, which explains each key.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    urls: Vec<String>,
    timeout_ms: Option<u32>,
}

#[derive(Default)]
struct Probe {
    config: Config,
}

impl Collector for Probe {
    type Config = Config;

    fn configure(&mut self, config: Config) -> Result<(), Fault> {
        if config.urls.is_empty() || config.urls.len() > URLS_MAX {
            return Err(Fault::config(format!("[config] urls must be 1 to {URLS_MAX} addresses")));
        }
        self.config = config;
        Ok(())
    }

    fn collect(&mut self, _: Tick, metrics: &mut Metrics) -> Result<(), Fault> {
        for url in &self.config.urls {
            let timeout_ms = self.config.timeout_ms.unwrap_or(1000);
            let started = Instant::now();
            // The body is of no interest.
            let answer = http::fetch(&Request { timeout_ms, body_limit: 1, ..Request::get(url) });
            let took_s = started.elapsed().as_secs_f64();
            let status = match answer {
                Ok(response) => Some(response.status),
                Err(error @ (http::Error::Denied(_) | http::Error::Invalid(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    log::debug(&format!("{url}: {error:?}"));
                    None
                }
            };
            let is_up = status.is_some_and(|status| status < 500);
            let up = metrics.gauge("probe.up").description("1 if it answers and isn't broken");
            up.label("url", url).set(f64::from(u8::from(is_up)));
            if let Some(status) = status {
                let code = metrics.gauge("probe.status").description("The status that it answers");
                code.label("url", url).set(f64::from(status));
                let time = metrics.gauge("probe.duration").unit("s");
                let time = time.description("How long it took to answer");
                time.label("url", url).set(took_s);
            }
        }
        // Those that are not in the settings any more, or don't answer.
        metrics.end_unset();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use telltale_plugin::{Collecting, fake};

    #[test]
    fn an_address_is_up_down_or_not_granted() {
        let mut probe = Collecting::<Probe>::default();
        probe.configure(r#"{"urls": ["http://up/", "http://ill/", "http://down/"]}"#).unwrap();
        fake::http(|request| match request.url.as_str() {
            "http://up/" => Ok(http::Response::new(204, "")),
            "http://ill/" => Ok(http::Response::new(503, "")),
            _ => Err(http::Error::Timeout),
        });
        probe.collect(Tick { number: 1, time_ns: 0 }).unwrap();
        let values = probe.metrics.values();
        let up =
            ["up", "ill", "down"].map(|host| values[&format!("probe.up{{url=http://{host}/}}")]);
        assert_eq!(up, [1.0, 0.0, 0.0]);
        assert_eq!(values["probe.status{url=http://ill/}"], 503.0);
        assert!(!values.contains_key("probe.status{url=http://down/}"));

        fake::http(|_| Err(http::Error::Denied("http = [\"up\"]".to_owned())));
        let fault = probe.collect(Tick { number: 2, time_ns: 0 }).unwrap_err();
        assert_eq!(fault, Fault::config("http = [\"up\"]"));
    }
}
