# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remove the user info and the query of a URL from text of libraries and users.

The error of a library often quotes the URL, its query, or a piece of the password that it mistook for the host.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Optional
from urllib.parse import unquote

import msgspec

from .url import query_parameters, user_infos, without_secrets

__all__ = ("redacted", "with_urls_redacted")

_LEFT_OUT = "..."
_WORD = 8
"""A shorter secret is replaced only if it is a whole word: the password ``a`` is in all texts."""
_VALUE = 4
"""A shorter value of a parameter is replaced only together with its name: ``v=1``."""
_LONG = 16
"""Signatures and tokens are at least as long."""
_URL_IN_TEXT = re.compile(r"""[A-Za-z0-9+.-]{1,40}://[^\s'"<>`]*""")
_PUNCTUATION = ".,:;!)]}"


def with_urls_redacted(text: str) -> str:
    """Return *text* with :func:`~.url.without_secrets` applied to each URL in it."""

    def public(match: re.Match[str]) -> str:
        url = match.group().rstrip(_PUNCTUATION)
        return without_secrets(url) + match.group()[len(url) :]

    return _URL_IN_TEXT.sub(public, text) if "://" in text else text


def redacted(text: str, url: str, name: Optional[str] = None, by_user: bool = False) -> str:
    """Return *text* without the user info and query of *url*, or pieces of them.

    :param text: Text that may have *url* or pieces of it, such as the error of a library.
    :param url: The URL as the user gave it. If it is not a URL, *text* is returned unchanged.
    :param name: Name of the source in the dataset, which stays in *text*.
    :param by_user: Whether the user wrote *text*. Then short pieces that are not secret may stay: the
        name of the user, or an ID in the query. Passwords and long pieces are replaced.
    :return: The text with ``...`` for each of these pieces, and with
        :func:`~.url.without_secrets` applied to each URL.
    """
    if "://" not in url:
        return text
    public = without_secrets(url)
    if url != public:
        text = _replaced(text, _found(_unquoted(text), url), public)
    text = with_urls_redacted(text)
    unquoted = _unquoted(text)
    # The name and the path are not secrets, but may contain the name of the user, for example.
    kept = {
        span for known in (public, _path(public), name or "") for span in _found(unquoted, known)
    }
    secrets = _passwords(url) | {
        piece for piece in _pieces(url) if not by_user or len(piece) >= _LONG
    }
    secrets |= set(map(unquote, secrets))  # unquote() replaces bytes that are not UTF-8
    hidden = {span for secret in secrets for span in _found(unquoted, secret)}
    return _replaced(text, (span for span in hidden if not _is_in_one_of(kept, span)), _LEFT_OUT)


def _path(public: str) -> str:
    path = public.partition("://")[2].partition("/")[2]
    return f"/{path}" if path else ""


def _passwords(url: str) -> set[str]:
    infos = {info for info in user_infos(url) if ":" in info}
    return infos | {info.partition(":")[2] for info in infos}


def _pieces(url: str) -> Iterator[str]:
    for user_info in user_infos(url):
        user, _, password = user_info.partition(":")
        yield user
        # A library may mistake a piece of the password for the host.
        yield from re.split("[/?#@:]", password)
        for text in (user_info, unquote(user_info)):  # HTTP's basic authentication
            yield b64encode(text.encode("utf-8", "backslashreplace")).decode()
    yield url.partition("?")[2]
    for parameter in query_parameters(url):
        name, equals, value = parameter.partition("=")
        if equals:
            yield parameter
        secret = value if equals else name
        if len(secret) >= _VALUE:
            yield secret


# ---- where a text has a piece of a URL, however a library quotes or unquotes it

_Span = tuple[int, int]
_WRITTEN = re.compile(
    r"""(?P<escape>(?:\\|%(?:25)*5[Cc])(?=[\\'"]|%(?:25)*(?:5[Cc]|2[27])))"""
    r"|%(?:25)*(?P<hex>[0-9A-Fa-f]{2})|(?P<space>\+)|.",
    re.DOTALL,
)
"""A byte or a character as it is written. A backslash before a backslash or a quote, as repr()
writes it, stands for nothing."""


class _Unquoted(msgspec.Struct, frozen=True):
    content: bytes
    begins: list[int]
    """The index in the text of each byte, and of the end."""


def _found(text: _Unquoted, piece: str) -> Iterator[_Span]:
    content, begins = text.content, text.begins
    wanted = _unquoted(piece).content
    at = content.find(wanted) if wanted.strip() else -1
    while at >= 0:
        end = at + len(wanted)
        if len(piece) >= _WORD or not (_is_in_word(content, at) or _is_in_word(content, end)):
            yield begins[at], begins[end]
        at = content.find(wanted, at + 1)


def _unquoted(text: str) -> _Unquoted:
    content = bytearray()
    begins = []
    for match in _WRITTEN.finditer(text):
        written = _bytes_of(match)
        content += written
        begins += [match.start()] * len(written)
    return _Unquoted(bytes(content), [*begins, len(text)])


def _bytes_of(match: re.Match[str]) -> bytes:
    if match["hex"]:
        byte = bytes.fromhex(match["hex"])
        return b" " if byte == b"+" else byte
    if match["space"]:  # in the query of a form; + and space are treated as equal here
        return b" "
    return b"" if match["escape"] else match.group().encode("utf-8", "backslashreplace")


def _is_in_word(content: bytes, at: int) -> bool:
    return content[max(at - 1, 0) : at].isalnum() and content[at : at + 1].isalnum()


def _is_in_one_of(kept: set[_Span], span: _Span) -> bool:
    return any(begin <= span[0] and span[1] <= end for begin, end in kept)


def _replaced(text: str, spans: Iterable[_Span], new: str) -> str:
    # Spans that overlap are replaced together.
    parts, done = [], 0
    for begin, end in sorted(spans):
        if begin >= done:
            parts += [text[done:begin], new]
        done = max(done, end)
    return "".join([*parts, text[done:]])
