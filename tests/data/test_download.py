"""Downloads from a server on this machine: kept, checked, and refused in one line."""

import hashlib
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kdnas.data import cifar, download, load_dataset
from kdnas.errors import InputError


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_address[1]}/", asked
        httpd.shutdown()


def test_a_file_is_fetched_once_and_checked(server, own_cache):
    folder, url, asked = server
    (folder / "a.bin").write_bytes(b"content")
    md5 = hashlib.md5(b"content").hexdigest()
    first = download.fetch(url + "a.bin", md5, "sub")
    assert first == own_cache / "data" / "sub" / "a.bin" and first.read_bytes() == b"content"
    assert download.fetch(url + "a.bin", md5, "sub") == first and len(asked) == 1
    first.write_bytes(b"damaged")
    assert download.fetch(url + "a.bin", md5, "sub").read_bytes() == b"content" and len(asked) == 2


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server, own_cache):
    folder, url, _ = server
    (folder / "a.bin").write_bytes(b"other content")
    with pytest.raises(InputError, match="hash") as error:
        download.fetch(url + "a.bin", hashlib.md5(b"content").hexdigest())
    assert "\n" not in str(error.value)
    assert not list((own_cache / "data").glob("*"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_a_network_the_error_names_the_file_and_the_remedy(name, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:  # bound but not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(cifar, "URL", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        with pytest.raises(InputError, match="root") as error:
            load_dataset(name)
    assert cifar.LAYOUTS[name].archive in str(error.value) and "\n" not in str(error.value)


def test_an_unwritable_cache_is_named(server, own_cache):
    folder, url, _ = server
    (folder / "a.bin").write_bytes(b"content")
    (own_cache / "data").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=str(own_cache)):
        download.fetch(url + "a.bin", hashlib.md5(b"content").hexdigest())
