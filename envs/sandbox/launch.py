"""Start of the sandbox's process: `python -I -S launch.py SETTINGS`, with the settings as JSON.

Isolated mode has none of our folders on `sys.path`. The modules here become a package of their own without the parent
package, which imports gymnasium and numpy.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    package = ModuleType("tgpo_ray_sandbox")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules[package.__name__] = package
    importlib.import_module(f"{package.__name__}.supervisor").main(sys.argv[1])


if __name__ == "__main__":
    main()
