"""`predict`: from sequence files to verdicts, in one call."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from virnuc_dagster.api.destination import Destination, Inputs, refuse_own_folders
from virnuc_dagster.api.inputs import Input, as_source
from virnuc_dagster.api.result import BatchResult
from virnuc_dagster.api.session import failed, open_session
from virnuc_dagster.errors import SettingsError, VirnucError
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.progress import Progress


def predict(
    inputs: Input | Iterable[Input],
    *,
    output: Input | None = None,
    overwrite: bool = False,
    force_resume: bool = False,
    check: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> list[BatchResult]:
    """Say which sequences of FASTA or FASTQ files are viral, as `virnuc predict` does.

    Called again it computes only what is missing. Nothing is printed; torch has `threads` threads from then on.

    Args:
        inputs: A file, or several; plain, gz, bz2, xz or zst.
        output: Folder for the result files, of several inputs in a folder each; if None, they stay in the home.
        overwrite: Replace files in `output` that are no earlier results of the same batch; inputs are never replaced.
        force_resume: Set damaged checkpoints aside and compute them again.
        check: Raise the first error, once every input had its turn; if False, errors are in the results.
        progress: Told of what is done while it is done.
        **settings: Any setting by its name, such as `home`, `store`, `bundle`, `device`, `precision`, `threads` or
            `shard_size`; others are those of the environment and of `settings.toml`, see `Settings`.

    Returns:
        One result for each input, in their order.

    Raises:
        SettingsError: A setting cannot work, or `output` cannot be used; nothing was done.
        VirnucError: What kept an input from a complete report; what is finished is kept.

    Example:
        >>> from virnuc_dagster import predict
        >>> [result] = predict("demo/demo.fasta", home="my-home", bundle="mini")
        >>> result.state, result.verdicts["viral"]
        ('complete', 5)
        >>> next(result.sequences()).verdict
        'uncertain'
    """
    given = [os.fspath(name) for name in ([inputs] if isinstance(inputs, str | os.PathLike) else inputs)]
    if "" in (*given, output):
        raise SettingsError("an empty name stands for no file and no folder", hint="name the input, or the output")
    wanted = Settings.read(**settings)
    sources = [as_source(name) for name in given]
    destination = None
    if output is not None:
        refuse_own_folders(Path(output), wanted)
        destination = Destination(Path(output), Inputs.of(given), overwrite, nested=len(given) > 1)
        destination.check([source.name for source in sources])
    results: list[BatchResult] = []
    with open_session(wanted, progress=progress) as session:
        for source in sources:
            try:
                results.append(session.predict(source, destination, force_resume=force_resume))
            except VirnucError as error:
                results.append(failed(source, error))
    if check and (errors := [result.error for result in results if result.error]):
        raise errors[0]
    return results
