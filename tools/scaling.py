"""The table of docs/scaling.md, from the arithmetic that `virnuc plan` uses."""

from virnuc_dagster.cli.tables import size_text
from virnuc_dagster.planning.sizing import at_scale

HEADINGS = ("frames", "bases", "shard size", "shards", "store", "events", "database", "overhead", "GPU-hours")


def main() -> None:
    """Print it."""
    print(f"| {' | '.join(HEADINGS)} |")
    print("|---" * len(HEADINGS) + "|")
    for power in range(6, 10):
        scale = at_scale(10**power)
        cells = (
            f"10^{power}", f"{scale.counts.bases:.1e}", f"{scale.advice.shard_size:,}", f"{scale.advice.shards:,}",
            size_text(scale.store_bytes), f"{scale.events:,}", size_text(scale.database_bytes),
            f"{scale.overhead_hours:.2g} h", f"{scale.gpu_hours:,.1f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
