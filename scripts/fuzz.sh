#!/usr/bin/env bash
# Fuzzes one target after the other with one job each, and prints how many inputs each tried.
#
# Environment: TARGET (one or several of fuzz/fuzz_targets; all of them), SECONDS_EACH (300), KEYBRAKE_NIGHTLY (nightly:
# the toolchain to compile with), SANITIZER (none: keybrake-proto has no unsafe code, and without one a run tries several
# times as many inputs; address looks into its dependencies too).
#
# It begins with fuzz/corpus and what earlier runs found, in fuzz/found. What makes a check fail is written to
# fuzz/artifacts: CONTRIBUTING.md says what to do with it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
nightly=${KEYBRAKE_NIGHTLY:-nightly}
seconds=${SECONDS_EACH:-300}
sanitizer=${SANITIZER:-none}
# Newer ones may want a newer compiler.
cargo_fuzz=0.13.2
die() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }

cargo "+$nightly" --version >/dev/null 2>&1 ||
    die "libFuzzer needs a nightly compiler: rustup toolchain install nightly, or name one in KEYBRAKE_NIGHTLY"
if ! command -v cargo-fuzz >/dev/null; then
    printf 'fuzz: installing cargo-fuzz %s\n' "$cargo_fuzz"
    cargo install --quiet --locked --version "$cargo_fuzz" cargo-fuzz
fi

read -ra targets <<<"${TARGET:-}"
if [ "${#targets[@]}" = 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || die "no target $target; fuzz/fuzz_targets has them"
done

fuzz() { cargo "+$nightly" fuzz "$1" --fuzz-dir fuzz --sanitizer "$sanitizer" "${@:2}"; }

fuzz build
total=0 failed=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/found/$target"
    log=fuzz/found/$target.log
    status=held
    fuzz run "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
        "-max_total_time=$seconds" -print_final_stats=1 -timeout=10 >"$log" 2>&1 || { status=FAILED failed=1; }
    runs=$(awk '/stat::number_of_executed_units/ { runs = $2 } END { print runs + 0 }' "$log")
    total=$((total + runs))
    printf '%-14s %12d inputs  %s\n' "$target" "$runs" "$status"
    [ "$status" = held ] || grep -a -E 'panicked at|assertion|Test unit written' -A 3 "$log" >&2 || true
done
printf '%-14s %12d inputs in %d s each\n' total "$total" "$seconds"
exit "$failed"
