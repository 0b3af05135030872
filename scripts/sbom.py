#!/usr/bin/env python3
"""Writes the list of a binary's parts, as CycloneDX 1.6 JSON: target/sbom/<binary>.cdx.json (rule C4).

usage: scripts/sbom.py <package>…

What it lists is what cargo links into the binary on this platform: normal dependencies, with the versions and checksums of
Cargo.lock. Build scripts' own dependencies and those of tests are not in it. Parts that are not Rust are named behind the
crate that brings them. The same lock file gives the same bytes: there is no time and no random number in it."""

import json
import os
import subprocess
import sys
import uuid

# C and assembler inside crates: crate, name, where its version stands in the crate's version.
BUNDLED = {
    "librocksdb-sys": ("rocksdb", "+"),
    "lz4-sys": ("lz4", "+lz4-"),
    "zstd-sys": ("zstd", "+zstd."),
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def component(package, checksums):
    licenses = package["license"]
    found = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if licenses:
        # Older crates write `/` where SPDX has `OR`.
        found["licenses"] = [{"expression": licenses.replace("/", " OR ")}]
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    name, mark = BUNDLED.get(package["name"], (None, None))
    if name and mark in package["version"]:
        version = package["version"].split(mark, 1)[1]
        found["components"] = [{"type": "library", "name": name, "version": version}]
    return found


def sbom(metadata, checksums, binary):
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    (root,) = [package for package in packages.values() if package["name"] == binary]
    # `metadata` also knows dependencies that no feature turns on; `tree` does not.
    tree = run("cargo", "tree", "--locked", "-p", binary, "-e", "normal,no-proc-macro", "--prefix=none", "--format={p}")
    linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    is_linked = lambda id: (packages[id]["name"], f"v{packages[id]['version']}") in linked
    graph, waiting = {}, [root["id"]]
    while waiting:
        at = waiting.pop()
        if at in graph:
            continue
        normal = lambda dep: any(kind["kind"] is None for kind in dep["dep_kinds"])
        graph[at] = sorted(dep["pkg"] for dep in nodes[at]["deps"] if normal(dep) and is_linked(dep["pkg"]))
        waiting += graph[at]
    assert len(graph) == len(linked), f"{binary}: {len(graph)} of {len(linked)} parts were found"
    parts = sorted((packages[id] for id in graph if id != root["id"]), key=purl)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**component(root, checksums), "type": "application"}},
        "components": [component(package, checksums) for package in parts],
        "dependencies": sorted(
            ({"ref": purl(packages[id]), "dependsOn": sorted(purl(packages[dep]) for dep in deps)} for id, deps in graph.items()),
            key=lambda entry: entry["ref"],
        ),
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    return document


def main():
    os.chdir(os.path.join(os.path.dirname(__file__), ".."))
    host = next(line.split(": ")[1] for line in run("cargo", "-vV").splitlines() if line.startswith("host: "))
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version=1", "--filter-platform", host))
    checksums = {}
    with open("Cargo.lock", encoding="utf-8") as file:
        for entry in file.read().split("[[package]]")[1:]:
            fields = dict(line.split(" = ", 1) for line in entry.splitlines() if " = " in line)
            name, version = fields["name"].strip('"'), fields["version"].strip('"')
            checksums[name, version] = fields.get("checksum", "").strip('"')
    os.makedirs("target/sbom", exist_ok=True)
    for binary in sys.argv[1:]:
        document = sbom(metadata, checksums, binary)
        path = f"target/sbom/{binary}.cdx.json"
        with open(path, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2, sort_keys=True)
            file.write("\n")
        print(f"{path}: {len(document['components'])} parts")


main()
