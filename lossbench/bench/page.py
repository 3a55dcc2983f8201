"""Self-contained HTML pages: jinja2 templates with plotly inlined, so they work offline."""

from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline

from lossbench.bench.comparison import describe_setting, interval, palette

if TYPE_CHECKING:
    from lossbench.bench.comparison import Comparison

_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("lossbench.bench", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_comparison(comparison: "Comparison") -> str:
    """Return the page of a comparison."""
    table = comparison.to_pandas()
    colours = dict(zip(comparison.results, palette() * 8, strict=False))
    metrics = list(next(iter(comparison.results.values())).test)
    return _environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        rows=[
            {"loss": str(name), "colour": colours[str(name)], **values}
            for name, values in table.to_dict("index").items()
        ],
        others=[
            {"metric": metric, "table": comparison.to_pandas(metric).to_dict("index")}
            for metric in metrics
            if metric != comparison.objective
        ],
        intervals=_json(_intervals(comparison, colours, list(table.index))),
        curves=_json(_curves(comparison, colours, list(table.index))),
        tuning=[
            {
                "loss": name,
                "fixed": ", ".join(f"{k}={v}" for k, v in result.fixed.items()),
                "rows": [
                    {
                        "setting": describe_setting(tried["setting"]),
                        "validation": np.mean(
                            [v for v in tried["validation"] if v is not None] or np.nan
                        ),
                        "diverged": sum(step >= 0 for step in tried["diverged"]),
                        "chosen": tried["setting"] == result.chosen,
                    }
                    for tried in result.tuning
                ],
            }
            for name, result in comparison.results.items()
        ],
        # The library's own text may hold what would end a script element.
        plotly=plotly.offline.get_plotlyjs().replace("</script", "<\\/script"),
    )


def _json(figure: go.Figure) -> str:
    return figure.to_json().replace("</", "<\\/")


def _intervals(comparison: "Comparison", colours: dict[str, str], order: list[str]) -> go.Figure:
    figure = go.Figure()
    for name in order:
        scores = comparison.results[name].scores(comparison.objective)
        low, high = interval(scores)
        mean = float(scores.mean())
        figure.add_scatter(
            x=scores,
            y=[name] * len(scores),
            mode="markers",
            marker={"color": colours[name], "size": 5, "opacity": 0.4},
            hovertemplate="seed %{pointNumber}: %{x:.4f}<extra>" + name + "</extra>",
            showlegend=False,
        )
        figure.add_scatter(
            x=[mean],
            y=[name],
            mode="markers",
            marker={"color": colours[name], "size": 10},
            error_x={
                "type": "data",
                "array": [high - mean],
                "arrayminus": [mean - low],
                "thickness": 2,
            },
            hovertemplate="mean %{x:.4f}<extra>" + name + "</extra>",
            showlegend=False,
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title=f"test {comparison.objective}")
    figure.update_layout(height=90 + 34 * len(order))
    return figure


def _curves(comparison: "Comparison", colours: dict[str, str], order: list[str]) -> go.Figure:
    figure = go.Figure()
    for name in order:
        result = comparison.results[name]
        curve = result.curves(comparison.objective)
        low, high = np.transpose([interval(column) for column in curve.T])
        steps = result.evaluated_at
        shared: dict[str, Any] = {"legendgroup": name, "line": {"color": colours[name]}}
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=[*high, *reversed(low)],
            fill="toself",
            opacity=0.15,
            hoverinfo="skip",
            showlegend=False,
            fillcolor=colours[name],
            legendgroup=name,
            line={"width": 0},
            mode="lines",
        )
        figure.add_scatter(x=steps, y=curve.mean(0), name=name, mode="lines", **shared)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title=f"test {comparison.objective}")
    figure.update_layout(height=460, legend={"orientation": "h", "y": -0.25})
    return figure
