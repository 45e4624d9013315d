"""Whether the packages of requirements.txt are installed in these versions."""

import importlib.metadata
import pathlib
import sys

for line in pathlib.Path(__file__).with_name("requirements.txt").read_text().split():
    name, _, version = line.partition("==")
    try:
        if importlib.metadata.version(name) != version:
            sys.exit(1)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(1)
