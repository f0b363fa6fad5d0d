#!/usr/bin/env python3
"""Prints the Grafana dashboard of flagstream as JSON.

    scripts/deploy-check --fix dashboard    # writes deploy/helm/flagstream/files/flagstream.dashboard.json

It needs Grafana's foundation SDK (scripts/deploy.d/requirements.txt), and works with Grafana 11 or newer.
"""

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# The selector of every series.
CHOSEN = 'namespace=~"$namespace",job=~"$job",instance=~"$instance"'
WIDTH, HEIGHT = 24, 8

# Rows: title, whether it is open, and panels: title, description, unit, queries. A query is an expression, in which a
# metric without a selector gets that of the chosen instances, and the text of the legend.
ROWS = [
    ("Requests and events", True, [
        ("Evaluations", "Evaluated flags a second, by the path of the request.", "ops", [
            ("sum by (path) (rate(flagstream_evaluations_total[$__rate_interval]))", "{{path}}"),
        ]),
        ("Reasons", "Evaluated flags a second, by reason. `ERROR` means that a default was returned because of a fault.", "ops", [
            ("sum by (reason) (rate(flagstream_evaluations_total[$__rate_interval]))", "{{reason}}"),
        ]),
        ("Requests, events, rows", "These rates are equal after a moment: answered requests, published events, audited rows.", "ops", [
            ("sum(rate(flagstream_requests_total[$__rate_interval]))", "requests"),
            ("sum(rate(flagstream_events_published_total[$__rate_interval]))", "events"),
            ("sum(rate(flagstream_audit_rows_total[$__rate_interval]))", "rows"),
        ]),
        ("Lag", "Requests, and events for the sink, that wait. It grows while a consumer is stuck or too slow.", "short", [
            ("sum(flagstream_evaluate_lag)", "requests"),
            ("sum(flagstream_audit_lag)", "events for the sink"),
        ]),
        ("Dead letters", "Records a second that cannot be processed, by code.", "ops", [
            ("sum by (code) (rate(flagstream_dead_letters_total[$__rate_interval]))", "{{code}}"),
        ]),
        ("Dropped", "Dropped items a second. `event` means that events of calls over HTTP are lost.", "ops", [
            ("sum by (what, reason) (rate(flagstream_dropped_total[$__rate_interval]))", "{{what}} {{reason}}"),
        ]),
    ]),
    ("Flags", True, [
        ("Age of the flags", "Time since the flags in force were last known to be current, per instance.", "s", [
            ("flagstream_store_age_seconds", "{{instance}}"),
        ]),
        ("Propagation", "From the timestamp of a definition until it is in force, and from the detection of a change to its commit in Kafka.", "s", [
            ("histogram_quantile(0.5, sum by (le) (rate(flagstream_store_propagation_seconds_bucket[$__rate_interval])))", "in force, median"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_store_propagation_seconds_bucket[$__rate_interval])))", "in force, p99"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_feed_propagation_seconds_bucket[$__rate_interval])))", "published, p99"),
        ]),
        ("Leader", "Exactly one instance leads.", "short", [("flagstream_feed_leader", "{{instance}}")]),
        ("Flags in force", "Per environment, the most of any instance; killed and rejected ones.", "short", [
            ("max by (environment) (flagstream_store_flags)", "{{environment}}"),
            ("max(flagstream_store_killed)", "killed"),
            ("max(flagstream_store_refused)", "rejected"),
        ]),
        ("Version in force", "The same in all instances, except for the moments of a change.", "none", [
            ("flagstream_store_version", "{{instance}}"),
        ]),
        ("Changes", "Published changes a minute, by kind.", "short", [
            ("sum by (environment, outcome) (rate(flagstream_feed_changes_total[$__rate_interval])) * 60", "{{environment}} {{outcome}}"),
        ]),
    ]),
    ("Calls over HTTP", True, [
        ("Calls", "Calls a second, by status class.", "reqps", [
            ("sum by (status) (rate(flagstream_http_request_seconds_count[$__rate_interval]))", "{{status}}"),
        ]),
        ("Duration", "Duration of successful calls until the answer begins.", "s", [
            ('histogram_quantile(0.5, sum by (le) (rate(flagstream_http_request_seconds_bucket{status="2xx"}[$__rate_interval])))', "median"),
            ('histogram_quantile(0.99, sum by (le) (rate(flagstream_http_request_seconds_bucket{status="2xx"}[$__rate_interval])))', "p99"),
        ]),
        ("Calls by route", "Calls a second, by method and route.", "reqps", [
            ("sum by (method, route) (rate(flagstream_http_request_seconds_count[$__rate_interval]))", "{{method}} {{route}}"),
        ]),
        ("Errors", "Part of the calls that are answered with a server error.", "percentunit", [
            ('sum(rate(flagstream_http_request_seconds_count{status="5xx",route!~"/health.*"}[$__rate_interval])) / sum(rate(flagstream_http_request_seconds_count{route!~"/health.*"}[$__rate_interval]))', "5xx"),
        ]),
        ("Rejected calls", "Calls a second that are rejected for lack of permission, by a rate limit or by a concurrency limit.", "reqps", [
            ("sum by (status) (rate(flagstream_http_refused_total[$__rate_interval]))", "{{status}}"),
        ]),
        ("Streams and tokens", "Open streams of changes; valid API tokens, and those that expire within a week.", "short", [
            ("sum(flagstream_http_listeners)", "streams"),
            ("max(flagstream_access_tokens)", "tokens"),
            ("max(flagstream_access_tokens_expiring)", "tokens that expire"),
        ]),
    ]),
    ("API for Unleash's SDKs", False, [
        ("Tokens", "Tokens that Unleash has validated, and validations a second, by outcome.", "short", [
            ("max(flagstream_unleash_api_tokens)", "tokens"),
            ("sum by (outcome) (rate(flagstream_unleash_api_validations_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Evaluations", "Evaluations a second that SDKs report, and those for frontend SDKs that did not become events.", "ops", [
            ("sum(rate(flagstream_unleash_api_reported_evaluations_total[$__rate_interval]))", "reported"),
            ("sum by (outcome) (rate(flagstream_unleash_api_unrecorded_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Forwarded metrics", "Calls a second that forward SDK metrics to Unleash, by outcome.", "ops", [
            ("sum by (outcome) (rate(flagstream_unleash_api_forwarded_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Omitted flags", "Local flags that server SDKs do not receive, because Unleash's format cannot express them.", "short", [
            ("max by (environment) (flagstream_unleash_api_omitted_flags)", "{{environment}}"),
        ]),
    ]),
    ("Outbox of HTTP calls", False, [
        ("Unsent events", "Events of HTTP calls that Kafka does not have yet: in memory, on disk, and the limit of the disk.", "bytes", [
            ("sum(flagstream_publish_queue_bytes)", "memory"),
            ("sum(flagstream_publish_spool_bytes)", "disk"),
            ("sum(flagstream_publish_spool_limit_bytes)", "limit of the disk"),
        ]),
        ("Latency", "From the transfer of a call's events to the producer until Kafka's acknowledgement.", "s", [
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_publish_latency_seconds_bucket[$__rate_interval])))", "p99"),
        ]),
        ("Events written to disk", "Events a second that were written to disk before Kafka accepted them.", "ops", [
            ("sum(rate(flagstream_publish_spooled_events_total[$__rate_interval]))", "events"),
        ]),
    ]),
    ("Taps", False, [
        ("Records", "Records a second that taps process, write to a topic, and forward without flags.", "ops", [
            ("sum by (tap) (rate(flagstream_tap_records_total[$__rate_interval]))", "{{tap}}"),
            ("sum by (tap, topic) (rate(flagstream_tap_forwarded_total[$__rate_interval]))", "{{tap}} to {{topic}}"),
            ("sum by (tap, reason) (rate(flagstream_tap_passed_total[$__rate_interval]))", "{{tap}} {{reason}}"),
        ]),
        ("Lag", "Records of the sources that wait.", "short", [("sum by (tap) (flagstream_tap_lag)", "{{tap}}")]),
        ("Latency", "From a record's timestamp to the commit of its copy, and from the first record of a batch to its commit.", "s", [
            ("histogram_quantile(0.99, sum by (le, tap) (rate(flagstream_tap_latency_seconds_bucket[$__rate_interval])))", "{{tap}}, p99"),
            ("histogram_quantile(0.99, sum by (le, tap) (rate(flagstream_tap_batch_seconds_bucket[$__rate_interval])))", "{{tap}} batch, p99"),
            ("histogram_quantile(0.99, sum by (le, tap) (rate(flagstream_tap_commit_seconds_bucket[$__rate_interval])))", "{{tap}} commit, p99"),
            ("histogram_quantile(0.99, sum by (le, tap) (rate(flagstream_tap_record_seconds_bucket[$__rate_interval])))", "{{tap}} record, p99"),
        ]),
        ("Batches", "Batches a second, by outcome. `aborted` ones are processed again.", "ops", [
            ("sum by (tap, outcome) (rate(flagstream_tap_batches_total[$__rate_interval]))", "{{tap}} {{outcome}}"),
        ]),
        ("Partitions", "Assigned partitions, those that wait for a schema or a topic, and those that are stuck.", "short", [
            ("sum by (tap) (flagstream_tap_partitions)", "{{tap}}"),
            ("sum by (tap) (flagstream_tap_waiting)", "{{tap}} waiting"),
            ("sum by (tap, reason) (flagstream_tap_stuck)", "{{tap}} stuck: {{reason}}"),
        ]),
        ("Sources", "Records that Kafka deleted before they were read, records without a committed offset, and sources that were created again.", "short", [
            ("sum by (tap) (increase(flagstream_tap_expired_total[$__rate_interval]))", "{{tap}} expired"),
            ("sum by (tap) (increase(flagstream_tap_without_offset_total[$__rate_interval]))", "{{tap}} without offset"),
            ("sum by (tap) (increase(flagstream_tap_source_recreated_total[$__rate_interval]))", "{{tap}} created again"),
        ]),
    ]),
    ("Attributes", False, [
        ("Rows", "Rows of each table, and records of its topic that are not in the table yet.", "short", [
            ("max by (table) (flagstream_attributes_rows)", "{{table}}"),
            ("max by (table) (flagstream_attributes_lag)", "{{table}} lag"),
        ]),
        ("Lookups", "Lookups of a row a second, by outcome. `disk` reads the disk, `absent` means that there is no row.", "ops", [
            ("sum by (table, outcome) (rate(flagstream_attributes_lookups_total[$__rate_interval]))", "{{table}} {{outcome}}"),
        ]),
        ("Records", "Records a second of the tables' topics, and tables that were built anew.", "ops", [
            ("sum by (table, outcome) (rate(flagstream_attributes_records_total[$__rate_interval]))", "{{table}} {{outcome}}"),
            ("sum by (table) (increase(flagstream_attributes_rebuilds_total[$__rate_interval]))", "{{table}} built anew"),
        ]),
    ]),
    ("OpenTelemetry", False, [
        ("Spans and log events", "Spans and log events a second that the endpoint accepted, and those that were dropped.", "ops", [
            ("sum by (signal) (rate(flagstream_telemetry_exported_total[$__rate_interval]))", "{{signal}}"),
            ("sum by (signal) (rate(flagstream_telemetry_dropped_total[$__rate_interval]))", "{{signal}} dropped"),
        ]),
    ]),
    ("Evaluator", False, [
        ("Latency", "From a request's timestamp to the commit of its results, and from the first record of a batch to its commit.", "s", [
            ("histogram_quantile(0.5, sum by (le) (rate(flagstream_evaluate_latency_seconds_bucket[$__rate_interval])))", "median"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_evaluate_latency_seconds_bucket[$__rate_interval])))", "p99"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_evaluate_batch_seconds_bucket[$__rate_interval])))", "batch, p99"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_evaluate_commit_seconds_bucket[$__rate_interval])))", "commit, p99"),
        ]),
        ("Evaluation", "Decoding, evaluating and encoding one request, averaged over its batch.", "s", [
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_evaluate_request_seconds_bucket[$__rate_interval])))", "p99"),
        ]),
        ("Batches", "Batches a second, by outcome. `aborted` ones are answered again.", "ops", [
            ("sum by (outcome) (rate(flagstream_evaluate_batches_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Lag by partition", "Requests that wait, per partition.", "short", [("sum by (partition) (flagstream_evaluate_lag)", "{{partition}}")]),
        ("Partitions", "Assigned partitions, and those that wait for the schema registry or the events topic.", "short", [
            ("sum by (instance) (flagstream_evaluate_partitions)", "{{instance}}"),
            ("sum(flagstream_evaluate_waiting)", "waiting"),
            ("sum by (partition, reason) (flagstream_evaluate_stuck)", "stuck {{partition}} {{reason}}"),
        ]),
        ("Lost and repeated requests", "Requests that Kafka deleted unread, requests without a committed offset, and recreated topics.", "short", [
            ("sum(increase(flagstream_requests_expired_total[$__rate_interval]))", "expired"),
            ("sum(increase(flagstream_requests_without_offset_total[$__rate_interval]))", "without an offset"),
            ("sum(increase(flagstream_requests_topic_recreated_total[$__rate_interval]))", "topic recreated"),
        ]),
        ("Schema lookups", "Lookups a second of unknown schema ids, by outcome.", "ops", [
            ("sum by (outcome) (rate(flagstream_schema_lookups_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Evaluations by flag", "Only for the flags of `FLAGSTREAM_METRICS__FLAGS`.", "ops", [
            ("topk(20, sum by (environment, flag, enabled) (rate(flagstream_flag_evaluations_total[$__rate_interval])))", "{{environment}} {{flag}} {{enabled}}"),
        ]),
    ]),
    ("Feeder", False, [
        ("Polls", "Polls a minute of each source, by outcome.", "short", [
            ("sum by (environment, outcome) (rate(flagstream_feed_polls_total[$__rate_interval])) * 60", "{{environment}} {{outcome}}"),
        ]),
        ("Hints", "Records a minute on the changes topic.", "short", [
            ("sum by (outcome) (rate(flagstream_feed_hints_total[$__rate_interval])) * 60", "{{outcome}}"),
        ]),
        ("Rejected flags and ended terms", "Flags whose new definition is rejected; ends of leadership.", "short", [
            ("sum by (environment) (flagstream_feed_flags_refused)", "rejected {{environment}}"),
            ("sum by (outcome) (increase(flagstream_feed_terms_ended_total[$__rate_interval]))", "ended: {{outcome}}"),
        ]),
        ("Usage reports", "Reports of usage to Unleash a minute.", "short", [
            ("sum by (environment, outcome) (rate(flagstream_feed_usage_reports_total[$__rate_interval])) * 60", "{{environment}} {{outcome}}"),
        ]),
        ("Records of the store", "Records a second of definitions and kill switches; snapshots written to disk.", "ops", [
            ("sum by (outcome) (rate(flagstream_store_records_total[$__rate_interval]))", "{{outcome}}"),
            ("sum by (outcome) (rate(flagstream_store_saves_total[$__rate_interval]))", "saved: {{outcome}}"),
        ]),
    ]),
    ("Audit", False, [
        ("Paused", "1 while the sink waits, with the reason.", "short", [
            ("max by (what, reason) (flagstream_audit_paused)", "{{what}} {{reason}}"),
            ("max by (topic, partition, reason) (flagstream_audit_stuck)", "stuck {{topic}} {{partition}} {{reason}}"),
        ]),
        ("Latency", "From a batch's first evaluation to its commit, and the write itself.", "s", [
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_audit_latency_seconds_bucket[$__rate_interval])))", "latency, p99"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_audit_write_seconds_bucket[$__rate_interval])))", "write, p99"),
        ]),
        ("Writes", "Batches a second, by outcome.", "ops", [
            ("sum by (outcome) (rate(flagstream_audit_batches_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Lag by partition", "Events that wait, per partition.", "short", [
            ("sum by (partition) (flagstream_audit_lag)", "{{partition}}"),
            ("sum by (instance) (flagstream_audit_partitions)", "partitions of {{instance}}"),
        ]),
        ("Lost and repeated events", "Offsets that Kafka deleted unread, truncated and recreated topics, and events left out because they were written before.", "short", [
            ("sum(increase(flagstream_audit_expired_total[$__rate_interval]))", "expired"),
            ("sum(increase(flagstream_audit_truncated_total[$__rate_interval]))", "truncated"),
            ("sum(increase(flagstream_audit_recreated_total[$__rate_interval]))", "recreated"),
            ("sum(increase(flagstream_audit_repeated_total[$__rate_interval]))", "repeated"),
        ]),
        ("Clocks", "How far other clocks are ahead of this machine's; evaluations that were older than the retention.", "s", [
            ("max by (instance, against) (flagstream_clock_skew_seconds)", "{{instance}} {{against}}"),
            ("max by (instance, against) (flagstream_audit_clock_skew_seconds)", "sink of {{instance}} {{against}}"),
            ("max(flagstream_audit_late_rows)", "late rows (count)"),
        ]),
        ("Experiments", "Duration of the aggregation of one experiment.", "s", [
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_experiments_counted_seconds_bucket[$__rate_interval])))", "p99"),
        ]),
        ("Exposure events", "Exposures of experiments that were published a second, and those that wait (count).", "short", [
            ("sum(rate(flagstream_experiments_exposures_published_total[$__rate_interval]))", "published"),
            ("max(flagstream_experiments_exposures_waiting)", "waiting (count)"),
        ]),
    ]),
    ("Redis", False, [
        ("Hit rate", "Hits divided by all reads, of the edge API's cache and of the cache in Redis. The target is 80 %.", "percentunit", [
            ('sum(rate(flagstream_edge_reads_total{outcome="hit"}[$__rate_interval])) / sum(rate(flagstream_edge_reads_total[$__rate_interval]))', "edge"),
            ('sum(rate(flagstream_warm_reads_total{outcome="hit"}[$__rate_interval])) / sum(rate(flagstream_warm_reads_total[$__rate_interval]))', "Redis"),
        ]),
        ("Writes", "Writes a second, by outcome.", "ops", [
            ("sum by (outcome) (rate(flagstream_warm_writes_total[$__rate_interval]))", "{{outcome}}"),
            ("sum by (outcome) (rate(flagstream_edge_writes_total[$__rate_interval]))", "edge {{outcome}}"),
        ]),
        ("Not cached", "Evaluations a second that are not written, by reason.", "ops", [
            ("sum by (outcome) (rate(flagstream_warm_passed_over_total[$__rate_interval]))", "{{outcome}}"),
        ]),
        ("Invalidation", "From an invalidation's publication until no reader uses an older value, and until the last raw key is correct.", "s", [
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_warm_announced_seconds_bucket[$__rate_interval])))", "announced, p99"),
            ("histogram_quantile(0.99, sum by (le) (rate(flagstream_warm_finished_seconds_bucket[$__rate_interval])))", "finished, p99"),
        ]),
        ("Refreshed keys and rebuilds", "Raw keys handled after changes; times that Redis had lost the cache.", "short", [
            ("sum by (outcome) (rate(flagstream_warm_swept_total[$__rate_interval]))", "{{outcome}}"),
            ("sum(increase(flagstream_warm_rebuilds_total[$__rate_interval]))", "rebuilds"),
        ]),
    ]),
    ("Kafka clients and process", False, [
        ("Round-trip time", "The slowest hundredth of the requests to each broker within ten seconds, the highest of all clients.", "s", [
            ("max by (broker) (flagstream_kafka_rtt_seconds)", "{{broker}}"),
        ]),
        ("Queues of producers", "Records and bytes that wait in producers for their acknowledgement.", "short", [
            ("sum by (client) (flagstream_kafka_queue_messages)", "{{client}} messages"),
            ("sum by (client) (flagstream_kafka_queue_bytes)", "{{client}} bytes"),
        ]),
        ("Queues of consumers", "Fetched records that wait to be processed.", "short", [
            ("sum by (client) (flagstream_kafka_fetched_messages)", "{{client}}"),
        ]),
        ("Requests in flight", "Requests to brokers that wait to be sent or for their response.", "short", [
            ("sum by (client) (flagstream_kafka_requests_in_flight)", "{{client}}"),
        ]),
        ("Rebalances and errors", "Rebalances of the consumer groups; failed or late requests to brokers.", "short", [
            ("sum by (client) (increase(flagstream_kafka_rebalances_total[$__rate_interval]))", "{{client}} rebalances"),
            ("sum by (client) (increase(flagstream_kafka_request_errors_total[$__rate_interval]))", "{{client}} errors"),
        ]),
        ("Versions", "Number of instances of each version.", "short", [("count by (version) (flagstream_build_info)", "{{version}}")]),
        ("Certificates", "Time until the certificates expire.", "s", [
            ("min by (certificate) (flagstream_certificate_expiry_timestamp_seconds) - time()", "{{certificate}}"),
        ]),
        ("Reads of the token table", "Reads a second, by outcome.", "ops", [
            ("sum by (outcome) (rate(flagstream_access_looks_total[$__rate_interval]))", "{{outcome}}"),
        ]),
    ]),
]

