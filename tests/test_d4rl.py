"""Reading, checking, describing and fetching recordings: every quirk and fault on a hand-made file."""

import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
import torch

from pgd_lightning.data import d4rl
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError

SPEC = EnvSpec(
    "toy-medium",
    "toy-medium-v2",
    "toy",
    "medium",
    3,
    2,
    10,
    0.0,
    10.0,
    DataFile("toy/toy.hdf5", None, None),
    "today",
)


def columns(ends: dict[int, str], rows: int, successors: bool = False) -> dict[str, np.ndarray]:
    """``ends``: row -> 'terminal', 'timeout' or 'both'."""
    rng = np.random.default_rng(0)
    made = {
        "observations": rng.normal(size=(rows, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": np.arange(rows, dtype=np.float32),
        "terminals": np.array([ends.get(i) in ("terminal", "both") for i in range(rows)]),
        "timeouts": np.array([ends.get(i) in ("timeout", "both") for i in range(rows)]),
    }
    return made | ({"next_observations": made["observations"] + 100} if successors else {})


@pytest.fixture
def save(tmp_path):
    def write(data, name="toy.hdf5"):
        with h5py.File(tmp_path / name, "w") as file:
            for key, values in data.items():
                file[key] = values
        return tmp_path / name

    return write


def load(path, out_of_box="clip"):
    return d4rl.load(path, SPEC, out_of_box)


def test_episodes_end_at_terminals_timeouts_and_the_end_of_the_file(save):
    data = load(save(columns({3: "terminal", 6: "timeout"}, 9)))
    assert data.starts.tolist() == [0, 4, 7]
    assert data.ends.tolist() == [3, 6, 8]
    assert data.truncated.nonzero().flatten().tolist() == [6, 8]
    assert data.summary()["return_mean"] == pytest.approx((6 + 15 + 15) / 3)


def test_no_step_crosses_into_the_next_episode(save):
    raw = columns({3: "terminal", 6: "timeout"}, 9)
    steps = load(save(raw)).transitions()
    # rows 6 (timeout) and 8 (tail) have no successor; row 3 is terminal and never reads its own
    assert len(steps) == 7
    expected = [1, 2, 3, None, 5, 6, 8]
    for step, row in enumerate(expected):
        if row is not None:
            assert (steps.next_obs[step].numpy() == raw["observations"][row]).all()
    assert steps.terminated.tolist() == [False, False, False, True, False, False, False]


def test_recorded_successors_are_used(save):
    raw = columns({3: "terminal", 6: "timeout"}, 9, successors=True)
    steps = load(save(raw)).transitions()
    assert len(steps) == 9
    np.testing.assert_array_equal(steps.next_obs.numpy(), raw["next_observations"])


@pytest.mark.parametrize("kind", [bool, np.float32, np.uint8, np.int64])
def test_both_flags_on_a_row_are_a_time_limit(save, kind):
    raw = columns({3: "both", 5: "terminal", 7: "timeout"}, 9)
    raw |= {key: raw[key].astype(kind) for key in ("terminals", "timeouts")}
    data = load(save(raw))
    assert data.terminated.nonzero().flatten().tolist() == [5]
    assert data.truncated.nonzero().flatten().tolist() == [3, 7, 8]
    assert data.notes[0] == (
        "1 rows are a terminal and a timeout: read as timeouts alone (1 of them before step 10; "
        "data.terminals=recorded keeps them)"
    )
    kept = d4rl.load(save(raw, "again.hdf5"), SPEC, "clip", terminals="recorded")
    assert kept.terminated.nonzero().flatten().tolist() == [3, 5]


def test_other_types_are_read_as_float32(save):
    raw = columns({5: "terminal"}, 6)
    raw = {k: v.astype(np.float64) for k, v in raw.items()}
    raw["rewards"] = raw["rewards"][:, None]
    data = load(save(raw))
    assert data.obs.dtype == torch.float32
    assert data.reward.shape == (6,)
    assert data.terminated.dtype == torch.bool


def broken(change):
    raw = columns({5: "terminal"}, 6)
    change(raw)
    return raw


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("rewards"), "has no 'rewards'"),
        (lambda d: d.update(observations=d["observations"][:, :2]), "is this the right env"),
        (
            lambda d: d.update(rewards=d["rewards"][:-1]),
            "'rewards' .* has 5 rows, but 'observations' has 6: .*out of step",
        ),
        (lambda d: d.update(timeouts=np.zeros(7, bool)), "'timeouts' .* has 7 rows, but 'observations' has 6"),
        (lambda d: d["observations"].__setitem__((4, 1), np.nan), "NaN or infinity, first at row 4"),
        (lambda d: d["rewards"].__setitem__(2, np.inf), "'rewards' .* first at row 2"),
        (lambda d: d.update(terminals=np.array([b"x"] * 6)), "not numbers"),
        (lambda d: d.update({k: v[:0] for k, v in d.items()}), "holds no rows"),
    ],
)
def test_bad_content_is_named(save, change, sentence):
    with pytest.raises(UserError, match=sentence):
        load(save(broken(change)))


