"""Validates Kubernetes manifests against the published schemas. Usage: validate_manifests.py FILE...

Prints one JSON line: how many objects are valid, and what is wrong with the others.
"""

import json
import sys

import kubernetes_validate
import yaml

# Kubernetes below 1.29 has no native sidecars.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]


def objects(path):
    with open(path, encoding="utf-8") as file:
        for document in [json.load(file)] if path.endswith(".json") else yaml.safe_load_all(file):
            if document is None:
                continue
            kind, items = document["kind"], document.get("items")
            if not kind.endswith("List"):
                yield document
                continue
            for item in items:
                yield {"apiVersion": document["apiVersion"], "kind": kind.removesuffix("List"), **item}


def main():
    valid, wrong = 0, []
    for path in sys.argv[1:]:
        for item in objects(path):
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                    valid += 1
                except kubernetes_validate.SchemaNotFoundError:
                    pass  # a resource of another API group
                except kubernetes_validate.ValidationError as error:
                    wrong.append(f"{path}: {item['kind']} for {version}: {'.'.join(map(str, error.path))}: {error.message}")
    print(json.dumps({"valid": valid, "wrong": wrong}))


main()
