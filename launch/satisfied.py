"""Exits with 0 when this environment already holds what extras of pyproject.toml (and further requirements) ask for.

python launch/satisfied.py EXTRA[,EXTRA…] [REQUIREMENT…]
"""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

checkout = Path(__file__).resolve().parent.parent
project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
asked = [*project["dependencies"], *sys.argv[2:]]
for extra in sys.argv[1].split(","):
    asked += project["optional-dependencies"][extra]

unmet = []
for requirement in map(Requirement, asked):
    if requirement.marker and not requirement.marker.evaluate():
        continue
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        version = None
    if version is None or not requirement.specifier.contains(version, prereleases=True):
        unmet.append(f"{requirement} (there is {version})")
try:
    metadata.version(project["name"])
except metadata.PackageNotFoundError:
    unmet.append(project["name"])

print("\n".join(unmet))
sys.exit(bool(unmet))
