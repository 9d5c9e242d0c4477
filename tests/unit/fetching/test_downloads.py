import errno
import hashlib
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seedtalk.errors import RunError
from seedtalk.fetching import downloads
from seedtalk.fetching.downloads import download, download_commit

BODY = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `plan`; what is left of it repeats its last."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.asked = ["whole"], []

    def url(self, path="/set.bin"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        how = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = b"x" * len(BODY) if how.startswith("other") else BODY
        if how.isdigit():
            self.answer(int(how), b"no", {})
        elif how.startswith("http"):
            self.answer(302, b"", {"Location": how})
        elif how == "hang":
            time.sleep(2)
        elif how == "endless":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"%x\r\n" % len(BODY) + BODY + b"\r\n")
        elif how == "torn":
            self.answer(200, body[:5000], {"Content-Length": str(len(body))})
            self.close_connection = True
        elif how == "wrong range":
            self.answer(206, body[5:], {"Content-Range": f"bytes 5-{len(body) - 1}/{len(body)}"})
        elif how == "closed":
            self.close_connection = True
        elif start and how in {"ranges", "other ranges"}:
            if start >= len(body):
                self.answer(416, b"", {})
            else:
                span = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self.answer(206, body[start:], {"Content-Range": span})
        else:
            self.answer(200, body, {})

    def answer(self, code, body, headers):
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_lands_with_its_hash(server, tmp_path):
    path, found = download(server.url("/a/set.bin?x=1"), tmp_path, sha256=SHA256, size=len(BODY))
    assert (path, found) == (tmp_path / "set.bin", SHA256)
    assert path.read_bytes() == BODY
    assert left(tmp_path) == ["set.bin"]


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(BODY)
    download(server.url(), tmp_path, sha256=SHA256)
    assert server.asked == []
    (tmp_path / "set.bin").write_bytes(b"else")
    download(server.url(), tmp_path, sha256=SHA256)
    assert (tmp_path / "set.bin").read_bytes() == BODY


def test_a_file_without_a_pin_comes_as_it_is_and_never_onto_an_older_part(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(b"of another day")
    assert download(server.url(), tmp_path, sha256=None)[1] == SHA256
    assert server.asked == [None]


def test_another_hash_is_not_kept(server, tmp_path):
    server.plan = ["other"]
    with pytest.raises(RunError, match=r"set.bin: has the sha256 \w{64}, not the pinned.*--from"):
        download(server.url(), tmp_path, sha256=SHA256)
    assert left(tmp_path) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["torn", "closed", "503", "429", "hang"])
