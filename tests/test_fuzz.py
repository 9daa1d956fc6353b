"""Damaged and hostile files: each is read as consistent episodes or refused in one sentence; none crashes or hangs.

Byte damage runs in child processes, so that a crash of the HDF5 library itself would be seen; as a script this file is
that child. The quick suite runs a few hundred cases, ``make test-slow`` 4,000.
"""

import re
import signal
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pgd_lightning.data import d4rl
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import split_windows
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError

SPECS = {
    task: EnvSpec(
        f"{task}-x", f"{task}-x-v0", task, "x", obs, act, 10, 0.0, 1.0, DataFile("x.hdf5", None, None), "today"
    )
    for task, obs, act in (("hopper", 11, 3), ("maze2d-umaze", 4, 2), ("antmaze-umaze", 29, 8), ("kitchen", 60, 9))
}
SECONDS = 20  # a case takes some milliseconds
CASES_QUICK, CASES_SLOW = 300, 4000


def columns(task, rng, number=60, successors=True, timeouts=True):
    spec = SPECS[task]
    made = {
        "observations": rng.normal(size=(number, spec.obs_dim)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (number, spec.action_dim)).astype(np.float32),
        "rewards": rng.normal(size=number).astype(np.float32),
        "terminals": rng.random(number) < 0.1,
        "timeouts": rng.random(number) < 0.1,
        "infos/qpos": rng.normal(size=(number, 2)).astype(np.float32),
        "infos/qvel": rng.normal(size=(number, 2)).astype(np.float32),
    }
    if successors:
        made["next_observations"] = np.concatenate([made["observations"][1:], made["observations"][:1]]) * 1
        made["next_observations"][made["terminals"] | made["timeouts"]] += 3
    if not timeouts:
        del made["timeouts"]
    return made


def save(path, data, style=0):
    """Three ways in which HDF5 lays a file out: contiguous, packed in chunks, and the newest format."""
    packed = {"chunks": True, "compression": "gzip", "shuffle": True} if style else {}
    with h5py.File(path, "w", libver="latest" if style == 2 else None) as file:
        file.attrs["recipe"] = np.bytes_("hopper-x")
        file.attrs["recipe_version"] = "of variable length"
        for key, values in data.items():
            file.create_dataset(key, data=values, **packed)
    return path


def check(path: Path, task: str) -> Recording:
    """Read like a run does; whatever is read agrees with what h5py alone makes of the file."""
    spec = SPECS[task]
    data = d4rl.load(path, spec, "clip")
    d4rl.provenance(path, spec)
    number = len(data)
    assert data.obs.shape == data.next_obs.shape == (number, spec.obs_dim)
    assert data.action.shape == (number, spec.action_dim)
    assert data.obs.isfinite().all() and data.next_obs.isfinite().all() and data.reward.isfinite().all()
    assert data.action.abs().max() <= 1
    assert not (data.terminated & data.truncated).any()
    assert data.ends[-1] == number - 1
    with h5py.File(path, "r", locking=False) as file:
        flags = {
            k: file[k][:].reshape(-1) != 0 if k in file else np.zeros(number, bool) for k in ("terminals", "timeouts")
        }
        np.testing.assert_array_equal(data.obs.numpy(), file["observations"][:].astype(np.float32))
        ends = flags["terminals"] | flags["timeouts"]
        ends[-1] = True
        found = (data.terminated | data.truncated).numpy()
        assert found[ends].all()  # no end of the file is missed
        if "next_observations" in file:
            known = data.has_successor.numpy()
            written = file["next_observations"][:].astype(np.float32)
            np.testing.assert_array_equal(data.next_obs.numpy()[known], written[known])
        inside = ~found
        if "next_observations" not in file:
            np.testing.assert_array_equal(data.next_obs.numpy()[inside], data.obs.numpy()[1:][inside[:-1]])
            assert not (data.has_successor.numpy() & found).any()  # never the next episode's start
    windows, _ = split_windows(data, 3, 1, 0.0, 0)
    middle = windows.starts.unsqueeze(-1) + torch.arange(2)
    assert not (data.terminated | data.truncated)[middle].any()
    return data


def outcome(path: Path, task: str) -> str:
    """``read``, or the sentence it was refused with, without numbers and names."""
    try:
        check(path, task)
    except UserError as error:
        text = str(error)
        assert "\n" not in text, text
        assert text.endswith((".", "?")), text
        return re.sub(r"\(.*\)|'[^']*'|/\S*|\d+", "…", text)[:60]
    return "read"