@pytest.mark.parametrize("layout", [{}, {"chunks": (7,)}, {"chunks": (7,), "compression": "gzip"}])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_flags_that_were_never_written_are_false_and_said(save, layout, kind):
    """``create_dataset(…, dtype=bool)`` allocates nothing, and chunks only where something is set."""
    raw = columns({}, 60)
    path = save({key: raw[key] for key in ("observations", "actions", "rewards")})
    with h5py.File(path, "a") as file:
        file.create_dataset("terminals", (60,), kind, **layout)
        file.create_dataset("timeouts", (60,), kind, **layout)
        if layout:
            file["timeouts"][29] = 1
    data = load(path)
    assert data.ends.tolist() == ([29, 59] if layout else [59])
    assert not data.terminated.any()
    assert next(note for note in data.notes if "not written completely" in note).startswith("'terminals'")
    with h5py.File(path, "a") as file:
        del file["terminals"]
        file.create_dataset("terminals", (60,), kind, fillvalue=1, **layout)
    with pytest.raises(UserError, match="'terminals' .* not all there"):
        load(path)


def test_what_no_d4rl_file_has_is_named(save):
    raw = columns({5: "terminal"}, 6)
    usual = {
        "infos/qpos": np.zeros((6, 2)), "infos/action_log_probs": np.zeros(6), "metadata/algorithm": np.bytes_("SAC"),
        "metadata/policy/fc0/bias": np.zeros(256), "next_observations": raw["observations"],
    }  # fmt: skip
    assert not load(save(raw | usual)).notes
    assert not load(save(raw | {"infos": np.zeros(6, int)}, "kitchen.hdf5")).notes
    (note,) = load(save(raw | usual | {"masks": np.ones(6), "Ünknown": np.zeros(2)}, "odd.hdf5")).notes
    assert note.startswith(
        "ignored, since no D4RL file has these keys: 'masks', '\\xdcnknown'; with masks, as in OGBench's"
    )
    (note,) = load(save(raw | {f"key{i:02}": np.zeros(1) for i in range(30)}, "many.hdf5")).notes
    assert note.endswith("'key07' and 22 more")


def test_infos_out_of_step_are_named_and_not_used(save):
    raw = columns({5: "terminal"}, 6) | {"infos/qpos": np.zeros((9, 2)), "infos/qvel": np.zeros((6, 2))}
    path = save(raw)
    assert load(path).notes == ("'infos/qpos' has 9 rows where the file has 6: ignored",)
    assert d4rl.infos(path, "qpos", (2,), np.array([1])) is None
    assert d4rl.infos(path, "qvel", (2,), np.array([1])) is not None
    assert set(d4rl.info_rows(path, 0, 6)) == {"qvel"}


def test_bad_files_are_named(tmp_path, save):
    with pytest.raises(UserError, match="There is no file"):
        load(tmp_path / "missing.hdf5")
    (tmp_path / "page.hdf5").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="not a readable HDF5"):
        load(tmp_path / "page.hdf5")
    whole = save(columns({5: "terminal"}, 5000)).read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        load(tmp_path / "cut.hdf5")


def test_links_are_not_followed(tmp_path, save):
    raw = columns({5: "terminal"}, 6)
    other = save(raw, "other.hdf5")
    raw.pop("rewards")
    path = save(raw)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink(str(other), "rewards")
    with pytest.raises(UserError, match="not an array but a link"):
        load(path)


def test_flipped_bytes_never_end_in_a_traceback(save, tmp_path):
    whole = save(columns({5: "terminal"}, 60)).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(80):
        raw = np.frombuffer(whole, np.uint8).copy()
        raw[rng.integers(0, 2500, 4)] = rng.integers(0, 256, 4)
        (tmp_path / "damaged.hdf5").write_bytes(raw.tobytes())
        try:
            load(tmp_path / "damaged.hdf5")
        except UserError:
            refused += 1
    assert refused > 20


