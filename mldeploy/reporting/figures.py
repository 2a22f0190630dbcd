"""From merged counts (`core/evidence.py`) to the figures of a report. Pure."""

from __future__ import annotations

from mldeploy.core.evidence import Comparison, Drift, Latency, Measure, edge
from mldeploy.reporting.values import Agreement, DriftColumn, Figures


def figures(measure: Measure) -> Figures:
    """One version's counts as figures."""
    tally = measure.tally
    latency = tally.latency
    # a shadow is answered by nobody else: its latencies stand in the comparison
    if not latency.total and measure.comparison is not None:
        latency = measure.comparison.latency
    mean, _ = latency.moments()
    return Figures(
        version=measure.version,
        role=measure.role,
        requests=tally.requests,
        failures=tally.failures,
        refusals=tally.refusals,
        crashes=tally.crashes,
        memory=tally.memory,
        error_rate=tally.failures / tally.requests if tally.requests else None,
        p50=_quantile(latency, 0.5),
        p95=_quantile(latency, 0.95),
        p99=_quantile(latency, 0.99),
        mean=mean if latency.total else None,
        latency=tuple((edge(index), count) for index, count in sorted(latency.counts.items()) if count),
    )


def agreement(found: Comparison) -> Agreement:
    """How a shadow's answers compare."""
    agreeing, compared = found.agreement
    ordered = found.concordant + found.discordant
    return Agreement(
        pairs=found.pairs,
        share=agreeing / compared if compared else None,
        by="class" if found.classed else "tolerance",
        exact=found.agreed,
        within=found.within,
        same_class=found.same_class,
        classed=found.classed,
        failed=found.failed,
        rank=(found.concordant - found.discordant) / ordered if ordered else None,
        offered=found.offered,
        dropped=found.dropped,
        pauses=found.pauses,
        paused=found.paused_ms / 1_000,
        p50=_quantile(found.latency, 0.5),
        p95=_quantile(found.latency, 0.95),
        p99=_quantile(found.latency, 0.99),
    )


def drift(found: Drift) -> tuple[DriftColumn, ...]:
    """Every column that was compared, the one that moved most first."""
    columns = [
        DriftColumn(name=name, psi=column.psi(), values=column.total, bins=tuple(column.shares()))
        for name, column in found.columns.items()
        if column.total and sum(column.baseline)
    ]
    return tuple(sorted(columns, key=lambda column: (-column.psi, column.name)))


def _quantile(latency: Latency, share: float) -> float | None:
    return latency.quantile(share) if latency.total else None
