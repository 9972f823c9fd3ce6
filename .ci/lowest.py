"""Print the lower bounds of pyproject.toml as constraints for pip, those of building and of the documentation left out."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = [lines for name, lines in project["optional-dependencies"].items() if name not in ("docs", "dev", "peers")]
for line in sorted({line for lines in (project["dependencies"], *extras) for line in lines}):
    bound = re.fullmatch(r"([\w.-]+)>=([\d.]+).*", line)
    if bound:
        print("{}=={}".format(*bound.groups()))
