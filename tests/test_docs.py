"""What the documentation names exists: tests in the table of faults, commands and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import ROOT

DOCS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
]


def test_the_table_of_faults_names_tests_that_exist() -> None:
    missing = []
    file = ""
    for line in (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines():
        for name in re.findall(r"`((?:test_\w+\.py)?(?:::test_\w+)?)`", line):
            path, _, function = name.partition("::")
            file = path or file
            content = (ROOT / "tests" / file).read_text("utf-8") if file else ""
            if function and f"def {function}(" not in content:
                missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_benchmarks_that_the_documentation_names_exist() -> None:
    named = {name for page in DOCS for name in re.findall(r"benchmarks/(\w+\.py)", page.read_text("utf-8"))}
    assert {name for name in named if not (ROOT / "benchmarks" / name).is_file()} == set()
