#!/usr/bin/env python3
"""Derives the lists of the vendors' operations, proto/src/catalog/lists/*.txt, from their official SDKs.

Needs network, npm and pip; it takes a minute and is no part of `make test`. A list holds facts only: method and path
of each operation, with `{}` for a parameter. What an operation costs stands in proto/src/catalog/tables/*.txt, by hand.

    scripts/catalog-lists.py            writes all lists
    scripts/catalog-lists.py stripe     writes one

To refresh: raise the versions below, run it, run `cargo test -p keybrake-proto catalog`, and give each operation that
the test names a row.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

LISTS = pathlib.Path(__file__).resolve().parent.parent / "proto" / "src" / "catalog" / "lists"


def npm(spec, scratch):
    """Unpacks a package of npm and answers its directory."""
    packed = subprocess.run(
        ["npm", "pack", "--silent", spec], cwd=scratch, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()[-1]
    target = scratch / spec.replace("/", "-")
    with tarfile.open(scratch / packed) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def pypi(spec, scratch):
    """Unpacks a wheel of PyPI and answers its directory."""
    downloads = scratch / ("wheel-" + spec)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", downloads, spec],
        check=True,
    )
    target = scratch / spec
    with zipfile.ZipFile(next(downloads.glob("*.whl"))) as archive:
        archive.extractall(target)
    return target


def sources(directory, pattern):
    files = sorted(directory.glob(pattern))
    if not files:
        sys.exit(f"{directory}: the package has no {pattern}; its layout has changed")
    return [path.read_text() for path in files]


def shape(path):
    """A path with `{}` for each parameter and without a query."""
    return re.sub(r"\$?\{[^}]*\}", "{}", path.split("?")[0])


def found(pattern, text):
    return {(method.upper(), shape(path)) for method, path in re.findall(pattern, text)}


def stripe(scratch):
    node = npm("stripe@23.1.0", scratch)
    call = r"_makeRequest\(\s*'(\w+)',\s*[`']([^`']*)[`']"
    newest = set().union(*(found(call, text) for text in sources(node, "cjs/resources/**/*.js")))

    node = npm("stripe@14.25.0", scratch)
    method = r"method: '(\w+)',\s*fullPath: [`']([^`']*)[`']"
    old = set().union(*(found(method, text) for text in sources(node, "cjs/resources/**/*.js")))

    python = pypi("stripe==16.1.0", scratch)
    request = r'"(get|post|delete|put|patch)",\s*"(/[^"]*)"'
    other = set().union(*(found(request, text) for text in sources(python, "stripe/**/*.py")))
    return ["stripe 23.1.0 and 14.25.0 of npm, stripe 16.1.0 of PyPI"], newest | old | other


def twilio(scratch):
    raise NotImplementedError


def resend(scratch):
    raise NotImplementedError


def write(vendor, origins, operations):
    lines = [f"# The operations of {vendor}'s API, as its SDKs call them: {'; '.join(origins)}."]
    lines.append("# Written by scripts/catalog-lists.py. A parameter is `{}`.")
    ordered = sorted(operations, key=lambda operation: (operation[1], operation[0]))
    lines += [f"{method} {path}" for method, path in ordered]
    (LISTS / f"{vendor}.txt").write_text("\n".join(lines) + "\n")
    print(f"{vendor}: {len(operations)} operations")


def main():
    vendors = {"stripe": stripe, "twilio": twilio, "resend": resend}
    unknown = [name for name in sys.argv[1:] if name not in vendors]
    if unknown:
        sys.exit(f"unknown vendor {unknown[0]}; known are {', '.join(vendors)}")
    for name in sys.argv[1:] or vendors:
        with tempfile.TemporaryDirectory() as scratch:
            write(name, *vendors[name](pathlib.Path(scratch)))


if __name__ == "__main__":
    main()
