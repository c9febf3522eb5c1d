"""What a batch's results look like as files: tables, a FASTA of the viral sequences, an HTML page.

Nothing here computes a score. File names are in `paths`.
"""
