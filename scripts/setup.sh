#!/usr/bin/env bash
# Installs what is missing on a Debian or Ubuntu machine with a Rust toolchain; does nothing, in
# under a second, when all is there.
#
#   scripts/setup.sh build    what building and running need: compiler, libclang, make, curl
#   scripts/setup.sh lint     also rustfmt and clippy
#   scripts/setup.sh test     also git, faketime, python3 and a virtualenv for each SDK, in the cache directory
#   scripts/setup.sh torture  what building needs, and faketime, e2fsprogs, iproute2 and mount
#
# Environment: KEYBRAKE_CACHE (cache directory).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
cache=${KEYBRAKE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/keybrake}
case $cache in /*) ;; *) cache=$root/$cache ;; esac

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

mode=${1:-}
case $mode in
    build | lint | test | torture) ;;
    *) die 'usage: scripts/setup.sh build|lint|test|torture' ;;
esac

# bindgen reads RocksDB's header with libclang, and libclang needs the headers that come with it.
has_libclang() {
    local dir found=
    for dir in ${LIBCLANG_PATH:+"$LIBCLANG_PATH"} /usr/lib/llvm-*/lib /usr/lib /usr/lib64 \
        /usr/lib/*-linux-gnu /usr/local/lib; do
        if compgen -G "$dir/libclang.so*" >/dev/null || compgen -G "$dir/libclang-*.so*" >/dev/null; then
            found=1
            break
        fi
    done
    [ -n "$found" ] && {
        compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stdbool.h' >/dev/null ||
            compgen -G '/usr/lib/clang/*/include/stdbool.h' >/dev/null ||
            compgen -G "${LIBCLANG_PATH:-/nowhere}/clang/*/include/stdbool.h" >/dev/null
    }
}

packages=()
has g++ || packages+=(g++)
has make || packages+=(make)
has curl || packages+=(curl)
# The metapackage, because it follows the distribution's version of LLVM.
has_libclang || packages+=(libclang-dev)
if [ "$mode" = test ]; then
    # A test asks it which files are the project's.
    has git || packages+=(git)
    # Debian leaves ensurepip out of python3, and without it a virtualenv has no pip.
    if ! has python3; then
        packages+=(python3 python3-venv)
    elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=(python3-venv)
    fi
fi

if [ "$mode" = test ] || [ "$mode" = torture ]; then
    # Tests set the clock of one process with it.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null ||
        compgen -G '/usr/lib/faketime/libfaketimeMT.so.1' >/dev/null || packages+=(faketime)
fi
if [ "$mode" = torture ]; then
    # Disks in files, and cables between namespaces; they are in /usr/sbin.
    PATH=$PATH:/usr/sbin:/sbin
    has mkfs.ext4 || packages+=(e2fsprogs)
    has ip && has ss || packages+=(iproute2)
    has mount || packages+=(mount)
fi

if [ "${#packages[@]}" -gt 0 ]; then
    missing="missing packages: ${packages[*]}"
    has apt-get || die "$missing (Debian's names); install them with your package manager"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || die "$missing; install them as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "installing ${packages[*]}"
    "${as_root[@]}" apt-get update -qq || say 'apt-get update failed; trying with the lists that are there'
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}" ||
        die "$missing; install them as root: apt-get install ${packages[*]}"
fi

has cargo || die 'cargo is missing: install Rust from https://rustup.rs'
if [ "$mode" = build ] || [ "$mode" = torture ]; then exit 0; fi

components=()
cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
if [ "${#components[@]}" -gt 0 ]; then
    has rustup || die "missing parts of the Rust toolchain: ${components[*]}"
    rustup component add "${components[@]}"
fi
if [ "$mode" = lint ]; then exit 0; fi

# venv-<name> in the cache directory holds tests/sdk/requirements-<name>.txt. It is rebuilt when
# that file or Python changed, and when an earlier attempt did not reach its last line, the stamp.
python=$(python3 --version)
venv() {
    local name=$1 dir=$cache/venv-$1 requirements=tests/sdk/requirements-$1.txt stamp
    stamp="$python $(sha256sum <"$requirements")"
    [ -f "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ] && return
    say "python packages of $requirements"
    rm -rf "$dir"
    python3 -m venv "$dir"
    local pip=("$dir/bin/python" -m pip --disable-pip-version-check)
    # Without dependencies: a package missing from the file is an error of `check`, not a surprise.
    "${pip[@]}" install --quiet --no-deps -r "$requirements"
    "${pip[@]}" check
    if [ "$name" = stripe-2 ]; then
        # The SDK's own copy of six is 1.12, whose import hook Python 3.12 no longer calls.
        local site
        site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        cp "$site/six.py" "$site/stripe/six.py"
    fi
    if [ "$name" = localstripe ]; then
        "$dir/bin/python" -c 'import localstripe.server'
    else
        "$dir/bin/python" -c 'import stripe'
    fi
    printf '%s\n' "$stamp" >"$dir/stamp"
}

mkdir -p "$cache"
exec 9>"$cache/venv.lock"
flock 9
venv stripe-new
venv stripe-old
venv stripe-2
venv localstripe
