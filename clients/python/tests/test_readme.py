"""What the pages show is what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support import REPO, NodeProcess

PAGES = [REPO / "clients/python/README.md", REPO / "docs/python.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(node: NodeProcess, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBB_NODE", node.url)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
