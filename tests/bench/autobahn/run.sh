#!/usr/bin/env bash
# WebSocket conformance: runs the Autobahn fuzzing client's cases 1 to 7, 9 and
# 10 against the echo endpoint (echo.rs), or against the one at ADDRESS, and
# fails if a case has failed. The reports are in target/autobahn.
#
#     tests/bench/autobahn/run.sh [ADDRESS]        an address: 127.0.0.1:9001
set -euo pipefail
cd "$(dirname "$0")/../../.."

target=${CARGO_TARGET_DIR:-target}
reports=$target/autobahn
wstest=$target/tools/autobahn/wstest
# All cases take 20 to 60 s.
limit_s=600

tests/bench/autobahn/setup.sh >&2
rm -rf "$reports"
mkdir -p "$reports"

address=${1:-}
if [ -z "$address" ]; then
    cargo build --quiet --locked --example echo
    "$target/debug/examples/echo" >"$reports/address" &
    echo=$!
    trap 'kill "$echo" 2>/dev/null || true' EXIT
    until address=$(grep -s -m 1 . "$reports/address"); do
        kill -0 "$echo" || { echo 'the echo endpoint has ended' >&2; exit 1; }
        sleep 0.1
    done
fi

cat >"$reports/spec.json" <<EOF
{
    "outdir": "$reports",
    "options": {"failByDrop": false},
    "servers": [{"agent": "echo", "url": "ws://$address"}],
    "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
    "exclude-cases": [],
    "exclude-agent-cases": {}
}
EOF
started=$SECONDS
if ! timeout "$limit_s" "$wstest" -m fuzzingclient -s "$reports/spec.json" >"$reports/log" 2>&1; then
    tail -n 20 "$reports/log" >&2
    echo "the fuzzing client failed, or took more than $limit_s s: see $reports/log" >&2
    exit 1
fi
echo "Autobahn 0.8.2 against ws://$address, $((SECONDS - started)) s"
python3 tests/bench/autobahn/summary.py "$reports/index.json"