def test_numbers_beyond_float32_are_not_read_as_infinity(save):
    raw = columns({5: "terminal"}, 6)
    raw["rewards"] = raw["rewards"].astype(np.float64)
    raw["rewards"][3] = 1e300
    with pytest.raises(UserError, match=r"'rewards' .* first at row 3"):
        load(save(raw))


def test_arrays_in_other_files_and_sizes_beyond_the_file_are_refused(save, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1000))
    raw = columns({5: "terminal"}, 6)
    raw.pop("rewards")
    path = save(raw)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (6,), "f4", external=[(str(tmp_path / "secret"), 0, 24)])
    with pytest.raises(UserError, match="only plain arrays"):
        load(path)
    with h5py.File(path, "a") as file:
        del file["observations"]
        file.create_dataset("observations", (10**14, 3), "f4", chunks=(1000, 3))
    with pytest.raises(UserError, match="more than the file holds"):
        load(path)


def test_actions_outside_the_box(save):
    raw = columns({5: "terminal"}, 6)
    raw["actions"][2, 0] = 1.5
    path = save(raw)
    data = load(path)
    assert data.clipped_actions == 1
    assert data.action.max() <= 1
    with pytest.raises(UserError, match="first at row 2"):
        load(path, "error")


def test_written_file_reads_back(tmp_path):
    raw = columns({3: "terminal", 6: "timeout"}, 9)
    halves = [{k: v[:5] for k, v in raw.items()}, {k: v[5:] for k, v in raw.items()}]
    path = tmp_path / "new" / "made.hdf5"
    d4rl.write(path, halves, {"recipe": "toy-medium", "recipe_version": 1, "recipe_seed": 7}, total=9)
    np.testing.assert_array_equal(load(path).obs.numpy(), raw["observations"])
    assert "substitute, not D4RL (recipe v1, seed 7" in d4rl.provenance(path, SPEC)["label"]
    assert list(path.parent.iterdir()) == [path]


def test_nothing_half_written(tmp_path):
    def breaks():
        yield columns({}, 3)
        raise OSError("No space left on device")

    with pytest.raises(UserError, match="Free some space"):
        d4rl.write(tmp_path / "x.hdf5", breaks(), {}, total=6)
    with pytest.raises(UserError, match="was to hold 6 rows"):
        d4rl.write(tmp_path / "x.hdf5", [columns({}, 3)], {}, total=6)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from pgd_lightning.data import d4rl
from pgd_lightning.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
rows = {"observations": np.random.default_rng(0).normal(size=(3000, 3)), "rewards": np.zeros(3000)}
try:
    d4rl.write(Path(sys.argv[1]), [rows] * 20, {}, 60_000)
except UserError as error:
    print(error)
"""


def test_full_disk_is_a_sentence(tmp_path):
    """HDF5 left to itself would corrupt the heap here and kill the process."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "x.hdf5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Free some space" in done.stdout
    assert not done.stderr
    assert list(tmp_path.iterdir()) == []


def test_provenance_needs_the_published_hash(save):
    path = save(columns({5: "terminal"}, 6))
    digest = sha256(path.read_bytes()).hexdigest()
    official = replace(SPEC, file=DataFile("toy/toy.hdf5", None, digest))
    foreign = replace(SPEC, file=DataFile("toy/toy.hdf5", None, "0" * 64))
    assert d4rl.provenance(path, official)["label"] == f"toy-medium-v2 (D4RL, sha256 {digest[:8]})"
    assert "not D4RL" in d4rl.provenance(path, foreign)["label"]
    assert d4rl.provenance(path, SPEC)["kind"] == "unverified"


class Server:
    """A loopback server of one file with selectable faults."""

    def __init__(self, content: bytes):
        self.content, self.ranges, self.status, self.requests = content, True, 200, []
        self.cut: int | None = None  # bytes of the file after which every connection breaks
        self.pieces: int | None = None  # bytes that one connection lasts
        self.length = True
        self.chunked = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.close_connection = True
                wanted = self.headers.get("Range")
                server.requests.append(wanted)
                if server.status != 200:
                    self.send_error(server.status)
                    return
                start = int(wanted[6:-1]) if wanted and server.ranges else 0
                body = server.content[start:]
                self.send_response(206 if start else 200)
                if server.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif server.length:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                sent = server.content[start : server.cut][: server.pieces]
                if server.chunked:
                    sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if sent == body else b"")
                self.wfile.write(sent)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server(save):
    made = Server(save(columns({5: "terminal"}, 2000), "served.hdf5").read_bytes())
    yield made
    made.http.shutdown()


def spec_of(server):
    digest = sha256(server.content).hexdigest()
    return replace(SPEC, file=DataFile("toy/toy.hdf5", len(server.content), digest))


