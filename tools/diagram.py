"""The assets as a Mermaid diagram, made from the definitions: `python tools/diagram.py` prints it.

docs/architecture.md holds the output; tests/docs/test_docs.py compares the two.
"""

from virnuc_dagster.definitions import build_definitions


def diagram() -> str:
    """Assets, what each depends on, and its partitions."""
    graph = build_definitions().resolve_asset_graph()
    lines = ["flowchart LR"]
    keys = sorted(graph.materializable_asset_keys, key=lambda key: key.path)
    for key in keys:
        node = graph.get(key)
        partitions = f"a partition of <i>{node.partitions_def.name}</i>" if node.partitions_def else "no partitions"
        lines.append(f'  {key.path[-1]}["{key.path[-1]}<br>{partitions}"]')
    for key in keys:
        lines += [f"  {parent.path[-1]} --> {key.path[-1]}" for parent in sorted(graph.get(key).parent_keys)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())
