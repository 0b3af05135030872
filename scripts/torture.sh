#!/usr/bin/env bash
# Plays the torture of docs/torture.md: builds what it needs, then one line for each part. Exit status 1 where
# something is violated or a part cannot be run. Needs scripts/setup.sh torture, scripts/rocksdb.sh and root.
#
# Environment: PART (one part), SEED (repeats a run), ROUNDS (cycles of each part).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}

# Faults are played on debug builds, which check their arithmetic and can be told to fail; what is measured is
# measured on release builds.
cargo build --locked --workspace --bins
case ${PART:-} in
    '' | revoke | exhaust | cost) cargo build --locked --release -p keybrake-dataplane -p keybrake-admin -p keybrake-loadtest ;;
esac

# A process of this shell's own would only stand between it and Ctrl-C.
exec "$target/debug/keybrake-torture" "PART=${PART:-}" "SEED=${SEED:-}" "ROUNDS=${ROUNDS:-}"
