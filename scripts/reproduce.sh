#!/usr/bin/env bash
# Builds the published binaries twice, in two directories, and compares their hashes (rule C4). What is compared is the
# last commit. Both builds take as long as two releases.
#
# Environment: KEEP (keep the directories and say where they are).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
binaries=(keybrake-dataplane keybrake)
scratch=$(mktemp -d)
[ -n "${KEEP:-}" ] || trap 'rm -rf "$scratch"' EXIT

build() {
    local dir=$scratch/$1
    mkdir -p "$dir/source/.cargo"
    git archive HEAD | tar -x -C "$dir/source"
    # Where the finished RocksDB is: the same for both, as its C++ is no part of what is compared.
    cp .cargo/config.toml "$dir/source/.cargo/"
    # No path of the machine in the binary: not of the sources, of the registry's or of the compiler.
    local flags="--remap-path-prefix=$dir/source=/keybrake --remap-path-prefix=$cargo_home=/cargo"
    flags+=" --remap-path-prefix=$sysroot=/rust"
    (cd "$dir/source" &&
        RUSTFLAGS=$flags SOURCE_DATE_EPOCH=0 CFLAGS="-ffile-prefix-map=$dir=/keybrake -ffile-prefix-map=$cargo_home=/cargo" \
            CARGO_TARGET_DIR=$dir/target cargo build --quiet --locked --profile dist \
            -p keybrake-dataplane -p keybrake-admin)
    (cd "$dir/target/dist" && sha256sum "${binaries[@]}")
}

one=$(build one)
other=$(build another/place)
printf '%s\n' "$one"
[ -z "${KEEP:-}" ] || printf 'kept in %s\n' "$scratch"
if [ "$one" != "$other" ]; then
    printf 'reproduce: the second build differs:\n%s\n' "$other" >&2
    exit 1
fi
for binary in "${binaries[@]}"; do
    if grep -aqF -e "$scratch" -e "$HOME/" "$scratch/one/target/dist/$binary"; then
        printf 'reproduce: %s names a path of this machine\n' "$binary" >&2
        exit 1
    fi
done
echo 'reproduce: both builds are equal'
