#!/usr/bin/env bash
# Runs every check of `make test`, cheapest first, and stops at the first that fails, so that the
# last lines are always those of the test runner that decided. Needs scripts/setup.sh test and
# scripts/rocksdb.sh.
#
#   scripts/test.sh             every check
#   scripts/test.sh frameworks  the examples for agent frameworks alone; needs scripts/setup.sh frameworks
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The tests look for their virtualenvs there.
export KEYBRAKE_CACHE=${KEYBRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keybrake}
case $KEYBRAKE_CACHE in /*) ;; *) KEYBRAKE_CACHE=$PWD/$KEYBRAKE_CACHE ;; esac

step() { printf '\n== %s\n' "$*"; }

if [ "${1:-}" = frameworks ]; then
    step 'build'
    cargo build --locked --workspace --bins
    step 'agent frameworks'
    exec cargo test --locked -p keybrake-tests --features frameworks --test frameworks
fi

# Says why this machine has no io_uring, or nothing if it has. It asks the kernel for a ring of the
# size the workers use, since a sysctl, seccomp and the memory lock limit can each forbid it.
io_uring_fault() {
    python3 - <<'PYTHON'
import ctypes, os
IO_URING_SETUP = 425  # the same number on every architecture
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
ring = libc.syscall(ctypes.c_long(IO_URING_SETUP), ctypes.c_uint(1024), params)
if ring < 0:
    print(f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
else:
    os.close(ring)
PYTHON
}

# The whole workspace is always selected and the filter comes after, so that cargo resolves the
# same features every time and compiles nothing twice.
if command -v cargo-nextest >/dev/null; then
    unit_tests() {
        cargo nextest run --locked --workspace --no-fail-fast -E 'not package(keybrake-tests)'
    }
    process_tests() {
        cargo nextest run --locked --workspace --no-fail-fast -E 'package(keybrake-tests)'
    }
else
    unit_tests() { cargo test --locked --workspace --exclude keybrake-tests --lib --bins --tests --no-fail-fast; }
    process_tests() { cargo test --locked -p keybrake-tests --no-fail-fast; }
fi

step 'format'
cargo fmt --check

step 'clippy'
cargo clippy --locked --workspace --all-targets -- -D warnings

step 'dependencies'
scripts/audit.sh

step 'build'
cargo build --locked --workspace --bins --tests

step 'documentation examples'
cargo test --locked --workspace --doc --quiet

step 'unit tests'
unit_tests

# Every keybrake that a test starts is searched for secrets when it ends (tests/src/leaks.rs).
searched=${CARGO_TARGET_DIR:-target}/debug/secrets-scan.tsv
rm -f "$searched"

step 'processes over io_uring'
fault=$(io_uring_fault)
if [ -z "$fault" ]; then
    KEYBRAKE_TEST_DRIVER=io_uring process_tests
elif [ -r /proc/sys/kernel/io_uring_disabled ]; then
    printf 'not run: io_uring cannot be used here (%s; kernel.io_uring_disabled = %s)\n' \
        "$fault" "$(cat /proc/sys/kernel/io_uring_disabled)"
else
    printf 'not run: io_uring cannot be used here (%s)\n' "$fault"
fi

step 'processes over epoll'
KEYBRAKE_TEST_DRIVER=epoll process_tests

step 'secrets in all that was written'
awk -F'\t' '
    { files += $2; bytes += $3; secrets += $4; replies += $5; reply_bytes += $6; hits += $7 }
    END {
        printf "%d instances: %d files with %.0f MiB, %d replies with %.0f MiB, searched for %d secrets in each form: %d hits\n",
            NR, files, bytes / 1048576, replies, reply_bytes / 1048576, secrets, hits
        exit hits > 0 || NR == 0
    }' "$searched"
