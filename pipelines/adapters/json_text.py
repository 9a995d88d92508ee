"""Json texts as columns: many lines at once, each of them readable or not by itself."""

from collections.abc import Mapping

import polars as pl

TEXT = pl.String
Fields = Mapping[str, pl.DataType | type[pl.DataType]]
_LINE, _IT = "_line", "_it"


def decoded(lines: pl.DataFrame, fields: Fields) -> pl.DataFrame:
    """Columns of `lines` but `text`, then `broken` and one column per field of the json object in `text`.

    `broken` is true where `text` is no json object or a field has another shape than asked for; its fields are null.
    A field that the object lacks is null, one that is not asked for is skipped. A number read as text is the text of
    the Float64 or integer nearest to it, so casting it back loses nothing.

    Each text is read as part of an object that also holds its own line number: a text that would only become json
    together with its neighbours cannot pass for a line.

    >>> lines = pl.DataFrame({"line": [1, 2, 3], "text": ['{"a": 1.5}', '{"a"', '{"b": 2}']})
    >>> decoded(lines, {"a": pl.String}).rows()
    [(1, False, '1.5'), (2, True, None), (3, False, None)]
    """
    shape = pl.Struct({_LINE: TEXT, _IT: pl.List(pl.Struct(dict(fields)))})
    text = pl.col("text").str.strip_chars()
    sound = text.str.starts_with("{") & text.str.ends_with("}")
    parts = (pl.lit(f'{{"{_LINE}":'), pl.col("line"), pl.lit(f',"{_IT}":['), text, pl.lit("]}"))
    read = _read(
        lines.select(pl.when(sound).then(pl.concat_str(*parts)).otherwise(pl.lit("null")).alias("text"))["text"], shape
    )
    told, items = read.struct.field(_LINE).cast(pl.Int64, strict=False), read.struct.field(_IT)
    item = items.list.first()
    whole = ((told == lines["line"]) & (items.list.len() == 1)).fill_null(False) & item.is_not_null()
    columns = [item.struct.field(name).alias(name) for name in fields]
    found = pl.DataFrame([(~whole).alias("broken"), *columns])
    return pl.concat([lines.drop("text"), found], how="horizontal")


def _read(texts: pl.Series, shape: pl.Struct) -> pl.Series:
    """The texts as structs, null where one cannot be read; a part that fails as a whole is halved until it is one."""
    try:
        read = texts.str.json_decode(shape)
        if len(read) == len(texts):
            return read
    except pl.exceptions.PolarsError:
        pass
    if len(texts) <= 1:
        return pl.Series(texts.name, [None] * len(texts), dtype=shape)
    half = len(texts) // 2
    return pl.concat([_read(texts[:half], shape), _read(texts[half:], shape)])
