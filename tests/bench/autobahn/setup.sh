#!/usr/bin/env bash
# Installs the Autobahn fuzzing client into target/tools/autobahn. It runs under
# Python 2.7: under the machine's own (PYTHON2 names another), or, where there is
# none, under that of Debian 11, whose packages are unpacked and not installed.
# Needs a C compiler and Python 3, and no rights.
set -euo pipefail
cd "$(dirname "$0")/../../.."

mkdir -p "${CARGO_TARGET_DIR:-target}/tools/autobahn"
tools=$(cd "${CARGO_TARGET_DIR:-target}/tools/autobahn" && pwd)
requirements=$PWD/tests/bench/autobahn/requirements.txt
debian=$tools/debian

if cmp -s "$requirements" "$tools/installed.txt"; then
    echo 'autobahntestsuite: there'
    exit
fi
rm -rf "$tools/site" "$tools/installed.txt"

# Whether a Python can run what is to be installed, and build its one extension.
usable() {
    "$1" -c 'import ssl, sys, zlib; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null
}

# Unpacks the packages of Debian 11 that Python 2.7 takes, with lists and a cache
# of their own, so that the system's apt neither changes nor notices.
unpack_debian_11() {
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$debian"/{lists,cache,packages,root}
    echo "deb [signed-by=$keys] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} bullseye main" \
        >"$debian/sources.list"
    cat >"$debian/apt.conf" <<EOF
Dir::Etc::SourceList "$debian/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$debian/lists";
Dir::Cache "$debian/cache";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
EOF
    (
        export APT_CONFIG=$debian/apt.conf
        cd "$debian/packages"
        apt-get -q update
        apt-get -q download libffi7 libpython2.7-dev libpython2.7-minimal \
            libpython2.7-stdlib libssl1.1 python2.7-minimal
    )
    local package
    for package in "$debian"/packages/*.deb; do
        dpkg -x "$package" "$debian/root"
    done
    rm -rf "$debian"/{lists,cache,packages}
    # Its libraries and headers are looked for under / otherwise.
    local libraries=("$debian"/root/usr/lib/*-linux-gnu*)
    cat >"$debian/python2.7" <<EOF
#!/bin/sh
export LD_LIBRARY_PATH="${libraries[0]}"
export CPATH="$debian/root/usr/include/python2.7:$debian/root/usr/include"
exec "$debian/root/usr/bin/python2.7" "\$@"
EOF
    chmod +x "$debian/python2.7"
}

python=${PYTHON2:-python2.7}
if ! usable "$python"; then
    python=$debian/python2.7
    usable "$python" || unpack_debian_11
    usable "$python" || { echo 'there is no Python 2.7 to be had' >&2; exit 1; }
fi
echo "Python 2.7: $python"

# The last pip that knows Python 2.7 installs itself from its wheel, which an
# environment of Python 3 fetches, since a Python of Debian has no pip.
[ -x "$tools/fetch/bin/pip" ] || python3 -m venv "$tools/fetch"
"$tools/fetch/bin/pip" download -q --no-deps -d "$tools" pip==20.3.4
export PYTHONPATH=$tools/site
install=(install -q --no-cache-dir --no-deps --upgrade --target "$tools/site")
wheel=$tools/pip-20.3.4-py2.py3-none-any.whl
"$python" -W ignore "$wheel/pip" "${install[@]}" "$wheel" setuptools==44.1.1 wheel==0.37.1
"$python" -W ignore -m pip "${install[@]}" -r "$requirements"
unset PYTHONPATH

# The names below `zope` are found only where a folder counts as a site.
cat >"$tools/wstest" <<EOF
#!/bin/sh
exec "$python" -W ignore -c 'import site; site.addsitedir("$tools/site")
from autobahntestsuite.wstest import run; run()' "\$@"
EOF
chmod +x "$tools/wstest"
"$tools/wstest" --autobahnversion
cp "$requirements" "$tools/installed.txt"
echo 'autobahntestsuite: installed'
