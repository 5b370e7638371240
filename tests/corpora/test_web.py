"""The retriever `web` on a local server: APIs, pages, manners, limits, kept answers, and what a failure becomes."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("selectolax", reason="the extra web is not installed")

import searchgym
from searchgym.corpora.web.apis import APIS, Found, open_api
from searchgym.corpora.web.html import decode, read_html
from searchgym.corpora.web.pages import PageReader, Unreadable, _is_public
from searchgym.corpora.web.retriever import WebRetriever, best_part, open_web
from searchgym.errors import ConfigError, RetrievalError, UnknownIdError
from searchgym.files import seal
from searchgym.records.question import Question

FAST: dict[str, Any] = {
    "requests_per_second": 1000,
    "pause": 0,
    "timeout": 5,
    "retries": 0,
    "allow_private": True,
}


class Site:
    """A web server that also is the search API.

    Attributes:
        pages: path -> (status, headers, body), or a function that gives them.
        results: what every search finds: paths.
        seen: requests, as "METHOD path?query".
        headers: those of each request.
        bodies: JSON bodies of POST requests.
    """

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}
        self.results: list[str] = []
        self.search_status = 200
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append(f"{self.command} {self.path}")
                site.headers.append({k.lower(): v for k, v in self.headers.items()})
                path = urlsplit(self.path).path
                status, headers, body = site.search() if path == "/search" else site.page(path)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                site.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.do_GET()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def search(self) -> tuple[int, dict[str, str], bytes]:
        rows = [
            {"url": self.url + path, "title": f"T{path}", "content": f"snippet of {path}"}
            for path in self.results
        ]
        answer = {
            "results": rows,
            "searchParameters": {},
            "query": {},
        }  # with what Serper and Brave always send
        return self.search_status, {}, json.dumps(answer).encode()

    def page(self, path: str) -> tuple[int, dict[str, str], bytes]:
        found = self.pages.get(path, (404, {}, b"no"))
        return found() if callable(found) else found

    def fetched(self) -> list[str]:
        """Paths of the pages that were asked for."""
        return [s.split()[1] for s in self.seen if "/search" not in s and "robots" not in s]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    found.results = ["/aare", "/bern"]
    found.pages = {
        "/aare": html("Aare", "<p>The Aare is a river.</p><p>It rises at the <b>Grimsel</b>.</p>"),
        "/bern": html("Bern", "<p>Bern was founded in 1191.</p>"),
    }
    try:
        yield found
    finally:
        found.close()


def html(title: str, body: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    page = f"<html><head><title>{title}</title></head><body><nav>menu</nav>{body}<script>x()</script></body></html>"
    return 200, {"content-type": "text/html; charset=utf-8", **headers}, page.encode()


@pytest.fixture
def web(site: Site, make_corpus: Callable[..., Any]) -> Callable[..., WebRetriever]:
    """Open the retriever on the site."""

    def make(**options: Any) -> WebRetriever:
        api = options.pop("api", "searxng")
        return open_web(make_corpus(["x"]), api=api, url=f"{site.url}/search", **{**FAST, **options})

    return make


def test_pages_are_found_and_read(site: Site, web: Callable[..., WebRetriever]) -> None:
    retriever = web()
    found, empty, again = retriever.search(["river Aare", " ", "river Aare"], 5)
    assert [hit.title for hit in found] == ["Aare", "Bern"]
    assert [hit.id for hit in found] == [f"{site.url}/aare", f"{site.url}/bern"]
    assert found[0].text == "The Aare is a river.\nIt rises at the Grimsel."
    assert [hit.score for hit in found] == [1.0, 0.5]
    assert (empty, again) == ([], found)
    asked = parse_qs(urlsplit(site.seen[-5].split()[1]).query) if "/search" in site.seen[-5] else None
    searches = [s for s in site.seen if "/search" in s]
    assert len(searches) == 2  # the check at opening, and one for two equal queries
    assert parse_qs(urlsplit(searches[1].split()[1]).query) == {"q": ["river Aare"], "format": ["json"]}, (
        asked
    )
    assert site.headers[0]["user-agent"].startswith("searchgym/")


def test_k_bounds_the_pages_that_are_read(site: Site, web: Callable[..., WebRetriever]) -> None:
    (found,) = web().search(["river"], 1)
    assert len(found) == 1
    assert site.fetched() == ["/aare"]


def test_snippets_need_no_page(site: Site, web: Callable[..., WebRetriever]) -> None:
    (found,) = web(read="snippets").search(["river"], 2)
    assert [hit.text for hit in found] == ["snippet of /aare", "snippet of /bern"]
    assert site.fetched() == []


def test_kept_answers_are_used_again_and_offline(site: Site, web: Callable[..., WebRetriever]) -> None:
    (first,) = web().search(["river"], 2)
    asked = len(site.seen)
    assert web().search(["river"], 2) == [first]
    assert len(site.seen) == asked
    offline = web(offline=True)
    assert offline.search(["river"], 2) == [first]
    (unknown,) = offline.search(["lake"], 2)
    assert isinstance(unknown, RetrievalError)
    assert "offline is set" in str(unknown)
    assert len(site.seen) == asked
    web(cache=False).search(["river"], 2)
    assert len(site.seen) > asked


def test_a_copy_in_another_process_gives_the_same(web: Callable[..., WebRetriever]) -> None:
    retriever = web()
    copy = pickle.loads(pickle.dumps(retriever))
    assert copy.index_hash == retriever.index_hash
    assert copy.search(["river"], 2) == retriever.search(["river"], 2)
    assert web(words=50).index_hash != retriever.index_hash


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ((404, {}, b"no"), "status 404"),
        ((200, {"content-type": "application/pdf"}, b"%PDF"), "its type is 'application/pdf'"),
        (html("Empty", ""), "it has no text"),
        (html("Long", "<p>" + "word " * 1000 + "</p>"), "larger than 1,000 bytes"),
        ((302, {"location": "/aare2"}, b""), "more than 5 redirects"),
        ((302, {"location": "ftp://example.org/x"}, b""), "its address begins with 'ftp'"),
    ],
)
def test_a_page_that_cannot_be_read_leaves_its_snippet(
    page: Any, reason: str, site: Site, web: Callable[..., WebRetriever]
) -> None:
    site.pages |= {"/aare": page, "/aare2": (302, {"location": "/aare2"}, b"")}
    retriever = web(max_bytes=1000)
    (found,) = retriever.search(["river"], 2)
    assert [hit.text for hit in found] == ["snippet of /aare", "Bern was founded in 1191."]
    assert retriever.unread == 1
    with pytest.raises(Unreadable, match=reason):
        PageReader(5, 1000, 0, "searchgym", True).read(f"{site.url}/aare")
    asked = len(site.fetched())
    retriever.search(["river"], 2)
    retriever.search(
        ["river "], 2
    )  # another search, the same pages: what cannot be read is not asked for again
    assert len(site.fetched()) - asked == 0


def test_a_page_that_fails_for_now_is_asked_for_again(site: Site, web: Callable[..., WebRetriever]) -> None:
    site.pages["/aare"] = (503, {}, b"later")
    retriever = web()
    assert retriever.search(["river"], 2)[0][0].text == "snippet of /aare"
    site.pages["/aare"] = html("Aare", "<p>back</p>")
    assert retriever.search(["river"], 2)[0][0].text == "back"


def test_no_page_at_all_is_a_failure_and_not_an_empty_result(
    site: Site, web: Callable[..., WebRetriever]
) -> None:
    site.pages |= {"/aare": (503, {}, b""), "/bern": (503, {}, b"")}
    (result,) = web().search(["river"], 2)
    assert isinstance(result, RetrievalError)
    assert "none of 2 pages" in str(result)


def test_robots_are_respected(site: Site, web: Callable[..., WebRetriever]) -> None:
    site.pages["/robots.txt"] = (200, {}, b"User-agent: searchgym\nDisallow: /aare\n")
    (found,) = web().search(["river"], 2)
    assert found[0].text == "snippet of /aare"
    assert site.fetched() == ["/bern"]
    assert sum("robots" in s for s in site.seen) == 1  # once for each host


def test_while_robots_cannot_be_read_nothing_is(site: Site, web: Callable[..., WebRetriever]) -> None:
    site.pages["/robots.txt"] = (500, {}, b"")
    (result,) = web().search(["river"], 2)
    assert isinstance(result, RetrievalError)
    assert site.fetched() == []


def test_a_redirect_is_followed_by_the_rules_of_its_target(
    site: Site, web: Callable[..., WebRetriever]
) -> None:
    site.pages["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /secret\n")
    site.pages["/aare"] = (301, {"location": "/bern#part"}, b"")
    site.results = ["/aare", "/moved"]
    site.pages["/moved"] = (307, {"location": "/secret"}, b"")
    (found,) = web().search(["river"], 2)
    assert [hit.text for hit in found] == ["Bern was founded in 1191.", "snippet of /moved"]
    assert "/secret" not in site.fetched()


def test_requests_to_one_host_are_kept_apart(site: Site) -> None:
    reader = PageReader(5, 10**6, 0.05, "searchgym", True)
    started = time.monotonic()
    for _ in range(3):
        reader.read(f"{site.url}/aare")
    assert time.monotonic() - started >= 0.15  # robots.txt and three pages: three pauses


def test_private_addresses_are_refused_by_default(site: Site, web: Callable[..., WebRetriever]) -> None:
    (found,) = web(allow_private=False).search(["river"], 2)
    assert [hit.text for hit in found] == ["snippet of /aare", "snippet of /bern"]
    assert site.fetched() == []
    with pytest.raises(Unreadable, match=r"localhost is at .* which is not public") as refused:
        PageReader(5, 1000, 0, "searchgym", False).read(site.url.replace("127.0.0.1", "localhost") + "/aare")
    assert not refused.value.transient


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert _is_public(address) is public


def test_a_failed_search_is_a_failure(site: Site, web: Callable[..., WebRetriever]) -> None:
    retriever = web()
    site.search_status = 500
    (result,) = retriever.search(["lake"], 2)
    assert isinstance(result, RetrievalError)
    assert "status 500" in str(result)
    site.search_status = 200
    assert len(retriever.search(["lake"], 2)[0]) == 2  # the failure was not kept


def test_a_failed_search_is_tried_again(site: Site, web: Callable[..., WebRetriever]) -> None:
    retriever = web(retries=2)
    statuses = iter([429, 200])
    original = site.search

    def search() -> Any:
        site.search_status = next(statuses)
        return original()

    site.search = search  # type: ignore[method-assign]
    assert len(retriever.search(["lake"], 2)[0]) == 2


def test_the_key_comes_from_the_variable_that_an_option_names(
    site: Site, web: Callable[..., WebRetriever], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="api_key_env"):
        web(api="serper")
    with pytest.raises(ConfigError, match="variable MY_KEY is not set"):
        web(api="serper", api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-secret")
    site.results = []
    web(api="serper", api_key_env="MY_KEY")
    assert site.headers[-1]["x-api-key"] == "sk-secret"
    assert site.bodies[-1] == {"q": "encyclopedia", "num": 1}
    web(api_key_env="MY_KEY", cache=False)
    assert site.headers[-1]["authorization"] == "Bearer sk-secret"
    site.search_status = 401
    with pytest.raises(ConfigError, match="refuses the key in MY_KEY") as refused:
        web(api="brave", api_key_env="MY_KEY")
    assert "sk-secret" not in str(refused.value)
    assert "sk-secret" not in "".join(p.read_text() for p in Path(searchgym.home.home()).rglob("*.json"))


def test_no_server_is_said_at_opening(make_corpus: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="cannot search"):
        open_web(make_corpus(["x"]), api="searxng", url="http://127.0.0.1:9/search", **FAST)


def test_an_api_that_you_describe(site: Site, web: Callable[..., WebRetriever]) -> None:
    site.search = lambda: (  # type: ignore[method-assign]
        200,
        {},
        json.dumps({"data": {"items": [{"link": f"{site.url}/bern", "name": "B"}]}}).encode(),
    )
    api = {"query": "text", "results": "data.items", "result_url": "link", "result_title": "name"}
    (found,) = web(api=api).search(["x"], 2)
    assert [hit.text for hit in found] == ["Bern was founded in 1191."]
    assert "text=x" in site.seen[-3]


def test_replies_of_the_known_apis() -> None:
    serper = {"organic": [{"link": "https://a.org/", "title": "A", "snippet": "s"}, {"link": "javascript:x"}]}
    assert APIS["serper"].read(json.dumps(serper).encode()) == [Found("https://a.org/", "A", "s")]
    brave = {"web": {"results": [{"url": "https://a.org/", "title": "A", "description": "s"}] * 2}}
    assert APIS["brave"].read(json.dumps(brave).encode()) == [Found("https://a.org/", "A", "s")]
    assert APIS["brave"].read(b'{"query": {"original": "x"}}') == []
    for name, body in (
        ("searxng", b"<html>"),
        ("searxng", b"[]"),
        ("searxng", b"{}"),
        ("brave", b'{"message": "quota"}'),
    ):
        with pytest.raises(ValueError):  # noqa: PT011  # whatever is wrong, it is no empty result
            APIS[name].read(body)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api": "serperr"}, "serper"),
        ({"api": "searxng"}, "has no address of its own"),
        ({"api": {"qery": "q"}, "url": "http://a"}, "unknown field of api 'qery'"),
        ({"api": {"method": "PUT"}, "url": "http://a"}, "method"),
        ({"api": "searxng", "url": "nowhere"}, "does not name a server"),
        ({"api": "searxng", "url": "http://a", "reed": "pages"}, "Did you mean 'read'"),
        ({"api": "searxng", "url": "http://a", "offline": True, "cache": False}, "offline"),
        ({"api": "searxng", "url": "http://a", "user_agent": "a\nb"}, "user_agent"),
        ({"api": "searxng", "url": "http://a", "words": 1}, "words"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, make_corpus: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        open_web(make_corpus(["x"]), **options)


def test_unknown_api_is_an_unknown_id() -> None:
    with pytest.raises((UnknownIdError, ConfigError), match="searxng"):
        open_api("searx", None)


def test_reading_html() -> None:
    source = """<html><head><title> A &amp;
      B </title></head><body><header><h1>Head</h1></header><nav>menu</nav><main><h2>One</h2>
      <p>Words <i>in</i>side
      a line</p><ul><li>a<li>b</ul><table><tr><td>x</td><td>y</td></tr></table><br>end<style>p{}</style></main>
      <p>outside</p></body></html>"""
    assert read_html(source) == ("A & B", "One\nWords inside a line\na\nb\nx\ny\nend")
    assert read_html("<p>one<p>two") == ("", "one\ntwo")
    assert read_html("") == ("", "")


def test_charsets() -> None:
    assert decode("Zürich".encode("latin-1"), "iso-8859-1") == "Zürich"
    assert decode(b'<meta charset="iso-8859-1">' + "Zürich".encode("latin-1"), "").endswith("Zürich")
    assert decode("Zürich".encode(), "no-such-charset") == "Zürich"
    assert decode(b"\xff", "base64") == "�"


def test_the_best_part_of_a_page() -> None:
    text = " ".join(["filler"] * 300 + ["the", "Aare", "rises", "here"] + ["filler"] * 300)
    assert "Aare rises" in best_part(text, "where rises the Aare", 50)
    assert len(best_part(text, "Aare", 50).split()) == 50
    assert best_part("short text", "x", 50) == "short text"


def test_an_episode_on_the_web(site: Site, make_corpus: Callable[..., Any]) -> None:
    corpus = make_corpus(["x"], [Question("q", "When was Bern founded?", ("1191",), "train")])
    spec = {"name": "web", "api": "searxng", "url": f"{site.url}/search", **FAST}
    env = searchgym.SearchEnv(corpus=corpus, retriever=spec)
    env.reset()
    observation, *_ = env.step("<search> Bern </search>")
    assert "[2] Bern\nBern was founded in 1191." in observation
    assert env.step("<answer> 1191 </answer>")[1] == 1.0
    with pytest.raises(ConfigError, match="recall"):
        searchgym.SearchEnv(corpus=corpus, retriever=spec, reward="recall")
    site.search_status = 500
    env.reset()
    *_, truncated, info = env.step("<search> Olten </search>")
    assert (truncated, info["valid_for_training"]) == (True, False)


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://a\u2100b.com/", "http://host:port/"]
)  # fmt: skip
def test_an_address_that_is_none_costs_its_page_and_no_other(
    location: str, site: Site, web: Callable[..., WebRetriever]
) -> None:
    """In a result, as the target of a redirect, and as that of robots.txt."""
    rows = [{"url": url, "title": "T", "content": "snippet"} for url in (location, f"{site.url}/bern")]
    site.search = lambda: (200, {}, json.dumps({"results": rows}).encode())  # type: ignore[method-assign]
    moved = {"location": location.encode().decode("latin-1")}
    site.pages["/moved"] = (302, moved, b"")
    retriever = web(cache=False)
    for first in (location, f"{site.url}/moved"):
        rows[0]["url"] = first
        (hits,) = retriever.search(["x"], 2)
        assert not isinstance(hits, Exception)
        assert [hit.text for hit in hits] == ["snippet", "Bern was founded in 1191."]
    site.pages["/robots.txt"] = (302, moved, b"")
    with pytest.raises(Unreadable):
        PageReader(5, 10**6, 0, "x", True).read(f"{site.url}/bern")


def test_addresses_with_letters_that_requests_cannot_carry(site: Site) -> None:
    """In a result, and in a redirect, where they are UTF-8 as browsers read them."""
    site.pages = {"/%C3%BC%20b": html("Ü", "<p>an umlaut</p>"), "/to": (302, {"location": "/Ã¼ b"}, b"")}
    reader = PageReader(5, 10**6, 0, "x", True)
    assert reader.read(f"{site.url}/ü b") == ("Ü", "an umlaut")
    assert reader.read(f"{site.url}/%C3%BC%20b") == ("Ü", "an umlaut")
    assert reader.read(f"{site.url}/to") == ("Ü", "an umlaut")


@pytest.mark.parametrize(
    ("rules", "readable"),
    [(f"Crawl-delay: {'9' * 5000}", False), ("Crawl-delay: ²", False), ("Disallow: http://[x", False),
     ("Crawl-delay: " + "0" * 400, True), ("Request-rate: 1/0", True)],
)  # fmt: skip
def test_rules_that_cannot_be_read_forbid(rules: str, readable: bool, site: Site) -> None:
    site.pages["/robots.txt"] = (200, {}, f"User-agent: *\n{rules}\n".encode())
    reader = PageReader(5, 10**6, 0, "x", True)
    if readable:
        assert reader.read(f"{site.url}/bern")[0] == "Bern"
        return
    with pytest.raises(Unreadable):
        reader.read(f"{site.url}/bern")


def test_lone_surrogates_reach_neither_observations_nor_files(
    site: Site, web: Callable[..., WebRetriever]
) -> None:
    row = {"url": f"{site.url}/\ud800", "title": "\ud800", "content": "\udfff snippet"}
    site.search = lambda: (200, {}, json.dumps({"results": [row]}).encode())  # type: ignore[method-assign]
    for _ in range(2):  # the second time from the kept answers
        ((hit,),) = web(read="snippets").search(["a \ud800 query"], 1)
        assert (hit.title, hit.text) == ("?", "? snippet")
    for charset in ("utf-7", "unicode_escape", "punycode"):
        assert decode(b"+2AA- \\ud800", charset) == "+2AA- \\ud800"


def test_a_page_that_would_take_the_parser_minutes_is_refused(site: Site) -> None:
    site.pages["/deep"] = html("Deep", "<div>" * 200_000)
    with pytest.raises(Unreadable, match="nested too deeply"):
        PageReader(5, 10**7, 0, "x", True).read(f"{site.url}/deep")
    many = "<p>a<li>b<br>" * 3000 + "<div><span>c</span></div>" * 3000
    assert read_html(many)[1].count("c") == 3000


def test_a_refusal_is_kept_for_the_options_that_it_depends_on(
    site: Site, web: Callable[..., WebRetriever]
) -> None:
    site.pages["/long"] = html("Long", "<p>" + "long " * 1000 + "</p>")
    site.results = ["/long"]
    ((hit,),) = web(max_bytes=2000).search(["x"], 1)
    assert hit.text == "snippet of /long"
    ((hit,),) = web(max_bytes=2000, offline=True).search(["x"], 1)
    assert hit.text == "snippet of /long"
    ((hit,),) = web(words=10).search(["x"], 1)
    assert hit.text.startswith("long long")


def test_damaged_kept_answers_are_fetched_again(site: Site, web: Callable[..., WebRetriever]) -> None:
    retriever = web()
    expected = retriever.search(["x"], 2)
    files = sorted(retriever._answers.directory.rglob("*.json"))
    assert len(files) >= 3
    for value in (5, "x", [1, 2], [[1, 2, 3]], {}):
        for file in files:
            entry = json.loads(file.read_text())
            kept = {"key": entry["key"], "value": value}
            file.write_text(json.dumps(seal(kept)))  # of another version: whole, but not what is expected
        assert web().search(["x"], 2) == expected
    for file in files:  # other letters in a text
        content = file.read_text()
        file.write_text(content.swapcase().replace(content[:6].swapcase(), content[:6]))
    assert web().search(["x"], 2) == expected
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert web().search(["x"], 2) == expected


def test_credentials_are_not_kept(site: Site, make_corpus: Callable[..., Any]) -> None:
    """Those in the address of the API and in its fields: neither in the kept answers nor in the digest."""

    def open_with(secret: str) -> WebRetriever:
        url = f"{site.url.replace('://', f'://me:{secret}@')}/search?api_key={secret}"
        return open_web(make_corpus(["x"]), api={"fields": {"api_key": secret}}, url=url, **FAST)

    first, second = open_with("hidden-1"), open_with("hidden-2")
    assert first.index_hash == second.index_hash
    first.search(["x"], 2)
    asked = len(site.seen)
    second.search(["x"], 2)
    assert len(site.seen) == asked
    kept = [file.read_text() for file in first._answers.directory.rglob("*.json")]
    assert kept
    assert not [text for text in kept if "hidden" in text]
