"""Nothing that exists is replaced unasked, names say what is inside, and of two commands one records while the other waits."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pgd_lightning.__main__ import main
from pgd_lightning.artifacts import recordings as collect
from pgd_lightning.commands import generate, report
from pgd_lightning.commands.convert import main as convert
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, minari, minari_writer
from pgd_lightning.data.origin import known
from pgd_lightning.data.outputs import require_own
from pgd_lightning.errors import UserError
from pgd_lightning.locks import alone
from pgd_lightning.report import page
from pgd_lightning.simulators.substitutes import recipes

ENV = known()["maze2d-umaze"]


def pgd(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pgd", *arguments])
    return main()


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "maze.hdf5"
    collect.record(ENV, path, 300, 0)
    return path


def written(path: Path) -> tuple[int, int]:
    """What changes if a file is written again, or another put in its place; the time of reading does as well."""
    return path.stat().st_ino, path.stat().st_mtime_ns


class TestCollect:
    @pytest.mark.parametrize(
        ("settings", "steps", "seed"),
        [
            (["steps=300", "seed=5"], 300, 5),
            (["data.local_steps=200", "data.local_seed=3"], 200, 3),
            (["scale=laptop", "steps=250"], 250, 0),
        ],
    )
    def test_steps_and_seed_are_what_is_recorded_and_what_the_name_says(
        self, tmp_path, monkeypatch, capsys, settings, steps, seed
    ):
        assert pgd(monkeypatch, "collect", "env=maze2d-umaze", f"data.local_dir={tmp_path}", *settings) == 0
        (path,) = tmp_path.iterdir()
        assert path.name == f"maze2d-umaze-local-v2-{steps}-{seed}.hdf5"
        assert d4rl.recipe(path) == ({"recipe": "maze2d-umaze", "recipe_version": 2, "recipe_seed": seed}, steps)
        chosen = [f"data.local_steps={steps}", f"data.local_seed={seed}", f"data.local_dir={tmp_path}"]
        assert collect.substitute(compose_config("prior", ["env=maze2d-umaze", *chosen]), ENV) == path
        assert "recorded already" not in capsys.readouterr().out

    def test_a_recording_that_is_there_is_found_and_another_is_refused(self, recording):
        before = written(recording)
        assert not collect.record(ENV, recording, 300, 0)
        for steps, seed in ((400, 0), (300, 1)):
            with pytest.raises(UserError, match=f"holds 300 steps of maze2d-umaze with seed 0 and not {steps} steps"):
                collect.record(ENV, recording, steps, seed)
        assert written(recording) == before

    def test_a_file_whose_name_says_otherwise_is_not_trained_on(self, recording, tmp_path):
        """As an older version left it: 300 steps under the name of 20,000."""
        (tmp_path / "maze2d-umaze-local-v2-20000-0.hdf5").write_bytes(recording.read_bytes())
        config = compose_config("prior", ["env=maze2d-umaze", "scale=smoke", f"data.local_dir={tmp_path}"])
        with pytest.raises(UserError, match="holds 300 steps of .* and not 20000 steps"):
            collect.substitute(config, ENV)

    def test_overwrite_records_again(self, tmp_path, monkeypatch):
        path = tmp_path / "mine.hdf5"
        d4rl.write(path, [{"rewards": np.zeros(7, np.float32)}], {}, 7)
        arguments = ["collect", "env=maze2d-umaze", "steps=50", f"out={path}"]
        assert pgd(monkeypatch, *arguments) == 1
        assert d4rl.recipe(path) == ({}, 7)
        assert pgd(monkeypatch, *arguments, "overwrite=true") == 0
        assert d4rl.recipe(path)[1] == 50

    @pytest.mark.parametrize("setting", ["steps=0", "steps=-5", "data.local_steps=0"])
    def test_no_steps_are_not_the_recipes_own_number(self, setting):
        with pytest.raises(UserError, match="is a whole number, at least 1"):
            compose_config("collect", [setting])

    def test_an_unwritable_folder_is_a_sentence(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(UserError, match="Cannot write .*Choose a folder you may write to"):
            collect.record(ENV, tmp_path / "file" / "maze.hdf5", 50, 0)


class TestTwoAtOnce:
    def test_the_second_waits_and_uses_the_file_of_the_first(self, tmp_path, monkeypatch):
        begun, waits, go, calls = threading.Event(), threading.Event(), threading.Event(), []
        whole = recipes.RECIPES["maze2d-umaze"].record

        def slow(*arguments):
            calls.append(arguments)
            begun.set()
            assert go.wait(30)
            return whole(*arguments)

        def said(text):
            assert text == f"waiting for another process that records {path}"
            waits.set()

        monkeypatch.setattr(collect, "say", said)
        monkeypatch.setattr("pgd_lightning.locks.LOOK_EVERY", 0.01)
        monkeypatch.setitem(collect.RECIPES, "maze2d-umaze", recipes.Recipe(2, 50, "slow", "maze2d-umaze", slow))
        path, made = tmp_path / "maze.hdf5", []
        (tmp_path / ".maze.hdf5.123.part").write_text("what a killed process left")
        workers = [threading.Thread(target=lambda: made.append(collect.record(ENV, path, 50, 0))) for _ in range(2)]
        workers[0].start()
        assert begun.wait(30)
        workers[1].start()
        assert waits.wait(30)
        go.set()
        for worker in workers:
            worker.join(30)
        assert sorted(made) == [False, True]
        assert len(calls) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["maze.hdf5"]

    def test_the_lock_of_a_killed_process_is_free(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path; from pgd_lightning.locks import alone\n"
            "with alone(Path(sys.argv[1]), lambda: None): print('held', flush=True); time.sleep(60)"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout.readline() == "held\n"
        waited = []

        def waiting():
            waited.append(1)
            holder.send_signal(signal.SIGKILL)
            holder.wait()

        with alone(tmp_path / "lock", waiting) as held:
            assert held
        assert waited == [1]

    def test_without_locks_both_work(self, tmp_path, monkeypatch):
        """And what one finishes and tidies up does not end the other."""

        def none(*_):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", none)
        with alone(tmp_path / "lock", lambda: pytest.fail("nobody to wait for")) as held:
            assert not held
        path = tmp_path / "maze.hdf5"
        kept = path.with_name(f".{path.name}.chunks")
        whole = recipes.RECIPES["maze2d-umaze"].record

        def disturbed(*arguments):
            for part in whole(*arguments):
                kept.rmdir()  # as the other process does when it is done
                yield part

        monkeypatch.setitem(collect.RECIPES, "maze2d-umaze", recipes.Recipe(2, 50, "x", "maze2d-umaze", disturbed))
        assert collect.record(ENV, path, 50, 0)
        assert d4rl.recipe(path)[1] == 50


class TestConvertAndGenerate:
    def convert(self, recording, out, *more):
        chosen = ["env=maze2d-umaze", f'data.source="{recording}"', f'out="{out}"', "data.cache=null", *more]
        convert(compose_config("convert", chosen), [])

    def test_an_existing_file_is_replaced_only_when_told(self, recording, tmp_path):
        out = tmp_path / "mine.hdf5"
        out.write_text("mine")
        with pytest.raises(UserError, match=r"is there already: .* overwrite=true"):
            self.convert(recording, out)
        assert out.read_text() == "mine"
        self.convert(recording, out, "overwrite=true")
        assert d4rl.recipe(out)[1] == 300

    def test_the_source_is_never_replaced(self, recording):
        whole = recording.read_bytes()
        with pytest.raises(UserError, match="is what is read"):
            self.convert(recording, recording, "overwrite=true")
        assert recording.read_bytes() == whole

    def test_an_existing_minari_set_is_replaced_only_when_told(self, recording, tmp_path):
        pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
        folder = tmp_path / "toy-v0"
        folder.mkdir()
        (folder / "mine").write_text("mine")
        with pytest.raises(UserError, match="is no Minari dataset"):
            self.convert(recording, f"minari:{folder}", "overwrite=true")
        assert (folder / "mine").read_text() == "mine"
        (folder / "mine").unlink()
        folder.rmdir()
        self.convert(recording, f"minari:{folder}")
        stamp = (folder / "data" / "main_data.hdf5").stat().st_ino
        with pytest.raises(UserError, match="is there already"):
            self.convert(recording, f"minari:{folder}")
        self.convert(recording, f"minari:{folder}", "overwrite=true")
        assert (folder / "data" / "main_data.hdf5").stat().st_ino != stamp
        assert [p.name for p in tmp_path.iterdir()] == ["toy-v0"]
        with pytest.raises(UserError, match="is what is read"):
            self.convert(f"minari:{folder}", f"minari:{folder}", "overwrite=true")

    def test_generate_looks_before_it_loads(self, tmp_path):
        out = tmp_path / "mine.hdf5"
        out.write_text("mine")
        with pytest.raises(UserError, match="is there already"):
            generate.main(compose_config("generate", ["run=nowhere", f"out={out}"]), [])

    def test_a_file_that_appears_meanwhile_is_kept(self, tmp_path):
        path = tmp_path / "x.hdf5"

        def chunks():
            path.write_text("of another command")
            yield {"rewards": np.zeros(3, np.float32)}

        with pytest.raises(UserError, match="is there already"):
            d4rl.write(path, chunks(), {}, 3)
        assert path.read_text() == "of another command"
        assert [p.name for p in tmp_path.iterdir()] == ["x.hdf5"]


@pytest.mark.usefixtures("drawn_by_nobody")
class TestFolders:
    def test_what_another_wrote_is_kept(self, tmp_path):
        def require(own, overwrite=False):
            require_own(tmp_path, ("index.html", "report.json"), "report.json", lambda c: c.get("of") == own, overwrite)

        require("a")  # empty
        (tmp_path / "index.html").write_text("mine")
        for content in (None, "[", "[1]", json.dumps({"of": "b"})):
            if content is not None:
                (tmp_path / "report.json").write_text(content)
            with pytest.raises(UserError, match=r"index.html is there already .* overwrite=true"):
                require("a")
        require("a", overwrite=True)
        require("b")

    def test_a_page_does_not_replace_a_page_of_the_user(self, tmp_path, monkeypatch):
        (tmp_path / "index.html").write_text("mine")
        monkeypatch.setattr(page, "find_entries", lambda *_: [])
        monkeypatch.setattr(page, "mixable", lambda _: ([], {}))
        with pytest.raises(UserError, match="overwrite=true"):
            report.main(compose_config("report", [f"out={tmp_path}"]), [])
        assert (tmp_path / "index.html").read_text() == "mine"

    def test_a_check_does_not_replace_that_of_another_recording(self, recording, tmp_path, monkeypatch, capsys):
        other = tmp_path / "other.hdf5"
        collect.record(ENV, other, 100, 1)
        arguments = ["check", "env=maze2d-umaze", f"out={tmp_path / 'check'}", "rows=10", "data.cache=null"]
        assert pgd(monkeypatch, *arguments, f"data.source={recording}") == 0
        assert pgd(monkeypatch, *arguments, f"data.source={recording}") == 0
        assert pgd(monkeypatch, *arguments, f"data.source={other}") == 1
        assert "is about something else" in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_by_nobody")
class TestOddNames:
    @pytest.mark.parametrize("name", ["~nobody.hdf5", "~.hdf5", "a,b.hdf5"])
    def test_a_tilde_of_nobody_is_a_name(self, recording, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        Path(name).write_bytes(recording.read_bytes())
        common = ["env=maze2d-umaze", "data.cache=null", f"data.source={name}"]
        assert pgd(monkeypatch, "check", *common, f"out={name}.d", "rows=5") == 0
        assert (Path(f"{name}.d") / "check.json").exists()
        assert pgd(monkeypatch, "convert", *common, f"out={name.replace('hdf5', 'h5')}") == 0

    def test_a_minari_folder_may_be_relative(self, recording, tmp_path, monkeypatch):
        pytest.importorskip("minari")
        monkeypatch.chdir(tmp_path)
        arguments = ["convert", "env=maze2d-umaze", "data.cache=null", f"data.source={recording}"]
        assert pgd(monkeypatch, *arguments, "out=minari:./mine/maze-v0") == 0
        assert (tmp_path / "mine" / "maze-v0" / "data" / "main_data.hdf5").exists()
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["maze-v0"]


class TestMissingMinari:
    @pytest.fixture
    def written(self, recording, tmp_path):
        pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
        rows = d4rl.load(recording, ENV, "clip")
        return minari_writer.write(f"minari:{tmp_path}/toy-v0", rows, ENV, "a test", lambda a, b: {})

    def test_without_the_package(self, written, monkeypatch):
        monkeypatch.setitem(sys.modules, "minari.dataset.minari_storage", None)
        with pytest.raises(UserError, match=r"pip install 'minari\[hdf5\]'"):
            minari.load(written, ENV, d4rl.Reading("clip"))

    def test_without_what_its_format_needs(self, written, monkeypatch):
        path = written / "data" / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_format": "arrow"}))
        for module in ("pyarrow", "minari.dataset._storages.arrow_storage"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=r"pip install 'minari\[arrow\]'"):
            minari.load(written, ENV, d4rl.Reading("clip"))
