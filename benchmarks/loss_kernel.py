"""Benchmarks a1 and a2: time and memory of the TGPO loss over a large vocabulary, as JSON.

    python benchmarks/loss_kernel.py                     # a1 and a2 on one CPU thread, N=2048 D=256 V=32768 float32
    python benchmarks/loss_kernel.py --device cuda       # M=8192 D=4096 V=131072 bfloat16

From hidden states, head weight, sampled tokens, teacher tokens and advantages to the gradients of hidden states and
weight. All contestants run in one process, in turn, `--rounds` times; each in every matmul precision that passes the
accuracy probe, and is reported at its best. On a CPU freed memory is kept by malloc (`--malloc default`: not), as fresh
pages would cost the contestants that allocate most. Every contestant's gradients are compared with the naive ones. The
floor is the three bare matrix products, in the quicker of two forms: all rows at once into a reused buffer, or in
chunks. The GPU sizes have not been run yet.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loss_contestants import ENTROPY_LOSS, LOSS, Gemms, Gradients, Problem, contestants, naive, ours
from benchmarks.reports import print_report
from tgpo_ray.kernels import release_buffers

GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
CPU_SHAPE = (2048, 256, 32768)
CUDA_SHAPE = (8192, 4096, 131072)


def usable_precisions(device: str) -> list[str]:
    """'highest', and 'medium' where a product of length 1024 keeps its error below 1e-3 (on AMX it means bfloat16)."""
    left, right = torch.randn(64, 1024), torch.randn(1024, 64)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    error = float((left @ right - exact).abs().max())
    torch.set_float32_matmul_precision("highest")
    return ["highest", "medium"] if device == "cpu" and error < 1e-3 else ["highest"]


def relative_error(got: Gradients, expected: Gradients) -> float:
    return max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(got, expected, strict=True))


def check(problem: Problem, entered: dict, tolerance: float) -> dict[str, float]:
    """The relative error of every contestant's gradients; AssertionError where one computes something else."""
    expected = {LOSS: naive(problem), ENTROPY_LOSS: naive(problem, ENTROPY_LOSS)}
    errors = {}
    for name, run in entered.items():
        got = run(problem)
        if got is not None:
            errors[name] = relative_error(got, expected[ENTROPY_LOSS if name == "ours_with_entropy" else LOSS])
            assert errors[name] < tolerance, f"{name}: gradients are off by {errors[name]:.1e}, more than {tolerance}"
    return errors


def seconds(run: Callable, problem: Problem) -> float:
    """Processor seconds on a CPU (one thread: other people's load counts less), wall seconds on a GPU."""
    if problem.hidden.is_cuda:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(problem)
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    run(problem)
    return time.process_time() - start


def measure_time(problem: Problem, entered: dict, precisions: list[str], rounds: int) -> dict[str, dict]:
    """Milliseconds by contestant, the least disturbed round at its best precision; they take turns within a round."""
    times: dict[tuple[str, str], list[float]] = {}
    for round_index in range(rounds + 1):  # the first warms up
        for precision in precisions:
            torch.set_float32_matmul_precision(precision)
            for name, run in entered.items():
                elapsed = seconds(run, problem)
                if round_index:
                    times.setdefault((name, precision), []).append(elapsed)
    torch.set_float32_matmul_precision("highest")
    least = {key: min(values) for key, values in times.items()}
    floors = {p: min(least[name, p] for name in ("gemms", "gemms_chunked")) for p in precisions}
    report = {}
    for name in entered:
        best = min(precisions, key=lambda p, name=name: least[name, p])
        report[name] = {
            "ms": round(1e3 * least[name, best], 1),
            "precision": best,
            "ratio_to_gemms": round(least[name, best] / min(floors.values()), 3),
            "ratio_at_equal_precision": {p: round(least[name, p] / floors[p], 3) for p in precisions},
        }
    return report


def peak_bytes(run: Callable, problem: Problem) -> int:
    """Most bytes allocated at once during `run`, counted by torch's allocator."""
    if problem.hidden.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(problem)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run(problem)
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue] (missing in the stub)
        peak = max(peak, live)
    return peak


