"""A sheet of an Excel workbook to records."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from typing import Any

from migaki.core.codec import nearest
from migaki.core.errors import DataError

__all__ = ["read_sheet"]

Rows = Iterator[tuple[int, list[Any]]]


def read_sheet(data: bytes, source: str, sheet: str | None) -> tuple[list[str], Rows]:
    """The header, and each row that is not empty with its number in the sheet.

    Texts and numbers stay what they are, dates become ISO texts, a formula counts as the value it had when the file was
    saved. Of several sheets that hold something one has to be named.

    Args:
        data: the workbook.
        source: its name, for messages.
        sheet: name of the sheet; None: the only one that holds something.
    Raises:
        DataError: no workbook, no such sheet, or several; a formula without a value.
    """
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise DataError(
            f"{source}: Excel files need a further package: pip install 'migaki[excel]', or save the sheet as CSV."
        ) from None
    try:
        values = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        formulas = load_workbook(io.BytesIO(data), read_only=True, data_only=False)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise DataError(
            f"{source} is not a readable Excel file ({error}). Save it again as .xlsx, or save as CSV."
        ) from None
    names = [ws.title for ws in values.worksheets if any(_filled(row) for row in ws.iter_rows(values_only=True))]
    if sheet is not None and sheet not in values.sheetnames:
        raise DataError(f"{source} has no sheet {sheet!r}; {nearest(sheet, values.sheetnames)} Set data.sheet.")
    if sheet is None and len(names) != 1:
        what = (
            f"{len(names)} sheets that hold something ({', '.join(map(repr, names))})" if names else "no filled sheet"
        )
        raise DataError(f"{source} has {what}. Name one: data.sheet: {names[0] if names else 'NAME'}.")
    title = sheet or names[0]
    pairs = zip(values[title].iter_rows(values_only=True), formulas[title].iter_rows(values_only=True), strict=True)
    rows = ((n, _cells(row, written, f"{source}:{n}")) for n, (row, written) in enumerate(pairs, 1) if _filled(written))
    try:
        _, header = next(rows)
    except StopIteration:
        raise DataError(f"{source}: the sheet {title!r} is empty. Give a header and at least one row.") from None
    while header and header[-1] is None:
        header.pop()
    return ["" if name is None else str(name) for name in header], rows


def _filled(row: Sequence[Any]) -> bool:
    return any(cell is not None and str(cell).strip() for cell in row)


def _cells(row: Sequence[Any], written: Sequence[Any], place: str) -> list[Any]:
    found = []
    for number, (value, text) in enumerate(zip(row, written, strict=True), 1):
        if value is None and isinstance(text, str) and text.startswith("="):
            raise DataError(
                f"{place}: cell {number} holds a formula without a value. Open the file in Excel and save it, or save it as CSV."
            )
        found.append(value.isoformat() if isinstance(value, datetime | date | time) else value)
    return found
