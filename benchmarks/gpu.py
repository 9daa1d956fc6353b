"""What a machine with a GPU has to show, in one command of at most nine minutes: ``python benchmarks/gpu.py``.

Tests marked ``gpu``; a short main job with the networks of ``scale=paper`` that is killed and resumed; the rates of
matrix products and of the prior's train step; windows a second; updates a second of 1, 4 and 16 agents; peak memory;
DDP by NCCL where there are two GPUs. Every part is a process with a time limit, and what it has measured is in the JSON
file (``--out``, ``benchmarks/latest_gpu.json``) even if it fails or runs out of time.

Nothing is downloaded, and the package need not be installed: a copy with its settings is made in a scratch folder.
Other packages are those that Python finds, e.g. wheels unpacked below ``site/``:

    python3 -m pip install -q --no-index --no-deps --target site .whl/*.whl
    PYTHONPATH=$PWD/site MUJOCO_GL=egl python3 benchmarks/gpu.py

``--dry`` runs every part on the CPU at sizes that mean nothing: whether the script works, not how fast anything is.
``--parts facts agents`` runs some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 530  # of all parts together
LIMITS = {  # seconds of each part
    "facts": 30, "tests": 80, "job": 165, "train_step": 60, "sampling": 60, "agents": 75, "memory": 25, "ddp": 40,
}  # fmt: skip
SMALL = ["network.features=16", "sampler.num_steps=3", "data.horizon=8"]


def package(folder: Path) -> Path:
    """The package with its settings and a version, as an installation has them, in ``folder``."""
    ignore = shutil.ignore_patterns("__pycache__", "conf")
    shutil.copytree(ROOT / "src" / "pgd_lightning", folder / "pgd_lightning", ignore=ignore)
    shutil.copytree(ROOT / "conf", folder / "pgd_lightning" / "conf", ignore=shutil.ignore_patterns("__pycache__"))
    facts = folder / "pgd_lightning-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pgd-lightning\nVersion: 0.1.0\n")
    return folder


def written(path: Path, content: Any) -> None:
    """``content`` as JSON, whole or not at all."""
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(beside, path)


def ended(process: subprocess.Popen[Any]) -> None:
    """End ``process`` and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(asked: argparse.Namespace) -> int:
    began, results = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="pgd-gpu-") as scratch:
        where = [str(package(Path(scratch) / "package")), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, where)), "WANDB_MODE": "disabled"}
        environment |= {"PGD_GPU_SCRATCH": scratch, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        for name in asked.parts or LIMITS:
            left = asked.seconds - (time.monotonic() - began)
            limit = LIMITS[name] * (5 if asked.dry else 1)  # a CPU may be anybody's
            results[name] = run_part(name, min(limit, left), asked.dry, Path(scratch), environment)
            results["total_seconds"] = round(time.monotonic() - began, 1)
            written(asked.out, {"dry": asked.dry, "date": time.strftime("%Y-%m-%d %H:%M"), **results})
            print(f"{name}: {results[name]['state']} in {results[name]['seconds']:.0f} s", flush=True)
    print(f"written: {asked.out}")
    return int(any(part["state"] != "done" for part in results.values() if isinstance(part, dict)))


def run_part(name: str, limit: float, dry: bool, scratch: Path, environment: dict[str, str]) -> dict[str, Any]:
    """What a part measured, how it ended and how long it took."""
    if limit < 5:
        return {"state": "no time left", "seconds": 0}
    notes, log, began = scratch / f"{name}.jsonl", scratch / f"{name}.log", time.monotonic()
    command = [sys.executable, __file__, "--part", name, "--out", str(notes), *(["--dry"] if dry else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            ended(process)
    found: dict[str, Any] = {}
    for line in notes.read_text().splitlines() if notes.exists() else []:
        found |= json.loads(line)
    state = "out of time" if code is None else "done" if code == 0 else "failed"
    said = {} if state == "done" else {"log": log.read_text(errors="replace")[-3000:]}
    return {"state": state, "seconds": round(time.monotonic() - began, 1), **found, **said}


# --- parts, each in a process of its own ---


class Part:
    """What a part needs: where it computes, whether it is a dry run, and a place for its numbers."""

    def __init__(self, out: Path, dry: bool) -> None:
        self.out, self.dry = out, dry
        self.device = "cpu" if dry else "cuda"

    def note(self, **values: Any) -> None:
        """Keep numbers as soon as there are any."""
        with self.out.open("a") as file:
            file.write(json.dumps(values) + "\n")
        print(values, flush=True)

    def tried(self, name: str, measure: Callable[[], Any]) -> None:
        """Note what ``measure`` gives, or the error that it ends in: the next measurement goes on."""
        try:
            self.note(**{name: measure()})
        except Exception as error:
            self.note(**{name: None, f"{name}, error": f"{type(error).__name__}: {error}"[:500]})

    def seconds(self, action: Callable[[], Any], repeats: int) -> float:
        """Of one call, mean of ``repeats`` after three, by the device's own clock."""
        import torch

        repeats = 2 if self.dry else repeats
        for _ in range(1 if self.dry else 3):
            action()
        if self.dry:
            began = time.perf_counter()
            for _ in range(repeats):
                action()
            return (time.perf_counter() - began) / repeats
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            action()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats

    def peak(self) -> float:
        """GiB since the last call."""
        import torch

        if self.dry:
            return 0.0
        found = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return round(found, 2)

    def config(self, *changes: str) -> Any:
        """Of ``pgd train`` at scale=paper, or at a size that means nothing."""
        from pgd_lightning.config.compose import compose_config

        scale = ["scale=smoke", "network=temporal_unet", *SMALL] if self.dry else ["scale=paper"]
        return compose_config("train", ["env=hopper-medium", *scale, "prior.epochs=null", "prior.steps=1000", *changes])


def facts(part: Part) -> None:
    """Versions, the device, every import, and ``pgd doctor``."""
    import importlib
    import platform

    import torch

    part.note(python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda)
    part.note(gpus=[torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())])
    part.note(cores=os.cpu_count(), load=os.getloadavg()[0])
    failed = {}
    for path in sorted((ROOT / "src" / "pgd_lightning").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        if name.endswith(("__init__", "__main__")):
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:200]
    part.note(imports_that_failed=failed)
    doctor = [sys.executable, "-m", "pgd_lightning", "doctor", "env=hopper-medium", "logger.wandb=disabled"]
    done = subprocess.run(doctor, capture_output=True, text=True, cwd=os.environ["PGD_GPU_SCRATCH"])
    part.note(doctor=done.returncode, doctor_said=(done.stdout + done.stderr)[-1500:])


def tests(part: Part) -> None:
    """Tests marked ``gpu``; in a dry run whether they are found."""
    command = [sys.executable, "-m", "pytest", "tests/test_gpu.py", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["--collect-only"] if part.dry else ["-rfEs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    part.note(exit=done.returncode, said=done.stdout[-6000:])
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])


def job_settings(part: Part, runs: Path) -> list[str]:
    settings = ["train", "env=hopper-medium", "compare=[]", "logger.wandb=disabled", f"runs_dir={runs}"]
    settings += ["data.source=local", "plan.seconds=0", "evaluation.episodes=1", "evaluation.final_episodes=2"]
    settings += ["prior.epochs=null", "behaviour.updates=20", "report.windows=8", "prior.verdict.windows=8"]
    if part.dry:
        sizes = ["scale=smoke", *SMALL, "seeds=1", "prior.steps=40", "prior.checkpoint_every=10", "updates=20"]
        sizes += ["synthetic.num_windows=4", "synthetic.lifetime=10", "checkpoint_every=10", "evaluation.every=20"]
        return [*settings, *sizes, "data.local_steps=2000", "trainer.accelerator=cpu", "health.rows=20"]
    sizes = ["scale=paper", "prior.steps=400", "prior.checkpoint_every=100", "updates=400", "synthetic.lifetime=200"]
    sizes += ["synthetic.num_windows=32", "checkpoint_every=200", "evaluation.every=200", "data.local_steps=20000"]
    return [*settings, *sizes, "trainer.accelerator=gpu", "health.rows=100"]


def job(part: Part) -> None:
    """The main job, killed in the middle of the prior and resumed."""
    scratch = Path(os.environ["PGD_GPU_SCRATCH"])
    runs, log = scratch / "runs", scratch / "job-1.log"
    command = [sys.executable, "-m", "pgd_lightning", *job_settings(part, runs)]
    began = time.monotonic()
    with log.open("wb") as output:
        first = subprocess.Popen(command, cwd=scratch, stdout=output, stderr=output, start_new_session=True)
        while first.poll() is None and not list(runs.glob("prior/*/*/*/checkpoints/step=*.ckpt")):
            time.sleep(0.2)
        ended(first)
    saved = sorted(path.stem for path in runs.glob("prior/*/*/*/checkpoints/step=*.ckpt"))
    part.note(killed_after=round(time.monotonic() - began, 1), checkpoints_when_killed=saved)
    if not saved:
        raise SystemExit(log.read_text(errors="replace")[-3000:])
    began = time.monotonic()
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    said = done.stdout + done.stderr
    part.note(resumed=f"continues from {saved[-1]}" in said, resumed_seconds=round(time.monotonic() - began, 1))
    part.note(exit=done.returncode, lines=[line for line in said.splitlines() if "/s)" in line or "score" in line][:20])
    if done.returncode:
        raise SystemExit(said[-3000:])


def train_step(part: Part) -> None:
    """Rates of a large matrix product and of the prior's train step, F = 1024, as TFLOP/s, and their ratio."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pgd_lightning.artifacts.models import build_prior
    from pgd_lightning.networks.compiling import compile_networks
    from pgd_lightning.trajectory import Trajectory

    size = 64 if part.dry else 8192
    products = {}
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(size, size, device=part.device, dtype=dtype)
        products[dtype] = 2 * size**3 / part.seconds(lambda a=a: a @ a, 20) / 1e12
        part.note(**{f"matrix product {size}, {dtype}, TFLOP/s": round(products[dtype], 2)})
    config = part.config()
    shape = (config.prior.batch_size, config.data.horizon)
    draw = lambda *dims: torch.randn(*shape, *dims, device=part.device)  # noqa: E731
    windows = Trajectory(
        obs=draw(config.env.obs_dim), action=draw(config.env.action_dim).tanh(), reward=draw(),
        terminated=draw() > 3, batch_size=shape,
    )  # fmt: skip

    def measured(dtype: torch.dtype, how: str | None) -> dict[str, float]:
        prior = build_prior(config, 1000).to(part.device)
        compile_networks(prior, how)
        optimizer, number = prior.optimizer(), iter(range(10**9))

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(part.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = prior.denoiser.loss(prior.codec.encode(windows), varies=prior.codec.varies)
            loss.backward()
            optimizer.step()
            prior.average(next(number))

        part.peak()
        if how is None:
            with FlopCounterMode(display=False) as counter:
                step()
            measured.flops = counter.get_total_flops()  # type: ignore[attr-defined]
        seconds = part.seconds(step, 20)
        rate = measured.flops / seconds / 1e12  # type: ignore[attr-defined]
        return {
            "milliseconds": round(1000 * seconds, 3), "TFLOP/s": round(rate, 2),
            "share of the product's rate": round(rate / products[dtype], 3), "peak GiB": part.peak(),
        }  # fmt: skip

    for how in (None, "aot_eager" if part.dry else "reduce-overhead"):  # the plain form first: compiling takes time
        for dtype in (torch.bfloat16, torch.float32):
            part.tried(f"train step, {dtype}, compile={how}", lambda dtype=dtype, how=how: measured(dtype, how))


def sampling(part: Part) -> None:
    """Guided windows a second."""
    import torch

    from pgd_lightning.artifacts.models import build_prior
    from pgd_lightning.config.build import build
    from pgd_lightning.networks.compiling import compile_networks

    def measured(windows: int, how: str | None, *settings: str) -> dict[str, Any]:
        config = part.config("seeds=1", *settings)
        prior = build_prior(config, 1000).to(part.device)
        compile_networks(prior, how)
        agent = build(config.agent).to(part.device)
        generator = build(config.generator.build)(prior)
        starts = torch.zeros(1, windows, config.env.obs_dim, device=part.device)
        part.peak()
        seconds = part.seconds(lambda: generator.generate(agent.policy, starts, 0), 2)
        return {"windows/s": round(windows / seconds, 1), "peak GiB": part.peak()}

    compiled, few = "aot_eager" if part.dry else "reduce-overhead", 4 if part.dry else 1024
    steps = [] if part.dry else ["sampler.num_steps=16"]
    literal = ["sampler=heun_churn", *(["sampler.num_steps=3"] if part.dry else []), "sampler.precision=bfloat16"]
    part.tried("published sampler, 256 steps, guided, bfloat16", lambda: measured(max(few // 16, 1), None, *literal))
    for how in (None, compiled):
        for precision in ("bfloat16", "float32"):
            settings = ["sampler=dpmpp_2m", *steps, "guidance=score", f"sampler.precision={precision}"]
            part.tried(
                f"dpmpp_2m, 16 steps, guided, {precision}, compile={how}",
                lambda h=how, s=settings: measured(few, h, *s),
            )


def agents(part: Part) -> None:
    """IQL and TD3+BC under Lightning, as ``pgd train`` runs them: updates a second of 1, 4 and 16 seeds."""
    import warnings

    import torch
    from lightning import Callback, Trainer

    from pgd_lightning.config.build import build
    from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings
    from pgd_lightning.trajectory import Transition

    num = 1000 if part.dry else 100_000
    data = Transition(
        obs=torch.randn(num, 11), action=torch.rand(num, 3), reward=torch.rand(num), next_obs=torch.randn(num, 11),
        terminated=torch.zeros(num, dtype=torch.bool), batch_size=[num],
    )  # fmt: skip
    updates, warm = (6, 2) if part.dry else (600, 100)

    class Clock(Callback):
        times: dict[int, float] = {}  # noqa: RUF012

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (warm, updates):
                if not part.dry:
                    torch.cuda.synchronize()
                self.times[trainer.global_step] = time.perf_counter()

    def measured(name: str, seeds: int, how: str | None) -> dict[str, float]:
        config = part.config(f"agent={name}", f"seeds={seeds}", f"updates={updates}", "agent.value_alarm=warn")
        module = build(config.agent)
        module.compiling = how
        source = SyntheticDataModule(
            data, None, SyntheticSettings(**config.synthetic), module.seeds, total_steps=updates
        )
        clock = Clock()
        part.peak()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                max_steps=updates, max_epochs=-1, logger=False, enable_checkpointing=False, callbacks=[clock],
                devices=1, enable_progress_bar=False, enable_model_summary=False,
                accelerator="cpu" if part.dry else "gpu",
            )  # fmt: skip
            trainer.fit(module, source)
        rate = (updates - warm) / (clock.times[updates] - clock.times[warm])
        return {"updates/s": round(rate, 1), "seed-updates/s": round(seeds * rate, 1), "peak GiB": part.peak()}

    for how in (None, "aot_eager" if part.dry else "reduce-overhead"):
        for seeds in (1, 2) if part.dry else (1, 4, 16):
            for name in ("iql",) if part.dry and how else ("iql", "td3_bc"):
                part.tried(f"{name}, S={seeds}, compile={how}", lambda n=name, s=seeds, h=how: measured(n, s, h))


def memory(part: Part) -> None:
    """Peak memory of what ``scale=paper`` keeps on a device (``benchmarks/memory.py``)."""
    if part.dry:
        part.note(skipped="its sizes are scale=paper's")
        return
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "cuda"], capture_output=True, text=True
    )
    part.note(peaks=[json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")])
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def ddp(part: Part) -> None:
    """The prior on two devices: NCCL on two GPUs, gloo in a dry run."""
    import torch

    if not part.dry and torch.cuda.device_count() < 2:
        part.note(skipped=f"{torch.cuda.device_count()} GPU")
        return
    scratch = Path(os.environ["PGD_GPU_SCRATCH"])
    settings = [*job_settings(part, scratch / "runs-ddp")[1:], "trainer=ddp", "trainer.devices=2", "prior.steps=100"]
    settings = [item for item in settings if not item.startswith(("compare", "behaviour", "report", "evaluation"))]
    command = [sys.executable, "-m", "pgd_lightning", "prior", *settings]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    part.note(exit=done.returncode, lines=[line for line in done.stdout.splitlines() if "/s)" in line][:5])
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-3000:])


PARTS = {
    "facts": facts, "tests": tests, "job": job, "train_step": train_step, "sampling": sampling, "agents": agents,
    "memory": memory, "ddp": ddp,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "latest_gpu.json")
    parser.add_argument("--seconds", type=float, help=f"of all parts together, {SECONDS} if not given")
    parser.add_argument("--parts", nargs="*", choices=list(LIMITS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.seconds = given.seconds or SECONDS * (5 if given.dry else 1)
    if given.part:
        PARTS[given.part](Part(given.out, given.dry))
    else:
        sys.exit(main(given))
