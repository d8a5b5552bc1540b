"""Energies of networks as rows of tables, and in words. All are in µJ."""

from self_models.evaluation.operations import Convention
from wfeedback.energy.ledger import EXECUTIONS, PARTS, Ledger


def energy_rows(
    ledgers: dict[str, Ledger],
    conventions: dict[str, Convention],
    anns: dict[str, tuple[float, float]],
) -> list[list]:
    """Compare networks and their ANNs under several cost models.

    Parameters
    ----------
    ledgers : dict of {str: Ledger}
        What each network does for an image, by name.
    conventions : dict of {str: Convention}
        The cost models.
    anns : dict of {str: (float, float)}
        Name of a network -> accuracy of its ANN, with numbers of 32 and of 8 bits. A
        network whose ANN was not evaluated is missing.

    Returns
    -------
    list of list of str, float or None
        The head; for each network a row for each way to execute it, and two of its ANN.
    """
    head = ["network", "accuracy, %", "spikes"]
    for convention in conventions.values():
        head.append(f"{convention.title}, µJ")
    rows = [head]
    for name, ledger in ledgers.items():
        for execution in EXECUTIONS:
            row = [f"{name}, {execution}", f"{100 * ledger.accuracy:.2f}", ledger.total("spikes")]
            for convention in conventions.values():
                row.append(1e6 * ledger.joules(convention, execution))
            rows.append(row)
        accuracies = anns.get(name, (None, None))
        for bits, accuracy in zip((32, 8), accuracies, strict=True):
            row = [f"its ANN, {bits} bits", accuracy and f"{100 * accuracy:.2f}", None]
            for convention in conventions.values():
                row.append(1e6 * ledger.ann_joules(convention, bits))
            rows.append(row)
    return rows


def part_rows(ledger: Ledger, convention: Convention) -> list[list]:
    """Tabulate a network by its parts, event-driven, means per image.

    Parameters
    ----------
    ledger : Ledger
        What the network does.
    convention : Convention
        The cost model.

    Returns
    -------
    list of list of str or float
        The head, a row for each part that the network has, and one for all of them.
    """
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
        entries = [entry for entry in ledger.entries if part in (None, entry.part)]
        if not entries:
            continue
        row = [part or "all"]
        for count in ("spikes", "synops", "macs", "reached"):
            row.append(sum(getattr(entry, count) for entry in entries))
        row.append(1e6 * ledger.joules(convention, EXECUTIONS[0], part))
        rows.append(row)
    return rows


def verdicts(name: str, ledger: Ledger, conventions: dict[str, Convention]) -> list[str]:
    """Say what costs less: a network, event-driven, or its ANN in 8 bits.

    Parameters
    ----------
    name : str
        Name of the network.
    ledger : Ledger
        What it does.
    conventions : dict of {str: Convention}
        The cost models.

    Returns
    -------
    list of str
        A line with the cost models under which it costs more, and less; then for each
        of them below how many spikes the network costs less.
    """
    dearer = []
    cheaper = []
    for convention in conventions.values():
        is_cheaper = ledger.joules(convention, EXECUTIONS[0]) < ledger.ann_joules(convention, 8)
        titles = cheaper if is_cheaper else dearer
        titles.append(convention.title)
    costs = []
    for word, titles in (("more", dearer), ("less", cheaper)):
        if titles:
            costs.append(f"{word} than its ANN in 8 bits under: {'; '.join(titles)}")
    lines = [
        f"{name}, means over {ledger.images:,} images; event-driven it costs "
        f"{'. It costs '.join(costs)}"
    ]

    spikes = ledger.total("spikes")
    density = spikes / ledger.neurons
    for convention in conventions.values():
        even = ledger.break_even(convention)
        if even:
            verdict = f"less below {even:.3f}"
        elif spikes:
            verdict = "more even without any"
        else:
            verdict = "no break-even, it sends nothing"
        lines.append(
            f"  {convention.title}: {verdict}; it has {density:.3f} spikes per neuron and image"
        )
    return lines
