"""Downloads from a real server on this machine: whole or not at all, and never from the start when they need not be."""

import contextlib
import hashlib
import json
import random
import re
import resource
import shutil
import socket
import ssl
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

import pytest

from shelllcc.anchors.download import BACK_OFF, CHUNK, download
from shelllcc.guidance.errors import BankError, OutputError, UsageError

SIZE = 1_000_000
LIMIT = 2 * SIZE
OTHER = "0" * 64


def sha256(blob):
    return hashlib.sha256(blob).hexdigest()


class Host(ThreadingMixIn, TCPServer):
    """Serves `body` at every path, after `answers`, one a request; `asked` holds each request's path and headers."""

    def __init__(self, address):
        super().__init__(address, Handler)
        self.body, self.etag, self.date = random.Random(0).randbytes(SIZE), '"one"', None
        self.answers, self.asked, self.closing = [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/bank.safetensors"

    def handle_error(self, request, client_address):
        """A client may leave while it is being served."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        self.server.asked.append((self.path, self.headers))
        answer = self.server.answers.pop(0) if self.server.answers else serve
        answer(self)

    def log_message(self, *args):
        pass

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()


def serve(handler, *, ranges=True, heed=True, stop=None, hang=False, framing="length"):
    """As a good server does; or without ranges, deaf to If-Range, or with `stop` bytes of a body that goes on."""
    host, body, start = handler.server, handler.server.body, 0
    known = {"ETag": host.etag, "Last_Modified": host.date}
    wish = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
    if wish and (not heed or handler.headers.get("If-Range", host.etag) in (host.etag, host.date)):
        start = int(wish[1])
        if start >= len(body):
            return handler.head(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
        known["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    if framing == "length":
        known["Content_Length"] = len(body) - start
    elif framing == "chunked":
        known["Transfer_Encoding"] = "chunked"
    handler.head(206 if "Content_Range" in known else 200, **known)
    sent = body[start:] if stop is None else body[start : start + stop]
    if framing == "chunked":
        pieces = [sent[i : i + 50_000] for i in range(0, len(sent), 50_000)]
        sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + (b"" if stop else b"0\r\n\r\n")
    handler.wfile.write(sent)
    if hang:
        host.closing.wait(20)
    return None


def answer(status, body=b"", **headers):
    def give(handler):
        handler.head(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return give


def silence(handler):
    handler.server.closing.wait(20)


@contextlib.contextmanager
def serving(host):
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        host.closing.set()
        host.shutdown()
        thread.join()
        host.server_close()  # joins the threads of its requests


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of the machine's, and no waiting between retries."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("shelllcc.anchors.download.BACK_OFF", (0.0, 0.0, 0.0))


@pytest.fixture
def host():
    with serving(Host(("127.0.0.1", 0))) as host:
        yield host


@pytest.fixture
def path(tmp_path):
    return tmp_path / "banks" / "wan.safetensors"


@pytest.fixture
def fetch(host, path):
    """Download from the host, with a wait that no test reaches unless it wants to."""
    return lambda **options: download(host.url, path, **({"limit": LIMIT, "timeout": 20.0} | options))


@pytest.fixture
def interrupted(host, path, fetch):
    """How many bytes lie there after Ctrl-C; the requests so far are forgotten."""

    def interrupt(**options):
        def stop(done, total):
            if done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fetch(on_progress=stop, **options)
        host.asked.clear()
        return part_of(path).stat().st_size

    return interrupt


def part_of(path):
    return path.with_name(path.name + ".download")


def lying_beside(path):
    return sorted(p.name for p in path.parent.iterdir())


def test_a_file_comes_whole(host, path, fetch):
    seen = []
    digest = fetch(on_progress=lambda done, total: seen.append((done, total)))
    assert digest == sha256(host.body)
    assert path.read_bytes() == host.body
    assert lying_beside(path) == [path.name]
    assert seen[0] == (0, SIZE)
    assert seen[-1] == (SIZE, SIZE)
    assert seen == sorted(seen)
    [(_, headers)] = host.asked
    assert re.fullmatch(r"shelllcc/\d+\.\d+.*", headers["User-Agent"])
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Range"] is None


@pytest.mark.parametrize("body", [b"", b"x", bytes(CHUNK), bytes(CHUNK + 1)])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_every_framing_and_size_comes_whole(host, path, fetch, body, framing):
    host.body, host.answers = body, [partial(serve, framing=framing)]
    assert fetch() == sha256(body)
    assert path.read_bytes() == body


def test_a_file_with_the_digest_is_not_fetched_again(host, path, fetch):
    path.parent.mkdir()
    path.write_bytes(host.body)
    assert fetch(sha256=sha256(host.body).upper()) == sha256(host.body)
    assert host.asked == []


def test_a_file_with_another_digest_is_replaced_only_by_a_whole_one(host, path, fetch):
    path.parent.mkdir()
    path.write_bytes(b"before")
    host.answers = [answer(404)] + [partial(serve, stop=1000)] * 4
    for _ in range(2):
        with pytest.raises(BankError):
            fetch(sha256=sha256(host.body))
        assert path.read_bytes() == b"before"
    fetch(sha256=sha256(host.body))
    assert path.read_bytes() == host.body


def test_an_interrupted_download_goes_on_where_it_stopped(host, path, fetch, interrupted):
    kept = interrupted()
    assert 0 < kept <= CHUNK
    assert not path.exists()
    seen = []
    assert fetch(on_progress=lambda *step: seen.append(step)) == sha256(host.body)
    [(_, headers)] = host.asked
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={kept}-", '"one"')
    assert (seen[0], seen[-1]) == ((kept, SIZE), (SIZE, SIZE))
    assert lying_beside(path) == [path.name]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_the_date_is_asked_for(host, path, fetch, interrupted, etag):
    host.etag, host.date = etag, "Mon, 01 Jun 2026 10:00:00 GMT"
    kept = interrupted()
    assert fetch() == sha256(host.body)
    [(_, headers)] = host.asked
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={kept}-", host.date)


def test_a_server_without_ranges_is_asked_for_all_of_it(host, path, fetch, interrupted):
    interrupted()
    host.answers = [partial(serve, ranges=False)]
    assert fetch() == sha256(host.body)
    assert len(host.asked) == 1


@pytest.mark.parametrize("heed", [True, False])
def test_a_changed_file_is_fetched_from_its_start(host, path, fetch, interrupted, heed):
    interrupted()
    host.body, host.etag = random.Random(1).randbytes(SIZE), '"two"'
    host.answers = [partial(serve, heed=heed)]
    assert fetch() == sha256(host.body)
    assert path.read_bytes() == host.body


def test_the_part_of_another_url_is_not_used(host, path, fetch, interrupted):
    interrupted()
    assert download(host.url + "?v=2", path, limit=LIMIT) == sha256(host.body)
    assert host.asked[0][1]["Range"] is None


@pytest.mark.parametrize("record", [None, b"", b"{", b"[]", b"\xff", b'{"url": 3}'])
def test_a_part_that_nothing_vouches_for_is_not_used(host, path, fetch, interrupted, record):
    interrupted()
    part_of(path).write_bytes(b"of something else")
    notes = part_of(path).with_name(path.name + ".download.json")
    assert set(json.loads(notes.read_bytes())) == {"url", "validator"}
    notes.unlink() if record is None else notes.write_bytes(record)
    assert fetch() == sha256(host.body)
    assert host.asked[0][1]["Range"] is None


def test_a_file_without_validators_is_continued_only_under_a_digest(host, path, fetch, interrupted):
    host.etag = None
    kept = interrupted()
    assert fetch() == sha256(host.body)
    assert host.asked[0][1]["Range"] is None
    path.unlink()
    kept = interrupted()
    assert fetch(sha256=sha256(host.body)) == sha256(host.body)
    assert (host.asked[0][1]["Range"], host.asked[0][1]["If-Range"]) == (f"bytes={kept}-", None)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_dropped_connection_is_resumed(host, path, fetch, framing):
    host.answers = [partial(serve, stop=stop, framing=framing) for stop in (300_000, 200_000, 100_000)]
    assert fetch() == sha256(host.body)
    assert [headers["Range"] for _, headers in host.asked] == [None, *(f"bytes={n}00000-" for n in (3, 5, 6))]


def test_a_connection_that_keeps_dropping_is_resumed_by_the_same_command(host, path, fetch):
    host.answers = [partial(serve, stop=100_000)] * 4
    with pytest.raises(BankError, match=r"broke off 4 times; the same command resumes it"):
        fetch()
    assert len(host.asked) == 1 + len(BACK_OFF)
    assert not path.exists()
    assert part_of(path).read_bytes() == host.body[:400_000]
    assert fetch() == sha256(host.body)
    assert host.asked[-1][1]["Range"] == "bytes=400000-"


def test_a_stalled_body_is_resumed(host, path, fetch):
    host.answers = [partial(serve, stop=100_000, hang=True)]
    assert fetch(timeout=0.3) == sha256(host.body)
    assert host.asked[1][1]["Range"] == "bytes=100000-"


def test_silence_ends_with_one_line(host, path, fetch):
    host.answers = [silence]
    with pytest.raises(BankError, match=r"^cannot fetch http://127.*: timed out$"):
        fetch(timeout=0.2)


@pytest.mark.parametrize("status", [401, 403, 404, 416, 429, 500, 503, 204])
def test_a_refusal_is_named_and_the_part_kept(host, path, fetch, interrupted, status):
    host.answers = [answer(status)]
    with pytest.raises(BankError, match=rf"^cannot fetch {host.url}: the server answered {status} [A-Z][^\n]*$"):
        fetch()
    kept = interrupted()
    if status != 416:  # which says that there is nothing to continue
        host.answers = [answer(status)]
        with pytest.raises(BankError, match=str(status)):
            fetch()
        assert part_of(path).stat().st_size == kept


def test_a_complete_part_is_only_checked(host, path, fetch, interrupted):
    interrupted()
    part_of(path).write_bytes(host.body)
    seen = []
    assert fetch(on_progress=lambda *step: seen.append(step), sha256=sha256(host.body)) == sha256(host.body)
    assert seen == [(SIZE, SIZE)]
    assert host.asked[0][1]["Range"] == f"bytes={SIZE}-"
    assert lying_beside(path) == [path.name]


@pytest.mark.parametrize("first", [partial(serve, heed=False), answer(416), answer(416, ETag='"two"')])
def test_a_part_beyond_the_file_is_fetched_afresh(host, path, fetch, interrupted, first):
    kept = interrupted()
    host.body, host.answers = host.body[: kept - 1], [first]
    assert fetch() == sha256(host.body)
    assert path.read_bytes() == host.body


@pytest.mark.parametrize("span", [None, "bytes 0-9/10", "bytes 7-999999/*", f"bytes 0-1/{'9' * 5000}", "rubbish"])
def test_a_part_that_was_not_asked_for_is_not_used(host, path, fetch, interrupted, span):
    interrupted()
    host.answers = [answer(206, b"0123456789", ETag='"one"', Content_Range=span)]
    assert fetch() == sha256(host.body)
    host.answers = [answer(206, b"0123456789", Content_Range="bytes 5-14/15")] * 4
    path.unlink()
    with pytest.raises(BankError, match="the same command starts it again"):
        fetch()
    assert lying_beside(path) == []


def test_the_limit_itself_is_allowed(host, fetch):
    assert fetch(limit=SIZE) == sha256(host.body)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_more_than_the_limit_is_refused(host, path, fetch, framing):
    host.answers = [partial(serve, framing=framing)]
    seen = []
    with pytest.raises(BankError, match=r"larger than the 999,999 bytes allowed"):
        fetch(limit=SIZE - 1, on_progress=lambda *step: seen.append(step))
    assert len(host.asked) == 1
    assert all(done < SIZE for done, _ in seen)
    assert (seen == []) == (framing == "length")  # what is announced is refused before a byte of it is read
    assert lying_beside(path) == []


@pytest.mark.parametrize("grown", [SIZE + 1, 5 * SIZE])
def test_more_than_the_limit_is_refused_while_resuming(host, path, fetch, interrupted, grown):
    interrupted()
    host.body = bytes(grown)
    with pytest.raises(BankError, match="larger than"):
        fetch(limit=SIZE)
    assert lying_beside(path) == []


def test_a_complete_part_above_a_lower_limit_is_refused(host, path, fetch, interrupted):
    interrupted()
    part_of(path).write_bytes(host.body)
    with pytest.raises(BankError, match="larger than"):
        fetch(limit=SIZE - 1)
    assert lying_beside(path) == []


def test_another_digest_is_refused_and_nothing_kept(host, path, fetch):
    with pytest.raises(BankError, match=rf"{sha256(host.body)}, not {OTHER}") as caught:
        fetch(sha256=OTHER)
    assert "\n" not in str(caught.value)
    assert lying_beside(path) == []


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "g" * 64, "0" * 64 + "\n"])
def test_what_is_no_digest_is_refused_before_anything_is_fetched(host, path, fetch, digest):
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        fetch(sha256=digest)
    assert host.asked == []
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/x",
        "data:,x",
        "banks/wan.safetensors",
        "",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\nb",
        "http://127.0.0.1/ä",
    ],
)
def test_other_urls_are_refused(path, url):
    with pytest.raises(UsageError, match="no http or https URL") as caught:
        download(url, path, limit=LIMIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_with_its_range(host, path, fetch, interrupted, status):
    kept = interrupted()
    host.answers = [answer(status, b"moved", Location="/else where")]
    assert fetch() == sha256(host.body)
    assert [asked for asked, _ in host.asked] == ["/bank.safetensors", "/else%20where"]
    assert host.asked[1][1]["Range"] == f"bytes={kept}-"


def test_the_body_of_a_redirect_is_not_waited_for(host, path, fetch):
    def moved(handler):
        handler.head(302, Location="/elsewhere", Content_Length=10)
        handler.server.closing.wait(20)

    host.answers = [moved]
    assert fetch(timeout=2.0) == sha256(host.body)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(host, path, fetch, target):
    host.answers = [answer(302, Location=target)]
    with pytest.raises(BankError, match=r"answered 302 Found, a redirect .* not allowed"):
        fetch()
    assert len(host.asked) == 1
    assert not path.exists()


def test_a_redirect_without_end_or_to_nowhere_is_refused(host, path, fetch):
    host.answers = [answer(302, Location="/bank.safetensors")] * 20
    with pytest.raises(BankError, match="a redirect without end"):
        fetch()
    for target in (
        "http://[::1",
        "http://127.0.0.1:99999/x",
        f"http://127.0.0.1:{10**20}/x",
        "http://127.0.0.1:port/x",
    ):
        host.answers = [answer(302, Location=target)]
        with pytest.raises(BankError, match=r"^cannot fetch [^\n]*$"):
            fetch()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_is_checked_and_never_left_for_http(host, path, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = Host(("127.0.0.1", 0))
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    secure.url = secure.url.replace("http:", "https:")
    with serving(secure):
        with pytest.raises(BankError, match="certificate"):
            download(secure.url, path, limit=LIMIT)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        secure.answers = [answer(302, Location=host.url)]
        with pytest.raises(BankError, match=r"a redirect .* not allowed"):
            download(secure.url, path, limit=LIMIT)
        assert host.asked == []
        secure.answers = [answer(302, Location="/elsewhere"), partial(serve, stop=100_000)]
        assert download(secure.url, path, limit=LIMIT) == sha256(secure.body)
        host.answers = [answer(302, Location=secure.url)]
        assert download(host.url, path, limit=LIMIT) == sha256(secure.body)


def test_the_proxy_of_the_environment_is_used(host, path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", host.url)
    assert download("http://nowhere.invalid/x", path, limit=LIMIT) == sha256(host.body)
    assert host.asked[0][0] == "http://nowhere.invalid/x"


def test_nobody_there_ends_with_one_line(path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        for address in (f"127.0.0.1:{taken.getsockname()[1]}", "nowhere.invalid", f"{'a' * 70}.invalid"):
            with pytest.raises(BankError, match=rf"^cannot fetch http://{address}/x: [^\n]+$"):
                download(f"http://{address}/x", path, limit=LIMIT)


def test_what_speaks_no_http_ends_with_one_printable_line(host, fetch):
    host.answers = [lambda handler: handler.wfile.write(b"\x1b[31mSSH-2.0\r\n\r\n"), lambda handler: None]
    for _ in range(2):
        with pytest.raises(BankError) as caught:
            fetch()
        assert str(caught.value).isprintable()


def test_a_place_that_cannot_be_written_is_an_output_error(host, path, fetch, tmp_path):
    path.mkdir(parents=True)
    with pytest.raises(OutputError, match="it is a folder"):
        fetch()
    assert host.asked == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        download(host.url, tmp_path / "file" / "x", limit=LIMIT)
    part_of(tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        download(host.url, tmp_path / "x", limit=LIMIT)


def test_a_full_disk_is_an_output_error_and_room_lets_it_go_on(host, path, fetch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*: File too large"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = part_of(path).stat().st_size
    assert part_of(path).read_bytes() == host.body[:kept]
    host.asked.clear()
    assert fetch() == sha256(host.body)
    assert host.asked[0][1]["Range"] == f"bytes={kept}-"
