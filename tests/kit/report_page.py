"""Read the page of a report as a browser would, and check that it is sound and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what a browser would see, and complains about tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def check_page(page: str) -> Page:
    """Check that a page runs nothing but its own script, fetches nothing, and that its links lead somewhere."""
    parsed = Page(page)
    policy = next(attrs["content"] for tag, attrs in parsed.seen if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    attributes = [(key, value or "") for _, attrs in parsed.seen for key, value in attrs.items()]
    assert [key for key, _ in attributes if key == "style" or key.startswith("on")] == []
    links = [value for key, value in attributes if key in ("href", "src", "xlink:href")]
    links = [link for link in links if not link.startswith("data:image/png;base64,")]
    assert [link for link in links if not link.startswith("#")] == []
    ids = Counter(value for key, value in attributes if key == "id")
    assert {name for name, count in ids.items() if count > 1} == set()
    assert {link[1:] for link in links} <= set(ids)
    assert {found for _, value in attributes for found in re.findall(r"url\(#([^)]+)\)", value)} <= set(ids)
    return parsed
