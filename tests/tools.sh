#!/usr/bin/env bash
# Installs what plugins in JavaScript, Python and C are built with, what the
# example clients stand on, and the servers and the browser that tests run, so
# that none of them is skipped: clang, Python, npm and Chromium by the system's
# packages (where this may), the others into target/tools, where the tests look
# first. Of servers only the programs: whole packages would start services.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=${CARGO_TARGET_DIR:-target}/tools
mkdir -p "$tools"

has_clang() {
    local runtime
    runtime=$(clang --target=wasm32-wasi -print-libgcc-file-name 2>/dev/null) &&
        [ -f "$runtime" ] && [ -f /usr/lib/wasm32-wasi/libc.a ] && command -v wasm-ld >/dev/null
}

# Each line: what has to be there, and the packages that bring it.
need=()
has_clang || need+=(clang lld wasi-libc libclang-rt-dev-wasm32)
python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3 python3-venv)
command -v npm >/dev/null || need+=(nodejs npm)

if [ "${#need[@]}" = 0 ]; then
    echo 'clang, Python, npm: there'
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${need[@]}"
else
    echo "tools are missing; install them with: apt-get install ${need[*]}" >&2
    exit 1
fi

# nginx, for the configuration of docs/deploy.md: only the program, since the
# whole package would start a service. Where there is no apt-get it may come from
# anywhere.
if [ -x "$tools/nginx/usr/sbin/nginx" ] || command -v nginx >/dev/null; then
    echo 'nginx: there'
elif command -v apt-get >/dev/null; then
    package=$(mktemp -d)
    # A machine that is new doesn't know yet where packages are.
    (cd "$package" && { apt-get download -q nginx || { apt-get update -q && apt-get download -q nginx; }; })
    dpkg-deb -x "$package"/nginx_*.deb "$tools/nginx"
    rm -r "$package"
else
    echo 'nginx is missing: install it' >&2
    exit 1
fi

# Chromium without a window, for pages. What the package puts on the path stays
# behind when it is ended, so `bin` has the program itself.
chromium=/usr/lib/chromium/chromium-headless-shell
if [ -x "$tools/bin/chromium" ] || command -v chromium >/dev/null; then
    echo 'chromium: there'
else
    if [ ! -x "$chromium" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium-headless-shell || {
            apt-get update -q
            DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium-headless-shell
        }
    fi
    if [ ! -x "$chromium" ]; then
        echo 'chromium is missing; install it with: apt-get install chromium-headless-shell' >&2
        exit 1
    fi
    mkdir -p "$tools/bin"
    ln -sf "$chromium" "$tools/bin/chromium"
fi

# Redis likewise, with the libraries that are not here; `bin` has what finds them.
if [ -x "$tools/bin/redis-server" ] || command -v redis-server >/dev/null; then
    echo 'redis-server: there'
elif command -v apt-get >/dev/null; then
    apt-cache show redis-server >/dev/null 2>&1 || apt-get update -q
    packages=(redis-server redis-tools)
    for library in $(apt-cache depends redis-tools | sed -n 's/^  Depends: \(lib.*\)/\1/p'); do
        dpkg-query -W -f='${Status}' "$library" 2>/dev/null | grep -q ' installed$' || packages+=("$library")
    done
    package=$(mktemp -d)
    (cd "$package" && { apt-get download -q "${packages[@]}" ||
        { apt-get update -q && apt-get download -q "${packages[@]}"; }; })
    for file in "$package"/*.deb; do
        dpkg-deb -x "$file" "$tools/redis"
    done
    rm -r "$package"
    mkdir -p "$tools/bin"
    cat >"$tools/bin/redis-server" <<'END'
#!/bin/sh
redis=$(cd "$(dirname "$0")/../redis" && pwd)
LD_LIBRARY_PATH=$(echo "$redis"/usr/lib/*-linux-gnu) exec "$redis/usr/bin/redis-server" "$@"
END
    chmod +x "$tools/bin/redis-server"
    "$tools/bin/redis-server" --version
else
    echo 'redis-server is missing: install it' >&2
    exit 1
fi

# The versions that the tests are known to pass with.
componentize_py=0.25.1
componentize_qjs=0.4.5
prometheus_client=0.26.0

if [ "$("$tools/venv/bin/componentize-py" --version 2>/dev/null)" = "componentize-py $componentize_py" ]; then
    echo 'componentize-py: there'
else
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/python" -m pip install -q "componentize-py==$componentize_py"
fi

manifest=$tools/npm/node_modules/componentize-qjs/package.json
if grep -qs "\"version\": \"$componentize_qjs\"" "$manifest"; then
    echo 'componentize-qjs: there'
else
    npm install --silent --no-fund --no-audit --prefix "$tools/npm" "componentize-qjs@$componentize_qjs"
fi

if [ "$("$tools/venv/bin/python" -c 'from importlib.metadata import version; print(version("prometheus_client"))' 2>/dev/null)" = "$prometheus_client" ]; then
    echo 'prometheus_client: there'
else
    "$tools/venv/bin/python" -m pip install -q "prometheus_client==$prometheus_client"
fi

# The example clients say themselves which versions they stand on.
websockets=$(sed -n 's/^websockets==//p' examples/clients/python/requirements.txt)
ws=$(sed -n 's/.*"ws": "\(.*\)".*/\1/p' examples/clients/javascript/package.json)

if [ "$("$tools/venv/bin/python" -c 'import websockets; print(websockets.__version__)' 2>/dev/null)" = "$websockets" ]; then
    echo 'websockets: there'
else
    "$tools/venv/bin/python" -m pip install -q "websockets==$websockets"
fi

if grep -qs "\"version\": \"$ws\"" "$tools/npm/node_modules/ws/package.json"; then
    echo 'ws: there'
else
    npm install --silent --no-fund --no-audit --prefix "$tools/npm" "ws@$ws"
fi

# The clients that the Socket.IO dialect is held against.
socketio=$(sed -n 's/.*"socket.io-client": "\(.*\)".*/\1/p' examples/clients/socketio/package.json)

if grep -qs "\"version\": \"$socketio\"" "$tools/npm/node_modules/socket.io-client/package.json"; then
    echo 'socket.io-client: there'
else
    npm install --silent --no-fund --no-audit --prefix "$tools/npm" "socket.io-client@$socketio"
fi

if "$tools/venv/bin/python" tests/socketio/installed.py; then
    echo 'python-socketio: there'
else
    # Not `pip`: it names the folder that the environment was made in.
    "$tools/venv/bin/python" -m pip install -q -r tests/socketio/requirements.txt
fi

# What the page of the browser tests is made with.
esbuild=0.28.2
react=19.3.1

if grep -qs "\"version\": \"$esbuild\"" "$tools/npm/node_modules/esbuild/package.json" &&
    grep -qs "\"version\": \"$react\"" "$tools/npm/node_modules/react-dom/package.json"; then
    echo 'React, esbuild: there'
else
    npm install --silent --no-fund --no-audit --prefix "$tools/npm" \
        "esbuild@$esbuild" "react@$react" "react-dom@$react"
fi

# PostgreSQL, which plugins are granted databases of: the package, and no database
# of its own, which would be a service.
if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null; then
    echo 'PostgreSQL: there'
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qy --no-install-recommends postgresql-common || {
        apt-get update -q
        apt-get install -qy --no-install-recommends postgresql-common
    }
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/none.conf
    apt-get install -qy --no-install-recommends postgresql
else
    echo 'PostgreSQL is missing; install it with: apt-get install postgresql' >&2
    exit 1
fi
