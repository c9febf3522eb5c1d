"""The names of all result files, once."""

SEQUENCES = "sequences.tsv"
WINDOWS = "windows.tsv"
FRAMES = "frames.tsv"
FRAMES_ORIGINAL = "prediction_results.txt"
WINDOWS_ORIGINAL = "prediction_results_highestscore.csv"
VIRAL_FASTA = "viral.fasta"
SUMMARY = "summary.json"
HTML = "report.html"
MULTIQC_VERDICTS = "virnuc_verdicts_mqc.json"
MULTIQC_COLUMNS = "virnuc_general_mqc.json"

#: Files with a row a sequence, a window or a frame, which are written in one pass over the sequences.
TABLES = (SEQUENCES, WINDOWS, FRAMES, FRAMES_ORIGINAL, VIRAL_FASTA)

#: Files that are equal byte for byte for equal input, bundle, precision, device kind, threads and shard size.
REPRODUCIBLE = (*TABLES, WINDOWS_ORIGINAL, SUMMARY, MULTIQC_VERDICTS, MULTIQC_COLUMNS, HTML)

#: Files that say where and when: they differ between calls.
PROVENANCE = "provenance.json"
RUN = "run.json"

#: Beside the report in the home, not copied: digests of its files, so that they may be handed out again.
SEAL = "files.json"

#: What `run.json` and the seal call the digests of the files beside them, by name.
DIGESTS = "files_sha256"
