"""Environments of installed packages, found by what their metadata declares, in a fresh interpreter each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

MODULE = """
import gymnasium
from tgpo_ray.envs import Problem, SingleTurnEnv

class Echo(SingleTurnEnv):
    "Right is the prompt itself."
    def problem(self, index, rng): return Problem(f"say {index}", f"say {index}")
    def verify(self, problem, response): return response == problem.answer

def register(): gymnasium.register("Echo-v1", Echo)
"""


def install(folder: Path, group: str, *points: str) -> None:
    """A package `echoes` with these entry points, as an installer leaves it."""
    (folder / "echoes.py").write_text(MODULE)
    (folder / "registering.py").write_text("from echoes import register\nregister()\n")
    (folder / "broken.py").write_text("raise RuntimeError('no licence')\n")
    metadata = folder / "echoes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echoes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{point}\n" for point in points))


def python(folder: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("group", "point", "env_id"),
    [
        ("tgpo_ray.envs", "Echo-v0 = echoes:Echo", "Echo-v0"),
        ("tgpo_ray.envs", "words/Echo-v0 = echoes:Echo", "words/Echo-v0"),
        ("tgpo_ray.envs", "echoes = registering", "Echo-v1"),
        ("gymnasium.envs", "words = echoes:register", "words/Echo-v1"),
        ("gymnasium.envs", "__root__ = echoes:register", "Echo-v1"),
    ],
)
def test_an_installed_package_brings_its_ids(tmp_path: Path, group: str, point: str, env_id: str) -> None:
    install(tmp_path, group, point)
    code = (
        "from tgpo_ray.env_runners.env_spec import EnvSpec;"
        "from tgpo_ray.env_runners.registry import listed_ids, description;"
        f"env = EnvSpec('{env_id}').make(); print(env.reset(options={{'index': 7}})[0], env.step('say 7')[1]);"
        f"assert '{env_id}' in listed_ids(); print(description('{env_id}'))"
    )
    assert python(tmp_path, code).splitlines() == ["say 7 1.0", "Right is the prompt itself."]


def test_a_class_named_by_its_id_is_imported_only_when_it_is_made(tmp_path: Path) -> None:
    install(tmp_path, "tgpo_ray.envs", "Echo-v0 = echoes:Echo")
    code = (
        "import sys; from tgpo_ray.env_runners import registry; registry.listed_ids(); print('echoes' in sys.modules)"
    )
    assert python(tmp_path, code) == "False"


def test_a_broken_package_stops_nobody_else_and_is_named(tmp_path: Path) -> None:
    install(tmp_path, "tgpo_ray.envs", "broken = broken", "Echo-v0 = echoes:Echo")
    code = (
        "from tgpo_ray.env_runners.registry import explained, make_env\n"
        "make_env('Echo-v0', {})\n"
        "try: make_env('Ecco-v0', {})\n"
        "except Exception as error: print(explained('Ecco-v0', error))"
    )
    said = python(tmp_path, code)
    assert "no such environment is registered; did you mean 'Echo-v0'?" in said
    assert "tgpo_ray.envs: broken = broken is broken: RuntimeError: no licence" in said


SCRIPT = """
import sys
import gymnasium, ray.cloudpickle
from tgpo_ray.env_runners.env_spec import all_envs
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.envs import Problem, SingleTurnEnv

class Echo(SingleTurnEnv):
    def __init__(self, times=1):
        super().__init__()
        self.times = times
    def problem(self, index, rng): return Problem(f"say {index}", " ".join([f"say {index}"] * self.times))
    def verify(self, problem, response): return response == problem.answer

gymnasium.register("Own-v0", Echo)
envs = [{"id": "Own-v0", "kwargs": {"times": 2}}, {"id": "tgpo/Arithmetic-v0"}]
config = AlgorithmConfig.from_dict({"algorithm": "GRPO", "model": {"path": "m"}, "envs": envs})
open(sys.argv[1], "wb").write(ray.cloudpickle.dumps(all_envs(config)))
"""


def test_what_a_script_registers_travels_to_actors(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "specs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    code = (
        f"import pickle; own, arithmetic = pickle.load(open({str(tmp_path / 'specs')!r}, 'rb'));"
        "env = own.make(); print(env.reset(options={'index': 1})[0], env.step('say 1 say 1')[1]);"
        "assert arithmetic.registered is None; arithmetic.make()"
    )
    assert python(tmp_path, code) == "say 1 1.0"


def test_names_of_this_package_need_no_plugin(tmp_path: Path) -> None:
    install(tmp_path, "tgpo_ray.envs", "broken = broken")
    code = (
        "from tgpo_ray.env_runners.registry import load_plugins, make_env; make_env('tgpo/Arithmetic-v0', {});"
        "print(load_plugins.cache_info().currsize)"
    )
    assert python(tmp_path, code) == "0"
