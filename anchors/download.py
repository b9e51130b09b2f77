"""Fetch one file over HTTP(S), whole or not at all. Knows nothing of what is in it.

What has come lies in `<name>.download` beside the file, and what it is part of in `<name>.download.json`. The next call
goes on from there by Range and If-Range (RFC 9110), unless the file at the URL has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse, responses
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from shelllcc.guidance.errors import BankError, OutputError, UsageError
from shelllcc.guidance.files import refusal, sha256_of
from shelllcc.guidance.versions import version

BACK_OFF = (0.5, 1.0, 2.0)  # seconds before each retry of a connection that broke off
CHUNK = 1 << 18
Progress = Callable[[int, int | None], None]
Headers = Callable[[Message], None]


def download(
    url: str,
    path: Path,
    *,
    limit: int,
    sha256: str | None = None,
    on_progress: Progress = lambda done, total: None,
    on_headers: Headers = lambda headers: None,
    timeout: float = 30.0,
) -> str:
    """The sha256 of the file that now lies at `path`; nothing is fetched if one with the digest `sha256` is there.

    `path` keeps what it held until all has come, at most `limit` bytes, with that digest. `timeout` bounds each wait
    for the server; `on_headers` hears those of every answer, redirects too. Raises UsageError, BankError for what the
    network does, OutputError for what the disk does.
    """
    _check_arguments(url, sha256)
    wanted = None if sha256 is None else sha256.lower()
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file")
    try:
        if wanted is not None and path.exists() and sha256_of(path) == wanted:
            return wanted
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _Part(url, path.with_name(f"{path.name}.download"), limit, checked=wanted is not None)
        for pause in (0.0, *BACK_OFF):
            time.sleep(pause)
            if _fetch_rest(part, on_progress, on_headers, timeout):
                break
        else:
            remedy = "the same command resumes it" if part.kept()[0] else "the same command starts it again"
            raise BankError(f"{url} broke off {len(BACK_OFF) + 1} times; {remedy}")
        digest = sha256_of(part.file)
        if wanted not in (None, digest):
            part.discard()
            raise BankError(f"{url} has sha256 {digest}, not {wanted}; nothing of it was kept")
        with part.file.open("rb") as file:
            os.fsync(file.fileno())
        part.file.replace(path)
        part.record.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from error
    return digest


@dataclass(frozen=True)
class _Part:
    """What has come of `url`; `record` holds the ETag or date that the rest must have, unless a digest is `checked`."""

    url: str
    file: Path
    limit: int
    checked: bool

    @property
    def record(self) -> Path:
        return self.file.with_name(f"{self.file.name}.json")

    def kept(self) -> tuple[int, str | None]:
        """How many bytes may be continued, and the validator of the file that they are from."""
        try:
            record, size = json.loads(self.record.read_bytes()), self.file.stat().st_size
        except (FileNotFoundError, ValueError):
            return 0, None
        if not isinstance(record, dict) or record.get("url") != self.url or size > self.limit:
            return 0, None
        validator = record.get("validator")
        if isinstance(validator, str):
            return size, validator
        return size if self.checked else 0, None

    def begin(self, validator: str | None) -> None:
        self.discard()
        self.record.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def refuse_above_limit(self, size: int) -> None:
        if size > self.limit:
            self.discard()
            raise BankError(f"{self.url} is larger than the {self.limit:,} bytes allowed; nothing of it was kept")


def _fetch_rest(part: _Part, on_progress: Progress, on_headers: Headers, timeout: float) -> bool:
    """One request for what is missing; whether the part is whole now. A part that cannot be continued is discarded."""
    offset, validator = part.kept()
    wish = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and validator is not None:
        wish["If-Range"] = validator
    with contextlib.closing(_open(part.url, wish, on_headers, timeout)) as response:
        on_headers(response.headers)
        status, span = response.status or 0, response.headers.get("Content-Range", "")
        found = _validator(response.headers)
        same = not offset or found in (None, validator)  # not every server heeds If-Range
        if status == 416 and offset:  # nothing lies after the offset
            whole = same and span == f"bytes */{offset}"
            on_progress(offset, offset) if whole else part.discard()
            return whole
        if status not in (200, 206) or isinstance(response, HTTPError):
            note = ", a redirect without end or to a scheme that is not allowed" if 300 <= status < 400 else ""
            raise BankError(f"cannot fetch {part.url}: the server answered {status} {responses.get(status, '')}{note}")
        total = response.length
        if status == 206:
            match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", span)
            if match is None or int(match[1]) != offset or not same:
                part.discard()
                return False
            total = int(match[2])
        part.refuse_above_limit(total or 0)
        if status == 200 or not offset:
            part.begin(found)
        return _receive(response, part, total, on_progress)


def _receive(response: HTTPResponse, part: _Part, total: int | None, on_progress: Progress) -> bool:
    """Append the body to the part; whether all of it came."""
    with part.file.open("ab") as file:
        done = file.tell()
        on_progress(done, total)
        while True:
            try:
                chunk = response.read1(CHUNK)  # unlike read, it loses nothing when the next bytes fail to come
            except (OSError, HTTPException):
                return False
            if not chunk:
                return total in (None, done)
            done += len(chunk)
            part.refuse_above_limit(done)
            file.write(chunk)
            on_progress(done, total)


class _Redirects(HTTPRedirectHandler):
    """Within http and https, never from https to http."""

    def __init__(self, on_headers: Headers) -> None:
        self.on_headers = on_headers

    def http_error_302(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        self.on_headers(headers)
        fp.close()  # else urllib reads the redirect's own body, however long
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, wish: Mapping[str, str], on_headers: Headers, timeout: float) -> HTTPResponse | HTTPError:
    """The server's answer, of any status."""
    headers = {"User-Agent": f"shelllcc/{version() or 0}", "Accept-Encoding": "identity", **wish}
    try:
        response: HTTPResponse = build_opener(_Redirects(on_headers)).open(
            Request(url, headers=headers), timeout=timeout
        )
        return response
    except HTTPError as error:
        return error
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        reason = getattr(error, "reason", error)
        text = str(getattr(reason, "strerror", None) or reason)
        printable = "".join(c if c.isprintable() else " " for c in text)  # it may quote the server
        raise BankError(f"cannot fetch {url}: {printable}") from error


def _validator(headers: Message) -> str | None:
    """What If-Range may carry: a strong ETag, else the date of the last change."""
    tag: str | None = headers["ETag"]
    return tag if tag is not None and not tag.startswith("W/") else headers["Last-Modified"]


def _check_arguments(url: str, sha256: str | None) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is no http or https URL; give one, other characters percent-encoded")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is no sha256 digest: it must be 64 hexadecimal digits, as sha256sum prints them")
