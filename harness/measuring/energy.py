"""An energy ledger in tables: networks under conventions, a network by its parts, and what decides."""

import csv
import io
import json
import re
from dataclasses import asdict

from harness.measuring.report import aligned, figure
from self_models.counting.ledger import EXECUTIONS, PARTS

FORMATS = "text", "md", "latex", "csv", "json"
UNIT = 1e6  # energies are in µJ


def rows_of(found, conventions, anns):
    """The head and the rows of the first table. found: name -> Ledger; conventions: name -> Convention; anns: name -> (accuracy
    of its ANN or None, of the same in 8 bits or None)."""
    rows = [["network", "accuracy, %", "spikes", *(f"{one.title}, µJ" for one in conventions.values())]]
    for name, ledger in found.items():
        for execution in EXECUTIONS:
            energies = [UNIT * ledger.joules(one, execution) for one in conventions.values()]
            rows.append([f"{name}, {execution}", f"{100 * ledger.accuracy:.2f}", ledger.total("spikes"), *energies])
        for bits, accuracy in zip((32, 8), anns.get(name, (None, None)), strict=True):
            energies = [UNIT * ledger.ann_joules(one, bits) for one in conventions.values()]
            rows.append([f"its ANN, {bits} bits", accuracy and f"{100 * accuracy:.2f}", None, *energies])
    return rows


def rows_by_part(ledger, convention):
    """The head and the rows of a network's own table, means per image."""
    rows = [["part", "spikes", "SynOps", "MACs, layer by layer", "membrane updates", f"{convention.title}, µJ"]]
    for part in PARTS:
        mine = [entry for entry in ledger.entries if entry.part == part]
        counts = [sum(getattr(entry, count) for entry in mine) for count in ("spikes", "synops", "macs", "reached")]
        rows += [[part, *counts, UNIT * ledger.joules(convention, EXECUTIONS[0], part)]] * bool(mine)
    counts = [ledger.total(count) for count in ("spikes", "synops", "macs", "reached")]
    return [*rows, ["all", *counts, UNIT * ledger.joules(convention, EXECUTIONS[0])]]


def verdicts(name, ledger, conventions):
    """Lines that say who costs less, the network event-driven or its ANN in 8 bits, and from which spikes on."""
    won = [one.title for one in conventions.values() if ledger.joules(one, EXECUTIONS[0]) < ledger.ann_joules(one, 8)]
    lost = [one.title for one in conventions.values() if one.title not in won]
    words = [f"more than its ANN in 8 bits under: {'; '.join(lost)}"] * bool(lost)
    words += [f"less than its ANN in 8 bits under: {'; '.join(won)}"] * bool(won)
    yield f"{name}, means over {ledger.images:,} images; event-driven it costs {'. It costs '.join(words)}"
    spikes = ledger.total("spikes")
    for one in conventions.values():
        even = ledger.break_even(one)
        told = f"less below {even:.3f}" if even else "more even without any" if spikes else "no break-even, it sends nothing"
        yield f"  {one.title}: {told}; it has {spikes / ledger.neurons:.3f} spikes per neuron and image"


def as_text(rows, form):
    """A table as aligned text, md, latex or csv."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().rstrip("\n")
    head, *body = in_words(rows)
    if form == "md":
        return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *body])
    if form == "latex":
        head, *body = (" & ".join(re.sub("([&%$#_{}])", r"\\\1", cell) for cell in row) + r" \\" for row in (head, *body))
        begin, end = rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\end{tabular}"
        return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end])
    return "\n".join(aligned([head, *body]))


def in_words(rows):
    """A table's cells as texts."""
    return [[cell if isinstance(cell, str) else "-" if cell is None else figure(cell) for cell in row] for row in rows]


def as_json(found, conventions, anns):
    """All that is known of these networks, for programs."""
    told = {}
    for name, ledger in found.items():
        accuracy, in_8_bits = anns.get(name, (None, None))
        told[name] = asdict(ledger) | {"ann_accuracy": accuracy, "ann_8_bits_accuracy": in_8_bits}
        told[name]["joules"] = {
            title: {execution: ledger.joules(one, execution) for execution in EXECUTIONS}
            | {"ann": ledger.ann_joules(one), "ann_8_bits": ledger.ann_joules(one, 8), "break_even": ledger.break_even(one)}
            for title, one in conventions.items()
        }
    return json.dumps(told, indent=1)
