"""Going over finished shards on S3, with records looked at one by one and sixteen at a time.

    python bench/object_store.py [--frames-a-shard 10] [--delay 0.03]

Computes the demo on an S3 service of its own (moto on loopback, extra `[s3]`) and then runs the same `predict` in turn
with both, three times each; every request takes `--delay` seconds longer than it would. Prints seconds, as whole
processes, and the ratio of the medians.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "s3"))
from kits.ports import free_port
from kits.s3 import environment, new_bucket, service

DEMO = Path(__file__).parents[1] / "demo" / "demo.fasta"
PREDICT = """
import sys
from virnuc_dagster.checkpoints.object_medium import ObjectMedium
ObjectMedium.AT_ONCE = int(sys.argv.pop(1))
from virnuc_dagster.cli import run
run()
"""


def delay_requests(port: int, target: int, seconds: float) -> None:
    """Forward connections, and whatever a client sends later than it came; runs until the process ends."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pause: float) -> None:
        while data := await reader.read(2**16):
            await asyncio.sleep(pause)
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, answer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, answer, seconds), pump(beyond, writer, 0), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(forward, "127.0.0.1", port)
        serving.set()
        await server.serve_forever()

    serving = threading.Event()
    threading.Thread(target=asyncio.run, args=[serve()], daemon=True).start()
    serving.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames-a-shard", type=int, default=10)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds that a request takes more")
    options = parser.parse_args()
    with service() as target, tempfile.TemporaryDirectory() as home:
        port = free_port()
        delay_requests(port, target, options.delay)
        url = new_bucket(target)

        def predict(at_once: int) -> float:
            command = [sys.executable, "-c", PREDICT, str(at_once), "predict", DEMO, "--home", home, "--store", url]
            command += ["--output", Path(home, "report"), "--shard-size", str(options.frames_a_shard)]
            began = time.perf_counter()
            done = subprocess.run(command, env=os.environ | environment(port), capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            return time.perf_counter() - began

        print(f"computed: {predict(16):.1f} s")
        rounds = [(predict(1), predict(16)) for _ in range(3)]
    one, many = (median(seconds) for seconds in zip(*rounds, strict=True))
    print(f"gone over, one look at a time: {one:.1f} s; sixteen: {many:.1f} s; {one / many:.2f} times as quick")


if __name__ == "__main__":
    main()
