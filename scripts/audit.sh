#!/usr/bin/env bash
# Checks the dependencies by deny.toml (rules C1, C3): licenses, bans and sources, and, where the database can be
# reached, advisories. What this machine does not allow is printed as `not run`.
#
#   scripts/audit.sh          with cargo-deny as it is installed, if it is
#   scripts/audit.sh install  installs it first, which takes some minutes
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo_deny=0.20.2

if ! command -v cargo-deny >/dev/null; then
    if [ "${1:-}" != install ]; then
        echo 'not run: cargo deny check (cargo-deny is not installed; `make audit` installs it)'
        exit 0
    fi
    cargo install --quiet --locked --version "$cargo_deny" cargo-deny
fi

cargo deny --locked check licenses bans sources
# Only what cannot be fetched is excused: the database itself is asked for first.
if fetched=$(cargo deny --locked fetch db 2>&1); then
    cargo deny --locked check --disable-fetch advisories
else
    printf 'not run: cargo deny check advisories (%s)\n' "$(printf '%s' "$fetched" | grep -v '^ *$' | tail -1)"
fi
