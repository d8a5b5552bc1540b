"""Energy ledgers as rows of tables, whose first is the head, and as sentences."""

from collections.abc import Iterator, Mapping

from self_models.counting.operations import Convention
from self_models.guests.energy import EXECUTIONS, PARTS, Ledger

EVENT_DRIVEN = EXECUTIONS[0]
MICRO = 1e6  # J in µJ

Rows = list[list]  # of texts, numbers, and None where there is nothing


def energy_rows(
    ledgers: Mapping[str, Ledger],
    conventions: Mapping[str, Convention],
    anns: Mapping[str, tuple[float, float]],
) -> Rows:
    """Compare networks, and their ANNs, by convention.

    Parameters
    ----------
    ledgers : dict of {str: Ledger}
        By name of the network.
    conventions : dict of {str: Convention}
        The prices, by name.
    anns : dict of {str: tuple of (float, float)}
        Accuracies of a network's ANN in 32 and in 8 bits, as far as they are known.

    Returns
    -------
    list of list
        A row for each network and execution, and two for each ANN. Energies are in µJ.
    """
    columns = [f"{convention.title}, µJ" for convention in conventions.values()]
    rows = [["network", "accuracy, %", "spikes", *columns]]
    for name, ledger in ledgers.items():
        for execution in EXECUTIONS:
            energies = []
            for convention in conventions.values():
                energies.append(MICRO * ledger.joules(convention, execution))
            accuracy = f"{100 * ledger.accuracy:.2f}"
            spikes = ledger.total("spikes")
            rows.append([f"{name}, {execution}", accuracy, spikes, *energies])
        accuracies = anns.get(name, (None, None))
        for bits, ann_accuracy in zip((32, 8), accuracies, strict=True):
            energies = []
            for convention in conventions.values():
                energies.append(MICRO * ledger.ann_joules(convention, bits))
            accuracy = ann_accuracy and f"{100 * ann_accuracy:.2f}"
            rows.append([f"its ANN, {bits} bits", accuracy, None, *energies])
    return rows


def part_rows(ledger: Ledger, convention: Convention) -> Rows:
    """Show what each part of a network does and costs, event-driven.

    Parameters
    ----------
    ledger : Ledger
        The network.
    convention : Convention
        The prices.

    Returns
    -------
    list of list
        A row for each part that it has, and one for all. Means per image; energies in
        µJ.
    """
    head = ["part", "spikes", "SynOps", "MACs, layer by layer", "membrane updates"]
    rows = [[*head, f"{convention.title}, µJ"]]
    for part in (*PARTS, None):
        entries = [entry for entry in ledger.entries if part in (None, entry.part)]
        if not entries:
            continue
        counts = []
        for count in ("spikes", "synops", "macs", "reached"):
            counts.append(sum(getattr(entry, count) for entry in entries))
        energy = MICRO * ledger.joules(convention, EVENT_DRIVEN, part)
        rows.append([part or "all", *counts, energy])
    return rows


def verdicts(name: str, ledger: Ledger, conventions: Mapping[str, Convention]) -> Iterator[str]:
    """Say who costs less, the network event-driven or its ANN in 8 bits.

    Parameters
    ----------
    name : str
        Name of the network.
    ledger : Ledger
        What it does.
    conventions : dict of {str: Convention}
        The prices, by name.

    Yields
    ------
    str
        A line on all conventions, then one on each: below how many spikes the network
        costs less.
    """
    dearer = []
    cheaper = []
    for convention in conventions.values():
        is_cheaper = ledger.joules(convention, EVENT_DRIVEN) < ledger.ann_joules(convention, 8)
        (cheaper if is_cheaper else dearer).append(convention.title)
    clauses = []
    for word, titles in (("more", dearer), ("less", cheaper)):
        if titles:
            clauses.append(f"{word} than its ANN in 8 bits under: {'; '.join(titles)}")
    yield (
        f"{name}, means over {ledger.images:,} images; "
        f"event-driven it costs {'. It costs '.join(clauses)}"
    )
    spikes = ledger.total("spikes")
    for convention in conventions.values():
        break_even = ledger.break_even(convention)
        if break_even:
            verdict = f"less below {break_even:.3f}"
        elif spikes:
            verdict = "more even without any"
        else:
            verdict = "no break-even, it sends nothing"
        yield (
            f"  {convention.title}: {verdict}; "
            f"it has {spikes / ledger.neurons:.3f} spikes per neuron and image"
        )
