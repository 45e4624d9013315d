//! The plugin's exports, and the database as a plugin sees it.

mod bindings {
    #![allow(
        missing_docs,
        unsafe_code,
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    use super::Guest;
    wit_bindgen::generate!({ path: "../../wit", world: "collector" });
    export!(Guest);
}

use crate::collector::{Batch, Collector, METRICS};
use crate::queries::{Database, Failure, Value};
use bindings::exports::telltale::plugin::collect;
use bindings::telltale::plugin::{sql, types};
use std::cell::RefCell;

thread_local! {
    static COLLECTOR: RefCell<Collector> = RefCell::default();
}

struct Guest;

impl collect::Guest for Guest {
    fn configure(config_json: String) -> Result<(), types::Fault> {
        COLLECTOR
            .with_borrow_mut(|collector| collector.configure(&config_json))
            .map_err(types::Fault::Config)
    }

    fn collect(tick: types::Tick) -> Result<collect::Batch, types::Fault> {
        COLLECTOR.with_borrow_mut(|collector| {
            let mut database = Granted(collector.database().to_owned());
            let now_s = tick.time_ns as f64 / 1e9;
            match collector.collect(&mut database, now_s) {
                Ok(batch) => Ok(batch.into()),
                Err(Failure::Denied(text)) => Err(types::Fault::Config(text)),
                Err(Failure::Failed(text)) => Err(types::Fault::Retry(text)),
            }
        })
    }
}

/// The database that the settings grant under a name.
struct Granted(String);

impl Database for Granted {
    fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Vec<Value>, Failure> {
        let parameters: Vec<_> = parameters.iter().cloned().map(Into::into).collect();
        match sql::query(&self.0, statement, &parameters) {
            Ok(rows) => Ok(rows.values.into_iter().map(Into::into).collect()),
            Err(sql::Error::Denied(text)) => Err(Failure::Denied(text)),
            Err(sql::Error::Unavailable(text) | sql::Error::Statement(text)) => {
                Err(Failure::Failed(text))
            }
            Err(sql::Error::Timeout) => Err(Failure::Failed("the query took too long".to_owned())),
        }
    }
}

impl From<Value> for sql::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(text) => Self::Text(text),
        }
    }
}

impl From<sql::Value> for Value {
    fn from(value: sql::Value) -> Self {
        match value {
            sql::Value::Null | sql::Value::Blob(_) => Self::Null,
            sql::Value::Integer(number) => Self::Integer(number),
            sql::Value::Real(number) => Self::Real(number),
            sql::Value::Text(text) => Self::Text(text),
        }
    }
}

impl From<Batch> for collect::Batch {
    fn from(batch: Batch) -> Self {
        let declare = batch.declare.into_iter().flat_map(|(first_id, label)| {
            (first_id..).zip(&METRICS).map(move |(id, metric)| collect::Declaration {
                id,
                series: types::Series {
                    name: metric.name.to_owned(),
                    kind: if metric.is_counter { types::Kind::Counter } else { types::Kind::Gauge },
                    unit: metric.unit.to_owned(),
                    description: metric.description.to_owned(),
                    labels: vec![types::Label { key: "skill".to_owned(), value: label.clone() }],
                },
            })
        });
        let documents = batch.documents.into_iter().map(|(name, json)| {
            let name = name.to_owned();
            types::Document { name, json }
        });
        Self {
            declare: declare.collect(),
            ids: batch.ids,
            values: batch.values,
            gone: batch.gone,
            documents: documents.collect(),
        }
    }
}
