"""Published banks from a local server: fetched, checked, imported, kept; and refused where they must be."""

import functools
import hashlib
import http.server
import json
import pickle
import re
import shlex
import shutil
import threading

import pytest

from shelllcc.anchors import pull as publisher
from shelllcc.anchors.bankfile import read_bank
from shelllcc.anchors.choose import choose_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint


class Server(http.server.ThreadingHTTPServer):
    """Keeps the paths that were asked for in `seen`; `told` are headers of the hub's."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.seen, self.told = [], {}

    def handle_error(self, request, client_address):
        """A client that refuses a file hangs up while it is being served; the default prints that among its words."""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers below /resolve/main/ as the hub does: with what it knows of the file, and where that lies."""

    def log_message(self, *words):
        self.server.seen.append(self.path)

    def do_GET(self):
        if not self.path.startswith("/resolve/main/"):
            return super().do_GET()
        self.send_response(302)
        for name, value in {"Location": f"/{self.path.rpartition('/')[2]}", **self.server.told}.items():
            self.send_header(name, value)
        self.end_headers()
        return None


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
        yield folder, f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()
        thread.join()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_published_manifold_becomes_a_bank_that_is_found(served, shelllcc, shared, tmp_path, monkeypatch):
    folder, url, server = served
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
    assert choose_bank("auto", fingerprint(WAN21_VAE))[0].path == bank.path
    assert [p.name for p in (tmp_path / "banks").iterdir()] == ["shell-lcc.safetensors"]
    asked = len(server.seen)
    assert shelllcc("anchors", "pull", "shell-lcc")[0] == 0
    assert len(server.seen) == asked  # it is there already


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


def test_every_published_file_is_pinned():
    for entry in publisher.PUBLISHED.values():
        assert re.search(r"/[0-9a-f]{40}/", entry.url), entry.url
        assert "/HEAD/" not in entry.url


def test_what_nobody_has_vouched_for_says_what_it_is_and_how_to_pin_it(served, shelllcc, root, tmp_path):
    folder, url, server = served
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / "b.safetensors")
    got, size, commit = digest(folder / "b.safetensors"), (folder / "b.safetensors").stat().st_size, "0a" * 20
    server.told = {"X-Repo-Commit": commit, "X-Linked-ETag": f'"{got}"'}
    source = f"{url}/resolve/main/b.safetensors"
    code, out, err = shelllcc("anchors", "pull", source, "--json")
    assert code == 0, err
    [said] = [line for line in err.splitlines() if "note:" in line]
    assert all(word in said for word in (got, f"{size:,} bytes", commit))
    json.loads(out)
    bank = read_bank(tmp_path / "banks/b.safetensors")
    wanted = {"url": source, "sha256": got, "size": size, "revision": commit}
    assert {key: bank.provenance.get(key) for key in wanted} == wanted

    asked = len(server.seen)
    [command] = re.findall("`shelllcc (.*)`", said)
    code, _, err = shelllcc(*shlex.split(command))
    assert (code, len(server.seen)) == (0, asked), err  # the bank that is there is the one
    shutil.copy(folder / "b.safetensors", folder / "same.safetensors")
    with (folder / "b.safetensors").open("ab") as file:
        file.write(b"changed")
    (tmp_path / "banks/b.safetensors").unlink()
    code, _, err = shelllcc(*shlex.split(command))
    assert code == 1
    assert got in err
    shutil.copy(folder / "same.safetensors", folder / "b.safetensors")
    code, _, err = shelllcc(*shlex.split(command))
    assert code == 0, err
    assert "note:" not in err  # it is pinned


@pytest.mark.parametrize("told", [{}, {"X-Repo-Commit": "main\x1b[31m", "X-Linked-ETag": '"0"'}])
def test_a_server_that_tells_no_revision_is_said_to(told, served, shelllcc, root, tmp_path):
    folder, url, server = served
    server.told = told
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / "b.safetensors")
    code, _, err = shelllcc("anchors", "pull", f"{url}/resolve/main/b.safetensors")
    assert code == 0, err
    assert "revision unknown" in err
    assert "\x1b" not in err
    assert "revision" not in read_bank(tmp_path / "banks/b.safetensors").provenance


def test_a_revision_in_the_url_is_recorded(served, shelllcc, root, tmp_path):
    folder, url, _ = served
    (folder / ("c" * 40)).mkdir()
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / ("c" * 40) / "b.safetensors")
    code, _, err = shelllcc("anchors", "pull", f"{url}/{'c' * 40}/b.safetensors")
    assert code == 0, err
    assert read_bank(tmp_path / "banks/b.safetensors").provenance["revision"] == "c" * 40


def test_a_file_that_is_not_what_the_hub_says_it_is_is_refused(served, shelllcc, root, tmp_path):
    folder, url, server = served
    shutil.copy(root / "anchors/tiny-wan.safetensors", folder / "b.safetensors")
    server.told = {"X-Repo-Commit": "0a" * 20, "X-Linked-ETag": f'"{"0" * 64}"'}
    code, out, err = shelllcc("anchors", "pull", f"{url}/resolve/main/b.safetensors")
    assert (code, out) == (1, "")
    assert "0" * 64 in err
    assert not (tmp_path / "banks").exists() or not list((tmp_path / "banks").iterdir())


def test_a_pointer_in_the_place_of_a_file_is_told(served, shelllcc, tmp_path):
    folder, url, _ = served
    (folder / "m.pth").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1' * 64}\nsize 9\n")
    code, _, err = shelllcc("anchors", "pull", f"{url}/m.pth")
    assert code == 1
    assert "Git LFS" in err
    assert not list((tmp_path / "banks").iterdir())