def damage(whole: bytes, rng) -> bytes:
    """Some bytes flipped, in the first quarter more often; or a stretch zeroed, moved, cut off or put in."""
    raw = bytearray(whole)
    kind = rng.integers(0, 10)
    reach = len(raw) if rng.random() < 0.4 else len(raw) // 4
    if kind < 6:
        for place in rng.integers(0, reach, rng.integers(1, 17)):
            raw[place] = rng.integers(0, 256)
    else:
        start, length = int(rng.integers(0, reach)), int(rng.integers(1, 400))
        other = int(rng.integers(0, len(raw) - length))
        piece = {6: bytes(length), 7: bytes(raw[other : other + length]), 8: b"", 9: rng.bytes(length)}[int(kind)]
        stop = start if kind == 9 and rng.random() < 0.5 else start + length
        raw = raw[:start] if kind == 8 and rng.random() < 0.5 else raw[:start] + piece + raw[stop:]
    return bytes(raw)


def case(number: int, folder: Path) -> str:
    """Case ``number``: a function of the number alone."""
    rng = np.random.default_rng(number)
    task = list(SPECS)[number % len(SPECS)]
    data = columns(task, rng, successors=bool(rng.random() < 0.6), timeouts=bool(rng.random() < 0.8))
    path = save(folder / "case.hdf5", data, style=int(rng.integers(0, 3)))
    path.write_bytes(damage(path.read_bytes(), rng))
    return outcome(path, task)


def work(start: int, stop: int, folder: Path) -> None:
    """The child: a line a case. An alarm kills what hangs, even inside the library."""
    for number in range(start, stop):
        signal.alarm(SECONDS)
        try:
            found = case(number, folder)
        except BaseException as error:
            traceback.print_exc()
            found = f"WRONG {type(error).__name__}"
        print(number, found, flush=True)


def run_cases(start: int, stop: int, folder: Path) -> Counter:
    """How often each outcome came; a child that dies is a crash of its next case, and another child goes on."""
    counts: Counter = Counter()
    while start < stop:
        command = [sys.executable, __file__, str(start), str(stop), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
        for line in done.stdout.splitlines():
            number, _, found = line.partition(" ")
            start = int(number) + 1
            counts[found if not found.startswith("WRONG") else f"{found} in case {number}: {done.stderr[-900:]}"] += 1
        if done.returncode:
            counts[f"CRASH {done.returncode} in case {start}: {done.stderr[-900:]}"] += 1
            start += 1
    return counts


def report(counts: Counter) -> str:
    return "\n".join(f"{count:>6}  {found}" for found, count in counts.most_common())


@pytest.mark.parametrize(
    ("start", "stop"), [(0, CASES_QUICK), pytest.param(CASES_QUICK, CASES_SLOW, marks=pytest.mark.slow)]
)
def test_damaged_bytes(start, stop, tmp_path):
    counts = run_cases(start, stop, tmp_path)
    print(report(counts))
    assert not [found for found in counts if found.startswith(("WRONG", "CRASH"))], report(counts)
    assert sum(counts.values()) == stop - start
    assert 0.05 < counts["read"] / (stop - start) < 0.9  # the cases are neither harmless nor hopeless


def shapes(number: int):
    """A column's number of rows, and of the numbers in each."""
    return st.tuples(
        st.sampled_from([number, number, number, number - 1, number + 1, 0]), st.sampled_from([0, 0, 0, -1, 1])
    )


@st.composite
def odd_files(draw):
    """Well-formed HDF5 that is no D4RL file in one way or several."""
    task = draw(st.sampled_from(list(SPECS)))
    number = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    data = columns(task, rng, number, draw(st.booleans()), draw(st.booleans()))
    for key in draw(st.lists(st.sampled_from(sorted(data)), max_size=2)):
        change = draw(st.sampled_from(["leave out", "shape", "type", "value", "link", "empty"]))
        values = data.get(key)
        if not isinstance(values, np.ndarray) or change == "leave out":
            data.pop(key, None)
        elif change == "shape":
            rows, more = draw(shapes(number))
            values = np.resize(values, (rows, *values.shape[1:]))
            data[key] = np.resize(values, (rows, values.shape[1] + more)) if values.ndim > 1 else values
        elif change == "type":
            kind = draw(st.sampled_from(["f8", "f2", "i4", "u1", "?", "c8", "S3", "i8"]))
            data[key] = np.nan_to_num(values.astype("f8")).astype(kind)
        elif change == "value" and values.dtype.kind == "f":
            data[key] = values.astype("f8")
            data[key].flat[int(rng.integers(0, values.size))] = draw(
                st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 2.0])
            )
        elif change == "link":
            data[key] = h5py.SoftLink("/observations")
        elif change == "empty":
            data[key] = h5py.Empty("f4")
    return task, data


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd_files())
@example(("hopper", {}))
def test_odd_files(tmp_path, made):
    task, data = made
    with h5py.File(tmp_path / "odd.hdf5", "w") as file:
        for key, values in data.items():
            file[key] = values
    outcome(tmp_path / "odd.hdf5", task)


