"""Files that are whole or absent, tensors that bring no code along, errors of one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from sedona_nb import atomic
from sedona_nb.errors import SedonaError, choose


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "record.json"
    atomic.write_text(path, "first")
    atomic.write_text(path, "second: ü")
    assert path.read_text(encoding="utf-8") == "second: ü"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = atomic.write_text(tmp_path / "state.pt", "old")

    class Unpicklable:
        def __reduce__(self):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        atomic.save_tensors(path, [torch.zeros(100_000), Unpicklable()])  # some of it is written already
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_survive_and_code_does_not_come_along(tmp_path: Path) -> None:
    content = {"weights": [torch.randn(3, 2), torch.arange(4)], "step": 7, "names": ("a", None)}
    again = atomic.load_tensors(atomic.save_tensors(tmp_path / "good.pt", content))
    assert torch.equal(again["weights"][0], content["weights"][0])
    assert (again["step"], again["names"]) == (7, ("a", None))

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Harm()))
    torch.save({"x": Harm()}, tmp_path / "worse.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:300])
    for name in ("bad.pt", "worse.pt", "half.pt", "missing.pt"):
        with pytest.raises(SedonaError, match=name) as caught:
            atomic.load_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def test_a_typo_is_one_line_with_what_is_allowed() -> None:
    assert choose("dgl", ("dgl", "sedona"), "method") == "dgl"
    with pytest.raises(SedonaError) as caught:
        choose("sedna", ("dgl", "sedona"), "method")
    assert str(caught.value) == "unknown method 'sedna'; allowed: dgl, sedona; did you mean 'sedona'?"


def test_ipython_shows_the_line_and_no_stack(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.run_cell("import sedona_nb as sd\nsd.networks.build_network('vgg16')")
    shown = capsys.readouterr().out.strip().splitlines()
    assert len(shown) == 1
    assert shown[0].startswith("SedonaError: unknown network 'vgg16'; allowed: vgg11, vgg19")