# The line of numbers at the top: title, description, expression, unit, and the value from which it is red (None: below 1).
STATS = [
    ("Instances", "Instances that Prometheus reads metrics of.", "count(flagstream_build_info)", "short", None),
    ("Evaluations/s", "Evaluated flags a second.", "sum(rate(flagstream_evaluations_total[$__rate_interval]))", "short", 1e12),
    ("Lag", "Requests that wait.", "sum(flagstream_evaluate_lag)", "short", 100_000),
    ("Oldest flags", "Age of the flags of the instance that is furthest behind.", "max(flagstream_store_age_seconds)", "s", 60),
    ("HTTP p99", "Duration of the slowest hundredth of the successful calls.",
     'histogram_quantile(0.99, sum by (le) (rate(flagstream_http_request_seconds_bucket{status="2xx"}[$__rate_interval])))', "s", 0.1),
    ("Leaders", "Exactly one instance leads.", "sum(flagstream_feed_leader)", "short", None),
]


def chosen(expression):
    """Adds the selector of the chosen instances to every metric."""
    import re

    def selector(match):
        inner = match.group(2)
        return f"{match.group(1)}{{{CHOSEN}{',' + inner if inner else ''}}}"

    return re.sub(r"\b(flagstream_[a-z_]+)(?:\{([^}]*)\})?", selector, expression)