class TestHostile:
    """One weapon each."""

    @pytest.fixture
    def path(self, tmp_path):
        return save(tmp_path / "toy.hdf5", columns("hopper", np.random.default_rng(0)), style=1)

    @staticmethod
    def swap(path, key, rows=0, **layout):
        """Replace an array by one of another layout, of which the first ``rows`` are written."""
        with h5py.File(path, "a") as file:
            del file[key]
            made = file.create_dataset(key, **layout)
            if rows:
                made[:rows] = 1

    def refused(self, path, sentence, task="hopper"):
        with pytest.raises(UserError, match=sentence):
            check(path, task)

    @pytest.mark.parametrize("kind", ["soft", "external", "group"])
    def test_links_and_groups(self, path, tmp_path, kind):
        other = save(tmp_path / "other.hdf5", columns("hopper", np.random.default_rng(1)))
        with h5py.File(path, "a") as file:
            del file["rewards"]
            if kind == "group":
                file.create_group("rewards")
            else:
                link = h5py.SoftLink("/timeouts") if kind == "soft" else h5py.ExternalLink(str(other), "rewards")
                file["rewards"] = link
        self.refused(path, "'rewards' in .* not an array but a link or a group")

    def test_links_on_the_way(self, tmp_path):
        path = save(tmp_path / "maze.hdf5", columns("maze2d-umaze", np.random.default_rng(0)))
        with h5py.File(path, "a") as file:
            del file["infos"]
            file["infos"] = h5py.ExternalLink("/dev/zero", "/")
        self.refused(path, "'infos/qpos' in .* link", "maze2d-umaze")
        assert d4rl.info_rows(path, 0, 5) == {}

    def test_arrays_put_together_from_other_files(self, path):
        layout = h5py.VirtualLayout((60,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (60,))
        with h5py.File(path, "a") as file:
            del file["rewards"]
            file.create_virtual_dataset("rewards", layout)
        self.refused(path, "only plain arrays")

    def test_filters_that_would_be_loaded(self, path):
        with h5py.File(path, "a") as file:
            del file["rewards"]
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((60,))
            properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple((60,))
            h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, properties)
        self.refused(path, r"HDF5 filter \[32015\].*h5repack")

    def test_chunks_that_were_never_written(self, path):
        self.swap(path, "rewards", 20, shape=(60,), dtype="f4", chunks=(10,))
        self.refused(path, "'rewards' in .* not all there")
        self.swap(path, "rewards", shape=(60,), dtype="f4")
        self.refused(path, "'rewards' in .* not all there")

    def test_flags_that_were_never_written_are_false(self, path):
        """As HDF5 reads them; other columns are refused, since zeros would be numbers like any other."""
        self.swap(path, "terminals", 20, shape=(60,), dtype=bool, chunks=(10,))
        self.swap(path, "timeouts", shape=(60,), dtype=bool)
        assert len(check(path, "hopper").ends) == 21

    def test_chunks_larger_than_sensible(self, path):
        self.swap(path, "rewards", shape=(60,), maxshape=(None,), dtype="f4", chunks=(10**9,), compression="gzip")
        self.refused(path, "claims chunks of")

    @pytest.mark.parametrize(
        ("value", "read"),
        [(np.zeros(1000), None), (np.bytes_("x" * 20_000), None), ("of variable length", None),
         (np.bytes_("short"), "short"), (3, 3)],
    )  # fmt: skip
    def test_attributes_are_short(self, path, value, read):
        with h5py.File(path, "a") as file:
            file.attrs["recipe_seed"] = value
        assert d4rl.provenance(path, SPECS["hopper"]).get("recipe_seed") == read

    def test_attributes_that_cannot_be_read_say_nothing(self, path):
        with h5py.File(path, "a") as file:
            file.attrs["recipe_seed"] = np.zeros(1000)
            file.attrs["recipe_version"] = np.bytes_("x" * 20_000)
            file.attrs["env"] = np.bytes_("short")
            file.attrs["env_id"] = "of variable length"
            file.attrs["task"] = 7
        found = d4rl.provenance(path, SPECS["hopper"])
        assert not {"recipe_seed", "recipe_version", "recipe_steps"} & set(found)
        assert found["says"] == {"its attribute 'env'": "short", "its attribute 'recipe'": "hopper-x"}

    def test_pickles_are_data(self, path, tmp_path):
        (tmp_path / "mark.hdf5").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        self.refused(tmp_path / "mark.hdf5", "not a readable HDF5")


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
