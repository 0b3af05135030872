#!/usr/bin/env bash
# Judges keybrake's TLS towards agents by two programs that are not ours: conversations of tlslite-ng
# (scripts/tls-audit.py) and testssl.sh. Prints both listings; exit status 1 unless exactly TLS 1.2 and 1.3 with AEAD
# suites are offered, no known weakness is found, and each conversation ends as it must. About five minutes.
# Needs scripts/setup.sh tls and scripts/rocksdb.sh.
#
# Environment: CHECK=conversations leaves testssl.sh out: ten seconds.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
cache=${KEYBRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keybrake}
target=${CARGO_TARGET_DIR:-$root/target}
cargo build --locked -p keybrake-dataplane
dir=$(mktemp -d)
pid=
end() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    wait || true
    rm -rf "$dir"
}
trap end EXIT

cd "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 90 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null
cat >keybrake.toml <<'TOML'
[proxy]
listen = "127.0.0.1:0"
workers = 1
tls = { cert_file = "cert.pem", key_file = "key.pem" }
[[vendor]]
name = "stripe"
base_url = "https://api.stripe.com"
TOML
"$target/debug/keybrake-dataplane" --config keybrake.toml 2>output &
pid=$!
port=
for _ in $(seq 300); do
    port=$(sed -n 's|.*agents at https://127.0.0.1:\([0-9]*\),.*|\1|p' output)
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { cat output >&2; exit 1; }

printf '== conversations of tlslite-ng\n'
"$cache/venv-tls/bin/python" "$root/scripts/tls-audit.py" 127.0.0.1 "$port"
[ "${CHECK:-}" != conversations ] || exit 0

printf '== testssl.sh\n'
testssl --warnings batch --quiet --color 0 --nodns none --add-ca cert.pem --jsonfile findings.json -p -s -f -P -S -U \
    "127.0.0.1:$port" </dev/null | grep -v '^$' || true
python3 - findings.json <<'PYTHON'
import json, sys

found = {one["id"]: one for one in json.load(open(sys.argv[1]))}
must = {
    "SSLv2": "not offered", "SSLv3": "not offered", "TLS1": "not offered", "TLS1_1": "not offered",
    "TLS1_2": "offered", "TLS1_3": "offered", "cipherlist_NULL": "not offered", "cipherlist_aNULL": "not offered",
    "cipherlist_EXPORT": "not offered", "cipherlist_LOW": "not offered", "cipherlist_3DES_IDEA": "not offered",
    "cipherlist_AVERAGE": "not offered", "cipherlist_STRONG": "offered",
}
wrong = [f"{name}: {found.get(name, {}).get('finding', 'not tested')}, and not {expected}"
         for name, expected in must.items()
         if not found.get(name, {}).get("finding", "").startswith(expected)]
# Of the certificate that this script made, and of the machine's OpenSSL.
of_this_script = {"cert_revocation", "cert_chain_of_trust", "cert_trust", "engine_problem"}
wrong += [f"{name}: {one['severity']}: {one['finding']}" for name, one in found.items()
          if one["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL") and name not in of_this_script]
print("\n".join(["FAILED"] + wrong) if wrong else "TLS 1.2 and 1.3, AEAD suites alone, no finding")
sys.exit(bool(wrong))
PYTHON