def locate(server, folder, spec=None):
    return d4rl.locate(spec or spec_of(server), "d4rl", folder, server.url, timeout=2, retries=1)


def test_download(server, tmp_path):
    path = locate(server, tmp_path / "sets")
    assert path.read_bytes() == server.content
    locate(server, tmp_path / "sets")
    assert len(server.requests) == 1  # the second call finds the file


@pytest.mark.parametrize("ranges", [True, False])
def test_partial_download_is_continued_or_started_afresh(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "toy.hdf5.part").write_bytes(server.content[:1000])
    assert locate(server, tmp_path).read_bytes() == server.content
    assert server.requests == ["bytes=1000-"]


def test_broken_connection_keeps_what_came(server, tmp_path):
    server.cut = 5000
    with pytest.raises(d4rl.DataUnavailable, match="connection broke"):
        locate(server, tmp_path)
    assert not (tmp_path / "toy.hdf5").exists()
    server.cut = None
    assert locate(server, tmp_path).read_bytes() == server.content
    assert server.requests[-1] is not None


@pytest.mark.parametrize("chunked", [False, True])
def test_any_number_of_broken_connections_that_bring_something_are_forgiven(server, tmp_path, chunked):
    server.pieces, server.chunked = len(server.content) // 4, chunked
    assert locate(server, tmp_path).read_bytes() == server.content
    assert len(server.requests) >= 4  # with retries=1


def test_without_a_published_hash_hdf5_finds_the_cut(server, tmp_path):
    server.length, server.cut = False, len(server.content) // 2
    with pytest.raises(d4rl.DataUnavailable, match="cut short or damaged"):
        locate(server, tmp_path, SPEC)
    assert not (tmp_path / "toy.hdf5").exists()


def test_array_jobs_download_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: locate(server, tmp_path), range(4)))
    assert set(paths) == {tmp_path / "toy.hdf5"}
    assert len(server.requests) == 1


def test_reading_a_file_needs_no_framework():
    heavy = "{'lightning', 'hydra', 'torchrl', 'wandb', 'gymnasium', 'mujoco'}"
    code = f"import sys, pgd_lightning.data.d4rl.reader, pgd_lightning.data.mixing\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_silent_and_foreign_servers_are_given_up_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        start = time.monotonic()
        with pytest.raises(d4rl.DataUnavailable, match="timed out"):
            d4rl.locate(SPEC, "d4rl", tmp_path, url, timeout=0.5, retries=5)
        assert time.monotonic() - start < 2

        def talk():
            for _ in range(2):  # the first is the connection given up above
                connection, _ = listener.accept()
                connection.sendall(b"SSH-2.0-hello\r\n")
                connection.close()

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(d4rl.DataUnavailable, match=r"no web server|reset"):
            d4rl.locate(SPEC, "d4rl", tmp_path, url, timeout=2, retries=5)


@pytest.mark.parametrize("url", ["no scheme/", "http://[::1/", "http://127.0.0.1:port/"])
def test_impossible_url(tmp_path, url):
    with pytest.raises(d4rl.DataUnavailable, match=r"put toy\.hdf5 into"):
        d4rl.locate(SPEC, "d4rl", tmp_path, url, 1, 0)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"<html>busy</html>", "a web page"), (b"\x89HDF\r\n\x1a\nother", "instead of")]
)
def test_wrong_content_is_not_kept(server, tmp_path, content, sentence):
    spec = spec_of(server)
    server.content = content
    with pytest.raises(d4rl.DataUnavailable, match=sentence) as error:
        locate(server, tmp_path, spec)
    assert "put toy.hdf5 into" in str(error.value)
    assert not list(tmp_path.glob("toy.hdf5*")) or [p.suffix for p in tmp_path.glob("toy.hdf5*")] == [".lock"]


def test_unreachable_or_refusing_server(server, tmp_path):
    server.status = 403
    with pytest.raises(d4rl.DataUnavailable, match="403"):
        locate(server, tmp_path)
    with pytest.raises(d4rl.DataUnavailable, match="refused"):
        d4rl.locate(SPEC, "d4rl", tmp_path, "http://127.0.0.1:9/", timeout=1, retries=0)


def test_given_path(save, tmp_path):
    path = save(columns({5: "terminal"}, 6))
    assert d4rl.locate(SPEC, str(path), tmp_path, "", 1, 0) == path
    with pytest.raises(UserError, match="There is no file"):
        d4rl.locate(SPEC, "nowhere.hdf5", tmp_path, "", 1, 0)
