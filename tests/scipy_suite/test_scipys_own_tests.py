"""SciPy's own tests of its minimizers, routed to thalweg.minimize: all pass but those listed in exceptions.toml.

A test counts where it got to thalweg.minimize; those of methods that are SciPy's alone are left out by name. An
exception says the line at which it fails, so that one that fails elsewhere, or no longer, is found.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import scipy

HERE = Path(__file__).parent
MODULES = ("test_optimize", "test_trustregion", "test_lbfgsb_hessinv", "test_lbfgsb_setulb", "test__basinhopping")
OTHERS = ("slsqp", "tnc", "powell", "nelder", "cobyla", "cobyqa", "trust-constr", "OptimizeScalar", "fmin]")
PASSED, LISTED = 243, 26  # of SciPy 1.17.1


def outcomes(folder):
    """What SciPy's tests that got to thalweg.minimize ended with, by name: None, or the text of the failure."""
    report = folder / "report.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "routed", "-p", "no:cacheprovider", "-c", os.devnull,
        f"--rootdir={Path(scipy.__file__).parents[1]}", f"--junitxml={report}", "-k", f"not ({' or '.join(OTHERS)})",
        "--pyargs", *(f"scipy.optimize.tests.{module}" for module in MODULES),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("properties/property[@name='routed']") is not None:
            name = f"{case.get('classname').removeprefix('scipy.optimize.tests.')}::{case.get('name')}"
            failure = case.find("failure")
            found[name] = None if failure is None else failure.text
    return found


def failing_line(text):
    """The last line of the test itself that pytest's report marks."""
    return next(line[1:].strip() for line in text.splitlines() if line.startswith(">"))


def test_scipys_own_tests_pass_but_for_the_exceptions_listed(tmp_path):
    found = outcomes(tmp_path)
    exceptions = tomllib.loads((HERE / "exceptions.toml").read_text(encoding="utf-8"))["exception"]
    listed, failed = 0, {name: failing_line(text) for name, text in found.items() if text is not None}
    for exception in exceptions:
        named = [name for name in found if re.fullmatch(exception["test"], name)]
        assert named and all(failed.get(name) == exception["line"] for name in named), (exception, named)
        listed += len(named)
        failed = {name: line for name, line in failed.items() if name not in named}
    assert not failed
    assert (len(found) - listed, listed) == (PASSED, LISTED)
