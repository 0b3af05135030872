#!/usr/bin/env bash
# Builds RocksDB's static library once, outside target/, and tells cargo where it is.
#
# The crate librocksdb-sys compiles 343 C++ files, ten to twenty minutes on two cores, and again
# for every profile, every clean and every interruption. Its build script takes a finished library
# instead (ROCKSDB_LIB_DIR), so this script compiles the crate's own sources with the crate's own
# flags into a cache directory, where all profiles and checkouts share the result. An interrupted
# build goes on where it stopped. LZ4 and Zstandard are not part of the library: their own crates
# compile them (seconds) and librocksdb-sys links them.
#
# `cargo build` works without this script too; it is only slow.
#
# Environment: KEYBRAKE_CACHE (cache directory), JOBS (parallel compilers), CXX.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
cache=${KEYBRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keybrake}
case $cache in /*) ;; *) cache=$root/$cache ;; esac
cxx=${CXX:-g++}
read -ra compiler <<<"$cxx"
config=.cargo/config.toml
marker='# Written by scripts/rocksdb.sh: do not edit.'
# The build script these flags were copied from.
build_rs_sha256=2dbb97b102a2c13f0192ee75a49d4fc0f84fa0692ac9ffc84d364a7a28b472a3

say() { printf 'rocksdb: %s\n' "$*"; }
die() { printf 'rocksdb: %s\n' "$*" >&2; exit 1; }

if [ "$(uname -s)" != Linux ]; then
    say 'not Linux: cargo compiles RocksDB itself'
    exit 0
fi
command -v "${compiler[0]}" >/dev/null || die "${compiler[0]} is missing: run scripts/setup.sh build"

version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/"/, "", $3); print $3; exit }' Cargo.lock)
[ -n "$version" ] || die 'librocksdb-sys is not in Cargo.lock'
grep -q '^rocksdb = .*features = \["lz4", "zstd", "bindgen-runtime"\]' Cargo.toml ||
    die 'the features of rocksdb in Cargo.toml changed: change the flags here as well'

# What the crate's build script and the cc crate pass in a release build; warnings are off, as cargo
# does not show them for a dependency either.
flags=(
    -O3 -ffunction-sections -fdata-sections -fPIC -std=c++20 -w -include cstdint
    -DLZ4=1 -DZSTD=1 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
    -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
    -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
)

cpu_has() { grep -qwm1 -- "$1" /proc/cpuinfo; }

# RocksDB chooses its CRC32C when it is compiled, not when it runs, and the software one is slow.
# So a build on a machine with these instructions needs a machine with them to run on: x86-64-v2
# plus carry-less multiplication, which every x86 server sold since 2011 has.
case $(uname -m) in
    x86_64)
        flags+=(-m64)
        if cpu_has sse4_2 && cpu_has popcnt; then
            flags+=(-msse2 -msse4.1 -msse4.2 -mpopcnt)
            if cpu_has pclmulqdq; then flags+=(-mpclmul); fi
        fi
        ;;
    aarch64)
        if cpu_has crc32 && cpu_has aes && cpu_has pmull; then
            flags+=(-march=armv8-a+crc+aes+crypto)
        fi
        ;;
    *)
        say "$(uname -m): cargo compiles RocksDB itself"
        exit 0
        ;;
esac

key=$( { "${compiler[@]}" --version | head -n 1; printf '%s\n' "${flags[@]}"; } | sha256sum | cut -c 1-12)
dir=$cache/rocksdb-$version-$key

# Points cargo at the finished library. A variable already set in the environment wins over it.
write_config() {
    local text path=${dir//\\/\\\\}
    text=$(printf '%s\n[env]\nROCKSDB_LIB_DIR = "%s"\nROCKSDB_STATIC = "1"' "$marker" "${path//\"/\\\"}")
    if [ -e "$config" ] && [ "$(head -n 1 "$config")" != "$marker" ]; then
        grep -qF "$dir" "$config" || {
            say "$config is not this script's, so it stays; add these lines to it:"
            tail -n +2 <<<"$text"
        }
    elif [ ! -e "$config" ] || [ "$(cat "$config")" != "$text" ]; then
        mkdir -p .cargo
        printf '%s\n' "$text" >"$config.tmp.$$"
        mv "$config.tmp.$$" "$config"
    fi
}

if [ -f "$dir/librocksdb.a" ]; then
    write_config
    exit 0
fi

mkdir -p "$cache"
exec 9>"$cache/rocksdb.lock"
flock -n 9 || { say 'another build is running; waiting for it'; flock 9; }
if [ -f "$dir/librocksdb.a" ]; then
    write_config
    exit 0
fi

cargo fetch --locked
metadata=$(cargo metadata --locked --format-version 1)
# The directory of a dependency's sources, wherever cargo keeps them.
sources_of() {
    local path
    path=$(grep -oE "\"manifest_path\":\"[^\"]*/$1(-[0-9][^/\"]*)?/Cargo\.toml\"" <<<"$metadata" | head -n 1)
    path=${path#*:\"}
    [ -n "$path" ] || die "cargo metadata does not know $1"
    printf '%s\n' "${path%/Cargo.toml\"}"
}
crate=$(sources_of librocksdb-sys)
lz4=$(sources_of lz4-sys)
zstd=$(sources_of zstd-sys)

found=$(sha256sum <"$crate/build.rs" | cut -d ' ' -f 1)
[ "$found" = "$build_rs_sha256" ] || die "the build script of librocksdb-sys $version is not the one
whose flags are copied here: compare them, then set build_rs_sha256=$found"

# A compiler under -O3 takes up to 1 GB on the largest files.
jobs=${JOBS:-$(nproc)}
partial=$dir.partial
mkdir -p "$partial/objects"

export KEYBRAKE_OBJECTS=$partial/objects
mapfile -t files < <(sed 's/[[:space:]]*$//; /^$/d; /^util\/build_version\.cc$/d; s|^|rocksdb/|' \
    "$crate/rocksdb_lib_sources.txt")
# The crate brings its own, with the version filled in.
files+=(build_version.cc)
export KEYBRAKE_TOTAL=${#files[@]}

done_before=$(find "$partial/objects" -name '*.o' | wc -l)
say "compiling RocksDB $version once: $KEYBRAKE_TOTAL files, $jobs at a time, ten to twenty minutes on two cores"
[ "$done_before" -eq 0 ] || say "$done_before files are there from an interrupted build"
started=$SECONDS

# Compiles one file: the arguments are the compiler with its flags, then the file. The rename keeps
# a half-written object from looking finished.
compile() {
    local file=${!#} object count
    object=$KEYBRAKE_OBJECTS/${file//\//__}.o
    [ -f "$object" ] && return 0
    "${@:1:$#-1}" -c "$file" -o "$object.tmp.$$" || {
        rm -f "$object.tmp.$$"
        printf 'rocksdb: %s does not compile\n' "$file" >&2
        # Tells xargs to start no further file.
        return 255
    }
    mv "$object.tmp.$$" "$object"
    count=$(find "$KEYBRAKE_OBJECTS" -name '*.o' | wc -l)
    if [ $((count % 20)) -eq 0 ] || [ "$count" -eq "$KEYBRAKE_TOTAL" ]; then
        printf 'rocksdb: file %s of %s\n' "$count" "$KEYBRAKE_TOTAL"
    fi
}
export -f compile

# From the crate's directory, as its build script: so the file names in RocksDB's log and asserts
# are relative.
(
    cd "$crate"
    # shellcheck disable=SC2016 # the inner shell expands it
    printf '%s\0' "${files[@]}" |
        xargs -0 -n 1 -P "$jobs" bash -c 'compile "$@"' compile \
            "${compiler[@]}" "${flags[@]}" -Irocksdb/include/ -Irocksdb/ \
            -Irocksdb/third-party/gtest-1.8.1/fused-src/ -I"$lz4/liblz4/lib" -I"$zstd/zstd/lib" -I.
) || die 'the build stopped; run it again and it goes on from here'

# Only whole objects: a killed compiler may have left a .tmp file.
rm -rf "${partial:?}/lib"
mkdir "$partial/lib"
find "$partial/objects" -name '*.o' -print0 | sort -z | xargs -0 ar qcs "$partial/lib/librocksdb.a"
mv "$partial/lib" "$dir"
rm -rf "$partial"
write_config
say "done in $((SECONDS - started)) s"
