"""Builds the wheel and uses it where nothing of the checkout is visible.

    python .ci/wheel_check.py           the heavy packages (torch, ray, ...) are lent by this interpreter's own
                                        site-packages; tgpo_ray itself comes from the wheel alone: seconds
    python .ci/wheel_check.py --full    a really empty environment: pip installs the wheel with its dependencies

A .pth file appends the lent folder to `sys.path`; its own .pth files are not read, so the editable install of the
checkout stays out of sight. The wheel is built from the source distribution, which proves that one too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
FOLDERS = {
    "tgpo_ray": "tgpo_ray",
    "envs": "tgpo_ray/envs",
    "algorithms": "tgpo_ray/algorithms",
}  # real folder -> in the wheel

USE_THE_WHEEL = """
import sys
import tgpo_ray
heavy = {"torch", "ray", "vllm", "transformers", "deepspeed"} & set(sys.modules)
assert not heavy, f"import tgpo_ray loads {sorted(heavy)}"
assert tgpo_ray.__file__.startswith(sys.prefix), f"tgpo_ray comes from {tgpo_ray.__file__}, not from the wheel"

import gymnasium
import tgpo_ray.envs
assert not {"torch", "ray", "vllm"} & set(sys.modules), "import tgpo_ray.envs loads torch, ray or vllm"
env = gymnasium.make("tgpo/Arithmetic-v0")
observation, info = env.reset(seed=0)
assert isinstance(observation, str) and observation, repr(observation)

from tgpo_ray.algorithms import TGPOConfig
TGPOConfig()
for module in (tgpo_ray.envs, sys.modules["tgpo_ray.algorithms"]):
    assert module.__file__.startswith(sys.prefix), module.__file__
print("used tgpo_ray", tgpo_ray.__version__, "from", tgpo_ray.__file__)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="install the dependencies instead of borrowing them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tgpo-ray-wheel-") as folder:
        wheel = build_wheel(Path(folder) / "dist")
        check_contents(wheel)
        python = make_environment(Path(folder) / "venv", wheel, full=arguments.full)
        empty = Path(folder) / "empty"
        empty.mkdir()
        use_the_wheel(python, empty)
    print(
        f"wheel check passed ({'with its own dependencies' if arguments.full else 'dependencies lent'}): {wheel.name}"
    )


def build_wheel(target: Path) -> Path:
    command = [sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-4000:]}")
    (wheel,) = target.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Every file of the real folders is in the wheel, and nothing else but its metadata."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = set()
    for folder, inside in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            parts = path.relative_to(ROOT / folder).parts
            through_link = folder == "tgpo_ray" and parts[0] in ("envs", "algorithms")
            if path.is_file() and not through_link and "__pycache__" not in parts:
                wanted.add("/".join((inside, *parts)))
    if held != wanted:
        missing, strange = sorted(wanted - held), sorted(held - wanted)
        sys.exit(
            f"{wheel.name} and the tree differ: missing {missing}, unexpected {strange}. "
            "Packages and package data are listed in pyproject.toml."
        )
    print(f"{wheel.name} holds all {len(wanted)} files of {', '.join(FOLDERS)}")


def make_environment(folder: Path, wheel: Path, *, full: bool) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    if not full:
        subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
        site_packages = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        Path(site_packages, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return python
    install = [*pip, "--constraint", str(torch_constraint(folder)), str(wheel)]
    if subprocess.run(install).returncode:
        subprocess.run([*install, "--extra-index-url", TORCH_INDEX], check=True)
    return python


def torch_constraint(folder: Path) -> Path:
    """The torch that runs here: pip would otherwise take the newest CUDA build, on a machine without a GPU too."""
    constraint = folder / "constraint.txt"
    try:
        constraint.write_text(f"torch=={version('torch')}\n")
    except PackageNotFoundError:
        constraint.write_text("")
    return constraint


def use_the_wheel(python: Path, cwd: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    script = str(python.with_name("tgpo-ray"))
    for command in ([str(python), "-c", USE_THE_WHEEL], [script, "--help"], [script, "init", "project"]):
        result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        if result.returncode:
            sys.exit(f"in an empty folder, {command[0]} failed:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
        print("\n".join(result.stdout.strip().splitlines()[:3]))


if __name__ == "__main__":
    main()
