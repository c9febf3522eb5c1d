"""How far the fallback carries: windows without an open frame of genomes near to and far from those it was fitted on.

    python bench/fallback_transfer.py GENOMES.fasta.gz LABELS.tsv [--folds 5]

LABELS as for `virnuc evaluate`, with splits `train` and `val`. Area under the ROC curve on windows without an open
frame, fitted on all windows with equal weights: on `val`, fitted on `train`; and on every window of `train`, fitted on
the other folds of whole groups. With 6-mers alone, and with codons beside them. Takes a minute or two, and 9 KB of
memory a window.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from virnuc_dagster.classify.composition import blocks, feature_count, features, kmer_count
from virnuc_dagster.sequences.labels import Label, read_labels
from virnuc_dagster.sequences.reader import read_sequences
from virnuc_dagster.sequences.translation import open_frames
from virnuc_dagster.sequences.windows import window_spans

KMER, WINDOW_LENGTH, STRENGTH = 6, 500, 0.1


class Windows:
    """Features, truth, group and openness of all windows of some labelled sequences."""

    def __init__(self, sequences: list[bytes], labels: list[Label]) -> None:
        texts, owner, is_open = [], [], []
        for index, sequence in enumerate(sequences):
            opened = set(open_frames([sequence], WINDOW_LENGTH).window.tolist())
            for number, (start, end) in enumerate(window_spans(len(sequence), WINDOW_LENGTH).tolist()):
                texts.append(sequence[start:end])
                owner.append(index)
                is_open.append(number in opened)
        self.x = np.empty((len(texts), feature_count(KMER)), dtype=np.float32)
        for rows, block in blocks(texts):
            self.x[rows] = features(block, KMER)
        self.is_virus = np.array([labels[i].is_virus for i in owner])
        self.group = np.array([labels[i].group for i in owner])
        self.without = ~np.array(is_open)


def scores(
    x: NDArray[np.float32], truth: NDArray[np.bool_], parts: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> NDArray[np.float64]:
    """Out-of-fold log-odds of every row."""
    out = np.full(len(truth), np.nan)
    for train, test in parts:
        out[test] = LogisticRegression(C=STRENGTH, max_iter=1000).fit(x[train], truth[train]).decision_function(x[test])
    return out


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genomes", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    sequences = {record.id: record.sequence for record in read_sequences(options.genomes, name=options.genomes.name)}
    train, val = (
        Windows([sequences[label.id] for label in labels], labels)
        for labels in (read_labels(options.labels, "train"), read_labels(options.labels, "val"))
    )
    folds = StratifiedGroupKFold(options.folds, shuffle=True, random_state=1)
    found = {}
    for name, columns in (("6-mers", slice(0, kmer_count(KMER))), ("6-mers and codons", slice(None))):
        x = train.x[:, columns]
        near = LogisticRegression(C=STRENGTH, max_iter=1000).fit(x, train.is_virus).decision_function(val.x[:, columns])
        far = scores(x, train.is_virus, folds.split(x, train.is_virus, train.group))
        found[name] = {
            "val": round(float(roc_auc_score(val.is_virus[val.without], near[val.without])), 3),
            "left_out_groups": round(float(roc_auc_score(train.is_virus[train.without], far[train.without])), 3),
        }
        print(f"{name:<18} val {found[name]['val']:.3f}   groups left out {found[name]['left_out_groups']:.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
