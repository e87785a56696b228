"""The bill of materials of the images' Python packages: CycloneDX, made of the lock.

    python3 docker/sbom.py requirements/base.txt > sbom.cdx.json

Every package with its version and the hashes that it is installed by. What the base image brings is
not in it: `docker buildx build --sbom=true`, or syft, lists that of a finished image.
Source: CycloneDX 1.5 JSON; package URL specification.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"^\s+--hash=sha256:([0-9a-f]{64})")


def document(lock: str) -> dict[str, Any]:
    """The bill for the text of a lock."""
    components: list[dict[str, Any]] = []
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            components.append(_component(pin[1], pin[2], pin[3]))
        elif components and (found := _HASH.match(line)):
            components[-1]["hashes"].append({"alg": "SHA-256", "content": found[1]})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "operayde-appliance",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
    }


def _component(name: str, version: str, marker: str | None) -> dict[str, Any]:
    plain = re.sub(r"[-_.]+", "-", name).lower()
    found: dict[str, Any] = {
        "type": "library",
        "name": plain,
        "version": version,
        "purl": f"pkg:pypi/{plain}@{version}",
        "bom-ref": f"pkg:pypi/{plain}@{version}",
        "hashes": [],
    }
    if marker:
        # Installed only where this holds, which another machine may decide otherwise.
        found["properties"] = [{"name": "python:marker", "value": marker}]
    return found


def main() -> int:
    """Writes the bill of the lock that is named to standard output."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(json.dumps(document(text), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
