"""Published banks from a local server: fetched, checked, imported, kept; and refused where they must be."""

import functools
import hashlib
import http.server
import json
import pickle
import shutil
import threading

import pytest

from shelllcc.anchors import pull as publisher
from shelllcc.anchors.bankfile import read_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.anchors.shelf import find_bank


class Server(http.server.ThreadingHTTPServer):
    """Keeps the paths that were asked for in `seen`."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.seen = []

    def handle_error(self, request, client_address):
        """A client that refuses a file hangs up while it is being served; the default prints that among its words."""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        self.server.seen.append(self.path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, the URL that serves it, and the paths that were asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", server.seen
        server.shutdown()
        thread.join()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_published_manifold_becomes_a_bank_that_is_found(served, shelllcc, shared, tmp_path, monkeypatch):
    folder, url, seen = served
    shutil.copy(shared / "golden/reference_checkpoint.pth", folder / "m.pth")
    entry = publisher.Published(f"{url}/m.pth", "a test", limit=1 << 20, radius=0.88)
    monkeypatch.setattr(publisher, "PUBLISHED", {"shell-lcc": entry})
    code, out, err = shelllcc("anchors", "pull", "shell-lcc", "--json")
    assert code == 0, err
    bank = read_bank(tmp_path / "banks/shell-lcc.safetensors")
    assert json.loads(out)["sha256"] == bank.sha256
    assert bank.provenance["url"] == entry.url
    assert bank.provenance["sha256"] == digest(folder / "m.pth")
    assert float(bank.clean.radius[1, 0]) == pytest.approx(0.88)
    assert find_bank(fingerprint(WAN21_VAE)).path == bank.path
    assert [p.name for p in (tmp_path / "banks").iterdir()] == ["shell-lcc.safetensors"]
    asked = len(seen)
    assert shelllcc("anchors", "pull", "shell-lcc")[0] == 0
    assert len(seen) == asked  # it is there already


def test_a_published_bank_is_checked_and_kept_with_its_origin(served, shelllcc, root, tmp_path):
    folder, url, _ = served
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / "good.safetensors")
    pinned = digest(folder / "good.safetensors")
    code, _, err = shelllcc("anchors", "pull", f"{url}/good.safetensors", "--sha256", pinned)
    assert code == 0, err
    assert read_bank(tmp_path / "banks/good.safetensors").provenance["sha256"] == pinned


@pytest.mark.parametrize("kind", ["wrong hash", "a bomb", "a torn bank", "too large", "absent", "no bank at all"])
def test_what_must_not_come_in_leaves_nothing(kind, served, shelllcc, root, tmp_path, monkeypatch):
    folder, url, _ = served
    words, name = [], "x.safetensors"
    whole = (root / "anchors/tiny-wan.safetensors").read_bytes()
    (folder / name).write_bytes(whole[:-5] if kind == "a torn bank" else whole)
    if kind == "wrong hash":
        words = ["--sha256", "0" * 64]
    elif kind == "a bomb":
        name = "x.pth"
        (folder / name).write_bytes(pickle.dumps(functools.partial(open, str(tmp_path / "executed"), "w")))
    elif kind == "too large":
        monkeypatch.setattr(publisher, "PUBLISHED", {})
        monkeypatch.setattr(
            publisher.Published, "__init__", functools.partialmethod(publisher.Published.__init__, limit=9)
        )
    elif kind == "absent":
        name = "y.safetensors"
    elif kind == "no bank at all":
        name = "x.html"
    code, out, err = shelllcc("anchors", "pull", f"{url}/{name}", *words)
    assert code == (2 if kind == "no bank at all" else 1), err
    assert out == ""
    assert len([line for line in err.splitlines() if not line.startswith("shelllcc: fetching")]) == 1
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "banks").exists() or not list((tmp_path / "banks").iterdir())


def test_a_bank_of_another_origin_is_not_replaced_and_a_broken_one_is(served, shelllcc, root, tmp_path):
    folder, url, _ = served
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / "mine.safetensors")
    (tmp_path / "banks").mkdir()
    mine = tmp_path / "banks/mine.safetensors"
    shutil.copy(root / "anchors/tiny-wan.safetensors", mine)
    before = digest(mine)
    code, _, err = shelllcc("anchors", "pull", f"{url}/mine.safetensors")
    assert code == 1
    assert "another origin" in err
    assert digest(mine) == before
    mine.write_bytes(b"broken")
    code, _, err = shelllcc("anchors", "pull", f"{url}/mine.safetensors")
    assert code == 0, err
    assert read_bank(mine).provenance["url"] == f"{url}/mine.safetensors"
