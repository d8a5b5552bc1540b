"""The page's tables, as HTML: results, flags that differ, and the commands with all parameters."""

from html import escape

from harness.reporting.recipes import comparison

NOT_COMPARED = "run_name output_dir overwrite resume log test_only results_json preset_flags tensorboard"


def table(head, rows, numeric=()):
    """An HTML table whose first column stays in view; cells are text, None is a dash; numeric: columns to align right."""

    def cells(row, tag):
        texts = ["-" if cell is None else str(cell) for cell in row]
        kinds = [" class=number" * (column in numeric) for column in range(len(texts))]
        return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for text, kind in zip(texts, kinds, strict=True))

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def results_table(rows, names):
    """rows: (style, result); names: of the settings that labels say."""
    head = ["run", "run with", "accuracy in %", "95 % interval", "images", "spikes per image", "energy, event by event, µJ"]
    head += ["energy, layer by layer, µJ", "mean steps"]
    lines = [[
        style.title,
        result.label(names) or None,
        f"{100 * result.accuracy:.2f}",
        "{:.2f} to {:.2f}".format(*(100 * end for end in result.interval)),
        f"{result.images:,} ({result.where})",
        f"{result.spikes['total']:,.0f}" if result.spikes else None,
        *(None if energy is None else f"{1e6 * energy:.3g}" for energy in (result.energy_event_joules, result.energy_joules)),
        None if result.mean_steps is None else f"{result.mean_steps:.2f}",
    ] for style, result in rows]  # fmt: skip
    return table(head, lines, numeric=(2, 3, 5, 6, 7, 8))


def comparisons(pairs):
    """A table for each pair of Recipes, of which the second may be None."""
    tables = (comparison(*pair) for pair in pairs)
    return "\n".join(table(head, rows, numeric=range(1, len(head))) for head, *rows in tables)


def flags_tables(runs, styles):
    """Of the ANNs and of the SNNs, where there are several: a row for each run, a column for each flag that differs between them,
    None where one has no such flag. '' where there are not several."""
    parts = {}
    for kind in ("ANNs", "SNNs"):
        some = [(run.parameters, style) for run, style in zip(runs, styles, strict=True) if run.is_spiking == (kind == "SNNs")]
        names = sorted({name for parameters, _ in some for name in parameters} - set(NOT_COMPARED.split()))
        names = [name for name in names if len({parameters.get(name) for parameters, _ in some}) > 1]
        rows = [[style.title, *map(parameters.get, names)] for parameters, style in some]
        if len(some) > 1:
            parts[kind] = table(["run", *names], rows) if names else "<p>No flag differs between these runs.</p>"
    return "\n".join(f"<h3>{kind}</h3>{part}" if len(parts) > 1 else part for kind, part in parts.items())


def commands_list(runs, styles):
    """The commands of each run, and all of its parameters to unfold."""
    parts = []
    for run, style in zip(runs, styles, strict=True):
        commands = "".join(f"<pre>{escape(command)}</pre>" for command in run.commands) or "<p>not in the log</p>"
        rows = list(run.parameters.items())
        unfold = f"<details><summary>all {len(rows)} parameters</summary>{table(['parameter', 'value'], rows)}</details>"
        parts.append(f"<h3>{escape(style.title)}</h3>{commands}{unfold if rows else ''}")
    return "\n".join(parts)
