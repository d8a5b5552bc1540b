"""Energy ledgers as rows, whose first is the head, and in words. Energies are in µJ."""

from self_models.guests.energy import EXECUTIONS, PARTS


def energy_rows(ledgers, conventions, anns):
    """Networks by convention. ledgers, conventions: by name; anns: name -> accuracies of its ANN in 32 and 8 bits, or None."""
    rows = [
        ["network", "accuracy, %", "spikes", *(f"{one.title}, µJ" for one in conventions.values())]
    ]
    for name, ledger in ledgers.items():
        for execution in EXECUTIONS:
            energies = [1e6 * ledger.joules(one, execution) for one in conventions.values()]
            rows.append(
                [
                    f"{name}, {execution}",
                    f"{100 * ledger.accuracy:.2f}",
                    ledger.total("spikes"),
                    *energies,
                ]
            )
        for bits, accuracy in zip((32, 8), anns.get(name, (None, None)), strict=True):
            energies = [1e6 * ledger.ann_joules(one, bits) for one in conventions.values()]
            rows.append(
                [f"its ANN, {bits} bits", accuracy and f"{100 * accuracy:.2f}", None, *energies]
            )
    return rows


def part_rows(ledger, convention):
    """A network by its parts, event-driven, means per image."""
    rows = [
        [
            "part",
            "spikes",
            "SynOps",
            "MACs, layer by layer",
            "membrane updates",
            f"{convention.title}, µJ",
        ]
    ]
    for part in (*PARTS, None):
        if entries := [entry for entry in ledger.entries if part in (None, entry.part)]:
            counts = [
                sum(getattr(entry, count) for entry in entries)
                for count in ("spikes", "synops", "macs", "reached")
            ]
            rows.append(
                [part or "all", *counts, 1e6 * ledger.joules(convention, EXECUTIONS[0], part)]
            )
    return rows


def verdicts(name, ledger, conventions):
    """Lines that say who costs less, the network event-driven or its ANN in 8 bits, and from which spikes on."""
    won = [
        one.title
        for one in conventions.values()
        if ledger.joules(one, EXECUTIONS[0]) < ledger.ann_joules(one, 8)
    ]
    lost = [one.title for one in conventions.values() if one.title not in won]
    costs = [
        f"{word} than its ANN in 8 bits under: {'; '.join(titles)}"
        for word, titles in (("more", lost), ("less", won))
        if titles
    ]
    yield f"{name}, means over {ledger.images:,} images; event-driven it costs {'. It costs '.join(costs)}"
    spikes = ledger.total("spikes")
    for one in conventions.values():
        even = ledger.break_even(one)
        told = (
            f"less below {even:.3f}"
            if even
            else "more even without any"
            if spikes
            else "no break-even, it sends nothing"
        )
        yield f"  {one.title}: {told}; it has {spikes / ledger.neurons:.3f} spikes per neuron and image"
