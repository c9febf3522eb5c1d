"""The report server: files of one folder, to requests that name it, and nothing else."""

import http.client
import threading

import pytest
from kits.waiting import HANG_SECONDS

from virnuc_dagster.services.report_server import ADDRESS_VARIABLE, serve


@pytest.fixture
def server(tmp_path):
    (tmp_path / "reports/demo-1").mkdir(parents=True)
    (tmp_path / "reports/demo-1/report.html").write_text("<h1>demo</h1>")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "reports/out").symlink_to(tmp_path)
    server = serve(str(tmp_path / "reports"), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server, path: str, host: str | None = None) -> tuple[int, bytes]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_report_is_served_from_the_folder(server):
    assert get(server, "/demo-1/report.html") == (200, b"<h1>demo</h1>")
    assert get(server, "/demo-1/report.html", f"localhost:{server.server_address[1]}")[0] == 200


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/out/secret.txt", "/demo-1/none.html"])
def test_nothing_outside_of_the_folder_is_served(server, path):
    status, body = get(server, path)

    assert status == 404
    assert b"secret" not in body


def test_another_name_is_refused(server, monkeypatch):
    assert get(server, "/demo-1/report.html", "evil.example:80")[0] == 403
    monkeypatch.setenv(ADDRESS_VARIABLE, "https://lab.example/")  # where a proxy lets people in
    assert get(server, "/demo-1/report.html", "evil.example:80")[0] == 403
    assert get(server, "/demo-1/report.html", "lab.example")[0] == 200
