"""The names of all result files, once."""

SEQUENCES = "sequences.tsv"
WINDOWS = "windows.tsv"
FRAMES_ORIGINAL = "prediction_results.txt"
WINDOWS_ORIGINAL = "prediction_results_highestscore.csv"
VIRAL_FASTA = "viral.fasta"
SUMMARY = "summary.json"
HTML = "report.html"

#: Files that are equal byte for byte for equal input, bundle, precision, device kind, threads and shard size.
REPRODUCIBLE = (HTML, SEQUENCES, WINDOWS, FRAMES_ORIGINAL, WINDOWS_ORIGINAL, VIRAL_FASTA, SUMMARY)

#: Files that say where and when: they differ between calls.
PROVENANCE = "provenance.json"
RUN = "run.json"
