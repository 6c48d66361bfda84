#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make a virtual environment and install this project into it. Used by the Makefile.

    scripts/bootstrap.py VENV REQUIREMENT...

Works in a bare container: if Debian's python3 comes without ensurepip and
pip, this first fetches pip from the package index. Runs on any Python 3, so
that a user with one that is too old gets a clear message.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

OLDEST = (3, 9)


def main():
    if sys.version_info < OLDEST:
        return "python3 is %d.%d; drgn-tools needs %d.%d or later (make PYTHON=python3.x ...)" % (
            sys.version_info[:2] + OLDEST
        )
    if len(sys.argv) < 3:
        return __doc__
    venv, requirements = sys.argv[1], sys.argv[2:]
    python = os.path.join(venv, "bin", "python")
    try:
        pip = make_venv(venv, python)
        subprocess.check_call(pip + ["install", "--quiet"] + requirements)
    except subprocess.CalledProcessError as e:
        return "%s failed with exit code %d" % (" ".join(e.cmd), e.returncode)
    except (OSError, ValueError) as e:
        return "cannot set up %s: %s" % (venv, e)
    return 0


def make_venv(venv, python):
    """Make *venv* and return the command line of its pip."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own_pip = [python, "-m", "pip"]
    if os.path.exists(python) and subprocess.call(own_pip + ["--version"], **quiet) == 0:
        return own_pip  # it exists already: "make test" after "make demo" adds to it
    if subprocess.call([sys.executable, "-m", "venv", "--clear", venv], **quiet) == 0:
        return own_pip
    # Debian's python3 without python3-venv: no ensurepip.
    subprocess.check_call([sys.executable, "-m", "venv", "--clear", "--without-pip", venv])
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_pip(folder)
        # A wheel is a zip file, and pip runs from inside one.
        subprocess.check_call([python, os.path.join(wheel, "pip"), "install", "--quiet", wheel])
    return own_pip


def fetch_pip(folder):
    """Download pip's newest wheel for this Python, checked against the index's hash."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    request = urllib.request.Request(
        index + "/pip/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.loads(answer.read().decode())["files"]
    wheels = [f for f in files if f["filename"].endswith("-py3-none-any.whl") and runs_here(f)]
    if not wheels:
        raise ValueError("no pip for this Python on " + index)
    newest = max(wheels, key=lambda f: version_of(f["filename"]))
    with urllib.request.urlopen(newest["url"], timeout=60) as answer:
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != newest["hashes"]["sha256"]:
        raise ValueError("what came for %s has another hash" % newest["filename"])
    path = os.path.join(folder, newest["filename"])
    with open(path, "wb") as f:
        f.write(data)
    return path


def version_of(filename):
    """Return (24, 0, 1) for pip-24.0.1-py3-none-any.whl; pre-releases sort below everything."""
    parts = filename.split("-")[1].split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else ()


def runs_here(file):
    """Return whether this Python meets ``requires-python`` of an index entry (">=3.8")."""
    wanted = (file.get("requires-python") or "").replace(" ", "")
    if file.get("yanked") or not wanted.startswith(">="):
        return not wanted and not file.get("yanked")
    lowest = tuple(int(p) for p in wanted[2:].split(",")[0].split(".") if p.isdigit())
    return sys.version_info[: len(lowest)] >= lowest


if __name__ == "__main__":
    sys.exit(main())
