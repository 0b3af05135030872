#!/usr/bin/env bash
# Starts a stand-in Stripe and both processes of keybrake, prints a first call to paste, and stops
# everything on Ctrl-C. Needs the release build: `make run` makes it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${CARGO_TARGET_DIR:-target}/release
config=deploy/demo.toml
admin=http://127.0.0.1:8081
pids=()

# keybrake first, which drains, and the stand-in after it, so that what runs can finish.
stop() {
    trap - EXIT
    trap '' INT TERM
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    echo 'run: stopped; the data stays in ./data'
}
trap stop EXIT
trap 'exit 0' INT TERM

fail() {
    echo "run: $1" >&2
    exit 1
}

# In sessions of their own, so that Ctrl-C reaches this script alone and it ends them in order.
STRIPE_SECRET_KEY=${STRIPE_SECRET_KEY:-sk_test_stand_in_only} \
    setsid "$bin/keybrake" --config "$config" up &
pids+=($!)
setsid "$bin/keybrake-loadtest" vendor stripe --listen 127.0.0.1:8420 &
pids+=($!)

for _ in $(seq 100); do
    for pid in "${pids[@]}"; do
        kill -0 "$pid" 2>/dev/null || fail 'a process ended; its last line above says why'
    done
    if curl -fsS -o /dev/null "$admin/readyz" 2>/dev/null; then
        ready=yes
        break
    fi
    sleep 0.2
done
[ "${ready:-}" = yes ] || fail "keybrake is not ready after 20 s; see $admin/readyz"

cat <<TEXT

keybrake runs in front of a stand-in Stripe. Agents: http://127.0.0.1:8080/stripe  Operators: $admin
Admin token: $(cat data/admin.token)

Paste into another terminal, in this directory:

  # 1. Issue a key that may charge at most \$50 a day:
  VAULT_KEY=\$($bin/keybrake --config $config key issue --vendor stripe --label first-agent \\
    --allow 'POST /v1/charges' --allow 'GET /v1/charges/*' --daily-usd-cap 50); echo "\$VAULT_KEY"

  # 2. Pay \$20 through it (the third time, the cap answers):
  curl -s http://127.0.0.1:8080/stripe/v1/charges -u "\$VAULT_KEY:" -d amount=2000 -d currency=usd -d source=tok_visa

  # 3. Read its audit rows:
  $bin/keybrake --config $config audit list --limit 5

Ctrl-C stops everything.
TEXT

wait -n "${pids[@]}" || true
fail 'a process ended; its last line above says why'
