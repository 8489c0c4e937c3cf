# SPDX-License-Identifier: Apache-2.0
"""Upstream's metadata, rewritten line by line: what we do not change stays as it is."""

import re

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .errors import BuildError

DISTRIBUTION = "vllm"
ENTRY_POINT = ("vllm.general_plugins", "helion = vllm.helion:activate")


def rewrite(text: str, version: str, requires: list[str], license_files: list[str]) -> str:
    """Upstream's METADATA with our version, requirements and licence files, named vllm."""
    head, gap, body = text.partition("\n\n")
    pins = {canonicalize_name(r.name): r for r in map(Requirement, requires)}
    unmet = dict(pins)
    lines = []
    for line in head.split("\n"):
        field, _, value = line.partition(": ")
        if field == "Name":
            line = f"Name: {DISTRIBUTION}"
        elif field == "Version":
            line = f"Version: {version}"
        elif field == "Requires-Dist":
            requirement = _parsed(value)
            name = canonicalize_name(requirement.name)
            if name in pins:
                if "extra" not in str(requirement.marker or ""):
                    unmet.pop(name, None)
                requirement.specifier = pins[name].specifier
                line = f"Requires-Dist: {requirement}"
        lines.append(line)
    lines += [f"License-File: {file}" for file in license_files]
    lines += [f"Requires-Dist: {requirement}" for requirement in unmet.values()]
    return "\n".join(line for line in lines if line) + (gap or "\n") + body


def _parsed(value: str) -> Requirement:
    try:
        return Requirement(value)
    except InvalidRequirement as error:
        raise BuildError(f"upstream's METADATA: {error}; port metadata.py to it") from None


def field(text: str, name: str) -> str:
    """The first value of a field in METADATA."""
    match = re.search(rf"^{name}: (.*)$", text.partition("\n\n")[0], re.MULTILINE)
    if not match:
        raise BuildError(f"upstream's METADATA has no {name}; fetch its wheel anew")
    return match[1].strip()


def entry_points(text: str) -> str:
    """Upstream's entry_points.txt with our plugin in its group."""
    group, line = f"[{ENTRY_POINT[0]}]", ENTRY_POINT[1]
    lines = text.strip().splitlines()
    if line in lines:
        return text
    if group not in lines:
        lines += ["", group]
    lines.insert(lines.index(group) + 1, line)
    return "\n".join(lines) + "\n"


def version_module(text: str, version: str) -> str:
    """Upstream's vllm/_version.py with our version; the commit stays, it is of their sources."""
    from packaging.version import Version

    parsed = Version(version)
    numbers = (*parsed.release, *([parsed.local] if parsed.local else []))
    for name, value in [("version", version), ("version_tuple", numbers)]:
        assignment = rf"^(__{name}__ = {name} = ).*$"
        text, count = re.subn(assignment, rf"\g<1>{value!r}", text, flags=re.MULTILINE)
        if count != 1:
            raise BuildError(
                f"vllm/_version.py assigns {name} {count} times; port metadata.py to it"
            )
    return text
