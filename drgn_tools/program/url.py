# SPDX-License-Identifier: LGPL-2.1-or-later
"""URLs without the parts that may be secret: user info and query.

Everybody who reads ``https://user:password@host/vmcore?sig=SIGNATURE`` in an error message, a log
or a dataset can open the dump. Only the result of :func:`without_secrets` may be shown or stored.
redact.py is for text of libraries, which quote URLs and pieces of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ("query_parameters", "user_infos", "without_query", "without_secrets")

_LEFT_OUT = "..."
_SCHEME = re.compile("[^/:?#@]+://")
"""More than fsspec accepts as a scheme: a mistyped URL in an error message has secrets, too."""
_CHAIN = re.compile(r"::(?=[A-Za-z0-9+.-]+://|/)")
"""Between the URLs of a chain of fsspec: ``zip://vmcore::s3://bucket/cores.zip``."""
_AUTHORITY = re.compile("[^/?#]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[^:@\[\]]*)(?P<port>:[0-9]{0,5})?")
_VERSION = re.compile(r"(?:versionId|versionid|snapshot|generation)=[0-9A-Za-z._~%:-]+")
"""A parameter of an object store that chooses a version of the object. It is not secret."""


def without_secrets(url: str) -> str:
    """Return a URL without user info and query, to show or to store it.

    Scheme, host and path stay: ``https://user:password@host/vmcore?sig=1`` becomes
    ``https://host/vmcore``. So the name of an object stays the same when its signature is renewed.
    The only parameters of the query that stay are those that choose a version of an object
    (``versionId``, ``snapshot``, ``generation``), since another version is another dump.

    RFC 3986 requires ``/ ? # @`` in a password to be written as ``%2F %3F %23 %40``. A password with
    these characters unescaped is also left out. If an ``@`` may end the password or belong to the path,
    everything before the last one is left out: ``ftp://user:p@ss/w@host/x`` becomes ``ftp://.../host/x``.
    (``http://host:8080/a@b`` has such an ``@``, too. ``http://host/a@b`` does not.)

    :param url: URL of fsspec, which may be a chain. Text without ``://`` is returned unchanged.
    """
    public = []
    for part in _chain(url):
        scheme = _SCHEME.match(part)
        if scheme is None:
            public.append(part)
            continue
        public.append(scheme.group() + _public(part[scheme.end() :]))
        if "?" in part:  # everything that follows may be part of the query
            return "::".join(public) + _version(part)
    return "::".join(public)


def without_query(url: str) -> str:
    """Like :func:`without_secrets`, for a URL that has no user info."""
    return url.partition("?")[0] + _version(url)


def _chain(url: str) -> list[str]:
    # Return the URLs of a chain; the last may be a path.
    parts: list[str] = []
    for part in _CHAIN.split(url):
        before = parts[-1].partition("://")[2] if parts else ""
        if "@" in part and ":" in _authority(before):  # this :: may be part of a password
            parts[-1] += f"::{part}"
        else:
            parts.append(part)
    return parts


def _version(url: str) -> str:
    parameters = re.split("[&#]", url.partition("?")[2])
    kept = sorted(filter(_VERSION.fullmatch, parameters))
    return f"?{'&'.join(kept)}" if kept else ""


def _public(rest: str) -> str:
    # rest: a URL without its scheme.
    base = rest.partition("?")[0]
    authority = _authority(rest)
    host = _HOST.fullmatch(authority)
    if "@" not in rest or (host and not host["port"]):
        return base
    if host:  # host:8080/a@b, or user:8080/a@host
        _, at, behind = base.rpartition("@")
        return f"{_LEFT_OUT}/{behind}" if at else base
    before, _, behind = rest.rpartition("@")
    if "@" in authority and "@" not in rest[len(authority) :]:
        return base[authority.rindex("@") + 1 :]
    if "?" in before:
        return _LEFT_OUT
    # If there is no other @, the text before the first / is not a host: user:se/cret@host/x.
    behind = behind.partition("?")[0]
    return f"{_LEFT_OUT}/{behind}" if "@" in authority else behind


def _authority(rest: str) -> str:
    authority = _AUTHORITY.match(rest)
    return authority.group() if authority else ""


# ---- the secrets


def user_infos(url: str) -> Iterator[str]:
    """Return the possible user infos of a URL, or of the URLs in a chain: ``user:password``.

    There are several if an ``@`` may end it or belong to the path.
    """
    for part in _chain(url):
        scheme = _SCHEME.match(part)
        if scheme:
            yield from _possible_user_infos(part[scheme.end() :])


def _possible_user_infos(rest: str) -> set[str]:
    # rest: a URL without its scheme. As in _public().
    authority = _authority(rest)
    host = _HOST.fullmatch(authority)
    if host and not host["port"]:
        return set()
    ends = (rest.partition("?")[0],) if host else (authority, rest)
    return {text.rpartition("@")[0] for text in ends} - {""}


def query_parameters(url: str) -> set[str]:
    """Return the parameters of the query of a URL that are secrets: ``NAME=VALUE``."""
    query = url.partition("?")[2]
    parameters = {*query.split("&"), *re.split("[&;#]", query)} - {""}
    return {text for text in parameters if not _VERSION.fullmatch(text)}