def measure_memory(problem: Problem, entered: dict) -> dict[str, float]:
    """MiB beyond inputs and gradients."""
    report = {}
    for name, run in entered.items():
        if isinstance(run, Gemms):
            run = Gemms(run.chunk_rows)  # with its buffer, as ours below
        release_buffers()
        report[name] = round((peak_bytes(run, problem) - problem.gradient_bytes()) / 2**20, 1)
    return report


def resident_growth(num_rows: int, contestant: str) -> float:
    """MiB by which the peak resident set of a fresh process grew, beyond the gradients (more than torch sees)."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['print_resident_growth'](int(sys.argv[2]), sys.argv[3])"
    command = [sys.executable, "-c", code, __file__, str(num_rows), contestant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_resident_growth(num_rows: int, contestant: str) -> None:
    run = {"ours": ours, "naive": naive}[contestant]
    run(Problem.make(64, 256, 128, torch.float32, "cpu"))  # loads the code
    problem = Problem.make(num_rows, *CPU_SHAPE[1:], torch.float32, "cpu")
    before = peak_resident_bytes()
    run(problem)
    print(round((peak_resident_bytes() - before - problem.gradient_bytes()) / 2**20, 1))


def peak_resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_memory_by_rows() -> dict[str, object]:
    """Memory of ours at several N: the allocation of torch and the growth of the process."""
    sizes = (1024, 2048, 8192)
    problems = {n: Problem.make(n, *CPU_SHAPE[1:], torch.float32, "cpu") for n in sizes}
    return {
        "ours_by_rows_mib": {n: measure_memory(problem, {"ours": ours})["ours"] for n, problem in problems.items()},
        "ours_resident_by_rows_mib": {n: resident_growth(n, "ours") for n in sizes},
        "naive_resident_mib": resident_growth(CPU_SHAPE[0], "naive"),
    }


def keep_freed_memory() -> None:
    """Restarts with a malloc that keeps freed memory, as fresh pages would cost the contestants that allocate most."""
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**34), "OMP_NUM_THREADS": "1"}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["best", "highest", "medium"], default="best")
    parser.add_argument("--malloc", choices=["keep", "default"], default="keep", help="keep: freed memory is reused")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    cpu = arguments.device == "cpu"
    if cpu and arguments.malloc == "keep":
        keep_freed_memory()
    torch.set_num_threads(1)
    shape, dtype = (CPU_SHAPE, torch.float32) if cpu else (CUDA_SHAPE, torch.bfloat16)
    entered, absent = contestants(arguments.device)
    precisions = usable_precisions(arguments.device) if arguments.precision == "best" else [arguments.precision]
    problem = Problem.make(*shape, dtype, arguments.device)
    errors = check(problem, entered, GRADIENT_TOLERANCE[dtype])
    a1 = measure_time(problem, entered, precisions, arguments.rounds)
    memory = measure_memory(problem, entered)
    report = {
        "what": "TGPO loss: hidden, weight, y, y^T, advantages -> dHidden, dWeight",
        "shape": {"N": shape[0], "D": shape[1], "V": shape[2], "dtype": str(dtype)},
        "machine": {
            "cpu": platform.machine(),
            "threads": 1,
            "malloc": arguments.malloc,
            "load": round(os.getloadavg()[0], 2),
        },
        "torch": torch.__version__,
        "absent": absent,
        "gradient_error": {name: float(f"{error:.1e}") for name, error in errors.items()},
        "a1": a1,
        "a1_goal": {"ratio_to_gemms": 1.05, "measured": a1["ours"]["ratio_at_equal_precision"]},
        "a2": {"beyond_inputs_and_gradients_mib": memory, **(measure_memory_by_rows() if cpu else {})},
        "a2_goal": {"mib": 64, "measured": memory["ours"]},
    }
    print_report(report, arguments.out)


if __name__ == "__main__":
    main()
