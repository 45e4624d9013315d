//! With the application's database in PostgreSQL.

use serde_json::{Value, json};

use super::source_is;
use crate::harness::{Hub, Postgres, Setup};

/// The table as the application makes it there, with the time in this type.
fn schema(time: &str) -> String {
    format!(
        "CREATE TABLE routing_metrics (
            id SERIAL PRIMARY KEY, timestamp {time} NOT NULL, prompt_hash VARCHAR(64),
            strategy_used VARCHAR(50), provider VARCHAR(50), model VARCHAR(100),
            complexity_score DOUBLE PRECISION, confidence VARCHAR(10), estimated_cost NUMERIC(12, 8))"
    )
}

/// Three decisions of now, and one of long ago.
const DECISIONS: &str = "
    INSERT INTO routing_metrics (timestamp, strategy_used, provider, confidence, estimated_cost)
    VALUES (now() AT TIME ZONE 'UTC', 'hybrid', 'gemini', 'high', 0.0021),
        (now() AT TIME ZONE 'UTC' - interval '6 days', 'hybrid', 'claude', 'low', 0.0025),
        (now() AT TIME ZONE 'UTC', NULL, 'claude', 'certain', NULL),
        (now() AT TIME ZONE 'UTC' - interval '8 days', 'hybrid', 'claude', 'low', 9)";

/// A hub without a cache whose plugin is granted this server's database.
fn with(server: &Postgres) -> Setup {
    let grant = format!("[grant]\nsql = {{ routing = {:?} }}\n", server.address());
    let setup = Hub::new().plugin("routing", "telltale_routing", &grant);
    setup.configured("[routing]\ninterval = \"100ms\"\n")
}

#[tokio::test]
async fn the_figures_come_from_postgresql_too() {
    let Some(server) = Postgres::start().await else { return };
    let hub = with(&server).start().await;
    let mut client = hub.routing("").await;
    // No table yet.
    client.failed().await;
    for time in ["TIMESTAMP", "TIMESTAMPTZ"] {
        server.sql(&schema(time)).await;
        client.decisions_are(0).await;
        server.sql(DECISIONS).await;
        let mut told = client.decisions_are(3).await;
        told.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert_eq!(
            told,
            json!({
                "total_decisions": 3,
                "avg_confidence": 0.7,
                "strategy_performance": {
                    "hybrid": {"count": 2, "avg_cost": 0.0023, "avg_confidence": 0.7},
                    "unknown": {"count": 1, "avg_cost": Value::Null, "avg_confidence": Value::Null},
                },
                "confidence_distribution": {"high": 1, "medium": 0, "low": 1, "certain": 1},
                "provider_usage": {"claude": 2, "gemini": 1},
            })
        );
        source_is(&hub, "database", "denied").await;
        server.sql("DROP TABLE routing_metrics").await;
        client.failed().await;
    }
}

#[tokio::test]
async fn a_postgresql_that_is_killed_is_an_error_object_until_it_is_back() {
    let Some(mut server) = Postgres::start().await else { return };
    server.sql(&schema("TIMESTAMP")).await;
    server.sql(DECISIONS).await;
    let hub = with(&server).start().await;
    let mut client = hub.routing("").await;
    client.decisions_are(3).await;
    server.kill();
    client.failed().await;
    server.restart().await;
    client.decisions_are(3).await;
}
