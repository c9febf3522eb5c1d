"""Reports over HTTP, so that the web UI can link to them: browsers follow no link from a web page to a file.

`python -m virnuc_dagster.services.report_server FOLDER HOST PORT` serves the files of one folder, read-only, until it
is ended.
"""

import os
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

#: Where a process finds the address of the report server, as browsers reach it, if there is one.
ADDRESS_VARIABLE = "VIRNUC_REPORTS_URL"


class ReportHandler(SimpleHTTPRequestHandler):
    """A handler that serves a folder to requests that name this server; another name is DNS rebinding."""

    def send_head(self) -> Any:
        """Answer a GET or HEAD request."""
        host, port = cast("tuple[str, int]", self.server.server_address)
        names = {f"{host}:{port}", f"localhost:{port}"}
        if address := os.environ.get(ADDRESS_VARIABLE):
            names.add(urlsplit(address).netloc)
        if self.headers.get("Host") not in names:
            self.send_error(403, "this server answers only under its own name")
            return None
        if not Path(self.translate_path(self.path)).resolve().is_relative_to(Path(self.directory).resolve()):
            self.send_error(404)  # a link that leads out
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `virnuc up` shows what matters."""


def serve(folder: str, host: str, port: int) -> ThreadingHTTPServer:
    """Make a server of a folder's files; `serve_forever` runs it."""
    return ThreadingHTTPServer((host, port), partial(ReportHandler, directory=folder))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3])).serve_forever()
