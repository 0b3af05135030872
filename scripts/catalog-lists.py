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
    """A path with `{}` for each parameter and without a query, whether that is written out or put in."""
    path = re.sub(r"\$?\{[^}]*\}", "{}", path).split("?")[0]
    return re.sub(r"(?<!/)\{\}$", "", path)


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


# Where a directory of twilio's package stands on the wire, as keybrake has it (docs/catalog.md).
TWILIO = {
    "api/v2010": "/2010-04-01",
    "lookups/v1": "/lookups/v1",
    "lookups/v2": "/lookups/v2",
    "messaging/v1": "/messaging/v1",
    "messaging/v2": "/messaging/v2",
    "messaging/v3": "/messaging/v3",
    "verify/v2": "/verify/v2",
}


def twilio(scratch):
    python = pypi("twilio==9.13.0", scratch)
    operations = set()
    for directory, prefix in TWILIO.items():
        for text in sources(python, f"twilio/rest/{directory}/**/*.py"):
            for resource in re.split(r"^class ", text, flags=re.MULTILINE):
                uri = re.search(r'self\._uri = \(?\s*((?:"[^"]*"\s*)+)', resource)
                methods = set(re.findall(r'method="([A-Z]+)"', resource))
                if methods and not uri:
                    sys.exit(f"{directory}: a resource has methods and no path; the package's layout has changed")
                path = "".join(re.findall(r'"([^"]*)"', uri.group(1))) if uri else ""
                operations |= {(method, prefix + shape(path)) for method in methods}
    return ["twilio 9.13.0 of PyPI"], operations


def resend_node(text):
    """The calls of resend's bundle: a path is the argument, or what the variable of this name last was."""
    operations = set()
    variables = {}
    quoted = r"""[`"]((?:\$\{inboxPath\}|/)[^`"]*)[`"]"""
    for line in text.splitlines():
        assigned = re.search(r"const (url|path) = (.*)", line)
        if assigned:
            variables[assigned.group(1)] = re.findall(quoted, assigned.group(2))
        for method, argument in re.findall(r"""this\.resend\.(get|post|put|patch|delete)\(([`"][^`"]*[`"]|\w+)""", line):
            paths = re.findall(quoted, argument) or variables.get(argument, [])
            if not paths:
                sys.exit(f"resend: no path in `{line.strip()}`; the package's layout has changed")
            for path in paths:
                operations.add((method.upper(), shape(path.replace("${inboxPath}", "/inboxes/{}"))))
    return operations


def resend(scratch):
    node = npm("resend@6.38.0", scratch)
    operations = resend_node(sources(node, "dist/index.cjs")[0])
    python = pypi("resend==2.52.0", scratch)
    for text in sources(python, "resend/**/*.py"):
        text = re.sub(r"inbox_path\(([^()]|\([^()]*\))*\)", "inbox", text).replace('"{inbox}', '"/inboxes/{}')
        text = re.sub(r"path = inbox\b", 'path = "/inboxes/{}"', text)
        for function in text.split(" def "):
            # A request takes one of the paths that its function assigns; a long one is written in parts.
            texts = r'((?:\s*f?"[^"]*")+)'
            assigned = re.findall(r'path ?= ?(?:\(|[\w.]+\()?' + texts, function)
            paths = ["".join(re.findall(r'"([^"]*)"', parts)) for parts in assigned]
            verbs = re.findall(r'verb="(\w+)"', function)
            if verbs and not paths:
                sys.exit(f"resend: no path in `{function}`; the package's layout has changed")
            operations |= {(verb.upper(), shape(path)) for verb in verbs for path in paths}
    return ["resend 6.38.0 of npm, resend 2.52.0 of PyPI"], operations


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
