"""What importing the environments brings along, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.paths import ROOT

HEAVY = ["torch", "ray", "vllm", "deepspeed", "transformers", "sympy", "math_verify", "pyarrow"]


def modules_after(script: str) -> list[str]:
    script += "; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_environments_loads_nothing_heavy_and_nothing_else_of_the_package():
    loaded = modules_after("import tgpo_ray.envs, tgpo_ray.envs.arithmetic, tgpo_ray.envs.math_env")
    assert [name for name in HEAVY if name in loaded] == []
    ours = [name for name in loaded if name.startswith("tgpo_ray.") and not name.startswith("tgpo_ray.envs")]
    assert ours == []


def test_an_episode_of_arithmetic_starts_no_verifier_and_loads_nothing_heavy():
    loaded = modules_after(
        "import gymnasium, tgpo_ray.envs; e = gymnasium.make('tgpo/Arithmetic-v0'); e.reset(seed=0); e.step('')"
    )
    assert [name for name in HEAVY if name in loaded] == []


def test_importing_registers_the_ids_once():
    modules_after(
        "import warnings; warnings.simplefilter('error'); import gymnasium, importlib, tgpo_ray.envs as e;"
        "importlib.reload(e); assert set(e.REGISTERED) <= set(gymnasium.registry)"
    )


def test_the_worker_needs_the_standard_library_alone():
    worker = ROOT / "envs" / "verifiers" / "worker.py"
    script = f"import runpy; runpy.run_path({str(worker)!r}, run_name='worker')"
    loaded = modules_after(script)
    assert [name for name in [*HEAVY, "numpy", "gymnasium", "tgpo_ray"] if name in loaded] == []
