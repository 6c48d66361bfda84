# SPDX-License-Identifier: LGPL-2.1-or-later
"""No user info and no query of a URL is in its public form, or in a text that was redacted."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drgn_tools.program.core_file import shown
from drgn_tools.program.redact import redacted, with_urls_redacted
from drgn_tools.program.url import without_secrets


@pytest.mark.parametrize(
    ("url", "public"),
    [
        # There is no secret, and nothing changes.
        ("/var/crash/a?b@c", "/var/crash/a?b@c"),
        ("memory:///x/vmcore", "memory:///x/vmcore"),
        ("http://host:8080/vmcore", "http://host:8080/vmcore"),
        ("http://[::1]:80/vmcore", "http://[::1]:80/vmcore"),
        ("http://host/a@b/vmcore", "http://host/a@b/vmcore"),
        ("s3://bucket/vmcore#1", "s3://bucket/vmcore#1"),
        # User info as RFC 3986 has it.
        ("http://user:secret@host/vmcore", "http://host/vmcore"),
        ("https://TOKEN@host:80/vmcore", "https://host:80/vmcore"),
        ("http://us%40er:p%2Fw@host/vmcore", "http://host/vmcore"),
        ("ftp://user:p@ss@host/vmcore", "ftp://host/vmcore"),
        # As it may not have it, but people write it.
        ("s3://key:se/cr@et@host/bucket", "s3://host/bucket"),
        ("s3://key:se/cret@host/bucket", "s3://host/bucket"),
        ("ftp://user:p#ss@host/vmcore", "ftp://host/vmcore"),
        # The @ may belong to the path, or end the password.
        ("ftp://user:p@ss/w@host/x", "ftp://.../host/x"),
        ("http://user:12/34@host/x", "http://.../host/x"),
        ("ftp://user:p?ss@host/x", "ftp://..."),
        ("ftp://user:p@s?s@host/x", "ftp://..."),
        # Queries.
        ("https://host/vmcore?sig=a/b?c#d", "https://host/vmcore"),
        ("https://host:8080/vmcore?id=me@example.com", "https://host:8080/vmcore"),
        ("https://user:secret@host/vmcore?sig=1", "https://host/vmcore"),
        ("s3://b/vmcore?sig=1&versionId=Zq.1_-", "s3://b/vmcore?versionId=Zq.1_-"),
        ("s3://b/vmcore?versionId=Zq.1_-&sig=2", "s3://b/vmcore?versionId=Zq.1_-"),
        ("s3://b/vmcore?versionId=a b", "s3://b/vmcore"),
        ("https://host/vmcore?sig=a::/b@c", "https://host/vmcore"),
        # Chains.
        ("zip://vmcore::/tmp/a@b.zip", "zip://vmcore::/tmp/a@b.zip"),
        ("zip://vmcore::ftp://user:secret@host/c.zip", "zip://vmcore::ftp://host/c.zip"),
        ("simplecache::https://host/vmcore?sig=1", "simplecache::https://host/vmcore"),
        # No scheme that fsspec takes.
        (" https://user:secret@host/vmcore?sig=1", " https://host/vmcore"),
        ("git-lfs.é://user:secret@host/vmcore?sig=1", "git-lfs.é://host/vmcore"),
    ],
)
def test_what_is_public(url: str, public: str) -> None:
    assert without_secrets(url) == public
    assert without_secrets(public) == public
    assert shown(url) == public


# A secret is a word that is in no other part of the URL, with characters that end user info or
# query around it: its number of pieces is what could be overlooked.
_WORD = "s3cr3t"
_pieces = st.lists(st.sampled_from([_WORD, "8080", "", "x", "%2F"]), max_size=3)


def _secrets(joints: str) -> st.SearchStrategy[str]:
    joint = st.sampled_from(list(joints))
    return st.tuples(_pieces, joint, _pieces, joint).map(
        lambda drawn: drawn[1].join([*drawn[0], _WORD, *drawn[2]]).replace("x", drawn[3])
    )


_passwords = _secrets("/@:?#%+&='\"\\ é")
_queries = _secrets("/@:?#%+&=;~é")
_hosts = st.sampled_from(["host", "host:8080", "[::1]:80", "10.0.0.1", "bucket"])
_paths = st.sampled_from(["", "/", "/vmcore", "/a@b/vmcore", "/user/vmcore"])
_schemes = st.sampled_from(["http://", "s3://", "zip://vmcore::ftp://", "simplecache::https://"])


@given(_schemes, _passwords, _hosts, _paths)
@example("http://", f"8080/{_WORD}", "host", "/x")
@example("ftp://", f"8080/{_WORD}/@", "host", "/x")
def test_no_password_is_public(scheme: str, password: str, host: str, path: str) -> None:
    url = f"{scheme}user:{password}@{host}{path}"
    public = without_secrets(url)
    # host:8080/x?y@z is a URL with a query.
    if not re.match(r"[0-9]*/?[^@]*\?", password):
        assert _WORD not in public
    assert public.startswith(scheme)
    assert without_secrets(public) == public


@given(_schemes, st.sampled_from(["", "user:pw@"]), _hosts, _paths, _queries)
def test_no_query_is_public(scheme: str, user: str, host: str, path: str, query: str) -> None:
    public = without_secrets(f"{scheme}{user}{host}{path}?sig={query}")
    assert _WORD not in public
    assert "sig" not in public


@given(_schemes, _hosts, _paths, _queries, _queries)
def test_a_renewed_signature_is_the_same_source(
    scheme: str, host: str, path: str, before: str, after: str
) -> None:
    url = f"{scheme}{host}{path}"
    assert without_secrets(f"{url}?sig={before}") == without_secrets(f"{url}?t=5&sig={after}")


_QUOTINGS: tuple[Callable[[str], str], ...] = (
    str,
    unquote,
    lambda text: quote(text, safe=""),
    lambda text: quote(text, safe="/+=").replace("%2F", "%2f"),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: quote(unquote(text), safe="/:"),
    lambda text: repr(text)[1:-1],
)


@given(_passwords.filter(lambda text: "?" not in text), _queries, st.sampled_from(_QUOTINGS))
def test_what_a_library_quotes_is_replaced(
    password: str, query: str, quoting: Callable[[str], str]
) -> None:
    url = f"https://user:{password}@host/vmcore?id=7&sig={query}"
    for piece in (password, query, f"id=7&sig={query}", f"user:{password}", url):
        text = redacted(f"403 for <{quoting(piece)}> now", url)
        assert _WORD not in text, (url, piece)
        assert text.startswith("403 for <")
        assert text.endswith("> now")


@given(_passwords.filter(lambda text: "?" not in text))
def test_basic_authentication_is_replaced(password: str) -> None:
    for user_info in (f"user:{password}", unquote(f"user:{password}")):
        said = b64encode(user_info.encode()).decode()
        url = f"https://user:{password}@host/vmcore"
        assert redacted(f"sent Basic {said}.", url) == "sent Basic ...."


def test_what_is_no_secret_stays_in_a_text() -> None:
    url = "sftp://crash:a@host/var/crash/a/vmcore?v=1"
    said = "/var/crash/a/vmcore: no such file for crash; errno 1, a was wrong, at last: v=1"
    assert redacted(said, url) == (
        "/var/crash/a/vmcore: no such file for ...; errno 1, ... was wrong, at last: ..."
    )
    assert redacted(said, "/var/crash/a/vmcore") == said
    assert redacted("core of crash, a", url, name="core of crash, a") == "core of crash, a"


def test_what_a_user_repeats_is_replaced_if_it_is_a_password_or_long() -> None:
    url = "https://web1:pass@host/get?id=4711&token=0123456789abcdef"
    said = "web1 4711 id=4711 pass 0123456789abcdef"
    assert redacted(said, url, by_user=True) == "web1 4711 id=4711 ... ..."


def test_other_urls_in_a_text() -> None:
    assert with_urls_redacted(
        "moved from 'http://a:b@host/x?sig=1' to https://host/y?sig=2, (see s3://c:d@e/z)."
    ) == ("moved from 'http://host/x' to https://host/y, (see s3://e/z).")
    assert with_urls_redacted("tcp://127.0.0.1:8786: no answer?") == (
        "tcp://127.0.0.1:8786: no answer?"
    )
