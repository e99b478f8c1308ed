"""A web page as the tests read it."""

import html.parser
import re

VOID_TAGS = {"meta", "img", "br", "input", "link"}


class Page(html.parser.HTMLParser):
    """Checks that elements close in order, and collects what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    @property
    def rows(self) -> dict[str, list[str]]:
        """The cells of each table's row by its first; of equal ones the last counts."""
        return {row[0]: row[1:] for row in self.cells if row}

    def assert_self_contained(self) -> None:
        """It runs nothing and asks for nothing, and links only to its own parts."""
        assert {tag for tag, _ in self.tags}.isdisjoint(
            {"script", "link", "iframe", "object", "embed", "base", "form"}
        )
        ids = {attributes.get("id") for _, attributes in self.tags}
        for _, attributes in self.tags:
            assert not {name for name in attributes if name.startswith("on")}
            for name in ("src", "action", "background", "srcset"):
                assert attributes.get(name, "data:image/").startswith("data:image/")
            if "href" in attributes:
                assert attributes["href"].startswith("#")
                assert attributes["href"][1:] in ids
        text = re.sub('base64,[^"]*', "", self.source)
        assert not re.search(r"https?:|url\(|@import|//", text)