def query(expression, legend):
    return prometheus.Dataquery().expr(chosen(expression)).legend_format(legend)


def graph(title, description, unit, queries):
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).min(0)
    panel = panel.span(WIDTH // 3).height(HEIGHT).fill_opacity(8).line_width(1)
    panel = panel.legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True))
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    for expression, legend in queries:
        panel = panel.with_target(query(expression, legend))
    return panel


def number(title, description, expression, unit, red_from):
    steps = [Threshold(value=None, color="green"), Threshold(value=red_from, color="red")]
    if red_from is None:
        steps = [Threshold(value=None, color="red"), Threshold(value=1, color="green")]
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(WIDTH // len(STATS)).height(4)
    panel = panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return panel.with_target(query(expression, title))


def variable(name, label, of):
    return (
        dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(f"label_values({of}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True)
        # `.*` also matches series without the label.
        .all_value(".*").hide(VariableHide.DONT_HIDE)
    )


def board():
    built = (
        dashboard.Dashboard("flagstream").uid("flagstream").tags(["flagstream", "kafka"]).refresh("30s").time("now-3h", "now")
        .description("Evaluation, flags, calls, audit and Kafka clients of flagstream. docs/alerts.md describes the alerts.")
        .timezone("browser").editable().tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("namespace", "Namespace", "flagstream_build_info"))
        .with_variable(variable("job", "Deployment", 'flagstream_build_info{namespace=~"$namespace"}'))
        .with_variable(variable("instance", "Instance", 'flagstream_build_info{namespace=~"$namespace",job=~"$job"}'))
    )
    for values in STATS:
        built = built.with_panel(number(*values))
    for title, is_open, panels in ROWS:
        row = dashboard.Row(title).collapsed(not is_open)
        if is_open:
            built = built.with_row(row)
            for panel in panels:
                built = built.with_panel(graph(*panel))
        else:
            for panel in panels:
                row = row.with_panel(graph(*panel))
            built = built.with_row(row)
    return built.build()


def numbered(made):
    """Gives each panel the id that links and annotations need, in the order of the panels."""
    following = iter(range(1, 1_000))
    for panel in made.panels:
        panel.id_val = next(following)
        for inner in getattr(panel, "panels", None) or []:
            inner.id_val = next(following)
    return made


if __name__ == "__main__":
    print(JSONEncoder(sort_keys=True, indent=2).encode(numbered(board())))
