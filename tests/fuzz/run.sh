#!/usr/bin/env bash
# Fuzzes what strangers reach: tests/fuzz/run.sh [--minimise] [SECONDS [TARGET...]]
#
# Each target runs for so many seconds (default 60), on one processor and with at
# most 2 GiB. What it finds is in tests/fuzz/artifacts/TARGET; what it learns is
# in a folder of its own, and goes into tests/fuzz/corpus only with --minimise.
# Needs `cargo install cargo-fuzz`. The first build takes as long as that of the
# hub in release, since it is one, with other flags.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Inputs of each target that are kept of what was learned.
LEARNED_MAX=24

minimise=
if [ "${1:-}" = --minimise ]; then minimise=yes; shift; fi
seconds=${1:-60}
if [ $# -gt 0 ]; then shift; fi
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' tests/fuzz/Cargo.toml)
fi

# The same versions as the hub's own, and its toolchain: only the flags that
# libFuzzer needs are not stable.
cp Cargo.lock tests/fuzz/Cargo.lock
export RUSTC_BOOTSTRAP=1
# No sanitizer: the hub has no unsafe code, and it would double the time.
flags=(--fuzz-dir tests/fuzz --sanitizer none --codegen-units 16)
flags+=(--target-dir "${CARGO_TARGET_DIR:-target/fuzz}")
# What the hubs write goes with them, and is not to wait for a disk.
TMPDIR=$(mktemp -d -p "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

cargo fuzz build "${flags[@]}"
for target in "${targets[@]}"; do
    learned=${CARGO_TARGET_DIR:-target/fuzz}/corpus/$target
    mkdir -p "$learned"
    printf '\n== %s, for %s s\n' "$target" "$seconds"
    cargo fuzz run "${flags[@]}" "$target" "$learned" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=25 -rss_limit_mb=2048 -print_final_stats=1
    if [ -n "$minimise" ]; then
        # What was learned is put in the place of what was learned before: the
        # inputs that reach most beyond those by hand, in that order.
        cover=$(mktemp -d)
        cargo fuzz run "${flags[@]}" "$target" "$cover" "tests/fuzz/corpus/$target" "$learned" -- \
            -set_cover_merge=1 -use_counters=0 -use_cmp=0 -max_len=1024
        find "tests/fuzz/corpus/$target" -regextype egrep -regex '.*/[0-9a-f]{40}' -delete
        find "$cover" -type f -printf '%T@ %p\n' | sort -n | head -n "$LEARNED_MAX" | cut -d ' ' -f 2 |
            xargs -r cp -t "tests/fuzz/corpus/$target"
    fi
done