def test_a_passing_fault_is_tried_again(server, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    server.plan = [fault, "ranges"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].read_bytes() == BODY
    assert server.asked == [None, "bytes=5000-" if fault == "torn" else None]


def test_a_lasting_fault_ends_it_and_keeps_what_came(server, tmp_path):
    server.plan = ["torn", "503"]
    with pytest.raises(RunError, match=r"503.*what has come is kept.*--from"):
        download(server.url(), tmp_path, sha256=SHA256)
    assert left(tmp_path) == ["set.bin.part"]
    assert len(server.asked) == downloads.ATTEMPTS
    server.plan = ["ranges"]
    download(server.url(), tmp_path, sha256=SHA256)
    assert server.asked[-1] == "bytes=5000-"
    assert left(tmp_path) == ["set.bin"]


def test_a_server_that_knows_no_ranges_sends_it_anew(server, tmp_path):
    server.plan = ["torn", "whole"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].read_bytes() == BODY


def test_a_part_that_is_whole_already_is_taken(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(BODY)
    server.plan = ["ranges"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].read_bytes() == BODY


def test_a_part_of_another_file_is_given_up_once(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(b"y" * 5000)
    server.plan = ["ranges"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].read_bytes() == BODY
    assert server.asked == ["bytes=5000-", None]


def test_a_range_not_asked_for_is_not_joined(server, tmp_path):
    server.plan = ["torn", "wrong range", "ranges"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].read_bytes() == BODY
    assert server.asked == [None, "bytes=5000-", None]


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_what_is_not_there_is_said_at_once(server, tmp_path, code):
    server.plan = [code]
    with pytest.raises(RunError, match=rf"answered {code}.*--from"):
        download(server.url(), tmp_path, sha256=SHA256)
    assert len(server.asked) == 1


def test_a_download_without_end_is_given_up(server, tmp_path):
    server.plan = ["endless"]
    with pytest.raises(RunError, match="were expected"):
        download(server.url(), tmp_path, sha256=SHA256, size=1 << 20)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_redirects_within_this_machine_are_followed(server, tmp_path):
    server.plan = [server.url("/other/name.bin"), "whole"]
    assert download(server.url(), tmp_path, sha256=SHA256)[0].name == "set.bin"


@pytest.mark.parametrize("to", ["http://example.org/set.bin", "http://10.0.0.1/x"])
def test_a_redirect_to_plain_http_is_refused(server, tmp_path, to):
    server.plan = [to]
    with pytest.raises(RunError, match=r"redirected from http://127.*refused, it is not https"):
        download(server.url(), tmp_path, sha256=SHA256)


@pytest.mark.parametrize(
    ("url", "before"),
    [
        ("http://example.org/x", None),
        ("file:///etc/passwd", None),
        ("ftp://example.org/x", None),
        ("http://127.0.0.1/x", "https://example.org/x"),  # a stranger leads to this machine
        ("http://localhost@example.org/x", None),
    ],
)
def test_only_https_is_spoken(url, before):
    with pytest.raises(RunError, match="not https"):
        downloads._check_scheme(url, came_from=before)


def test_https_is_spoken_after_https():
    downloads._check_scheme("https://cdn.example.org/x", came_from="https://example.org/x")


def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.001)
    gone = Server()
    gone.server_close()
    with pytest.raises(RunError, match=r"could not be downloaded .*refused.*--from"):
        download(gone.url(), tmp_path, sha256=SHA256)


def test_a_full_disk_is_no_matter_of_the_network(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_store", full)
    with pytest.raises(OSError, match="No space left"):
        download(server.url(), tmp_path, sha256=SHA256)
    assert len(server.asked) == 1


@pytest.fixture
def repository(tmp_path):
    """A git repository with two commits; return it and the id of the first."""
    folder = tmp_path / "origin"
    (folder / "data").mkdir(parents=True)

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "data" / "train.tsv").write_bytes(b"one\r\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    first = git("rev-parse", "HEAD")
    (folder / "data" / "train.tsv").write_bytes(b"two\n")
    git("commit", "--quiet", "-am", "second")
    return folder, first


def test_a_commits_files_are_written_as_they_were(repository, tmp_path):
    folder, first = repository
    paths = ["data/train.tsv", "data/none.tsv"]
    written = download_commit(folder.as_uri(), first, paths, tmp_path / "out")
    assert list(written) == ["data/train.tsv"]
    assert (tmp_path / "out" / "train.tsv").read_bytes() == b"one\r\n"


def test_a_commit_that_is_not_there_is_said(repository, tmp_path):
    folder, _ = repository
    with pytest.raises(RunError, match="git fetch: .*--from"):
        download_commit(folder.as_uri(), "1" * 40, ["data/train.tsv"], tmp_path / "out")
    with pytest.raises(RunError, match="git fetch"):
        download_commit((tmp_path / "none").as_uri(), "1" * 40, [], tmp_path / "out")


def test_a_branch_in_the_place_of_the_commit_is_refused(repository, tmp_path):
    folder, _ = repository
    with pytest.raises(RunError, match="not the pinned HEAD"):
        download_commit(folder.as_uri(), "HEAD", [], tmp_path / "out")


def test_without_git_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="git is not installed"):
        download_commit("https://example.org/x", "1" * 40, [], tmp_path / "out")
