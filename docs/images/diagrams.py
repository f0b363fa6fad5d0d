#!/usr/bin/env python3
"""Writes the diagrams of the documentation as SVG: `docs/images/diagrams.py` (scripts/deploy-check checks that they are current).

A diagram is a list of boxes and arrows on a grid. The colours work on light and dark pages.
"""

import sys
from html import escape
from pathlib import Path

CELL_WIDTH, CELL_HEIGHT, MARGIN = 200, 90, 20
BOX_WIDTH, BOX_HEIGHT = 168, 58
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle; }
  text.small { font-size: 11px; fill: #57606a; }
  text.edge { font-size: 11px; fill: #57606a; paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
  rect.page { fill: #ffffff; }
  rect.part { fill: #ddf4ff; stroke: #0969da; }
  rect.topic { fill: #fff8c5; stroke: #9a6700; }
  rect.other { fill: #f6f8fa; stroke: #57606a; }
  rect.store { fill: #dafbe1; stroke: #1a7f37; }
  path { fill: none; stroke: #57606a; stroke-width: 1.5; }
  marker path { fill: #57606a; stroke: none; }
"""


class Diagram:
    def __init__(self, title, columns, rows):
        self.title, self.width = title, columns * CELL_WIDTH + 2 * MARGIN
        self.height = rows * CELL_HEIGHT + 2 * MARGIN
        self.boxes, self.lines = {}, []

    def box(self, name, column, row, kind, title, text=""):
        x, y = MARGIN + column * CELL_WIDTH + CELL_WIDTH / 2, MARGIN + row * CELL_HEIGHT + CELL_HEIGHT / 2
        self.boxes[name] = (x, y, kind, title, text)

    def arrow(self, start, end, text="", via=None):
        self.lines.append((start, end, text, via))

    def _ends(self, start, end):
        (x1, y1, *_), (x2, y2, *_) = self.boxes[start], self.boxes[end]
        if abs(x1 - x2) < 1:
            direction = 1 if y2 > y1 else -1
            return x1, y1 + direction * BOX_HEIGHT / 2, x2, y2 - direction * BOX_HEIGHT / 2
        direction = 1 if x2 > x1 else -1
        return x1 + direction * BOX_WIDTH / 2, y1, x2 - direction * BOX_WIDTH / 2, y2

    def svg(self):
        out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.title)}">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
            f'<rect class="page" width="{self.width:g}" height="{self.height:g}" rx="8"/>',
        ]
        texts = []
        for start, end, text, via in self.lines:
            x1, y1, x2, y2 = self._ends(start, end)
            if abs(x1 - x2) < 1 or abs(y1 - y2) < 1:
                out.append(f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" marker-end="url(#tip)"/>')
                middle = ((x1 + x2) / 2, (y1 + y2) / 2)
            else:
                bend = via if via is not None else (x1 + x2) / 2
                out.append(f'<path d="M{x1:g},{y1:g} H{bend:g} V{y2:g} H{x2:g}" marker-end="url(#tip)"/>')
                middle = (bend, (y1 + y2) / 2)
            if text:
                texts.append(f'<text class="edge" x="{middle[0]:g}" y="{middle[1] - 4:g}">{escape(text)}</text>')
        for x, y, kind, title, text in self.boxes.values():
            out.append(
                f'<rect class="{kind}" x="{x - BOX_WIDTH / 2:g}" y="{y - BOX_HEIGHT / 2:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
            )
            out.append(f'<text x="{x:g}" y="{y - 2 if text else y + 4:g}">{escape(title)}</text>')
            if text:
                out.append(f'<text class="small" x="{x:g}" y="{y + 15:g}">{escape(text)}</text>')
        return "\n".join([*out, *texts, "</svg>", ""])


def flags():
    d = Diagram("How a change of a flag takes effect", 5, 3)
    d.box("unleash", 0, 0, "other", "Unleash", "polled, or by webhook")
    d.box("local", 0, 1, "store", "Postgres", "local flags")
    d.box("hint", 0, 2, "topic", "changes", "hints")
    d.box("feeder", 1, 1, "part", "feeder", "one leader, transactions")
    d.box("definitions", 2, 0, "topic", "definitions", "compacted")
    d.box("events", 2, 1, "topic", "events", "created, updated, deleted")
    d.box("updates", 2, 2, "topic", "updates", "invalidations")
    d.box("store", 3, 0, "part", "store", "in every instance")
    d.box("disk", 4, 0, "store", "snapshot", "on disk")
    d.box("warmer", 3, 2, "part", "warmer", "invalidates, refreshes")
    d.box("redis", 4, 2, "store", "Redis", "results")
    d.box("sink", 3, 1, "part", "sink", "audit trail")
    d.box("postgres", 4, 1, "store", "Postgres", "rows")
    d.arrow("unleash", "feeder")
    d.arrow("local", "feeder")
    d.arrow("hint", "feeder")
    d.arrow("feeder", "definitions")
    d.arrow("feeder", "events")
    d.arrow("feeder", "updates")
    d.arrow("definitions", "store")
    d.arrow("store", "disk")
    d.arrow("updates", "warmer")
    d.arrow("warmer", "redis")
    d.arrow("events", "sink")
    d.arrow("sink", "postgres")
    return d


def requests():
    d = Diagram("How an evaluation becomes an event and a row", 5, 3)
    d.box("service", 0, 0, "other", "your service", "Kafka producer")
    d.box("caller", 0, 2, "other", "your service", "HTTP, OpenFeature")
    d.box("requests", 1, 0, "topic", "evaluation-requests", "key: user_id")
    d.box("evaluator", 2, 0, "part", "evaluator", "batches, transactions")
    d.box("store", 2, 1, "part", "store", "flags in memory")
    d.box("api", 1, 2, "part", "api", "answers at once")
    d.box("outbox", 2, 2, "part", "outbox", "memory, then disk")
    d.box("events", 3, 1, "topic", "events", "one per flag")
    d.box("reply", 3, 0, "topic", "reply topic", "and dead letters")
    d.box("sink", 4, 0, "part", "sink", "exactly once")
    d.box("postgres", 4, 1, "store", "Postgres", "one row per event")
    d.box("consumers", 4, 2, "other", "your consumers", "Connect, Flink, …")
    d.arrow("service", "requests")
    d.arrow("requests", "evaluator")
    d.arrow("evaluator", "reply")
    d.arrow("evaluator", "events")
    d.arrow("store", "evaluator")
    d.arrow("caller", "api")
    d.arrow("api", "outbox")
    d.arrow("outbox", "events")
    d.arrow("events", "sink")
    d.arrow("sink", "postgres")
    d.arrow("events", "consumers")
    return d


def deployment():
    d = Diagram("A deployment on Kubernetes with two workloads", 5, 3)
    d.box("ingress", 0, 0, "other", "Ingress, Service", "calls over HTTP")
    d.box("api", 1, 0, "part", "StatefulSet api", "scales by CPU")
    d.box("stream", 1, 2, "part", "StatefulSet stream", "scales by lag (KEDA)")
    d.box("volume", 0, 1, "store", "volumes", "snapshot and spool")
    d.box("kafka", 2, 1, "other", "Kafka", "your brokers, Strimzi")
    d.box("postgres", 3, 0, "store", "Postgres", "audit trail, local flags")
    d.box("redis", 3, 1, "store", "Redis", "results")
    d.box("unleash", 3, 2, "other", "Unleash", "flags")
    d.box("keda", 4, 2, "other", "KEDA", "lag from Prometheus")
    d.box("job", 0, 2, "part", "Job before an upgrade", "topics apply, migrate")
    d.box("prometheus", 4, 0, "other", "Prometheus", "metrics, alerts")
    d.box("grafana", 4, 1, "other", "Grafana", "dashboard")
    d.arrow("ingress", "api")
    d.arrow("volume", "api", via=MARGIN + CELL_WIDTH)
    d.arrow("volume", "stream", via=MARGIN + CELL_WIDTH)
    d.arrow("api", "kafka")
    d.arrow("stream", "kafka")
    d.arrow("api", "postgres")
    d.arrow("stream", "unleash")
    d.arrow("stream", "redis", via=MARGIN + 2.95 * CELL_WIDTH)
    d.arrow("prometheus", "grafana")
    return d


DIAGRAMS = {"flags.svg": flags, "requests.svg": requests, "deployment.svg": deployment}


def main(folder):
    for name, make in DIAGRAMS.items():
        (folder / name).write_text(make().svg())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
